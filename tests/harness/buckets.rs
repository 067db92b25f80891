//! A bucket in a directory with backups of a growing database, and what the database answered after every commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::bucket::restore::{self, RestoreProgress, RestoreRequest, RestoredDatabase};
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Error, Reason};
use driftdb_common::storage::fs::FileSystem;
use serde_json::Value;

use super::random_writer::RandomWriter;
use super::watching::{after, watch};
use super::*;

/// Small segments and frequent snapshots.
pub const WRITER: [&str; 4] = ["--segment-bytes", "4096", "--snapshot-events", "60"];

/// A table's rows, by key, as JSON; `None` if the table does not exist.
pub type TableRows = Option<Vec<(String, String)>>;

/// What the database was after a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct NotedMoment {
    pub seq: u64,
    pub time_ms: u64,
    pub tables: BTreeMap<String, TableRows>,
}

/// A database, its bucket, and its history.
pub struct BackedUp {
    pub home: tempfile::TempDir,
    /// By seq, from commit 1 on.
    pub moments: Vec<NotedMoment>,
    /// Every commit of the history.
    pub commits: Vec<v1::Commit>,
    /// The last commit of each backup.
    pub backups: Vec<u64>,
}

/// Runs driftctl, and returns its output as it is.
pub fn driftctl(args: &[&str]) -> Output {
    let mut command = Command::new(binary("driftctl"));
    command.args(["-o", "jsonl"]).args(args).env_remove("DRIFTDB_DATA").env_remove("DRIFTDB_BUCKET");
    command.output().unwrap()
}

