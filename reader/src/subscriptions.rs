//! The newest commits, in memory, for the watches that follow the head; and how many watches there are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{Event, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::{self, DriftEvent, Images, RowImages};
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::Row;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, watch};

/// Watches that read files at the same time; the others wait for their turn.
const CATCHING_UP: usize = 8;
/// Images of a row that take more than this are worked out for each watch anew.
const IMAGE_BYTES: usize = 1024;

/// The live ring, and who follows it.
#[derive(Debug)]
pub struct Subscriptions {
    ring: RwLock<Ring>,
    head: watch::Sender<u64>,
    watches: AtomicUsize,
    catching_up: Semaphore,
}

/// The newest commits without a gap, as many as fit.
#[derive(Debug, Default)]
struct Ring {
    /// Those after this one are here.
    base: u64,
    commits: VecDeque<Arc<LiveCommit>>,
    bytes: usize,
}

/// A commit, as it was applied.
#[derive(Debug)]
pub struct LiveCommit {
    /// Its number, time, and who and why.
    pub info: Arc<CommitInfo>,
    /// What it did, table by table, in the order of their ids.
    pub parts: Vec<LivePart>,
    bytes: usize,
    /// Held by the watch that works out images: the others find them.
    resolving: Mutex<()>,
}

/// What a commit did in one table.
#[derive(Debug)]
pub struct LivePart {
    /// The table.
    pub timeline: Arc<Timeline>,
    /// Its events, in order.
    pub events: Vec<LiveEvent>,
}

/// One event.
#[derive(Debug)]
pub struct LiveEvent {
    /// The row; none for SCHEMA.
    pub key: Option<Key>,
    spot: EventId,
    kind: EventType,
    payload: Option<Document>,
    /// The row before and after, as soon as anybody has asked.
    images: Mutex<Option<Box<RowImages>>>,
}

/// What comes after a commit.
#[derive(Debug)]
pub enum Next {
    /// This one.
    Commit(Arc<LiveCommit>),
    /// Nothing yet.
    AtHead,
    /// Commits that are no longer in memory.
    Behind,
}

/// Counts as one watch until it is dropped.
#[derive(Debug)]
pub struct Subscription(Arc<Subscriptions>);

impl Drop for Subscription {
    fn drop(&mut self) {
        self.0.watches.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Default for Subscriptions {
    fn default() -> Self {
        Subscriptions {
            ring: RwLock::default(),
            head: watch::Sender::new(0),
            watches: AtomicUsize::new(0),
            catching_up: Semaphore::new(CATCHING_UP),
        }
    }
}

impl Subscriptions {
    /// How many watches there are.
    pub fn watches(&self) -> usize {
        self.watches.load(Ordering::Acquire)
    }

    /// One more watch, where that is not too many.
    pub fn subscribe(self: &Arc<Self>) -> Result<Subscription> {
        let before = self.watches.fetch_add(1, Ordering::AcqRel);
        let subscription = Subscription(Arc::clone(self));
        if before >= limits::WATCHES {
            let message = format!(
                "this reader has {before} watches, and takes no more than {}: ask another one",
                limits::WATCHES
            );
            return Err(Error::new(Reason::Overloaded, message).retry_after(Duration::from_secs(1)));
        }
        Ok(subscription)
    }

    /// Tells of every newer head.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// What comes after a commit.
    pub fn after(&self, seq: u64) -> Next {
        let ring = self.ring.read();
        let Some(at) = seq.checked_sub(ring.base) else { return Next::Behind };
        match usize::try_from(at).ok().and_then(|at| ring.commits.get(at)) {
            Some(commit) => Next::Commit(Arc::clone(commit)),
            None => Next::AtHead,
        }
    }

    /// Waits until files may be read. The turn ends when what this returns is dropped.
    pub async fn turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        // It is never closed.
        self.catching_up.acquire().await.ok()
    }

    /// Forgets the commits, whose tables are about to be read anew: those who want them find them in the files.
    pub fn forget(&self) {
        let mut ring = self.ring.write();
        *ring = Ring { base: ring.newest(), ..Ring::default() };
    }

    /// Takes in what has been applied, up to and with `applied`, and wakes those who follow.
    pub fn extend(&self, commits: impl IntoIterator<Item = LiveCommit>, applied: u64) {
        let mut ring = self.ring.write();
        for commit in commits {
            ring.push(commit);
        }
        if ring.newest() != applied {
            // Some of it came from snapshots, or nobody was there to follow.
            *ring = Ring { base: applied, ..Ring::default() };
        }
        drop(ring);
        self.head.send_if_modified(|head| std::mem::replace(head, applied) != applied);
    }
}

impl Ring {
    fn newest(&self) -> u64 {
        self.base + self.commits.len() as u64
    }

    fn push(&mut self, commit: LiveCommit) {
        if commit.info.seq != self.newest() + 1 {
            *self = Ring { base: commit.info.seq.saturating_sub(1), ..Ring::default() };
        }
        self.bytes += commit.bytes;
        self.commits.push_back(Arc::new(commit));
        while self.bytes > limits::RING_BYTES
            && let Some(oldest) = self.commits.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.base = oldest.info.seq;
        }
    }
}

