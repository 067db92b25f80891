//! One pass over the history of rows, row by row in the order of their keys: of a range of keys, or of those in a list.
//!
//! Questions about many points in time are answered from this pass. The other order, commit by commit, would have to look up the row
//! before each event; here the row before an event is at hand, and each block of the layers is read once.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::Result;
use crate::format::event::CommitMeta;
use crate::format::key::Key;
use crate::format::snapshot::VersionEntry;
use crate::table::candidate_keys::CandidateKeys;
use crate::table::event_id::EventId;
use crate::table::layers::{HistoryEntry, LayerHistoryScan, read_sort_key, sort_key};
use crate::table::memtable::{self, Version};
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::table_state::TableState;
use crate::table::timeline::Timeline;
use crate::work;

/// The most versions of a row that are copied from the memtable at a time.
const VERSIONS_PER_READ: usize = 1024;

/// Takes the history of rows. What it learns of a row counts only once the row ends: a pass that finds a file gone begins the row
/// again.
pub trait HistoryVisitor {
    /// A row begins.
    fn begin_row(&mut self, key: &Key);
    /// What the row was first, or its next event.
    fn entry(&mut self, key: &Key, entry: HistoryEntry) -> Result<()>;
    /// The row ends. Returns whether the pass goes on.
    fn end_row(&mut self, key: &Key) -> Result<bool>;
}

/// Which rows a pass covers.
#[derive(Debug, Clone)]
pub enum HistoryRows {
    /// Those with keys in a range.
    Within(Bound<Key>, Bound<Key>),
    /// Those with the keys of a list, after a key if one is given.
    Listed(Arc<CandidateKeys>, Option<Key>),
}

/// Which rows and commits a pass covers.
#[derive(Debug, Clone)]
pub struct HistoryRange {
    /// The pass begins with the rows after this commit, which must not be below the floor.
    pub after: u64,
    /// The pass ends with the rows after this commit.
    pub last: u64,
    /// The rows.
    pub rows: HistoryRows,
}

impl HistoryRows {
    /// All rows.
    pub const ALL: HistoryRows = HistoryRows::Within(Bound::Unbounded, Bound::Unbounded);

    /// The rows with some keys, which must be in order.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub fn listed<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Result<HistoryRows> {
        Ok(HistoryRows::Listed(Arc::new(CandidateKeys::of_keys(keys)?), None))
    }

    /// Those of the rows that come after a key.
    #[must_use]
    pub fn after(&self, key: Key) -> HistoryRows {
        match self {
            HistoryRows::Within(_, to) => HistoryRows::Within(Bound::Excluded(key), to.clone()),
            HistoryRows::Listed(keys, _) => HistoryRows::Listed(Arc::clone(keys), Some(key)),
        }
    }
}

/// Passes the history of each row to `visitor`, in key order. Returns the key of the last row if the visitor ended the pass.
///
/// # Errors
/// `BELOW_FLOOR` if the floor has passed the commit at which the pass begins.
pub fn visit(
    timeline: &Timeline,
    range: &HistoryRange,
    visitor: &mut dyn HistoryVisitor,
) -> Result<Option<Key>> {
    let mut done: Option<Key> = None;
    timeline.read(|state| {
        // A repeated read continues after the last row.
        let rows = done.clone().map_or_else(|| range.rows.clone(), |done| range.rows.after(done));
        let pass = RowPass { timeline, state, commits: (range.after, range.last) };
        let outcome = match rows {
            HistoryRows::Within(from, to) => pass.visit_range((&from, &to), &mut done, visitor),
            HistoryRows::Listed(keys, after) => pass.visit_listed((&keys, after), &mut done, visitor),
        };
        timeline.check_floor(range.after)?;
        outcome
    })
}

/// The rows of the layers, or the keys of the memtable.
enum HistorySource<I> {
    Layers { scan: LayerHistoryScan, next: Option<(Key, Vec<u8>)> },
    Memtable { keys: I, next: Option<Key> },
}

impl<I> SortedSource for HistorySource<I> {
    type Key = Key;

    fn key(&self) -> Option<&Key> {
        match self {
            HistorySource::Layers { next, .. } => next.as_ref().map(|(key, _)| key),
            HistorySource::Memtable { next, .. } => next.as_ref(),
        }
    }
}

/// A pass over one state of a table.
struct RowPass<'a> {
    timeline: &'a Timeline,
    state: &'a TableState,
    /// The commits after which rows are read: from the first up to the second.
    commits: (u64, u64),
}

