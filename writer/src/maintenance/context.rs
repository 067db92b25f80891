//! What every maintenance task uses: the files, the roles over the commit state, and the configuration.

use std::sync::Arc;

use driftdb_common::error::{Reason, Result};
use driftdb_common::storage::disk_space::DiskSpace;
use driftdb_common::table::build::requests_since::RequestsSince;
use driftdb_common::table::operation::WriteToken;
use driftdb_common::table::table_files::TableFiles;

use crate::admission::requests::RequestWindow;
use crate::clock_guard::ClockGuard;
use crate::commit::CommitHandles;
use crate::config::SnapshotTriggers;
use crate::maintenance::health::MaintenanceHealth;

/// The context of maintenance.
#[derive(Debug)]
pub(crate) struct MaintenanceContext {
    /// Opens and writes snapshot files.
    pub(crate) files: TableFiles,
    pub(crate) commits: CommitHandles,
    pub(crate) triggers: SnapshotTriggers,
    pub(crate) window: RequestWindow,
    pub(crate) clock: Arc<ClockGuard>,
    /// The room on the disk.
    pub(crate) space: Arc<DiskSpace>,
    pub(crate) health: Arc<MaintenanceHealth>,
}

impl MaintenanceContext {
    /// Runs a job. If it finds the disk full, gives up the reserve and runs the job again: it frees space, or someone waits for it.
    pub(super) fn run_on_full_disk<T>(&self, purpose: &str, job: impl Fn() -> Result<T>) -> Result<T> {
        match job() {
            Err(error) if error.reason() == Reason::DiskFull => match self.space.use_reserve(purpose) {
                Some(_reserve) => job(),
                None => Err(error),
            },
            done => done,
        }
    }

    /// The oldest request that new snapshots keep. Like the memory of requests, it is counted back from the
    /// newest commit, whose time can be earlier than the clock's.
    pub(super) fn requests_since(&self) -> RequestsSince {
        let RequestWindow { commits, millis } = self.window;
        let WriteToken { seq, time_ms } = self.commits.status.durable();
        RequestsSince { seq: seq.saturating_sub(commits), time_ms: time_ms.saturating_sub(millis) }
    }
}
