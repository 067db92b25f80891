//! An object store that fails for a while under load: it refuses, is silent, or does what it is asked and does not say so. Nothing that was
//! acknowledged is lost, readers serve what they have, and all recover by themselves.

#![expect(clippy::disallowed_methods, reason = "these tests lose a machine")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::harness::buckets::{reader_status, until_bucket, until_reader, until_serving, writer_status};
use crate::harness::lane::by_lane;
use crate::harness::s3_server::{S3Server, Weather};
use crate::harness::steady_load::{AckedWrite, SteadyLoad};
use crate::harness::watching::{Watch, after, watch};
use crate::harness::{Daemon, Reader, Writer, create_table, select_at};

/// How the store fails, one after the other.
const FAILURES: [Weather; 3] = [Weather::Errors, Weather::Silent, Weather::Lossy];

/// How long each lasts at least.
fn each() -> Duration {
    Duration::from_secs(by_lane(1, 20))
}

/// A writer with a bucket, a reader beside its disk, and one that has only the bucket, with a watch.
struct Scene {
    server: S3Server,
    home: tempfile::TempDir,
    writer_daemon: Daemon,
    writer: Writer,
    _daemons: [Daemon; 2],
    beside: Reader,
    remote: Reader,
    open: Watch,
    /// The commits that the watch has delivered.
    delivered: Vec<u64>,
}

impl Scene {
    async fn start(options: &[&str]) -> Scene {
        let (server, home) = (S3Server::start(), tempfile::tempdir().unwrap());
        let data = home.path().join("data");
        let writer_daemon = server.daemon("driftdb-writer", &data, options);
        let mut writer = writer_daemon.as_writer().await;
        let seq = create_table(&mut writer, "t").await.unwrap().seq;
        until_bucket(&mut writer, "the table is in the bucket", |bucket| bucket.last_seq >= seq).await;
        let cache = home.path().join("cache");
        let daemons = [
            Daemon::reader(&data),
            server.daemon("driftdb-reader", &cache, &["--poll-interval", "20ms", "--max-lag", "60s"]),
        ];
        let beside = daemons[0].as_reader().await;
        let mut remote = until_serving(&daemons[1]).await;
        let open = watch(&mut remote, after(0)).await.unwrap();
        let (_daemons, delivered) = (daemons, Vec::new());
        Scene { server, home, writer_daemon, writer, _daemons, beside, remote, open, delivered }
    }

    /// Waits until everyone has a commit and says that all is well.
    async fn recovered(&mut self, seq: u64) {
        let bucket = until_bucket(&mut self.writer, "the bucket catches up", |bucket| {
            bucket.last_seq >= seq && bucket.problem.is_empty()
        })
        .await;
        assert_eq!(bucket.lag_ms, 0, "{bucket:?}");
        for reader in [&mut self.beside, &mut self.remote] {
            until_reader(reader, "the reader catches up", |now| {
                now.header.as_ref().unwrap().applied_seq >= seq && now.problems.is_empty()
            })
            .await;
        }
        assert_eq!(
            select_at(&mut self.beside, "t", seq).await.unwrap(),
            select_at(&mut self.remote, "t", seq).await.unwrap()
        );
        // The watch was never broken, and has every commit once.
        self.delivered.extend(self.open.upto(seq).await.iter().map(|commit| commit.seq));
        assert!(self.delivered.iter().copied().eq(1..=self.delivered.len() as u64), "{:?}", self.delivered);
        assert!(self.delivered.len() as u64 >= seq);
    }

    /// The reader of the bucket says that it is behind, and serves what it has.
    async fn reader_is_behind_and_serves(&mut self) {
        until_reader(&mut self.remote, "the reader says how old its state is", |now| {
            now.lag.as_ref().is_some_and(|lag| lag.seconds >= 1)
                && now.problems.iter().any(|problem| problem.contains("bucket"))
        })
        .await;
        let applied = reader_status(&mut self.remote).await.header.unwrap().applied_seq;
        let rows = select_at(&mut self.remote, "t", applied).await.unwrap();
        assert_eq!(rows, select_at(&mut self.beside, "t", applied).await.unwrap());
    }

