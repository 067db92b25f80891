//! A follower whose log is compacted while it reads continues with the compacted log, and rejects reads below the floor.

use crate::follower::Follower;
use crate::follower::test_log::{TestLog, files};

#[test]
fn a_follower_that_has_applied_everything_continues_after_a_compaction() {
    let log = TestLog::start(12);
    let mut follower = Follower::open(files(&log.disk)).unwrap();
    follower.check_head().unwrap();
    log.check(follower.replica(), 0, 12);
    log.snapshot();
    log.insert(13);
    follower.check_head().unwrap();
    log.compact(12);
    follower.check_head().unwrap();
    log.check(follower.replica(), 12, 13);
    log.insert(14);
    follower.check_head().unwrap();
    log.check(follower.replica(), 12, 14);
}

/// The segment that the follower reads is gone before the follower has reached its end.
#[test]
fn a_follower_that_lags_reloads_the_compacted_table() {
    for (seen, floor) in [(3, 6), (8, 6), (9, 9), (10, 5), (2, 9)] {
        let log = TestLog::start(seen);
        let mut follower = Follower::open(files(&log.disk)).unwrap();
        follower.check_head().unwrap();
        (seen + 1..=11).for_each(|seq| log.insert(seq));
        log.snapshot();
        log.insert(12);
        log.compact(floor);
        log.insert(13);
        follower.check_head().unwrap();
        log.check(follower.replica(), floor, 13);
        log.snapshot();
        log.compact(13);
        log.insert(14);
        follower.check_head().unwrap();
        log.check(follower.replica(), 13, 14);
        let mut new = Follower::open(files(&log.disk)).unwrap();
        new.check_head().unwrap();
        log.check(new.replica(), 13, 14);
    }
}
