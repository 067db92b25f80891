//! When each commit happened: from a time to the commit that was the newest then.

use std::collections::VecDeque;

use parking_lot::RwLock;

/// The latest commits whose times are remembered here: 8 bytes each. Tables know those of the others.
const REMEMBERED: usize = 1 << 20;

/// The times of the latest commits, in milliseconds since 1970. They never decrease (I2).
#[derive(Debug, Default)]
pub struct CommitTimes(RwLock<Latest>);

#[derive(Debug, Default)]
struct Latest {
    /// The commit of the first time.
    first: u64,
    times: VecDeque<u64>,
}

impl CommitTimes {
    /// Adds a commit's time. One that does not follow the last begins anew.
    pub fn push(&self, seq: u64, time_ms: u64) {
        let mut latest = self.0.write();
        if seq != latest.first + latest.times.len() as u64 {
            *latest = Latest { first: seq, times: VecDeque::new() };
        }
        latest.times.push_back(time_ms);
        if latest.times.len() > REMEMBERED {
            latest.times.pop_front();
            latest.first += 1;
        }
    }

    /// A commit's time; `None` for commits that are not remembered.
    pub fn time_of(&self, seq: u64) -> Option<u64> {
        let latest = self.0.read();
        let index = usize::try_from(seq.checked_sub(latest.first)?).ok()?;
        latest.times.get(index).copied()
    }

    /// The last commit at or before a time, of the commits up to `newest`; `None` where it is not remembered, if it is at all.
    pub fn at(&self, time_ms: u64, newest: u64) -> Option<u64> {
        let latest = self.0.read();
        let upto = latest.times.partition_point(|time| *time <= time_ms) as u64;
        let seq = latest.first + upto.checked_sub(1)?;
        // Of commits that are not shown yet, the ones before the newest shown do not count either.
        if seq <= newest { Some(seq) } else { (latest.first <= newest).then_some(newest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_names_the_last_commit_at_or_before_it() {
        let moments = CommitTimes::default();
        for (seq, time) in (1..).zip([10, 20, 20, 30]) {
            moments.push(seq, time);
        }
        for (time, seq) in [(10, 1), (19, 1), (20, 3), (29, 3), (30, 4), (u64::MAX, 4)] {
            assert_eq!(moments.at(time, 4), Some(seq), "at {time}");
        }
        assert_eq!(moments.at(9, 4), None);
        assert_eq!(moments.at(20, 2), Some(2), "a commit that is not shown yet does not count");
        assert_eq!((moments.time_of(0), moments.time_of(2), moments.time_of(5)), (None, Some(20), None));
    }

    #[test]
    fn only_the_latest_are_remembered() {
        let moments = CommitTimes::default();
        for seq in 1..=REMEMBERED as u64 + 5 {
            moments.push(seq, seq * 10);
        }
        assert_eq!((moments.time_of(5), moments.time_of(6)), (None, Some(60)));
        assert_eq!((moments.at(55, 100), moments.at(65, 100)), (None, Some(6)));
        moments.push(9_000_000, 90_000_000);
        assert_eq!((moments.time_of(6), moments.time_of(9_000_000)), (None, Some(90_000_000)));
    }
}
