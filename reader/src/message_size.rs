//! Rows, events and differences as streams of messages of a bounded size.

use std::collections::HashSet;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::query::ast::Column;
use driftdb_common::query::exec::{SelectExecution, SelectPage};
use driftdb_common::query::parser;
use driftdb_common::service::convert;
use driftdb_common::table::diff::{Diff, RowDiff};
use driftdb_common::table::history::{DriftEvent, History};

use crate::steps::Step;

/// Rows read at most between two looks at what else there is to do: about a millisecond.
const ROWS_PER_STEP: usize = 4096;
/// Events read at once.
const EVENTS_PER_STEP: usize = 1024;

/// Goes on with a SELECT until there is a message of rows, or a stretch without one.
pub fn next_rows(select: &mut SelectExecution, format: v1::DocumentFormat) -> Result<(Vec<v1::Row>, bool)> {
    let SelectPage { rows, done } = select.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES)?;
    let rows = rows.iter().map(|row| convert::row_to_wire(row, format)).collect::<Result<_>>()?;
    Ok((rows, done))
}

/// A history as whole commits, or parts of large ones.
#[derive(Debug)]
pub struct Commits {
    history: History,
    table: String,
    format: v1::DocumentFormat,
    left: u64,
    /// Read and not handed out yet.
    ahead: std::collections::VecDeque<DriftEvent>,
    ended: bool,
}

impl Commits {
    /// The commits of a history, at most `limit` events of them (0: all).
    pub fn new(history: History, table: &str, format: v1::DocumentFormat, limit: u64) -> Commits {
        let left = if limit == 0 { u64::MAX } else { limit };
        Commits { history, table: table.to_owned(), format, left, ahead: Default::default(), ended: false }
    }

    fn read_ahead(&mut self) -> Result<()> {
        while self.ahead.len() < 2 && !self.ended {
            let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(EVENTS_PER_STEP);
            let batch = self.history.next_batch(wanted)?;
            self.left -= (batch.len() as u64).min(self.left);
            self.ended = batch.is_empty() || self.left == 0;
            self.ahead.extend(batch);
        }
        Ok(())
    }

    /// The next commit, or part of one: about `bytes` bytes of it, at least one event.
    fn next_commit(&mut self, bytes: &mut usize) -> Result<Option<v1::Commit>> {
        self.read_ahead()?;
        let Some(info) = self.ahead.front().map(|change| change.commit.clone()) else { return Ok(None) };
        let mut commit = convert::commit_to_wire(&info);
        while let Some(change) = self.ahead.pop_front_if(|change| change.commit.seq == info.seq) {
            let change = convert::change_to_wire(&change, &self.table, self.format)?;
            *bytes = bytes.saturating_sub(change_size(&change));
            commit.changes.push(change);
            self.read_ahead()?;
            if *bytes == 0 {
                break;
            }
        }
        commit.more = self.ahead.front().is_some_and(|change| change.commit.seq == info.seq);
        Ok(Some(commit))
    }

    /// The commits of the next message; none at the end.
    pub fn next_message(&mut self) -> Result<Vec<v1::Commit>> {
        let mut bytes = limits::MESSAGE_BYTES;
        let mut commits = Vec::new();
        while bytes > 0 {
            match self.next_commit(&mut bytes)? {
                Some(commit) => commits.push(commit),
                None => break,
            }
        }
        Ok(commits)
    }

    /// The next commit alone.
    pub fn next_single(&mut self) -> Result<Option<v1::Commit>> {
        self.next_commit(&mut { limits::MESSAGE_BYTES })
    }
}

/// About how many bytes a document takes in a message.
pub fn document_size(document: Option<&v1::Document>) -> usize {
    match document.and_then(|document| document.body.as_ref()) {
        Some(v1::document::Body::Json(text)) => text.len(),
        Some(v1::document::Body::Msgpack(bytes)) => bytes.len(),
        None => 0,
    }
}

/// About how many bytes a change takes in a message.
pub fn change_size(change: &v1::Change) -> usize {
    let documents = [&change.payload, &change.before, &change.after];
    64 + change.key.len()
        + documents.into_iter().map(|document| document_size(document.as_ref())).sum::<usize>()
}

/// The rows of the next message of a diff; none at the end.
pub fn next_diffs(diff: &mut Diff, format: v1::DocumentFormat) -> Result<Vec<v1::RowDiff>> {
    let mut bytes = limits::MESSAGE_BYTES;
    let mut rows = Vec::new();
    while bytes > 0 {
        let Some(row) = diff.next_row()? else { break };
        let row = diff_to_wire(&row, format)?;
        let documents = [&row.before, &row.after];
        let size: usize = documents.into_iter().map(|document| document_size(document.as_ref())).sum();
        bytes = bytes.saturating_sub(64 + row.json_patch.len() + size);
        rows.push(row);
    }
    Ok(rows)
}

/// A difference, with its RFC 6902 patch where the row is at both moments.
pub fn diff_to_wire(row: &RowDiff, format: v1::DocumentFormat) -> Result<v1::RowDiff> {
    let json_patch = match (&row.before, &row.after) {
        (Some(before), Some(after)) => {
            let failed = |e: serde_json::Error| {
                Error::new(Reason::Internal, format!("cannot compute a JSON patch: {e}"))
            };
            let before: serde_json::Value = serde_json::from_str(&before.to_json()?).map_err(failed)?;
            let after: serde_json::Value = serde_json::from_str(&after.to_json()?).map_err(failed)?;
            serde_json::to_string(&json_patch::diff(&before, &after)).map_err(failed)?
        }
        _ => String::new(),
    };
    let wire =
        |document: &Option<_>| document.as_ref().map(|d| convert::document_to_wire(d, format)).transpose();
    Ok(v1::RowDiff {
        key: row.key.to_string(),
        before: wire(&row.before)?,
        after: wire(&row.after)?,
        json_patch,
    })
}

/// Sends a message per item of a batch, and asks for the next batch when it is used up.
pub fn one_by_one<T: Send + Unpin + 'static>(
    mut next_batch: impl FnMut() -> Result<Option<Vec<T>>> + Send + Unpin + 'static,
) -> impl FnMut() -> Result<Step<T>> + Send + Unpin {
    let mut batch = Vec::new().into_iter();
    move || {
        if let Some(item) = batch.next() {
            return Ok(Step::Message(item));
        }
        match next_batch()? {
            Some(next) => {
                batch = next.into_iter();
                Ok(Step::Working)
            }
            None => Ok(Step::Done),
        }
    }
}

/// The columns that `fields` of a request name.
pub fn columns(fields: &[String]) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::with_capacity(fields.len());
    let mut seen = HashSet::new();
    for field in fields {
        let column = parser::parse_column(field)?;
        // A document cannot have a field twice.
        if !seen.insert(column.clone()) {
            let message = format!("{column} stands in fields twice: remove one of them");
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        columns.push(column);
    }
    Ok(columns)
}
