//! Runs a SELECT over a view, one bounded page at a time.

mod aggregate;
mod arranged;
mod candidate_limits;
mod column_value;
mod deleted_rows;
pub mod drift;
pub mod every;
mod exact_sum;
mod expectations;
pub mod find;
mod groups;
pub mod history_route;
mod key_list;
pub mod moment_list;
mod passing_events;
mod query_memory;
mod read_ahead;
mod route;
mod selection;
mod sorter;

use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::SelectItem;
pub use crate::query::exec::aggregate::Accumulator;
pub use crate::query::exec::arranged::ArrangedSelect;
pub use crate::query::exec::column_value::{ResultColumn, result_document};
use crate::query::exec::deleted_rows::DeletedBatch;
use crate::query::exec::expectations::Expectations;
pub use crate::query::exec::groups::{GroupPlan, GroupTable, RowGroup};
use crate::query::exec::history_route::HistoryRoute;
use crate::query::exec::key_list::{KeyList, ListedKey};
pub use crate::query::exec::query_memory::QueryMemory;
use crate::query::exec::route::Route;
pub use crate::query::exec::selection::Selection;
use crate::query::plan::AccessPath;
use crate::query::predicate;
use crate::table::layers::{SoughtRow, read_sort_key};
use crate::table::view::{Row, View};

/// A running SELECT. It returns rows in key order.
#[derive(Debug, Clone)]
pub struct SelectExecution {
    view: View,
    selection: Selection,
    /// The columns of the result; the whole document if empty. Set with the expectations.
    columns: Arc<[ResultColumn]>,
    /// Chosen when the first page is read.
    route: Option<Arc<Route>>,
    /// Rows returned or counted so far.
    count: u64,
    /// Rows examined so far, matching or not.
    examined: u64,
    /// What the statement expects of the rows. Known when the first page is read: a long statement takes time.
    expectations: Option<Expectations>,
    done: bool,
}

/// One page of a result.
#[derive(Debug, Default)]
pub struct SelectPage {
    /// The matching rows.
    pub rows: Vec<Row>,
    /// Results that are no rows: groups, or different values.
    pub results: Vec<Document>,
    /// Whether this is the last page.
    pub done: bool,
}

impl SelectExecution {
    /// Returns a SELECT over a view.
    pub fn new(view: View, selection: Selection) -> SelectExecution {
        let done = selection.limit == Some(0);
        // What an earlier part has met of them is not known.
        let expectations = selection.after.is_some().then(Expectations::default);
        let columns = Vec::new().into();
        SelectExecution { view, selection, columns, route: None, count: 0, examined: 0, expectations, done }
    }

    /// Returns the SELECT that finds all matching rows for another one, as whole documents, and takes the condition from that one.
    pub fn source_of(view: View, selection: &mut Selection) -> SelectExecution {
        let Selection { deleted, deleted_after, condition, .. } = selection;
        let (deleted, deleted_after) = (*deleted, *deleted_after);
        let source =
            Selection { deleted, deleted_after, condition: condition.take(), ..Selection::default() };
        SelectExecution::new(view, source)
    }

    /// Learns what the statement expects of the rows, and the columns of the result, unless both are known. `whole` is the
    /// selection for which this one finds the rows.
    fn prepare(&mut self, whole: Option<&Selection>) -> Result<()> {
        if self.columns.is_empty() && !self.selection.items.is_empty() {
            self.columns = ResultColumn::of_items(&self.selection.items).into();
        }
        if self.expectations.is_none() {
            let parts = [Some(&self.selection), whole];
            self.expectations = Some(Expectations::of(parts.into_iter().flatten(), self.view.schema())?);
        }
        Ok(())
    }

    /// What in the statement is probably a mistake, for people, once its rows were read.
    ///
    /// # Errors
    /// As [`SelectExecution::next_page`].
    pub fn notes(&mut self) -> Result<Vec<String>> {
        self.expectations.as_mut().map_or(Ok(Vec::new()), |expectations| expectations.notes(&self.view))
    }

    /// Returns how the rows are found; the first call chooses it.
    pub fn route(&mut self) -> Result<Arc<Route>> {
        if let Some(route) = &self.route {
            return Ok(Arc::clone(route));
        }
        let route = Arc::new(Route::choose(&self.view, &self.selection)?);
        self.route = Some(Arc::clone(&route));
        Ok(route)
    }

