//! The guarantees of WatchDrift while readers are killed and replaced every second, the writer restarts, and snapshots
//! and compactions run: every message to watchers of all kinds is checked against the acknowledged writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::checker::{Checker, Start, Violation};
use crate::harness::condition::{Condition, Random};
use crate::harness::filter::Filter;
use crate::harness::history::TableOwner;
use crate::harness::lane::by_lane;
use crate::harness::watcher::{Journal, Watcher};
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const WRITER: [&str; 4] = ["--snapshot-events", "700", "--segment-bytes", "262144"];
const READER: [&str; 2] = ["--cache", "2097152"];
/// The tables of each writing client, and whether their keys are INT.
const TABLES: [[(&str, bool); 2]; 2] = [[("a", false), ("b", true)], [("c", false), ("wide", false)]];
const KEYS: usize = 150;
/// The rows of these tables come in many messages.
const LARGE: (&str, usize) = ("large", 400);
/// Tables that are dropped and created again.
const PASSING: [&str; 3] = ["brief", "passing", "late"];

fn events_wanted() -> u64 {
    by_lane(100_000, 5_000_000)
}

/// About how many events to write per second, so that a fast machine has as many kills during the run.
const EVENTS_PER_SECOND: u64 = 4_000;

/// The pause after each message with rows.
const ROWS_PAUSE: Duration = Duration::from_millis(400);

