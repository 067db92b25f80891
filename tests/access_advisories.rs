//! The ways around a permission that other databases had to publish advisories about. Each test fails if its check is taken out.

use std::collections::BTreeSet;
use std::time::Duration;

use driftdb::client::{ReaderApi, WriterApi};
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use crate::harness::access::{SecuredCluster, execute, principal, query, token_of};
use crate::harness::raw_http2::{RawConnection, framed};
use crate::harness::refusal::refused;
use crate::harness::{at_seq, insert, patch, reason};

/// A cluster with a principal `ann` who may read `mine*` and write `mine`, and tables that are not hers.
async fn cluster() -> (SecuredCluster, u64) {
    let cluster = SecuredCluster::start(&[
        principal("ann", "read mine*, write mine"),
        principal("bob", "write mine, write theirs"),
    ]);
    let last = cluster.fill(&["mine", "theirs", "mine_2"]).await;
    (cluster, last)
}

async fn apply(writer: &mut WriterApi, operations: Vec<v1::Operation>) -> Result<v1::ApplyResponse, Status> {
    let request = v1::ApplyRequest { operations, ..Default::default() };
    writer.apply(request).await.map(tonic::Response::into_inner)
}

/// The tables that a watch names up to a commit, and everything else that it says as text.
async fn watched_until(
    reader: &mut ReaderApi,
    request: v1::WatchDriftRequest,
    seq: u64,
) -> (BTreeSet<String>, String) {
    let request = v1::WatchDriftRequest { until_seq: seq, ..request };
    let mut messages = reader.watch_drift(request).await.unwrap().into_inner();
    let (mut tables, mut text) = (BTreeSet::new(), String::new());
    while let Some(message) = timeout(Duration::from_secs(20), messages.message()).await.unwrap().unwrap() {
        text += &format!("{message:?}");
        match message.event {
            Some(Event::Rows(batch)) if !batch.rows.is_empty() => _ = tables.insert(batch.table),
            Some(Event::Commit(commit)) => {
                tables.extend(commit.changes.into_iter().map(|change| change.table))
            }
            _ => {}
        }
    }
    (tables, text)
}

fn names(tables: &[&str]) -> BTreeSet<String> {
    tables.iter().map(|table| (*table).to_owned()).collect()
}

