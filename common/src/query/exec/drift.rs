//! Runs SHOW DRIFT: the events of a row or a table that pass a filter, in the order of commits.
//!
//! In that order, the row before an event must be looked up, which is cheap for a few events and not for a million. So a condition on a
//! whole table is compared with the first events in their order, and with the rest, if there is much, in one pass over the history of the
//! rows: of those that the keys and the indexes tell of, if they tell. What passes is sorted into the order of commits.

use std::sync::Arc;

use crate::error::{Error, Reason, Result, counted};
use crate::format::key::Key;
use crate::format::principal_text::actor_of;
use crate::format::snapshot::VersionEntry;
use crate::limits;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::Condition;
use crate::query::exec::candidate_limits::ROWS_PER_LOOKUP;
use crate::query::exec::history_route::HistoryRoute;
use crate::query::exec::passing_events::{DriftOrder, FoundEvent, PassingEvents, SortedEvents, row_image};
use crate::query::exec::read_ahead::read_ahead;
use crate::query::predicate::RowRef;
use crate::table::event_id::EventId;
use crate::table::history::{DriftEvent, History, HistoryQuery, Images, ReadBudget};
use crate::table::row_events::{self, EventVisitor, RowVersion};
use crate::table::row_histories::HistoryRows;
use crate::table::timeline::Timeline;

/// Maximum number of events that are read together.
const EVENTS_PER_BATCH: usize = 1024;
/// The number of events that are compared with a condition before another way is thought of.
const FIRST_EVENTS: u64 = 32;
/// A limit that is likely to be reached within so many events is waited for.
const SOON: u64 = 4096;
/// The number of rows whose history one step reads.
const ROWS_PER_STEP: usize = 1024;

/// Which events of a table pass. An event passes if it meets all that is given.
#[derive(Debug, Clone, Default)]
pub struct DriftFilter {
    /// The row before or after the event matches this. A SCHEMA event has no row.
    pub condition: Option<Condition>,
    /// This actor made the commit.
    pub actor: Option<String>,
}

impl DriftFilter {
    /// The images that decide, and those that are returned.
    fn needed_images(&self, returned: Images) -> Images {
        let needed = self.condition.is_some();
        Images { before: returned.before || needed, after: returned.after || needed }
    }

    fn passes(&self, event: &DriftEvent) -> Result<bool> {
        if let Some(actor) = &self.actor {
            let by = event.commit.meta.as_ref().map_or("", |meta| meta.actor.as_str());
            if actor_of(by) != actor {
                return Ok(false);
            }
        }
        self.condition.as_ref().map_or(Ok(true), |condition| condition.matches_event(event))
    }
}

/// A running SHOW DRIFT.
#[derive(Debug)]
pub struct DriftExecution {
    /// What is still to be read, in the order of commits.
    history: History,
    filter: DriftFilter,
    /// The images that are returned.
    images: Images,
    /// The number of events that may still be returned.
    remaining: u64,
    stage: DriftStage,
    /// The rows of a pass; chosen when the first pass is thought of.
    route: Option<Arc<HistoryRoute>>,
    passes: u64,
    /// The commit of the last event that was read, whether it passed or not: more of its events may follow.
    last_read: Option<u64>,
    /// Events that were read in the order of commits, and rows that were read in passes.
    events_read: u64,
    rows_read: u64,
    returned: u64,
}

#[derive(Debug)]
enum DriftStage {
    /// Reads events in the order of commits.
    Commits,
    /// Reads rows, some of which are still to be read.
    Rows(HistoryRows, Box<PassingEvents>),
    /// Returns what a pass has found.
    Sorted(Box<SortedEvents>),
}

