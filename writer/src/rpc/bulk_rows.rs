//! The rows that a statement changes, as of one commit, in the order of their keys.

use std::collections::VecDeque;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::query::ast::{BulkAction, BulkStatement, Condition};
use driftdb_common::query::exec::history_route::HistoryRoute;
use driftdb_common::query::exec::{SelectExecution, Selection};
use driftdb_common::query::predicate::RowRef;
use driftdb_common::table::diff::Diff;
use driftdb_common::table::operation::Action;
use driftdb_common::table::point_in_time::PointInTime;
use driftdb_common::table::state;
use driftdb_common::table::view::{Row, View};

use crate::admission::boundaries;
use crate::rpc::table_reader::{OpenTable, TableReader};
use crate::tasks::TaskStop;

/// The rows that one step examines, and about how many bytes of them it returns.
const ROWS_PER_STEP: usize = 256;
const BYTES_PER_STEP: usize = 1 << 20;
/// The rows of a diff after which the caller is asked whether it is still there.
const ROWS_PER_CHECK: u64 = 256;

/// Memory of an operation without its key's text and its document.
const OPERATION_BYTES: usize = 160;

/// A row that is to be changed.
#[derive(Debug)]
pub(super) struct BulkRow {
    pub(super) key: Key,
    pub(super) action: Action,
    /// The row before the change; `None` if no live row has the key.
    pub(super) before: Option<Document>,
    /// The row after it; `None` if it is deleted.
    pub(super) after: Option<Document>,
}

impl BulkRow {
    /// The bytes that the operation holds: a patch is shared by all rows.
    pub(super) fn bytes(&self) -> usize {
        let document = match &self.action {
            Action::Restore(Some(document)) => document.msgpack().len(),
            _ => 0,
        };
        OPERATION_BYTES + self.key.bytes() + document
    }
}

/// When the point in time of a REVERT is: it means the same commit however often the table is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct RevertMoment {
    /// When the statement began, for points such as "10 minutes ago".
    now_ms: u64,
    /// The point's commit, once the table has been opened.
    seq: Option<u64>,
}

impl RevertMoment {
    /// The moment of a statement that begins at a time.
    pub(super) fn of(now_ms: u64) -> RevertMoment {
        RevertMoment { now_ms, seq: None }
    }
}

/// Finds the rows.
#[derive(Debug)]
pub(super) struct BulkRows {
    table: OpenTable,
    statement: Arc<BulkStatement>,
    moment: RevertMoment,
    source: BulkSource,
    /// Rows that were read ahead.
    ahead: VecDeque<Row>,
}

#[derive(Debug)]
enum BulkSource {
    Select(Box<SelectExecution>),
    /// The rows that differ between a point in time and now.
    Diff(Box<Diff>),
}

impl BulkRows {
    /// Finds rows as of the newest published commit, after a key if one is given. Blocks.
    pub(super) fn open(
        reader: &TableReader,
        statement: Arc<BulkStatement>,
        mut moment: RevertMoment,
        after: Option<Key>,
        stop: &TaskStop,
    ) -> Result<BulkRows> {
        let table = reader.open(&statement.table.text, stop)?;
        let now = table.now()?;
        let source = match &statement.action {
            BulkAction::Patch(_) | BulkAction::SoftDelete => {
                let condition = statement.condition.clone();
                let selection = Selection { condition, after, ..Selection::default() };
                BulkSource::Select(Box::new(SelectExecution::new(now, selection)))
            }
            BulkAction::Revert(PointInTime::Now) => {
                let message = "REVERT needs an earlier point in time: a seq, a time or an age";
                return Err(Error::new(Reason::ArgumentInvalid, message));
            }
            BulkAction::Revert(point) => {
                if let Some(condition) = &statement.condition
                    && boundaries::check_columns(condition).is_err()
                {
                    let message =
                        "REVERT … WHERE cannot use _seq and _time: compare _key and fields of the document";
                    return Err(Error::new(Reason::QueryInvalid, message));
                }
                let then = table.at(moment.seq.map_or(*point, PointInTime::Seq), moment.now_ms)?;
                moment.seq = Some(then.seq());
                BulkSource::Diff(Box::new(changed_rows(then, now, statement.condition.as_ref(), after)?))
            }
        };
        Ok(BulkRows { table, statement, moment, source, ahead: VecDeque::new() })
    }

