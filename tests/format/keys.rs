//! A store with a composite key and with keys that the writer made, frozen in `tests/fixtures/keys`.

use std::path::Path;

use crate::harness::calls::{ask, run, snapshot};
use crate::harness::*;
use serde_json::{Value, json};

use super::{copy, decoder, files, made_by};

const LAST: u64 = 8;
const NOTES: u64 = 2;

/// What each commit does, one operation each. The snapshot of `bills` comes after commit 5.
const STATEMENTS: [&str; LAST as usize] = [
    "CREATE TABLE bills (pk=(day, `no.` INT), INDEX(sum))",
    "CREATE TABLE notes (pk=id AUTO)",
    r#"INSERT INTO bills {"day": "mo", "no.": -3, "sum": 7}"#,
    r#"INSERT INTO notes {"text": "made"}"#,
    r#"INSERT INTO bills {"no.": 20, "sum": 9, "day": "mo\u0000"}"#,
    r#"PATCH bills KEY ("mo", -3) SET {"sum": 8}"#,
    r#"SOFT DELETE FROM bills KEY (`no.` = 20, day = "mo\u0000")"#,
    r#"INSERT INTO bills {"day": "di", "no.": 300, "sum": 1}"#,
];

async fn write(dir: &Path) {
    let mut daemon = Daemon::writer(dir);
    let mut writer = daemon.as_writer().await;
    for (seq, statement) in (1..).zip(STATEMENTS) {
        assert_eq!(run(&mut writer, statement).await.unwrap().seq, seq);
        if seq == 5 {
            snapshot(&mut writer, "bills").await.unwrap();
        }
    }
    assert!(daemon.terminate().await.success());
}

async fn check(reader: &mut Reader) {
    let rows = |at: u64| format!("SELECT * FROM bills AS OF @seq:{at}");
    let row = |day: &str, no: i64, sum: i64| {
        (json!([day, no]).to_string(), json!({"day": day, "no.": no, "sum": sum}))
    };
    for (at, expected) in [
        (3, vec![row("mo", -3, 7)]),
        (5, vec![row("mo", -3, 7), row("mo\0", 20, 9)]),
        (6, vec![row("mo", -3, 8), row("mo\0", 20, 9)]),
        (7, vec![row("mo", -3, 8)]),
        (8, vec![row("di", 300, 1), row("mo", -3, 8)]),
    ] {
        assert_eq!(ask(reader, &rows(at), LAST).await.unwrap().rows(), expected, "at {at}");
    }
    let found = ask(reader, r#"SELECT `no.` FROM bills WHERE day = "mo" AND `no.` < 0"#, LAST).await.unwrap();
    assert_eq!(found.documents(), [json!({"no.": -3})]);
    let notes = ask(reader, "SELECT * FROM notes", LAST).await.unwrap().rows();
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].1, json!({"id": notes[0].0, "text": "made"}));
}

#[test]
fn the_daemons_read_a_store_with_composite_and_made_keys() {
    let dir = tempfile::tempdir().unwrap();
    copy(&made_by("keys", |dir| Box::pin(write(dir))), dir.path());
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let reader_daemon = Daemon::reader(dir.path());
        let mut reader = reader_daemon.as_reader().await;
        check(&mut reader).await;
        let writer_daemon = Daemon::writer_of_old(dir.path());
        let mut writer = writer_daemon.as_writer().await;
        for table in ["bills", "notes"] {
            snapshot(&mut writer, table).await.unwrap();
        }
        check(&mut reader).await;
        let error = run(&mut writer, STATEMENTS[7]).await.unwrap_err();
        assert_eq!(reason(&error), "ROW_EXISTS");
    });
}

/// By the second decoder.
#[test]
fn the_bytes_of_composite_and_made_keys_are_as_documented() {
    let dir = made_by("keys", |dir| Box::pin(write(dir)));
    let files = files(&dir);
    let frames = |table: &str, id: u64| -> Vec<Value> {
        let bytes = &files[&format!("tables/{table}/segments/00000001.seg")];
        let frames = decoder::segment(bytes, id, 1);
        frames.iter().map(|frame| serde_json::from_str(&frame.payload).unwrap()).collect()
    };
    let bills = frames("bills", 1);
    let schema = json!({
        "action": "create", "table": "bills", "primary_key": "(day, `no.`)", "key_type": "(STRING, INT)", "indexes": ["sum"]
    });
    assert_eq!(bills[0]["d"], schema);
    let keys: Vec<&Value> = bills[1..].iter().map(|payload| &payload["k"]).collect();
    assert_eq!(
        keys,
        [
            &json!(["mo", -3]),
            &json!(["mo\0", 20]),
            &json!(["mo", -3]),
            &json!(["mo\0", 20]),
            &json!(["di", 300])
        ]
    );
    let notes = frames("notes", NOTES);
    let schema = json!({
        "action": "create", "table": "notes", "primary_key": "id", "key_type": "STRING", "indexes": [], "auto_key": true
    });
    assert_eq!(notes[0]["d"], schema);
    assert_eq!(notes[1]["d"]["id"], notes[1]["k"]);
}
