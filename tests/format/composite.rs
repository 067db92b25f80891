//! A store with a composite index, frozen in `tests/fixtures/composite`; and how a DriftDB answers that is older than its files.

use std::collections::BTreeMap;
use std::path::Path;

use crate::harness::calls::{ask, run};
use crate::harness::open_database::{OpenDatabase, dir};
use crate::harness::*;
use driftdb::v1;
use driftdb_common::error::Reason;
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventType};
use driftdb_common::format::head::FORMAT_VERSION;
use driftdb_common::format::manifest::{self, Database};
use driftdb_common::storage::fs::sim::SimDisk;
use driftdb_common::storage::wal::appender::Group;
use serde_json::{Value, json};

use super::{copy, files, made_by};

/// The commits with operations; half of them are in snapshots.
const LAST: u64 = 61;
const SNAPSHOT_AT: u64 = 41;
const CREATE: &str = "CREATE TABLE orders (pk=id, INDEX((customer.id, status), status))";

/// What a commit does to a row, and the row after it; `None` for the CREATE.
fn change(seq: u64, rows: &BTreeMap<String, Value>) -> (String, v1::Operation, Option<Value>) {
    let key = format!("o{:02}", seq * 7 % 20);
    let (customer, status) = (format!("c{}", seq % 3), ["paid", "open"][usize::from(seq.is_multiple_of(2))]);
    match (seq % 5, rows.get(&key)) {
        (0, Some(_)) => (key.clone(), delete("orders", &key), None),
        (1, Some(row)) => {
            let mut row = row.clone();
            row["status"] = status.into();
            (key.clone(), patch("orders", &key, json!({"status": status}).to_string()), Some(row))
        }
        (2, _) => {
            let row = json!({"id": key, "customer": {"id": customer}});
            (key, put("orders", row.to_string()), Some(row))
        }
        _ => {
            let row = json!({"id": key, "customer": {"id": customer, "name": "é"}, "status": status});
            (key, put("orders", row.to_string()), Some(row))
        }
    }
}

/// The rows after each commit, and what each commit does.
fn history() -> (Vec<BTreeMap<String, Value>>, Vec<v1::Operation>) {
    let (mut states, mut operations) = (vec![BTreeMap::new(); 2], Vec::new());
    for seq in 2..=LAST {
        let mut rows = states[states.len() - 1].clone();
        let (key, operation, row) = change(seq, &rows);
        match row {
            Some(row) => _ = rows.insert(key, row),
            None => _ = rows.remove(&key),
        }
        states.push(rows);
        operations.push(operation);
    }
    (states, operations)
}

/// Writes the history through the real writer.
async fn write(dir: &Path) {
    let mut daemon = Daemon::writer(dir);
    let mut writer = daemon.as_writer().await;
    run(&mut writer, CREATE).await.unwrap();
    for (seq, operation) in (2..).zip(history().1) {
        assert_eq!(apply(&mut writer, vec![operation]).await.unwrap().seq, seq);
        if seq == SNAPSHOT_AT {
            calls::snapshot(&mut writer, "orders").await.unwrap();
        }
    }
    assert!(daemon.terminate().await.success());
}

