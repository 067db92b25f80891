//! Reads events by the ids that a query holds, many at a time, before they are returned in the order of commits.
//!
//! In that order each event is in another block of the layers, so that a look-up for each costs more than the pass that has found them.
//! Row by row, the same events are read with few blocks. Events that are too large for the memory, and few events of rows with much
//! history, are looked up one by one after all.

use crate::error::Result;
use crate::format::key::Key;
use crate::format::snapshot::VersionEntry;
use crate::query::exec::candidate_limits::{ROWS_PER_HISTORY_LOOKUP, ROWS_PER_LOOKUP};
use crate::query::exec::passing_events::{DriftOrder, EventWindow, SortedEvents, event_bytes, row_image};
use crate::query::exec::query_memory::QueryMemory;
use crate::table::event_id::EventId;
use crate::table::history::{DriftEvent, Images};
use crate::table::row_events::{self, EventVisitor, RowVersion};
use crate::table::row_histories::HistoryRows;
use crate::table::timeline::Timeline;
use crate::work;

/// What needs the memory.
const WHAT: &str = "SHOW DRIFT with WHERE";

/// Reads the events that are returned next, unless they are held, or one by one is cheaper.
///
/// # Errors
/// `BELOW_FLOOR` if the floor has passed one of them.
pub(super) fn read_ahead(timeline: &Timeline, sorted: &mut SortedEvents, images: Images) -> Result<()> {
    let Some(window) = sorted.next_window()? else { return Ok(()) };
    let (first, last) = window.range;
    let counts = timeline.counts(last.seq)?;
    let per_row = ROWS_PER_HISTORY_LOOKUP + counts.events / counts.rows.max(1);
    let per_event = ROWS_PER_LOOKUP * (1 + u64::from(images.before) + u64::from(images.after));
    let is_pass_better = window.rows().saturating_mul(per_row) < window.events.len() as u64 * per_event;
    if !is_pass_better {
        return sorted.close_window(window, Vec::new(), None);
    }
    let rows = HistoryRows::listed(window.events.iter().map(|(key, _)| key))?;
    let mut collector = WindowCollector {
        window: &window,
        next: 0,
        order: sorted.order(),
        images,
        memory: sorted.memory(),
        found: Vec::new(),
        bytes: 0,
        bound: None,
        row: None,
        taken: None,
        before: None,
        pending: None,
    };
    row_events::visit(timeline, (first.before(), last), rows, &mut collector)?;
    let WindowCollector { found, bound, .. } = collector;
    sorted.close_window(window, found, bound)
}

/// Takes the events of a window from the histories of their rows.
struct WindowCollector<'a> {
    window: &'a EventWindow,
    /// The position in the window of the next event of the present row.
    next: usize,
    order: DriftOrder,
    images: Images,
    memory: &'a mut QueryMemory,
    /// The events with their ranks.
    found: Vec<(EventId, DriftEvent)>,
    bytes: usize,
    /// The rank of the last event that is taken, once some were dropped.
    bound: Option<EventId>,
    /// The present row, and the last of its events that was taken: if the row begins again, those up to there count no second time.
    row: Option<Key>,
    taken: Option<EventId>,
    /// The row after the last event.
    before: Option<RowVersion>,
    /// The last event, before the row after it is known.
    pending: Option<(EventId, VersionEntry)>,
}

impl WindowCollector<'_> {
    /// Whether an event is in the window and not dropped.
    fn wants(&mut self, key: &Key, id: EventId) -> bool {
        while let Some((row, next)) = self.window.events.get(self.next)
            && row == key
            && *next <= id
        {
            self.next += 1;
            if *next == id {
                let is_dropped = self.bound.is_some_and(|bound| self.order.rank(id) > bound);
                return !is_dropped && self.taken.is_none_or(|taken| id > taken);
            }
        }
        false
    }

    fn push(&mut self, id: EventId, event: DriftEvent) -> Result<()> {
        let bytes = event_bytes(&event);
        // A few large events would push out many: they are looked up.
        if bytes > self.window.bytes / 4 {
            return Ok(());
        }
        while self.bytes + bytes > self.window.bytes && self.found.len() > 1 {
            self.drop_last()?;
        }
        self.memory.charge(bytes, WHAT)?;
        self.bytes += bytes;
        self.found.push((self.order.rank(id), event));
        Ok(())
    }

    /// Drops the half of the events that is returned last.
    fn drop_last(&mut self) -> Result<()> {
        work::step(u32::try_from(self.found.len()).unwrap_or(u32::MAX))?;
        let kept = self.found.len().div_ceil(2);
        self.found.select_nth_unstable_by_key(kept.saturating_sub(1), |(rank, _)| *rank);
        let dropped: usize = self.found.drain(kept..).map(|(_, event)| event_bytes(&event)).sum();
        self.memory.release(dropped);
        self.bytes -= dropped;
        self.bound = self.found.last().map(|(rank, _)| *rank);
        Ok(())
    }
}

impl EventVisitor for WindowCollector<'_> {
    fn begin_row(&mut self, key: &Key) {
        if self.row.as_ref() != Some(key) {
            (self.row, self.taken) = (Some(key.clone()), None);
        }
        self.next = self.window.events.partition_point(|(row, _)| row < key);
        (self.before, self.pending) = (None, None);
    }

    fn state(&mut self, key: &Key, row: Option<RowVersion>) -> Result<()> {
        if let Some((id, version)) = self.pending.take() {
            let before = row_image(key, self.before.as_ref(), self.images.before);
            let after = row_image(key, row.as_ref(), self.images.after);
            self.push(id, DriftEvent::of_version((key, id), version, (before, after)))?;
            self.taken = Some(id);
        }
        self.before = row;
        Ok(())
    }

    fn event(&mut self, key: &Key, id: EventId, version: VersionEntry) -> Result<()> {
        self.pending = self.wants(key, id).then_some((id, version));
        Ok(())
    }

    fn end_row(&mut self, _: &Key) -> Result<bool> {
        self.row = None;
        Ok(true)
    }
}
