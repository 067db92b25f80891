//! The identity of an event in its table, which is also its position in the table's history.

/// An event's identity: its commit, and its position among the commit's events in the table. Event ids sort in the order in
/// which the events happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct EventId {
    /// The commit.
    pub seq: u64,
    /// The position among the commit's events in the table, from 0.
    pub index: u32,
}

impl EventId {
    /// The id after all events of a commit.
    pub fn end_of(seq: u64) -> EventId {
        EventId { seq, index: u32::MAX }
    }

    /// The id just before this one.
    #[must_use]
    pub fn before(self) -> EventId {
        match self.index.checked_sub(1) {
            Some(index) => EventId { index, ..self },
            None => EventId::end_of(self.seq.saturating_sub(1)),
        }
    }
}
