//! A document: a JSON object, stored as validated MessagePack.

use std::collections::HashMap;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};
use crate::format::path::Path;
use crate::format::value::Value;
use crate::format::{json, key};
use crate::limits;
use crate::work;

/// A document or a merge patch: a MessagePack map with text keys and without duplicate keys, within the limits of size and
/// nesting. Cloning is cheap: clones share the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Bytes);

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

impl Document {
    /// Parses JSON text.
    ///
    /// Fails with [`Reason::DocumentInvalid`] if the text is not a JSON object that can be stored, with
    /// [`Reason::TooLarge`] if it exceeds [`limits::DOCUMENT_BYTES`].
    pub fn from_json(text: &str) -> Result<Document> {
        check_size(text.len())?;
        Document::checked(json::to_msgpack(text)?.into())
    }

    /// Validates MessagePack. Fails as [`Document::from_json`] does.
    pub fn from_msgpack(encoded: Bytes) -> Result<Document> {
        check_size(encoded.len())?;
        validate(&encoded)?;
        Document::checked(encoded)
    }

    /// Encodes a DriftQL literal. Fails as [`Document::from_json`] does.
    pub fn from_value(value: &Value) -> Result<Document> {
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        Document::checked(encoded.into())
    }

    /// Wraps bytes that were validated before they were written, such as the payload of a frame with a valid CRC.
    pub fn trusted(encoded: Bytes) -> Document {
        Document(encoded)
    }

    fn checked(encoded: Bytes) -> Result<Document> {
        if !matches!(msgpack::first(&encoded)?, MsgpackItem::Map(_)) {
            return Err(invalid("a document must be a JSON object"));
        }
        check_size(encoded.len())?;
        // JSON text is at most six times as long as its MessagePack: a control character takes 1 byte there and six here
        // (\u0000). The limit applies to the JSON that readers return, which can differ from the input: 1e15 is returned as
        // 1000000000000000.0.
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

    /// The encoded value at a path; `None` if the document has no such field.
    pub fn get(&self, path: &Path) -> Result<Option<&[u8]>> {
        path.lookup(&self.0)
    }

    /// The key in a field. Fails with [`Reason::KeyInvalid`] if the field is missing or has another type.
    pub fn key(&self, field: &str, key_type: key::KeyType) -> Result<key::Key> {
        key::Key::from_field(field, self.get(&Path::field(field))?, key_type)
    }

    /// The document with one more field, before the others, whose value is text. It must have no field of that name.
    ///
    /// Fails with [`Reason::TooLarge`] if the result exceeds [`limits::DOCUMENT_BYTES`].
    pub fn with_first_field(&self, name: &str, text: &str) -> Result<Document> {
        let mut reader = MsgpackReader::new(&self.0);
        let count = reader.map()?;
        let fields = self.0.get(reader.position()..).unwrap_or_default();
        let mut out = Vec::with_capacity(self.0.len() + name.len() + text.len() + 16);
        msgpack::write_map_len(&mut out, count as usize + 1);
        msgpack::write_str(&mut out, name);
        msgpack::write_str(&mut out, text);
        out.extend_from_slice(fields);
        Document::checked(out.into())
    }

    /// Applies an RFC 7396 merge patch: objects merge recursively, null removes a field, other values replace it.
    ///
    /// Fails with [`Reason::TooLarge`] if the result exceeds [`limits::DOCUMENT_BYTES`].
    pub fn merge(&self, patch: &Document) -> Result<Document> {
        let mut out = Vec::with_capacity(self.0.len() + patch.0.len());
        merge_maps(&mut out, msgpack::fields(&self.0)?, msgpack::fields(&patch.0)?)?;
        Document::checked(out.into())
    }

    /// Whether two documents have the same content. The order of fields does not matter; numbers compare by value.
    pub fn same_as(&self, other: &Document) -> Result<bool> {
        Ok(self.0 == other.0 || Value::decode(&self.0)?.same_as(&Value::decode(&other.0)?))
    }

    /// Whether the two are the same bytes in memory, and not just equal: cheap at any size.
    pub fn is_same_buffer(&self, other: &Document) -> bool {
        self.0.as_ptr() == other.0.as_ptr() && self.0.len() == other.0.len()
    }

    /// A copy of the bytes, so that a small document does not keep a larger buffer in memory.
    #[must_use]
    pub fn detached(&self) -> Document {
        Document(Bytes::copy_from_slice(&self.0))
    }
}

fn check_size(len: usize) -> Result<()> {
    if len > limits::DOCUMENT_BYTES {
        return Err(Error::new(
            Reason::TooLarge,
            format!("the document is too large: {len} bytes, the limit is {}", limits::DOCUMENT_BYTES),
        ));
    }
    Ok(())
}

/// Validates untrusted bytes: one value, text keys without duplicates, limited nesting, only types that JSON has.
fn validate(encoded: &[u8]) -> Result<()> {
    let mut reader = MsgpackReader::new(encoded);
    validate_value(&mut reader, 0)?;
    reader.finish()
}

fn validate_value(reader: &mut MsgpackReader<'_>, depth: usize) -> Result<()> {
    let start = reader.position();
    let item = reader.token()?;
    work::step_bytes(reader.position() - start)?;
    match item {
        MsgpackItem::Array(len) => {
            let depth = nested(depth)?;
            for _ in 0..len {
                validate_value(reader, depth)?;
            }
        }
        MsgpackItem::Map(len) => {
            let depth = nested(depth)?;
            let mut names = Vec::new();
            for _ in 0..len {
                names.push(reader.str()?);
                validate_value(reader, depth)?;
            }
            if let Some(name) = json::find_duplicate(&mut names) {
                return Err(invalid(format!("field {name:?} occurs twice in one object")));
            }
        }
        _ => {}
    }
    Ok(())
}

fn nested(depth: usize) -> Result<usize> {
    if depth >= limits::NESTING {
        return Err(invalid(format!("nested more than {} levels deep", limits::NESTING)));
    }
    Ok(depth + 1)
}

/// A field's name and encoded value.
type EncodedField<'a> = (&'a str, &'a [u8]);

/// Patches with more fields are searched with a hash map. Below, comparing field by field is faster.
const LINEAR_SEARCH_FIELDS: usize = 16;

/// The fields of a patch, and which of them no field of the target has matched yet.
struct PatchFields<'a, 'p> {
    patch: &'p [EncodedField<'a>],
    unmatched: Vec<bool>,
    by_name: Option<HashMap<&'a str, usize>>,
}

