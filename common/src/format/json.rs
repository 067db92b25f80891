//! Converts JSON text to MessagePack and back. Keeps every digit of integers and the order of fields.

use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::error::{Error, Reason, Result};
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
    let mut out = Vec::with_capacity(text.len());
    let mut rounded = false;
    let mut parser = serde_json::Deserializer::from_str(text);
    let transcoder = Transcoder { out: &mut out, rounded: &mut rounded, depth: 0 };
    transcoder.deserialize(&mut parser).and_then(|()| parser.end()).map_err(invalid)?;
    if rounded {
        check_integers(text)?;
    }
    Ok(out)
}

/// Converts one MessagePack value to JSON text.
pub fn from_msgpack(encoded: &[u8]) -> Result<String> {
    let mut out = Vec::with_capacity(encoded.len() + encoded.len() / 4);
    write_at(&mut out, &mut msgpack::MsgpackReader::new(encoded), 0)?;
    // The serializer writes only UTF-8, but its output is bytes.
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
        MsgpackItem::Int(i) => push_serialized(out, &i)?,
        MsgpackItem::Float(f) => push_serialized(out, &f)?,
        MsgpackItem::Str(s) => push_serialized(out, s)?,
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
                push_serialized(out, reader.str()?)?;
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

/// Appends the MessagePack of the value that it visits.
struct Transcoder<'a> {
    out: &'a mut Vec<u8>,
    /// Set if a float is so large that it can be a rounded integer.
    rounded: &'a mut bool,
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
        Ok(Transcoder { out: self.out, rounded: self.rounded, depth: self.depth + 1 })
    }

    /// Inserts the header of a container at `at`, when its length is known.
    fn insert_header(&mut self, at: usize, header: &[u8]) {
        self.out.splice(at..at, header.iter().copied());
    }
}

impl<'de> Visitor<'de> for Transcoder<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        msgpack::write_nil(self.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        msgpack::write_bool(self.out, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        msgpack::write_uint(self.out, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        msgpack::write_int(self.out, value.into());
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        *self.rounded |= value.abs() >= 9.2e18;
        msgpack::write_f64(self.out, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        msgpack::write_str(self.out, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let start = self.out.len();
        let mut len = 0;
        while items.next_element_seed(self.nested()?)?.is_some() {
            len += 1;
        }
        let mut header = Vec::with_capacity(5);
        msgpack::write_array_len(&mut header, len);
        self.insert_header(start, &header);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut pairs: A) -> Result<(), A::Error> {
        // An object without fields counts as a level, too.
        self.nested()?;
        let start = self.out.len();
        let mut names: Vec<String> = Vec::new();
        while let Some(name) = pairs.next_key::<String>()? {
            msgpack::write_str(self.out, &name);
            names.push(name);
            pairs.next_value_seed(self.nested()?)?;
        }
        if let Some(name) = find_duplicate(&mut names.iter().map(String::as_str).collect::<Vec<_>>()) {
            return Err(de::Error::custom(format_args!("field {name:?} occurs twice in one object")));
        }
        let mut header = Vec::with_capacity(5);
        msgpack::write_map_len(&mut header, names.len());
        self.insert_header(start, &header);
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
