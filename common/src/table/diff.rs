//! The net difference between two points in time of a table.
//!
//! The rows that events between the two points in time changed are collected first, and only these are compared. The
//! cost then follows what happened, not the table's size. If too many rows changed, or a DROP removed rows without an
//! event for each, all rows of both points in time are scanned side by side instead. A caller that knows which rows it asks about
//! names them, and only they are looked at.

use std::collections::{BTreeSet, VecDeque, btree_set};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::snapshot::TableChange;
use crate::memory::MemoryPermit;
use crate::table::bounded_keys::BoundedKeys;
use crate::table::candidate_keys::CandidateKeys;
use crate::table::event_id::EventId;
use crate::table::layers::{read_sort_key, sort_key};
use crate::table::memtable::{MemtableEvent, NumberedEvent};
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::row_histories::HistoryRows;
use crate::table::table_state::TableState;
use crate::table::view::{Row, View};

/// The most changed keys kept in memory. If more rows may have changed, all rows of both points in time are scanned.
const MAX_CHANGED_KEYS: usize = 100_000;
/// The number of the memtable's events read together.
const EVENTS_PER_READ: usize = 4096;
/// The number of a point in time's rows read together, and about how many bytes of them.
const ROWS_PER_READ: usize = 1024;
const BYTES_PER_READ: usize = 1 << 20;

/// A row that is not the same at both points in time.
#[derive(Debug, Clone)]
pub struct RowDiff {
    /// The row's key.
    pub key: Key,
    /// The row's content at the first point in time; `None` if it was not live.
    pub before: Option<Document>,
    /// The row's content at the second point in time; `None` if it was not live.
    pub after: Option<Document>,
}

/// The rows that differ between two points in time, in key order.
#[derive(Debug)]
pub struct Diff(ComparedRows);

/// Which rows are compared.
#[derive(Debug)]
enum ComparedRows {
    /// The rows with these keys.
    Keys { keys: btree_set::IntoIter<Key>, views: Box<(Option<View>, View)>, _memory: Option<MemoryPermit> },
    /// The rows with the keys of a list, from a position on.
    Listed { keys: Arc<CandidateKeys>, at: usize, views: Box<(Option<View>, View)> },
    /// All rows of both points in time, or those of a range of keys.
    All(MergingCursor<ViewRows>),
}

/// Keys between two bounds.
type KeyRange = (Bound<Key>, Bound<Key>);

/// The rows of one point in time, read ahead in key order.
#[derive(Debug)]
struct ViewRows {
    view: View,
    is_after: bool,
    end: Bound<Key>,
    rows: VecDeque<Row>,
    /// Whether the view has no rows after these.
    is_last_read: bool,
}

impl ViewRows {
    fn open(view: View, is_after: bool, (start, end): &KeyRange) -> Result<ViewRows> {
        let (rows, is_last_read) = (VecDeque::new(), false);
        let mut rows = ViewRows { view, is_after, end: end.clone(), rows, is_last_read };
        rows.read_from(start.as_ref())?;
        Ok(rows)
    }

    fn read_from(&mut self, start: Bound<&Key>) -> Result<()> {
        let (rows, mut bytes, mut is_last_read) = (&mut self.rows, 0, true);
        self.view.scan((start, self.end.as_ref()), |row| {
            bytes += row.document.msgpack().len();
            rows.push_back(row);
            is_last_read = rows.len() < ROWS_PER_READ && bytes < BYTES_PER_READ;
            is_last_read
        })?;
        self.is_last_read = is_last_read;
        Ok(())
    }

    /// Takes the row that the source is on, and moves to the next one.
    fn take(&mut self) -> Result<Option<Document>> {
        let Some(row) = self.rows.pop_front() else { return Ok(None) };
        if self.rows.is_empty() && !self.is_last_read {
            self.read_from(Bound::Excluded(&row.key))?;
        }
        Ok(Some(row.document))
    }
}

impl SortedSource for ViewRows {
    type Key = Key;

    fn key(&self) -> Option<&Key> {
        self.rows.front().map(|row| &row.key)
    }
}

impl Diff {
    /// Compares two views of one table: the rows with some keys, or all rows that changed in between. `before` is `None` if the
    /// table did not exist then.
    pub fn new(before: Option<View>, after: View, keys: Option<BTreeSet<Key>>) -> Result<Diff> {
        match keys {
            Some(keys) => {
                let (keys, views) = (keys.into_iter(), Box::new((before, after)));
                Ok(Diff(ComparedRows::Keys { keys, views, _memory: None }))
            }
            None => Diff::within(before, after, (Bound::Unbounded, Bound::Unbounded)),
        }
    }

    /// Compares two views of one table: those of some rows that changed in between.
    pub fn among(before: View, after: View, rows: HistoryRows) -> Result<Diff> {
        match rows {
            HistoryRows::Within(from, to) => Diff::within(Some(before), after, (from, to)),
            HistoryRows::Listed(keys, last) => {
                let at = last.map_or(0, |last| keys.first_after(&sort_key(&last)));
                Ok(Diff(ComparedRows::Listed { keys, at, views: Box::new((Some(before), after)) }))
            }
        }
    }

