//! A scan over a table's rows at a point in time, in key order: layers and memtable merged.

use std::ops::Bound;

use crate::error::Result;
use crate::format::key::{Key, KeyType};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerScan, read_sort_key, sort_key};
use crate::table::memtable;
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::row_fold::RowVersion;
use crate::table::table_state::TableState;
use crate::work;

/// A scan over the rows of a range of keys at a point in time, in key order. Deleted rows are included.
pub(super) struct TableScan<'a, I> {
    state: &'a TableState,
    last: EventId,
    sources: MergingCursor<RowSource<I>>,
}

/// The rows of the layers, or the keys of the memtable.
enum RowSource<I> {
    Layers {
        scan: LayerScan,
        key_type: KeyType,
        /// The key of the row that the scan is on, and its sort key.
        next: Option<(Key, Vec<u8>)>,
    },
    Memtable {
        keys: I,
        next: Option<Key>,
    },
}

impl<I> SortedSource for RowSource<I> {
    type Key = Key;

    fn key(&self) -> Option<&Key> {
        match self {
            RowSource::Layers { next, .. } => next.as_ref().map(|(key, _)| key),
            RowSource::Memtable { next, .. } => next.as_ref(),
        }
    }
}

/// Opens a scan over the rows of a range of keys after a commit. Layers are read from the range's start on and not
/// bounded at its end: the caller stops.
pub(super) fn open<'a>(
    state: &'a TableState,
    key_type: KeyType,
    seq: u64,
    range: (Bound<&'a Key>, Bound<&'a Key>),
) -> Result<TableScan<'a, impl Iterator<Item = Key> + 'a>> {
    let mut sources = Vec::with_capacity(2);
    let is_empty = memtable::is_empty_range(range);
    if !is_empty {
        let mut scan = state.layers.scan(seq, &start_bytes(range.0))?;
        let next = next_key(&mut scan, key_type)?;
        sources.push(RowSource::Layers { scan, key_type, next });
    }
    if !is_empty && seq >= state.layers.end() {
        let mut keys = state.memtable.keys(range, key_type);
        let next = keys.next();
        sources.push(RowSource::Memtable { keys, next });
    }
    Ok(TableScan { state, last: EventId::end_of(seq), sources: MergingCursor::new(sources) })
}

impl<I: Iterator<Item = Key>> TableScan<'_, I> {
    /// Returns the next key, and the row as its last event left it; no row if it has no event yet at the point in time.
    pub(super) fn next_row(&mut self) -> Result<Option<(Key, Option<RowVersion>)>> {
        work::step(16)?;
        let Some(key) = self.sources.key().cloned() else { return Ok(None) };
        let mut row = None;
        for source in self.sources.sources_at(&key) {
            match source {
                RowSource::Layers { scan, key_type, next } => {
                    if let Some((_, bytes)) = next {
                        row = scan.take(bytes)?;
                    }
                    *next = next_key(scan, *key_type)?;
                }
                RowSource::Memtable { keys, next } => {
                    let base = row.as_ref().and_then(|row: &RowVersion| row.document.as_ref());
                    if let Some(newer) = self.state.memtable.row_over(&key, self.last, base)? {
                        row = Some(newer);
                    }
                    *next = keys.next();
                }
            }
        }
        Ok(Some((key, row)))
    }
}

fn next_key(scan: &mut LayerScan, key_type: KeyType) -> Result<Option<(Key, Vec<u8>)>> {
    let Some(bytes) = scan.key() else { return Ok(None) };
    Ok(Some((read_sort_key(&bytes, key_type)?, bytes)))
}

/// The bytes at which the sort keys of a range begin.
fn start_bytes(start: Bound<&Key>) -> Vec<u8> {
    match start {
        Bound::Included(key) | Bound::Excluded(key) => sort_key(key),
        Bound::Unbounded => Vec::new(),
    }
}