    /// The machine is lost, and another takes over: everything that was acknowledged is there.
    async fn lose_machine_and_check(mut self, options: &[&str], acked: &[AckedWrite]) -> (u64, u64) {
        let before = writer_status(&mut self.writer).await.epoch;
        self.writer_daemon.kill();
        std::fs::remove_dir_all(self.home.path().join("data")).unwrap();
        self.server.set_weather(Weather::Fair);
        let data = self.home.path().join("another");
        let next = self.server.daemon("driftdb-writer", &data, options);
        let status = writer_status(&mut next.as_writer().await).await;
        let beside = Daemon::reader(&data);
        let rows = select_at(&mut beside.as_reader().await, "t", status.last_seq).await.unwrap();
        let found: BTreeSet<u64> =
            rows.iter().map(|(key, _)| key.trim_start_matches('k').parse().unwrap()).collect();
        let lost: Vec<_> = acked.iter().filter(|write| !found.contains(&write.n)).collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        (before, status.epoch)
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn with_async_a_failing_store_holds_nobody_up_and_the_bucket_catches_up() {
    let options = ["--bucket-interval", "50ms"];
    let mut scene = Scene::start(&options).await;
    let load = SteadyLoad::start(&scene.writer, "t", 4);
    load.until("the load begins", |load| load.count() > 20).await;
    for failure in FAILURES {
        let (began, before) = (Instant::now(), load.count());
        scene.server.set_weather(failure);
        if failure == Weather::Errors {
            until_bucket(&mut scene.writer, "the writer says what is wrong", |bucket| {
                !bucket.problem.is_empty() && bucket.lag_ms > 0
            })
            .await;
            scene.reader_is_behind_and_serves().await;
        }
        tokio::time::sleep(each().saturating_sub(began.elapsed())).await;
        load.until("writes go on", |load| load.count() > before + 20).await;
        assert!(writer_status(&mut scene.writer).await.bucket.unwrap().lag_ms > 0, "{failure:?}");
    }
    let lag = writer_status(&mut scene.writer).await.bucket.unwrap().lag_ms;
    scene.server.set_weather(Weather::Fair);
    let fair = Instant::now();
    let refused = load.refused();
    let (acked, errors) = load.finish().await;
    assert!(refused == 0 && errors.is_empty(), "async refuses nothing: {refused} refused, {errors:?}");
    let last = acked.iter().map(|write| write.seq).max().unwrap();
    scene.recovered(last).await;
    println!(
        "{} writes while the store failed; {lag} ms behind, caught up in {:?}",
        acked.len(),
        fair.elapsed()
    );
    scene.lose_machine_and_check(&options, &acked).await;
}

/// Starts clients until one is refused. Those that come before the time-out wait with the commits under way.
async fn refused_load(writer: &Writer, others: &mut Vec<SteadyLoad>) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while others.iter().all(|other| other.refused() == 0) {
        assert!(Instant::now() < deadline, "nothing is refused");
        others.push(SteadyLoad::start(writer, "t", 1));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn with_sync_a_failing_store_gets_overloaded_no_false_success_and_recovers() {
    let options = ["--bucket-ack", "sync", "--bucket-interval", "20ms", "--bucket-sync-timeout", "300ms"];
    let mut scene = Scene::start(&options).await;
    let load = SteadyLoad::start(&scene.writer, "t", 4);
    load.until("the load begins", |load| load.count() > 20).await;
    let (mut frozen, mut others) = (None, Vec::new());
    for failure in FAILURES {
        let began = Instant::now();
        scene.server.set_weather(failure);
        if frozen.is_none() {
            refused_load(&scene.writer, &mut others).await;
            frozen = Some(load.count());
            scene.reader_is_behind_and_serves().await;
        }
        tokio::time::sleep(each().saturating_sub(began.elapsed())).await;
        assert_eq!(Some(load.count()), frozen, "{failure:?}: nothing can be acknowledged");
        assert!(others.iter().all(|other| other.count() == 0));
    }
    let count = frozen.unwrap();
    scene.server.set_weather(Weather::Fair);
    let fair = Instant::now();
    load.until("writes go on", |load| load.count() > count + 20).await;
    let took = fair.elapsed();
    for other in others {
        other.finish().await;
    }
    let last = load.acked().iter().map(|write| write.seq).max().unwrap();
    scene.recovered(last).await;
    println!("{} refused while the store failed; commits again {took:?} after", load.refused());
    // The machine is lost while answers are lost, too.
    scene.server.set_weather(Weather::Lossy);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let acked = load.acked();
    let (before, epoch) = scene.lose_machine_and_check(&options, &acked).await;
    assert_eq!(before, epoch, "nothing is lost, so the epoch stays");
    load.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn with_sync_and_a_long_time_out_writes_wait_for_the_store_and_none_is_refused() {
    let options = ["--bucket-ack", "sync", "--bucket-interval", "20ms", "--bucket-sync-timeout", "10m"];
    let mut scene = Scene::start(&options).await;
    let load = SteadyLoad::start(&scene.writer, "t", 4);
    load.until("the load begins", |load| load.count() > 20).await;
    let mut all = vec![load];
    for failure in FAILURES {
        scene.server.set_weather(failure);
        tokio::time::sleep(each()).await;
        // Those that come later wait, too.
        all.push(SteadyLoad::start(&scene.writer, "t", 1));
    }
    let before = all[0].count();
    assert!(all[1..].iter().all(|load| load.count() == 0));
    scene.server.set_weather(Weather::Fair);
    for load in &all {
        load.until("writes go on", |load| load.count() > before + 20).await;
    }
    let mut last = 0;
    for load in all {
        let refused = load.refused();
        let (acked, errors) = load.finish().await;
        assert!(refused == 0 && errors.is_empty(), "{refused} refused, {errors:?}");
        last = last.max(acked.iter().map(|write| write.seq).max().unwrap());
    }
    scene.recovered(last).await;
}
