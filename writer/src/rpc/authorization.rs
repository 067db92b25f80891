//! What a change of the database needs, table by table.

use std::collections::BTreeSet;

use driftdb_common::error::Result;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, StreamLease};
use driftdb_common::service::access::role::Role;
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
                SchemaChange::Rename { table, to } => {
                    authorize(caller, AccessAction::Administer("rename"), [table.as_str()])?;
                    // The new name gets what a new table of this name would have.
                    (AccessAction::Create, to)
                }
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
    let rows = preconditions.iter().map(|precondition| precondition.table.as_str());
    authorize_conditions(caller, rows.chain(boundaries.iter().map(|boundary| boundary.table.as_str())))
}

/// Fails unless the caller may read the tables of what must hold before a change: whether it holds tells what is in them.
pub(super) fn authorize_conditions<'t>(
    caller: &Caller,
    tables: impl IntoIterator<Item = &'t str>,
) -> Result<()> {
    let mut tables = tables.into_iter().peekable();
    if tables.peek().is_none() || is_planted(PlantedBug::PreconditionsUnauthorized) {
        return Ok(());
    }
    authorize(caller, AccessAction::Read, tables)
}

/// The right to make a change, for one that may be committed long after it was authorized.
pub(super) fn lease_of_change(caller: &Caller, change: &CommitRequest) -> StreamLease {
    let CommitRequest::Rows { operations, preconditions, boundaries } = change else {
        return StreamLease::new(caller, LeaseNeeds::Principal);
    };
    let names = |tables: BTreeSet<&str>| tables.into_iter().map(str::to_owned).collect::<Vec<_>>();
    let written = operations.iter().map(|operation| operation.table.as_str()).collect();
    let read = preconditions.iter().map(|precondition| precondition.table.as_str());
    let read = read.chain(boundaries.iter().map(|boundary| boundary.table.as_str())).collect();
    lease_of_tables(caller, names(written), names(read))
}

/// The right to write some tables and to read others.
pub(super) fn lease_of_tables(caller: &Caller, written: Vec<String>, read: Vec<String>) -> StreamLease {
    let needs = vec![LeaseNeeds::Tables(Role::Write, written), LeaseNeeds::Tables(Role::Read, read)];
    StreamLease::new(caller, LeaseNeeds::Each(needs))
}

/// Fails if the rules do not allow a change any more that was authorized before.
pub(super) fn check_lease(lease: &StreamLease) -> Result<()> {
    if is_planted(PlantedBug::WritesUnleased) { Ok(()) } else { lease.check() }
}
