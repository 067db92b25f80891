//! A document: a JSON object, kept as validated MessagePack.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};
use crate::format::path::Path;
use crate::format::value::Value;
use crate::format::{json, key};
use crate::limits;

/// A document, or a merge patch: a MessagePack map with text keys, no duplicates, within the limits.
/// Cloning is cheap and shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Bytes);

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

impl Document {
    /// A document from JSON text.
    pub fn from_json(text: &str) -> Result<Document> {
        check_size(text.len())?;
        Document::checked(json::to_msgpack(text)?.into())
    }

    /// A document from MessagePack, which is walked and checked.
    pub fn from_msgpack(encoded: Bytes) -> Result<Document> {
        check_size(encoded.len())?;
        validate(&encoded)?;
        Document::checked(encoded)
    }

    /// A document from a DriftQL literal.
    pub fn from_value(value: &Value) -> Result<Document> {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        Document::checked(encoded.into())
    }

    /// Bytes that were checked when they were written: those of a frame whose CRC holds.
    pub fn trusted(encoded: Bytes) -> Document {
        Document(encoded)
    }

    fn checked(encoded: Bytes) -> Result<Document> {
        if !matches!(msgpack::first(&encoded)?, MsgpackItem::Map(_)) {
            return Err(invalid("a document must be a JSON object"));
        }
        check_size(encoded.len())?;
        // No JSON text is over six times its MessagePack (a control character: 1 byte against \u0000). It is measured as
        // it is answered, whatever came in: 1e15 is answered as 1000000000000000.0.
        if encoded.len() > limits::DOCUMENT_BYTES / 6 {
            check_size(json::from_msgpack(&encoded)?.len())?;
        }
        Ok(Document(encoded))
    }

    /// The document as MessagePack.
    pub fn msgpack(&self) -> &Bytes {
        &self.0
    }

    /// The document as JSON text.
    pub fn to_json(&self) -> Result<String> {
        json::from_msgpack(&self.0)
    }

    /// The encoded value at a path.
    pub fn get(&self, path: &Path) -> Result<Option<&[u8]>> {
        path.lookup(&self.0)
    }

    /// The key in the primary key field.
    pub fn key(&self, field: &str, key_type: key::KeyType) -> Result<key::Key> {
        key::Key::from_field(field, self.get(&Path::field(field))?, key_type)
    }

    /// The document after an RFC 7396 merge patch: objects merge deep, null removes, the rest replaces.
    pub fn merge(&self, patch: &Document) -> Result<Document> {
        let mut out = Vec::with_capacity(self.0.len() + patch.0.len());
        merge_maps(&mut out, msgpack::fields(&self.0)?, msgpack::fields(&patch.0)?)?;
        Document::checked(out.into())
    }

    /// Whether two documents have the same content: fields in any order, numbers by value.
    pub fn same_as(&self, other: &Document) -> Result<bool> {
        Ok(self.0 == other.0 || Value::decode(&self.0)?.same_as(&Value::decode(&other.0)?))
    }

    /// A copy that shares no bytes with a larger buffer.
    #[must_use]
    pub fn detached(&self) -> Document {
        Document(Bytes::copy_from_slice(&self.0))
    }
}

fn check_size(len: usize) -> Result<()> {
    if len > limits::DOCUMENT_BYTES {
        return Err(Error::new(
            Reason::TooLarge,
            format!("a document of {len} bytes is over the limit of {} bytes", limits::DOCUMENT_BYTES),
        ));
    }
    Ok(())
}

/// Checks encoded bytes from outside: one map; text keys without duplicates; nesting; nothing that JSON cannot say.
fn validate(encoded: &[u8]) -> Result<()> {
    let mut reader = MsgpackReader::new(encoded);
    validate_value(&mut reader, 0)?;
    reader.finish()
}

fn validate_value(reader: &mut MsgpackReader<'_>, depth: usize) -> Result<()> {
    match reader.token()? {
        MsgpackItem::Array(len) => {
            let depth = deeper(depth)?;
            for _ in 0..len {
                validate_value(reader, depth)?;
            }
        }
        MsgpackItem::Map(len) => {
            let depth = deeper(depth)?;
            let mut names = Vec::new();
            for _ in 0..len {
                names.push(reader.str()?);
                validate_value(reader, depth)?;
            }
            if let Some(name) = json::duplicate(&mut names) {
                return Err(invalid(format!("field {name:?} occurs twice")));
            }
        }
        _ => {}
    }
    Ok(())
}

