//! The segment after the active one, prepared in the background so that a rotation does not wait for it.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::error::Result;
use crate::storage::wal::segment::ActiveSegment;

/// A table's next segment.
#[derive(Debug, Clone)]
pub(in crate::storage) struct NextSegment {
    number: u64,
    /// Locked while the segment is created, so that whoever needs it waits for that.
    state: Arc<Mutex<NextSegmentState>>,
}

#[derive(Debug)]
enum NextSegmentState {
    Wanted,
    Ready(ActiveSegment),
    /// It was taken, or must not be created any more.
    Over,
}

/// Creates a segment.
pub(super) type CreateSegment = Box<dyn FnOnce() -> Result<ActiveSegment> + Send>;

impl NextSegment {
    /// A segment that is not created yet.
    pub(super) fn wanted(number: u64) -> NextSegment {
        NextSegment { number, state: Arc::new(Mutex::new(NextSegmentState::Wanted)) }
    }

    /// A segment that exists and was not used.
    pub(super) fn ready(segment: ActiveSegment) -> NextSegment {
        let number = segment.number;
        NextSegment { number, state: Arc::new(Mutex::new(NextSegmentState::Ready(segment))) }
    }

    /// The segment's number.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Creates the segment, on a background thread, unless it is not wanted any more.
    pub(super) fn create(&self, create: CreateSegment) {
        let mut state = self.state.lock();
        if !matches!(*state, NextSegmentState::Wanted) {
            return;
        }
        match create() {
            Ok(segment) => *state = NextSegmentState::Ready(segment),
            // The rotation that needs the segment tries again, and its group is refused if that fails too.
            Err(error) => tracing::debug!(%error, "cannot prepare the next segment"),
        }
    }

    /// Takes the segment, if it was created. It is not created after this.
    pub(super) fn take(&self) -> Option<ActiveSegment> {
        match std::mem::replace(&mut *self.state.lock(), NextSegmentState::Over) {
            NextSegmentState::Ready(segment) => Some(segment),
            NextSegmentState::Wanted | NextSegmentState::Over => None,
        }
    }
}
