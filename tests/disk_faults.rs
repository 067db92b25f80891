//! A failure before anything was written refuses a group and ends nothing; only a failed write or sync of what counts ends the
//! log. And a log that may open few files keeps every promise.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::harness::script;
use driftdb_common::error::{Error, Reason};
use driftdb_common::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp, TracedOp};
use driftdb_common::storage::wal::appender::{AppendError, Log, LogOptions};

const SEGMENT: u64 = 1024;
const COMMITS: u64 = 30;

fn options(open_segments: usize) -> LogOptions {
    LogOptions { open_segments, ..script::options(SEGMENT) }
}

/// What a run of the script met.
#[derive(Debug, Default)]
struct Run {
    acknowledged: u64,
    attempted: u64,
    refusals: Vec<Error>,
    /// Files that a refused group left behind.
    left: BTreeSet<PathBuf>,
    ended_by: Option<Error>,
    has_closed: bool,
}

/// Runs the script, in groups of one to four commits, and tries a refused group once more. Every fifth group edits a manifest.
fn run(disk: &SimDisk, open_segments: usize) -> Run {
    let mut run = Run::default();
    let opened = script::open_with(disk.shared(), options(open_segments));
    // An open that fails can be tried again.
    let opened = opened.or_else(|error| {
        run.refusals.push(error);
        script::open_with(disk.shared(), options(open_segments))
    });
    let Ok((mut log, _)) = opened else { return run };
    let mut from = 1;
    while from <= COMMITS && run.ended_by.is_none() {
        let to = (from + from % 4).min(COMMITS);
        run.attempted = to;
        match append(disk, &mut log, &mut run, from, to) {
            Ok(()) => run.acknowledged = to,
            Err(AppendError::Refused(error)) => {
                run.refusals.push(error);
                return run;
            }
            Err(AppendError::Fatal(error)) => run.ended_by = Some(error),
        }
        if from % 5 == 0 && run.ended_by.is_none() {
            match log.edit_manifest(1, &mut |_| Ok(())) {
                Err(AppendError::Fatal(error)) => run.ended_by = Some(error),
                Err(AppendError::Refused(error)) => run.refusals.push(error),
                Ok(_) => {}
            }
        }
        from = to + 1;
    }
    run.has_closed = run.ended_by.is_none() && log.close().is_ok();
    run
}

fn append(disk: &SimDisk, log: &mut Log, run: &mut Run, from: u64, to: u64) -> Result<(), AppendError> {
    let before: BTreeSet<PathBuf> = disk.paths().into_iter().collect();
    match log.append(&mut script::group(from, to)) {
        Err(AppendError::Refused(error)) => {
            run.refusals.push(error);
            let after = disk.paths().into_iter().collect();
            // The next segment has no name yet, and is used by the next rotation.
            let left =
                (&after - &before).into_iter().filter(|path| !path.to_string_lossy().ends_with(".seg.tmp"));
            // A rotation of one table stays when that of another is refused.
            run.left.extend(left.filter(|path| !path.to_string_lossy().ends_with(".seg")));
            log.append(&mut script::group(from, to))
        }
        done => done,
    }
}

fn check(disk: &SimDisk, run: &Run, what: &str) {
    disk.clear_faults();
    for lost in [CrashPolicy::KeepAll, CrashPolicy::DropAll, CrashPolicy::Mixed(7)] {
        let found = disk.crash(lost);
        let (mut log, commits) = script::open(found.shared(), SEGMENT)
            .unwrap_or_else(|e| panic!("{what}, {lost:?}: does not open: {e}"));
        let kept = commits.len() as u64;
        assert!(
            (run.acknowledged..=run.attempted).contains(&kept),
            "{what}, {lost:?}: kept {kept} of {run:?}"
        );
        assert_eq!(commits, script::expected(kept), "{what}, {lost:?}");
        log.append(&mut script::group(kept + 1, kept + 3)).unwrap();
    }
}

/// Whether the failure of an operation may end the log: it concerns bytes that were acknowledged or will be, HEAD, or a
/// manifest that is in place.
fn may_end(op: &TracedOp) -> bool {
    let path = op.path.to_string_lossy();
    let is_segment = path.ends_with(".seg");
    match op.op {
        SimOp::Write | SimOp::Sync => is_segment || path.contains("HEAD"),
        // The manifest that names a new segment is in place, and may not be durable.
        SimOp::SyncDir => path.starts_with("/data/tables/") && !path.ends_with("segments"),
        _ => false,
    }
}

fn trace() -> Vec<TracedOp> {
    let disk = SimDisk::new();
    disk.start_trace();
    let whole = run(&disk, usize::MAX);
    assert_eq!((whole.acknowledged, whole.has_closed), (COMMITS, true));
    disk.trace()
}

