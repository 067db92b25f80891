//! Where a table's events are stored at one time: in the layers and in the memtable after them.

use std::sync::Arc;

use crate::error::Result;
use crate::format::key::Key;
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::memtable::Memtable;
use crate::table::row_fold::RowVersion;
use crate::table::table_counts::TableCounts;
use crate::work;

/// Where a table's events are stored: in the layers up to their end, and in the memtable after it. An event that is in both
/// is the same in both.
#[derive(Debug, Default)]
pub struct TableState {
    /// The layers.
    pub layers: LayerMap,
    /// The events after the layers.
    pub memtable: Arc<Memtable>,
}

impl TableState {
    /// A row as its last event up to `last` left it.
    pub(super) fn row(&self, key: &Key, last: EventId) -> Result<Option<RowVersion>> {
        work::step(16)?;
        if last.seq >= self.layers.end()
            && let Some(row) = self.memtable.row(key, last, &self.layers)?
        {
            return Ok(Some(row));
        }
        self.layers.row(key, last)
    }

    /// The table's counts after a commit.
    pub(super) fn counts(&self, seq: u64) -> Result<TableCounts> {
        if seq >= self.layers.end() { Ok(self.memtable.counts(seq)) } else { self.layers.counts_at(seq) }
    }

    /// The time of one of the table's commits, in milliseconds since 1970; `None` if the table has no such commit.
    pub(super) fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        match self.memtable.time_of(seq) {
            Some(time) => Ok(Some(time)),
            None => self.layers.time_of(seq),
        }
    }

    /// The last of the table's commits at or before a time in milliseconds since 1970. Commits below the floor do not count.
    pub(super) fn last_at(&self, time_ms: u64) -> Result<Option<u64>> {
        match self.memtable.last_at(time_ms) {
            Some(seq) => Ok(Some(seq)),
            None => self.layers.last_at(time_ms),
        }
    }
}
