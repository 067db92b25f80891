//! Runs FIND: the first or the last commit after which a row matches a condition that it did not match before the commit.
//!
//! A condition can begin and cease to hold any number of times, so a bisection would miss commits. The history of the rows is read once
//! instead: of one row if a key is given, or else of the rows that can have matched, as the condition's keys or the indexes tell.

use std::sync::Arc;

use crate::error::Result;
use crate::format::key::Key;
use crate::limits;
use crate::query::ast::Condition;
use crate::query::exec::history_route::HistoryRoute;
use crate::query::plan::AccessPath;
use crate::query::predicate::RowRef;
use crate::table::history::{DriftEvent, History, HistoryQuery, Images, ReadBudget};
use crate::table::row_histories::{HistoryRange, HistoryRows};
use crate::table::row_spans::{self, RowSpan, SpanRow, SpanVisitor};
use crate::table::timeline::Timeline;
use crate::table::view::Row;

/// What FIND looks for.
#[derive(Debug, Clone)]
pub struct FindQuery {
    /// Only this row.
    pub key: Option<Key>,
    /// The condition.
    pub condition: Condition,
    /// The last such commit, not the first.
    pub last: bool,
    /// Commits after this one.
    pub after: u64,
    /// Commits up to and including this one.
    pub up_to: u64,
}

/// A running FIND.
#[derive(Debug)]
pub struct FindExecution {
    timeline: Arc<Timeline>,
    query: FindQuery,
    /// Chosen when the first row is read.
    route: Option<Arc<HistoryRoute>>,
    /// The rows that are still to be read; `None` before the first and after the last.
    unread: Option<HistoryRows>,
    is_done: bool,
    /// The rows whose history was read.
    examined: u64,
    /// The commit, and the row that begins to match with it.
    found: Option<(u64, Key)>,
    /// Whether a row matched before the first commit of the range.
    held: bool,
}

impl FindExecution {
    /// A FIND in the history of a table.
    pub fn new(timeline: &Arc<Timeline>, query: FindQuery) -> FindExecution {
        FindExecution {
            timeline: Arc::clone(timeline),
            is_done: query.after >= query.up_to,
            query,
            route: None,
            unread: None,
            examined: 0,
            found: None,
            held: false,
        }
    }

    /// How the rows are found; the first call chooses it.
    pub fn route(&mut self) -> Result<Arc<HistoryRoute>> {
        if let Some(route) = &self.route {
            return Ok(Arc::clone(route));
        }
        let FindQuery { key, condition, after, up_to, .. } = &self.query;
        let route = match key {
            Some(key) => HistoryRoute::Key(AccessPath::Keys(vec![key.clone()])),
            None => HistoryRoute::choose(&self.timeline, Some(condition), (*after, *up_to), |_| false)?,
        };
        let route = Arc::new(route);
        self.route = Some(Arc::clone(&route));
        Ok(route)
    }

    /// The rows whose history was read.
    pub fn examined(&self) -> u64 {
        self.examined
    }

    /// Reads the history of some more rows. Returns whether all are read.
    pub fn step(&mut self, rows: usize) -> Result<bool> {
        if self.is_done {
            return Ok(true);
        }
        let unread = match self.unread.take() {
            Some(unread) => unread,
            None => self.route()?.rows()?,
        };
        let FindQuery { after, up_to, condition, last, .. } = &self.query;
        // A later first one is not looked for.
        let up_to = match &self.found {
            Some((seq, _)) if !*last => seq.saturating_sub(1),
            _ => *up_to,
        };
        let range = HistoryRange { after: *after, last: up_to, rows: unread };
        let mut search = Search {
            condition,
            after: *after,
            last: *last,
            found: self.found.take(),
            held: self.held,
            row: MatchedRow::default(),
            left: rows,
        };
        let stopped = row_spans::visit(&self.timeline, &range, &mut search)?;
        (self.found, self.held) = (search.found, search.held);
        self.examined += (rows - search.left) as u64;
        self.unread = stopped.map(|key| range.rows.after(key));
        self.is_done = self.unread.is_none();
        Ok(self.is_done)
    }

    /// Whether a row matched before the first commit of the range.
    pub fn held(&self) -> bool {
        self.held
    }

    /// What was found: the last event of the row in the commit, with the row before and after the commit.
    pub fn found(&self) -> Result<Option<DriftEvent>> {
        let Some((seq, key)) = &self.found else {
            self.timeline.check_floor(self.query.after)?;
            return Ok(None);
        };
        let query = HistoryQuery {
            key: Some(key.clone()),
            after: seq.saturating_sub(1),
            last: *seq,
            images: Images { before: true, after: true },
            ..HistoryQuery::default()
        };
        let mut history = History::new(&self.timeline, query);
        let (mut before, mut newest): (Option<Option<Row>>, Option<DriftEvent>) = (None, None);
        while !history.is_done() {
            for (_, event) in history.read_some(ONE_COMMIT)? {
                before.get_or_insert(event.before.clone());
                newest = Some(event);
            }
        }
        // The history begins at the floor, which may have passed the commit since it was found.
        self.timeline.check_floor(seq.saturating_sub(1))?;
        Ok(newest.map(|newest| DriftEvent { before: before.flatten(), ..newest }))
    }
}

/// A commit can hold many events of one row, so they are read in parts.
const ONE_COMMIT: ReadBudget = ReadBudget { events: 1024, bytes: limits::MESSAGE_BYTES };

/// What is known of the present row.
#[derive(Debug, Default)]
struct MatchedRow {
    /// Whether the row matched in its last span.
    matches: bool,
    /// Whether it matched in its first span.
    held: bool,
    /// The commit at which it began to match.
    began: Option<u64>,
}

/// Looks for the commit in the spans of rows.
struct Search<'a> {
    condition: &'a Condition,
    after: u64,
    last: bool,
    found: Option<(u64, Key)>,
    held: bool,
    row: MatchedRow,
    left: usize,
}

impl SpanVisitor for Search<'_> {
    fn begin_row(&mut self) {
        self.row = MatchedRow::default();
    }

    fn span(&mut self, mut span: RowSpan<'_>) -> Result<()> {
        if span.first == span.until {
            return Ok(());
        }
        let key = span.key;
        let matches = match span.row()? {
            Some(SpanRow { seq, time_ms, document }) => {
                self.condition.matches(RowRef { key, seq, time_ms, document })?
            }
            None => false,
        };
        if span.first == self.after {
            self.row.held = matches;
        } else if matches && !self.row.matches && (self.last || self.row.began.is_none()) {
            self.row.began = Some(span.first);
        }
        self.row.matches = matches;
        Ok(())
    }

    fn end_row(&mut self, key: &Key) -> Result<bool> {
        self.held |= self.row.held;
        if let Some(began) = self.row.began {
            let is_better = match &self.found {
                None => true,
                // Of several rows in one commit, FIRST is the least key and LAST the greatest.
                Some((found, _)) if self.last => began >= *found,
                Some((found, _)) => began < *found,
            };
            if is_better {
                self.found = Some((began, key.clone()));
            }
        }
        self.left = self.left.saturating_sub(1);
        Ok(self.left > 0)
    }
}
