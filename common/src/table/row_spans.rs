//! What each row of a table was, and from which commit to which: one pass over the table's history, row by row.
//!
//! Questions about many points in time (AS OF EVERY, FIND, DELETED) are answered from this pass. The other order, commit by commit,
//! would have to look up the row before each event; here the row before an event is at hand, and a patch is merged only if somebody
//! asks for the row after it.

use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use crate::error::Result;
use crate::format::event::EventType;
use crate::format::key::Key;
use crate::format::snapshot::VersionEntry;
use crate::table::event_id::EventId;
use crate::table::layers::{HistoryEntry, LayerHistoryScan, read_sort_key, sort_key};
use crate::table::memtable::{self, Version};
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::row_fold::RowFold;
use crate::table::table_state::TableState;
use crate::table::timeline::Timeline;
use crate::table::view::Row;
use crate::work;

/// The most versions of a row that are copied from the memtable at a time.
const VERSIONS_PER_READ: usize = 1024;

/// The commit that ended a span by deleting the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDeletion {
    /// The commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it; may be empty.
    pub actor: String,
    /// Why it was made; may be empty.
    pub reason: String,
}

/// A stretch of commits over which a row did not change.
#[derive(Debug)]
pub struct RowSpan<'a> {
    /// The row's key.
    pub key: &'a Key,
    /// The first commit after which the row is as here. The commit after which the pass begins, if the row is older.
    pub first: u64,
    /// The first commit after which it is not; one after the last commit of the pass, if it stays.
    pub until: u64,
    /// The commit `until` if that is a soft deletion. The span is empty if the same commit has changed the row before it deleted it.
    pub deletion: Option<&'a RowDeletion>,
    /// Whether the row does not exist because the table was dropped or created after its last event.
    pub is_dropped: bool,
    fold: &'a mut RowFold,
}

impl RowSpan<'_> {
    /// Whether the row does not exist during the span.
    pub fn is_absent(&self) -> bool {
        self.fold.is_absent()
    }

    /// The row; `None` if it does not exist.
    pub fn row(&mut self) -> Result<Option<Row>> {
        let found = self.fold.current()?;
        Ok(found.and_then(|found| {
            let (seq, time_ms, document) = (found.seq, found.time_ms, found.document?);
            Some(Row { key: self.key.clone(), seq, time_ms, document })
        }))
    }
}

