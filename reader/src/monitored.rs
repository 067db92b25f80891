//! The open reader as its monitor sees it: the metrics that are read when somebody asks, and whether it is alive.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::service::compute::ComputePool;
use driftdb_common::service::monitor::MonitoredDaemon;
use driftdb_common::service::server::Security;
use driftdb_common::storage::sst::BlockCache;

use crate::bucket_mirror::BucketState;
use crate::replica_slot::ReplicaSlot;

/// A lock that is held for so long is held for ever: commits hold it for microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the monitor of a reader reads.
#[derive(Debug)]
pub struct MonitoredReader {
    /// The replica that is served.
    pub slot: Arc<ReplicaSlot>,
    /// The block cache.
    pub cache: Arc<BlockCache>,
    /// The threads that compute.
    pub compute: Arc<ComputePool>,
    /// How the reader is protected.
    pub security: Arc<Security>,
    /// How far the directory follows a bucket, if it does.
    pub bucket: Option<Arc<BucketState>>,
}

impl MonitoredDaemon for MonitoredReader {
    fn sample(&self, samples: &mut Samples) {
        let replica = self.slot.current();
        let applied = replica.applied();
        let published = replica.head_seq();
        samples.set(&catalog::PUBLISHED_SEQ, published.max(applied.seq));
        samples.set(&catalog::APPLIED_SEQ, applied.seq);
        samples.set(&catalog::LAG_COMMITS, published.saturating_sub(applied.seq));
        samples.set(&catalog::LAG_SECONDS, replica.lag());
        let memtables = || applied.tables.values().map(|table| Arc::clone(&table.state().memtable));
        samples
            .set(&catalog::MEMTABLE_EVENTS, memtables().map(|memtable| memtable.len() as u64).sum::<u64>());
        samples.set(&catalog::MEMTABLE_BYTES, memtables().map(|memtable| memtable.bytes()).sum::<u64>());
        samples.set(&catalog::TABLES, applied.names.at(applied.seq, "", false).count());
        samples.set(&catalog::WATCHERS, replica.subscriptions().count());
        samples.set(&catalog::WATCH_BEHIND, replica.subscriptions().most_behind(applied.seq));
        let load = self.compute.load();
        samples.set_with(&catalog::QUERIES, &["open"], load.queries);
        samples.set_with(&catalog::QUERIES, &["running"], load.lane.running);
        samples.set_with(&catalog::QUERIES, &["waiting"], load.lane.waiting);
        samples.set(&catalog::HISTORIES_LOST, self.slot.losses().count);
        samples.set(&catalog::DAMAGED_FILES, replica.damaged_files().len());
        samples.set(&catalog::PROBLEMS, replica.problems().len());
        self.cache.sample(samples);
        self.security.sample(samples);
        if let Some(bucket) = &self.bucket {
            bucket.sample(samples);
        }
    }

    /// A reader that cannot read its files still serves what it has: only its locks say that it does not work, and a thread that is
    /// lost, which the monitor itself notices.
    fn check_alive(&self) -> Result<()> {
        match self.slot.current().subscriptions().is_free_within(PATIENCE) {
            true => Ok(()),
            false => {
                let message = format!("the lock of the watches was not free for {PATIENCE:?}");
                Err(Error::new(Reason::Internal, message))
            }
        }
    }
}
