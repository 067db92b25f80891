//! Guards commit times against a clock that jumps ahead.
//!
//! A commit's time can never be taken back: after one commit under a clock that is years ahead, all later commits have that time
//! until the years have passed, request ids are forgotten, and retention discards history. So a jump of the clock needs a
//! person's word. While the writer runs, the monotonic clock says how far the time of day can have come. At its start, the last
//! commit's time and the last time that a writer saw (`clock.json`) say from where. A database can rest for longer than the limit
//! while no writer runs: then the first one to open it asks once. A clock that goes back is harmless: times never decrease (I2).

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::ClockRecord;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::service::clock::Clock;
use driftdb_common::storage::clock_record;
use driftdb_common::storage::wal::appender::Log;
use driftdb_common::table::format_time;
use driftdb_common::table::operation::CommitOptions;
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::vital::VitalPart;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the clock is compared while no commit does so.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How often a running writer records the time. With a short limit, a quarter of the limit.
const RECORD_INTERVAL_MS: u64 = 60 * 60 * 1000;
/// A record that is younger than this is not replaced when the writer opens or closes the database.
const RECORD_AGE_MS: u64 = 60 * 1000;

/// Compares the time of day with the monotonic clock.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    clock: Arc<dyn Clock>,
    /// The longest jump that needs no confirmation, in milliseconds; `None` to trust the clock.
    limit_ms: Option<u64>,
    trusted: Mutex<TrustedTime>,
    /// Whether the clock is within the limit.
    is_steady: watch::Sender<bool>,
    files: TableFiles,
    term: u64,
}

/// The last time of day that was trusted, and the monotonic clock at that moment.
#[derive(Debug, Clone, Copy)]
struct TrustedTime {
    wall_ms: u64,
    monotonic: Duration,
    /// The time in `clock.json`.
    recorded_ms: u64,
}

/// What the clocks showed at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClockReading {
    /// The time of day.
    pub(crate) now_ms: u64,
    /// The time that the clock should show.
    expected_ms: u64,
    /// The latest time that a commit may get without confirmation.
    latest_ms: u64,
}

impl ClockReading {
    /// Fails if the clock has jumped.
    pub(crate) fn check(&self) -> Result<u64> {
        if self.now_ms > self.latest_ms { Err(self.jump_error()) } else { Ok(self.now_ms) }
    }

    /// Fails if a commit with these options would get a time that is not trusted.
    pub(crate) fn check_commit(&self, options: &CommitOptions) -> Result<()> {
        match options.commit_time_ms {
            Some(time) if time <= self.latest_ms => Ok(()),
            // A time after the clock's is refused as such, by the rule of imported times.
            Some(time) if time > self.now_ms => Ok(()),
            Some(_) => Err(self.jump_error()),
            None => self.check().map(drop),
        }
    }

    /// The time that the clock should show, if it has jumped.
    pub(crate) fn expected_ms(&self) -> Option<u64> {
        (self.now_ms > self.latest_ms).then_some(self.expected_ms)
    }

    fn jump_error(&self) -> Error {
        let ahead = Duration::from_millis(self.now_ms.saturating_sub(self.expected_ms));
        let (now, expected) = (format_time(self.now_ms), format_time(self.expected_ms));
        let message = format!(
            "the system clock shows {now}, which is {} days after {expected}, the time by the last commit, the last writer and the \
             monotonic clock: a commit would fix that time for ever; correct the clock, or, if it is right, confirm it with \
             `driftctl clock confirm`",
            ahead.as_secs() / 86_400
        );
        Error::new(Reason::ClockJumped, message).with("clock_time", now).with("expected_time", expected)
    }
}

impl ClockGuard {
    /// Guards a log that was just opened. `limit` is the longest jump that needs no confirmation.
    pub(crate) fn open(
        clock: Arc<dyn Clock>,
        limit: Option<Duration>,
        files: &TableFiles,
        log: &Log,
    ) -> Result<ClockGuard> {
        let now_ms = clock.now_ms();
        let recorded_ms = clock_record::read(&*files.fs, &files.dir)?.map(|record| record.seen_ms);
        // Before its first incarnation nothing recorded the time that a writer saw, and the last commit can be old.
        let is_first = log.lineage().entries().len() <= 1;
        let wall_ms = match recorded_ms {
            None if is_first => now_ms,
            recorded_ms => recorded_ms.unwrap_or(0).max(log.published().1),
        };
        let trusted =
            TrustedTime { wall_ms, monotonic: clock.monotonic(), recorded_ms: recorded_ms.unwrap_or(0) };
        let guard = ClockGuard {
            clock,
            limit_ms: limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            trusted: Mutex::new(trusted),
            is_steady: watch::Sender::new(true),
            files: files.clone(),
            term: log.term(),
        };
        if let Err(error) = guard.read().check() {
            tracing::error!(%error, "commits are refused");
        }
        // A full disk must not keep the database from opening.
        guard.record(RECORD_AGE_MS).unwrap_or_else(warn_not_recorded);
        Ok(guard)
    }

