//! Maintenance of tables: snapshots, merges, indexes, compaction and verification, in the background and on
//! request.
//!
//! Each table's files are changed by one job at a time, under a lock of [`table_editor`]. A change writes new
//! files first, then names them in the manifest through the committer, then makes admission read them. Files
//! that no manifest names are deleted a little later, because readers may still use the manifest before.

mod background;
mod commit_lookup;
mod compactor;
mod context;
mod deletions;
mod health;
mod indexer;
mod merger;
mod rebuilder;
mod retention;
mod snapshotter;
mod summaries;
mod table_editor;
mod work;

pub(crate) use context::MaintenanceContext;
pub(crate) use health::MaintenanceHealth;
pub(crate) use summaries::{CompactionSummary, SnapshotSummary, VerificationSummary};
pub(crate) use work::MaintenanceWork;
