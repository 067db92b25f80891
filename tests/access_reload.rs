//! The auth file while the daemons run: new rules, revoked principals, tokens that end, and files with errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use driftdb::client::{BearerToken, WatchEvent};
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::harness::access::{
    SecuredCluster, driftctl, expiring_principal, principal, token_of, write_rules,
};
use crate::harness::refusal::refused;
use crate::harness::{Daemon, insert, reason};

const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until a stream ends with an error, and returns it.
async fn end_of<T>(stream: &mut Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without an error"),
                Err(status) => return status,
            }
        }
    };
    // For the whole: a watch that goes on sends a heartbeat now and then.
    timeout(PATIENCE, end).await.expect("the stream goes on")
}

fn batch(table: &str, id: u64) -> v1::IngestRequest {
    let operations = vec![insert(table, format!(r#"{{"id":"batch {id}"}}"#))];
    v1::IngestRequest { batch_id: id, operations, ..Default::default() }
}

#[tokio::test]
async fn a_revoked_principal_is_out_of_its_streams() {
    let all = [principal("ann", "write mine"), principal("bob", "read mine, read other")];
    let cluster = SecuredCluster::start(&all);
    cluster.fill(&["mine", "other"]).await;
    let mut ann = cluster.reader_as("ann").await;
    let mut bob = cluster.reader_as("bob").await;
    let named = |table: &str| v1::WatchDriftRequest { tables: vec![table.into()], ..Default::default() };
    let mut of_ann = ann.watch_drift(named("mine")).await.unwrap().into_inner();
    let mut of_bob = bob.watch_drift(named("mine")).await.unwrap().into_inner();
    let mut narrowed = bob.watch_drift(named("other")).await.unwrap().into_inner();
    let mut of_all = bob.watch_drift(v1::WatchDriftRequest::default()).await.unwrap().into_inner();
    let (sender, batches) = mpsc::channel(4);
    sender.send(batch("mine", 1)).await.unwrap();
    let mut writer = cluster.writer_as("ann").await;
    let mut acks = writer.ingest(ReceiverStream::new(batches)).await.unwrap().into_inner();
    acks.message().await.unwrap().unwrap();

    // Ann is gone, and Bob may read less than before.
    cluster.set_rules(&[principal("bob", "read mine")]);
    let began = Instant::now();
    for stream in [&mut of_ann, &mut narrowed, &mut of_all] {
        let status = end_of(stream).await;
        refused::<()>(Err(status), Code::PermissionDenied, "PERMISSION_DENIED");
    }
    refused::<()>(Err(end_of(&mut acks).await), Code::PermissionDenied, "PERMISSION_DENIED");
    println!("the streams ended {:?} after the file was replaced", began.elapsed());
    let refusal = ann.get(v1::GetRequest { table: "mine".into(), ..Default::default() }).await;
    refused(refusal, Code::Unauthenticated, "UNAUTHENTICATED");
    // What Bob may still read goes on.
    let mut root = cluster.writer_as("root").await;
    let request =
        v1::ApplyRequest { operations: vec![insert("mine", r#"{"id":"after"}"#)], ..Default::default() };
    root.apply(request).await.unwrap();
    loop {
        let message = timeout(PATIENCE, of_bob.message()).await.unwrap().unwrap().unwrap();
        if let Some(Event::Commit(commit)) = message.event
            && commit.changes.iter().any(|change| change.key == "after")
        {
            break;
        }
    }
}

#[tokio::test]
async fn a_load_whose_client_does_not_read_learns_that_it_was_revoked() {
    let cluster = SecuredCluster::start(&[principal("ann", "write mine")]);
    let began = cluster.fill(&["mine"]).await;
    let mut writer = cluster.narrow_writer_as("ann").await;
    let (sender, batches) = mpsc::channel(4);
    let mut acks = writer.ingest(ReceiverStream::new(batches)).await.unwrap().into_inner();
    // More refusals than the client takes unread; then more batches than the writer holds unacknowledged.
    let long = "k".repeat(400);
    let next = move |id: u64| {
        let (key, count) = if id <= 8 { (long.clone(), 1000) } else { (format!("batch {id}"), 1) };
        let row = format!(r#"{{"id":"{key}","filler":"{}"}}"#, "x".repeat(1000));
        v1::IngestRequest { batch_id: id, operations: vec![insert("mine", row); count], ..Default::default() }
    };
    let sent = tokio::spawn(async move {
        for id in 1..10_000 {
            if sender.send(next(id)).await.is_err() {
                return;
            }
        }
        panic!("the writer has taken everything");
    });
    // The writer takes no more.
    let mut root = cluster.writer_as("root").await;
    let mut seen = (0, Instant::now());
    while seen.0 < began + 4_000 || seen.1.elapsed() < Duration::from_millis(500) {
        let status = root.status(v1::WriterServiceStatusRequest::default()).await.unwrap().into_inner();
        if status.last_seq != seen.0 {
            seen = (status.last_seq, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!sent.is_finished());
    cluster.set_rules(&[]);
    let mut other = cluster.writer_as("ann").await;
    while other.status(v1::WriterServiceStatusRequest::default()).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Streams end within a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    refused::<()>(Err(end_of(&mut acks).await), Code::PermissionDenied, "PERMISSION_DENIED");
}

/// So many seconds from now, as the auth file writes times.
fn in_seconds(seconds: u64) -> String {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + seconds;
    driftdb_common::table::format_time(at * 1000)
}

#[tokio::test]
async fn a_watch_ends_with_its_token_and_resumes_with_another() {
    let rules = |expires: &str| vec![expiring_principal("ann", "read mine", expires)];
    let cluster = SecuredCluster::start(&rules(&in_seconds(3)));
    cluster.fill(&["mine"]).await;
    let mut ann = cluster.reader_as("ann").await;
    let request = v1::WatchDriftRequest { tables: vec!["mine".into()], ..Default::default() };
    let mut watch = ann.watch_drift(request.clone()).await.unwrap().into_inner();
    let mut token = watch.message().await.unwrap().unwrap().resume_token;
    let end = async {
        loop {
            match watch.message().await {
                Ok(Some(message)) => token = message.resume_token,
                Ok(None) => panic!("the watch ended without an error"),
                Err(status) => break status,
            }
        }
    };
    let ended = timeout(PATIENCE, end).await.expect("the watch goes on");
    refused::<()>(Err(ended), Code::Unauthenticated, "TOKEN_EXPIRED");
    let start = Some(v1::watch_drift_request::Start::ResumeToken(token));
    let resumed = v1::WatchDriftRequest { start, ..request };
    refused(ann.watch_drift(resumed.clone()).await, Code::Unauthenticated, "TOKEN_EXPIRED");

    let mut root = cluster.writer_as("root").await;
    let request =
        v1::ApplyRequest { operations: vec![insert("mine", r#"{"id":"between"}"#)], ..Default::default() };
    let seq = root.apply(request).await.unwrap().into_inner().token.unwrap().seq;
    cluster.set_rules(&rules(""));
    let deadline = Instant::now() + PATIENCE;
    let mut watch = loop {
        match ann.watch_drift(resumed.clone()).await {
            Ok(watch) => break watch.into_inner(),
            Err(status) => assert!(Instant::now() < deadline, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    loop {
        let message = timeout(PATIENCE, watch.message()).await.unwrap().unwrap().unwrap();
        if let Some(Event::Commit(commit)) = message.event {
            assert_eq!(commit.seq, seq);
            break;
        }
    }
}

#[tokio::test]
async fn a_file_with_an_error_keeps_the_old_rules_and_stops_a_start() {
    let cluster = SecuredCluster::start(&[principal("ann", "read mine")]);
    cluster.fill(&["mine"]).await;
    let mut ann = cluster.reader_as("ann").await;
    let get = || v1::GetRequest { table: "mine".into(), keys: vec!["k".into()], ..Default::default() };
    write_rules(&cluster.rules, &["[[principal]]\nname = \"ann\"\nadmin = \"yes\"\n".to_owned()]);
    cluster.reader.signal("HUP");
    let data = cluster.dir.path().join("other");
    let file = ["--auth-file", cluster.rules.to_str().unwrap()];
    let error = Daemon::try_start("driftdb-writer", &data, &file).unwrap_err();
    assert!(error.contains("auth.toml") && error.contains("admin"), "{error}");
    let missing = ["--auth-file", "/nowhere/auth.toml"];
    let error = Daemon::try_start("driftdb-writer", &data, &missing).unwrap_err();
    assert!(error.contains("/nowhere/auth.toml"), "{error}");
    ann.get(get()).await.unwrap();
    // A good file is taken again.
    cluster.set_rules(&[]);
    let deadline = Instant::now() + PATIENCE;
    while ann.get(get()).await.is_ok() {
        assert!(Instant::now() < deadline, "the good file is not used");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_call_fails_while_the_rules_are_replaced() {
    let rules = |round: usize| {
        let extra = (0..round % 3).map(|i| principal(&format!("extra{i}"), "read mine"));
        [principal("ann", "write mine"), principal("bob", "read m*")]
            .into_iter()
            .chain(extra)
            .collect::<Vec<_>>()
    };
    let cluster = Arc::new(SecuredCluster::start(&rules(0)));
    cluster.fill(&["mine"]).await;
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let (cluster, stop, calls) = (Arc::clone(&cluster), Arc::clone(&stop), Arc::clone(&calls));
        tasks.spawn(async move {
            let (mut writer, mut reader) = (cluster.writer_as("ann").await, cluster.reader_as("bob").await);
            for i in 0.. {
                let operations = vec![insert("mine", format!(r#"{{"id":"{task} {i}"}}"#))];
                writer.apply(v1::ApplyRequest { operations, ..Default::default() }).await.unwrap();
                let get =
                    v1::GetRequest { table: "mine".into(), keys: vec!["k".into()], ..Default::default() };
                reader.get(get).await.unwrap();
                calls.fetch_add(2, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
    let watching = cluster.client_as("bob");
    let (watch_stop, seen) = (Arc::clone(&stop), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&seen);
    tasks.spawn(async move {
        let request = v1::WatchDriftRequest { tables: vec!["mine".into()], ..Default::default() };
        let mut watcher = watching.watch(request);
        while !watch_stop.load(Ordering::Relaxed) {
            match timeout(PATIENCE, watcher.next()).await.unwrap().unwrap().unwrap() {
                WatchEvent::Interrupted(status) => panic!("the watch was dropped: {status}"),
                WatchEvent::Commit(_) => _ = counted.fetch_add(1, Ordering::Relaxed),
                _ => {}
            }
        }
    });
    for round in 1..=8 {
        cluster.set_rules(&rules(round));
        for daemon in [&cluster.writer, &cluster.reader] {
            daemon.signal("HUP");
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    println!(
        "{} calls and {} watched commits over 8 versions of the auth file, none failed",
        calls.load(Ordering::Relaxed),
        seen.load(Ordering::Relaxed)
    );
    assert!(calls.load(Ordering::Relaxed) > 0 && seen.load(Ordering::Relaxed) > 0);
}

#[tokio::test]
async fn a_client_can_change_its_token_without_a_new_connection() {
    let cluster = SecuredCluster::start(&[principal("ann", "write mine")]);
    cluster.fill(&["mine"]).await;
    let client = cluster.client_as("ann");
    client.put("mine", r#"{"id":"a"}"#).await.unwrap();
    client.set_token(Some(BearerToken::new("driftdb_wrong").unwrap()));
    let status = client.put("mine", r#"{"id":"a"}"#).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"));
    client.set_token(Some(BearerToken::new(&token_of("root")).unwrap()));
    client.put("mine", r#"{"id":"a"}"#).await.unwrap();
}

#[tokio::test]
async fn ids_from_before_there_were_principals_belong_to_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let put = |id: &str| v1::ApplyRequest {
        operations: vec![insert("mine", format!(r#"{{"id":"{id}"}}"#))],
        options: Some(v1::CommitOptions {
            request_id: "r".into(),
            actor: "ann".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut open = Daemon::writer(&data);
    let mut writer = open.as_writer().await;
    crate::harness::create_table(&mut writer, "mine").await.unwrap();
    let first = writer.apply(put("a")).await.unwrap().into_inner();
    drop(writer);
    assert!(open.terminate().await.success());

    let rules = dir.path().join("auth.toml");
    write_rules(&rules, &[principal("ann", "write mine")]);
    let args = ["--auth-file", rules.to_str().unwrap()];
    let reader = Daemon::start("driftdb-reader", &data, &args);
    let mut cluster = SecuredCluster {
        writer: Daemon::start("driftdb-writer", &data, &args),
        reader,
        rules,
        tls: None,
        dir,
    };
    let scoped = cluster.writer_as("ann").await.apply(put("b")).await.unwrap().into_inner();
    assert!(!scoped.replayed && scoped.token != first.token);
    // Without authentication the ids are again what they were.
    assert!(cluster.writer.terminate().await.success());
    let open = Daemon::writer(&data);
    let mut writer = open.as_writer().await;
    let again = writer.apply(put("a")).await.unwrap().into_inner();
    assert!(again.replayed);
    assert_eq!(again.token.unwrap().seq, first.token.unwrap().seq);
}

#[tokio::test]
async fn driftctl_makes_a_token_that_a_daemon_takes_and_never_sends_it_in_the_clear() {
    let cluster = SecuredCluster::start(&[]);
    cluster.fill(&["mine"]).await;
    let file = cluster.dir.path().join("new.token");
    let file = file.to_str().unwrap();
    let made = driftctl(
        &cluster,
        None,
        &["token", "new", "carl", "--read", "mine", "--expires", "90d", "--out", file],
    );
    assert_eq!(made.0, 0, "{}", made.2);
    assert!(!made.1.contains("driftdb_"), "the token is only in its file: {}", made.1);
    cluster.set_rules(&[made.1]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, out, error) = driftctl(&cluster, None, &["get", "mine", "k", "--token-file", file]);
        if code == 0 {
            assert!(out.contains("of mine"), "{out}");
            break;
        }
        assert!(Instant::now() < deadline && error.contains("UNAUTHENTICATED"), "{error}");
    }
    // Nothing is sent to another machine in clear text, not even a connection is opened.
    let (code, _, error) = driftctl(
        &cluster,
        None,
        &[
            "status",
            "--token-file",
            file,
            "--reader",
            "http://192.0.2.1:7402",
            "--writer",
            "http://192.0.2.1:7401",
        ],
    );
    assert!(code != 0 && error.contains("not encrypted") && error.contains("https://"), "{code} {error}");
    let (code, out, _) = driftctl(&cluster, None, &["auth", "check", cluster.rules.to_str().unwrap()]);
    assert_eq!(code, 0);
    assert!(out.contains("\"carl\"") && out.contains("read mine") && out.contains("everything"), "{out}");
    let (_, out, _) =
        driftctl(&cluster, None, &["auth", "check", cluster.rules.to_str().unwrap(), "--table", "other"]);
    assert!(!out.contains("carl") && out.contains("root"), "{out}");
}
