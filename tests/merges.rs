//! Merges of layers under a load of keys that grow: blocks are copied, no answer changes, and verification finds nothing.

#![expect(
    clippy::disallowed_methods,
    reason = "this test looks at the files of a database, and runs driftctl"
)]

use std::collections::BTreeMap;

use crate::harness::calls::{ask, snapshot};
use crate::harness::*;
use serde_json::Value;

/// Each batch is one commit.
const BATCHES: u64 = 24;
const ROWS: u64 = 250;

fn document(row: u64, number: u64) -> String {
    let text = format!("text of row {row} ").repeat(8);
    format!(r#"{{"id":"k{row:06}","n":{number},"text":"{text}"}}"#)
}

/// The rows after each commit, and the commit.
type Expected = Vec<(u64, BTreeMap<String, String>)>;

async fn load(writer: &mut Writer) -> Expected {
    let mut expected = Expected::new();
    let mut rows = BTreeMap::new();
    for batch in 0..BATCHES {
        let mut written: Vec<(u64, u64)> = (batch * ROWS..(batch + 1) * ROWS).map(|row| (row, 0)).collect();
        if batch % 5 == 4 {
            // Older rows change, too: their versions fall between whole blocks of other layers.
            written.extend([(batch, batch), (batch * 100, batch)]);
        }
        let operations = written.iter().map(|(row, number)| put("t", document(*row, *number))).collect();
        let token = apply(writer, operations).await.unwrap();
        rows.extend(written.iter().map(|(row, number)| (format!("k{row:06}"), document(*row, *number))));
        expected.push((token.seq, rows.clone()));
    }
    expected
}

#[tokio::test]
async fn merges_of_layers_with_growing_keys_change_no_answer() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start("driftdb-writer", dir.path(), &["--snapshot-events", "500"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let expected = load(&mut writer).await;
    // Ends with all merges.
    snapshot(&mut writer, "t").await.unwrap();
    let output = std::process::Command::new(binary("driftctl"))
        .args(["--writer", &daemon.url, "verify", "--deep"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let reader_daemon = Daemon::reader(dir.path());
    let mut reader = reader_daemon.as_reader().await;
    let last = expected.last().unwrap().0;
    ask(&mut reader, "SELECT COUNT(*) FROM t", last).await.unwrap();
    for (seq, rows) in expected {
        let found = select_at(&mut reader, "t", seq).await.unwrap();
        assert_eq!(found, rows.into_iter().collect::<Vec<_>>(), "at commit {seq}");
    }
    let manifest = std::fs::read_to_string(dir.path().join("tables/t/meta.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    // `eras` are delta layers.
    let layers = manifest["body"]["eras"].as_array().unwrap().len() as u64;
    assert!(layers < BATCHES * ROWS / 500, "nothing was merged: {manifest}");
}
