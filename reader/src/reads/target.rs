//! The table and the keys that a read names. Errors about those of a statement point at the place in the statement.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::key::Key;
use driftdb_common::query::ast::{RowKey, TableName};
use driftdb_common::query::report;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::timeline::Timeline;

use crate::read_point::ReadPoint;

/// The table that a read names.
#[derive(Debug, Clone)]
pub enum TableTarget {
    /// By a field of a request.
    Field(String),
    /// In a statement, whose text comes second.
    Statement(TableName, Arc<String>),
}

impl TableTarget {
    /// Looks the table up. Fails if no table with this name existed at or before the newest commit.
    pub fn find<'p>(&self, point: &'p ReadPoint) -> Result<&'p Arc<Timeline>> {
        match self {
            TableTarget::Field(name) => point.applied.table(name),
            TableTarget::Statement(name, statement) => {
                let found = point.applied.table(&name.text);
                found.map_err(|error| report::at_table(error, statement, Some(name)))
            }
        }
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