/// Takes the spans of rows. What it learns of a row counts only once the row ends: a pass that finds a file gone begins the row
/// again.
pub trait SpanVisitor {
    /// A row begins.
    fn begin_row(&mut self);
    /// The next span of the row. The spans of a row follow one another without gaps, the first from the beginning of the pass on.
    fn span(&mut self, span: RowSpan<'_>) -> Result<()>;
    /// The row ends. Returns whether the pass goes on.
    fn end_row(&mut self, key: &Key) -> Result<bool>;
}

/// Which rows and commits a pass covers.
#[derive(Debug, Clone)]
pub struct SpanRange {
    /// The pass begins with the rows after this commit, which must not be below the floor.
    pub after: u64,
    /// The pass ends with the rows after this commit.
    pub last: u64,
    /// The keys of the rows.
    pub keys: (Bound<Key>, Bound<Key>),
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

/// Passes the spans of each row to `visitor`, in key order. Returns the key of the last row if the visitor ended the pass.
///
/// # Errors
/// `BELOW_FLOOR` if the floor has passed the commit at which the pass begins.
pub fn visit(timeline: &Timeline, range: &SpanRange, visitor: &mut dyn SpanVisitor) -> Result<Option<Key>> {
    let mut done: Option<Key> = None;
    timeline.read(|state| {
        // A repeated read continues after the last row.
        let start = done.clone().map_or(range.keys.0.clone(), Bound::Excluded);
        let outcome = visit_in(timeline, state, (start, range), &mut done, visitor);
        timeline.check_floor(range.after)?;
        outcome
    })
}

fn visit_in(
    timeline: &Timeline,
    state: &TableState,
    (start, range): (Bound<Key>, &SpanRange),
    done: &mut Option<Key>,
    visitor: &mut dyn SpanVisitor,
) -> Result<Option<Key>> {
    let keys = (start.as_ref(), range.keys.1.as_ref());
    if memtable::is_empty_range(keys) {
        return Ok(None);
    }
    let key_type = timeline.key_type()?;
    let next_row = |scan: &LayerHistoryScan| {
        let key = scan.key().map(|bytes| Ok((read_sort_key(&bytes, key_type)?, bytes)));
        key.transpose()
    };
    let scan = state.layers.history_scan(range.after, range.last, &start_bytes(keys.0))?;
    let mut sources = vec![HistorySource::Layers { next: next_row(&scan)?, scan }];
    if range.last >= state.layers.end() {
        let mut keys = state.memtable.keys(keys, key_type);
        sources.push(HistorySource::Memtable { next: keys.next(), keys });
    }
    let mut sources = MergingCursor::new(sources);
    let emptied = timeline.emptied_up_to(range.last);
    while let Some(key) = sources.key().cloned() {
        work::step(16)?;
        let is_past_end = !(Bound::Unbounded, keys.1).contains(&key);
        if is_past_end {
            return Ok(None);
        }
        let is_wanted = keys.contains(&key);
        visitor.begin_row();
        let mut row = RowWalk::new(&key, range, &emptied);
        let mut take = |entry: HistoryEntry| if is_wanted { row.take(entry, visitor) } else { Ok(()) };
        for source in sources.sources_at(&key) {
            match source {
                HistorySource::Layers { scan, next } => {
                    if let Some((_, bytes)) = next {
                        scan.take(bytes, &mut take)?;
                    }
                    *next = next_row(scan)?;
                }
                HistorySource::Memtable { keys, next } => {
                    take_memtable(state, &key, range.last, &mut take)?;
                    *next = keys.next();
                }
            }
        }
        if !is_wanted {
            continue;
        }
        row.end(visitor)?;
        let goes_on = visitor.end_row(&key)?;
        *done = Some(key);
        if !goes_on {
            return Ok(done.clone());
        }
    }
    Ok(None)
}

/// Passes a row's versions in the memtable to `take`, oldest first.
fn take_memtable(
    state: &TableState,
    key: &Key,
    last: u64,
    take: &mut dyn FnMut(HistoryEntry) -> Result<()>,
) -> Result<()> {
    let mut after = EventId::end_of(state.layers.end());
    loop {
        let found = state.memtable.versions(key, (after, EventId::end_of(last)), VERSIONS_PER_READ, false);
        let count = found.len();
        for Version { id, commit, kind, payload, marks } in found {
            work::step(4)?;
            let meta = commit.meta.as_deref();
            let text = |of: fn(&crate::format::event::CommitMeta) -> &String| {
                meta.map(of).cloned().unwrap_or_default()
            };
            let (actor, reason) = (text(|meta| &meta.actor), text(|meta| &meta.reason));
            let entry =
                VersionEntry { kind, time_ms: commit.time_ms, actor, reason, payload, image: None, marks };
            take(HistoryEntry::Version(id, entry))?;
            after = id;
        }
        if count < VERSIONS_PER_READ {
            return Ok(());
        }
    }
}

/// Makes spans of a row's history.
struct RowWalk<'a> {
    key: &'a Key,
    range: &'a SpanRange,
    /// The commits that left the table without rows and lie after the row's newest version.
    emptied: &'a [u64],
    fold: RowFold,
    /// The first commit of the present span.
    first: u64,
    is_dropped: bool,
}

impl<'a> RowWalk<'a> {
    fn new(key: &'a Key, range: &'a SpanRange, emptied: &'a [u64]) -> RowWalk<'a> {
        RowWalk { key, range, emptied, fold: RowFold::default(), first: range.after, is_dropped: false }
    }

    fn take(&mut self, entry: HistoryEntry, visitor: &mut dyn SpanVisitor) -> Result<()> {
        match entry {
            HistoryEntry::Image(row) => {
                self.pass_emptied(row.seq, visitor)?;
                self.fold.push_image(row);
            }
            HistoryEntry::Version(id, version) => {
                self.pass_emptied(id.seq, visitor)?;
                let is_deletion = version.kind == EventType::SoftDelete;
                let is_in_span = id.seq == self.first && self.first > self.range.after;
                if id.seq > self.first || (is_deletion && is_in_span) {
                    let deletion = is_deletion.then(|| RowDeletion {
                        seq: id.seq,
                        time_ms: version.time_ms,
                        actor: version.actor.clone(),
                        reason: version.reason.clone(),
                    });
                    self.span(id.seq, deletion.as_ref(), visitor)?;
                }
                self.is_dropped = false;
                self.fold.push_newer(id.seq, version);
            }
        }
        Ok(())
    }

    /// Applies the commits before another one that left the table without rows.
    fn pass_emptied(&mut self, before: u64, visitor: &mut dyn SpanVisitor) -> Result<()> {
        while let Some((seq, later)) = self.emptied.split_first().filter(|(seq, _)| **seq < before) {
            self.emptied = later;
            self.span(*seq, None, visitor)?;
            self.fold.clear();
            self.is_dropped = true;
        }
        Ok(())
    }

    /// Ends the present span before a commit, if the span has begun by then.
    fn span(
        &mut self,
        until: u64,
        deletion: Option<&RowDeletion>,
        visitor: &mut dyn SpanVisitor,
    ) -> Result<()> {
        if until < self.first || (until == self.first && deletion.is_none()) {
            return Ok(());
        }
        let is_dropped = self.is_dropped;
        let span =
            RowSpan { key: self.key, first: self.first, until, deletion, is_dropped, fold: &mut self.fold };
        visitor.span(span)?;
        self.first = until;
        Ok(())
    }

    fn end(mut self, visitor: &mut dyn SpanVisitor) -> Result<()> {
        let until = self.range.last.saturating_add(1);
        self.pass_emptied(until, visitor)?;
        self.span(until, None, visitor)
    }
}

/// The bytes at which the sort keys of a range begin.
fn start_bytes(start: Bound<&Key>) -> Vec<u8> {
    match start {
        Bound::Included(key) | Bound::Excluded(key) => sort_key(key),
        Bound::Unbounded => Vec::new(),
    }
}

/// The first commit after which every row of a table is known: its floor.
pub fn first_known(timeline: &Arc<Timeline>) -> u64 {
    timeline.state().layers.floor().map_or(0, |floor| floor.seq)
}
