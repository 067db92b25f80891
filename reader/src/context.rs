//! What every request needs: the replica, the files and the shutdown signal.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::service::server::ResponseStream;
use driftdb_common::storage::lock;
use driftdb_common::table::table_files::TableFiles;
use tokio_util::sync::CancellationToken;

use crate::paged_stream::{PageStep, stream_pages};
use crate::replica::Replica;

/// What one request works with.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// The tables as far as this reader has applied them. A request uses one replica to its end: another one is another history.
    pub replica: Arc<Replica>,
    /// The data directory and the cache.
    pub files: TableFiles,
    /// The memory that requests may take.
    pub memory: Arc<MemoryBudget>,
    /// Cancelled when the reader shuts down.
    pub shutdown: CancellationToken,
}

impl RequestContext {
    /// The address at which clients reach the writer, as LOCK has it; empty if unknown.
    pub fn writer_address(&self) -> String {
        lock::read_holder(&*self.files.fs, &self.files.dir).map(|holder| holder.address).unwrap_or_default()
    }

    /// A response that calls `step` for each message until the reader shuts down.
    pub fn stream<T: Send + 'static>(
        &self,
        step: impl FnMut() -> Result<PageStep<T>> + Send + Unpin + 'static,
    ) -> ResponseStream<T> {
        stream_pages(self.shutdown.clone(), step)
    }
}
