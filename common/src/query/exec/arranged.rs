//! Runs a SELECT whose matching rows are sorted, grouped or compared with each other: ORDER BY, GROUP BY, DISTINCT, aggregates.
//!
//! It reads the rows of a [`SelectExecution`] page by page, holds what it must in the memory of the query, and returns the
//! results page by page. Rows arrive in the order of keys, and equal rows keep that order. DISTINCT without ORDER BY
//! returns results while it reads.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use crate::error::{Result, counted};
use crate::format::document::Document;
use crate::format::order_key::write_order_key;
use crate::limits;
use crate::query::ast::Aggregate;
use crate::query::exec::column_value::{ResultColumn, result_document};
use crate::query::exec::groups::{GroupPlan, GroupTable, RowGroup};
use crate::query::exec::query_memory::QueryMemory;
use crate::query::exec::selection::Selection;
use crate::query::exec::sorter::{SortedItems, Sorter};
use crate::query::exec::{SelectExecution, SelectPage};
use crate::table::view::{Row, View};
use crate::work;

/// The bytes of matching rows that are read at once, and of results that are made ahead: the columns of a result can be
/// larger together than the row.
const BYTES_AT_ONCE: usize = 1 << 20;
/// The approximate size of a row besides its document, in bytes.
const ROW_OVERHEAD: usize = 64;
/// An estimate of the bytes that a set takes for an entry besides its content.
const ENTRY_OVERHEAD: usize = 64;

/// A running SELECT whose results are arranged.
#[derive(Debug)]
pub struct ArrangedSelect {
    source: SelectExecution,
    selection: Selection,
    columns: Vec<ResultColumn>,
    /// The keys of the results so far, for DISTINCT.
    seen: Option<HashSet<Box<[u8]>>>,
    stage: Stage,
    /// Where the results are sorted, if they are.
    sorter: Option<Sorter<Arranged>>,
    /// Rows that were read and not taken yet.
    unread: VecDeque<Row>,
    /// Results that need not be sorted, and their bytes.
    ready: VecDeque<Arranged>,
    ready_bytes: usize,
    sorted: Option<SortedItems<Arranged>>,
    skip: u64,
    left: Option<u64>,
    count: u64,
    groups: u64,
    /// How many values each aggregate has left out, over all groups.
    ignored: Vec<(Arc<Aggregate>, u64)>,
    memory: QueryMemory,
    key: Vec<u8>,
}

/// A row of the table, or a result that is none.
#[derive(Debug)]
enum Arranged {
    Row(Row),
    Result(Document),
}

impl Arranged {
    fn bytes(&self) -> usize {
        match self {
            Arranged::Row(row) => row.document.msgpack().len() + row.key.bytes() + ROW_OVERHEAD,
            Arranged::Result(document) => document.msgpack().len(),
        }
    }
}

#[derive(Debug)]
enum Stage {
    /// Has looked at nothing yet, not even at the statement, which can be long.
    Unbegun,
    /// Reads rows, and returns them or holds them.
    Rows,
    /// Reads rows into groups.
    Groups(Box<GroupTable>),
    /// Makes results of groups.
    Results(Box<GroupPlan>, SortedItems<RowGroup>),
    /// Returns what is sorted.
    Sorted,
}

impl ArrangedSelect {
    /// A SELECT over a view.
    pub fn new(view: View, mut selection: Selection) -> ArrangedSelect {
        let most = selection.limit.map(|limit| limit.saturating_add(selection.offset));
        let most = most.map(|most| usize::try_from(most).unwrap_or(usize::MAX));
        let is_sorted = !selection.order_by.is_empty();
        ArrangedSelect {
            columns: Vec::new(),
            seen: selection.distinct.then(HashSet::new),
            stage: Stage::Unbegun,
            sorter: is_sorted.then(|| Sorter::new(most)),
            unread: VecDeque::new(),
            ready: VecDeque::new(),
            ready_bytes: 0,
            sorted: None,
            skip: selection.offset,
            left: selection.limit,
            count: 0,
            groups: 0,
            ignored: Vec::new(),
            memory: QueryMemory::default(),
            key: Vec::new(),
            source: SelectExecution::source_of(view, &mut selection),
            selection,
        }
    }

