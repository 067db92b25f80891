//! The watches of this reader, and the live ring: the newest commits in memory, which the watches follow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::metrics;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::live_commit::{LiveCommit, RingSharing};
use crate::subscriptions::interest::Interest;
use crate::subscriptions::watch_index::{WatchId, WatchIndex, WatchPosition};

pub mod interest;
mod watch_index;

/// The live ring and the watches.
#[derive(Debug, Default)]
pub struct Subscriptions {
    ring: RwLock<LiveRing>,
    index: Mutex<WatchIndex>,
    sharing: Arc<RingSharing>,
}

/// The newest commits without a gap, up to a limit of bytes.
#[derive(Debug, Default)]
struct LiveRing {
    /// The commit before the first one in the ring.
    base: u64,
    commits: VecDeque<Arc<LiveCommit>>,
    bytes: usize,
}

/// The commit that follows another in the live ring.
#[derive(Debug)]
pub enum NextCommit {
    /// This commit.
    Ready(Arc<LiveCommit>),
    /// None yet: the other is the newest.
    AtHead,
    /// A commit that is no longer in memory.
    Behind,
}

/// One watch of the index. It counts until it is dropped.
#[derive(Debug)]
pub struct Subscription {
    subscriptions: Arc<Subscriptions>,
    id: WatchId,
    wake: Arc<Notify>,
    position: Arc<WatchPosition>,
}

impl Subscription {
    /// Sets what the watch waits for. Until then any commit ends a wait.
    pub fn set_interest(&self, interest: Interest) {
        self.subscriptions.index.lock().set_interest(self.id, interest);
    }

    /// The watch has sent everything up to a commit.
    pub fn note_position(&self, position: u64) {
        self.position.set(position);
    }

    /// Begins to wait, after everything up to `position` was sent, for a commit that may concern the watch, or for any. Returns
    /// false if there is a newer commit already.
    pub fn begin_wait(&self, position: u64, for_any: bool) -> bool {
        self.subscriptions.index.lock().begin_wait(self.id, position, for_any)
    }

    /// Returns when the wait may be over.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Ends the wait. Returns the commit up to which nothing concerns the watch.
    pub fn end_wait(&self) -> u64 {
        self.subscriptions.index.lock().end_wait(self.id)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.subscriptions.index.lock().remove(self.id);
        self.subscriptions.sharing.remove_watch();
    }
}

impl Subscriptions {
    /// How many commits the slowest watch has not sent, of those up to `applied`.
    pub fn most_behind(&self, applied: u64) -> u64 {
        self.index.lock().most_behind(applied)
    }

    /// Whether the lock of the watches becomes free within some time.
    pub fn is_free_within(&self, patience: Duration) -> bool {
        self.index.try_lock_for(patience).is_some()
    }

    /// The number of watches.
    pub fn count(&self) -> usize {
        self.sharing.watches()
    }

    /// What the commits of the ring share between watches.
    pub fn sharing(&self) -> &Arc<RingSharing> {
        &self.sharing
    }

    /// Adds a watch. Fails with OVERLOADED if this reader has as many as it may.
    pub fn subscribe(self: &Arc<Self>) -> Result<Subscription> {
        let before = self.sharing.add_watch();
        let wake = Arc::new(Notify::new());
        let position = Arc::new(WatchPosition::default());
        let id = self.index.lock().add(Arc::clone(&wake), Arc::clone(&position));
        let subscription = Subscription { subscriptions: Arc::clone(self), id, wake, position };
        if before >= limits::WATCHES {
            metrics::count_refused("watches");
            let message = format!(
                "too many watches: this reader has {before}, the limit is {}; ask another reader",
                limits::WATCHES
            );
            return Err(Error::new(Reason::Overloaded, message).retry_after(Duration::from_secs(1)));
        }
        Ok(subscription)
    }

    /// The commit after `seq`.
    pub fn next_after(&self, seq: u64) -> NextCommit {
        let ring = self.ring.read();
        let Some(index) = seq.checked_sub(ring.base) else { return NextCommit::Behind };
        match usize::try_from(index).ok().and_then(|index| ring.commits.get(index)) {
            Some(commit) => NextCommit::Ready(Arc::clone(commit)),
            None => NextCommit::AtHead,
        }
    }

    /// Drops all commits from the ring, before their tables are read again from files. Watches that still need these commits
    /// read them from the files too.
    pub fn clear(&self) {
        let mut ring = self.ring.write();
        *ring = LiveRing { base: ring.newest(), ..LiveRing::default() };
    }

    /// Adds commits to the ring, sets the newest applied commit, and wakes the watches that these commits may concern.
    pub fn extend(&self, commits: impl IntoIterator<Item = LiveCommit>, applied: u64) {
        let mut added: Vec<Arc<LiveCommit>> = commits.into_iter().map(Arc::new).collect();
        let mut ring = self.ring.write();
        for commit in &added {
            ring.push(Arc::clone(commit));
        }
        if ring.newest() != applied {
            // Some commits came from snapshots, or no watch was there: the ring must not have a gap.
            *ring = LiveRing { base: applied, ..LiveRing::default() };
        }
        drop(ring);
        let mut wake = Vec::new();
        for commit in added.drain(..) {
            // A lock for each commit: the watches take it too, and must not wait for a long lookup.
            self.index.lock().route(&commit, &mut wake);
        }
        self.index.lock().skip_to(applied, &mut wake);
        wake.iter().for_each(|wake| wake.notify_one());
    }
}

impl LiveRing {
    fn newest(&self) -> u64 {
        self.base + self.commits.len() as u64
    }

    fn push(&mut self, commit: Arc<LiveCommit>) {
        if commit.info.seq != self.newest() + 1 {
            *self = LiveRing { base: commit.info.seq.saturating_sub(1), ..LiveRing::default() };
        }
        self.bytes += commit.bytes();
        self.commits.push_back(commit);
        while self.bytes > limits::RING_BYTES
            && let Some(oldest) = self.commits.pop_front()
        {
            self.bytes -= oldest.bytes();
            self.base = oldest.info.seq;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(seq: u64, bytes: usize) -> LiveCommit {
        LiveCommit::with_bytes(seq, bytes)
    }

    /// What follows `seq` in the ring: a commit's seq, 0 if there is none yet, `None` if it is no longer in memory.
    fn next(subscriptions: &Subscriptions, seq: u64) -> Option<u64> {
        match subscriptions.next_after(seq) {
            NextCommit::Ready(commit) => Some(commit.info.seq),
            NextCommit::AtHead => Some(0),
            NextCommit::Behind => None,
        }
    }

    #[test]
    fn the_ring_keeps_the_newest_commits_and_reports_dropped_ones() {
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
    fn commits_from_snapshots_leave_no_gap_in_the_ring() {
        let subscriptions = Subscriptions::default();
        subscriptions.extend([commit(1, 1)], 1);
        // Commits 2 to 5 came from snapshots.
        subscriptions.extend([commit(6, 1)], 6);
        assert_eq!((next(&subscriptions, 1), next(&subscriptions, 5)), (None, Some(6)));
        subscriptions.extend([], 9);
        assert_eq!((next(&subscriptions, 6), next(&subscriptions, 9)), (None, Some(0)));
    }
}
