//! A clock that jumps ahead fixes no commit's time, forgets no request and discards no history, until someone confirms it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::calls::{compact, run, snapshot};
use crate::harness::refusal::refused;
use crate::harness::*;
use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::clock::{Clock, SystemClock};
use driftdb_common::service::server::Listener;
use driftdb_writer::{WriterConfig, WriterDaemon};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const DAY_MS: u64 = 24 * 60 * 60 * 1000;
const TEN_YEARS_MS: u64 = 3650 * DAY_MS;

/// A clock that a test sets: it is behind the system's by some milliseconds, 20 years at first.
#[derive(Debug, Clone)]
struct SetClock(Arc<AtomicU64>);

impl SetClock {
    fn new() -> SetClock {
        SetClock(Arc::new(AtomicU64::new(2 * TEN_YEARS_MS)))
    }

    fn jump_ahead(&self, millis: u64) {
        self.0.fetch_sub(millis, Ordering::SeqCst);
    }

    fn go_back(&self, millis: u64) {
        self.0.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now_ms(&self) -> u64 {
        SystemClock.now_ms() - self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }
}

/// A writer in this process, with a clock of the test's.
struct ClockedWriter {
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
    url: String,
    writer: Writer,
}

impl ClockedWriter {
    async fn start(data: &Path, clock: &SetClock) -> ClockedWriter {
        let mut config = WriterConfig::new(data);
        config.clock = Arc::new(clock.clone());
        let opened = tokio::task::spawn_blocking(move || WriterDaemon::open(config)).await.unwrap().unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", listener.address().unwrap());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(opened.serve(listener, shutdown.clone()));
        let writer = Writer::new(connect(&url).await);
        ClockedWriter { shutdown, task, url, writer }
    }

    async fn stop(self) {
        let ClockedWriter { shutdown, task, writer, .. } = self;
        drop(writer);
        shutdown.cancel();
        task.await.unwrap().unwrap();
    }

    async fn status(&mut self) -> v1::WriterServiceStatusResponse {
        self.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner()
    }

