//! A power cut at any step of an upgrade from an older version, or of a takeover, leaves a database that opens with all commits, and whose
//! HEAD names an incarnation that its lineage has.

#![expect(clippy::disallowed_methods, reason = "these tests read fixtures")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::lineage::{LineagePoint, Membership};
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::wal::appender::{Log, LogOptions};
use driftdb_common::storage::{head, lineage, recovery};

/// The last commit of the fixtures.
const LAST: u64 = 20;

fn dir() -> DataDir {
    DataDir::new("/data")
}

/// A fixture on a simulated disk.
fn disk_of(fixture: &str) -> SimDisk {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    let disk = SimDisk::new();
    let mut open: Vec<PathBuf> = vec![root.clone()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap();
                disk.put(dir().root().join(name), &std::fs::read(&path).unwrap()).unwrap();
            }
        }
    }
    disk
}

fn open(disk: &SimDisk) -> Result<(Log, Vec<u64>)> {
    let options = LogOptions { background: false, ..LogOptions::default() };
    let mut seqs = Vec::new();
    let mut replay = |commit: driftdb_common::storage::wal::commit_reader::LogCommit| {
        seqs.push(commit.seq);
        Ok(())
    };
    let log = recovery::open(disk.shared(), &dir(), options, &mut replay)?;
    Ok((log, seqs))
}

/// Checks what a reader finds on a disk, then opens it for writing.
fn check(disk: &SimDisk, before: LineagePoint, what: &str) {
    let fs = disk.shared();
    let found = head::read(&*fs, &dir()).unwrap().unwrap_or_else(|| panic!("{what}: no HEAD"));
    let shown = lineage::read(&*fs, &dir(), &found).unwrap();
    assert_eq!(shown.current(), found.incarnation.id, "{what}");
    assert_eq!(shown.membership(before), Membership::Contained, "{what}: {shown:?}");
    assert!(shown.continues(before), "{what}: {shown:?}");
    let (log, seqs) = open(disk).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(seqs.iter().copied().eq(1..=LAST), "{what}: {seqs:?}");
    assert_eq!(log.lineage().membership(before), Membership::Contained, "{what}: {:?}", log.lineage());
    assert_eq!((log.database().format, log.published().0), (4, LAST), "{what}");
    let now = head::read(&*fs, &dir()).unwrap().unwrap();
    assert_eq!((now.header.format, now.incarnation.id), (4, log.lineage().current()), "{what}");
    assert_ne!(now.incarnation.id, found.incarnation.id, "{what}: each open begins an incarnation");
    log.close().unwrap();
}

#[test]
fn a_power_cut_at_any_step_leaves_a_whole_database() {
    for fixture in ["v1", "v1.1", "v2", "v3", "v4"] {
        let old = disk_of(fixture);
        let found = head::read(&*old.shared(), &dir()).unwrap().unwrap();
        let before = lineage::read(&*old.shared(), &dir(), &found).unwrap().point(LAST);
        assert_eq!(before.incarnation != 0, ["v2", "v3", "v4"].contains(&fixture));
        let whole = old.clone_state();
        open(&whole).unwrap().0.close().unwrap();
        for stop in 1..=whole.operations() {
            let run = old.clone_state();
            run.power_off_at(stop);
            if let Ok((log, _)) = open(&run) {
                log.close().unwrap_err();
            }
            for policy in CrashPolicy::all(stop) {
                check(&run.crash(policy), before, &format!("{fixture}, step {stop}, {policy:?}"));
            }
            check(&run.clone_state(), before, &format!("{fixture}, killed at step {stop}"));
        }
    }
}

/// A creation that was interrupted at any step is completed by the next open.
#[test]
fn an_interrupted_creation_is_completed() {
    let whole = SimDisk::new();
    open(&whole).unwrap().0.close().unwrap();
    for stop in 1..=whole.operations() {
        let run = SimDisk::new();
        run.power_off_at(stop);
        if let Ok((log, _)) = open(&run) {
            log.close().unwrap_err();
        }
        for policy in CrashPolicy::all(stop) {
            let disk = run.crash(policy);
            let (log, seqs) = open(&disk).unwrap_or_else(|error| panic!("step {stop}, {policy:?}: {error}"));
            assert!(seqs.is_empty());
            log.close().unwrap();
        }
    }
}

/// HEAD is the file that names the incarnation; what is lost of `lineage.json` is only what old tokens need.
#[test]
fn a_lost_lineage_refuses_old_tokens_and_nothing_else() {
    for damage in ["missing", "damaged", "both copies in HEAD"] {
        let disk = disk_of("v4");
        let path = dir().lineage();
        match damage {
            "missing" => disk.shared().remove(&path).unwrap(),
            "damaged" => disk.flip_bit(&path, 30, 1).unwrap(),
            _ => [130, 194].iter().for_each(|offset| disk.flip_bit(dir().head(), *offset, 0).unwrap()),
        }
        let (log, seqs) = open(&disk).unwrap_or_else(|error| panic!("{damage}: {error}"));
        assert_eq!(seqs.len() as u64, LAST, "{damage}");
        assert_ne!(log.lineage().current(), 0);
        log.close().unwrap();
        let fs: Arc<_> = disk.shared();
        let found = head::read(&*fs, &dir()).unwrap().unwrap();
        assert_eq!(lineage::read(&*fs, &dir(), &found).unwrap().current(), found.incarnation.id, "{damage}");
    }
}
