//! Standby writers: one takes over when the holder dies, and not before. At any time only one writer answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::harness::lane::by_lane;
use crate::harness::refusal::refused;
use crate::harness::*;
use driftdb::v1;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::{head, lock};
use tokio::sync::Mutex;
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const CLIENTS: u64 = 8;
/// Only keeps a failing test from hanging.
const LONG: Duration = Duration::from_secs(60);

fn takeovers() -> u64 {
    by_lane(20, 500)
}

fn standby(data: &Path) -> Daemon {
    Daemon::start("driftdb-writer", data, &["--standby", "--segment-bytes", "65536"])
}

async fn health(url: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: "driftdb.v1.WriterService".into() };
    let answer = HealthClient::new(connect(url).await).check(request).await;
    answer.unwrap().into_inner().status()
}

async fn status_of(writer: &mut Writer) -> Result<v1::WriterServiceStatusResponse, tonic::Status> {
    writer.status(v1::WriterServiceStatusRequest {}).await.map(tonic::Response::into_inner)
}

fn term(data: &Path) -> u64 {
    head::read(&OsFileSystem, &DataDir::new(data)).unwrap().unwrap().header.term
}

fn holder(data: &Path) -> String {
    format!("http://{}", lock::read_holder(&OsFileSystem, &DataDir::new(data)).unwrap().address)
}

