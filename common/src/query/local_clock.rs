//! The clock and the time zone by which the words of a request are read: `yesterday`, `1 month ago`, a date without an offset.
//!
//! The time zones are compiled in, not read from the system: a request then means the same at every daemon, and reading it opens
//! no file.

use std::sync::LazyLock;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase};

use crate::error::{Error, Reason, Result};
use crate::query::lexer::clipped;

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// The time that counts as now, and the time zone that words and dates are meant in.
#[derive(Debug, Clone)]
pub struct LocalClock {
    now_ms: u64,
    zone: TimeZone,
    /// The IANA name of the zone; empty for UTC.
    name: String,
}

/// The clock for texts in which no moment can occur.
pub(super) static NO_CLOCK: LocalClock = LocalClock { now_ms: 0, zone: TimeZone::UTC, name: String::new() };

/// A date and a time of day that do not name exactly one moment in a time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalTimeProblem {
    /// The clocks were set forward over it.
    Skipped,
    /// The clocks were set back, so it came twice.
    Repeated,
    /// It is outside of the years that can be computed with.
    OutOfRange,
}

impl LocalClock {
    /// A clock in UTC that shows a time, in milliseconds since 1970.
    pub fn utc(now_ms: u64) -> LocalClock {
        LocalClock { now_ms, zone: TimeZone::UTC, name: String::new() }
    }

    /// A clock in UTC that shows the time of the system.
    pub fn system_utc() -> LocalClock {
        LocalClock::utc(u64::try_from(Timestamp::now().as_millisecond()).unwrap_or(0))
    }

    /// A clock in a time zone, by its IANA name; an empty name means UTC.
    ///
    /// # Errors
    /// `ARGUMENT_INVALID` if no zone has this name.
    pub fn in_zone(name: &str, now_ms: u64) -> Result<LocalClock> {
        if name.is_empty() || name.eq_ignore_ascii_case("UTC") {
            return Ok(LocalClock::utc(now_ms));
        }
        let zone = ZONES.get(name).map_err(|_| {
            let message = format!(
                "unknown time zone {:?}: use an IANA name, for example Europe/Berlin, or UTC",
                clipped(name)
            );
            Error::new(Reason::ArgumentInvalid, message)
        })?;
        let name = zone.iana_name().unwrap_or(name).to_owned();
        Ok(LocalClock { now_ms, zone, name })
    }

    /// The name of the zone.
    pub fn zone_name(&self) -> &str {
        if self.name.is_empty() { "UTC" } else { &self.name }
    }

    /// Whether the zone is UTC.
    pub fn is_utc(&self) -> bool {
        self.name.is_empty()
    }

    /// The time that counts as now, in milliseconds since 1970.
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// The date and the time of day in the zone, now.
    pub(super) fn local_now(&self) -> DateTime {
        self.local(i64::try_from(self.now_ms).unwrap_or(i64::MAX))
    }

    /// The date and the time of day in the zone at a time in milliseconds since 1970.
    pub fn local(&self, millis: i64) -> DateTime {
        let clamped = millis.clamp(Timestamp::MIN.as_millisecond(), Timestamp::MAX.as_millisecond());
        let time = Timestamp::from_millisecond(clamped).unwrap_or(Timestamp::UNIX_EPOCH);
        self.zone.to_datetime(time)
    }

    /// The moment of a local date and time that a user has written, in nanoseconds since 1970. It must be exactly one.
    pub(super) fn exact(&self, local: DateTime) -> std::result::Result<i128, LocalTimeProblem> {
        match self.zone.to_ambiguous_timestamp(local).offset() {
            AmbiguousOffset::Gap { .. } => Err(LocalTimeProblem::Skipped),
            AmbiguousOffset::Fold { .. } => Err(LocalTimeProblem::Repeated),
            AmbiguousOffset::Unambiguous { .. } => self.nearest(local).ok_or(LocalTimeProblem::OutOfRange),
        }
    }

    /// As [`LocalClock::nearest_ms`], in nanoseconds.
    pub(super) fn nearest(&self, local: DateTime) -> Option<i128> {
        let found = self.zone.to_ambiguous_timestamp(local).compatible().ok()?;
        Some(found.as_nanosecond())
    }

    /// The moment of a local date and time that was computed, in milliseconds since 1970. If the clocks were set back over it, the first
    /// of the two; if they were set forward over it, as long after the change as it would have been.
    pub fn nearest_ms(&self, local: DateTime) -> Option<i64> {
        i64::try_from(self.nearest(local)?.div_euclid(1_000_000)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_is_found_by_its_iana_name() {
        let berlin = LocalClock::in_zone("europe/berlin", 0).unwrap();
        assert_eq!(berlin.zone_name(), "Europe/Berlin");
        assert_eq!(berlin.local_now().to_string(), "1970-01-01T01:00:00");
        for utc in ["", "UTC", "utc"] {
            assert!(LocalClock::in_zone(utc, 0).unwrap().is_utc(), "{utc}");
        }
        for unknown in ["Berlin", "+01:00", "Mars/Olympus", "../../etc/passwd", &"x".repeat(100_000)] {
            let error = LocalClock::in_zone(unknown, 0).unwrap_err();
            assert_eq!(error.reason(), Reason::ArgumentInvalid);
            assert!(error.message().len() < 200, "{error}");
        }
    }

    #[test]
    fn a_local_time_that_is_not_one_moment_is_a_problem() {
        let berlin = LocalClock::in_zone("Europe/Berlin", 0).unwrap();
        let local = |text: &str| text.parse::<DateTime>().unwrap();
        assert_eq!(berlin.exact(local("2025-03-30T02:30:00")), Err(LocalTimeProblem::Skipped));
        assert_eq!(berlin.exact(local("2025-10-26T02:30:00")), Err(LocalTimeProblem::Repeated));
        assert_eq!(berlin.exact(local("2025-03-30T03:00:00")), Ok(1_743_296_400_000_000_000));
        assert_eq!(berlin.nearest_ms(local("2025-10-26T02:30:00")), Some(1_761_438_600_000));
    }
}
