//! A power cut at any step of a scripted run: everything acknowledged or shown survives, and every commit is whole.

use std::sync::Arc;

use crate::harness::lane::by_lane;
use crate::harness::script::{self, Progress};
use driftdb_common::error::{ErrorKind, Reason};
use driftdb_common::storage::fs::FileSystem;
use driftdb_common::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp};

const SEGMENT: u64 = 2048;
const COMMITS: u64 = 40;

fn shared(disk: &SimDisk) -> Arc<dyn FileSystem> {
    disk.shared()
}

fn ways_to_lose(seed: u64) -> Vec<CrashPolicy> {
    vec![
        CrashPolicy::KeepAll,
        CrashPolicy::DropAll,
        CrashPolicy::NoDirectoryEntries,
        CrashPolicy::NoFileContents,
        CrashPolicy::RandomHalves(seed),
        CrashPolicy::GarbageTail(seed),
        CrashPolicy::Mixed(seed),
        CrashPolicy::Mixed(seed.wrapping_mul(31) + 7),
    ]
}

/// Opens a disk after a power cut and checks its content. Returns the last commit kept.
fn check(disk: &SimDisk, before: Progress, shown: u64, what: &str) -> Result<u64, String> {
    let head = script::shown(&*shared(disk));
    let (mut log, commits) =
        script::open(shared(disk), SEGMENT).map_err(|e| format!("{what}: does not open: {e}"))?;
    let kept = commits.len() as u64;
    let range = before.acknowledged.max(shown)..=before.attempted;
    if !range.contains(&kept) {
        return Err(format!("{what}: kept {kept} commits, expected {range:?}"));
    }
    if head > kept {
        return Err(format!("{what}: HEAD said {head} and {kept} were kept"));
    }
    if commits != script::expected(kept) {
        return Err(format!("{what}: the {kept} commits kept are not those that were written"));
    }
    if script::shown(&*shared(disk)) != kept {
        return Err(format!("{what}: recovery did not publish what it kept"));
    }
    // The log accepts further commits.
    log.append(&mut script::group(kept + 1, kept + 3))
        .map_err(|e| format!("{what}: does not go on: {e:?}"))?;
    drop(log);
    let (_, commits) =
        script::open(shared(disk), SEGMENT).map_err(|e| format!("{what}: a second time: {e}"))?;
    if commits != script::expected(kept + 3) {
        return Err(format!("{what}: what was written after recovery is not there"));
    }
    Ok(kept)
}

/// The number of operations of the whole script.
fn operations() -> u64 {
    let disk = SimDisk::new();
    let whole = script::run(shared(&disk), SEGMENT, COMMITS);
    assert_eq!(whole.acknowledged, COMMITS);
    disk.operations()
}

fn seeds() -> u64 {
    by_lane(3, 200)
}

#[test]
fn a_power_cut_at_any_step_loses_no_acknowledged_or_shown_commit() {
    for stop in 0..=operations() {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let progress = script::run(shared(&disk), SEGMENT, COMMITS);
        for seed in 0..seeds() {
            for lost in ways_to_lose(seed * 1_000_003 + stop) {
                let found = disk.crash(lost);
                // Readers use the same disk until the power cut: they may have shown everything below HEAD.
                let shown = script::shown(&*shared(&disk.crash(CrashPolicy::KeepAll)));
                check(&found, progress, shown, &format!("stopped at {stop}, {lost:?}")).unwrap();
            }
        }
    }
}

