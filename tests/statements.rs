//! Statements have their documented effects through the daemons.

use crate::harness::calls::{Answer, ask, ask_with, run, run_with};
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;
use driftdb::v1::ChangeKind::{Insert, Patch, Schema, SoftDelete};
use driftdb::v1::{self, KeyType};
use serde_json::{Value, json};
use tonic::{Code, Status};

/// A database, and the last commit made through it.
struct Desk {
    cluster: Cluster,
    seq: u64,
}

impl Desk {
    async fn open() -> Desk {
        Desk { cluster: Cluster::start().await, seq: 0 }
    }

    /// Executes a statement that must become the next commit.
    async fn write(&mut self, statement: &str) -> v1::WriteToken {
        let token = run(&mut self.cluster.writer, statement).await.unwrap();
        self.seq += 1;
        assert_eq!(token.seq, self.seq, "{statement}");
        token
    }

    async fn try_write(&mut self, statement: &str) -> Result<v1::WriteToken, Status> {
        run(&mut self.cluster.writer, statement).await
    }

    async fn ask(&mut self, statement: &str) -> Answer {
        self.try_ask(statement).await.unwrap()
    }

    async fn try_ask(&mut self, statement: &str) -> Result<Answer, Status> {
        ask(&mut self.cluster.reader, statement, self.seq).await
    }

    async fn rows(&mut self, statement: &str) -> Vec<Value> {
        self.ask(statement).await.rows().into_iter().map(|(_, document)| document).collect()
    }
}

