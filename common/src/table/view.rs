//! A table's state after one commit.

use std::collections::BTreeSet;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::snapshot::{CandidateEntry, tree};
use crate::format::sortkey;
use crate::table::event_id::EventId;
use crate::table::index_search::{FoundCandidates, IndexSearch};
use crate::table::layers::{SoughtRow, not_a_key, read_sort_key};
use crate::table::row_fold::RowVersion;
use crate::table::schema::Schema;
use crate::table::table_counts::TableCounts;
use crate::table::table_scan;
use crate::table::table_state::TableState;
use crate::table::timeline::Timeline;
use crate::table::value_range::IndexRanges;
use crate::work;

/// A row at a point in time.
#[derive(Debug, Clone)]
pub struct Row {
    /// The row's key.
    pub key: Key,
    /// The commit that last changed it.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The row's content.
    pub document: Document,
}

/// A table's state after commit `seq`.
///
/// A view keeps no files open. Each read uses the layers and the memtable that the table has at that time. They all give
/// the same answer (I9), unless the floor has passed the point in time.
#[derive(Debug, Clone)]
pub struct View {
    timeline: Arc<Timeline>,
    schema: Arc<Schema>,
    /// The last CREATE. Rows of earlier commits are absent.
    created_at: u64,
    seq: u64,
}

impl View {
    /// The state of a table after a commit. Fails with TABLE_NOT_FOUND if the table does not exist then, and with
    /// BELOW_FLOOR if the commit is below the table's floor.
    pub fn at(timeline: &Arc<Timeline>, seq: u64) -> Result<View> {
        let at = timeline.schema_at(seq)?;
        timeline.check_floor(seq)?;
        Ok(View { timeline: Arc::clone(timeline), schema: at.schema, created_at: at.created_at, seq })
    }