impl<'a, 'p> PatchFields<'a, 'p> {
    fn new(patch: &'p [EncodedField<'a>]) -> PatchFields<'a, 'p> {
        let indexed = || patch.iter().zip(0..).map(|((name, _), index)| (*name, index)).collect();
        let by_name = (patch.len() > LINEAR_SEARCH_FIELDS).then(indexed);
        PatchFields { patch, unmatched: vec![true; patch.len()], by_name }
    }

    fn take(&mut self, name: &str) -> Option<&'a [u8]> {
        let index = match &self.by_name {
            Some(by_name) => by_name.get(name).copied()?,
            None => self.patch.iter().position(|(field, _)| *field == name)?,
        };
        // No field is taken twice: the target has no duplicate fields.
        *self.unmatched.get_mut(index)? = false;
        self.patch.get(index).map(|(_, change)| *change)
    }

    fn is_unmatched(&self, index: usize) -> bool {
        self.unmatched.get(index).copied().unwrap_or_default()
    }
}

/// Appends `target` merged with `patch`. Recursion is bounded: both were validated against [`limits::NESTING`].
fn merge_maps(out: &mut Vec<u8>, target: Vec<EncodedField<'_>>, patch: Vec<EncodedField<'_>>) -> Result<()> {
    let start = out.len();
    let mut len = 0;
    let mut patch_fields = PatchFields::new(&patch);
    for (name, value) in target {
        work::step_bytes(value.len())?;
        match patch_fields.take(name) {
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
        if !patch_fields.is_unmatched(index) {
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

    /// The examples of RFC 7396, appendix A, in which target and result are objects.
    #[test]
    fn merge_follows_rfc_7396() {
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
    fn a_field_is_added_before_the_others() {
        for (json, expected) in [
            ("{}", r#"{"id":"k"}"#.to_owned()),
            (r#"{"a":1,"b":{"id":2}}"#, r#"{"id":"k","a":1,"b":{"id":2}}"#.to_owned()),
        ] {
            let document = Document::from_json(json).unwrap().with_first_field("id", "k").unwrap();
            assert_eq!(document.to_json().unwrap(), expected);
            assert_eq!(Document::from_msgpack(document.msgpack().clone()).unwrap(), document);
        }
        let full = format!(r#"{{"s":"{}"}}"#, "x".repeat(limits::DOCUMENT_BYTES - 16));
        let error = Document::from_json(&full).unwrap().with_first_field("id", "a key").unwrap_err();
        assert_eq!(error.reason(), Reason::TooLarge);
    }

    #[test]
    fn the_size_limit_applies_to_the_larger_encoding() {
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
    fn deep_messagepack_is_refused_without_unbounded_recursion() {
        let mut deep = vec![0x81, 0xa1, b'a'];
        deep.extend(std::iter::repeat_n(0x91, 100_000));
        deep.push(0xc0);
        assert!(Document::from_msgpack(deep.into()).is_err());
    }
}