    /// Whether the query needs few rows, as far as one look at the indexes can tell.
    pub fn is_short(&mut self) -> Result<bool> {
        if self.route.is_none() {
            self.route = Route::choose_short(&self.view, &self.selection)?.map(Arc::new);
            return Ok(self.route.is_some());
        }
        Ok(self.route.as_ref().is_some_and(|route| route.is_short()))
    }

    /// Whether the last page was returned.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Returns the number of rows returned or counted so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the key of the last row examined, matching or not. The next page starts after it.
    pub fn last_key(&self) -> Option<&Key> {
        self.selection.after.as_ref()
    }

    /// Rows examined so far, matching or not.
    pub fn examined(&self) -> u64 {
        self.examined
    }

    /// Returns the next page: examines at most `rows` rows, and stops after about `bytes` bytes of matching rows.
    pub fn next_page(&mut self, rows: usize, bytes: usize) -> Result<SelectPage> {
        self.prepare(None)?;
        let mut page = PageBuilder { rows: Vec::new(), bytes, left: rows, error: None };
        if !self.done {
            let more = match &*self.route()? {
                Route::Key(AccessPath::Keys(keys)) => self.look_up(KeyList::Keys(keys), &mut page)?,
                Route::Candidates { keys, .. } => self.look_up(KeyList::Candidates(keys), &mut page)?,
                Route::Key(AccessPath::Range { from, to }) => {
                    self.scan((from.as_ref(), to.as_ref()), &mut page)?
                }
                Route::Key(AccessPath::Scan) => self.scan((Bound::Unbounded, Bound::Unbounded), &mut page)?,
                Route::Value { probe, value } => self.look_up_value(&probe.index, value, &mut page)?,
                Route::Deleted { after, rows } => self.scan_deleted((*after, rows), &mut page)?,
                Route::Counted { rows } => {
                    self.count = self.selection.limit.map_or(*rows, |limit| limit.min(*rows));
                    false
                }
            };
            self.done |= !more;
        }
        match page.error {
            Some(error) => Err(error),
            None => Ok(SelectPage { rows: page.rows, results: Vec::new(), done: self.done }),
        }
    }

    /// Looks up the planned keys. Returns whether keys are left.
    fn look_up(&mut self, keys: KeyList<'_>, page: &mut PageBuilder) -> Result<bool> {
        let mut start = self.selection.after.as_ref().map_or(0, |after| keys.first_after(after));
        while start < keys.len() {
            if self.done {
                return Ok(false);
            }
            if !page.has_room() {
                return Ok(true);
            }
            let batch = keys.listed(start, self.rows_wanted().min(page.left));
            let batch: Vec<SoughtRow<'_>> = batch.iter().map(ListedKey::sought).collect();
            let (rows, count) = self.view.rows(&batch, page.bytes)?;
            for row in rows {
                if self.done || !page.has_room() {
                    return Ok(!self.done);
                }
                self.selection.after = Some(row.key.clone());
                self.consider(row, page);
            }
            // Keys without a row have been looked up, too.
            start += count;
            if let Some(last) = count.checked_sub(1).and_then(|last| batch.get(last)) {
                self.selection.after = Some(read_sort_key(last.key, self.view.schema().key_type)?);
            }
        }
        Ok(false)
    }

    /// How many rows to look up at once: not many more than the query needs.
    fn rows_wanted(&self) -> usize {
        let left = self
            .selection
            .limit
            .map(|limit| limit.saturating_sub(self.count).saturating_add(self.selection.offset));
        let left = left.map_or(ROWS_AT_ONCE, |left| usize::try_from(left).unwrap_or(ROWS_AT_ONCE));
        left.clamp(ROWS_AT_ONCE / 16, ROWS_AT_ONCE)
    }

    /// Looks up the candidates of an indexed value. Returns whether candidates are left.
    fn look_up_value(&mut self, index: &str, value: &[u8], page: &mut PageBuilder) -> Result<bool> {
        while page.has_room() && !self.done {
            let after = self.selection.after.as_ref();
            let Some(keys) = self.view.candidates_of_value(index, value, after, CANDIDATES_PER_LOOK)? else {
                // The index was dropped meanwhile. A scan returns the rows in the same order.
                self.route = Some(Arc::new(Route::Key(AccessPath::Scan)));
                return Ok(true);
            };
            if self.look_up(KeyList::Keys(&keys), page)? {
                return Ok(true);
            }
            if keys.len() < CANDIDATES_PER_LOOK {
                return Ok(false);
            }
        }
        Ok(!self.done)
    }

