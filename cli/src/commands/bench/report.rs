//! Figures: taken once a run, printed as a JSON line with the median of their runs.

use serde::Serialize;

use super::load::Sample;
use crate::exit::Outcome;
use crate::render::Output;
use crate::shapes;

/// Figures under way, in the order they were first taken.
#[derive(Debug, Default)]
pub struct Report(Vec<Figure>);

#[derive(Debug, PartialEq, Serialize)]
struct Figure {
    phase: String,
    metric: String,
    value: f64,
    unit: &'static str,
    runs: Vec<f64>,
}

impl Report {
    /// Adds a run's figure.
    pub fn add(&mut self, phase: &str, metric: &str, unit: &'static str, run: f64) {
        // More digits than this mean nothing, and nobody reads them.
        let run = (run * 1000.0).round() / 1000.0;
        let same = |figure: &&mut Figure| figure.phase == phase && figure.metric == metric;
        match self.0.iter_mut().find(same) {
            Some(figure) => figure.runs.push(run),
            None => self.0.push(Figure {
                phase: phase.to_owned(),
                metric: metric.to_owned(),
                value: 0.0,
                unit,
                runs: vec![run],
            }),
        }
    }

    /// Adds what a run found.
    pub fn sample(&mut self, phase: &str, sample: &Sample) {
        self.add(phase, "throughput", "ops/s", sample.ops);
        self.add(phase, "p50", "µs", sample.p50);
        self.add(phase, "p99", "µs", sample.p99);
        if let Some(processor) = sample.processor {
            self.add(phase, "server_cpu", "µs/op", processor);
        }
    }

    /// Adds how a run compares with a ceiling that was measured just before it.
    pub fn ratio(&mut self, phase: &str, sample: &Sample, name: &str, ceiling: &Sample) {
        self.add(phase, &format!("throughput_of_{name}"), "ratio", sample.ops / ceiling.ops);
        self.add(phase, &format!("p99_of_{name}"), "ratio", sample.p99 / ceiling.p99);
    }

    /// Prints every figure.
    pub fn print(self, out: &mut Output) -> Outcome {
        for mut figure in self.0 {
            figure.value = median(&figure.runs);
            out.record(&shapes::line(&figure)?)?;
        }
        out.end_of_result()
    }
}

/// The middle value; of an even number, the mean of the two in the middle.
fn median(runs: &[f64]) -> f64 {
    let mut sorted = runs.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    if sorted.len() % 2 == 1 { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_stands_for_the_runs() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn the_shape_of_a_figure() {
        let mut report = Report::default();
        report.add("W1", "p50", "µs", 410.0);
        report.add("W1", "p50", "µs", 400.12345);
        let mut figure = report.0.pop().unwrap();
        figure.value = median(&figure.runs);
        assert_eq!(
            shapes::line(&figure).unwrap(),
            r#"{"phase":"W1","metric":"p50","value":405.0615,"unit":"µs","runs":[410.0,400.123]}"#
        );
    }
}
