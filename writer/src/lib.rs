//! The writer daemon of DriftDB: everything that changes a database.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use driftdb::v1::writer_service_server::WriterServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::limits;
use driftdb_common::service::server::{self, Listener};
pub use driftdb_common::storage::fence::Fencing;
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::recovery::Replay;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::appender::{Log, LogOptions};
use driftdb_common::storage::wal::commit_reader::LogCommit;
use driftdb_common::storage::{fs::FileSystem, recovery};
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::table_files::TableFiles;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::admit::Admission;
use crate::commit::{Answer, Commits};
use crate::jobs::Jobs;
use crate::maintenance::Maintenance;
use crate::past::Past;
pub use crate::requests::Window;
use crate::rpc::WriterRpc;
use crate::snapshotter::Snapshotter;
pub use crate::snapshotter::When;
pub use crate::standby::stand_by;
use crate::upkeep::Upkeep;

mod admit;
mod commit;
mod compactor;
mod fingerprint;
mod ingest;
mod jobs;
mod maintenance;
mod past;
mod requests;
mod rows;
mod rpc;
mod snapshotter;
mod standby;
mod upkeep;

/// How a writer runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// The address that clients reach this writer at, as readers tell it.
    pub advertise: Option<String>,
    /// Whether it looks for writers that have taken over.
    pub fencing: Fencing,
    /// A segment is sealed when it has reached this many bytes.
    pub segment_bytes: u64,
    /// How long request ids are remembered.
    pub requests: Window,
    /// When snapshots are taken.
    pub snapshots: When,
    /// Blocks of snapshots kept in memory, in bytes.
    pub cache_bytes: u64,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            advertise: None,
            fencing: Fencing::Auto,
            segment_bytes: limits::SEGMENT_BYTES,
            requests: Window::default(),
            snapshots: When::default(),
            cache_bytes: limits::CACHE_BYTES,
        }
    }
}

/// A database opened for writing: the lock is held and recovery is done.
#[derive(Debug)]
pub struct Writer {
    config: Config,
    shelf: TableFiles,
    log: Log,
    admission: Admission,
}

/// Takes in what there is when the log is opened.
struct Opening<'a> {
    shelf: &'a TableFiles,
    admission: &'a mut Admission,
}

impl Replay for Opening<'_> {
    fn replay_table(&mut self, manifest: &Manifest) -> Result<()> {
        self.admission.find_table(self.shelf, manifest)
    }

    fn replay_commit(&mut self, commit: LogCommit) -> Result<()> {
        self.admission.replay(commit)
    }
}

impl Writer {
    /// Opens, or initialises, the database in `config.data`. Blocks while it recovers.
    pub fn open(config: Config) -> Result<Writer> {
        Writer::open_on(OsFileSystem::shared(), config)
    }

    /// As [`Writer::open`], on another disk.
    pub fn open_on(disk: Arc<dyn FileSystem>, config: Config) -> Result<Writer> {
        let mut admission = Admission::new(config.requests);
        let options = LogOptions {
            segment_bytes: config.segment_bytes.max(1),
            background: true,
            fencing: config.fencing,
        };
        let dir = DataDir::new(&config.data);
        let mut shelf = TableFiles { disk, dir, cache: BlockCache::new(config.cache_bytes) };
        let mut opening = Opening { shelf: &shelf, admission: &mut admission };
        let log = recovery::open(Arc::clone(&shelf.disk), &shelf.dir, options, &mut opening)?;
        // From here on nothing has its name changed but in this writer's term.
        shelf.disk = Arc::clone(log.fs());
        let (seq, time_ms) = log.published();
        admission.opened(WriteToken { seq, time_ms });
        Ok(Writer { config, shelf, log, admission })
    }

    /// Closes the database cleanly without having served.
    pub fn close(self) -> Result<()> {
        self.log.close()
    }

    /// Answers gRPC until `shutdown`, then closes the database cleanly. An error means that the database was not closed
    /// cleanly: the log failed, and nothing more was acknowledged (I5).
    pub async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        let Writer { config, shelf, mut log, admission } = self;
        let address = config.advertise.or_else(|| listener.address().map(|address| address.to_string()));
        log.set_address(&address.unwrap_or_default())?;
        let (database, term) = (log.database().clone(), log.term());
        let (sender, mut receiver) = mpsc::unbounded_channel::<Vec<Answer>>();
        let (grow, grown) = mpsc::channel(1);
        let tail_limit = config.snapshots.memory.saturating_mul(2);
        let (commits, thread) = Commits::start(log, admission, sender, grow, tail_limit)?;
        tokio::spawn(async move {
            while let Some(answers) = receiver.recv().await {
                answers.into_iter().for_each(Answer::send);
            }
        });
        let stopping = shutdown.child_token();
        let committer = tokio::task::spawn_blocking({
            let stopping = stopping.clone();
            move || {
                let ended = join(thread);
                // Where the committer has failed, there is nothing left to serve.
                stopping.cancel();
                ended
            }
        });
        let jobs = Jobs::default();
        let cancelling = cancel_with(&jobs, &stopping);
        let snapshotter = Snapshotter::new(shelf.clone(), commits.clone(), config.snapshots, config.requests);
        let background = tokio::spawn(snapshotter.clone().run(grown, stopping.clone()));
        let past = Past::new(shelf, commits.clone());
        let upkeep = Upkeep::new(jobs.clone(), Maintenance::new(snapshotter.clone()), commits.clone());
        let rpc = WriterRpc::new(commits.clone(), database, term, past, upkeep, stopping.clone());
        let mut routes = RoutesBuilder::default();
        routes.add_service(
            WriterServiceServer::new(rpc)
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::REQUEST_BYTES),
        );
        let health = server::health::<WriterServiceServer<WriterRpc>>(stopping.clone()).await;
        let served = server::serve(listener, routes, health, stopping.clone()).await;
        stopping.cancel();
        let ended = cancelling.await.and(background.await);
        snapshotter.sweep(true);
        commits.close();
        let closed =
            committer.await.map_err(|e| Error::new(Reason::Internal, format!("the committer: {e}")))?;
        let ended = ended.map_err(|e| Error::new(Reason::Internal, format!("waiting for jobs: {e}")));
        served.and(closed).and(ended)
    }
}

/// Ends the jobs as soon as the writer goes down, before it waits for answers under way: those of jobs are among them.
/// The task ends when they have. What they work on may be another writer's after that.
fn cancel_with(jobs: &Jobs, stopping: &CancellationToken) -> tokio::task::JoinHandle<()> {
    let (jobs, stopping) = (jobs.clone(), stopping.clone());
    tokio::spawn(async move {
        stopping.cancelled().await;
        jobs.cancel();
        // A panic of a job is the job's own error.
        let _ = tokio::task::spawn_blocking(move || jobs.join()).await;
    })
}

fn join(thread: JoinHandle<Result<()>>) -> Result<()> {
    let panicked = |_| Err(Error::new(Reason::Internal, "the committer's thread panicked"));
    thread.join().unwrap_or_else(panicked)
}
