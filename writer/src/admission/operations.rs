//! Admission of row operations: inserts, puts, patches and soft deletes.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::{EventMarks, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::table::operation::{Action, WriteToken};
use driftdb_common::table::schema::Schema;

use crate::admission::boundaries::check_boundaries;
use crate::admission::draft::{self, DraftConditions, DraftOperation, error_at_operation};
use crate::admission::preconditions::check_preconditions;
use crate::admission::prepared_commit::NewEvent;
use crate::admission::read_rows::ReadRows;
use crate::admission::table::{AdmittedTable, RowState};
use crate::admission::tables::AdmittedTables;

/// Checks a commit's preconditions and applies its operations in order; each one sees those before it. After
/// an error the caller must undo the operations that were applied.
pub(super) fn admit_operations(
    tables: &mut AdmittedTables,
    token: WriteToken,
    operations: Vec<DraftOperation>,
    conditions: &DraftConditions,
    rows: &ReadRows,
) -> Result<Vec<NewEvent>> {
    let count = operations.len();
    check_preconditions(tables, &conditions.rows, rows)?;
    check_boundaries(tables, &conditions.boundaries, token.seq.saturating_sub(1))?;
    if operations.is_empty() {
        return Ok(vec![note(tables)?]);
    }
    let mut events = Vec::with_capacity(count);
    for (i, operation) in operations.into_iter().enumerate() {
        let event = admit_operation(tables, token, operation, rows);
        events.push(event.map_err(|e| error_at_operation(e, i, count))?);
    }
    Ok(events)
}

/// The event of a commit without operations. Every commit needs a frame, so the oldest table's log gets one.
fn note(tables: &AdmittedTables) -> Result<NewEvent> {
    let oldest = tables.iter().map(AdmittedTable::id).min();
    let table = oldest.ok_or_else(|| {
        let message = "cannot commit without operations: the database has no table; create a table first";
        Error::new(Reason::ArgumentInvalid, message)
    })?;
    Ok(NewEvent { table, kind: EventType::Note, key: None, payload: None, marks: EventMarks::default() })
}

fn admit_operation(
    tables: &mut AdmittedTables,
    token: WriteToken,
    draft: DraftOperation,
    rows: &ReadRows,
) -> Result<NewEvent> {
    let name = draft.operation.table.as_str();
    let table = tables.live(name)?;
    let key = draft.key(table).ok_or_else(without_key)?.clone()?;
    let before = table.row(&key, rows)?.filter(|row| row.is_live);
    let was_live = before.is_some();
    let after = match &draft.operation.action {
        Action::Insert(_) if was_live => return Err(exists(name, &key)),
        Action::Insert(document) | Action::Put(document) => Some(document.clone()),
        Action::Restore(Some(document)) => Some(document.clone()),
        Action::Patch(_) | Action::SoftDelete | Action::Restore(None) if !was_live => {
            return Err(not_found(name, &key));
        }
        Action::Patch(patch) => {
            let before = before.and_then(|row| row.document).ok_or_else(without_content)?;
            Some(patched(table.schema(), &key, (&draft, &before, patch))?)
        }
        Action::SoftDelete | Action::Restore(None) => None,
        Action::Revert(_) => {
            return Err(Error::new(Reason::Internal, "a revert reached admission unresolved"));
        }
    };
    let id = table.id();
    let row = RowState::new(token.seq, after);
    tables.change_row(name, key.clone(), row, was_live);
    let reverts = matches!(draft.operation.action, Action::Restore(_));
    let (kind, payload) = match draft.operation.action {
        Action::Insert(document) | Action::Put(document) | Action::Restore(Some(document)) => {
            (EventType::Insert, Some(document))
        }
        Action::Patch(patch) => (EventType::Patch, Some(patch)),
        Action::SoftDelete | Action::Revert(_) | Action::Restore(None) => (EventType::SoftDelete, None),
    };
    let marks = EventMarks { replaces: kind == EventType::Insert && was_live, reverts };
    Ok(NewEvent { table: id, kind, key: Some(key), payload, marks })
}

/// The row after a patch: merged before the lock was taken, if the row is still the same.
fn patched(
    schema: &Schema,
    key: &Key,
    (draft, before, patch): (&DraftOperation, &Document, &Document),
) -> Result<Document> {
    let merged = draft.merged(before).cloned().unwrap_or_else(|| draft::merge(before, patch, schema, key))?;
    if merged.keeps_key {
        return Ok(merged.document);
    }
    let message = format!(
        "cannot patch row {} of table {:?}: the patch changes the primary key {:?}; insert a new row instead",
        key.quoted(),
        schema.table,
        schema.primary_key
    );
    Err(Error::new(Reason::KeyInvalid, message))
}

fn exists(name: &str, key: &Key) -> Error {
    let message = format!(
        "cannot insert row {} into table {name:?}: the row exists; use UPSERT to replace it",
        key.quoted()
    );
    Error::new(Reason::RowExists, message).with("table", name).with("key", key.to_string())
}

fn not_found(name: &str, key: &Key) -> Error {
    let message = format!("table {name:?} has no row {}", key.quoted());
    Error::new(Reason::RowNotFound, message).with("table", name).with("key", key.to_string())
}

/// The error for an operation whose key is missing: admission asks for it before it admits anything.
fn without_key() -> Error {
    Error::new(Reason::Internal, "an operation reached admission without its key")
}

fn without_content() -> Error {
    Error::new(Reason::Internal, "a patch reached admission without its row's content")
}
