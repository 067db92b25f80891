//! Clients that write as fast as they can and keep a journal, and the comparison of the journal with the database.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use driftdb::v1;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::*;

/// The tables that the clients write.
pub const TABLES: [&str; 4] = ["t0", "t1", "t2", "t3"];
const CLIENTS: u64 = 16;

/// The rows that a client writes in one commit: this key in each of these tables.
#[derive(Debug, Clone)]
struct Asked {
    key: String,
    tables: Vec<&'static str>,
}

impl Asked {
    /// The rows as (table, key), sorted.
    fn rows(&self) -> Vec<(String, String)> {
        let mut rows: Vec<_> =
            self.tables.iter().map(|table| ((*table).to_owned(), self.key.clone())).collect();
        rows.sort();
        rows
    }
}

/// What the clients sent, and what the writer acknowledged.
#[derive(Debug, Default)]
pub struct Journal {
    acknowledged: BTreeMap<u64, Asked>,
    unknown: Vec<Asked>,
}

/// Running clients.
#[derive(Debug)]
pub struct JournaledWrites {
    url: Arc<Mutex<String>>,
    stop: Arc<AtomicBool>,
    journal: Arc<Mutex<Journal>>,
    acks: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl JournaledWrites {
    /// Starts the clients of a writer that has the tables.
    pub fn start(url: &str) -> JournaledWrites {
        let mut writes = JournaledWrites {
            url: Arc::new(Mutex::new(url.to_owned())),
            stop: Arc::default(),
            journal: Arc::default(),
            acks: Arc::default(),
            clients: Vec::new(),
        };
        writes.clients = (0..CLIENTS)
            .map(|number| {
                let (url, stop) = (writes.url.clone(), writes.stop.clone());
                tokio::spawn(client(number, url, stop, writes.journal.clone(), writes.acks.clone()))
            })
            .collect();
        writes
    }

    /// Waits for this number of further acknowledgements.
    pub async fn wait_for_acks(&self, number: u64) {
        let goal = self.acks.load(Ordering::Relaxed) + number;
        while self.acks.load(Ordering::Relaxed) < goal {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
    }

    /// Sends the clients to another writer.
    pub async fn go_to(&self, url: &str) {
        url.clone_into(&mut *self.url.lock().await);
    }

    /// Ends the clients.
    pub async fn finish(self) -> Journal {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        std::mem::take(&mut *self.journal.lock().await)
    }
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

/// Every commit that a reader shows: its rows as (table, key).
pub async fn commits(reader: &mut Reader) -> BTreeMap<u64, Vec<(String, String)>> {
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

impl Journal {
    /// Checks that a new reader of the directory shows every acknowledged commit as it was asked for, that it shows no
    /// other commit than those and some of unknown outcome, and that no seq is missing up to `last`. Returns the commits.
    pub async fn check(&self, dir: &Path, last: u64) -> BTreeMap<u64, Vec<(String, String)>> {
        let daemon = Daemon::reader(dir);
        let seen = commits(&mut daemon.as_reader().await).await;
        let numbers: Vec<u64> = seen.keys().copied().collect();
        assert_eq!(numbers, (1..=last).collect::<Vec<_>>(), "a seq was skipped");
        let mut unknown: HashMap<&str, &Asked> =
            self.unknown.iter().map(|asked| (asked.key.as_str(), asked)).collect();
        for (seq, rows) in seen.iter().filter(|(seq, _)| **seq > TABLES.len() as u64) {
            let mut rows = rows.clone();
            rows.sort();
            let asked = match self.acknowledged.get(seq) {
                Some(asked) => asked,
                None => unknown
                    .remove(rows[0].1.as_str())
                    .unwrap_or_else(|| panic!("no client wrote commit {seq}: {rows:?}")),
            };
            assert_eq!(rows, asked.rows(), "commit {seq}");
        }
        let lost: Vec<_> = self.acknowledged.keys().filter(|seq| !seen.contains_key(seq)).collect();
        assert!(lost.is_empty(), "acknowledged commits were lost: {lost:?}");
        eprintln!("{} acknowledged, {} unknown, {last} commits", self.acknowledged.len(), self.unknown.len());
        seen
    }
}