async fn check(reader: &mut Reader) {
    let states = history().0;
    for (seq, rows) in states.iter().enumerate().skip(1) {
        for customer in ["c0", "c1", "c2"] {
            for status in ["paid", "open"] {
                let condition = format!(r#"customer.id = "{customer}" AND status = "{status}""#);
                let statement = format!("SELECT * FROM orders WHERE {condition} AS OF @seq:{seq}");
                let found = ask(reader, &statement, LAST).await.unwrap().rows();
                let is_match = |row: &Value| {
                    row["customer"]["id"] == customer && row.get("status").is_some_and(|s| s == status)
                };
                let matching = rows.iter().filter(|(_, row)| is_match(row));
                let expected: Vec<_> = matching.map(|(key, row)| (key.clone(), row.clone())).collect();
                assert_eq!(found, expected, "{condition} at {seq}");
            }
        }
    }
    let explain = r#"EXPLAIN SELECT * FROM orders WHERE customer.id = "c1" AND status = "paid""#;
    let route = ask(reader, explain, LAST).await.unwrap();
    assert!(route.message().contains("(customer.id, status)"), "{}", route.message());
}

#[test]
fn the_daemons_read_a_store_with_a_composite_index() {
    let fixture = made_by("composite", |dir| Box::pin(write(dir)));
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture, dir.path());
    let names = files(dir.path());
    assert!(names.keys().any(|name| name.ends_with(".idx")), "{:?}", names.keys());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        check(&mut reader).await;
        let mut writer_daemon = Daemon::writer_of_old(dir.path());
        let mut writer = writer_daemon.as_writer().await;
        let token = apply(&mut writer, vec![put("orders", r#"{"id":"new"}"#)]).await.unwrap();
        assert_eq!(token.seq, LAST + 1);
        calls::snapshot(&mut writer, "orders").await.unwrap();
        check(&mut reader).await;
        assert!(writer_daemon.terminate().await.success() && reader_daemon.terminate().await.success());
    });
}

/// What this DriftDB says of a newer format, as an older one says of this.
#[test]
fn a_database_of_a_newer_format_is_refused_with_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    copy(&made_by("composite", |dir| Box::pin(write(dir))), dir.path());
    let before = files(dir.path());
    let (id, epoch) = (uuid_of(&before), 1);
    let newer = Database { id, epoch, format: FORMAT_VERSION + 1 };
    std::fs::write(dir.path().join("database.json"), manifest::encode(&newer).unwrap()).unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        let Err(said) = Daemon::try_start(name, dir.path(), &[]) else { panic!("{name} starts") };
        let versions = format!(
            "format {}, and this version of DriftDB supports formats 1 to {FORMAT_VERSION}",
            FORMAT_VERSION + 1
        );
        assert!(said.contains(&versions) && !said.contains("doctor"), "{name}: {said}");
    }
    let segments = |files: &BTreeMap<String, Vec<u8>>| {
        files
            .iter()
            .filter(|(name, _)| name.contains('/'))
            .map(|(_, bytes)| bytes.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(segments(&before), segments(&files(dir.path())), "nothing was changed");
}

fn uuid_of(files: &BTreeMap<String, Vec<u8>>) -> uuid::Uuid {
    let text: Value = serde_json::from_slice(&files["database.json"]).unwrap();
    text["body"]["id"].as_str().unwrap().parse().unwrap()
}

/// A schema with a feature that this DriftDB does not know, and whose format version it does.
#[test]
fn a_schema_of_a_newer_version_is_no_damage() {
    let disk = SimDisk::new();
    let mut database = OpenDatabase::open(&disk).unwrap();
    let schema =
        r#"{"action":"create","table":"t","primary_key":"id","key_type":"STRING","indexes":[{"text":"a"}]}"#;
    let document = Document::from_json(schema).unwrap();
    let mut group =
        Group { last_seq: 1, last_ms: 10, created: vec![(1, "t".to_owned())], ..Group::default() };
    let meta = CommitMeta::default();
    let table = group.tables.entry(1).or_default();
    table.last_seq = 1;
    table.frames.push(1, 10, EventType::Schema, |out| {
        event::encode(out, None, Some(&document), false, Some((CommitShape::SINGLE, &meta)), true)
    });
    assert!(database.log.append(&mut group).is_ok());
    database.log.close().unwrap();
    let Err(error) = OpenDatabase::open(&disk) else { panic!("the schema is understood") };
    assert_eq!(error.reason(), Reason::NotSupported, "{error}");
    assert!(error.message().contains("newer version of DriftDB"), "{error}");
    assert!(disk.shared().open(&dir().head()).is_ok());
}
