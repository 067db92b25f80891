//! The values of metrics at the moment of a scrape: those that are read then, and those that were counted.

use std::collections::BTreeMap;

use crate::metrics::catalog::MetricSpec;

/// What a histogram has counted.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramCounts {
    /// The bounds.
    pub bounds: &'static [f64],
    /// The measurements up to each bound and above the one before; the last are those above all bounds.
    pub counts: Vec<u64>,
    /// The sum of all measurements.
    pub sum: f64,
}

/// The value of one series.
#[derive(Debug, Clone, PartialEq)]
pub enum SeriesValue {
    /// A number, of a counter or a gauge.
    Number(f64),
    /// A histogram.
    Histogram(HistogramCounts),
}

/// The series of each metric, by its name: the values of the labels, and the series' value.
pub type MetricSeries = BTreeMap<&'static str, BTreeMap<Vec<String>, SeriesValue>>;

/// Values that are read for one scrape.
#[derive(Debug, Default)]
pub struct Samples(MetricSeries);

impl Samples {
    /// Sets a metric without labels.
    pub fn set(&mut self, metric: &'static MetricSpec, value: impl SampleValue) {
        self.set_with(metric, &[], value);
    }

    /// Sets the series of a metric that has these values of its labels.
    pub fn set_with(&mut self, metric: &'static MetricSpec, labels: &[&str], value: impl SampleValue) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.entry(metric.name).or_default().insert(labels, SeriesValue::Number(value.number()));
    }

    /// The series.
    pub(super) fn into_series(self) -> MetricSeries {
        self.0
    }
}

/// What can be the value of a counter or a gauge.
pub trait SampleValue {
    /// The value. Whole numbers above 2⁵³ are rounded, as every Prometheus value is.
    fn number(self) -> f64;
}

impl SampleValue for f64 {
    fn number(self) -> f64 {
        self
    }
}

impl SampleValue for u64 {
    fn number(self) -> f64 {
        self as f64
    }
}

impl SampleValue for usize {
    fn number(self) -> f64 {
        (self as u64).number()
    }
}

impl SampleValue for bool {
    fn number(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl SampleValue for std::time::Duration {
    /// The longest duration stands for "never".
    fn number(self) -> f64 {
        if self == std::time::Duration::MAX { f64::INFINITY } else { self.as_secs_f64() }
    }
}