impl DriftExecution {
    /// The events of a query that pass a filter, at most `limit`. The query's images are those that are returned.
    pub fn new(
        timeline: &Arc<Timeline>,
        query: HistoryQuery,
        filter: DriftFilter,
        limit: Option<u64>,
    ) -> DriftExecution {
        let images = query.images;
        let actor = filter.actor.clone();
        let query = HistoryQuery { images: filter.needed_images(images), actor, ..query };
        DriftExecution {
            history: History::new(timeline, query),
            filter,
            images,
            remaining: limit.unwrap_or(u64::MAX),
            stage: DriftStage::Commits,
            route: None,
            passes: 0,
            last_read: None,
            events_read: 0,
            rows_read: 0,
            returned: 0,
        }
    }

    /// The same read, for a try that may have to be given up; `None` if it is not about one row.
    pub fn another_try(&self) -> Option<DriftExecution> {
        let is_short = self.is_of_one_row() && matches!(self.stage, DriftStage::Commits);
        is_short.then(|| DriftExecution {
            history: self.history.clone(),
            filter: self.filter.clone(),
            stage: DriftStage::Commits,
            route: self.route.clone(),
            ..*self
        })
    }

    /// The table.
    pub fn timeline(&self) -> &Arc<Timeline> {
        self.history.timeline()
    }

    /// Whether the query asks for events that compaction has discarded.
    pub fn is_truncated(&self) -> bool {
        self.history.is_truncated()
    }

    /// Whether only the events of one row are read.
    pub fn is_of_one_row(&self) -> bool {
        self.history.is_of_one_row()
    }

    /// Whether all events were returned.
    pub fn is_done(&self) -> bool {
        self.remaining == 0
            || match &self.stage {
                DriftStage::Commits => self.history.is_done(),
                DriftStage::Rows(..) => false,
                DriftStage::Sorted(sorted) => sorted.is_empty() && sorted.cut().is_none(),
            }
    }

    /// The commit of the last event that was read, if more of its events may follow.
    pub fn last_read(&self) -> Option<u64> {
        self.last_read
    }

    /// Reads some more events, or the history of some more rows. Returns the events that pass, if any do.
    ///
    /// # Errors
    /// `BELOW_FLOOR` if the floor has passed what comes next.
    pub fn next_batch(&mut self) -> Result<Vec<DriftEvent>> {
        if self.is_done() {
            return Ok(Vec::new());
        }
        if matches!(self.stage, DriftStage::Commits) && self.is_pass_better()? {
            self.begin_pass()?;
        }
        let events = match &mut self.stage {
            DriftStage::Commits => self.read_commits()?,
            DriftStage::Rows(..) => {
                self.read_rows()?;
                Vec::new()
            }
            DriftStage::Sorted(_) => self.take_sorted()?,
        };
        let count = events.len() as u64;
        self.returned += count;
        self.remaining = self.remaining.saturating_sub(count);
        Ok(events)
    }

    fn read_commits(&mut self) -> Result<Vec<DriftEvent>> {
        let has_filter = self.filter.condition.is_some() || self.filter.actor.is_some();
        let most = if self.filter.condition.is_some() && self.events_read < FIRST_EVENTS {
            usize::try_from(FIRST_EVENTS).unwrap_or(EVENTS_PER_BATCH)
        } else {
            EVENTS_PER_BATCH
        };
        let wanted = match usize::try_from(self.remaining) {
            // Of those read, fewer may pass.
            Ok(remaining) if !has_filter => remaining.min(most),
            _ => most,
        };
        let budget = ReadBudget { events: wanted, bytes: limits::MESSAGE_BYTES };
        let read = self.history.read_some(budget)?;
        self.events_read += read.len() as u64;
        self.last_read = read.last().map(|(id, _)| id.seq);
        let mut events = Vec::new();
        for (_, mut event) in read {
            if events.len() as u64 == self.remaining {
                break;
            }
            if self.filter.passes(&event)? {
                event.keep_images(self.images);
                events.push(event);
            }
        }
        Ok(events)
    }

