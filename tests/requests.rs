//! Invalid requests are refused with a reason, and change nothing.

use crate::harness::calls::{fresh, run};
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;
use driftdb::v1;
use prost_types::Timestamp;
use tonic::{Code, Status};

const FILLED: u64 = 2;

/// A table with large rows: a Select returns them in several messages.
async fn open() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let text = "x".repeat(20_000);
    let inserts = (0..50).map(|i| insert("t", format!(r#"{{"id":"k{i:02}","s":"{text}"}}"#))).collect();
    assert_eq!(apply(&mut cluster.writer, inserts).await.unwrap().seq, FILLED);
    cluster
}

/// Checks that nothing has changed, and that the next write works.
async fn expect_unchanged(mut cluster: Cluster) {
    let token = apply(&mut cluster.writer, vec![delete("t", "k00")]).await.unwrap();
    assert_eq!(token.seq, FILLED + 1);
    let history = v1::HistoryRequest { table: "t".into(), freshness: fresh(token.seq), ..Default::default() };
    let mut stream = cluster.reader.history(history).await.unwrap().into_inner();
    let mut seqs = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        seqs.extend(message.commits.into_iter().map(|commit| commit.seq));
    }
    seqs.dedup();
    assert_eq!(seqs, [1, FILLED, FILLED + 1]);
}

fn all() -> v1::SelectRequest {
    v1::SelectRequest { table: "t".into(), as_of: at_seq(FILLED), ..Default::default() }
}

async fn first_token(cluster: &mut Cluster, request: v1::SelectRequest) -> Vec<u8> {
    let mut stream = cluster.reader.select(request).await.unwrap().into_inner();
    let token = stream.message().await.unwrap().unwrap().resume_token;
    assert!(!token.is_empty());
    token.into()
}

#[tokio::test]
async fn a_resume_token_resumes_only_its_own_request() {
    let mut cluster = open().await;
    let token = first_token(&mut cluster, all()).await;
    let others = [
        v1::SelectRequest { r#where: "id > \"k1\"".into(), ..all() },
        v1::SelectRequest { fields: vec!["id".into()], ..all() },
        v1::SelectRequest { limit: 10, ..all() },
        v1::SelectRequest { offset: 1, ..all() },
        v1::SelectRequest { count_only: true, ..all() },
        v1::SelectRequest { params: vec!["1".into()], ..all() },
    ];
    for other in others {
        let request = v1::SelectRequest { resume_token: token.clone().into(), ..other };
        invalid(select(&mut cluster.reader, request).await, "FILTER_MISMATCH").says(&["resume_token"]);
    }
    cluster.create("u").await;
    let request = v1::SelectRequest { resume_token: token.into(), table: "u".into(), ..all() };
    invalid(select(&mut cluster.reader, request).await, "FILTER_MISMATCH");
}

/// The parts of a request that came later, and that are hashed only if they are given.
#[tokio::test]
async fn a_resume_token_tells_the_fields_of_a_request_apart() {
    let mut cluster = open().await;
    let fields = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let requests = [
        v1::SelectRequest { fields: fields(&["s", "UTC"]), ..all() },
        v1::SelectRequest { fields: fields(&["s"]), order_by: "UTC".into(), ..all() },
        v1::SelectRequest { fields: fields(&["s"]), time_zone: "UTC".into(), ..all() },
        v1::SelectRequest { fields: fields(&["s", "DELETED"]), ..all() },
    ];
    for (at, request) in requests.iter().enumerate() {
        let token = first_token(&mut cluster, request.clone()).await;
        for (other_at, other) in requests.iter().enumerate() {
            let resumed = v1::SelectRequest { resume_token: token.clone().into(), ..other.clone() };
            let outcome = select(&mut cluster.reader, resumed).await;
            match at == other_at {
                true => assert!(outcome.is_ok(), "{other:?}"),
                false => _ = invalid(outcome, "FILTER_MISMATCH"),
            }
        }
        let deleted = v1::SelectRequest { deleted: true, fields: fields(&["s"]), ..all() };
        let deleted = v1::SelectRequest { resume_token: token.into(), ..deleted };
        invalid(select(&mut cluster.reader, deleted).await, "FILTER_MISMATCH");
    }
}

#[tokio::test]
async fn a_damaged_or_foreign_resume_token_is_refused() {
    let mut cluster = open().await;
    let token = first_token(&mut cluster, all()).await;
    let resume = |token: Vec<u8>| v1::SelectRequest { resume_token: token.into(), ..all() };
    for cut in 1..token.len() {
        invalid(select(&mut cluster.reader, resume(token[..cut].to_vec())).await, "ARGUMENT_INVALID");
    }
    for garbage in [vec![0], vec![0xff; 100], b"resume".to_vec(), vec![0x91; 10_000]] {
        invalid(select(&mut cluster.reader, resume(garbage)).await, "ARGUMENT_INVALID")
            .says(&["resume_token"]);
    }
    // Every damaged token gets an answer, and the reader keeps running.
    for at in 0..token.len() {
        let mut changed = token.clone();
        changed[at] ^= 0x55;
        let _ = select(&mut cluster.reader, resume(changed)).await;
    }
    let mut other = open().await;
    let refusal = select(&mut other.reader, resume(token.clone())).await;
    refused(refusal, Code::FailedPrecondition, "EPOCH_CHANGED").says(&["another database"]);
    assert_eq!(select(&mut cluster.reader, resume(token)).await.unwrap().last().unwrap().0, "k49");
    expect_unchanged(cluster).await;
}

#[tokio::test]
async fn commit_time_must_be_between_the_last_commit_and_now() {
    let mut cluster = Cluster::start().await;
    let at = async |cluster: &mut Cluster, time: Timestamp| -> Result<v1::WriteToken, Status> {
        let options = Some(v1::CommitOptions { commit_time: Some(time), ..Default::default() });
        let operations = vec![put("t", r#"{"id":"a"}"#)];
        let request = v1::ApplyRequest { operations, options, ..Default::default() };
        cluster.writer.apply(request).await.map(|answer| answer.into_inner().token.unwrap())
    };
    let create = v1::CreateTableRequest {
        table: "t".into(),
        options: Some(v1::CommitOptions { commit_time: Some(moment(1000)), ..Default::default() }),
        ..Default::default()
    };
    let created = cluster.writer.create_table(create).await.unwrap().into_inner().token.unwrap();
    assert_eq!(created.time, Some(moment(1000)));
    for time in [1000, 1001, 1_000_000_000] {
        assert_eq!(at(&mut cluster, moment(time)).await.unwrap().time, Some(moment(time)));
    }
    for (time, word) in [
        (moment(999_999_999), "2001-09-09T01:46:39.000Z"),
        (Timestamp { seconds: 999_999_999, nanos: 999_000_000 }, "2001-09-09T01:46:39.999Z"),
        (moment(7_000_000_000), "2191-10-27T12:26:40.000Z"),
        (moment(-1), "1970"),
        (Timestamp { seconds: i64::MAX, nanos: 0 }, "between"),
        (Timestamp { seconds: 1_000_000_001, nanos: -1_000_000 }, "between"),
    ] {
        invalid(at(&mut cluster, time).await, "ARGUMENT_INVALID").says(&[word]);
    }
    let now = apply(&mut cluster.writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
    assert_eq!(now.seq, 5);
    invalid(at(&mut cluster, moment(1_000_000_001)).await, "ARGUMENT_INVALID").says(&["commit_time"]);
    assert_eq!(at(&mut cluster, now.time.unwrap()).await.unwrap().seq, 6);
}

fn moment(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}

#[tokio::test]
async fn empty_statements_are_refused() {
    let mut cluster = open().await;
    let writer = &mut cluster.writer;
    for statement in ["SNAPSHOT tt", "COMPACT tt", "VERIFY tt"] {
        let refusal = refused(run(writer, statement).await, Code::NotFound, "TABLE_NOT_FOUND");
        refusal.tells("nearest", "t");
    }
    let unknown = v1::VerifyRequest { table: "tt".into(), deep: false };
    refused(writer.verify(unknown).await, Code::NotFound, "TABLE_NOT_FOUND").tells("nearest", "t");
    for statement in ["BEGIN", "COMMIT", "ROLLBACK"] {
        invalid(run(&mut cluster.writer, statement).await, "QUERY_INVALID").says(&["driftctl"]);
    }
    expect_unchanged(cluster).await;
}

#[tokio::test]
async fn an_invalid_request_is_refused() {
    fn meaningless<T>(outcome: Result<T, Status>, word: &str) {
        invalid(outcome, "ARGUMENT_INVALID").says(&[word]);
    }
    let mut cluster = open().await;
    let operation = v1::Operation { action: None, ..delete("t", "k00") };
    meaningless(apply(&mut cluster.writer, vec![operation]).await, "action");
    let precondition = v1::Precondition { table: "t".into(), key: "k00".into(), ..Default::default() };
    let request = v1::ApplyRequest { preconditions: vec![precondition], ..Default::default() };
    meaningless(cluster.writer.apply(request).await, "check");
    let create = v1::CreateTableRequest { table: "u".into(), key_type: 99, ..Default::default() };
    meaningless(cluster.writer.create_table(create).await, "key type");
    let reader = &mut cluster.reader;
    meaningless(reader.select(v1::SelectRequest { format: 99, ..all() }).await, "format");
    meaningless(
        reader.get(v1::GetRequest { table: "t".into(), format: -1, ..Default::default() }).await,
        "format",
    );
    let fields = vec!["s".to_owned(), "id".to_owned(), "`s`".to_owned()];
    let twice = reader.select(v1::SelectRequest { fields, ..all() }).await;
    meaningless(twice, "duplicate");
    meaningless(
        reader.list_tables(v1::ListTablesRequest { page_size: -1, ..Default::default() }).await,
        "page_size",
    );
    meaningless(reader.diff(v1::DiffRequest { table: "t".into(), ..Default::default() }).await, "start");
    let negative = prost_types::Duration { seconds: -1, nanos: 0 };
    let ago = Some(v1::AsOf { at: Some(v1::as_of::At::Ago(negative)) });
    meaningless(reader.select(v1::SelectRequest { as_of: ago, ..all() }).await, "ago");
    for freshness in [
        v1::Freshness { wait: Some(negative), ..Default::default() },
        v1::Freshness { max_staleness: Some(negative), ..Default::default() },
    ] {
        meaningless(
            reader.select(v1::SelectRequest { freshness: Some(freshness), ..all() }).await,
            "negative",
        );
    }
    let far = Timestamp { seconds: i64::MAX, nanos: 0 };
    let as_of = Some(v1::AsOf { at: Some(v1::as_of::At::Time(far)) });
    meaningless(reader.select(v1::SelectRequest { as_of, ..all() }).await, "between");
    let both = v1::ReaderServiceExecuteRequest {
        statement: "SELECT * FROM t AS OF @seq:1".into(),
        as_of: at_seq(1),
        ..Default::default()
    };
    meaningless(reader.execute(both).await, "as_of");
    expect_unchanged(cluster).await;
}

#[tokio::test]
async fn a_commit_is_refused_whole() {
    let mut cluster = open().await;
    let mut operations: Vec<_> = (0..100).map(|i| put("t", format!(r#"{{"id":"new{i}"}}"#))).collect();
    operations.push(delete("t", "k01"));
    operations.push(patch("t", "k02", r#"{"s":null}"#));
    operations.push(insert("t", r#"{"id":"new7"}"#));
    let refusal = refused(apply(&mut cluster.writer, operations).await, Code::AlreadyExists, "ROW_EXISTS");
    refusal.says(&["operation 103", "new7"]).tells("operation", 102);
    let statement = r#"INSERT INTO t {"id": "new1"}, {"id": "new2"}, {"id": "k03"}"#;
    refused(run(&mut cluster.writer, statement).await, Code::AlreadyExists, "ROW_EXISTS");
    // The writer's memory is unchanged, too: it can insert the row that the refused commit inserted, and finds the row
    // that it deleted.
    let status = cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.last_seq, status.tables[0].rows, status.tables[0].events), (FILLED, 50, 51));
    let live = |key: &str, exists| v1::Precondition {
        table: "t".into(),
        key: key.into(),
        check: Some(v1::precondition::Check::Exists(exists)),
        ..Default::default()
    };
    let unchanged =
        v1::Precondition { check: Some(v1::precondition::Check::SeqIs(FILLED)), ..live("k02", true) };
    let preconditions = vec![live("new0", false), live("new7", false), live("k01", true), unchanged];
    let request = v1::ApplyRequest { preconditions, ..Default::default() };
    let token = cluster.writer.apply(request).await.unwrap().into_inner().token.unwrap();
    assert_eq!(token.seq, FILLED + 1, "a commit that changes nothing has its own seq");
    let rows = select_at(&mut cluster.reader, "t", token.seq).await.unwrap();
    assert_eq!(rows.len(), 50);
    assert!(rows.iter().all(|(key, text)| key.starts_with('k') && text.len() > 20_000));
}
