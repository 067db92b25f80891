//! Admission of schema changes: tables that are created, altered, renamed and dropped.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::{EventMarks, EventType};
use driftdb_common::limits;
use driftdb_common::storage::layout::new_table_directory;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::operation::{SchemaChange, WriteToken};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent, check_table_name};

use crate::admission::draft::check_name;
use crate::admission::prepared_commit::NewEvent;
use crate::admission::table::AdmittedTable;
use crate::admission::tables::AdmittedTables;

/// Checks what can be checked of a change without the tables, before the lock is taken.
pub(crate) fn check_schema_change(change: &SchemaChange) -> Result<()> {
    match change {
        SchemaChange::Create { schema, .. } => schema.check(),
        SchemaChange::Alter { table, .. } | SchemaChange::Drop { table } => check_name(table),
        SchemaChange::Rename { table, to } => check_name(table).and_then(|()| check_table_name(to)),
    }
}

/// Whether a CREATE would make a new table, which needs room for its files. If it is refused, the answer does not matter.
pub(crate) fn makes_new_table(tables: &AdmittedTables, schema: &Schema) -> bool {
    tables.live(&schema.table).is_err() && continued(tables, schema).is_none()
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
                Some(id) => (id, SchemaEvent::new(SchemaAction::Create, schema)),
                None => return Ok(Vec::new()),
            }
        }
        SchemaChange::Alter { table, add, drop, retain } => {
            let table = tables.live(&table)?;
            let schema = table.schema().altered(&add, &drop, retain)?;
            (table.id(), SchemaEvent::new(SchemaAction::Alter, schema))
        }
        SchemaChange::Rename { table, to } => {
            let table = tables.live(&table)?;
            check_new_name(tables, table, &to)?;
            (table.id(), SchemaEvent::rename(table.schema(), &to))
        }
        SchemaChange::Drop { table } => {
            let table = tables.live(&table)?;
            (table.id(), SchemaEvent::new(SchemaAction::Drop, Schema::clone(table.schema())))
        }
    };
    let (payload, yaml) = (event.to_document()?, event.schema.to_yaml());
    let directory = match tables.by_id(id) {
        Some(table) => table.directory().to_owned(),
        None => new_table_directory(&event.schema.table, id, |name| tables.has_directory(name)),
    };
    apply_schema_event(tables, (id, directory.clone()), token.seq, event)?;
    if id == token.seq {
        group.created.push((id, directory.clone()));
    }
    group.schemas.push((directory, yaml));
    Ok(vec![NewEvent {
        table: id,
        kind: EventType::Schema,
        key: None,
        payload: Some(payload),
        marks: EventMarks::default(),
    }])
}

/// The id of the table that a CREATE makes: the commit's seq, or that of the table that it continues. `None` if the table exists and
/// `if_not_exists` is set.
fn table_id_for_create(
    tables: &AdmittedTables,
    token: WriteToken,
    schema: &Schema,
    if_not_exists: bool,
) -> Result<Option<u64>> {
    let name = &schema.table;
    let failed = |why: String| format!("cannot create table {name:?}: {why}");
    let live = tables.live(name).ok();
    if live.is_none() {
        tables.check_usable(name)?;
    } else if if_not_exists {
        return Ok(None);
    }
    if let Some(known) = differing_in_case(tables, name, None) {
        return Err(name_differs_in_case(&failed(String::new()), known));
    }
    if let Some(found) = continued(tables, schema) {
        return Ok(Some(found.id()));
    }
    if live.is_some() {
        let message = failed("a table of this name exists".to_owned());
        return Err(Error::new(Reason::TableExists, message).with("table", name.clone()));
    }
    if tables.len() >= limits::TABLES {
        let why = format!(
            "the database has {} tables, including dropped ones; the limit is {}",
            tables.len(),
            limits::TABLES
        );
        return Err(Error::new(Reason::TooLarge, failed(why)));
    }
    Ok(Some(token.seq))
}

/// The table whose history and files a new table continues: the one that was dropped last under the name if it has the same key; and
/// one that never had a row, dropped or not, if it does not have the same key already.
fn continued<'a>(tables: &'a AdmittedTables, schema: &Schema) -> Option<&'a AdmittedTable> {
    match tables.live(&schema.table) {
        Ok(live) => Some(live).filter(|live| live.never_had_row() && !live.schema().has_key_of(schema)),
        Err(_) => {
            let past = tables.last_dropped(&schema.table)?;
            (past.never_had_row() || past.schema().has_key_of(schema)).then_some(past)
        }
    }
}

/// Fails if a table cannot get a name.
fn check_new_name(tables: &AdmittedTables, table: &AdmittedTable, to: &str) -> Result<()> {
    let from = &table.schema().table;
    let failed = |why: &str| format!("cannot rename table {from:?} to {to:?}: {why}");
    if from == to {
        return Err(Error::new(Reason::ArgumentInvalid, failed("it has this name already")));
    }
    if tables.live(to).is_ok() {
        let message = failed("a table of this name exists");
        return Err(Error::new(Reason::TableExists, message).with("table", to));
    }
    if let Some(known) = differing_in_case(tables, to, Some(table.id())) {
        return Err(name_differs_in_case(&failed(""), known));
    }
    tables.check_usable(to)
}

/// A table besides `own` whose name differs from another in case only.
fn differing_in_case<'a>(
    tables: &'a AdmittedTables,
    name: &str,
    own: Option<u64>,
) -> Option<&'a AdmittedTable> {
    let others = tables.of_name_in_any_case(name).filter(|table| Some(table.id()) != own);
    others.filter(|table| table.schema().table != name).max_by_key(|table| table.is_live())
}

fn name_differs_in_case(failed: &str, known: &AdmittedTable) -> Error {
    let known = &known.schema().table;
    let message = format!("{failed}table {known:?} exists, and names must differ in more than case");
    Error::new(Reason::TableExists, message).with("table", known.clone())
}

/// Applies a schema event to the tables. The table, if it is new, gets the directory that is given with its id.
pub(super) fn apply_schema_event(
    tables: &mut AdmittedTables,
    (id, directory): (u64, String),
    seq: u64,
    event: SchemaEvent,
) -> Result<()> {
    match event.action {
        SchemaAction::Create => {
            tables.create(AdmittedTable::new(id, seq, event.schema).in_directory(directory));
        }
        SchemaAction::Alter | SchemaAction::Rename => tables.alter(id, event.schema, seq)?,
        SchemaAction::Drop => tables.drop_table(id, seq)?,
    }
    Ok(())
}
