//! Converts JSON text to MessagePack and back. Keeps every digit of integers and the order of fields.

use std::fmt;
use std::ops::Range;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Reason, Result};
use crate::format::json_text;
use crate::format::msgpack::{self, MsgpackItem};
use crate::limits;
use crate::work;

fn invalid(message: impl fmt::Display) -> Error {
    Error::new(Reason::DocumentInvalid, format!("invalid JSON: {message}"))
}

/// Converts one JSON value to MessagePack.
///
/// Fails with [`Reason::DocumentInvalid`] if the text is not JSON, an integer does not fit in 64 bits, a number exceeds the
/// range of a 64-bit float, an object has duplicate fields, or the nesting exceeds [`limits::NESTING`].
pub fn to_msgpack(text: &str) -> Result<Vec<u8>> {
    let out = Vec::with_capacity(text.len());
    let mut written = Transcoded { out, names: Vec::new(), rounded: false };
    let mut parser = serde_json::Deserializer::from_str(text);
    let transcoder = Transcoder { to: &mut written, depth: 0 };
    transcoder.deserialize(&mut parser).and_then(|()| parser.end()).map_err(invalid)?;
    if written.rounded {
        check_integers(text)?;
    }
    Ok(written.out)
}

/// Converts one MessagePack value to JSON text.
pub fn from_msgpack(encoded: &[u8]) -> Result<String> {
    let mut out = Vec::with_capacity(encoded.len() + encoded.len() / 4);
    write_at(&mut out, &mut msgpack::MsgpackReader::new(encoded), 0)?;
    // Only UTF-8 was written, but the output is bytes.
    String::from_utf8(out).map_err(invalid)
}

fn write_at(out: &mut Vec<u8>, reader: &mut msgpack::MsgpackReader<'_>, depth: usize) -> Result<()> {
    if depth > limits::NESTING {
        return Err(too_deep());
    }
    let start = reader.position();
    let item = reader.token()?;
    work::step_bytes(reader.position() - start)?;
    match item {
        MsgpackItem::Nil => out.extend_from_slice(b"null"),
        MsgpackItem::Bool(b) => out.extend_from_slice(if b { b"true" } else { b"false" }),
        MsgpackItem::Int(i) => match u64::try_from(i) {
            // Faster than with 128 bits.
            Ok(small) => push_serialized(out, &small)?,
            Err(_) => push_serialized(out, &i)?,
        },
        MsgpackItem::Float(f) => push_serialized(out, &f)?,
        MsgpackItem::Str(s) => json_text::push(out, s),
        MsgpackItem::Array(len) => {
            out.push(b'[');
            for i in 0..len {
                if i > 0 {
                    out.push(b',');
                }
                write_at(out, reader, depth + 1)?;
            }
            out.push(b']');
        }
        MsgpackItem::Map(len) => {
            out.push(b'{');
            for i in 0..len {
                if i > 0 {
                    out.push(b',');
                }
                json_text::push(out, reader.str()?);
                out.push(b':');
                write_at(out, reader, depth + 1)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn push_serialized<T: serde::Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<()> {
    serde_json::to_writer(out, value).map_err(invalid)
}

fn too_deep() -> Error {
    Error::new(Reason::DocumentInvalid, format!("nested more than {} levels deep", limits::NESTING))
}

/// Finds integers that exceed 64 bits. The parser returns them as rounded floats, so this scans the text again.
fn check_integers(text: &str) -> Result<()> {
    let mut in_string = false;
    let mut escaped = false;
    let mut number = String::new();
    for c in text.chars().chain([' ']) {
        if in_string {
            in_string = c != '"' || escaped;
            escaped = c == '\\' && !escaped;
        } else if matches!(c, '0'..='9' | '-' | '+' | '.' | 'e' | 'E') {
            number.push(c);
        } else {
            let integer = number.bytes().all(|b| b.is_ascii_digit() || b == b'-') && !number.is_empty();
            if integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                return Err(invalid(format!("{number} does not fit in 64 bits: send it as a string")));
            }
            number.clear();
            in_string = c == '"';
        }
    }
    Ok(())
}

/// A name that occurs more than once, if any. Sorts `names`.
pub(crate) fn find_duplicate<'a>(names: &mut [&'a str]) -> Option<&'a str> {
    names.sort_unstable();
    names.windows(2).find_map(|pair| match pair {
        [a, b] if a == b => Some(*a),
        _ => None,
    })
}

/// An object with at most this many fields is searched for duplicates without a sort.
const FIELDS_NOT_SORTED: usize = 16;
/// The most pairs of a map, and items of an array, whose header is one byte.
const SHORT_LEN: usize = 15;

/// What was transcoded so far.
struct Transcoded {
    out: Vec<u8>,
    /// Where `out` has the field names of the objects that are open, the innermost last. A header that is inserted for an object
    /// moves only what is inside it.
    names: Vec<Range<usize>>,
    /// Set if a float is so large that it can be a rounded integer.
    rounded: bool,
}

impl Transcoded {
    /// Writes the header of a container over the byte kept for it at `at`. `write` appends the header for a length.
    fn write_header(&mut self, at: usize, len: usize, write: fn(&mut Vec<u8>, usize)) {
        let end = self.out.len();
        write(&mut self.out, len);
        if len <= SHORT_LEN {
            let header = self.out.pop();
            if let (Some(first), Some(header)) = (self.out.get_mut(at), header) {
                *first = header;
            }
        } else {
            let header = self.out.split_off(end);
            self.out.splice(at..=at, header);
        }
    }