impl RowPass<'_> {
    fn reads_memtable(&self) -> bool {
        self.commits.1 >= self.state.layers.end()
    }

    fn visit_range(
        &self,
        (from, to): (&Bound<Key>, &Bound<Key>),
        done: &mut Option<Key>,
        visitor: &mut dyn HistoryVisitor,
    ) -> Result<Option<Key>> {
        let keys = (from.as_ref(), to.as_ref());
        if memtable::is_empty_range(keys) {
            return Ok(None);
        }
        let key_type = self.timeline.key_type()?;
        let next_row = |scan: &LayerHistoryScan| {
            let key = scan.key().map(|bytes| Ok((read_sort_key(&bytes, key_type)?, bytes)));
            key.transpose()
        };
        let (after, last) = self.commits;
        let scan = self.state.layers.history_scan(after, last, &start_bytes(keys.0))?;
        let mut sources = vec![HistorySource::Layers { next: next_row(&scan)?, scan }];
        if self.reads_memtable() {
            let mut keys = self.state.memtable.keys(keys, key_type);
            sources.push(HistorySource::Memtable { next: keys.next(), keys });
        }
        let mut sources = MergingCursor::new(sources);
        while let Some(key) = sources.key().cloned() {
            work::step(16)?;
            if !(Bound::Unbounded, keys.1).contains(&key) {
                return Ok(None);
            }
            let is_wanted = keys.contains(&key);
            if is_wanted {
                visitor.begin_row(&key);
            }
            let mut take = |entry: HistoryEntry| if is_wanted { visitor.entry(&key, entry) } else { Ok(()) };
            for source in sources.sources_at(&key) {
                match source {
                    HistorySource::Layers { scan, next } => {
                        if let Some((_, bytes)) = next {
                            scan.take(bytes, &mut take)?;
                        }
                        *next = next_row(scan)?;
                    }
                    HistorySource::Memtable { keys, next } => {
                        self.take_memtable(&key, &mut take)?;
                        *next = keys.next();
                    }
                }
            }
            if is_wanted && !end_row(key, done, visitor)? {
                return Ok(done.clone());
            }
        }
        Ok(None)
    }

    fn visit_listed(
        &self,
        (keys, after): (&CandidateKeys, Option<Key>),
        done: &mut Option<Key>,
        visitor: &mut dyn HistoryVisitor,
    ) -> Result<Option<Key>> {
        let key_type = self.timeline.key_type()?;
        let mut layers = self.state.layers.history_lookup(self.commits.0, self.commits.1);
        let first = after.map_or(0, |after| keys.first_after(&sort_key(&after)));
        for bytes in (first..).map_while(|at| keys.get(at)) {
            work::step(16)?;
            let key = read_sort_key(bytes, key_type)?;
            visitor.begin_row(&key);
            let mut take = |entry: HistoryEntry| visitor.entry(&key, entry);
            layers.take(bytes, &mut take)?;
            if self.reads_memtable() {
                self.take_memtable(&key, &mut take)?;
            }
            if !end_row(key, done, visitor)? {
                return Ok(done.clone());
            }
        }
        Ok(None)
    }

    /// Passes a row's versions in the memtable to `take`, oldest first.
    fn take_memtable(&self, key: &Key, take: &mut dyn FnMut(HistoryEntry) -> Result<()>) -> Result<()> {
        let mut after = EventId::end_of(self.state.layers.end());
        let last = EventId::end_of(self.commits.1);
        loop {
            let found = self.state.memtable.versions(key, (after, last), VERSIONS_PER_READ, false);
            let count = found.len();
            for Version { id, commit, kind, payload, marks } in found {
                work::step(4)?;
                let meta = commit.meta.as_deref();
                let text = |of: fn(&CommitMeta) -> &String| meta.map(of).cloned().unwrap_or_default();
                let (actor, reason) = (text(|meta| &meta.actor), text(|meta| &meta.reason));
                let time_ms = commit.time_ms;
                let entry = VersionEntry { kind, time_ms, actor, reason, payload, image: None, marks };
                take(HistoryEntry::Version(id, entry))?;
                after = id;
            }
            if count < VERSIONS_PER_READ {
                return Ok(());
            }
        }
    }
}

/// Ends a row. Returns whether the pass goes on.
fn end_row(key: Key, done: &mut Option<Key>, visitor: &mut dyn HistoryVisitor) -> Result<bool> {
    let goes_on = visitor.end_row(&key)?;
    *done = Some(key);
    Ok(goes_on)
}

/// The bytes at which the sort keys of a range begin.
fn start_bytes(start: Bound<&Key>) -> Vec<u8> {
    match start {
        Bound::Included(key) | Bound::Excluded(key) => sort_key(key),
        Bound::Unbounded => Vec::new(),
    }
}
