//! A walk over the versions of a row in a memtable, from one event back.

use std::sync::Arc;

use crate::format::key::Key;
use crate::table::event_id::EventId;
use crate::table::memtable::event_slot::EventSlot;
use crate::table::memtable::segment::MemtableSegment;

/// The versions of a row after one event, up to and including another, newest first.
pub(super) struct VersionWalk<'a> {
    key: &'a Key,
    hash: u64,
    after: EventId,
    last: EventId,
    /// The segments that are still to be read, the next one last.
    segments: &'a [Arc<MemtableSegment>],
    /// The next version, if it is in the segment after those.
    next: Option<(&'a MemtableSegment, usize)>,
}

/// A version of a row.
#[derive(Clone, Copy)]
pub(super) struct FoundVersion<'a> {
    pub segment: &'a MemtableSegment,
    pub position: usize,
    pub slot: &'a EventSlot,
}

impl<'a> VersionWalk<'a> {
    /// A walk over the versions after the first event up to and including the second.
    pub(super) fn new(
        segments: &'a [Arc<MemtableSegment>],
        (hash, key): (u64, &'a Key),
        (after, last): (EventId, EventId),
    ) -> VersionWalk<'a> {
        VersionWalk { key, hash, after, last, segments, next: None }
    }
}

impl<'a> Iterator for VersionWalk<'a> {
    type Item = FoundVersion<'a>;

    fn next(&mut self) -> Option<FoundVersion<'a>> {
        while self.next.is_none() {
            let (segment, older) = self.segments.split_last()?;
            // The newest segment may have no event yet: that says nothing of the older ones.
            if segment.events().len() > 0 && segment.last_id() <= self.after {
                return None;
            }
            self.segments = older;
            let newest = segment.newest(self.hash, self.key);
            let found = newest.and_then(|at| segment.seek_back(at, |slot| slot.id() <= self.last));
            self.next = found.map(|at| (&**segment, at));
        }
        let (segment, position) = self.next.take()?;
        let slot = segment.events().get(position).filter(|slot| slot.id() > self.after)?;
        self.next = slot.link.before.get().map(|before| (segment, before));
        Some(FoundVersion { segment, position, slot })
    }
}
