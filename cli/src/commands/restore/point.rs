//! The point in time to which a database is restored, and whether it is relative to the present time.

use driftdb_common::bucket::restore::RestoreRequest;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser::{self, ParsedPoint};
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::point_in_time::{CommitBound, PointInTime};

use crate::args::GlobalArgs;
use crate::exit::{CliResult, Failure};
use crate::render;

const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A point in time to restore to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RestorePoint {
    /// The last commit to restore; `None` for the newest.
    bound: Option<CommitBound>,
    /// The present time, if the point is relative to it.
    relative_to: Option<u64>,
}

impl RestorePoint {
    /// The request to restore to this point, which the user wrote as `text`.
    pub(crate) fn request(self, text: &str) -> RestoreRequest<'_> {
        let RestorePoint { bound, relative_to } = self;
        RestoreRequest { point: text, bound, is_clone: false, relative_to }
    }
}

/// Parses the point in time of an option; `None` is the newest commit.
pub(crate) fn parse_bound(point: Option<&str>, global: &GlobalArgs) -> CliResult<RestorePoint> {
    let now_ms = now_ms();
    let Some(text) = point else { return Ok(RestorePoint { bound: None, relative_to: Some(now_ms) }) };
    let (bound, note) = bound_at(text, now_ms, global)?;
    render::note_all(note.as_slice());
    // Only a relative point resolves to a different commit a day later.
    let is_relative = bound.is_none() || bound_at(text, now_ms + DAY_MS, global)?.0 != bound;
    Ok(RestorePoint { bound, relative_to: is_relative.then_some(now_ms) })
}

/// The last commit of a point in time if the present time is `now_ms`, and the parser's note on it.
fn bound_at(
    text: &str,
    now_ms: u64,
    global: &GlobalArgs,
) -> CliResult<(Option<CommitBound>, Option<String>)> {
    let clock = LocalClock::in_zone(global.tz.as_deref().unwrap_or_default(), now_ms)?;
    let parsed = parser::parse_point(text, &clock).map_err(|error| Failure::in_text(error, text))?;
    let ParsedPoint { point, note } = parsed;
    let bound = match point {
        PointInTime::Now => None,
        // No commit is newer than this one, so that only times are left to look up.
        point => Some(point.bound(u64::MAX, clock.now_ms())?),
    };
    Ok((bound, note))
}
