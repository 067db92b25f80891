//! The guarantees of WatchDrift while readers are killed and replaced every second, the writer restarts, and snapshots
//! and compactions run: every message to watchers of all kinds is checked against the acknowledged writes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::lane::by_lane;
use crate::harness::oracle::client::OracleClient;
use crate::harness::oracle::site::{self, replace_readers, restart_writer};
use crate::harness::oracle::watchers::Watching;
use tokio::task::JoinHandle;

fn events_wanted() -> u64 {
    by_lane(100_000, 5_000_000)
}

/// About how many events to write per second, so that a fast machine has as many kills during the run.
const EVENTS_PER_SECOND: u64 = 4_000;

/// The seed of the history.
fn seed() -> u64 {
    std::env::var("DRIFTDB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(77)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn every_watcher_gets_what_the_guarantees_promise() {
    let dir = tempfile::tempdir().unwrap();
    let (site, writer, readers) = site::open(dir.path()).await;
    let clients = OracleClient::all(&site, seed()).await;
    let mut watching = Watching::new();
    watching.begin(&site, 0);
    let wanted = events_wanted();
    let writing: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(client.run(wanted, EVENTS_PER_SECOND))).collect();
    let killing = replace_readers(&site, Duration::from_secs(1), readers);
    let restarting = restart_writer(&site, Duration::from_millis(3500), writer);
    let mut compactions = 0;
    while !writing.iter().all(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        watching.begin(&site, site.events.load(Ordering::Relaxed) * 100 / wanted);
        compactions += u64::from(watching.raise_floor(&site).await);
    }
    let mut retries = 0;
    for client in writing {
        retries += client.await.unwrap().retries;
    }
    let last = site.journal.complete();
    let floor = watching.floor;
    let wrong = watching.finish(last).await;
    site.stop.store(true, Ordering::Relaxed);
    let (kills, restarts) = (killing.join().unwrap(), restarting.join().unwrap());
    eprintln!(
        "{} events in {last} commits, {kills} readers replaced, {restarts} restarts of the writer, {retries} retries, {compactions} compactions up to commit {floor}, {} violations",
        site.events.load(Ordering::Relaxed),
        wrong.len(),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        kills > 0 && restarts > 0 && compactions > 0,
        "no reader, writer or floor changed during the run"
    );
}
