//! History and `SHOW DRIFT`: the events of a row or a table between two points in time, grouped by commit, as pages.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::query::ast::PointInTime;
use driftdb_common::query::exec::drift::{DriftExecution, DriftFilter};
use driftdb_common::service::convert;
use driftdb_common::table::history::{DriftEvent, HistoryQuery, Images};
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::message_size::change_size;
use crate::page_step::PageStep;
use crate::reads::select::Explanation;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;

/// Maximum number of batches of events that one step reads if none of their events passes.
const BATCHES_PER_STEP: usize = 4;

/// A question about history, as an RPC or a statement asks it.
#[derive(Debug)]
pub struct DriftQuery {
    /// The table.
    pub table: TableTarget,
    /// The row; `None` for all rows and the schema.
    pub key: Option<KeyTarget>,
    /// The events that pass.
    pub filter: DriftFilter,
    /// Events after this point; `None` for all that are retained.
    pub start: Option<PointInTime>,
    /// Events up to this point; `None` for now.
    pub end: Option<PointInTime>,
    /// Return the newest event first.
    pub newest_first: bool,
    /// The row images to return with each event.
    pub images: Images,
    /// Maximum number of events; `None` for all.
    pub limit: Option<u64>,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
}

/// A history read in progress.
#[derive(Debug)]
pub struct CommitPages {
    execution: DriftExecution,
    format: v1::DocumentFormat,
    /// The commits that the query is about: after the first, up to the second.
    commits: (u64, u64),
    /// Events that passed and were not returned yet.
    ahead: VecDeque<DriftEvent>,
    /// `None` once a page has carried it.
    header: Option<v1::ReadHeader>,
}

/// One page of commits.
#[derive(Debug)]
pub struct CommitPage {
    /// Only on the first page.
    pub header: Option<v1::ReadHeader>,
    /// The commits; the last one may be incomplete. Empty only if the whole answer is.
    pub commits: Vec<v1::Commit>,
}

impl CommitPages {
    /// Starts the read once the replica is fresh enough. Fails if the start that was given, or the end, is below the table's
    /// floor (I10): without a start, the history begins at the floor, and says so.
    pub async fn open(query: &RunningQuery, freshness: Freshness, drift: DriftQuery) -> Result<CommitPages> {
        let newest = query.wait_until_fresh(freshness, drift.end).await?;
        let start = match drift.start {
            Some(start) => Some(query.wait_for_point(freshness, Some(start)).await?.seq),
            None => None,
        };
        let format = drift.format;
        let open = move |context: &RequestContext| {
            let point = context.replica.point_at(&newest, drift.end)?;
            let timeline = drift.table.find(&point)?;
            let key = match &drift.key {
                Some(key) => Some(key.parse(&*timeline.key_schema()?)?),
                None => None,
            };
            timeline.check_floor(point.seq)?;
            let mut header = point.header(&context.replica, [timeline])?;
            header.notes.extend(drift.table.note_of_other(&point, timeline, start.unwrap_or(0)));
            let wanted = HistoryQuery {
                key,
                after: start.unwrap_or(0),
                last: point.seq,
                newest_first: drift.newest_first,
                images: drift.images,
                ..HistoryQuery::default()
            };
            let execution = DriftExecution::new(timeline, wanted, drift.filter.clone(), drift.limit);
            // After the history has started, which begins at the floor if that is higher.
            if let Some(start) = start.filter(|_| !is_planted(PlantedBug::FloorUnchecked)) {
                timeline.check_floor(start)?;
            }
            Ok((execution, point.seq, header))
        };
        let (execution, last, header) = query.look_up(open).await?;
        Ok(CommitPages {
            execution,
            format,
            commits: (start.unwrap_or(0), last),
            ahead: VecDeque::new(),
            header: Some(header),
        })
    }

    /// Whether compaction has removed events from the start of the range.
    pub fn is_truncated(&self) -> bool {
        self.execution.is_truncated()
    }

    /// Adds notes to the header of the first page.
    pub fn add_notes(&mut self, notes: Vec<String>) {
        if let Some(header) = &mut self.header {
            header.notes.extend(notes);
        }
    }

