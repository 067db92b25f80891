//! The base of a bucket, which is nearly all of a first copy: what an interruption has left of it is used, and nothing wrong is.

#![expect(clippy::disallowed_methods, reason = "looks at the directories of buckets and copies")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use driftdb_common::bucket::chain::ends;
use driftdb_common::bucket::mirror::Mirror;
use driftdb_common::bucket::restore::{RestoreProgress, RestoreRequest};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::point_in_time::CommitBound;

use crate::harness::buckets::{driftctl_lines, once_free, restore, text};
use crate::harness::condition::Random;
use crate::harness::sim_bucket::{Faults, SimBucket};
use crate::harness::*;

/// A bucket with the objects of a directory.
fn bucket_of(dir: &Path) -> Arc<SimBucket> {
    let bucket = SimBucket::new(1, Faults::default());
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
            bucket.overwrite(&name, &Bytes::from(fs::read(path).unwrap()));
        }
    }
    bucket
}

/// A bucket with one base, whose files are longer than a part, and the rows of its table.
async fn bucket_with_long_files(home: &Path) -> (Arc<SimBucket>, Vec<serde_json::Value>) {
    let (data, bucket) = (home.join("data"), home.join("bucket"));
    let mut daemon = Daemon::start("driftdb-writer", &data, &["--snapshot-events", "1000000"]);
    let mut writer = daemon.as_writer().await;
    calls::run(&mut writer, "CREATE TABLE long (pk=id)").await.unwrap();
    let mut random = Random(3);
    for i in 0..12 {
        let noise: String = (0..50_000).map(|_| format!("{:016x}", random.next())).collect();
        apply(&mut writer, vec![put("long", format!(r#"{{"id":"r{i}","noise":"{noise}"}}"#))]).await.unwrap();
    }
    calls::snapshot(&mut writer, "long").await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    let url = format!("file://{}", bucket.display());
    driftctl_lines(&["backup", "-d", text(&data), &url]);
    (bucket_of(&bucket), driftctl_lines(&["-d", text(&data), "select", "long"]))
}

/// Restores with an interruption after each part that was read, and a power cut after each interruption, after which `between` sees the
/// disk. Returns the disk, and how many bytes were left at each.
fn restore_part_by_part(bucket: &Arc<SimBucket>, mut between: impl FnMut(&SimDisk)) -> (SimDisk, Vec<u64>) {
    let (store, target) = (bucket.store(), Path::new("/data/target"));
    let request = RestoreRequest { point: "@now", bound: None, is_clone: false, relative_to: Some(now_ms()) };
    let mut disk = SimDisk::new();
    disk.shared().create_dir(Path::new("/data")).unwrap();
    disk.shared().sync_dir(Path::new("/")).unwrap();
    let mut left = Vec::new();
    loop {
        let outcome =
            restore(&store, &disk.shared(), target, request, &mut |made: RestoreProgress| match made {
                RestoreProgress::Copying(made) => {
                    left.push(made.left);
                    Err(Error::new(Reason::Cancelled, "interrupted"))
                }
                _ => Ok(()),
            });
        match outcome {
            Ok(_) => return (disk, left),
            Err(error) => assert_eq!(error.reason(), Reason::Cancelled, "{error}"),
        }
        let interruptions = left.len();
        assert!(interruptions < 100, "it does not get on");
        let policies = CrashPolicy::all(interruptions as u64);
        let policy = policies.into_iter().cycle().nth(interruptions).unwrap();
        disk = disk.crash(policy);
        between(&disk);
    }
}

fn check_long_rows(home: &Path, disk: &SimDisk, rows: &[serde_json::Value]) {
    let copy = home.join("restored");
    for path in disk.paths() {
        let file = copy.join(path.strip_prefix("/data").unwrap());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, disk.bytes(&path).unwrap()).unwrap();
    }
    assert_eq!(driftctl_lines(&["-d", text(&copy.join("target")), "select", "long"]), rows);
    fs::remove_dir_all(&copy).unwrap();
}

/// Nearly all of a restore is its base.
#[tokio::test]
async fn a_restore_that_is_interrupted_within_its_base_fetches_nothing_twice() {
    let home = tempfile::tempdir().unwrap();
    let (bucket, rows) = bucket_with_long_files(home.path()).await;
    let (disk, left) = restore_part_by_part(&bucket, |_| ());
    // After the snapshot, and after each part of the segment.
    assert!(left.len() >= 3 && left.is_sorted_by(|one, next| one > next), "{left:?}");
    for name in bucket.names().iter().filter(|name| name.starts_with("files/")) {
        let len = bucket.object(name).unwrap().len() as u64;
        assert_eq!(bucket.read_bytes(name), len, "{name}");
    }
    check_long_rows(home.path(), &disk, &rows);
}

/// What is there counts only once the digest of the whole file is right.
#[tokio::test]
async fn damaged_bytes_of_an_interrupted_restore_are_fetched_again() {
    let home = tempfile::tempdir().unwrap();
    let (bucket, rows) = bucket_with_long_files(home.path()).await;
    let mut damaged = BTreeSet::new();
    let (disk, _) = restore_part_by_part(&bucket, |disk| {
        for path in disk.paths() {
            let name = path.to_str().unwrap().to_owned();
            let is_begun = name.ends_with(".tmp") || name.contains("/segments/");
            let bytes = disk.bytes(&path).unwrap();
            if is_begun && !bytes.is_empty() && damaged.insert(name) {
                let mut bytes = bytes;
                bytes[1000] ^= 1;
                disk.put(&path, &bytes).unwrap();
            }
        }
    });
    assert!(damaged.len() >= 2, "{damaged:?}");
    check_long_rows(home.path(), &disk, &rows);
}

/// A writer that begins a base every few chunks.
async fn write_rows(data: &Path, url: &str, options: &[&str], until: impl Fn() -> bool) -> u64 {
    let options =
        [&["--bucket", url, "--bucket-interval", "10ms", "--bucket-base-chunks", "3"], options].concat();
    let mut daemon = Daemon::start("driftdb-writer", data, &options);
    let mut writer = daemon.as_writer().await;
    // It exists already if this is not the first writer.
    let _ = create_table(&mut writer, "t").await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut seq, mut n) = (0, 0);
    while n < 10 || !until() {
        seq = apply(&mut writer, vec![put("t", format!(r#"{{"id":"r{n}"}}"#))]).await.unwrap().seq;
        n += 1;
        assert!(Instant::now() < deadline, "the writer does not get there");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(writer);
    assert!(daemon.terminate().await.success());
    seq
}

fn interrupted(made: RestoreProgress) -> driftdb_common::error::Result<()> {
    match made {
        RestoreProgress::Copying(_) => Err(Error::new(Reason::Cancelled, "interrupted")),
        _ => Ok(()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_collection_has_overtaken_continues_with_a_later_base() {
    let home = tempfile::tempdir().unwrap();
    let (data, target) = (home.path().join("data"), home.path().join("target"));
    let url = format!("file://{}", home.path().join("bucket").display());
    let seq = write_rows(&data, &url, &[], || true).await;
    let rows = driftctl_lines(&["-d", text(&data), "select", "t", "--as-of", &format!("@seq:{seq}")]);
    let (store, fs) = (BucketStore::open(&url).unwrap(), OsFileSystem::shared());
    let point = format!("@seq:{seq}");
    let bound = Some(CommitBound::Seq(seq));
    let request = RestoreRequest { point: &point, bound, is_clone: false, relative_to: None };
    restore(&store, &fs, &target, request, &mut interrupted).unwrap_err();
    let planned = ends(&store).unwrap().last;
    write_rows(&data, &url, &["--bucket-keep", "1s"], || ends(&store).unwrap().first > planned).await;
    let done = restore(&store, &fs, &target, request, &mut |_| Ok(())).unwrap();
    assert_eq!(done.seq, seq);
    assert!(done.chunk > planned, "{done:?}");
    assert_eq!(driftctl_lines(&["-d", text(&target), "select", "t"]), rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_history_are_not_completed_with_those_of_another() {
    let home = tempfile::tempdir().unwrap();
    let (data, bucket) = (home.path().join("data"), home.path().join("bucket"));
    let url = format!("file://{}", bucket.display());
    write_rows(&data, &url, &[], || true).await;
    let (store, fs) = (BucketStore::open(&url).unwrap(), OsFileSystem::shared());
    // A copy that was interrupted in its base, and one that was whole.
    let [begun, whole] = ["begun", "whole"].map(|name| DataDir::new(home.path().join(name)));
    let open = |dir: &DataDir| once_free(|| Mirror::open(store.clone(), Arc::clone(&fs), dir)).unwrap();
    let stop = |_| Err(Error::new(Reason::Cancelled, "interrupted"));
    open(&begun).catch_up(ends(&store).unwrap(), &mut { stop }).unwrap_err();
    let mut mirror = open(&whole);
    mirror.catch_up(ends(&store).unwrap(), &mut |_| Ok(())).unwrap();
    mirror.complete().unwrap();
    let known = mirror.last_chunk();
    drop(mirror);
    // The database goes back to an early commit, and on from there, and its writer takes the same place.
    driftctl_lines(&["restore", &url, text(&home.path().join("back")), "--to", "@seq:3"]);
    fs::rename(&bucket, home.path().join("away")).unwrap();
    let back = home.path().join("back");
    write_rows(&back, &url, &["--bucket-keep", "1s"], || ends(&store).is_ok_and(|ends| ends.first > known))
        .await;
    for dir in [&begun, &whole] {
        let refused = open(dir).catch_up(ends(&store).unwrap(), &mut |_| Ok(())).unwrap_err();
        assert_eq!(refused.reason(), Reason::ArgumentInvalid, "{refused}");
        assert!(refused.message().contains("another history"), "{refused}");
    }
}
