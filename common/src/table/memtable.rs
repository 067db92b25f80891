//! What came after the newest era, in memory: by key, every version of a row; by sequence number, what happened.
//!
//! One thread appends, in commit order; any number read at the same time, each at its own moment. A reader at seq N looks
//! past every version above N, so nothing needs to be locked for longer than one row's list of versions.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam_skiplist::{SkipMap, SkipSet};
use parking_lot::RwLock;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::event::{CommitMeta, Event, EventType};
use crate::format::key::Key;
use crate::format::path::Path;
use crate::format::sortkey;
use crate::table::layers::{EventId, LayerMap, RowVersion};
use crate::table::state;

/// A commit's number, time and meta, as versions share it.
#[derive(Debug)]
pub struct CommitInfo {
    /// Its number.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who and why, where the commit says.
    pub meta: Option<Box<CommitMeta>>,
}

/// A row after one event.
#[derive(Debug, Clone)]
pub struct Version {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The event's position among those of its commit in this table.
    pub index: u32,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row after it; `None` where there is none. Not known yet for a PATCH of a row that only snapshots hold: a reader
    /// who wants it works it out.
    after: OnceLock<Option<Document>>,
}

impl Version {
    /// Where it stands among the table's events.
    pub fn spot(&self) -> EventId {
        EventId { seq: self.commit.seq, index: self.index }
    }
}

/// All versions of one row, oldest first. Several may be of one commit.
pub type Versions = RwLock<Vec<Version>>;

/// What happened, in order. Everything of a row's event but its key stands in the row's versions.
#[derive(Debug, Clone)]
pub enum MemtableEvent {
    /// A row's event.
    Row {
        /// The row.
        key: Key,
        /// Which of the row's versions it made.
        version: usize,
    },
    /// A SCHEMA event.
    Schema {
        /// The commit.
        commit: Arc<CommitInfo>,
        /// The schema after it, as frames hold it.
        payload: Document,
        /// Whether it left the table without rows: a creation or a drop.
        emptied: bool,
    },
    /// A commit that changed nothing.
    Note,
}

#[derive(Debug, Clone)]
struct Entry {
    spot: EventId,
    time_ms: u64,
    what: MemtableEvent,
    /// Events up to and with it, and live rows after it.
    events: u64,
    live: u64,
}

/// An event and where it stands.
#[derive(Debug, Clone)]
pub struct NumberedEvent {
    /// Where it stands among the table's events.
    pub spot: EventId,
    /// What happened.
    pub what: MemtableEvent,
}

/// Rows by an indexed value.
#[derive(Debug)]
struct ValueIndex {
    path: Path,
    /// The value's bytes, then the row's sort key. What a row once had stays.
    candidates: SkipSet<Vec<u8>>,
}

impl ValueIndex {
    /// An index on a path, as a schema names it, of no rows yet.
    fn on(path: &str) -> Arc<ValueIndex> {
        Arc::new(ValueIndex { path: Path::of_index(path), candidates: SkipSet::new() })
    }

    /// A value that an event writes to the path makes its row a candidate. A PATCH that leaves the path alone keeps a value
    /// that made it one before.
    fn add(&self, key: &Key, payload: Option<&Document>) {
        let value = payload.and_then(|payload| payload.get(&self.path).ok().flatten());
        // What cannot be read was refused when it was written.
        if let Some(scalar) = value.and_then(|value| sortkey::scalar_of(value).ok().flatten()) {
            let mut bytes = Vec::new();
            sortkey::write_scalar(&mut bytes, scalar);
            sortkey::write_key(&mut bytes, key);
            // Not `insert`, which puts a new node in the place of one that is there.
            self.candidates.get_or_insert(bytes);
        }
    }
}

/// About what an event takes besides its documents: its version, its entry, its share of its commit and of its row.
const EVENT_OVERHEAD: usize = 320;

