//! The writer daemon of DriftDB: the one process that changes a database.
//!
//! - `admission`: checks changes against the newest state and encodes them
//! - `commit`: makes admitted commits durable, a group at a time
//! - `rpc`: the gRPC service
//! - `jobs`: long jobs that calls start
//! - `maintenance`: snapshots, indexes, compaction, retention and verification
//! - `monitored`: what the metrics show of an open database, and whether the writer is alive
//! - `clock_guard`: refuses commits after the clock has jumped
//! - `tasks`: runs work of requests that reads files or takes long, in bounded numbers
//! - `writer`, `standby`: open, serve and close a database; wait for another writer to end, or for room on the disk

mod admission;
mod clock_guard;
mod commit;
mod config;
mod errors;
mod jobs;
mod maintenance;
mod monitored;
mod rpc;
mod standby;
mod tasks;
mod writer;

pub use admission::requests::RequestWindow;
pub use config::{SnapshotTriggers, WriterConfig};
pub use driftdb_common::bucket::bucket_options::{BucketAck, BucketOptions};
pub use driftdb_common::storage::fence::Fencing;
pub use standby::{open_and_serve, stand_by};
pub use writer::WriterDaemon;