    /// Whether a pass over the rows costs less than the rest of the events in their order.
    fn is_pass_better(&mut self) -> Result<bool> {
        if self.filter.condition.is_none() || self.is_of_one_row() || self.events_read < FIRST_EVENTS {
            return Ok(false);
        }
        if self.remaining < u64::MAX && self.returned > 0 {
            let expected = self.remaining.saturating_mul(self.events_read) / self.returned;
            if expected <= SOON {
                return Ok(false);
            }
        }
        let (after, last) = self.history.unread();
        let timeline = self.history.timeline();
        let (before, all) = (timeline.counts(after.seq)?, timeline.counts(last.seq)?);
        let left = all.events.saturating_sub(before.events);
        // The look-ups for one event cost as much as some rows that are read in order.
        if left.saturating_mul(ROWS_PER_LOOKUP) > all.rows + all.events {
            return Ok(true);
        }
        Ok(left > FIRST_EVENTS && self.route()?.listed().is_some())
    }

    /// The rows that a pass reads; the first call chooses them.
    fn route(&mut self) -> Result<Arc<HistoryRoute>> {
        if let Some(route) = &self.route {
            return Ok(Arc::clone(route));
        }
        let (after, last) = self.history.unread();
        let is_within_commit = u64::from(after.index < u32::MAX);
        let commits = (after.seq.saturating_sub(is_within_commit), last.seq);
        let condition = self.filter.condition.as_ref();
        let route = HistoryRoute::choose(self.history.timeline(), condition, commits, |_| false)?;
        let route = Arc::new(route);
        self.route = Some(Arc::clone(&route));
        Ok(route)
    }

    fn begin_pass(&mut self) -> Result<()> {
        let rows = self.route()?.rows()?;
        let order = match self.history.is_newest_first() {
            true => DriftOrder::NewestFirst,
            false => DriftOrder::OldestFirst,
        };
        let most = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        self.stage = DriftStage::Rows(rows, Box::new(PassingEvents::new(order, most)));
        self.passes += 1;
        Ok(())
    }

    /// Reads the history of some more rows of the present pass.
    fn read_rows(&mut self) -> Result<()> {
        let Some(condition) = &self.filter.condition else { return Ok(()) };
        let DriftStage::Rows(rows, mut found) = std::mem::replace(&mut self.stage, DriftStage::Commits)
        else {
            return Ok(());
        };
        let mut collector = EventCollector {
            condition,
            actor: self.filter.actor.as_deref(),
            images: self.images,
            found: &mut found,
            row: None,
            taken: None,
            before: None,
            before_matches: None,
            pending: None,
            left: ROWS_PER_STEP,
        };
        let (timeline, events) = (self.history.timeline(), self.history.unread());
        let stopped = row_events::visit(timeline, events, rows.clone(), &mut collector)?;
        self.rows_read += (ROWS_PER_STEP - collector.left) as u64;
        self.stage = match stopped {
            Some(key) => DriftStage::Rows(rows.after(key), found),
            None => DriftStage::Sorted(Box::new(found.into_sorted()?)),
        };
        Ok(())
    }

    /// Takes some more of what a pass has found, or begins another pass if the last one had no room for all.
    fn take_sorted(&mut self) -> Result<Vec<DriftEvent>> {
        let DriftStage::Sorted(sorted) = &mut self.stage else { return Ok(Vec::new()) };
        if let Some(cut) = sorted.cut().filter(|_| sorted.is_empty()) {
            self.history.skip_to(cut);
            self.begin_pass()?;
            // The event at which the last pass was cut may be followed by others of its commit.
            self.last_read = Some(cut.seq);
            return Ok(Vec::new());
        }
        let (mut events, mut bytes) = (Vec::new(), 0);
        while events.len() < EVENTS_PER_BATCH && bytes < limits::MESSAGE_BYTES {
            read_ahead(self.history.timeline(), sorted, self.images)?;
            let Some(found) = sorted.pop() else { break };
            let event = match found {
                FoundEvent::Whole(event) => *event,
                FoundEvent::Id(key, id) => {
                    let event = History::event(self.history.timeline(), (&key, id), self.images)?;
                    event.ok_or_else(|| gone(&key, id))?
                }
            };
            bytes += event.size();
            events.push(event);
        }
        self.last_read = events.last().map(|event| event.commit.seq);
        Ok(events)
    }

