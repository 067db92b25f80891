//! Everything at once: writes, watches, reads now and AS OF, compactions, hostile clients, and restarts of every daemon.
//! At the end the oracle is content, and memory, descriptors and disk have not grown.

#![expect(clippy::disallowed_methods, reason = "reads what the system says of processes and files")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::oracle::client::{OracleClient, TABLES};
use crate::harness::oracle::site::{self, Site, replace_readers, restart_writer};
use crate::harness::oracle::watchers::Watching;
use crate::harness::*;
use driftdb::v1;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;

/// How long it goes on.
fn duration() -> Duration {
    by_lane(Duration::from_secs(40), Duration::from_secs(1200))
}

const EVENTS_PER_SECOND: u64 = 1_000;

/// How much of the duration has passed.
fn percent_of(elapsed: Duration) -> u64 {
    u64::try_from(elapsed.as_millis() * 100 / duration().as_millis()).unwrap_or(100).min(100)
}

/// What the daemons hold at one time.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    rss_kib: u64,
    descriptors: u64,
    disk_kib: u64,
}

impl Sample {
    fn max(self, other: Sample) -> Sample {
        Sample {
            rss_kib: self.rss_kib.max(other.rss_kib),
            descriptors: self.descriptors.max(other.descriptors),
            disk_kib: self.disk_kib.max(other.disk_kib),
        }
    }

    /// Of all daemons together.
    fn take(site: &Site) -> Sample {
        let pids = site.pids.lock().unwrap().clone();
        let rss = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0)
        };
        let descriptors =
            |pid: &u32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, |all| all.count() as u64);
        Sample {
            rss_kib: pids.iter().map(rss).sum(),
            descriptors: pids.iter().map(descriptors).sum(),
            disk_kib: disk_kib(&site.dir),
        }
    }
}

/// The size of all files under a directory. Files may be deleted meanwhile.
fn disk_kib(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_kib(&entry.path()),
        Ok(metadata) => metadata.len() / 1024,
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn any_reader(site: &Site, random: &mut Random) -> String {
    let urls = site.reader_urls.lock().unwrap();
    urls[random.below(urls.len())].clone()
}

/// Reads random tables at random commits, and compares them with the journal. Returns how many it compared.
async fn compare_past(site: Arc<Site>) -> u64 {
    let (mut random, mut compared) = (Random(5), 0);
    while !site.stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let url = any_reader(&site, &mut random);
        let Ok(channel) = Endpoint::from_shared(url).unwrap().connect().await else { continue };
        let mut reader = Reader::new(channel).max_decoding_message_size(usize::MAX);
        let complete = usize::try_from(site.journal.complete()).unwrap();
        let seq = (complete - random.below(complete.min(200))) as u64;
        let (table, _) = TABLES[random.below(2)][random.below(2)];
        // Refused below the floor, before the reader has the commit, or because the reader is being replaced.
        let Ok(found) = select_at(&mut reader, table, seq).await else { continue };
        let expected: std::collections::BTreeMap<String, Value> = site.journal.read(|history| {
            let rows = history.rows(seq).into_iter();
            rows.filter(|((of, _), _)| **of == *table)
                .map(|((_, key), (_, version))| (key, (*version.document).clone()))
                .collect()
        });
        let found =
            found.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
        assert!(expected == found, "{table} at {seq}: the reader shows other rows than were written");
        compared += 1;
    }
    compared
}

