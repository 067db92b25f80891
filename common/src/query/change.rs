//! Turns statements that write into commit requests.

use crate::error::{Error, Reason, Result};
use crate::format::index_columns::IndexColumns;
use crate::query::ast::{CreateTable, GuardedStatement, NoChangeClause, RowKey, Statement};
use crate::table::operation::{
    Action, Boundary, Check, CommitRequest, Operation, Precondition, SchemaChange,
};
use crate::table::schema::Schema;

/// Returns the commit request of a statement.
///
/// # Errors
/// `QUERY_INVALID` if the statement does not write.
pub fn of_statement(statement: Statement) -> Result<CommitRequest> {
    let (operations, preconditions) = match statement {
        Statement::Guarded(guarded) => return guarded_change(*guarded),
        Statement::Bulk(_) => {
            let message = "a statement that changes the rows of a condition cannot run in a transaction: run it on its own";
            return Err(Error::new(Reason::QueryInvalid, message));
        }
        Statement::CreateTable(CreateTable {
            table,
            primary_key,
            key_type,
            indexes,
            retain_ms,
            auto_key,
            if_not_exists,
        }) => {
            let indexes = indexes.iter().map(ToString::to_string).collect();
            let schema = Schema { table: table.text, primary_key, key_type, indexes, retain_ms, auto_key };
            return Ok(CommitRequest::Schema(SchemaChange::Create { schema, if_not_exists }));
        }
        Statement::AlterTable { table, retain_ms } => {
            let (add, drop) = (Vec::new(), Vec::new());
            let change = SchemaChange::Alter { table: table.text, add, drop, retain: Some(retain_ms) };
            return Ok(CommitRequest::Schema(change));
        }
        Statement::RenameTable { table, to } => {
            return Ok(CommitRequest::Schema(SchemaChange::Rename { table: table.text, to: to.text }));
        }
        Statement::DropTable { table } => {
            return Ok(CommitRequest::Schema(SchemaChange::Drop { table: table.text }));
        }
        Statement::Insert { table, documents } => {
            let insert = |document| Operation {
                table: table.text.clone(),
                key: None,
                action: Action::Insert(document),
            };
            (documents.into_iter().map(insert).collect(), Vec::new())
        }
        Statement::Upsert { table, documents } => {
            let put =
                |document| Operation { table: table.text.clone(), key: None, action: Action::Put(document) };
            (documents.into_iter().map(put).collect(), Vec::new())
        }
        Statement::Patch { table, key, patch, if_seq } => one(table.text, key, Action::Patch(patch), if_seq),
        Statement::SoftDelete { table, key, if_seq } => one(table.text, key, Action::SoftDelete, if_seq),
        Statement::Revert { table, key, to } => one(table.text, key, Action::Revert(to), None),
        Statement::CreateIndex { table, indexes } => return Ok(alter(table.text, &indexes, &[])),
        Statement::DropIndex { table, indexes } => return Ok(alter(table.text, &[], &indexes)),
        Statement::Snapshot { .. } | Statement::Compact { .. } | Statement::Verify { .. } => {
            let message = "SNAPSHOT, COMPACT and VERIFY cannot run in a transaction: run them on their own";
            return Err(Error::new(Reason::QueryInvalid, message));
        }
        Statement::Begin | Statement::Commit | Statement::Rollback => {
            let message = "the writer does not accept BEGIN, COMMIT and ROLLBACK: driftctl sends the statements between them as one Apply";
            return Err(Error::new(Reason::QueryInvalid, message));
        }
        Statement::Select(_)
        | Statement::Explain(_)
        | Statement::ExplainFind(_)
        | Statement::ExplainDrift(_)
        | Statement::ShowDrift(_)
        | Statement::Find(_)
        | Statement::ShowDiff { .. }
        | Statement::ShowTables { .. }
        | Statement::Describe { .. } => {
            return Err(Error::new(Reason::QueryInvalid, "this statement only reads: send it to a reader"));
        }
    };
    Ok(CommitRequest::Rows { operations, preconditions, boundaries: Vec::new() })
}

/// The change of a statement with its conditions over many rows.
fn guarded_change(guarded: GuardedStatement) -> Result<CommitRequest> {
    let mut change = of_statement(guarded.statement)?;
    if let CommitRequest::Rows { boundaries, .. } = &mut change {
        boundaries.extend(guarded.boundaries.into_iter().map(of_clause));
    }
    Ok(change)
}

/// The condition of an `IF NO CHANGE` clause.
pub fn of_clause(clause: NoChangeClause) -> Boundary {
    let NoChangeClause { table, condition, since } = clause;
    Boundary { table: table.text, condition: condition.to_string(), unchanged_since: since }
}

fn alter(table: String, add: &[IndexColumns], drop: &[IndexColumns]) -> CommitRequest {
    let names = |indexes: &[IndexColumns]| indexes.iter().map(ToString::to_string).collect();
    CommitRequest::Schema(SchemaChange::Alter { table, add: names(add), drop: names(drop), retain: None })
}

fn one(
    table: String,
    key: RowKey,
    action: Action,
    if_seq: Option<u64>,
) -> (Vec<Operation>, Vec<Precondition>) {
    let key = key.input();
    let condition =
        if_seq.map(|seq| Precondition { table: table.clone(), key: key.clone(), check: Check::SeqIs(seq) });
    (vec![Operation { table, key: Some(key), action }], condition.into_iter().collect())
}
