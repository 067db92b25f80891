//! The threads that compute: what a request asks for is worked out here, never on a thread of the async runtime.
//!
//! There are two lanes with threads of their own. Lookups are short, and must not wait for scans; queries and watches can
//! be long, and have a lower priority, so that the runtime and the lookups find a processor whenever they need one. What
//! waits is bounded by [`ComputePool::admit`]: a request that would be one too many is refused before it costs anything.

mod lane;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::metrics;
pub use crate::service::compute::lane::LaneLoad;
use crate::service::compute::lane::{JobClass, Lane, LaneOptions};
use crate::work::{StopCause, Work, WorkGroup};

/// The threads of a lane that may be in the middle of something, besides those that have a turn.
const PARKED_THREADS: usize = 64;
/// How much the threads of queries stand back behind all others.
const QUERY_NICE: i32 = 10;
/// How long a refused caller should wait before it tries again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// What kind of computation waits for a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ComputeKind {
    /// Something short: a few rows, a header.
    Lookup,
    /// The first part of a query.
    NewQuery,
    /// A later part of a query.
    Query,
    /// A part of a watch.
    Watch,
}

/// Which limit a request counts against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A short request.
    Lookup,
    /// A statement, or a read of many rows.
    Query,
}

#[derive(Debug, Default)]
struct Admitted {
    count: AtomicUsize,
    refused: AtomicUsize,
}

/// The lanes of a daemon. Dropping it ends the threads when their jobs end.
#[derive(Debug)]
pub struct ComputePool {
    lookups: Arc<Lane>,
    queries: Arc<Lane>,
    admitted: [Arc<Admitted>; 2],
    group: Arc<WorkGroup>,
}

/// Counts as one request until it is dropped.
#[derive(Debug)]
pub struct ComputePermit(Arc<Admitted>);

impl Drop for ComputePermit {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What the pool does now, for Status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ComputeLoad {
    /// Queries that are open, those of slow clients included.
    pub queries: usize,
    /// The parts of queries and watches that run, and that wait for a turn.
    pub lane: LaneLoad,
    /// Requests that were refused because there were too many.
    pub refused: usize,
}

impl Drop for ComputePool {
    fn drop(&mut self) {
        self.group.stop();
        self.lookups.close();
        self.queries.close();
    }
}

impl ComputePool {
    /// Starts the lanes.
    pub fn start() -> Result<ComputePool> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let lane = |name, nice| {
            // With one turn only, a file that is slow to read would hold up everybody.
            let turns = processors.max(2);
            Lane::start(LaneOptions { name, turns, threads: turns + PARKED_THREADS, nice })
        };
        Ok(ComputePool {
            lookups: lane("driftdb-lookup", 0)?,
            queries: lane("driftdb-query", QUERY_NICE)?,
            admitted: Default::default(),
            group: Arc::default(),
        })
    }

    /// What stops all work of the pool. New work belongs to it.
    pub fn group(&self) -> &Arc<WorkGroup> {
        &self.group
    }

    /// Counts a request until the permit is dropped.
    ///
    /// # Errors
    /// `OVERLOADED`, with a retry delay, if there are too many.
    pub fn admit(&self, kind: RequestKind) -> Result<ComputePermit> {
        let (what, limit) = match kind {
            RequestKind::Lookup => ("lookups", limits::LOOKUPS),
            RequestKind::Query => ("queries", limits::QUERIES),
        };
        let admitted = self.admitted(kind);
        let before = admitted.count.fetch_add(1, Ordering::AcqRel);
        let permit = ComputePermit(Arc::clone(admitted));
        if before >= limit {
            admitted.refused.fetch_add(1, Ordering::Relaxed);
            metrics::count_refused(what);
            let message = format!(
                "too many {what}: {before} are open, the limit is {limit}; retry later, or ask another reader"
            );
            return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
        }
        Ok(permit)
    }

    fn admitted(&self, kind: RequestKind) -> &Arc<Admitted> {
        let [lookups, queries] = &self.admitted;
        if kind == RequestKind::Lookup { lookups } else { queries }
    }

    /// What the pool does now.
    pub fn load(&self) -> ComputeLoad {
        ComputeLoad {
            queries: self.admitted(RequestKind::Query).count.load(Ordering::Acquire),
            lane: self.queries.load(),
            refused: self.admitted.iter().map(|admitted| admitted.refused.load(Ordering::Relaxed)).sum(),
        }
    }

