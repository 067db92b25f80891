//! Follows a job: progress at a bounded rate, all problems, and the result at the end.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::table::check::verification::Problem;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::jobs::job::{JobProgress, JobState, WorkDone};

/// The shortest time between two progress events.
pub(super) const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What a follower receives.
#[derive(Debug)]
pub(crate) enum JobEvent<T> {
    /// The job's progress.
    Progress(JobProgress),
    /// A problem that a verification has found.
    Problem(Problem),
    /// The result. No event follows.
    Done(Result<T>),
}

/// Follows a job. If the follower is dropped, the job continues.
#[derive(Debug)]
pub(crate) struct JobFollower<T> {
    job: Arc<JobState>,
    work_done: watch::Receiver<WorkDone>,
    problems: mpsc::UnboundedReceiver<Problem>,
    outcome: Option<oneshot::Receiver<Result<T>>>,
    next_progress: Instant,
    /// Whether the work has ended. The last progress and the result may still be outstanding.
    has_ended: bool,
}

impl<T> JobFollower<T> {
    pub(super) fn new(
        job: Arc<JobState>,
        problems: mpsc::UnboundedReceiver<Problem>,
        outcome: oneshot::Receiver<Result<T>>,
    ) -> JobFollower<T> {
        let work_done = job.work_done.subscribe();
        let next_progress = Instant::now();
        JobFollower { job, work_done, problems, outcome: Some(outcome), next_progress, has_ended: false }
    }

    /// Waits for the next event. Progress reports between two events are merged into one. The last progress
    /// comes before the result, and `None` after it.
    pub(crate) async fn next(&mut self) -> Option<JobEvent<T>> {
        if !self.has_ended {
            let (next_progress, work_done) = (self.next_progress, &mut self.work_done);
            let progress = async {
                tokio::time::sleep_until(next_progress).await;
                // This cannot fail: `self.job` keeps the sender alive.
                work_done.changed().await
            };
            tokio::select! {
                biased;
                problem = self.problems.recv() => match problem {
                    Some(problem) => return Some(JobEvent::Problem(problem)),
                    None => self.has_ended = true,
                },
                _ = progress => {
                    self.next_progress = Instant::now() + PROGRESS_INTERVAL;
                    return Some(JobEvent::Progress(self.job.progress()));
                }
            }
        }
        let outcome = self.outcome.as_mut()?;
        if self.work_done.has_changed().unwrap_or(false) {
            self.work_done.mark_unchanged();
            return Some(JobEvent::Progress(self.job.progress()));
        }
        let outcome = outcome.await;
        self.outcome = None;
        let task = &self.job.task;
        let panicked = |_| Err(Error::new(Reason::Internal, format!("the {task} ended without a result")));
        Some(JobEvent::Done(outcome.unwrap_or_else(panicked)))
    }
}
