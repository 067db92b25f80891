//! The on-disk format is frozen: the daemons, and a second decoder written from `common/FORMAT.md`, read
//! `tests/fixtures/v1`, and known events are written as exactly the known bytes. The same holds for
//! `tests/fixtures/blocks`.
//!
//! `DRIFTDB_BLESS=1 cargo test --test integration format::` creates a missing fixture. An existing fixture never
//! changes: a change of the format gets a new version and a new fixture.

#![expect(clippy::disallowed_methods, reason = "these tests read and copy fixtures")]

mod blocks;
mod composite;
pub mod crc;
mod decoder;
mod history;
mod keys;
mod known;
mod renamed;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::OnceLock;

use crate::harness::*;
use driftdb::v1;
use history::{LAST, REOPENED_AT};

const TABLES: [(&str, u64); 3] = [("people", 1), ("numbers", 2), ("marks", 3)];

/// The directory of the oldest fixture, which must stay readable.
fn fixture() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| made("v1"))
}

/// The directory of the newest fixture, which the writer must reproduce. Since v1.1, an INSERT that replaces a live row
/// says so (`u`). Since v2, HEAD names the incarnation. Since v3, a schema can have composite indexes (see `composite`).
/// Since v4, tables can be renamed (see `renamed`).
fn newest() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| made("v4"))
}

/// A fixture's directory. Creates a missing fixture if `DRIFTDB_BLESS` is set.
fn made(name: &str) -> PathBuf {
    let with_snapshots = name == "snapshots";
    made_by(name, move |dir| {
        Box::pin(async move {
            history::write(dir).await;
            if with_snapshots {
                history::snapshot(dir, &TABLES.map(|(table, _)| table)).await;
            }
        })
    })
}

/// As [`made`], with another history.
fn made_by(name: &str, write: impl FnOnce(&Path) -> Pin<Box<dyn Future<Output = ()> + '_>>) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    if !dir.exists() && std::env::var_os("DRIFTDB_BLESS").is_some() {
        let made = tempfile::tempdir().unwrap();
        tokio::runtime::Runtime::new().unwrap().block_on(write(made.path()));
        for name in ["LOCK", "RESERVE"] {
            fs::remove_file(made.path().join(name)).unwrap();
        }
        copy(made.path(), &dir);
    }
    assert!(dir.exists(), "{} is missing", dir.display());
    dir
}

fn copy(from: &Path, to: &Path) {
    for (path, bytes) in files(from) {
        let to = to.join(path);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::write(to, bytes).unwrap();
    }
}

/// Every file below a directory, by its path in it.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn text(files: &BTreeMap<String, Vec<u8>>, name: &str) -> String {
    String::from_utf8(files[name].clone()).unwrap()
}

#[test]
fn the_daemons_read_the_fixtures() {
    for fixture in ["v1", "v1.1", "v2", "v3", "v4"] {
        the_daemons_read(&made(fixture));
    }
}

