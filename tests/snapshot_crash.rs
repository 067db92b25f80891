//! The power goes, or the disk fails, at every step of taking snapshots: every moment stays readable, commits go on, no file
//! is left behind for ever, and the next snapshot works.

use std::collections::BTreeSet;

use crate::harness::keeper::{Keeper, Script};
use driftdb_common::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp};
use driftdb_common::storage::wal::appender::AppendError;
use driftdb_common::table::build::delta::DeltaLimits;

const COMMITS: u64 = 40;
const LIMITS: DeltaLimits = DeltaLimits { events: 6, bytes: 1 << 20 };

fn soak() -> bool {
    std::env::var_os("DRIFTDB_SOAK").is_some()
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Progress {
    acknowledged: u64,
    attempted: u64,
}

/// Runs the script to its end, with snapshots on the way, or until the log fails. What the snapshots came to is added.
fn run(disk: &SimDisk, script: &Script, done: &mut Vec<&'static str>) -> Progress {
    let mut progress = Progress::default();
    let Ok(mut keeper) = Keeper::open(disk) else { return progress };
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
                // It fails alone: commits go on, and the next one is tried as ever.
                Err(AppendError::Refused(_)) => {}
                Err(AppendError::Fatal(_)) => return progress,
            }
        }
    }
    let _ = keeper.log.close();
    progress
}

/// Opens what is found, and checks that it is whole and goes on.
fn check(found: &SimDisk, script: &Script, progress: Progress, what: &str) -> Result<(), String> {
    let error = |e: String| format!("{what}: {e}");
    let mut keeper = Keeper::open(found).map_err(|e| error(format!("does not open: {e}")))?;
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
    let keeper = Keeper::open(found).map_err(|e| error(format!("a second time: {e}")))?;
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
    assert_eq!(kinds, BTreeSet::from(["drop", "era", "full", "index", "merge"]), "{done:?}");
    (disk, script)
}

/// Does it for every operation of the whole run, on several threads.
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
fn the_script_reads_as_it_should_without_any_failure() {
    let (disk, script) = whole();
    let all = Progress { acknowledged: COMMITS, attempted: COMMITS };
    check(&disk.clone_state(), &script, all, "no failure").unwrap();
}

#[test]
fn a_power_cut_at_any_step_of_a_snapshot_loses_nothing() {
    let (disk, script) = whole();
    for_each_operation(&disk, |stop| {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let progress = run(&disk, &script, &mut Vec::new());
        let every = CrashPolicy::all(stop);
        let chosen = if soak() { every.to_vec() } else { vec![every[usize::try_from(stop).unwrap() % 7]] };
        for lost in chosen {
            check(&disk.crash(lost), &script, progress, &format!("stopped at {stop}, {lost:?}")).unwrap();
        }
    });
}

#[test]
fn a_snapshot_that_fails_fails_alone() {
    let (disk, script) = whole();
    let trace = disk.trace();
    for_each_operation(&disk, |number| {
        let turn = usize::try_from(number).unwrap();
        let Some(step) = turn.checked_sub(1).and_then(|at| trace.get(at)) else { return };
        let path = step.path.display().to_string();
        let of_snapshot = ["/snapshots", "/indexes", ".snap", ".idx"].iter().any(|part| path.contains(part));
        let faults =
            [(Fault::Eio, Repeat::Once), (Fault::Enospc, Repeat::Once), (Fault::Eio, Repeat::Always)];
        let chosen = if soak() { faults.to_vec() } else { vec![faults[turn % 3]] };
        for (fault, repeat) in chosen {
            let what = format!("{fault:?} {repeat:?} at {number}, {step:?}");
            let disk = SimDisk::new();
            disk.fail_at(number, fault, repeat);
            let progress = run(&disk, &script, &mut Vec::new());
            if of_snapshot && repeat == Repeat::Once {
                assert_eq!(progress.acknowledged, COMMITS, "{what}: commits did not go on");
            }
            disk.clear_faults();
            let lost = CrashPolicy::all(number)[turn % 7];
            check(&disk.crash(lost), &script, progress, &format!("{what}, then {lost:?}")).unwrap();
        }
    });
}

/// The proof that these tests see: where the syncs of snapshots and of their names do nothing, they must fail.
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
        assert!(caught, "{op:?} of {path} can be left out unnoticed");
    }
}
