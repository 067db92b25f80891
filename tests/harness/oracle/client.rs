//! Clients that write to the tables of the oracle, and journal every acknowledged commit.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use driftdb::v1;
use serde_json::{Value, json};
use tonic::transport::Endpoint;
use tonic::{Code, Status};

use super::site::Site;
use crate::harness::condition::Random;
use crate::harness::history::TableOwner;
use crate::harness::watcher::Journal;
use crate::harness::{Writer, reason as reason_of};

/// The tables of each writing client, and whether their keys are INT.
pub const TABLES: [[(&str, bool); 2]; 2] = [[("a", false), ("b", true)], [("c", false), ("wide", false)]];
const KEYS: usize = 150;
/// The rows of these tables come in many messages.
const LARGE: (&str, usize) = ("large", 400);
/// Tables that are dropped and created again.
const PASSING: [&str; 3] = ["brief", "passing", "late"];

/// A client that writes. It retries every request whose answer is lost.
pub struct OracleClient {
    number: usize,
    url: Arc<Mutex<String>>,
    writer: Option<Writer>,
    tables: TableOwner,
    random: Random,
    journal: Arc<Journal>,
    events: Arc<AtomicU64>,
    calls: u64,
    pub retries: u64,
}

/// A request to the writer.
#[derive(Clone)]
enum Call {
    Apply(Vec<v1::Operation>),
    Create(v1::CreateTableRequest),
    Alter(v1::AlterTableRequest),
    Drop(v1::DropTableRequest),
}

async fn send(
    writer: &mut Writer,
    call: Call,
    options: v1::CommitOptions,
) -> Result<Option<v1::WriteToken>, Status> {
    let options = Some(options);
    Ok(match call {
        Call::Apply(operations) => {
            writer
                .apply(v1::ApplyRequest { operations, options, ..Default::default() })
                .await?
                .into_inner()
                .token
        }
        Call::Create(request) => {
            writer.create_table(v1::CreateTableRequest { options, ..request }).await?.into_inner().token
        }
        Call::Alter(request) => {
            writer.alter_table(v1::AlterTableRequest { options, ..request }).await?.into_inner().token
        }
        Call::Drop(request) => {
            writer.drop_table(v1::DropTableRequest { options, ..request }).await?.into_inner().token
        }
    })
}

