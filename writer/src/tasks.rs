//! Runs work that reads files or computes at length, away from the threads that serve the network.
//!
//! Every such work of the writer's requests goes through here, so that its bounds are in one place. Work waits until it is its
//! turn; a caller that leaves meanwhile leaves the queue. Short work is bounded by the size of its request. Long work gets a
//! [`TaskStop`], and must ask it again and again whether it must end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::planted::{self, PlantedBug};
use driftdb_common::work::{StopCause, Work, WorkOptions};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::errors::shutting_down;

/// The pool of a writer.
#[derive(Debug, Clone)]
pub(crate) struct TaskPool {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
    /// How long a long task may take, the time that it waits included; `None` for any time.
    timeout: Option<Duration>,
    shutdown: CancellationToken,
}

/// Tells a long task when it must end.
#[derive(Debug, Clone)]
pub(crate) struct TaskStop {
    caller_left: Arc<AtomicBool>,
    /// The end of the task's time, and how long that was.
    deadline: Option<(Instant, Duration)>,
    shutdown: CancellationToken,
}

/// Ends a task when the future of its caller is dropped.
struct CallerGuard(Arc<AtomicBool>);

/// Stops work when the future of its caller is dropped.
struct WorkGuard(Work);

impl Drop for WorkGuard {
    fn drop(&mut self) {
        self.0.stop(StopCause::CallerGone);
    }
}

impl Drop for CallerGuard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl TaskStop {
    /// Fails if the task must end: its caller has left, its time is over, or the writer shuts down.
    pub(crate) fn check(&self) -> Result<()> {
        if planted::is_planted(PlantedBug::CancellationIgnored) {
            return Ok(());
        }
        if self.shutdown.is_cancelled() {
            return Err(shutting_down());
        }
        if self.caller_left.load(Ordering::Relaxed) {
            return Err(Error::new(Reason::Cancelled, "the caller has cancelled the request"));
        }
        let Some((_, timeout)) = self.deadline.filter(|(deadline, _)| Instant::now() >= *deadline) else {
            return Ok(());
        };
        let message = format!(
            "the request took longer than {timeout:?}, the writer's --statement-timeout; ask for less, or raise it"
        );
        Err(Error::new(Reason::StatementTimeout, message))
    }
}

impl TaskPool {
    /// A pool whose long tasks end after `timeout` and when `shutdown` is cancelled.
    pub(crate) fn new(timeout: Option<Duration>, shutdown: CancellationToken) -> TaskPool {
        TaskPool {
            short: Arc::new(Semaphore::new(limits::WRITER_TASKS)),
            long: Arc::new(Semaphore::new(limits::WRITER_LONG_TASKS)),
            timeout,
            shutdown,
        }
    }

    /// Runs short work: it is bounded by the size of its request.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        run_in(&self.short, work).await
    }

    /// Runs long work.
    pub(crate) async fn run_long<T: Send + 'static>(
        &self,
        work: impl FnOnce(&TaskStop) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let caller_left = Arc::new(AtomicBool::new(false));
        let _guard = CallerGuard(Arc::clone(&caller_left));
        let deadline = self.timeout.and_then(|timeout| Some((Instant::now().checked_add(timeout)?, timeout)));
        let stop = TaskStop { caller_left, deadline, shutdown: self.shutdown.clone() };
        run_in(&self.long, move || {
            stop.check()?;
            work(&stop)
        })
        .await
    }

    /// Runs short work that can take longer than the size of its request says: it ends at any of its steps.
    pub(crate) async fn run_steps<T: Send + 'static>(
        &self,
        options: WorkOptions,
        run: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.stopped_with(options, |work| self.run(move || work.enter(None, run))).await
    }

    /// Runs long work that ends at any of its steps, and not only where it asks its [`TaskStop`].
    pub(crate) async fn run_long_steps<T: Send + 'static>(
        &self,
        options: WorkOptions,
        run: impl FnOnce(&TaskStop) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.stopped_with(options, |work| self.run_long(move |stop| work.enter(None, || run(stop)))).await
    }

    /// Waits for work, which stops when its caller leaves, when its time is over, and when the writer shuts down.
    async fn stopped_with<T, F: Future<Output = Result<T>>>(
        &self,
        options: WorkOptions,
        start: impl FnOnce(Work) -> F,
    ) -> Result<T> {
        let work = Work::new(WorkOptions { timeout: self.timeout, ..options });
        work.start_clock();
        let _guard = WorkGuard(work.clone());
        let done = start(work.clone());
        tokio::pin!(done);
        tokio::select! {
            ended = &mut done => ended,
            () = self.shutdown.cancelled() => {
                work.stop(StopCause::ShuttingDown);
                done.await
            }
        }
    }
}