    fn within(before: Option<View>, after: View, range: KeyRange) -> Result<Diff> {
        let keys = before.as_ref().map(|before| changed_keys(before, &after, &range)).transpose()?.flatten();
        if let Some((keys, _memory)) = keys.map(BoundedKeys::into_parts) {
            let (keys, views) = (keys.into_iter(), Box::new((before, after)));
            return Ok(Diff(ComparedRows::Keys { keys, views, _memory }));
        }
        let mut views = Vec::with_capacity(2);
        if let Some(before) = before {
            views.push(ViewRows::open(before, false, &range)?);
        }
        views.push(ViewRows::open(after, true, &range)?);
        Ok(Diff(ComparedRows::All(MergingCursor::new(views))))
    }

    /// Returns the next row that differs.
    pub fn next_row(&mut self) -> Result<Option<RowDiff>> {
        while let Some(row) = self.next_compared()? {
            let same = match (&row.before, &row.after) {
                (Some(before), Some(after)) => before.same_as(after)?,
                (None, None) => true,
                _ => false,
            };
            if !same {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Returns the next row to compare, as it was at both points in time.
    fn next_compared(&mut self) -> Result<Option<RowDiff>> {
        match &mut self.0 {
            ComparedRows::Keys { keys, views, .. } => {
                let Some(key) = keys.next() else { return Ok(None) };
                compared(key, views).map(Some)
            }
            ComparedRows::Listed { keys, at, views } => {
                let Some(bytes) = keys.get(*at) else { return Ok(None) };
                *at += 1;
                let key = read_sort_key(bytes, views.1.schema().key_type)?;
                compared(key, views).map(Some)
            }
            ComparedRows::All(rows) => {
                let Some(key) = rows.key().cloned() else { return Ok(None) };
                let (mut before, mut after) = (None, None);
                for source in rows.sources_at(&key) {
                    let document = source.take()?;
                    if source.is_after { after = document } else { before = document }
                }
                Ok(Some(RowDiff { key, before, after }))
            }
        }
    }
}

/// A row as it was at both points in time.
fn compared(key: Key, (before, after): &(Option<View>, View)) -> Result<RowDiff> {
    let content = |view: &View| Ok(view.get(&key)?.map(|row| row.document));
    let before = before.as_ref().map_or(Ok(None), content)?;
    let after = content(after)?;
    Ok(RowDiff { key, before, after })
}

/// The keys in a range of the rows that events between two points in time changed. `None` if there are too many, or if a CREATE
/// or DROP changed rows without an event for each.
fn changed_keys(before: &View, after: &View, range: &KeyRange) -> Result<Option<BoundedKeys>> {
    let (low, high) = (before.seq().min(after.seq()), before.seq().max(after.seq()));
    after.timeline().read(|state| {
        let mut keys = BoundedKeys::new(MAX_CHANGED_KEYS);
        let are_all_known = add_changed_in_layers(state, (low, high), range, &mut keys)?
            && add_changed_in_memtable(state, (low, high), range, &mut keys)?;
        Ok(are_all_known.then_some(keys))
    })
}

fn insert_within(keys: &mut BoundedKeys, key: Key, range: &KeyRange) -> Result<()> {
    if range.contains(&key) { keys.insert(key) } else { Ok(()) }
}

fn add_changed_in_layers(
    state: &TableState,
    (low, high): (u64, u64),
    range: &KeyRange,
    keys: &mut BoundedKeys,
) -> Result<bool> {
    let key_type = state.layers.key_type()?;
    let mut commits = state.layers.commits(low, high, false);
    while let Some(commit) = commits.next_commit()? {
        for change in commit.entry.changes {
            match change {
                TableChange::Row(bytes) => insert_within(keys, read_sort_key(&bytes, key_type)?, range)?,
                // A DROP removes every row without an event for each.
                TableChange::Schema(_, emptied) if emptied => return Ok(false),
                TableChange::Schema(..) => {}
            }
        }
        if keys.is_over() {
            return Ok(false);
        }
    }
    Ok(true)
}

fn add_changed_in_memtable(
    state: &TableState,
    (low, high): (u64, u64),
    range: &KeyRange,
    keys: &mut BoundedKeys,
) -> Result<bool> {
    let mut after = EventId::end_of(low.max(state.layers.end()));
    loop {
        let events = state.memtable.events(after, EventId::end_of(high), EVENTS_PER_READ, false);
        let Some(last) = events.last() else { return Ok(true) };
        after = last.id;
        for NumberedEvent { event, .. } in events {
            match event {
                MemtableEvent::Row { key, .. } => insert_within(keys, key, range)?,
                MemtableEvent::Schema { emptied: true, .. } => return Ok(false),
                MemtableEvent::Schema { .. } | MemtableEvent::Note => {}
            }
        }
        if keys.is_over() {
            return Ok(false);
        }
    }
}
