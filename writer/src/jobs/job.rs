//! One job: its progress, and the handle through which its work reports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::table::check::verification::Problem;
use tokio::sync::{mpsc, watch};

use crate::errors::shutting_down;
use crate::jobs::task::JobTask;

/// A job's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JobProgress {
    /// The job's id, such as `job-7`.
    pub(crate) id: String,
    /// The task, such as `snapshot of orders`.
    pub(crate) description: String,
    /// The table; `None` for all tables.
    pub(crate) table: Option<String>,
    /// Whether the job has not started yet: it waits for other jobs.
    pub(crate) queued: bool,
    /// The work done, in units.
    pub(crate) done: u64,
    /// The total work, in units; 0 if it is not known.
    pub(crate) total: u64,
    /// The unit: "rows" or "entries".
    pub(crate) unit: &'static str,
}

/// What a job's work has reported last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct WorkDone {
    pub(super) done: u64,
    pub(super) total: u64,
    pub(super) unit: &'static str,
}

/// A job that waits or runs.
#[derive(Debug)]
pub(super) struct JobState {
    pub(super) number: u64,
    pub(super) task: JobTask,
    pub(super) is_running: AtomicBool,
    pub(super) work_done: watch::Sender<WorkDone>,
}

impl JobState {
    /// A job that waits.
    pub(super) fn new(number: u64, task: JobTask) -> JobState {
        JobState { number, task, is_running: AtomicBool::new(false), work_done: watch::Sender::default() }
    }

    pub(super) fn id(&self) -> String {
        format!("job-{}", self.number)
    }

    pub(super) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Acquire)
    }

    pub(super) fn progress(&self) -> JobProgress {
        let WorkDone { done, total, unit } = *self.work_done.borrow();
        let (id, description) = (self.id(), self.task.to_string());
        let table = self.task.table.clone();
        JobProgress { id, description, table, queued: !self.is_running(), done, total, unit }
    }
}

/// The handle through which a job's work reports its progress and learns that it must end.
#[derive(Debug)]
pub(crate) struct JobHandle {
    pub(super) job: Arc<JobState>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) problems: mpsc::UnboundedSender<Problem>,
    reported_problems: AtomicU64,
}

impl JobHandle {
    pub(super) fn new(
        job: Arc<JobState>,
        cancelled: Arc<AtomicBool>,
        problems: mpsc::UnboundedSender<Problem>,
    ) -> JobHandle {
        JobHandle { job, cancelled, problems, reported_problems: AtomicU64::new(0) }
    }

    /// Reports progress. `total` is 0 if it is not known. Never waits for a follower. A call every few
    /// hundred frames is enough.
    pub(crate) fn report(&self, done: u64, total: u64, unit: &'static str) {
        self.job.work_done.send_replace(WorkDone { done, total, unit });
    }

    /// Fails with SHUTTING_DOWN once the job is cancelled. The work must then return the error.
    pub(crate) fn check_cancelled(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Acquire) { Err(shutting_down()) } else { Ok(()) }
    }

    /// Set when the job is cancelled, for what waits on a network.
    pub(crate) fn stop_flag(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// Reports a problem. After [`limits::PROBLEMS_LISTED`] problems the others are only counted, in the
    /// summary.
    pub(crate) fn report_problem(&self, problem: Problem) {
        if self.reported_problems.fetch_add(1, Ordering::Relaxed) < limits::PROBLEMS_LISTED {
            // If the follower is gone, the job continues without it.
            let _ = self.problems.send(problem);
        }
    }
}