impl OracleClient {
    /// Commits the pending operations. Retries with the same request id until the outcome is known.
    async fn commit(&mut self, call: Call) {
        self.calls += 1;
        let reason =
            if self.calls.is_multiple_of(5) { format!("because {}", self.calls) } else { String::new() };
        let request_id = format!("{}-{}", self.number, self.calls);
        let options = v1::CommitOptions { reason: reason.clone(), request_id, ..Default::default() };
        let token = loop {
            let Some(writer) = &mut self.writer else {
                let url = self.url.lock().unwrap().clone();
                match Endpoint::from_shared(url).unwrap().connect().await {
                    Ok(channel) => self.writer = Some(Writer::new(channel)),
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
                continue;
            };
            match send(writer, call.clone(), options.clone()).await {
                Ok(token) => break token.unwrap(),
                Err(status) if matches!(status.code(), Code::ResourceExhausted) => {}
                Err(status) => {
                    let known = !matches!(
                        reason_of(&status).as_str(),
                        "" | "OUTCOME_UNKNOWN" | "WRITER_STOPPED" | "SHUTTING_DOWN"
                    );
                    assert!(!known, "refused: {status:?}");
                    self.writer = None;
                }
            }
            self.retries += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let commit = self.tables.acknowledged(&token, &reason);
        self.events.fetch_add(commit.changes.len() as u64, Ordering::Relaxed);
        self.journal.add(commit);
    }

    async fn create_tables(&mut self) {
        for (table, int) in TABLES[self.number] {
            let call = Call::Create(self.tables.create(table, int));
            self.commit(call).await;
        }
        if self.number == 1 {
            let call = Call::Create(self.tables.create(LARGE.0, false));
            self.commit(call).await;
            let row = |n: usize| json!({"n": n, "pad": "large ".repeat(600)});
            let rows = (0..LARGE.1).map(|n| self.tables.put(LARGE.0, &format!("k{n:03}"), row(n))).collect();
            self.commit(Call::Apply(rows)).await;
        }
    }

    /// Writes until all clients together have written so many events, at most so many per second.
    pub async fn run(self, wanted: u64, per_second: u64) -> OracleClient {
        let events = self.events.clone();
        self.run_while(per_second, || events.load(Ordering::Relaxed) < wanted).await
    }

    /// Writes for so long, at most so many events per second of all clients together.
    pub async fn run_for(self, time: Duration, per_second: u64) -> OracleClient {
        let began = Instant::now();
        self.run_while(per_second, || began.elapsed() < time).await
    }

    async fn run_while(mut self, per_second: u64, goes_on: impl Fn() -> bool) -> OracleClient {
        let began = Instant::now();
        while goes_on() {
            self.step().await;
            let due = Duration::from_millis(self.events.load(Ordering::Relaxed) * 1000 / per_second);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        self
    }

    /// Creates the clients of a site, with their tables.
    pub async fn all(site: &Site, seed: u64) -> Vec<OracleClient> {
        let mut clients = Vec::new();
        for number in 0..TABLES.len() {
            let mut client = OracleClient {
                number,
                url: site.writer_url.clone(),
                writer: None,
                tables: TableOwner::default(),
                random: Random(seed + number as u64),
                journal: site.journal.clone(),
                events: site.events.clone(),
                calls: 0,
                retries: 0,
            };
            client.create_tables().await;
            clients.push(client);
        }
        clients
    }

    async fn step(&mut self) {
        let count = match self.random.below(1000) {
            0..2 => 2000 + self.random.below(3000),
            2..60 => 20 + self.random.below(60),
            60..80 => return self.commit(Call::Apply(Vec::new())).await,
            80..100 if self.number == 1 => return self.change_tables().await,
            _ => 1 + self.random.below(6),
        };
        let operations = (0..count).map(|_| self.operation()).collect();
        self.commit(Call::Apply(operations)).await;
    }

    fn operation(&mut self) -> v1::Operation {
        let passing: Vec<&str> = PASSING.into_iter().filter(|table| self.tables.is_live(table)).collect();
        let [(first, _), (second, _)] = TABLES[self.number];
        if self.number == 1 && self.random.below(200) == 0 {
            let key = format!("k{:03}", self.random.below(LARGE.1));
            let salt = self.random.below(1000);
            return self.tables.patch(LARGE.0, &key, json!({"n": salt}));
        }
        let table = match self.random.below(20) {
            0 if !passing.is_empty() => self.random.pick(&passing),
            0..12 => first,
            _ if second == "wide" && self.random.below(10) > 0 => first,
            _ => second,
        };
        let number = self.random.below(KEYS);
        let key = match table {
            "b" => (number as i64 - 20).to_string(),
            _ => format!("k{number:03}"),
        };
        let salt = self.random.below(1000);
        if !self.tables.has(table, &key) {
            return self.tables.put(table, &key, row_of(table, salt));
        }
        match self.random.below(10) {
            0..5 => self.tables.patch(table, &key, patch_of(salt)),
            5..8 => self.tables.put(table, &key, row_of(table, salt)),
            _ => self.tables.delete(table, &key),
        }
    }

    /// Creates or drops a table, or adds an index.
    async fn change_tables(&mut self) {
        let table = self.random.pick(&PASSING);
        let call = if !self.tables.is_live(table) {
            Call::Create(self.tables.create(table, false))
        } else if self.random.below(3) == 0 {
            let path = format!("p{}", self.calls);
            Call::Alter(self.tables.index(table, &path))
        } else {
            Call::Drop(self.tables.drop_table(table))
        };
        self.commit(call).await;
    }
}

pub fn row_of(table: &str, salt: usize) -> Value {
    let mut row =
        json!({"n": salt, "s": format!("s{}", salt % 7), "in": {"x": salt % 3, "list": [salt, null]}});
    if table == "wide" {
        row["pad"] = "wide ".repeat(20 * (salt % 50)).into();
    }
    row
}

fn patch_of(salt: usize) -> Value {
    match salt % 5 {
        0 => json!({"n": salt}),
        1 => json!({"in": {"x": null, "y": salt}}),
        2 => json!({"in": null, "extra": [salt]}),
        3 => json!({"s": format!("s{}", salt % 7), "in": {"list": {"now": "an object"}}}),
        _ => json!({"n": null, "s": null}),
    }
}
