//! Sends spans to a collector, over OTLP with gRPC.
//!
//! The SDK of OpenTelemetry collects spans in a queue of bounded length and sends them from a thread of its own. If the collector does
//! not take them, the queue is full and spans are dropped: no call ever waits for a collector.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span,
};

use crate::error::{Error, Reason, Result};
use crate::limits;

/// How long a daemon that ends waits for the collector to take its last spans.
const LAST_SPANS: Duration = Duration::from_secs(2);
/// How long the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long spans wait for others before they are sent.
const BATCH_INTERVAL: Duration = Duration::from_secs(1);

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// What the steps of a call belong to.
pub(super) type SpanId = SpanContext;

/// Sends what is recorded.
#[derive(Debug)]
pub struct TraceExport(SdkTracerProvider);

impl TraceExport {
    /// Sends the last spans, for which it waits some seconds. Blocks the thread.
    pub fn close(self) {
        if let Err(error) = self.0.shutdown_with_timeout(LAST_SPANS) {
            tracing::warn!(%error, "cannot send the last spans to the collector");
        }
    }
}

pub(super) fn start(collector: &str, sample: f64, service: &'static str) -> Result<TraceExport> {
    let failed = |e: &dyn std::fmt::Display| {
        Error::new(Reason::ArgumentInvalid, format!("cannot send traces to --otlp {collector:?}: {e}"))
    };
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(collector);
    let exporter = exporter.with_timeout(EXPORT_TIMEOUT).build().map_err(|e| failed(&e))?;
    let batches = BatchConfigBuilder::default()
        .with_max_queue_size(limits::TRACE_SPANS)
        .with_scheduled_delay(BATCH_INTERVAL)
        .build();
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(sample))))
        .with_resource(resource(service).with_attribute(version).build())
        .build();
    let tracer = provider.tracer("driftdb");
    TRACER.set(tracer).map_err(|_| Error::new(Reason::Internal, "this process records traces already"))?;
    Ok(TraceExport(provider))
}

/// Who records: the program, unless `OTEL_SERVICE_NAME` says otherwise.
fn resource(service: &'static str) -> opentelemetry_sdk::resource::ResourceBuilder {
    match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => Resource::builder(),
        None => Resource::builder().with_service_name(service),
    }
}

pub(super) fn is_started() -> bool {
    TRACER.get().is_some()
}

/// The headers of a call, for the propagator.
struct CallHeaders<'a>(&'a HeaderMap);

impl Extractor for CallHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// The span of a call.
pub(super) struct CallSpan(Span);

pub(super) fn begin_call(method: &'static str, headers: &HeaderMap) -> Option<CallSpan> {
    let tracer = TRACER.get()?;
    let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &CallHeaders(headers));
    let attributes = [KeyValue::new("rpc.system.name", "grpc"), KeyValue::new("rpc.method", method)];
    let span = SpanBuilder::from_name(method).with_kind(SpanKind::Server).with_attributes(attributes);
    let span = span.start_with_context(tracer, &parent);
    span.is_recording().then_some(CallSpan(span))
}

impl CallSpan {
    pub(super) fn id(&self) -> SpanId {
        self.0.span_context().clone()
    }

    pub(super) fn end(mut self, code: &'static str, is_fault: bool) {
        self.0.set_attribute(KeyValue::new("rpc.response.status_code", code));
        if is_fault {
            self.0.set_status(Status::error(code));
        }
        self.0.end();
    }
}

pub(super) fn record(
    parent: &SpanId,
    name: &'static str,
    (began, ended): (Instant, Instant),
    numbers: &[(&'static str, u64)],
) {
    let Some(tracer) = TRACER.get() else { return };
    // One reading of both clocks, so that the times keep their order.
    let (now, now_at) = (SystemTime::now(), Instant::now());
    let time = |instant: Instant| now.checked_sub(now_at.saturating_duration_since(instant)).unwrap_or(now);
    let number =
        |(name, value): &(&'static str, u64)| KeyValue::new(*name, i64::try_from(*value).unwrap_or(i64::MAX));
    let span = SpanBuilder::from_name(name)
        .with_kind(SpanKind::Internal)
        .with_start_time(time(began))
        .with_attributes(numbers.iter().map(number));
    let parent = Context::new().with_remote_span_context(parent.clone());
    span.start_with_context(tracer, &parent).end_with_timestamp(time(ended));
}
