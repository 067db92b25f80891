//! The part of a table's log after its newest delta layer.

use std::sync::Arc;

use crate::format::manifest::Manifest;
use crate::storage::wal::cursor::{CursorPosition, LogCursor, SegmentSpan};
use crate::table::table_files::TableFiles;

/// How far a table's log may be read: the table's entry of HEAD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// The active segment.
    pub segment: u64,
    /// The number of durable bytes in it.
    pub bytes: u64,
    /// The last commit to read.
    pub seq: u64,
}

/// Returns a cursor over a table's log from the end of its newest delta layer on.
pub fn log_after(files: &TableFiles, manifest: &Manifest, limit: ReadLimit) -> LogCursor {
    let (name, id) = (&manifest.table, manifest.table_id);
    let mut cursor = LogCursor::new(Arc::clone(&files.fs), &files.dir, name, id);
    let position = manifest.deltas.last().map(|delta| delta.position);
    if let Some(position) = &position {
        cursor = cursor.starting_at(CursorPosition::from_log_position(position));
    }
    let is_before = |number: u64| position.is_some_and(|position| position.segment != number);
    for segment in manifest.segments.iter().skip_while(|segment| is_before(segment.number)) {
        let end = match segment.sealed {
            Some(seal) => seal.bytes,
            None if segment.number == limit.segment => limit.bytes,
            None => 0,
        };
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
    }
    cursor
}