fn deeper(depth: usize) -> Result<usize> {
    if depth >= limits::NESTING {
        return Err(invalid(format!("nested deeper than {} levels", limits::NESTING)));
    }
    Ok(depth + 1)
}

type Fields<'a> = Vec<(&'a str, &'a [u8])>;

/// Fields of a patch up to which they are compared one by one; of more, a map is made.
const FEW_FIELDS: usize = 16;

/// The fields of a patch that no field of the target has met yet.
struct Added<'a, 'p> {
    patch: &'p [(&'a str, &'a [u8])],
    left: Vec<bool>,
    by_name: Option<HashMap<&'a str, usize>>,
}

impl<'a, 'p> Added<'a, 'p> {
    fn of(patch: &'p [(&'a str, &'a [u8])]) -> Added<'a, 'p> {
        let indexed = || patch.iter().zip(0..).map(|((name, _), index)| (*name, index)).collect();
        let by_name = (patch.len() > FEW_FIELDS).then(indexed);
        Added { patch, left: vec![true; patch.len()], by_name }
    }

    fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        let index = match &self.by_name {
            Some(by_name) => by_name.get(name).copied()?,
            None => self.patch.iter().position(|(field, _)| *field == name)?,
        };
        // The target has no field twice.
        *self.left.get_mut(index)? = false;
        self.patch.get(index).map(|(_, change)| *change)
    }

    fn has(&self, index: usize) -> bool {
        self.left.get(index).copied().unwrap_or_default()
    }
}

/// Writes `target` merged with `patch`. Depth is bounded by the limits both were checked against.
fn merge_maps(out: &mut Vec<u8>, target: Fields<'_>, patch: Fields<'_>) -> Result<()> {
    let start = out.len();
    let mut len = 0;
    let mut added = Added::of(&patch);
    for (name, value) in target {
        match added.take(name) {
            None => {
                msgpack::write_str(out, name);
                out.extend_from_slice(value);
            }
            Some(change) => match msgpack::first(change)? {
                MsgpackItem::Nil => continue,
                MsgpackItem::Map(_) => {
                    msgpack::write_str(out, name);
                    let inner = match msgpack::first(value)? {
                        MsgpackItem::Map(_) => msgpack::fields(value)?,
                        _ => Vec::new(),
                    };
                    merge_maps(out, inner, msgpack::fields(change)?)?;
                }
                _ => {
                    msgpack::write_str(out, name);
                    out.extend_from_slice(change);
                }
            },
        }
        len += 1;
    }
    for (index, (name, change)) in patch.iter().enumerate() {
        if !added.has(index) {
            continue;
        }
        match msgpack::first(change)? {
            MsgpackItem::Nil => continue,
            MsgpackItem::Map(_) => {
                msgpack::write_str(out, name);
                merge_maps(out, Vec::new(), msgpack::fields(change)?)?;
            }
            _ => {
                msgpack::write_str(out, name);
                out.extend_from_slice(change);
            }
        }
        len += 1;
    }
    let mut head = Vec::with_capacity(5);
    msgpack::write_map_len(&mut head, len);
    out.splice(start..start, head);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(target: &str, patch: &str) -> String {
        Document::from_json(target)
            .unwrap()
            .merge(&Document::from_json(patch).unwrap())
            .unwrap()
            .to_json()
            .unwrap()
    }

    /// The examples of RFC 7396, appendix A, whose target and result are objects.
    #[test]
    fn merge_patch_as_the_rfc_has_it() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            (r#"{"a":"b"}"#, r#"{"a":{"c":1,"d":null}}"#, r#"{"a":{"c":1}}"#),
        ] {
            assert_eq!(merged(target, patch), result);
        }
    }

    #[test]
    fn size_counts_in_the_larger_encoding() {
        let control = "\u{1}".repeat(limits::DOCUMENT_BYTES / 4);
        let value = Value::Object(vec![("s".into(), Value::Str(control))]);
        assert_eq!(Document::from_value(&value).unwrap_err().reason(), Reason::TooLarge);
    }

    #[test]
    fn only_objects_are_documents() {
        for text in ["1", "[]", "null", "\"x\"", "", "{", "{} {}"] {
            assert_eq!(Document::from_json(text).unwrap_err().reason(), Reason::DocumentInvalid, "{text}");
        }
    }

    #[test]
    fn deep_messagepack_is_refused_without_recursion() {
        let mut deep = vec![0x81, 0xa1, b'a'];
        deep.extend(std::iter::repeat_n(0x91, 100_000));
        deep.push(0xc0);
        assert!(Document::from_msgpack(deep.into()).is_err());
    }
}
