//! A point in a database's history, as AS OF and REVERT name it, and the commit that it resolves to.
//!
//! Readers and the writer resolve points here, so that one point names the same commit everywhere. The caller
//! supplies what differs between them: the newest commit it may show, the clock, and how it finds the last commit at
//! or before a time. Both ask all tables, because a point in time names a state of the whole database: COMPACT BEFORE
//! a time raises the floor to the commit at which AS OF that time reads.

use std::fmt;
use std::time::Duration;

use crate::error::{Error, Reason, Result};
use crate::format::manifest::Floor;
use crate::table::format_time;

/// A point in the database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PointInTime {
    /// After this commit.
    Seq(u64),
    /// After the newest commit.
    Now,
    /// After the last commit at or before this time, in milliseconds since 1970 (UTC).
    Time(i64),
    /// After the last commit at or before now minus this duration.
    Ago(Duration),
}

impl PointInTime {
    /// Returns the last commit that the point includes, or `None` if every commit is later than the point's time.
    ///
    /// `newest` is the newest commit that the caller may show. `now_ms` is the current time in milliseconds since 1970.
    /// `last_at` finds the last commit at or before a time in milliseconds since 1970. Only times are looked up.
    /// Fails with BEYOND_HEAD if the point names a commit after `newest`.
    pub fn resolve(
        self,
        newest: u64,
        now_ms: u64,
        last_at: impl FnOnce(u64) -> Result<Option<u64>>,
    ) -> Result<Option<u64>> {
        match self {
            PointInTime::Seq(seq) if seq > newest => Err(beyond_head(seq, newest)),
            PointInTime::Seq(seq) => Ok(Some(seq)),
            PointInTime::Now => Ok(Some(newest)),
            PointInTime::Time(_) | PointInTime::Ago(_) => self.time_ms(now_ms).map_or(Ok(None), last_at),
        }
    }

    /// Returns the bound that a walk over commits in order stops at, for callers that read the commits anyway and would
    /// otherwise read them twice: once to resolve the point, once to reach it. Fails as [`PointInTime::resolve`] does.
    pub fn bound(self, newest: u64, now_ms: u64) -> Result<CommitBound> {
        match self {
            PointInTime::Seq(seq) if seq > newest => Err(beyond_head(seq, newest)),
            PointInTime::Seq(seq) => Ok(CommitBound::Seq(seq)),
            PointInTime::Now => Ok(CommitBound::Seq(newest)),
            // No commit is older than 1970.
            _ => Ok(self.time_ms(now_ms).map_or(CommitBound::Seq(0), CommitBound::Time)),
        }
    }

    /// The time that the point names, in milliseconds since 1970; `None` if it names none, or one before 1970.
    fn time_ms(self, now_ms: u64) -> Option<u64> {
        match self {
            PointInTime::Seq(_) | PointInTime::Now => None,
            PointInTime::Time(ms) => u64::try_from(ms).ok(),
            PointInTime::Ago(ago) => {
                Some(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
            }
        }
    }
}

/// The last commit that counts, by number or by time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitBound {
    /// Commits up to and including this one.
    Seq(u64),
    /// Commits at or before this time, in milliseconds since 1970.
    Time(u64),
}

impl CommitBound {
    /// Whether a commit lies within the bound.
    pub fn includes(self, seq: u64, time_ms: u64) -> bool {
        match self {
            CommitBound::Seq(last) => seq <= last,
            CommitBound::Time(last) => time_ms <= last,
        }
    }
}

impl fmt::Display for CommitBound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CommitBound::Seq(seq) => write!(f, "seq {seq}"),
            CommitBound::Time(ms) => f.write_str(&format_time(*ms)),
        }
    }
}

/// The error for a commit number that is greater than that of the newest commit.
pub fn beyond_head(seq: u64, newest: u64) -> Error {
    let message = format!("seq {seq} does not exist yet: the newest commit is {newest}");
    Error::new(Reason::BeyondHead, message).with("last_seq", newest.to_string())
}

/// The error for a read of a table at a point in time below its floor.
pub fn below_floor(table: &str, at: CommitBound, floor: Floor) -> Error {
    let time = format_time(floor.time_ms);
    let message = format!(
        "cannot read table {table:?} at {at}: its history before seq {} ({time}) was compacted away; read at that seq or later",
        floor.seq
    );
    Error::new(Reason::BelowFloor, message)
        .with("table", table)
        .with("floor_seq", floor.seq.to_string())
        .with("floor_time", time)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Commits 1, 2, 3 at 1000, 2000, 2000 ms.
    fn last_at(time_ms: u64) -> Result<Option<u64>> {
        Ok([1000, 2000, 2000].iter().zip(1..).filter(|(at, _)| **at <= time_ms).map(|(_, seq)| seq).last())
    }

    #[test]
    fn each_point_resolves_to_the_last_commit_that_it_includes() {
        for (point, expected) in [
            (PointInTime::Now, Some(3)),
            (PointInTime::Seq(0), Some(0)),
            (PointInTime::Seq(3), Some(3)),
            (PointInTime::Time(-1), None),
            (PointInTime::Time(999), None),
            (PointInTime::Time(1000), Some(1)),
            (PointInTime::Time(1999), Some(1)),
            (PointInTime::Time(i64::MAX), Some(3)),
            (PointInTime::Ago(Duration::ZERO), Some(3)),
            (PointInTime::Ago(Duration::from_millis(1001)), Some(1)),
            (PointInTime::Ago(Duration::MAX), None),
        ] {
            assert_eq!(point.resolve(3, 3000, last_at).unwrap(), expected, "{point:?}");
        }
    }

    #[test]
    fn a_bound_includes_the_commits_up_to_the_resolved_one() {
        let commits = [(1, 1000), (2, 2000), (3, 2000)];
        for point in [
            PointInTime::Now,
            PointInTime::Seq(0),
            PointInTime::Seq(2),
            PointInTime::Time(i64::MIN),
            PointInTime::Time(1500),
            PointInTime::Time(2000),
            PointInTime::Ago(Duration::from_millis(1500)),
        ] {
            let bound = point.bound(3, 3000).unwrap();
            let last =
                commits.iter().filter(|(seq, ms)| bound.includes(*seq, *ms)).map(|(seq, _)| *seq).next_back();
            assert_eq!(last.unwrap_or(0), point.resolve(3, 3000, last_at).unwrap().unwrap_or(0), "{point:?}");
        }
    }

    #[test]
    fn a_seq_after_the_newest_commit_is_beyond_head() {
        let error = PointInTime::Seq(4).resolve(3, 0, last_at).unwrap_err();
        assert_eq!(error.reason(), Reason::BeyondHead);
        assert_eq!(error.message(), "seq 4 does not exist yet: the newest commit is 3");
        assert_eq!(PointInTime::Seq(4).bound(3, 0).unwrap_err().reason(), Reason::BeyondHead);
    }

    #[test]
    fn a_bound_reads_as_the_moment_it_names() {
        assert_eq!(CommitBound::Seq(7).to_string(), "seq 7");
        assert_eq!(CommitBound::Time(0).to_string(), "1970-01-01T00:00:00.000Z");
    }
}
