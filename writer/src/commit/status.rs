//! What the writer reports about itself, and what decides when snapshots are due.

use std::sync::Arc;

use driftdb_common::error::Error;
use driftdb_common::storage::disk_space::DiskReport;
use driftdb_common::storage::wal::appender::TableStorage;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::table_counts::TableCounts;

use crate::admission::table::AdmittedTable;
use crate::commit::state::{CommitShared, LogTail};

/// A table that is not dropped.
#[derive(Debug, Clone)]
pub(crate) struct LiveTable {
    pub(crate) schema: Arc<Schema>,
    /// The commit of the table's last CREATE.
    pub(crate) created_seq: u64,
    pub(crate) counts: TableCounts,
    pub(crate) storage: TableStorage,
}

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

    /// Every table that is not dropped. What is shown of them is made of these copies, after the lock.
    pub(crate) fn live_tables(&self) -> Vec<LiveTable> {
        let state = self.0.state.lock();
        let live = state.admission.tables.iter().filter(|table| table.is_live());
        live.map(|table| LiveTable {
            schema: Arc::clone(table.schema()),
            created_seq: table.created_seq(),
            counts: table.counts(),
            storage: state.storage.get(&table.id()).copied().unwrap_or_default(),
        })
        .collect()
    }

    /// The names of the tables that cannot be used, and why.
    pub(crate) fn unusable_tables(&self) -> Vec<(String, Error)> {
        let state = self.0.state.lock();
        state
            .admission
            .tables
            .unusable()
            .map(|(_, table)| (table.name.clone(), table.error.clone()))
            .collect()
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
        let state = self.0.state.lock();
        let row_bytes = |id| state.admission.tables.by_id(id).map_or(0, AdmittedTable::row_bytes);
        let tails = state.tails.iter();
        tails.map(|(id, tail)| (*id, LogTail { row_bytes: row_bytes(*id), ..*tail })).collect()
    }
}
