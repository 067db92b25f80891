//! A follower adopts newer layers only once they are open, and does without those that are damaged.

use driftdb_common::service::access::caller::Caller;
use driftdb_common::error::Reason;
use driftdb_common::storage::fs::sim::{Fault, Repeat, SimOp};
use driftdb_common::storage::head;

use crate::follower::Follower;
use crate::follower::test_log::{TestLog, dir, files};

/// An error while the follower opens a newer snapshot says nothing about the snapshot. The follower serves what it has, says
/// why, and adopts the snapshot at a later check.
#[test]
fn a_snapshot_that_cannot_be_opened_is_adopted_later() {
    let log = TestLog::start(6);
    log.snapshot();
    log.insert(7);
    let mut follower = Follower::open(files(&log.disk)).unwrap();
    follower.check_head().unwrap();
    log.insert(8);
    log.snapshot();
    log.disk.fail_when(SimOp::Read, "-00000008.snap", 1, Fault::Eio, Repeat::Always);
    follower.check_head().unwrap();
    log.check(follower.replica(), 0, 8);
    assert!(follower.replica().problems()[0].contains("table \"t\""), "{:?}", follower.replica().problems());
    let layers = |follower: &Follower| follower.replica().applied().table("t", &Caller::everyone()).unwrap().state().layers.end();
    assert_eq!(layers(&follower), 6);
    log.disk.clear_faults();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while layers(&follower) != 8 {
        assert!(std::time::Instant::now() < deadline, "the snapshot was never adopted");
        std::thread::sleep(std::time::Duration::from_millis(10));
        follower.check_head().unwrap();
    }
    assert_eq!(follower.replica().problems(), [""; 0]);
    log.check(follower.replica(), 0, 8);
}

/// The old layers are gone before the new ones could be opened: reads fail until they can, and are never told of damage.
#[test]
fn reads_whose_files_are_gone_are_not_told_of_damage() {
    let log = TestLog::start(6);
    log.snapshot();
    let mut follower = Follower::open(files(&log.disk)).unwrap();
    follower.check_head().unwrap();
    log.insert(7);
    log.snapshot();
    log.disk.fail_when(SimOp::Read, "-00000007.snap", 1, Fault::Eio, Repeat::Always);
    follower.check_head().unwrap();
    log.disk.clear_faults();
    log.compact(7);
    log.insert(8);
    let read = |follower: &Follower| {
        let applied = follower.replica().applied();
        driftdb_common::table::view::View::at(applied.table("t", &Caller::everyone()).unwrap(), 7)
            .and_then(|view| view.counts().map(drop))
    };
    if let Err(error) = read(&follower) {
        assert_ne!(error.reason(), Reason::Corrupt, "{error}");
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while follower.check_head().is_err() || follower.replica().applied().seq < 8 || read(&follower).is_err() {
        assert!(std::time::Instant::now() < deadline, "the table was never read again");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    log.check(follower.replica(), 7, 8);
}

#[test]
fn a_follower_starts_without_a_layer_that_is_damaged_or_missing() {
    let log = TestLog::start(6);
    log.snapshot();
    (7..=9).for_each(|seq| log.insert(seq));
    log.snapshot();
    log.insert(10);
    for (first, second) in [(true, false), (false, true), (true, true)] {
        for missing in [false, true] {
            let disk = log.disk.clone_state();
            for (path, is_damaged) in
                [(dir().delta_layer("t", 0, 6), first), (dir().delta_layer("t", 6, 9), second)]
            {
                match (is_damaged, missing) {
                    (false, _) => {}
                    (true, true) => disk.shared().remove(&path).unwrap(),
                    (true, false) => {
                        let len = disk.bytes(&path).unwrap().len();
                        disk.flip_bit(&path, len - 2, 1).unwrap();
                    }
                }
            }
            let mut follower = Follower::open(files(&disk)).unwrap();
            follower.check_head().unwrap();
            log.check(follower.replica(), 0, 10);
            let damaged = follower.replica().damaged_files().list();
            assert_eq!(damaged.len(), usize::from(first) + usize::from(second), "{damaged:?}");
        }
    }
}

#[test]
fn a_damaged_entry_of_head_is_read_from_the_segments() {
    let log = TestLog::start(6);
    log.snapshot();
    log.insert(7);
    let disk = log.disk.clone_state();
    disk.flip_bit(dir().head(), 256 + 20, 2).unwrap();
    assert_eq!(head::read(&*disk.shared(), &dir()).unwrap_err().reason(), Reason::Corrupt);
    let mut follower = Follower::open(files(&disk)).unwrap();
    follower.check_head().unwrap();
    log.check(follower.replica(), 0, 7);
    assert_eq!(follower.replica().damaged_files().list()[0].0.path, dir().head());
}
