//! The recorder behind the facade: keeps the series of the metrics in the catalog, and of no others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use parking_lot::Mutex;

use crate::limits;
use crate::metrics::catalog::{self, DaemonKind, MetricKind, MetricSpec};
use crate::metrics::histogram::BucketHistogram;
use crate::metrics::samples::{MetricSeries, SampleValue, SeriesValue};

/// Where one series is counted.
#[derive(Debug, Clone)]
enum SeriesCell {
    Counter(Arc<AtomicU64>),
    Histogram(Arc<BucketHistogram>),
}

impl SeriesCell {
    fn new(metric: &MetricSpec) -> Option<SeriesCell> {
        match metric.kind {
            MetricKind::Counter => Some(SeriesCell::Counter(Arc::default())),
            MetricKind::Histogram(bounds) => {
                Some(SeriesCell::Histogram(Arc::new(BucketHistogram::new(bounds, metric.unit))))
            }
            // Gauges are read when somebody asks.
            MetricKind::Gauge => None,
        }
    }

    fn value(&self) -> SeriesValue {
        match self {
            SeriesCell::Counter(count) => SeriesValue::Number(count.load(Ordering::Relaxed).number()),
            SeriesCell::Histogram(histogram) => SeriesValue::Histogram(histogram.counts()),
        }
    }
}

/// The series that are counted, by the metric's name and the values of its labels.
#[derive(Debug)]
pub(super) struct MetricsRecorder(Mutex<BTreeMap<(&'static str, Vec<String>), SeriesCell>>);

impl MetricsRecorder {
    /// A recorder for a daemon. Its counters are there from the start, with zero: the first increment of a counter that was not there
    /// before is no increase for Prometheus.
    pub(super) fn new(daemon: DaemonKind) -> MetricsRecorder {
        let recorder = MetricsRecorder(Mutex::default());
        let own = catalog::ALL.iter().filter(|metric| [DaemonKind::Both, daemon].contains(&metric.daemon));
        for metric in own.filter(|metric| !metric.is_optional) {
            match metric.labels {
                [] => _ = recorder.cell(metric, Vec::new()),
                [label] => {
                    for value in label.values {
                        recorder.cell(metric, vec![(*value).to_owned()]);
                    }
                }
                _ => {}
            }
        }
        recorder
    }

    /// The series of a metric. `None` if no more can be counted, or if the metric is a gauge.
    fn cell(&self, metric: &MetricSpec, labels: Vec<String>) -> Option<SeriesCell> {
        let mut cells = self.0.lock();
        if let Some(known) = cells.get(&(metric.name, labels.clone())) {
            return Some(known.clone());
        }
        if cells.len() >= limits::METRIC_SERIES {
            return None;
        }
        let cell = SeriesCell::new(metric)?;
        cells.insert((metric.name, labels), cell.clone());
        Some(cell)
    }

    /// The series that a key of the facade names.
    fn cell_of(&self, key: &Key) -> Option<SeriesCell> {
        let metric = catalog::find(key.name())?;
        let value = |name: &str| key.labels().find(|label| label.key() == name).map(|label| label.value());
        let labels = metric.labels.iter().map(|label| value(label.name).unwrap_or_default().to_owned());
        self.cell(metric, labels.collect())
    }

    /// Adds what was counted so far to the series of a scrape.
    pub(super) fn collect(&self, series: &mut MetricSeries) {
        for ((name, labels), cell) in self.0.lock().iter() {
            series.entry(name).or_default().entry(labels.clone()).or_insert_with(|| cell.value());
        }
    }
}

impl Recorder for MetricsRecorder {
    // The catalog has the help texts.
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell_of(key) {
            Some(SeriesCell::Counter(count)) => Counter::from_arc(count),
            _ => Counter::noop(),
        }
    }

    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.cell_of(key) {
            Some(SeriesCell::Histogram(histogram)) => Histogram::from_arc(histogram),
            _ => Histogram::noop(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ::metrics::{Label, Level};

    use super::*;

    const METADATA: Metadata<'static> = Metadata::new("test", Level::INFO, None);

    fn number(recorder: &MetricsRecorder, name: &str, labels: &[&str]) -> Option<f64> {
        let mut series = MetricSeries::default();
        recorder.collect(&mut series);
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        match series.get(name)?.get(&labels)? {
            SeriesValue::Number(number) => Some(*number),
            SeriesValue::Histogram(_) => None,
        }
    }

    #[test]
    fn a_counter_is_there_before_it_counts_and_counts_by_label() {
        let recorder = MetricsRecorder::new(DaemonKind::Writer);
        let denied = catalog::AUTH_DENIED.name;
        assert_eq!(number(&recorder, denied, &["permission"]), Some(0.0));
        let key = Key::from_parts(denied, vec![Label::new("kind", "permission")]);
        recorder.register_counter(&key, &METADATA).increment(2);
        recorder.register_counter(&key, &METADATA).increment(1);
        assert_eq!(number(&recorder, denied, &["permission"]), Some(3.0));
        assert_eq!(number(&recorder, denied, &["authentication"]), Some(0.0));
        assert_eq!(number(&recorder, catalog::HISTORIES_LOST.name, &[]), None, "the reader's");
    }

    #[test]
    fn what_is_not_in_the_catalog_and_what_is_too_much_does_nothing() {
        let recorder = MetricsRecorder::new(DaemonKind::Reader);
        let before = recorder.0.lock().len();
        recorder.register_counter(&Key::from_static_name("of_a_library_total"), &METADATA).increment(1);
        assert_eq!(recorder.0.lock().len(), before);
        for n in 0..2 * limits::METRIC_SERIES {
            let label = Label::new("rpc_method", n.to_string());
            let key = Key::from_parts(catalog::CALL_DURATION.name, vec![label]);
            recorder.register_histogram(&key, &METADATA).record(1.0);
        }
        assert_eq!(recorder.0.lock().len(), limits::METRIC_SERIES);
    }
}
