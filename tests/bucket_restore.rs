//! A backup in a bucket: every commit and every time can be restored, damage is named and never skipped, and what was interrupted
//! continues.

#![expect(clippy::disallowed_methods, reason = "damages the objects of a bucket, and looks at directories")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::bucket::mirror::materialize;
use driftdb_common::bucket::restore::{RestoreProgress, RestoreRequest};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::fs::sim::{CrashPolicy, SimDisk};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::format_time;
use driftdb_common::table::point_in_time::CommitBound;

use crate::harness::buckets::{BackedUp, driftctl, driftctl_lines, restore, text};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::*;

/// Restores to a point, and returns the directory.
fn restored(made: &BackedUp, name: &str, point: &str) -> (PathBuf, u64) {
    let dir = made.home.path().join(name);
    let printed = driftctl_lines(&["restore", &made.url(), text(&dir), "--to", point]);
    (dir, printed[0]["last_seq"].as_u64().unwrap())
}

/// Restores to random commits and times, and compares with what the database was.
async fn check_random_points(made: &BackedUp, points: usize) {
    let mut random = Random(11);
    let mut pick = |below: u64| (random.next() >> 33) % below;
    for i in 0..points {
        let seq = 1 + pick(made.last_seq());
        let also_at: Vec<u64> = (0..3).map(|_| 1 + pick(made.last_seq())).collect();
        let name = format!("restored{i}");
        let (dir, found, expected) = if i % 2 == 0 {
            let (dir, found) = restored(made, &name, &format!("@seq:{seq}"));
            (dir, found, seq)
        } else {
            // Several commits can have one time: the last of them counts.
            let time_ms = made.moment(seq).time_ms;
            let last = made.moments.iter().filter(|moment| moment.time_ms <= time_ms).count() as u64;
            let (dir, found) = restored(made, &name, &format_time(time_ms));
            (dir, found, last)
        };
        assert_eq!(found, expected);
        made.check_restored(&dir, expected, &also_at).await;
        if i % 4 == 0 {
            check_writable(&dir, expected).await;
        }
        fs::remove_dir_all(&dir).unwrap();
    }
}

