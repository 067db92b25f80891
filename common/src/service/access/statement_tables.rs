//! The tables that a DriftQL statement uses, and how: every kind of statement has its line here, or nothing compiles.

use crate::error::Result;
use crate::planted::{PlantedBug, is_planted};
use crate::query::ast::{BulkAction, CreateTable, Statement};
use crate::service::access::authorize::{AccessAction, authorize};
use crate::service::access::caller::Caller;

/// Fails unless the caller may run a statement.
///
/// # Errors
/// As [`authorize`].
pub fn authorize_statement(caller: &Caller, statement: &Statement) -> Result<()> {
    if is_planted(PlantedBug::IndirectStatementsUnauthorized) && is_indirect(statement) {
        return Ok(());
    }
    uses_of(statement).into_iter().try_for_each(|(action, table)| authorize(caller, action, table))
}

/// Whether a statement shows, or depends on, what it does not name as its result: see [`PlantedBug::IndirectStatementsUnauthorized`].
fn is_indirect(statement: &Statement) -> bool {
    match statement {
        Statement::Guarded(_)
        | Statement::Explain(_)
        | Statement::ExplainDrift(_)
        | Statement::ExplainFind(_) => true,
        Statement::Bulk(bulk) => bulk.dry_run,
        _ => false,
    }
}

/// What a statement does, with which table; `None` if with none in particular.
fn uses_of(statement: &Statement) -> Vec<(AccessAction, Option<&str>)> {
    match statement {
        Statement::CreateTable(CreateTable { table, .. }) => vec![(AccessAction::Create, Some(&table.text))],
        Statement::CreateIndex { table, .. } | Statement::DropIndex { table, .. } => {
            vec![(AccessAction::Administer("change the indexes of"), Some(&table.text))]
        }
        Statement::AlterTable { table, .. } => {
            vec![(AccessAction::Administer("change the retention of"), Some(&table.text))]
        }
        Statement::RenameTable { table, to } => vec![
            (AccessAction::Administer("rename"), Some(&table.text)),
            // The new name gets what a new table of this name would have.
            (AccessAction::Create, Some(&to.text)),
        ],
        Statement::DropTable { table } => vec![(AccessAction::Administer("drop"), Some(&table.text))],
        Statement::Insert { table, .. }
        | Statement::Upsert { table, .. }
        | Statement::Patch { table, .. }
        | Statement::SoftDelete { table, .. }
        | Statement::Revert { table, .. } => vec![(AccessAction::Write, Some(&table.text))],
        Statement::Guarded(guarded) => {
            let conditions = guarded.boundaries.iter();
            let mut uses: Vec<_> =
                conditions.map(|clause| (AccessAction::Read, Some(clause.table.text.as_str()))).collect();
            uses.extend(uses_of(&guarded.statement));
            uses
        }
        Statement::Bulk(bulk) => match &bulk.action {
            BulkAction::Patch(_) | BulkAction::SoftDelete | BulkAction::Revert(_) => {
                vec![(AccessAction::Write, Some(&bulk.table.text))]
            }
        },
        // The client collects a transaction, and sends its writes together.
        Statement::Begin | Statement::Commit | Statement::Rollback => Vec::new(),
        Statement::Select(select) | Statement::Explain(select) => {
            vec![(AccessAction::Read, Some(&select.table.text))]
        }
        Statement::ShowDrift(drift) | Statement::ExplainDrift(drift) => {
            vec![(AccessAction::Read, Some(&drift.table.text))]
        }
        Statement::Find(find) | Statement::ExplainFind(find) => {
            vec![(AccessAction::Read, Some(&find.table.text))]
        }
        Statement::ShowDiff { table, .. } | Statement::Describe { table, .. } => {
            vec![(AccessAction::Read, Some(&table.text))]
        }
        // The list has the tables that the caller may read.
        Statement::ShowTables { .. } => Vec::new(),
        Statement::Snapshot { table } => {
            vec![(AccessAction::Administer("take a snapshot of"), Some(&table.text))]
        }
        Statement::Compact { table, .. } => vec![(AccessAction::Administer("compact"), Some(&table.text))],
        Statement::Verify { table: Some(table), .. } => {
            vec![(AccessAction::Administer("verify"), Some(&table.text))]
        }
        Statement::Verify { table: None, .. } => {
            vec![(AccessAction::AdministerDatabase("verify all tables"), None)]
        }
    }
}
