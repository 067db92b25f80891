//! The events after the newest delta layer, in memory: every version of each row by key, and every event in order.
//!
//! One thread appends, in commit order. Any number of threads read at the same time, each at its own point in time: a
//! reader at seq N ignores every version above N. Therefore nothing is locked for longer than it takes to read or
//! extend one row's list of versions. Versions are added and never changed, with one exception: the row after a PATCH
//! is computed when someone first reads it, if the row before it is in the layers only, and then kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_skiplist::{SkipMap, SkipSet};
use parking_lot::RwLock;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::{CommitMeta, Event, EventType};
use crate::format::index_columns::IndexColumns;
use crate::format::key::Key;
use crate::format::sortkey;
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::row_fold::{RowFold, RowVersion};
use crate::table::state;
use crate::table::table_counts::TableCounts;

/// A commit's seq, time and meta. The versions that the commit made share it.
#[derive(Debug)]
pub struct CommitInfo {
    /// The commit's seq.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it and why, if the commit says so.
    pub meta: Option<Box<CommitMeta>>,
}

/// A row after one event.
#[derive(Debug, Clone)]
pub(super) struct Version {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The event's position among those of its commit in this table.
    pub index: u32,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; `None` for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row after the event; `None` if the event deleted it. Unset for a PATCH of a row that only the layers hold,
    /// until a reader computes it.
    after: OnceLock<Option<Document>>,
}

impl Version {
    /// The event's id.
    pub(super) fn id(&self) -> EventId {
        EventId { seq: self.commit.seq, index: self.index }
    }
}

/// All versions of one row, oldest first. Several may be of one commit.
type Versions = RwLock<Vec<Version>>;

