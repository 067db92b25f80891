//! What is known of a metric before anything is measured: its name, type, unit, labels and help text.

/// How the value of a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MetricKind {
    /// Only grows, until the daemon starts again.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts measurements up to each of these bounds.
    Histogram(&'static [f64]),
}

/// The unit of a metric, with which its name ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricUnit {
    /// A number of things, or a seq.
    None,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// The daemons that have a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonKind {
    /// Both daemons.
    Both,
    /// The writer.
    Writer,
    /// The reader.
    Reader,
}

/// A label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetricLabel {
    /// Its name.
    pub name: &'static str,
    /// Its values. Empty if they come from another closed set, such as the methods of the API.
    pub values: &'static [&'static str],
}

/// What is known of a metric before anything is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MetricSpec {
    /// The name in the Prometheus text format.
    pub name: &'static str,
    /// How the value behaves.
    pub kind: MetricKind,
    /// The unit.
    pub unit: MetricUnit,
    /// The daemons that have it.
    pub daemon: DaemonKind,
    /// The labels.
    pub labels: &'static [MetricLabel],
    /// What it means.
    pub help: &'static str,
    /// Whether a scrape can lack it: it needs a configuration, or something that has not happened.
    pub is_optional: bool,
}

impl MetricSpec {
    pub(super) const fn new(name: &'static str, kind: MetricKind, help: &'static str) -> MetricSpec {
        let (unit, daemon) = (MetricUnit::None, DaemonKind::Both);
        MetricSpec { name, kind, unit, daemon, labels: &[], help, is_optional: false }
    }

    pub(super) const fn counter(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec::new(name, MetricKind::Counter, help)
    }

    pub(super) const fn gauge(name: &'static str, help: &'static str) -> MetricSpec {
        MetricSpec::new(name, MetricKind::Gauge, help)
    }

    pub(super) const fn histogram(
        name: &'static str,
        bounds: &'static [f64],
        help: &'static str,
    ) -> MetricSpec {
        MetricSpec::new(name, MetricKind::Histogram(bounds), help)
    }

    pub(super) const fn in_seconds(self) -> MetricSpec {
        MetricSpec { unit: MetricUnit::Seconds, ..self }
    }

    pub(super) const fn in_bytes(self) -> MetricSpec {
        MetricSpec { unit: MetricUnit::Bytes, ..self }
    }

    pub(super) const fn of_writer(self) -> MetricSpec {
        MetricSpec { daemon: DaemonKind::Writer, ..self }
    }

    pub(super) const fn of_reader(self) -> MetricSpec {
        MetricSpec { daemon: DaemonKind::Reader, ..self }
    }

    pub(super) const fn labelled(self, labels: &'static [MetricLabel]) -> MetricSpec {
        MetricSpec { labels, ..self }
    }

    pub(super) const fn optional(self) -> MetricSpec {
        MetricSpec { is_optional: true, ..self }
    }
}

/// A label with a closed set of values.
pub(super) const fn one_of(name: &'static str, values: &'static [&'static str]) -> MetricLabel {
    MetricLabel { name, values }
}
