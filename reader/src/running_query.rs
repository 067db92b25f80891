//! A request that is being served: its work, and where the parts of it are computed.
//!
//! A thread of the async runtime only moves messages. What a request asks for is computed on the [`ComputePool`], page by
//! page, each when its stream is polled for it. One exception keeps the cheapest requests cheap: something that is expected
//! to be short, such as a row in memory, is first tried where it is, in a mode in which it can neither read a file nor take
//! longer than a hundred microseconds ([`work::quick`]). Dropping the query, which is what a caller who leaves does, stops
//! its work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use driftdb_common::error::Result;
use driftdb_common::memory::{MemoryPermit, MemoryUse};
use driftdb_common::service::compute::{ComputeKind, ComputePermit, RequestKind};
use driftdb_common::table::point_in_time::PointInTime;
use driftdb_common::trace::{TraceContext, TraceStep};
use driftdb_common::work::{self, StopCause, Work, WorkOptions};

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_step::PageStep;
use crate::read_point::ReadPoint;
use crate::replica::Applied;

/// The length of a request that is decoded at once, in bytes: that takes some microseconds.
const SHORT_REQUEST_BYTES: usize = 4096;

/// A request that is being served.
#[derive(Debug)]
pub struct RunningQuery {
    context: Arc<RequestContext>,
    work: Work,
    /// `None` for a watch.
    kind: Option<RequestKind>,
    /// Whether a part of it has been computed.
    has_run: AtomicBool,
    trace: TraceContext,
    _permit: Option<ComputePermit>,
    _memory: Option<MemoryPermit>,
}

impl Drop for RunningQuery {
    fn drop(&mut self) {
        self.work.stop(StopCause::CallerGone);
    }
}

impl RunningQuery {
    /// A short request.
    ///
    /// # Errors
    /// `OVERLOADED` if too many are open.
    pub fn lookup(context: &Arc<RequestContext>, deadline: Option<Instant>) -> Result<RunningQuery> {
        RunningQuery::admit(context, deadline, RequestKind::Lookup, 0)
    }

    /// A statement, or a read of many rows, whose request has a length in bytes.
    ///
    /// # Errors
    /// `OVERLOADED` if too many are open, or if their requests take too much memory.
    pub fn query(
        context: &Arc<RequestContext>,
        deadline: Option<Instant>,
        request_bytes: usize,
    ) -> Result<RunningQuery> {
        RunningQuery::admit(context, deadline, RequestKind::Query, request_bytes)
    }

    /// A watch. It may last for ever.
    pub fn watch(context: &Arc<RequestContext>, deadline: Option<Instant>) -> RunningQuery {
        RunningQuery {
            context: Arc::clone(context),
            work: Work::new(WorkOptions { timeout: None, ..options(context, deadline) }),
            kind: None,
            has_run: AtomicBool::new(false),
            // A watch can last for ever, and each commit would be a span: it records what it catches up with.
            trace: TraceContext::default(),
            _permit: None,
            _memory: None,
        }
    }

    fn admit(
        context: &Arc<RequestContext>,
        deadline: Option<Instant>,
        kind: RequestKind,
        request_bytes: usize,
    ) -> Result<RunningQuery> {
        let permit = context.compute.admit(kind)?;
        let memory = match request_bytes {
            0 => None,
            bytes => Some(context.memory.reserve(MemoryUse::Queries, bytes as u64)?),
        };
        Ok(RunningQuery {
            context: Arc::clone(context),
            work: Work::new(options(context, deadline)),
            kind: Some(kind),
            has_run: AtomicBool::new(false),
            trace: TraceContext::current(),
            _permit: Some(permit),
            _memory: memory,
        })
    }

    /// What every request needs.
    pub fn context(&self) -> &Arc<RequestContext> {
        &self.context
    }

    /// Computes a part of the request.
    pub async fn compute<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&RequestContext) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _step = self.trace.begin(TraceStep::Read);
        let context = Arc::clone(&self.context);
        self.context.compute.run(self.next_kind(), &self.work, move || compute(&context)).await
    }

    /// Computes a part of the request that is short, ahead of all queries.
    pub async fn compute_ahead<T: Send + 'static>(
        &self,
        compute: impl FnOnce(&RequestContext) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let _step = self.trace.begin(TraceStep::Read);
        let context = Arc::clone(&self.context);
        self.has_run.store(true, Ordering::Relaxed);
        self.context.compute.run(ComputeKind::Lookup, &self.work, move || compute(&context)).await
    }

    /// Computes something that takes time in proportion to the length of the request: at once if that is short.
    pub async fn prepare<T: Send + 'static>(
        &self,
        request_bytes: usize,
        compute: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        match request_bytes {
            0..SHORT_REQUEST_BYTES => compute(),
            _ => self.compute(move |_| compute()).await,
        }
    }

    /// Whether a request is so short that a copy of it costs nothing.
    pub fn is_short(request_bytes: usize) -> bool {
        request_bytes < SHORT_REQUEST_BYTES
    }

    /// Looks something up: at once if it is short and in memory, and otherwise ahead of all queries.
    pub async fn look_up<T: Send + 'static>(
        &self,
        compute: impl Fn(&RequestContext) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if let Some(found) = work::quick(|| compute(&self.context)) {
            return found;
        }
        let _step = self.trace.begin(TraceStep::Read);
        let context = Arc::clone(&self.context);
        self.context.compute.run(ComputeKind::Lookup, &self.work, move || compute(&context)).await
    }

    /// Waits until the replica is fresh enough for a point in time; `None` is now.
    pub async fn wait_until_fresh(
        &self,
        freshness: Freshness,
        as_of: Option<PointInTime>,
    ) -> Result<Arc<Applied>> {
        let _step = self.trace.begin(TraceStep::Freshness);
        self.context.replica.wait_until_fresh(freshness, as_of).await
    }

    /// Waits until the replica is fresh enough, then resolves a point in time; `None` is now.
    pub async fn wait_for_point(
        &self,
        freshness: Freshness,
        as_of: Option<PointInTime>,
    ) -> Result<ReadPoint> {
        let applied = self.wait_until_fresh(freshness, as_of).await?;
        self.look_up(move |context| context.replica.point_at(&applied, as_of)).await
    }

    /// Calls `step` until it returns a page or the end. Returns the step for the next page, unless that was lost with an
    /// error.
    pub async fn next_page<T: Send + 'static, F>(&self, step: F) -> (Option<F>, Result<PageStep<T>>)
    where
        F: FnMut() -> Result<PageStep<T>> + Send + 'static,
    {
        let page = |step: &mut F| match step()? {
            PageStep::Working => Ok(None),
            page => Ok(Some(page)),
        };
        let _step = self.trace.begin(TraceStep::Read);
        match self.context.compute.run_until(self.next_kind(), &self.work, step, page).await {
            Ok((step, page)) => (Some(step), page),
            Err(error) => (None, Err(error)),
        }
    }

    fn next_kind(&self) -> ComputeKind {
        match (self.kind, self.has_run.swap(true, Ordering::Relaxed)) {
            (None, _) => ComputeKind::Watch,
            (Some(RequestKind::Lookup), _) => ComputeKind::Lookup,
            (Some(RequestKind::Query), false) => ComputeKind::NewQuery,
            (Some(RequestKind::Query), true) => ComputeKind::Query,
        }
    }
}

fn options(context: &RequestContext, deadline: Option<Instant>) -> WorkOptions {
    WorkOptions {
        deadline,
        timeout: context.statement_timeout,
        patience: Some(context.patience),
        memory: Some(Arc::clone(&context.memory)),
        group: Arc::clone(context.compute.group()),
    }
}