    /// A field name that occurs twice among those from position `first` on.
    fn duplicate_name(&self, first: usize) -> Option<String> {
        let names = self.names.get(first..).unwrap_or_default();
        let name = |range: &Range<usize>| self.out.get(range.clone()).unwrap_or_default();
        let twice = if names.len() <= FIELDS_NOT_SORTED {
            let pairs = names.iter().enumerate();
            let mut twice = pairs.filter(|(at, a)| names.iter().take(*at).any(|b| name(a) == name(b)));
            twice.next().map(|(_, range)| name(range))
        } else {
            let mut sorted: Vec<&[u8]> = names.iter().map(name).collect();
            sorted.sort_unstable();
            sorted.windows(2).find_map(|pair| match pair {
                [a, b] if a == b => Some(*a),
                _ => None,
            })
        };
        twice.map(|name| String::from_utf8_lossy(name).into_owned())
    }
}

/// Appends the name of a field.
struct NameTranscoder<'a>(&'a mut Transcoded);

impl<'de> DeserializeSeed<'de> for NameTranscoder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for NameTranscoder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<(), E> {
        let Transcoded { out, names, .. } = self.0;
        msgpack::write_str(out, name);
        names.push(out.len() - name.len()..out.len());
        Ok(())
    }
}

/// Appends the MessagePack of the value that it visits.
struct Transcoder<'a> {
    to: &'a mut Transcoded,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Transcoder<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Transcoder<'_> {
    fn nested<E: de::Error>(&mut self) -> Result<Transcoder<'_>, E> {
        if self.depth >= limits::NESTING {
            return Err(E::custom(format_args!("nested more than {} levels deep", limits::NESTING)));
        }
        Ok(Transcoder { to: self.to, depth: self.depth + 1 })
    }
}

impl<'de> Visitor<'de> for Transcoder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        msgpack::write_nil(&mut self.to.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        msgpack::write_bool(&mut self.to.out, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        msgpack::write_uint(&mut self.to.out, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        msgpack::write_int(&mut self.to.out, value.into());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.to.rounded |= value.abs() >= 9.2e18;
        msgpack::write_f64(&mut self.to.out, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        msgpack::write_str(&mut self.to.out, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let start = self.to.out.len();
        self.to.out.push(0);
        let mut len = 0;
        while items.next_element_seed(self.nested()?)?.is_some() {
            len += 1;
        }
        self.to.write_header(start, len, msgpack::write_array_len);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<(), A::Error> {
        // An object without fields counts as a level, too.
        self.nested()?;
        let (start, first) = (self.to.out.len(), self.to.names.len());
        self.to.out.push(0);
        while pairs.next_key_seed(NameTranscoder(self.to))?.is_some() {
            pairs.next_value_seed(self.nested()?)?;
        }
        if let Some(name) = self.to.duplicate_name(first) {
            return Err(de::Error::custom(format_args!("field {name:?} occurs twice in one object")));
        }
        let len = self.to.names.len() - first;
        self.to.names.truncate(first);
        self.to.write_header(start, len, msgpack::write_map_len);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(text: &str) -> String {
        from_msgpack(&to_msgpack(text).unwrap()).unwrap()
    }

    #[test]
    fn json_round_trips() {
        for text in [
            r#"{"z":1,"a":[true,false,null],"m":{"x":"é\n\"\\"}}"#,
            "[18446744073709551615,-9223372036854775808,0,-1,127,128,1.5,1e300]",
            r#"["","😀"]"#,
            "{}",
        ] {
            let expected: serde_json::Value = serde_json::from_str(text).unwrap();
            let found: serde_json::Value = serde_json::from_str(&round_trip(text)).unwrap();
            assert_eq!(found, expected);
        }
        assert_eq!(round_trip(r#"{"z":1,"a":2}"#), r#"{"z":1,"a":2}"#);
        assert_eq!(round_trip("1.0"), "1.0");
    }

    #[test]
    fn containers_of_every_header_size() {
        for len in [0usize, 1, 15, 16, 17, 65_535, 65_536] {
            let array = format!("[{}]", vec!["1"; len].join(","));
            assert_eq!(round_trip(&array), array);
            let fields: Vec<String> = (0..len).map(|i| format!("\"f{i}\":{i}")).collect();
            let object = format!("{{{}}}", fields.join(","));
            assert_eq!(round_trip(&object), object);
        }
    }

    #[test]
    fn integers_are_refused_rather_than_rounded() {
        for text in
            ["18446744073709551616", "-9223372036854775809", "[\"a\\\"1\", 99999999999999999999]", "1e400"]
        {
            assert!(to_msgpack(text).is_err(), "{text}");
        }
        for text in ["1e30", "[\"99999999999999999999\", 1e19]"] {
            assert!(to_msgpack(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn nesting_is_limited() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(to_msgpack(&nested(limits::NESTING)).is_ok());
        assert!(to_msgpack(&nested(limits::NESTING + 1)).is_err());
        for inner in ["1", "{}", "[]", "{\"a\":1}"] {
            let objects = |n: usize| format!("{}{inner}{}", "{\"a\":".repeat(n), "}".repeat(n));
            let own = usize::from(inner != "1");
            assert!(to_msgpack(&objects(limits::NESTING - own)).is_ok(), "{inner}");
            assert!(to_msgpack(&objects(limits::NESTING - own + 1)).is_err(), "{inner}");
        }
        assert!(to_msgpack(&nested(100_000)).is_err());
    }

    #[test]
    fn duplicate_fields_are_refused() {
        assert!(to_msgpack(r#"{"a":1,"a":2}"#).is_err());
        assert!(to_msgpack(r#"{"a":{"b":1,"b":1}}"#).is_err());
    }
}
