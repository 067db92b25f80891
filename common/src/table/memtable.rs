//! The events after the newest delta layer, in memory: every version of each row by key, and every event in order.
//!
//! One thread appends, in commit order. Any number of threads read at the same time, each at its own point in time: a
//! reader at seq N ignores every version above N. Events are added and never changed, and nobody waits while something is sorted,
//! only for one short lock: events are in lists that do not move (`append_list`), rows are found by hash (`row_table`), and the order of keys and of indexed values is
//! made in passing, by sorting a few at a time (`sorted_set`). A tree that is kept in order event by event took three quarters of
//! a reader's processor time.
//!
//! The row after a PATCH is computed when it is appended, if the row before it is at hand, or else when someone first reads it.
//! `merged_rows` says for how long it is kept.

use std::collections::BTreeSet;
use std::hash::{BuildHasher, RandomState};
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::RwLock;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::{Event, EventMarks, EventType};
use crate::format::index_columns::IndexColumns;
use crate::format::key::{Key, KeyType};
use crate::format::sortkey;
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::memtable::event_slot::EventSlot;
use crate::table::memtable::merged_rows::PatchedRow;
use crate::table::memtable::segment::MemtableSegment;
use crate::table::memtable::sorted_set::SetCursor;
use crate::table::memtable::version_walk::{FoundVersion, VersionWalk};
use crate::table::row_fold::{RowFold, RowVersion};
use crate::table::state;
use crate::table::table_counts::TableCounts;

mod append_list;
mod commit_info;
mod event_slot;
mod merged_rows;
mod row_table;
mod segment;
mod sorted_set;
mod value_index;
mod version_walk;

pub use commit_info::CommitInfo;

/// An event of the table.
#[derive(Debug, Clone)]
pub(super) enum MemtableEvent {
    /// A row's event.
    Row {
        /// The row.
        key: Key,
        /// What happened to it.
        version: Version,
    },
    /// A SCHEMA event.
    Schema {
        /// The commit.
        commit: Arc<CommitInfo>,
        /// The schema after it, as frames hold it.
        payload: Document,
        /// Whether it left the table without rows: true for CREATE and DROP.
        emptied: bool,
    },
    /// A commit that changed nothing.
    Note,
}

impl MemtableEvent {
    /// Who made the commit; may be empty.
    pub(super) fn actor(&self) -> &str {
        let commit = match self {
            MemtableEvent::Row { version, .. } => &version.commit,
            MemtableEvent::Schema { commit, .. } => commit,
            MemtableEvent::Note => return "",
        };
        commit.meta.as_ref().map_or("", |meta| meta.actor.as_str())
    }
}

/// A row's event.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The event's id.
    pub id: EventId,
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; `None` for SOFT_DELETE.
    pub payload: Option<Document>,
    /// How the event came about.
    pub marks: EventMarks,
}

/// An event and its id.
#[derive(Debug, Clone)]
pub(super) struct NumberedEvent {
    /// The event's id.
    pub id: EventId,
    /// The event.
    pub event: MemtableEvent,
}

impl EventSlot {
    fn version(&self) -> Version {
        let (id, commit, payload) = (self.id(), self.commit(), self.payload.clone());
        Version { id, commit, kind: self.kind, payload, marks: self.marks }
    }

    fn numbered(&self) -> NumberedEvent {
        let event = match (&self.key, &self.payload) {
            (Some(key), _) => MemtableEvent::Row { key: key.clone(), version: self.version() },
            (None, Some(payload)) => {
                let (commit, payload) = (self.commit(), payload.clone());
                MemtableEvent::Schema { commit, payload, emptied: self.emptied }
            }
            (None, None) => MemtableEvent::Note,
        };
        NumberedEvent { id: self.id(), event }
    }
}

/// Segments, oldest first.
type Segments = Vec<Arc<MemtableSegment>>;

/// The events after the newest delta layer.
#[derive(Debug, Default)]
pub struct Memtable {
    /// The table's counts before the first event.
    base: TableCounts,
    /// The first of them may begin with events that are in the layers, too. These do not count.
    segments: ArcSwap<Segments>,
    hasher: RandomState,
    /// The paths that the memtable keeps indexes on.
    indexes: RwLock<BTreeSet<String>>,
}

impl Memtable {
    /// An empty memtable after a point in time at which the table had these counts.
    pub(super) fn above(base: TableCounts) -> Memtable {
        Memtable { base, ..Memtable::default() }
    }

