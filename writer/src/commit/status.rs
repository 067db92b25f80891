//! What the writer reports about itself, and what decides when snapshots are due.

use std::sync::Arc;

use driftdb_common::storage::disk_space::DiskReport;
use driftdb_common::storage::wal::appender::TableStorage;
use driftdb_common::table::operation::WriteToken;

use crate::admission::table::AdmittedTable;
use crate::commit::state::{CommitShared, LogTail};

/// Reports the state of commits.
#[derive(Debug, Clone)]
pub(crate) struct CommitStatus(Arc<CommitShared>);

impl CommitStatus {
    pub(super) fn new(shared: &Arc<CommitShared>) -> CommitStatus {
        CommitStatus(Arc::clone(shared))
    }

    /// The last durable commit, which readers may show.
    pub(crate) fn durable(&self) -> WriteToken {
        self.0.state.lock().durable
    }

    /// Calls `f` for every table that is not dropped. The lock is held meanwhile, so `f` must be quick.
    pub(crate) fn map_live_tables<T>(&self, mut f: impl FnMut(&AdmittedTable, TableStorage) -> T) -> Vec<T> {
        let state = self.0.state.lock();
        let live = state.admission.tables.iter().filter(|table| table.is_live());
        live.map(|table| f(table, state.storage.get(&table.id()).copied().unwrap_or_default())).collect()
    }

    /// The bytes of log after the newest snapshots, of all tables together, and their limit.
    pub(crate) fn tail_bytes(&self) -> (u64, u64) {
        (self.0.state.lock().tail_bytes, self.0.tail_limit)
    }

    /// The room on the disk.
    pub(crate) fn disk(&self) -> DiskReport {
        self.0.space.report()
    }

    /// The part of each table's log after its newest snapshot, by table id.
    pub(crate) fn tails(&self) -> Vec<(u64, LogTail)> {
        self.0.state.lock().tails.iter().map(|(id, tail)| (*id, *tail)).collect()
    }
}
