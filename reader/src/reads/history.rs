//! History and `SHOW DRIFT`: the events of a row or a table between two points in time, grouped by commit, as pages.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::principal_text::actor_of;
use driftdb_common::limits;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::query::ast::{Condition, PointInTime};
use driftdb_common::service::convert;
use driftdb_common::table::history::{DriftEvent, History, HistoryQuery, Images};
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::message_size::change_size;
use crate::page_step::PageStep;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;

/// Maximum number of events that are read together.
const EVENTS_PER_BATCH: usize = 1024;
/// Maximum number of such batches that one step reads if none of their events passes.
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

/// A history read in progress.
#[derive(Debug, Clone)]
pub struct CommitPages {
    history: History,
    filter: DriftFilter,
    /// The images that are returned.
    images: Images,
    table: String,
    format: v1::DocumentFormat,
    /// The number of events that may still be read.
    remaining: u64,
    /// Events that passed and were not returned yet.
    ahead: VecDeque<DriftEvent>,
    /// The commit of the last event that was read, whether it passed or not.
    last_read: Option<u64>,
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
        let (format, limit, images) = (drift.format, drift.limit, drift.images);
        let filter = drift.filter.clone();
        let needed_images = filter.needed_images(images);
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
                images: needed_images,
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
            filter,
            images,
            format,
            remaining: limit.unwrap_or(u64::MAX),
            ahead: VecDeque::new(),
            last_read: None,
            ended: limit == Some(0),
            header: Some(header),
        })
    }

    /// Whether compaction has removed events from the start of the range.
    pub fn is_truncated(&self) -> bool {
        self.history.is_truncated()
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
        if !self.history.is_of_one_row() {
            return Ok((self, None));
        }
        let mut tried = self.clone();
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

    /// Computes the next page, with at most `max_commits` commits.
    pub fn next_page(&mut self, max_commits: usize) -> Result<PageStep<CommitPage>> {
        let mut bytes = limits::MESSAGE_BYTES;
        let mut commits = Vec::new();
        let mut batches = 0;
        while bytes > 0 && commits.len() < max_commits {
            while self.ahead.is_empty() && !self.ended {
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
        Ok(if self.ended && self.ahead.is_empty() { PageStep::LastPage(page) } else { PageStep::Page(page) })
    }

    /// The next commit, or a part of it: at least one event, and no more than about `bytes` bytes.
    fn next_commit(&mut self, bytes: &mut usize) -> Result<Option<v1::Commit>> {
        let Some(info) = self.ahead.front().map(|event| event.commit.clone()) else { return Ok(None) };
        let mut commit = convert::commit_to_wire(&info);
        while self.has_event_of(info.seq)?
            && let Some(mut event) = self.ahead.pop_front()
        {
            event.keep_images(self.images);
            let change = convert::change_to_wire(&event, &self.table, self.format)?;
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
        while self.ahead.is_empty() && !self.ended && self.last_read == Some(seq) {
            self.read_batch()?;
        }
        Ok(self.ahead.front().is_some_and(|event| event.commit.seq == seq))
    }

    /// Reads some more events.
    fn read_batch(&mut self) -> Result<()> {
        let has_filter = self.filter.condition.is_some() || self.filter.actor.is_some();
        let wanted = match usize::try_from(self.remaining) {
            // Of those read, fewer may pass.
            Ok(remaining) if !has_filter => remaining.min(EVENTS_PER_BATCH),
            _ => EVENTS_PER_BATCH,
        };
        let events = self.history.next_batch(wanted)?;
        self.ended = events.is_empty() || self.history.is_done();
        self.last_read = events.last().map(|event| event.commit.seq);
        for event in events {
            if !self.filter.passes(&event)? {
                continue;
            }
            self.ahead.push_back(event);
            self.remaining -= 1;
            if self.remaining == 0 {
                self.ended = true;
                break;
            }
        }
        Ok(())
    }
}
