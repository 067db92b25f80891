//! A segment of a memtable: a stretch of its events, with everything that finds them.
//!
//! A memtable is a list of segments. Only the newest one grows. A newer memtable after a snapshot takes over the segments that
//! have events after the snapshot, and drops the others with all their memory, instead of copying what remains.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;

use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::key::Key;
use crate::format::sortkey;
use crate::table::event_id::EventId;
use crate::table::memtable::append_list::{AppendList, CAPACITY};
use crate::table::memtable::event_slot::{EventSlot, RowLink, SlotPosition};
use crate::table::memtable::merged_rows::{self, PatchedRow};
use crate::table::memtable::row_table::RowTable;
use crate::table::memtable::sorted_set::SortedSet;
use crate::table::memtable::value_index::ValueIndex;
use crate::table::table_counts::TableCounts;

/// A segment with this many bytes takes no more events, so that one that is kept for its newest events alone holds little else.
const SEGMENT_BYTES: u64 = 16 << 20;
/// An estimate of the bytes that a row takes in the row table.
const ROW_BYTES: usize = 16;
/// An estimate of what the allocator adds to a key's text and counters.
const KEY_BYTES: usize = 24;

/// The segment's indexes by path.
type Indexes = BTreeMap<String, Arc<ValueIndex>>;

/// A stretch of the memtable's events.
#[derive(Debug)]
pub(super) struct MemtableSegment {
    number: u64,
    /// The table's counts before the first event.
    base: TableCounts,
    events: AppendList<EventSlot>,
    rows: RowTable,
    /// The sort keys of the rows.
    pub keys: SortedSet,
    indexes: RwLock<Arc<Indexes>>,
    bytes: AtomicU64,
    has_patches: AtomicBool,
}

