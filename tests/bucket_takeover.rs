//! A take-over: one that dies leaves no database with the former epoch, a replaced writer that has nothing to do finds out, and no
//! writer opens a copy that is a reader's.

#![expect(clippy::disallowed_methods, reason = "reads the objects of a bucket")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftdb::v1;
use driftdb_common::bucket::beginning::take_over;
use driftdb_common::bucket::chunk::ChunkOrigin;
use driftdb_common::error::Reason;
use driftdb_common::storage::foreign_files::check_no_mirror;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::layout::DataDir;

use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::sim_bucket::{Faults, SimBucket};
use crate::harness::{Daemon, Writer, apply, create_table, put, select_at};

/// Only keeps a failing test from hanging.
const LONG: Duration = Duration::from_secs(60);

async fn status(writer: &mut Writer) -> v1::WriterServiceStatusResponse {
    writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner()
}

async fn until_shipped(writer: &mut Writer, seq: u64) {
    let deadline = Instant::now() + LONG;
    while status(writer).await.bucket.unwrap().last_seq < seq {
        assert!(Instant::now() < deadline, "commit {seq} does not reach the bucket");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn writer(home: &Path, data: &str, args: &[&str]) -> Daemon {
    let bucket = home.join("bucket").display().to_string();
    let args = [&["--bucket", bucket.as_str(), "--bucket-interval", "10ms"], args].concat();
    Daemon::start("driftdb-writer", &home.join(data), &args)
}

/// Copies the objects of a directory.
fn add_objects(bucket: &SimBucket, root: &Path, dir: &Path) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            add_objects(bucket, root, &path);
        } else {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap();
            bucket.overwrite(name, &Bytes::from(std::fs::read(&path).unwrap()));
        }
    }
}

