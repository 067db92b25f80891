//! For how many requests the committer waits before it writes a group, and for how long.
//!
//! A group costs the same whether it is one request or fifty: a sync, the switches between the threads, and a look of every reader at
//! HEAD. While many clients write, those whose requests were just answered send their next ones within a fraction of a
//! millisecond. So the committer waits for three quarters of as many requests as it has just seen, but no longer than two such
//! writes take. A client that is alone never waits.

use std::time::{Duration, Instant};

/// The longest wait.
const PATIENCE_MAX: Duration = Duration::from_millis(1);
/// A write that takes at most as long is quick.
const QUICK_WRITE: Duration = Duration::from_millis(5);
/// A request is alone if no others were seen for this long.
const CALM: Duration = Duration::from_millis(20);
/// A group of as many bytes waits for nothing: its own cost outweighs that of any group.
const ENOUGH_BYTES: usize = 256 << 10;

/// What the last group says about the next one.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// The requests that were seen at once: those of the last group, and those that came while it was written.
    crowd: usize,
    /// When several were seen the last time.
    crowded_at: Option<Instant>,
    /// How long the last group took to write.
    last_write: Option<Duration>,
    /// Until when the committer waits; `None` if the next request wakes it.
    deadline: Option<Instant>,
}

impl Gathering {
    /// Notes that a group of some requests was written, and that others came meanwhile.
    pub(super) fn note(&mut self, (written, waiting): (usize, usize), took: Duration) {
        self.crowd = written + waiting;
        self.last_write = Some(took);
        if self.crowd > 1 {
            self.crowded_at = Some(Instant::now());
        }
    }

    /// The committer has nothing else to do. If many requests were seen, it waits for the next ones from now on.
    pub(super) fn begin(&mut self) {
        let patience = (self.last_write.unwrap_or_default() * 2).min(PATIENCE_MAX);
        self.deadline = (self.crowd > 1).then(|| Instant::now() + patience);
    }

    /// The committer waits no longer. If nobody came, nobody is expected.
    pub(super) fn end(&mut self, requests: usize) {
        if self.deadline.take().is_some() && requests == 0 {
            self.crowd = 0;
        }
    }

    /// Until when the committer waits at most; `None` if it does not.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether the committer waits for more than `requests`, which have as many bytes as `bytes` says.
    pub(super) fn waits_for(&self, requests: usize, bytes: impl FnOnce() -> usize) -> bool {
        let Some(until) = self.deadline else { return false };
        let is_enough = requests >= (self.crowd * 3).div_ceil(4) || bytes() >= ENOUGH_BYTES;
        !is_enough && Instant::now() < until
    }

    /// Whether the next group is likely to be one request, on a disk that is quick.
    pub(super) fn expects_one(&self) -> bool {
        let is_calm = self.crowded_at.is_none_or(|at| at.elapsed() >= CALM);
        self.crowd <= 1 && is_calm && self.last_write.is_some_and(|took| took <= QUICK_WRITE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Duration = Duration::from_secs(60);

    fn after(requests: (usize, usize), took: Duration) -> Gathering {
        let mut gathering = Gathering::default();
        gathering.note(requests, took);
        gathering.begin();
        gathering
    }

    #[test]
    fn a_client_that_is_alone_never_waits() {
        let first = Gathering::default();
        assert!(!first.waits_for(0, || 0) && !first.expects_one());
        let gathering = after((1, 0), Duration::from_micros(200));
        assert!(!gathering.waits_for(0, || 0) && gathering.expects_one());
    }

    #[test]
    fn requests_are_waited_for_if_many_were_seen() {
        let began = Instant::now();
        let mut gathering = after((6, 2), SLOW);
        let waits = (0..8).filter(|requests| gathering.waits_for(*requests, || 0)).count();
        let waits_for_bytes = gathering.waits_for(1, || ENOUGH_BYTES);
        // If this thread stood still for so long, the wait was over before.
        if began.elapsed() < PATIENCE_MAX {
            assert_eq!((waits, waits_for_bytes), (6, false));
        }
        std::thread::sleep(PATIENCE_MAX);
        assert!(!gathering.waits_for(0, || 0));
        gathering.end(1);
        assert!(!gathering.waits_for(0, || 0) && !gathering.expects_one());
    }

    #[test]
    fn a_request_is_alone_once_the_others_have_been_gone_for_a_while() {
        let began = Instant::now();
        let mut left = after((6, 2), Duration::ZERO);
        left.end(0);
        left.begin();
        assert!(left.deadline().is_none());
        let is_alone_at_once = left.expects_one();
        assert!(!is_alone_at_once || began.elapsed() >= CALM);
        std::thread::sleep(CALM);
        assert!(left.expects_one());
    }

    #[test]
    fn a_slow_disk_leaves_each_request_to_the_committer() {
        assert!(!after((1, 0), SLOW).expects_one());
    }
}