impl MemtableSegment {
    /// An empty segment.
    pub(super) fn new<'a>(base: TableCounts, indexes: impl Iterator<Item = &'a String>) -> MemtableSegment {
        let indexes = indexes.map(|path| (path.clone(), Arc::new(ValueIndex::new(path)))).collect();
        MemtableSegment {
            number: merged_rows::next_segment(),
            base,
            events: AppendList::default(),
            rows: RowTable::default(),
            keys: SortedSet::default(),
            indexes: RwLock::new(Arc::new(indexes)),
            bytes: AtomicU64::new(0),
            has_patches: AtomicBool::new(false),
        }
    }

    /// The events, in order.
    pub(super) fn events(&self) -> &AppendList<EventSlot> {
        &self.events
    }

    /// An estimate of the bytes that the segment takes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether an event is a PATCH.
    pub(super) fn has_patches(&self) -> bool {
        self.has_patches.load(Ordering::Acquire)
    }

    /// Whether the segment takes no more events.
    pub(super) fn is_full(&self) -> bool {
        self.events.len() >= CAPACITY || self.bytes() >= SEGMENT_BYTES
    }

    /// The last event's id; the least id if there is none.
    pub(super) fn last_id(&self) -> EventId {
        self.events.last().map_or(EventId::default(), EventSlot::id)
    }

    /// The table's counts after the event at a position.
    pub(super) fn counts_after(&self, slot: &EventSlot) -> TableCounts {
        TableCounts { events: self.base.events + u64::from(slot.events), rows: slot.rows, last_seq: slot.seq }
    }

    /// The table's counts after the newest event.
    pub(super) fn newest_counts(&self) -> TableCounts {
        self.events.last().map_or(self.base, |slot| self.counts_after(slot))
    }

    /// The segment's events up to and including the newest one, as `events` of a slot counts them.
    pub(super) fn event_count(&self) -> u32 {
        self.events.last().map_or(0, |slot| slot.events)
    }

    /// The position of a row's newest event here, if the row has one.
    pub(super) fn newest(&self, hash: u64, key: &Key) -> Option<usize> {
        self.rows.find(hash, |at| self.is_of_row(at, key))
    }

    fn is_of_row(&self, at: usize, key: &Key) -> bool {
        self.events.get(at).is_some_and(|slot| slot.key.as_ref() == Some(key))
    }

    /// From an event of a row back, the first for which `holds` is true, if it is true for all of the row's events before it.
    pub(super) fn seek_back(&self, from: usize, holds: impl Fn(&EventSlot) -> bool) -> Option<usize> {
        let mut at = from;
        loop {
            let slot = self.events.get(at)?;
            if holds(slot) {
                return Some(at);
            }
            let jump = slot.link.jump.get();
            let jumps = jump.filter(|jump| self.events.get(*jump).is_some_and(|slot| !holds(slot)));
            at = jumps.or(slot.link.before.get())?;
        }
    }

    /// Appends an event; gives it back if the segment is full.
    pub(super) fn push(&self, hash: u64, mut slot: EventSlot) -> Result<usize, Box<EventSlot>> {
        let Some(key) = slot.key.clone() else {
            self.bytes.fetch_add(slot.bytes() as u64, Ordering::Relaxed);
            return self.events.push(slot).map_err(Box::new);
        };
        if slot.kind == EventType::Patch {
            // Before a reader can see the event.
            self.has_patches.store(true, Ordering::Release);
        }
        let before = self.newest(hash, &key);
        let known = before.and_then(|at| self.events.get(at)?.key.clone());
        let is_new = known.is_none();
        let mut bytes = slot.bytes() + self.index(&slot);
        slot.link = self.link_after(before);
        // The row's events share the key.
        slot.key = Some(known.unwrap_or_else(|| key.clone()));
        let position = self.events.push(slot).map_err(Box::new)?;
        if is_new {
            let mut entry = Vec::new();
            sortkey::write_key(&mut entry, &key);
            bytes += ROW_BYTES + KEY_BYTES + entry.len() + SortedSet::entry_bytes(&entry);
            self.keys.insert(&entry);
        }
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // A list holds less than 2^16 events.
        let number = u32::try_from(position).unwrap_or(u32::MAX);
        self.rows.set(hash, number, |at| self.is_of_row(at, &key));
        Ok(position)
    }

    fn link_after(&self, before: Option<usize>) -> RowLink {
        let link = |at: SlotPosition| Some(self.events.get(at.get()?)?.link);
        let before = SlotPosition::new(before);
        let Some(last) = link(before) else { return RowLink { depth: 1, ..RowLink::default() } };
        // Two jumps of the same length become one of twice the length.
        let twice = link(last.jump)
            .and_then(|first| Some((first, link(first.jump)?)))
            .filter(|(first, second)| last.depth - first.depth == first.depth - second.depth);
        RowLink { before, jump: twice.map_or(before, |(first, _)| first.jump), depth: last.depth + 1 }
    }

    fn index(&self, event: &EventSlot) -> usize {
        self.indexes.read().values().map(|index| index.add(event)).sum()
    }

    /// Prepares for reads only: no more events will be appended.
    pub(super) fn seal(&self) {
        self.keys.seal();
        self.indexes().values().for_each(|index| index.candidates.seal());
    }

    /// The indexes by path.
    pub(super) fn indexes(&self) -> Arc<Indexes> {
        Arc::clone(&self.indexes.read())
    }

    /// Keeps indexes on exactly these paths from now on. New indexes also cover the events that are already here.
    pub(super) fn set_indexes(&self, paths: &[String]) {
        let known = self.indexes();
        let mut next = Indexes::new();
        for path in paths {
            let index = known.get(path).cloned().unwrap_or_else(|| {
                let index = ValueIndex::new(path);
                let slots = (0..self.events.len()).filter_map(|at| self.events.get(at));
                let bytes: usize = slots.map(|event| index.add(event)).sum();
                self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                Arc::new(index)
            });
            next.insert(path.clone(), index);
        }
        *self.indexes.write() = Arc::new(next);
    }

    /// The row after a PATCH, as far as it is known.
    pub(super) fn merged(&self, position: usize) -> Option<PatchedRow> {
        match self.events.get(position)?.merged.get() {
            Some(document) => Some(PatchedRow { document: Document::clone(document), unkept_bytes: 0 }),
            None => merged_rows::get(self.number, position),
        }
    }

    /// Keeps the row after a PATCH if the row's events since the last kept row take as many bytes. Else it is cached.
    pub(super) fn keep_merged(&self, position: usize, row: PatchedRow) {
        let Some(slot) = self.events.get(position) else { return };
        let bytes = row.document.msgpack().len();
        if row.unkept_bytes < bytes {
            merged_rows::insert(self.number, position, row);
        } else if slot.merged.set(Box::new(row.document)).is_ok() {
            let bytes = bytes + size_of::<Document>() + KEY_BYTES;
            self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }
}
