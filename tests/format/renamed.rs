//! A store with a table that was renamed, and with two tables that had one name in turn, frozen in `tests/fixtures/renamed`.

use std::path::Path;

use crate::harness::calls::{ask, run};
use crate::harness::*;
use driftdb::v1;
use serde_json::Value;

use super::{copy, decoder, files, made_by, text};

/// Each makes one commit. After commit 5 a snapshot of the table is taken, so that the names are in a layer and in the log.
const STATEMENTS: [&str; 9] = [
    "CREATE TABLE orders (pk=id, INDEX(status))",
    r#"INSERT INTO orders {"id":"o1","status":"open"}"#,
    "ALTER TABLE orders RENAME TO sales",
    r#"PATCH sales KEY "o1" SET {"status":"paid"}"#,
    "CREATE TABLE orders (pk=number INT)",
    r#"INSERT INTO orders {"number":7}"#,
    "DROP TABLE orders",
    "CREATE TABLE orders (pk=code)",
    "ALTER TABLE sales RENAME TO sold",
];
const SNAPSHOT_AT: u64 = 5;

async fn write(dir: &Path) {
    let mut daemon = Daemon::writer(dir);
    let mut writer = daemon.as_writer().await;
    for (seq, statement) in (1..).zip(STATEMENTS) {
        assert_eq!(run(&mut writer, statement).await.unwrap().seq, seq);
        if seq == SNAPSHOT_AT {
            calls::snapshot(&mut writer, "sales").await.unwrap();
        }
    }
    assert!(daemon.terminate().await.success());
}

/// The tables after each commit: names, and key fields.
const TABLES: [&[(&str, &str)]; 10] = [
    &[],
    &[("orders", "id")],
    &[("orders", "id")],
    &[("sales", "id")],
    &[("sales", "id")],
    &[("orders", "number"), ("sales", "id")],
    &[("orders", "number"), ("sales", "id")],
    &[("sales", "id")],
    &[("orders", "code"), ("sales", "id")],
    &[("orders", "code"), ("sold", "id")],
];

async fn check(reader: &mut Reader) {
    for (seq, expected) in TABLES.iter().enumerate().skip(1) {
        let answer = ask(reader, &format!("SHOW TABLES AS OF @seq:{seq}"), 9).await.unwrap();
        let found: Vec<_> =
            answer.tables().iter().map(|table| (&*table.table, &*table.primary_key)).collect();
        assert_eq!(found, *expected, "at {seq}");
    }
    let status = |answer: calls::Answer| answer.rows().first().map(|(_, row)| row["status"].clone());
    for (statement, expected) in [
        ("SELECT * FROM orders AS OF @seq:2", Some("open")),
        ("SELECT * FROM sales AS OF @seq:3", Some("open")),
        ("SELECT * FROM sales AS OF @seq:8", Some("paid")),
        ("SELECT * FROM sold", Some("paid")),
        ("SELECT * FROM orders", None),
    ] {
        let answer = ask(reader, statement, 9).await.unwrap();
        assert_eq!(status(answer), expected.map(Value::from), "{statement}");
    }
    assert_eq!(ask(reader, "SELECT * FROM orders AS OF @seq:6", 9).await.unwrap().keys(), ["7"]);
}

#[test]
fn the_daemons_read_a_store_with_renamed_tables() {
    let fixture = made_by("renamed", |dir| Box::pin(write(dir)));
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture, dir.path());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        check(&mut reader).await;
        let mut writer_daemon = Daemon::writer_of_old(dir.path());
        let mut writer = writer_daemon.as_writer().await;
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        let names: Vec<_> = status.tables.iter().map(|table| table.table.as_str()).collect();
        assert_eq!(names, ["orders", "sold"]);
        let token = apply(&mut writer, vec![put("sold", r#"{"id":"o2"}"#)]).await.unwrap();
        assert_eq!(token.seq, 10);
        check(&mut reader).await;
        assert!(writer_daemon.terminate().await.success() && reader_daemon.terminate().await.success());
    });
}

#[test]
fn names_and_directories_are_as_documented() {
    let files = files(&made_by("renamed", |dir| Box::pin(write(dir))));
    let directories: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|name| name.strip_prefix("tables/")?.split('/').next()).collect();
    assert_eq!(directories.into_iter().collect::<Vec<_>>(), ["orders", "orders.5", "orders.8"]);
    let manifest = |directory: &str| {
        let text = text(&files, &format!("tables/{directory}/meta.json"));
        serde_json::from_str::<Value>(decoder::body(&text)).unwrap()
    };
    // The name at the end of the layers; commit 9 is after them.
    let renamed = manifest("orders");
    assert_eq!((&renamed["table"], &renamed["name"]), (&"orders".into(), &"sales".into()));
    for (directory, id) in [("orders.5", 5), ("orders.8", 8)] {
        let manifest = manifest(directory);
        assert_eq!((&manifest["table"], &manifest["table_id"]), (&directory.into(), &id.into()));
        assert!(manifest.get("name").is_none());
    }
    let frames = decoder::segment(&files["tables/orders/segments/00000001.seg"], 1, 1);
    let rename = frames.iter().find(|frame| frame.seq == 3).unwrap();
    let expected = r#"{"action":"rename","table":"sales","primary_key":"id","key_type":"STRING","indexes":["status"],"from":"orders"}"#;
    assert!(rename.payload.contains(expected), "{}", rename.payload);
    let yaml = text(&files, "tables/orders/schema.yaml");
    assert!(yaml.contains("table: sold"), "{yaml}");
}
