//! The reader daemon of DriftDB: everything that asks.

use std::path::PathBuf;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::Listener;
use tokio_util::sync::CancellationToken;

/// How a reader runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config { data: data.into() }
    }
}

/// A database followed: what HEAD showed at the start is applied.
#[derive(Debug)]
pub struct Reader {}

impl Reader {
    /// Opens the database in `config.data`. Takes no lock and writes nothing. Blocks while it catches up.
    pub fn open(config: Config) -> Result<Reader> {
        Err(Error::new(Reason::Internal, format!("not there yet: {}", config.data.display())))
    }

    /// Answers gRPC until `shutdown`.
    pub async fn serve(self, _listener: Listener, _shutdown: CancellationToken) -> Result<()> {
        Ok(())
    }
}
