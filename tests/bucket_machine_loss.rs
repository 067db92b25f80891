//! The machine of a writer is lost, again and again: another one takes over from the bucket. With `sync` nothing that was acknowledged is
//! lost; with `async` only what came after the chunk under way had begun; and every client is told.

#![expect(clippy::disallowed_methods, reason = "these tests lose machines")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::bucket::chunk::ChunkKind;

use crate::harness::buckets::{until_bucket, until_reader, until_serving, writer_status};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::s3_server::S3Server;
use crate::harness::steady_load::{AckedWrite, SteadyLoad};
use crate::harness::watching::{Watch, after, everything, resume, watch};
use crate::harness::{Daemon, Reader, create_table, reason, select, select_at};

/// The number of clients that write when the machine is lost.
const CLIENTS: usize = 4;

/// Machines that come and go, and a bucket that stays.
struct Machines {
    server: S3Server,
    home: tempfile::TempDir,
    options: Vec<&'static str>,
    number: u32,
    random: Random,
}

impl Machines {
    fn new(options: &[&'static str]) -> Machines {
        let home = tempfile::tempdir().unwrap();
        Machines { server: S3Server::start(), home, options: options.to_vec(), number: 0, random: Random(23) }
    }

    fn data(&self) -> PathBuf {
        self.home.path().join(format!("data{}", self.number))
    }

    fn writer(&self) -> Daemon {
        self.server.daemon("driftdb-writer", &self.data(), &self.options)
    }

    fn reader(&self) -> Daemon {
        let cache = self.home.path().join("cache");
        self.server.daemon("driftdb-reader", &cache, &["--poll-interval", "20ms"])
    }

    fn lose(&mut self) {
        let _ = std::fs::remove_dir_all(self.data());
        self.number += 1;
    }

    fn some_millis(&mut self, below: usize) -> Duration {
        Duration::from_millis(self.random.below(below) as u64)
    }

    /// A machine that is lost before its writer serves, or soon after.
    async fn lose_one_that_begins(&mut self) {
        let mut command = self.server.command("driftdb-writer");
        command.arg("--data").arg(self.data()).args(["--listen", "127.0.0.1:0", "--log", "off"]);
        command.args(["--bucket", &self.server.url()]).args(&self.options);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(self.some_millis(400)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        self.lose();
    }
}

/// What happened at one loss of a machine.
struct TakeOver {
    acked: Vec<AckedWrite>,
    killed: Instant,
    /// From the kill to the first acknowledged write at the next writer.
    took: Duration,
    old_epoch: u64,
    /// The last commit that the next writer found.
    found: u64,
    /// Its first commit.
    first: v1::WriteToken,
    /// The last chunks of the lost writer: when the last but one was stored, and where the last one ends.
    chunks: (Option<Instant>, u64),
}

impl TakeOver {
    fn lost(&self) -> impl Iterator<Item = &AckedWrite> {
        self.acked.iter().filter(|write| write.seq > self.found)
    }

    /// How long before the kill the first lost write was acknowledged.
    fn lost_time(&self) -> Duration {
        let first = self.lost().map(|write| write.at).min();
        first.map_or(Duration::ZERO, |at| self.killed.saturating_duration_since(at))
    }
}

/// Loses machines under load. `check` looks at each take-over, with the reader of the bucket.
async fn lose_machines(
    machines: &mut Machines,
    rounds: u32,
    mut check: impl AsyncFnMut(&str, &TakeOver, &mut Reader, &mut Watch),
) {
    let mut daemon = machines.writer();
    let mut writer = daemon.as_writer().await;
    let mut token = create_table(&mut writer, "r0").await.unwrap();
    until_bucket(&mut writer, "the first table is in the bucket", |bucket| bucket.last_seq >= token.seq)
        .await;
    let reader_daemon = machines.reader();
    let mut reader = until_serving(&reader_daemon).await;
    let mut open = watch(&mut reader, after(0)).await.unwrap();
    let mut seen = Vec::new();
    for round in 0..rounds {
        let table = format!("r{round}");
        let (old_epoch, first_chunk) = (token.epoch, machines.server.last_chunk());
        let load = SteadyLoad::start(&writer, &table, CLIENTS);
        load.until("the load begins", |load| load.count() > 0).await;
        tokio::time::sleep(machines.some_millis(500)).await;
        daemon.kill();
        let killed = Instant::now();
        let (acked, _) = load.finish().await;
        let term = machines.server.chunks_from(first_chunk)[0].chunk.header.term;
        machines.lose();
        if round % 3 == 2 {
            machines.lose_one_that_begins().await;
        }
        daemon = machines.writer();
        writer = daemon.as_writer().await;
        let found = writer_status(&mut writer).await.last_seq;
        token = create_table(&mut writer, &format!("r{}", round + 1)).await.unwrap();
        let took = killed.elapsed();
        let chunks = machines.server.chunks_from(first_chunk);
        let shipped: Vec<_> = chunks
            .iter()
            .filter(|found| found.chunk.header.term == term && found.chunk.header.kind != ChunkKind::Fence)
            .collect();
        let before = shipped.iter().rev().nth(1).map(|found| found.at);
        let last =
            shipped.last().map_or(chunks[0].chunk.header.last.seq, |found| found.chunk.header.last.seq);
        let first = token;
        let told = TakeOver { acked, killed, took, old_epoch, found, first, chunks: (before, last) };
        until_reader(&mut reader, "the reader follows", |now| {
            let header = now.header.as_ref().unwrap();
            header.epoch == token.epoch && header.applied_seq >= token.seq
        })
        .await;
        check(&table, &told, &mut reader, &mut open).await;
        seen.push((told.acked.len(), told.lost().count(), told.lost_time(), told.took));
    }
    print_figures(&machines.options, &seen);
}

fn print_figures(options: &[&str], seen: &[(usize, usize, Duration, Duration)]) {
    let acked: usize = seen.iter().map(|(acked, ..)| acked).sum();
    let middle_and_most = |mut all: Vec<u128>| {
        all.sort_unstable();
        (all[all.len() / 2], all[all.len() - 1])
    };
    let events = middle_and_most(seen.iter().map(|(_, lost, ..)| *lost as u128).collect());
    let lost = middle_and_most(seen.iter().map(|(_, _, time, _)| time.as_millis()).collect());
    let took = middle_and_most(seen.iter().map(|(.., took)| took.as_millis()).collect());
    println!(
        "{options:?}: {} machines lost, {acked} writes acknowledged; median and most of: lost writes {events:?}, lost ms \
         {lost:?}, ms from the kill to the first write {took:?}",
        seen.len()
    );
}

/// The numbers of the rows that a table has after a commit. A table whose creation is lost has none.
async fn numbers(reader: &mut Reader, table: &str, seq: u64) -> BTreeSet<u64> {
    match select_at(reader, table, seq).await {
        Ok(rows) => rows.iter().map(|(key, _)| key.trim_start_matches('k').parse().unwrap()).collect(),
        Err(status) if reason(&status) == "TABLE_NOT_FOUND" => BTreeSet::new(),
        Err(status) => panic!("{table}: {status:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn with_sync_no_kill_loses_an_acknowledged_commit_and_no_watch_notices() {
    let mut machines = Machines::new(&["--bucket-ack", "sync", "--bucket-interval", "20ms"]);
    let mut next = 1;
    lose_machines(&mut machines, by_lane(8, 200), async |table, told, reader, open| {
        assert_eq!(told.lost().count(), 0, "{table}: acknowledged up to {:?}", told.acked.last());
        assert_eq!(told.first.epoch, told.old_epoch, "a take-over that loses nothing keeps the epoch");
        let found = numbers(reader, table, told.first.seq).await;
        let missing: Vec<_> = told.acked.iter().filter(|write| !found.contains(&write.n)).collect();
        assert!(missing.is_empty(), "{table}: acknowledged and lost: {missing:?}");
        // The same watch goes on, with every commit once.
        let seqs: Vec<u64> = open.upto(told.first.seq).await.iter().map(|commit| commit.seq).collect();
        assert_eq!(seqs, (next..=told.first.seq).collect::<Vec<_>>());
        next = told.first.seq + 1;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn with_async_a_kill_loses_only_what_came_after_the_chunk_under_way_and_clients_are_told() {
    let mut machines = Machines::new(&["--bucket-interval", "100ms"]);
    lose_machines(&mut machines, by_lane(8, 200), async |table, told, reader, open| {
        assert_ne!(told.first.epoch, told.old_epoch, "commits may be missing");
        let (before, last) = told.chunks;
        assert_eq!(told.found, last, "{table}: the next writer has what the bucket has");
        let found = numbers(reader, table, told.first.seq).await;
        for write in &told.acked {
            let is_lost = write.seq > told.found;
            assert_eq!(found.contains(&write.n), !is_lost, "{table}: {write:?}, found up to {}", told.found);
            // The last chunk has all that was published when the one before it had been stored. So at most an interval is lost, and
            // what came while the chunk was under way.
            if is_lost && let Some(before) = before {
                assert!(write.at >= before, "{table}: {write:?} should have been shipped");
            }
        }
        // A client with a token of the former history, a watch of it, and one that resumes.
        let freshness = Some(v1::Freshness { min_seq: 1, epoch: told.old_epoch, ..Default::default() });
        let request = v1::SelectRequest { table: "r0".into(), freshness, ..Default::default() };
        assert_eq!(reason(&select(reader, request).await.unwrap_err()), "EPOCH_CHANGED");
        assert_eq!(reason(&open.end().await.unwrap_err()), "EPOCH_CHANGED");
        let refused = watch(reader, resume(&open.token, &everything())).await.unwrap_err();
        assert_eq!(reason(&refused), "EPOCH_CHANGED");
        *open = watch(reader, after(told.found)).await.unwrap();
    })
    .await;
}
