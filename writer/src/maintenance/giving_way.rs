//! Background work gives way to the threads that serve clients.
//!
//! The scheduler gives each thread some milliseconds at a time, and a commit needs several threads one after the other: beside
//! work that computes for seconds, it waits for each of them. So the work offers its processor to others every fraction of a
//! millisecond, and has it back at once if nobody wants it. Not if too much of the log waits for a snapshot: then the snapshot is
//! what clients need most, because without it writes are refused in the end.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// How long the work computes at a stretch.
const STRETCH: Duration = Duration::from_micros(200);
/// How often the work asks whether it is urgent.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// When the work has given way, and whether it must.
#[derive(Debug, Default)]
pub(super) struct GivingWay {
    gave_way_at: Cell<Option<Instant>>,
    looked_at: Cell<Option<Instant>>,
    is_urgent: Cell<bool>,
}

impl GivingWay {
    /// Lets others go first if the work has computed for a while and is not urgent. Returns whether it did.
    pub(super) fn give_way(&self, is_urgent: impl FnOnce() -> bool) -> bool {
        let now = Instant::now();
        let is_over = |at: &Cell<Option<Instant>>, time| at.get().is_none_or(|at| now - at >= time);
        if !is_over(&self.gave_way_at, STRETCH) {
            return false;
        }
        if is_over(&self.looked_at, LOOK_EVERY) {
            self.looked_at.set(Some(now));
            self.is_urgent.set(is_urgent());
        }
        if !self.is_urgent.get() {
            std::thread::yield_now();
        }
        self.gave_way_at.set(Some(Instant::now()));
        !self.is_urgent.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urgent_work_gives_way_to_nobody() {
        let (calm, urgent) = (GivingWay::default(), GivingWay::default());
        assert!(calm.give_way(|| false));
        assert!(!urgent.give_way(|| true));
        std::thread::sleep(STRETCH);
        // It was asked a moment ago; after that it is asked again.
        if urgent.looked_at.get().is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            assert!(!urgent.give_way(|| false));
        }
        std::thread::sleep(LOOK_EVERY);
        assert!(urgent.give_way(|| false));
        std::thread::sleep(STRETCH);
        assert!(calm.give_way(|| false));
    }
}
