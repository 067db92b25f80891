//! Queries that are made to take for ever: others are served meanwhile, and they end when their caller leaves, when their time
//! is over, and when the reader shuts down.

use std::time::Duration;

use crate::harness::calls::{ask, fresh};
use crate::harness::refusal::refused;
use crate::harness::watching::{after, watch};
use crate::harness::*;
use driftdb::v1;
use tonic::{Code, Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// Nothing here takes that long, however busy the machine is; a request that is not served at all does.
const LIMIT: Duration = Duration::from_secs(60);

/// A condition that is within all limits and takes minutes to check for one row of [`hostile_rows`].
fn hostile_condition() -> String {
    let pattern = |n: usize| format!("s LIKE \"%a{}_b%\"", "a".repeat(4000 - n));
    (0..300).map(pattern).collect::<Vec<_>>().join(" OR ")
}

/// A table with a few large rows, and a small one.
async fn hostile_rows(cluster: &mut Cluster) -> u64 {
    cluster.create("t").await;
    let long = "a".repeat(1_000_000);
    for n in 0..3 {
        apply(&mut cluster.writer, vec![insert("t", format!(r#"{{"id":"{n}","s":"{long}"}}"#))])
            .await
            .unwrap();
    }
    cluster.create("small").await;
    let seq = apply(&mut cluster.writer, vec![insert("small", r#"{"id":"a","n":1}"#)]).await.unwrap().seq;
    assert_eq!(select_at(&mut cluster.reader, "small", seq).await.unwrap().len(), 1);
    seq
}

type Statements = tonic::Streaming<v1::ReaderServiceExecuteResponse>;

/// Starts a query that does not end by itself.
async fn start_hostile(reader: &mut Reader) -> Statements {
    try_start_hostile(reader, None).await.unwrap()
}

async fn try_start_hostile(reader: &mut Reader, deadline: Option<&str>) -> Result<Statements, Status> {
    let statement = format!("SELECT COUNT(*) FROM t WHERE {}", hostile_condition());
    let mut request = Request::new(v1::ReaderServiceExecuteRequest { statement, ..Default::default() });
    if let Some(deadline) = deadline {
        request.metadata_mut().insert("grpc-timeout", deadline.parse().unwrap());
    }
    reader.execute(request).await.map(tonic::Response::into_inner)
}

/// How a query ends that does not end by itself. It may end while it is parsed, too.
async fn end_of_hostile(reader: &mut Reader, deadline: Option<&str>) -> Result<(), Status> {
    try_start_hostile(reader, deadline).await?.message().await.map(|_| ())
}

async fn status(reader: &mut Reader) -> v1::ReaderServiceStatusResponse {
    reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner()
}

/// Waits until the reader computes for so many queries.
async fn wait_for_running(reader: &mut Reader, wanted: impl Fn(&v1::ReaderServiceStatusResponse) -> bool) {
    let wait = async {
        while !wanted(&status(reader).await) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, wait).await.expect("the reader's load never became what it should be");
}

/// The processor time that a process has used, in clock ticks.
#[expect(clippy::disallowed_methods, reason = "reads what the system says of a process")]
fn ticks(daemon: &Daemon) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

async fn health(url: &str) -> ServingStatus {
    let mut client = HealthClient::new(connect(url).await);
    let request = HealthCheckRequest { service: "driftdb.v1.ReaderService".into() };
    client.check(request).await.unwrap().into_inner().status()
}

/// This test catches the planted bug `cancellation-ignored`.
#[tokio::test]
async fn a_query_whose_caller_has_left_uses_no_more_processor_time() {
    let mut cluster = Cluster::start().await;
    hostile_rows(&mut cluster).await;
    let mut reader = cluster.reader.clone();
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = start_hostile(&mut reader).await;
        let polled = tokio::time::timeout(Duration::from_millis(50), stream.message()).await;
        assert!(polled.is_err(), "the query has ended by itself");
        streams.push(stream);
    }
    let watching = v1::WatchDriftRequest { r#where: hostile_condition(), initial_rows: true, ..after(0) };
    let watching = watch(&mut reader, watching).await.unwrap();
    wait_for_running(&mut reader, |load| load.queries == 2 && load.queries_running > 0).await;
    drop((streams, watching));
    wait_for_running(&mut reader, |load| {
        (load.queries, load.queries_running, load.queries_waiting) == (0, 0, 0)
    })
    .await;
    // Nobody asks for anything: the reader is idle.
    let is_idle = async {
        loop {
            let before = ticks(&cluster.reader_daemon);
            tokio::time::sleep(Duration::from_millis(500)).await;
            if ticks(&cluster.reader_daemon) - before <= 5 {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, is_idle).await.expect("the reader goes on computing for nobody");
}

#[tokio::test]
async fn others_are_served_while_hostile_queries_and_watches_run() {
    let mut cluster = Cluster::start().await;
    let seq = hostile_rows(&mut cluster).await;
    let patient = Daemon::start("driftdb-reader", cluster.dir.path(), &["--statement-timeout", "0"]);
    let mut reader = patient.as_reader().await;
    let mut streams = Vec::new();
    for _ in 0..10 {
        let mut stream = start_hostile(&mut reader).await;
        streams.push(tokio::spawn(async move { stream.message().await }));
    }
    let mut watches = Vec::new();
    for _ in 0..10 {
        let hostile =
            v1::WatchDriftRequest { r#where: hostile_condition(), tables: vec!["t".into()], ..after(1) };
        let mut watch = watch(&mut reader, hostile).await.unwrap();
        watches.push(tokio::spawn(async move { watch.stream.message().await.map(|_| ()) }));
    }
    wait_for_running(&mut reader, |load| load.queries == 10 && load.queries_waiting >= 8).await;
    let served = async {
        assert_eq!(health(&patient.url).await, ServingStatus::Serving);
        let get = v1::GetRequest {
            table: "small".into(),
            keys: vec!["a".into()],
            freshness: fresh(seq),
            ..Default::default()
        };
        assert_eq!(reader.get(get).await.unwrap().into_inner().rows.len(), 1);
        // Also queries and watches have their turns.
        assert_eq!(ask(&mut reader, "SELECT * FROM small WHERE n = 1", seq).await.unwrap().rows().len(), 1);
        assert_eq!(ask(&mut reader, "SHOW TABLES", seq).await.unwrap().results.len(), 2);
        let mut small =
            watch(&mut reader, v1::WatchDriftRequest { tables: vec!["small".into()], ..after(1) })
                .await
                .unwrap();
        while small.stream.message().await.unwrap().unwrap().event.is_none_or(
            |event| !matches!(event, v1::watch_drift_response::Event::Commit(commit) if commit.seq == seq),
        ) {}
    };
    tokio::time::timeout(LIMIT, served).await.expect("others are not served");
    assert!(!streams.iter().any(tokio::task::JoinHandle::is_finished), "a hostile query has ended");
}

#[tokio::test]
async fn sigterm_ends_a_reader_that_computes() {
    let mut cluster = Cluster::start().await;
    hostile_rows(&mut cluster).await;
    let mut reader = cluster.reader.clone();
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = start_hostile(&mut reader).await;
        streams.push(tokio::spawn(async move { stream.message().await }));
    }
    wait_for_running(&mut reader, |load| load.queries_running > 0).await;
    cluster.reader_daemon.signal("TERM");
    for stream in streams {
        refused(stream.await.unwrap(), Code::Unavailable, "SHUTTING_DOWN");
    }
    drop(reader);
    // Calls in progress may take 10 s. None is.
    cluster.reader_daemon.wait(Duration::from_secs(12)).await;
}

#[tokio::test]
async fn a_query_ends_at_the_statement_timeout_and_at_its_deadline() {
    let mut cluster = Cluster::start().await;
    hostile_rows(&mut cluster).await;
    let args = ["--statement-timeout", "200ms"];
    let limited = Daemon::start("driftdb-reader", cluster.dir.path(), &args);
    let mut reader = limited.as_reader().await;
    let stopped = end_of_hostile(&mut reader, None).await;
    refused(stopped, Code::DeadlineExceeded, "STATEMENT_TIMEOUT").says(&["--statement-timeout"]);
    wait_for_running(&mut reader, |load| load.queries_running == 0).await;
    // The default is 30 s.
    let stopped = end_of_hostile(&mut cluster.reader, Some("10S")).await;
    refused(stopped, Code::DeadlineExceeded, "STATEMENT_TIMEOUT").says(&["deadline"]);
    wait_for_running(&mut cluster.reader, |load| load.queries_running == 0).await;
}

/// The time in which a client reads its answer does not count.
#[tokio::test]
#[ignore = "slow"]
async fn a_slow_client_is_not_stopped_by_the_statement_timeout() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let long = "x".repeat(500_000);
    for n in 0..40 {
        apply(&mut cluster.writer, vec![insert("t", format!(r#"{{"id":"{n:02}","s":"{long}"}}"#))])
            .await
            .unwrap();
    }
    let args = ["--statement-timeout", "5s"];
    let limited = Daemon::start("driftdb-reader", cluster.dir.path(), &args);
    let mut reader = limited.as_reader().await;
    let request = v1::SelectRequest { table: "t".into(), ..Default::default() };
    let mut stream = reader.select(request).await.unwrap().into_inner();
    let mut rows = stream.message().await.unwrap().unwrap().rows.len();
    tokio::time::sleep(Duration::from_secs(7)).await;
    while let Some(message) = stream.message().await.unwrap() {
        rows += message.rows.len();
    }
    assert_eq!(rows, 40);
}
