//! Select, `SELECT` and `EXPLAIN SELECT`: rows of one table at one point in time, as pages.

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::ast::PointInTime;
use driftdb_common::query::exec::{ArrangedSelect, SelectExecution, SelectPage, Selection};
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
#[derive(Debug)]
pub struct RowPages {
    source: SelectSource,
    table: String,
    /// The commit at which the rows are read.
    seq: u64,
    format: v1::DocumentFormat,
    /// `None` once a page has carried it.
    header: Option<v1::ReadHeader>,
    /// Whether the results are no rows.
    has_results: bool,
}

/// Where the pages come from.
#[derive(Debug)]
enum SelectSource {
    /// Rows, as they are found.
    InKeyOrder(Box<SelectExecution>),
    /// Rows or results, after they were sorted or grouped.
    Arranged(Box<ArrangedSelect>),
}

impl SelectSource {
    fn next_page(&mut self) -> Result<SelectPage> {
        match self {
            SelectSource::InKeyOrder(execution) => execution.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES),
            SelectSource::Arranged(select) => select.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES),
        }
    }

    /// Whether it reads few rows.
    fn is_short(&mut self) -> Result<bool> {
        match self {
            SelectSource::InKeyOrder(execution) => execution.is_short(),
            SelectSource::Arranged(_) => Ok(false),
        }
    }

    /// The names of the columns of results that are no rows.
    fn columns(&self) -> Vec<String> {
        match self {
            SelectSource::InKeyOrder(_) => Vec::new(),
            SelectSource::Arranged(select) => {
                select.columns().iter().map(|column| column.label.clone()).collect()
            }
        }
    }

    fn count(&self) -> u64 {
        match self {
            SelectSource::InKeyOrder(execution) => execution.count(),
            SelectSource::Arranged(select) => select.count(),
        }
    }

    fn notes(&mut self) -> Result<Vec<String>> {
        match self {
            SelectSource::InKeyOrder(execution) => execution.notes(),
            SelectSource::Arranged(select) => select.notes(),
        }
    }

    /// The key to resume after. Of sorted rows the number counts, not the key.
    fn resume_after(&self, last: Option<Key>) -> Option<Key> {
        match self {
            SelectSource::InKeyOrder(execution) => execution.last_key().cloned(),
            SelectSource::Arranged(_) => last,
        }
    }
}

/// One page of rows.
#[derive(Debug)]
pub struct RowPage {
    /// Only on the first page.
    pub header: Option<v1::ReadHeader>,
    /// The rows, ordered by key or by the columns that were asked for.
    pub rows: Vec<v1::Row>,
    /// The results of a SELECT whose results are no rows.
    pub results: Option<v1::ResultBatch>,
    /// The number of rows returned, or counted, up to the end of this page.
    pub count: u64,
    /// The key after which the next page starts; `None` on the last page.
    pub resume_after: Option<Key>,
    /// Only on the last page: what in the request is probably a mistake.
    pub notes: Vec<String>,
}

/// The answer to `EXPLAIN SELECT`.
#[derive(Debug)]
pub struct Explanation {
    /// The point in time at which the SELECT ran.
    pub header: Option<v1::ReadHeader>,
    /// The access path, what is sorted and grouped, and the number of rows read and returned.
    pub text: String,
    /// What in the statement is probably a mistake.
    pub notes: Vec<String>,
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
            has_results: selection.has_results(),
            table: view.timeline().name().to_owned(),
            seq: view.seq(),
            source: match selection.is_arranged() {
                true => SelectSource::Arranged(Box::new(ArrangedSelect::new(view, selection))),
                false => SelectSource::InKeyOrder(Box::new(SelectExecution::new(view, selection))),
            },
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

    /// Computes the first page now if the query needs few rows: at once if all that it reads is in memory, and otherwise ahead
    /// of long queries.
    pub async fn short_page(mut self, query: &RunningQuery) -> Result<(RowPages, Option<PageStep<RowPage>>)> {
        // A scan would only be begun in vain.
        if let Some(is_short) = work::quick_page(|| self.source.is_short()) {
            if !is_short? {
                return Ok((self, None));
            }
            if let Some(mut tried) = self.another_try()
                && let Some(page) = work::quick_page(|| tried.next_page())
            {
                let page = page?;
                return Ok((tried, page.finished()));
            }
        }
        let page = move |_: &RequestContext| {
            let page = if self.source.is_short()? { self.next_page()?.finished() } else { None };
            Ok((self, page))
        };
        query.compute_ahead(page).await
    }

    /// The same SELECT, for a try that may have to be given up; `None` if its rows are sorted or grouped.
    fn another_try(&self) -> Option<RowPages> {
        let SelectSource::InKeyOrder(execution) = &self.source else { return None };
        Some(RowPages {
            source: SelectSource::InKeyOrder(execution.clone()),
            table: self.table.clone(),
            seq: self.seq,
            format: self.format,
            header: self.header.clone(),
            has_results: self.has_results,
        })
    }

    /// Computes the next page, or part of it. A page without rows is returned only as the last one.
    pub fn next_page(&mut self) -> Result<PageStep<RowPage>> {
        let SelectPage { rows, results, done } = self.source.next_page()?;
        if rows.is_empty() && results.is_empty() && !done {
            return Ok(PageStep::Working);
        }
        let notes = if done { self.source.notes()? } else { Vec::new() };
        let columns = if self.header.is_some() { self.source.columns() } else { Vec::new() };
        let results = results.iter().map(|result| convert::document_to_wire(result, self.format));
        let results: Vec<_> = results.collect::<Result<_>>()?;
        let page = RowPage {
            header: self.header.take(),
            resume_after: self.source.resume_after(rows.last().map(|row| row.key.clone())).filter(|_| !done),
            rows: rows.iter().map(|row| convert::row_to_wire(row, self.format)).collect::<Result<_>>()?,
            results: self.has_results.then_some(v1::ResultBatch { columns, results }),
            count: self.source.count(),
            notes,
        };
        Ok(if done { PageStep::LastPage(page) } else { PageStep::Page(page) })
    }

    /// Runs the SELECT a step further. At its end, explains how the SELECT found its rows.
    pub fn next_explanation(&mut self) -> Result<PageStep<Explanation>> {
        let SelectPage { done, .. } = self.source.next_page()?;
        if !done {
            return Ok(PageStep::Working);
        }
        let notes = self.source.notes()?;
        let count = self.source.count();
        let (execution, arranged) = match &mut self.source {
            SelectSource::InKeyOrder(execution) => (&mut **execution, None),
            SelectSource::Arranged(select) => {
                let arranged = select.explanation();
                (select.source(), Some(arranged))
            }
        };
        let arranged = arranged.map(|arranged| format!("; {arranged}")).unwrap_or_default();
        let text = format!(
            "{} at seq {}: {}{arranged}; {} rows read, {count} returned",
            self.table,
            self.seq,
            execution.route()?,
            execution.examined(),
        );
        Ok(PageStep::LastPage(Explanation { header: self.header.take(), text, notes }))
    }
}
