//! Admission of row operations: inserts, puts, patches and soft deletes.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::table::operation::{Action, Operation, Precondition, WriteToken};
use driftdb_common::table::schema::Schema;
use driftdb_common::table::state;

use crate::admission::preconditions::check_preconditions;
use crate::admission::prepared_commit::NewEvent;
use crate::admission::table::{AdmittedTable, RowState};
use crate::admission::tables::AdmittedTables;

/// Checks a commit's preconditions and applies its operations in order; each one sees those before it. After
/// an error the caller must undo the operations that were applied.
pub(super) fn admit_operations(
    tables: &mut AdmittedTables,
    token: WriteToken,
    operations: Vec<Operation>,
    preconditions: &[Precondition],
) -> Result<Vec<NewEvent>> {
    let count = operations.len();
    if count > limits::OPERATIONS_PER_COMMIT {
        let message = format!(
            "too many operations in one commit: {count}, the limit is {}; split them into several commits",
            limits::OPERATIONS_PER_COMMIT
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    check_preconditions(tables, preconditions)?;
    if operations.is_empty() {
        return Ok(vec![note(tables)?]);
    }
    let mut events = Vec::with_capacity(count);
    for (i, operation) in operations.into_iter().enumerate() {
        let event = admit_operation(tables, token, operation);
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
    Ok(NewEvent { table, kind: EventType::Note, key: None, payload: None, replaces: false })
}

fn admit_operation(tables: &mut AdmittedTables, token: WriteToken, operation: Operation) -> Result<NewEvent> {
    let Operation { table: name, key, action } = operation;
    let table = tables.live(&name)?;
    let schema = table.schema();
    let given_key = key.map(|key| key.of_type(schema.key_type)).transpose()?;
    let key = row_key(schema, &action, given_key)?;
    let before = table.live_row(&key)?;
    let (kind, payload) = match action {
        Action::Insert(_) if before.is_some() => {
            let message = format!(
                "cannot insert row {} into table {name:?}: the row exists; use UPSERT to replace it",
                quoted(&key)
            );
            return Err(Error::new(Reason::RowExists, message)
                .with("table", name)
                .with("key", key.to_string()));
        }
        Action::Insert(document) | Action::Put(document) => (EventType::Insert, Some(document)),
        Action::Patch(_) | Action::SoftDelete if before.is_none() => {
            return Err(Error::new(
                Reason::RowNotFound,
                format!("table {name:?} has no row {}", quoted(&key)),
            )
            .with("table", name)
            .with("key", key.to_string()));
        }
        Action::Patch(patch) => (EventType::Patch, Some(patch)),
        Action::SoftDelete => (EventType::SoftDelete, None),
        Action::Revert(_) => {
            return Err(Error::new(Reason::Internal, "a revert reached admission unresolved"));
        }
    };
    let after = state::apply(before.as_ref(), kind, payload.as_ref())?;
    if let (EventType::Patch, Some(after)) = (kind, &after)
        && after.key(&schema.primary_key, schema.key_type).ok().as_ref() != Some(&key)
    {
        let message = format!(
            "cannot patch row {} of table {name:?}: the patch changes the primary key {:?}; insert a new row instead",
            quoted(&key),
            schema.primary_key
        );
        return Err(Error::new(Reason::KeyInvalid, message));
    }
    let id = table.id();
    let row = RowState { seq: token.seq, document: after.map(|after| after.detached()) };
    tables.change_row(&name, key.clone(), row, before.is_some());
    let replaces = kind == EventType::Insert && before.is_some();
    Ok(NewEvent { table: id, kind, key: Some(key), payload, replaces })
}

/// The key of the row that an operation changes. An insert's or put's key comes from its document.
fn row_key(schema: &Schema, action: &Action, given: Option<Key>) -> Result<Key> {
    match (action, given) {
        (Action::Insert(document) | Action::Put(document), given) => {
            let key = document.key(&schema.primary_key, schema.key_type)?;
            if let Some(given) = given.filter(|given| *given != key) {
                let message = format!(
                    "the key of the operation, {}, differs from the key in its document, {}; leave out the operation's key",
                    quoted(&given),
                    quoted(&key)
                );
                return Err(Error::new(Reason::KeyInvalid, message));
            }
            Ok(key)
        }
        (_, Some(given)) => Ok(given),
        (_, None) => {
            let message = format!(
                "the operation on table {:?} has no key; a patch and a soft delete need one",
                schema.table
            );
            Err(Error::new(Reason::KeyInvalid, message))
        }
    }
}

/// A key as messages show it: a string in quotes, a number as it is.
fn quoted(key: &Key) -> String {
    match key {
        Key::Int(int) => int.to_string(),
        Key::Str(text) => format!("{text:?}"),
    }
}

/// Adds to an error which of `count` operations it belongs to, if there are several.
pub(crate) fn error_at_operation(error: Error, index: usize, count: usize) -> Error {
    match count {
        0 | 1 => error,
        _ => error.context(format_args!("operation {}", index + 1)).with("operation", index.to_string()),
    }
}
