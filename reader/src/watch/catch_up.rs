//! Commits that are no longer in the live ring: the events of all watched tables, read from files and memtables and merged
//! into commits.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::history::{DriftEvent, History, HistoryQuery, Images, ReadBudget};
use driftdb_common::work;

use crate::replica::Replica;
use crate::watch::commit_assembler::CommitAssembler;
use crate::watch::filter::WatchFilter;

/// Maximum number of events that one step reads: some milliseconds.
const EVENTS_PER_STEP: usize = 8192;
/// Maximum and minimum number of events of one table that are read at once.
const EVENTS_AT_ONCE: (usize, usize) = (256, 16);

/// A read of all commits between two others.
#[derive(Debug)]
pub struct CatchUp {
    filter: Arc<WatchFilter>,
    end: u64,
    /// The watched tables, ordered by id.
    tables: Vec<TableEvents>,
    /// For each table that is not at its end: a lower bound of its next event's seq, and its index in `tables`.
    next: BinaryHeap<Reverse<(u64, usize)>>,
    bounds: ReadBudget,
    images: Images,
}

/// The events of one table.
#[derive(Debug)]
struct TableEvents {
    history: History,
    ahead: VecDeque<(EventId, DriftEvent)>,
}

impl TableEvents {
    /// A lower bound of the next event's seq; `None` at the end.
    fn next_seq(&self) -> Option<u64> {
        match self.ahead.front() {
            Some((id, _)) => Some(id.seq),
            None if self.history.is_done() => None,
            // If the position is within a commit, the rest of that commit comes next.
            None => {
                Some(self.history.read_up_to().seq + u64::from(self.history.read_up_to().index == u32::MAX))
            }
        }
    }
}

impl CatchUp {
    /// A read of the commits after `start` up to `end`, which must be applied. Fails if `start` is below the floor of a watched
    /// table.
    pub fn new(
        filter: Arc<WatchFilter>,
        replica: &Replica,
        (start, end): (u64, u64),
        images: Images,
    ) -> Result<CatchUp> {
        let applied = replica.applied();
        let timelines = filter.timelines(&applied);
        // Each table gets a share, so that the events of all tables in memory are bounded.
        let share = |whole: usize| whole / timelines.len().max(1);
        let (most, least) = EVENTS_AT_ONCE;
        let bounds = ReadBudget {
            events: share(4 * most).clamp(least, most),
            bytes: share(limits::MESSAGE_BYTES).max(1),
        };
        let mut tables = Vec::with_capacity(timelines.len());
        for timeline in timelines {
            let query = HistoryQuery {
                rows: Arc::clone(&filter.rows),
                after: start,
                last: end,
                images: filter.needed_images(images),
                ..HistoryQuery::default()
            };
            let history = History::new(timeline, query);
            // Check the floor after the history has started: it starts at the floor if that is higher, and events are missing.
            timeline.check_floor(start)?;
            tables.push(TableEvents { history, ahead: VecDeque::new() });
        }
        let next = tables.iter().enumerate();
        let next = next.filter_map(|(index, table)| Some(Reverse((table.next_seq()?, index)))).collect();
        Ok(CatchUp { filter, end, tables, next, bounds, images })
    }

    /// Reads on until `out` is full or the step is long enough. Returns the commit up to which everything has been read.
    pub fn step(&mut self, out: &mut CommitAssembler) -> Result<u64> {
        let mut examined = 0;
        while examined < EVENTS_PER_STEP && out.has_room() {
            work::step(8)?;
            let Some(Reverse((seq, index))) = self.next.pop() else { break };
            out.finish_before(seq);
            let Some(table) = self.tables.get_mut(index) else { continue };
            match table.ahead.pop_front() {
                Some((id, mut event)) => {
                    let timeline = table.history.timeline();
                    if self.filter.covers(timeline, id.seq)
                        && self.filter.passes_time(event.commit.time_ms)
                        && self.filter.passes(&event)?
                    {
                        event.keep_images(self.images);
                        out.push(&event, &timeline.name_at(id.seq))?;
                    }
                }
                None => {
                    table.ahead = table.history.read_some(self.bounds)?.into();
                    examined += self.bounds.events;
                }
            }
            if let Some(next) = table.next_seq() {
                self.next.push(Reverse((next, index)));
            }
        }
        let reached = self.next.peek().map_or(self.end, |Reverse((seq, _))| seq - 1);
        out.finish_before(reached + 1);
        Ok(reached)
    }

    /// Whether all commits have been read.
    pub fn is_done(&self) -> bool {
        self.next.is_empty()
    }
}