/// The seed of the history.
fn seed() -> u64 {
    std::env::var("DRIFTDB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(77)
}

/// A client that writes. It retries every request whose answer is lost.
struct Client {
    number: usize,
    url: Arc<Mutex<String>>,
    writer: Option<Writer>,
    tables: TableOwner,
    random: Random,
    journal: Arc<Journal>,
    events: Arc<AtomicU64>,
    calls: u64,
    retries: u64,
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

impl Client {
    /// Commits the pending operations. Retries with the same request id until the outcome is known.
    async fn commit(&mut self, call: Call) {
        self.calls += 1;
        let reason =
            if self.calls.is_multiple_of(5) { format!("because {}", self.calls) } else { String::new() };
        let request_id = format!("{}-{}", self.number, self.calls);
        let options = v1::CommitOptions { reason: reason.clone(), request_id, commit_time: None };
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

    async fn run(mut self, wanted: u64) -> Client {
        let began = Instant::now();
        while self.events.load(Ordering::Relaxed) < wanted {
            self.step().await;
            let due = Duration::from_millis(self.events.load(Ordering::Relaxed) * 1000 / EVENTS_PER_SECOND);
            tokio::time::sleep(due.saturating_sub(began.elapsed())).await;
        }
        self
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

fn reason_of(status: &Status) -> String {
    reason(status)
}

fn row_of(table: &str, salt: usize) -> Value {
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

/// A watcher, and when it starts: after this percentage of the events.
fn watchers() -> Vec<(u64, Kind, Filter)> {
    let n_is_low = Condition::Compare("n", "<", 200.into());
    let low_or_s1 = Condition::Or(vec![n_is_low.clone(), Condition::Compare("s", "=", "s1".into())]);
    let keys =
        |range: std::ops::Range<usize>| range.map(|n| format!("k{n:03}")).chain(["7".into()]).collect();
    let all = Filter::default();
    vec![
        (0, Kind::Now, Filter { before: true, after: true, ..all.clone() }),
        (0, Kind::Oldest, all.clone()),
        (
            30,
            Kind::Middle,
            Filter {
                tables: vec!["a", "b"],
                condition: Some(n_is_low),
                before: true,
                after: true,
                ..all.clone()
            },
        ),
        (40, Kind::Time, Filter { keys: keys(10..30), after: true, msgpack: true, ..all.clone() }),
        (10, Kind::Rows, Filter { tables: vec!["c", "large"], after: true, ..all.clone() }),
        (50, Kind::Rows, Filter { condition: Some(low_or_s1), before: true, ..all.clone() }),
        (
            0,
            Kind::Oldest,
            Filter {
                tables: vec!["b", "wide", "a"],
                prefix: "k0",
                condition: Some(Condition::IsMissing("n", false)),
                before: true,
                ..all.clone()
            },
        ),
        (20, Kind::Slow, Filter { before: true, after: true, msgpack: true, ..all }),
    ]
}

/// Where a watcher starts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Now,
    Oldest,
    Middle,
    Time,
    Rows,
    /// After a commit, and slow.
    Slow,
}

/// The database and the daemons on it.
struct Site {
    dir: PathBuf,
    journal: Arc<Journal>,
    writer_url: Arc<Mutex<String>>,
    reader_urls: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

/// Every second, kills a reader and starts another in its place.
fn replace_readers(site: &Site, mut readers: Vec<Daemon>) -> std::thread::JoinHandle<u64> {
    let (dir, urls, stop) = (site.dir.clone(), site.reader_urls.clone(), site.stop.clone());
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let mut kills = 0;
        while !stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_secs(1));
            let turn = usize::try_from(kills).unwrap() % readers.len();
            // Sometimes uses SIGTERM, so that the reader can end its streams.
            if kills % 7 == 6 {
                assert!(runtime.block_on(readers[turn].terminate()).success());
            } else {
                readers[turn].kill();
            }
            readers[turn] = Daemon::start("driftdb-reader", &dir, &READER);
            urls.lock().unwrap()[turn] = readers[turn].url.clone();
            kills += 1;
        }
        kills
    })
}

/// Every few seconds, restarts the writer with SIGKILL or SIGTERM.
fn restart_writer(site: &Site, mut writer: Daemon) -> std::thread::JoinHandle<u64> {
    let (dir, url, stop) = (site.dir.clone(), site.writer_url.clone(), site.stop.clone());
    let runtime = tokio::runtime::Handle::current();
    std::thread::spawn(move || {
        let mut restarts = 0;
        loop {
            for _ in 0..35 {
                std::thread::sleep(Duration::from_millis(100));
                if stop.load(Ordering::Relaxed) {
                    return restarts;
                }
            }
            if restarts % 3 == 2 {
                assert!(runtime.block_on(writer.terminate()).success());
            } else {
                writer.kill();
            }
            writer = Daemon::start("driftdb-writer", &dir, &WRITER);
            *url.lock().unwrap() = writer.url.clone();
            restarts += 1;
        }
    })
}

/// Raises every table's floor to a commit. Returns whether any floor rose.
async fn compact(url: &str, seq: u64) -> bool {
    let Ok(channel) = Endpoint::from_shared(url.to_owned()).unwrap().connect().await else { return false };
    let mut writer = Writer::new(channel);
    let mut raised = false;
    for (table, _) in TABLES.into_iter().flatten() {
        let request = v1::CompactRequest { table: table.into(), before: at_seq(seq), dry_run: false };
        // The writer may be restarting, or the floor may already be there.
        let Ok(answer) = writer.compact(request).await else { continue };
        let mut answers = answer.into_inner();
        while let Ok(Some(message)) = answers.message().await {
            raised |= matches!(message.event, Some(v1::compact_response::Event::Compaction(info)) if info.events_folded > 0);
        }
    }
    raised
}

type Following = JoinHandle<Result<Watcher, Violation>>;

/// The watchers that have started, and those that will.
struct Watching {
    to_come: Vec<(u64, Kind, Filter)>,
    begun: Vec<(Kind, Arc<AtomicU64>, Following)>,
    floor: u64,
    end: watch::Sender<u64>,
}

impl Watching {
    fn begin(&mut self, site: &Site, percent: u64) {
        while let Some(at) = self.to_come.iter().position(|(when, ..)| *when <= percent) {
            let (_, kind, filter) = self.to_come.remove(at);
            let complete = site.journal.complete();
            // After a commit that is above the floor.
            let middle = (self.floor + complete) / 2;
            let start = match kind {
                Kind::Now => Start::Now,
                Kind::Oldest => Start::AfterSeq(0),
                Kind::Middle | Kind::Slow => Start::AfterSeq(middle),
                Kind::Time => {
                    let time = site.journal.read(|history| history.commit(middle).unwrap().time_ms);
                    Start::AfterTimeMs(time)
                }
                Kind::Rows => Start::InitialRows,
            };
            let mut watcher = Watcher::new(Checker::new(filter, start));
            watcher.pause = match kind {
                Kind::Slow => Some((50, Duration::from_millis(40))),
                // Slow enough that a reader is killed while the rows arrive.
                Kind::Rows => Some((1, ROWS_PAUSE)),
                _ => None,
            };
            // The floor must not rise above the commit at which it starts.
            let first = if matches!(kind, Kind::Middle | Kind::Slow | Kind::Time) { middle } else { 0 };
            watcher.position.store(first, Ordering::Relaxed);
            let position = watcher.position.clone();
            let following =
                watcher.follow(site.reader_urls.clone(), site.journal.clone(), self.end.subscribe());
            self.begun.push((kind, position, tokio::spawn(following)));
        }
    }

    /// The commit up to which every watcher has received everything.
    fn slowest(&self) -> u64 {
        self.begun.iter().map(|(_, position, _)| position.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    /// Waits for every watcher. Returns the violations.
    async fn finish(self) -> Vec<String> {
        let mut wrong = Vec::new();
        for (kind, position, following) in self.begun {
            match tokio::time::timeout(Duration::from_secs(120), following).await {
                Ok(Ok(Ok(Watcher { streams, streams_in_rows, checker, .. }))) => {
                    eprintln!("{kind:?}: {streams} streams, {streams_in_rows} in rows, {:?}", checker.counts);
                }
                Ok(ended) => wrong.push(format!("{kind:?}: {ended:?}")),
                Err(_) => wrong.push(format!("{kind:?} does not reach the end: it is at {position:?}")),
            }
        }
        wrong
    }
}

async fn open(dir: &Path) -> (Site, Daemon, Vec<Daemon>) {
    let writer = Daemon::start("driftdb-writer", dir, &WRITER);
    let readers: Vec<Daemon> = (0..2).map(|_| Daemon::start("driftdb-reader", dir, &READER)).collect();
    let site = Site {
        dir: dir.to_owned(),
        journal: Journal::new(),
        writer_url: Arc::new(Mutex::new(writer.url.clone())),
        reader_urls: Arc::new(Mutex::new(readers.iter().map(|reader| reader.url.clone()).collect())),
        stop: Arc::default(),
    };
    (site, writer, readers)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn every_watcher_gets_what_the_guarantees_promise() {
    let dir = tempfile::tempdir().unwrap();
    let (site, writer, readers) = open(dir.path()).await;
    let events = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for number in 0..TABLES.len() {
        let (url, journal, events) = (site.writer_url.clone(), site.journal.clone(), events.clone());
        let (tables, random) = (TableOwner::default(), Random(seed() + number as u64));
        let mut client =
            Client { number, url, writer: None, tables, random, journal, events, calls: 0, retries: 0 };
        client.create_tables().await;
        clients.push(client);
    }
    let mut watching =
        Watching { to_come: watchers(), begun: Vec::new(), floor: 0, end: watch::Sender::new(u64::MAX) };
    watching.begin(&site, 0);
    let wanted = events_wanted();
    let writing: Vec<_> = clients.into_iter().map(|client| tokio::spawn(client.run(wanted))).collect();
    let killing = replace_readers(&site, readers);
    let restarting = restart_writer(&site, writer);
    let mut compactions = 0;
    while !writing.iter().all(JoinHandle::is_finished) {
        tokio::time::sleep(Duration::from_millis(500)).await;
        watching.begin(&site, events.load(Ordering::Relaxed) * 100 / wanted);
        let slowest = watching.slowest();
        if slowest > watching.floor + 50 {
            let url = site.writer_url.lock().unwrap().clone();
            compactions += u64::from(compact(&url, slowest).await);
            watching.floor = slowest;
        }
    }
    let mut retries = 0;
    for client in writing {
        retries += client.await.unwrap().retries;
    }
    assert!(watching.to_come.is_empty(), "a watcher never started");
    let last = site.journal.complete();
    watching.end.send_replace(last);
    let floor = watching.floor;
    let wrong = watching.finish().await;
    site.stop.store(true, Ordering::Relaxed);
    let (kills, restarts) = (killing.join().unwrap(), restarting.join().unwrap());
    eprintln!(
        "{} events in {last} commits, {kills} readers replaced, {restarts} restarts of the writer, {retries} retries, {compactions} compactions up to commit {floor}, {} violations",
        events.load(Ordering::Relaxed),
        wrong.len(),
    );
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(
        kills > 0 && restarts > 0 && compactions > 0,
        "no reader, writer or floor changed during the run"
    );
}
