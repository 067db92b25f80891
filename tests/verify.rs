//! Verify finds nothing in an intact database. VERIFY DEEP finds lies with valid checksums; VERIFY finds every flipped
//! byte.

#![expect(clippy::disallowed_methods, reason = "this test damages files, and runs driftctl")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::database::{ARGS, Copy, flip, shared};
use crate::harness::{Daemon, binary};
use bytes::Bytes;
use driftdb_common::format::document::Document;
use driftdb_common::format::snapshot::{
    CandidateEntry, CommitEntry, ProducerEntry, RequestEntry, RowEntry, VersionEntry, kind, push_version,
    read_version, tree,
};

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// The exit code and the output of `driftctl`.
fn driftctl(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary("driftctl")).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
}

/// Changes the middle entry of a tree.
fn in_the_middle(
    wanted: u8,
    mut count: u64,
    mut change: impl FnMut(&[u8], Bytes) -> Option<Entries>,
) -> impl FnMut(u8, &[u8], &[u8]) -> Entries {
    let mut changed = false;
    move |tree, key, value| {
        let as_it_is = vec![(key.to_vec(), value.to_vec())];
        if tree != wanted || changed {
            return as_it_is;
        }
        count = count.saturating_sub(1);
        if count > 0 {
            return as_it_is;
        }
        match change(key, Bytes::copy_from_slice(value)) {
            Some(entries) => {
                changed = true;
                entries
            }
            None => as_it_is,
        }
    }
}

fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    encode(&mut out);
    out
}

