//! What events mean: schemas, rows, their history, and what changed between two points in time.

pub mod bounded_keys;
pub mod build;
pub mod candidate_keys;
pub mod check;
pub mod commit_times;
pub mod damaged_files;
pub mod diff;
pub mod event_id;
pub mod history;
pub mod history_candidates;
pub mod index_search;
pub mod layers;
pub mod log_tail;
pub mod memtable;
mod merging_cursor;
pub mod operation;
pub mod point_in_time;
pub mod row_events;
mod row_fold;
pub mod row_histories;
pub mod row_spans;
pub mod schema;
mod sort_start;
pub mod sound_layers;
pub mod state;
pub mod table_counts;
pub mod table_files;
mod table_scan;
mod table_state;
pub mod timeline;
pub mod value_range;
pub mod view;

use crate::format::rfc3339;

/// Formats a time in milliseconds since 1970 as RFC 3339, in UTC: `2026-01-31T12:00:00.000Z`.
pub fn format_time(time_ms: u64) -> String {
    rfc3339::format_millis(i64::try_from(time_ms).unwrap_or(i64::MAX))
}
