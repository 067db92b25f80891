//! Commits that are no longer in memory: what the tables' files and overlays tell, merged into whole commits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::{DriftEvent, History, HistoryQuery, Images, ReadBudget};

use crate::replica::Replica;
use crate::watch::filter::Filter;
use crate::watch::message::Assembler;

/// Events gone through at most in one step: about some milliseconds.
const EVENTS_PER_STEP: usize = 8192;
/// Events of one table read at once, at the most and at the least.
const EVENTS_AT_ONCE: (usize, usize) = (256, 16);

/// A way from one commit up to another.
#[derive(Debug)]
pub struct CatchUp {
    filter: Arc<Filter>,
    upto: u64,
    /// In the order of their ids.
    sources: Vec<Source>,
    /// For each source the commit that its next event is of, at the least.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    bounds: ReadBudget,
    images: Images,
}

/// The events of one table.
#[derive(Debug)]
struct Source {
    history: History,
    ahead: VecDeque<(EventId, DriftEvent)>,
}

impl Source {
    /// The commit that the next event is of, at the least; none at the end.
    fn next_seq(&self) -> Option<u64> {
        match self.ahead.front() {
            Some((spot, _)) => Some(spot.seq),
            None if self.history.is_done() => None,
            // Within a commit, the rest of it.
            None => {
                Some(self.history.read_up_to().seq + u64::from(self.history.read_up_to().index == u32::MAX))
            }
        }
    }
}

impl CatchUp {
    /// The way from after a commit up to another, which must have been applied. Fails below the floor.
    pub fn new(
        filter: Arc<Filter>,
        replica: &Replica,
        (after, upto): (u64, u64),
        images: Images,
    ) -> Result<CatchUp> {
        let applied = replica.applied();
        let timelines = filter.timelines(&applied);
        // What all tables have ahead together is bounded.
        let share = |whole: usize| whole / timelines.len().max(1);
        let (most, least) = EVENTS_AT_ONCE;
        let bounds = ReadBudget {
            events: share(4 * most).clamp(least, most),
            bytes: share(limits::MESSAGE_BYTES).max(1),
        };
        let mut sources = Vec::with_capacity(timelines.len());
        for timeline in timelines {
            let wanted = HistoryQuery {
                rows: Arc::clone(&filter.rows),
                after,
                last: upto,
                images: filter.images(images),
                ..HistoryQuery::default()
            };
            let history = History::new(timeline, wanted);
            // A history begins at the floor where that is greater: then events were left out.
            timeline.check_floor(after)?;
            sources.push(Source { history, ahead: VecDeque::new() });
        }
        let next = sources.iter().enumerate();
        let next = next.filter_map(|(at, source)| Some(Reverse((source.next_seq()?, at)))).collect();
        Ok(CatchUp { filter, upto, sources, next, bounds, images })
    }

    /// Goes on until there is a message's worth of commits, or for a step; how far everything has been gone through.
    /// At the end that is where this way leads.
    pub fn step(&mut self, out: &mut Assembler) -> Result<u64> {
        let mut examined = 0;
        while examined < EVENTS_PER_STEP && out.has_room() {
            let Some(Reverse((seq, at))) = self.next.pop() else { break };
            out.finish_before(seq);
            let Some(source) = self.sources.get_mut(at) else { continue };
            match source.ahead.pop_front() {
                Some((_, mut change)) => {
                    if self.filter.passes(&change)? {
                        keep_only(&mut change, self.images);
                        out.push(&change, source.history.timeline().name())?;
                    }
                }
                None => {
                    source.ahead = source.history.read_some(self.bounds)?.into();
                    examined += self.bounds.events;
                }
            }
            if let Some(next) = source.next_seq() {
                self.next.push(Reverse((next, at)));
            }
        }
        let reached = self.next.peek().map_or(self.upto, |Reverse((seq, _))| seq - 1);
        out.finish_before(reached + 1);
        Ok(reached)
    }

    /// Whether everything has been gone through.
    pub fn is_done(&self) -> bool {
        self.next.is_empty()
    }
}

/// Takes away the images that were needed only to tell whether the change passes.
pub fn keep_only(change: &mut DriftEvent, images: Images) {
    if !images.before {
        change.before = None;
    }
    if !images.after {
        change.after = None;
    }
}
