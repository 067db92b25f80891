//! The reader daemon of DriftDB: everything that asks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use driftdb::v1::reader_service_server::ReaderServiceServer;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::server::{self, Listener};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use driftdb_common::storage::layout::DataDir;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::table::table_files::TableFiles;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::follower::Follower;
use crate::notices::Notices;
use crate::rpc::ReaderRpc;
use crate::tailer::Tailer;

#[path = "message_size.rs"]
mod answers;
mod follow;
mod follower;
mod freshness;
pub mod notices;
mod readiness;
mod replica;
mod rpc;
mod statement;
#[path = "paged_stream.rs"]
mod steps;
mod subscriptions;
mod tailer;
#[path = "resume_token.rs"]
mod token;
mod watch;

pub use follow::Follow;

/// How often HEAD is looked at, unless told otherwise.
pub const POLL: Duration = Duration::from_millis(50);
/// How far behind a reader may be that says it is ready, unless told otherwise.
pub const MAX_LAG: Duration = Duration::from_secs(10);

/// How a reader runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Blocks of snapshots kept in memory, in bytes.
    pub cache_bytes: u64,
    /// How it comes to know that HEAD has moved.
    pub follow: Follow,
    /// How often it looks at HEAD where it polls.
    pub poll: Duration,
    /// How far behind it may be before it says that it is not ready; `None`: it always is.
    pub max_lag: Option<Duration>,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config {
            data: data.into(),
            cache_bytes: limits::CACHE_BYTES,
            follow: Follow::default(),
            poll: POLL,
            max_lag: Some(MAX_LAG),
        }
    }

    /// Refuses a lag that is exceeded just because HEAD is not looked at that often.
    fn check(&self) -> Result<()> {
        let every = self.follow.interval(self.poll);
        match self.max_lag {
            Some(max_lag) if max_lag < every * 2 => {
                let what = format!(
                    "a max-lag of {max_lag:?} is too short: HEAD is looked at every {every:?}, and it needs twice that"
                );
                Err(Error::new(Reason::ArgumentInvalid, what))
            }
            _ => Ok(()),
        }
    }
}

/// A database followed: what HEAD showed at the start is applied.
#[derive(Debug)]
pub struct Reader {
    config: Config,
    shelf: TableFiles,
    follower: Follower,
    notices: Notices,
}

impl Reader {
    /// Opens the database in `config.data`. Takes no lock and writes nothing. Blocks while it catches up.
    pub fn open(config: Config) -> Result<Reader> {
        Reader::open_on(OsFileSystem::shared(), config)
    }

    /// As [`Reader::open`], on another disk.
    pub fn open_on(disk: Arc<dyn FileSystem>, config: Config) -> Result<Reader> {
        config.check()?;
        let dir = DataDir::new(&config.data);
        let shelf = TableFiles { disk, dir, cache: BlockCache::new(config.cache_bytes) };
        let mut follower = Follower::open(shelf.clone())?;
        let notices = config.follow.notices(&*shelf.disk, shelf.dir.root(), config.poll)?;
        follower.first_look(config.poll)?;
        Ok(Reader { config, shelf, follower, notices })
    }

    /// Answers gRPC until `shutdown`.
    pub async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        let Reader { config, shelf, follower, notices } = self;
        let tailer = Tailer::start(follower, notices, config.follow.interval(config.poll))?;
        let rpc = ReaderRpc { replica: Arc::clone(tailer.replica()), shelf, shutdown: shutdown.clone() };
        let mut routes = RoutesBuilder::default();
        routes.add_service(
            ReaderServiceServer::new(rpc)
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::REQUEST_BYTES),
        );
        let ready = readiness::watch(Arc::clone(tailer.replica()), config.max_lag, shutdown.clone());
        let health = server::health_while::<ReaderServiceServer<ReaderRpc>>(ready, shutdown.clone()).await;
        server::serve(listener, routes, health, shutdown).await
    }
}
