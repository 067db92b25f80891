//! The lock that all writes share is held for a moment only: no file is read under it, and nothing is computed at length. The
//! writer of a debug build panics if a file is read under it, so each of these tests shows that as well.

use std::time::Duration;

use crate::harness::calls::{fresh, run, snapshot, value_of};
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;
use driftdb::v1;
use driftdb_common::limits;
use tonic::Code;

/// The bytes of a large row.
const LARGE: usize = 200 << 10;

struct Database {
    dir: tempfile::TempDir,
    daemon: Daemon,
}

impl Database {
    fn start(args: &[&str]) -> Database {
        let dir = tempfile::tempdir().unwrap();
        let args = [&["--cache", "0"], args].concat();
        let daemon = Daemon::start("driftdb-writer", dir.path(), &args);
        Database { dir, daemon }
    }

    /// A database with `rows` large rows in the snapshot of table `t`.
    async fn with_large_rows(rows: usize) -> (Database, Writer) {
        let database = Database::start(&[]);
        let mut writer = database.daemon.as_writer().await;
        for table in ["t", "other"] {
            create_table(&mut writer, table).await.unwrap();
        }
        for row in 0..rows {
            let text = "x".repeat(LARGE);
            let document = format!(r#"{{"id":"{row}","n":0,"text":"{text}"}}"#);
            apply(&mut writer, vec![put("t", document)]).await.unwrap();
        }
        snapshot(&mut writer, "t").await.unwrap();
        (database, writer)
    }

    /// The rows of table `t` after a commit, without their text.
    async fn rows(&self, seq: u64) -> Vec<(String, serde_json::Value)> {
        let reader = Daemon::reader(self.dir.path());
        let request = v1::SelectRequest { table: "t".into(), freshness: fresh(seq), ..Default::default() };
        let mut stream = reader.as_reader().await.select(request).await.unwrap().into_inner();
        let mut rows = Vec::new();
        while let Some(message) = stream.message().await.unwrap() {
            for row in message.rows {
                let mut value = value_of(row.document.as_ref());
                assert_eq!(value["text"].as_str().unwrap().len(), LARGE);
                value["text"].take();
                rows.push((row.key, value));
            }
        }
        rows
    }
}

fn precondition(key: &str) -> v1::Precondition {
    let check = Some(v1::precondition::Check::Exists(false));
    v1::Precondition { table: "t".into(), key: key.into(), check, ..Default::default() }
}

async fn apply_if(
    writer: &mut Writer,
    operations: Vec<v1::Operation>,
    preconditions: Vec<v1::Precondition>,
) -> Result<v1::WriteToken, tonic::Status> {
    let request = v1::ApplyRequest { operations, preconditions, ..Default::default() };
    writer.apply(request).await.map(|answer| answer.into_inner().token.unwrap())
}

#[tokio::test]
async fn too_many_preconditions_are_refused_before_any_is_looked_at() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let writer = &mut cluster.writer;
    let row = || vec![put("t", r#"{"id":"a"}"#)];
    let limit = limits::PRECONDITIONS_PER_COMMIT;
    // Not even their keys are valid.
    let many = vec![precondition(""); 100_000];
    invalid(apply_if(writer, row(), many).await, "TOO_LARGE").says(&["100000", "10000", "preconditions"]);
    invalid(apply_if(writer, row(), vec![precondition("x"); limit + 1]).await, "TOO_LARGE");
    apply_if(writer, row(), vec![precondition("x"); limit]).await.unwrap();
    let failed = refused(
        apply_if(writer, row(), vec![precondition("a"); limit]).await,
        Code::FailedPrecondition,
        "PRECONDITION_FAILED",
    );
    failed.says(&["and 9999 more"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn patches_of_large_rows_read_nothing_under_the_lock_without_a_cache() {
    let (rows, clients) = (24, 4);
    let (database, writer) = Database::with_large_rows(rows).await;
    let patching = (0..clients).map(|client| {
        let mut writer = writer.clone();
        tokio::spawn(async move {
            for row in 0..rows {
                // All clients patch the same rows, so they also take them from each other.
                let change = format!(r#"{{"c{client}":{row}}}"#);
                apply(&mut writer, vec![patch("t", &row.to_string(), change)]).await.unwrap();
            }
        })
    });
    let patching: Vec<_> = patching.collect();
    let mut last = 0;
    for row in 0..200 {
        let token = apply(&mut writer.clone(), vec![put("other", format!(r#"{{"id":"{row}"}}"#))]).await;
        last = last.max(token.unwrap().seq);
        if row % 50 == 25 {
            // The files change under the patches.
            snapshot(&mut writer.clone(), "t").await.unwrap();
        }
    }
    for client in patching {
        client.await.unwrap();
    }
    let last = apply(&mut writer.clone(), vec![put("other", r#"{"id":"end"}"#)]).await.unwrap().seq;
    for (key, row) in database.rows(last).await {
        for client in 0..clients {
            assert_eq!(row[format!("c{client}")].to_string(), key, "{row}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_clients_that_patch_one_large_row_all_come_to_an_end() {
    let (database, writer) = Database::with_large_rows(1).await;
    let clients = (0..8).map(|client| {
        let mut writer = writer.clone();
        tokio::spawn(async move {
            let mut seq = 0;
            for n in 0..10 {
                let change = format!(r#"{{"c{client}n{n}":true}}"#);
                seq = apply(&mut writer, vec![patch("t", "0", change)]).await.unwrap().seq;
            }
            seq
        })
    });
    let mut last = 0;
    for client in clients.collect::<Vec<_>>() {
        last = last.max(client.await.unwrap());
    }
    let rows = database.rows(last).await;
    // The key, `n`, the text, and what every patch added.
    assert_eq!(rows[0].1.as_object().unwrap().len(), 3 + 80);
}

#[tokio::test]
async fn operations_of_a_commit_see_those_before_them_whatever_is_read_ahead() {
    let (database, mut writer) = Database::with_large_rows(3).await;
    let text = "y".repeat(LARGE);
    let token = apply(
        &mut writer,
        vec![
            patch("t", "0", r#"{"n":1}"#),
            patch("t", "0", r#"{"m":2}"#),
            put("t", format!(r#"{{"id":"1","text":"{text}"}}"#)),
            patch("t", "1", r#"{"n":3}"#),
            delete("t", "2"),
            insert("t", format!(r#"{{"id":"2","n":4,"text":"{text}"}}"#)),
            patch("t", "2", r#"{"n":null,"o":5}"#),
        ],
    )
    .await
    .unwrap();
    let rows = database.rows(token.seq).await.into_iter().map(|(_, row)| row.to_string()).collect::<Vec<_>>();
    assert_eq!(
        rows,
        [
            r#"{"id":"0","m":2,"n":1,"text":null}"#,
            r#"{"id":"1","n":3,"text":null}"#,
            r#"{"id":"2","o":5,"text":null}"#
        ]
    );
    refused(
        apply(&mut writer, vec![patch("t", "0", r#"{"id":"9"}"#)]).await,
        Code::InvalidArgument,
        "KEY_INVALID",
    );
    refused(
        apply(&mut writer, vec![delete("t", "0"), patch("t", "0", "{}")]).await,
        Code::NotFound,
        "ROW_NOT_FOUND",
    );
}

#[tokio::test]
async fn a_commit_whose_patched_rows_are_too_large_together_is_refused() {
    let (_database, mut writer) = Database::with_large_rows(1).await;
    let patches = vec![patch("t", "0", r#"{"n":1}"#); limits::PATCHED_BYTES_PER_COMMIT / LARGE];
    invalid(apply(&mut writer, patches).await, "TOO_LARGE").says(&["268435456", "several commits"]);
    apply(&mut writer, vec![patch("t", "0", r#"{"n":1}"#); 100]).await.unwrap();
}

#[tokio::test]
async fn a_name_that_no_table_can_have_is_refused_before_the_lock() {
    let mut cluster = Cluster::start().await;
    cluster.create("orders").await;
    let writer = &mut cluster.writer;
    let long = "x".repeat(1 << 20);
    let error = apply(writer, vec![put(&long, "{}")]).await.unwrap_err();
    assert_eq!(reason(&error), "TABLE_NOT_FOUND");
    assert!(error.message().len() < 300, "{}", error.message().len());
    let near = apply(writer, vec![put("ordes", r#"{"id":"a"}"#)]).await.unwrap_err();
    assert!(near.message().contains("did you mean \"orders\"?"), "{near}");
    let add_indexes = (0..100_000).map(|i| format!("f{i}")).collect();
    let request = v1::AlterTableRequest { table: "orders".into(), add_indexes, ..Default::default() };
    invalid(writer.alter_table(request).await, "TOO_LARGE");
}

/// A table whose reverts take long: no snapshot covers its log.
async fn with_long_log(args: &[&str]) -> (Database, Writer) {
    let database = Database::start(args);
    let mut writer = database.daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    for batch in 0..4 {
        let rows = (0..5000).map(|row| put("t", format!(r#"{{"id":"{row}","n":{batch}}}"#)));
        apply(&mut writer, rows.collect()).await.unwrap();
    }
    (database, writer)
}

fn reverts() -> Vec<v1::Operation> {
    let to = Some(v1::AsOf { at: Some(v1::as_of::At::Seq(5)) });
    let action = || Some(v1::operation::Action::Revert(v1::operation::Revert { to }));
    let revert = |row| v1::Operation { table: "t".into(), key: format!("{row}"), action: action() };
    (0..5000).map(revert).collect()
}

#[tokio::test]
async fn reverts_end_at_the_statement_timeout_and_hold_up_nobody() {
    let (_database, mut writer) = with_long_log(&["--statement-timeout", "1s"]).await;
    let mut reverting = writer.clone();
    let reverting = tokio::spawn(async move { apply(&mut reverting, reverts()).await });
    run(&mut writer, r#"UPSERT INTO t {"id":"a"}"#).await.unwrap();
    let error = reverting.await.unwrap().unwrap_err();
    assert_eq!(reason(&error), "STATEMENT_TIMEOUT", "{error}");
    run(&mut writer, r#"REVERT t KEY "1" TO @seq:2"#).await.unwrap();
}

#[tokio::test]
async fn the_writer_ends_while_reverts_run() {
    let (mut database, writer) = with_long_log(&["--statement-timeout", "0"]).await;
    let reverting = (0..4).map(|_| {
        let mut writer = writer.clone();
        tokio::spawn(async move { apply(&mut writer, reverts()).await })
    });
    let reverting: Vec<_> = reverting.collect();
    // They are running when a later call is answered.
    run(&mut writer.clone(), r#"UPSERT INTO t {"id":"a"}"#).await.unwrap();
    database.daemon.signal("TERM");
    assert!(database.daemon.wait(Duration::from_secs(60)).await.success());
    for call in reverting {
        call.await.unwrap().unwrap_err();
    }
}
