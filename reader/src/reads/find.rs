//! `FIND`: the commit at which a row began to match a condition.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::query::ast::{Condition, PointInTime};
use driftdb_common::query::exec::find::{FindExecution, FindQuery};
use driftdb_common::service::convert;
use driftdb_common::table::row_spans;
use driftdb_common::table::timeline::Timeline;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_step::PageStep;
use crate::reads::select::Explanation;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;

/// The number of rows whose history one step reads.
const ROWS_PER_STEP: usize = 1024;

/// A FIND, as a statement asks for it.
#[derive(Debug)]
pub struct ConditionSearch {
    /// The table.
    pub table: TableTarget,
    /// Only this row.
    pub key: Option<KeyTarget>,
    /// The condition.
    pub condition: Condition,
    /// The last such commit, not the first.
    pub last: bool,
    /// Commits after this point; `None` for all that are retained.
    pub start: Option<PointInTime>,
    /// Commits up to this point; `None` for now.
    pub end: Option<PointInTime>,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
}

/// A FIND in progress.
#[derive(Debug)]
pub struct FindPages {
    execution: FindExecution,
    table: Arc<Timeline>,
    format: v1::DocumentFormat,
    /// The commit after which the search begins.
    after: u64,
    header: v1::ReadHeader,
    /// Whether compaction has removed history from the start of the range.
    is_truncated: bool,
}

/// The answer.
#[derive(Debug)]
pub struct FoundCommit {
    /// The point in time of the answer.
    pub header: v1::ReadHeader,
    /// The commit, with one change; `None` if there is none.
    pub commit: Option<v1::Commit>,
    /// Whether compaction has removed history from the start of the range.
    pub is_truncated: bool,
}

impl FindPages {
    /// Starts the search once the replica is fresh enough. Fails if the start that was given, or the end, is below the table's floor.
    pub async fn open(
        query: &RunningQuery,
        freshness: Freshness,
        search: ConditionSearch,
    ) -> Result<FindPages> {
        let newest = query.wait_until_fresh(freshness, search.end).await?;
        let start = match search.start {
            Some(start) => Some(query.wait_for_point(freshness, Some(start)).await?.seq),
            None => None,
        };
        let open = move |context: &RequestContext| {
            let point = context.replica.point_at(&newest, search.end)?;
            let timeline = search.table.find(&point)?;
            let key = match &search.key {
                Some(key) => Some(key.parse(&*timeline.key_schema()?)?),
                None => None,
            };
            timeline.check_floor(point.seq)?;
            let floor = row_spans::first_known(timeline);
            if let Some(start) = start {
                timeline.check_floor(start)?;
            }
            let after = start.unwrap_or(floor);
            let wanted = FindQuery {
                key,
                condition: search.condition.clone(),
                last: search.last,
                after,
                up_to: point.seq,
            };
            let mut header = point.header(&context.replica, [timeline])?;
            header.notes.extend(search.table.note_of_other(&point, timeline, after));
            Ok(FindPages {
                execution: FindExecution::new(timeline, wanted),
                table: Arc::clone(timeline),
                format: search.format,
                after,
                header,
                is_truncated: start.is_none() && floor > 0,
            })
        };
        query.look_up(open).await
    }

    /// Runs the search a step further. At its end, explains how it found its rows.
    pub fn next_explanation(&mut self) -> Result<PageStep<Explanation>> {
        let step = self.next_page()?;
        step.try_map(|FoundCommit { header, commit, .. }| {
            let found = commit.map_or("no commit".to_owned(), |commit| format!("commit {}", commit.seq));
            // Its name then: it may have another since, which the caller may not know.
            let (table, after, last) = (self.table.name_at(header.read_seq), self.after, header.read_seq);
            let (route, rows) = (self.execution.route()?, self.execution.examined());
            let text = format!(
                "{table} after seq {after} up to seq {last}: {route}; {rows} rows read, {found} found"
            );
            Ok(Explanation { header: Some(header), text, notes: Vec::new() })
        })
    }

    /// Reads some more history. The answer comes at the end.
    pub fn next_page(&mut self) -> Result<PageStep<FoundCommit>> {
        if !self.execution.step(ROWS_PER_STEP)? {
            return Ok(PageStep::Working);
        }
        let mut header = self.header.clone();
        if self.execution.held() {
            header
                .notes
                .push(format!("the condition holds already at seq {}, where the search begins", self.after));
        }
        let commit = match self.execution.found()? {
            Some(event) => {
                let mut commit = convert::commit_to_wire(&event.commit);
                let table = self.table.name_at(event.commit.seq);
                commit.changes.push(convert::change_to_wire(&event, &table, self.format)?);
                Some(commit)
            }
            None => {
                let range = format!("after seq {} and up to seq {}", self.after, header.read_seq);
                header.notes.push(format!("the condition begins to hold at no commit {range}"));
                None
            }
        };
        Ok(PageStep::LastPage(FoundCommit { header, commit, is_truncated: self.is_truncated }))
    }
}