/// Asks for too much, leaves before the answer, and reads nothing of what it gets.
async fn ask_too_much(site: Arc<Site>) {
    let mut random = Random(6);
    let hostile = [
        format!("SELECT COUNT(*) FROM wide WHERE pad LIKE '%{}z'", "wide%".repeat(700)),
        format!("SELECT * FROM wide WHERE {}", vec!["pad = 'x'"; 2000].join(" OR ")),
        format!(
            "SELECT * FROM a WHERE n IN ({})",
            (0..5000).map(|n| n.to_string()).collect::<Vec<_>>().join(",")
        ),
        "SELECT * FROM wide WHERE pad LIKE '%e%w%d%i%e%w%q'".to_owned(),
    ];
    while !site.stop.load(Ordering::Relaxed) {
        let url = any_reader(&site, &mut random);
        let endpoint = Endpoint::from_shared(url).unwrap().initial_stream_window_size(1 << 10);
        let Ok(channel) = endpoint.connect().await else { continue };
        let mut unread = Vec::new();
        for turn in 0..20 {
            let mut reader = Reader::new(channel.clone());
            let statement = hostile[random.below(hostile.len())].clone();
            let request = v1::ReaderServiceExecuteRequest { statement, ..Default::default() };
            let leave_after = Duration::from_millis(random.below(100) as u64);
            let _ = tokio::time::timeout(leave_after, reader.execute(request)).await;
            if turn % 2 == 0 {
                let select = v1::SelectRequest { table: "large".into(), ..Default::default() };
                unread.push(tokio::time::timeout(Duration::from_secs(1), reader.select(select)).await);
            }
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

/// Opens connections and sends nothing.
async fn stay_silent(site: Arc<Site>) {
    let mut random = Random(7);
    while !site.stop.load(Ordering::Relaxed) {
        let mut urls = vec![site.writer_url.lock().unwrap().clone(), any_reader(&site, &mut random)];
        let mut silent = Vec::new();
        for url in urls.drain(..) {
            let address = url.trim_start_matches("http://").to_owned();
            for _ in 0..50 {
                silent.extend(TcpStream::connect(&address).await);
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// Ingests rows that the writer must refuse, so that the journal misses no commit.
async fn ingest_nothing(site: Arc<Site>) {
    while !site.stop.load(Ordering::Relaxed) {
        let url = site.writer_url.lock().unwrap().clone();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Ok(channel) = Endpoint::from_shared(url).unwrap().connect().await else { continue };
        let batches = (1..=50).map(|batch_id| v1::IngestRequest {
            batch_id,
            operations: (0..20).map(|n| patch("a", &format!("none{n}"), r#"{"n":1}"#)).collect(),
            ..Default::default()
        });
        if let Ok(answers) = Writer::new(channel).ingest(tokio_stream::iter(batches)).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(_)) = answers.message().await {}
        }
    }
}

/// Prints a curve as twenty numbers: the greatest of each twentieth.
fn print_curves(samples: &[Sample]) {
    let parts: Vec<Sample> = samples
        .chunks(samples.len().div_ceil(20))
        .map(|part| part.iter().copied().fold(Sample::default(), Sample::max))
        .collect();
    let curve =
        |of: fn(&Sample) -> u64| parts.iter().map(|part| of(part).to_string()).collect::<Vec<_>>().join(" ");
    eprintln!("memory of all daemons, MiB: {}", curve(|part| part.rss_kib >> 10));
    eprintln!("descriptors of all daemons: {}", curve(|part| part.descriptors));
    eprintln!("disk, MiB: {}", curve(|part| part.disk_kib >> 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn everything_at_once_changes_no_answer_and_grows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (site, writer, readers) = site::open(dir.path()).await;
    let clients = OracleClient::all(&site, 78).await;
    let mut watching = Watching::new();
    watching.begin(&site, 0);
    let writing: Vec<_> = clients
        .into_iter()
        .map(|client| tokio::spawn(client.run_for(duration(), EVENTS_PER_SECOND)))
        .collect();
    let killing = replace_readers(&site, duration() / 8, readers);
    let restarting = restart_writer(&site, duration() / 6, writer);
    let site = Arc::new(site);
    let comparing = tokio::spawn(compare_past(site.clone()));
    let disturbing = [
        tokio::spawn(ask_too_much(site.clone())),
        tokio::spawn(stay_silent(site.clone())),
        tokio::spawn(ingest_nothing(site.clone())),
    ];
    let (mut samples, began) = (Vec::new(), Instant::now());
    while !writing.iter().all(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        watching.begin(&site, percent_of(began.elapsed()));
        watching.raise_floor(&site).await;
        samples.push(Sample::take(&site));
        assert!(began.elapsed() < duration() * 3, "the clients cannot write");
    }
    for client in writing {
        client.await.unwrap();
    }
    let wrong = watching.finish(site.journal.complete()).await;
    site.stop.store(true, Ordering::Relaxed);
    let compared = comparing.await.unwrap();
    for task in disturbing {
        task.await.unwrap();
    }
    let (kills, restarts) = (killing.join().unwrap(), restarting.join().unwrap());
    eprintln!(
        "{} events, {kills} readers replaced, {restarts} restarts of the writer, {compared} past states compared",
        site.events.load(Ordering::Relaxed)
    );
    print_curves(&samples);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > 20, "only {compared} past states were compared");
    let largest = |part: &[Sample]| part.iter().copied().fold(Sample::default(), Sample::max);
    let (middle, end) =
        (largest(&samples[samples.len() / 4..samples.len() / 2]), largest(&samples[samples.len() / 2..]));
    assert!(end.rss_kib < middle.rss_kib * 3 / 2 + (64 << 10), "memory grows: {middle:?}, {end:?}");
    assert!(end.descriptors < middle.descriptors * 3 / 2 + 50, "descriptors grow: {middle:?}, {end:?}");
    assert!(end.disk_kib < middle.disk_kib * 3 / 2 + (64 << 10), "the disk fills: {middle:?}, {end:?}");
}
