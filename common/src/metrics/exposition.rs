//! The text of a scrape: Prometheus' own format, or OpenMetrics if the scraper asks for it.
//!
//! The two differ in little: OpenMetrics names a counter's family without `_total`, gives units, and ends with `# EOF`, so that a
//! scraper notices a text that was cut off.

use std::fmt::Write;

use crate::metrics::catalog::{self, MetricKind, MetricSpec, MetricUnit};
use crate::metrics::samples::{HistogramCounts, MetricSeries, SeriesValue};

/// A text format of scrapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpositionFormat {
    /// Prometheus' text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl ExpositionFormat {
    /// The format that a scraper prefers, by its header `Accept`.
    pub fn accepted(accept: Option<&str>) -> ExpositionFormat {
        let (mut open_metrics, mut plain) = (0, 0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1000, thousandths);
            if media.eq_ignore_ascii_case("application/openmetrics-text") {
                open_metrics = open_metrics.max(quality);
            } else if media.eq_ignore_ascii_case("text/plain") {
                plain = plain.max(quality);
            }
        }
        if open_metrics > 0 && open_metrics >= plain {
            ExpositionFormat::OpenMetrics
        } else {
            ExpositionFormat::Prometheus
        }
    }

    /// The header `Content-Type` of an answer.
    pub fn content_type(self) -> &'static str {
        match self {
            ExpositionFormat::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            ExpositionFormat::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// The thousandths of `0.5`; none of what is no number.
fn thousandths(quality: &str) -> u32 {
    let quality = quality.parse::<f64>().unwrap_or_default().clamp(0.0, 1.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1000")]
    let thousandths = (quality * 1000.0) as u32;
    thousandths
}

/// Writes the series of all metrics, in the order of the catalog.
pub(super) fn render(format: ExpositionFormat, series: &mut MetricSeries) -> String {
    let mut out = String::new();
    for metric in catalog::ALL {
        let Some(of_metric) = series.remove(metric.name) else { continue };
        write_head(&mut out, format, metric);
        for (labels, value) in of_metric {
            match value {
                SeriesValue::Number(number) if number == f64::INFINITY => {
                    let _ = writeln!(out, "{}{} +Inf", metric.name, Labels(metric, &labels, None));
                }
                SeriesValue::Number(number) => {
                    let _ = writeln!(out, "{}{} {number}", metric.name, Labels(metric, &labels, None));
                }
                SeriesValue::Histogram(counts) => {
                    write_histogram(&mut out, format, (metric, &labels), &counts)
                }
            }
        }
    }
    if format == ExpositionFormat::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn write_head(out: &mut String, format: ExpositionFormat, metric: &MetricSpec) {
    let is_open = format == ExpositionFormat::OpenMetrics;
    let family = if is_open { metric.name.trim_end_matches("_total") } else { metric.name };
    let kind = match metric.kind {
        MetricKind::Counter => "counter",
        MetricKind::Gauge => "gauge",
        MetricKind::Histogram(_) => "histogram",
    };
    // Neither has a line break or a backslash: a test checks the catalog.
    let _ = writeln!(out, "# HELP {family} {}", metric.help);
    let _ = writeln!(out, "# TYPE {family} {kind}");
    if is_open && let Some(unit) = unit_name(metric.unit) {
        let _ = writeln!(out, "# UNIT {family} {unit}");
    }
}

/// What a name ends with because of its unit.
fn unit_name(unit: MetricUnit) -> Option<&'static str> {
    match unit {
        MetricUnit::None => None,
        MetricUnit::Seconds => Some("seconds"),
        MetricUnit::Bytes => Some("bytes"),
    }
}

fn write_histogram(
    out: &mut String,
    format: ExpositionFormat,
    (metric, labels): (&MetricSpec, &[String]),
    counts: &HistogramCounts,
) {
    let name = metric.name;
    let mut total = 0;
    for (at, count) in counts.counts.iter().enumerate() {
        total += count;
        let bound =
            counts.bounds.get(at).map_or_else(|| "+Inf".to_owned(), |bound| bound_text(format, *bound));
        let labels = Labels(metric, labels, Some(&bound));
        let _ = writeln!(out, "{name}_bucket{labels} {total}");
    }
    let labels = Labels(metric, labels, None);
    let _ = writeln!(out, "{name}_sum{labels} {}", counts.sum);
    let _ = writeln!(out, "{name}_count{labels} {total}");
}

/// A bound as each format writes it: the same series must not have two names.
fn bound_text(format: ExpositionFormat, bound: f64) -> String {
    match format {
        ExpositionFormat::OpenMetrics => format!("{bound:?}"),
        ExpositionFormat::Prometheus => format!("{bound}"),
    }
}

/// The labels of a series, with the bound of a bucket if there is one.
struct Labels<'a>(&'a MetricSpec, &'a [String], Option<&'a str>);

impl std::fmt::Display for Labels<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Labels(metric, values, bound) = self;
        let mut separator = '{';
        let named = metric.labels.iter().map(|label| label.name).zip(values.iter().map(String::as_str));
        for (name, value) in named.chain(bound.map(|bound| ("le", bound))) {
            write!(f, "{separator}{name}=\"")?;
            for c in value.chars() {
                match c {
                    '\\' => f.write_str("\\\\")?,
                    '"' => f.write_str("\\\"")?,
                    '\n' => f.write_str("\\n")?,
                    c => f.write_char(c)?,
                }
            }
            f.write_char('"')?;
            separator = ',';
        }
        if separator == ',' { f.write_char('}') } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::samples::Samples;

    fn both(samples: impl Fn(&mut Samples)) -> [String; 2] {
        [ExpositionFormat::Prometheus, ExpositionFormat::OpenMetrics].map(|format| {
            let mut all = Samples::default();
            samples(&mut all);
            let mut series = all.into_series();
            series.entry(catalog::GROUP_COMMITS.name).or_default().insert(
                Vec::new(),
                SeriesValue::Histogram(HistogramCounts {
                    bounds: &[1.0, 2.5],
                    counts: vec![3, 0, 1],
                    sum: 9.0,
                }),
            );
            render(format, &mut series)
        })
    }

    #[test]
    fn each_format_is_written_as_its_specification_says() {
        let [prometheus, open_metrics] = both(|samples| {
            samples.set_with(&catalog::REFUSED, &["a\"\\\nb"], 4_u64);
            samples.set(&catalog::LAG_SECONDS, 0.5);
        });
        let help = |metric: &MetricSpec| metric.help;
        let expected = format!(
            "# HELP driftdb_refused_total {}\n# TYPE driftdb_refused_total counter\n\
             driftdb_refused_total{{limit=\"a\\\"\\\\\\nb\"}} 4\n\
             # HELP driftdb_group_commits {}\n# TYPE driftdb_group_commits histogram\n\
             driftdb_group_commits_bucket{{le=\"1\"}} 3\ndriftdb_group_commits_bucket{{le=\"2.5\"}} 3\n\
             driftdb_group_commits_bucket{{le=\"+Inf\"}} 4\ndriftdb_group_commits_sum 9\ndriftdb_group_commits_count 4\n\
             # HELP driftdb_lag_seconds {}\n# TYPE driftdb_lag_seconds gauge\ndriftdb_lag_seconds 0.5\n",
            help(&catalog::REFUSED),
            help(&catalog::GROUP_COMMITS),
            help(&catalog::LAG_SECONDS)
        );
        assert_eq!(prometheus, expected);
        let expected = expected
            .replace("# HELP driftdb_refused_total", "# HELP driftdb_refused")
            .replace("# TYPE driftdb_refused_total", "# TYPE driftdb_refused")
            .replace("le=\"1\"", "le=\"1.0\"")
            .replace("gauge\n", "gauge\n# UNIT driftdb_lag_seconds seconds\n");
        assert_eq!(open_metrics, expected + "# EOF\n");
    }

    #[test]
    fn the_scraper_chooses_the_format() {
        use ExpositionFormat::{OpenMetrics, Prometheus};
        for (accept, format) in [
            (None, Prometheus),
            (Some("*/*"), Prometheus),
            (Some("text/plain;version=0.0.4"), Prometheus),
            (Some("application/openmetrics-text"), OpenMetrics),
            (Some("application/openmetrics-text;q=0"), Prometheus),
            (
                Some(
                    "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
                ),
                OpenMetrics,
            ),
            (Some("text/plain;q=0.9, application/openmetrics-text;q=0.8"), Prometheus),
        ] {
            assert_eq!(ExpositionFormat::accepted(accept), format, "{accept:?}");
        }
    }

    #[test]
    fn the_catalog_keeps_the_rules_of_names() {
        let mut names = std::collections::HashSet::new();
        for metric in catalog::ALL {
            let name = metric.name;
            assert!(names.insert(name), "{name} twice");
            let is_word = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            assert!(is_word(name) && metric.labels.iter().all(|label| is_word(label.name)), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            let family = name.trim_end_matches("_total");
            for (unit, ends) in [(MetricUnit::Seconds, "_seconds"), (MetricUnit::Bytes, "_bytes")] {
                assert_eq!(family.ends_with(ends), metric.unit == unit, "{name}");
            }
            assert!(metric.help.len() > 10 && !metric.help.contains(['\n', '\\', '|']), "{name}");
            assert!(!metric.help.ends_with('.'), "{name}");
        }
    }
}
