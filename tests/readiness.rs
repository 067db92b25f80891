//! A reader that cannot see what is published reports it: in health, in its lag, and to reads that limit staleness.

#![expect(clippy::disallowed_methods, reason = "this test hides a database's files from a reader")]

use std::time::{Duration, Instant};

use crate::harness::refusal::refused;
use crate::harness::*;
use driftdb::v1;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SERVICE: &str = "driftdb.v1.ReaderService";

async fn health(client: &mut HealthClient<Channel>, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.into() };
    client.check(request).await.unwrap().into_inner().status()
}

/// Waits until health has the expected status.
async fn wait_for(client: &mut HealthClient<Channel>, wanted: ServingStatus) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while health(client, SERVICE).await != wanted {
        assert!(Instant::now() < deadline, "never {wanted:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn at_most(staleness: Duration, wait: Duration) -> Option<v1::Freshness> {
    let wire = |span: Duration| prost_types::Duration::try_from(span).ok();
    Some(v1::Freshness { max_staleness: wire(staleness), wait: wire(wait), ..Default::default() })
}

fn rows(freshness: Option<v1::Freshness>) -> v1::SelectRequest {
    v1::SelectRequest { table: "t".into(), freshness, ..Default::default() }
}

#[tokio::test]
async fn a_reader_that_cannot_see_head_is_not_ready_but_still_answers() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    // The reader sees the database through links, so that its HEAD can be hidden while the writer's stays where it is.
    let view = tempfile::tempdir().unwrap();
    for name in ["HEAD", "LOCK", "database.json", "lineage.json", "tables"] {
        std::os::unix::fs::symlink(cluster.dir.path().join(name), view.path().join(name)).unwrap();
    }
    let args = ["--max-lag", "300ms", "--poll-interval", "20ms"];
    let daemon = Daemon::start("driftdb-reader", view.path(), &args);
    let (mut reader, mut client) = (daemon.as_reader().await, HealthClient::new(connect(&daemon.url).await));
    let lag = async |reader: &mut Reader| {
        let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        (status.lag_seqs, Duration::try_from(status.lag.unwrap()).unwrap())
    };
    let (short, long) = (Duration::from_millis(200), Duration::from_secs(60));
    for round in 0..2 {
        let row = insert("t", format!(r#"{{"id":"{round}"}}"#));
        let token = apply(&mut cluster.writer, vec![row]).await.unwrap();
        assert_eq!(select_at(&mut reader, "t", token.seq).await.unwrap().len(), round + 1);
        wait_for(&mut client, ServingStatus::Serving).await;
        assert_eq!(select(&mut reader, rows(at_most(long, long))).await.unwrap().len(), round + 1);

        let (head, away) = (view.path().join("HEAD"), view.path().join("HEAD.away"));
        std::fs::rename(&head, &away).unwrap();
        // The writer continues; this reader does not see it.
        apply(&mut cluster.writer, vec![put("t", r#"{"id":"unseen"}"#)]).await.unwrap();
        wait_for(&mut client, ServingStatus::NotServing).await;
        assert_eq!(health(&mut client, "").await, ServingStatus::Serving, "it is alive");
        let known = select_at(&mut reader, "t", token.seq).await.unwrap();
        assert_eq!(known.len(), round + 1, "the reader still answers reads");
        let stale = refused(
            select(&mut reader, rows(at_most(short, short))).await,
            Code::Unavailable,
            "REPLICA_BEHIND",
        );
        stale.says(&["HEAD"]);
        let (seqs, first) = lag(&mut reader).await;
        assert!(seqs == 0 && first > short, "{seqs} {first:?}");
        assert!(lag(&mut reader).await.1 > first, "it grows");

        std::fs::rename(&away, &head).unwrap();
        wait_for(&mut client, ServingStatus::Serving).await;
        // The reader recovers without any help.
        select(&mut reader, rows(at_most(short, long))).await.unwrap();
        apply(&mut cluster.writer, vec![delete("t", "unseen")]).await.unwrap();
    }
    let seq = apply(&mut cluster.writer, vec![]).await.unwrap().seq;
    select_at(&mut reader, "t", seq).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while lag(&mut reader).await != (0, Duration::ZERO) {
        assert!(Instant::now() < deadline, "the reader did not recover");
    }
}

/// A read that waits for a commit returns when the commit arrives, not when its wait time ends.
#[tokio::test]
async fn a_read_waits_for_the_commit_that_it_requires() {
    let mut cluster = Cluster::start().await;
    let seq = cluster.create("t").await;
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let freshness = v1::Freshness { min_seq: seq + 1, wait, ..Default::default() };
    let mut reader = cluster.reader_daemon.as_reader().await;
    let waiting = tokio::spawn(async move { select(&mut reader, rows(Some(freshness))).await });
    tokio::task::yield_now().await;
    let token = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    assert_eq!(token.seq, seq + 1);
    assert_eq!(waiting.await.unwrap().unwrap().len(), 1);
    // Without a wait time, the reader answers at once or refuses.
    let now = v1::Freshness { min_seq: token.seq + 1, wait: Some(Default::default()), ..Default::default() };
    let refusal = select(&mut cluster.reader, rows(Some(now))).await;
    refused(refusal, Code::Unavailable, "REPLICA_BEHIND").says(&[&(token.seq + 1).to_string()]);
    let now = v1::Freshness { min_seq: token.seq, epoch: token.epoch, ..now };
    assert_eq!(select(&mut cluster.reader, rows(Some(now))).await.unwrap().len(), 1);
}
