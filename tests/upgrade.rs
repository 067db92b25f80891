//! A power cut at any step of an upgrade from an older version, or of a takeover, leaves a database that opens with all commits, and whose
//! HEAD names an incarnation that its lineage has.

#![expect(clippy::disallowed_methods, reason = "these tests read fixtures")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::head::FORMAT_VERSION;
use driftdb_common::format::lineage::{LineagePoint, Membership};
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::layout::{DataDir, read_database};
use driftdb_common::storage::wal::appender::{Log, LogOptions};
use driftdb_common::storage::{head, lineage, recovery};

use crate::harness::calls::ask;
use crate::harness::database::copy;
use crate::harness::{Daemon, Reader, create_table};

/// A fixture of each format.
const FORMATS: [&str; 5] = ["v1", "v1.1", "v2", "v3", "v4"];
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
    for fixture in FORMATS {
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

/// Every format that any version has written has a fixture, so that no change can forget one.
#[test]
fn every_format_has_a_fixture() {
    let formats: Vec<u8> = FORMATS
        .iter()
        .map(|fixture| {
            let disk = disk_of(fixture);
            read_database(&*disk.shared(), &dir()).unwrap().unwrap().format
        })
        .collect();
    assert!((1..=FORMAT_VERSION).all(|format| formats.contains(&format)), "{formats:?} of {FORMAT_VERSION}");
    assert_eq!(*formats.iter().max().unwrap(), FORMAT_VERSION);
}

/// The rows of every table of a database, by the reader's answers.
async fn rows(reader: &mut Reader) -> BTreeMap<String, Vec<(String, serde_json::Value)>> {
    let tables = ask(reader, "SHOW TABLES", 0).await.unwrap();
    let names: Vec<String> = tables.tables().iter().map(|table| table.table.clone()).collect();
    assert!(!names.is_empty());
    let mut found = BTreeMap::new();
    for name in names {
        let rows = ask(reader, &format!("SELECT * FROM {name}"), 0).await.unwrap().rows();
        found.insert(name, rows);
    }
    found
}

/// What docs/operations/upgrade.md promises: a new reader reads an old database and changes nothing, a new writer upgrades it, and
/// everything reads as before.
#[tokio::test]
async fn both_daemons_open_a_database_of_every_format() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for fixture in FORMATS.iter().chain(&["snapshots", "composite", "keys", "renamed"]) {
        let held = tempfile::tempdir().unwrap();
        copy(&fixtures.join(fixture), held.path());
        let database = || std::fs::read(held.path().join("database.json")).unwrap();
        let before = database();
        let reader = Daemon::reader(held.path());
        let old = rows(&mut reader.as_reader().await).await;
        assert_eq!(database(), before, "{fixture}: a reader changes nothing");
        let mut writer = Daemon::writer_of_old(held.path());
        let status =
            writer.as_writer().await.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        let format: serde_json::Value = serde_json::from_slice(&database()).unwrap();
        assert_eq!(format["body"]["format"], FORMAT_VERSION, "{fixture}");
        assert_eq!(rows(&mut reader.as_reader().await).await, old, "{fixture}");
        drop(reader);
        let next = Daemon::reader(held.path());
        assert_eq!(rows(&mut next.as_reader().await).await, old, "{fixture}");
        // It takes writes.
        let token = create_table(&mut writer.as_writer().await, "after_the_upgrade").await.unwrap();
        assert_eq!(token.seq, status.last_seq + 1, "{fixture}");
        assert!(writer.terminate().await.success());
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
