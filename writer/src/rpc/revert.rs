//! Reads what REVERT writes before admission: the row as of an earlier point in time, or that there was none.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::operation::{Action, Operation};

use crate::admission::draft::error_at_operation;
use crate::commit::TableCatalog;
use crate::rpc::row_as_of::RowAsOfReader;
use crate::tasks::{TaskPool, TaskStop};

/// Resolves reverts.
#[derive(Debug, Clone)]
pub(crate) struct RevertResolver {
    catalog: TableCatalog,
    rows: RowAsOfReader,
    tasks: TaskPool,
}

impl RevertResolver {
    /// Reads earlier rows with `rows`, on `tasks`.
    pub(crate) fn new(catalog: TableCatalog, rows: RowAsOfReader, tasks: TaskPool) -> RevertResolver {
        RevertResolver { catalog, rows, tasks }
    }

    /// Finds the row of each revert, and leaves other operations as they are. Fails at the first revert that
    /// cannot be resolved.
    pub(crate) async fn resolve_all(&self, operations: Vec<Operation>) -> Result<Vec<Operation>> {
        let count = operations.len();
        if !operations.iter().any(is_revert) {
            return Ok(operations);
        }
        let resolved = self.resolve_each(operations.into_iter().map(Ok).collect()).await?;
        let resolved = resolved.into_iter().enumerate();
        resolved.map(|(i, operation)| operation.map_err(|e| error_at_operation(e, i, count))).collect()
    }

    /// Finds the row of each revert, or into the error of why it cannot be resolved. Leaves what is no revert
    /// as it is. Fails if it takes too long.
    pub(crate) async fn resolve_each(
        &self,
        operations: Vec<Result<Operation>>,
    ) -> Result<Vec<Result<Operation>>> {
        if !operations.iter().flatten().any(is_revert) {
            return Ok(operations);
        }
        let this = self.clone();
        // "10 minutes ago" means the same moment for all rows.
        let now_ms = now_ms();
        let resolve = move |stop: &TaskStop| {
            let mut resolved = Vec::with_capacity(operations.len());
            for operation in operations {
                stop.check()?;
                resolved.push(match operation {
                    Ok(operation) => match this.resolve(operation, now_ms, stop) {
                        Err(error) if is_stop(&error) => return Err(error),
                        resolved => resolved,
                    },
                    Err(error) => Err(error),
                });
            }
            Ok(resolved)
        };
        self.tasks.run_long(resolve).await
    }

    /// Finds the row of a revert. Returns any other operation unchanged. Blocks.
    fn resolve(&self, operation: Operation, now_ms: u64, stop: &TaskStop) -> Result<Operation> {
        let Action::Revert(point) = operation.action else { return Ok(operation) };
        let Operation { table, key, .. } = operation;
        let key = key.ok_or_else(|| {
            Error::new(
                Reason::KeyInvalid,
                format!("the operation on table {table:?} has no key; a revert needs one"),
            )
        })?;
        let typed = key.of_table(&*self.catalog.schema(&table)?)?;
        let row = self.rows.row(&table, &typed, point, (now_ms, stop))?;
        Ok(Operation { table, key: Some(key), action: Action::Restore(row) })
    }
}

fn is_revert(operation: &Operation) -> bool {
    matches!(operation.action, Action::Revert(_))
}

/// Whether an error ends the whole request, and not just one of its operations.
fn is_stop(error: &Error) -> bool {
    matches!(error.reason(), Reason::StatementTimeout | Reason::Cancelled | Reason::ShuttingDown)
}
