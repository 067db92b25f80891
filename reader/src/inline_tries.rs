//! Whether short requests of a kind are worth a try on the thread that has received them.
//!
//! A try spares a change of threads if the answer is short and all of it is in memory. On a store that does not fit into the cache,
//! nearly every read of the past must read a file, and what the try has computed until then is computed again. So the more tries in
//! a row were refused, the more of the next requests of that kind do without.

use std::sync::atomic::{AtomicU32, Ordering};

/// From so many refusals in a row on, the number of requests that do without no longer grows.
const REFUSALS_COUNTED: u32 = 5;

/// The tries of each kind of request.
#[derive(Debug, Default)]
pub struct InlineTries {
    /// Selects of the newest state.
    pub now: TriedRequests,
    /// Selects of an earlier state.
    pub past: TriedRequests,
    /// Histories of a row.
    pub histories: TriedRequests,
}

/// The tries of requests of one kind.
#[derive(Debug, Default)]
pub struct TriedRequests {
    /// The number of tries in a row that were refused.
    refused: AtomicU32,
    /// The number of requests that are still to do without.
    left: AtomicU32,
}

impl TriedRequests {
    /// Whether the next request is worth a try.
    pub fn is_due(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }

    /// A try has found its answer.
    pub fn note_success(&self) {
        self.refused.store(0, Ordering::Relaxed);
    }

    /// A try was refused. After one the next request is tried; after two one does without, then 3, 7, and at most 15.
    pub fn note_refusal(&self) {
        let before = self.refused.load(Ordering::Relaxed).min(REFUSALS_COUNTED - 1);
        self.refused.store(before + 1, Ordering::Relaxed);
        self.left.store((1 << before) - 1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_tries_are_refused_the_more_requests_do_without() {
        let tries = TriedRequests::default();
        let mut skipped = Vec::new();
        for _ in 0..7 {
            assert!(tries.is_due());
            tries.note_refusal();
            skipped.push((0..).take_while(|_| !tries.is_due()).count());
        }
        assert_eq!(skipped, [0, 1, 3, 7, 15, 15, 15]);
        tries.note_success();
        tries.note_refusal();
        assert!(tries.is_due(), "a single refusal says little");
    }
}
