//! History and `SHOW DRIFT`: the events of a row or a table between two points in time, grouped by commit, as pages.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::convert;
use driftdb_common::table::history::{DriftEvent, History, HistoryQuery, Images};
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::message_size::change_size;
use crate::page_step::PageStep;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;

/// Maximum number of events that one step reads.
const EVENTS_PER_STEP: usize = 1024;

/// A question about history, as an RPC or a statement asks it.
#[derive(Debug)]
pub struct DriftQuery {
    /// The table.
    pub table: TableTarget,
    /// The row; `None` for all rows and the schema.
    pub key: Option<KeyTarget>,
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
#[derive(Debug, Clone)]
pub struct CommitPages {
    history: History,
    table: String,
    format: v1::DocumentFormat,
    /// The number of events that may still be read.
    remaining: u64,
    /// Events that were read and not returned yet.
    ahead: VecDeque<DriftEvent>,
    /// Whether all events have been read.
    ended: bool,
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
        let (format, limit) = (drift.format, drift.limit);
        let open = move |context: &RequestContext| {
            let point = context.replica.point_at(&newest, drift.end)?;
            let timeline = drift.table.find(&point)?;
            let key = match &drift.key {
                Some(key) => Some(key.parse(timeline.key_type()?)?),
                None => None,
            };
            timeline.check_floor(point.seq)?;
            let header = point.header(&context.replica, [timeline])?;
            let wanted = HistoryQuery {
                key,
                after: start.unwrap_or(0),
                last: point.seq,
                newest_first: drift.newest_first,
                images: drift.images,
                ..HistoryQuery::default()
            };
            let history = History::new(timeline, wanted);
            // After the history has started, which begins at the floor if that is higher.
            if let Some(start) = start.filter(|_| !is_planted(PlantedBug::FloorUnchecked)) {
                timeline.check_floor(start)?;
            }
            Ok((history, header))
        };
        let (history, header) = query.look_up(open).await?;
        Ok(CommitPages {
            table: history.timeline().name().to_owned(),
            history,
            format,
            remaining: limit.unwrap_or(u64::MAX),
            ahead: VecDeque::new(),
            ended: limit == Some(0),
            header: Some(header),
        })
    }

    /// Whether compaction has removed events from the start of the range.
    pub fn is_truncated(&self) -> bool {
        self.history.is_truncated()
    }

    /// Computes the first page now if it is about one row: at once if everything is in memory, and otherwise ahead of long
    /// queries.
    pub async fn short_page(
        mut self,
        query: &RunningQuery,
    ) -> Result<(CommitPages, Option<PageStep<CommitPage>>)> {
        if !self.history.is_of_one_row() {
            return Ok((self, None));
        }
        let mut tried = self.clone();
        if let Some(page) = work::quick_page(|| tried.next_page(usize::MAX)) {
            return Ok((tried, Some(page?)));
        }
        let page = move |_: &RequestContext| {
            let page = self.next_page(usize::MAX)?;
            Ok((self, Some(page)))
        };
        query.compute_ahead(page).await
    }

    /// Computes the next page, with at most `max_commits` commits.
    pub fn next_page(&mut self, max_commits: usize) -> Result<PageStep<CommitPage>> {
        let mut bytes = limits::MESSAGE_BYTES;
        let mut commits = Vec::new();
        while bytes > 0
            && commits.len() < max_commits
            && let Some(commit) = self.next_commit(&mut bytes)?
        {
            commits.push(commit);
        }
        if commits.is_empty() && self.header.is_none() {
            return Ok(PageStep::End);
        }
        let page = CommitPage { header: self.header.take(), commits };
        // Most answers are one page. Whoever learns it with the page need not compute another step.
        Ok(if self.ended && self.ahead.is_empty() { PageStep::LastPage(page) } else { PageStep::Page(page) })
    }

    /// The next commit, or a part of it: at least one event, and no more than about `bytes` bytes.
    fn next_commit(&mut self, bytes: &mut usize) -> Result<Option<v1::Commit>> {
        self.read_ahead()?;
        let Some(info) = self.ahead.front().map(|event| event.commit.clone()) else { return Ok(None) };
        let mut commit = convert::commit_to_wire(&info);
        while let Some(event) = self.ahead.pop_front_if(|event| event.commit.seq == info.seq) {
            let change = convert::change_to_wire(&event, &self.table, self.format)?;
            *bytes = bytes.saturating_sub(change_size(&change));
            commit.changes.push(change);
            self.read_ahead()?;
            if *bytes == 0 {
                break;
            }
        }
        commit.more = self.ahead.front().is_some_and(|event| event.commit.seq == info.seq);
        Ok(Some(commit))
    }

    /// Keeps two events ahead: the next event decides whether the commit is complete.
    fn read_ahead(&mut self) -> Result<()> {
        while self.ahead.len() < 2 && !self.ended {
            let wanted = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(EVENTS_PER_STEP);
            let events = self.history.next_batch(wanted)?;
            self.remaining -= (events.len() as u64).min(self.remaining);
            self.ended = events.is_empty() || self.remaining == 0 || self.history.is_done();
            self.ahead.extend(events);
        }
        Ok(())
    }
}