/// A bucket whose writer has acknowledged commits before they were there, and has died.
async fn bucket_of_a_dead_writer() -> Arc<SimBucket> {
    let home = tempfile::tempdir().unwrap();
    let mut daemon = writer(home.path(), "data", &["--snapshot-events", "8"]);
    let mut client = daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let mut seq = 0;
    for n in 0..20 {
        seq = apply(&mut client, vec![put("t", format!(r#"{{"id":"k{n}"}}"#))]).await.unwrap().seq;
    }
    until_shipped(&mut client, seq).await;
    daemon.kill();
    let bucket = SimBucket::new(1, Faults::default());
    add_objects(&bucket, &home.path().join("bucket"), &home.path().join("bucket"));
    bucket
}

/// The epoch in `database.json`, if it is there.
fn epoch_of(disk: &SimDisk) -> Option<String> {
    let found: serde_json::Value = serde_json::from_slice(&disk.bytes("/data/database.json")?).unwrap();
    Some(found["body"]["epoch"].as_str().unwrap().to_owned())
}

fn has(disk: &SimDisk, path: &str) -> bool {
    disk.bytes(PathBuf::from("/data").join(path)).is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_dies_at_any_step_leaves_no_database_with_the_former_epoch() {
    let bucket = bucket_of_a_dead_writer().await;
    let dir = DataDir::new("/data");
    let take = |disk: &SimDisk| {
        take_over(&bucket.fork().store(), &(disk.shared(), dir.clone()), ChunkOrigin::AsyncWriter)
    };
    let whole = SimDisk::new();
    assert!(take(&whole).unwrap().is_some());
    let copied = SimDisk::new();
    driftdb_common::bucket::mirror::materialize(
        &bucket.fork().store(),
        None,
        &copied.shared(),
        &dir,
        &mut |_| Ok(()),
    )
    .unwrap();
    let former = epoch_of(&copied).unwrap();
    assert_ne!(epoch_of(&whole).unwrap(), former, "commits may be missing");
    let (mut random, steps) = (Random(3), whole.operations());
    // The end is where the copy becomes a database.
    let ends = steps.saturating_sub(25)..=steps;
    let others: Vec<u64> = (0..by_lane(10, 500)).map(|_| 1 + (random.next() >> 33) % steps).collect();
    let mut refused = 0;
    for stop in ends.chain(others) {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        take(&disk).unwrap_err();
        for policy in CrashPolicy::all(random.next()) {
            let crashed = disk.crash(policy);
            if has(&crashed, "database.json") && !has(&crashed, "bucket.json") {
                assert_ne!(epoch_of(&crashed).unwrap(), former, "step {stop} of {steps}, {policy:?}");
                continue;
            }
            if has(&crashed, "database.json") {
                let error = check_no_mirror(&*crashed.shared(), &dir).unwrap_err();
                assert_eq!(error.reason(), Reason::ArgumentInvalid);
                refused += 1;
                continue;
            }
            // It continues, or begins again.
            assert!(take(&crashed).unwrap().is_some(), "step {stop} of {steps}, {policy:?}");
            assert_ne!(epoch_of(&crashed).unwrap(), former, "step {stop} of {steps}, {policy:?}");
        }
    }
    assert!(refused > 0, "no step was between the two");
}

/// A writer acknowledges commits and is lost before it ships any: of it, the bucket has only the fence.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_of_which_only_the_fence_is_left_is_followed_by_a_new_epoch() {
    for (ack, keeps) in [("async", false), ("sync", true)] {
        let home = tempfile::tempdir().unwrap();
        let mut first = writer(home.path(), "data0", &["--bucket-ack", "sync"]);
        let mut client = first.as_writer().await;
        let former = create_table(&mut client, "t").await.unwrap().epoch;
        drop(client);
        assert!(first.terminate().await.success());
        let bucket = home.path().join("bucket").display().to_string();
        let mut args = vec!["--bucket", bucket.as_str(), "--bucket-ack", ack];
        if ack == "async" {
            args.extend(["--bucket-interval", "60s"]);
        }
        let mut lost = Daemon::start("driftdb-writer", &home.path().join("data0"), &args);
        let mut client = lost.as_writer().await;
        if ack == "async" {
            apply(&mut client, vec![put("t", r#"{"id":"lost"}"#)]).await.unwrap();
        }
        lost.kill();
        let next = writer(home.path(), "data1", &["--bucket-ack", ack]);
        let token = apply(&mut next.as_writer().await, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
        assert_eq!(token.epoch == former, keeps, "{ack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_writer_that_was_replaced_stops_by_itself() {
    for ack in ["async", "sync"] {
        let home = tempfile::tempdir().unwrap();
        let mut old = writer(home.path(), "data0", &["--bucket-ack", ack]);
        let mut client = old.as_writer().await;
        create_table(&mut client, "t").await.unwrap();
        let seq = apply(&mut client, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap().seq;
        until_shipped(&mut client, seq).await;
        drop(client);
        let new = writer(home.path(), "data1", &["--bucket-ack", ack]);
        // Nobody asks the old one for anything.
        assert!(!old.wait(LONG).await.success(), "{ack}: it says that it did not end well");
        let mut client = new.as_writer().await;
        let seq = apply(&mut client, vec![put("t", r#"{"id":"b"}"#)]).await.unwrap().seq;
        until_shipped(&mut client, seq).await;
        let reader = Daemon::reader(&home.path().join("data1"));
        assert_eq!(select_at(&mut reader.as_reader().await, "t", seq).await.unwrap().len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_writer_that_nobody_replaced_goes_on() {
    for ack in ["async", "sync"] {
        let home = tempfile::tempdir().unwrap();
        let daemon = writer(home.path(), "data", &["--bucket-ack", ack]);
        let mut client = daemon.as_writer().await;
        create_table(&mut client, "t").await.unwrap();
        // Long enough for some questions to the bucket, between the commits and during them.
        for n in 0..6 {
            tokio::time::sleep(Duration::from_millis(250)).await;
            let seq = apply(&mut client, vec![put("t", format!(r#"{{"id":"k{n}"}}"#))]).await.unwrap().seq;
            until_shipped(&mut client, seq).await;
        }
        assert_eq!(status(&mut client).await.bucket.unwrap().problem, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_writer_opens_the_copy_of_a_reader() {
    let home = tempfile::tempdir().unwrap();
    let daemon = writer(home.path(), "data", &[]);
    let mut client = daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let seq = apply(&mut client, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap().seq;
    until_shipped(&mut client, seq).await;
    let (bucket, cache) = (home.path().join("bucket").display().to_string(), home.path().join("cache"));
    let mut reader =
        Daemon::start("driftdb-reader", &cache, &["--bucket", &bucket, "--poll-interval", "10ms"]);
    let deadline = Instant::now() + LONG;
    while select_at(&mut reader.as_reader().await, "t", seq).await.is_err() {
        assert!(Instant::now() < deadline, "the reader does not serve");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    reader.kill();
    for args in [&[][..], &["--bucket", bucket.as_str()]] {
        let refused = Daemon::try_start("driftdb-writer", &cache, args).unwrap_err();
        assert!(refused.contains("is the cache of a reader of a bucket"), "{refused}");
    }
    // The writer that ships was not replaced by the attempts.
    let seq = apply(&mut client, vec![put("t", r#"{"id":"b"}"#)]).await.unwrap().seq;
    until_shipped(&mut client, seq).await;
}