    /// Waits until health says whether the writer serves.
    async fn becomes(&self, wanted: ServingStatus) {
        let mut client = HealthClient::new(connect(&self.url).await);
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let request = HealthCheckRequest { service: "driftdb.v1.WriterService".into() };
            if client.check(request).await.unwrap().into_inner().status() == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "never {wanted:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn confirm(&mut self) -> v1::ConfirmClockResponse {
        self.writer.confirm_clock(v1::ConfirmClockRequest::default()).await.unwrap().into_inner()
    }
}

fn row(id: &str) -> Vec<v1::Operation> {
    vec![put("t", format!(r#"{{"id":"{id}"}}"#))]
}

fn with_options(id: &str, options: v1::CommitOptions) -> v1::ApplyRequest {
    v1::ApplyRequest { operations: row(id), options: Some(options), ..Default::default() }
}

fn millis(time: Option<prost_types::Timestamp>) -> u64 {
    let time = time.unwrap();
    u64::try_from(time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap()
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_stops_commits_until_it_is_right_or_confirmed() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::new());
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    create_table(&mut run_.writer, "t").await.unwrap();
    let named = v1::CommitOptions { request_id: "once".into(), ..Default::default() };
    let first = run_.writer.apply(with_options("a", named.clone())).await.unwrap().into_inner();
    // Less than the limit.
    clock.jump_ahead(DAY_MS / 2);
    let before = apply(&mut run_.writer, row("b")).await.unwrap();

    clock.jump_ahead(TEN_YEARS_MS);
    let refusal = refused(apply(&mut run_.writer, row("c")).await, Code::Unavailable, "CLOCK_JUMPED");
    let refusal = refusal.says(&["3650 days", "driftctl clock confirm"]);
    assert!(refusal.metadata.contains_key("clock_time") && refusal.metadata.contains_key("expected_time"));
    refused(create_table(&mut run_.writer, "u").await, Code::Unavailable, "CLOCK_JUMPED");
    run_.becomes(ServingStatus::NotServing).await;
    let status = run_.status().await;
    assert!(millis(status.clock_time) - millis(status.clock_expected) > TEN_YEARS_MS - DAY_MS, "{status:?}");
    assert_eq!(status.last_seq, before.seq);
    // A request that was done before is answered. A time from an import that the old clock knew is taken, a later one is not.
    let again = run_.writer.apply(with_options("a", named)).await.unwrap().into_inner();
    assert_eq!((again.replayed, again.token.unwrap().seq), (true, first.token.unwrap().seq));
    let at = |time| v1::CommitOptions { commit_time: time, ..Default::default() };
    let imported = run_.writer.apply(with_options("d", at(before.time))).await.unwrap().into_inner();
    assert_eq!(imported.token.unwrap().time, before.time);
    let later = run_.writer.apply(with_options("e", at(status.clock_time))).await;
    refused(later, Code::Unavailable, "CLOCK_JUMPED");

    // The clock is corrected.
    clock.go_back(TEN_YEARS_MS);
    apply(&mut run_.writer, row("f")).await.unwrap();
    run_.becomes(ServingStatus::Serving).await;
    assert!(run_.status().await.clock_expected.is_none());

    // Or it is right.
    clock.jump_ahead(TEN_YEARS_MS);
    refused(apply(&mut run_.writer, row("g")).await, Code::Unavailable, "CLOCK_JUMPED");
    let wrong = v1::ConfirmClockRequest { time: before.time };
    refused(run_.writer.confirm_clock(wrong).await, Code::Unavailable, "CLOCK_JUMPED");
    assert!(run_.confirm().await.was_refusing);
    let after = apply(&mut run_.writer, row("g")).await.unwrap();
    assert!(millis(after.time) - millis(before.time) >= TEN_YEARS_MS);
    assert!(!run_.confirm().await.was_refusing);
    run_.stop().await;
}

#[tokio::test]
async fn a_batch_of_ingest_is_not_refused_row_by_row() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::new());
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    create_table(&mut run_.writer, "t").await.unwrap();
    clock.jump_ahead(TEN_YEARS_MS);
    let batch = v1::IngestRequest {
        producer_id: "p".into(),
        batch_id: 1,
        operations: row("a"),
        ..Default::default()
    };
    let send = tokio_stream::iter([batch.clone()]);
    let mut answers = run_.writer.ingest(send).await.unwrap().into_inner();
    refused(answers.message().await, Code::Unavailable, "CLOCK_JUMPED");
    run_.confirm().await;
    let mut answers = run_.writer.ingest(tokio_stream::iter([batch])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!((answer.durable_batch_id, answer.errors.len()), (1, 0));
    run_.stop().await;
}

/// The database rests for ten years, or so the clock says.
#[tokio::test]
async fn a_start_under_a_clock_far_ahead_discards_nothing() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::new());
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    run(&mut run_.writer, "CREATE TABLE t (pk=id, RETAIN \"1h\")").await.unwrap();
    for n in 0..50 {
        apply(&mut run_.writer, row(&format!("{}", n % 7))).await.unwrap();
    }
    snapshot(&mut run_.writer, "t").await.unwrap();
    let last = run_.status().await.last_seq;
    run_.stop().await;

    clock.jump_ahead(TEN_YEARS_MS);
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    run_.becomes(ServingStatus::NotServing).await;
    refused(apply(&mut run_.writer, row("new")).await, Code::Unavailable, "CLOCK_JUMPED");
    // What is compacted cannot come back, so a point before now needs the clock too.
    let day = prost_types::Duration { seconds: 86_400, nanos: 0 };
    let ago = Some(v1::AsOf { at: Some(v1::as_of::At::Ago(day)) });
    refused(compact(&mut run_.writer, "t", ago, false).await, Code::Unavailable, "CLOCK_JUMPED");
    // Some passes of the background task, which run each second. If they are late, this proves less and breaks nothing.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let floor = |status: &v1::WriterServiceStatusResponse| status.tables[0].floor_seq;
    assert_eq!(floor(&run_.status().await), 0, "history was discarded by a clock that nobody has confirmed");
    run_.stop().await;

    // A second start asks again. Once the time is confirmed and a commit has it, history ages by it.
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    refused(apply(&mut run_.writer, row("new")).await, Code::Unavailable, "CLOCK_JUMPED");
    assert!(run_.confirm().await.was_refusing);
    assert_eq!(floor(&run_.status().await), 0);
    run_.stop().await;
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    assert_eq!(apply(&mut run_.writer, row("new")).await.unwrap().seq, last + 1);
    snapshot(&mut run_.writer, "t").await.unwrap();
    run_.stop().await;
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    while floor(&run_.status().await) == 0 {
        assert!(Instant::now() < deadline, "retention does not discard history of ten years ago");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    run_.stop().await;
}

/// What counts is the last time that a writer saw, not only the last commit's.
#[tokio::test]
async fn a_database_without_commits_for_long_is_not_refused() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::new());
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    let old = Some(prost_types::Timestamp { seconds: 946_684_800, nanos: 0 });
    let options = Some(v1::CommitOptions { commit_time: old, ..Default::default() });
    let create = v1::CreateTableRequest { table: "t".into(), options, ..Default::default() };
    run_.writer.create_table(create).await.unwrap();
    // The clock goes on half a day at a time, as the writer runs.
    for _ in 0..20 {
        clock.jump_ahead(DAY_MS / 2);
        assert!(run_.status().await.clock_expected.is_none());
    }
    run_.stop().await;
    clock.jump_ahead(DAY_MS / 2);
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    apply(&mut run_.writer, row("a")).await.unwrap();
    // A clock that goes back is not a jump, and neither is its correction.
    clock.go_back(TEN_YEARS_MS / 10);
    apply(&mut run_.writer, row("b")).await.unwrap();
    clock.jump_ahead(TEN_YEARS_MS / 10);
    apply(&mut run_.writer, row("c")).await.unwrap();
    run_.stop().await;
}

