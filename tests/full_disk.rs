//! A full disk refuses writes and ends nothing: the writer goes on, closes, opens and compacts, and says what is wrong.
//!
//! These tests fill a file system of their own, which only root can mount. Otherwise they are skipped.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::harness::calls::{compact, snapshot};
use crate::harness::refusal::refused;
use crate::harness::scrape::{Scrape, ScrapedDaemon, get};
use crate::harness::small_disk::SmallDisk;
use crate::harness::*;
use driftdb::v1;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// Only keeps a failing test from hanging.
const LONG: Duration = Duration::from_secs(60);
const RESERVE: u64 = 2 << 20;

fn start(data: &Path) -> Daemon {
    Daemon::start("driftdb-writer", data, &["--segment-bytes", "65536"])
}

async fn status(daemon: &Daemon) -> v1::WriterServiceStatusResponse {
    let request = v1::WriterServiceStatusRequest {};
    daemon.as_writer().await.status(request).await.unwrap().into_inner()
}

async fn health(daemon: &Daemon) -> ServingStatus {
    let request = HealthCheckRequest { service: "driftdb.v1.WriterService".into() };
    HealthClient::new(connect(&daemon.url).await).check(request).await.unwrap().into_inner().status()
}

/// Waits until a writer's Status meets a condition.
async fn wait_for(daemon: &Daemon, what: &str, is_met: impl Fn(&v1::WriterServiceStatusResponse) -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_met(&status(daemon).await) {
        assert!(Instant::now() < deadline, "never {what}: {:?}", status(daemon).await.disk);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_for_reserve(daemon: &Daemon) {
    wait_for(daemon, "a reserve", |status| status.disk.as_ref().unwrap().reserve_bytes == RESERVE).await;
}

async fn wait_for_health(daemon: &Daemon, wanted: ServingStatus) {
    let deadline = Instant::now() + LONG;
    while health(daemon).await != wanted {
        assert!(Instant::now() < deadline, "never {wanted:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts a writer on the disk, with the table `t`, a reserve, and then no room.
async fn full(disk: &SmallDisk) -> (Daemon, Writer) {
    let daemon = start(&disk.data());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    wait_for_reserve(&daemon).await;
    disk.fill();
    (daemon, writer)
}

fn row(i: u64) -> Vec<v1::Operation> {
    vec![put("t", format!(r#"{{"id":"k{i}","pad":"{}"}}"#, "x".repeat(1000)))]
}

fn request(id: &str) -> v1::ApplyRequest {
    let options = Some(v1::CommitOptions { request_id: id.into(), ..Default::default() });
    v1::ApplyRequest { operations: row(0), options, ..Default::default() }
}

/// Writes rows until one is refused. Returns how many were written.
async fn write_until_refused(writer: &mut Writer, from: u64) -> u64 {
    let mut written = from;
    loop {
        match apply(writer, row(written)).await {
            Ok(_) => written += 1,
            outcome => {
                refused(outcome, Code::Unavailable, "DISK_FULL");
                return written;
            }
        }
    }
}

async fn rows(data: &Path) -> usize {
    let reader = Daemon::reader(data);
    select(&mut reader.as_reader().await, v1::SelectRequest { table: "t".into(), ..Default::default() })
        .await
        .unwrap()
        .len()
}

#[tokio::test]
async fn what_needs_room_is_refused_until_there_is_room() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let (daemon, mut writer) = full(&disk).await;
    let before = disk.files();
    refused(create_table(&mut writer, "u").await, Code::Unavailable, "DISK_FULL")
        .says(&["cannot create table \"u\"", "No space left"]);
    // Only the reserve is left, which no write takes.
    assert_eq!(disk.files(), before, "a refused table leaves nothing behind");
    let written = write_until_refused(&mut writer, 0).await;
    wait_for_health(&daemon, ServingStatus::NotServing).await;
    let refused_request = request("r1");
    refused(writer.apply(refused_request.clone()).await, Code::Unavailable, "DISK_FULL");
    let told = status(&daemon).await.disk.unwrap();
    assert!(told.full_since.is_some() && told.message.contains("No space left"), "{told:?}");
    assert_eq!(told.reserve_bytes, RESERVE);
    disk.free();
    wait_for_health(&daemon, ServingStatus::Serving).await;
    wait_for(&daemon, "room", |status| status.disk.as_ref().unwrap().full_since.is_none()).await;
    create_table(&mut writer, "u").await.unwrap();
    // The refused request was taken back as if it had never come, and counts once now.
    let first = writer.apply(refused_request.clone()).await.unwrap().into_inner();
    let second = writer.apply(refused_request).await.unwrap().into_inner();
    assert_eq!((first.replayed, second.replayed, first.token), (false, true, second.token));
    // Across rotations.
    for i in written..written + 200 {
        apply(&mut writer, row(i)).await.unwrap();
    }
    assert_eq!(rows(&disk.data()).await as u64, written + 200);
}

#[tokio::test]
async fn a_writer_closes_and_opens_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let (mut daemon, mut writer) = full(&disk).await;
    let written = write_until_refused(&mut writer, 0).await;
    drop(writer);
    assert_eq!(daemon.terminate().await.code(), Some(0));
    disk.fill();
    // After a clean close, and after a kill: then recovery rotates the segments in doubt.
    for _ in 0..2 {
        let mut daemon = start(&disk.data());
        wait_for(&daemon, "opened", |status| !status.tables.is_empty()).await;
        assert_eq!(status(&daemon).await.last_seq, written + 1);
        daemon.kill();
        disk.fill();
    }
    disk.free();
    let daemon = start(&disk.data());
    wait_for_reserve(&daemon).await;
    apply(&mut daemon.as_writer().await, row(written)).await.unwrap();
    assert_eq!(rows(&disk.data()).await as u64, written + 1);
}

#[tokio::test]
async fn without_a_reserve_the_writer_answers_status_and_waits_for_room() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let (mut daemon, mut writer) = full(&disk).await;
    let written = write_until_refused(&mut writer, 0).await;
    drop(writer);
    daemon.kill();
    disk.remove("RESERVE");
    disk.fill();
    let daemon = start(&disk.data());
    let told = status(&daemon).await;
    assert_eq!(told.last_seq, written + 1);
    assert!(told.disk.unwrap().full_since.is_some());
    let mut writer = daemon.as_writer().await;
    refused(apply(&mut writer, row(written)).await, Code::Unavailable, "DISK_FULL").says(&["free space"]);
    assert_eq!(health(&daemon).await, ServingStatus::NotServing);
    // Readers need no writer.
    assert_eq!(rows(&disk.data()).await as u64, written);
    disk.free();
    wait_for(&daemon, "writable", |status| !status.tables.is_empty()).await;
    apply(&mut daemon.as_writer().await, row(written)).await.unwrap();
    assert_eq!(health(&daemon).await, ServingStatus::Serving);
}

/// A Service of Kubernetes leads to the writer that refuses writes, and the alert sees a full disk also while the writer waits for room.
#[tokio::test]
async fn probes_and_metrics_know_a_writer_on_a_full_disk() {
    let Some(disk) = SmallDisk::mount(8 << 20) else { return };
    let mut writer = ScrapedDaemon::start("driftdb-writer", &disk.data(), &["--segment-bytes", "65536"]);
    let mut client = writer.daemon.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    wait_for_reserve(&writer.daemon).await;
    disk.fill();
    write_until_refused(&mut client, 0).await;
    let full = |scrape: &Scrape| scrape.find("driftdb_disk_full", &[]) == Some(1.0);
    writer.scrape_until("the full disk", full).await;
    writer.scrape_until("not ready", |scrape| scrape.value("driftdb_ready", &[]) == 0.0).await;
    let code = async |writer: &ScrapedDaemon, path: &str| get(&writer.metrics, path, "*/*").await.code;
    let codes = (code(&writer, "/activez").await, code(&writer, "/readyz").await);
    assert_eq!((codes, code(&writer, "/healthz").await), ((200, 503), 200));
    // Without the reserve, the next one waits for room.
    writer.daemon.kill();
    disk.remove("RESERVE");
    disk.fill();
    let writer = ScrapedDaemon::start("driftdb-writer", &disk.data(), &["--segment-bytes", "65536"]);
    let waits = |scrape: &Scrape| full(scrape) && scrape.value("driftdb_standby", &[]) == 1.0;
    writer.scrape_until("the wait for room", waits).await;
    assert_eq!((code(&writer, "/activez").await, code(&writer, "/healthz").await), (503, 200));
}

#[tokio::test]
async fn compact_frees_a_full_disk_with_the_reserve() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let daemon = start(&disk.data());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    wait_for_reserve(&daemon).await;
    // Many versions of few rows: the state is small.
    for i in 0..1500 {
        apply(&mut writer, row(i % 20)).await.unwrap();
    }
    disk.fill();
    let bytes = status(&daemon).await.tables[0].bytes_on_disk;
    compact(&mut writer, "t", None, false).await.unwrap();
    assert!(status(&daemon).await.tables[0].bytes_on_disk < bytes / 4);
    // Its space becomes the reserve again, and the room of writes.
    wait_for_reserve(&daemon).await;
    apply(&mut writer, row(0)).await.unwrap();
    assert_eq!(rows(&disk.data()).await, 20);
}

#[tokio::test]
async fn a_job_that_finds_no_room_leaves_no_file_behind() {
    let Some(disk) = SmallDisk::mount(16 << 20) else { return };
    let (_daemon, mut writer) = full(&disk).await;
    disk.free();
    // Rows that do not compress: their snapshot needs more than the reserve.
    for i in 0..300_u64 {
        let mut random = condition::Random(i);
        let pad: String = (0..1280).map(|_| format!("{:016x}", random.next())).collect();
        apply(&mut writer, vec![put("t", format!(r#"{{"id":"k{i}","pad":"{pad}"}}"#))]).await.unwrap();
    }
    disk.fill();
    let before: Vec<String> = disk.files().into_iter().filter(|name| name != "RESERVE").collect();
    let outcome = snapshot(&mut writer, "t").await;
    refused(outcome, Code::Unavailable, "DISK_FULL");
    let after: Vec<String> = disk.files().into_iter().filter(|name| name != "RESERVE").collect();
    assert_eq!(after, before);
}
