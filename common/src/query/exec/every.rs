//! Runs `SELECT aggregates … AS OF EVERY`: the aggregates at many moments, from one pass over the history of the rows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Reason, Result, counted};
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::msgpack;
use crate::limits;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::{Column, Condition, SelectItem};
use crate::query::exec::column_value::{ResultColumn, result_document};
use crate::query::exec::groups::{GroupPlan, MomentTable, RowGroup};
use crate::query::exec::history_route::HistoryRoute;
use crate::query::exec::query_memory::QueryMemory;
use crate::query::predicate::RowRef;
use crate::table::row_histories::{HistoryRange, HistoryRows};
use crate::table::row_spans::{self, RowSpan, SpanRow, SpanVisitor};
use crate::table::timeline::Timeline;

/// The column with the time of a moment.
pub const MOMENT: &str = "_moment";
/// The column with the commit at which a moment is read.
pub const MOMENT_SEQ: &str = "_moment_seq";

/// The most bytes of documents of one row that are held until the row ends.
const PENDING_BYTES: usize = 1 << 20;

/// A moment: a time, in milliseconds since 1970, and the commit at which it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The time; `None` if no table keeps the time of the commit.
    pub time_ms: Option<u64>,
    /// The commit.
    pub seq: u64,
}

/// What is asked of each moment.
#[derive(Debug)]
pub struct EveryQuery {
    /// The moments, none before the one before it.
    pub moments: Vec<Moment>,
    /// The condition on rows.
    pub condition: Option<Condition>,
    /// The columns whose values make a group.
    pub group_by: Vec<Column>,
    /// What to return of each group.
    pub items: Vec<SelectItem>,
    /// The condition on groups; every group if `None`.
    pub having: Option<Condition>,
}

/// A running AS OF EVERY.
#[derive(Debug)]
pub struct EveryExecution {
    timeline: Arc<Timeline>,
    moments: Vec<Moment>,
    condition: Option<Condition>,
    columns: Vec<ResultColumn>,
    table: MomentTable,
    memory: QueryMemory,
    /// Chosen when the first row is read.
    route: Option<Arc<HistoryRoute>>,
    /// The rows that are still to be read; `None` before the first and after the last.
    unread: Option<HistoryRows>,
    has_read_all: bool,
    /// The rows whose history was read.
    examined: u64,
    /// The commits over which rows are read: after the first, up to the second.
    commits: (u64, u64),
    /// The next moment whose groups are computed.
    next: usize,
    /// The groups of the moment before it whose results were not returned yet.
    present: Option<MomentGroups>,
    /// The most values that each aggregate has left out at a moment.
    ignored: Vec<u64>,
}

/// The groups of one moment.
#[derive(Debug)]
struct MomentGroups {
    moment: Moment,
    groups: std::vec::IntoIter<RowGroup>,
    /// What they hold.
    bytes: usize,
}

impl EveryExecution {
    /// The aggregates of a table at many moments. Before its creation and after its drop it has no rows.
    ///
    /// # Errors
    /// `BELOW_FLOOR` if a moment lies below the table's floor.
    pub fn new(timeline: &Arc<Timeline>, query: EveryQuery) -> Result<EveryExecution> {
        let EveryQuery { moments, condition, group_by, items, having } = query;
        let plan = GroupPlan::new(&group_by, &items, having.as_ref(), &[])?;
        let created = timeline.created_seq();
        let first = moments.iter().map(|moment| moment.seq).find(|seq| *seq >= created);
        if let Some(first) = first {
            timeline.check_floor(first)?;
        }
        let last = moments.last().map_or(0, |moment| moment.seq);
        let own = [(MOMENT, true), (MOMENT_SEQ, false)];
        let own = own.map(|(label, is_time)| ResultColumn { label: label.to_owned(), is_time });
        Ok(EveryExecution {
            timeline: Arc::clone(timeline),
            ignored: vec![0; plan.aggregates().len()],
            table: MomentTable::new(plan, moments.len()),
            columns: own.into_iter().chain(ResultColumn::of_items(&items)).collect(),
            moments,
            condition,
            memory: QueryMemory::default(),
            route: None,
            unread: None,
            has_read_all: first.is_none(),
            examined: 0,
            commits: (first.unwrap_or(last), last),
            next: 0,
            present: None,
        })
    }

    /// The names of the columns of the results.
    pub fn columns(&self) -> Vec<String> {
        self.columns.iter().map(|column| column.label.clone()).collect()
    }

