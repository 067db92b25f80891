//! Primary keys: text, or a signed 64-bit integer, ordered as their type orders them.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::format::msgpack::{self, MsgpackItem};
use crate::limits;

/// The type of a table's primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum KeyType {
    /// Text, ordered by code points.
    #[default]
    String,
    /// A signed 64-bit integer, ordered as a number.
    Int,
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyType::String => "STRING",
            KeyType::Int => "INT",
        })
    }
}

/// A row's key. Keys of one table are all of one variant, so that the derived order is the table's order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// Of a table whose key type is INT.
    Int(i64),
    /// Of a table whose key type is STRING.
    Str(Arc<str>),
}

fn invalid(message: String) -> Error {
    Error::new(Reason::KeyInvalid, message)
}

impl Key {
    /// The key that a text names: an INT key is canonical decimal (no sign but `-`, no leading zeros).
    pub fn parse(text: &str, key_type: KeyType) -> Result<Key> {
        match key_type {
            KeyType::String => {
                check_len(text)?;
                Ok(Key::Str(text.into()))
            }
            KeyType::Int => match text.parse::<i64>() {
                Ok(int) if int.to_string() == text => Ok(Key::Int(int)),
                _ => Err(invalid(format!(
                    "key {text:?} is not a whole number in its shortest decimal form, and this table's keys are INT"
                ))),
            },
        }
    }

    /// The key in a document's primary key field.
    pub fn from_field(field: &str, encoded: Option<&[u8]>, key_type: KeyType) -> Result<Key> {
        let Some(encoded) = encoded else {
            return Err(invalid(format!(
                "the document has no field {field:?}, the primary key ({key_type})"
            )));
        };
        let found = match (msgpack::first(encoded)?, key_type) {
            (MsgpackItem::Str(text), KeyType::String) => {
                check_len(text)?;
                return Ok(Key::Str(text.into()));
            }
            (MsgpackItem::Int(int), KeyType::Int) => {
                return i64::try_from(int).map(Key::Int).map_err(|_| {
                    invalid(format!(
                        "field {field:?}, the primary key, is {int}: INT keys are signed 64-bit integers"
                    ))
                });
            }
            (MsgpackItem::Nil, _) => "null",
            (MsgpackItem::Bool(_), _) => "a boolean",
            (MsgpackItem::Int(_), _) => "an integer",
            (MsgpackItem::Float(_), _) => "a number that is not an integer",
            (MsgpackItem::Str(_), _) => "a string",
            (MsgpackItem::Array(_), _) => "an array",
            (MsgpackItem::Map(_), _) => "an object",
        };
        Err(invalid(format!("field {field:?}, the primary key, must be {key_type} and is {found}")))
    }

    /// Reads a key as frames hold it.
    pub fn decode(reader: &mut msgpack::MsgpackReader<'_>) -> Result<Key> {
        match reader.token()? {
            MsgpackItem::Str(text) => Ok(Key::Str(text.into())),
            MsgpackItem::Int(int) => i64::try_from(int)
                .map(Key::Int)
                .map_err(|_| invalid(format!("key {int} is not a signed 64-bit integer"))),
            _ => Err(invalid("a key that is neither text nor an integer".to_owned())),
        }
    }

    /// Appends the key as frames hold it: MessagePack text or integer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Key::Int(int) => msgpack::write_int(out, (*int).into()),
            Key::Str(text) => msgpack::write_str(out, text),
        }
    }

    /// The type of tables that have such keys.
    pub fn key_type(&self) -> KeyType {
        match self {
            Key::Int(_) => KeyType::Int,
            Key::Str(_) => KeyType::String,
        }
    }
}

fn check_len(text: &str) -> Result<()> {
    match text.len() {
        0 => Err(invalid("a key must have at least one byte".to_owned())),
        len if len > limits::KEY_BYTES => {
            Err(invalid(format!("a key of {len} bytes is over the limit of {} bytes", limits::KEY_BYTES)))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Int(int) => int.fmt(f),
            Key::Str(text) => text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_int_key_has_one_spelling() {
        assert_eq!(Key::parse("-7", KeyType::Int).unwrap(), Key::Int(-7));
        for text in ["007", "+7", "-0", "7.0", "", "9223372036854775808", " 7"] {
            assert!(Key::parse(text, KeyType::Int).is_err(), "{text:?}");
        }
    }

    #[test]
    fn int_keys_order_as_numbers() {
        assert!(Key::parse("9", KeyType::Int).unwrap() < Key::parse("10", KeyType::Int).unwrap());
    }

    #[test]
    fn keys_have_a_length_limit() {
        assert!(Key::parse(&"x".repeat(limits::KEY_BYTES), KeyType::String).is_ok());
        assert!(Key::parse(&"x".repeat(limits::KEY_BYTES + 1), KeyType::String).is_err());
        assert!(Key::parse("", KeyType::String).is_err());
    }
}
