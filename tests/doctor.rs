//! The doctor names what is damaged, and changes nothing.

mod harness;

use std::path::PathBuf;

use driftdb_common::error::Reason;
use driftdb_common::log::disk::sim::SimDisk;
use driftdb_common::table::doctor::{self, Finding, Severity, Summary};
use harness::script;

/// So small that there are many sealed segments.
const SEGMENT: u64 = 2000;
const COMMITS: u64 = 60;

/// The script run to its end: a disk as a clean close leaves it.
fn closed() -> SimDisk {
    let disk = SimDisk::new();
    assert_eq!(script::run(disk.shared(), SEGMENT, COMMITS).acknowledged, COMMITS);
    disk
}

/// What the doctor finds; it must leave everything but LOCK as it was.
fn examined(disk: &SimDisk) -> (Vec<Finding>, Summary) {
    let state = || -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let paths = disk.paths().into_iter().filter(|path| !path.ends_with("LOCK"));
        paths.map(|path| (path.clone(), disk.bytes(&path))).collect()
    };
    let before = state();
    let mut findings = Vec::new();
    let summary =
        doctor::examine(disk.shared(), &script::dir(), false, &mut |finding| findings.push(finding)).unwrap();
    assert!(before == state(), "something was changed");
    let damage = findings.iter().filter(|finding| finding.severity == Severity::Damage).count();
    assert_eq!(usize::try_from(summary.damage).unwrap(), damage);
    assert_eq!(usize::try_from(summary.damage + summary.notes).unwrap(), findings.len());
    (findings, summary)
}

fn only(findings: Vec<Finding>) -> Finding {
    let [finding] = <[Finding; 1]>::try_from(findings).unwrap_or_else(|found| panic!("{found:#?}"));
    finding
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let disk = closed();
    let (findings, summary) = examined(&disk);
    assert_eq!(findings, []);
    assert!(summary.tables == 3 && summary.files > 8 && summary.frames >= COMMITS, "{summary:?}");
}

#[test]
fn a_flipped_bit_in_a_sealed_segment_is_named() {
    let disk = closed();
    let path = script::dir().segment("alpha", 1);
    disk.flip_bit(&path, 100, 3).unwrap();
    let finding = only(examined(&disk).0);
    assert_eq!((finding.severity, finding.file), (Severity::Damage, path.display().to_string()));
    assert!(finding.offset <= 100 && finding.message.contains("published"), "{}", finding.message);
}

#[test]
fn a_truncated_active_segment_is_named() {
    let disk = closed();
    let list = disk.shared().list(&script::dir().segments("beta")).unwrap();
    let newest = list.iter().filter_map(|name| driftdb_common::log::dir::segment_number(name)).max().unwrap();
    let path = script::dir().segment("beta", newest);
    disk.cut(&path, 10).unwrap();
    let (findings, _) = examined(&disk);
    let first = &findings[0];
    assert_eq!((first.severity, first.offset), (Severity::Damage, 0), "{findings:#?}");
    assert_eq!(first.file, path.display().to_string());
}

#[test]
fn what_is_missing_is_named() {
    for name in ["tables/gamma/meta.json", "tables/alpha/segments/00000001.seg", "database.json", "HEAD"] {
        let disk = closed();
        let path = script::dir().root().join(name);
        disk.shared().remove(&path).unwrap();
        let (findings, summary) = examined(&disk);
        let named = |finding: &Finding| finding.file == path.display().to_string();
        let found = findings.iter().find(|f| named(f)).unwrap_or_else(|| panic!("{name}: {findings:#?}"));
        assert!(found.message.contains("missing") && found.severity == Severity::Damage, "{found:?}");
        assert!(summary.damage > 0);
    }
}

#[test]
fn a_head_that_has_lost_a_copy_is_only_noted() {
    let disk = closed();
    disk.flip_bit(script::dir().head(), 20, 0).unwrap();
    let finding = only(examined(&disk).0);
    assert_eq!(finding.severity, Severity::Note);
    disk.flip_bit(script::dir().head(), 84, 0).unwrap();
    let (findings, _) = examined(&disk);
    assert!(findings.iter().any(|f| f.severity == Severity::Damage && f.message.contains("neither copy")));
}

#[test]
fn leftovers_are_noted() {
    let disk = closed();
    disk.put(script::dir().torn("alpha", 1, 2), b"torn").unwrap();
    disk.put(script::dir().segments("alpha").join("notes.txt"), b"?").unwrap();
    disk.put(script::dir().segment("alpha", 999), b"").unwrap();
    // A table whose creation was cut short.
    let segments = script::dir().segments("delta");
    disk.shared().create_dir(&script::dir().table("delta")).unwrap();
    disk.shared().create_dir(&segments).unwrap();
    disk.put(script::dir().segment("delta", 1), b"").unwrap();
    let (findings, summary) = examined(&disk);
    assert_eq!((findings.len(), summary.notes, summary.damage), (4, 4, 0), "{findings:#?}");
}

#[test]
fn a_database_with_a_writer_is_left_alone() {
    let disk = closed();
    let (log, _) = script::open(disk.shared(), SEGMENT).unwrap();
    let refused = doctor::examine(disk.shared(), &script::dir(), false, &mut |_| {}).unwrap_err();
    assert_eq!(refused.reason(), Reason::DatabaseLocked);
    log.close().unwrap();
    let empty = doctor::examine(SimDisk::new().shared(), &script::dir(), false, &mut |_| {}).unwrap_err();
    assert!(matches!(empty.reason(), Reason::Io | Reason::ArgumentInvalid));
}
