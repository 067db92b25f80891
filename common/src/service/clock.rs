//! The clocks of the system: the time of day, as commit times count it, and a clock that nobody sets.

use std::fmt;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The clocks that a writer uses. Tests pass their own.
pub trait Clock: Send + Sync + fmt::Debug {
    /// The time of day, in milliseconds since 1970. It jumps when someone sets it.
    fn now_ms(&self) -> u64;
    /// The time since some point in the past. It never jumps, and it stands still while the machine is suspended.
    fn monotonic(&self) -> Duration;
}

/// The clocks of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        now_ms()
    }

    fn monotonic(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }
}

/// The current time in milliseconds since 1970-01-01T00:00:00Z; 0 if the clock is set to an earlier time.
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
