//! The rows after recent PATCHes, in a cache that all memtables share.
//!
//! A PATCH of some bytes can make a row of a megabyte. A memtable that kept the row after each PATCH would take a thousand times
//! the memory of the log that it holds, and neither the writer, which takes a snapshot when its log is long, nor anybody else would
//! see it. So a memtable keeps a row only if the events since the last kept row take as many bytes as the row. Those between are
//! here, where the total has a bound, or are folded again from the kept row before them.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::format::document::Document;
use crate::limits;

/// The approximate overhead of a cached row, in bytes.
const OVERHEAD_BYTES: u64 = 128;
/// The size of a row that the cache expects.
const EXPECTED_BYTES: usize = 4096;

/// The row after a PATCH.
#[derive(Debug, Clone)]
pub(super) struct PatchedRow {
    pub document: Document,
    /// The bytes of the row's events since the last row that the memtable keeps.
    pub unkept_bytes: usize,
}

/// A segment of a memtable, and the position of the PATCH in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PatchKey(u64, usize);

#[derive(Clone)]
struct RowWeighter;

impl Weighter<PatchKey, PatchedRow> for RowWeighter {
    fn weight(&self, _: &PatchKey, row: &PatchedRow) -> u64 {
        row.document.msgpack().len() as u64 + OVERHEAD_BYTES
    }
}

static ROWS: LazyLock<Cache<PatchKey, PatchedRow, RowWeighter>> = LazyLock::new(|| {
    let expected = limits::MERGED_ROWS_BYTES / EXPECTED_BYTES;
    Cache::with_weighter(expected, limits::MERGED_ROWS_BYTES as u64, RowWeighter)
});

static NEXT_SEGMENT: AtomicU64 = AtomicU64::new(0);

/// The number of a new segment, under which its rows are cached.
pub(super) fn next_segment() -> u64 {
    NEXT_SEGMENT.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn get(segment: u64, position: usize) -> Option<PatchedRow> {
    ROWS.get(&PatchKey(segment, position))
}

pub(super) fn insert(segment: u64, position: usize, row: PatchedRow) {
    ROWS.insert(PatchKey(segment, position), row);
}

/// The bytes in the cache.
#[cfg(test)]
pub(super) fn bytes() -> u64 {
    ROWS.weight()
}