/// A restored directory opens for writing like any other, and its next commit has the next seq.
async fn check_writable(dir: &Path, seq: u64) {
    let mut daemon = Daemon::start("driftdb-writer", dir, &buckets::WRITER);
    let mut writer = daemon.as_writer().await;
    assert_eq!(calls::run(&mut writer, "CREATE TABLE after_restore (pk=id)").await.unwrap().seq, seq + 1);
    assert_eq!(apply(&mut writer, vec![put("after_restore", r#"{"id":"a"}"#)]).await.unwrap().seq, seq + 2);
    calls::snapshot(&mut writer, "after_restore").await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    let checked = driftctl_lines(&["-d", text(dir), "verify", "--deep"]);
    assert_eq!(checked.last().unwrap()["problems"], 0);
}

#[tokio::test]
async fn a_restore_is_the_database_as_it_was() {
    let made = BackedUp::build(3, 24).await;
    check_random_points(&made, 4).await;
    let (dir, seq) = restored(&made, "all", "@now");
    assert_eq!(seq, made.last_seq());
    made.check_restored(&dir, seq, &[1, 2]).await;
}

#[tokio::test]
#[ignore = "slow"]
async fn every_restore_to_a_random_commit_or_time_equals_the_model() {
    let made = BackedUp::build(8, 60).await;
    check_random_points(&made, by_lane(50, 400)).await;
}

#[tokio::test]
async fn a_restore_has_an_epoch_of_its_own_and_a_clone_an_id() {
    let made = BackedUp::build(1, 10).await;
    let identity = |dir: &Path| -> (String, String) {
        let text = fs::read_to_string(dir.join("database.json")).unwrap();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap();
        let field = |name: &str| found["body"][name].as_str().unwrap().to_owned();
        (field("id"), field("epoch"))
    };
    let (dir, _) = restored(&made, "restored", "@now");
    let (old, new) = (identity(&made.data()), identity(&dir));
    assert_eq!(old.0, new.0);
    assert_ne!(old.1, new.1);

    // A token of the database is refused by the restored one.
    let daemon = Daemon::reader(&dir);
    let freshness = Some(v1::Freshness {
        min_seq: 1,
        epoch: u64::from_str_radix(&old.1, 16).unwrap(),
        ..Default::default()
    });
    let request = v1::SelectRequest { table: "t0".into(), freshness, ..Default::default() };
    let refused = select(&mut daemon.as_reader().await, request).await.unwrap_err();
    assert_eq!(reason(&refused), "EPOCH_CHANGED");

    // The clone has its rows, and another id; and no other database is overwritten.
    let target = format!("file://{}", made.home.path().join("clone").display());
    driftctl_lines(&["clone", &made.url(), &target, "--at", "@seq:5"]);
    let cloned = made.home.path().join("cloned");
    driftctl_lines(&["restore", &target, text(&cloned)]);
    made.check_restored(&cloned, 5, &[3]).await;
    assert_ne!(identity(&cloned).0, old.0);
    let again = driftctl(&["clone", &made.url(), &target]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("the bucket has a database"), "{again:?}");
}

#[tokio::test]
async fn a_target_with_files_and_points_without_commits_are_refused() {
    let made = BackedUp::build(1, 10).await;
    let refused = |args: &[&str], expected: &str| {
        let output = driftctl(args);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && complaint.contains(expected), "{args:?}: {complaint}");
    };
    let url = made.url();
    let dir = made.home.path().join("new");
    refused(&["restore", &url, text(&made.data())], "the directory is not empty");
    refused(&["restore", &url, text(&dir), "--to", "@seq:1000"], "seq 1000 does not exist yet");
    let empty = format!("file://{}", made.home.path().join("empty").display());
    refused(&["restore", &empty, text(&dir)], "it is a copy of file:///");
    refused(&["restore", &empty, text(&made.home.path().join("other"))], "contains no database");
    refused(&["backup", "list", &empty], "contains no database");
    refused(&["-d", &empty, "select", "t0"], "contains no database");
    assert!(!made.home.path().join("empty").exists(), "what reads creates no bucket");
    // A disk that is not mounted is no empty bucket.
    let unmounted = format!("file://{}", made.home.path().join("disk/orders").display());
    refused(&["backup", "-d", text(&made.data()), &unmounted], "is its disk mounted?");
    assert!(!made.home.path().join("disk").exists());
    refused(&["backup", &url], "backup needs a data directory");
    refused(&["restore", "s3://bucket/x?key=secret", text(&dir)], "do not belong in the URL");
    assert!(!dir.exists());

    // Before the first commit there is nothing, and that can be restored, too.
    let (dir, seq) = restored(&made, "nothing", "2020-01-01T00:00:00Z");
    assert_eq!(seq, 0);
    made.check_restored(&dir, 0, &[]).await;
}

#[tokio::test]
async fn a_backup_is_incremental_and_lists_what_it_can_restore() {
    let mut made = BackedUp::build(2, 20).await;
    let listed = driftctl_lines(&["backup", "list", &made.url()]);
    assert_eq!(listed.first().unwrap()["first_seq"], 1);
    assert_eq!(listed.last().unwrap()["last_seq"], made.last_seq());
    let before = objects(&made.bucket());
    made.back_up();
    // Only what says who has written last.
    let new: Vec<PathBuf> = objects(&made.bucket()).difference(&before).cloned().collect();
    assert!(new.len() <= 1, "{new:?}");
    let checked = driftctl_lines(&["backup", "verify", &made.url(), "--deep"]);
    assert_eq!(checked[0]["problems"], 0);
    assert_eq!(checked[0]["last_seq"], made.last_seq());
}

/// Every object of a bucket.
fn objects(bucket: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(bucket).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(objects(&path));
        } else {
            found.insert(path);
        }
    }
    found
}

/// The chunks of a bucket, and the files.
fn chunks_and_files(bucket: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let of = |folder: &str| {
        objects(bucket).into_iter().filter(|path| path.starts_with(bucket.join(folder))).collect()
    };
    (of("log"), of("files"))
}

#[tokio::test]
async fn damaged_missing_truncated_and_swapped_objects_are_named_and_never_skipped() {
    let made = BackedUp::build(3, 16).await;
    let (bucket, url) = (made.bucket(), made.url());
    let (chunks, files) = chunks_and_files(&bucket);
    assert!(chunks.len() >= 4 && !files.is_empty(), "{chunks:?} {files:?}");
    let (mut tried, mut restored) = (0, Vec::new());
    let mut check = |what: &str, damaged: &Path| {
        let name = damaged.file_name().unwrap().to_str().unwrap();
        let output = driftctl(&["backup", "verify", &url, "--deep"]);
        let printed = [&output.stdout[..], &output.stderr].concat();
        let printed = String::from_utf8_lossy(&printed).into_owned();
        assert_eq!(output.status.code(), Some(6), "{what} {name}: {output:?}");
        assert!(printed.contains(name), "{what} {name} is not named: {printed}");
        let target = made.home.path().join(format!("target{tried}"));
        let output = driftctl(&["restore", &url, text(&target)]);
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        // What a restore does not need can be damaged: an early chunk, for example, before the base.
        if output.status.success() {
            let printed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(printed["last_seq"], made.last_seq(), "{what} {name}");
            restored.push(target);
        } else {
            assert!(!target.exists() && complaint.contains(name), "{what} {name}: {complaint}");
        }
        tried += 1;
        !output.status.success()
    };
    let mut refused = 0;
    let last = chunks.len() - 1;
    for path in [&chunks[1], &chunks[last], &files[0]] {
        let sound = fs::read(path).unwrap();
        let mut flipped = sound.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(path, &flipped).unwrap();
        refused += usize::from(check("flipped", path));
        fs::write(path, &sound[..sound.len() - 1]).unwrap();
        refused += usize::from(check("truncated", path));
        fs::write(path, &sound).unwrap();
    }
    for path in chunks[..last].iter().chain([&files[0]]) {
        let sound = fs::read(path).unwrap();
        fs::remove_file(path).unwrap();
        refused += usize::from(check("missing", path));
        fs::write(path, &sound).unwrap();
    }
    // Chunk `last` under the name of the one before it, and the other way round.
    let [one, other] = [&chunks[last - 1], &chunks[last]].map(|path| fs::read(path).unwrap());
    fs::write(&chunks[last - 1], &other).unwrap();
    fs::write(&chunks[last], &one).unwrap();
    refused += usize::from(check("swapped", &chunks[last]));
    fs::write(&chunks[last - 1], &one).unwrap();
    fs::write(&chunks[last], &other).unwrap();
    assert!(refused >= 5, "only {refused} restores were refused");
    for dir in restored {
        made.check_restored(&dir, made.last_seq(), &[1]).await;
    }
    assert_eq!(driftctl_lines(&["backup", "verify", &url, "--deep"])[0]["problems"], 0);
}

/// After a lost chunk, what is before it can be restored, and nobody writes into the gap.
#[tokio::test]
async fn a_lost_chunk_leaves_what_is_before_it_and_is_not_written_again() {
    let made = BackedUp::build(3, 16).await;
    let (chunks, _) = chunks_and_files(&made.bucket());
    let lost = &chunks[chunks.len() - 2];
    let name = lost.file_name().unwrap().to_str().unwrap();
    fs::remove_file(lost).unwrap();
    let before = objects(&made.bucket());
    let (data, url) = (made.data(), made.url());
    driftctl_lines(&["-d", text(&data), "sql", "-e", "CREATE TABLE more (pk=id)"]);
    for command in [&["backup", "-d", text(&data), &url][..], &["backup", "-d", text(&data), &url, "--force"]]
    {
        let refused = driftctl(command);
        assert_eq!(refused.status.code(), Some(6), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(name), "{refused:?}");
    }
    assert_eq!(objects(&made.bucket()), before, "nothing is written");
    let seq = made.backups[0];
    let (dir, found) = restored(&made, "before", &format!("@seq:{seq}"));
    assert_eq!(found, seq);
    made.check_restored(&dir, seq, &[1]).await;
}

#[tokio::test]
async fn a_restore_of_another_bucket_is_not_mixed_with_an_interrupted_one() {
    let [made, other] = [BackedUp::build(2, 12).await, BackedUp::build(2, 20).await];
    let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
    let request = RestoreRequest { point: "@now", bound: None, is_clone: false, relative_to: Some(now_ms()) };
    // In the copy, and after all of it.
    for (i, steps) in [1, usize::MAX].into_iter().enumerate() {
        let target = made.home.path().join(format!("target{i}"));
        let mut left = steps;
        let store = BucketStore::open(&made.url()).unwrap();
        restore(&store, &fs, &target, request, &mut |step: RestoreProgress| {
            left -= 1;
            let is_over = left == 0 || step == RestoreProgress::Verifying;
            if is_over { Err(Error::new(Reason::Cancelled, "interrupted")) } else { Ok(()) }
        })
        .unwrap_err();
        let refused = driftctl(&["restore", &other.url(), text(&target)]);
        let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && !target.exists(), "{refused:?}");
        assert!(complaint.contains(&made.url()) && complaint.contains("remove"), "{complaint}");
        assert_eq!(driftctl_lines(&["restore", &made.url(), text(&target)])[0]["last_seq"], made.last_seq());
    }
}