#[test]
fn a_failure_once_is_a_refusal_unless_what_counts_may_be_lost() {
    let (mut ended, mut refused) = (0, 0);
    for op in trace() {
        for fault in [Fault::Enospc, Fault::Emfile, Fault::Eio] {
            let disk = SimDisk::new();
            disk.fail_at(op.number, fault, Repeat::Once);
            let run = run(&disk, usize::MAX);
            let what = format!("{fault:?} at {op}");
            match &run.ended_by {
                Some(error) => {
                    assert!(may_end(&op), "{what}: the log ended: {error}");
                    ended += 1;
                }
                None => {
                    assert_eq!((run.acknowledged, &run.left), (COMMITS, &BTreeSet::new()), "{what}: {run:?}");
                    refused += run.refusals.len();
                }
            }
            check(&disk, &run, &what);
        }
    }
    assert!(ended > 10 && refused > 100, "{ended} failures ended the log, and {refused} were refused");
}

#[test]
fn a_failure_for_ever_refuses_with_its_cause_and_loses_nothing() {
    for op in trace() {
        for (fault, reason) in
            [(Fault::Enospc, Reason::DiskFull), (Fault::Emfile, Reason::Overloaded), (Fault::Eio, Reason::Io)]
        {
            let disk = SimDisk::new();
            disk.fail_at(op.number, fault, Repeat::Always);
            let run = run(&disk, usize::MAX);
            let what = format!("{fault:?} from {op} on");
            for error in run.refusals.iter().chain(&run.ended_by) {
                // A writer that cannot read HEAD back says so.
                assert!(error.reason() == reason || error.message().contains("HEAD"), "{what}: {error}");
            }
            check(&disk, &run, &what);
        }
    }
}

#[test]
fn no_descriptor_for_an_open_is_never_the_end() {
    for nth in 1..60 {
        let disk = SimDisk::new();
        let (mut log, _) = script::open_with(disk.shared(), options(2)).unwrap();
        disk.fail_when(SimOp::Read, ".seg", nth, Fault::Emfile, Repeat::Once);
        let mut from = 1;
        while from <= COMMITS {
            let to = (from + from % 4).min(COMMITS);
            // The spare descriptors are given up, so the group does not even notice.
            log.append(&mut script::group(from, to)).unwrap_or_else(|e| panic!("open {nth}: {e:?}"));
            from = to + 1;
        }
        log.close().unwrap();
        disk.clear_faults();
        assert_eq!(script::open(disk.shared(), SEGMENT).unwrap().1, script::expected(COMMITS));
    }
}

#[test]
fn a_log_that_may_open_one_segment_survives_a_power_cut_at_any_step() {
    let disk = SimDisk::new();
    assert_eq!(run(&disk, 1).acknowledged, COMMITS);
    for stop in 0..=disk.operations() {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let run = run(&disk, 1);
        check(&disk, &run, &format!("stopped at {stop}"));
    }
}

#[test]
fn a_log_that_may_open_one_segment_sees_every_failed_sync() {
    for nth in 1..80 {
        for repeat in [Repeat::Once, Repeat::Always] {
            let disk = SimDisk::new();
            disk.fail_when(SimOp::Sync, ".seg", nth, Fault::Eio, repeat);
            let run = run(&disk, 1);
            check(&disk, &run, &format!("sync {nth} fails {repeat:?}"));
        }
    }
}

#[test]
fn a_full_disk_refuses_a_new_table_and_a_rotation_and_the_log_goes_on() {
    let disk = SimDisk::new();
    let (mut log, _) = script::open_with(disk.shared(), options(usize::MAX)).unwrap();
    log.append(&mut script::group(1, 2)).unwrap();
    disk.set_capacity(Some(disk.used_bytes()));
    let full = |outcome: Result<(), AppendError>| match outcome {
        Err(AppendError::Refused(error)) => assert_eq!(error.reason(), Reason::DiskFull, "{error}"),
        other => panic!("expected a refusal, found {other:?}"),
    };
    let before = disk.paths();
    full(log.append(&mut script::group(3, 3)));
    assert!(log.space().is_full());
    assert_eq!(disk.paths(), before, "a refused table leaves nothing behind");
    disk.set_capacity(None);
    log.append(&mut script::group(3, 3)).unwrap();
    assert!(!log.space().is_full(), "room was found");
    // Until the segments are full; then each group needs a new one.
    disk.set_capacity(Some(disk.used_bytes()));
    let mut seq = 4;
    while log.append(&mut script::group(seq, seq)).is_ok() {
        seq += 1;
    }
    assert!(seq > 5, "there was room ahead for some commits");
    full(log.append(&mut script::group(seq, seq)));
    log.close().unwrap();
    let (mut log, commits) =
        script::open_with(disk.shared(), options(usize::MAX)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(commits, script::expected(seq - 1));
    disk.set_capacity(None);
    log.append(&mut script::group(seq, seq + 5)).unwrap();
}