/// An event of the table. Of a row's event, the row's versions hold everything but the key.
#[derive(Debug, Clone)]
pub(super) enum MemtableEvent {
    /// A row's event.
    Row {
        /// The row.
        key: Key,
        /// The position of the version that the event made among the row's versions.
        version: usize,
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

#[derive(Debug, Clone)]
struct EventEntry {
    id: EventId,
    time_ms: u64,
    event: MemtableEvent,
    /// Events of the table up to and including this one.
    events: u64,
    /// Live rows after this event.
    live: u64,
}

/// An event and its id.
#[derive(Debug, Clone)]
pub(super) struct NumberedEvent {
    /// The event's id.
    pub id: EventId,
    /// The event.
    pub event: MemtableEvent,
}

/// Rows by an indexed value.
#[derive(Debug)]
struct ValueIndex {
    columns: IndexColumns,
    /// The value's bytes, then the row's sort key. Entries are never removed: readers at older points in time need them.
    candidates: SkipSet<Vec<u8>>,
}

impl ValueIndex {
    /// An empty index on a path of a schema.
    fn new(path: &str) -> Arc<ValueIndex> {
        Arc::new(ValueIndex { columns: IndexColumns::of(path), candidates: SkipSet::new() })
    }

    /// Makes the row a candidate for the value that an event writes to the path. A PATCH that does not write the path
    /// keeps the row's value, which has made the row a candidate before.
    fn add(&self, key: &Key, kind: EventType, payload: Option<&Document>) {
        let is_patch = kind == EventType::Patch;
        // The writer has refused values that cannot be read.
        let value = payload.and_then(|payload| self.columns.value_of_event(payload, is_patch).ok().flatten());
        if let Some(mut bytes) = value {
            sortkey::write_key(&mut bytes, key);
            // `insert` would replace an existing node.
            self.candidates.get_or_insert(bytes);
        }
    }
}

/// An estimate of the bytes that an event takes besides its documents: its version, its entry, its share of its
/// commit and of its row.
const EVENT_OVERHEAD: usize = 320;

/// The events after the newest delta layer.
#[derive(Debug, Default)]
pub struct Memtable {
    /// The table's counts before the first event.
    base: TableCounts,
    rows: SkipMap<Key, Versions>,
    events: RwLock<Vec<EventEntry>>,
    /// An estimate of the bytes that the events take in memory.
    bytes: AtomicU64,
    indexes: RwLock<BTreeMap<String, Arc<ValueIndex>>>,
}

impl Memtable {
    /// An empty memtable after a point in time at which the table had these counts.
    pub(super) fn above(base: TableCounts) -> Memtable {
        Memtable { base, ..Memtable::default() }
    }

    /// A copy without the events up to a later point in time at which the table had these counts. Only the thread
    /// that appends may call this.
    pub(super) fn rebase(&self, base: TableCounts) -> Memtable {
        let newer = Memtable::above(base);
        *newer.indexes.write() =
            self.indexes.read().keys().map(|path| (path.clone(), ValueIndex::new(path))).collect();
        let events = self.events.read();
        let start = events.partition_point(|entry| entry.id.seq <= base.last_seq);
        for entry in events.get(start..).unwrap_or_default() {
            let event = match &entry.event {
                MemtableEvent::Row { key, version } => {
                    let found = self.with_versions(key, |versions| versions.get(*version).cloned());
                    let Some(found) = found.flatten() else { continue };
                    newer.index(key, found.kind, found.payload.as_ref());
                    let row = newer.rows.get_or_insert_with(key.clone(), Versions::default);
                    MemtableEvent::Row { key: key.clone(), version: newer.push_version(row.value(), found) }
                }
                other => other.clone(),
            };
            newer.events.write().push(EventEntry { event, ..entry.clone() });
        }
        newer
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
        let Event { kind, key: Some(key), document: payload, replaces, .. } = event else { return Ok(()) };
        // One search instead of two. Only this thread appends, so nothing changes between this look and the push below;
        // for readers, a row without a version is absent.
        let row = self.rows.get_or_insert_with(key.clone(), Versions::default);
        let last = row.value().read().last().cloned();
        let (was_live, before) = match &last {
            Some(last) if last.commit.seq < created_at => (false, Some(None)),
            Some(last) => match last.after.get() {
                Some(after) => (after.is_some(), Some(after.clone())),
                None => (true, None),
            },
            None if kind != EventType::Insert || replaces => (true, None),
            None => (layers.is_live(&key, created_at)?, None),
        };
        let after = match (kind, &before) {
            (EventType::Patch, None) if layers.end() > 0 => OnceLock::new(),
            _ => {
                let before = before.as_ref().and_then(Option::as_ref);
                OnceLock::from(state::apply(before, kind, payload.as_ref())?)
            }
        };
        let is_live = after.get().is_none_or(Option::is_some);
        self.index(&key, kind, payload.as_ref());
        let version = Version { commit: Arc::clone(commit), index, kind, payload, after };
        let id = version.id();
        let version = self.push_version(row.value(), version);
        let change = |live: u64| live + u64::from(is_live) - u64::from(was_live);
        self.push_event(id, commit.time_ms, MemtableEvent::Row { key, version }, 1, change);
        Ok(())
    }

    /// Appends a version to a row's versions and returns its position.
    fn push_version(&self, versions: &Versions, version: Version) -> usize {
        let known = version.after.get().and_then(Option::as_ref).filter(|_| version.kind == EventType::Patch);
        let documents = [version.payload.as_ref(), known].into_iter().flatten();
        let documents: usize = documents.map(|document| document.msgpack().len()).sum();
        self.bytes.fetch_add((documents + EVENT_OVERHEAD) as u64, Ordering::Relaxed);
        let mut versions = versions.write();
        versions.push(version);
        versions.len() - 1
    }

    fn push_event(
        &self,
        id: EventId,
        time_ms: u64,
        event: MemtableEvent,
        count: u64,
        live: impl FnOnce(u64) -> u64,
    ) {
        let mut events = self.events.write();
        let (before, rows) =
            events.last().map_or((self.base.events, self.base.rows), |entry| (entry.events, entry.live));
        events.push(EventEntry { id, time_ms, event, events: before + count, live: live(rows) });
    }

    /// Appends a SCHEMA event. `emptied` says whether the event left the table without rows.
    pub(super) fn push_schema(&self, commit: &Arc<CommitInfo>, index: u32, payload: Document, emptied: bool) {
        let event = MemtableEvent::Schema { commit: Arc::clone(commit), payload, emptied };
        let id = EventId { seq: commit.seq, index };
        self.push_event(id, commit.time_ms, event, 1, |rows| if emptied { 0 } else { rows });
    }

    /// Appends a commit that changed nothing.
    pub(super) fn push_note(&self, commit: &CommitInfo, index: u32) {
        let id = EventId { seq: commit.seq, index };
        self.push_event(id, commit.time_ms, MemtableEvent::Note, 0, |rows| rows);
    }

    /// The row after one of its versions. `row_before` supplies the row before its first version here, if that is
    /// needed.
    fn row_after(
        &self,
        key: &Key,
        position: usize,
        row_before: impl FnOnce(EventId) -> Result<Option<Document>>,
    ) -> Result<Option<Document>> {
        let versions = self.with_versions(key, |versions| {
            let versions = versions.get(..=position)?;
            let known = versions.iter().rposition(|version| version.after.get().is_some());
            versions.get(known.unwrap_or(0)..).map(<[Version]>::to_vec)
        });
        let missing = || Error::new(Reason::Internal, "a version of the memtable is missing");
        let versions = versions.flatten().ok_or_else(missing)?;
        let Some(first) = versions.first() else { return Err(missing()) };
        let (mut fold, rest) = match first.after.get() {
            Some(after) => (RowFold::over(after.clone()), versions.get(1..).unwrap_or_default()),
            None => (RowFold::over(row_before(first.id())?), versions.as_slice()),
        };
        for version in rest {
            fold.apply(version.kind, version.payload.as_ref(), None, || Ok(None))?;
        }
        let row = fold.into_document();
        if !rest.is_empty() {
            let row = row.as_ref().map(Document::detached);
            self.with_versions(key, |versions| versions.get(position).map(|version| version.after.set(row)));
        }
        Ok(row)
    }

    /// The last version of a row up to an event, and its position. `None` if the memtable has no such version.
    fn version(&self, key: &Key, last: EventId) -> Option<(usize, Version)> {
        self.with_versions(key, |versions| {
            let position = versions.partition_point(|version| version.id() <= last).checked_sub(1)?;
            Some((position, versions.get(position)?.clone()))
        })?
    }

    /// The row as its last version up to an event left it. `None` if the memtable has no such version.
    pub(super) fn row(&self, key: &Key, last: EventId, layers: &LayerMap) -> Result<Option<RowVersion>> {
        self.row_as(key, last, |position| {
            self.row_after(key, position, |first| {
                Ok(layers.row(key, first.before())?.and_then(|before| before.document))
            })
        })
    }

    /// As [`Memtable::row`], for callers that have the row at the end of the layers.
    pub(super) fn row_over(
        &self,
        key: &Key,
        last: EventId,
        base: Option<&Document>,
    ) -> Result<Option<RowVersion>> {
        self.row_as(key, last, |position| self.row_after(key, position, |_| Ok(base.cloned())))
    }

    fn row_as(
        &self,
        key: &Key,
        last: EventId,
        row_after: impl FnOnce(usize) -> Result<Option<Document>>,
    ) -> Result<Option<RowVersion>> {
        let Some((position, version)) = self.version(key, last) else { return Ok(None) };
        let document = match version.after.get() {
            Some(after) => after.clone(),
            None => row_after(position)?,
        };
        Ok(Some(RowVersion { seq: version.commit.seq, time_ms: version.commit.time_ms, document }))
    }

    /// Calls `read` with a row's versions, oldest first. Returns `None` if the row has none.
    pub(super) fn with_versions<R>(&self, key: &Key, read: impl FnOnce(&[Version]) -> R) -> Option<R> {
        let row = self.rows.get(key)?;
        let versions = row.value().read();
        Some(read(&versions))
    }

    /// The keys in a range, in order. [`is_empty_range`] must not hold for the range.
    pub(super) fn keys<'a>(
        &'a self,
        range: (Bound<&'a Key>, Bound<&'a Key>),
    ) -> impl Iterator<Item = Key> + 'a {
        self.rows.range::<Key, _>(range).map(|row| row.key().clone())
    }

