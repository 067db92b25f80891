//! Primary keys: text or signed 64-bit integers.

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
    /// Text, in the order of its UTF-8 bytes, which is the order of code points.
    #[default]
    String,
    /// A signed 64-bit integer, in numeric order.
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

/// A row's key. All keys of a table have the same variant, so the derived order is the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A key of a table with key type INT.
    Int(i64),
    /// A key of a table with key type STRING, 1 to 1,024 bytes.
    Str(Arc<str>),
}

fn invalid(message: String) -> Error {
    Error::new(Reason::KeyInvalid, message)
}

impl Key {
    /// Parses a key from text. An INT key must be canonical decimal: no sign except `-`, no leading zeros.
    ///
    /// Fails with [`Reason::KeyInvalid`].
    pub fn parse(text: &str, key_type: KeyType) -> Result<Key> {
        match key_type {
            KeyType::String => {
                check_len(text)?;
                Ok(Key::Str(text.into()))
            }
            KeyType::Int => match text.parse::<i64>() {
                Ok(int) if int.to_string() == text => Ok(Key::Int(int)),
                _ => Err(invalid(format!(
                    "invalid key {text:?}: the key type is INT, so the key must be a decimal 64-bit integer without leading zeros"
                ))),
            },
        }
    }

    /// The key in a document's primary key field, whose encoded value is `encoded`.
    ///
    /// Fails with [`Reason::KeyInvalid`] if the field is missing, or its value is not a valid key of the type.
    pub(super) fn from_field(field: &str, encoded: Option<&[u8]>, key_type: KeyType) -> Result<Key> {
        let Some(encoded) = encoded else {
            return Err(invalid(format!("the document lacks the primary key field {field:?} ({key_type})")));
        };
        let found = match (msgpack::first(encoded)?, key_type) {
            (MsgpackItem::Str(text), KeyType::String) => {
                check_len(text)?;
                return Ok(Key::Str(text.into()));
            }
            (MsgpackItem::Int(int), KeyType::Int) => {
                return i64::try_from(int).map(Key::Int).map_err(|_| {
                    invalid(format!(
                        "primary key field {field:?} is {int}, which is not a signed 64-bit integer"
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
        Err(invalid(format!("primary key field {field:?} must be {key_type}, but is {found}")))
    }

    /// Reads a key in the encoding of frames.
    pub fn decode(reader: &mut msgpack::MsgpackReader<'_>) -> Result<Key> {
        match reader.token()? {
            MsgpackItem::Str(text) => Ok(Key::Str(text.into())),
            MsgpackItem::Int(int) => i64::try_from(int)
                .map(Key::Int)
                .map_err(|_| invalid(format!("invalid key {int}: not a signed 64-bit integer"))),
            _ => Err(invalid("invalid key: neither text nor an integer".to_owned())),
        }
    }

    /// Appends the key in the encoding of frames: MessagePack text or integer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Key::Int(int) => msgpack::write_int(out, (*int).into()),
            Key::Str(text) => msgpack::write_str(out, text),
        }
    }

    /// The key type of the tables that can contain the key.
    pub fn key_type(&self) -> KeyType {
        match self {
            Key::Int(_) => KeyType::Int,
            Key::Str(_) => KeyType::String,
        }
    }
}

fn check_len(text: &str) -> Result<()> {
    match text.len() {
        0 => Err(invalid("the key is empty: a key has at least one byte".to_owned())),
        len if len > limits::KEY_BYTES => {
            Err(invalid(format!("the key is too long: {len} bytes, the limit is {}", limits::KEY_BYTES)))
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
    fn int_keys_must_be_canonical_decimal() {
        assert_eq!(Key::parse("-7", KeyType::Int).unwrap(), Key::Int(-7));
        for text in ["007", "+7", "-0", "7.0", "", "9223372036854775808", " 7"] {
            assert!(Key::parse(text, KeyType::Int).is_err(), "{text:?}");
        }
    }

    #[test]
    fn int_keys_sort_as_numbers() {
        assert!(Key::parse("9", KeyType::Int).unwrap() < Key::parse("10", KeyType::Int).unwrap());
    }

    #[test]
    fn string_keys_have_length_limits() {
        assert!(Key::parse(&"x".repeat(limits::KEY_BYTES), KeyType::String).is_ok());
        assert!(Key::parse(&"x".repeat(limits::KEY_BYTES + 1), KeyType::String).is_err());
        assert!(Key::parse("", KeyType::String).is_err());
    }
}
