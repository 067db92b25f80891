//! What a change of the database needs, table by table.

use driftdb_common::error::Result;
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::table::operation::{CommitRequest, SchemaChange};

use crate::admission::draft::error_at_operation;

/// Fails unless the caller may make a change. What must hold before the change is read.
pub(super) fn authorize_change(caller: &Caller, change: &CommitRequest) -> Result<()> {
    let (operations, preconditions, boundaries) = match change {
        CommitRequest::Rows { operations, preconditions, boundaries } => {
            (operations, preconditions, boundaries)
        }
        CommitRequest::Schema(change) => {
            let (action, table) = match change {
                SchemaChange::Create { schema, .. } => (AccessAction::Create, &schema.table),
                SchemaChange::Alter { table, .. } => (AccessAction::Administer("alter"), table),
                SchemaChange::Drop { table } => (AccessAction::Administer("drop"), table),
            };
            return authorize(caller, action, [table.as_str()]);
        }
    };
    let written =
        authorize(caller, AccessAction::Write, operations.iter().map(|operation| operation.table.as_str()));
    written.map_err(|error| {
        let table = error.metadata().get("table");
        match operations.iter().position(|operation| Some(&operation.table) == table) {
            Some(index) => error_at_operation(error, index, operations.len()),
            None => error,
        }
    })?;
    if preconditions.is_empty() && boundaries.is_empty() {
        return Ok(());
    }
    let rows = preconditions.iter().map(|precondition| precondition.table.as_str());
    authorize(
        caller,
        AccessAction::Read,
        rows.chain(boundaries.iter().map(|boundary| boundary.table.as_str())),
    )
}
