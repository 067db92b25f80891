//! Traces: what a call waits for, as spans that a collector of OpenTelemetry receives.
//!
//! The span of a call begins with its headers and ends with its answer; its steps are below it. A step such as the sync of a group
//! happens on a thread that knows nothing of calls, and belongs to many calls at once. So a call leaves its [`TraceContext`] with what
//! it waits for, and the step is recorded afterwards, with the times that were measured, once for each call that is recorded. Nothing
//! of this costs a call that is not recorded more than the look whether it is. Spans contain names of methods, codes and numbers, and
//! never a key, a document or a table: a collector is often open to more people than the database.
//!
//! What sends the spans is behind the Cargo feature `otlp`. Without it, no context is ever recorded, and the compiler removes the rest.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use http::HeaderMap;

use crate::error::Result;

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
use absent as exporter;
#[cfg(feature = "otlp")]
use otlp as exporter;

pub use exporter::TraceExport;

/// Which calls are recorded, and who receives them.
#[derive(Debug, Clone)]
pub struct TraceOptions {
    /// The collector: `http://HOST:4317`.
    pub collector: String,
    /// The share of the calls that bring no context of a trace which are recorded, between 0 and 1.
    pub sample: f64,
    /// The name of the program.
    pub service: &'static str,
}

/// Records from now on. Needs a tokio runtime, which must outlive what this returns.
///
/// # Errors
/// `ARGUMENT_INVALID` if the collector's address is invalid; `NOT_SUPPORTED` if the program was built without the feature.
pub fn start(options: &TraceOptions) -> Result<TraceExport> {
    exporter::start(&options.collector, options.sample, options.service)
}

/// A step of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceStep {
    /// A change waits in the open group until the group before it is written.
    Queue,
    /// The frames of the change's group are written.
    Append,
    /// The segments of the group are synced.
    Fsync,
    /// The group waits until the bucket has it.
    Bucket,
    /// HEAD moves.
    Publish,
    /// The reader waits until it has applied the commit that the request asks for.
    Freshness,
    /// A part of the answer is read and computed, the wait for a thread included.
    Read,
    /// A watch reads from files what it has missed.
    CatchUp,
}

impl TraceStep {
    /// The name of its spans.
    pub fn name(self) -> &'static str {
        match self {
            TraceStep::Queue => "queue",
            TraceStep::Append => "append",
            TraceStep::Fsync => "fsync",
            TraceStep::Bucket => "bucket",
            TraceStep::Publish => "publish",
            TraceStep::Freshness => "freshness",
            TraceStep::Read => "read",
            TraceStep::CatchUp => "catch up",
        }
    }
}

thread_local! {
    /// The context of the call that this thread runs.
    static CURRENT: RefCell<TraceContext> = const { RefCell::new(TraceContext(None)) };
}

/// The span to which the steps of a call belong, if the call is recorded.
#[derive(Clone, Default)]
pub struct TraceContext(Option<exporter::SpanId>);

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TraceContext").field("is_recorded", &self.is_recorded()).finish()
    }
}

impl TraceContext {
    /// The context of the call that this thread runs.
    pub fn current() -> TraceContext {
        CURRENT.with_borrow(Clone::clone)
    }

    /// Whether the call is recorded.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Records a step that is over, with some numbers about it.
    pub fn record(
        &self,
        step: TraceStep,
        (began, ended): (Instant, Instant),
        numbers: &[(&'static str, u64)],
    ) {
        if let Some(parent) = &self.0 {
            exporter::record(parent, step.name(), (began, ended), numbers);
        }
    }

    /// Begins a step that ends when it is dropped.
    pub fn begin(&self, step: TraceStep) -> OpenStep {
        OpenStep(self.is_recorded().then(|| (self.clone(), step, Instant::now())))
    }

    /// Runs a future as a part of the call.
    pub fn within<F: Future + Unpin>(self, run: F) -> InTrace<F> {
        InTrace { context: self, run }
    }
}

/// A step that has begun.
#[derive(Debug)]
#[must_use = "the step ends when it is dropped"]
pub struct OpenStep(Option<(TraceContext, TraceStep, Instant)>);

impl Drop for OpenStep {
    fn drop(&mut self) {
        if let Some((context, step, began)) = self.0.take() {
            context.record(step, (began, Instant::now()), &[]);
        }
    }
}

/// A future that runs as a part of a call, on whatever thread.
#[derive(Debug)]
pub struct InTrace<F> {
    context: TraceContext,
    run: F,
}

/// Ends the part of a call on this thread, also if it panics.
struct Entered;

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(TraceContext::default());
    }
}

impl<F: Future + Unpin> Future for InTrace<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.get_mut();
        let _entered = this.context.is_recorded().then(|| {
            CURRENT.set(this.context.clone());
            Entered
        });
        Pin::new(&mut this.run).poll(cx)
    }
}

/// The span of a call, if it is recorded.
#[derive(Default)]
pub struct CallTrace(Option<exporter::CallSpan>);

impl fmt::Debug for CallTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.context().fmt(f)
    }
}

impl CallTrace {
    /// Begins the span of a call, below that of the caller if the headers have a W3C trace context.
    pub fn begin(method: &'static str, headers: &HeaderMap) -> CallTrace {
        CallTrace(exporter::begin_call(method, headers))
    }

    /// Whether calls can be recorded.
    pub fn is_started() -> bool {
        exporter::is_started()
    }

    /// What the call's steps belong to.
    pub fn context(&self) -> TraceContext {
        TraceContext(self.0.as_ref().map(exporter::CallSpan::id))
    }

    /// The call ends, with the name of its gRPC code; `is_fault` if the server is to blame.
    pub fn end(&mut self, code: &'static str, is_fault: bool) {
        if let Some(call) = self.0.take() {
            call.end(code, is_fault);
        }
    }
}
