//! The columns of a composite primary key: their types, and the values of one row.
//!
//! Rows are in the order of the first column, then of the second, and so on. Where a key is text – in the API, in `_key` and in
//! messages – it is a JSON array such as `["x",3]`.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};

use serde_json::Value as Json;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack;
use crate::limits;

/// The types of the columns of a composite key, in order: STRING or INT each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumnTypes {
    count: u8,
    /// Bit `n` is set if column `n` is INT.
    ints: u8,
}

/// The value of one column.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyPart {
    /// An INT column.
    Int(i64),
    /// A STRING column.
    Str(Arc<str>),
}

/// A composite key. A bound of a range has only the first columns: it sorts before the keys that begin with them.
pub struct CompositeKey {
    parts: Box<[KeyPart]>,
    /// The key as a JSON array, made when it is asked for: most keys are only compared.
    text: OnceLock<Box<str>>,
    /// The same as MessagePack.
    encoded: OnceLock<Box<[u8]>>,
}

fn invalid(message: String) -> Error {
    Error::new(Reason::KeyInvalid, message)
}

impl KeyColumnTypes {
    /// The types of columns, each told whether it is INT. `None` for a number of columns that no composite key has.
    pub fn new(are_ints: impl IntoIterator<Item = bool>) -> Option<KeyColumnTypes> {
        let mut types = KeyColumnTypes { count: 0, ints: 0 };
        for is_int in are_ints {
            if usize::from(types.count) == limits::KEY_COLUMNS {
                return None;
            }
            types.ints |= u8::from(is_int) << types.count;
            types.count += 1;
        }
        (types.count >= 2).then_some(types)
    }

    /// The number of columns.
    pub fn count(self) -> usize {
        self.count.into()
    }

    /// Whether each column is INT, in order.
    pub fn are_ints(self) -> impl Iterator<Item = bool> {
        (0..self.count).map(move |column| self.ints >> column & 1 == 1)
    }

    /// Parses a key from a JSON array.
    ///
    /// # Errors
    /// `KEY_INVALID`
    pub fn parse(self, text: &str) -> Result<CompositeKey> {
        let values: Vec<Json> = serde_json::from_str(text).map_err(|_| self.not_a_key(text))?;
        let parts = self.are_ints().zip(&values).map_while(|(is_int, value)| match (is_int, value) {
            (true, Json::Number(number)) => number.as_i64().map(KeyPart::Int),
            (false, Json::String(text)) => Some(KeyPart::Str(text.as_str().into())),
            _ => None,
        });
        let parts: Vec<KeyPart> = parts.collect();
        if parts.len() != self.count() || values.len() != self.count() {
            return Err(self.not_a_key(text));
        }
        CompositeKey::checked(parts)
    }

    fn not_a_key(self, text: &str) -> Error {
        let example: Vec<_> = self.are_ints().map(|is_int| if is_int { "3" } else { "\"x\"" }).collect();
        invalid(format!(
            "invalid key {text:?}: the table's keys are {self}, so a key is a JSON array such as [{}]",
            example.join(",")
        ))
    }
}

impl fmt::Display for KeyColumnTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, is_int) in self.are_ints().enumerate() {
            write!(f, "{}{}", if at == 0 { "(" } else { ", " }, if is_int { "INT" } else { "STRING" })?;
        }
        f.write_str(")")
    }
}

impl FromStr for KeyColumnTypes {
    type Err = ();

    fn from_str(text: &str) -> std::result::Result<KeyColumnTypes, ()> {
        let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).ok_or(())?;
        let is_int = |name| match name {
            "INT" => Ok(true),
            "STRING" => Ok(false),
            _ => Err(()),
        };
        let are_ints = inner.split(", ").map(is_int).collect::<std::result::Result<Vec<_>, ()>>()?;
        KeyColumnTypes::new(are_ints).ok_or(())
    }
}

impl CompositeKey {
    /// A key, or the first columns of one.
    pub fn new(parts: Vec<KeyPart>) -> CompositeKey {
        CompositeKey { parts: parts.into(), text: OnceLock::new(), encoded: OnceLock::new() }
    }

    /// A key whose columns have the lengths that a key may have.
    ///
    /// # Errors
    /// `KEY_INVALID`
    pub fn checked(parts: Vec<KeyPart>) -> Result<CompositeKey> {
        let mut bytes = 0;
        for (part, number) in parts.iter().zip(1..) {
            let KeyPart::Str(text) = part else { continue };
            if text.is_empty() {
                return Err(invalid(format!(
                    "column {number} of the key is empty: a text in a key has at least one byte"
                )));
            }
            bytes += text.len();
        }
        if bytes > limits::KEY_BYTES {
            return Err(invalid(format!(
                "the key is too long: its texts have {bytes} bytes, the limit is {}",
                limits::KEY_BYTES
            )));
        }
        Ok(CompositeKey::new(parts))
    }

    /// The values of the columns.
    pub fn parts(&self) -> &[KeyPart] {
        &self.parts
    }

    /// The types of the columns.
    pub fn types(&self) -> KeyColumnTypes {
        let mut types = KeyColumnTypes { count: 0, ints: 0 };
        for part in self.parts.iter().take(limits::KEY_COLUMNS) {
            types.ints |= u8::from(matches!(part, KeyPart::Int(_))) << types.count;
            types.count += 1;
        }
        types
    }