#[tokio::test]
async fn a_target_that_cannot_be_replaced_is_refused_before_anything_is_copied() {
    let made = BackedUp::build(1, 8).await;
    let empty = made.home.path().join("empty");
    fs::create_dir(&empty).unwrap();
    for target in [".", "./", "../empty/."] {
        let mut command = std::process::Command::new(binary("driftctl"));
        command.current_dir(&empty).args(["restore", &made.url(), target]);
        let output = command.output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{target}");
        assert!(complaint.contains("name a directory that does not exist yet"), "{target}: {complaint}");
        assert!(fs::read_dir(&empty).unwrap().next().is_none(), "{target}");
    }
    // An empty directory that can be replaced is.
    assert_eq!(driftctl_lines(&["restore", &made.url(), text(&empty)])[0]["last_seq"], made.last_seq());
    made.check_restored(&empty, made.last_seq(), &[1]).await;
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_restore_can_be_continued() {
    let made = BackedUp::build(2, 12).await;
    let store = BucketStore::open(&made.url()).unwrap();
    let seq = made.backups[0] - 1;
    let point = format!("@seq:{seq}");
    let request = RestoreRequest {
        point: &point,
        bound: Some(CommitBound::Seq(seq)),
        is_clone: false,
        relative_to: None,
    };
    let target = Path::new("/disk/target");
    let restored_on =
        |disk: &SimDisk| restore(&store, &disk.shared(), target, request, &mut |_: RestoreProgress| Ok(()));
    let new_disk = || {
        let disk = SimDisk::new();
        disk.shared().create_dir(Path::new("/disk")).unwrap();
        disk.shared().sync_dir(Path::new("/")).unwrap();
        disk
    };
    let whole = new_disk();
    let done = restored_on(&whole).unwrap();
    let steps = whole.operations();
    let mut random = Random(7);
    // The last steps give the result its name.
    let last = steps.saturating_sub(20)..=steps;
    let others: Vec<u64> = (0..by_lane(10, 500)).map(|_| 1 + (random.next() >> 33) % steps).collect();
    for stop in last.chain(others) {
        let disk = new_disk();
        disk.power_off_at(stop);
        if restored_on(&disk).is_ok() {
            continue;
        }
        for policy in CrashPolicy::all(random.next()) {
            let crashed = disk.crash(policy);
            match restored_on(&crashed) {
                Ok(again) => assert_eq!((again.seq, again.tables), (done.seq, done.tables), "step {stop}"),
                Err(error) => {
                    // It had its name already.
                    assert!(error.message().contains("is not empty"), "step {stop} of {steps}: {error}");
                }
            }
            let has = |name: &str| crashed.bytes(target.join(name)).is_some();
            assert!(has("database.json") && !has("bucket.json"), "step {stop} of {steps}");
        }
    }
}

#[tokio::test]
async fn a_restore_that_is_interrupted_at_any_step_continues() {
    let made = BackedUp::build(3, 20).await;
    let store = BucketStore::open(&made.url()).unwrap();
    let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
    let target = made.home.path().join("target");
    let seq = made.backups[1] - 3;
    let point = format!("@seq:{seq}");
    let request = RestoreRequest {
        point: &point,
        bound: Some(CommitBound::Seq(seq)),
        is_clone: false,
        relative_to: None,
    };
    let mut interruptions = 0;
    let done = loop {
        // Each attempt gets one step further.
        let mut left = interruptions;
        let outcome = restore(&store, &fs, &target, request, &mut |_: RestoreProgress| {
            left -= 1;
            if left < 0 { Err(Error::new(Reason::Cancelled, "interrupted")) } else { Ok(()) }
        });
        match outcome {
            Ok(done) => break done,
            Err(error) => assert_eq!(error.reason(), Reason::Cancelled, "{error}"),
        }
        assert!(!target.exists());
        if interruptions == 1 {
            let other =
                RestoreRequest { point: "@now", bound: None, is_clone: false, relative_to: Some(now_ms()) };
            let refused = restore(&store, &fs, &target, other, &mut |_| Ok(())).unwrap_err();
            assert!(refused.message().contains("interrupted restore"), "{refused}");
        }
        interruptions += 1;
    };
    assert!(interruptions >= 3);
    assert_eq!(done.seq, seq);
    made.check_restored(&target, seq, &[seq / 2]).await;
    check_writable(&target, seq).await;
    let left = std::fs::read_dir(made.home.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| !name.to_str().unwrap().contains("restoring")));
}

