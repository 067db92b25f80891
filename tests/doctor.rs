//! `driftctl doctor` names what is damaged and changes nothing without `--repair`; a repaired database answers as
//! before.

#![expect(clippy::disallowed_methods, reason = "this test damages files")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::harness::database::{Copy, answers, shared};
use crate::harness::lane::is_soak;
use crate::harness::script;
use driftdb_common::error::Reason;
use driftdb_common::format::snapshot::kind;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::table::check::doctor::{self, ExamSummary, Finding, Severity};

/// So small that many segments are sealed.
const SEGMENT: u64 = 2000;
const COMMITS: u64 = 60;

/// The disk after the whole script and a clean close.
fn closed() -> SimDisk {
    let disk = SimDisk::new();
    assert_eq!(script::run(disk.shared(), SEGMENT, COMMITS).acknowledged, COMMITS);
    disk
}

/// The doctor's findings. It must leave everything except LOCK unchanged.
fn examined(disk: &SimDisk) -> (Vec<Finding>, ExamSummary) {
    let state = || -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let paths = disk.paths().into_iter().filter(|path| !path.ends_with("LOCK"));
        paths.map(|path| (path.clone(), disk.bytes(&path))).collect()
    };
    let before = state();
    let mut findings = Vec::new();
    let summary =
        doctor::examine(disk.shared(), &script::dir(), false, &mut |finding| findings.push(finding)).unwrap();
    assert!(before == state(), "the doctor changed a file");
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
fn an_intact_database_has_no_findings() {
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
    let newest =
        list.iter().filter_map(|name| driftdb_common::storage::layout::segment_number(name)).max().unwrap();
    let path = script::dir().segment("beta", newest);
    disk.cut(&path, 10).unwrap();
    let (findings, _) = examined(&disk);
    let first = &findings[0];
    assert_eq!((first.severity, first.offset), (Severity::Damage, 0), "{findings:#?}");
    assert_eq!(first.file, path.display().to_string());
}

#[test]
fn a_missing_file_is_a_finding() {
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
fn a_head_with_one_bad_copy_is_a_finding() {
    let disk = closed();
    disk.flip_bit(script::dir().head(), 20, 0).unwrap();
    let finding = only(examined(&disk).0);
    assert_eq!((finding.severity, finding.offset), (Severity::Damage, 0));
    assert!(finding.message.contains("uses the other copy"), "{finding:?}");
    disk.flip_bit(script::dir().head(), 84, 0).unwrap();
    let (findings, _) = examined(&disk);
    assert!(findings.iter().any(|f| f.severity == Severity::Damage && f.message.contains("neither copy")));
}

#[test]
fn leftovers_are_noted() {
    let disk = closed();
    disk.put(script::dir().torn_tail("alpha", 1, 2), b"torn").unwrap();
    disk.put(script::dir().segments("alpha").join("notes.txt"), b"?").unwrap();
    disk.put(script::dir().segment("alpha", 999), b"").unwrap();
    // A table whose creation was interrupted.
    let segments = script::dir().segments("delta");
    disk.shared().create_dir(&script::dir().table("delta")).unwrap();
    disk.shared().create_dir(&segments).unwrap();
    disk.put(script::dir().segment("delta", 1), b"").unwrap();
    let (findings, summary) = examined(&disk);
    assert_eq!((findings.len(), summary.notes, summary.damage), (4, 4, 0), "{findings:#?}");
}

#[test]
fn a_database_with_a_running_writer_is_not_touched() {
    let disk = closed();
    let (log, _) = script::open(disk.shared(), SEGMENT).unwrap();
    let refused = doctor::examine(disk.shared(), &script::dir(), false, &mut |_| {}).unwrap_err();
    assert_eq!(refused.reason(), Reason::DatabaseLocked);
    log.close().unwrap();
    let empty = doctor::examine(SimDisk::new().shared(), &script::dir(), false, &mut |_| {}).unwrap_err();
    assert!(matches!(empty.reason(), Reason::Io | Reason::ArgumentInvalid));
}

/// All files below a directory, except LOCK.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !path.ends_with("LOCK") {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn segments(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = contents(dir);
    found.retain(|path, _| path.extension().is_some_and(|end| end == "seg"));
    found
}