/// The events of an era.
#[derive(Debug, Default)]
pub struct Memtable {
    base: TableCounts,
    rows: SkipMap<Key, Versions>,
    events: RwLock<Vec<Entry>>,
    /// About how much memory the events take.
    bytes: AtomicU64,
    indexes: RwLock<BTreeMap<String, Arc<ValueIndex>>>,
}

/// How many events and live rows there are at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableCounts {
    /// Events up to it.
    pub events: u64,
    /// Live rows after it.
    pub rows: u64,
    /// The last commit up to it that has an event here.
    pub last_seq: u64,
}

impl Memtable {
    /// An overlay of what comes after a moment, at which the table had so much.
    pub fn above(base: TableCounts) -> Memtable {
        Memtable { base, ..Memtable::default() }
    }

    /// The same from a later moment on, at which the table had so much. Only the thread that appends may ask for it.
    pub fn rebase(&self, base: TableCounts) -> Memtable {
        let newer = Memtable::above(base);
        *newer.indexes.write() =
            self.indexes.read().keys().map(|path| (path.clone(), ValueIndex::on(path))).collect();
        let events = self.events.read();
        let start = events.partition_point(|entry| entry.spot.seq <= base.last_seq);
        for entry in events.get(start..).unwrap_or_default() {
            let Entry { what, .. } = entry;
            let what = match what {
                MemtableEvent::Row { key, version } => {
                    let found = self.with_versions(key, |versions| versions.get(*version).cloned());
                    let Some(found) = found.flatten() else { continue };
                    newer.index(key, found.payload.as_ref());
                    let row = newer.rows.get_or_insert_with(key.clone(), Versions::default);
                    MemtableEvent::Row { key: key.clone(), version: newer.push_version(row.value(), found) }
                }
                other => other.clone(),
            };
            newer.events.write().push(Entry { what, ..entry.clone() });
        }
        newer
    }

    /// Appends a row's event. Versions of commits before `born` (the table's last CREATE) count as absent. The chain knows
    /// the rows that have no version here.
    pub fn push_row(
        &self,
        commit: &Arc<CommitInfo>,
        index: u32,
        event: Event,
        born: u64,
        chain: &LayerMap,
    ) -> Result<()> {
        let Event { kind, key: Some(key), document: payload, replaces, .. } = event else { return Ok(()) };
        // Searched once. Only this thread appends: between the look here and the push below nothing changes, and a row
        // without a version is as one that is not here.
        let row = self.rows.get_or_insert_with(key.clone(), Versions::default);
        let last = row.value().read().last().cloned();
        let (was_live, before) = match &last {
            Some(last) if last.commit.seq < born => (false, Some(None)),
            Some(last) => match last.after.get() {
                Some(after) => (after.is_some(), Some(after.clone())),
                None => (true, None),
            },
            None if kind != EventType::Insert || replaces => (true, None),
            None => (chain.is_live(&key, born)?, None),
        };
        let after = match (kind, &before) {
            (EventType::Patch, None) if chain.end() > 0 => OnceLock::new(),
            _ => {
                let before = before.as_ref().and_then(Option::as_ref);
                OnceLock::from(state::apply(before, kind, payload.as_ref())?)
            }
        };
        let is_live = after.get().is_none_or(Option::is_some);
        self.index(&key, payload.as_ref());
        let version = Version { commit: Arc::clone(commit), index, kind, payload, after };
        let spot = version.spot();
        let version = self.push_version(row.value(), version);
        let change = |live: u64| live + u64::from(is_live) - u64::from(was_live);
        self.push_event(spot, commit.time_ms, MemtableEvent::Row { key, version }, 1, change);
        Ok(())
    }

