//! `SELECT … AS OF EVERY`: aggregates at many moments.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::query::ast::{
    Aggregate, AggregateFunction, Column, Condition, EveryMoment, MomentStep, PointInTime, Projection,
    SelectItem, SelectStatement,
};
use driftdb_common::query::exec::every::{EveryExecution, EveryQuery, Moment};
use driftdb_common::query::exec::moment_list;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::service::convert;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_step::PageStep;
use crate::read_point::ReadPoint;
use crate::reads::select::Explanation;
use crate::reads::target::TableTarget;
use crate::running_query::RunningQuery;

/// The number of rows whose history one step reads.
const ROWS_PER_STEP: usize = 1024;

/// A SELECT with AS OF EVERY, as a statement asks for it.
#[derive(Debug)]
pub struct MomentsQuery {
    /// The table.
    pub table: TableTarget,
    /// The moments.
    pub every: EveryMoment,
    /// The time zone of steps of the calendar.
    pub clock: LocalClock,
    /// The condition on rows.
    pub condition: Option<Condition>,
    /// The columns whose values make a group.
    pub group_by: Vec<Column>,
    /// What to return of each group.
    pub items: Vec<SelectItem>,
    /// The condition on groups.
    pub having: Option<Condition>,
    /// The encoding of results.
    pub format: v1::DocumentFormat,
}

impl MomentsQuery {
    /// The query of a statement.
    pub fn new(
        table: TableTarget,
        (select, every): (SelectStatement, EveryMoment),
        clock: LocalClock,
        format: v1::DocumentFormat,
    ) -> MomentsQuery {
        let items = match select.projection {
            Projection::Items(items) => items,
            Projection::Count | Projection::All => {
                let count = Aggregate { function: AggregateFunction::Count, argument: None };
                vec![SelectItem { column: Column::Aggregate(Box::new(count)), alias: None }]
            }
        };
        let SelectStatement { condition, group_by, having, .. } = select;
        MomentsQuery { table, every, clock, condition, group_by, items, having, format }
    }
}

/// A SELECT with AS OF EVERY in progress.
#[derive(Debug)]
pub struct MomentPages {
    execution: EveryExecution,
    table: String,
    format: v1::DocumentFormat,
    has_read_all: bool,
    /// The results that an explanation has counted.
    returned: u64,
    /// `None` once a page has carried it.
    header: Option<v1::ReadHeader>,
}

/// One page of results.
#[derive(Debug)]
pub struct MomentPage {
    /// Only on the first page.
    pub header: Option<v1::ReadHeader>,
    /// The results, by moment and then by group.
    pub results: v1::ResultBatch,
    /// Only on the last page: what was left out, for people.
    pub notes: Vec<String>,
}

impl MomentPages {
    /// Finds the moments once the replica is fresh enough. Fails if one of them is below the table's floor.
    pub async fn open(
        query: &RunningQuery,
        freshness: Freshness,
        wanted: MomentsQuery,
    ) -> Result<MomentPages> {
        let from = query.wait_for_point(freshness, Some(wanted.every.from)).await?;
        let newest = query.wait_until_fresh(freshness, wanted.every.to).await?;
        let open = move |context: &RequestContext| {
            let to = context.replica.point_at(&newest, wanted.every.to)?;
            let timeline = wanted.table.find(&to)?;
            let moments = moments_of(context, &wanted, &from, &to)?;
            if moments.is_empty() {
                let message = "AS OF EVERY has no moment: FROM lies after TO, or after now";
                return Err(Error::new(Reason::QueryInvalid, message));
            }
            if let Some(first) = moments.first() {
                wanted.table.check_same(&to, timeline, first.seq)?;
            }
            let mut header = to.header(&context.replica, [timeline])?;
            header.notes.extend(note_of_creation(timeline, &moments));
            let MomentsQuery { condition, group_by, items, having, format, .. } = wanted;
            let question = EveryQuery { moments, condition, group_by, items, having };
            let execution = EveryExecution::new(timeline, question)?;
            let table = wanted.table.name().to_owned();
            let (has_read_all, returned, header) = (false, 0, Some(header));
            Ok(MomentPages { execution, table, format, has_read_all, returned, header })
        };
        query.compute(open).await
    }