    /// The commit at which the rows are found.
    pub(super) fn seq(&self) -> u64 {
        self.table.seq()
    }

    /// The moment that a REVERT goes back to.
    pub(super) fn moment(&self) -> RevertMoment {
        self.moment
    }

    /// The table's name.
    pub(super) fn table_name(&self) -> &str {
        &self.statement.table.text
    }

    /// The next row that the statement changes; `None` at the end.
    pub(super) fn next_row(&mut self, stop: &TaskStop) -> Result<Option<BulkRow>> {
        loop {
            match &mut self.source {
                BulkSource::Select(select) => {
                    let Some(row) = self.ahead.pop_front() else {
                        stop.check()?;
                        let page = select.next_page(ROWS_PER_STEP, BYTES_PER_STEP)?;
                        self.ahead.extend(page.rows);
                        if self.ahead.is_empty() && page.done {
                            return Ok(None);
                        }
                        continue;
                    };
                    if let Some(found) = changed_row(&self.statement.action, row)? {
                        return Ok(Some(found));
                    }
                }
                BulkSource::Diff(diff) => {
                    let found = reverted_row(diff, &self.statement, stop)?;
                    return Ok(found);
                }
            }
        }
    }
}

/// The change of a row that the condition has found; `None` if the row is as the change would make it.
fn changed_row(action: &BulkAction, row: Row) -> Result<Option<BulkRow>> {
    let Row { key, document, .. } = row;
    let (action, after) = match action {
        BulkAction::Patch(patch) => {
            let after = state::apply(Some(&document), EventType::Patch, Some(patch))?;
            if after.as_ref() == Some(&document) {
                return Ok(None);
            }
            (Action::Patch(patch.clone()), after)
        }
        BulkAction::SoftDelete | BulkAction::Revert(_) => (Action::SoftDelete, None),
    };
    Ok(Some(BulkRow { key, action, before: Some(document), after }))
}

/// The rows that differ between two points in time and that a condition can find at one of them, after a key if one is given. The keys
/// and the indexes that the condition names tell which rows matched at a commit in between, both points included.
fn changed_rows(then: View, now: View, condition: Option<&Condition>, after: Option<Key>) -> Result<Diff> {
    let commits = (then.seq(), now.seq());
    let rows = HistoryRoute::choose(now.timeline(), condition, commits, |_| false)?.rows()?;
    let rows = after.map_or_else(|| rows.clone(), |after| rows.after(after));
    Diff::among(then, now, rows)
}

/// The next row that differs and that the condition finds, now or as it was.
fn reverted_row(diff: &mut Diff, statement: &BulkStatement, stop: &TaskStop) -> Result<Option<BulkRow>> {
    for count in 0u64.. {
        if count.is_multiple_of(ROWS_PER_CHECK) {
            stop.check()?;
        }
        let Some(row) = diff.next_row()? else { return Ok(None) };
        let (then, now) = (row.before, row.after);
        let is_found = match &statement.condition {
            None => true,
            Some(condition) => {
                matches(condition, &row.key, now.as_ref())? || matches(condition, &row.key, then.as_ref())?
            }
        };
        if is_found {
            // The change outlives the block of the file that the row was read from.
            let then = then.as_ref().map(Document::detached);
            let action = Action::Restore(then.clone());
            return Ok(Some(BulkRow { key: row.key, action, before: now, after: then }));
        }
    }
    Ok(None)
}

fn matches(condition: &Condition, key: &Key, document: Option<&Document>) -> Result<bool> {
    // A REVERT whose condition names _seq or _time was refused.
    document.map_or(Ok(false), |document| condition.matches(RowRef { key, seq: 0, time_ms: 0, document }))
}
