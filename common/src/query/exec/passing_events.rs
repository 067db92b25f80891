//! Events that are found row by row, until they are returned in the order of commits, within the memory of one query.
//!
//! While they are few, the events are held whole. If they take too much, only their ids are held, and the events are read again before
//! they are returned, many at a time (`read_ahead`). If even the ids take too much, those that come last are dropped, and another pass
//! over the rows finds them.

use crate::error::Result;
use crate::format::key::Key;
use crate::limits;
use crate::query::exec::query_memory::QueryMemory;
use crate::table::event_id::EventId;
use crate::table::history::DriftEvent;
use crate::table::row_events::RowVersion;
use crate::table::view::Row;
use crate::work;

/// The bytes of events that are held whole.
const WHOLE_BYTES: usize = limits::QUERY_BYTES / 2;
/// The bytes of ids and keys that are held.
const ID_BYTES: usize = limits::QUERY_BYTES - (4 << 20);
/// The most events that are read together once only their ids are held.
const EVENTS_AHEAD: usize = 32 << 10;
/// An estimate of the bytes that a list takes for an event besides what the event knows of.
const EVENT_OVERHEAD: usize = 160;
/// An estimate of the bytes that a key takes besides its text.
const KEY_OVERHEAD: usize = 48;
/// What needs the memory.
const WHAT: &str = "SHOW DRIFT with WHERE";

/// In which order events are returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriftOrder {
    OldestFirst,
    NewestFirst,
}

impl DriftOrder {
    /// An id that sorts as the event is returned, and the event's id again if it is called twice.
    pub(super) fn rank(self, id: EventId) -> EventId {
        match self {
            DriftOrder::OldestFirst => id,
            DriftOrder::NewestFirst => EventId { seq: !id.seq, index: !id.index },
        }
    }
}

/// The id of an event and its row, by the row's position in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EventPlace {
    rank: EventId,
    row: u32,
}

impl EventPlace {
    /// An estimate of the bytes that it takes, in a list that grows by doubling.
    const BYTES: usize = 2 * size_of::<EventPlace>();
}

#[derive(Debug)]
enum Held {
    Whole(Vec<(EventId, DriftEvent)>),
    Ids { keys: Vec<Key>, places: Vec<EventPlace> },
}

impl Held {
    fn len(&self) -> usize {
        match self {
            Held::Whole(events) => events.len(),
            Held::Ids { places, .. } => places.len(),
        }
    }
}

/// The events that a pass has found so far.
#[derive(Debug)]
pub(super) struct PassingEvents {
    order: DriftOrder,
    /// Not more than the first so many are wanted.
    most: usize,
    held: Held,
    /// The rank of the last event that is wanted, once some were dropped.
    bound: Option<EventId>,
    /// Whether events were dropped that are wanted later.
    is_cut: bool,
    memory: QueryMemory,
    whole_bytes: usize,
    id_bytes: usize,
    /// The bytes of an event, on average of those that were held whole.
    bytes_each: usize,
}

/// An event in its turn.
#[derive(Debug)]
pub(super) enum FoundEvent {
    Whole(Box<DriftEvent>),
    /// To be read again.
    Id(Key, EventId),
}

/// The events that are read together: those that are returned next.
#[derive(Debug)]
pub(super) struct EventWindow {
    /// By row, and of a row the oldest first.
    pub(super) events: Vec<(Key, EventId)>,
    /// The ids of the oldest and the newest of them.
    pub(super) range: (EventId, EventId),
    /// The bytes of events that may be held.
    pub(super) bytes: usize,
}

impl EventWindow {
    /// The number of rows.
    pub(super) fn rows(&self) -> u64 {
        self.events.chunk_by(|(a, _), (b, _)| a == b).count() as u64
    }
}

/// The events in order.
#[derive(Debug)]
pub(super) struct SortedEvents {
    order: DriftOrder,
    /// The last first.
    held: Held,
    cut: Option<EventId>,
    /// Some of the next events whose ids are held, with their ranks. The last one comes first.
    ahead: Vec<(EventId, DriftEvent)>,
    /// The rank up to which events were read ahead, as far as there was room.
    ahead_up_to: Option<EventId>,
    bytes_each: usize,
    /// Held until the last event is returned.
    memory: QueryMemory,
}

