//! Diff and `SHOW DIFF`: the rows that differ between two points in time, as pages.

use std::collections::BTreeSet;
use std::sync::Arc;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::ast::PointInTime;
use driftdb_common::service::convert;
use driftdb_common::table::diff::{Diff, RowDiff};
use driftdb_common::table::schema::Schema;
use driftdb_common::table::view::View;
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::message_size::diff_size;
use crate::page_step::PageStep;
use crate::reads::json_patch::json_patch;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;

/// A comparison, as an RPC or a statement asks for it.
#[derive(Debug)]
pub struct DiffQuery {
    /// The table.
    pub table: TableTarget,
    /// The rows to compare; empty for all.
    pub keys: Vec<KeyTarget>,
    /// The earlier point.
    pub start: PointInTime,
    /// The later point; `None` for now.
    pub end: Option<PointInTime>,
    /// If the table does not exist at the earlier point, all rows are added. Otherwise that is an error.
    pub added_if_missing: bool,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
}

/// A comparison in progress.
#[derive(Debug)]
pub struct DiffPages {
    diff: Diff,
    format: v1::DocumentFormat,
    start_seq: u64,
    /// `None` once a page has carried it.
    header: Option<v1::ReadHeader>,
}

/// One page of differences.
#[derive(Debug)]
pub struct DiffPage {
    /// Only on the first page.
    pub header: Option<v1::ReadHeader>,
    /// The differences, ordered by key. Empty only if the whole answer is.
    pub rows: Vec<v1::RowDiff>,
}

impl DiffPages {
    /// Starts the comparison once the replica is fresh enough. Both points are read from one state of the replica.
    pub async fn open(query: &RunningQuery, freshness: Freshness, wanted: DiffQuery) -> Result<DiffPages> {
        let start_seq = query.wait_for_point(freshness, Some(wanted.start)).await?.seq;
        let applied = query.wait_until_fresh(freshness, wanted.end).await?;
        let open = move |context: &RequestContext| {
            let end = context.replica.point_at(&applied, wanted.end)?;
            let timeline = Arc::clone(wanted.table.find(&end)?);
            let after = View::at(&timeline, end.seq)?;
            wanted.table.check_same(&end, &timeline, start_seq)?;
            let mut header = end.header(&context.replica, [&timeline])?;
            let before = match View::at(&timeline, start_seq) {
                Err(error) if wanted.added_if_missing && error.reason() == Reason::TableNotFound => {
                    header.notes.push(format!("{}; every row counts as added", error.message()));
                    None
                }
                before => Some(before?),
            };
            let header = Some(header);
            let keys = parse_keys(&wanted.keys, &*timeline.key_schema()?)?;
            Ok(DiffPages { diff: Diff::new(before, after, keys)?, format: wanted.format, start_seq, header })
        };
        query.compute(open).await
    }

    /// The commit that the earlier point names.
    pub fn start_seq(&self) -> u64 {
        self.start_seq
    }

    /// Computes the next page, with at most `max_rows` differences.
    pub fn next_page(&mut self, max_rows: usize) -> Result<PageStep<DiffPage>> {
        let mut bytes = limits::MESSAGE_BYTES;
        let mut rows = Vec::new();
        while bytes > 0
            && rows.len() < max_rows
            && let Some(row) = self.diff.next_row()?
        {
            let row = diff_to_wire(&row, self.format)?;
            bytes = bytes.saturating_sub(diff_size(&row));
            rows.push(row);
        }
        if rows.is_empty() && self.header.is_none() {
            return Ok(PageStep::End);
        }
        Ok(PageStep::Page(DiffPage { header: self.header.take(), rows }))
    }
}

/// The rows to compare; `None` for all.
fn parse_keys(keys: &[KeyTarget], schema: &Schema) -> Result<Option<BTreeSet<Key>>> {
    if keys.is_empty() {
        return Ok(None);
    }
    let parse = |key: &KeyTarget| {
        work::step(16)?;
        key.parse(schema)
    };
    keys.iter().map(parse).collect::<Result<_>>().map(Some)
}

/// The API's message for a difference. Contains an RFC 6902 patch if the row exists at both points, unless it is too long.
fn diff_to_wire(row: &RowDiff, format: v1::DocumentFormat) -> Result<v1::RowDiff> {
    let patch = match (&row.before, &row.after) {
        (Some(before), Some(after)) => {
            let failed = |e: serde_json::Error| {
                Error::new(Reason::Internal, format!("cannot compute a JSON patch: {e}"))
            };
            let parsed = |document: &Document| {
                let text = document.to_json()?;
                // Parsing and comparing take several times as long as writing.
                work::step_bytes(text.len().saturating_mul(4))?;
                serde_json::from_str::<serde_json::Value>(&text).map_err(failed)
            };
            json_patch(&parsed(before)?, &parsed(after)?, limits::PATCH_BYTES)
        }
        _ => Some(String::new()),
    };
    let wire =
        |document: &Option<_>| document.as_ref().map(|d| convert::document_to_wire(d, format)).transpose();
    Ok(v1::RowDiff {
        key: row.key.to_string(),
        before: wire(&row.before)?,
        after: wire(&row.after)?,
        json_patch_omitted: patch.is_none(),
        json_patch: patch.unwrap_or_default(),
    })
}
