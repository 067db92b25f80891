//! The figures of `bench` for people: a line for each phase, with a bar for its ratio to its ceiling.

use super::report::BenchReport;
use crate::render::Style;

/// The width of a full bar, which is the ceiling.
const BAR: usize = 20;

/// The figures that have a column of their own, with its heading and the decimals.
const COLUMNS: [(&[&str], &str, usize); 4] = [
    (&["throughput"], "per second", 0),
    (&["p50", "send_to_delivered_p50"], "p50, µs", 0),
    (&["p99", "send_to_delivered_p99"], "p99, µs", 0),
    (&["server_cpu"], "CPU, µs/op", 1),
];

/// The ratio of a phase to its ceiling: the metric, and what it is called. The first that exists counts. A latency is shown as
/// the ceiling's part of it, so that a longer bar is better.
fn ratio(report: &BenchReport, phase: &str) -> Option<(f64, String)> {
    let of = |prefix: &str| {
        let figures = report.figures_of(phase);
        figures.into_iter().find_map(|(metric, value)| Some((metric.strip_prefix(prefix)?.to_owned(), value)))
    };
    let is_concurrent = phase.starts_with('W') || (phase.contains(".c") && !phase.ends_with(".c1"));
    match (is_concurrent, of("throughput_of_"), of("p50_of_")) {
        (false, _, Some((ceiling, value))) if value > 0.0 => Some((1.0 / value, ceiling)),
        (_, Some((ceiling, value)), _) => Some((value, ceiling)),
        _ => None,
    }
}

fn bar(ratio: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and BAR")]
    let full = (ratio.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "█".repeat(full), "░".repeat(BAR - full))
}

/// A table of all figures.
pub(crate) fn table(report: &BenchReport, style: Style) -> String {
    let mut text = String::new();
    let phases = report.phases();
    let (wide, narrow): (Vec<_>, Vec<_>) = phases.into_iter().partition(|phase| has_column(report, phase));
    if !wide.is_empty() {
        let mut heading = format!("{:<14}", "phase");
        for (_, name, _) in COLUMNS {
            heading.push_str(&format!("{name:>12}"));
        }
        heading.push_str("  of its ceiling");
        text.push_str(&style.bold(&heading));
        text.push('\n');
    }
    let mut others = Vec::new();
    for phase in wide {
        let mut line = format!("{phase:<14}");
        for (metrics, _, decimals) in COLUMNS {
            let value = metrics.iter().find_map(|metric| report.value(&phase, metric));
            line.push_str(
                &value.map_or_else(|| format!("{:>12}", ""), |value| format!("{value:>12.decimals$}")),
            );
        }
        if let Some((ratio, ceiling)) = ratio(report, &phase) {
            let painted = if ratio >= 0.9 { style.green(&bar(ratio)) } else { bar(ratio) };
            line.push_str(&format!("  {painted} {ratio:.2} of {ceiling}"));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    for phase in narrow {
        for (metric, value) in report.figures_of(&phase) {
            let unit = report.unit(&phase, &metric);
            others.push(format!("{:<30}{value:>14.2} {unit}", format!("{phase} {metric}")));
        }
    }
    if !others.is_empty() {
        text.push_str(&others.join("\n"));
        text.push('\n');
    }
    text
}

fn has_column(report: &BenchReport, phase: &str) -> bool {
    let mut metrics =
        COLUMNS.iter().flat_map(|(metrics, ..)| *metrics).filter(|metric| **metric != "server_cpu");
    metrics.any(|metric| report.value(phase, metric).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phase_has_a_line_and_a_bar_of_its_ratio() {
        let mut report = BenchReport::default();
        report.add("machine", "cores", "cores", 2.0);
        report.add("W2", "throughput", "ops/s", 12_000.0);
        report.add("W2", "p50", "µs", 410.0);
        report.add("W2", "throughput_of_log", "ratio", 0.5);
        report.add("R1.c1", "p50", "µs", 200.0);
        report.add("R1.c1", "throughput_of_echo", "ratio", 0.7);
        report.add("R1.c1", "p50_of_echo", "ratio", 1.25);
        let text = table(&report, Style::PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("phase"), "{text}");
        assert!(
            lines[1].starts_with("W2") && lines[1].ends_with("██████████░░░░░░░░░░ 0.50 of log"),
            "{text}"
        );
        assert!(lines[2].ends_with("████████████████░░░░ 0.80 of echo"), "{text}");
        assert_eq!(lines[3].split_whitespace().collect::<Vec<_>>(), ["machine", "cores", "2.00", "cores"]);
    }

    #[test]
    fn a_bar_never_leaves_its_box() {
        for (ratio, full) in [(-1.0, 0), (0.0, 0), (0.26, 5), (1.0, BAR), (7.0, BAR)] {
            assert_eq!(bar(ratio).chars().filter(|c| *c == '█').count(), full);
            assert_eq!(bar(ratio).chars().count(), BAR);
        }
    }
}
