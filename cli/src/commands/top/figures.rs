//! What one look at the daemons finds, and the rates between two looks.

use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use serde::Serialize;

use crate::shapes;

/// What a daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum DaemonState {
    /// A writer that takes writes.
    Active,
    /// A writer that waits for another one.
    Standby,
    /// A reader that answers.
    Up,
    /// Nothing answers.
    Down,
}

/// One daemon at one moment.
#[derive(Debug, Clone)]
pub(super) struct DaemonFigures {
    pub(super) role: &'static str,
    pub(super) url: String,
    pub(super) state: DaemonState,
    pub(super) error: String,
    pub(super) version: String,
    pub(super) at: Instant,
    pub(super) seq: u64,
    /// The time of that commit, of a writer.
    pub(super) time: String,
    /// The events of all tables, of a writer.
    pub(super) events: Option<u64>,
    pub(super) calls: u64,
    pub(super) connections: u64,
    pub(super) resident_bytes: u64,
    pub(super) uptime: Duration,
    /// How far a reader is behind.
    pub(super) lag_commits: Option<u64>,
    /// `None` if it is not known.
    pub(super) lag: Option<Duration>,
    pub(super) watchers: Option<u64>,
    pub(super) queries: Option<u64>,
    /// The jobs of a writer, a line for each.
    pub(super) jobs: Vec<String>,
    /// What the daemon fails to do.
    pub(super) problems: Vec<String>,
}

/// What a daemon did in each second between two looks; `None` if that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct DaemonRates {
    pub(super) commits: Option<f64>,
    pub(super) events: Option<f64>,
    pub(super) calls: Option<f64>,
}

