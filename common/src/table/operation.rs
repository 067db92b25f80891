//! What a write request asks for, before the writer turns it into events.

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::{Key, KeyType};
use crate::format::key_columns::KeyPart;
use crate::limits;
use crate::table::point_in_time::PointInTime;
use crate::table::schema::Schema;

/// One requested change of one row.
#[derive(Debug, Clone, PartialEq)]
pub struct Operation {
    /// The table's name.
    pub table: String,
    /// The row's key. May be left out if the document contains it.
    pub key: Option<KeyInput>,
    /// The change.
    pub action: Action,
}

/// A key in a request, before the type of the table's keys is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyInput {
    /// The API's form: text, for INT too.
    Text(String),
    /// DriftQL's form: a string or an integer, which are not converted into each other, or several of them.
    Typed(Key),
    /// The columns of a composite key by their fields, in any order.
    Named(Vec<(String, KeyPart)>),
}

impl KeyInput {
    /// The key for a table. Fails with KEY_INVALID if the table's keys have another type.
    pub fn of_table(&self, schema: &Schema) -> Result<Key> {
        match self {
            KeyInput::Text(text) => schema.key_of_text(text),
            KeyInput::Typed(key) if key.key_type() == schema.key_type => Ok(key.clone()),
            KeyInput::Typed(key) => {
                let (of, wanted) = (key.key_type(), schema.key_type);
                let key = key.quoted();
                let message = format!("key {key} is of type {of}: the table's keys are {wanted}");
                Err(Error::new(Reason::KeyInvalid, message))
            }
            KeyInput::Named(columns) => {
                let KeyType::Composite(_) = schema.key_type else {
                    let message = format!(
                        "key {self} names its fields: the table's key is the one field {:?}, so write its value only",
                        schema.primary_key
                    );
                    return Err(Error::new(Reason::KeyInvalid, message));
                };
                schema.key_of_columns(columns)
            }
        }
    }
}

impl std::fmt::Display for KeyInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            KeyInput::Text(text) => text.fmt(f),
            KeyInput::Typed(key) => key.fmt(f),
            // As a JSON object, which the API takes.
            KeyInput::Named(columns) => {
                for (at, (name, value)) in columns.iter().enumerate() {
                    let (before, name) =
                        (if at == 0 { "{" } else { "," }, serde_json::Value::from(name.as_str()));
                    match value {
                        KeyPart::Int(int) => write!(f, "{before}{name}:{int}")?,
                        KeyPart::Str(text) => {
                            write!(f, "{before}{name}:{}", serde_json::Value::from(&**text))?
                        }
                    }
                }
                f.write_str("}")
            }
        }
    }
}

/// What to do with a row.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Insert a new row. Fails if a live row has the key.
    Insert(Document),
    /// Insert a row or replace it.
    Put(Document),
    /// Merge a patch into the row. Fails if no live row has the key.
    Patch(Document),
    /// Delete the row. Fails if no live row has the key.
    SoftDelete,
    /// Write the row as it was at a point in time. It becomes [`Action::Restore`] before admission.
    Revert(PointInTime),
    /// Write the row as it was, whether a live row has the key or not; `None` deletes it, and fails if no live row has the key.
    Restore(Option<Document>),
}

/// A condition that must hold before the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Precondition {
    /// The table's name.
    pub table: String,
    /// The row's key.
    pub key: KeyInput,
    /// The condition.
    pub check: Check,
}

/// A condition on a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// This commit was the last to change it.
    SeqIs(u64),
    /// A live row exists (true), or none exists (false).
    Exists(bool),
    /// No commit after this one has changed it.
    UnchangedSince(u64),
}

/// A condition over the rows of a table that must hold before the commit: no row that matched it, before or after the change, has
/// changed since a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boundary {
    /// The table's name.
    pub table: String,
    /// Which rows, as DriftQL without parameters.
    pub condition: String,
    /// The commit after which none of them may have changed.
    pub unchanged_since: u64,
}

impl Boundary {
    /// Fails if a condition, as it was sent, is longer than its limit.
    ///
    /// # Errors
    /// `TOO_LARGE`
    pub fn check_bytes(bytes: usize) -> Result<()> {
        if bytes <= limits::BOUNDARY_BYTES {
            return Ok(());
        }
        let message = format!(
            "the condition of a precondition is too long: {bytes} bytes, the limit is {}; use a shorter one",
            limits::BOUNDARY_BYTES
        );
        Err(Error::new(Reason::TooLarge, message))
    }
}

/// The creation, change or removal of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaChange {
    /// Create a table.
    Create {
        /// The new table's schema.
        schema: Schema,
        /// Whether the request succeeds if the table exists already.
        if_not_exists: bool,
    },
    /// Change a table's indexes or its retention.
    Alter {
        /// The table's name.
        table: String,
        /// Indexes to add.
        add: Vec<String>,
        /// Indexes to drop.
        drop: Vec<String>,
        /// The new retention of history in milliseconds: `Some(None)` keeps history forever, `None` does not change the
        /// retention.
        retain: Option<Option<u64>>,
    },
    /// Give a table another name. Its history stays readable, under the name that it had then.
    Rename {
        /// The table's name.
        table: String,
        /// The new name.
        to: String,
    },
    /// Drop a table. Its history stays readable.
    Drop {
        /// The table's name.
        table: String,
    },
}

/// What a request asks one commit to do.
#[derive(Debug, Clone, PartialEq)]
pub enum CommitRequest {
    /// Change rows. Either all changes happen or none.
    Rows {
        /// The changes in order. Each sees the effect of those before it.
        operations: Vec<Operation>,
        /// The conditions. All are checked against the state before the first operation.
        preconditions: Vec<Precondition>,
        /// The conditions over many rows, checked likewise.
        boundaries: Vec<Boundary>,
    },
    /// Create, change or drop a table.
    Schema(SchemaChange),
}

/// Options of any commit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitOptions {
    /// Who makes the commit, as the client says; stored with the commit.
    pub actor: String,
    /// Why the commit is made; stored with the commit.
    pub reason: String,
    /// The commit's time in milliseconds since 1970, if history is imported; otherwise the time of admission.
    pub commit_time_ms: Option<u64>,
    /// The client's id for the request; empty if it has none.
    pub request_id: String,
}

/// Identifies a commit to the client that wrote it. All zeros identify the state before the first commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteToken {
    /// The commit's sequence number.
    pub seq: u64,
    /// The commit's time in milliseconds since 1970.
    pub time_ms: u64,
}