/// A lie: its name, the kind of file, and how to change an entry.
type Lie = (&'static str, u8, Box<dyn FnMut(u8, &[u8], &[u8]) -> Entries>);

fn lies() -> Vec<Lie> {
    let other = || Document::from_json(r#"{"id":"k1","status":"never"}"#).unwrap();
    let version = |change: fn(VersionEntry) -> Option<VersionEntry>| {
        in_the_middle(tree::VERSIONS, 9, move |key, value| {
            let entry = change(VersionEntry::decode(&value).unwrap())?;
            Some(vec![(key.to_vec(), encoded(|out| entry.encode(out)))])
        })
    };
    let commit = |change: fn(&mut CommitEntry)| {
        in_the_middle(tree::COMMITS, 9, move |key, value| {
            let mut entry = CommitEntry::decode(&value).unwrap();
            change(&mut entry);
            Some(vec![(key.to_vec(), encoded(|out| entry.encode(out)))])
        })
    };
    let candidate = |change: fn(CandidateEntry) -> CandidateEntry| {
        in_the_middle(tree::CANDIDATES, 3, move |key, value| {
            let entry = CandidateEntry::decode(&value).unwrap();
            let changed = change(entry);
            (changed != entry).then(|| vec![(key.to_vec(), encoded(|out| changed.encode(out)))])
        })
    };
    vec![
        (
            "a row of all rows with another content",
            kind::IMAGE,
            Box::new(in_the_middle(tree::ROWS, 5, move |key, value| {
                let entry = RowEntry { document: other(), ..RowEntry::decode(&value).unwrap() };
                Some(vec![(key.to_vec(), encoded(|out| entry.encode(out)))])
            })),
        ),
        (
            "a row of another commit",
            kind::IMAGE,
            Box::new(in_the_middle(tree::ROWS, 5, |key, value| {
                let entry = RowEntry::decode(&value).unwrap();
                let entry = RowEntry { seq: entry.seq - 1, ..entry };
                Some(vec![(key.to_vec(), encoded(|out| entry.encode(out)))])
            })),
        ),
        ("a row missing", kind::IMAGE, Box::new(in_the_middle(tree::ROWS, 5, |_, _| Some(Vec::new())))),
        (
            "a row too many",
            kind::IMAGE,
            Box::new(in_the_middle(tree::ROWS, 5, |key, value| {
                let mut next = key.to_vec();
                next.extend_from_slice(&[1, 0, 0]);
                Some(vec![(key.to_vec(), value.to_vec()), (next, value.to_vec())])
            })),
        ),
        (
            "a version missing",
            kind::DELTA,
            Box::new(in_the_middle(tree::VERSIONS, 9, |_, _| Some(Vec::new()))),
        ),
        (
            "a version too many",
            kind::DELTA,
            Box::new(in_the_middle(tree::VERSIONS, 9, {
                let mut before: Option<Vec<u8>> = None;
                move |key, value| {
                    // The commit before, unless this is the row's first version: the order stays valid.
                    let row = key[..key.len() - 12].to_vec();
                    let same = before.replace(row.clone()).is_none_or(|before| before == row);
                    let (_, seq, index) = read_version(key).unwrap();
                    if same || seq < 2 {
                        return None;
                    }
                    let mut extra = row;
                    push_version(&mut extra, seq - 1, index);
                    Some(vec![(extra, value.to_vec()), (key.to_vec(), value.to_vec())])
                }
            })),
        ),
        (
            "another content of a version",
            kind::DELTA,
            Box::new(version(|entry| {
                entry.payload.as_ref()?;
                let payload = Document::from_json(r#"{"status":"never"}"#).ok();
                Some(VersionEntry { payload, ..entry })
            })),
        ),
        (
            "another time of a version",
            kind::DELTA,
            Box::new(version(|entry| Some(VersionEntry { time_ms: entry.time_ms + 1, ..entry }))),
        ),
        (
            "another row after a patch",
            kind::DELTA,
            Box::new(version(|entry| {
                entry.image.as_ref()?;
                let image = Document::from_json(r#"{"id":"k1","status":"never"}"#).ok();
                Some(VersionEntry { image, ..entry })
            })),
        ),
        ("another count of rows", kind::DELTA, Box::new(commit(|entry| entry.rows += 1))),
        ("another count of events", kind::DELTA, Box::new(commit(|entry| entry.events += 1))),
        ("another reason", kind::DELTA, Box::new(commit(|entry| entry.reason = "nobody said this".into()))),
        ("a commit that did less", kind::DELTA, Box::new(commit(|entry| drop(entry.changes.pop())))),
        ("a commit missing", kind::DELTA, Box::new(in_the_middle(tree::COMMITS, 9, |_, _| Some(Vec::new())))),
        (
            "a request missing",
            kind::DELTA,
            Box::new(in_the_middle(tree::REQUESTS, 9, |_, _| Some(Vec::new()))),
        ),
        (
            "another request",
            kind::DELTA,
            Box::new(in_the_middle(tree::REQUESTS, 9, |key, value| {
                let mut entry = RequestEntry::decode(&value).unwrap();
                entry.request.id.push('x');
                Some(vec![(key.to_vec(), encoded(|out| entry.encode(out)))])
            })),
        ),
        (
            "a candidate missing",
            kind::IMAGE_INDEX,
            Box::new(in_the_middle(tree::CANDIDATES, 3, |_, _| Some(Vec::new()))),
        ),
        (
            "a candidate of a delta layer missing",
            kind::DELTA_INDEX,
            Box::new(in_the_middle(tree::CANDIDATES, 3, |_, _| Some(Vec::new()))),
        ),
        (
            "a candidate too many",
            kind::DELTA_INDEX,
            Box::new(in_the_middle(tree::CANDIDATES, 3, |key, value| {
                let mut next = key.to_vec();
                next.insert(next.len() - 2, b'x');
                Some(vec![(key.to_vec(), value.to_vec()), (next, value.to_vec())])
            })),
        ),
        (
            "a candidate that comes too late",
            kind::DELTA_INDEX,
            Box::new(candidate(|entry| CandidateEntry { first: entry.first + 1, ..entry })),
        ),
        (
            "a candidate that ends too early",
            kind::DELTA_INDEX,
            Box::new(candidate(|entry| match entry.until {
                0 => CandidateEntry { until: entry.first + 1, ..entry },
                _ => entry,
            })),
        ),
    ]
}

#[tokio::test]
async fn an_intact_database_has_no_problems_and_every_lie_is_found() {
    let original = shared().await;
    let healthy = Copy::of(original.path());
    let manifest = healthy.manifest("orders");
    assert!(manifest.deltas.len() > 2 && !manifest.images.is_empty(), "{manifest:?}");
    assert!(manifest.segments.len() > 2, "{manifest:?}");
    let compacted = healthy.manifest("archive");
    let [base, next, ..] = &compacted.deltas[..] else { panic!("{compacted:?}") };
    // The floor is inside a delta layer.
    assert!(base.is_compaction_base() && next.base < base.seq, "{compacted:?}");
    for deep in [false, true] {
        let (problems, figures) = healthy.verify(deep);
        assert_eq!(problems, []);
        assert!(figures.files > 10 && figures.frames > 800 && figures.rows > 700, "{figures:?}");
        assert_eq!(figures.problems, 0);
    }
    for (what, kind, mut change) in lies() {
        let copy = Copy::of(original.path());
        let file = copy.file("orders", kind);
        let before = fs::read(&file.0).unwrap();
        copy.rewrite(&file, &mut change);
        assert!(before != fs::read(&file.0).unwrap(), "{what}: the test changed nothing");
        let (problems, _) = copy.verify(true);
        let first = problems.first().unwrap_or_else(|| panic!("{what}: not found"));
        assert_eq!(first.file, file.0.display().to_string(), "{what}: {problems:#?}");
        println!("{what}: {}", first.message);
    }
}

/// Only Ingest makes a producer's position. VERIFY DEEP compares it, too.
#[tokio::test]
async fn a_producer_that_never_existed_is_found() {
    let original = shared().await;
    let copy = Copy::of(original.path());
    let file = copy.file("orders", kind::DELTA);
    let origin = driftdb_common::format::event::IngestOrigin {
        producer: "nobody".into(),
        batch: 1,
        operation: 0,
        ends: true,
    };
    let entry = ProducerEntry { seq: file.1.seq, origin };
    let disk = driftdb_common::storage::fs::OsFileSystem::shared();
    let table_files = copy.table_files();
    let old =
        driftdb_common::storage::sst::SstFile::open(disk.clone(), file.0.clone(), file.1, table_files.cache)
            .unwrap();
    driftdb_common::storage::sst::write_file(&*disk, &file.0, file.1, |out| {
        for id in [tree::VERSIONS, tree::COMMITS, tree::REQUESTS] {
            out.begin_tree(id, false)?;
            let mut cursor = old.cursor(id);
            cursor.first()?;
            while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                out.add(key, None, &value)?;
                cursor.next()?;
            }
            out.end_tree()?;
        }
        out.begin_tree(tree::PRODUCERS, false)?;
        out.add(b"nobody", None, &encoded(|out| entry.encode(out)))?;
        out.end_tree()?;
        Ok(old.properties().to_vec())
    })
    .unwrap();
    assert_eq!(copy.verify(false).0, []);
    let (problems, _) = copy.verify(true);
    assert!(problems[0].message.contains("nobody"), "{problems:?}");
}

#[tokio::test]
#[ignore = "slow"]
async fn every_flipped_byte_is_found() {
    let original = shared().await;
    let healthy = Copy::of(original.path());
    let mut paths: Vec<PathBuf> = Vec::new();
    for table in ["orders", "reborn", "archive"] {
        paths.extend(healthy.files(table).into_iter().map(|(path, _)| path));
        let segments = healthy.manifest(table).segments;
        paths.extend(segments.iter().map(|segment| healthy.dir.segment(table, segment.number)));
    }
    for path in paths {
        let kept = fs::read(&path).unwrap();
        let steps = kept.len().div_ceil(6).max(1);
        for at in (0..kept.len()).step_by(steps).chain([kept.len().saturating_sub(1)]) {
            if kept.is_empty() {
                continue;
            }
            flip(&path, at);
            let (problems, _) = healthy.verify(false);
            let named = problems.iter().any(|problem| problem.file == path.display().to_string());
            assert!(named, "{} byte {at}: {problems:#?}", path.display());
            fs::write(&path, &kept).unwrap();
        }
        fs::remove_file(&path).unwrap();
        let (problems, _) = healthy.verify(true);
        assert!(problems.iter().any(|problem| problem.file == path.display().to_string()), "{problems:#?}");
        fs::write(&path, &kept).unwrap();
    }
    // Verify compares what meta.json says of layers with the log.
    let sound = healthy.manifest("orders");
    type Change = fn(&mut driftdb_common::format::manifest::LogPosition);
    let changes: [Change; 4] = [
        |position| position.offset += 1,
        |position| position.digest ^= 1,
        |position| position.frames += 1,
        |position| position.segment += 70,
    ];
    for change in changes {
        let mut manifest = sound.clone();
        change(&mut manifest.deltas[0].position);
        healthy.put_manifest(&manifest);
        let (problems, _) = healthy.verify(false);
        assert!(problems.iter().any(|found| found.file.ends_with("orders/meta.json")), "{problems:?}");
    }
}

#[tokio::test]
async fn driftctl_verify_reports_damage_while_the_writer_runs() {
    let original = shared().await;
    let copy = Copy::of(original.path());
    let daemon = Daemon::start("driftdb-writer", copy.dir.root(), &ARGS);
    let (code, told) = driftctl(&["--writer", &daemon.url, "verify", "--deep"]);
    assert!(code == 0 && told.contains(r#""problems":0"#), "{code} {told}");
    let (code, told) = driftctl(&["--writer", &daemon.url, "verify", "-t", "orders"]);
    assert!(code == 0 && told.contains(r#""problems":0"#), "{code} {told}");
    let (_, _, mut change) = lies().remove(0);
    let file = copy.file("orders", kind::IMAGE);
    copy.rewrite(&file, &mut change);
    assert_eq!(driftctl(&["--writer", &daemon.url, "verify"]).0, 0);
    let (code, told) = driftctl(&["--writer", &daemon.url, "verify", "--deep"]);
    assert!(code == 6 && told.contains(&file.0.display().to_string()), "{code} {told}");
    flip(&file.0, 40);
    let (code, told) = driftctl(&["--writer", &daemon.url, "verify", "-t", "orders"]);
    assert!(code == 6 && told.contains(&file.0.display().to_string()), "{code} {told}");
    assert_eq!(driftctl(&["--writer", &daemon.url, "verify", "-t", "numbers", "--deep"]).0, 0);
}