impl PassingEvents {
    /// No events; of those that come, the first `most` are wanted.
    pub(super) fn new(order: DriftOrder, most: usize) -> PassingEvents {
        PassingEvents::within(order, most, (WHOLE_BYTES, ID_BYTES))
    }

    fn within(order: DriftOrder, most: usize, (whole_bytes, id_bytes): (usize, usize)) -> PassingEvents {
        let (held, memory) = (Held::Whole(Vec::new()), QueryMemory::default());
        let (bound, is_cut, bytes_each) = (None, false, 1);
        PassingEvents { order, most, held, bound, is_cut, memory, whole_bytes, id_bytes, bytes_each }
    }

    /// Whether an event would be among those that are wanted.
    pub(super) fn wants(&self, id: EventId) -> bool {
        self.bound.is_none_or(|bound| self.order.rank(id) <= bound)
    }

    /// Adds an event that is wanted. The events of a row must come together.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub(super) fn push(&mut self, key: &Key, id: EventId, event: impl FnOnce() -> DriftEvent) -> Result<()> {
        let rank = self.order.rank(id);
        if let Held::Whole(events) = &mut self.held {
            let event = event();
            let bytes = event_bytes(&event);
            if self.memory.held() + bytes <= self.whole_bytes {
                self.memory.charge(bytes, WHAT)?;
                events.push((rank, event));
                return self.keep_wanted();
            }
            self.keep_ids()?;
        }
        self.push_id(key, rank)?;
        self.keep_wanted()
    }

    /// Forgets what the events are, and holds only which they are.
    fn keep_ids(&mut self) -> Result<()> {
        let ids = Held::Ids { keys: Vec::new(), places: Vec::new() };
        let Held::Whole(events) = std::mem::replace(&mut self.held, ids) else { return Ok(()) };
        self.bytes_each = self.memory.held() / events.len().max(1);
        self.memory.release(self.memory.held());
        for (rank, event) in events {
            work::step(8)?;
            if let Some(key) = &event.key {
                self.push_id(key, rank)?;
            }
        }
        Ok(())
    }

    fn push_id(&mut self, key: &Key, rank: EventId) -> Result<()> {
        let Held::Ids { keys, places } = &mut self.held else { return Ok(()) };
        if keys.last() != Some(key) {
            self.memory.charge(key_bytes(key), WHAT)?;
            keys.push(key.clone());
        }
        self.memory.charge(EventPlace::BYTES, WHAT)?;
        let row = u32::try_from(keys.len() - 1).unwrap_or(u32::MAX);
        places.push(EventPlace { rank, row });
        Ok(())
    }

    /// Drops events that are not wanted, once they are as many as the others, and those for which there is no room.
    fn keep_wanted(&mut self) -> Result<()> {
        let count = self.held.len();
        if count >= self.most.saturating_mul(2).saturating_add(64) {
            return self.keep_first(self.most);
        }
        let is_full = matches!(self.held, Held::Ids { .. }) && self.memory.held() > self.id_bytes;
        if is_full && count > 1 {
            self.is_cut = true;
            return self.keep_first(count / 2);
        }
        Ok(())
    }

    fn keep_first(&mut self, count: usize) -> Result<()> {
        work::step(u32::try_from(self.held.len()).unwrap_or(u32::MAX))?;
        let Some(last) = count.checked_sub(1).filter(|last| *last < self.held.len()) else { return Ok(()) };
        match &mut self.held {
            Held::Whole(events) => {
                events.select_nth_unstable_by_key(last, |(rank, _)| *rank);
                let dropped = events.drain(count..).map(|(_, event)| event_bytes(&event));
                let bytes: usize = dropped.sum();
                self.memory.release(bytes);
                self.bound = events.last().map(|(rank, _)| *rank);
            }
            Held::Ids { keys, places } => {
                places.select_nth_unstable(last);
                places.truncate(count);
                places.shrink_to(count.saturating_mul(2));
                self.bound = places.last().map(|place| place.rank);
                // In the order of rows, so that each key is kept once.
                places.sort_unstable_by_key(|place| place.row);
                let mut kept: Vec<Key> = Vec::new();
                for place in places.iter_mut() {
                    let Some(key) = keys.get(place.row as usize) else { continue };
                    if kept.last() != Some(key) {
                        kept.push(key.clone());
                    }
                    place.row = u32::try_from(kept.len() - 1).unwrap_or(u32::MAX);
                }
                *keys = kept;
                let bytes = places.len() * EventPlace::BYTES + keys.iter().map(key_bytes).sum::<usize>();
                self.memory.release(self.memory.held().saturating_sub(bytes));
            }
        }
        Ok(())
    }

    /// The events that are wanted, in order.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub(super) fn into_sorted(mut self) -> Result<SortedEvents> {
        self.keep_first(self.most)?;
        work::step(u32::try_from(self.held.len().saturating_mul(4)).unwrap_or(u32::MAX))?;
        let PassingEvents { order, mut held, bound, is_cut, bytes_each, memory, .. } = self;
        match &mut held {
            Held::Whole(events) => events.sort_unstable_by(|(a, _), (b, _)| b.cmp(a)),
            Held::Ids { places, .. } => places.sort_unstable_by(|a, b| b.cmp(a)),
        }
        let cut = bound.filter(|_| is_cut).map(|bound| order.rank(bound));
        let (ahead, ahead_up_to) = (Vec::new(), None);
        Ok(SortedEvents { order, held, cut, ahead, ahead_up_to, bytes_each, memory })
    }
}