    /// Computes a part of some work, while the work's clock runs.
    ///
    /// # Errors
    /// Those of `compute`; and that the work was stopped, as soon as its time is over even if it does not notice.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: ComputeKind,
        work: &Work,
        compute: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run_until(kind, work, Some(compute), compute_once).await?.1
    }

    /// Calls `step` with some state until it returns an outcome or fails, and others have their turns between two calls.
    /// Returns the state with the outcome.
    ///
    /// # Errors
    /// If the work was stopped before the state could be returned, or a defect has ended it.
    pub async fn run_until<S: Send + 'static, T: Send + 'static>(
        &self,
        kind: ComputeKind,
        work: &Work,
        state: S,
        mut step: impl FnMut(&mut S) -> Result<Option<T>> + Send + 'static,
    ) -> Result<(S, Result<T>)> {
        let (sender, receiver) = oneshot::channel();
        let entered = work.clone();
        let mut parts = Some((state, sender));
        let job = move |turn| {
            let Some((mut state, sender)) = parts.take() else { return false };
            match entered.enter(Some(turn), || step(&mut state)).transpose() {
                None => {
                    parts = Some((state, sender));
                    true
                }
                Some(outcome) => {
                    // An error means that nobody waits any more.
                    drop(sender.send((state, outcome)));
                    false
                }
            }
        };
        work.start_clock();
        let (lane, class) = match kind {
            ComputeKind::Lookup => (&self.lookups, JobClass::New),
            ComputeKind::NewQuery => (&self.queries, JobClass::New),
            ComputeKind::Query => (&self.queries, JobClass::Running),
            ComputeKind::Watch => (&self.queries, JobClass::Watch),
        };
        lane.submit(class, Box::new(job));
        let received = match work.expires() {
            None => receiver.await.map_err(|_| None),
            Some((at, cause)) => match timeout_at(at.into(), receiver).await {
                Ok(received) => received.map_err(|_| None),
                Err(_) => Err(Some(cause)),
            },
        };
        work.stop_clock();
        received.map_err(|expired: Option<StopCause>| match expired {
            Some(cause) => {
                work.stop(cause);
                cause.error()
            }
            None => work.stopped().map_or_else(ended_early, StopCause::error),
        })
    }
}

/// A step that computes everything at once.
fn compute_once<T, F: FnOnce() -> Result<T>>(compute: &mut Option<F>) -> Result<Option<T>> {
    compute.take().map(|compute| compute()).transpose()
}

fn ended_early() -> Error {
    Error::new(Reason::Internal, "a computation ended without an answer: see the daemon's log")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::{self, WorkOptions};

    fn work(pool: &ComputePool, timeout: Option<Duration>) -> Work {
        Work::new(WorkOptions { timeout, group: Arc::clone(pool.group()), ..WorkOptions::default() })
    }

    fn spin() -> Result<()> {
        loop {
            work::step(1)?;
        }
    }

    #[tokio::test]
    async fn work_returns_its_outcome_and_may_take_many_parts() {
        let pool = ComputePool::start().unwrap();
        let work = work(&pool, None);
        assert_eq!(pool.run(ComputeKind::Lookup, &work, || Ok(7)).await.unwrap(), 7);
        let count = |state: &mut u32| {
            *state += 1;
            Ok((*state == 5).then_some("done"))
        };
        let (state, outcome) = pool.run_until(ComputeKind::NewQuery, &work, 0, count).await.unwrap();
        assert_eq!((state, outcome.unwrap()), (5, "done"));
        let panics = || -> Result<()> { std::panic::resume_unwind(Box::new("a defect")) };
        let error = pool.run(ComputeKind::Query, &work, panics).await.unwrap_err();
        assert_eq!(error.reason(), Reason::Internal);
    }

    #[tokio::test]
    async fn lookups_pass_queries_and_both_can_be_stopped() {
        let pool = Arc::new(ComputePool::start().unwrap());
        let scans: Vec<_> = (0..100)
            .map(|_| {
                let (pool, work) = (Arc::clone(&pool), work(&pool, None));
                tokio::spawn(async move { pool.run(ComputeKind::NewQuery, &work, spin).await })
            })
            .collect();
        while pool.load().lane.running == 0 {
            tokio::task::yield_now().await;
        }
        let lookup = work(&pool, None);
        assert_eq!(pool.run(ComputeKind::Lookup, &lookup, || Ok(1)).await.unwrap(), 1);
        let limited = work(&pool, Some(Duration::from_millis(30)));
        let error = pool.run(ComputeKind::NewQuery, &limited, spin).await.unwrap_err();
        assert_eq!(error.reason(), Reason::StatementTimeout);
        pool.group().stop();
        for scan in scans {
            assert_eq!(scan.await.unwrap().unwrap_err().reason(), Reason::ShuttingDown);
        }
    }

    #[test]
    fn too_many_queries_are_refused_and_lookups_are_not() {
        let pool = ComputePool::start().unwrap();
        let mut permits: Vec<_> =
            (0..limits::QUERIES).map(|_| pool.admit(RequestKind::Query).unwrap()).collect();
        let error = pool.admit(RequestKind::Query).unwrap_err();
        assert_eq!((error.reason(), error.retry_delay()), (Reason::Overloaded, Some(RETRY_AFTER)));
        assert_eq!((pool.load().queries, pool.load().refused), (limits::QUERIES, 1));
        pool.admit(RequestKind::Lookup).unwrap();
        permits.pop();
        pool.admit(RequestKind::Query).unwrap();
    }
}
