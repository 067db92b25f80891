//! Log lines that can repeat many times a second: at most one a second is written, with the number of those left out.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The shortest time between two lines.
const INTERVAL: Duration = Duration::from_secs(1);

/// Decides whether a line is written.
#[derive(Debug)]
pub struct LogThrottle(Mutex<ThrottleState>);

#[derive(Debug)]
struct ThrottleState {
    written_at: Option<Instant>,
    left_out: u64,
}

impl Default for LogThrottle {
    fn default() -> LogThrottle {
        LogThrottle::new()
    }
}

impl LogThrottle {
    /// Lets the first line pass.
    pub const fn new() -> LogThrottle {
        LogThrottle(Mutex::new(ThrottleState { written_at: None, left_out: 0 }))
    }

    /// Whether to write a line now: the number of lines that were left out since the last one, or `None` to leave this one
    /// out too.
    pub fn pass(&self) -> Option<u64> {
        self.pass_at(Instant::now())
    }

    fn pass_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.written_at.is_some_and(|at| now.duration_since(at) < INTERVAL) {
            state.left_out += 1;
            return None;
        }
        state.written_at = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_passes_and_counts_the_others() {
        let (throttle, start) = (LogThrottle::new(), Instant::now());
        let pass = |ms| throttle.pass_at(start + Duration::from_millis(ms));
        assert_eq!(
            (pass(0), pass(1), pass(999), pass(1000), pass(2500)),
            (Some(0), None, None, Some(2), Some(0))
        );
    }
}