    /// Reads the history of some more rows. Returns whether all are read.
    pub fn step(&mut self, rows: usize) -> Result<bool> {
        if self.has_read_all {
            return Ok(true);
        }
        let unread = match self.unread.take() {
            Some(unread) => unread,
            None => self.route()?.rows()?,
        };
        let range = HistoryRange { after: self.commits.0, last: self.commits.1, rows: unread };
        let mut collector = MomentCollector {
            moments: &self.moments,
            condition: self.condition.as_ref(),
            table: &mut self.table,
            memory: &mut self.memory,
            pending: Vec::new(),
            pending_bytes: 0,
            reached: (0, 0),
            is_torn: false,
            is_lost: false,
            left: rows,
        };
        let stopped = row_spans::visit(&self.timeline, &range, &mut collector)?;
        self.examined += (rows - collector.left) as u64;
        self.unread = stopped.map(|key| range.rows.after(key));
        self.has_read_all = self.unread.is_none();
        Ok(self.has_read_all)
    }

    /// How the rows are found; the first call chooses it.
    pub fn route(&mut self) -> Result<Arc<HistoryRoute>> {
        if let Some(route) = &self.route {
            return Ok(Arc::clone(route));
        }
        let route = HistoryRoute::choose(&self.timeline, self.condition.as_ref(), self.commits, |_| false)?;
        let route = Arc::new(route);
        self.route = Some(Arc::clone(&route));
        Ok(route)
    }

    /// The part of an explanation about the moments and the rows, once all rows are read.
    pub fn explanation(&mut self) -> Result<String> {
        let (after, last) = self.commits;
        let held = self.memory.most().div_ceil(1024);
        Ok(format!(
            "{} from seq {after} to seq {last}: {}, in {held} KiB of at most {} MiB; {} rows read",
            counted(self.moments.len() as u64, "moment"),
            self.route()?,
            limits::QUERY_BYTES >> 20,
            self.examined
        ))
    }

    /// Some more results, about `bytes` bytes of them, once all rows are read. None at the end.
    pub fn next_results(&mut self, bytes: usize) -> Result<Vec<Document>> {
        let (mut results, mut left) = (Vec::new(), bytes);
        while left > 0 {
            let Some(mut present) =
                self.present.take().map_or_else(|| self.next_moment(), |some| Ok(Some(some)))?
            else {
                break;
            };
            while left > 0
                && let Some(group) = present.groups.next()
            {
                if let Some(result) = self.result_of(present.moment, &group)? {
                    left = left.saturating_sub(result.msgpack().len());
                    results.push(result);
                }
            }
            match present.groups.len() {
                0 => self.memory.release(present.bytes),
                _ => self.present = Some(present),
            }
        }
        Ok(results)
    }

    /// Computes the groups of the next moment; `None` at the end.
    fn next_moment(&mut self) -> Result<Option<MomentGroups>> {
        let Some(moment) = self.moments.get(self.next).copied() else { return Ok(None) };
        self.table.go_to(self.next, &mut self.memory)?;
        let held = self.memory.held();
        let groups = self.table.groups(&mut self.memory)?.into_iter();
        self.next += 1;
        let bytes = self.memory.held().saturating_sub(held);
        Ok(Some(MomentGroups { moment, groups, bytes }))
    }

    /// The result of a group; `None` if it does not meet HAVING.
    fn result_of(&mut self, moment: Moment, group: &RowGroup) -> Result<Option<Document>> {
        let plan = self.table.plan();
        for (most, count) in self.ignored.iter_mut().zip(plan.ignored(group)) {
            *most = count.max(*most);
        }
        if !plan.keeps(group)? {
            return Ok(None);
        }
        let of_moment = [moment.time_ms.map(uint), Some(uint(moment.seq))].map(Ok);
        let of_group = plan.items().iter().map(|place| plan.value(group, *place));
        let values: Vec<Option<Cow<'_, [u8]>>> =
            of_moment.into_iter().chain(of_group).collect::<Result<_>>()?;
        result_document(&self.columns, values).map(Some)
    }

    /// Whether the results of all moments were returned.
    pub fn is_done(&self) -> bool {
        self.next >= self.moments.len() && self.present.is_none()
    }

    /// What was left out, for people.
    pub fn notes(&self) -> Vec<String> {
        let aggregates = self.table.plan().aggregates().iter().zip(&self.ignored);
        let note = |(aggregate, count)| {
            let s = if count == 1 { "" } else { "s" };
            format!("{aggregate} leaves out up to {count} value{s} at a moment, because they are not numbers")
        };
        aggregates
            .filter(|(_, count)| **count > 0)
            .map(|(aggregate, count)| note((aggregate, *count)))
            .collect()
    }
}