impl SortedEvents {
    /// The next event.
    pub(super) fn pop(&mut self) -> Option<FoundEvent> {
        match &mut self.held {
            Held::Whole(events) => {
                let (_, event) = events.pop()?;
                self.memory.release(event_bytes(&event));
                Some(FoundEvent::Whole(Box::new(event)))
            }
            Held::Ids { keys, places } => {
                let EventPlace { rank, row } = places.pop()?;
                if let Some((_, event)) = self.ahead.pop_if(|(ahead, _)| *ahead == rank) {
                    self.memory.release(event_bytes(&event));
                    return Some(FoundEvent::Whole(Box::new(event)));
                }
                let key = keys.get(row as usize)?.clone();
                Some(FoundEvent::Id(key, self.order.rank(rank)))
            }
        }
    }

    /// Whether all events were taken.
    pub(super) fn is_empty(&self) -> bool {
        self.held.len() == 0
    }

    /// The order in which they are returned.
    pub(super) fn order(&self) -> DriftOrder {
        self.order
    }

    /// What they hold.
    pub(super) fn memory(&mut self) -> &mut QueryMemory {
        &mut self.memory
    }

    /// The events that are returned next, if only their ids are held and nobody has tried to read them ahead.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub(super) fn next_window(&mut self) -> Result<Option<EventWindow>> {
        let Held::Ids { keys, places } = &self.held else { return Ok(None) };
        let Some(next) = places.last() else { return Ok(None) };
        if self.ahead_up_to.is_some_and(|up_to| next.rank <= up_to) {
            return Ok(None);
        }
        // One half for the list, the other for the events.
        let bytes = limits::QUERY_BYTES.saturating_sub(self.memory.held()) / 2;
        let most = (bytes / self.bytes_each.max(1)).clamp(1, EVENTS_AHEAD);
        let (mut events, mut list_bytes) = (Vec::new(), 0);
        for EventPlace { rank, row } in places.iter().rev().take(most) {
            work::step(8)?;
            let Some(key) = keys.get(*row as usize) else { continue };
            list_bytes += window_bytes(key);
            if list_bytes > bytes {
                list_bytes -= window_bytes(key);
                break;
            }
            events.push((key.clone(), self.order.rank(*rank)));
        }
        let ids = || events.iter().map(|(_, id)| *id);
        let Some(range) = ids().min().zip(ids().max()) else { return Ok(None) };
        self.memory.charge(list_bytes, WHAT)?;
        work::step(u32::try_from(events.len().saturating_mul(4)).unwrap_or(u32::MAX))?;
        events.sort_unstable();
        Ok(Some(EventWindow { events, range, bytes }))
    }

    /// Takes the events of a window that were read, with their ranks. If some were dropped, `bound` is the rank of the last one that was
    /// not.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub(super) fn close_window(
        &mut self,
        window: EventWindow,
        mut found: Vec<(EventId, DriftEvent)>,
        bound: Option<EventId>,
    ) -> Result<()> {
        work::step(u32::try_from(found.len().saturating_mul(4)).unwrap_or(u32::MAX))?;
        found.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        self.memory.release(window.events.iter().map(|(key, _)| window_bytes(key)).sum());
        let (first, last) = window.range;
        self.ahead_up_to = bound.or(Some(self.order.rank(first).max(self.order.rank(last))));
        self.ahead = found;
        Ok(())
    }

    /// The event after which there may be more, for which there was no room.
    pub(super) fn cut(&self) -> Option<EventId> {
        self.cut
    }
}

