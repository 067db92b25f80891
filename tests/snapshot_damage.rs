//! Snapshots, indexes, manifests and HEAD cut at every length and flipped at every byte: the right answer or an error
//! that names the file, never a wrong row, never a panic.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::lane::{by_lane, is_soak};
use crate::harness::open_database::{OpenDatabase, Script, Wrong, check_timeline, dir};
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::format::sortkey;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::layout::snapshot_files;
use driftdb_common::table::build::delta::DeltaLimits;
use driftdb_common::table::layers::sort_key;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::value_range::{IndexRanges, ValueRange};
use driftdb_common::table::view::View;

const COMMITS: u64 = 17;
const LIMITS: DeltaLimits = DeltaLimits { events: 12, bytes: 1 << 20 };

/// A closed database with delta layers, an image layer, indexes, and a tail that no snapshot contains.
fn build() -> (SimDisk, Script) {
    let (disk, script) = (SimDisk::new(), Script::new(COMMITS));
    let mut keeper = OpenDatabase::open(&disk).unwrap();
    for seq in 1..=COMMITS {
        keeper.log.append(&mut script.group(seq)).unwrap();
        if seq == 8 || seq == 15 {
            keeper.take(1, LIMITS).unwrap();
            keeper.take(2, LIMITS).unwrap();
        }
    }
    keeper.log.close().unwrap();
    (disk, script)
}

fn files(disk: &SimDisk) -> Vec<PathBuf> {
    let keeper = OpenDatabase::open(&disk.clone_state()).unwrap();
    let files = snapshot_files(&dir(), &keeper.manifest(1));
    let of = |part: &str| files.iter().filter(|file| file.to_string_lossy().contains(part)).count();
    assert!(of("-") >= 2 && of("/snapshots/") > of("-0") / 2 && of("/indexes/") >= 2, "{files:?}");
    files
}

/// Checks that an index returns all keys for every value at every commit.
fn check_index(timeline: &Arc<Timeline>, script: &Script) -> Result<(), Wrong> {
    for seq in 1..=COMMITS {
        let rows = script.states[usize::try_from(seq).unwrap()][0].clone().unwrap_or_default();
        let view = View::at(timeline, seq)?;
        if !view.has_index("n") {
            continue;
        }
        for (key, row) in &rows {
            let document = Document::from_json(&row.to_string()).unwrap();
            let path = driftdb_common::format::path::Path::of_index("n");
            let scalar = sortkey::scalar_of(document.get(&path).unwrap().unwrap()).unwrap().unwrap();
            let mut value = Vec::new();
            sortkey::write_scalar(&mut value, scalar);
            let ranges = [ValueRange { low: value.clone(), high: value.clone() }];
            let columns = [path.clone()];
            let ranges = [IndexRanges { index: "n", columns: &columns, depth: 1, ranges: &ranges }];
            let all = view.candidates_in(&ranges, 100)?.unwrap().keys;
            let wanted = sort_key(&Key::Str(key.as_str().into()));
            let of_value = view.candidates_of_value("n", &value, None, 100)?.unwrap();
            if !(0..all.len()).any(|at| all.get(at) == Some(wanted.as_slice()))
                || !of_value.iter().any(|found| found.to_string() == *key)
            {
                return Err(Wrong::Content(format!("the index does not tell of {key} at {seq}")));
            }
        }
    }
    Ok(())
}

/// Opens a damaged database and asks everything. Returns whether anything reported the damage.
fn outcome(disk: &SimDisk, script: &Script, what: &str) -> bool {
    let named = |error: &Error| {
        assert_eq!(error.reason(), Reason::Corrupt, "{what}: {error}");
        assert!(error.metadata().contains_key("file"), "{what}: {error} names no file");
    };
    let keeper = match OpenDatabase::open(disk) {
        Ok(keeper) => keeper,
        Err(error) => {
            named(&error);
            return true;
        }
    };
    assert_eq!(keeper.published(), COMMITS, "{what}");
    let mut seen = false;
    let timeline = |id: u64| keeper.timelines.get(&id).unwrap();
    let asked = [
        check_timeline(timeline(1), script, 0, COMMITS),
        check_timeline(timeline(2), script, 1, COMMITS),
        check_index(timeline(1), script),
    ];
    for answer in asked {
        match answer {
            Ok(()) => {}
            Err(Wrong::Failed(error)) => {
                named(&error);
                seen = true;
            }
            Err(Wrong::Content(wrong)) => panic!("{what}: {wrong}"),
        }
    }
    seen
}

/// Damages a file at every place. Returns the number of damages, and how many were reported.
fn damage(disk: &SimDisk, script: &Script, path: &Path) -> (usize, usize) {
    let len = disk.bytes(path).unwrap().len();
    let (done, seen) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let count = |was_seen: bool| {
        done.fetch_add(1, Ordering::Relaxed);
        seen.fetch_add(usize::from(was_seen), Ordering::Relaxed);
    };
    std::thread::scope(|threads| {
        for part in 0..4 {
            let count = &count;
            threads.spawn(move || {
                for offset in (part..len).step_by(4) {
                    let bits = by_lane(vec![(offset * 5 % 8) as u8], (0..8).collect());
                    for bit in bits {
                        let flipped = disk.clone_state();
                        flipped.flip_bit(path, offset, bit).unwrap();
                        let what = format!("{} byte {offset} of {len}, bit {bit}", path.display());
                        count(outcome(&flipped, script, &what));
                    }
                    if is_soak() || offset % 7 == 0 || offset + 64 > len {
                        let cut = disk.clone_state();
                        cut.cut(path, offset).unwrap();
                        count(outcome(&cut, script, &format!("{} cut at {offset} of {len}", path.display())));
                    }
                }
            });
        }
    });
    (done.into_inner(), seen.into_inner())
}

#[test]
fn a_damaged_snapshot_or_index_is_reported_and_never_read_wrong() {
    let (disk, script) = build();
    assert!(!outcome(&disk.clone_state(), &script, "no damage"));
    for path in files(&disk) {
        let (done, seen) = damage(&disk, &script, &path);
        // Every byte of a file counts, but a query reads only what it needs.
        assert!(seen * 10 >= done * 6, "{}: {seen} of {done} damages were reported", path.display());
    }
}

#[test]
fn a_damaged_manifest_or_head_is_reported_or_repaired() {
    let (disk, script) = build();
    for path in [dir().manifest("t"), dir().head()] {
        damage(&disk, &script, &path);
    }
}

#[test]
fn a_missing_snapshot_or_index_is_reported() {
    let (disk, script) = build();
    for path in files(&disk) {
        let missing = disk.clone_state();
        missing.shared().remove(&path).unwrap();
        let error =
            OpenDatabase::open(&missing).err().unwrap_or_else(|| panic!("{} is missing", path.display()));
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
    }
    let _ = script;
}
