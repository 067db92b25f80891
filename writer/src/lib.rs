//! The writer daemon of DriftDB: everything that changes a database.

use std::path::PathBuf;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::Listener;
use tokio_util::sync::CancellationToken;

/// How a writer runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// The address that clients reach this writer at, as readers tell it.
    pub advertise: Option<String>,
    /// A segment is sealed when it has reached this many bytes.
    pub segment_bytes: u64,
}

impl Config {
    /// The defaults, for a data directory.
    pub fn new(data: impl Into<PathBuf>) -> Config {
        Config { data: data.into(), advertise: None, segment_bytes: driftdb_common::limits::SEGMENT_BYTES }
    }
}

/// A database opened for writing: the lock is held and recovery is done.
#[derive(Debug)]
pub struct Writer {}

impl Writer {
    /// Opens, or initialises, the database in `config.data`. Blocks while it recovers.
    pub fn open(config: Config) -> Result<Writer> {
        Err(Error::new(Reason::Internal, format!("not there yet: {}", config.data.display())))
    }

    /// Answers gRPC until `shutdown`, then closes the database cleanly.
    pub async fn serve(self, _listener: Listener, _shutdown: CancellationToken) -> Result<()> {
        Ok(())
    }
}
