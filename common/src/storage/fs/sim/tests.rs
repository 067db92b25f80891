//! Tests of every promise of the simulated disk.

use std::io;
use std::path::Path;

use super::*;
use crate::storage::fs::{File, FileSystem, replace};

fn path(text: &str) -> &Path {
    Path::new(text)
}

/// Returns a disk where `/d/f` contains `bytes`, all of it durable.
fn disk_with(bytes: &[u8]) -> (SimDisk, Box<dyn File>) {
    let disk = SimDisk::new();
    disk.put("/d/f", bytes).unwrap();
    let file = disk.open_write(path("/d/f")).unwrap();
    (disk, file)
}

#[test]
fn an_unsynced_write_is_visible_and_may_be_lost() {
    let (disk, file) = disk_with(b"old");
    file.write_at(b"new!", 0).unwrap();
    assert_eq!(disk.bytes("/d/f").unwrap(), b"new!");
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"old");
    assert_eq!(disk.crash(CrashPolicy::NoFileContents).bytes("/d/f").unwrap(), b"old");
    assert_eq!(disk.crash(CrashPolicy::KeepAll).bytes("/d/f").unwrap(), b"new!");
    file.sync().unwrap();
    for policy in CrashPolicy::all(7) {
        assert_eq!(disk.crash(policy).bytes("/d/f").unwrap(), b"new!", "{policy:?}");
    }
}

#[test]
fn a_gap_reads_as_zeros_and_a_truncation_may_be_lost() {
    let (disk, file) = disk_with(b"abc");
    file.write_at(b"z", 5).unwrap();
    assert_eq!(disk.bytes("/d/f").unwrap(), b"abc\0\0z");
    file.truncate(1).unwrap();
    let mut buf = [9; 4];
    assert_eq!(file.read_at(&mut buf, 0).unwrap(), 1);
    assert_eq!((file.len().unwrap(), buf), (1, [b'a', 9, 9, 9]));
    assert_eq!(file.read_at(&mut buf, 99).unwrap(), 0);
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"abc");
    file.sync().unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"a");
}

#[test]
fn a_synced_file_without_a_synced_name_is_lost() {
    let disk = SimDisk::new();
    disk.create_dir(path("/a/b")).unwrap();
    let file = disk.create(path("/a/b/f")).unwrap();
    file.write_at(b"x", 0).unwrap();
    file.sync().unwrap();
    for policy in [CrashPolicy::DropAll, CrashPolicy::NoDirectoryEntries] {
        assert!(disk.crash(policy).paths().is_empty());
    }
    // The directory's own name is durable only after a sync of its parent.
    disk.sync_dir(path("/a/b")).unwrap();
    assert!(disk.crash(CrashPolicy::DropAll).paths().is_empty());
    disk.sync_dir(path("/a")).unwrap();
    disk.sync_dir(path("/")).unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/a/b/f").unwrap(), b"x");
}

#[test]
fn a_synced_name_of_an_unsynced_file_is_an_empty_file() {
    let (disk, _) = disk_with(b"old");
    disk.create(path("/d/g")).unwrap().write_at(b"new", 0).unwrap();
    disk.rename(path("/d/g"), path("/d/f")).unwrap();
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"");
}

#[test]
fn a_crash_during_a_rename_leaves_the_old_or_the_new_file() {
    let (disk, _) = disk_with(b"old");
    let new = disk.create(path("/d/g")).unwrap();
    new.write_at(b"new", 0).unwrap();
    new.sync().unwrap();
    disk.sync_dir(path("/d")).unwrap();
    disk.rename(path("/d/g"), path("/d/f")).unwrap();
    disk.rename(path("/d/f"), path("/d/h")).unwrap();
    assert_eq!(disk.paths(), [path("/d/h")]);
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let found = disk.crash(CrashPolicy::RandomHalves(seed));
        let names = ["/d/f", "/d/g", "/d/h"].map(|p| found.bytes(p).map(|b| String::from_utf8(b).unwrap()));
        assert_eq!(names.iter().flatten().filter(|bytes| *bytes == "new").count(), 1, "{names:?}");
        seen.insert(names);
    }
    let states = [[Some("old"), Some("new"), None], [Some("new"), None, None], [None, None, Some("new")]];
    assert_eq!(seen, states.map(|names| names.map(|n| n.map(str::to_owned))).into());
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).paths(), [path("/d/h")]);
}

#[test]
fn replace_is_atomic_at_every_crash() {
    let steps = {
        let (disk, _) = disk_with(b"old");
        replace(&disk, path("/d/f"), b"new").unwrap();
        assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"new");
        disk.operations()
    };
    for stop in 1..=steps {
        let (disk, _) = disk_with(b"old");
        disk.power_off_at(stop);
        replace(&disk, path("/d/f"), b"new").unwrap_err();
        assert!(disk.is_off() && is_power_off(&disk.open(path("/d/f")).unwrap_err()));
        for policy in (0..20).flat_map(CrashPolicy::all) {
            let found = disk.crash(policy).bytes("/d/f").unwrap();
            assert!(found == b"old" || found == b"new", "stop {stop}, {policy:?}: {found:?}");
        }
    }
}

