//! The reader daemon of DriftDB: everything that asks.

use std::path::PathBuf;
use std::sync::Arc;

use driftdb::v1::reader_service_server::ReaderServiceServer;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::log::blocks::BlockCache;
use driftdb_common::log::dir::DataDir;
use driftdb_common::log::disk::{Disk, RealDisk};
use driftdb_common::service::server::{self, Listener};
use driftdb_common::table::shelf::Shelf;
use tokio_util::sync::CancellationToken;
use tonic::service::RoutesBuilder;

use crate::follower::Follower;
use crate::rpc::ReaderRpc;
use crate::tailer::Tailer;

mod answers;
mod follower;
mod freshness;
mod replica;
mod rpc;
mod statement;
mod steps;
mod subscriptions;
mod tailer;
mod token;
mod watch;

/// How a reader runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Blocks of snapshots kept in memory, in bytes.
    pub cache_bytes: u64,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config { data: data.into(), cache_bytes: limits::CACHE_BYTES }
    }
}

/// A database followed: what HEAD showed at the start is applied.
#[derive(Debug)]
pub struct Reader {
    shelf: Shelf,
    follower: Follower,
}

impl Reader {
    /// Opens the database in `config.data`. Takes no lock and writes nothing. Blocks while it catches up.
    pub fn open(config: Config) -> Result<Reader> {
        Reader::open_on(RealDisk::shared(), config)
    }

    /// As [`Reader::open`], on another disk.
    pub fn open_on(disk: Arc<dyn Disk>, config: Config) -> Result<Reader> {
        let dir = DataDir::new(&config.data);
        let shelf = Shelf { disk, dir, cache: BlockCache::new(config.cache_bytes) };
        let mut follower = Follower::open(shelf.clone())?;
        follower.look()?;
        Ok(Reader { shelf, follower })
    }

    /// Answers gRPC until `shutdown`.
    pub async fn serve(self, listener: Listener, shutdown: CancellationToken) -> Result<()> {
        let Reader { shelf, follower } = self;
        let tailer = Tailer::start(follower, shelf.dir.root())?;
        let rpc = ReaderRpc { replica: Arc::clone(tailer.replica()), shelf, shutdown: shutdown.clone() };
        let mut routes = RoutesBuilder::default();
        routes.add_service(
            ReaderServiceServer::new(rpc)
                .max_decoding_message_size(limits::REQUEST_BYTES)
                .max_encoding_message_size(limits::REQUEST_BYTES),
        );
        let health = server::health::<ReaderServiceServer<ReaderRpc>>(shutdown.clone()).await;
        server::serve(listener, routes, health, shutdown).await
    }
}
