//! The newest era's events in memory: by key, every version of a row; by sequence number, what happened.
//!
//! One thread appends, in commit order; any number read at the same time, each at its own moment. A reader at seq N looks
//! past every version above N, so nothing needs to be locked for longer than one row's list of versions.

use std::ops::Bound;
use std::sync::Arc;

use crossbeam_skiplist::SkipMap;
use parking_lot::RwLock;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{CommitMeta, Event, EventType};
use crate::format::key::Key;
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
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row after it; `None` where there is none.
    pub after: Option<Document>,
}

/// All versions of one row, oldest first. Several may be of one commit.
pub type Versions = RwLock<Vec<Version>>;

/// What happened, in order. Everything of a row's event but its key stands in the row's versions.
#[derive(Debug, Clone)]
pub enum Happened {
    /// A row's event.
    Row {
        /// The commit.
        seq: u64,
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
}

impl Happened {
    /// The commit's number.
    pub fn seq(&self) -> u64 {
        match self {
            Happened::Row { seq, .. } => *seq,
            Happened::Schema { commit, .. } => commit.seq,
        }
    }
}

#[derive(Debug)]
struct Entry {
    what: Happened,
    /// Live rows after it.
    live: u64,
}

/// The events of an era.
#[derive(Debug, Default)]
pub struct Overlay {
    rows: SkipMap<Key, Versions>,
    events: RwLock<Vec<Entry>>,
}

/// How many events and live rows there are at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Events up to it.
    pub events: u64,
    /// Live rows after it.
    pub rows: u64,
    /// The last commit up to it that has an event here.
    pub last_seq: u64,
}

impl Overlay {
    /// Appends a row's event. Versions of commits before `born` (the table's last CREATE) count as absent.
    pub fn push_row(&self, commit: &Arc<CommitInfo>, event: Event, born: u64) -> Result<()> {
        let Event { kind, key: Some(key), document: payload, .. } = event else { return Ok(()) };
        let row = match self.rows.get(&key) {
            Some(row) => row,
            None => self.rows.insert(key.clone(), Versions::default()),
        };
        // Only this thread appends: between the look here and the push below nothing changes.
        let last = row.value().read().last().cloned();
        let before = last.filter(|version| version.commit.seq >= born).and_then(|version| version.after);
        let after = state::apply(before.as_ref(), kind, payload.as_ref())?;
        let (was, is) = (u64::from(before.is_some()), u64::from(after.is_some()));
        let version = {
            let mut versions = row.value().write();
            versions.push(Version { commit: Arc::clone(commit), kind, payload, after });
            versions.len() - 1
        };
        let mut events = self.events.write();
        let live = events.last().map_or(0, |entry| entry.live) + is - was;
        events.push(Entry { what: Happened::Row { seq: commit.seq, key, version }, live });
        Ok(())
    }

    /// Appends a SCHEMA event; whether the table has no live row after it.
    pub fn push_schema(&self, commit: &Arc<CommitInfo>, payload: Document, emptied: bool) {
        let what = Happened::Schema { commit: Arc::clone(commit), payload, emptied };
        let mut events = self.events.write();
        let live = events.last().map_or(0, |entry| entry.live);
        events.push(Entry { what, live: if emptied { 0 } else { live } });
    }

    /// Looks at a row's versions.
    pub fn with_versions<R>(&self, key: &Key, look: impl FnOnce(&[Version]) -> R) -> Option<R> {
        let row = self.rows.get(key)?;
        let versions = row.value().read();
        Some(look(&versions))
    }

    /// Goes through the rows of a range of keys, in order, until `look` says false.
    pub fn scan(&self, range: (Bound<&Key>, Bound<&Key>), mut look: impl FnMut(&Key, &[Version]) -> bool) {
        if is_empty(range) {
            return;
        }
        for row in self.rows.range::<Key, _>(range) {
            if !look(row.key(), &row.value().read()) {
                return;
            }
        }
    }

    /// Counts at a moment.
    pub fn counts(&self, seq: u64) -> Counts {
        let events = self.events.read();
        let upto = events.partition_point(|entry| entry.what.seq() <= seq);
        match upto.checked_sub(1).and_then(|last| events.get(last)) {
            Some(entry) => Counts { events: upto as u64, rows: entry.live, last_seq: entry.what.seq() },
            None => Counts::default(),
        }
    }

    /// The positions of the events after commit `from`, up to and with commit `to`.
    pub fn positions(&self, from: u64, to: u64) -> std::ops::Range<usize> {
        let events = self.events.read();
        let start = events.partition_point(|entry| entry.what.seq() <= from);
        start..events.partition_point(|entry| entry.what.seq() <= to).max(start)
    }

    /// The events at some positions.
    pub fn happened(&self, positions: std::ops::Range<usize>) -> Vec<Happened> {
        let events = self.events.read();
        events.get(positions).unwrap_or_default().iter().map(|entry| entry.what.clone()).collect()
    }
}

/// Whether a range holds no key whatever there is. Ordered maps may panic on such a range.
fn is_empty((from, to): (Bound<&Key>, Bound<&Key>)) -> bool {
    match (from, to) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
    }
}
