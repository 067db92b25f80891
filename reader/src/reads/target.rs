//! The table and the keys that a read names. Errors about those of a statement point at the place in the statement.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::key::{Key, KeyType};
use driftdb_common::query::ast::{RowKey, TableName};
use driftdb_common::query::report;
use driftdb_common::service::access::caller::Caller;
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

    /// Looks the table up. Fails if no table with this name existed at or before the newest commit, or if it does not exist for the
    /// caller.
    pub fn find<'p>(&self, point: &'p ReadPoint) -> Result<&'p Arc<Timeline>> {
        match &self.named {
            NamedTable::Field(name) => point.applied.table(name, &self.caller),
            NamedTable::Statement(name, statement) => {
                let found = point.applied.table(&name.text, &self.caller);
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
    /// The key, for a table with keys of a type. Fails if the table cannot have such a key.
    pub fn parse(&self, key_type: KeyType) -> Result<Key> {
        match self {
            KeyTarget::Field(text) => Key::parse(text, key_type),
            KeyTarget::Statement(key, statement) => key.of_type(key_type, statement),
        }
    }
}