async fn run_in<T: Send + 'static>(
    places: &Arc<Semaphore>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let place = Arc::clone(places).acquire_owned().await.map_err(|_| shutting_down())?;
    let done = tokio::task::spawn_blocking(move || {
        let _place = place;
        work()
    });
    done.await.map_err(|e| Error::new(Reason::Internal, format!("the work of a request panicked: {e}")))?
}

#[cfg(test)]
mod tests {
    use driftdb_common::work;

    use super::*;

    fn pool(timeout: Duration) -> (TaskPool, CancellationToken) {
        let shutdown = CancellationToken::new();
        (TaskPool::new(Some(timeout), shutdown.clone()), shutdown)
    }

    /// Work that ends only when it is told to.
    fn endless(stop: &TaskStop) -> Result<()> {
        loop {
            stop.check()?;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[tokio::test]
    async fn long_work_ends_at_its_timeout_and_at_a_shutdown() {
        let (short, _) = pool(Duration::from_millis(20));
        let error = short.run_long(endless).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StatementTimeout);
        let (long, shutdown) = pool(Duration::from_secs(600));
        let running = tokio::spawn(async move { long.run_long(endless).await });
        shutdown.cancel();
        assert_eq!(running.await.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    }

    /// Work that never asks, and only counts its steps.
    fn endless_steps() -> Result<()> {
        loop {
            work::step(1)?;
        }
    }

    #[tokio::test]
    async fn work_of_many_steps_ends_without_asking() {
        let (short, _) = pool(Duration::from_millis(20));
        let error = short.run_steps(WorkOptions::default(), endless_steps).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StatementTimeout);
        let (long, shutdown) = pool(Duration::from_secs(600));
        let left = tokio::spawn({
            let long = long.clone();
            async move { long.run_long_steps(WorkOptions::default(), |_| endless_steps()).await }
        });
        while long.long.available_permits() == limits::WRITER_LONG_TASKS {
            tokio::task::yield_now().await;
        }
        left.abort();
        while long.long.available_permits() < limits::WRITER_LONG_TASKS {
            tokio::task::yield_now().await;
        }
        let running =
            tokio::spawn(async move { long.run_steps(WorkOptions::default(), endless_steps).await });
        shutdown.cancel();
        assert_eq!(running.await.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
    }

    #[tokio::test]
    async fn long_work_ends_when_its_caller_has_left() {
        let (pool, _shutdown) = pool(Duration::from_secs(600));
        let callers: Vec<_> = (0..limits::WRITER_LONG_TASKS + 2)
            .map(|_| {
                let pool = pool.clone();
                tokio::spawn(async move { pool.run_long(endless).await })
            })
            .collect();
        while pool.long.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        callers.iter().for_each(tokio::task::JoinHandle::abort);
        // Both places become free again, and nobody waits any more.
        assert_eq!(pool.run_long(|_| Ok(7)).await.unwrap(), 7);
        while pool.long.available_permits() < limits::WRITER_LONG_TASKS {
            tokio::task::yield_now().await;
        }
    }
}