/// Waits until a daemon answers as the active writer.
async fn until_serving(writer: &mut Writer) -> v1::WriterServiceStatusResponse {
    let deadline = Instant::now() + LONG;
    loop {
        match status_of(writer).await {
            Ok(status) => return status,
            Err(error) => assert!(Instant::now() < deadline, "the standby does not take over: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A write, and who answered it with what.
#[derive(Debug, Clone)]
struct Answered {
    seq: u64,
    by: String,
}

/// All writes by request id, which is also the key of the written row. Kept outside the database.
#[derive(Debug, Default)]
struct Journal {
    asked: BTreeMap<String, Option<Answered>>,
}

struct Load {
    urls: Mutex<Vec<String>>,
    stop: AtomicBool,
    acknowledged: AtomicU64,
    journal: Mutex<Journal>,
}

/// Asks every writer in turn until one has done the write.
async fn write(
    load: &Load,
    channels: &mut BTreeMap<String, Writer>,
    id: &str,
) -> Option<(v1::WriteToken, String)> {
    while !load.stop.load(Ordering::Relaxed) {
        for url in load.urls.lock().await.clone() {
            let writer = channels
                .entry(url.clone())
                .or_insert_with(|| Writer::new(Endpoint::from_shared(url.clone()).unwrap().connect_lazy()));
            let options = Some(v1::CommitOptions { request_id: id.to_owned(), ..Default::default() });
            let operations = vec![insert("t", format!(r#"{{"id":"{id}"}}"#))];
            match writer.apply(v1::ApplyRequest { operations, options, ..Default::default() }).await {
                Ok(answer) => return Some((answer.into_inner().token.unwrap(), url)),
                Err(status) => {
                    let again = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal];
                    assert!(again.contains(&status.code()), "{status:?}");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    None
}

async fn client(number: u64, load: Arc<Load>) {
    let mut channels = BTreeMap::new();
    for n in 0.. {
        let id = format!("c{number}-{n}");
        load.journal.lock().await.asked.insert(id.clone(), None);
        let Some((token, by)) = write(&load, &mut channels, &id).await else { return };
        load.journal.lock().await.asked.insert(id, Some(Answered { seq: token.seq, by }));
        load.acknowledged.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits for this many more acknowledgements.
async fn under_load(load: &Load, more: u64) {
    let (goal, deadline) = (load.acknowledged.load(Ordering::Relaxed) + more, Instant::now() + LONG);
    while load.acknowledged.load(Ordering::Relaxed) < goal {
        assert!(Instant::now() < deadline, "timed out waiting for acknowledged writes");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The successive holders of the database: address, term, and the newest commit at the take-over.
type Reigns = Vec<(String, u64, u64)>;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn successive_takeovers_lose_no_acknowledged_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut holding = Daemon::start("driftdb-writer", dir.path(), &[]);
    create_table(&mut holding.as_writer().await, "t").await.unwrap();
    let mut reigns: Reigns = vec![(holding.url.clone(), term(dir.path()), 1)];
    let mut next = standby(dir.path());
    let reader = Daemon::reader(dir.path());
    let load = Arc::new(Load {
        urls: Mutex::new(vec![holding.url.clone(), next.url.clone()]),
        stop: AtomicBool::new(false),
        acknowledged: AtomicU64::new(0),
        journal: Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(number, load.clone()))).collect();
    let mut took = Vec::new();
    for round in 0..takeovers() {
        under_load(&load, 20 + round * 7 % 60).await;
        // Connects while the writer stands by, and uses the connection later.
        let mut writer = next.as_writer().await;
        let refusal = refused(status_of(&mut writer).await, Code::Unavailable, "STANDBY");
        assert_eq!(format!("http://{}", refusal.metadata["writer"]), holding.url);
        assert_eq!((term(dir.path()), holder(dir.path())), (reigns.last().unwrap().1, holding.url.clone()));
        holding.kill();
        let killed = Instant::now();
        let status = until_serving(&mut writer).await;
        took.push(killed.elapsed());
        assert!(status.term > reigns.last().unwrap().1, "the take-over did not raise the term");
        reigns.push((next.url.clone(), status.term, status.last_seq));
        assert_eq!(health(&next.url).await, ServingStatus::Serving);
        holding = std::mem::replace(&mut next, standby(dir.path()));
        *load.urls.lock().await = vec![next.url.clone(), holding.url.clone()];
    }
    under_load(&load, 20).await;
    assert_eq!((term(dir.path()), holder(dir.path())), (reigns.last().unwrap().1, holding.url.clone()));
    let refusal = refused(
        reader
            .as_reader()
            .await
            .execute(v1::ReaderServiceExecuteRequest {
                statement: "DROP TABLE t".into(),
                ..Default::default()
            })
            .await,
        Code::FailedPrecondition,
        "NOT_WRITER",
    );
    assert_eq!(format!("http://{}", refusal.metadata["writer_address"]), holding.url, "whom readers name");
    load.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let last = status_of(&mut holding.as_writer().await).await.unwrap().last_seq;
    check(&reader, &load.journal.lock().await.asked, &reigns, last).await;
    took.sort_unstable();
    let (median, longest) = (took[took.len() / 2], took.last().unwrap());
    eprintln!("{} take-overs: median {median:?}, longest {longest:?}; {last} commits", took.len());
    assert!(next.terminate().await.success(), "a standby exits cleanly");
}

async fn check(
    reader: &Daemon,
    asked: &BTreeMap<String, Option<Answered>>,
    reigns: &[(String, u64, u64)],
    last: u64,
) {
    let mut reader = reader.as_reader().await;
    let freshness = Some(v1::Freshness { min_seq: last, ..Default::default() });
    let request = v1::HistoryRequest { table: "t".into(), freshness, ..Default::default() };
    let mut stream = reader.history(request).await.unwrap().into_inner();
    let (mut seqs, mut found) = (Vec::new(), BTreeMap::new());
    while let Some(message) = stream.message().await.unwrap() {
        for commit in message.commits {
            seqs.push(commit.seq);
            for change in commit.changes.into_iter().filter(|change| !change.key.is_empty()) {
                assert_eq!(found.insert(change.key.clone(), commit.seq), None, "{} twice", change.key);
            }
        }
    }
    assert_eq!(seqs, (1..=last).collect::<Vec<_>>(), "a seq was skipped");
    for (id, answered) in asked {
        let Some(Answered { seq, by }) = answered else { continue };
        assert_eq!(found.get(id), Some(seq), "{id} was acknowledged");
        // A writer may answer for a commit of an earlier holder, which it knows from the log, but never for a commit of
        // a later holder.
        let reign = reigns.iter().rposition(|(_, _, from)| from < seq).unwrap_or(0);
        let answering = reigns.iter().position(|(url, _, _)| url == by);
        assert!(answering.is_some_and(|by| by >= reign), "{id}, commit {seq}, was answered by {by}");
    }
    assert!(found.keys().all(|id| asked.contains_key(id)), "a row that no client wrote");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_suspended_holder_keeps_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let holding = Daemon::writer(dir.path());
    let mut writer = holding.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let next = standby(dir.path());
    let mut waiting = next.as_writer().await;
    let before = term(dir.path());
    holding.signal("STOP");
    let until = Instant::now() + Duration::from_secs(3);
    while Instant::now() < until {
        refused(status_of(&mut waiting).await, Code::Unavailable, "STANDBY");
        let row = insert("t", r#"{"id":"no"}"#);
        refused(apply(&mut waiting, vec![row]).await, Code::Unavailable, "STANDBY");
        assert_eq!((term(dir.path()), holder(dir.path())), (before, holding.url.clone()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(health(&next.url).await, ServingStatus::NotServing);
    holding.signal("CONT");
    let token = apply(&mut writer, vec![insert("t", r#"{"id":"yes"}"#)]).await.unwrap();
    assert_eq!((token.seq, term(dir.path())), (2, before));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::disallowed_methods, reason = "this test damages a file")]
async fn a_standby_takes_over_a_closed_database_and_exits_if_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let mut holding = Daemon::writer(dir.path());
    create_table(&mut holding.as_writer().await, "t").await.unwrap();
    let locked = Daemon::try_start("driftdb-writer", dir.path(), &[]).unwrap_err();
    assert!(locked.contains("held by another writer") && locked.contains("--standby"), "{locked}");
    // Two writers stand by. One takes over, the other keeps standing by.
    let (first, second) = (standby(dir.path()), standby(dir.path()));
    let (mut one, mut other) = (first.as_writer().await, second.as_writer().await);
    refused(status_of(&mut one).await, Code::Unavailable, "STANDBY");
    assert!(holding.terminate().await.success());
    let deadline = Instant::now() + LONG;
    let (owner, mut waiting) = loop {
        match (status_of(&mut one).await.is_ok(), status_of(&mut other).await.is_ok()) {
            (true, false) => break (first, second),
            (false, true) => break (second, first),
            (both, _) => assert!(!both && Instant::now() < deadline, "not exactly one writer is active"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut refusing = waiting.as_writer().await;
    let deadline = Instant::now() + LONG;
    loop {
        let refusal = refused(status_of(&mut refusing).await, Code::Unavailable, "STANDBY");
        if refusal.metadata.get("writer").is_some_and(|at| format!("http://{at}") == owner.url) {
            break;
        }
        assert!(Instant::now() < deadline, "the standby does not name the new holder");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The next one finds damage.
    std::fs::write(dir.path().join("database.json"), b"nonsense").unwrap();
    drop(owner);
    assert!(!waiting.wait(LONG).await.success(), "the standby must exit with an error");
}

/// A client with a list of writers finds the active one, and changes to the one that takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_client_continues_at_the_writer_that_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = Daemon::writer(dir.path());
    let second = standby(dir.path());
    // The list begins with the standby.
    let urls = [second.url.clone(), first.url.clone()];
    let client = driftdb::client::Client::new(&urls, [""; 0]);
    let create = v1::CreateTableRequest { table: "t".into(), primary_key: "id".into(), ..Default::default() };
    assert_eq!(client.create_table(create).await.unwrap().seq, 1);
    let writing = tokio::spawn({
        let client = client.clone();
        async move {
            let mut seqs = Vec::new();
            for n in 0..400 {
                seqs.push(client.insert("t", format!(r#"{{"id":"k{n}"}}"#)).await.unwrap().seq);
            }
            seqs
        }
    });
    // Some rows are written, and more are under way.
    let mut active = first.as_writer().await;
    while active.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq < 20 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    drop(active);
    let status = driftctl_status(&urls);
    assert_eq!([&status[0]["state"], &status[1]["state"]], ["standby", "active"]);
    assert_eq!(status[0]["waits_for"], first.url.trim_start_matches("http://"));
    first.kill();
    // Every row was inserted once, in order: a retry did not repeat a write.
    assert!(writing.await.unwrap().into_iter().eq(2..402));
    let status = driftctl_status(&urls);
    assert_eq!([&status[0]["state"], &status[1]["state"]], ["active", "down"]);
}

/// The writers in the output of `driftctl status`, with no reader given.
fn driftctl_status(urls: &[String; 2]) -> Vec<serde_json::Value> {
    let mut command = std::process::Command::new(binary("driftctl"));
    command.args(["-o", "jsonl", "--reader", "", "--writer", &format!("{},{}", urls[0], urls[1]), "status"]);
    let output = command.output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["writers"].as_array().unwrap().clone()
}
