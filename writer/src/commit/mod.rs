//! The commit path, from an admitted change to a durable, acknowledged commit.
//!
//! Requests are admitted under one lock, in the order in which they arrive, into the open group. One thread,
//! the committer, owns the log: it takes the open group, appends and syncs it, publishes it in HEAD, and
//! wakes everyone in it. Meanwhile the next group fills. So documents are decoded and checked on all cores,
//! and a sync is shared by all commits that arrived since the one before. A request that is alone takes the
//! log and writes its commit itself.
//!
//! All parts share one lock, because a commit must see every commit admitted before it. Each part here is one
//! role over that state: what a caller may do with it.

mod acks;
mod catalog;
mod committer;
mod gathering;
mod group_trace;
mod ingest_pipeline;
mod known_commits;
mod log_access;
mod lone_commit;
mod pipeline;
mod preparation;
mod start;
mod state;
mod status;
mod table_updates;

pub(crate) use acks::PendingAck;
pub(crate) use catalog::{CatalogTable, TableCatalog};
pub(crate) use ingest_pipeline::{AdmittedBatch, IngestBatch, IngestPipeline, IngestSession};
pub(crate) use known_commits::KnownCommit;
pub(crate) use log_access::LogAccess;
pub(crate) use pipeline::CommitPipeline;
pub(crate) use start::{CommitHandles, start};
pub(crate) use state::LogTail;
pub(crate) use status::{CommitStatus, LiveTable};
