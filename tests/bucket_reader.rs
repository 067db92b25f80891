//! A reader that has only a bucket gives the answers of one beside the writer, keeps its watches, and serves what it has while the bucket
//! does not answer.

#![expect(clippy::disallowed_methods, reason = "takes a bucket away and damages it")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::bucket::chain::LogEnds;
use driftdb_common::bucket::mirror::{Mirror, materialize};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::Reason;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;

use crate::harness::buckets::{
    BackedUp, WRITER, driftctl, driftctl_lines, once_free, reader_status, text, until_reader, until_serving,
};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::random_writer::{RandomWriter, compare};
use crate::harness::s3_server::{S3Server, Weather};
use crate::harness::watching::{everything, resume, told, watch};
use crate::harness::*;

/// A writer that ships to a bucket, and a reader of the bucket.
struct Shipping {
    home: tempfile::TempDir,
    url: String,
    writer: Daemon,
}

impl Shipping {
    fn start() -> Shipping {
        let home = tempfile::tempdir().unwrap();
        let url = format!("file://{}", home.path().join("bucket").display());
        let options = [&WRITER[..], &["--bucket", url.as_str(), "--bucket-interval", "20ms"]].concat();
        let writer = Daemon::start("driftdb-writer", &home.path().join("data"), &options);
        Shipping { writer, home, url }
    }

    fn reader(&self, cache: &str) -> Daemon {
        follow(&self.url, &self.home.path().join(cache))
    }
}

fn follow(url: &str, cache: &Path) -> Daemon {
    follow_with(url, cache, &[])
}

fn follow_with(url: &str, cache: &Path, options: &[&str]) -> Daemon {
    let options = [&["--bucket", url, "--poll-interval", "10ms"], options].concat();
    Daemon::start("driftdb-reader", cache, &options)
}

#[tokio::test]
async fn a_reader_of_the_bucket_answers_as_one_beside_the_writer() {
    let shipping = Shipping::start();
    let mut busy = RandomWriter::start(shipping.writer.as_writer().await, 7).await;
    busy.commits(60).await;
    let beside = Daemon::reader(&shipping.home.path().join("data"));
    let mut remote = shipping.reader("cache");
    let mut random = Random(3);
    let mut moments = Vec::new();
    for round in 0..by_lane(3, 20) {
        busy.commits(40).await;
        if round == 1 {
            busy.create().await;
            busy.snapshot(0).await;
        }
        moments.extend((0..3).map(|_| 1 + (random.next() >> 33) % busy.seq));
        let (mut one, mut other) = (beside.as_reader().await, until_serving(&remote).await);
        compare(&busy, [&mut one, &mut other], moments.iter().copied()).await;
        // A new one has only what its directory has, and the bucket.
        if round % 2 == 0 {
            remote.kill();
            remote = shipping.reader("cache");
        }
    }
    // Compaction reaches it, too.
    let floor = busy.seq / 2;
    busy.snapshot(0).await;
    busy.compact(0, floor).await;
    busy.commits(20).await;
    let fresh = shipping.reader("cache of another");
    for daemon in [&remote, &fresh] {
        let (mut one, mut other) = (beside.as_reader().await, until_serving(daemon).await);
        compare(&busy, [&mut one, &mut other], moments.iter().copied()).await;
    }
}

#[tokio::test]
#[ignore = "slow"]
async fn at_200_random_moments_a_reader_of_the_bucket_gives_the_same_bytes() {
    let shipping = Shipping::start();
    let mut busy = RandomWriter::start(shipping.writer.as_writer().await, 17).await;
    let beside = Daemon::reader(&shipping.home.path().join("data"));
    let (mut random, mut seen, mut compared) = (Random(29), 0, 0);
    for round in 0..10 {
        busy.commits(60).await;
        match round {
            6 => busy.create().await,
            3 | 7 => busy.snapshot(0).await,
            _ => {}
        }
        // A reader that goes on, and one that begins with an empty directory and leaves snapshots in the bucket.
        let parts = shipping.home.path().join(format!("parts{round}"));
        let daemon = match round % 2 {
            0 => shipping.reader("cache"),
            _ => follow_with(&shipping.url, &parts, &["--bucket-cache", "1000000"]),
        };
        let moments: Vec<u64> = (0..20).map(|_| 1 + random.below(busy.seq as usize) as u64).collect();
        seen += moments.len();
        let (mut one, mut other) = (beside.as_reader().await, until_serving(&daemon).await);
        compared += compare(&busy, [&mut one, &mut other], moments.into_iter()).await;
    }
    println!("{compared} answers compared, at {seen} moments");
    assert_eq!(seen, 200);
}

