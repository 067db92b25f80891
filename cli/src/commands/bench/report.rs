//! Figures of `bench`: each is measured once per run and printed as a JSON line with the median of its runs.

use serde::Serialize;

use super::load::Sample;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

/// Figures, in the order in which they were first measured.
#[derive(Debug, Default)]
pub(crate) struct BenchReport {
    figures: Vec<Figure>,
    events: Option<u64>,
    size: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figure {
    phase: String,
    /// The number of events of the history, if histories are compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    events: Option<u64>,
    /// The size that grows, of a figure of a curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    metric: String,
    value: f64,
    unit: &'static str,
    runs: Vec<f64>,
}

impl Figure {
    fn name(&self) -> String {
        match self.size {
            Some(size) => format!("{}@{size}", self.phase),
            None => self.phase.clone(),
        }
    }
}

impl BenchReport {
    /// A report about a history of this many events.
    pub(crate) fn of_history(events: u64) -> BenchReport {
        BenchReport { events: Some(events), ..BenchReport::default() }
    }

    /// Figures that are added from now on are for this size.
    pub(crate) fn set_size(&mut self, size: u64) {
        self.size = Some(size);
    }

    /// Adds all figures of another report.
    pub(crate) fn append(&mut self, other: BenchReport) {
        self.figures.extend(other.figures);
    }

    /// Adds the value of one run to a figure.
    pub(crate) fn add(&mut self, phase: &str, metric: &str, unit: &'static str, run: f64) {
        // Further digits are noise.
        let run = (run * 1000.0).round() / 1000.0;
        let size = self.size;
        let same =
            |figure: &&mut Figure| figure.phase == phase && figure.metric == metric && figure.size == size;
        match self.figures.iter_mut().find(same) {
            Some(figure) => figure.runs.push(run),
            None => self.figures.push(Figure {
                phase: phase.to_owned(),
                events: self.events,
                size,
                metric: metric.to_owned(),
                value: 0.0,
                unit,
                runs: vec![run],
            }),
        }
    }

    /// Adds the figures of a sample.
    pub(crate) fn sample(&mut self, phase: &str, sample: &Sample) {
        self.add(phase, "throughput", "ops/s", sample.ops);
        self.add(phase, "p50", "µs", sample.p50);
        self.add(phase, "p99", "µs", sample.p99);
        if let Some(processor) = sample.processor {
            self.add(phase, "server_cpu", "µs/op", processor);
        }
    }

    /// Adds the ratio of a sample to a ceiling that was measured just before it.
    pub(crate) fn ratio(&mut self, phase: &str, sample: &Sample, name: &str, ceiling: &Sample) {
        self.add(phase, &format!("throughput_of_{name}"), "ratio", sample.ops / ceiling.ops);
        self.add(phase, &format!("p99_of_{name}"), "ratio", sample.p99 / ceiling.p99);
        self.add(phase, &format!("p50_of_{name}"), "ratio", sample.p50 / ceiling.p50);
        self.add(phase, &format!("p50_above_{name}"), "µs", sample.p50 - ceiling.p50);
    }

    /// Prints every figure.
    pub(crate) fn print(&self, out: &mut Printer) -> CliResult {
        for figure in &self.figures {
            let figure = Figure { value: median(&figure.runs), ..figure.clone() };
            out.print_record(&shapes::line(&figure)?)?;
        }
        out.end_result()
    }

    /// The phases, in the order in which they were first measured. A phase of a curve names its size.
    pub(crate) fn phases(&self) -> Vec<String> {
        let mut phases: Vec<String> = Vec::new();
        for figure in &self.figures {
            let name = figure.name();
            if !phases.contains(&name) {
                phases.push(name);
            }
        }
        phases
    }

    /// The figures of a phase.
    pub(crate) fn figures_of(&self, phase: &str) -> Vec<(String, f64)> {
        let figures = self.figures.iter().filter(|figure| figure.name() == phase);
        figures.map(|figure| (figure.metric.clone(), median(&figure.runs))).collect()
    }

    /// The unit of a figure.
    pub(crate) fn unit(&self, phase: &str, metric: &str) -> &'static str {
        let figure = self.figures.iter().find(|figure| figure.name() == phase && figure.metric == metric);
        figure.map_or("", |figure| figure.unit)
    }

    /// The value of a figure, if it was measured.
    pub(crate) fn value(&self, phase: &str, metric: &str) -> Option<f64> {
        let figure = self.figures.iter().find(|figure| figure.name() == phase && figure.metric == metric)?;
        Some(median(&figure.runs))
    }
}

/// Histories side by side, for people: each figure of every history, and the ratio of the last to the first.
pub(crate) fn side_by_side(reports: &[BenchReport]) -> String {
    let Some((first, others)) = reports.split_first() else { return String::new() };
    let sizes = reports.iter().map(|report| format!("{:>14}", report.events.unwrap_or_default()));
    let mut table = format!("{:<30}{}  ratio\n", "events", sizes.collect::<String>());
    // The ratios to ceilings repeat the figures.
    let figures = first
        .figures
        .iter()
        .filter(|figure| !figure.metric.contains("_of_") && !figure.metric.contains("_above_"));
    for Figure { phase, metric, unit, runs, .. } in figures {
        let one = median(runs);
        let mut line = format!("{:<30}{one:>14.3}", format!("{phase} {metric}, {unit}"));
        let mut last = None;
        for report in others {
            last = report.value(phase, metric);
            line.push_str(&last.map_or_else(|| format!("{:>14}", "-"), |value| format!("{value:>14.3}")));
        }
        let ratio = last.filter(|_| one != 0.0).map(|last| format!("{:>7.2}", last / one));
        table.push_str(line.as_str());
        table.push_str(&ratio.unwrap_or_default());
        table.push('\n');
    }
    table
}

/// The middle value; for an even number of values, the mean of the two middle ones.
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
    fn the_median_of_the_runs_is_computed() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn a_figure_has_a_stable_shape() {
        let mut report = BenchReport::default();
        report.add("W1", "p50", "µs", 410.0);
        report.add("W1", "p50", "µs", 400.12345);
        let mut figure = report.figures.pop().unwrap();
        figure.value = median(&figure.runs);
        assert_eq!(
            shapes::line(&figure).unwrap(),
            r#"{"phase":"W1","metric":"p50","value":405.0615,"unit":"µs","runs":[410.0,400.123]}"#
        );
        let mut report = BenchReport::of_history(1000);
        report.add("R3", "p50", "µs", 1.0);
        let line = shapes::line(&report.figures.pop().unwrap()).unwrap();
        assert!(line.starts_with(r#"{"phase":"R3","events":1000,"metric":"p50","#), "{line}");
    }

    #[test]
    fn histories_are_printed_side_by_side() {
        let (mut short, mut long) = (BenchReport::of_history(1000), BenchReport::of_history(10_000));
        short.add("R3", "p50", "µs", 200.0);
        short.add("SN", "time", "ms", 1.0);
        long.add("R3", "p50", "µs", 300.0);
        let table = side_by_side(&[short, long]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["events", "1000", "10000", "ratio"]);
        assert_eq!(lines[1], ["R3", "p50,", "µs", "200.000", "300.000", "1.50"]);
        assert_eq!(lines[2], ["SN", "time,", "ms", "1.000", "-"]);
    }
}
