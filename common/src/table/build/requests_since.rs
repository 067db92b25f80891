//! Which request ids a merge or a compaction keeps.

use crate::format::snapshot::RequestEntry;

/// The oldest request that is kept. A request is kept if neither bound excludes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestsSince {
    /// Requests of this commit and later ones are kept,
    pub seq: u64,
    /// if they were made at this time, in milliseconds since 1970, or later.
    pub time_ms: u64,
}

impl RequestsSince {
    /// Whether a request is kept.
    pub fn keeps(&self, seq: u64, request: &RequestEntry) -> bool {
        seq >= self.seq && request.time_ms >= self.time_ms
    }
}
