//! Every cut and every bit flip near the end of the log: recovery keeps a legal prefix, or refuses to open (I7).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::script::{self, Seen};
use driftdb_common::error::Reason;
use driftdb_common::storage::fs::FileSystem;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};

const SEGMENT: u64 = 1 << 20;
const COMMITS: u64 = 60;
/// How many bytes at the end of the log are damaged.
const REACH: usize = 4096;

fn shared(disk: &SimDisk) -> Arc<dyn FileSystem> {
    disk.shared()
}

/// The disk after the whole script and a clean close.
fn closed() -> SimDisk {
    let disk = SimDisk::new();
    assert_eq!(script::run(shared(&disk), SEGMENT, COMMITS).acknowledged, COMMITS);
    disk
}

/// The disk after a power cut just before the close, with a HEAD from early on: only the log says what was published.
fn with_old_head() -> SimDisk {
    let disk = SimDisk::new();
    let (mut log, _) = script::open(shared(&disk), SEGMENT).unwrap();
    for seq in 1..=3 {
        log.append(&mut script::group(seq, seq)).unwrap();
    }
    let head = disk.bytes(script::dir().head()).unwrap();
    for seq in 4..=COMMITS {
        log.append(&mut script::group(seq, seq)).unwrap();
    }
    let crashed = disk.crash(CrashPolicy::KeepAll);
    crashed.put(script::dir().head(), &head).unwrap();
    crashed
}

fn last_segment(table: &str) -> PathBuf {
    script::segment(table, 1)
}

/// The length of a segment without the zeros at its end.
fn frames_end(disk: &SimDisk, path: &Path) -> usize {
    disk.bytes(path).unwrap().iter().rposition(|byte| *byte != 0).unwrap() + 1
}

fn everything(disk: &SimDisk) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = disk.paths().into_iter().filter(|path| !script::is_lock(path));
    files.filter_map(|path| disk.bytes(&path).map(|bytes| (path, bytes))).collect()
}

/// The result of opening a damaged log.
enum Outcome {
    Kept(Vec<Seen>),
    Refused,
}

/// Opens a damaged disk. If that is refused, no file may have changed, and the error must name the file and the offset.
fn outcome(disk: &SimDisk, what: &str) -> Outcome {
    let before = everything(disk);
    match script::open(shared(disk), SEGMENT) {
        Ok((_, commits)) => {
            let expected = script::expected(commits.len() as u64);
            assert!(commits == expected, "{what}: the kept commits differ from the written ones");
            Outcome::Kept(commits)
        }
        Err(error) => {
            assert_eq!(error.reason(), Reason::Corrupt, "{what}: {error}");
            assert!(
                error.metadata().contains_key("file") && error.metadata().contains_key("offset"),
                "{what}"
            );
            assert!(everything(disk) == before, "{what}: opening was refused but changed a file");
            Outcome::Refused
        }
    }
}

/// Cuts the last 4 KiB of frames at every byte and flips every bit in them, and passes each result to `judge`.
fn damage_everywhere(disk: &SimDisk, tables: &[&str], judge: impl Fn(&str, Outcome) + Sync) {
    std::thread::scope(|threads| {
        for table in tables {
            let judge = &judge;
            threads.spawn(move || damage_table(disk, table, judge));
        }
    });
}

fn damage_table(disk: &SimDisk, table: &str, judge: impl Fn(&str, Outcome)) {
    let path = last_segment(table);
    let end = frames_end(disk, &path);
    for offset in end.saturating_sub(REACH)..end {
        let cut = disk.clone_state();
        cut.cut(&path, offset).unwrap();
        let what = format!("{table} cut at {offset}");
        judge(&what, outcome(&cut, &what));
        for bit in 0..8 {
            let flipped = disk.clone_state();
            flipped.flip_bit(&path, offset, bit).unwrap();
            let what = format!("{table} byte {offset} bit {bit}");
            judge(&what, outcome(&flipped, &what));
        }
    }
}

#[test]
#[ignore = "slow"]
fn damage_below_the_durable_length_in_head_is_refused() {
    let disk = closed();
    let refused = AtomicUsize::new(0);
    damage_everywhere(&disk, &script::TABLES[..1], |what, outcome| match outcome {
        Outcome::Kept(_) => panic!("{what}: damage was not detected"),
        Outcome::Refused => _ = refused.fetch_add(1, Ordering::Relaxed),
    });
    let refused = refused.into_inner();
    assert!(refused == 9 * REACH, "{refused} damages only");
}

#[test]
#[ignore = "slow"]
fn with_an_old_head_only_the_last_group_can_pass_as_a_torn_tail() {
    let disk = with_old_head();
    let (kept, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    damage_everywhere(&disk, &script::TABLES, |what, outcome| match outcome {
        Outcome::Kept(commits) => {
            // Every group is one commit here, and contains the proof that the commit before it was published. A cut
            // also removes that proof if it is in the same table: the script's last commit is in one table only.
            let lost = if what.contains("cut") { 2 } else { 1 };
            assert!(commits.len() as u64 >= COMMITS - lost, "{what}: kept {} commits only", commits.len());
            kept.fetch_add(1, Ordering::Relaxed);
        }
        Outcome::Refused => _ = refused.fetch_add(1, Ordering::Relaxed),
    });
    let (kept, refused) = (kept.into_inner(), refused.into_inner());
    assert!(kept > 100 && refused > REACH, "{kept} kept, {refused} refused");
}

#[test]
fn a_bit_flip_in_head_database_json_or_meta_json_loses_no_commit() {
    let disk = closed();
    for path in [script::dir().head(), script::dir().database(), script::dir().manifest("beta")] {
        for offset in 0..disk.bytes(&path).unwrap().len() {
            for bit in 0..8 {
                let flipped = disk.clone_state();
                flipped.flip_bit(&path, offset, bit).unwrap();
                let what = format!("{} byte {offset} bit {bit}", path.display());
                if let Outcome::Kept(commits) = outcome(&flipped, &what) {
                    assert_eq!(commits.len() as u64, COMMITS, "{what}");
                }
            }
        }
    }
}

#[test]
fn a_missing_file_is_named() {
    let disk = closed();
    let dir = script::dir();
    for path in [dir.head(), dir.database(), dir.manifest("beta"), last_segment("gamma")] {
        let damaged = disk.clone_state();
        shared(&damaged).remove(&path).unwrap();
        match outcome(&damaged, &format!("{} missing", path.display())) {
            Outcome::Refused => {}
            Outcome::Kept(_) => panic!("{} is missing, and opening succeeded", path.display()),
        }
    }
}

#[test]
fn a_torn_tail_is_saved_to_a_file() {
    let disk = with_old_head();
    let path = last_segment("alpha");
    let end = frames_end(&disk, &path);
    disk.cut(&path, end - 1).unwrap();
    let torn = disk.bytes(&path).unwrap();
    let Outcome::Kept(_) = outcome(&disk, "the last byte is cut") else { panic!("a torn tail was refused") };
    let aside = disk.paths().into_iter().find(|path| path.to_string_lossy().contains(".torn.")).unwrap();
    let kept = disk.bytes(&aside).unwrap();
    assert!(!kept.is_empty() && torn.ends_with(&kept), "the bytes that were cut off are not saved");
}
