//! What a write asks for, before it is an event.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::{Key, KeyType};
use crate::table::point_in_time::PointInTime;
use crate::table::schema::Schema;

/// One change of one row, as asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The table's name.
    pub table: String,
    /// The row's key; may be left out where the document holds it.
    pub key: Option<KeyInput>,
    /// What to do.
    pub action: Action,
}

/// A key as a request has it, before it is known what keys the table has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyInput {
    /// As the API has it: text, also for INT.
    Text(String),
    /// As DriftQL has it: a string or an integer, and never the one for the other.
    Typed(Key),
}

impl KeyInput {
    /// The key, for a table whose keys are of a type.
    pub fn of_type(&self, key_type: KeyType) -> Result<Key> {
        match self {
            KeyInput::Text(text) => Key::parse(text, key_type),
            KeyInput::Typed(key) if key.key_type() == key_type => Ok(key.clone()),
            KeyInput::Typed(key) => {
                let message =
                    format!("this table's keys are {key_type}, and {key} is given as {}", key.key_type());
                Err(Error::new(Reason::KeyInvalid, message))
            }
        }
    }
}

impl std::fmt::Display for KeyInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyInput::Text(text) => text.fmt(f),
            KeyInput::Typed(key) => key.fmt(f),
        }
    }
}

/// What to do with a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// A new row; fails where a live row has the key.
    Insert(Document),
    /// Insert or replace.
    Put(Document),
    /// A merge patch; fails where no live row has the key.
    Patch(Document),
    /// Take the row away; fails where no live row has the key.
    SoftDelete,
    /// Bring the row back as it was at a moment. Resolved to one of the others before admission.
    Revert(PointInTime),
}

/// Something that must hold just before the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The table's name.
    pub table: String,
    /// The row's key.
    pub key: KeyInput,
    /// What must hold of the row.
    pub check: Check,
}

/// What must hold of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Its last change is exactly this commit.
    SeqIs(u64),
    /// There is a live row, or there is none.
    Exists(bool),
    /// It has not changed after this commit.
    UnchangedSince(u64),
}

/// A change of what tables there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaChange {
    /// A new table.
    Create {
        /// What it is.
        schema: Schema,
        /// Whether a table that is there already is no error.
        if_not_exists: bool,
    },
    /// Other indexes, or another retention, for a table.
    Alter {
        /// The table's name.
        table: String,
        /// Indexes to add.
        add: Vec<String>,
        /// Indexes to drop.
        drop: Vec<String>,
        /// For how many milliseconds to keep history from now on: `Some(None)` is for ever, `None` as before.
        retain: Option<Option<u64>>,
    },
    /// The end of a table. Its past stays readable.
    Drop {
        /// The table's name.
        table: String,
    },
}

/// What a commit is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum CommitRequest {
    /// Changes of rows, all or none.
    Rows {
        /// In order; each sees those before it.
        operations: Vec<Operation>,
        /// All checked against the state before the first operation.
        preconditions: Vec<Precondition>,
    },
    /// A change of what tables there are.
    Schema(SchemaChange),
}

/// What may go with any commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitOptions {
    /// Why; kept with the commit.
    pub reason: String,
    /// For importing history: the commit's time in milliseconds since 1970.
    pub commit_time_ms: Option<u64>,
    /// The client's name for the request; empty for none.
    pub request_id: String,
}

/// Names a commit: what an acknowledged write answers. Zeros stand for the moment before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteToken {
    /// Its sequence number.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
}
