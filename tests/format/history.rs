//! The history in `tests/fixtures/v1`: how it is written, and the expected answers, written by hand.

use std::path::Path;

use driftdb::v1;
use prost_types::Timestamp;

use crate::harness::{Daemon, Writer, delete, insert, patch, put};

/// The last commit.
pub const LAST: u64 = 20;
/// The last commit before the writer opens the database a second time.
pub const REOPENED_AT: u64 = 10;
/// So small that three commits of the history fill a segment.
const SEGMENT_BYTES: &str = "4096";

/// A commit's time. Commits 4 and 5 have the same.
pub fn time_ms(seq: u64) -> u64 {
    1_704_067_200_000 + if seq == 5 { 4 } else { seq } * 1000 + 7
}

/// Writes the history through the real writer, restarts it after commit 10, and closes it cleanly.
pub async fn write(dir: &Path) {
    for (from, to) in [(1, REOPENED_AT), (REOPENED_AT + 1, LAST)] {
        let mut daemon = Daemon::start("driftdb-writer", dir, &["--segment-bytes", SEGMENT_BYTES]);
        let mut writer = daemon.as_writer().await;
        for seq in from..=to {
            assert_eq!(commit(&mut writer, seq).await, seq);
        }
        assert!(daemon.terminate().await.success());
    }
}

/// Takes a snapshot of every table.
pub async fn snapshot(dir: &Path, tables: &[&str]) {
    let mut daemon = Daemon::writer(dir);
    let mut writer = daemon.as_writer().await;
    for table in tables {
        crate::harness::calls::snapshot(&mut writer, table).await.unwrap();
    }
    assert!(daemon.terminate().await.success());
}

async fn commit(writer: &mut Writer, seq: u64) -> u64 {
    let options = Some(v1::CommitOptions {
        reason: reason(seq).to_owned(),
        commit_time: Some(time(seq)),
        ..Default::default()
    });
    let token = match seq {
        1 => create(writer, "people", "id", v1::KeyType::String, &["city", "name.family"], options).await,
        2 => create(writer, "numbers", "n", v1::KeyType::Int, &[], options).await,
        3 => create(writer, "marks", "schlüssel", v1::KeyType::String, &["n"], options).await,
        10 => {
            let request = v1::DropTableRequest { table: "marks".into(), options };
            writer.drop_table(request).await.unwrap().into_inner().token
        }
        11 => create(writer, "marks", "schlüssel", v1::KeyType::String, &[], options).await,
        _ => {
            let operations = operations(seq);
            let request = v1::ApplyRequest { operations, options, ..Default::default() };
            writer.apply(request).await.unwrap().into_inner().token
        }
    };
    token.unwrap().seq
}

pub fn time(seq: u64) -> Timestamp {
    let (seconds, ms) = (time_ms(seq) / 1000, time_ms(seq) % 1000);
    Timestamp { seconds: i64::try_from(seconds).unwrap(), nanos: i32::try_from(ms * 1_000_000).unwrap() }
}

async fn create(
    writer: &mut Writer,
    table: &str,
    primary_key: &str,
    key_type: v1::KeyType,
    indexes: &[&str],
    options: Option<v1::CommitOptions>,
) -> Option<v1::WriteToken> {
    let request = v1::CreateTableRequest {
        table: table.into(),
        primary_key: primary_key.into(),
        key_type: key_type.into(),
        indexes: indexes.iter().map(|index| (*index).to_owned()).collect(),
        if_not_exists: false,
        options,
        retain: None,
        ..v1::CreateTableRequest::default()
    };
    writer.create_table(request).await.unwrap().into_inner().token
}

pub fn reason(seq: u64) -> &'static str {
    match seq {
        2 => "set up",
        5 => "several tables: größer 🚀",
        6 => "a mark",
        10 => "no more marks",
        _ => "",
    }
}

