//! Turns REVERT into an ordinary write before admission: a put of the row as of an earlier point in time, or a
//! soft delete.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::operation::{Action, Operation};

use crate::commit::TableCatalog;
use crate::rpc::row_as_of::RowAsOfReader;

/// Resolves reverts.
#[derive(Debug, Clone)]
pub(crate) struct RevertResolver {
    catalog: TableCatalog,
    rows: RowAsOfReader,
}

impl RevertResolver {
    /// Reads earlier rows with `rows`.
    pub(crate) fn new(catalog: TableCatalog, rows: RowAsOfReader) -> RevertResolver {
        RevertResolver { catalog, rows }
    }

    /// Turns a revert into a put or a soft delete. Returns any other operation unchanged.
    pub(crate) async fn resolve(&self, operation: Operation) -> Result<Operation> {
        let Action::Revert(point) = operation.action else { return Ok(operation) };
        let Operation { table, key, .. } = operation;
        let key = key.ok_or_else(|| {
            Error::new(
                Reason::KeyInvalid,
                format!("the operation on table {table:?} has no key; a revert needs one"),
            )
        })?;
        let typed = key.of_type(self.catalog.schema(&table)?.key_type)?;
        let (rows, name) = (self.rows.clone(), table.clone());
        let read = tokio::task::spawn_blocking(move || rows.row(&name, &typed, point, now_ms()));
        let row = read.await.map_err(|e| {
            Error::new(Reason::Internal, format!("reading the row to revert to failed: {e}"))
        })??;
        let action = row.map_or(Action::SoftDelete, Action::Put);
        Ok(Operation { table, key: Some(key), action })
    }
}