    /// Reads the clocks.
    pub(crate) fn read(&self) -> ClockReading {
        let mut trusted = self.trusted.lock();
        let (now_ms, monotonic) = (self.clock.now_ms(), self.clock.monotonic());
        let passed = monotonic.saturating_sub(trusted.monotonic).as_millis();
        let expected_ms = trusted.wall_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX));
        let latest_ms = match self.limit_ms {
            Some(limit_ms) if !is_planted(PlantedBug::ClockTrusted) => expected_ms.saturating_add(limit_ms),
            _ => u64::MAX,
        };
        let is_steady = now_ms <= latest_ms;
        if is_steady {
            // If the clock went back, the time that has passed still counts: setting it right later is no jump.
            *trusted = TrustedTime { wall_ms: now_ms.max(expected_ms), monotonic, ..*trusted };
        }
        self.is_steady.send_if_modified(|steady| std::mem::replace(steady, is_steady) != is_steady);
        ClockReading { now_ms, expected_ms, latest_ms }
    }

    /// Trusts the time that the clock shows, if it is about `time_ms`. Returns it, and whether commits were refused.
    pub(crate) fn confirm(&self, time_ms: Option<u64>) -> Result<(u64, bool)> {
        let reading = self.read();
        let limit_ms = self.limit_ms.unwrap_or(u64::MAX);
        if let Some(time_ms) = time_ms.filter(|time_ms| reading.now_ms.abs_diff(*time_ms) > limit_ms) {
            let message = format!(
                "cannot confirm {}: the writer's clock shows {}; correct its clock, or confirm that time",
                format_time(time_ms),
                format_time(reading.now_ms)
            );
            return Err(Error::new(Reason::ClockJumped, message));
        }
        let was_refusing = reading.expected_ms().is_some();
        {
            let mut trusted = self.trusted.lock();
            let wall_ms = reading.now_ms.max(trusted.wall_ms);
            *trusted = TrustedTime { wall_ms, monotonic: self.clock.monotonic(), ..*trusted };
        }
        self.read();
        tracing::warn!(time = format_time(reading.now_ms), "the time of the system clock was confirmed");
        self.record(0)?;
        Ok((reading.now_ms, was_refusing))
    }

    /// Records the time in `clock.json` if it is trusted, and if the record is at least `age_ms` old.
    pub(crate) fn record(&self, age_ms: u64) -> Result<()> {
        if self.read().check().is_err() {
            return Ok(());
        }
        let trusted = *self.trusted.lock();
        if trusted.wall_ms < trusted.recorded_ms.saturating_add(age_ms) {
            return Ok(());
        }
        let record = ClockRecord { seen_ms: trusted.wall_ms };
        clock_record::write(&*self.files.fs, &self.files.dir, self.term, record)?;
        self.trusted.lock().recorded_ms = trusted.wall_ms;
        Ok(())
    }

    /// Records the time at the end of the writer.
    pub(crate) fn record_at_close(&self) {
        self.record(RECORD_AGE_MS).unwrap_or_else(warn_not_recorded);
    }

    /// Whether the clock is within the limit, from now on.
    pub(crate) fn steadiness(&self) -> watch::Receiver<bool> {
        self.is_steady.subscribe()
    }

    /// Compares and records the time until `shutdown` is cancelled, because a writer can be without commits for long.
    pub(crate) async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let _vital = VitalPart::new("the clock guard");
        let age_ms = self.limit_ms.map_or(RECORD_INTERVAL_MS, |limit| RECORD_INTERVAL_MS.min(limit / 4));
        // What was found when the database was opened is logged.
        let mut was_steady = self.read().check().is_ok();
        while shutdown.run_until_cancelled(tokio::time::sleep(CHECK_INTERVAL)).await.is_some() {
            let reading = self.read();
            match reading.check() {
                Err(error) if was_steady => tracing::error!(%error, "commits are refused"),
                Ok(_) if !was_steady => tracing::info!("the clock is trusted: commits are accepted"),
                _ => {}
            }
            was_steady = reading.check().is_ok();
            let recorded_ms = self.trusted.lock().recorded_ms;
            if was_steady && reading.now_ms >= recorded_ms.saturating_add(age_ms) {
                let this = Arc::clone(&self);
                let recorded = tokio::task::spawn_blocking(move || this.record(age_ms)).await;
                recorded.unwrap_or(Ok(())).unwrap_or_else(warn_not_recorded);
            }
        }
    }
}

/// Without the record, the next writer counts from an older time and may ask for a confirmation.
#[expect(clippy::needless_pass_by_value, reason = "the signature that unwrap_or_else calls")]
fn warn_not_recorded(error: Error) {
    tracing::warn!(%error, "cannot record the time in clock.json");
}
