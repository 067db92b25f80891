//! The rows of a memtable's segment by an indexed value.

use crate::format::event::EventType;
use crate::format::index_columns::IndexColumns;
use crate::format::sortkey;
use crate::table::memtable::event_slot::EventSlot;
use crate::table::memtable::sorted_set::SortedSet;

/// Rows by an indexed value.
#[derive(Debug)]
pub(super) struct ValueIndex {
    columns: IndexColumns,
    /// The value's bytes, then the row's sort key. Entries are never removed: readers at older points in time need them.
    pub candidates: SortedSet,
}

impl ValueIndex {
    /// An empty index on a path of a schema.
    pub(super) fn new(path: &str) -> ValueIndex {
        ValueIndex { columns: IndexColumns::of(path), candidates: SortedSet::default() }
    }

    /// Makes the row a candidate for the value that an event writes to the path. A PATCH that does not write the path
    /// keeps the row's value, which has made the row a candidate before. Returns an estimate of the bytes that this takes.
    pub(super) fn add(&self, event: &EventSlot) -> usize {
        let (Some(key), Some(payload)) = (&event.key, &event.payload) else { return 0 };
        let is_patch = event.kind == EventType::Patch;
        // The writer has refused values that cannot be read.
        let value = self.columns.value_of_event(payload, is_patch).ok().flatten();
        let Some(mut entry) = value else { return 0 };
        sortkey::write_key(&mut entry, key);
        self.candidates.insert(&entry);
        SortedSet::entry_bytes(&entry)
    }
}
