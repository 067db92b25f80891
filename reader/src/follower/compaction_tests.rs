//! A follower whose log is compacted while it reads continues with the compacted log, and rejects reads below the floor.

use driftdb_common::service::access::caller::Caller;
use driftdb_common::error::Reason;
use driftdb_common::query::exec::{SelectExecution, SelectPage, Selection};
use driftdb_common::table::view::View;

use crate::follower::Follower;
use crate::follower::test_log::{TestLog, dir, files};

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

/// The follower reads HEAD, then the writer compacts the table and replaces the segment that this HEAD names, then the follower
/// reads the manifest. The file of the segment stays for a while.
#[test]
fn a_head_that_is_older_than_the_manifest_is_no_damage() {
    for seen in 2..=11 {
        let log = TestLog::start(seen);
        let mut follower = Follower::open(files(&log.disk)).unwrap();
        follower.check_head().unwrap();
        (seen + 1..=11).for_each(|seq| log.insert(seq));
        follower.check_head().unwrap();
        log.snapshot();
        log.insert(12);
        let head = dir().head();
        let old = log.disk.bytes(&head).unwrap();
        log.compact_and_keep_files(seen);
        log.insert(13);
        let new = log.disk.bytes(&head).unwrap();
        log.disk.put(&head, &old).unwrap();
        follower.check_head().unwrap();
        log.check(follower.replica(), seen, 12);
        log.disk.put(&head, &new).unwrap();
        follower.check_head().unwrap();
        log.check(follower.replica(), seen, 13);
    }
}

/// The reader goes on as a new reader would, if the newest snapshots contain what it cannot read.
#[test]
fn a_follower_that_found_damage_starts_again_at_the_snapshots() {
    let log = TestLog::start(5);
    let mut follower = Follower::open(files(&log.disk)).unwrap();
    follower.check_head().unwrap();
    log.insert(6);
    let segment = dir().segment("t", 1);
    let sound = log.disk.bytes(&segment).unwrap();
    log.insert(7);
    log.snapshot();
    log.insert(8);
    let first_changed = |bytes: &[u8]| bytes.iter().zip(&sound).position(|(new, old)| new != old).unwrap();
    let at = first_changed(&log.disk.bytes(&segment).unwrap());
    log.disk.flip_bit(&segment, at + 12, 1).unwrap();
    assert_eq!(follower.check_head().unwrap_err().reason(), Reason::Corrupt);
    log.check(follower.replica(), 0, 6);
    follower.check_head().unwrap();
    log.check(follower.replica(), 0, 8);
}

/// Every page of a query leaves out the same deletions, or the query fails.
#[test]
fn a_read_of_deleted_rows_fails_if_a_compaction_forgets_some_meanwhile() {
    for (floor, is_lost) in [(7, false), (8, true), (10, true), (11, true)] {
        let log = TestLog::start(6);
        (7..=10).for_each(|seq| log.delete(seq, seq - 5));
        let mut follower = Follower::open(files(&log.disk)).unwrap();
        follower.check_head().unwrap();
        log.snapshot();
        log.insert(11);
        log.insert(12);
        follower.check_head().unwrap();
        log.compact(7);
        log.insert(13);
        follower.check_head().unwrap();
        let applied = follower.replica().applied();
        let view = View::at(applied.table("t", &Caller::everyone()).unwrap(), 10).unwrap();
        let mut select = SelectExecution::new(view, Selection { deleted: true, ..Selection::default() });
        let keys = |page: SelectPage| page.rows.iter().map(|row| row.key.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(select.next_page(2, usize::MAX).unwrap()), ["k03"]);
        log.snapshot();
        log.insert(14);
        if floor > 7 {
            log.compact(floor);
        }
        log.insert(15);
        follower.check_head().unwrap();
        let rest = select.next_page(10, usize::MAX);
        match is_lost {
            true => assert_eq!(rest.unwrap_err().reason(), Reason::BelowFloor, "{floor}"),
            false => assert_eq!(keys(rest.unwrap()), ["k04", "k05"]),
        }
    }
}
