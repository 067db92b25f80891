//! Select, `SELECT` and `EXPLAIN SELECT`: rows of one table at one point in time, as pages.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::ast::PointInTime;
use driftdb_common::query::exec::{SelectExecution, SelectPage, Selection};
use driftdb_common::service::convert;
use driftdb_common::table::view::View;
use driftdb_common::work;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_step::PageStep;
use crate::reads::target::TableTarget;
use crate::running_query::RunningQuery;

/// Maximum number of rows that one step reads: about a millisecond.
const ROWS_PER_STEP: usize = 4096;

/// A SELECT, as an RPC or a statement asks for it.
#[derive(Debug)]
pub struct SelectQuery {
    /// The table.
    pub table: TableTarget,
    /// The point in time; `None` for now.
    pub as_of: Option<PointInTime>,
    /// The rows and columns.
    pub selection: Selection,
    /// The encoding of documents.
    pub format: v1::DocumentFormat,
}

/// A SELECT in progress.
#[derive(Debug, Clone)]
pub struct RowPages {
    execution: SelectExecution,
    table: String,
    /// The commit at which the rows are read.
    seq: u64,
    format: v1::DocumentFormat,
    /// `None` once a page has carried it.
    header: Option<v1::ReadHeader>,
}

/// One page of rows.
#[derive(Debug)]
pub struct RowPage {
    /// Only on the first page.
    pub header: Option<v1::ReadHeader>,
    /// The rows, ordered by key.
    pub rows: Vec<v1::Row>,
    /// The number of rows returned, or counted, up to the end of this page.
    pub count: u64,
    /// The key after which the next page starts; `None` on the last page.
    pub resume_after: Option<Key>,
}

/// The answer to `EXPLAIN SELECT`.
#[derive(Debug)]
pub struct Explanation {
    /// The point in time at which the SELECT ran.
    pub header: Option<v1::ReadHeader>,
    /// The access path, and the number of rows read and returned.
    pub text: String,
}

impl RowPages {
    /// Starts a SELECT once the replica is fresh enough.
    pub async fn open(
        query: &RunningQuery,
        freshness: Freshness,
        SelectQuery { table, as_of, selection, format }: SelectQuery,
    ) -> Result<RowPages> {
        let applied = query.wait_until_fresh(freshness, as_of).await?;
        let open = move |context: &RequestContext| {
            let point = context.replica.point_at(&applied, as_of)?;
            let timeline = table.find(&point)?;
            Ok((View::at(timeline, point.seq)?, point.header(&context.replica, [timeline])?))
        };
        let (view, header) = query.look_up(open).await?;
        Ok(RowPages {
            header: Some(header),
            table: view.timeline().name().to_owned(),
            seq: view.seq(),
            execution: SelectExecution::new(view, selection),
            format,
        })
    }

    /// Adds notes to the header of the first page.
    pub fn add_notes(&mut self, notes: Vec<String>) {
        if let Some(header) = &mut self.header {
            header.notes.extend(notes);
        }
    }

    /// The name of the table.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// The commit at which the rows are read.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Computes the first page at once, if it needs few rows and all of them are in memory.
    pub fn quick_page(&mut self) -> Option<Result<PageStep<RowPage>>> {
        // A scan would only be begun in vain.
        let route = work::quick_page(|| self.execution.route())?.ok()?;
        if !route.is_short() {
            return None;
        }
        let mut tried = self.clone();
        let page = work::quick_page(|| tried.next_page())?;
        *self = tried;
        match page {
            // The next step continues.
            Ok(PageStep::Working) => None,
            page => Some(page),
        }
    }

    /// Computes the next page, or part of it. A page without rows is returned only as the last one.
    pub fn next_page(&mut self) -> Result<PageStep<RowPage>> {
        let SelectPage { rows, done } = self.execution.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES)?;
        if rows.is_empty() && !done {
            return Ok(PageStep::Working);
        }
        let page = RowPage {
            header: self.header.take(),
            rows: rows.iter().map(|row| convert::row_to_wire(row, self.format)).collect::<Result<_>>()?,
            count: self.execution.count(),
            resume_after: self.execution.last_key().filter(|_| !done).cloned(),
        };
        Ok(if done { PageStep::LastPage(page) } else { PageStep::Page(page) })
    }

    /// Runs the SELECT a step further. At its end, explains how the SELECT found its rows.
    pub fn next_explanation(&mut self) -> Result<PageStep<Explanation>> {
        let SelectPage { done, .. } = self.execution.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES)?;
        if !done {
            return Ok(PageStep::Working);
        }
        let text = format!(
            "{} at seq {}: {}; {} rows read, {} returned",
            self.table,
            self.seq,
            self.execution.route()?,
            self.execution.examined(),
            self.execution.count()
        );
        Ok(PageStep::LastPage(Explanation { header: self.header.take(), text }))
    }
}
