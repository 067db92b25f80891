//! The rows that a watch begins with: those of one moment that pass, table by table.

use std::collections::VecDeque;
use std::sync::Arc;

use driftdb_common::error::{Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::exec::{SelectExecution, SelectPage, Selection};
use driftdb_common::table::view::{Row, View};

use crate::replica::Replica;
use crate::watch::filter::Filter;

/// Rows read at most between two looks at what else there is to do.
const ROWS_PER_STEP: usize = 4096;

/// Initial rows under way.
#[derive(Debug)]
pub struct InitialRows {
    filter: Arc<Filter>,
    /// The moment.
    seq: u64,
    /// Tables still to come by id and name, the next one first.
    tables: VecDeque<(u64, String)>,
    current: Option<Current>,
    /// The last row of the first table that was sent before.
    after: Option<Key>,
    /// Where to go on: the table by id, and its last row looked at.
    place: (u64, Option<Key>),
}

#[derive(Debug)]
struct Current {
    table: (u64, String),
    select: SelectExecution,
}

/// A stretch of initial rows.
#[derive(Debug)]
pub struct Batch {
    /// The table by name.
    pub table: String,
    /// Its rows that pass; perhaps none.
    pub rows: Vec<Row>,
}

impl InitialRows {
    /// The rows of a moment, from a table on, after a row of it.
    pub fn new(
        filter: Arc<Filter>,
        replica: &Replica,
        seq: u64,
        (table, after): (u64, Option<Key>),
    ) -> InitialRows {
        let applied = replica.applied();
        let tables = filter.timelines(&applied).into_iter().filter(|timeline| timeline.id() >= table);
        let tables: VecDeque<_> =
            tables.map(|timeline| (timeline.id(), timeline.name().to_owned())).collect();
        // The row is one of the table that was under way, where that is still there.
        let after = after.filter(|_| tables.front().is_some_and(|(id, _)| *id == table));
        let place = (table, after.clone());
        InitialRows { filter, seq, tables, current: None, after, place }
    }

    /// Where to go on after the last batch: the table by id, and its last row looked at.
    pub fn place(&self) -> (u64, Option<Key>) {
        self.place.clone()
    }

    /// The next stretch; none at the end.
    pub fn next_batch(&mut self, replica: &Replica) -> Result<Option<Batch>> {
        loop {
            if self.current.is_none() {
                let Some(table) = self.tables.pop_front() else { return Ok(None) };
                let after = self.after.take();
                self.current = self.begin(replica, table, after)?;
            }
            let Some(Current { table, select }) = &mut self.current else { continue };
            let SelectPage { mut rows, done } = select.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES)?;
            rows.retain(|row| self.filter.rows.passes(&row.key));
            let (id, name) = table.clone();
            if done {
                self.current = None;
                if rows.is_empty() {
                    continue;
                }
                // What follows is the next table.
                self.place = (id + 1, None);
            } else {
                self.place = (id, select.last_key().cloned());
            }
            return Ok(Some(Batch { table: name, rows }));
        }
    }

    fn begin(&self, replica: &Replica, table: (u64, String), after: Option<Key>) -> Result<Option<Current>> {
        let applied = replica.applied();
        let timeline = applied.table(&table.1)?;
        let view = match View::at(timeline, self.seq) {
            // It was not there then: what it has came later.
            Err(error) if error.reason() == Reason::TableNotFound => return Ok(None),
            view => view?,
        };
        let Some(condition) = self.filter.condition(timeline.key_type()?) else { return Ok(None) };
        let select = SelectExecution::new(view, Selection { condition, after, ..Selection::default() });
        Ok(Some(Current { table, select }))
    }
}
