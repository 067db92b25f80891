//! When each commit happened: from a time to the commit that was the newest then.

use std::time::Duration;

use parking_lot::RwLock;

/// A moment in the database's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// After this commit.
    Seq(u64),
    /// After the newest commit.
    Now,
    /// After the last commit at or before this time, in milliseconds since 1970 (UTC).
    Time(i64),
    /// The same, counted back from now.
    Ago(Duration),
}

/// The times of commits 1, 2, 3 …, in milliseconds since 1970. They never decrease (I2).
#[derive(Debug, Default)]
pub struct Moments(RwLock<Vec<u64>>);

impl Moments {
    /// Adds the next commit's time.
    pub fn push(&self, time_ms: u64) {
        self.0.write().push(time_ms);
    }

    /// A commit's time; `None` for 0 and for commits not seen yet.
    pub fn time_of(&self, seq: u64) -> Option<u64> {
        let index = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.0.read().get(index).copied()
    }

    /// The last commit at or before a time, of the commits up to `newest`; 0 where there is none.
    pub fn at(&self, time_ms: u64, newest: u64) -> u64 {
        let times = self.0.read();
        let seen = times.get(..usize::try_from(newest).unwrap_or(usize::MAX)).unwrap_or(&times);
        seen.partition_point(|time| *time <= time_ms) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_names_the_last_commit_at_or_before_it() {
        let moments = Moments::default();
        for time in [10, 20, 20, 30] {
            moments.push(time);
        }
        for (time, seq) in [(9, 0), (10, 1), (19, 1), (20, 3), (29, 3), (30, 4), (u64::MAX, 4)] {
            assert_eq!(moments.at(time, 4), seq, "at {time}");
        }
        assert_eq!(moments.at(20, 2), 2, "a commit that is not shown yet does not count");
        assert_eq!((moments.time_of(0), moments.time_of(2), moments.time_of(5)), (None, Some(20), None));
    }
}