#[tokio::test]
async fn the_statements_of_the_tour_work_as_written() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE users (pk=id, INDEX(email, status))").await;
    desk.write(r#"INSERT INTO users {"id": "user1", "email": "alice@example.com", "status": "active"}"#)
        .await;
    desk.write("CREATE TABLE orders (pk=id, INDEX(status, customer_id))").await;
    desk.write(r#"INSERT INTO orders {"id": "order1", "status": "pending", "amount": 100}"#).await;
    desk.write(r#"PATCH orders KEY "order1" SET {"status": "paid"}"#).await;
    let paid = json!({"id": "order1", "status": "paid", "amount": 100});
    assert_eq!(desk.rows("SELECT * FROM orders WHERE status=\"paid\"").await, [paid]);
    desk.write(r#"SOFT DELETE FROM orders KEY "order1""#).await;
    assert_eq!(desk.rows("SELECT * FROM orders").await, Vec::<Value>::new());
    let drift = desk.ask(r#"SHOW DRIFT orders KEY "order1""#).await.drift();
    let key = || "order1".to_owned();
    assert_eq!(drift, [(4, Insert, key()), (5, Patch, key()), (6, SoftDelete, key())]);
    // Points in time before the table existed, and after the newest commit.
    let early =
        desk.try_ask("SELECT * FROM orders WHERE status=\"paid\" AS OF \"2025-01-01T00:00:00Z\"").await;
    refused(early, Code::NotFound, "TABLE_NOT_FOUND").says(&["orders", "commit 3"]);
    let late = desk.try_ask("SELECT * FROM orders WHERE customer_id=\"cust1\" AS OF \"@seq:1000\"").await;
    refused(late, Code::OutOfRange, "BEYOND_HEAD");
    for statement in ["SNAPSHOT orders", "COMPACT orders"] {
        let request = v1::WriterServiceExecuteRequest { statement: statement.into(), ..Default::default() };
        let mut said = desk.cluster.writer.execute(request).await.unwrap().into_inner();
        while said.message().await.unwrap().is_some() {}
    }
    // A commit after the compaction: who has applied it knows the floor.
    desk.write(r#"INSERT INTO users {"id": "user2"}"#).await;
    let below = desk.try_ask("SELECT * FROM orders AS OF \"@seq:5\"").await;
    refused(below, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", "6");
    let tables = desk.ask("SHOW TABLES").await;
    let shown: Vec<_> =
        tables.tables().iter().map(|info| (info.table.as_str(), info.indexes.len())).collect();
    assert_eq!(shown, [("orders", 2), ("users", 2)]);
}

#[tokio::test]
async fn comments_case_quotes_and_parameters_are_as_documented() {
    let mut desk = Desk::open().await;
    desk.write("create Table If Not Exists t (PK = `odd name` string, index(a, b.c)); -- done").await;
    desk.write("Upsert /* a comment */ into t {'odd name': 'x', \"a\": [1, {\"b\": null}]} ;").await;
    let params = [r#""y""#, r#"{"b": 2}"#, "[true]"];
    let statement = r#"INSERT INTO t {"odd name": $1, "n": $2, "l": $3}, {"odd name": "z", "again": $1}"#;
    run_with(&mut desk.cluster.writer, statement, &params).await.unwrap();
    run_with(&mut desk.cluster.writer, "PATCH t KEY $1 SET $2", &params[..2]).await.unwrap();
    desk.seq += 2;
    let rows = desk.rows("select * from t").await;
    assert_eq!(rows[0], json!({"odd name": "x", "a": [1, {"b": null}]}));
    assert_eq!(rows[1], json!({"odd name": "y", "n": {"b": 2}, "l": [true], "b": 2}));
    assert_eq!(rows[2], json!({"odd name": "z", "again": "y"}));
    let statement = "SELECT `odd name` FROM t WHERE `odd name` = $1 AS OF $2 LIMIT $3";
    let found =
        ask_with(&mut desk.cluster.reader, statement, &["\"y\"", "\"@seq:3\"", "1"], 3).await.unwrap();
    assert_eq!((found.seq(), found.keys()), (3, vec!["y".to_owned()]));
}

#[tokio::test]
async fn an_insert_of_several_rows_is_one_commit_or_none() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write(r#"INSERT INTO t {"id": "a"}, {"id": "b"}, {"id": "c"}"#).await;
    assert_eq!(desk.ask("SELECT * FROM t AS OF @seq:2").await.keys(), ["a", "b", "c"]);
    let outcome = desk.try_write(r#"INSERT INTO t {"id": "d"}, {"id": "b"}, {"id": "e"}"#).await;
    refused(outcome, Code::AlreadyExists, "ROW_EXISTS").says(&["operation 2", "b"]);
    desk.write(r#"UPSERT INTO t {"id": "b", "n": 1}, {"id": "f"}, {"id": "f", "n": 2}"#).await;
    assert_eq!(desk.ask("SELECT * FROM t").await.keys(), ["a", "b", "c", "f"]);
    assert_eq!(
        desk.rows("SELECT * FROM t WHERE n > 0").await,
        [json!({"id": "b", "n": 1}), json!({"id": "f", "n": 2})]
    );
    let drift = desk.ask("SHOW DRIFT t FROM @seq:1").await.drift();
    let seqs: Vec<u64> = drift.iter().map(|(seq, ..)| *seq).collect();
    assert_eq!(seqs, [2, 2, 2, 3, 3, 3], "an operation sees the earlier operations of its commit");
}

#[tokio::test]
async fn a_patch_merges_deep_and_null_removes() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write(r#"INSERT INTO t {"id": "a", "z": 1, "o": {"x": 1, "y": {"deep": [1, 2]}}, "gone": 1}"#).await;
    let patch = r#"{"o": {"x": null, "y": {"more": null, "deep": {"now": "an object"}}}, "gone": null, "new": [null]}"#;
    desk.write(&format!("PATCH t KEY \"a\" SET {patch}")).await;
    let text = ask(&mut desk.cluster.reader, "SELECT * FROM t", 3).await.unwrap();
    let v1::reader_service_execute_response::Result::Rows(batch) = &text.results[0] else {
        panic!("{text:?}")
    };
    let expected = r#"{"id":"a","z":1,"o":{"y":{"deep":{"now":"an object"}}},"new":[null]}"#;
    assert_eq!(text_of(batch.rows[0].document.as_ref().unwrap()), expected, "fields keep their order");
    assert_eq!((batch.table.as_str(), batch.rows[0].seq), ("t", 3));
}

#[tokio::test]
async fn if_seq_writes_only_unchanged_rows() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write(r#"INSERT INTO t {"id": "a"}"#).await;
    desk.write(r#"PATCH t KEY "a" SET {"n": 1} IF SEQ = 2"#).await;
    for statement in
        [r#"PATCH t KEY "a" SET {"n": 2} IF SEQ = 2"#, r#"SOFT DELETE FROM t KEY "a" IF SEQ = 2"#]
    {
        let refusal =
            refused(desk.try_write(statement).await, Code::FailedPrecondition, "PRECONDITION_FAILED");
        assert_eq!(refusal.violations().len(), 1);
        refusal.says(&["t/a", "commit 2", "commit 3"]);
    }
    assert_eq!(desk.rows("SELECT * FROM t").await, [json!({"id": "a", "n": 1})]);
    desk.write(r#"SOFT DELETE FROM t KEY "a" IF SEQ = 3"#).await;
    let gone = desk.try_write(r#"PATCH t KEY "a" SET {} IF SEQ = 3"#).await;
    refused(gone, Code::FailedPrecondition, "PRECONDITION_FAILED").says(&["commit 4 deleted it"]);
    desk.write(r#"INSERT INTO t {"id": "a", "n": 9}"#).await;
    assert_eq!(desk.rows("SELECT * FROM t").await, [json!({"id": "a", "n": 9})]);
}

#[tokio::test]
async fn drift_is_shown_between_two_points_newest_last() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write("CREATE TABLE other (pk=id INT)").await;
    desk.write(r#"INSERT INTO t {"id": "a"}, {"id": "b"}"#).await;
    desk.write(r#"INSERT INTO other {"id": 7}"#).await;
    let patched = desk.write(r#"PATCH t KEY "b" SET {"n": 1}"#).await;
    desk.write(r#"SOFT DELETE FROM t KEY "a""#).await;
    desk.write(r#"PATCH other KEY 7 SET {"n": 1}"#).await;
    let events = [(1, Schema, ""), (3, Insert, "a"), (3, Insert, "b"), (5, Patch, "b"), (6, SoftDelete, "a")]
        .map(|(seq, kind, key)| (seq, kind, key.to_owned()));
    let mut drift = async |clauses: &str| desk.ask(&format!("SHOW DRIFT t {clauses}")).await.drift();
    assert_eq!(drift("").await, events);
    assert_eq!(drift("FROM @seq:1").await, events[1..], "after FROM");
    assert_eq!(drift("TO @seq:5").await, events[..4], "up to and with TO");
    assert_eq!(drift("FROM @seq:3 TO @seq:5").await, events[3..4]);
    assert_eq!(drift("LIMIT 2 FROM @seq:1").await, events[1..3]);
    assert_eq!(drift("LIMIT 0").await, []);
    assert_eq!(drift("FROM @now").await, []);
    assert_eq!(drift("KEY \"b\"").await, [events[2].clone(), events[3].clone()]);
    assert_eq!(drift("KEY \"a\" TO @seq:4").await, events[1..2]);
    assert_eq!(drift("KEY \"nobody\"").await, []);
    assert_eq!(
        drift(&format!("TO \"{}\" FROM @seq:4", patched.time.unwrap())).await.first(),
        Some(&events[3])
    );
    assert_eq!(desk.ask("SHOW DRIFT other KEY 7").await.drift().len(), 2);
}

#[tokio::test]
async fn a_diff_is_the_net_change() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write(r#"INSERT INTO t {"id": "same"}, {"id": "old", "n": 1}, {"id": "back", "n": 1}"#).await;
    desk.write(r#"UPSERT INTO t {"id": "back", "n": 2}, {"id": "new"}, {"id": "brief"}"#).await;
    desk.write(r#"SOFT DELETE FROM t KEY "old""#).await;
    desk.write(r#"UPSERT INTO t {"n": 1.0, "id": "back"}, {"id": "new", "n": 5}"#).await;
    desk.write(r#"SOFT DELETE FROM t KEY "brief""#).await;
    let old = ("old".to_owned(), json!({"id": "old", "n": 1}), Value::Null);
    let new = ("new".to_owned(), Value::Null, json!({"id": "new", "n": 5}));
    let forth = desk.ask("SHOW DIFF t FROM @seq:2 TO @now").await.diff();
    assert_eq!(
        forth,
        [new.clone(), old.clone()],
        "rows in key order, without those that are equal at both points"
    );
    let back = desk.ask("SHOW DIFF t FROM @seq:6 TO @seq:2").await.diff();
    let turned = |(key, before, after): &(String, Value, Value)| (key.clone(), after.clone(), before.clone());
    assert_eq!(back, [turned(&new), turned(&old)]);
    let back = ("back".to_owned(), json!({"id": "back", "n": 2}), json!({"id": "back", "n": 1.0}));
    assert_eq!(desk.ask(r#"SHOW DIFF t KEY "back" FROM @seq:3 TO @seq:5"#).await.diff(), [back]);
    assert_eq!(desk.ask(r#"SHOW DIFF t KEY "nobody" FROM @seq:1 TO @seq:5"#).await.diff(), []);
    assert_eq!(desk.ask("SHOW DIFF t FROM @seq:3 TO @seq:3").await.diff(), []);
    let all = desk.ask("SHOW DIFF t FROM @seq:1 TO @seq:2").await.diff();
    assert_eq!(all.iter().map(|(key, ..)| key.as_str()).collect::<Vec<_>>(), ["back", "old", "same"]);
}

#[tokio::test]
async fn a_dropped_table_keeps_its_history_and_can_be_created_again() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    desk.write(r#"INSERT INTO t {"id": "a", "n": 1}, {"id": "b"}"#).await;
    desk.write("DROP TABLE t").await;
    let gone = desk.try_ask("SELECT * FROM t").await;
    refused(gone, Code::NotFound, "TABLE_NOT_FOUND").says(&["dropped by commit 3"]);
    assert_eq!(desk.ask("SELECT * FROM t AS OF @seq:2").await.keys(), ["a", "b"]);
    assert_eq!(desk.ask("SHOW TABLES").await.tables().len(), 0);
    assert_eq!(desk.ask("SHOW TABLES AS OF @seq:2").await.tables()[0].rows, 2);
    assert_eq!(desk.ask("SHOW DRIFT t").await.drift().len(), 4);
    refused(desk.try_write("DROP TABLE t").await, Code::NotFound, "TABLE_NOT_FOUND");
    desk.write("CREATE TABLE t (pk=id, INDEX(n))").await;
    assert_eq!(desk.rows("SELECT * FROM t").await, Vec::<Value>::new(), "older rows are absent");
    let absent = desk.try_write(r#"PATCH t KEY "a" SET {"n": 2}"#).await;
    refused(absent, Code::NotFound, "ROW_NOT_FOUND");
    desk.write(r#"INSERT INTO t {"id": "a", "n": 3}"#).await;
    desk.write(r#"PATCH t KEY "a" SET {"m": 4}"#).await;
    for restarted in [false, true] {
        if restarted {
            desk.cluster.reader_daemon = Daemon::reader(desk.cluster.dir.path());
            desk.cluster.reader = desk.cluster.reader_daemon.as_reader().await;
        }
        assert_eq!(desk.rows("SELECT * FROM t").await, [json!({"id": "a", "n": 3, "m": 4})]);
        assert_eq!(desk.ask("SELECT * FROM t WHERE id IN (\"a\", \"b\")").await.keys(), ["a"]);
        assert_eq!(desk.ask("SELECT * FROM t AS OF @seq:2").await.keys(), ["a", "b"]);
        let drift: Vec<_> = desk.ask("SHOW DRIFT t KEY \"a\"").await.drift();
        assert_eq!(
            drift.iter().map(|(seq, kind, _)| (*seq, *kind)).collect::<Vec<_>>(),
            [(2, Insert), (5, Insert), (6, Patch)]
        );
        let diff = desk.ask("SHOW DIFF t FROM @seq:2 TO @seq:4").await.diff();
        assert!(diff.len() == 2 && diff.iter().all(|(_, _, after)| after.is_null()), "{diff:?}");
        let diff = desk.ask("SHOW DIFF t FROM @seq:2 TO @now").await.diff();
        assert_eq!(diff[0].2, json!({"id": "a", "n": 3, "m": 4}));
    }
}

#[tokio::test]
async fn describe_as_of_shows_the_table_at_that_point() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=number INT, INDEX(a), INDEX(b.c))").await;
    desk.write(r#"INSERT INTO t {"number": 1}, {"number": 2}"#).await;
    desk.write("SOFT DELETE FROM t KEY 1").await;
    desk.write("CREATE TABLE u (pk=id)").await;
    desk.write("DROP TABLE t").await;
    desk.write("CREATE TABLE t (pk=number INT)").await;
    desk.write(r#"INSERT INTO t {"number": 5}"#).await;
    for (seq, rows, events, last_seq, created_seq, indexes) in [
        (1, 0, 1, 1, 1, &["a", "b.c"][..]),
        (2, 2, 3, 2, 1, &["a", "b.c"]),
        (3, 1, 4, 3, 1, &["a", "b.c"]),
        (4, 1, 4, 3, 1, &["a", "b.c"]),
        (6, 0, 6, 6, 6, &[]),
        (7, 1, 7, 7, 6, &[]),
    ] {
        let answer = desk.ask(&format!("DESCRIBE t AS OF @seq:{seq}")).await;
        let info = answer.tables()[0].clone();
        assert_eq!(
            (info.table.as_str(), info.primary_key.as_str(), info.key_type()),
            ("t", "number", KeyType::Int)
        );
        let found = (info.rows, info.events, info.last_seq, info.created_seq);
        assert_eq!(found, (rows, events, last_seq, created_seq), "at {seq}");
        assert_eq!(info.indexes, indexes, "at {seq}");
        let shown = desk.ask(&format!("SHOW TABLES AS OF @seq:{seq}")).await;
        assert_eq!(shown.tables()[0], &info);
        assert_eq!(shown.tables().len(), if seq < 4 { 1 } else { 2 });
    }
    assert_eq!(desk.ask("SHOW TABLES AS OF @seq:5").await.tables()[0].table, "u");
    let newest = desk.ask("DESCRIBE t").await.tables()[0].clone();
    let status = desk.cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert!(newest.bytes_on_disk > 0 && newest.segments == 1, "{newest:?}");
    assert_eq!(newest, status.tables[0], "the writer and the readers count the same");
}

#[tokio::test]
async fn retention_is_part_of_the_schema_history() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id, RETAIN \"90d\")").await;
    desk.write("ALTER TABLE t RETAIN \"36 hours\"").await;
    desk.write("CREATE INDEX ON t (a)").await;
    desk.write("ALTER TABLE t RETAIN FOREVER").await;
    let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let alter = |retain, retain_forever| v1::AlterTableRequest {
        table: "t".into(),
        retain,
        retain_forever,
        ..Default::default()
    };
    for (request, word) in [
        (alter(span(0), false), "minimum"),
        (alter(span(-5), false), "negative"),
        (alter(span(60), true), "both set"),
        (alter(None, false), "specifies no change"),
    ] {
        invalid(desk.cluster.writer.alter_table(request).await, "ARGUMENT_INVALID").says(&[word]);
    }
    desk.cluster.writer.alter_table(alter(span(60), false)).await.unwrap();
    desk.cluster.writer.alter_table(alter(None, true)).await.unwrap();
    let create = v1::CreateTableRequest { table: "u".into(), retain: span(1), ..Default::default() };
    desk.cluster.writer.create_table(create).await.unwrap();
    desk.seq = 7;
    for (seq, seconds) in
        [(1, Some(7_776_000)), (2, Some(129_600)), (3, Some(129_600)), (4, None), (5, Some(60)), (6, None)]
    {
        let answer = desk.ask(&format!("DESCRIBE t AS OF @seq:{seq}")).await;
        assert_eq!(answer.tables()[0].retain, seconds.and_then(span), "at {seq}");
    }
    let tables = desk.ask("SHOW TABLES").await;
    assert_eq!(tables.tables().iter().map(|info| info.retain).collect::<Vec<_>>(), [None, span(1)]);
    let missing = desk.try_write("ALTER TABLE v RETAIN \"1d\"").await;
    refused(missing, Code::NotFound, "TABLE_NOT_FOUND");
    // The daemons read the retention back from the log.
    desk.cluster.writer_daemon.kill();
    desk.cluster.writer_daemon = Daemon::writer(desk.cluster.dir.path());
    desk.cluster.writer = desk.cluster.writer_daemon.as_writer().await;
    desk.write("ALTER TABLE u RETAIN \"2s\"").await;
    assert_eq!(desk.ask("DESCRIBE u").await.tables()[0].retain, span(2));
}

#[tokio::test]
async fn a_statement_sent_to_the_wrong_daemon_is_refused() {
    let mut desk = Desk::open().await;
    desk.write("CREATE TABLE t (pk=id)").await;
    for statement in [
        "SELECT * FROM t",
        "EXPLAIN SELECT * FROM t",
        "SHOW TABLES",
        "SHOW DRIFT t",
        "DESCRIBE t",
        "SHOW DIFF t FROM @seq:1 TO @now",
    ] {
        invalid(desk.try_write(statement).await, "QUERY_INVALID").says(&["reader"]);
        desk.ask(statement).await;
    }
    let count = desk.ask("SELECT COUNT(*) FROM t").await.count();
    assert_eq!(count, 0);
}