#[test]
#[ignore = "slow"]
fn a_power_cut_during_recovery_loses_no_acknowledged_or_shown_commit() {
    let total = operations();
    for stop in (total / 3..=total).step_by(5) {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let progress = script::run(shared(&disk), SEGMENT, COMMITS);
        let shown = script::shown(&*shared(&disk.crash(CrashPolicy::KeepAll)));
        let found = disk.crash(CrashPolicy::RandomHalves(stop));
        let whole = found.clone_state();
        script::open(shared(&whole), SEGMENT).unwrap();
        for again in 0..=whole.operations() {
            let disk = found.clone_state();
            disk.power_off_at(again);
            let _ = script::open(shared(&disk), SEGMENT);
            let shown = shown.max(script::shown(&*shared(&disk.crash(CrashPolicy::KeepAll))));
            for lost in ways_to_lose(again) {
                let what = format!("stopped at {stop}, then in recovery at {again}, {lost:?}");
                check(&disk.crash(lost), progress, shown, &what).unwrap();
            }
        }
    }
}

#[test]
fn recovery_makes_the_log_of_a_killed_writer_durable() {
    for stop in 0..=operations() {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        script::run(shared(&disk), SEGMENT, COMMITS);
        // The machine keeps running: the next writer finds everything, synced or not.
        let killed = disk.clone_state();
        let (_, commits) = script::open(shared(&killed), SEGMENT).unwrap();
        let kept = commits.len() as u64;
        let recovered = Progress { acknowledged: kept, attempted: kept };
        for lost in ways_to_lose(stop) {
            let what = format!("killed at {stop}, recovered, {lost:?}");
            check(&killed.crash(lost), recovered, kept, &what).unwrap();
        }
    }
}

#[test]
fn after_a_failed_write_or_sync_no_commit_is_acknowledged() {
    for number in 0..operations() {
        for fault in [Fault::Eio, Fault::Enospc, Fault::ShortWrite] {
            for repeat in [Repeat::Once, Repeat::Always] {
                let disk = SimDisk::new();
                disk.fail_at(number, fault, repeat);
                let progress = script::run(shared(&disk), SEGMENT, COMMITS);
                disk.clear_faults();
                for lost in [CrashPolicy::KeepAll, CrashPolicy::DropAll, CrashPolicy::Mixed(number)] {
                    let what = format!("{fault:?} {repeat:?} at {number}, {lost:?}");
                    let shown = progress.acknowledged;
                    check(&disk.crash(lost), progress, shown, &what).unwrap();
                }
            }
        }
    }
}

/// Proves that these tests can fail: they must fail on a disk whose syncs do nothing.
#[test]
fn a_sync_that_does_nothing_is_caught() {
    for path in [".seg", "/meta.", "segments"] {
        let op = if path == "segments" { SimOp::SyncDir } else { SimOp::Sync };
        let mut caught = false;
        for stop in 0..=operations() {
            let disk = SimDisk::new();
            disk.fail_when(op, path, 1, Fault::IgnoredSync, Repeat::Always);
            disk.power_off_at(stop);
            let progress = script::run(shared(&disk), SEGMENT, COMMITS);
            caught |= ways_to_lose(stop)
                .into_iter()
                .any(|lost| check(&disk.crash(lost), progress, progress.acknowledged, "lying disk").is_err());
        }
        assert!(caught, "no test notices that syncs of {path} do nothing");
    }
}

#[test]
fn a_full_disk_refuses_a_commit_and_the_log_stays_usable() {
    let disk = SimDisk::new();
    let (mut log, _) = script::open(shared(&disk), SEGMENT).unwrap();
    log.append(&mut script::group(1, 3)).unwrap();
    disk.fail_when(SimOp::Write, ".seg", 1, Fault::Enospc, Repeat::Always);
    // Small groups still fit into the preallocated zeros; a large group needs space.
    let refused = log.append(&mut script::group(4, 90));
    let Err(driftdb_common::storage::wal::appender::AppendError::Refused(error)) = refused else {
        panic!("expected a refusal, found {refused:?}");
    };
    assert_eq!((error.kind(), error.reason()), (ErrorKind::Unavailable, Reason::DiskFull));
    disk.clear_faults();
    log.append(&mut script::group(4, 90)).unwrap();
    drop(log);
    let (_, commits) = script::open(shared(&disk), SEGMENT).unwrap();
    assert_eq!(commits, script::expected(90));
}
