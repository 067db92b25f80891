//! The rows of a memtable's segment by an indexed value.

use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::path::Path;
use crate::format::sortkey;
use crate::table::memtable::sorted_set::SortedSet;

/// Rows by an indexed value.
#[derive(Debug)]
pub(super) struct ValueIndex {
    path: Path,
    /// The value's bytes, then the row's sort key. Entries are never removed: readers at older points in time need them.
    pub candidates: SortedSet,
}

impl ValueIndex {
    /// An empty index on a path of a schema.
    pub(super) fn new(path: &str) -> ValueIndex {
        ValueIndex { path: Path::of_index(path), candidates: SortedSet::default() }
    }

    /// Makes the row a candidate for the value that an event writes to the path. A PATCH that does not write the path
    /// keeps the row's value, which has made the row a candidate before. Returns an estimate of the bytes that this takes. `buffer`
    /// is overwritten.
    pub(super) fn add(&self, key: &Key, payload: Option<&Document>, buffer: &mut Vec<u8>) -> usize {
        let value = payload.and_then(|payload| payload.get(&self.path).ok().flatten());
        // The writer has refused values that cannot be read.
        let Some(scalar) = value.and_then(|value| sortkey::scalar_of(value).ok().flatten()) else { return 0 };
        buffer.clear();
        sortkey::write_scalar(buffer, scalar);
        sortkey::write_key(buffer, key);
        self.candidates.insert(buffer);
        SortedSet::entry_bytes(buffer)
    }
}