    /// A memtable without the events up to a later point in time at which the table had these counts. It shares the memory of
    /// this one. Only the thread that appends may call this.
    pub(super) fn rebase(&self, base: TableCounts) -> Memtable {
        let segments = self.segments.load();
        let newer = segments.iter().filter(|segment| segment.last_id().seq > base.last_seq);
        Memtable {
            base,
            segments: ArcSwap::from_pointee(newer.cloned().collect()),
            hasher: self.hasher.clone(),
            indexes: RwLock::new(self.indexes.read().clone()),
        }
    }

    /// The last event before the first one that counts.
    fn start(&self) -> EventId {
        EventId::end_of(self.base.last_seq)
    }

    /// The segment for the next event.
    fn open_segment(&self) -> Arc<MemtableSegment> {
        let segments = self.segments.load();
        let newest = segments.last();
        if let Some(newest) = newest.filter(|newest| !newest.is_full()) {
            return Arc::clone(newest);
        }
        if let Some(full) = newest {
            full.seal();
        }
        let counts = newest.map_or(self.base, |newest| newest.newest_counts());
        let next = Arc::new(MemtableSegment::new(counts, self.indexes.read().iter()));
        let mut segments = Segments::clone(&segments);
        segments.push(Arc::clone(&next));
        self.segments.store(Arc::new(segments));
        next
    }

    /// Appends a row's event. Versions of commits before `created_at` (the table's last CREATE) count as absent.
    /// `layers` holds the rows that have no version here.
    pub(super) fn push_row(
        &self,
        commit: &Arc<CommitInfo>,
        index: u32,
        event: Event,
        created_at: u64,
        layers: &LayerMap,
    ) -> Result<()> {
        let Event { kind, key: Some(key), document: payload, marks, .. } = event else { return Ok(()) };
        let hash = self.hasher.hash_one(&key);
        let segments = self.segments.load();
        let whole = (EventId::default(), EventId::end_of(u64::MAX));
        let last = VersionWalk::new(&segments, (hash, &key), whole).next();
        let was_live = match &last {
            Some(last) => last.slot.seq >= created_at && last.slot.kind != EventType::SoftDelete,
            None if kind != EventType::Insert || marks.replaces => true,
            None => layers.is_live(&key, created_at)?,
        };
        let merged = match (kind, &last) {
            (EventType::Patch, Some(last)) if was_live => merge_onto(last, payload.as_ref())?,
            (EventType::Patch, None) if layers.end() > 0 => None,
            _ => {
                // Fails if the event cannot be applied.
                state::apply(None, kind, payload.as_ref())?;
                None
            }
        };
        drop(segments);
        let segment = self.open_segment();
        let counts = segment.newest_counts();
        let is_live = kind != EventType::SoftDelete;
        let slot = EventSlot {
            key: Some(key),
            payload,
            marks,
            rows: (counts.rows + u64::from(is_live)).saturating_sub(u64::from(was_live)),
            ..self.slot(&segment, commit, (kind, index))
        };
        if let (Some(position), Some(row)) = (push(&segment, hash, slot)?, merged) {
            segment.keep_merged(position, row);
        }
        Ok(())
    }

    /// An event without content at the end of a segment.
    fn slot(&self, segment: &MemtableSegment, commit: &Arc<CommitInfo>, of: (EventType, u32)) -> EventSlot {
        let (kind, index) = of;
        EventSlot {
            seq: commit.seq,
            time_ms: commit.time_ms,
            commit: commit.meta.is_some().then(|| Arc::clone(commit)),
            kind,
            key: None,
            payload: None,
            merged: Default::default(),
            rows: segment.newest_counts().rows,
            index,
            events: segment.event_count() + u32::from(kind != EventType::Note),
            link: Default::default(),
            emptied: false,
            marks: EventMarks::default(),
        }
    }

    /// Appends a SCHEMA event. `emptied` says whether the event left the table without rows.
    pub(super) fn push_schema(
        &self,
        commit: &Arc<CommitInfo>,
        index: u32,
        payload: Document,
        emptied: bool,
    ) -> Result<()> {
        let segment = self.open_segment();
        let slot = self.slot(&segment, commit, (EventType::Schema, index));
        let rows = if emptied { 0 } else { slot.rows };
        push(&segment, 0, EventSlot { payload: Some(payload), emptied, rows, ..slot }).map(drop)
    }

    /// Appends a commit that changed nothing.
    pub(super) fn push_note(&self, commit: &Arc<CommitInfo>, index: u32) -> Result<()> {
        let segment = self.open_segment();
        push(&segment, 0, self.slot(&segment, commit, (EventType::Note, index))).map(drop)
    }