#[tokio::test]
async fn a_watch_of_everything_delivers_only_what_its_principal_may_read() {
    let (cluster, last) = cluster().await;
    let mut root = cluster.writer_as("root").await;
    // One commit in a table of hers and in one that is not, and tables that come later.
    apply(&mut root, vec![insert("mine", r#"{"id":"a"}"#), insert("theirs", r#"{"id":"a","secret":1}"#)])
        .await
        .unwrap();
    let later = cluster.fill(&["mine_later", "theirs_later"]).await;
    let mut reader = cluster.reader_as("ann").await;
    for request in [
        v1::WatchDriftRequest {
            start: Some(v1::watch_drift_request::Start::AfterSeq(0)),
            ..Default::default()
        },
        v1::WatchDriftRequest {
            start: Some(v1::watch_drift_request::Start::AfterSeq(last)),
            initial_rows: true,
            with_before: true,
            with_after: true,
            ..Default::default()
        },
    ] {
        let (tables, text) = watched_until(&mut reader, request, later).await;
        assert_eq!(tables, names(&["mine", "mine_2", "mine_later"]));
        assert!(!text.contains("theirs") && !text.contains("secret\":1"), "{text}");
    }
    // Live commits take another way than those of files.
    let mut live = reader.watch_drift(v1::WatchDriftRequest::default()).await.unwrap().into_inner();
    next_event(&mut live, |event| matches!(event, Event::CaughtUp(_))).await;
    apply(&mut root, vec![insert("theirs", r#"{"id":"b"}"#)]).await.unwrap();
    apply(&mut root, vec![insert("theirs", r#"{"id":"c"}"#), insert("mine", r#"{"id":"c"}"#)]).await.unwrap();
    let Event::Commit(commit) = next_event(&mut live, |event| matches!(event, Event::Commit(_))).await else {
        unreachable!()
    };
    assert_eq!(commit.changes.iter().map(|change| change.table.as_str()).collect::<Vec<_>>(), ["mine"]);
}

async fn next_event(
    messages: &mut Streaming<v1::WatchDriftResponse>,
    wanted: impl Fn(&Event) -> bool,
) -> Event {
    loop {
        let message = timeout(Duration::from_secs(20), messages.message()).await.unwrap().unwrap().unwrap();
        if let Some(event) = message.event.filter(&wanted) {
            return event;
        }
    }
}

/// Statements with a table in place of `?`, for the reader.
const READS: [&str; 14] = [
    "SELECT * FROM ?",
    "SELECT COUNT(*) FROM ? WHERE secret = \"of theirs\"",
    "SELECT * FROM ? DELETED",
    "EXPLAIN SELECT * FROM ?",
    "SHOW DRIFT ? WITH BEFORE WITH AFTER",
    "SHOW DIFF ? FROM @seq:1 TO @now",
    "FIND FIRST IN ? WHERE secret = \"of theirs\"",
    "DESCRIBE ?",
    "SELECT * FROM ? AS OF @seq:4",
    "SELECT COUNT(*) FROM ? AS OF EVERY 1 SEQS FROM @seq:4 TO @seq:5",
    "EXPLAIN SELECT COUNT(*) FROM ? AS OF EVERY 1 SEQS FROM @seq:4 TO @seq:5",
    "EXPLAIN FIND FIRST IN ? WHERE secret = \"of theirs\"",
    "EXPLAIN SHOW DRIFT ?",
    "SHOW DRIFT ? WHERE secret = \"of theirs\"",
];

/// Statements with a table in place of `?`, for the writer.
const WRITES: [&str; 22] = [
    "INSERT INTO ? {\"id\":\"x\"}",
    "UPSERT INTO ? {\"id\":\"k\"}",
    "PATCH ? KEY \"k\" SET {\"a\":1}",
    "SOFT DELETE FROM ? KEY \"k\"",
    "REVERT ? KEY \"k\" TO @seq:4",
    "PATCH ? SET {\"a\":1} WHERE secret = \"of theirs\"",
    "PATCH ? SET {\"a\":1} WHERE secret = \"of theirs\" DRY RUN",
    "REVERT ? TO @seq:3 DRY RUN",
    "INSERT INTO mine {\"id\":\"y\"} IF NO CHANGE IN ? WHERE secret = \"of theirs\" SINCE 3",
    "CREATE INDEX ON ? (secret)",
    "ALTER TABLE ? RETAIN FOREVER",
    "DROP TABLE ?",
    "SNAPSHOT ?",
    "COMPACT ? DRY RUN",
    "VERIFY ?",
    "SOFT DELETE FROM ? WHERE secret = \"of theirs\"",
    "SOFT DELETE FROM ? WHERE secret = \"of theirs\" DRY RUN",
    "PATCH ? SET {\"a\":1} WHERE secret = \"of theirs\" IN BATCHES OF 1",
    "PATCH mine SET {\"a\":1} WHERE id = \"k\" IF NO CHANGE IN ? WHERE secret = \"of theirs\" SINCE 3",
    "REVERT ? TO @seq:3",
    "ALTER TABLE ? RENAME TO mine_9",
    "DROP INDEX ON ? (secret)",
];

/// What a refusal says, with the name of the table taken out.
fn said<T>(outcome: Result<T, Status>, table: &str) -> String {
    use tonic_types::StatusExt;
    let Err(status) = outcome else { return "ok".to_owned() };
    let info = status.get_details_error_info();
    let mut metadata: Vec<_> = info.into_iter().flat_map(|info| info.metadata).collect();
    metadata.sort();
    let mut trailers: Vec<String> = status.metadata().keys().map(|key| format!("{key:?}")).collect();
    trailers.sort();
    // Of the details the length: their metadata come in any order.
    let details = status.details().len();
    format!(
        "{:?} {} {metadata:?} {trailers:?} {details} {}",
        status.code(),
        reason(&status),
        status.message()
    )
    .replace(table, "?")
}

#[tokio::test]
async fn a_hidden_table_answers_statements_as_one_that_does_not_exist() {
    let (cluster, _) = cluster().await;
    let (mut reader, mut writer) = (cluster.reader_as("ann").await, cluster.writer_as("ann").await);
    for statement in READS {
        let mut answers = Vec::new();
        for table in ["theirs", "absent"] {
            answers.push(said(query(&mut reader, &statement.replace('?', table)).await, table));
        }
        assert!(answers[0].contains("TABLE_NOT_FOUND"), "{statement}: {}", answers[0]);
        assert_eq!(answers[0], answers[1], "{statement}");
    }
    for statement in WRITES {
        let mut answers = Vec::new();
        for table in ["theirs", "absent"] {
            answers.push(said(execute(&mut writer, &statement.replace('?', table)).await, table));
        }
        assert!(answers[0].contains("TABLE_NOT_FOUND"), "{statement}: {}", answers[0]);
        assert_eq!(answers[0], answers[1], "{statement}");
    }
    // The statements are sound: whoever may do everything can run them.
    let mut root = cluster.reader_as("root").await;
    for statement in READS {
        query(&mut root, &statement.replace('?', "theirs")).await.unwrap();
    }
}

#[tokio::test]
async fn a_hidden_table_answers_calls_as_one_that_does_not_exist() {
    let (cluster, _) = cluster().await;
    let mut reader = cluster.reader_as("ann").await;
    let mut writer = cluster.writer_as("ann").await;
    let mut answers: Vec<Vec<String>> = Vec::new();
    for table in ["theirs", "absent"] {
        let name = || table.to_owned();
        let diff = v1::DiffRequest { table: name(), start: at_seq(1), ..Default::default() };
        let watch = v1::WatchDriftRequest { tables: vec!["mine".into(), name()], ..Default::default() };
        let get = v1::GetRequest { table: name(), keys: vec!["k".into()], ..Default::default() };
        let select = v1::SelectRequest { table: name(), ..Default::default() };
        let describe = v1::DescribeTableRequest { table: name(), ..Default::default() };
        let history = v1::HistoryRequest { table: name(), with_before: true, ..Default::default() };
        let alter = v1::AlterTableRequest { table: name(), retain_forever: true, ..Default::default() };
        let compact = v1::CompactRequest { table: name(), ..Default::default() };
        let verify = v1::VerifyRequest { table: name(), deep: true };
        let revert = v1::Operation {
            table: name(),
            key: "k".into(),
            action: Some(v1::operation::Action::Revert(v1::operation::Revert { to: at_seq(4) })),
        };
        answers.push(vec![
            said(reader.get(get).await, table),
            said(reader.select(select).await, table),
            said(reader.history(history).await, table),
            said(reader.diff(diff).await, table),
            said(reader.describe_table(describe).await, table),
            said(reader.watch_drift(watch).await, table),
            said(apply(&mut writer, vec![patch(table, "k", "{}")]).await, table),
            said(apply(&mut writer, vec![insert("mine", r#"{"id":"z"}"#), revert]).await, table),
            said(writer.drop_table(v1::DropTableRequest { table: name(), options: None }).await, table),
            said(writer.alter_table(alter).await, table),
            said(writer.snapshot(v1::SnapshotRequest { table: name() }).await, table),
            said(writer.compact(compact).await, table),
            said(writer.verify(verify).await, table),
            said(ingest(&mut writer, table, "").await, table),
        ]);
    }
    assert!(answers[0].iter().all(|answer| answer.contains("TABLE_NOT_FOUND")), "{:#?}", answers[0]);
    assert_eq!(answers[0], answers[1]);
    // A new table is refused in the same way, whether its name is free or not.
    let create = async |writer: &mut WriterApi, table: &str| {
        let request = v1::CreateTableRequest { table: table.into(), ..Default::default() };
        said(writer.create_table(request).await, table)
    };
    let taken = create(&mut writer, "theirs").await;
    assert!(taken.contains("PERMISSION_DENIED"), "{taken}");
    assert_eq!(taken, create(&mut writer, "absent").await);
    assert_eq!(taken, create(&mut writer, "THEIRS").await);
}

/// Ingests one operation, and returns its refusal as a status.
async fn ingest(writer: &mut WriterApi, table: &str, producer: &str) -> Result<v1::IngestResponse, Status> {
    let request = v1::IngestRequest {
        producer_id: producer.into(),
        batch_id: 1,
        operations: vec![insert(table, r#"{"id":"i"}"#)],
        ..Default::default()
    };
    let mut answers = writer.ingest(tokio_stream::once(request)).await?.into_inner();
    let answer = answers.message().await?.unwrap();
    match answer.errors.first() {
        Some(refused) => {
            Err(Status::new(Code::from(refused.code), format!("{} {}", refused.reason, refused.message)))
        }
        None => Ok(answer),
    }
}

#[tokio::test]
async fn near_names_and_lists_do_not_name_a_hidden_table() {
    let (cluster, _) = cluster().await;
    let (mut reader, mut writer) = (cluster.reader_as("ann").await, cluster.writer_as("ann").await);
    let near = said(query(&mut reader, "SELECT * FROM their").await, "their");
    let far = said(execute(&mut writer, "INSERT INTO their {\"id\":\"a\"}").await, "their");
    assert!(!near.contains("mean") && !near.contains("nearest"), "{near}");
    assert!(!far.contains("mean") && !far.contains("nearest"), "{far}");
    let own = query(&mut reader, "SELECT * FROM mime").await.unwrap_err();
    assert!(format!("{own:?}").contains("mine"), "{own:?}");
    let lists = [
        format!("{:?}", reader.list_tables(v1::ListTablesRequest::default()).await.unwrap()),
        query(&mut reader, "SHOW TABLES").await.unwrap(),
        format!("{:?}", reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap()),
        format!("{:?}", writer.status(v1::WriterServiceStatusRequest {}).await.unwrap()),
    ];
    for list in &lists {
        assert!(!list.contains("theirs"), "{list}");
    }
    for list in [&lists[0], &lists[1], &lists[3]] {
        assert!(list.contains("\"mine\"") && list.contains("\"mine_2\""), "{list}");
    }
}

#[tokio::test]
async fn a_precondition_is_no_oracle_about_a_hidden_row() {
    use v1::precondition::Check;
    let (cluster, _) = cluster().await;
    let mut writer = cluster.writer_as("ann").await;
    let of_row = |table: &str, check| v1::Precondition {
        table: table.into(),
        key: "k".into(),
        check: Some(check),
        ..Default::default()
    };
    let of_many = |table: &str| v1::Precondition {
        table: table.into(),
        r#where: "secret = \"of theirs\"".into(),
        check: Some(Check::UnchangedSince(1)),
        ..Default::default()
    };
    let makes: [&dyn Fn(&str) -> v1::Precondition; 3] = [
        &|table: &str| of_row(table, Check::Exists(true)),
        &|table: &str| of_row(table, Check::SeqIs(4)),
        &|table: &str| of_many(table),
    ];
    for make in makes {
        let mut answers = Vec::new();
        for table in ["theirs", "absent"] {
            let request = v1::ApplyRequest {
                operations: vec![insert("mine", r#"{"id":"p"}"#)],
                preconditions: vec![make(table)],
                ..Default::default()
            };
            answers.push(said(writer.apply(request).await, table));
            let batch = v1::IngestRequest {
                batch_id: 1,
                atomic: true,
                operations: vec![insert("mine", r#"{"id":"p"}"#)],
                preconditions: vec![make(table)],
                ..Default::default()
            };
            let mut acks = writer.ingest(tokio_stream::once(batch)).await.unwrap().into_inner();
            answers.push(said(acks.message().await, table));
        }
        assert!(answers.iter().all(|answer| answer.contains("TABLE_NOT_FOUND")), "{answers:#?}");
        assert_eq!(answers[..2], answers[2..]);
    }
}

#[tokio::test]
async fn a_commit_in_two_tables_shows_each_reader_its_own_part() {
    let (cluster, _) = cluster().await;
    let mut bob = cluster.writer_as("bob").await;
    let operations =
        vec![insert("mine", r#"{"id":"both"}"#), insert("theirs", r#"{"id":"both","secret":7}"#)];
    let seq = apply(&mut bob, operations).await.unwrap().token.unwrap().seq;
    let mut reader = cluster.reader_as("ann").await;
    let request = v1::HistoryRequest {
        table: "mine".into(),
        freshness: Some(v1::Freshness { min_seq: seq, ..Default::default() }),
        ..Default::default()
    };
    let mut answers = reader.history(request).await.unwrap().into_inner();
    let mut text = String::new();
    while let Some(answer) = answers.message().await.unwrap() {
        text += &format!("{answer:?}");
    }
    assert!(text.contains("both") && text.contains("\"bob\"") && !text.contains("theirs"), "{text}");
}

#[tokio::test]
async fn a_token_that_was_made_for_another_principal_is_refused() {
    let (cluster, last) = cluster().await;
    let mut root = cluster.writer_as("root").await;
    let text = "x".repeat(300_000);
    let rows = (0..3).map(|i| insert("mine", format!(r#"{{"id":"r{i}","text":"{text}"}}"#))).collect();
    let seq = apply(&mut root, rows).await.unwrap().token.unwrap().seq;
    let (mut ann, mut bob) = (cluster.reader_as("ann").await, cluster.reader_as("bob").await);
    let freshness = Some(v1::Freshness { min_seq: seq, ..Default::default() });
    let select = v1::SelectRequest { table: "mine".into(), freshness, ..Default::default() };
    let first = ann.select(select.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    assert!(!first.resume_token.is_empty());
    let resumed = v1::SelectRequest { resume_token: first.resume_token, ..select };
    refused(bob.select(resumed.clone()).await, Code::PermissionDenied, "PERMISSION_DENIED");
    ann.select(resumed).await.unwrap();

    let watch = v1::WatchDriftRequest { tables: vec!["mine".into()], ..Default::default() };
    let opened = ann.watch_drift(watch.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap();
    let start = Some(v1::watch_drift_request::Start::ResumeToken(opened.resume_token));
    let resumed = v1::WatchDriftRequest { start, ..watch };
    refused(bob.watch_drift(resumed.clone()).await, Code::PermissionDenied, "PERMISSION_DENIED");
    ann.watch_drift(resumed).await.unwrap();

    let list = v1::ListTablesRequest { page_size: 1, as_of: at_seq(last), ..Default::default() };
    let page = ann.list_tables(list.clone()).await.unwrap().into_inner();
    let next = v1::ListTablesRequest { page_token: page.next_page_token, ..list };
    refused(bob.list_tables(next.clone()).await, Code::PermissionDenied, "PERMISSION_DENIED");
    let second = ann.list_tables(next).await.unwrap().into_inner();
    assert_eq!((page.tables[0].table.as_str(), second.tables[0].table.as_str()), ("mine", "mine_2"));
    assert_eq!(second.next_page_token, "");
}

#[tokio::test]
async fn nobody_writes_as_somebody_else() {
    let (cluster, _) = cluster().await;
    let options = |actor: &str| Some(v1::CommitOptions { actor: actor.into(), ..Default::default() });
    let put = |id: &str, actor: &str| v1::ApplyRequest {
        operations: vec![insert("mine", format!(r#"{{"id":"{id}"}}"#))],
        options: options(actor),
        ..Default::default()
    };
    let mut ann = cluster.writer_as("ann").await;
    refused(ann.apply(put("a", "root")).await, Code::PermissionDenied, "PERMISSION_DENIED");
    let statement = v1::WriterServiceExecuteRequest {
        statement: "INSERT INTO mine {\"id\":\"a\"}".into(),
        options: options("bob"),
        ..Default::default()
    };
    refused(ann.execute(statement).await, Code::PermissionDenied, "PERMISSION_DENIED");
    ann.apply(put("b", "")).await.unwrap();
    ann.apply(put("c", "ann")).await.unwrap();
    let mut root = cluster.writer_as("root").await;
    let last = root.apply(put("d", "historian")).await.unwrap().into_inner().token.unwrap().seq;
    let history = v1::HistoryRequest {
        table: "mine".into(),
        start: at_seq(last - 3),
        freshness: Some(v1::Freshness { min_seq: last, ..Default::default() }),
        ..Default::default()
    };
    let mut reader = cluster.reader_as("ann").await;
    let commits =
        reader.history(history.clone()).await.unwrap().into_inner().message().await.unwrap().unwrap().commits;
    let who: Vec<_> =
        commits.iter().map(|commit| (commit.actor.as_str(), commit.principal.as_str())).collect();
    assert_eq!(who, [("ann", "ann"), ("ann", "ann"), ("historian", "root")]);
    // The filter by actor sees the actor, and nothing else.
    let by = v1::HistoryRequest { actor: "historian".into(), ..history };
    let commits = reader.history(by).await.unwrap().into_inner().message().await.unwrap().unwrap().commits;
    assert_eq!(commits.len(), 1);
}

#[tokio::test]
async fn ids_of_one_principal_are_not_those_of_another() {
    let (cluster, _) = cluster().await;
    let put = |table: &str, id: &str| v1::ApplyRequest {
        operations: vec![insert(table, format!(r#"{{"id":"{id}"}}"#))],
        options: Some(v1::CommitOptions { request_id: "import-1".into(), ..Default::default() }),
        ..Default::default()
    };
    let (mut ann, mut bob) = (cluster.writer_as("ann").await, cluster.writer_as("bob").await);
    let first = ann.apply(put("mine", "a")).await.unwrap().into_inner();
    let other = bob.apply(put("theirs", "b")).await.unwrap().into_inner();
    assert!(!other.replayed && other.token != first.token);
    let again = ann.apply(put("mine", "a")).await.unwrap().into_inner();
    assert!(again.replayed && again.token == first.token);
    let error = refused(ann.apply(put("mine", "z")).await, Code::InvalidArgument, "REQUEST_ID_REUSED");
    assert!(error.status.message().contains("\"import-1\""), "{}", error.status.message());

    // The position of a producer is its principal's, and a stream of another principal does not end it.
    let batch = |id: u64| v1::IngestRequest {
        producer_id: "loader".into(),
        batch_id: id,
        operations: vec![insert("mine", format!(r#"{{"id":"ingested {id}"}}"#))],
        ..Default::default()
    };
    let (sender, batches) = tokio::sync::mpsc::channel(4);
    let stream = tokio_stream::wrappers::ReceiverStream::new(batches);
    sender.send(batch(1)).await.unwrap();
    let mut acks = ann.ingest(stream).await.unwrap().into_inner();
    assert_eq!(acks.message().await.unwrap().unwrap().durable_batch_id, 1);
    let ask = v1::IngestRequest { producer_id: "loader".into(), ..Default::default() };
    let mut position = bob.ingest(tokio_stream::once(ask)).await.unwrap().into_inner();
    assert_eq!(position.message().await.unwrap().unwrap().durable_batch_id, 0);
    sender.send(batch(2)).await.unwrap();
    assert_eq!(acks.message().await.unwrap().unwrap().durable_batch_id, 2);
}

#[tokio::test]
async fn tricks_with_the_path_reach_nothing() {
    let (cluster, _) = cluster().await;
    let get = v1::GetRequest { table: "theirs".into(), keys: vec!["k".into()], ..Default::default() };
    // Nobody, and somebody who may not read the table.
    for token in [None, Some(token_of("ann"))] {
        let mut connection = RawConnection::open(&cluster.reader.url, 1 << 20).await;
        if let Some(token) = &token {
            connection = connection.with_token(token);
        }
        for path in [
            "/driftdb.v1.ReaderService/Get",
            "/driftdb.v1.ReaderService/Get/",
            "/driftdb.v1.ReaderService//Get",
            "//driftdb.v1.ReaderService/Get",
            "/driftdb.v1.ReaderService/get",
            "/driftdb.v1.ReaderService/%47et",
            "/driftdb.v1.ReaderService/Get%00",
            "/driftdb.v1.ReaderService/Get?x=/grpc.health.v1.Health/Check",
            "/driftdb.v1.ReaderService/Get;x",
            "/driftdb.v1.ReaderService/../driftdb.v1.ReaderService/Get",
            // What anyone may call, as far as the beginning tells.
            "/grpc.health.v1.Health/../driftdb.v1.ReaderService/Get",
            "/grpc.health.v1.Health/Check/../../driftdb.v1.ReaderService/Get",
            "/grpc.health.v1.Health/driftdb.v1.ReaderService/Get",
            "/grpc.health.v1.Health/",
        ] {
            let Some(mut call) = connection.start_at(path).await else { continue };
            // The daemon may have refused the call already.
            let _ = call.body.send_data(framed(&get), true);
            let (status, _) = timeout(Duration::from_secs(20), call.answer()).await.unwrap();
            let status = status.unwrap_or_else(|| panic!("{path} got an answer"));
            let refusals: &[i32] = match token {
                // Unauthenticated; of health, a method that does not exist.
                None if path.starts_with("/grpc.health.v1.Health/") => &[12],
                None => &[16],
                // Unimplemented, or no such table for her.
                Some(_) => &[5, 12],
            };
            assert!(refusals.contains(&status), "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn the_new_name_of_a_renamed_table_is_told_only_to_those_who_may_see_both_names() {
    let (cluster, _) = cluster().await;
    let mut root = cluster.writer_as("root").await;
    // ann may write `mine`, and read `mine*`; the others are not hers.
    for (from, to) in [("mine", "mine_3"), ("theirs", "mine_4"), ("mine_2", "hidden")] {
        execute(&mut root, &format!("ALTER TABLE {from} RENAME TO {to}")).await.unwrap();
    }
    let mut answers = Vec::new();
    for (name, table) in [("ann", "mine"), ("ann", "theirs"), ("ann", "mine_2"), ("bob", "theirs")] {
        let writer = &mut cluster.writer_as(name).await;
        let statement = format!(r#"INSERT INTO {table} {{"id":"a"}}"#);
        let status = execute(writer, &statement).await.unwrap_err();
        answers.push((table, format!("{status:?}")));
    }
    assert!(answers[0].1.contains("mine_3"), "{}", answers[0].1);
    for (table, answer) in &answers[1..] {
        for name in ["renamed", "mine_4", "hidden"] {
            assert!(!answer.contains(name), "{table}: {answer}");
        }
    }
}