    /// How the events were found, and how many were read, once all are returned.
    pub fn explanation(&self) -> String {
        let read = counted(self.events_read, "event");
        let how = match &self.route {
            Some(route) if self.passes > 0 => {
                let first = format!("the first {read} in the order of commits, the others by the {route}");
                let passes = match self.passes {
                    1 => String::new(),
                    passes => format!(" in {passes} passes"),
                };
                format!("{first}{passes}, then sorted; {}", counted(self.rows_read, "row"))
            }
            _ => format!("in the order of commits; {read}"),
        };
        format!("{how} read, {} returned", self.returned)
    }
}

fn gone(key: &Key, id: EventId) -> Error {
    let message = format!("the event {} of commit {} of row {key:?} is missing", id.index, id.seq);
    Error::new(Reason::Internal, message)
}

/// Compares events with a condition, row by row.
struct EventCollector<'a> {
    condition: &'a Condition,
    actor: Option<&'a str>,
    images: Images,
    found: &'a mut PassingEvents,
    /// The present row, and the last of its events that was taken: if the row begins again, those up to there count no second time.
    row: Option<Key>,
    taken: Option<EventId>,
    /// The row after the last event, and whether it matches, as far as that was asked.
    before: Option<RowVersion>,
    before_matches: Option<bool>,
    /// The last event, before the row after it is known.
    pending: Option<(EventId, VersionEntry)>,
    left: usize,
}

impl EventCollector<'_> {
    fn matches(&self, key: &Key, row: Option<&RowVersion>) -> Result<bool> {
        match row {
            Some(RowVersion { seq, time_ms, document: Some(document) }) => {
                self.condition.matches(RowRef { key, seq: *seq, time_ms: *time_ms, document })
            }
            _ => Ok(false),
        }
    }

    /// Whether the pending event passes: the row before it or the row after it matches. Returns whether the latter does, too.
    fn compare(&self, key: &Key, after: Option<&RowVersion>) -> Result<(bool, bool)> {
        let after_matches = self.matches(key, after)?;
        let passes = after_matches
            || match self.before_matches {
                _ if is_planted(PlantedBug::DriftAfterOnly) => false,
                Some(matches) => matches,
                None => self.matches(key, self.before.as_ref())?,
            };
        Ok((passes, after_matches))
    }
}

impl EventVisitor for EventCollector<'_> {
    fn begin_row(&mut self, key: &Key) {
        if self.row.as_ref() != Some(key) {
            (self.row, self.taken) = (Some(key.clone()), None);
        }
        (self.before, self.before_matches, self.pending) = (None, None, None);
    }

    fn state(&mut self, key: &Key, row: Option<RowVersion>) -> Result<()> {
        let mut matches = None;
        if let Some((id, version)) = self.pending.take() {
            let (passes, after_matches) = self.compare(key, row.as_ref())?;
            matches = Some(after_matches);
            if passes && self.taken.is_none_or(|taken| id > taken) {
                let before = row_image(key, self.before.as_ref(), self.images.before);
                let after = row_image(key, row.as_ref(), self.images.after);
                self.found.push(key, id, || DriftEvent::of_version((key, id), version, (before, after)))?;
                self.taken = Some(id);
            }
        }
        (self.before, self.before_matches) = (row, matches);
        Ok(())
    }

    fn event(&mut self, _: &Key, id: EventId, version: VersionEntry) -> Result<()> {
        let is_wanted =
            self.found.wants(id) && self.actor.is_none_or(|actor| actor_of(&version.actor) == actor);
        self.pending = is_wanted.then_some((id, version));
        Ok(())
    }

    fn end_row(&mut self, _: &Key) -> Result<bool> {
        self.row = None;
        self.left = self.left.saturating_sub(1);
        Ok(self.left > 0)
    }
}