/// The bytes that a list holds for an event.
pub(super) fn event_bytes(event: &DriftEvent) -> usize {
    event.size() + EVENT_OVERHEAD
}

/// A row before or after an event, if it is wanted.
pub(super) fn row_image(key: &Key, row: Option<&RowVersion>, is_wanted: bool) -> Option<Row> {
    let RowVersion { seq, time_ms, document } = row.filter(|_| is_wanted)?;
    Some(Row { key: key.clone(), seq: *seq, time_ms: *time_ms, document: document.clone()? })
}

/// The bytes that a window takes for an event.
fn window_bytes(key: &Key) -> usize {
    2 * (key_bytes(key) + size_of::<EventId>())
}

fn key_bytes(key: &Key) -> usize {
    match key {
        Key::Int(_) => KEY_OVERHEAD,
        Key::Str(text) => KEY_OVERHEAD + text.len(),
        Key::Composite(key) => KEY_OVERHEAD + key.text().len(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::document::Document;
    use crate::format::event::{EventMarks, EventType};
    use crate::format::snapshot::VersionEntry;

    fn event(key: &Key, id: EventId) -> DriftEvent {
        let payload = Document::from_json(&format!(r#"{{"id":"{key}","n":{}}}"#, id.seq)).ok();
        let (actor, reason) = (String::new(), String::new());
        let (kind, marks) = (EventType::Insert, EventMarks::default());
        let version = VersionEntry { kind, time_ms: id.seq, actor, reason, payload, image: None, marks };
        DriftEvent::of_version((key, id), version, (None, None))
    }

    /// Takes everything, with as many passes as are needed.
    fn returned(
        events: &[(Key, EventId)],
        order: DriftOrder,
        most: usize,
        bytes: (usize, usize),
    ) -> Vec<(Key, EventId)> {
        let (mut all, mut after): (Vec<(Key, EventId)>, Option<EventId>) = (Vec::new(), None);
        loop {
            let mut passing = PassingEvents::within(order, most - all.len(), bytes);
            for (key, id) in events {
                let is_left = after.is_none_or(|after| order.rank(*id) > order.rank(after));
                if is_left && passing.wants(*id) {
                    passing.push(key, *id, || event(key, *id)).unwrap();
                }
            }
            let mut sorted = passing.into_sorted().unwrap();
            while let Some(found) = sorted.pop() {
                all.push(match found {
                    FoundEvent::Whole(event) => {
                        let id = EventId { seq: event.commit.seq, index: 0 };
                        let key = event.key.unwrap();
                        // The index is not in the event: it is that of the key.
                        let index =
                            events.iter().find(|(k, i)| *k == key && i.seq == id.seq).unwrap().1.index;
                        (key, EventId { index, ..id })
                    }
                    FoundEvent::Id(key, id) => (key, id),
                });
            }
            assert!(sorted.is_empty());
            match sorted.cut() {
                Some(cut) if all.len() < most => after = Some(cut),
                _ => return all,
            }
        }
    }

    proptest! {
        #[test]
        fn events_are_returned_in_order_whatever_the_memory(
            rows in prop::collection::vec(prop::collection::btree_set(0u64..40, 0..20), 1..12),
            newest_first in any::<bool>(),
            most in prop::sample::select(vec![1usize, 3, 20, usize::MAX]),
            bytes in prop::sample::select(vec![(1 << 20, 1 << 20), (2000, 1 << 20), (500, 1500), (0, 400)]),
        ) {
            let mut events: Vec<(Key, EventId)> = Vec::new();
            for (row, seqs) in (0u32..).zip(&rows) {
                let key = Key::Str(format!("k{row}").into());
                // A commit has at most one event of each row, at the row's position.
                events.extend(seqs.iter().map(|seq| (key.clone(), EventId { seq: *seq, index: row })));
            }
            let order = if newest_first { DriftOrder::NewestFirst } else { DriftOrder::OldestFirst };
            let mut expected = events.clone();
            expected.sort_by_key(|(_, id)| *id);
            if newest_first {
                expected.reverse();
            }
            expected.truncate(most);
            prop_assert_eq!(returned(&events, order, most, bytes), expected);
        }
    }
}
