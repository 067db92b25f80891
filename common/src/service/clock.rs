//! The system clock, as commit times count it.

use std::time::{SystemTime, UNIX_EPOCH};

/// The current time in milliseconds since 1970-01-01T00:00:00Z; 0 if the clock is set to an earlier time.
pub fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
}