    /// Computes the first page now if it is about one row: at once if everything is in memory, and otherwise ahead of long
    /// queries.
    pub async fn short_page(
        mut self,
        query: &RunningQuery,
    ) -> Result<(CommitPages, Option<PageStep<CommitPage>>)> {
        let Some(mut tried) = self.another_try() else { return Ok((self, None)) };
        if let Some(page) = work::quick_page(|| tried.next_page(usize::MAX)) {
            let page = page?;
            return Ok((tried, page.finished()));
        }
        let page = move |_: &RequestContext| {
            let page = self.next_page(usize::MAX)?;
            Ok((self, page.finished()))
        };
        query.compute_ahead(page).await
    }

    /// The same read, for a try that may have to be given up; `None` if it is not about one row.
    fn another_try(&self) -> Option<CommitPages> {
        Some(CommitPages {
            execution: self.execution.another_try()?,
            ahead: VecDeque::new(),
            header: self.header.clone(),
            ..*self
        })
    }

    /// Whether all events have been read.
    fn has_read_all(&self) -> bool {
        self.execution.is_done()
    }

    /// Runs the read a step further. At its end, explains how it found the events.
    pub fn next_explanation(&mut self) -> Result<PageStep<Explanation>> {
        for _ in 0..BATCHES_PER_STEP {
            if self.has_read_all() {
                let (after, last) = self.commits;
                let table = self.execution.timeline().name_at(last);
                let how = self.execution.explanation();
                let text = format!("{table} after seq {after} up to seq {last}: {how}");
                let (header, notes) = (self.header.take(), Vec::new());
                return Ok(PageStep::LastPage(Explanation { header, text, notes }));
            }
            self.execution.next_batch()?;
        }
        Ok(PageStep::Working)
    }

    /// Computes the next page, with at most `max_commits` commits.
    pub fn next_page(&mut self, max_commits: usize) -> Result<PageStep<CommitPage>> {
        let mut bytes = limits::MESSAGE_BYTES;
        let mut commits = Vec::new();
        let mut batches = 0;
        while bytes > 0 && commits.len() < max_commits {
            while self.ahead.is_empty() && !self.has_read_all() {
                // Others have their turns before the next step if few events pass.
                if batches == BATCHES_PER_STEP && commits.is_empty() {
                    return Ok(PageStep::Working);
                }
                if batches >= BATCHES_PER_STEP {
                    return Ok(PageStep::Page(CommitPage { header: self.header.take(), commits }));
                }
                self.read_batch()?;
                batches += 1;
            }
            let Some(commit) = self.next_commit(&mut bytes)? else { break };
            commits.push(commit);
        }
        if commits.is_empty() && self.header.is_none() {
            return Ok(PageStep::End);
        }
        let page = CommitPage { header: self.header.take(), commits };
        // Most answers are one page. Whoever learns it with the page need not compute another step.
        Ok(if self.has_read_all() && self.ahead.is_empty() {
            PageStep::LastPage(page)
        } else {
            PageStep::Page(page)
        })
    }

    /// The next commit, or a part of it: at least one event, and no more than about `bytes` bytes.
    fn next_commit(&mut self, bytes: &mut usize) -> Result<Option<v1::Commit>> {
        let Some(info) = self.ahead.front().map(|event| event.commit.clone()) else { return Ok(None) };
        let mut commit = convert::commit_to_wire(&info);
        // An event has the name that the table had then.
        let table = self.execution.timeline().name_at(info.seq);
        while self.has_event_of(info.seq)?
            && let Some(event) = self.ahead.pop_front()
        {
            let change = convert::change_to_wire(&event, &table, self.format)?;
            *bytes = bytes.saturating_sub(change_size(&change));
            commit.changes.push(change);
            if *bytes == 0 {
                break;
            }
        }
        commit.more = self.has_event_of(info.seq)?;
        Ok(Some(commit))
    }

    /// Whether the next event belongs to a commit. Reads on until that is known, but not beyond that commit.
    fn has_event_of(&mut self, seq: u64) -> Result<bool> {
        while self.ahead.is_empty() && !self.has_read_all() && self.execution.last_read() == Some(seq) {
            self.read_batch()?;
        }
        Ok(self.ahead.front().is_some_and(|event| event.commit.seq == seq))
    }

    /// Reads some more events.
    fn read_batch(&mut self) -> Result<()> {
        self.ahead.extend(self.execution.next_batch()?);
        Ok(())
    }
}