/// The lengths of the files in a directory, together.
fn used_bytes(dir: &Path) -> u64 {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[tokio::test]
async fn snapshots_that_stay_in_the_bucket_are_read_in_parts_within_a_budget() {
    let shipping = Shipping::start();
    let mut busy = RandomWriter::start(shipping.writer.as_writer().await, 13).await;
    busy.commits(200).await;
    busy.snapshot(0).await;
    busy.commits(100).await;
    let beside = Daemon::reader(&shipping.home.path().join("data"));
    busy.wait_for(&mut beside.as_reader().await).await;
    // Only a base lets a new reader leave older segments where they are.
    let cache = shipping.home.path().join("cache");
    let budget = 30_000;
    let url = shipping.url.as_str();
    let options = ["--bucket", url, "--poll-interval", "10ms", "--bucket-cache", "30000", "--cache", "0"];
    let mut moments: Vec<u64> = (1..busy.seq).step_by(37).collect();
    for round in 0..3 {
        let daemon = Daemon::start("driftdb-reader", &cache, &options);
        let (mut one, mut other) = (beside.as_reader().await, until_serving(&daemon).await);
        compare(&busy, [&mut one, &mut other], moments.iter().copied()).await;
        drop(daemon);
        let parts = cache.join("parts");
        assert!(used_bytes(&parts) > 0 && used_bytes(&parts) <= budget, "{}", used_bytes(&parts));
        let tables = fs::read_dir(cache.join("tables")).unwrap();
        let layers = tables.filter(|table| table.as_ref().unwrap().path().join("snapshots").exists()).count();
        assert_eq!(layers, 0, "layers are not copied");
        // Parts that are torn are fetched again.
        for part in fs::read_dir(&parts).unwrap() {
            let path = part.unwrap().path();
            let mut bytes = fs::read(&path).unwrap();
            match round {
                0 => bytes[7] ^= 1,
                _ => bytes.truncate(5),
            }
            fs::write(&path, bytes).unwrap();
        }
        busy.commits(30).await;
        moments.push(busy.seq);
    }
    // A copy of whole files is not made of parts.
    let refused = Daemon::try_start("driftdb-reader", &cache, &["--bucket", &shipping.url]).unwrap_err();
    assert!(refused.contains("--bucket-cache"), "{refused}");
}

/// Queries that need what is not here wait or fail; others do not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn queries_that_wait_for_a_silent_bucket_hold_up_no_others() {
    let (server, home) = (S3Server::start(), tempfile::tempdir().unwrap());
    let options = ["--bucket-interval", "20ms", "--snapshot-events", "100000"];
    let mut daemon = server.daemon("driftdb-writer", &home.path().join("data"), &options);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "old").await.unwrap();
    let mut random = Random(5);
    for batch in 0..20 {
        let row = |n| {
            let noise: String = (0..250).map(|_| format!("{:016x}", random.next())).collect();
            put("old", format!(r#"{{"id":"r{batch}-{n}","noise":"{noise}"}}"#))
        };
        apply(&mut writer, (0..50).map(row).collect()).await.unwrap();
    }
    calls::snapshot(&mut writer, "old").await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    // A new writer begins with what there is, and its chunks come after a base.
    let options = ["--bucket-interval", "20ms", "--bucket-base-chunks", "2"];
    let daemon = server.daemon("driftdb-writer", &home.path().join("data"), &options);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "new").await.unwrap();
    let args = ["--bucket-cache", "10000000", "--cache", "0", "--poll-interval", "20ms"];
    let cached = server.daemon("driftdb-reader", &home.path().join("cache"), &args);
    let mut reader = until_serving(&cached).await;
    let seq = apply(&mut writer, vec![put("new", r#"{"id":"a"}"#)]).await.unwrap().seq;
    until_reader(&mut reader, "it follows", |now| now.header.as_ref().unwrap().applied_seq >= seq).await;

    server.set_weather(Weather::Silent);
    let began = Instant::now();
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let mut reader = reader.clone();
            tokio::spawn(async move { select_at(&mut reader, "old", seq).await })
        })
        .collect();
    // For as long as they wait, what is here is answered at once.
    let mut asked = 0;
    while !waiting.iter().all(|query| query.is_finished()) {
        let one = Instant::now();
        let found = select_at(&mut reader, "new", seq).await.unwrap();
        assert!(found.len() == 1 && one.elapsed() < Duration::from_secs(2), "{:?}", one.elapsed());
        asked += 1;
        assert!(began.elapsed() < Duration::from_secs(25), "they wait for too long");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(asked > 10, "{asked}");
    for query in waiting {
        match query.await.unwrap() {
            Ok(rows) => panic!("{} rows were not in the bucket", rows.len()),
            Err(status) => assert_eq!(reason(&status), "UNREACHABLE"),
        }
    }
    // The next ones do not wait again.
    let one = Instant::now();
    assert_eq!(reason(&select_at(&mut reader, "old", seq).await.unwrap_err()), "UNREACHABLE");
    assert!(one.elapsed() < Duration::from_secs(1), "{:?}", one.elapsed());
    server.set_weather(Weather::Fair);
    let deadline = Instant::now() + Duration::from_secs(60);
    let rows = loop {
        match select_at(&mut reader, "old", seq).await {
            Ok(rows) => break rows,
            Err(status) => assert!(Instant::now() < deadline, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(rows.len(), 1000);
}

/// The names of the files of all tables in a directory.
fn table_files(dir: &Path) -> BTreeSet<PathBuf> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![dir.join("tables")]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned());
            }
        }
    }
    found
}

