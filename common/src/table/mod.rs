//! What events mean: schemas, rows, their past, and what changed between two moments.

pub mod chain;
pub mod compaction;
pub mod diff;
pub mod doctor;
pub mod history;
pub mod index;
pub mod moments;
pub mod operation;
pub mod overlay;
pub mod schema;
pub mod shelf;
pub mod snapshot;
pub mod state;
pub mod thinning;
pub mod timeline;
pub mod verification;
pub mod view;

/// A time in milliseconds since 1970 as RFC 3339 has it, in UTC: `2026-01-31T12:00:00.000Z`.
pub fn format_time(time_ms: u64) -> String {
    let timestamp = i64::try_from(time_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.unwrap_or(jiff::Timestamp::MAX).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
