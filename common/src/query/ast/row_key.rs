//! The key of a row in a statement.

use crate::error::{Error, Result};
use crate::format::key::{Key, KeyType};
use crate::query::location;
use crate::table::operation::KeyInput;
use crate::table::schema::Schema;

/// A row's key and its location in the statement. Its type is checked later, against the table's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowKey {
    /// The key: text for a string literal, an integer for an integer literal, and several for a list in parentheses.
    pub key: Key,
    /// The fields that the statement names for the columns of the key, in its order; empty if it names none.
    pub names: Vec<String>,
    /// Byte offset of its first byte.
    pub start: usize,
    /// Byte offset after its last byte.
    pub end: usize,
}

impl RowKey {
    /// Returns the key if it has the type of the table's keys. There is no coercion: `KEY "7"` matches no row of an INT table.
    ///
    /// # Errors
    /// `QUERY_INVALID`, with the location in `statement`, if the types differ.
    pub fn of_table(&self, schema: &Schema, statement: &str) -> Result<Key> {
        if !self.names.is_empty() {
            let invalid = |error: Error| {
                location::invalid_at(
                    statement,
                    self.start,
                    self.end,
                    error.message().to_owned(),
                    String::new(),
                )
            };
            return self.input().of_table(schema).map_err(invalid);
        }
        if self.key.key_type() == schema.key_type {
            return Ok(self.key.clone());
        }
        Err(self.mismatch(schema, statement))
    }

    /// The key as a request names it.
    pub fn input(&self) -> KeyInput {
        match &self.key {
            Key::Composite(key) if !self.names.is_empty() => {
                KeyInput::Named(self.names.iter().cloned().zip(key.parts().iter().cloned()).collect())
            }
            key => KeyInput::Typed(key.clone()),
        }
    }

    fn mismatch(&self, schema: &Schema, statement: &str) -> Error {
        let key_type = schema.key_type;
        let hint = match (&self.key, key_type) {
            (Key::Int(int), KeyType::String) => format!("write KEY \"{int}\""),
            (Key::Str(text), KeyType::Int) if Key::parse(text, KeyType::Int).is_ok() => {
                format!("write KEY {text}")
            }
            (_, KeyType::Int) => "write an integer".to_owned(),
            (_, KeyType::String) => "write a string".to_owned(),
            (_, KeyType::Composite(types)) => {
                let columns = schema.key_fields().into_iter().zip(types.are_ints());
                let columns = columns
                    .map(|(field, is_int)| format!("{field} = {}", if is_int { "3" } else { "\"x\"" }));
                format!("for example KEY ({})", columns.collect::<Vec<_>>().join(", "))
            }
        };
        let found = match &self.key {
            Key::Int(_) => "an integer".to_owned(),
            Key::Str(_) => "a string".to_owned(),
            Key::Composite(key) => format!("{}", key.types()),
        };
        let message = format!("this table's keys have type {key_type}, but this key is {found}");
        location::invalid_at(statement, self.start, self.end, message, hint)
    }
}