fn doctored(copy: &Copy, repair: bool) -> (Vec<Finding>, ExamSummary) {
    let mut findings = Vec::new();
    let summary =
        doctor::examine(OsFileSystem::shared(), &copy.dir, repair, &mut |finding| findings.push(finding))
            .unwrap();
    (findings, summary)
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flip,
    Remove,
}

impl Harm {
    fn to(self, path: &Path) {
        match self {
            Harm::Flip => {
                let mut bytes = fs::read(path).unwrap();
                let at = bytes.len() / 3;
                bytes[at] ^= 0x10;
                fs::write(path, bytes).unwrap();
            }
            Harm::Remove => fs::remove_file(path).unwrap(),
        }
    }
}

type Damage = (String, Box<dyn Fn(&Copy)>);

/// Everything that can be repaired.
fn damages() -> Vec<Damage> {
    let mut damages: Vec<Damage> = Vec::new();
    for harm in [Harm::Flip, Harm::Remove] {
        for (table, kind) in [
            ("orders", kind::DELTA),
            ("orders", kind::IMAGE),
            ("orders", kind::DELTA_INDEX),
            ("orders", kind::IMAGE_INDEX),
            ("archive", kind::IMAGE_INDEX),
            ("archive", kind::DELTA_INDEX),
        ] {
            damages.push((
                format!("{harm:?} file of kind {kind} of {table}"),
                Box::new(move |copy| harm.to(&copy.file(table, kind).0)),
            ));
        }
        damages.push((
            format!("{harm:?} newest delta layer of a compacted table"),
            Box::new(move |copy| {
                let manifest = copy.manifest("archive");
                let delta = manifest.deltas.last().unwrap();
                assert!(manifest.deltas.len() > 2);
                harm.to(&copy.dir.delta_layer("archive", delta.base, delta.seq));
            }),
        ));
        for table in ["orders", "gone"] {
            damages.push((
                format!("{harm:?} meta.json of {table}"),
                Box::new(move |copy| harm.to(&copy.dir.manifest(table))),
            ));
        }
    }
    damages.push((
        "a delta layer and an index of another table".into(),
        Box::new(|copy| {
            let delta = copy.manifest("numbers").deltas[1].clone();
            Harm::Flip.to(&copy.dir.delta_layer("numbers", delta.base, delta.seq));
            Harm::Remove.to(&copy.file("orders", kind::DELTA_INDEX).0);
        }),
    ));
    damages.push((
        "both headers of HEAD".into(),
        Box::new(|copy| {
            let mut bytes = fs::read(copy.dir.head()).unwrap();
            bytes[20] ^= 1;
            bytes[84] ^= 1;
            fs::write(copy.dir.head(), bytes).unwrap();
        }),
    ));
    damages.push(("no HEAD".into(), Box::new(|copy| fs::remove_file(copy.dir.head()).unwrap())));
    damages.push((
        "no HEAD, and no delta layer".into(),
        Box::new(|copy| {
            fs::remove_file(copy.dir.head()).unwrap();
            Harm::Remove.to(&copy.file("orders", kind::DELTA).0);
        }),
    ));
    damages.push(("no database.json".into(), Box::new(|copy| fs::remove_file(copy.dir.database()).unwrap())));
    damages
}

#[tokio::test]
#[ignore = "slow"]
async fn a_repaired_database_answers_as_before() {
    let original = shared().await;
    let before = answers(Copy::of(original.path()).dir.root()).await;
    assert!(before.len() > 100);
    let soak = is_soak();
    // Each case takes seconds: the default form tries some of every kind, the long form all.
    let chosen = |at: usize| soak || at % 5 == 2;
    for (_, (what, damage)) in (0..).zip(damages()).filter(|(at, _)| chosen(*at)) {
        let copy = Copy::of(original.path());
        let root = copy.dir.root();
        damage(&copy);
        let harmed = contents(root);
        let (findings, summary) = doctored(&copy, false);
        assert!(summary.damage > 0 && summary.repaired == 0, "{what}: {findings:#?}");
        assert!(contents(root) == harmed, "{what}: a file changed without --repair");
        let log = segments(root);
        let (findings, summary) = doctored(&copy, true);
        assert!(summary.damage == 0 && summary.repaired > 0, "{what}: {summary:?} {findings:#?}");
        assert!(findings.iter().any(|finding| finding.severity == Severity::Repair), "{what}");
        assert!(segments(root) == log, "{what}: repair changed a segment");
        let after = answers(root).await;
        for (question, answer) in &before {
            assert_eq!(after.get(question), Some(answer), "{what}: {question}");
        }
        assert_eq!(copy.verify(true).0, [], "{what}");
        assert_eq!(doctored(&copy, false).1.damage, 0, "{what}");
    }
}

