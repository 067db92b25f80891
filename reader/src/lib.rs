//! The reader daemon of DriftDB: serves every read and watch of a database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driftdb::v1::reader_service_server::ReaderServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::compute::ComputePool;
use driftdb_common::service::server::limit_options::ServerLimits;
use driftdb_common::service::server::{self, Listener, ServerResources};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::work::WorkGroup;
use tokio_util::sync::CancellationToken;

use crate::bucket_mirror::BucketState;
use crate::context::RequestContext;
use crate::follower::{Follower, read_patience};
use crate::fs_events::FsEvents;
use crate::monitored::MonitoredReader;
use crate::rpc::ReaderServer;
use crate::tailer::Tailer;

pub mod bucket_mirror;
mod context;
mod follow_mode;
mod follower;
mod freshness;
pub mod fs_events;
mod live_commit;
mod message_size;
mod monitored;
mod page_step;
mod page_token;
mod paged_stream;
mod read_point;
mod reader_status;
mod readiness;
mod reads;
mod replica;
mod replica_slot;
mod resume_token;
mod rpc;
mod running_query;
mod statement;
mod subscriptions;
mod suggestion;
mod table_names;
mod tailer;
mod waiting;
mod watch;

pub use follow_mode::FollowMode;
pub use waiting::{has_database, open_reader, wait_and_serve};

/// The default interval between HEAD checks.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The default staleness above which a reader is not ready.
pub const MAX_LAG: Duration = Duration::from_secs(10);
/// The default of the most time that a request may take.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(limits::STATEMENT_TIMEOUT_SECS);

/// The configuration of a reader.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// The data directory.
    pub data: PathBuf,
    /// Bytes of snapshot blocks to keep in memory.
    pub cache_bytes: u64,
    /// The memory that requests may take, in bytes.
    pub request_memory: u64,
    /// How the reader detects new commits.
    pub follow: FollowMode,
    /// The interval between HEAD checks if the reader polls.
    pub poll_interval: Duration,
    /// The staleness above which the reader is not ready; `None` if it is always ready.
    pub max_lag: Option<Duration>,
    /// The most time that a request may take; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// What one client may take.
    pub client_limits: ServerLimits,
    /// How current the directory is, if it follows a bucket.
    pub bucket: Option<Arc<BucketState>>,
}

impl ReaderConfig {
    /// The default configuration for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> ReaderConfig {
        ReaderConfig {
            data: data.into(),
            cache_bytes: limits::CACHE_BYTES,
            request_memory: limits::REQUEST_MEMORY_BYTES,
            follow: FollowMode::default(),
            poll_interval: POLL_INTERVAL,
            max_lag: Some(MAX_LAG),
            statement_timeout: Some(STATEMENT_TIMEOUT),
            client_limits: ServerLimits::default(),
            bucket: None,
        }
    }

    /// Fails if `max_lag` is so short that even an idle reader would exceed it between two HEAD checks.
    fn check(&self) -> Result<()> {
        let interval = self.follow.interval(self.poll_interval);
        let min_lag = interval * 2;
        match self.max_lag {
            Some(max_lag) if max_lag < min_lag => {
                let message = format!(
                    "--max-lag must be at least {min_lag:?}, twice the interval between HEAD checks ({interval:?}); \
                     got {max_lag:?}"
                );
                Err(Error::new(Reason::ArgumentInvalid, message))
            }
            _ => Ok(()),
        }
    }
}

/// A reader that has opened a database and applied everything in HEAD.
#[derive(Debug)]
pub struct ReaderDaemon {
    config: ReaderConfig,
    files: TableFiles,
    follower: Follower,
    events: FsEvents,
}

impl ReaderDaemon {
    /// Opens the database in `config.data`, without a lock and without writing anything. Blocks until the reader has applied
    /// everything in HEAD.
    pub fn open(config: ReaderConfig) -> Result<ReaderDaemon> {
        let fs = config.bucket.as_ref().map_or_else(OsFileSystem::shared, |bucket| bucket.files());
        ReaderDaemon::open_on(fs, config)
    }

    /// Like [`ReaderDaemon::open`], on another file system.
    pub fn open_on(fs: Arc<dyn FileSystem>, config: ReaderConfig) -> Result<ReaderDaemon> {
        ReaderDaemon::try_open(fs, config).map_err(Error::advising_doctor)
    }

    fn try_open(fs: Arc<dyn FileSystem>, config: ReaderConfig) -> Result<ReaderDaemon> {
        config.check()?;
        let dir = DataDir::new(&config.data);
        let files = TableFiles { fs, dir, cache: BlockCache::new(config.cache_bytes) };
        let mut follower = Follower::open(files.clone())?.behind(config.bucket.clone());
        // Watch for events before the first check, so that no change between the two is missed.
        let events = config.follow.events(&*files.fs, files.dir.root(), config.poll_interval)?;
        follower.wait_for_first_check(config.poll_interval)?;
        Ok(ReaderDaemon { config, files, follower, events })
    }

    /// Serves gRPC until `shutdown` is cancelled.
    pub async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        let ReaderDaemon { config, files, follower, events } = self;
        let tailer = Tailer::start(follower, events, config.follow.interval(config.poll_interval))?;
        let slot = Arc::clone(tailer.slot());
        let memory = MemoryBudget::new(config.request_memory);
        let context = Arc::new(RequestContext {
            replica: slot.current(),
            patience: read_patience(&files),
            files,
            compute: Arc::new(ComputePool::start()?),
            memory: Arc::clone(&memory),
            statement_timeout: config.statement_timeout,
            security: Arc::clone(listener.security()),
            activity: Arc::clone(listener.activity()),
            shutdown: shutdown.clone(),
        });
        stop_work_at(shutdown.clone(), Arc::clone(context.compute.group()));
        let monitored = MonitoredReader {
            slot: Arc::clone(&slot),
            cache: Arc::clone(&context.files.cache),
            compute: Arc::clone(&context.compute),
            security: Arc::clone(listener.security()),
            bucket: config.bucket,
        };
        let service = ReaderServiceServer::new(ReaderServer::new(Arc::clone(&slot), context))
            .max_decoding_message_size(limits::REQUEST_BYTES)
            .max_encoding_message_size(limits::REQUEST_BYTES);
        let ready = readiness::watch_readiness(slot, config.max_lag, shutdown.clone());
        listener.monitor().serve(Arc::new(monitored), ready.clone());
        let health = server::health_while::<ReaderServiceServer<ReaderServer>>(ready, shutdown.clone()).await;
        let resources = ServerResources { memory, limits: config.client_limits };
        server::serve(listener, service, health, resources, shutdown).await
    }
}

/// Stops what is being computed when the reader shuts down.
fn stop_work_at(shutdown: CancellationToken, work: Arc<WorkGroup>) {
    tokio::spawn(async move {
        shutdown.cancelled().await;
        work.stop();
    });
}