    /// Scans a range of keys. Returns whether rows are left.
    fn scan(&mut self, (from, to): (Bound<&Key>, Bound<&Key>), page: &mut PageBuilder) -> Result<bool> {
        let after = self.selection.after.clone();
        let from = after.as_ref().map_or(from, Bound::Excluded);
        let view = self.view.clone();
        let mut more = false;
        let mut last = None;
        view.scan((from, to), |row| {
            if self.done || !page.has_room() {
                more = !self.done;
                return false;
            }
            last = Some(row.key.clone());
            self.consider(row, page);
            true
        })?;
        if last.is_some() {
            self.selection.after = last;
        }
        Ok(more)
    }

    /// Reads soft-deleted rows. Returns whether rows are left.
    fn scan_deleted(
        &mut self,
        (first_known, route): (u64, &HistoryRoute),
        page: &mut PageBuilder,
    ) -> Result<bool> {
        let left = match self.selection.after.clone() {
            Some(after) => route.rows()?.after(after),
            None => route.rows()?,
        };
        let DeletedBatch { rows, last } =
            deleted_rows::read((&self.view, first_known), left, (page.left, page.bytes))?;
        for row in rows {
            if self.done || !page.has_room() {
                return Ok(!self.done);
            }
            self.selection.after = Some(row.key.clone());
            self.consider(row, page);
        }
        let more = last.is_some();
        if last.is_some() {
            self.selection.after = last;
        }
        Ok(more)
    }

    /// Adds a row to the page if it matches.
    fn consider(&mut self, row: Row, page: &mut PageBuilder) {
        self.examined += 1;
        page.left -= 1;
        let seen = match &mut self.expectations {
            Some(expectations) if !expectations.are_met() => expectations.see(row.by_ref()),
            _ => Ok(()),
        };
        let outcome = seen.and_then(|()| self.matches(row.by_ref())).and_then(|matches| {
            if !matches {
                return Ok(None);
            }
            if self.selection.offset > 0 {
                self.selection.offset -= 1;
                return Ok(None);
            }
            self.count += 1;
            self.done = self.selection.limit == Some(self.count);
            if self.selection.count_only {
                return Ok(None);
            }
            let document = match self.columns.is_empty() {
                true => return Ok(Some(row)),
                false => project(&self.selection.items, &self.columns, row.by_ref())?,
            };
            Ok(Some(Row { document, ..row }))
        });
        match outcome {
            Ok(None) => {}
            Ok(Some(row)) => {
                page.bytes = page.bytes.saturating_sub(row.document.msgpack().len() + ROW_OVERHEAD);
                page.rows.push(row);
            }
            Err(error) => {
                self.done = true;
                page.error = Some(error);
            }
        }
    }

    fn matches(&self, row: predicate::RowRef<'_>) -> Result<bool> {
        if is_planted(PlantedBug::CandidatesBelieved)
            && matches!(self.route.as_deref(), Some(Route::Candidates { .. }))
        {
            return Ok(true);
        }
        self.selection.condition.as_ref().map_or(Ok(true), |condition| condition.matches(row))
    }
}

/// The most rows that are looked up at once.
const ROWS_AT_ONCE: usize = 256;

/// Candidates of an indexed value that are looked up together.
const CANDIDATES_PER_LOOK: usize = 256;

/// The approximate size of a row in a message besides its document, in bytes.
const ROW_OVERHEAD: usize = 64;

/// The page that is being filled, and the space left in it.
struct PageBuilder {
    rows: Vec<Row>,
    bytes: usize,
    left: usize,
    error: Option<crate::error::Error>,
}

impl PageBuilder {
    fn has_room(&self) -> bool {
        self.left > 0 && self.bytes > 0
    }
}

/// Returns a document with the selected columns as fields. Missing fields are omitted.
fn project(items: &[SelectItem], columns: &[ResultColumn], row: predicate::RowRef<'_>) -> Result<Document> {
    let values: Vec<_> = items.iter().map(|item| item.column.value_in(row)).collect::<Result<_>>()?;
    result_document(columns, values)
}