/// Runs driftctl, which must succeed, and returns the lines that it printed.
pub fn driftctl_lines(args: &[&str]) -> Vec<Value> {
    let output = driftctl(args);
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "driftctl {args:?}: {complaints}");
    let printed = String::from_utf8(output.stdout).unwrap();
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Waits until a reader serves.
pub async fn until_serving(daemon: &Daemon) -> Reader {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut reader = daemon.as_reader().await;
        match reader.status(v1::ReaderServiceStatusRequest {}).await {
            Ok(_) => return reader,
            Err(status) => assert!(Instant::now() < deadline, "{status:?}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn reader_status(reader: &mut Reader) -> v1::ReaderServiceStatusResponse {
    reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner()
}

/// Waits for a state of a reader. One that starts over with another history may refuse to answer for a moment.
pub async fn until_reader(
    reader: &mut Reader,
    what: &str,
    holds: impl Fn(&v1::ReaderServiceStatusResponse) -> bool,
) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let now = reader.status(v1::ReaderServiceStatusRequest {}).await.map(tonic::Response::into_inner);
        if now.as_ref().is_ok_and(&holds) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {now:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn writer_status(writer: &mut Writer) -> v1::WriterServiceStatusResponse {
    writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner()
}

/// Waits for a state of a writer's bucket, and returns it.
pub async fn until_bucket(
    writer: &mut Writer,
    what: &str,
    holds: impl Fn(&v1::BucketState) -> bool,
) -> v1::BucketState {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let bucket = writer_status(writer).await.bucket.unwrap();
        if holds(&bucket) {
            return bucket;
        }
        assert!(Instant::now() < deadline, "{what}: {bucket:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The rows of tables after a commit.
pub async fn rows_at(reader: &mut Reader, tables: &[String], seq: u64) -> BTreeMap<String, TableRows> {
    let mut found = BTreeMap::new();
    for table in tables {
        let rows = match select_at(reader, table, seq).await {
            Ok(rows) => Some(rows),
            Err(status) if reason(&status) == "TABLE_NOT_FOUND" => None,
            Err(status) => panic!("{table} at {seq}: {status:?}"),
        };
        found.insert(table.clone(), rows);
    }
    found
}

/// Every commit up to one.
pub async fn commits_until(reader: &mut Reader, seq: u64) -> Vec<v1::Commit> {
    watch(reader, after(0))
        .await
        .unwrap()
        .upto(seq)
        .await
        .into_iter()
        .filter(|commit| commit.seq <= seq)
        .collect()
}

impl BackedUp {
    pub fn data(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// The directory of the bucket.
    pub fn bucket(&self) -> PathBuf {
        self.home.path().join("bucket")
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.bucket().display())
    }

    pub fn last_seq(&self) -> u64 {
        self.moments.len() as u64
    }

    pub fn moment(&self, seq: u64) -> &NotedMoment {
        &self.moments[usize::try_from(seq - 1).unwrap()]
    }

    /// Writes for some rounds, and makes a backup after each.
    pub async fn build(rounds: u64, commits: u64) -> BackedUp {
        let home = tempfile::tempdir().unwrap();
        let mut made = BackedUp { home, moments: Vec::new(), commits: Vec::new(), backups: Vec::new() };
        let mut churn: Option<RandomWriter> = None;
        for round in 0..rounds {
            let mut daemon = Daemon::start("driftdb-writer", &made.data(), &WRITER);
            let writer = daemon.as_writer().await;
            let busy = match &mut churn {
                Some(churn) => {
                    churn.writer = writer;
                    churn
                }
                None => churn.insert(RandomWriter::start(writer, 3).await),
            };
            busy.commits(commits / 2).await;
            if round < 3 {
                busy.create().await;
            }
            busy.commits(commits / 2).await;
            let reader_daemon = Daemon::reader(&made.data());
            made.note(busy, &mut reader_daemon.as_reader().await).await;
            drop(reader_daemon);
            assert!(daemon.terminate().await.success());
            made.back_up();
        }
        made
    }

    /// Notes what the reader says of each new commit.
    async fn note(&mut self, busy: &RandomWriter, reader: &mut Reader) {
        busy.wait_for(reader).await;
        let tables: Vec<String> = busy.tables.iter().map(|(table, _)| table.clone()).collect();
        self.commits = commits_until(reader, busy.seq).await;
        for seq in self.last_seq() + 1..=busy.seq {
            let time = self.commits[usize::try_from(seq - 1).unwrap()].time.unwrap();
            let time_ms = u64::try_from(time.seconds * 1000 + i64::from(time.nanos / 1_000_000)).unwrap();
            let tables = rows_at(reader, &tables, seq).await;
            self.moments.push(NotedMoment { seq, time_ms, tables });
        }
    }

    pub fn back_up(&mut self) {
        let printed = driftctl_lines(&["backup", "-d", text(&self.data()), &self.url()]);
        self.backups.push(printed[0]["last_seq"].as_u64().unwrap());
    }

    /// Checks that a restored directory is the database as it was after a commit: its rows, its history, and no more.
    pub async fn check_restored(&self, dir: &Path, seq: u64, also_at: &[u64]) {
        let daemon = Daemon::reader(dir);
        let mut reader = daemon.as_reader().await;
        let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.header.unwrap().applied_seq, seq);
        assert_eq!((status.problems, status.damaged_files.len()), (Vec::new(), 0));
        if seq == 0 {
            return;
        }
        let tables: Vec<String> = self.moment(seq).tables.keys().cloned().collect();
        for at in also_at.iter().copied().filter(|at| *at <= seq).chain([seq]) {
            let expected: BTreeMap<_, _> = tables
                .iter()
                .map(|table| (table.clone(), self.moment(at).tables.get(table).cloned().flatten()))
                .collect();
            assert_eq!(rows_at(&mut reader, &tables, at).await, expected, "restored to {seq}, read at {at}");
        }
        let commits = commits_until(&mut reader, seq).await;
        assert_eq!(commits[..], self.commits[..usize::try_from(seq).unwrap()]);
    }
}

/// Restores in this process, once the locks of an earlier attempt are free.
pub fn restore(
    store: &BucketStore,
    fs: &Arc<dyn FileSystem>,
    target: &Path,
    request: RestoreRequest<'_>,
    progress: &mut dyn FnMut(RestoreProgress) -> Result<(), Error>,
) -> Result<RestoredDatabase, Error> {
    once_free(|| restore::restore(store, fs, target, request, progress))
}

/// Does what takes a lock that this process has just given up. A process that another test starts has it, too, until it runs its program.
pub fn once_free<T>(mut attempt: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match attempt() {
            Err(error) if error.reason() == Reason::DatabaseLocked && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}
