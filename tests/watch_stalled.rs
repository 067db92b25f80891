//! A watcher stops reading while a million events pass: other watchers are not affected, the reader's memory stays
//! bounded, and the watcher catches up without a gap.

use std::time::Instant;

use crate::harness::lane::by_lane;
use crate::harness::watcher::next;
use crate::harness::watching::{Watch, narrow, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Events in each commit.
const EVENTS: u64 = 20;

fn commits() -> u64 {
    by_lane(50_000, 500_000)
}

/// The most memory that a stalled watcher may cost a reader, in KiB: far less than the events that it has not read.
const BOUND_KIB: u64 = 96 << 10;

/// A small cache, so that blocks that catching up reads do not count.
const READER: [&str; 2] = ["--cache", "8388608"];
/// Frequent snapshots, and little memory for events that no snapshot contains: on a busy machine the writer waits for its
/// snapshots, and the readers' memtables stay small.
const WRITER: [&str; 4] = ["--snapshot-events", "20000", "--memory", "33554432"];

/// Writes all commits, each of several events. Returns the last commit.
async fn write(writer: &mut Writer) -> u64 {
    let (send, messages) = mpsc::channel(64);
    let feeding = tokio::spawn(async move {
        for batch_id in 1..=commits() {
            let first = (batch_id - 1) * EVENTS;
            let row = |n: u64| {
                put("t", format!(r#"{{"id":"k{}","n":{n},"pad":"{}"}}"#, n % 20_000, "x".repeat(180)))
            };
            let operations = (first..first + EVENTS).map(row).collect();
            let batch = v1::IngestRequest { batch_id, operations, atomic: true, ..Default::default() };
            send.send(batch).await.unwrap();
        }
    });
    let mut acks = writer.ingest(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let mut last = 0;
    while let Some(ack) = acks.message().await.unwrap() {
        assert!(ack.errors.is_empty());
        last = ack.token.map_or(last, |token| token.seq);
    }
    feeding.await.unwrap();
    last
}

/// The expected stream: every commit after the first, each whole.
#[derive(Debug, Default)]
struct Followed {
    events: u64,
    seq: u64,
    fell_behind: u64,
    /// Whether it has caught up since it last fell behind.
    caught_up: bool,
}

impl Followed {
    fn take(&mut self, event: Event) {
        match event {
            Event::Commit(commit) => {
                assert!(!commit.more, "commits this small are sent in one message");
                assert_eq!(commit.seq, self.seq + 1);
                assert_eq!(commit.changes.len() as u64, EVENTS);
                for change in &commit.changes {
                    let text = text_of(change.payload.as_ref().unwrap());
                    let number = text.split("\"n\":").nth(1).unwrap().split(',').next().unwrap();
                    assert_eq!(number.parse::<u64>().unwrap(), self.events);
                    self.events += 1;
                }
                self.seq = commit.seq;
            }
            Event::Progress(header) => assert_eq!(header.read_seq, self.seq),
            Event::FellBehind(_) => {
                self.fell_behind += 1;
                self.caught_up = false;
            }
            Event::CaughtUp(_) => self.caught_up = true,
            other => panic!("{other:?}"),
        }
    }

    /// Reads until everything has arrived.
    async fn follow(mut self, mut stream: Watch) -> Followed {
        while self.events < commits() * EVENTS || !self.caught_up {
            self.take(next(&mut stream.stream).await.event.unwrap());
        }
        self
    }
}

fn request() -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { tables: vec!["t".into()], ..watching::after(1) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn a_stalled_watcher_affects_no_other_watcher() {
    let mut cluster = Cluster::start().await;
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::start("driftdb-writer", cluster.dir.path(), &WRITER);
    cluster.writer = cluster.writer_daemon.as_writer().await;
    cluster.reader_daemon = Daemon::start("driftdb-reader", cluster.dir.path(), &READER);
    cluster.reader = cluster.reader_daemon.as_reader().await;
    assert_eq!(cluster.create("t").await, 1);
    let reads = v1::Freshness { min_seq: 1, ..Default::default() };
    // Two readers do the same work, but only one has the stalled watcher.
    let plain_daemon = Daemon::start("driftdb-reader", cluster.dir.path(), &READER);
    let mut plain = plain_daemon.as_reader().await;
    for reader in [&mut plain, &mut cluster.reader] {
        let request = v1::ListTablesRequest { freshness: Some(reads), ..Default::default() };
        reader.list_tables(request).await.unwrap();
    }
    let stalled = narrow(&cluster.reader_daemon, request()).await;
    let mut followers = Vec::new();
    for mut reader in [plain, cluster.reader.clone()] {
        let stream = watch(&mut reader, request()).await.unwrap();
        followers.push(tokio::spawn(Followed { seq: 1, ..Followed::default() }.follow(stream)));
    }
    let began = Instant::now();
    let last = write(&mut cluster.writer).await;
    let written = began.elapsed();
    assert_eq!(last, commits() + 1);
    let mut fell = Vec::new();
    for follower in followers {
        let followed = follower.await.unwrap();
        assert_eq!((followed.events, followed.seq), (commits() * EVENTS, last));
        fell.push(followed.fell_behind);
    }
    let others = began.elapsed();
    let [with, without] = [&cluster.reader_daemon, &plain_daemon].map(|daemon| daemon.memory_kib("VmHWM:"));
    let again = Instant::now();
    let caught = Followed { seq: 1, ..Followed::default() }.follow(stalled).await;
    assert!(caught.fell_behind > 0, "the stalled watcher got no fell_behind");
    assert_eq!((caught.events, caught.seq), (commits() * EVENTS, last));
    let after = cluster.reader_daemon.memory_kib("VmHWM:");
    eprintln!(
        "{} events in {last} commits written in {written:.1?}; other watchers done after {others:.1?} (fell behind {fell:?} times); the stalled one caught up in {:.1?} (fell behind {} times); peak memory of its reader {} MiB, after catching up {} MiB, of the other reader {} MiB",
        caught.events,
        again.elapsed(),
        caught.fell_behind,
        with >> 10,
        after >> 10,
        without >> 10,
    );
    assert!(with < without + BOUND_KIB, "{with} KiB with a stalled watcher, {without} KiB without");
    assert!(after < without + BOUND_KIB, "{after} KiB after it caught up, {without} KiB without");
}
