//! Commits of a lone request on simulated disks: power cuts, a failed sync, and a sync that takes long.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use driftdb_common::error::{Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::KeyType;
use driftdb_common::service::clock::SystemClock;
use driftdb_common::storage::fs::FileSystem;
use driftdb_common::storage::fs::sim::{CrashPolicy, Fault, Repeat, SimDisk, SimOp, SimProcess};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::recovery;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::LogOptions;
use driftdb_common::table::operation::{Action, Operation, SchemaChange, WriteToken};
use driftdb_common::table::schema::Schema;
use driftdb_common::table::table_files::TableFiles;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::draft::{Draft, DraftConditions};
use crate::admission::rebuild::AdmissionRebuild;
use crate::admission::requests::RequestWindow;
use crate::admission::{CommitContext, CommitReceipt};
use crate::clock_guard::ClockGuard;
use crate::commit::start::{CommitHandles, start};
use crate::tasks::TaskPool;

/// How many rows each run writes.
const COMMITS: u64 = 5;

/// An open database without a server.
struct Opened {
    handles: CommitHandles,
    committer: JoinHandle<Result<()>>,
    last: u64,
}

impl Opened {
    fn open(fs: Arc<dyn FileSystem>) -> Result<Opened> {
        let files = TableFiles { fs, dir: DataDir::new("/data"), cache: BlockCache::new(1 << 20) };
        let options = LogOptions { background: false, segment_bytes: 256, ..LogOptions::default() };
        let mut rebuild = AdmissionRebuild::new(&files, RequestWindow::default(), &[]);
        let log = recovery::open(Arc::clone(&files.fs), &files.dir, options, &mut rebuild)?;
        let (seq, time_ms) = log.published();
        let admission = rebuild.finish(WriteToken { seq, time_ms });
        let clock = Arc::new(ClockGuard::open(Arc::new(SystemClock), None, &files, &log)?);
        let tasks = TaskPool::new(None, CancellationToken::new());
        let (handles, committer) = start(log, admission, mpsc::channel(1).0, (u64::MAX, tasks), clock)?;
        Ok(Opened { handles, committer, last: seq })
    }

    async fn create(&self) -> Result<CommitReceipt> {
        let schema = Schema {
            table: "t".to_owned(),
            primary_key: "id".to_owned(),
            key_type: KeyType::String,
            indexes: Vec::new(),
            retain_ms: None,
            auto_key: false,
        };
        let change = SchemaChange::Create { schema, if_not_exists: true };
        self.handles.pipeline.commit_schema(change, CommitContext::default()).await
    }

    /// Whether the next request takes the log, if nobody comes before it.
    fn is_next_lone(&self) -> bool {
        let mut state = self.handles.pipeline.0.state.lock();
        // However busy this machine is, the disk counts as quick.
        state.gathering.note((1, 0), Duration::ZERO);
        state.log.is_some() && state.open.acks.is_empty()
    }

    fn close(self) -> Result<()> {
        self.handles.pipeline.close();
        self.committer.join().unwrap()
    }
}

async fn put(handles: &CommitHandles, number: u64) -> Result<CommitReceipt> {
    let document = Document::from_json(&format!(r#"{{"id":"k{}","n":{number}}}"#, number % 3))?;
    let operation = Operation { table: "t".to_owned(), key: None, action: Action::Put(document) };
    let draft = Draft::new(vec![operation], DraftConditions::default())?;
    handles.pipeline.commit_rows(draft, CommitContext::default()).await
}

/// Writes until the first error. Returns the last acknowledged commit and the last attempted one.
async fn run(fs: Arc<dyn FileSystem>) -> (u64, u64) {
    let Ok(opened) = Opened::open(fs) else { return (0, 0) };
    let mut reached = (0, 1);
    let mut outcome = opened.create().await;
    while let Ok(receipt) = outcome {
        reached = (receipt.token.seq, receipt.token.seq);
        if receipt.token.seq > COMMITS {
            break;
        }
        // The log comes back a moment after the answer.
        while !opened.is_next_lone() {
            tokio::task::yield_now().await;
        }
        reached.1 += 1;
        outcome = put(&opened.handles, receipt.token.seq).await;
    }
    let closed = opened.close();
    assert!(closed.is_ok() || reached.1 > reached.0 || reached.0 == COMMITS + 1);
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_at_any_step_of_lone_commits_loses_nothing_acknowledged() {
    let disk = SimDisk::new();
    assert_eq!(run(disk.shared()).await, (COMMITS + 1, COMMITS + 1));
    for stop in 1..=disk.operations() {
        let disk = SimDisk::new();
        disk.power_off_at(stop);
        let (acknowledged, attempted) = run(disk.shared()).await;
        for policy in CrashPolicy::all(stop) {
            let found = Opened::open(disk.crash(policy).shared());
            let opened = found.unwrap_or_else(|e| panic!("{policy:?} at operation {stop}: {e}"));
            let kept = acknowledged..=attempted;
            assert!(
                kept.contains(&opened.last),
                "{policy:?} at operation {stop}: {} of {kept:?}",
                opened.last
            );
            opened.close().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_of_a_lone_commit_ends_the_writer() {
    let disk = SimDisk::new();
    let opened = Opened::open(disk.shared()).unwrap();
    opened.create().await.unwrap();
    put(&opened.handles, 1).await.unwrap();
    while !opened.is_next_lone() {
        tokio::task::yield_now().await;
    }
    disk.fail_when(SimOp::Sync, "segments", 1, Fault::Eio, Repeat::Once);
    let error = put(&opened.handles, 2).await.unwrap_err();
    assert_eq!(error.reason(), Reason::OutcomeUnknown);
    assert_eq!(put(&opened.handles, 3).await.unwrap_err().reason(), Reason::WriterStopped);
    // The committer ends by itself, and lets go of the log.
    assert!(opened.committer.join().unwrap().is_err());
    Opened::open(disk.crash(CrashPolicy::KeepAll).shared()).unwrap().close().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_lone_commit_whose_sync_takes_long_delays_no_other_call() {
    let disk = SimDisk::new();
    let process = SimProcess::new(&disk);
    let opened = Arc::new(Opened::open(process.shared()).unwrap());
    opened.create().await.unwrap();
    put(&opened.handles, 1).await.unwrap();
    while !opened.is_next_lone() {
        tokio::task::yield_now().await;
    }
    let before = process.operations();
    process.stop_before(before + 1);
    let write = |number| {
        let opened = Arc::clone(&opened);
        tokio::spawn(async move { put(&opened.handles, number).await })
    };
    let slow = write(2);
    let stopped = process.clone();
    let stopped_at = tokio::task::spawn_blocking(move || stopped.wait_until_stopped()).await.unwrap();
    assert!(stopped_at.is_some());
    // The only thread of the runtime is with the disk now, and yet other calls are answered and admitted.
    let status = Arc::clone(&opened);
    let durable = tokio::spawn(async move { status.handles.status.durable().seq });
    let durable = tokio::time::timeout(Duration::from_secs(60), durable).await;
    assert_eq!(durable.expect("another call waits for the disk").unwrap(), 2);
    let queued = [write(3), write(4)];
    while opened.handles.pipeline.0.state.lock().open.acks.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!slow.is_finished());
    process.resume();
    assert_eq!(slow.await.unwrap().unwrap().token.seq, 3);
    for queued in queued {
        assert!(queued.await.unwrap().unwrap().token.seq > 3);
    }
    Arc::into_inner(opened).unwrap().close().unwrap();
}
