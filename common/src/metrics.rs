//! What a daemon measures of itself: the list of all metrics, where each is counted, and how a scrape is written.
//!
//! Two ways lead into a scrape. What happens again and again, such as a call or a sync, is counted where it happens, through handles
//! of the `metrics` facade: they cost an addition, and nothing if the daemon serves no metrics. What has a state, such as a queue, is
//! read when somebody asks: commits pay nothing for it. The exporter of the facade's authors is not used. It keeps every
//! measurement of a histogram until the next scrape, which is memory without a bound, and it does not write OpenMetrics.

use std::sync::{Arc, LazyLock, OnceLock};

use ::metrics::{Counter, Histogram, Key, Label, Level, Metadata, with_recorder};

pub mod catalog;
mod exposition;
mod histogram;
mod metric_spec;
mod recorder;
pub mod samples;

pub use exposition::ExpositionFormat;

use crate::error::{Error, Reason, Result};
use crate::metrics::catalog::{DaemonKind, MetricSpec};
use crate::metrics::recorder::MetricsRecorder;
use crate::metrics::samples::Samples;

/// Where the facade says that measurements come from. Nothing is filtered by it.
const METADATA: Metadata<'static> = Metadata::new("driftdb", Level::INFO, None);

/// The recorder of this process, if it serves metrics.
static RECORDER: OnceLock<Arc<MetricsRecorder>> = OnceLock::new();

/// The time that the syncs of a group's segments take.
pub static FSYNC: LazyLock<Histogram> = LazyLock::new(|| histogram_of(&catalog::FSYNC_SECONDS, &[]));
/// The commits of each group.
pub static GROUP_COMMITS: LazyLock<Histogram> = LazyLock::new(|| histogram_of(&catalog::GROUP_COMMITS, &[]));
/// What clients send.
pub static RECEIVED_BYTES: LazyLock<Counter> = LazyLock::new(|| counter_of(&catalog::RECEIVED_BYTES, &[]));
/// What clients are sent.
pub static SENT_BYTES: LazyLock<Counter> = LazyLock::new(|| counter_of(&catalog::SENT_BYTES, &[]));

/// Records from now on. Handles that were made before do nothing for ever, so a daemon calls this first.
///
/// # Errors
/// If this process records already.
pub fn install(daemon: DaemonKind) -> Result<()> {
    let recorder = Arc::new(MetricsRecorder::new(daemon));
    ::metrics::set_global_recorder(Arc::clone(&recorder))
        .map_err(|_| Error::new(Reason::Internal, "this process records metrics already"))?;
    RECORDER.get_or_init(|| recorder);
    Ok(())
}

/// Whether this process records.
pub fn is_installed() -> bool {
    RECORDER.get().is_some()
}

/// Writes what was counted, and the samples.
pub fn render(format: ExpositionFormat, samples: Samples) -> String {
    let mut series = samples.into_series();
    if let Some(recorder) = RECORDER.get() {
        recorder.collect(&mut series);
    }
    exposition::render(format, &mut series)
}

/// Adds one to a counter without labels. For what is rare: the counter is looked up.
pub fn count(metric: &'static MetricSpec) {
    counter_of(metric, &[]).increment(1);
}

/// Adds one to a counter with one label. For what is rare: the counter is looked up.
pub fn count_with(metric: &'static MetricSpec, value: &'static str) {
    counter_of(metric, &[value]).increment(1);
}

/// Counts a request that was refused because of a limit.
pub fn count_refused(limit: &'static str) {
    count_with(&catalog::REFUSED, limit);
}

/// The handle of a counter with the values of its labels.
pub fn counter_of(metric: &'static MetricSpec, values: &[&'static str]) -> Counter {
    let key = key(metric, values);
    with_recorder(|recorder| recorder.register_counter(&key, &METADATA))
}

/// The handle of a histogram with the values of its labels.
pub fn histogram_of(metric: &'static MetricSpec, values: &[&'static str]) -> Histogram {
    let key = key(metric, values);
    with_recorder(|recorder| recorder.register_histogram(&key, &METADATA))
}

fn key(metric: &'static MetricSpec, values: &[&'static str]) -> Key {
    let labels = metric.labels.iter().zip(values);
    let labels = labels.map(|(label, value)| Label::from_static_parts(label.name, value));
    Key::from_parts(metric.name, labels.collect::<Vec<_>>())
}