    /// The table's counts after a commit.
    pub(super) fn counts(&self, seq: u64) -> TableCounts {
        let events = self.events.read();
        let count = events.partition_point(|entry| entry.id.seq <= seq);
        match count.checked_sub(1).and_then(|last| events.get(last)) {
            Some(entry) => TableCounts { events: entry.events, rows: entry.live, last_seq: entry.id.seq },
            None => self.base,
        }
    }

    /// The number of events in the memtable, and of commits that changed nothing.
    pub fn len(&self) -> usize {
        self.events.read().len()
    }

    /// An estimate of the bytes that the events take in memory.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the memtable has no event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        let events = self.events.read();
        let start = events.partition_point(|entry| entry.id <= after);
        let end = events.partition_point(|entry| entry.id <= last).max(start);
        let numbered = |entry: &EventEntry| NumberedEvent { id: entry.id, event: entry.event.clone() };
        let within = events.get(start..end).unwrap_or_default();
        if newest_first {
            within.iter().rev().take(limit).map(numbered).collect()
        } else {
            within.iter().take(limit).map(numbered).collect()
        }
    }

    /// The time of a commit, in milliseconds since 1970; `None` if the memtable has no event of it.
    pub(super) fn time_of(&self, seq: u64) -> Option<u64> {
        let events = self.events.read();
        let at = events.partition_point(|entry| entry.id.seq < seq);
        events.get(at).filter(|entry| entry.id.seq == seq).map(|entry| entry.time_ms)
    }

    /// The last commit with an event in the memtable at or before a time in milliseconds since 1970.
    pub(super) fn last_at(&self, time_ms: u64) -> Option<u64> {
        let events = self.events.read();
        let count = events.partition_point(|entry| entry.time_ms <= time_ms);
        events.get(count.checked_sub(1)?).map(|entry| entry.id.seq)
    }

    /// Keeps indexes on exactly these paths from now on. New indexes also cover the events that the memtable already
    /// has. Only the thread that appends may call this.
    pub(super) fn set_indexes(&self, paths: &[String]) {
        let known = self.indexes.read().clone();
        let kept = |path: &String| known.get(path).cloned().unwrap_or_else(|| ValueIndex::new(path));
        let next: BTreeMap<_, _> = paths.iter().map(|path| (path.clone(), kept(path))).collect();
        for (_, index) in next.iter().filter(|(path, _)| !known.contains_key(*path)) {
            for row in &self.rows {
                for version in row.value().read().iter() {
                    index.add(row.key(), version.kind, version.payload.as_ref());
                }
            }
        }
        *self.indexes.write() = next;
    }

    fn index(&self, key: &Key, kind: EventType, payload: Option<&Document>) {
        self.indexes.read().values().for_each(|index| index.add(key, kind, payload));
    }

    /// Whether the memtable keeps an index on a path.
    pub(super) fn has_index(&self, path: &str) -> bool {
        self.indexes.read().contains_key(path)
    }

    /// Passes an index's candidates at or after `start` to `visit`, in order, until it returns false.
    pub(super) fn candidates(&self, path: &str, start: &[u8], mut visit: impl FnMut(&[u8]) -> bool) {
        let Some(index) = self.indexes.read().get(path).cloned() else { return };
        for entry in index.candidates.range::<[u8], _>((Bound::Included(start), Bound::Unbounded)) {
            if !visit(entry.value()) {
                return;
            }
        }
    }
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
