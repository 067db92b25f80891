//! The table and the keys that a read names. Errors about those of a statement point at the place in the statement.

use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::query::ast::{RowKey, TableName};
use driftdb_common::query::report;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::timeline::Timeline;

use crate::read_point::ReadPoint;

/// The table that a read names, and who reads.
#[derive(Debug, Clone)]
pub struct TableTarget {
    caller: Caller,
    named: NamedTable,
}

/// Where a read names its table.
#[derive(Debug, Clone)]
enum NamedTable {
    /// By a field of a request.
    Field(String),
    /// In a statement, whose text comes second.
    Statement(TableName, Arc<String>),
}

impl TableTarget {
    /// The table that a field of a request names.
    pub fn field(caller: &Caller, name: String) -> TableTarget {
        TableTarget { caller: caller.clone(), named: NamedTable::Field(name) }
    }

    /// The table that a statement names.
    pub fn statement(caller: &Caller, name: TableName, statement: &Arc<String>) -> TableTarget {
        let named = NamedTable::Statement(name, Arc::clone(statement));
        TableTarget { caller: caller.clone(), named }
    }

    /// The name.
    pub fn name(&self) -> &str {
        match &self.named {
            NamedTable::Field(name) => name,
            NamedTable::Statement(name, _) => &name.text,
        }
    }

    /// Looks the table up: the one that has the name at the point, if it exists for the caller. If none has it, see
    /// [`TableNames::find`].
    ///
    /// [`TableNames::find`]: crate::table_names::TableNames::find
    pub fn find<'p>(&self, point: &'p ReadPoint) -> Result<&'p Arc<Timeline>> {
        let found = point.applied.table_at(self.name(), point.seq, &self.caller);
        match &self.named {
            NamedTable::Field(_) => found,
            NamedTable::Statement(name, statement) => {
                found.map_err(|error| report::at_table(error, statement, Some(name)))
            }
        }
    }

    /// For people: another table had the name after the commit `after` and before the present one got it, and the read leaves it out.
    pub fn note_of_other(&self, point: &ReadPoint, timeline: &Timeline, after: u64) -> Option<String> {
        let other = point.applied.names.other_of_name(self.name(), timeline, &(after..=point.seq))?;
        let (name, was) = (self.name(), other.name_until(self.name(), point.seq)?);
        Some(format!(
            "another table was named {name:?} up to seq {was}, and is left out: read it up to that point in time"
        ))
    }

    /// Fails if the name meant another table after the commit `seq` than at the point.
    pub fn check_same(&self, point: &ReadPoint, timeline: &Timeline, seq: u64) -> Result<()> {
        let range = seq.min(point.seq)..=seq.max(point.seq);
        let Some(other) = point.applied.names.other_of_name(self.name(), timeline, &range) else {
            return Ok(());
        };
        let name = self.name();
        let until = other.name_until(name, point.seq).unwrap_or(seq);
        let message = format!(
            "table {name:?} at seq {seq} is another table than at seq {}: it had the name up to seq {until}; read each on its own, the \
             earlier one up to seq {until}",
            point.seq
        );
        Err(Error::new(Reason::TableNotFound, message).with("table", name).with("seq", until.to_string()))
    }
}

/// A key that a read names.
#[derive(Debug, Clone)]
pub enum KeyTarget {
    /// By a field of a request.
    Field(String),
    /// In a statement, whose text comes second.
    Statement(RowKey, Arc<String>),
}

impl KeyTarget {
    /// The key, for a table with this schema. Fails if the table cannot have such a key.
    pub fn parse(&self, schema: &Schema) -> Result<Key> {
        match self {
            KeyTarget::Field(text) => schema.key_of_text(text),
            KeyTarget::Statement(key, statement) => key.of_table(schema, statement),
        }
    }
}