    fn begin(&mut self) -> Result<()> {
        self.source.prepare(Some(&self.selection))?;
        self.columns = ResultColumn::of_items(&self.selection.items);
        let Selection { group_by, items, having, order_by, .. } = &self.selection;
        self.stage = match self.selection.is_grouped() {
            true => {
                let plan = GroupPlan::new(group_by, items, having.as_ref(), order_by)?;
                Stage::Groups(Box::new(GroupTable::new(plan)))
            }
            false => Stage::Rows,
        };
        Ok(())
    }

    /// The columns; none for whole documents, and before the first page.
    pub fn columns(&self) -> &[ResultColumn] {
        &self.columns
    }

    /// The SELECT that finds the rows.
    pub fn source(&mut self) -> &mut SelectExecution {
        &mut self.source
    }

    /// The number of results returned so far.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the next page: examines at most `rows` rows or groups, and stops after about `bytes` bytes of results. A page
    /// can be empty.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is.
    pub fn next_page(&mut self, rows: usize, bytes: usize) -> Result<SelectPage> {
        let mut page = SelectPage::default();
        if matches!(self.stage, Stage::Unbegun) {
            self.begin()?;
        }
        if self.left == Some(0) {
            page.done = true;
            return Ok(page);
        }
        if self.ready.is_empty() {
            self.advance(rows)?;
        }
        let mut size = 0;
        while size < bytes && self.left != Some(0) {
            let Some(result) = self.next_ready()? else { break };
            if self.skip > 0 {
                self.skip -= 1;
                continue;
            }
            self.left = self.left.map(|left| left - 1);
            self.count += 1;
            size += result.bytes();
            match result {
                Arranged::Row(row) => page.rows.push(row),
                Arranged::Result(document) => page.results.push(document),
            }
        }
        page.done = self.left == Some(0) || self.is_over();
        Ok(page)
    }

    fn next_ready(&mut self) -> Result<Option<Arranged>> {
        match &mut self.sorted {
            Some(sorted) => sorted.pop(&mut self.memory),
            None => {
                let next = self.ready.pop_front();
                self.ready_bytes = self.ready_bytes.saturating_sub(next.as_ref().map_or(0, Arranged::bytes));
                Ok(next)
            }
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Sorted)
            && self.ready.is_empty()
            && self.sorted.as_ref().is_none_or(SortedItems::is_empty)
    }

    /// Reads rows, or makes results of groups.
    fn advance(&mut self, rows: usize) -> Result<()> {
        match &mut self.stage {
            Stage::Rows => {
                if self.unread.is_empty() {
                    self.unread.extend(self.source.next_page(rows, BYTES_AT_ONCE)?.rows);
                }
                while self.ready_bytes < BYTES_AT_ONCE
                    && let Some(row) = self.unread.pop_front()
                {
                    self.take_row(row)?;
                }
                if self.unread.is_empty() && self.source.is_done() {
                    self.end_input()?;
                }
            }
            Stage::Groups(groups) => {
                let page = self.source.next_page(rows, BYTES_AT_ONCE)?;
                for row in &page.rows {
                    groups.add(row.by_ref(), &mut self.memory)?;
                }
                if page.done {
                    self.end_groups()?;
                }
            }
            Stage::Results(..) => self.make_results(rows)?,
            Stage::Sorted | Stage::Unbegun => {}
        }
        Ok(())
    }

    fn take_row(&mut self, row: Row) -> Result<()> {
        self.key.clear();
        for order in &self.selection.order_by {
            write_order_key(
                &mut self.key,
                order.column.value_in(row.by_ref())?.as_deref(),
                order.descending,
            )?;
        }
        // Of the first few rows only those that will be among them are worth a copy.
        if self.seen.is_none() && self.sorter.as_ref().is_some_and(|sorter| !sorter.wants(&self.key)) {
            return work::step(1);
        }
        if self.columns.is_empty() {
            let document = row.document.detached();
            return self.add(&[], Arranged::Row(Row { document, ..row }));
        }
        let values: Vec<_> = self
            .selection
            .items
            .iter()
            .map(|item| item.column.value_in(row.by_ref()))
            .collect::<Result<_>>()?;
        let document = result_document(&self.columns, values.iter().cloned())?;
        if self.seen.is_some() {
            return self.add(&values, Arranged::Result(document));
        }
        drop(values);
        self.add(&[], Arranged::Row(Row { document, ..row }))
    }

