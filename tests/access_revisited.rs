//! Ways around the rules that do not ask directly: tokens and ids from a time without rules, rules that change while a call runs, names that
//! tables had, error texts, and what a daemon does before it knows who calls.

use std::time::{Duration, Instant};

use driftdb::v1;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use crate::harness::access::{SecuredCluster, execute, principal, query, token_of, write_rules};
use crate::harness::calls::{fresh, snapshot};
use crate::harness::database::flip;
use crate::harness::raw_http2::RawConnection;
use crate::harness::refusal::refused;
use crate::harness::{Daemon, Reader, apply, at_seq, connect, create_table, insert, patch, reason};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a call of a principal gets a reason.
async fn wait_for<T>(what: &str, mut call: impl AsyncFnMut() -> Result<T, Status>) {
    let began = Instant::now();
    while call().await.err().is_none_or(|status| reason(&status) != what) {
        assert!(began.elapsed() < PATIENCE, "no {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts both daemons again, on the data that they had without rules.
fn with_rules(dir: tempfile::TempDir, principals: &[String]) -> SecuredCluster {
    let (rules, data) = (dir.path().join("auth.toml"), dir.path().join("data"));
    write_rules(&rules, principals);
    let args = ["--auth-file", rules.to_str().unwrap()];
    let writer = Daemon::start("driftdb-writer", &data, &args);
    SecuredCluster { writer, reader: Daemon::start("driftdb-reader", &data, &args), rules, tls: None, dir }
}

#[tokio::test]
async fn tokens_from_before_there_were_principals_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let (mut writer_daemon, mut reader_daemon) = (Daemon::writer(&data), Daemon::reader(&data));
    let mut writer = writer_daemon.as_writer().await;
    for table in ["mine", "mine_2"] {
        crate::harness::create_table(&mut writer, table).await.unwrap();
    }
    let text = "x".repeat(300_000);
    let rows = (0..3).map(|n| insert("mine", format!(r#"{{"id":"r{n}","text":"{text}"}}"#))).collect();
    let seq = crate::harness::apply(&mut writer, rows).await.unwrap().seq;

    let select =
        |resume_token| v1::SelectRequest { table: "mine".into(), resume_token, ..Default::default() };
    let watch = |start| v1::WatchDriftRequest { tables: vec!["mine".into()], start, ..Default::default() };
    let list = |page_token| v1::ListTablesRequest { page_size: 1, page_token, ..Default::default() };
    let mut reader = reader_daemon.as_reader().await;
    reader.list_tables(v1::ListTablesRequest { freshness: fresh(seq), ..Default::default() }).await.unwrap();
    let rows = reader.select(select(Vec::new().into())).await.unwrap().into_inner().message().await;
    let opened = reader.watch_drift(watch(None)).await.unwrap().into_inner().message().await;
    let page = reader.list_tables(list(String::new())).await.unwrap().into_inner();
    let (rows, opened) = (rows.unwrap().unwrap().resume_token, opened.unwrap().unwrap().resume_token);
    assert!(!rows.is_empty() && !opened.is_empty() && page.next_page_token == "mine");
    drop((writer, reader));
    assert!(writer_daemon.terminate().await.success() && reader_daemon.terminate().await.success());

    let cluster = with_rules(dir, &[principal("ann", "read mine*")]);
    // Also an administrator could only have got them from somebody else.
    for name in ["ann", "root"] {
        let mut reader = cluster.reader_as(name).await;
        let start = Some(v1::watch_drift_request::Start::ResumeToken(opened.clone()));
        let denied = (Code::PermissionDenied, "PERMISSION_DENIED");
        refused(reader.select(select(rows.clone())).await, denied.0, denied.1)
            .says(&["without authentication"]);
        refused(reader.watch_drift(watch(start)).await, denied.0, denied.1);
        refused(reader.list_tables(list(page.next_page_token.clone())).await, denied.0, denied.1);
        reader.select(select(Vec::new().into())).await.unwrap();
        reader.list_tables(list(String::new())).await.unwrap();
    }
}

#[tokio::test]
async fn an_id_cannot_be_put_into_the_scope_of_a_principal_before_there_are_any() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::writer(&dir.path().join("data"));
    let mut writer = daemon.as_writer().await;
    crate::harness::create_table(&mut writer, "mine").await.unwrap();
    let options =
        Some(v1::CommitOptions { request_id: "\0ann\0import".into(), ..v1::CommitOptions::default() });
    let operations = vec![insert("mine", r#"{"id":"a"}"#)];
    let apply = v1::ApplyRequest { operations: operations.clone(), options, ..Default::default() };
    refused(writer.apply(apply).await, Code::InvalidArgument, "ARGUMENT_INVALID").says(&["NUL"]);
    let batch = v1::IngestRequest {
        producer_id: "\0ann\0loader".into(),
        batch_id: 1,
        operations,
        ..Default::default()
    };
    let acks = writer.ingest(tokio_stream::once(batch)).await;
    let ended = match acks {
        Ok(acks) => acks.into_inner().message().await,
        Err(status) => Err(status),
    };
    refused(ended, Code::InvalidArgument, "ARGUMENT_INVALID").says(&["NUL"]);
}

#[tokio::test]
async fn a_call_without_a_token_is_refused_before_its_body_comes() {
    let cluster = SecuredCluster::start(&[]);
    for (daemon, methods) in [
        (&cluster.writer, ["WriterService/Apply", "WriterService/Ingest", "WriterService/NoSuchMethod"]),
        (&cluster.reader, ["ReaderService/Get", "ReaderService/WatchDrift", "ReaderService/NoSuchMethod"]),
    ] {
        for method in methods {
            let mut connection = RawConnection::open(&daemon.url, 1 << 16).await;
            // Nothing of the body is sent, and it does not end.
            let call = connection.start(method).await.unwrap();
            let answer = timeout(Duration::from_secs(10), call.answer()).await;
            let (status, _) = answer.unwrap_or_else(|_| panic!("{method} waits for the body"));
            assert_eq!(status, Some(Code::Unauthenticated as i32), "{method}");
        }
    }
}

#[tokio::test]
async fn of_two_tokens_neither_counts() {
    let cluster = SecuredCluster::start(&[]);
    cluster.fill(&["t"]).await;
    let mut reader = Reader::new(connect(&cluster.reader.url).await);
    let value = |name: &str| -> MetadataValue<_> { format!("Bearer {}", token_of(name)).parse().unwrap() };
    for second in [None, Some("root"), Some("stranger")] {
        let mut request = tonic::Request::new(v1::ListTablesRequest::default());
        request.metadata_mut().append("authorization", value("root"));
        match second {
            None => _ = reader.list_tables(request).await.unwrap(),
            Some(second) => {
                request.metadata_mut().append("authorization", value(second));
                refused(reader.list_tables(request).await, Code::Unauthenticated, "UNAUTHENTICATED");
            }
        }
    }
}

#[tokio::test]
async fn an_open_stream_asks_nothing_more_of_a_table_that_was_taken_away() {
    let cluster = SecuredCluster::start(&[principal("ann", "write mine, read theirs")]);
    cluster.fill(&["mine", "theirs"]).await;
    let batch = |id: u64| v1::IngestRequest {
        batch_id: id,
        atomic: true,
        operations: vec![insert("mine", format!(r#"{{"id":"batch {id}"}}"#))],
        preconditions: vec![v1::Precondition {
            table: "theirs".into(),
            key: "k".into(),
            check: Some(v1::precondition::Check::Exists(true)),
            ..Default::default()
        }],
        ..Default::default()
    };
    let (sender, batches) = mpsc::channel(4);
    let mut ann = cluster.writer_as("ann").await;
    sender.send(batch(1)).await.unwrap();
    let mut acks = ann.ingest(ReceiverStream::new(batches)).await.unwrap().into_inner();
    assert_eq!(acks.message().await.unwrap().unwrap().durable_batch_id, 1);
    cluster.set_rules(&[principal("ann", "write mine")]);
    let ended = loop {
        match timeout(PATIENCE, acks.message()).await.expect("the stream goes on") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended without an error"),
            Err(status) => break status,
        }
    };
    refused::<()>(Err(ended), Code::PermissionDenied, "PERMISSION_DENIED");
    drop(sender);
}

#[tokio::test]
async fn an_open_reflection_stream_ends_with_its_principal() {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

    let cluster = SecuredCluster::start(&[principal("ann", "read mine")]);
    let (sender, questions) = mpsc::channel(4);
    let message_request = Some(MessageRequest::ListServices(String::new()));
    sender.send(ServerReflectionRequest { host: String::new(), message_request }).await.unwrap();
    let mut request = tonic::Request::new(ReceiverStream::new(questions));
    let token = format!("Bearer {}", token_of("ann")).parse().unwrap();
    request.metadata_mut().insert("authorization", token);
    let mut client = ServerReflectionClient::new(connect(&cluster.reader.url).await);
    let mut answers = client.server_reflection_info(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    cluster.set_rules(&[]);
    let ended = timeout(PATIENCE, answers.message()).await.expect("the stream goes on");
    refused(ended, Code::PermissionDenied, "PERMISSION_DENIED");
}

#[tokio::test]
async fn a_read_that_has_waited_is_judged_by_the_rules_of_its_end() {
    let cluster = SecuredCluster::start(&[principal("ann", "read mine")]);
    let last = cluster.fill(&["mine", "other"]).await;
    let ann = cluster.reader_as("ann").await;
    let wait = Some(prost_types::Duration { seconds: 50, nanos: 0 });
    let freshness = Some(v1::Freshness { min_seq: last + 1, wait, ..Default::default() });
    let get =
        v1::GetRequest { table: "mine".into(), keys: vec!["k".into()], freshness, ..Default::default() };
    let describe = v1::DescribeTableRequest { table: "mine".into(), freshness, ..Default::default() };
    let select = v1::SelectRequest { table: "mine".into(), freshness, ..Default::default() };
    let (mut one, mut two, mut three) = (ann.clone(), ann.clone(), ann.clone());
    let got = tokio::spawn(async move { one.get(get).await.map(drop) });
    let described = tokio::spawn(async move { two.describe_table(describe).await.map(drop) });
    let selected = tokio::spawn(async move {
        let mut rows = three.select(select).await?.into_inner();
        rows.message().await.map(drop)
    });
    // They have arrived once another call of the same connection was answered.
    let mut again = ann.clone();
    again.status(v1::ReaderServiceStatusRequest {}).await.unwrap();
    cluster.set_rules(&[principal("ann", "read other")]);
    let mine = || v1::GetRequest { table: "mine".into(), ..Default::default() };
    wait_for("TABLE_NOT_FOUND", async || again.get(mine()).await).await;
    let operations = vec![insert("mine", r#"{"id":"later"}"#)];
    let request = v1::ApplyRequest { operations, ..Default::default() };
    cluster.writer_as("root").await.apply(request).await.unwrap();
    for call in [got, described, selected] {
        let ended = timeout(PATIENCE, call).await.unwrap().unwrap();
        let status = ended.unwrap_err();
        // Or it arrived after the rules had changed.
        assert!(["PERMISSION_DENIED", "TABLE_NOT_FOUND"].contains(&reason(&status).as_str()), "{status:?}");
    }
}

#[tokio::test]
async fn a_long_statement_ends_with_its_right_though_nobody_reads_its_answer() {
    const ROWS: u64 = 5_000;
    let cluster = SecuredCluster::start(&[principal("ann", "write mine")]);
    cluster.fill(&["mine"]).await;
    let rows = (0..ROWS).map(|n| insert("mine", format!(r#"{{"id":"{n}","n":0}}"#))).collect();
    let mut root = cluster.writer_as("root").await;
    let request = v1::ApplyRequest { operations: rows, ..Default::default() };
    root.apply(request).await.unwrap();
    let mut last_seq =
        async || root.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq;
    let before = last_seq().await;

    let mut connection = RawConnection::open(&cluster.writer.url, 0).await.with_token(&token_of("ann"));
    let request = v1::WriterServiceExecuteRequest {
        statement: "PATCH mine SET {\"n\":1} WHERE n = 0 IN BATCHES OF 1".into(),
        ..Default::default()
    };
    let unread = connection.call("WriterService/Execute", &request).await.unwrap();
    let began = Instant::now();
    while last_seq().await == before {
        assert!(began.elapsed() < PATIENCE, "the statement does not begin");
    }
    cluster.set_rules(&[]);
    let mut ann = cluster.writer_as("ann").await;
    wait_for("UNAUTHENTICATED", async || ann.status(v1::WriterServiceStatusRequest {}).await).await;
    // A commit that has begun may still come.
    let mut last = last_seq().await + 1;
    let mut quiet = 0;
    while quiet < 20 {
        tokio::time::sleep(Duration::from_millis(25)).await;
        let now = last_seq().await;
        (last, quiet) = if now <= last { (last, quiet + 1) } else { (now, 0) };
        assert!(now < before + ROWS, "the statement has changed every row");
    }
    drop(unread);
}

#[tokio::test]
async fn a_refused_write_leaves_nothing_behind() {
    let cluster = SecuredCluster::start(&[principal("ann", "write mine")]);
    cluster.fill(&["mine", "theirs"]).await;
    let (mut ann, mut root) = (cluster.writer_as("ann").await, cluster.writer_as("root").await);
    let mut last_seq =
        async || root.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq;
    let before = last_seq().await;
    let options = || Some(v1::CommitOptions { request_id: "once".into(), ..Default::default() });
    let put = |table: &str| v1::ApplyRequest {
        operations: vec![insert("mine", r#"{"id":"x"}"#), insert(table, r#"{"id":"x"}"#)],
        options: options(),
        ..Default::default()
    };
    for table in ["theirs", "absent"] {
        refused(ann.apply(put(table)).await, Code::NotFound, "TABLE_NOT_FOUND");
        let statement = v1::WriterServiceExecuteRequest {
            statement: format!("INSERT INTO {table} {{\"id\":\"x\"}}"),
            options: options(),
            ..Default::default()
        };
        refused(ann.execute(statement).await, Code::NotFound, "TABLE_NOT_FOUND");
        let made_by = Some(v1::find_commit_request::MadeBy::RequestId("once".into()));
        let found = ann.find_commit(v1::FindCommitRequest { made_by }).await.unwrap().into_inner();
        assert_eq!(found.token, None, "{table}");
    }
    assert_eq!(last_seq().await, before);
    // The id is as new.
    let request = v1::ApplyRequest {
        operations: vec![insert("mine", r#"{"id":"y"}"#)],
        options: options(),
        ..Default::default()
    };
    assert!(!ann.apply(request).await.unwrap().into_inner().replayed);
}

#[tokio::test]
async fn a_table_that_was_renamed_out_of_a_grant_is_gone_and_its_new_name_is_not_told() {
    let cluster = SecuredCluster::start(&[principal("ann", "admin mine*")]);
    let last = cluster.fill(&["mine", "mine_2"]).await;
    let mut root = cluster.writer_as("root").await;
    execute(&mut root, "ALTER TABLE mine_2 RENAME TO secret_name").await.unwrap();
    execute(&mut root, r#"INSERT INTO secret_name {"id":"later","word":"hidden"}"#).await.unwrap();
    let seq = root.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq;
    let (mut reader, mut writer) = (cluster.reader_as("ann").await, cluster.writer_as("ann").await);
    reader.list_tables(v1::ListTablesRequest { freshness: fresh(seq), ..Default::default() }).await.unwrap();
    let secrets = |text: &str| ["secret_name", "hidden"].iter().any(|secret| text.contains(secret));
    for statement in [
        "SELECT * FROM mine_2",
        "SHOW DRIFT mine_2",
        "DESCRIBE mine_2",
        "SHOW DIFF mine_2 FROM @seq:3 TO @now",
        "FIND FIRST IN mine_2 WHERE id = \"k\"",
        "EXPLAIN SELECT * FROM mine_2",
        "SELECT * FROM secret_name",
    ] {
        let status = query(&mut reader, statement).await.unwrap_err();
        assert_eq!(reason(&status), "TABLE_NOT_FOUND", "{statement}");
        let text = format!("{status:?}").replace(&format!("{statement:?}"), "");
        assert!(!secrets(&text) || statement.contains("secret_name"), "{statement}: {text}");
    }
    // What it was under the name that she may read stays, up to the rename.
    for statement in
        [format!("SELECT * FROM mine_2 AS OF @seq:{last}"), format!("SHOW DRIFT mine_2 TO @seq:{last}")]
    {
        let text = query(&mut reader, &statement).await.unwrap();
        assert!(text.contains("of mine_2") && !secrets(&text), "{text}");
    }
    for what in [
        format!("SELECT * FROM mine_2 AS OF @seq:{last}"),
        format!("FIND FIRST IN mine_2 WHERE id = \"k\" TO @seq:{last}"),
        format!("SHOW DRIFT mine_2 TO @seq:{last}"),
        format!("SELECT COUNT(*) FROM mine_2 AS OF EVERY 1 SEQS FROM @seq:{last} TO @seq:{last}"),
    ] {
        let text = query(&mut reader, &format!("EXPLAIN {what}")).await.unwrap();
        assert!(text.contains("mine_2") && !secrets(&text), "{text}");
    }
    // Nor can she discard the history that has her name in it.
    for statement in ["COMPACT mine_2", "SNAPSHOT mine_2", "VERIFY mine_2", "DROP TABLE mine_2"] {
        let status = execute(&mut writer, statement).await.unwrap_err();
        assert_eq!(reason(&status), "TABLE_NOT_FOUND", "{statement}");
        assert!(!secrets(&format!("{status:?}")), "{status:?}");
    }
    // A watch delivers it up to the rename, and the rename is no event of hers.
    for tables in [vec![], vec!["mine_2".to_owned()]] {
        let watch = v1::WatchDriftRequest {
            tables,
            start: Some(v1::watch_drift_request::Start::AfterSeq(0)),
            until_seq: seq,
            with_before: true,
            with_after: true,
            ..Default::default()
        };
        let mut messages = reader.watch_drift(watch).await.unwrap().into_inner();
        let mut text = String::new();
        while let Some(message) = timeout(PATIENCE, messages.message()).await.unwrap().unwrap() {
            text += &format!("{message:?}");
        }
        assert!(text.contains("of mine_2") && !secrets(&text), "{text}");
    }
    let diff = v1::DiffRequest { table: "mine_2".into(), start: at_seq(1), ..Default::default() };
    let status = match reader.diff(diff).await {
        Ok(rows) => rows.into_inner().message().await.unwrap_err(),
        Err(status) => status,
    };
    assert!(!secrets(&format!("{status:?}")), "{status:?}");
}

#[tokio::test]
async fn a_reader_that_waits_for_its_database_tells_only_administrators_where() {
    let dir = tempfile::tempdir().unwrap();
    let (rules, data) = (dir.path().join("auth.toml"), dir.path().join("nothing-here"));
    write_rules(&rules, &[principal("ann", "read t")]);
    let reader = Daemon::start("driftdb-reader", &data, &["--auth-file", rules.to_str().unwrap()]);
    let get = async |name: &str| {
        let token = driftdb::client::BearerToken::new(&token_of(name)).unwrap();
        let credentials = driftdb::client::Credentials::new(Some(token), &reader.url);
        let mut api = driftdb::client::reader_with(connect(&reader.url).await, credentials);
        api.get(v1::GetRequest { table: "t".into(), ..Default::default() }).await.unwrap_err()
    };
    let (of_root, of_ann) = (get("root").await, get("ann").await);
    assert!(of_root.message().contains("nothing-here"), "{of_root}");
    assert!(of_ann.message().contains("waits for a database"), "{of_ann}");
    assert!(!format!("{of_ann:?}").contains("nothing-here"), "{of_ann:?}");
}

/// Only administrators see which file is damaged. Others see that the database is damaged, without a path.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test looks for the file that it damages")]
async fn files_that_are_damaged_are_named_to_administrators_only() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let mut writer = Daemon::writer(&data);
    let mut client = writer.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let first = apply(&mut client, vec![insert("t", r#"{"id":"k","n":1}"#)]).await.unwrap().seq;
    apply(&mut client, vec![patch("t", "k", r#"{"n":2}"#)]).await.unwrap();
    snapshot(&mut client, "t").await.unwrap();
    drop(client);
    assert!(writer.terminate().await.success());
    for layer in std::fs::read_dir(data.join("tables/t/snapshots")).unwrap() {
        flip(&layer.unwrap().path(), 100);
    }
    let cluster = with_rules(dir, &[principal("ann", "write *")]);
    for (name, is_told) in [("ann", false), ("root", true)] {
        let mut writer = cluster.writer_as(name).await;
        let operations = vec![v1::Operation::revert("t", "k", v1::AsOf::seq(first))];
        let batch = v1::IngestRequest { batch_id: 1, operations: operations.clone(), ..Default::default() };
        let refused = match writer.ingest(tokio_stream::once(batch)).await {
            Ok(acks) => format!("{:?}", acks.into_inner().message().await),
            Err(status) => format!("{status:?}"),
        };
        let applied = writer.apply(v1::ApplyRequest::from(operations)).await.unwrap_err();
        for text in [refused, format!("{applied:?}")] {
            assert!(text.contains("damaged") && text.contains("tables/") == is_told, "{name}: {text}");
        }
    }
}
