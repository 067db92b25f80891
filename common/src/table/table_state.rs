//! Where a table's events are stored at one time: in the layers and in the memtable after them.

use std::sync::Arc;

use crate::error::Result;
use crate::format::key::{Key, KeyType};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerMap, SoughtRow, read_sort_key};
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

    /// Some rows, in the order of their sort keys, as their last events up to `last` left them. Stops early once it holds about
    /// `bytes` bytes of documents: then the rows of the last keys are not returned, but at least one is.
    pub(super) fn rows(
        &self,
        sought: &[SoughtRow<'_>],
        key_type: KeyType,
        last: EventId,
        bytes: usize,
    ) -> Result<Vec<Option<RowVersion>>> {
        if last.seq < self.layers.end() || self.memtable.is_empty() {
            return self.layers.rows(sought, last, bytes);
        }
        let (mut rows, mut left) = (Vec::with_capacity(sought.len()), bytes);
        let (mut places, mut older) = (Vec::new(), Vec::new());
        for (place, one) in sought.iter().enumerate() {
            work::step(16)?;
            let row = self.memtable.row(&read_sort_key(one.key, key_type)?, last, &self.layers)?;
            let document = row.as_ref().and_then(|row| row.document.as_ref());
            left = left.saturating_sub(document.map_or(0, |document| document.msgpack().len()));
            if row.is_none() {
                places.push(place);
                older.push(*one);
            }
            rows.push(row);
            if left == 0 {
                break;
            }
        }
        if !older.is_empty() {
            let found = self.layers.rows(&older, last, left.max(1))?;
            if let Some(unread) = places.get(found.len()) {
                rows.truncate(*unread);
            }
            for (place, row) in places.into_iter().zip(found) {
                if let Some(slot) = rows.get_mut(place) {
                    *slot = row;
                }
            }
        }
        Ok(rows)
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
