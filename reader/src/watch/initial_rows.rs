//! The initial rows of a watch: the rows at one commit that pass the filter, table by table.

use std::collections::VecDeque;
use std::sync::Arc;

use driftdb_common::error::{Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::exec::{SelectExecution, SelectPage, Selection};
use driftdb_common::table::view::{Row, View};

use crate::replica::Replica;
use crate::resume_token::InitialRowPosition;
use crate::watch::filter::WatchFilter;

/// Maximum number of rows that one step reads.
const ROWS_PER_STEP: usize = 4096;

/// The initial rows of a watch in progress.
#[derive(Debug)]
pub struct InitialRows {
    filter: Arc<WatchFilter>,
    /// The commit at which the rows are read.
    seq: u64,
    /// The tables that have not been started, by id and name.
    tables: VecDeque<(u64, String)>,
    current: Option<TableSelect>,
    /// The last row of the first table that an earlier watch has sent.
    after: Option<Key>,
    position: InitialRowPosition,
}

/// The SELECT of the rows of one table.
#[derive(Debug)]
struct TableSelect {
    id: u64,
    name: String,
    select: SelectExecution,
}

/// Some initial rows of one table.
#[derive(Debug)]
pub struct InitialRowBatch {
    /// The name of the table.
    pub table: String,
    /// The rows that pass the filter; may be empty.
    pub rows: Vec<Row>,
}

impl InitialRows {
    /// The rows at commit `seq`, from a position on.
    pub fn new(
        filter: Arc<WatchFilter>,
        replica: &Replica,
        seq: u64,
        position: InitialRowPosition,
    ) -> InitialRows {
        let applied = replica.applied();
        let tables =
            filter.timelines(&applied).into_iter().filter(|timeline| timeline.id() >= position.table);
        let tables: VecDeque<_> =
            tables.map(|timeline| (timeline.id(), timeline.name().to_owned())).collect();
        // The row belongs to the position's table, which may be gone by now.
        let is_first = tables.front().is_some_and(|(id, _)| *id == position.table);
        let after = position.after.clone().filter(|_| is_first);
        let position = InitialRowPosition { after: after.clone(), ..position };
        InitialRows { filter, seq, tables, current: None, after, position }
    }

    /// The position after the last batch.
    pub fn position(&self) -> &InitialRowPosition {
        &self.position
    }

    /// Reads the next batch; `None` at the end.
    pub fn next_batch(&mut self, replica: &Replica) -> Result<Option<InitialRowBatch>> {
        loop {
            if self.current.is_none() {
                let Some((id, name)) = self.tables.pop_front() else { return Ok(None) };
                let after = self.after.take();
                self.current = self.start_table(replica, id, name, after)?;
            }
            let Some(TableSelect { id, name, select }) = &mut self.current else { continue };
            let SelectPage { mut rows, done, .. } = select.next_page(ROWS_PER_STEP, limits::MESSAGE_BYTES)?;
            rows.retain(|row| self.filter.rows.passes(&row.key));
            let table = name.clone();
            if done {
                let next_table = *id + 1;
                self.current = None;
                if rows.is_empty() {
                    continue;
                }
                self.position = InitialRowPosition { table: next_table, after: None };
            } else {
                self.position = InitialRowPosition { table: *id, after: select.last_key().cloned() };
            }
            return Ok(Some(InitialRowBatch { table, rows }));
        }
    }

    /// Starts the SELECT of a table; `None` if no row of the table passes the filter.
    fn start_table(
        &self,
        replica: &Replica,
        id: u64,
        name: String,
        after: Option<Key>,
    ) -> Result<Option<TableSelect>> {
        let applied = replica.applied();
        let timeline = applied.table(&name, self.filter.caller())?;
        let view = match View::at(timeline, self.seq) {
            // The table did not exist at this commit.
            Err(error) if error.reason() == Reason::TableNotFound => return Ok(None),
            view => view?,
        };
        let Some(condition) = self.filter.select_condition(timeline.key_type()?) else { return Ok(None) };
        let select = SelectExecution::new(view, Selection { condition, after, ..Selection::default() });
        Ok(Some(TableSelect { id, name, select }))
    }
}