    /// Appends a version to a row's; its position.
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
        spot: EventId,
        time_ms: u64,
        what: MemtableEvent,
        count: u64,
        live: impl FnOnce(u64) -> u64,
    ) {
        let mut events = self.events.write();
        let (before, rows) =
            events.last().map_or((self.base.events, self.base.rows), |entry| (entry.events, entry.live));
        events.push(Entry { spot, time_ms, what, events: before + count, live: live(rows) });
    }

    /// Appends a SCHEMA event; whether the table has no live row after it.
    pub fn push_schema(&self, commit: &Arc<CommitInfo>, index: u32, payload: Document, emptied: bool) {
        let what = MemtableEvent::Schema { commit: Arc::clone(commit), payload, emptied };
        let spot = EventId { seq: commit.seq, index };
        self.push_event(spot, commit.time_ms, what, 1, |rows| if emptied { 0 } else { rows });
    }

    /// Appends a commit that changed nothing.
    pub fn push_note(&self, commit: &CommitInfo, index: u32) {
        let spot = EventId { seq: commit.seq, index };
        self.push_event(spot, commit.time_ms, MemtableEvent::Note, 0, |rows| rows);
    }

    /// The row after one of its versions, which stands at `position`.
    pub fn after(&self, key: &Key, position: usize, chain: &LayerMap) -> Result<Option<Document>> {
        self.after_over(key, position, |first| {
            Ok(chain.row(key, first.before())?.and_then(|before| before.document))
        })
    }

    /// The same, where `under` tells what the row was before its first version here.
    fn after_over(
        &self,
        key: &Key,
        position: usize,
        under: impl FnOnce(EventId) -> Result<Option<Document>>,
    ) -> Result<Option<Document>> {
        let versions = self.with_versions(key, |versions| {
            let upto = versions.get(..=position)?;
            let known = upto.iter().rposition(|version| version.after.get().is_some());
            upto.get(known.unwrap_or(0)..).map(<[Version]>::to_vec)
        });
        let gone = || Error::new(Reason::Internal, "a version that an overlay had is gone");
        let versions = versions.flatten().ok_or_else(gone)?;
        let Some(first) = versions.first() else { return Err(gone()) };
        let (mut row, rest) = match first.after.get() {
            Some(after) => (after.clone(), versions.get(1..).unwrap_or_default()),
            None => (under(first.spot())?, versions.as_slice()),
        };
        for version in rest {
            row = state::apply(row.as_ref(), version.kind, version.payload.as_ref())?;
        }
        if !rest.is_empty() {
            let row = row.as_ref().map(Document::detached);
            self.with_versions(key, |versions| versions.get(position).map(|version| version.after.set(row)));
        }
        Ok(row)
    }

    /// The last version of a row up to a spot: its position, and the version. None where the overlay has none.
    pub fn version(&self, key: &Key, upto: EventId) -> Option<(usize, Version)> {
        self.with_versions(key, |versions| {
            let position = versions.partition_point(|version| version.spot() <= upto).checked_sub(1)?;
            Some((position, versions.get(position)?.clone()))
        })?
    }

    /// The row as its last version up to a spot left it; none where the overlay has no such version.
    pub fn row(&self, key: &Key, upto: EventId, chain: &LayerMap) -> Result<Option<RowVersion>> {
        self.row_as(key, upto, |position| self.after(key, position, chain))
    }

    /// The same, over what the row is at the end of the chain, for who has that at hand.
    pub fn row_over(&self, key: &Key, upto: EventId, under: Option<&Document>) -> Result<Option<RowVersion>> {
        self.row_as(key, upto, |position| self.after_over(key, position, |_| Ok(under.cloned())))
    }

    fn row_as(
        &self,
        key: &Key,
        upto: EventId,
        after: impl FnOnce(usize) -> Result<Option<Document>>,
    ) -> Result<Option<RowVersion>> {
        let Some((position, version)) = self.version(key, upto) else { return Ok(None) };
        let document = match version.after.get() {
            Some(after) => after.clone(),
            None => after(position)?,
        };
        Ok(Some(RowVersion { seq: version.commit.seq, time_ms: version.commit.time_ms, document }))
    }

    /// Looks at a row's versions.
    pub fn with_versions<R>(&self, key: &Key, look: impl FnOnce(&[Version]) -> R) -> Option<R> {
        let row = self.rows.get(key)?;
        let versions = row.value().read();
        Some(look(&versions))
    }

    /// The rows of a range of keys, which is not empty whatever there is.
    pub fn keys<'a>(&'a self, range: (Bound<&'a Key>, Bound<&'a Key>)) -> impl Iterator<Item = Key> + 'a {
        self.rows.range::<Key, _>(range).map(|row| row.key().clone())
    }

    /// TableCounts at a moment.
    pub fn counts(&self, seq: u64) -> TableCounts {
        let events = self.events.read();
        let upto = events.partition_point(|entry| entry.spot.seq <= seq);
        match upto.checked_sub(1).and_then(|last| events.get(last)) {
            Some(entry) => TableCounts { events: entry.events, rows: entry.live, last_seq: entry.spot.seq },
            None => self.base,
        }
    }

    /// How many events it holds.
    pub fn len(&self) -> usize {
        self.events.read().len()
    }

    /// About how many bytes of memory its events take.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it holds no event.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// NumberedEvent most `limit` events after one spot, up to and with another; the last ones, newest first, where `newest_first`.
    pub fn happened(
        &self,
        after: EventId,
        upto: EventId,
        limit: usize,
        newest_first: bool,
    ) -> Vec<NumberedEvent> {
        let events = self.events.read();
        let start = events.partition_point(|entry| entry.spot <= after);
        let end = events.partition_point(|entry| entry.spot <= upto).max(start);
        let at = |entry: &Entry| NumberedEvent { spot: entry.spot, what: entry.what.clone() };
        let within = events.get(start..end).unwrap_or_default();
        if newest_first {
            within.iter().rev().take(limit).map(at).collect()
        } else {
            within.iter().take(limit).map(at).collect()
        }
    }

    /// The time of a commit, in milliseconds since 1970, where it stands here.
    pub fn time_of(&self, seq: u64) -> Option<u64> {
        let events = self.events.read();
        let at = events.partition_point(|entry| entry.spot.seq < seq);
        events.get(at).filter(|entry| entry.spot.seq == seq).map(|entry| entry.time_ms)
    }

    /// The last commit here at or before a time.
    pub fn last_at(&self, time_ms: u64) -> Option<u64> {
        let events = self.events.read();
        let upto = events.partition_point(|entry| entry.time_ms <= time_ms);
        events.get(upto.checked_sub(1)?).map(|entry| entry.spot.seq)
    }

    /// Keeps indexes on these paths from now on, of what is there too. Only the thread that appends may ask for it.
    pub fn set_indexes(&self, paths: &[String]) {
        let known = self.indexes.read().clone();
        let kept = |path: &String| known.get(path).cloned().unwrap_or_else(|| ValueIndex::on(path));
        let next: BTreeMap<_, _> = paths.iter().map(|path| (path.clone(), kept(path))).collect();
        for (_, index) in next.iter().filter(|(path, _)| !known.contains_key(*path)) {
            for row in &self.rows {
                for version in row.value().read().iter() {
                    index.add(row.key(), version.payload.as_ref());
                }
            }
        }
        *self.indexes.write() = next;
    }

    fn index(&self, key: &Key, payload: Option<&Document>) {
        self.indexes.read().values().for_each(|index| index.add(key, payload));
    }

    /// Whether it keeps an index on a path.
    pub fn has_index(&self, path: &str) -> bool {
        self.indexes.read().contains_key(path)
    }

    /// Goes through the candidates of a range of an index's bytes, in order, until `look` says false.
    pub fn candidates(&self, path: &str, from: &[u8], mut look: impl FnMut(&[u8]) -> bool) {
        let Some(index) = self.indexes.read().get(path).cloned() else { return };
        for entry in index.candidates.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)) {
            if !look(entry.value()) {
                return;
            }
        }
    }
}

/// Whether a range holds no key whatever there is. Ordered maps may panic on such a range.
pub(super) fn is_empty((from, to): (Bound<&Key>, Bound<&Key>)) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}