    /// The commit after which this is the state.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The table's schema at the point in time.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        &self.timeline
    }

    /// How many events and live rows the table has at the point in time.
    pub fn counts(&self) -> Result<TableCounts> {
        self.timeline.counts(self.seq)
    }

    /// Reads the table's state. `empty` is what is found in a table without rows.
    fn read<T>(&self, empty: impl Fn() -> T, mut read: impl FnMut(&TableState) -> Result<T>) -> Result<T> {
        self.timeline.read(|state| {
            let found = if self.has_other_keys() { Ok(empty()) } else { read(state) };
            // If the floor has risen during the read, some of the files may have been gone.
            self.timeline.check_floor(self.seq)?;
            // The table may have got other keys, and rows with them, during the read.
            if found.is_err() && self.has_other_keys() { Ok(empty()) } else { found }
        })
    }

    /// Whether the table has got another key since this point in time. Then it has no rows here, and its state has keys that cannot be
    /// read by this schema.
    fn has_other_keys(&self) -> bool {
        let is_other =
            |newest: Arc<Schema>| !Arc::ptr_eq(&newest, &self.schema) && !newest.has_key_of(&self.schema);
        self.timeline.key_schema().is_ok_and(is_other)
    }

    /// Returns the live row with a key.
    pub fn get(&self, key: &Key) -> Result<Option<Row>> {
        let found = self.read(|| None, |state| state.row(key, EventId::end_of(self.seq)))?;
        Ok(found.and_then(|row| self.live(key, row)))
    }

    /// Returns the live rows among some, which must be in the order of their sort keys, and among how many of them these are: all,
    /// unless the rows take more than about `bytes` bytes, but at least one.
    pub fn rows(&self, sought: &[SoughtRow<'_>], bytes: usize) -> Result<(Vec<Row>, usize)> {
        let key_type = self.schema.key_type;
        let none = || vec![None; sought.len()];
        let found =
            self.read(none, |state| state.rows(sought, key_type, EventId::end_of(self.seq), bytes))?;
        let count = found.len();
        let mut rows = Vec::with_capacity(count);
        for (one, row) in sought.iter().zip(found) {
            if let Some(RowVersion { seq, time_ms, document: Some(document) }) = row
                && seq >= self.created_at
            {
                rows.push(Row { key: read_sort_key(one.key, key_type)?, seq, time_ms, document });
            }
        }
        Ok((rows, count))
    }

    /// Passes the live rows of a range of keys to `visit`, in key order, until it returns false.
    pub fn scan(
        &self,
        (start, end): (Bound<&Key>, Bound<&Key>),
        mut visit: impl FnMut(Row) -> bool,
    ) -> Result<()> {
        let mut last: Option<Key> = None;
        let read = |state: &TableState| {
            // A repeated read continues after the last key.
            let start = last.clone().map_or(start.cloned(), Bound::Excluded);
            self.scan_in(state, (start.as_ref(), end), &mut last, &mut visit)
        };
        self.read(|| (), read)
    }

    fn scan_in(
        &self,
        state: &TableState,
        range: (Bound<&Key>, Bound<&Key>),
        last: &mut Option<Key>,
        visit: &mut impl FnMut(Row) -> bool,
    ) -> Result<()> {
        let mut rows = table_scan::open(state, self.schema.key_type, self.seq, range)?;
        while let Some((key, row)) = rows.next_row()? {
            if !range.contains(&key) {
                if is_after_start(range.0, &key) {
                    return Ok(());
                }
                continue;
            }
            *last = Some(key.clone());
            if let Some(row) = row.and_then(|row| self.live(&key, row))
                && !visit(row)
            {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether an index on a path can be used at this moment.
    pub fn has_index(&self, index: &str) -> bool {
        self.has_index_in(&self.timeline.state(), index)
    }

    fn has_index_in(&self, state: &TableState, index: &str) -> bool {
        let newer = self.seq < state.layers.end() || state.memtable.has_index(index);
        newer && state.layers.has_index(index, self.seq)
    }

    /// Returns the keys, in order, of at most `limit` rows that may have a value at an indexed path at this point in
    /// time, and that come after the key `after`. Keys that are left out are greater. `None` if the index cannot be
    /// used now.
    pub fn candidates_of_value(
        &self,
        index: &str,
        value: &[u8],
        after: Option<&Key>,
        limit: usize,
    ) -> Result<Option<Vec<Key>>> {
        let mut start = value.to_vec();
        if let Some(after) = after {
            sortkey::write_key(&mut start, after);
            // Directly after it, because no key's bytes begin with another key's bytes.
            start.push(0);
        }
        let mut keys = BTreeSet::new();
        let read = |state: &TableState| {
            keys.clear();
            self.collect(
                state,
                index,
                &start,
                |bytes| {
                    let Some(rest) = bytes.strip_prefix(value) else { return Ok(None) };
                    let (key, _) = sortkey::read_key(rest, self.schema.key_type).ok_or_else(not_a_key)?;
                    Ok(Some(key))
                },
                &mut |key, taken| {
                    keys.insert(key);
                    Ok(taken < limit)
                },
            )
        };
        // Without an index that can be used, the table is scanned.
        let usable = self.read(|| false, read)?;
        Ok(usable.then(|| keys.into_iter().take(limit).collect()))
    }

    /// Returns the candidates of the ranges that find the fewest, narrowed by the others: keys of rows that may be in all of
    /// the ranges at this point in time. `None` if all find more than `most`, or an index cannot be used now.
    pub fn candidates_in(&self, ranges: &[IndexRanges<'_>], most: usize) -> Result<Option<FoundCandidates>> {
        let read = |state: &TableState| {
            if !ranges.iter().all(|ranges| self.has_index_in(state, ranges.index)) {
                return Ok(None);
            }
            IndexSearch::new(state, self.schema.key_type, self.seq).find(ranges, most)
        };
        self.read(|| None, read)
    }

    /// Reads an index from some bytes on, in each of its files and in the memtable: in each until `read` returns no
    /// key or `take` returns false. `take` gets a key and the number of keys taken from the same file so far, this
    /// one included.
    fn collect(
        &self,
        state: &TableState,
        index: &str,
        start: &[u8],
        read: impl Fn(&[u8]) -> Result<Option<Key>>,
        take: &mut dyn FnMut(Key, usize) -> Result<bool>,
    ) -> Result<bool> {
        if !self.has_index_in(state, index) {
            return Ok(false);
        }
        for (file, is_delta) in state.layers.index_files(index, self.seq) {
            let mut cursor = file.cursor(tree::CANDIDATES);
            cursor.seek(start)?;
            let mut taken = 0;
            while let (Some(bytes), Some(value)) = (cursor.key(), cursor.value()) {
                work::step(8)?;
                let Some(key) = read(bytes)? else { break };
                let may_hold = !is_delta || CandidateEntry::decode(&value)?.may_hold_at(self.seq);
                if may_hold {
                    taken += 1;
                    if !take(key, taken)? {
                        break;
                    }
                }
                cursor.next()?;
            }
        }
        if self.seq >= state.layers.end() {
            let (mut taken, mut outcome) = (0, Ok(()));
            let visit = |bytes: &[u8]| match work::step(8).and_then(|()| read(bytes)) {
                Ok(Some(key)) => {
                    taken += 1;
                    take(key, taken).unwrap_or_else(|error| {
                        outcome = Err(error);
                        false
                    })
                }
                Ok(None) => false,
                Err(error) => {
                    outcome = Err(error);
                    false
                }
            };
            let is_usable = state.memtable.candidates(index, start, visit);
            outcome?;
            // ALTER TABLE may have dropped the index since the check above.
            return Ok(is_usable);
        }
        Ok(true)
    }

    /// The row if it is live and was not written before the table was last created.
    fn live(&self, key: &Key, row: RowVersion) -> Option<Row> {
        let RowVersion { seq, time_ms, document } = row;
        let document = document.filter(|_| seq >= self.created_at)?;
        Some(Row { key: key.clone(), seq, time_ms, document })
    }
}

/// Whether a key lies at or after the start of a range.
fn is_after_start(start: Bound<&Key>, key: &Key) -> bool {
    match start {
        Bound::Included(start) => start <= key,
        Bound::Excluded(start) => start < key,
        Bound::Unbounded => true,
    }
}
