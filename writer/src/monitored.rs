//! The open writer as its monitor sees it: the metrics that are read when somebody asks, and whether it is alive.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::bucket::link::BucketLink;
use driftdb_common::error::Result;
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::service::monitor::MonitoredDaemon;
use driftdb_common::service::server::Security;
use driftdb_common::storage::sst::BlockCache;

use crate::clock_guard::ClockGuard;
use crate::commit::CommitStatus;
use crate::config::SnapshotTriggers;
use crate::jobs::Jobs;
use crate::maintenance::MaintenanceHealth;
use crate::rpc::WriterRpc;

/// A lock that is held for so long is held for ever: the longest holder, a large commit, takes a part of a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a scrape waits for it. Without it, a scrape lacks what it guards.
const SAMPLE_PATIENCE: Duration = Duration::from_secs(1);

/// What the monitor of a writer reads.
#[derive(Debug)]
pub(crate) struct MonitoredWriter {
    status: CommitStatus,
    triggers: SnapshotTriggers,
    jobs: Jobs,
    cache: Arc<BlockCache>,
    clock: Arc<ClockGuard>,
    health: Arc<MaintenanceHealth>,
    security: Arc<Security>,
    bucket: Option<Arc<BucketLink>>,
    term: u64,
}

impl MonitoredWriter {
    /// The writer behind its service.
    pub(crate) fn of(rpc: &WriterRpc, triggers: SnapshotTriggers) -> MonitoredWriter {
        MonitoredWriter {
            status: rpc.status.clone(),
            triggers,
            jobs: rpc.maintenance.registry().clone(),
            cache: Arc::clone(&rpc.cache),
            clock: Arc::clone(&rpc.clock),
            health: Arc::clone(&rpc.health),
            security: Arc::clone(&rpc.security),
            bucket: rpc.bucket.clone(),
            term: rpc.term,
        }
    }
}

impl MonitoredDaemon for MonitoredWriter {
    fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::TERM, self.term);
        samples.set(&catalog::CLOCK_JUMPED, self.clock.read().expected_ms().is_some());
        let durable = self.status.sample(SAMPLE_PATIENCE, &self.triggers, samples);
        self.jobs.sample(samples);
        self.cache.sample(samples);
        self.health.sample(samples);
        self.security.sample(samples);
        if let (Some(bucket), Some(durable)) = (&self.bucket, durable) {
            bucket.sample(durable, samples);
        }
    }

    fn check_alive(&self) -> Result<()> {
        self.status.check_alive(PATIENCE)
    }
}