#[test]
fn after_a_failed_sync_the_next_sync_succeeds_and_the_bytes_are_lost() {
    for fault in [Fault::Eio, Fault::Enospc] {
        let (disk, file) = disk_with(b"old");
        disk.fail_when(SimOp::Sync, "/d/f", 1, fault, Repeat::Once);
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap_err();
        file.write_at(b"+", 3).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.bytes("/d/f").unwrap(), b"new+");
        assert_eq!(disk.clone_state().bytes("/d/f").unwrap(), b"new+");
        assert_eq!(disk.crash(CrashPolicy::KeepAll).bytes("/d/f").unwrap(), b"old+");
        // Only a second write of the bytes makes them durable.
        file.write_at(b"new", 0).unwrap();
        file.sync().unwrap();
        assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"new+");
    }
}

#[test]
fn every_handle_gets_a_failed_sync_once() {
    let (disk, file) = disk_with(b"old");
    let other = disk.open_write(path("/d/f")).unwrap();
    disk.fail_at(1, Fault::Eio, Repeat::Once);
    file.sync().unwrap_err();
    assert_eq!(other.sync().unwrap_err().raw_os_error(), Some(5));
    let later = disk.open_write(path("/d/f")).unwrap();
    assert!(file.sync().is_ok() && other.sync().is_ok() && later.sync().is_ok());
}

#[test]
fn an_ignored_sync_makes_nothing_durable() {
    let (disk, file) = disk_with(b"old");
    disk.fail_when(SimOp::Sync, "/d/f", 1, Fault::IgnoredSync, Repeat::Once);
    file.write_at(b"new", 0).unwrap();
    file.sync().unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"old");
    file.sync().unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), b"new");
    disk.fail_when(SimOp::SyncDir, "/d", 1, Fault::IgnoredSync, Repeat::Once);
    disk.remove(path("/d/f")).unwrap();
    disk.sync_dir(path("/d")).unwrap();
    assert_eq!(disk.crash(CrashPolicy::DropAll).paths(), [path("/d/f")]);
}

#[test]
fn a_crash_tears_a_write_at_sector_boundaries() {
    let (disk, file) = disk_with(&[0; 100]);
    file.write_at(&[1; 1500], 100).unwrap();
    let whole = disk.bytes("/d/f").unwrap();
    let (mut torn, mut garbled) = (0, 0);
    for seed in 0..50 {
        let found = disk.crash(CrashPolicy::RandomHalves(seed)).bytes("/d/f").unwrap();
        assert_eq!(found, disk.crash(CrashPolicy::RandomHalves(seed)).bytes("/d/f").unwrap());
        assert!(found[..100] == [0; 100] && found.len() <= whole.len());
        for sector in found[100..].chunk_by(|a, b| a == b) {
            assert!(sector.iter().all(|b| *b <= 1));
        }
        for at in [512, 1024, 1536].into_iter().filter(|at| *at < found.len()) {
            let sector = &found[at..found.len().min(at + 512)];
            assert!(sector.iter().all(|b| *b == sector[0]), "torn within a sector");
        }
        torn += usize::from(found != whole && found.len() > 100);
        let garbage = disk.crash(CrashPolicy::GarbageTail(seed)).bytes("/d/f").unwrap();
        assert!(garbage[..100] == [0; 100] && garbage.len() <= whole.len());
        garbled += usize::from(garbage.iter().any(|b| *b > 1));
    }
    assert!(torn > 25 && garbled > 25, "{torn} {garbled}");
}

#[test]
fn writes_to_one_sector_survive_in_order() {
    let (disk, file) = disk_with(&[0; 1024]);
    for at in [0, 512, 8, 520] {
        file.write_at(&[1], at).unwrap();
    }
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let found = disk.crash(CrashPolicy::RandomHalves(seed)).bytes("/d/f").unwrap();
        let [first, second, third, fourth] = [0, 8, 512, 520].map(|at| found[at] == 1);
        assert!(first || !second, "the later write survived without the earlier one");
        assert!(third || !fourth, "the later write survived without the earlier one");
        seen.insert([first, second, third, fourth]);
    }
    assert_eq!(seen.len(), 9, "sectors are independent of one another: {seen:?}");
}

