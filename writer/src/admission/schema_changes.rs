//! Admission of schema changes: tables that are created, altered and dropped.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::{EventMarks, EventType};
use driftdb_common::limits;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::operation::{SchemaChange, WriteToken};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

use crate::admission::draft::check_name;
use crate::admission::prepared_commit::NewEvent;
use crate::admission::table::AdmittedTable;
use crate::admission::tables::AdmittedTables;

/// Checks what can be checked of a change without the tables, before the lock is taken.
pub(crate) fn check_schema_change(change: &SchemaChange) -> Result<()> {
    match change {
        SchemaChange::Create { schema, .. } => schema.check(),
        SchemaChange::Alter { table, .. } | SchemaChange::Drop { table } => check_name(table),
    }
}

/// Admits a change of a schema that [`check_schema_change`] has passed. Returns no events if the schema is already as requested.
pub(super) fn admit_schema_change(
    tables: &mut AdmittedTables,
    token: WriteToken,
    change: SchemaChange,
    group: &mut Group,
) -> Result<Vec<NewEvent>> {
    let (id, event) = match change {
        SchemaChange::Create { schema, if_not_exists } => {
            match table_id_for_create(tables, token, &schema, if_not_exists)? {
                Some(id) => (id, SchemaEvent { action: SchemaAction::Create, schema }),
                None => return Ok(Vec::new()),
            }
        }
        SchemaChange::Alter { table, add, drop, retain } => {
            let table = tables.live(&table)?;
            let schema = table.schema().altered(&add, &drop, retain)?;
            (table.id(), SchemaEvent { action: SchemaAction::Alter, schema })
        }
        SchemaChange::Drop { table } => {
            let table = tables.live(&table)?;
            (table.id(), SchemaEvent { action: SchemaAction::Drop, schema: Schema::clone(table.schema()) })
        }
    };
    let payload = event.to_document()?;
    let (name, yaml) = (event.schema.table.clone(), event.schema.to_yaml());
    apply_schema_event(tables, id, token.seq, event)?;
    if id == token.seq {
        group.created.push((id, name.clone()));
    }
    group.schemas.push((name, yaml));
    Ok(vec![NewEvent {
        table: id,
        kind: EventType::Schema,
        key: None,
        payload: Some(payload),
        marks: EventMarks::default(),
    }])
}

/// The id of the table that a CREATE makes: the commit's seq, or the old id if the table was dropped. `None`
/// if the table exists and `if_not_exists` is set.
fn table_id_for_create(
    tables: &AdmittedTables,
    token: WriteToken,
    schema: &Schema,
    if_not_exists: bool,
) -> Result<Option<u64>> {
    let name = &schema.table;
    tables.check_usable(name)?;
    let failed = |why: String| format!("cannot create table {name:?}: {why}");
    let exists = |why: String, known: &Schema| {
        Error::new(Reason::TableExists, failed(why)).with("table", known.table.clone())
    };
    let Some(found) = tables.by_name_in_any_case(name) else {
        if tables.len() >= limits::TABLES {
            let why = format!(
                "the database has {} tables, including dropped ones; the limit is {}",
                tables.len(),
                limits::TABLES
            );
            return Err(Error::new(Reason::TooLarge, failed(why)));
        }
        return Ok(Some(token.seq));
    };
    let known = found.schema();
    if known.table != *name {
        let why = format!("table {:?} exists, and names must differ in more than case", known.table);
        return Err(exists(why, known));
    }
    if found.is_live() {
        return if if_not_exists {
            Ok(None)
        } else {
            Err(exists("a table of this name exists".to_owned(), known))
        };
    }
    // The new table continues the dropped table's history, so the keys of both must be of one type.
    if (known.primary_key.as_str(), known.key_type) != (schema.primary_key.as_str(), schema.key_type) {
        let why = format!(
            "a dropped table of this name has the primary key {} {}, and its history continues; use the same primary key or another name",
            known.primary_key, known.key_type
        );
        return Err(exists(why, known));
    }
    Ok(Some(found.id()))
}

/// Applies a schema event to the tables.
pub(super) fn apply_schema_event(
    tables: &mut AdmittedTables,
    id: u64,
    seq: u64,
    event: SchemaEvent,
) -> Result<()> {
    match event.action {
        SchemaAction::Create => tables.create(AdmittedTable::new(id, seq, event.schema)),
        SchemaAction::Alter => tables.alter(event.schema, seq)?,
        SchemaAction::Drop => tables.drop_table(&event.schema.table, seq)?,
    }
    Ok(())
}
