//! The properties of a commit that its events in a memtable share.

use crate::format::event::CommitMeta;

/// A commit's seq, time and meta.
#[derive(Debug)]
pub struct CommitInfo {
    /// The commit's seq.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it and why, if the commit says so.
    pub meta: Option<Box<CommitMeta>>,
}