#[tokio::test]
async fn repair_removes_leftovers_and_nothing_else() {
    let original = shared().await;
    let copy = Copy::of(original.path());
    let root = copy.dir.root();
    let before = contents(root);
    let (findings, summary) = doctored(&copy, true);
    assert_eq!((summary.damage, summary.repaired), (0, 0), "{findings:#?}");
    let left = [
        root.join("HEAD.tmp"),
        copy.dir.table("orders").join("meta.tmp"),
        copy.dir.delta_layer("orders", 7, 9),
        copy.dir.index("orders", "status", "00000007-00000009"),
    ];
    for path in &left {
        fs::write(path, b"left").unwrap();
    }
    assert_eq!(doctored(&copy, false).1.notes, 4);
    let (_, summary) = doctored(&copy, true);
    assert_eq!((summary.damage, summary.repaired), (0, 4));
    assert!(contents(root) == before);
}

#[tokio::test]
async fn irreparable_damage_is_reported_and_left_unchanged() {
    let original = shared().await;
    let archive = Copy::of(original.path()).manifest("archive");
    let floor = archive.floor.expect("archive is compacted").seq;
    let around_floor = archive.deltas.into_iter().find(|delta| delta.base < floor && floor < delta.seq);
    let mut damages: Vec<(Damage, bool)> = Vec::new();
    let mut add =
        |what: &str, said: bool, damage: Box<dyn Fn(&Copy)>| damages.push(((what.to_owned(), damage), said));
    for harm in [Harm::Flip, Harm::Remove] {
        add(
            "the rows at the floor",
            true,
            Box::new(move |copy| harm.to(&copy.file("archive", kind::IMAGE).0)),
        );
        add(
            "what stands at the floor",
            true,
            Box::new(move |copy| harm.to(&copy.file("archive", kind::DELTA).0)),
        );
        // Background snapshots decide where layers end. A layer that starts at the floor can be rebuilt from the log.
        let around = around_floor.clone();
        match around {
            Some(delta) => add(
                "the delta layer around the floor",
                true,
                Box::new(move |copy| harm.to(&copy.dir.delta_layer("archive", delta.base, delta.seq))),
            ),
            None => eprintln!("skipped: no delta layer spans the floor"),
        }
        add(
            "meta.json of a compacted table",
            true,
            Box::new(move |copy| harm.to(&copy.dir.manifest("archive"))),
        );
        add("a segment", false, Box::new(move |copy| harm.to(&copy.dir.segment("orders", 1))));
        add(
            "a segment and a delta layer",
            true,
            Box::new(move |copy| {
                harm.to(&copy.dir.segment("orders", 2));
                harm.to(&copy.file("orders", kind::DELTA).0);
            }),
        );
        add(
            "a segment and HEAD",
            true,
            Box::new(move |copy| {
                harm.to(&copy.dir.segment("orders", 2));
                fs::remove_file(copy.dir.head()).unwrap();
            }),
        );
        add(
            "HEAD and database.json",
            true,
            Box::new(move |copy| {
                fs::remove_file(copy.dir.database()).unwrap();
                fs::remove_file(copy.dir.head()).unwrap();
            }),
        );
        add(
            "meta.json and a segment",
            true,
            Box::new(move |copy| {
                harm.to(&copy.dir.manifest("orders"));
                harm.to(&copy.dir.segment("orders", 1));
            }),
        );
    }
    for ((what, damage), said) in damages {
        let copy = Copy::of(original.path());
        damage(&copy);
        let harmed = contents(copy.dir.root());
        let (findings, summary) = doctored(&copy, true);
        assert!(summary.damage > 0 && summary.repaired == 0, "{what}: {summary:?} {findings:#?}");
        assert!(contents(copy.dir.root()) == harmed, "{what}: a file changed");
        let told = findings.iter().any(|finding| finding.message.contains("cannot be repaired"));
        assert_eq!(told, said, "{what}: {findings:#?}");
        // The writer also refuses to open such a database, or reports the damage when it reads the damaged part.
        assert!(findings.iter().any(|finding| finding.severity == Severity::Damage), "{what}");
    }
}