const ADA: &str = r#"{"id":"ada","name":{"given":"Ada","family":"Lovelace"},"city":"London","tags":["π","数","🚀"],"born":1815,"score":1.5,"alive":false,"spouse":null}"#;
const ADA_5: &str = r#"{"id":"ada","name":{"family":"Lovelace","title":"Countess"},"city":"Paris","tags":["π","数","🚀"],"born":1815,"score":1.5,"alive":false,"spouse":null}"#;
const PATCH_ADA: &str = r#"{"city":"Paris","name":{"given":null,"title":"Countess"}}"#;
/// `{"id":"raw","f":1.5,"i":7}` as our encoder never writes it: with a 32-bit float, and 7 in three bytes.
const RAW: &[u8] = b"\x83\xa2id\xa3raw\xa1f\xca\x3f\xc0\x00\x00\xa1i\xcd\x00\x07";

fn big(fill: char) -> String {
    format!(r#"{{"id":"big","pad":"{}"}}"#, String::from(fill).repeat(4000))
}

fn operations(seq: u64) -> Vec<v1::Operation> {
    match seq {
        4 => vec![insert("people", ADA)],
        5 => vec![
            insert("people", r#"{"id":"émile","city":"Paris"}"#),
            insert("numbers", r#"{"n":-9223372036854775808,"of":"min"}"#),
            insert("numbers", r#"{"n":9223372036854775807,"of":"max"}"#),
            insert("marks", r#"{"schlüssel":"é","n":18446744073709551615}"#),
            patch("people", "ada", PATCH_ADA),
        ],
        6 | 20 => Vec::new(),
        7 => vec![patch("numbers", "-9223372036854775808", r#"{"of":null,"x":{"y":[]}}"#)],
        8 => vec![delete("numbers", "9223372036854775807")],
        9 => vec![put("people", r#"{"id":"émile","city":"Lyon"}"#)],
        12 => vec![insert("marks", r#"{"schlüssel":"ü","n":-1}"#)],
        13 => vec![delete("people", "ada")],
        14 => vec![insert("people", r#"{"id":"ada","again":true}"#)],
        15 => vec![
            insert("people", r#"{"id":"twice","n":1}"#),
            patch("people", "twice", r#"{"n":2}"#),
            patch("people", "twice", r#"{"n":300}"#),
        ],
        16 => vec![insert("people", big('x'))],
        17 => {
            let mut raw = insert("people", "");
            let body = Some(v1::document::Body::Msgpack(RAW.into()));
            raw.action = Some(v1::operation::Action::Insert(v1::Document { body }));
            vec![raw]
        }
        18 => vec![patch("people", "big", format!(r#"{{"pad":"{}"}}"#, "y".repeat(4000)))],
        19 => vec![
            patch("people", "big", r#"{"pad":null,"short":-129}"#),
            insert("numbers", r#"{"n":0,"f":-0.25}"#),
        ],
        other => panic!("commit {other} is not an Apply"),
    }
}

/// A table's rows after a commit, in key order; `None` if the table does not exist then.
pub fn rows(table: &str, seq: u64) -> Option<Vec<(String, String)>> {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let mut row = |key, text: &str| rows.push((key, text.to_owned()));
    match (table, seq) {
        ("people", 1..=3) | ("numbers", 2..=4) | ("marks", 3..=4 | 11) => {}
        ("people", 4..) => {
            match seq {
                4 => row("ada", ADA),
                5..=12 => row("ada", ADA_5),
                13 => {}
                _ => row("ada", r#"{"id":"ada","again":true}"#),
            }
            match seq {
                ..=15 => {}
                16..=17 => row("big", &big('x')),
                18 => row("big", &big('y')),
                _ => row("big", r#"{"id":"big","short":-129}"#),
            }
            if seq >= 17 {
                row("raw", r#"{"id":"raw","f":1.5,"i":7}"#);
            }
            if seq >= 15 {
                row("twice", r#"{"id":"twice","n":300}"#);
            }
            match seq {
                4 => {}
                5..=8 => row("émile", r#"{"id":"émile","city":"Paris"}"#),
                _ => row("émile", r#"{"id":"émile","city":"Lyon"}"#),
            }
        }
        ("numbers", 5..) => {
            match seq {
                5..=6 => row("-9223372036854775808", r#"{"n":-9223372036854775808,"of":"min"}"#),
                _ => row("-9223372036854775808", r#"{"n":-9223372036854775808,"x":{"y":[]}}"#),
            }
            if seq >= 19 {
                row("0", r#"{"n":0,"f":-0.25}"#);
            }
            if seq <= 7 {
                row("9223372036854775807", r#"{"n":9223372036854775807,"of":"max"}"#);
            }
        }
        ("marks", 5..=9) => row("é", r#"{"schlüssel":"é","n":18446744073709551615}"#),
        ("marks", 12..) => row("ü", r#"{"schlüssel":"ü","n":-1}"#),
        _ => return None,
    }
    Some(rows.into_iter().map(|(key, text)| (key.to_owned(), text)).collect())
}

/// The events of a table: commit, event type in the frame, key, payload.
pub fn drift(table: &str) -> Vec<(u64, u8, &'static str, String)> {
    let events: Vec<(u64, u8, &str, &str)> = match table {
        "people" => vec![
            (
                1,
                4,
                "",
                r#"{"action":"create","table":"people","primary_key":"id","key_type":"STRING","indexes":["city","name.family"]}"#,
            ),
            (4, 1, "ada", ADA),
            (5, 1, "émile", r#"{"id":"émile","city":"Paris"}"#),
            (5, 2, "ada", PATCH_ADA),
            (9, 1, "émile", r#"{"id":"émile","city":"Lyon"}"#),
            (13, 3, "ada", ""),
            (14, 1, "ada", r#"{"id":"ada","again":true}"#),
            (15, 1, "twice", r#"{"id":"twice","n":1}"#),
            (15, 2, "twice", r#"{"n":2}"#),
            (15, 2, "twice", r#"{"n":300}"#),
            (16, 1, "big", "x"),
            (17, 1, "raw", r#"{"id":"raw","f":1.5,"i":7}"#),
            (18, 2, "big", "y"),
            (19, 2, "big", r#"{"pad":null,"short":-129}"#),
        ],
        "numbers" => vec![
            (
                2,
                4,
                "",
                r#"{"action":"create","table":"numbers","primary_key":"n","key_type":"INT","indexes":[]}"#,
            ),
            (5, 1, "-9223372036854775808", r#"{"n":-9223372036854775808,"of":"min"}"#),
            (5, 1, "9223372036854775807", r#"{"n":9223372036854775807,"of":"max"}"#),
            (7, 2, "-9223372036854775808", r#"{"of":null,"x":{"y":[]}}"#),
            (8, 3, "9223372036854775807", ""),
            (19, 1, "0", r#"{"n":0,"f":-0.25}"#),
        ],
        _ => vec![
            (
                3,
                4,
                "",
                r#"{"action":"create","table":"marks","primary_key":"schlüssel","key_type":"STRING","indexes":["n"]}"#,
            ),
            (5, 1, "é", r#"{"schlüssel":"é","n":18446744073709551615}"#),
            (
                10,
                4,
                "",
                r#"{"action":"drop","table":"marks","primary_key":"schlüssel","key_type":"STRING","indexes":["n"]}"#,
            ),
            (
                11,
                4,
                "",
                r#"{"action":"create","table":"marks","primary_key":"schlüssel","key_type":"STRING","indexes":[]}"#,
            ),
            (12, 1, "ü", r#"{"schlüssel":"ü","n":-1}"#),
        ],
    };
    let whole = |text: &str| match text {
        "x" => big('x'),
        "y" => format!(r#"{{"pad":"{}"}}"#, "y".repeat(4000)),
        other => other.to_owned(),
    };
    events.into_iter().map(|(seq, kind, key, text)| (seq, kind, key, whole(text))).collect()
}