    /// The key as a JSON array.
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| {
            let mut json = String::from("[");
            for (at, part) in self.parts.iter().enumerate() {
                if at > 0 {
                    json.push(',');
                }
                json.push_str(&match part {
                    KeyPart::Int(int) => int.to_string(),
                    KeyPart::Str(text) => Json::from(&**text).to_string(),
                });
            }
            json.push(']');
            json.into()
        })
    }

    /// Appends the key as a MessagePack array.
    pub fn encode(&self, out: &mut Vec<u8>) {
        msgpack::write_array_len(out, self.parts.len());
        for part in &self.parts {
            match part {
                KeyPart::Int(int) => msgpack::write_int(out, (*int).into()),
                KeyPart::Str(text) => msgpack::write_str(out, text),
            }
        }
    }

    /// The key as a MessagePack array.
    pub fn encoded(&self) -> &[u8] {
        self.encoded.get_or_init(|| {
            let mut encoded = Vec::new();
            self.encode(&mut encoded);
            encoded.into()
        })
    }

    /// The text of the key that a text in any spelling of JSON names; `None` if it names no composite key.
    pub fn canonical_text(text: &str) -> Option<String> {
        let values: Vec<Json> = serde_json::from_str(text).ok()?;
        let part = |value: Json| match value {
            Json::Number(number) => number.as_i64().map(KeyPart::Int),
            Json::String(text) => Some(KeyPart::Str(text.into())),
            _ => None,
        };
        let parts: Vec<KeyPart> = values.into_iter().map(part).collect::<Option<_>>()?;
        (2..=limits::KEY_COLUMNS).contains(&parts.len()).then(|| CompositeKey::new(parts).text().to_owned())
    }

    /// The bytes that the key takes. Its text and its encoding, once they were made, take about as many as the columns each.
    pub fn bytes(&self) -> usize {
        let bytes = |part: &KeyPart| {
            size_of::<KeyPart>() + if let KeyPart::Str(text) = part { 3 * text.len() } else { 16 }
        };
        size_of::<CompositeKey>() + self.parts.iter().map(bytes).sum::<usize>()
    }
}

/// As DriftQL writes it: `("x", 3)`.
impl fmt::Display for CompositeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, part) in self.parts.iter().enumerate() {
            write!(f, "{}{part}", if at == 0 { "(" } else { ", " })?;
        }
        f.write_str(")")
    }
}

impl fmt::Display for KeyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyPart::Int(int) => int.fmt(f),
            KeyPart::Str(text) => write!(f, "{text:?}"),
        }
    }
}

impl fmt::Debug for CompositeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.fmt(f)
    }
}

impl PartialEq for CompositeKey {
    fn eq(&self, other: &CompositeKey) -> bool {
        self.parts == other.parts
    }
}

impl Eq for CompositeKey {}

impl PartialOrd for CompositeKey {
    fn partial_cmp(&self, other: &CompositeKey) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CompositeKey {
    fn cmp(&self, other: &CompositeKey) -> Ordering {
        self.parts.cmp(&other.parts)
    }
}

impl Hash for CompositeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> KeyColumnTypes {
        text.parse().unwrap()
    }

    #[test]
    fn the_types_of_columns_have_a_name() {
        for name in ["(STRING, INT)", "(INT, INT)", "(STRING, STRING, INT, INT, INT, INT, INT, STRING)"] {
            assert_eq!(types(name).to_string(), name);
        }
        let nine = format!("({})", ["INT"; 9].join(", "));
        for name in ["", "STRING", "(STRING)", "(STRING,INT)", "(STRING, FLOAT)", "()", &nine] {
            assert_eq!(name.parse::<KeyColumnTypes>(), Err(()), "{name}");
        }
    }

    #[test]
    fn a_key_is_text_as_a_json_array() {
        let of = types("(STRING, INT)");
        for (text, shown) in
            [(r#"["x",3]"#, r#"["x",3]"#), (r#" [ "a\"\u0000", -7 ]"#, r#"["a\"\u0000",-7]"#)]
        {
            let key = of.parse(text).unwrap();
            assert_eq!(key.text(), shown);
            assert_eq!(of.parse(key.text()).unwrap(), key);
            assert_eq!(key.types(), of);
        }
        assert_eq!(CompositeKey::canonical_text(r#" [ "x", 3 ]"#).as_deref(), Some(r#"["x",3]"#));
        for text in ["x", "[1]", "[1, 2.5]", "[1, null]", "[[1], 2]"] {
            assert_eq!(CompositeKey::canonical_text(text), None, "{text}");
        }
        assert_eq!(of.parse(r#"["x",3]"#).unwrap().to_string(), r#"("x", 3)"#);
        let long = format!(r#"["{}",1]"#, "x".repeat(limits::KEY_BYTES + 1));
        for text in [
            "",
            "x",
            r#"["x"]"#,
            r#"["x",3,4]"#,
            r#"["x","3"]"#,
            r#"[3,"x"]"#,
            r#"["x",3.0]"#,
            r#"["",3]"#,
            &long,
        ] {
            assert_eq!(of.parse(text).unwrap_err().reason(), Reason::KeyInvalid, "{text}");
        }
        let two = types("(STRING, STRING)");
        let half = "x".repeat(limits::KEY_BYTES / 2);
        assert!(two.parse(&format!(r#"["{half}","{half}"]"#)).is_ok());
        assert!(two.parse(&format!(r#"["{half}","{half}x"]"#)).is_err());
    }

    #[test]
    fn keys_sort_by_their_columns_in_turn() {
        let of = types("(STRING, INT)");
        let keys: Vec<_> = [r#"["a",9]"#, r#"["a",10]"#, r#"["aa",-1]"#, r#"["b",0]"#]
            .map(|text| of.parse(text).unwrap())
            .into();
        assert!(keys.is_sorted_by(|a, b| a < b));
        let prefix = CompositeKey::new(vec![KeyPart::Str("aa".into())]);
        assert!(keys[1] < prefix && prefix < keys[2]);
    }
}
