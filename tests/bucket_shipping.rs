//! A writer with a bucket: the bucket alone gives the same database, also after the machine is lost, and whoever may have lost
//! something is told.

#![expect(clippy::disallowed_methods, reason = "these tests lose machines and break buckets")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::bucket::beginning::back_up;
use driftdb_common::bucket::chunk::ChunkKind;
use driftdb_common::bucket::fencing::{find_ends, read_header};
use driftdb_common::bucket::mirror;
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Reason;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use tonic::Code;

use crate::harness::buckets::{until_bucket, writer_status};
use crate::harness::condition::Random;
use crate::harness::database::{ARGS, answers, copy};
use crate::harness::lane::by_lane;
use crate::harness::s3_server::S3Server;
use crate::harness::{Daemon, Writer, apply, calls, create_table, database, put, reason, select_at};

/// Only keeps a failing test from hanging.
const LONG: Duration = Duration::from_secs(60);

/// A machine with a data directory, and a bucket that outlives it.
struct Site {
    held: tempfile::TempDir,
    machines: u32,
}

impl Site {
    fn new() -> Site {
        Site { held: tempfile::tempdir().unwrap(), machines: 0 }
    }

    fn bucket(&self) -> PathBuf {
        self.held.path().join("bucket")
    }

    fn data(&self) -> PathBuf {
        self.held.path().join(format!("data{}", self.machines))
    }

    /// Another machine, with an empty directory.
    fn lose_machine(&mut self) {
        let _ = std::fs::remove_dir_all(self.data());
        self.machines += 1;
    }

    fn store(&self) -> BucketStore {
        BucketStore::open(self.bucket().to_str().unwrap()).unwrap()
    }

    fn try_writer(&self, args: &[&str]) -> Result<Daemon, String> {
        let bucket = self.bucket();
        let mut all = vec!["--bucket", bucket.to_str().unwrap()];
        all.extend(args);
        Daemon::try_start("driftdb-writer", &self.data(), &all)
    }

    fn writer(&self, args: &[&str]) -> Daemon {
        self.try_writer(args).unwrap()
    }

    /// A database from what the bucket has.
    fn materialize(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let fs = OsFileSystem::shared();
        mirror::materialize(&self.store(), None, &fs, &DataDir::new(dir.path()), &mut |_| Ok(())).unwrap();
        dir
    }
}

/// Waits until the bucket has a commit.
async fn until_shipped(writer: &mut Writer, seq: u64) -> v1::BucketState {
    until_bucket(writer, "the bucket has the commit", |bucket| bucket.last_seq >= seq).await
}

