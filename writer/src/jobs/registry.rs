//! The registry of jobs: starts each in its turn, lists them, and ends them at a shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::metrics;
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};

use crate::errors::shutting_down;
use crate::jobs::follower::JobFollower;
use crate::jobs::job::{JobHandle, JobProgress, JobState};
use crate::jobs::task::{JobKind, JobTask};

/// How long a client waits before it retries when too many jobs wait.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct JobQueue {
    /// By number, oldest first.
    jobs: BTreeMap<u64, Arc<JobState>>,
    last_number: u64,
    closing: bool,
}

impl JobQueue {
    /// Whether no older job conflicts with this one.
    fn is_unblocked(&self, job: &JobState) -> bool {
        !self.jobs.range(..job.number).any(|(_, other)| other.task.conflicts_with(&job.task))
    }

    /// Whether a job may start: no older job conflicts with it, and the running jobs together with the older
    /// unblocked ones leave a place.
    fn may_start(&self, job: &JobState) -> bool {
        let goes_first = |other: &JobState| other.number < job.number && self.is_unblocked(other);
        let taken = self.jobs.values().filter(|other| other.is_running() || goes_first(other)).count();
        taken < limits::JOBS && self.is_unblocked(job)
    }
}

#[derive(Debug, Default)]
struct JobRegistry {
    queue: Mutex<JobQueue>,
    /// Notified when a job ends or all are cancelled.
    changed: Condvar,
    cancelled: Arc<AtomicBool>,
}

/// The jobs that wait or run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Jobs(Arc<JobRegistry>);

impl Jobs {
    /// Starts a job, or queues it behind the jobs that it conflicts with. A second compaction of the same
    /// table is refused, because its result depends on the first.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        task: JobTask,
        work: impl FnOnce(&JobHandle) -> Result<T> + Send + 'static,
    ) -> Result<JobFollower<T>> {
        let job = self.add(task)?;
        let (problems, problems_receiver) = mpsc::unbounded_channel();
        let (result, outcome) = oneshot::channel();
        let follower = JobFollower::new(Arc::clone(&job), problems_receiver, outcome);
        let entry = RegistryEntry { registry: Arc::clone(&self.0), number: job.number };
        let handle = JobHandle::new(job, Arc::clone(&self.0.cancelled), problems);
        let run = move || {
            // Moved into the thread, so that it is dropped if the work panics: a shutdown waits for all
            // entries.
            let entry = entry;
            let outcome = entry.wait_for_turn(&handle.job).and_then(|()| work(&handle));
            let ended = if outcome.is_ok() { "ok" } else { "failed" };
            metrics::count_with(&catalog::JOBS_ENDED, ended);
            if let Err(error) = &outcome {
                tracing::warn!(job = handle.job.number, task = %handle.job.task, %error, "a job failed");
            }
            // Removed before the outcome is sent: a client that receives it may start the same job again.
            drop(entry);
            let _ = result.send(outcome);
            drop(handle);
        };
        let thread = std::thread::Builder::new().name("driftdb-job".to_owned()).spawn(run);
        thread.map_err(|e| Error::io("cannot start a job's thread", &e))?;
        Ok(follower)
    }

    fn add(&self, task: JobTask) -> Result<Arc<JobState>> {
        let mut queue = self.0.queue.lock();
        if queue.closing {
            return Err(shutting_down());
        }
        let is_same_compaction = |job: &&Arc<JobState>| task.kind == JobKind::Compact && job.task == task;
        if let Some(job) = queue.jobs.values().find(is_same_compaction) {
            let id = job.id();
            let table = task.table.as_deref().unwrap_or_default();
            let message = format!(
                "cannot compact table {table:?}: {id} is compacting it; wait until that job has ended"
            );
            return Err(Error::new(Reason::JobRunning, message).with("job_id", id).with("table", table));
        }
        let limit = limits::JOBS + limits::JOBS_WAITING;
        if queue.jobs.len() >= limit {
            metrics::count_refused("jobs");
            let count = queue.jobs.len();
            let message =
                format!("cannot start a job: {count} jobs run or wait, the limit is {limit}; retry later");
            return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
        }
        queue.last_number += 1;
        let job = Arc::new(JobState::new(queue.last_number, task));
        queue.jobs.insert(job.number, Arc::clone(&job));
        Ok(job)
    }

    /// The progress of every job that waits or runs, oldest first.
    pub(crate) fn list(&self) -> Vec<JobProgress> {
        self.0.queue.lock().jobs.values().map(|job| job.progress()).collect()
    }

    /// Reads the metrics of jobs.
    pub(crate) fn sample(&self, samples: &mut Samples) {
        let (running, all) = {
            let queue = self.0.queue.lock();
            (queue.jobs.values().filter(|job| job.is_running()).count(), queue.jobs.len())
        };
        samples.set_with(&catalog::JOBS, &["running"], running);
        samples.set_with(&catalog::JOBS, &["waiting"], all - running);
    }

    /// Takes no more jobs, and asks those that wait or run to end.
    pub(crate) fn cancel(&self) {
        self.0.queue.lock().closing = true;
        self.0.cancelled.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    /// Waits until every job has ended. Blocks.
    pub(crate) fn join(&self) {
        let mut queue = self.0.queue.lock();
        while !queue.jobs.is_empty() {
            self.0.changed.wait(&mut queue);
        }
    }
}

/// A job's entry in the registry, which is removed when this is dropped.
struct RegistryEntry {
    registry: Arc<JobRegistry>,
    number: u64,
}

impl RegistryEntry {
    /// Waits until the job may start. Fails at a shutdown.
    fn wait_for_turn(&self, job: &JobState) -> Result<()> {
        let mut queue = self.registry.queue.lock();
        loop {
            if queue.closing {
                return Err(shutting_down());
            }
            if queue.may_start(job) {
                job.is_running.store(true, Ordering::Release);
                return Ok(());
            }
            self.registry.changed.wait(&mut queue);
        }
    }
}

impl Drop for RegistryEntry {
    fn drop(&mut self) {
        self.registry.queue.lock().jobs.remove(&self.number);
        self.registry.changed.notify_all();
    }
}
