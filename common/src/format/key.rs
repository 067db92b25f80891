//! Primary keys: text, signed 64-bit integers, or several of them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::format::key_columns::{CompositeKey, KeyColumnTypes, KeyPart};
use crate::format::msgpack::{self, MsgpackItem};
use crate::limits;

/// The type of a table's primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum KeyType {
    /// Text, in the order of its UTF-8 bytes, which is the order of code points.
    #[default]
    String,
    /// A signed 64-bit integer, in numeric order.
    Int,
    /// Several columns of these types, in the order of the first, then of the second, and so on.
    Composite(KeyColumnTypes),
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyType::String => f.write_str("STRING"),
            KeyType::Int => f.write_str("INT"),
            KeyType::Composite(types) => types.fmt(f),
        }
    }
}

impl FromStr for KeyType {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<KeyType, String> {
        match name {
            "STRING" => Ok(KeyType::String),
            "INT" => Ok(KeyType::Int),
            _ => name.parse().map(KeyType::Composite).map_err(|()| format!("{name:?} is not a key type")),
        }
    }
}

impl TryFrom<String> for KeyType {
    type Error = String;

    fn try_from(name: String) -> std::result::Result<KeyType, String> {
        name.parse()
    }
}

impl From<KeyType> for String {
    fn from(key_type: KeyType) -> String {
        key_type.to_string()
    }
}

impl KeyType {
    /// The type of a column.
    pub fn of_column(is_int: bool) -> KeyType {
        if is_int { KeyType::Int } else { KeyType::String }
    }

    /// The types of the columns: one, unless the key is composite.
    pub fn columns(self) -> Vec<KeyType> {
        match self {
            KeyType::String | KeyType::Int => vec![self],
            KeyType::Composite(types) => types.are_ints().map(KeyType::of_column).collect(),
        }
    }

    /// The type of a key with columns of these types; `None` if no key has so many, or one of them is composite.
    pub fn of_columns(columns: &[KeyType]) -> Option<KeyType> {
        if columns.iter().any(|column| matches!(column, KeyType::Composite(_))) {
            return None;
        }
        match columns {
            [] => None,
            [column] => Some(*column),
            columns => KeyColumnTypes::new(columns.iter().map(|column| *column == KeyType::Int))
                .map(KeyType::Composite),
        }
    }
}

/// A row's key. All keys of a table have the same variant, so the derived order is the order of the table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A key of a table with key type INT.
    Int(i64),
    /// A key of a table with key type STRING, 1 to 1,024 bytes.
    Str(Arc<str>),
    /// A key of several columns. In a range, also the first columns of one.
    Composite(Arc<CompositeKey>),
}

fn invalid(message: String) -> Error {
    Error::new(Reason::KeyInvalid, message)
}

impl Key {
    /// Parses a key from text. An INT key must be canonical decimal: no sign except `-`, no leading zeros. A composite key is a JSON
    /// array.
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
            KeyType::Composite(types) => types.parse(text).map(Key::of_columns),
        }
    }

    /// A composite key.
    pub fn of_columns(key: CompositeKey) -> Key {
        Key::Composite(Arc::new(key))
    }

    /// The value of a column of a composite key; `None` for a key that is composite itself.
    pub fn into_part(self) -> Option<KeyPart> {
        match self {
            Key::Int(int) => Some(KeyPart::Int(int)),
            Key::Str(text) => Some(KeyPart::Str(text)),
            Key::Composite(_) => None,
        }
    }

    /// The bytes that the key takes besides the value itself.
    pub fn bytes(&self) -> usize {
        match self {
            Key::Int(_) => 0,
            Key::Str(text) => text.len(),
            Key::Composite(key) => key.bytes(),
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
            MsgpackItem::Array(count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                if !(2..=limits::KEY_COLUMNS).contains(&count) {
                    return Err(invalid(format!("invalid key: it has {count} columns")));
                }
                let part = |_| {
                    let nested =
                        || invalid("invalid key: a column is neither text nor an integer".to_owned());
                    let column = reader.value()?;
                    let is_nested = matches!(msgpack::first(column)?, MsgpackItem::Array(_));
                    if is_nested {
                        return Err(nested());
                    }
                    Key::decode(&mut msgpack::MsgpackReader::new(column))?.into_part().ok_or_else(nested)
                };
                (0..count)
                    .map(part)
                    .collect::<Result<_>>()
                    .map(|parts| Key::of_columns(CompositeKey::new(parts)))
            }
            _ => Err(invalid("invalid key: neither text, nor an integer, nor an array".to_owned())),
        }
    }

    /// Appends the key in the encoding of frames: MessagePack text or integer, or an array of them.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Key::Int(int) => msgpack::write_int(out, (*int).into()),
            Key::Str(text) => msgpack::write_str(out, text),
            Key::Composite(key) => key.encode(out),
        }
    }

    /// The key type of the tables that can contain the key.
    pub fn key_type(&self) -> KeyType {
        match self {
            Key::Int(_) => KeyType::Int,
            Key::Str(_) => KeyType::String,
            Key::Composite(key) => KeyType::Composite(key.types()),
        }
    }

    /// The key as DriftQL writes it, for messages.
    pub fn quoted(&self) -> String {
        match self {
            Key::Int(int) => int.to_string(),
            Key::Str(text) => format!("{text:?}"),
            Key::Composite(key) => key.to_string(),
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
            Key::Composite(key) => key.text().fmt(f),
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
    fn a_composite_key_is_decoded_as_it_was_encoded() {
        let of: KeyType = "(STRING, INT, STRING)".parse().unwrap();
        assert_eq!(KeyType::of_columns(&of.columns()), Some(of));
        let key = Key::parse(r#"["a\u0000",-3,"é"]"#, of).unwrap();
        assert_eq!((key.key_type(), key.to_string().as_str()), (of, r#"["a\u0000",-3,"é"]"#));
        let mut encoded = Vec::new();
        key.encode(&mut encoded);
        assert_eq!(encoded, b"\x93\xa2a\0\xfd\xa2\xc3\xa9");
        assert_eq!(Key::decode(&mut msgpack::MsgpackReader::new(&encoded)).unwrap(), key);
        for bytes in [
            &b"\x91\x01"[..],
            b"\x92\x01\x91\x02",
            b"\x92\x01",
            b"\x92\x01\xc0",
            b"\x92\x01\xcb\x3f\xf0\0\0\0\0\0\0",
        ] {
            assert!(Key::decode(&mut msgpack::MsgpackReader::new(bytes)).is_err(), "{bytes:?}");
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