impl LiveCommit {
    /// A commit that has done nothing yet.
    pub fn new(info: Arc<CommitInfo>) -> LiveCommit {
        let said = info.meta.as_ref().map_or(0, |meta| meta.actor.len() + meta.reason.len());
        LiveCommit { info, parts: Vec::new(), bytes: COMMIT_BYTES + said, resolving: Mutex::default() }
    }

    /// Adds what it did in a table.
    pub fn push(&mut self, timeline: &Arc<Timeline>, events: &[Event]) {
        let seq = self.info.seq;
        let of = |(event, index): (&Event, u32)| {
            let Event { kind, key, document, .. } = event;
            let (key, payload, spot) = (key.clone(), document.clone(), EventId { seq, index });
            LiveEvent { key, spot, kind: *kind, payload, images: Mutex::default() }
        };
        let shown = |event: &LiveEvent| event.kind != EventType::Note;
        let events: Vec<LiveEvent> = events.iter().zip(0..).map(of).filter(shown).collect();
        let payloads = events.iter().filter_map(|event| event.payload.as_ref());
        let payloads: usize = payloads.map(|payload| payload.msgpack().len()).sum();
        let keys: usize = events.iter().map(|event| key_bytes(event.key.as_ref())).sum();
        self.bytes += events.len() * EVENT_BYTES + keys + payloads;
        self.parts.push(LivePart { timeline: Arc::clone(timeline), events });
    }

    /// Held while images are worked out, so that one watch does it for all.
    pub fn resolving(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.resolving.lock()
    }
}

/// About what a commit, and an event, take besides their documents.
const COMMIT_BYTES: usize = 192;
const EVENT_BYTES: usize = 192;

fn key_bytes(key: Option<&Key>) -> usize {
    match key {
        Some(Key::Str(text)) => text.len(),
        _ => 0,
    }
}

impl LiveEvent {
    /// Whether the images wanted are at hand: a look at the files is not needed.
    pub fn has_images(&self, images: Images) -> bool {
        self.key.is_none() || images == Images::default() || self.images.lock().is_some()
    }

    /// The change, with the images wanted; more may come with them.
    pub fn change(
        &self,
        commit: &Arc<CommitInfo>,
        timeline: &Timeline,
        images: Images,
    ) -> Result<DriftEvent> {
        let (before, after) = match &self.key {
            Some(key) if images != Images::default() => self.images(key, timeline)?,
            _ => (None, None),
        };
        let (commit, key) = (Arc::clone(commit), self.key.clone());
        Ok(DriftEvent { commit, key, kind: self.kind, payload: self.payload.clone(), before, after })
    }

    fn images(&self, key: &Key, timeline: &Timeline) -> Result<RowImages> {
        if let Some(known) = &*self.images.lock() {
            return Ok(RowImages::clone(known));
        }
        // Both: the next one who asks may want the other.
        let both = Images { before: true, after: true };
        let found = history::images_of(timeline, key, self.spot, both)?;
        let rows = [&found.0, &found.1].into_iter().flatten();
        if rows.map(|row| row.document.msgpack().len()).sum::<usize>() <= IMAGE_BYTES {
            // Not as slices of the block that they were read from, which would stay with them.
            let detached = |row: &Row| Row { document: row.document.detached(), ..row.clone() };
            let known = (found.0.as_ref().map(detached), found.1.as_ref().map(detached));
            *self.images.lock() = Some(Box::new(known));
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(seq: u64, bytes: usize) -> LiveCommit {
        let info = Arc::new(CommitInfo { seq, time_ms: seq, meta: None });
        LiveCommit { bytes, ..LiveCommit::new(info) }
    }

    /// What a watch that has seen `seq` finds next: a commit's number, 0 for nothing yet, `None` where it is behind.
    fn next(subscriptions: &Subscriptions, seq: u64) -> Option<u64> {
        match subscriptions.after(seq) {
            Next::Commit(commit) => Some(commit.info.seq),
            Next::AtHead => Some(0),
            Next::Behind => None,
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_and_says_what_is_gone() {
        let subscriptions = Subscriptions::default();
        subscriptions.extend([], 4);
        assert_eq!((next(&subscriptions, 3), next(&subscriptions, 4)), (None, Some(0)));
        subscriptions.extend([commit(5, 1), commit(6, 1)], 6);
        assert_eq!((next(&subscriptions, 4), next(&subscriptions, 5)), (Some(5), Some(6)));
        subscriptions.extend([commit(7, limits::RING_BYTES)], 7);
        assert_eq!((next(&subscriptions, 5), next(&subscriptions, 6)), (None, Some(7)));
        subscriptions.extend([commit(8, limits::RING_BYTES + 1)], 8);
        assert_eq!((next(&subscriptions, 7), next(&subscriptions, 8)), (None, Some(0)));
    }

    #[test]
    fn commits_that_came_another_way_leave_no_gap_behind() {
        let subscriptions = Subscriptions::default();
        subscriptions.extend([commit(1, 1)], 1);
        // 2 to 5 came from snapshots.
        subscriptions.extend([commit(6, 1)], 6);
        assert_eq!((next(&subscriptions, 1), next(&subscriptions, 5)), (None, Some(6)));
        subscriptions.extend([], 9);
        assert_eq!((next(&subscriptions, 6), next(&subscriptions, 9)), (None, Some(0)));
    }
}