/// A command in a cron job copies what is new, and ends.
#[tokio::test]
async fn processes_that_live_shortly_leave_no_files_that_nobody_needs() {
    let made = BackedUp::build(6, 60).await;
    let (store, fs) = (BucketStore::open(&made.url()).unwrap(), OsFileSystem::shared());
    let last = driftdb_common::bucket::chain::ends(&store).unwrap().last;
    let cache = made.home.path().join("cache");
    let open = || once_free(|| Mirror::open(store.clone(), Arc::clone(&fs), &DataDir::new(&cache))).unwrap();
    for last in 2..=last {
        let mut mirror = open();
        mirror.catch_up(LogEnds { first: 1, last }, &mut |_| Ok(())).unwrap();
        mirror.complete().unwrap();
    }
    let before = table_files(&cache);
    let mut mirror = open();
    mirror.catch_up(LogEnds { first: 1, last }, &mut |_| Ok(())).unwrap();
    assert!(!mirror.advance(&mut |_| Ok(())).unwrap());
    mirror.checkpoint().unwrap();
    drop(mirror);
    let fresh = made.home.path().join("fresh");
    materialize(&store, None, &fs, &DataDir::new(&fresh), &mut |_| Ok(())).unwrap();
    let (after, needed) = (table_files(&cache), table_files(&fresh));
    assert!(before.len() > needed.len(), "the writer has replaced no files: {before:?}");
    assert_eq!(after.difference(&needed).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
    assert_eq!(needed.difference(&after).collect::<Vec<_>>(), Vec::<&PathBuf>::new());
}

#[tokio::test]
async fn a_watch_continues_over_a_killed_reader_of_the_bucket() {
    let shipping = Shipping::start();
    let mut busy = RandomWriter::start(shipping.writer.as_writer().await, 9).await;
    busy.commits(10).await;
    let (mut daemon, mut found, mut token) = (shipping.reader("cache"), Vec::new(), None);
    for round in 0..4 {
        let mut reader = until_serving(&daemon).await;
        busy.wait_for(&mut reader).await;
        let request = token.as_ref().map_or_else(|| watching::after(0), |token| resume(token, &everything()));
        let mut open = watch(&mut reader, request).await.unwrap();
        busy.commits(15).await;
        found.extend(open.upto(busy.seq).await.iter().map(told));
        token = Some(open.token.clone());
        daemon.kill();
        busy.commits(5).await;
        // The second half of the restarts has another cache: the token is as good there.
        daemon = shipping.reader(if round < 2 { "cache" } else { "another" });
    }
    let mut reader = until_serving(&daemon).await;
    busy.wait_for(&mut reader).await;
    let mut open = watch(&mut reader, resume(&token.unwrap(), &everything())).await.unwrap();
    found.extend(open.upto(busy.seq).await.iter().map(told));
    let beside = Daemon::reader(&shipping.home.path().join("data"));
    let mut reader = beside.as_reader().await;
    let expected = watch(&mut reader, watching::after(0)).await.unwrap().told(busy.seq).await;
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_bucket_that_does_not_answer_stops_nothing_and_is_named() {
    let made = BackedUp::build(2, 16).await;
    let cache = made.home.path().join("cache");
    let mut daemon = Daemon::start(
        "driftdb-reader",
        &cache,
        &["--bucket", &made.url(), "--poll-interval", "10ms", "--max-lag", "3s"],
    );
    let mut reader = until_serving(&daemon).await;
    until_reader(&mut reader, "it has everything", |now| {
        now.header.as_ref().unwrap().applied_seq == made.last_seq()
    })
    .await;
    let is_current = |now: &v1::ReaderServiceStatusResponse| {
        now.problems.is_empty() && now.lag.as_ref().is_none_or(|lag| lag.seconds == 0)
    };
    until_reader(&mut reader, "it is current", is_current).await;

    // A file in the place of the bucket's directory: every request fails.
    let away = made.home.path().join("away");
    fs::rename(made.bucket(), &away).unwrap();
    fs::write(made.bucket(), "not a bucket").unwrap();
    until_reader(&mut reader, "it says that the bucket does not answer", |now| {
        now.problems.iter().any(|problem| problem.contains("bucket"))
            && now.lag.as_ref().unwrap().seconds >= 1
    })
    .await;
    assert_eq!(select_at(&mut reader, "t0", made.last_seq()).await.unwrap().len(), {
        made.moment(made.last_seq()).tables["t0"].as_ref().unwrap().len()
    });
    // It starts with what it has, too, if the bucket is empty for now.
    daemon.kill();
    fs::remove_file(made.bucket()).unwrap();
    fs::create_dir(made.bucket()).unwrap();
    daemon = Daemon::start("driftdb-reader", &cache, &["--bucket", &made.url(), "--poll-interval", "10ms"]);
    let mut reader = until_serving(&daemon).await;
    assert!(!select_at(&mut reader, "t0", made.last_seq()).await.unwrap().is_empty());
    // How old that is, it cannot know.
    let max_staleness = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let freshness = Some(v1::Freshness {
        max_staleness,
        wait: Some(prost_types::Duration { seconds: 0, nanos: 0 }),
        ..Default::default()
    });
    let request = v1::SelectRequest { table: "t0".into(), freshness, ..Default::default() };
    assert_eq!(reason(&select(&mut reader, request).await.unwrap_err()), "REPLICA_BEHIND");
    assert_eq!(reader_status(&mut reader).await.lag, None);
    // No command takes that for 0.
    let mut command = std::process::Command::new(binary("driftctl"));
    command.args(["-o", "jsonl", "--reader", &daemon.url, "status"]).env_remove("DRIFTDB_DATA");
    let printed = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(printed.contains(r#""lag_ms":null"#), "{printed}");

    fs::remove_dir(made.bucket()).unwrap();
    fs::rename(&away, made.bucket()).unwrap();
    until_reader(&mut reader, "it recovers by itself", is_current).await;
}

#[tokio::test]
async fn a_new_epoch_in_the_bucket_is_told_to_clients() {
    let shipping = Shipping::start();
    let Shipping { home, url, mut writer } = shipping;
    let mut busy = RandomWriter::start(writer.as_writer().await, 5).await;
    busy.commits(30).await;
    let daemon = follow(&url, &home.path().join("cache"));
    let mut reader = until_serving(&daemon).await;
    busy.wait_for(&mut reader).await;
    let epoch = reader_status(&mut reader).await.header.unwrap().epoch;
    // The machine of the writer is lost, and another one takes over from the bucket.
    writer.kill();
    let options = [&WRITER[..], &["--bucket", url.as_str(), "--bucket-interval", "20ms"]].concat();
    let next = Daemon::start("driftdb-writer", &home.path().join("another"), &options);
    let mut other = next.as_writer().await;
    let made = calls::run(&mut other, "CREATE TABLE after_takeover (pk=id)").await.unwrap();
    assert_ne!(made.epoch, epoch, "commits may be missing, so the epoch is new");
    until_reader(&mut reader, "the reader follows", |now| {
        let header = now.header.as_ref().unwrap();
        header.epoch == made.epoch && header.applied_seq >= made.seq
    })
    .await;
    let freshness = Some(v1::Freshness { min_seq: 1, epoch, ..Default::default() });
    let request = v1::SelectRequest { table: "t0".into(), freshness, ..Default::default() };
    assert_eq!(reason(&select(&mut reader, request).await.unwrap_err()), "EPOCH_CHANGED");
}

#[tokio::test]
async fn a_directory_with_anything_else_is_refused() {
    let made = BackedUp::build(1, 8).await;
    let refused = Daemon::try_start("driftdb-reader", &made.data(), &["--bucket", &made.url()]).unwrap_err();
    assert!(refused.contains("cannot copy the bucket"), "{refused}");
    // The cache of one bucket is not taken for that of another.
    let cache = made.home.path().join("cache");
    drop(until_serving(&follow(&made.url(), &cache)).await);
    let other = BackedUp::build(1, 10).await;
    let refused = Daemon::try_start("driftdb-reader", &cache, &["--bucket", &other.url()]).unwrap_err();
    assert!(refused.contains("is not a mirror of the bucket"), "{refused}");
}

#[tokio::test]
async fn a_cache_answers_for_its_own_bucket_only_and_says_when_it_may_be_old() {
    let [made, other] = [BackedUp::build(1, 8).await, BackedUp::build(1, 10).await];
    let cache = made.home.path().join("cache");
    let count = |url: &str| {
        driftctl(&["-d", url, "--bucket-cache", text(&cache), "sql", "-e", "SELECT COUNT(*) FROM t0"])
    };
    let first = count(&made.url());
    assert!(first.status.success() && first.stderr.is_empty(), "{first:?}");
    let refused = count(&other.url());
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    assert!(complaint.contains("is not a mirror of the bucket"), "{complaint}");
    // Another database in the place of the bucket: the name is right, and the copy is not of it.
    let away = made.home.path().join("away");
    fs::rename(made.bucket(), &away).unwrap();
    fs::rename(other.bucket(), made.bucket()).unwrap();
    let refused = count(&made.url());
    assert!(!refused.status.success() && refused.stdout.is_empty(), "{refused:?}");
    // Nothing in its place: the copy answers, with a note.
    fs::remove_dir_all(made.bucket()).unwrap();
    let old = count(&made.url());
    let note = String::from_utf8_lossy(&old.stderr).into_owned();
    assert!(old.status.success() && old.stdout == first.stdout, "{old:?}");
    assert!(note.contains("the answer may be old"), "{note}");
    assert!(!made.bucket().exists(), "a question creates no bucket");
}

#[tokio::test]
async fn a_url_with_credentials_is_refused_by_every_command_and_never_printed() {
    for user in ["AKIA:SECRET", "SECRET"] {
        let url = format!("s3://{user}@b/p");
        for command in [
            &["sql", "-e", "INSERT INTO t {\"id\":1}"][..],
            &["verify"],
            &["select", "t"],
            &["tables"],
            &["snapshot", "t"],
            &["doctor"],
            &["dump", "-"],
        ] {
            let output = driftctl(&[&["-d", url.as_str()], command].concat());
            let printed = format!("{output:?}");
            assert!(!output.status.success() && !printed.contains("SECRET"), "{command:?}: {printed}");
        }
    }
}

#[tokio::test]
async fn a_lost_chunk_is_named_by_a_reader_that_starts_and_by_one_that_follows() {
    let made = BackedUp::build(3, 10).await;
    let cache = made.home.path().join("cache");
    let mut chunks: Vec<_> =
        fs::read_dir(made.bucket().join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    chunks.sort();
    let lost = &chunks[chunks.len() - 2];
    let name = lost.file_name().unwrap().to_str().unwrap().to_owned();
    let (kept, store) = (fs::read(lost).unwrap(), BucketStore::open(&made.url()).unwrap());
    let mut mirror = Mirror::open(store, OsFileSystem::shared(), &DataDir::new(&cache)).unwrap();
    let before = LogEnds { first: 1, last: chunks.len() as u64 - 2 };
    mirror.catch_up(before, &mut |_| Ok(())).unwrap();
    mirror.check_no_gap().unwrap();
    fs::remove_file(lost).unwrap();
    let error = mirror.check_no_gap().unwrap_err();
    assert!(error.reason() == Reason::Corrupt && error.to_string().contains(&name), "{error}");
    mirror.complete().unwrap();
    drop(mirror);
    let new = made.home.path().join("new cache");
    let refused = driftctl(&["-d", &made.url(), "--bucket-cache", text(&new), "select", "t0"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains(&name), "{refused:?}");
    fs::write(lost, kept).unwrap();
    let rows = driftctl_lines(&["-d", &made.url(), "select", "t0"]);
    assert_eq!(rows.len(), made.moment(made.last_seq()).tables["t0"].as_ref().unwrap().len());
}

#[tokio::test]
async fn a_bucket_is_queried_in_place() {
    let made = BackedUp::build(2, 16).await;
    let (url, seq) = (made.url(), made.backups[0]);
    let lines = |args: &[&str]| {
        let mut all = vec!["-d", url.as_str()];
        all.extend(args);
        driftctl_lines(&all)
    };
    let rows = |args: &[&str]| lines(args).len();
    let expected = |seq: u64| made.moment(seq).tables["t0"].as_ref().unwrap().len();
    assert_eq!(rows(&["select", "t0"]), expected(made.last_seq()));
    assert_eq!(rows(&["select", "t0", "--as-of", &format!("@seq:{seq}")]), expected(seq));
    let cache = made.home.path().join("cache");
    let cached = ["--bucket-cache", text(&cache), "sql", "-e", "SELECT COUNT(*) FROM t0"];
    for _ in 0..2 {
        assert_eq!(lines(&cached)[0]["count"], expected(made.last_seq()));
    }
    assert!(cache.join("HEAD").exists());
    let commits = rows(&["watch", "--from", "@seq:0", "--until", "@now"]);
    let events: usize = made.commits.iter().map(|commit| commit.changes.len()).sum();
    assert_eq!(commits, events);
    let output = driftctl(&["-d", &url, "sql", "-e", "DROP TABLE t0"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("a bucket can only be read"), "{output:?}");
}

#[test]
fn a_directory_as_a_bucket_passes_the_storage_check() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    let lines = driftctl_lines(&["storage-check", &url, "--bucket-interval", "10s"]);
    let checks: Vec<&str> = lines.iter().map(|line| line["check"].as_str().unwrap()).collect();
    let expected = [
        "create only",
        "create race",
        "read after write",
        "range",
        "list",
        "delete",
        "cost, writer",
        "cost, reader",
    ];
    assert_eq!(checks, expected);
    assert!(lines.iter().all(|line| ["ok", "slow"].contains(&line["result"].as_str().unwrap())), "{lines:?}");
    assert!(lines[6]["means"].as_str().unwrap().contains("259200 PUTs a month"), "{:?}", lines[6]);
    let left: Vec<_> =
        fs::read_dir(dir.path()).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path())).collect();
    assert!(left.into_iter().flatten().next().is_none(), "it leaves no object behind");
}
