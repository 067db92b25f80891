//! kill -9 of the writer under load: no acknowledged commit is lost, no seq is skipped, every commit is whole.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::lane::by_lane;
use crate::harness::*;
use driftdb::v1;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::head;
use driftdb_common::storage::layout::DataDir;
use tokio::sync::Mutex;

const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];
const CLIENTS: u64 = 16;

fn kills() -> usize {
    by_lane(50, 5000)
}

/// The rows that a client writes in one commit: this key in each of these tables.
#[derive(Debug, Clone)]
struct Asked {
    key: String,
    tables: Vec<&'static str>,
}

/// What the clients sent, and what the writer acknowledged.
#[derive(Debug, Default)]
struct Journal {
    acknowledged: BTreeMap<u64, Asked>,
    unknown: Vec<Asked>,
}

/// Writes until told to stop. No two writes have the same key.
async fn client(
    number: u64,
    url: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    journal: Arc<Mutex<Journal>>,
    acks: Arc<AtomicU64>,
) {
    let mut writes = 0u64;
    while !stop.load(Ordering::Relaxed) {
        let address = url.lock().await.clone();
        let Ok(channel) = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let mut writer = Writer::new(channel);
        while !stop.load(Ordering::Relaxed) {
            writes += 1;
            let count = 1 + usize::try_from((number + writes) % 3).unwrap();
            let tables: Vec<&str> =
                (0..count).map(|i| TABLES[(usize::try_from(number).unwrap() + i) % 4]).collect();
            let asked = Asked { key: format!("c{number}-{writes}"), tables };
            let row = format!(r#"{{"id":"{}","pad":"{}"}}"#, asked.key, "x".repeat(100));
            let operations = asked.tables.iter().map(|table| insert(table, row.clone())).collect();
            match apply(&mut writer, operations).await {
                Ok(token) => {
                    acks.fetch_add(1, Ordering::Relaxed);
                    let before = journal.lock().await.acknowledged.insert(token.seq, asked);
                    assert!(before.is_none(), "seq {} was acknowledged twice", token.seq);
                }
                Err(_) => {
                    journal.lock().await.unknown.push(asked);
                    break;
                }
            }
        }
    }
}

/// Every commit that the reader shows: its rows as (table, key).
async fn commits(reader: &mut Reader) -> BTreeMap<u64, Vec<(String, String)>> {
    let mut found: BTreeMap<u64, Vec<(String, String)>> = BTreeMap::new();
    for table in TABLES {
        let request = v1::HistoryRequest { table: table.into(), ..Default::default() };
        let mut stream = reader.history(request).await.unwrap().into_inner();
        while let Some(message) = stream.message().await.unwrap() {
            for commit in message.commits {
                let rows = commit.changes.into_iter().map(|change| (change.table, change.key));
                found.entry(commit.seq).or_default().extend(rows);
            }
        }
    }
    found
}

fn rows_of(asked: &Asked) -> Vec<(String, String)> {
    let mut rows: Vec<_> =
        asked.tables.iter().map(|table| ((*table).to_owned(), asked.key.clone())).collect();
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_writer_loses_no_acknowledged_commit() {
    let mut cluster = Cluster::start().await;
    for table in TABLES {
        cluster.create(table).await;
    }
    let url = Arc::new(Mutex::new(cluster.writer_daemon.url.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let journal = Arc::new(Mutex::new(Journal::default()));
    let acks = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(client(number, url.clone(), stop.clone(), journal.clone(), acks.clone())))
        .collect();
    let dir = DataDir::new(cluster.dir.path());
    for kill in 0..kills() {
        // Kills after a varying number of acknowledgements, to hit another moment each time.
        let goal = acks.load(Ordering::Relaxed) + 20 + (kill as u64 * 37) % 200;
        while acks.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        cluster.writer_daemon.kill();
        let published = head::read(&OsFileSystem, &dir).unwrap().unwrap().last_seq();
        cluster.writer_daemon =
            Daemon::start("driftdb-writer", cluster.dir.path(), &["--segment-bytes", "65536"]);
        let mut writer = cluster.writer_daemon.as_writer().await;
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        assert!(status.last_seq >= published, "HEAD said {published}, and {} were kept", status.last_seq);
        *url.lock().await = cluster.writer_daemon.url.clone();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    check(&mut cluster, &*journal.lock().await).await;
}

async fn check(cluster: &mut Cluster, journal: &Journal) {
    let mut writer = cluster.writer_daemon.as_writer().await;
    let last = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq;
    let fresh = Daemon::reader(cluster.dir.path());
    let mut fresh = fresh.as_reader().await;
    let seen = commits(&mut fresh).await;
    let followed = {
        let freshness = Some(v1::Freshness { min_seq: last, ..Default::default() });
        let request = v1::ListTablesRequest { freshness, ..Default::default() };
        cluster.reader.list_tables(request).await.unwrap();
        commits(&mut cluster.reader).await
    };
    assert!(seen == followed, "a new reader and one that followed from the start differ");
    let numbers: Vec<u64> = seen.keys().copied().collect();
    assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "a seq was skipped");
    let mut unknown: HashMap<&str, &Asked> =
        journal.unknown.iter().map(|asked| (asked.key.as_str(), asked)).collect();
    for (seq, rows) in seen.iter().filter(|(seq, _)| **seq > TABLES.len() as u64) {
        let mut rows = rows.clone();
        rows.sort();
        let asked = match journal.acknowledged.get(seq) {
            Some(asked) => asked,
            None => unknown
                .remove(rows[0].1.as_str())
                .unwrap_or_else(|| panic!("no client wrote commit {seq}: {rows:?}")),
        };
        assert_eq!(rows, rows_of(asked), "commit {seq}");
    }
    let lost: Vec<_> = journal.acknowledged.keys().filter(|seq| !seen.contains_key(seq)).collect();
    assert!(lost.is_empty(), "acknowledged commits were lost: {lost:?}");
    eprintln!(
        "{} acknowledged, {} unknown, {last} commits",
        journal.acknowledged.len(),
        journal.unknown.len()
    );
}