fn driftctl(args: &[&str]) -> (bool, String) {
    let output = Command::new(binary("driftctl")).args(args).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A database of twenty years ago, opened by the programs of today.
#[tokio::test]
async fn the_programs_ask_for_a_confirmation_once() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), SetClock::new());
    let data = dir.path().to_str().unwrap();
    let mut run_ = ClockedWriter::start(dir.path(), &clock).await;
    create_table(&mut run_.writer, "t").await.unwrap();
    run_.stop().await;

    let insert = |id: &str| format!(r#"INSERT INTO t {{"id":"{id}"}}"#);
    let (done, text) = driftctl(&["-d", data, "sql", "-e", &insert("a")]);
    assert!(!done && text.contains("driftctl clock confirm"), "{text}");
    let daemon = Daemon::writer(dir.path());
    let mut writer = daemon.as_writer().await;
    refused(apply(&mut writer, row("b")).await, Code::Unavailable, "CLOCK_JUMPED");
    let (_, text) = driftctl(&["--writer", &daemon.url, "--reader", "", "status", "-o", "json"]);
    assert!(text.contains("clock_jumped"), "{text}");
    let (done, text) = driftctl(&["--writer", &daemon.url, "clock"]);
    assert!(done && text.contains("expected_time"), "{text}");
    drop((writer, daemon));
    let other = tempfile::tempdir().unwrap();
    database::copy(dir.path(), other.path());

    let (done, text) = driftctl(&["-d", data, "clock", "confirm", "--time", "2000-01-01T00:00:00Z"]);
    assert!(!done && text.contains("the writer's clock shows"), "{text}");
    let (done, text) = driftctl(&["-d", data, "clock", "confirm"]);
    assert!(done && text.contains(r#""was_refusing":true"#), "{text}");
    let (done, text) = driftctl(&["-d", data, "sql", "-e", &insert("c")]);
    assert!(done, "{text}");

    // Whoever trusts the clock says so.
    let mut trusting = Daemon::start("driftdb-writer", other.path(), &["--max-clock-jump", "none"]);
    apply(&mut trusting.as_writer().await, row("b")).await.unwrap();
    assert!(trusting.terminate().await.success());
    let (done, text) = driftctl(&["-d", other.path().to_str().unwrap(), "sql", "-e", &insert("c")]);
    assert!(done, "{text}");
}