impl DaemonFigures {
    fn empty(role: &'static str, url: String, state: DaemonState) -> DaemonFigures {
        DaemonFigures {
            role,
            url,
            state,
            error: String::new(),
            version: String::new(),
            at: Instant::now(),
            seq: 0,
            time: String::new(),
            events: None,
            calls: 0,
            connections: 0,
            resident_bytes: 0,
            uptime: Duration::ZERO,
            lag_commits: None,
            lag: None,
            watchers: None,
            queries: None,
            jobs: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// A daemon that does not answer, or a standby.
    fn without_answer(role: &'static str, url: String, error: &Error) -> DaemonFigures {
        let state = match error.reason() {
            Reason::Standby => DaemonState::Standby,
            _ => DaemonState::Down,
        };
        DaemonFigures { error: error.message().to_owned(), ..DaemonFigures::empty(role, url, state) }
    }

    fn with_process(self, process: Option<v1::ProcessState>) -> DaemonFigures {
        let v1::ProcessState { uptime, connections, calls, resident_bytes } = process.unwrap_or_default();
        let uptime = Duration::try_from(uptime.unwrap_or_default()).unwrap_or_default();
        DaemonFigures { uptime, connections, calls, resident_bytes, ..self }
    }

    /// A writer.
    pub(super) fn of_writer(url: String, found: Result<v1::WriterServiceStatusResponse>) -> DaemonFigures {
        let found = match found {
            Ok(found) => found,
            Err(error) => return DaemonFigures::without_answer("writer", url, &error),
        };
        let mut problems = found.problems;
        problems
            .extend(found.disk.into_iter().filter(|disk| disk.full_since.is_some()).map(|disk| disk.message));
        if found.clock_expected.is_some() {
            problems.push("commits are refused because of the clock: see driftctl clock".to_owned());
        }
        DaemonFigures {
            version: found.version,
            seq: found.last_seq,
            // A time that cannot be shown is not worth the end of the view.
            time: shapes::time(found.last_time.as_ref()).unwrap_or_default(),
            events: Some(found.tables.iter().map(|table| table.events).sum()),
            jobs: found.jobs.into_iter().map(job_line).collect(),
            problems,
            ..DaemonFigures::empty("writer", url, DaemonState::Active).with_process(found.process)
        }
    }

    /// A reader.
    pub(super) fn of_reader(url: String, found: Result<v1::ReaderServiceStatusResponse>) -> DaemonFigures {
        let found = match found {
            Ok(found) => found,
            Err(error) => return DaemonFigures::without_answer("reader", url, &error),
        };
        DaemonFigures {
            version: found.version,
            seq: found.header.unwrap_or_default().applied_seq,
            lag_commits: Some(found.lag_seqs),
            lag: found.lag.and_then(|lag| Duration::try_from(lag).ok()),
            watchers: Some(found.watchers),
            queries: Some(found.queries),
            problems: found.problems,
            ..DaemonFigures::empty("reader", url, DaemonState::Up).with_process(found.process)
        }
    }

    /// The rates since an earlier look. A daemon that was started again has none yet, and a table that was compacted or dropped takes its
    /// events along.
    pub(super) fn rates_since(&self, before: &DaemonFigures) -> DaemonRates {
        let elapsed = self.at.saturating_duration_since(before.at).as_secs_f64();
        let is_same = before.state == self.state && self.uptime >= before.uptime;
        let is_down = matches!(self.state, DaemonState::Down | DaemonState::Standby);
        if !is_same || is_down || elapsed <= 0.0 {
            return DaemonRates::default();
        }
        let rate = |now: u64, before: u64| now.checked_sub(before).map(|grown| as_float(grown) / elapsed);
        DaemonRates {
            commits: rate(self.seq, before.seq),
            events: self.events.zip(before.events).and_then(|(now, before)| rate(now, before)),
            calls: rate(self.calls, before.calls),
        }
    }
}

/// A count as a number to compute with. What is lost is far below what is shown.
pub(super) fn as_float(count: u64) -> f64 {
    count as f64
}

fn job_line(job: v1::Progress) -> String {
    let v1::Progress { job_id, description, done, total, unit, queued } = job;
    let far = match (queued, total) {
        (true, _) => "queued".to_owned(),
        (false, 0) => format!("{done} {unit}"),
        (false, total) => format!("{} % of {total} {unit}", done.saturating_mul(100) / total),
    };
    format!("{job_id}  {description}: {far}")
}

/// One daemon as a record.
#[derive(Debug, Serialize)]
pub(super) struct TopRecord<'a> {
    time: String,
    role: &'static str,
    url: &'a str,
    state: DaemonState,
    seq: u64,
    commits_per_s: Option<f64>,
    events_per_s: Option<f64>,
    calls_per_s: Option<f64>,
    lag_commits: Option<u64>,
    lag_ms: Option<u64>,
    watchers: Option<u64>,
    queries: Option<u64>,
    connections: u64,
    resident_bytes: u64,
    jobs: usize,
    problems: usize,
    error: &'a str,
}

impl<'a> TopRecord<'a> {
    /// The record of a daemon that was looked at `now`, in RFC 3339.
    pub(super) fn new(figures: &'a DaemonFigures, rates: DaemonRates, now: &str) -> TopRecord<'a> {
        let rounded = |rate: Option<f64>| rate.map(|rate| (rate * 10.0).round() / 10.0);
        let lag_ms = figures.lag.map(|lag| u64::try_from(lag.as_millis()).unwrap_or(u64::MAX));
        TopRecord {
            time: now.to_owned(),
            role: figures.role,
            url: &figures.url,
            state: figures.state,
            seq: figures.seq,
            commits_per_s: rounded(rates.commits),
            events_per_s: rounded(rates.events),
            calls_per_s: rounded(rates.calls),
            lag_commits: figures.lag_commits,
            lag_ms,
            watchers: figures.watchers,
            queries: figures.queries,
            connections: figures.connections,
            resident_bytes: figures.resident_bytes,
            jobs: figures.jobs.len(),
            problems: figures.problems.len(),
            error: &figures.error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(seq: u64, calls: u64, uptime_s: i64, at: Instant) -> DaemonFigures {
        let uptime = Some(prost_types::Duration { seconds: uptime_s, nanos: 0 });
        let found = v1::WriterServiceStatusResponse {
            last_seq: seq,
            tables: vec![v1::TableInfo { events: seq * 2, ..Default::default() }],
            process: Some(v1::ProcessState { calls, uptime, ..Default::default() }),
            ..Default::default()
        };
        DaemonFigures { at, ..DaemonFigures::of_writer("w".into(), Ok(found)) }
    }

    #[test]
    fn rates_are_what_has_grown_by_the_time_between() {
        let start = Instant::now();
        let (before, after) = (writer(10, 5, 100, start), writer(30, 6, 102, start + Duration::from_secs(2)));
        let rates = after.rates_since(&before);
        assert_eq!(rates, DaemonRates { commits: Some(10.0), events: Some(20.0), calls: Some(0.5) });
        // It was started again.
        let again = writer(30, 1, 1, start + Duration::from_secs(2));
        assert_eq!(again.rates_since(&before), DaemonRates::default());
        // An older copy was put back.
        let back = writer(3, 7, 102, start + Duration::from_secs(2));
        assert_eq!(back.rates_since(&before).commits, None);
        let down = DaemonFigures::of_writer("w".into(), Err(Error::new(Reason::Unreachable, "gone")));
        assert_eq!((down.state, down.rates_since(&before)), (DaemonState::Down, DaemonRates::default()));
        let waiting = DaemonFigures::of_writer("w".into(), Err(Error::new(Reason::Standby, "waits")));
        assert_eq!(waiting.state, DaemonState::Standby);
    }

    #[test]
    fn a_record_has_a_stable_shape() {
        let lag = Some(prost_types::Duration::default());
        let found = v1::ReaderServiceStatusResponse { lag_seqs: 3, lag, watchers: 2, ..Default::default() };
        let reader = DaemonFigures::of_reader("r".into(), Ok(found));
        let rates = DaemonRates { commits: Some(1.26), events: None, calls: Some(2.0) };
        assert_eq!(
            shapes::line(&TopRecord::new(&reader, rates, "now")).unwrap(),
            r#"{"time":"now","role":"reader","url":"r","state":"up","seq":0,"commits_per_s":1.3,"events_per_s":null,"calls_per_s":2.0,"lag_commits":3,"lag_ms":0,"watchers":2,"queries":0,"connections":0,"resident_bytes":0,"jobs":0,"problems":0,"error":""}"#
        );
    }

    #[test]
    fn a_job_has_a_line() {
        let job = |total, queued| {
            let unit = "rows".to_owned();
            job_line(v1::Progress {
                job_id: "j1".into(),
                description: "snapshot of t".into(),
                done: 5,
                total,
                unit,
                queued,
            })
        };
        assert_eq!(job(20, false), "j1  snapshot of t: 25 % of 20 rows");
        assert_eq!(job(0, false), "j1  snapshot of t: 5 rows");
        assert_eq!(job(20, true), "j1  snapshot of t: queued");
    }
}