    /// Runs the SELECT a step further. At its end, explains how it found its rows.
    pub fn next_explanation(&mut self) -> Result<PageStep<Explanation>> {
        if !self.has_read_all {
            self.has_read_all = self.execution.step(ROWS_PER_STEP)?;
            return Ok(PageStep::Working);
        }
        self.returned += self.execution.next_results(limits::MESSAGE_BYTES)?.len() as u64;
        if !self.execution.is_done() {
            return Ok(PageStep::Working);
        }
        let how = self.execution.explanation()?;
        let text = format!("{} at {how}, {} returned", self.table, self.returned);
        let notes = self.execution.notes();
        Ok(PageStep::LastPage(Explanation { header: self.header.take(), text, notes }))
    }

    /// Reads some more history, and then computes the next page.
    pub fn next_page(&mut self) -> Result<PageStep<MomentPage>> {
        if !self.has_read_all {
            self.has_read_all = self.execution.step(ROWS_PER_STEP)?;
            return Ok(PageStep::Working);
        }
        let results = self.execution.next_results(limits::MESSAGE_BYTES)?;
        let results = results.iter().map(|result| convert::document_to_wire(result, self.format));
        let results = results.collect::<Result<_>>()?;
        let header = self.header.take();
        let columns = if header.is_some() { self.execution.columns() } else { Vec::new() };
        let is_last = self.execution.is_done();
        let notes = if is_last { self.execution.notes() } else { Vec::new() };
        let page = MomentPage { header, results: v1::ResultBatch { columns, results }, notes };
        Ok(if is_last { PageStep::LastPage(page) } else { PageStep::Page(page) })
    }
}

/// The moments that are not after the end nor after now.
fn moments_of(
    context: &RequestContext,
    wanted: &MomentsQuery,
    from: &ReadPoint,
    to: &ReadPoint,
) -> Result<Vec<Moment>> {
    let replica = &context.replica;
    let EveryMoment { step, from: first, to: last } = &wanted.every;
    if let MomentStep::Seqs(step) = step {
        let moment = |seq| {
            work::step(16)?;
            Ok(Moment { time_ms: replica.time_of(seq, &to.applied)?, seq })
        };
        return moment_list::seqs(*step, from.seq, to.seq)?.into_iter().map(moment).collect();
    }
    let now_ms = wanted.clock.now_ms();
    let time_of = |point: PointInTime, at: &ReadPoint| -> Result<u64> {
        Ok(match point {
            PointInTime::Now => now_ms,
            PointInTime::Time(ms) => u64::try_from(ms).unwrap_or(0),
            PointInTime::Ago(ago) => {
                now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX))
            }
            PointInTime::Seq(seq) => replica.time_of(seq, &at.applied)?.ok_or_else(|| {
                let message =
                    format!("the time of commit {seq} is not known: name a time, or use EVERY n SEQS");
                Error::new(Reason::QueryInvalid, message)
            })?,
        })
    };
    let from_ms = time_of(*first, from)?;
    let to_ms = time_of(last.unwrap_or(PointInTime::Now), to)?.min(now_ms);
    let moment = |time_ms| {
        work::step(16)?;
        Ok(Moment { time_ms: Some(time_ms), seq: replica.seq_at(time_ms, &to.applied)?.min(to.seq) })
    };
    moment_list::times(*step, from_ms, to_ms, &wanted.clock)?.into_iter().map(moment).collect()
}

/// For people, if moments lie before the table's creation: it has no rows there, which is no error.
fn note_of_creation(timeline: &Timeline, moments: &[Moment]) -> Option<String> {
    let first = moments.first()?;
    let error = timeline.schema_at(first.seq).err().filter(|_| first.seq < timeline.created_seq())?;
    Some(format!("{}; it has no rows at moments before that", error.message()))
}
