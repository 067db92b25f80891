//! A histogram with fixed bounds: its memory does not grow with what is measured.

use std::sync::atomic::{AtomicU64, Ordering};

use ::metrics::HistogramFn;

use crate::metrics::catalog::MetricUnit;
use crate::metrics::samples::HistogramCounts;

/// Counts measurements by the first bound that is not below them.
#[derive(Debug)]
pub(super) struct BucketHistogram {
    bounds: &'static [f64],
    /// One for each bound, and one for what is above all.
    counts: Box<[AtomicU64]>,
    /// The sum, in parts of the unit: an addition of integers needs no loop, which one of floats would.
    sum: AtomicU64,
    parts_per_unit: f64,
}

impl BucketHistogram {
    /// No measurements yet. Seconds are added up in nanoseconds, other measurements are whole numbers.
    pub(super) fn new(bounds: &'static [f64], unit: MetricUnit) -> BucketHistogram {
        let parts_per_unit = if unit == MetricUnit::Seconds { 1e9 } else { 1.0 };
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        BucketHistogram { bounds, counts, sum: AtomicU64::new(0), parts_per_unit }
    }

    /// What was measured so far. Measurements that are being made may be in the counts and not in the sum, or the other way round.
    pub(super) fn counts(&self) -> HistogramCounts {
        let sum = self.sum.load(Ordering::Relaxed) as f64 / self.parts_per_unit;
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        HistogramCounts { bounds: self.bounds, counts, sum }
    }
}

impl HistogramFn for BucketHistogram {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of floats saturates, and nothing negative is measured"
        )]
        let parts = (value * self.parts_per_unit) as u64;
        self.sum.fetch_add(parts, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measurement_counts_at_the_first_bound_that_is_not_below_it() {
        let histogram = BucketHistogram::new(&[1.0, 2.0], MetricUnit::Seconds);
        for value in [0.0, 1.0, 1.5, 2.0, 2.5, 1e300] {
            histogram.record(value);
        }
        let counts = histogram.counts();
        assert_eq!(counts.counts, [2, 2, 2]);
        let small = BucketHistogram::new(&[1.0], MetricUnit::Seconds);
        small.record(0.25);
        small.record(0.5);
        assert!((small.counts().sum - 0.75).abs() < 1e-9);
    }
}
