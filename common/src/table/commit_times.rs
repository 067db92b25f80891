//! The times of the newest commits, in memory: from a commit to its time, and from a time to the newest commit then.

use std::collections::VecDeque;

use parking_lot::RwLock;

/// The number of commits whose times are kept, at 8 bytes each. The tables have the times of older commits.
const MAX_COMMITS: usize = 1 << 20;

/// The times of the newest commits, in milliseconds since 1970. Times never decrease with the seq (I2).
#[derive(Debug, Default)]
pub struct CommitTimes(RwLock<NewestTimes>);

#[derive(Debug, Default)]
struct NewestTimes {
    /// The commit that the first time belongs to.
    first: u64,
    times: VecDeque<u64>,
}

impl CommitTimes {
    /// Adds a commit's time. If the commit does not follow the last one, all earlier times are discarded.
    pub fn push(&self, seq: u64, time_ms: u64) {
        let mut newest = self.0.write();
        if seq != newest.first + newest.times.len() as u64 {
            *newest = NewestTimes { first: seq, times: VecDeque::new() };
        }
        newest.times.push_back(time_ms);
        if newest.times.len() > MAX_COMMITS {
            newest.times.pop_front();
            newest.first += 1;
        }
    }

    /// A commit's time in milliseconds since 1970; `None` if the time is not kept.
    pub fn time_of(&self, seq: u64) -> Option<u64> {
        let newest = self.0.read();
        let index = usize::try_from(seq.checked_sub(newest.first)?).ok()?;
        newest.times.get(index).copied()
    }

    /// The last commit at or before a time, of the commits up to `last`. `None` if that commit's time is not kept, or if all
    /// commits are later.
    pub fn last_at(&self, time_ms: u64, last: u64) -> Option<u64> {
        let newest = self.0.read();
        let count = newest.times.partition_point(|time| *time <= time_ms) as u64;
        let seq = newest.first + count.checked_sub(1)?;
        if seq <= last { Some(seq) } else { (newest.first <= last).then_some(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_names_the_last_commit_at_or_before_it() {
        let times = CommitTimes::default();
        for (seq, time_ms) in (1..).zip([10, 20, 20, 30]) {
            times.push(seq, time_ms);
        }
        for (time, seq) in [(10, 1), (19, 1), (20, 3), (29, 3), (30, 4), (u64::MAX, 4)] {
            assert_eq!(times.last_at(time, 4), Some(seq), "at {time}");
        }
        assert_eq!(times.last_at(9, 4), None);
        assert_eq!(times.last_at(20, 2), Some(2), "a commit after `last` does not count");
        assert_eq!((times.time_of(0), times.time_of(2), times.time_of(5)), (None, Some(20), None));
    }

    #[test]
    fn only_the_newest_times_are_kept() {
        let times = CommitTimes::default();
        for seq in 1..=MAX_COMMITS as u64 + 5 {
            times.push(seq, seq * 10);
        }
        assert_eq!((times.time_of(5), times.time_of(6)), (None, Some(60)));
        assert_eq!((times.last_at(55, 100), times.last_at(65, 100)), (None, Some(6)));
        times.push(9_000_000, 90_000_000);
        assert_eq!((times.time_of(6), times.time_of(9_000_000)), (None, Some(90_000_000)));
    }
}
