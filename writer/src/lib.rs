//! The writer daemon of DriftDB: the one process that changes a database.

mod admission;
mod admitted_table;
mod admitted_tables;
mod commit;
mod config;
mod fingerprint;
mod ingest_stream;
mod jobs;
mod maintenance;
mod maintenance_rpc;
mod producers;
mod requests;
mod revert;
mod row_as_of;
mod rpc;
mod standby;
mod writer;

pub use config::{SnapshotTriggers, WriterConfig};
pub use driftdb_common::storage::fence::Fencing;
pub use requests::RequestWindow;
pub use standby::stand_by;
pub use writer::Writer;
