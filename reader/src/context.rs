//! What every request needs: the replica, the files, the threads that compute, and the shutdown signal.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::compute::ComputePool;
use driftdb_common::service::server::{Security, ServerActivity};
use driftdb_common::storage::lock;
use driftdb_common::table::table_files::TableFiles;
use tokio_util::sync::CancellationToken;

use crate::replica::Replica;

/// What one request works with. The requests of one replica share it.
#[derive(Debug)]
pub struct RequestContext {
    /// The tables as far as this reader has applied them. A request uses one replica to its end: another one is another history.
    pub replica: Arc<Replica>,
    /// The data directory and the cache.
    pub files: TableFiles,
    /// The threads that compute.
    pub compute: Arc<ComputePool>,
    /// The memory that requests may take.
    pub memory: Arc<MemoryBudget>,
    /// The most time that a request may take; `None` for no limit.
    pub statement_timeout: Option<Duration>,
    /// How long a read waits for the files that replace one that has vanished.
    pub patience: Duration,
    /// How the reader is protected on the network.
    pub security: Arc<Security>,
    /// What counts the connections and calls of the server.
    pub activity: Arc<ServerActivity>,
    /// Cancelled when the reader shuts down.
    pub shutdown: CancellationToken,
}

impl RequestContext {
    /// The address at which clients reach the writer, as LOCK has it; empty if unknown. Reads a file.
    pub fn writer_address(&self) -> String {
        lock::read_holder(&*self.files.fs, &self.files.dir).map(|holder| holder.address).unwrap_or_default()
    }
}
