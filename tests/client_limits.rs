//! What one client may take has limits of its own: over them it is refused at once, with a delay, and others are served.

use std::time::Duration;

use crate::harness::raw_http2::{RawConnection, framed, header};
use crate::harness::watching::{everything, watch};
use crate::harness::*;
use driftdb::client::{Client, WatchEvent};
use driftdb::v1;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The delay that a refusal for too many calls, watches or clients asks for.
fn delay_of(refusal: &Status) -> Duration {
    assert_eq!((refusal.code(), reason(refusal).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    refusal.get_details_retry_info().and_then(|info| info.retry_delay).expect("a refusal has a delay")
}

#[tokio::test]
async fn a_client_that_calls_too_often_waits_as_long_as_it_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::start("driftdb-writer", dir.path(), &["--calls-per-second", "4"]);
    let mut client = writer.as_writer().await;
    let mut refusals = Vec::new();
    for _ in 0..20 {
        refusals.extend(client.status(v1::WriterServiceStatusRequest {}).await.err());
    }
    assert!((12..=16).contains(&refusals.len()), "{} refused", refusals.len());
    let delay = refusals.iter().map(delay_of).max().unwrap();
    assert!(delay <= Duration::from_millis(250), "{delay:?}");
    // Whoever watches the daemon does not take it for dead.
    let mut health = tonic_health::pb::health_client::HealthClient::new(connect(&writer.url).await);
    for _ in 0..20 {
        health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
    }
    tokio::time::sleep(delay).await;
    client.status(v1::WriterServiceStatusRequest {}).await.unwrap();
}

#[tokio::test]
async fn a_client_has_so_many_watches_and_others_have_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let writer = Daemon::writer(dir.path());
    create_table(&mut writer.as_writer().await, "t").await.unwrap();
    let daemon = Daemon::start("driftdb-reader", dir.path(), &["--watches-per-client", "3"]);
    let mut reader = daemon.as_reader().await;
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(watch(&mut reader, everything()).await.unwrap());
    }
    // Also over another connection.
    for reader in [&mut reader.clone(), &mut daemon.as_reader().await] {
        delay_of(&watch(reader, everything()).await.unwrap_err());
    }
    let mut other = RawConnection::open_from([127, 0, 0, 2].into(), &daemon.url, 1 << 16).await;
    let call = other.call("ReaderService/WatchDrift", &everything()).await.unwrap();
    assert_eq!(call.answer().await.0, None);
    open.pop();
    while watch(&mut reader, everything()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A daemon whose connections live for about a second.
const SHORT_LIVES: [&str; 4] = ["--max-connection-age", "1s", "--connection-grace", "1s"];

/// Makes a call. A channel can hand it over to a connection that ends at this moment, and says so: then it was never sent.
async fn until_sent<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(status) => assert!(format!("{status:?}").contains("hyper::Error(Canceled"), "{status:?}"),
        }
    }
}

#[tokio::test]
async fn an_old_connection_ends_without_a_failed_call_or_a_lost_commit() {
    const COMMITS: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let writer_daemon = Daemon::start("driftdb-writer", dir.path(), &SHORT_LIVES);
    let mut writer = writer_daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let reader_daemon = Daemon::start("driftdb-reader", dir.path(), &SHORT_LIVES);
    // A stream as a client sees it that resumes nothing by itself.
    let mut plain = watch(&mut reader_daemon.as_reader().await, everything()).await.unwrap();
    let client = Client::new([&writer_daemon.url], [&reader_daemon.url]);
    let request = v1::WatchDriftRequest { until_seq: COMMITS + 1, ..everything() };
    let mut watcher = client.watch(request);
    assert!(matches!(watcher.next().await.unwrap(), Some(WatchEvent::Opened(_))));
    let watching = tokio::spawn(async move {
        let (mut seqs, mut interrupted) = (Vec::new(), Vec::new());
        while let Some(event) = watcher.next().await.unwrap() {
            match event {
                WatchEvent::Commit(commit) => seqs.push(commit.seq),
                WatchEvent::Interrupted(status) => interrupted.push(status),
                _ => {}
            }
        }
        (seqs, interrupted)
    });
    // Unary calls over one channel, for about four seconds: none fails, though the connections below it end.
    let mut reader = reader_daemon.as_reader().await;
    for n in 0..COMMITS {
        until_sent(async || apply(&mut writer, vec![put("t", format!(r#"{{"id":"{n}"}}"#))]).await).await;
        until_sent(async || reader.list_tables(v1::ListTablesRequest::default()).await).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (seqs, interrupted) = watching.await.unwrap();
    assert_eq!(seqs, (2..=COMMITS + 1).collect::<Vec<_>>());
    assert!(!interrupted.is_empty());
    for status in &interrupted {
        assert_eq!((status.code(), reason(status).as_str()), (Code::Unavailable, "SHUTTING_DOWN"));
    }
    let ended = loop {
        if let Err(status) = plain.stream.message().await {
            break status;
        }
    };
    assert!(ended.message().contains("--max-connection-age"), "{ended}");
}

#[tokio::test]
#[ignore = "slow"]
async fn a_request_that_stops_arriving_ends() {
    let cluster = Cluster::start().await;
    let mut client = RawConnection::open(&cluster.writer_daemon.url, 1 << 16).await;
    // Nothing of the message; half of it; all of it, but not the end of the request.
    let whole = framed(&v1::WriterServiceStatusRequest {});
    let half = bytes::Bytes::from(header(100));
    let mut calls = Vec::new();
    for sent in [bytes::Bytes::new(), half, whole] {
        let mut call = client.start("WriterService/Status").await.unwrap();
        assert!(call.send(sent).await);
        calls.push(call);
    }
    // A stream of messages may be silent before the first one, and between two.
    let ingest = client.start("WriterService/Ingest").await.unwrap();
    let mut ended = tokio::task::JoinSet::new();
    for call in calls {
        ended.spawn(async move { call.answer().await.0 });
    }
    while let Some(status) = ended.join_next().await {
        assert_eq!(status.unwrap(), Some(Code::DeadlineExceeded as i32));
    }
    let mut ingest = ingest;
    let batch =
        v1::IngestRequest { batch_id: 1, operations: vec![delete("t", "none")], ..Default::default() };
    assert!(ingest.send(framed(&batch)).await);
    let (refused, _) = ingest.answer().await;
    assert_eq!(refused, None);
}