/// "10 minutes ago" is another time when the restore is continued.
#[tokio::test]
async fn a_restore_to_a_relative_time_that_is_continued_keeps_its_time() {
    let made = BackedUp::build(4, 20).await;
    let store = BucketStore::open(&made.url()).unwrap();
    let fs: Arc<dyn FileSystem> = OsFileSystem::shared();
    let target = made.home.path().join("target");
    let seq = made.backups[1] - 2;
    let time_of = |seq: u64| {
        let commit = made.commits.iter().find(|commit| commit.seq == seq).unwrap();
        let time = commit.time.as_ref().unwrap();
        u64::try_from(time.seconds).unwrap() * 1000 + u64::try_from(time.nanos).unwrap() / 1_000_000
    };
    let request = |seq| RestoreRequest {
        point: "10 minutes ago",
        bound: Some(CommitBound::Time(time_of(seq))),
        is_clone: false,
        relative_to: Some(time_of(seq)),
    };
    restore(&store, &fs, &target, request(seq), &mut |made| match made {
        RestoreProgress::Copying(_) => Err(Error::new(Reason::Cancelled, "interrupted")),
        _ => Ok(()),
    })
    .unwrap_err();
    // Long after, the same words mean something else.
    let later = RestoreRequest { relative_to: Some(time_of(seq) + 2 * 60 * 60 * 1000), ..request(seq) };
    let refused = restore(&store, &fs, &target, later, &mut |_| Ok(())).unwrap_err();
    assert!(refused.message().contains("to start over"), "{refused}");
    let done = restore(&store, &fs, &target, request(seq + 1), &mut |_| Ok(())).unwrap();
    assert_eq!(
        done.seq,
        made.commits.iter().map(|c| c.seq).filter(|at| time_of(*at) <= time_of(seq)).max().unwrap()
    );
}