fn uint(value: u64) -> Cow<'static, [u8]> {
    let mut out = Vec::new();
    msgpack::write_uint(&mut out, value);
    Cow::Owned(out)
}

/// What a row is at a stretch of moments.
struct PendingRow {
    at: Range<usize>,
    seq: u64,
    time_ms: u64,
    document: Document,
}

/// Adds rows to the groups of the moments at which they match.
struct MomentCollector<'a> {
    moments: &'a [Moment],
    condition: Option<&'a Condition>,
    table: &'a mut MomentTable,
    memory: &'a mut QueryMemory,
    /// The present row at stretches of moments.
    pending: Vec<PendingRow>,
    pending_bytes: usize,
    /// The commit at which the last span ended, and the first moment from there on.
    reached: (u64, usize),
    /// Whether a part of the present row was added, because it is large.
    is_torn: bool,
    /// Whether such a row began again.
    is_lost: bool,
    left: usize,
}

impl MomentCollector<'_> {
    fn add_pending(&mut self, key: &Key) -> Result<()> {
        self.memory.release(self.pending_bytes);
        self.pending_bytes = 0;
        for PendingRow { at, seq, time_ms, document } in self.pending.drain(..) {
            let row = RowRef { key, seq, time_ms, document: &document };
            self.table.add(row, at, self.memory)?;
        }
        Ok(())
    }

    /// The first moment at or after a commit.
    fn moment_at(&self, seq: u64) -> usize {
        let seq = seq + u64::from(is_planted(PlantedBug::MomentsOffByOne));
        first_at(self.moments, seq)
    }
}

/// The position of the first of some moments that lies at or after a commit. Moments are often evenly apart: then the proportion says where
/// it is.
fn first_at(moments: &[Moment], seq: u64) -> usize {
    if let (Some(first), Some(last)) = (moments.first(), moments.last())
        && (first.seq..last.seq).contains(&seq)
    {
        let steps = u128::from(seq - first.seq) * (moments.len() as u128 - 1);
        let guess = steps.div_ceil(u128::from(last.seq - first.seq));
        let guess = usize::try_from(guess).unwrap_or(moments.len());
        let is_before = |at: usize| moments.get(at).is_some_and(|moment| moment.seq < seq);
        if !is_before(guess) && guess.checked_sub(1).is_none_or(is_before) {
            return guess;
        }
    }
    moments.partition_point(|moment| moment.seq < seq)
}

impl SpanVisitor for MomentCollector<'_> {
    fn begin_row(&mut self) {
        self.is_lost |= self.is_torn;
        self.pending.clear();
        self.memory.release(self.pending_bytes);
        self.pending_bytes = 0;
    }

    fn span(&mut self, mut span: RowSpan<'_>) -> Result<()> {
        if self.is_lost {
            let message = "the files of a row with much history were replaced while it was read; try again";
            return Err(Error::new(Reason::Overloaded, message));
        }
        // Spans follow one another, so one search does for both ends of nearly all of them.
        let (reached, first) = self.reached;
        let first = if reached == span.first { first } else { self.moment_at(span.first) };
        let at = first..self.moment_at(span.until);
        self.reached = (span.until, at.end);
        if at.is_empty() || span.is_absent() {
            return Ok(());
        }
        let key = span.key;
        let Some(SpanRow { seq, time_ms, document }) = span.row()? else { return Ok(()) };
        if let Some(condition) = self.condition
            && !condition.matches(RowRef { key, seq, time_ms, document })?
        {
            return Ok(());
        }
        let bytes = document.msgpack().len() + size_of::<PendingRow>();
        self.memory.charge(bytes, "AS OF EVERY")?;
        self.pending_bytes += bytes;
        self.pending.push(PendingRow { at, seq, time_ms, document: document.clone() });
        if self.pending_bytes > PENDING_BYTES {
            self.is_torn = true;
            self.add_pending(key)?;
        }
        Ok(())
    }

    fn end_row(&mut self, key: &Key) -> Result<bool> {
        self.add_pending(key)?;
        self.is_torn = false;
        self.left = self.left.saturating_sub(1);
        Ok(self.left > 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_first_moment_at_a_commit_is_found(
            steps in prop::collection::vec(0_u64..20, 0..40),
            even in 0_u64..20,
            seq in 0_u64..1000,
        ) {
            for is_even in [false, true] {
                let mut at = 3;
                let moments: Vec<Moment> = steps.iter().map(|step| {
                    at += if is_even { even } else { *step };
                    Moment { time_ms: None, seq: at }
                }).collect();
                prop_assert_eq!(first_at(&moments, seq), moments.iter().filter(|moment| moment.seq < seq).count());
            }
        }
    }
}
