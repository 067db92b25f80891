//! An event as a memtable stores it.

use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};

use crate::format::document::Document;
use crate::format::event::{EventMarks, EventType};
use crate::format::key::Key;
use crate::table::event_id::EventId;
use crate::table::memtable::commit_info::CommitInfo;

/// The position of an event in its segment, if there is one, in two bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SlotPosition(Option<NonZeroU16>);

impl SlotPosition {
    /// A position. A segment holds less than 2^16 - 1 events.
    pub(super) fn new(at: Option<usize>) -> SlotPosition {
        SlotPosition(at.and_then(|at| NonZeroU16::new(u16::try_from(at + 1).ok()?)))
    }

    /// The position, as an index.
    pub(super) fn get(self) -> Option<usize> {
        self.0.map(|at| usize::from(at.get()) - 1)
    }
}

/// The event's place among the events of its row in the same segment of the memtable.
///
/// Every event knows the one before it, and one further back, so that the row as of any event is found in a number of steps that
/// grows with the logarithm of the row's events (the jump pointers of Myers' skew-binary lists).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowLink {
    /// The row's event before this one; `None` if this is the first in the segment.
    pub before: SlotPosition,
    /// An earlier event of the row.
    pub jump: SlotPosition,
    /// The number of events of the row up to and including this one.
    pub depth: u16,
}

/// An event, and the table's counts after it.
#[derive(Debug)]
pub(super) struct EventSlot {
    pub seq: u64,
    pub time_ms: u64,
    /// The commit, if it has more than a seq and a time.
    pub commit: Option<Arc<CommitInfo>>,
    pub kind: EventType,
    /// The row; `None` for SCHEMA and NOTE.
    pub key: Option<Key>,
    /// What was written; `None` for SOFT_DELETE and NOTE.
    pub payload: Option<Document>,
    /// Of some PATCHes, the row after it.
    pub merged: OnceLock<Box<Document>>,
    /// The live rows after the event.
    pub rows: u64,
    /// The position among the events of the commit in the table.
    pub index: u32,
    /// The table's events from the segment's first one up to and including this one.
    pub events: u32,
    pub link: RowLink,
    /// A SCHEMA event that left the table without rows: CREATE and DROP.
    pub emptied: bool,
    /// How the event came about.
    pub marks: EventMarks,
}

impl EventSlot {
    /// The event's id.
    pub(super) fn id(&self) -> EventId {
        EventId { seq: self.seq, index: self.index }
    }

    /// The event's commit.
    pub(super) fn commit(&self) -> Arc<CommitInfo> {
        let made = || Arc::new(CommitInfo { seq: self.seq, time_ms: self.time_ms, meta: None });
        self.commit.clone().unwrap_or_else(made)
    }

    /// The bytes that the event takes, besides what the tables of the segment take for it: its slot, its key and what it wrote.
    pub(super) fn bytes(&self) -> usize {
        let payload = self.payload.as_ref().map_or(0, |payload| payload.msgpack().len());
        size_of::<EventSlot>() + FRAME_BYTES + payload
    }
}

/// An estimate of what a frame takes in the log's buffer besides what was written, and of the buffer's share.
const FRAME_BYTES: usize = 56;
