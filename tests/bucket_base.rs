//! The base of a bucket, which is nearly all of a first copy: what an interruption has left of it is used, and nothing wrong is.

#![expect(clippy::disallowed_methods, reason = "looks at the directories of buckets and copies")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use driftdb_common::bucket::restore::{RestoreProgress, RestoreRequest, restore};
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};

use crate::harness::buckets::{driftctl_lines, text};
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
        apply(&mut writer, vec![put("long", &format!(r#"{{"id":"r{i}","noise":"{noise}"}}"#))]).await.unwrap();
    }
    calls::snapshot(&mut writer, "long").await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    let url = format!("file://{}", bucket.display());
    driftctl_lines(&["backup", "-d", text(&data), &url]);
    (bucket_of(&bucket), driftctl_lines(&["-d", text(&data), "select", "long"]))
}

/// Restores with an interruption after each part that was read, and a power cut after each interruption. `between` sees the disk after the
/// first ones.
fn restore_part_by_part(bucket: &Arc<SimBucket>, mut between: impl FnMut(&SimDisk)) -> (SimDisk, u64) {
    let (store, target) = (bucket.store(), Path::new("/data/target"));
    let request = RestoreRequest { point: "@now", bound: None, is_clone: false, relative_to: Some(now_ms()) };
    let mut disk = SimDisk::new();
    disk.shared().create_dir(Path::new("/data")).unwrap();
    disk.shared().sync_dir(Path::new("/data")).unwrap();
    let (mut interruptions, mut last_left) = (0, u64::MAX);
    loop {
        let outcome = restore(&store, &disk.shared(), target, request, &mut |made: RestoreProgress| match made {
            RestoreProgress::Copying(made) => {
                assert!(made.left <= last_left, "{made:?} after {last_left}");
                last_left = made.left;
                Err(Error::new(Reason::Cancelled, "interrupted"))
            }
            _ => Ok(()),
        });
        match outcome {
            Ok(_) => return (disk, interruptions),
            Err(error) => assert_eq!(error.reason(), Reason::Cancelled, "{error}"),
        }
        interruptions += 1;
        assert!(interruptions < 100, "it does not get on");
        let policies = CrashPolicy::all(interruptions);
        let policy = policies.into_iter().cycle().nth(usize::try_from(interruptions).unwrap()).unwrap();
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
    let (disk, interruptions) = restore_part_by_part(&bucket, |_| ());
    assert!(interruptions >= 4, "{interruptions}");
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