async fn put_row(writer: &mut Writer, n: u64) -> Result<u64, tonic::Status> {
    apply(writer, vec![put("t", format!(r#"{{"id":"k{n}","n":{n}}}"#))]).await.map(|token| token.seq)
}

/// The values of `n` that a database has.
async fn rows(data: &Path, seq: u64) -> Vec<u64> {
    let reader = Daemon::reader(data);
    let rows = select_at(&mut reader.as_reader().await, "t", seq).await.unwrap();
    let mut found: Vec<u64> =
        rows.iter().map(|(key, _)| key.trim_start_matches('k').parse().unwrap()).collect();
    found.sort_unstable();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bucket_gives_the_database_that_the_directory_has() {
    let site = Site::new();
    let original = database::shared().await;
    copy(original.path(), &site.data());
    // First a backup of what is there, then a writer that continues it, with a base every few chunks.
    let place = (OsFileSystem::shared(), DataDir::new(site.data()));
    let first = back_up(&site.store(), &place, false).unwrap();
    assert!(first.is_new);
    assert!(!back_up(&site.store(), &place, false).unwrap().is_new, "nothing has changed");
    let mut args = vec!["--bucket-interval", "10ms", "--bucket-base-chunks", "4"];
    args.extend(ARGS);
    let mut daemon = site.writer(&args);
    let mut writer = daemon.as_writer().await;
    for n in 0..by_lane(60, 1000) {
        let row = format!(r#"{{"id":"b{}","n":{n},"status":"s{}"}}"#, n % 17, n % 5);
        apply(&mut writer, vec![put("orders", row.clone()), put("archive", row)]).await.unwrap();
        if n == 40 {
            calls::snapshot(&mut writer, "orders").await.unwrap();
        }
    }
    let last = writer_status(&mut writer).await.last_seq;
    until_shipped(&mut writer, last).await;
    assert!(daemon.terminate().await.success());
    let mirrored = site.materialize();
    assert_eq!(answers(mirrored.path()).await, answers(&site.data()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_sync_nothing_acknowledged_is_lost_with_the_machine() {
    let mut site = Site::new();
    let args = ["--bucket-ack", "sync", "--bucket-interval", "10ms"];
    let (mut random, mut acknowledged, mut epochs) = (Random(11), Vec::new(), Vec::new());
    let mut next = 0;
    for round in 0..by_lane(4, 200) {
        let mut daemon = site.writer(&args);
        let mut writer = daemon.as_writer().await;
        epochs.push(writer_status(&mut writer).await.epoch);
        if round == 0 {
            create_table(&mut writer, "t").await.unwrap();
        }
        let last = writer_status(&mut writer).await.last_seq;
        let found = rows(&site.data(), last).await;
        for n in &acknowledged {
            assert!(found.contains(n), "round {round}: {n} was acknowledged and is lost");
        }
        let kill_after = Duration::from_millis(100 + (random.next() >> 33) % 400);
        let load = tokio::spawn(async move {
            let mut done = Vec::new();
            for n in next.. {
                match put_row(&mut writer, n).await {
                    Ok(_) => done.push(n),
                    Err(_) => return (n + 1, done),
                }
            }
            unreachable!()
        });
        tokio::time::sleep(kill_after).await;
        daemon.kill();
        let (reached, done) = load.await.unwrap();
        next = reached;
        acknowledged.extend(done);
        site.lose_machine();
    }
    assert!(!acknowledged.is_empty());
    epochs.dedup();
    assert_eq!(epochs.len(), 1, "a take-over that loses nothing keeps the epoch");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_sync_commits_of_an_interval_share_a_chunk_and_wait_for_one() {
    const ROUNDS: u64 = 6;
    let site = Site::new();
    let daemon = site.writer(&["--bucket-ack", "sync", "--bucket-interval", "150ms"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let before = writer_status(&mut writer).await.bucket.unwrap().chunk;
    // Each client sends its next write when the last one is acknowledged: all of them wait for the same chunk.
    let clients = (0..4).map(|client| {
        let mut writer = writer.clone();
        tokio::spawn(async move {
            for n in 0..ROUNDS {
                put_row(&mut writer, client * 100 + n).await.unwrap();
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let chunks = writer_status(&mut writer).await.bucket.unwrap().chunk - before;
    assert!(chunks < ROUNDS + ROUNDS / 2, "{ROUNDS} writes of each client took {chunks} chunks");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_async_a_take_over_begins_an_epoch_unless_the_writer_had_closed() {
    let mut site = Site::new();
    let mut daemon = site.writer(&["--bucket-interval", "10ms"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let seq = put_row(&mut writer, 1).await.unwrap();
    until_shipped(&mut writer, seq).await;
    let first = writer_status(&mut writer).await.epoch;
    daemon.kill();
    site.lose_machine();

    let mut daemon = site.writer(&["--bucket-interval", "10ms"]);
    let mut writer = daemon.as_writer().await;
    let second = writer_status(&mut writer).await;
    assert_ne!(second.epoch, first, "the last writer may have acknowledged more");
    assert_eq!(second.last_seq, seq);
    let seq = put_row(&mut writer, 2).await.unwrap();
    assert!(daemon.terminate().await.success());
    site.lose_machine();

    let daemon = site.writer(&[]);
    let mut writer = daemon.as_writer().await;
    let third = writer_status(&mut writer).await;
    assert_eq!((third.epoch, third.last_seq), (second.epoch, seq), "a close ships everything");
    assert_eq!(rows(&site.data(), seq).await, [1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_bucket_was_taken_over_stops_and_acknowledges_nothing_more() {
    for ack in ["async", "sync"] {
        let mut site = Site::new();
        let args = ["--bucket-ack", ack, "--bucket-interval", "10ms"];
        let mut old = site.writer(&args);
        let mut writer = old.as_writer().await;
        create_table(&mut writer, "t").await.unwrap();
        let seq = put_row(&mut writer, 1).await.unwrap();
        until_shipped(&mut writer, seq).await;
        // Another machine takes over, and the first one lives on.
        site.machines += 1;
        let new = site.writer(&args);
        let mut newer = new.as_writer().await;
        let term = read_header(&site.store(), find_ends(&site.store()).unwrap().unwrap().last)
            .unwrap()
            .unwrap()
            .term;
        assert!(term >= 2);
        let deadline = Instant::now() + LONG;
        let refused = loop {
            match put_row(&mut writer, 2).await {
                Ok(_) if ack == "async" => assert!(Instant::now() < deadline, "the old writer goes on"),
                Ok(_) => panic!("the old writer acknowledged a commit that its bucket does not have"),
                Err(status) => break status,
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert!([Code::Unknown, Code::Unavailable].contains(&refused.code()), "{refused:?}");
        assert!(!old.wait(LONG).await.success(), "it says that it did not end well");
        let seq = put_row(&mut newer, 3).await.unwrap();
        until_shipped(&mut newer, seq).await;
        assert!(rows(&site.data(), seq).await.ends_with(&[3]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_does_not_continue_the_bucket_is_refused_and_stops_nobody() {
    let mut site = Site::new();
    let mut daemon = site.writer(&["--bucket-interval", "10ms"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    put_row(&mut writer, 1).await.unwrap();
    assert!(daemon.terminate().await.success());
    let old_copy = site.held.path().join("data7");
    copy(&site.data(), &old_copy);

    let daemon = site.writer(&["--bucket-interval", "10ms"]);
    let mut writer = daemon.as_writer().await;
    let seq = put_row(&mut writer, 2).await.unwrap();
    until_shipped(&mut writer, seq).await;
    let live = site.machines;
    site.machines = 7;
    let refused = site.try_writer(&[]).unwrap_err();
    assert!(refused.contains("does not continue the bucket"), "{refused}");
    // Another database never mixes with this one.
    site.machines = 8;
    let mut other = Daemon::writer(&site.data());
    create_table(&mut other.as_writer().await, "t").await.unwrap();
    assert!(other.terminate().await.success());
    let refused = site.try_writer(&[]).unwrap_err();
    assert!(refused.contains("has another database"), "{refused}");
    let backup = back_up(&site.store(), &(OsFileSystem::shared(), DataDir::new(site.data())), false);
    assert!(backup.is_err());
    site.machines = live;
    let seq = put_row(&mut writer, 3).await.unwrap();
    until_shipped(&mut writer, seq).await;
    // Nor does a backup replace a writer that is at work.
    let place = (OsFileSystem::shared(), DataDir::new(site.data()));
    let refused = back_up(&site.store(), &place, false).unwrap_err();
    assert_eq!(refused.reason(), Reason::ArgumentInvalid, "{refused}");
}

/// Makes the bucket fail, or work again: its place is taken by a file.
fn set_broken(bucket: &Path, is_broken: bool) {
    let aside = bucket.with_extension("aside");
    if is_broken {
        std::fs::rename(bucket, &aside).unwrap();
        std::fs::write(bucket, "not a directory").unwrap();
    } else {
        std::fs::remove_file(bucket).unwrap();
        std::fs::rename(&aside, bucket).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_fails_async_goes_on_and_catches_up() {
    let site = Site::new();
    let mut daemon = site.writer(&["--bucket-interval", "10ms"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    set_broken(&site.bucket(), true);
    let mut seq = 0;
    for n in 0..20 {
        seq = put_row(&mut writer, n).await.unwrap();
    }
    let deadline = Instant::now() + LONG;
    loop {
        let bucket = writer_status(&mut writer).await.bucket.unwrap();
        if !bucket.problem.is_empty() && bucket.lag_ms > 0 {
            break;
        }
        assert!(Instant::now() < deadline, "{bucket:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    set_broken(&site.bucket(), false);
    let bucket = until_shipped(&mut writer, seq).await;
    assert_eq!(bucket.problem, "");
    assert!(daemon.terminate().await.success());
    let mirrored = site.materialize();
    assert_eq!(rows(mirrored.path(), seq).await, (0..20).collect::<Vec<_>>());
}

/// A snapshot whose files cannot be uploaded, or not for a long time, is no reason to lose commits.
#[tokio::test(flavor = "multi_thread")]
async fn commits_are_shipped_while_the_files_of_a_snapshot_are_not() {
    let (server, home) = (S3Server::start(), tempfile::tempdir().unwrap());
    let data = home.path().join("data");
    let args = ["--bucket-interval", "50ms"];
    let mut daemon = server.daemon("driftdb-writer", &data, &args);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let seq = put_row(&mut writer, 0).await.unwrap();
    until_shipped(&mut writer, seq).await;
    server.refuse_files(true);
    for n in 1..20 {
        put_row(&mut writer, n).await.unwrap();
    }
    calls::snapshot(&mut writer, "t").await.unwrap();
    let shown = until_bucket(&mut writer, "the problem is shown", |bucket| !bucket.problem.is_empty()).await;
    assert!(shown.problem.contains("files/"), "{shown:?}");
    let last = put_row(&mut writer, 20).await.unwrap();
    let shown = until_shipped(&mut writer, last).await;
    assert!(shown.problem.contains("files/"), "the problem is still there: {shown:?}");
    drop(writer);
    daemon.kill();
    std::fs::remove_dir_all(&data).unwrap();
    server.refuse_files(false);
    let mut next = server.daemon("driftdb-writer", &data, &args);
    assert_eq!(rows(&data, last).await, (0..=20).collect::<Vec<u64>>());
    assert!(next.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_bucket_fails_sync_acknowledges_nothing_refuses_what_is_new_and_recovers() {
    let site = Site::new();
    let args = ["--bucket-ack", "sync", "--bucket-interval", "10ms", "--bucket-sync-timeout", "200ms"];
    let mut daemon = site.writer(&args);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    put_row(&mut writer, 0).await.unwrap();
    set_broken(&site.bucket(), true);
    let mut waiting = writer.clone();
    let waiting = tokio::spawn(async move { put_row(&mut waiting, 1).await });
    let deadline = Instant::now() + LONG;
    let refused = loop {
        // A request that comes before the time-out waits with the first one.
        let mut other = writer.clone();
        let asked =
            tokio::time::timeout(Duration::from_millis(300), async move { put_row(&mut other, 2).await });
        match asked.await {
            Ok(Err(status)) => break status,
            Ok(Ok(seq)) => panic!("commit {seq} was acknowledged and is not in the bucket"),
            Err(_) => assert!(Instant::now() < deadline, "nothing is refused"),
        }
    };
    assert_eq!(reason(&refused), "OVERLOADED", "{refused:?}");
    assert!(!waiting.is_finished(), "the bucket may have its chunk");
    // Readers beside the disk do not see it either.
    let reader = Daemon::reader(&site.data());
    let seen = reader.as_reader().await.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(seen.header.as_ref().unwrap().applied_seq, 2, "{seen:?}");
    set_broken(&site.bucket(), false);
    let seq = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap();
    let after = put_row(&mut writer, 3).await.unwrap();
    assert!(after > seq);
    assert!(daemon.terminate().await.success());
    let mirrored = site.materialize();
    let found = rows(mirrored.path(), after).await;
    assert!(found.contains(&1) && found.contains(&3), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collection_leaves_a_bucket_that_gives_the_same_database() {
    let site = Site::new();
    let mut args = vec!["--bucket-interval", "10ms", "--bucket-base-chunks", "3", "--bucket-keep", "1s"];
    args.extend(["--snapshot-events", "40", "--segment-bytes", "16384"]);
    let mut daemon = site.writer(&args);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let deadline = Instant::now() + LONG;
    let mut seq = 0;
    for n in 0.. {
        seq = put_row(&mut writer, n % 50).await.unwrap();
        if n % 10 == 0 && find_ends(&site.store()).unwrap().unwrap().first > 20 {
            break;
        }
        assert!(Instant::now() < deadline, "nothing is collected");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // A collection can end with the writer: then two marks are left, and the next writer finishes it.
    let store = site.store();
    loop {
        assert!(daemon.terminate().await.success());
        if store.list("kept").unwrap().len() == 1 {
            break;
        }
        daemon = site.writer(&args);
        writer = daemon.as_writer().await;
        while store.list("kept").unwrap().len() != 1 {
            seq = put_row(&mut writer, 7).await.unwrap();
            assert!(Instant::now() < deadline, "the collection does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let mut gone = 0;
    let ends = find_ends(&store).unwrap().unwrap();
    for number in 1..ends.first {
        match read_header(&store, number).unwrap() {
            None => gone += 1,
            Some(header) => assert!(header.kind == ChunkKind::Fence || number + 200 > ends.first),
        }
    }
    assert!(gone > 0);
    let mirrored = site.materialize();
    assert_eq!(rows(mirrored.path(), seq).await, rows(&site.data(), seq).await);
    let problems = database::Copy::of(mirrored.path()).verify(true).0;
    assert!(problems.is_empty(), "{problems:?}");
    // The last collection came to its end: every file is named by a chunk that is kept.
    let mut named = BTreeSet::new();
    for number in ends.first..=ends.last {
        let (chunk, _) = store.chunk(number).unwrap().unwrap();
        named.extend(chunk.files.iter().chain(&chunk.retired).map(|file| file.object()));
    }
    let all: BTreeSet<String> = store.list("files").unwrap().into_iter().map(|object| object.name).collect();
    assert_eq!(all.difference(&named).collect::<Vec<_>>(), Vec::<&String>::new());
}