fn the_daemons_read(fixture: &Path) {
    let dir = tempfile::tempdir().unwrap();
    copy(fixture, dir.path());
    let before = files(dir.path());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        check(&mut reader).await;
        let after_reading = files(dir.path());
        assert!(after_reading == before, "the reader changed a file");

        let mut writer_daemon = Daemon::writer_of_old(dir.path());
        let mut writer = writer_daemon.as_writer().await;
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.last_seq, status.term, status.last_time), (LAST, 3, Some(history::time(LAST))));
        let token = apply(&mut writer, vec![insert("people", r#"{"id":"new"}"#)]).await.unwrap();
        assert_eq!(token.seq, LAST + 1);
        check(&mut reader).await;
        assert_eq!(select_at(&mut reader, "people", LAST + 1).await.unwrap().len(), 6);
        assert!(writer_daemon.terminate().await.success());
    });
    let after = files(dir.path());
    for (name, bytes) in before.iter().filter(|(name, _)| name.contains(".seg")) {
        assert!(after[name].starts_with(bytes), "the writer changed {name}");
    }
    // The writer upgrades the database.
    assert!(text(&after, "database.json").contains(r#""format":4}"#));
    assert_eq!(decoder::head(&after["HEAD"]).0.map(|header| header.format), [4, 4]);
    let expected: BTreeSet<_> =
        before.keys().map(String::as_str).chain(["LOCK", "RESERVE", "clock.json", "lineage.json"]).collect();
    assert!(after.keys().map(String::as_str).eq(expected), "{:?}", after.keys());
}

/// The same history with a snapshot of every table: answers come from layers and indexes.
#[test]
fn the_daemons_read_the_snapshot_fixture() {
    let dir = tempfile::tempdir().unwrap();
    copy(&made("snapshots"), dir.path());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        check(&mut reader).await;
        let found = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        assert!(
            found.cache_bytes > 0 && found.memtable_events == 0,
            "the reader read the log instead of snapshots: {found:?}"
        );
        let mut writer_daemon = Daemon::writer_of_old(dir.path());
        let mut writer = writer_daemon.as_writer().await;
        let token = apply(&mut writer, vec![insert("people", r#"{"id":"new"}"#)]).await.unwrap();
        assert_eq!(token.seq, LAST + 1);
        check(&mut reader).await;
        assert!(writer_daemon.terminate().await.success() && reader_daemon.terminate().await.success());
    });
}

/// Checks everything that a reader answers about the history.
async fn check(reader: &mut Reader) {
    for (table, _) in TABLES {
        for seq in 0..=LAST {
            let found = select_at(reader, table, seq).await;
            match history::rows(table, seq) {
                Some(rows) => assert_eq!(found.unwrap(), rows, "{table} at {seq}"),
                None => assert_eq!(reason(&found.unwrap_err()), "TABLE_NOT_FOUND", "{table} at {seq}"),
            }
        }
        check_drift(reader, table).await;
        for (from, to) in [(5, LAST), (LAST, 5), (12, 16), (7, 8), (9, 9)] {
            check_diff(reader, table, from, to).await;
        }
    }
    check_schemas(reader).await;
    let at = Some(v1::as_of::At::Time(history::time(4)));
    let request =
        v1::DescribeTableRequest { table: "people".into(), as_of: Some(v1::AsOf { at }), freshness: None };
    let header = reader.describe_table(request).await.unwrap().into_inner().header.unwrap();
    assert_eq!((header.read_seq, header.read_time), (5, Some(history::time(5))), "commits 4 and 5 at once");
}

async fn check_drift(reader: &mut Reader, table: &str) {
    let request = v1::HistoryRequest { table: table.into(), end: at_seq(LAST), ..Default::default() };
    let mut stream = reader.history(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        for commit in message.commits {
            assert_eq!(commit.reason, history::reason(commit.seq));
            assert_eq!((commit.actor.as_str(), commit.time), ("", Some(history::time(commit.seq))));
            for change in commit.changes {
                let payload = change.payload.as_ref().map(|payload| text_of(payload).to_owned());
                let kind = u8::try_from(change.kind).unwrap();
                found.push((commit.seq, kind, change.key, payload.unwrap_or_default()));
            }
        }
    }
    let expected = history::drift(table).into_iter();
    let expected: Vec<_> = expected.map(|(seq, kind, key, text)| (seq, kind, key.to_owned(), text)).collect();
    assert_eq!(found, expected, "drift of {table}");
}

async fn check_diff(reader: &mut Reader, table: &str, from: u64, to: u64) {
    let (Some(before), Some(after)) = (history::rows(table, from), history::rows(table, to)) else { return };
    let request =
        v1::DiffRequest { table: table.into(), start: at_seq(from), end: at_seq(to), ..Default::default() };
    let mut stream = reader.diff(request).await.unwrap().into_inner();
    let mut found = BTreeMap::new();
    let content = |document: Option<v1::Document>| document.map(|document| text_of(&document).to_owned());
    while let Some(message) = stream.message().await.unwrap() {
        let rows = message.rows.into_iter();
        found.extend(rows.map(|row| (row.key, (content(row.before), content(row.after)))));
    }
    let mut expected: BTreeMap<String, (Option<String>, Option<String>)> = BTreeMap::new();
    before.into_iter().for_each(|(key, row)| expected.entry(key).or_default().0 = Some(row));
    after.into_iter().for_each(|(key, row)| expected.entry(key).or_default().1 = Some(row));
    expected.retain(|_, (before, after)| before != after);
    assert_eq!(found, expected, "diff of {table} from {from} to {to}");
}

async fn check_schemas(reader: &mut Reader) {
    for (table, seq, primary_key, key_type, indexes, events) in [
        ("people", 1, "id", v1::KeyType::String, vec!["city", "name.family"], 1),
        ("people", LAST, "id", v1::KeyType::String, vec!["city", "name.family"], 14),
        ("numbers", LAST, "n", v1::KeyType::Int, vec![], 6),
        ("marks", 9, "schlüssel", v1::KeyType::String, vec!["n"], 2),
        ("marks", LAST, "schlüssel", v1::KeyType::String, vec![], 5),
    ] {
        let request = v1::DescribeTableRequest { table: table.into(), as_of: at_seq(seq), freshness: None };
        let info = reader.describe_table(request).await.unwrap().into_inner().table.unwrap();
        let rows = history::rows(table, seq).unwrap().len();
        assert_eq!((info.primary_key.as_str(), info.key_type()), (primary_key, key_type), "{table} at {seq}");
        assert_eq!((info.indexes, info.events), (indexes.iter().map(|i| (*i).to_owned()).collect(), events));
        assert_eq!(info.rows, rows as u64, "{table} at {seq}");
    }
}

/// The frames that a table's log must contain: segment, commit, event type, payload.
fn frames(table: &str) -> Vec<(u64, u64, u8, String)> {
    let mut events = history::drift(table);
    if table == "people" {
        events.extend([6, LAST].map(|seq| (seq, 7, "", String::new())));
        events.sort_by_key(|event| event.0);
    }
    let mut last = 0;
    let frame = |(seq, kind, key, text): (u64, u8, &str, String)| {
        let mut fields = Vec::new();
        if seq != last {
            fields.push(format!(r#""h":{}"#, seq - 1));
            fields.extend(match (seq, table) {
                (5, "marks") => vec![r#""n":5"#.to_owned()],
                (5, _) => vec![r#""n":5,"m":2"#.to_owned()],
                (15, _) => vec![r#""n":3,"m":3"#.to_owned()],
                (19, _) => vec![r#""n":2"#.to_owned()],
                _ => vec![],
            });
            if !history::reason(seq).is_empty() {
                fields.push(format!(r#""w":"{}""#, history::reason(seq)));
            }
        }
        last = seq;
        match (table, kind) {
            (_, 4 | 7) => {}
            ("numbers", _) => fields.push(format!(r#""k":{key}"#)),
            _ => fields.push(format!(r#""k":"{key}""#)),
        }
        if !text.is_empty() {
            fields.push(format!(r#""d":{text}"#));
        }
        let segment = match (table, seq) {
            ("people", 17..=18) => 2,
            ("people", 19..) => 3,
            _ => 1,
        };
        (segment, seq, kind, format!("{{{}}}", fields.join(",")))
    };
    events.into_iter().map(frame).collect()
}

/// A segment's digest, as FORMAT.md defines it.
fn digest(frames: &[decoder::Frame]) -> u32 {
    let crcs: Vec<u8> = frames.iter().flat_map(|frame| frame.crc.to_le_bytes()).collect();
    crc::crc32(&[&crcs])
}

#[test]
fn the_same_history_is_written_as_the_same_bytes() {
    let before = files(newest());
    let dir = tempfile::tempdir().unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(history::write(dir.path()));
    let after = files(dir.path());
    for (name, bytes) in before.iter().filter(|(name, _)| name.contains('/')) {
        let text = String::from_utf8_lossy(&after[name]);
        assert!(after[name] == *bytes, "{name} differs from the fixture: {text}");
    }
    // The names of a database and of its incarnations are random; the rest of HEAD is not.
    let [old, new] = [&before, &after].map(|files| decoder::incarnations(&files["HEAD"]));
    for (old, new) in old.into_iter().zip(new) {
        assert_ne!(old.id, new.id);
        assert_eq!(decoder::Incarnation { id: old.id, ..new }, old);
    }
    let ((old, old_slots), (new, new_slots)) =
        (decoder::head(&before["HEAD"]), decoder::head(&after["HEAD"]));
    assert_eq!(old_slots, new_slots);
    for (old, new) in old.into_iter().zip(new) {
        assert_ne!((old.database_id, old.epoch), (new.database_id, new.epoch));
        assert_eq!(decoder::Header { database_id: old.database_id, epoch: old.epoch, ..new }, old);
    }
}

#[test]
fn the_crc_is_as_documented() {
    assert_eq!(crc::crc32(&[b"1234", b"56789"]), 0xcbf4_3926);
}

#[test]
fn every_byte_of_the_fixture_is_as_documented() {
    let files = files(fixture());
    assert!(files.values().map(Vec::len).sum::<usize>() < 200_000);
    let ([even, odd], slots) = decoder::head(&files["HEAD"]);
    let database = text(&files, "database.json");
    check_header(decoder::body(&database), &even, &odd);
    assert_eq!(slots.len(), TABLES.len());

    let mut commits: BTreeMap<u64, u64> = BTreeMap::new();
    for ((table, id), slot) in TABLES.into_iter().zip(slots) {
        let mut found = Vec::new();
        let mut seals = Vec::new();
        let last_segment = if table == "people" { 3 } else { 1 };
        for number in 1..=last_segment {
            let bytes = &files[&format!("tables/{table}/segments/{number:08}.seg")];
            let frames = decoder::segment(bytes, id, number);
            seals.push((bytes.len(), frames.len(), digest(&frames)));
            for frame in frames {
                assert_eq!(frame.time_ms, history::time_ms(frame.seq), "{table}, commit {}", frame.seq);
                *commits.entry(frame.seq).or_default() += 1;
                found.push((number, frame.seq, frame.kind, frame.payload));
            }
        }
        assert_eq!(found, frames(table), "{table}");
        let last = decoder::Slot {
            table: id,
            manifest: last_segment,
            segment: last_segment,
            bytes: seals.last().unwrap().0 as u64,
            last_seq: found.last().unwrap().1,
            floor: 0,
        };
        assert_eq!(slot, last, "the table entry of {table}");
        check_manifest(decoder::body(&text(&files, &format!("tables/{table}/meta.json"))), table, id, &seals);
    }
    assert!(commits.keys().copied().eq(1..=LAST), "no gap");
    assert_eq!(commits.values().sum::<u64>(), 27);
    let names: Vec<&str> = files.keys().map(String::as_str).filter(|name| !name.contains('/')).collect();
    assert_eq!(names, ["HEAD", "database.json"]);
}

#[test]
fn what_names_the_incarnations_is_as_documented() {
    let files = files(newest());
    let [first, second] = decoder::incarnations(&files["HEAD"]);
    let ([even, _], _) = decoder::head(&files["HEAD"]);
    assert_eq!((first, first.term, first.start), (second, 2, REOPENED_AT));
    assert_eq!((even.format, even.term), (4, 2));
    let lineage = text(&files, "lineage.json");
    let lineage = decoder::body(&lineage);
    let known = format!(r#","start":0}},{{"id":"{:016x}","start":{REOPENED_AT}}}]}}"#, first.id);
    assert!(lineage.starts_with(r#"{"incarnations":[{"id":""#) && lineage.ends_with(&known), "{lineage}");
    assert!(decoder::body(&text(&files, "database.json")).ends_with(r#","format":4}"#));
    assert!(decoder::body(&text(&files, "clock.json")).starts_with(r#"{"seen_ms":"#));
    let names: Vec<&str> = files.keys().map(String::as_str).filter(|name| !name.contains('/')).collect();
    assert_eq!(names, ["HEAD", "clock.json", "database.json", "lineage.json"]);
}

fn check_header(database: &str, even: &decoder::Header, odd: &decoder::Header) {
    let id: String = even.database_id.iter().map(|byte| format!("{byte:02x}")).collect();
    let dashed = [&id[..8], &id[8..12], &id[12..16], &id[16..20], &id[20..]].join("-");
    assert_eq!(database, format!(r#"{{"id":"{dashed}","epoch":"{:016x}","format":1}}"#, even.epoch));
    let (newer, older) = if even.generation > odd.generation { (even, odd) } else { (odd, even) };
    let expected = decoder::Header {
        term: 2,
        last_seq: LAST,
        last_ms: history::time_ms(LAST),
        // HEAD is written once for each of the two openings, once after recovery, and once for each commit and each
        // close.
        generation: 2 * 3 + u32::try_from(LAST).unwrap(),
        slots: 3,
        closed: 1,
        format: 1,
        ..even.clone()
    };
    assert_eq!(*newer, expected);
    assert_eq!(*older, decoder::Header { generation: newer.generation - 1, closed: 0, ..expected });
    assert_eq!(even.generation % 2, 0, "copy 0 holds the even generations");
}

fn check_manifest(body: &str, table: &str, id: u64, seals: &[(usize, usize, u32)]) {
    let sealed = seals.iter().zip(1..).take(seals.len() - 1).map(|((bytes, frames, digest), number)| {
        format!(r#"{{"number":{number},"sealed":{{"bytes":{bytes},"frames":{frames},"digest":{digest}}}}},"#)
    });
    let sealed: String = sealed.collect();
    let version = seals.len();
    // Commit 19 contains the rotation to segment 3. The commit that creates a table writes its first manifest.
    let (term, published) = if table == "people" { (2, 18) } else { (1, id - 1) };
    let expected = format!(
        r#"{{"table":"{table}","table_id":{id},"version":{version},"term":{term},"published":{published},"segments":[{sealed}{{"number":{version}}}]}}"#
    );
    assert_eq!(body, expected);
}
