//! What the writer reports about itself, and what decides when snapshots are due.

use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::storage::disk_space::DiskReport;
use driftdb_common::storage::wal::appender::TableStorage;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::table_counts::TableCounts;

use crate::admission::table::AdmittedTable;
use crate::commit::state::{CommitShared, LogTail};
use crate::config::SnapshotTriggers;

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

    /// Reads the metrics of commits and of the tables' files. Holds the lock for a moment, whatever the number of tables. If the lock
    /// is not free for `patience`, what it guards is left out: a scrape of a writer that hangs must still come.
    /// Returns the last durable commit.
    pub(crate) fn sample(
        &self,
        patience: Duration,
        triggers: &SnapshotTriggers,
        samples: &mut Samples,
    ) -> Option<u64> {
        let disk = self.disk();
        samples.set(&catalog::DISK_FREE, disk.free_bytes);
        samples.set(&catalog::DISK_FULL, disk.full.is_some());
        samples.set(&catalog::RESERVE_BYTES, disk.reserve_bytes);
        samples.set(&catalog::TAIL_LIMIT, self.0.tail_limit);
        let state = self.0.state.try_lock_for(patience)?;
        let mut files = TableStorage::default();
        let (mut tables, mut since) = (0_u64, None::<Instant>);
        let durable = {
            // Dropped at the end of the block, which releases the lock.
            let state = state;
            samples.set(&catalog::PUBLISHED_SEQ, state.durable.seq);
            samples.set(&catalog::PUBLISHED_TIMESTAMP, Duration::from_millis(state.durable.time_ms));
            samples.set(&catalog::QUEUE_BYTES, state.open_group_bytes());
            samples.set(&catalog::QUEUE_REQUESTS, state.open.acks.len());
            samples.set(&catalog::MEMTABLE_BYTES, state.admission.tables.row_bytes());
            samples.set(&catalog::TAIL_BYTES, state.tail_bytes);
            for table in state.admission.tables.iter().filter(|table| table.is_live()) {
                tables += 1;
                let of_table = state.storage.get(&table.id()).copied().unwrap_or_default();
                files.segments += of_table.segments;
                files.snapshots += of_table.snapshots;
                files.bytes_on_disk += of_table.bytes_on_disk;
                files.floor = files.floor.max(of_table.floor);
                let due = state.tails.get(&table.id()).filter(|tail| tail.is_due(triggers));
                if let Some(tail) = due.and_then(|tail| tail.since) {
                    since = Some(since.map_or(tail, |oldest| oldest.min(tail)));
                }
            }
            state.durable.seq
        };
        samples.set(&catalog::TABLES, tables);
        samples.set(&catalog::SEGMENTS, files.segments);
        samples.set(&catalog::SNAPSHOT_FILES, files.snapshots);
        samples.set(&catalog::DATA_BYTES, files.bytes_on_disk);
        samples.set(&catalog::FLOOR_SEQ, files.floor);
        samples.set(&catalog::SNAPSHOT_AGE, since.map_or(Duration::ZERO, |since| since.elapsed()));
        Some(durable)
    }

    /// Fails if nobody can commit any more: a request or the committer has held the lock for `patience`, or the writer has stopped. A
    /// disk that does not answer holds no lock.
    pub(crate) fn check_alive(&self, patience: Duration) -> Result<()> {
        match self.0.state.try_lock_for(patience) {
            Some(state) => state.stopped.clone().map_or(Ok(()), Err),
            None => {
                let message = format!("the lock of commits was not free for {patience:?}");
                Err(Error::new(Reason::Internal, message))
            }
        }
    }

    /// The part of each table's log after its newest snapshot, by table id.
    pub(crate) fn tails(&self) -> Vec<(u64, LogTail)> {
        let state = self.0.state.lock();
        let row_bytes = |id| state.admission.tables.by_id(id).map_or(0, AdmittedTable::row_bytes);
        let tails = state.tails.iter();
        tails.map(|(id, tail)| (*id, LogTail { row_bytes: row_bytes(*id), ..*tail })).collect()
    }
}