#[test]
fn faults_occur_by_number_and_by_kind_and_path() {
    let (disk, file) = disk_with(b"");
    disk.fail_at(2, Fault::ShortWrite, Repeat::Once);
    disk.fail_at(4, Fault::Enospc, Repeat::Always);
    file.write_at(b"ab", 0).unwrap();
    assert_eq!(file.write_at(b"cdef", 2).unwrap_err().kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.bytes("/d/f").unwrap(), b"abcd");
    file.sync().unwrap();
    for _ in 0..3 {
        assert_eq!(file.truncate(0).unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert!(disk.create(path("/d/g")).is_err());
    }
    disk.clear_faults();
    disk.create(path("/d/g.seg")).unwrap();
    disk.fail_when(SimOp::Sync, ".seg", 2, Fault::Eio, Repeat::Always);
    disk.fail_when(SimOp::Read, ".seg", 1, Fault::Eio, Repeat::Once);
    disk.fail_when(SimOp::Rename, "/d/k", 1, Fault::Eio, Repeat::Once);
    assert_eq!(disk.open_write(path("/d/g.seg")).unwrap_err().raw_os_error(), Some(5));
    let segment = disk.open_write(path("/d/g.seg")).unwrap();
    segment.sync().unwrap();
    file.sync().unwrap();
    assert_eq!(segment.sync().unwrap_err().raw_os_error(), Some(5));
    assert!(segment.sync().is_err() && file.sync().is_ok());
    assert!(disk.rename(path("/d/f"), path("/d/k")).is_err());
    disk.rename(path("/d/f"), path("/d/k")).unwrap();
}

#[test]
fn the_trace_lists_every_operation() {
    let (disk, file) = disk_with(b"");
    file.sync().unwrap();
    disk.start_trace();
    disk.create_dir(path("/e")).unwrap();
    disk.rename(path("/d/f"), path("/e/f")).unwrap();
    file.write_at(b"x", 0).unwrap();
    let trace: Vec<_> = disk.trace().iter().map(ToString::to_string).collect();
    assert_eq!(trace, ["2 CreateDir /e", "3 Rename /d/f -> /e/f", "4 Write /d/f"]);
    assert_eq!(disk.operations(), 4);
    assert_eq!(disk.bytes("/e/f").unwrap(), b"x");
}

#[test]
fn a_lock_is_exclusive_until_its_handle_is_dropped_or_a_crash() {
    let disk = SimDisk::new();
    let held = disk.lock(path("/LOCK")).unwrap().unwrap();
    held.write_at(b"me", 0).unwrap();
    assert!(disk.shared().lock(path("/LOCK")).unwrap().is_none());
    assert!(disk.crash(CrashPolicy::KeepAll).lock(path("/LOCK")).unwrap().is_some());
    assert!(disk.clone_state().lock(path("/LOCK")).unwrap().is_some());
    drop(held);
    assert!(disk.lock(path("/LOCK")).unwrap().is_some());
    assert!(disk.lock(path("/none/LOCK")).is_err());
}

#[test]
fn names_behave_as_on_a_unix_file_system() {
    let (disk, file) = disk_with(b"x");
    let kind = |r: io::Result<()>| r.unwrap_err().kind();
    assert_eq!(kind(disk.create(path("/d/f")).map(drop)), io::ErrorKind::AlreadyExists);
    assert_eq!(kind(disk.open(path("/d/nobody")).map(drop)), io::ErrorKind::NotFound);
    assert_eq!(kind(disk.open(path("/d")).map(drop)), io::ErrorKind::IsADirectory);
    assert_eq!(kind(disk.open(path("/d/../d/f")).map(drop)), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.create_dir(path("/d/f/g"))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(disk.remove_dir(path("/d"))), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(kind(disk.rename(path("/d"), path("/d/e"))), io::ErrorKind::InvalidInput);
    assert_eq!(kind(disk.rename(path("/d/f"), path("/d"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(file.write_at(b"x", u64::MAX)), io::ErrorKind::FileTooLarge);
    let reading = disk.open(path("/d/f")).unwrap();
    assert_eq!(kind(reading.write_at(b"x", 0)), io::ErrorKind::PermissionDenied);
    disk.create_dir(path("/d")).unwrap();
    assert_eq!(disk.list(path("/d")).unwrap(), ["f"]);
    // As on Unix, an open file outlives its name.
    disk.remove(path("/d/f")).unwrap();
    assert_eq!((disk.list(path("/d")).unwrap().len(), file.len().unwrap()), (0, 1));
    disk.rename(path("/d"), path("/e")).unwrap();
    disk.remove_dir(path("/e")).unwrap();
    assert!(disk.list(path("/")).unwrap().is_empty());
}

#[test]
fn copies_are_independent_and_damage_is_durable() {
    let (disk, file) = disk_with(&[0, 0]);
    let copy = disk.clone_state();
    file.write_at(&[7], 0).unwrap();
    assert_eq!(copy.bytes("/d/f").unwrap(), [0, 0]);
    copy.flip_bit("/d/f", 1, 3).unwrap();
    assert_eq!(copy.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), [0, 8]);
    assert!(copy.flip_bit("/d/f", 2, 0).is_err() && copy.flip_bit("/d/f", 0, 8).is_err());
    copy.cut("/d/f", 1).unwrap();
    assert_eq!(copy.crash(CrashPolicy::DropAll).bytes("/d/f").unwrap(), [0]);
    assert_eq!(disk.bytes("/d/f").unwrap(), [7, 0]);
}
