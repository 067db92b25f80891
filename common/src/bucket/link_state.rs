//! The state of a writer's bucket, as the writer knows it: what was shipped, what failed, who waits.

use std::time::{Duration, Instant};

use crate::bucket::bucket_options::{BucketAck, BucketOptions, BucketStatus};
use crate::bucket::shipper::ShipReport;
use crate::error::{Error, Reason, Result};
use crate::limits;

/// After how many intervals without a chunk the bucket is asked whether another writer has taken over.
const IDLE_INTERVALS_ASYNC: u32 = 10;
const IDLE_INTERVALS_SYNC: u32 = 100;
/// The shortest time between two warnings of the same.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How long a client waits before it retries while the bucket does not answer.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The state of a bucket, as its writer knows it.
#[derive(Debug)]
pub(super) struct LinkState {
    pub(super) report: Option<ShipReport>,
    /// When the bucket was last known to have everything that was published at that time.
    covered_at: Instant,
    /// Since when a commit waits at the gate.
    pub(super) waiting_since: Option<Instant>,
    /// When the last chunk for a commit was begun.
    pub(super) begun_at: Option<Instant>,
    problem: Option<String>,
    warned_at: Option<Instant>,
    /// When the bucket last showed that this process is its writer.
    pub(super) confirmed_at: Instant,
    /// Why this process is not the writer any more.
    pub(super) replaced: Option<Error>,
    pub(super) closing_since: Option<Instant>,
    /// When the log was closed.
    pub(super) ended_at: Option<Instant>,
}

impl LinkState {
    pub(super) fn new() -> LinkState {
        LinkState {
            report: None,
            covered_at: Instant::now(),
            waiting_since: None,
            begun_at: None,
            problem: None,
            warned_at: None,
            confirmed_at: Instant::now(),
            replaced: None,
            closing_since: None,
            ended_at: None,
        }
    }

    /// Notes that the bucket has everything that was published at some time. Returns the problem that this has ended.
    pub(super) fn note_shipped(&mut self, report: ShipReport, began: Instant) -> Option<String> {
        self.note_log_shipped(report, began);
        self.warned_at = None;
        self.problem.take()
    }

    /// Whether the link ends.
    pub(super) fn is_ended(&self) -> bool {
        self.ended_at.is_some()
    }

    /// Notes that the bucket has the whole log up to some time. Files can still be missing, and the problem with them stays.
    pub(super) fn note_log_shipped(&mut self, report: ShipReport, began: Instant) {
        self.report = Some(report);
        if report.is_new {
            self.confirmed_at = began;
        }
        self.covered_at = self.covered_at.max(began);
    }

    /// Notes that nothing could be shipped. Returns the lag if a warning is due.
    pub(super) fn note_failure(&mut self, error: &Error) -> Option<Duration> {
        self.problem = Some(error.message().to_owned());
        if error.reason() == Reason::Fenced {
            self.replaced = Some(error.clone());
        }
        if self.warned_at.is_some_and(|at| at.elapsed() < WARN_EVERY) {
            return None;
        }
        self.warned_at = Some(Instant::now());
        Some(self.covered_at.elapsed())
    }

    /// Whether to ask the bucket if another writer has taken over.
    pub(super) fn is_confirmation_due(&self, options: &BucketOptions) -> bool {
        let intervals = match options.ack {
            BucketAck::Async => IDLE_INTERVALS_ASYNC,
            BucketAck::Sync => IDLE_INTERVALS_SYNC,
        };
        let most = Duration::from_secs(limits::BUCKET_IDLE_CHECK_SECS);
        self.confirmed_at.elapsed() >= options.interval.saturating_mul(intervals).min(most)
    }

    /// How far the bucket is, if the last published commit is `durable`.
    pub(super) fn status(&self, url: &str, ack: BucketAck, durable: u64) -> BucketStatus {
        let last = self.report.map(|report| report.last).unwrap_or_default();
        let is_behind = last.seq < durable;
        BucketStatus {
            url: url.to_owned(),
            ack,
            last,
            chunk: self.report.map_or(0, |report| report.chunk),
            lag: if is_behind { self.covered_at.elapsed() } else { Duration::ZERO },
            problem: self.problem.clone(),
        }
    }

    /// Fails if a commit has waited at the gate for too long.
    pub(super) fn check_open(&self, url: &str, timeout: Duration) -> Result<()> {
        let waits = self.waiting_since.map(|since| since.elapsed()).filter(|time| *time >= timeout);
        let Some(time) = waits else { return Ok(()) };
        let why = self.problem.clone().unwrap_or_else(|| format!("the bucket {url} does not answer"));
        let message =
            format!("commits have waited for the bucket for {} seconds: {why}; retry later", time.as_secs());
        Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER))
    }
}
