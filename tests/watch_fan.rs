//! Many watchers of one reader: the memory of each, and that a commit reaches every watcher once.

use std::time::{Duration, Instant};

use crate::harness::lane::by_lane;
use crate::harness::watching::{Watch, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;

/// Fewer streams than a connection may have.
const PER_CONNECTION: usize = 1_000;
/// The most memory of an idle watcher in the reader, in bytes; the goal is 20 KB.
const BOUND: u64 = 64 << 10;

fn watchers() -> usize {
    by_lane(1_000, 10_000)
}

/// Watchers of several kinds: of everything, of a table, of keys, with a condition.
fn request(number: usize, until_seq: u64) -> v1::WatchDriftRequest {
    let (mut tables, mut keys, mut text) = (Vec::new(), Vec::new(), String::new());
    match number % 4 {
        0 => tables = vec!["t".to_owned()],
        1 => keys = vec![format!("k{number}"), "one".to_owned(), "two".to_owned()],
        2 => text = "n < 10".to_owned(),
        _ => {}
    }
    v1::WatchDriftRequest { tables, keys, r#where: text, until_seq, with_after: true, ..Default::default() }
}

/// Reads until the stream has caught up.
async fn catch_up(stream: &mut Watch) {
    while !matches!(stream.event().await, Event::CaughtUp(_)) {}
}

/// The commits that arrive until the stream ends, and the time of the first.
async fn drain(mut stream: Watch) -> (Vec<u64>, Instant) {
    let mut seqs = vec![stream.commit().await.seq];
    let first = Instant::now();
    while let Some(message) = stream.stream.message().await.unwrap() {
        if let Some(Event::Commit(commit)) = message.event {
            seqs.push(commit.seq);
        }
    }
    (seqs, first)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_commit_reaches_every_watcher_once() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let head = apply(&mut cluster.writer, vec![put("t", r#"{"id":"zero","n":0}"#)]).await.unwrap().seq;
    select_at(&mut cluster.reader, "t", head).await.unwrap();
    let mut connections = Vec::new();
    for _ in 0..watchers().div_ceil(PER_CONNECTION).max(4) {
        connections.push(cluster.reader_daemon.as_reader().await);
    }
    // Warms up: the first watchers allocate what all share.
    for reader in &mut connections {
        catch_up(&mut watch(reader, request(0, 0)).await.unwrap()).await;
    }
    let before = cluster.reader_daemon.memory_kib("VmRSS:");
    let mut streams = Vec::new();
    for number in 0..watchers() {
        let at = number % connections.len();
        let mut stream = watch(&mut connections[at], request(number, head + 2)).await.unwrap();
        catch_up(&mut stream).await;
        streams.push(stream);
    }
    // Waits until the reader has noticed that those streams are gone.
    loop {
        let status = cluster.reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        if status.watchers == watchers() as u64 {
            break;
        }
        assert!(status.watchers > watchers() as u64);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let each = cluster.reader_daemon.memory_kib("VmRSS:").saturating_sub(before) * 1024 / watchers() as u64;
    let draining: Vec<_> = streams.into_iter().map(|stream| tokio::spawn(drain(stream))).collect();
    // Gives all of them time to wait for the next commit.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent = Instant::now();
    let row = |key: &str| put("t", format!(r#"{{"id":"{key}","n":1}}"#));
    let first = apply(&mut cluster.writer, vec![row("one")]).await.unwrap().seq;
    let acknowledged = sent.elapsed();
    tokio::time::sleep(Duration::from_millis(500)).await;
    apply(&mut cluster.writer, vec![row("two")]).await.unwrap();
    let mut last = sent;
    for drained in draining {
        let (seqs, came) = tokio::time::timeout(watcher::LIMIT, drained).await.unwrap().unwrap();
        assert_eq!(seqs, [first, first + 1]);
        last = last.max(came);
    }
    eprintln!(
        "{} watchers with {each} bytes of memory each; commit acknowledged after {acknowledged:.1?}, received by all after {:.1?}",
        watchers(),
        last - sent,
    );
    assert!(each < BOUND, "{each} bytes per watcher");
}