    /// Adds a result, whose sort key is `self.key`, unless an equal one was added.
    fn add(&mut self, values: &[Option<std::borrow::Cow<'_, [u8]>>], result: Arranged) -> Result<()> {
        if let Some(seen) = &mut self.seen {
            let mut key = Vec::new();
            for value in values {
                write_order_key(&mut key, value.as_deref(), false)?;
            }
            if seen.contains(key.as_slice()) {
                return Ok(());
            }
            self.memory.charge(key.len() + ENTRY_OVERHEAD, "DISTINCT")?;
            seen.insert(key.into());
        }
        match &mut self.sorter {
            Some(sorter) => {
                let bytes = result.bytes();
                sorter.push(&self.key, result, bytes, &mut self.memory, "ORDER BY")
            }
            None => {
                self.ready_bytes += result.bytes();
                self.ready.push_back(result);
                Ok(())
            }
        }
    }

    /// All rows are in their groups: puts the groups in order.
    fn end_groups(&mut self) -> Result<()> {
        let Stage::Groups(groups) = std::mem::replace(&mut self.stage, Stage::Sorted) else { return Ok(()) };
        let (plan, groups) = groups.into_parts();
        self.ignored = plan.aggregates().iter().map(|aggregate| (Arc::clone(aggregate), 0)).collect();
        let mut sorter = Sorter::new(None);
        for (key, group) in groups {
            for ((_, count), ignored) in self.ignored.iter_mut().zip(plan.ignored(&group)) {
                *count += ignored;
            }
            self.groups += 1;
            sorter.push(&key, group, 0, &mut self.memory, "GROUP BY")?;
        }
        self.stage = Stage::Results(Box::new(plan), sorter.into_sorted()?);
        Ok(())
    }

    fn make_results(&mut self, most: usize) -> Result<()> {
        for _ in 0..most {
            if self.ready_bytes >= BYTES_AT_ONCE {
                return Ok(());
            }
            let Stage::Results(plan, groups) = &mut self.stage else { return Ok(()) };
            let Some(group) = groups.pop(&mut self.memory)? else { return self.end_input() };
            if !plan.keeps(&group)? {
                continue;
            }
            self.key.clear();
            for (order, place) in self.selection.order_by.iter().zip(plan.order_by()) {
                write_order_key(&mut self.key, plan.value(&group, *place)?.as_deref(), order.descending)?;
            }
            let items = plan.items().iter();
            let values: Vec<_> = items.map(|place| plan.value(&group, *place)).collect::<Result<_>>()?;
            let document = result_document(&self.columns, values.iter().cloned())?;
            self.add(&values, Arranged::Result(document))?;
        }
        Ok(())
    }

    fn end_input(&mut self) -> Result<()> {
        self.stage = Stage::Sorted;
        if let Some(sorter) = self.sorter.take() {
            self.sorted = Some(sorter.into_sorted()?);
        }
        Ok(())
    }

    /// What in the statement is probably a mistake, and what aggregates have left out, for people, once the rows were read.
    ///
    /// # Errors
    /// As [`ArrangedSelect::next_page`].
    pub fn notes(&mut self) -> Result<Vec<String>> {
        let mut notes = self.source.notes()?;
        notes.extend(self.ignored.iter().filter(|(_, count)| *count > 0).map(|(name, count)| match count {
            1 => format!("{name} leaves out 1 value that is not a number"),
            count => format!("{name} leaves out {count} values that are not numbers"),
        }));
        Ok(notes)
    }

    /// What is sorted and grouped, and in which memory: the part of an explanation after the access path.
    pub fn explanation(&self) -> String {
        let selection = &self.selection;
        let mut parts = Vec::new();
        let list = |texts: Vec<String>| texts.join(", ");
        if selection.is_grouped() {
            let groups = counted(self.groups, "group");
            let by = list(selection.group_by.iter().map(ToString::to_string).collect());
            parts.push(match by.is_empty() {
                true => "aggregated into one row".to_owned(),
                false => format!("grouped by {by} into {groups}"),
            });
        }
        if let Some(seen) = &self.seen {
            parts.push(format!("{} kept", counted(seen.len() as u64, "distinct result")));
        }
        if !selection.order_by.is_empty() {
            let by = list(selection.order_by.iter().map(ToString::to_string).collect());
            parts.push(match selection.limit {
                Some(limit) => format!("the first {} sorted by {by}", limit.saturating_add(selection.offset)),
                None => format!("sorted by {by}"),
            });
        }
        let held = self.memory.most().div_ceil(1024);
        format!("{}, in {held} KiB of at most {} MiB", parts.join(", "), limits::QUERY_BYTES >> 20)
    }
}