    /// A row as its last version up to an event left it. `None` if the memtable has no such version.
    pub(super) fn row(&self, key: &Key, last: EventId, layers: &LayerMap) -> Result<Option<RowVersion>> {
        self.row_as(key, last, |first| {
            Ok(layers.row(key, first.before())?.and_then(|before| before.document))
        })
    }

    /// As [`Memtable::row`], for callers that have the row at the end of the layers.
    pub(super) fn row_over(
        &self,
        key: &Key,
        last: EventId,
        base: Option<&Document>,
    ) -> Result<Option<RowVersion>> {
        self.row_as(key, last, |_| Ok(base.cloned()))
    }

    /// `row_before` supplies the row before its first version here, if that is needed.
    fn row_as(
        &self,
        key: &Key,
        last: EventId,
        row_before: impl FnOnce(EventId) -> Result<Option<Document>>,
    ) -> Result<Option<RowVersion>> {
        let segments = self.segments.load();
        let row = (self.hasher.hash_one(key), key);
        let mut walk = VersionWalk::new(&segments, row, (self.start(), last));
        let Some(newest) = walk.next() else { return Ok(None) };
        let document = fold(newest, walk, row_before)?;
        Ok(Some(RowVersion { seq: newest.slot.seq, time_ms: newest.slot.time_ms, document }))
    }