/// Copies the files of a simulated disk to a directory.
fn export(disk: &SimDisk, target: &Path) {
    for path in disk.paths() {
        let copy = target.join(path.strip_prefix("/data").unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::write(copy, disk.bytes(&path).unwrap()).unwrap();
    }
}

/// The names and contents of all files that matter.
fn all_files(disk: &SimDisk) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = disk.paths().into_iter().filter(|path| !path.ends_with("mirror.lock"));
    paths.map(|path| (path.clone(), disk.bytes(&path).unwrap())).collect()
}

#[tokio::test]
async fn a_power_cut_at_any_step_of_a_mirror_loses_nothing() {
    let made = BackedUp::build(3, 12).await;
    let store = BucketStore::open(&made.url()).unwrap();
    let dir = DataDir::new("/data");
    let whole = SimDisk::new();
    materialize(&store, None, &whole.shared(), &dir, &mut |_| Ok(())).unwrap();
    let target = made.home.path().join("whole");
    export(&whole, &target);
    made.check_restored(&target, made.last_seq(), &[1]).await;
    let steps = whole.operations();
    let mut random = Random(5);
    for _ in 0..by_lane(25, 2000) {
        let stop = 1 + (random.next() >> 33) % steps;
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        materialize(&store, None, &disk.shared(), &dir, &mut |_| Ok(())).unwrap_err();
        for policy in CrashPolicy::all(random.next()) {
            let crashed = disk.crash(policy);
            match materialize(&store, None, &crashed.shared(), &dir, &mut |_| Ok(())) {
                Ok(_) => {}
                // It was whole, and its record was removed: nothing continues it.
                Err(error) => assert_eq!(error.reason(), Reason::ArgumentInvalid, "step {stop}: {error}"),
            }
            assert_eq!(all_files(&crashed), all_files(&whole), "step {stop} of {steps}");
        }
    }
}
