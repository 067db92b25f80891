//! A power cut or a disk failure at any step of a snapshot: every commit stays readable, writes continue, no file is
//! left behind forever, and the next snapshot works.

use std::collections::BTreeSet;

use crate::harness::lane::by_lane;
use crate::harness::open_database::{OpenDatabase, Script};
use driftdb_common::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp};
use driftdb_common::storage::wal::appender::AppendError;
use driftdb_common::table::build::delta::DeltaLimits;

const COMMITS: u64 = 40;
const LIMITS: DeltaLimits = DeltaLimits { events: 6, bytes: 1 << 20 };

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    acknowledged: u64,
    attempted: u64,
}

/// Runs the script with its snapshots, until the end or until the log fails. Adds the steps of each snapshot to `done`.
fn run(disk: &SimDisk, script: &Script, done: &mut Vec<&'static str>) -> Progress {
    let mut progress = Progress::default();
    let Ok(mut keeper) = OpenDatabase::open(disk) else { return progress };
    for seq in 1..=COMMITS {
        progress.attempted = seq;
        match keeper.log.append(&mut script.group(seq)) {
            Ok(()) => progress.acknowledged = seq,
            Err(_) => return progress,
        }
        if seq % 2 != 0 || seq < 4 {
            continue;
        }
        for id in [1, 2] {
            match keeper.take(id, LIMITS) {
                Ok(tasks) => done.extend(tasks),
                // A failed snapshot does not stop the log. The next snapshot is tried as usual.
                Err(AppendError::Refused(_)) => {}
                Err(AppendError::Fatal(_)) => return progress,
            }
        }
    }
    let _ = keeper.log.close();
    progress
}

/// Opens the disk, checks that it is intact, and continues.
fn check(found: &SimDisk, script: &Script, progress: Progress, what: &str) -> Result<(), String> {
    let error = |e: String| format!("{what}: {e}");
    let mut keeper = OpenDatabase::open(found).map_err(|e| error(format!("does not open: {e}")))?;
    let kept = keeper.published();
    if !(progress.acknowledged..=progress.attempted).contains(&kept) {
        return Err(error(format!("kept {kept} commits of {progress:?}")));
    }
    keeper.check(script, kept).map_err(|e| error(format!("opened at {kept}: {e}")))?;
    keeper.check_files().map_err(error)?;
    for seq in kept + 1..=kept + 3 {
        keeper.log.append(&mut script.group(seq)).map_err(|e| error(format!("does not go on: {e:?}")))?;
    }
    for id in [1, 2] {
        keeper.take(id, LIMITS).map_err(|e| error(format!("the next snapshot of {id}: {e:?}")))?;
    }
    drop(keeper);
    let keeper = OpenDatabase::open(found).map_err(|e| error(format!("a second time: {e}")))?;
    keeper.check(script, kept + 3).map_err(|e| error(format!("opened again: {e}")))?;
    keeper.check_files().map_err(error)
}

fn whole() -> (SimDisk, Script) {
    let (disk, script) = (SimDisk::new(), Script::new(COMMITS + 3));
    disk.start_trace();
    let mut done = Vec::new();
    let all = Progress { acknowledged: COMMITS, attempted: COMMITS };
    assert_eq!(run(&disk, &script, &mut done), all);
    let kinds: BTreeSet<&str> = done.iter().copied().collect();
    assert_eq!(kinds, BTreeSet::from(["drop", "delta", "image", "index", "merge"]), "{done:?}");
    (disk, script)
}

/// Tries every operation of the whole run, on several threads.
fn for_each_operation(disk: &SimDisk, each: impl Fn(u64) + Sync) {
    let total = disk.operations();
    std::thread::scope(|threads| {
        for part in 0..4 {
            let each = &each;
            threads.spawn(move || (part..=total).step_by(4).for_each(each));
        }
    });
}

#[test]
fn without_a_failure_the_script_reads_as_expected() {
    let (disk, script) = whole();
    let all = Progress { acknowledged: COMMITS, attempted: COMMITS };
    check(&disk.clone_state(), &script, all, "no failure").unwrap();
}

#[test]
#[ignore = "slow"]
fn a_power_cut_at_any_step_of_a_snapshot_loses_nothing() {
    let (disk, script) = whole();
    for_each_operation(&disk, |stop| {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let progress = run(&disk, &script, &mut Vec::new());
        let every = CrashPolicy::all(stop);
        let chosen = by_lane(vec![every[usize::try_from(stop).unwrap() % 7]], every.to_vec());
        for lost in chosen {
            check(&disk.crash(lost), &script, progress, &format!("stopped at {stop}, {lost:?}")).unwrap();
        }
    });
}

#[test]
#[ignore = "slow"]
fn a_failed_snapshot_does_not_stop_the_log() {
    let (disk, script) = whole();
    let trace = disk.trace();
    for_each_operation(&disk, |number| {
        let turn = usize::try_from(number).unwrap();
        let Some(step) = turn.checked_sub(1).and_then(|at| trace.get(at)) else { return };
        let path = step.path.display().to_string();
        let of_snapshot = ["/snapshots", "/indexes", ".snap", ".idx"].iter().any(|part| path.contains(part));
        let faults =
            [(Fault::Eio, Repeat::Once), (Fault::Enospc, Repeat::Once), (Fault::Eio, Repeat::Always)];
        let chosen = by_lane(vec![faults[turn % 3]], faults.to_vec());
        for (fault, repeat) in chosen {
            let what = format!("{fault:?} {repeat:?} at {number}, {step:?}");
            let disk = SimDisk::new();
            disk.fail_at(number, fault, repeat);
            let progress = run(&disk, &script, &mut Vec::new());
            if of_snapshot && repeat == Repeat::Once {
                assert_eq!(progress.acknowledged, COMMITS, "{what}: the log accepted no further commits");
            }
            disk.clear_faults();
            let lost = CrashPolicy::all(number)[turn % 7];
            check(&disk.crash(lost), &script, progress, &format!("{what}, then {lost:?}")).unwrap();
        }
    });
}

/// Proves that these tests can fail: they must fail if syncs of snapshots and of their directories do nothing.
#[test]
fn a_sync_of_a_snapshot_that_does_nothing_is_caught() {
    let (disk, script) = whole();
    for (op, path) in [(SimOp::Sync, ".snap"), (SimOp::Sync, ".idx"), (SimOp::SyncDir, "/snapshots")] {
        let caught = (disk.operations() / 2..=disk.operations()).any(|stop| {
            let disk = SimDisk::new();
            disk.fail_when(op, path, 1, Fault::IgnoredSync, Repeat::Always);
            disk.power_off_at(stop);
            let progress = run(&disk, &script, &mut Vec::new());
            [CrashPolicy::DropAll, CrashPolicy::NoDirectoryEntries]
                .into_iter()
                .any(|lost| check(&disk.crash(lost), &script, progress, "lying disk").is_err())
        });
        assert!(caught, "no test notices that {op:?} of {path} does nothing");
    }
}
