//! Admission of schema changes: tables created, altered and dropped.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::EventType;
use driftdb_common::limits;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::operation::{SchemaChange, WriteToken};
use driftdb_common::table::schema::{Schema, SchemaAction, SchemaEvent};

use crate::admit::{Admission, NewEvent};
use crate::rows::Table;

impl Admission {
    /// Admits a change of a schema; no events where there is nothing to do.
    pub(super) fn schema(
        &mut self,
        token: WriteToken,
        change: SchemaChange,
        group: &mut Group,
    ) -> Result<Vec<NewEvent>> {
        let (id, event) = match change {
            SchemaChange::Create { schema, if_not_exists } => {
                match self.create(token, &schema, if_not_exists)? {
                    Some(id) => (id, SchemaEvent { action: SchemaAction::Create, schema }),
                    None => return Ok(Vec::new()),
                }
            }
            SchemaChange::Alter { table, add, drop, retain } => {
                let table = self.tables.live(&table)?;
                let schema = table.schema().altered(&add, &drop, retain)?;
                (table.id(), SchemaEvent { action: SchemaAction::Alter, schema })
            }
            SchemaChange::Drop { table } => {
                let table = self.tables.live(&table)?;
                (table.id(), SchemaEvent { action: SchemaAction::Drop, schema: table.schema().clone() })
            }
        };
        let payload = event.to_document()?;
        let (name, yaml) = (event.schema.table.clone(), event.schema.to_yaml());
        self.apply_schema(id, token.seq, event)?;
        if id == token.seq {
            group.created.push((id, name.clone()));
        }
        group.schemas.push((name, yaml));
        Ok(vec![NewEvent {
            table: id,
            kind: EventType::Schema,
            key: None,
            payload: Some(payload),
            replaces: false,
        }])
    }

    /// The id that a table to be created has; `None` where it exists and that is no error.
    fn create(&self, token: WriteToken, schema: &Schema, if_not_exists: bool) -> Result<Option<u64>> {
        schema.check()?;
        let Some(found) = self.tables.by_name_in_any_case(&schema.table) else {
            if self.tables.len() >= limits::TABLES {
                let message = format!(
                    "there are {} tables, dropped ones counted too: no more are possible",
                    limits::TABLES
                );
                return Err(Error::new(Reason::TooLarge, message));
            }
            return Ok(Some(token.seq));
        };
        let exact = found.schema().table == schema.table;
        if !exact {
            let message =
                format!("table {:?} differs from {:?} in case only", schema.table, found.schema().table);
            return Err(Error::new(Reason::TableExists, message).with("table", found.schema().table.clone()));
        }
        if found.is_live() {
            if if_not_exists {
                return Ok(None);
            }
            let message = format!("table {:?} exists already", schema.table);
            return Err(Error::new(Reason::TableExists, message).with("table", schema.table.clone()));
        }
        // The same history goes on: its keys must stay of one kind.
        let past = found.schema();
        if (past.primary_key.as_str(), past.key_type) != (schema.primary_key.as_str(), schema.key_type) {
            let message = format!(
                "table {:?} was dropped and its history goes on: it must have its primary key again, {} {}",
                schema.table, past.primary_key, past.key_type
            );
            return Err(Error::new(Reason::TableExists, message).with("table", schema.table.clone()));
        }
        Ok(Some(found.id()))
    }

    /// Does to the tables what an event of a schema says.
    pub(super) fn apply_schema(&mut self, id: u64, seq: u64, event: SchemaEvent) -> Result<()> {
        match event.action {
            SchemaAction::Create => self.tables.create(Table::new(id, seq, event.schema)),
            SchemaAction::Alter => self.tables.alter(event.schema, seq)?,
            SchemaAction::Drop => self.tables.drop_table(&event.schema.table, seq)?,
        }
        Ok(())
    }
}