    /// Whether a row has an indexed value for which `holds` is true, as its last version up to an event left it: true also if that
    /// is not at hand. `None` if the memtable has no such version.
    pub(super) fn may_have_value(
        &self,
        key: &Key,
        last: EventId,
        columns: &IndexColumns,
        holds: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<bool>> {
        let segments = self.segments.load();
        let row = (self.hasher.hash_one(key), key);
        let newest = VersionWalk::new(&segments, row, (self.start(), last)).next();
        let Some(newest) = newest else { return Ok(None) };
        let Some((row, _)) = known_row(&newest) else { return Ok(Some(true)) };
        let value = row.map(|row| columns.value_of(&row)).transpose()?.flatten();
        Ok(Some(value.is_some_and(|value| holds(&value))))
    }

    /// At most `limit` of a row's events after the event `after`, up to and including the event `last`: the oldest first, or
    /// the newest first.
    pub(super) fn versions(
        &self,
        key: &Key,
        (after, last): (EventId, EventId),
        limit: usize,
        newest_first: bool,
    ) -> Vec<Version> {
        let (segments, after) = (self.segments.load(), after.max(self.start()));
        let hash = self.hasher.hash_one(key);
        let walk = |segments, range| VersionWalk::new(segments, (hash, key), range);
        if newest_first {
            return walk(&segments, (after, last)).take(limit).map(|found| found.slot.version()).collect();
        }
        let mut versions = Vec::new();
        for segment in segments.iter() {
            // The oldest in the range are in the middle of the row's events: find them by their number.
            let depth = |up_to: EventId| {
                let newest = segment.newest(hash, key)?;
                let at = segment.seek_back(newest, |slot| slot.id() <= up_to)?;
                Some((newest, segment.events().get(at)?.link.depth))
            };
            let Some((newest, end)) = depth(last) else { continue };
            let start = depth(after).map_or(0, |(_, start)| start);
            let room = u16::try_from(limit.saturating_sub(versions.len())).unwrap_or(u16::MAX);
            let end = end.min(start.saturating_add(room));
            let Some(at) = segment.seek_back(newest, |slot| slot.link.depth <= end) else { continue };
            let Some(newest) = segment.events().get(at) else { continue };
            let found = walk(std::slice::from_ref(segment), (after, newest.id()));
            let found: Vec<_> = found.take(usize::from(end.saturating_sub(start))).collect();
            versions.extend(found.iter().rev().map(|found| found.slot.version()));
        }
        versions
    }

    /// The keys in a range, in order, of at least the rows that have an event here. [`is_empty_range`] must not hold for the range.
    pub(super) fn keys(
        &self,
        range: (Bound<&Key>, Bound<&Key>),
        key_type: KeyType,
    ) -> impl Iterator<Item = Key> + use<> {
        let segments = self.segments.load();
        let mut start = Vec::new();
        if let Bound::Included(key) | Bound::Excluded(key) = range.0 {
            sortkey::write_key(&mut start, key);
        }
        let range = (range.0.cloned(), range.1.cloned());
        let mut cursor = SetCursor::open(segments.iter().map(|segment| &segment.keys), &start);
        let mut entry = Vec::new();
        let keys = std::iter::from_fn(move || {
            let found = cursor.next_into(&mut entry).then(|| sortkey::read_key(&entry, key_type))?;
            found.map(|(key, _)| key)
        });
        let (skipped, end) = (range.0, range.1);
        keys.skip_while(move |key| !(skipped.as_ref(), Bound::Unbounded).contains(key))
            .take_while(move |key| (Bound::Unbounded, end.as_ref()).contains(key))
    }

    /// The newest event that counts and meets a condition, which no event after one that does not meet it meets.
    fn last_slot<T>(
        &self,
        holds: impl Fn(&EventSlot) -> bool,
        read: impl Fn(&MemtableSegment, &EventSlot) -> T,
    ) -> Option<T> {
        let segments = self.segments.load();
        let segment = segments.iter().rev().find(|segment| segment.events().get(0).is_some_and(&holds))?;
        let count = segment.events().partition_point(holds);
        let slot = segment.events().get(count.checked_sub(1)?).filter(|slot| slot.id() > self.start())?;
        Some(read(segment, slot))
    }

    /// The table's counts after a commit.
    pub(super) fn counts(&self, seq: u64) -> TableCounts {
        self.last_slot(|slot| slot.seq <= seq, MemtableSegment::counts_after).unwrap_or(self.base)
    }

    /// The number of events in the memtable, and of commits that changed nothing.
    pub fn len(&self) -> usize {
        let (segments, start) = (self.segments.load(), self.start());
        let covered =
            segments.first().map_or(0, |first| first.events().partition_point(|slot| slot.id() <= start));
        segments.iter().map(|segment| segment.events().len()).sum::<usize>() - covered
    }

    /// An estimate of the bytes that the events take in memory.
    pub fn bytes(&self) -> u64 {
        self.segments.load().iter().map(|segment| segment.bytes()).sum()
    }

    /// Whether the memtable has no event.
    pub fn is_empty(&self) -> bool {
        self.segments.load().iter().all(|segment| segment.last_id() <= self.start())
    }

    /// At most `limit` events after the event `after`, up to and including the event `last`: the oldest first, or the
    /// newest first.
    pub(super) fn events(
        &self,
        after: EventId,
        last: EventId,
        limit: usize,
        newest_first: bool,
    ) -> Vec<NumberedEvent> {
        let (segments, after) = (self.segments.load(), after.max(self.start()));
        let within = |segment: &Arc<MemtableSegment>| {
            let start = segment.events().partition_point(|slot| slot.id() <= after);
            let end = segment.events().partition_point(|slot| slot.id() <= last).max(start);
            (Arc::clone(segment), start..end)
        };
        let read =
            |(segment, at): (&Arc<MemtableSegment>, usize)| segment.events().get(at).map(EventSlot::numbered);
        let mut events = Vec::new();
        if newest_first {
            for (segment, range) in segments.iter().rev().map(within) {
                let room = limit - events.len();
                events.extend(range.rev().take(room).filter_map(|at| read((&segment, at))));
            }
        } else {
            for (segment, range) in segments.iter().map(within) {
                let room = limit - events.len();
                events.extend(range.take(room).filter_map(|at| read((&segment, at))));
            }
        }
        events
    }

    /// The time of a commit, in milliseconds since 1970; `None` if the memtable has no event of it.
    pub(super) fn time_of(&self, seq: u64) -> Option<u64> {
        let found = self.last_slot(|slot| slot.seq <= seq, |_, slot| (slot.seq, slot.time_ms))?;
        (found.0 == seq).then_some(found.1)
    }

    /// The last commit with an event in the memtable at or before a time in milliseconds since 1970.
    pub(super) fn last_at(&self, time_ms: u64) -> Option<u64> {
        self.last_slot(|slot| slot.time_ms <= time_ms, |_, slot| slot.seq)
    }

    /// Keeps indexes on exactly these paths from now on. New indexes also cover the events that the memtable already
    /// has. Only the thread that appends may call this.
    pub(super) fn set_indexes(&self, paths: &[String]) {
        let next: BTreeSet<String> = paths.iter().cloned().collect();
        if *self.indexes.read() == next {
            return;
        }
        self.segments.load().iter().for_each(|segment| segment.set_indexes(paths));
        *self.indexes.write() = next;
    }

    /// Whether the memtable keeps an index on a path.
    pub(super) fn has_index(&self, path: &str) -> bool {
        self.indexes.read().contains(path)
    }

    /// Passes an index's candidates at or after `start` to `visit`, in order, until it returns false. Returns false if the
    /// memtable has no such index any more.
    pub(super) fn candidates(&self, path: &str, start: &[u8], mut visit: impl FnMut(&[u8]) -> bool) -> bool {
        let segments = self.segments.load();
        let indexes = segments.iter().map(|segment| segment.indexes().get(path).cloned());
        let Some(indexes) = indexes.collect::<Option<Vec<_>>>() else { return false };
        let mut cursor = SetCursor::open(indexes.iter().map(|index| &index.candidates), start);
        let mut entry = Vec::new();
        while cursor.next_into(&mut entry) && visit(&entry) {}
        true
    }

    /// As [`Memtable::candidates`], but in several runs, each of which ends when `visit` returns false: for callers that sort the
    /// candidates anyway.
    pub(super) fn candidates_in_runs(
        &self,
        path: &str,
        start: &[u8],
        mut visit: impl FnMut(&[u8]) -> Result<bool>,
    ) -> Result<bool> {
        let segments = self.segments.load();
        for segment in segments.iter() {
            let Some(index) = segment.indexes().get(path).cloned() else { return Ok(false) };
            index.candidates.visit_runs(start, &mut visit)?;
        }
        Ok(true)
    }

    /// Whether an event may say nothing of some of a row's values, because it is a PATCH.
    pub(super) fn has_patches(&self) -> bool {
        self.segments.load().iter().any(|segment| segment.has_patches())
    }
}

fn push(segment: &MemtableSegment, hash: u64, slot: EventSlot) -> Result<Option<usize>> {
    let full = |_| Error::new(Reason::Internal, "a segment of the memtable is full");
    segment.push(hash, slot).map(Some).map_err(full)
}

/// The row after a PATCH of its newest version, if the row before it is at hand.
fn merge_onto(last: &FoundVersion<'_>, patch: Option<&Document>) -> Result<Option<PatchedRow>> {
    let Some((before, unkept_bytes)) = known_row(last) else { return Ok(None) };
    let after = state::apply(before.as_ref(), EventType::Patch, patch)?;
    let patch_bytes = size_of::<EventSlot>() + patch.map_or(0, |patch| patch.msgpack().len());
    let merged = |document: Document| PatchedRow {
        document: document.detached(),
        unkept_bytes: unkept_bytes + patch_bytes,
    };
    Ok(after.map(merged))
}

/// A row as a version left it, and the bytes of its events since the last row that the memtable keeps, if it is at hand.
fn known_row(version: &FoundVersion<'_>) -> Option<(Option<Document>, usize)> {
    match version.slot.kind {
        EventType::Patch => {
            version.segment.merged(version.position).map(|row| (Some(row.document), row.unkept_bytes))
        }
        EventType::Insert => Some((version.slot.payload.clone(), 0)),
        _ => Some((None, 0)),
    }
}

/// A row as a version left it. `older` are the versions before it. `row_before` supplies the row before the first of them, if
/// that is needed.
fn fold(
    newest: FoundVersion<'_>,
    older: VersionWalk<'_>,
    row_before: impl FnOnce(EventId) -> Result<Option<Document>>,
) -> Result<Option<Document>> {
    let (mut patches, mut known) = (Vec::new(), None);
    for version in std::iter::once(newest).chain(older) {
        known = known_row(&version);
        if known.is_some() {
            break;
        }
        patches.push(version.slot);
    }
    let (row, mut bytes) = match (known, patches.last()) {
        (Some(known), _) => known,
        (None, Some(first)) => (row_before(first.id())?, 0),
        (None, None) => (None, 0),
    };
    if patches.is_empty() {
        return Ok(row);
    }
    let mut fold = RowFold::over(row);
    for patch in patches.iter().rev() {
        bytes += patch.bytes();
        fold.apply(EventType::Patch, patch.payload.as_ref(), None, || Ok(None))?;
    }
    let row = fold.into_document().as_ref().map(Document::detached);
    if let Some(document) = row.clone() {
        newest.segment.keep_merged(newest.position, PatchedRow { document, unkept_bytes: bytes });
    }
    Ok(row)
}

/// Whether no key can lie in a range. Ordered maps may panic on such a range.
pub(super) fn is_empty_range((start, end): (Bound<&Key>, Bound<&Key>)) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

#[cfg(test)]
mod tests;
