//! A JSON value in memory, such as a DriftQL literal: integers are exact, and objects keep the order of their fields.

use std::cmp::Ordering;

use crate::error::{Error, Reason, Result};
use crate::format::msgpack::{self, MsgpackItem};
use crate::limits;
use crate::work;

/// A JSON value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// An integer from -2^63 to 2^64-1.
    Int(i128),
    /// Any other number; never NaN or infinite.
    Float(f64),
    /// Text.
    Str(String),
    /// An array.
    Array(Vec<Value>),
    /// An object: its fields in their order, without duplicate names.
    Object(Vec<(String, Value)>),
}

impl Value {
    /// Appends the value as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Value::Null => msgpack::write_nil(out),
            Value::Bool(b) => msgpack::write_bool(out, *b),
            Value::Int(i) => msgpack::write_int(out, *i),
            Value::Float(f) => msgpack::write_f64(out, *f),
            Value::Str(s) => msgpack::write_str(out, s),
            Value::Array(items) => {
                msgpack::write_array_len(out, items.len());
                items.iter().for_each(|item| item.encode(out));
            }
            Value::Object(fields) => {
                msgpack::write_map_len(out, fields.len());
                for (name, value) in fields {
                    msgpack::write_str(out, name);
                    value.encode(out);
                }
            }
        }
    }

    /// Decodes one MessagePack value from exactly `bytes`. Fails if it is invalid or nested deeper than [`limits::NESTING`].
    pub fn decode(bytes: &[u8]) -> Result<Value> {
        let mut reader = msgpack::MsgpackReader::new(bytes);
        let value = decode_nested(&mut reader, 0)?;
        reader.finish()?;
        Ok(value)
    }

    /// Whether two values are equal: numbers compare by value, objects regardless of the order of their fields.
    pub fn same_as(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Int(int), Value::Float(float)) | (Value::Float(float), Value::Int(int)) => {
                compare_int_float(*int, *float) == Some(Ordering::Equal)
            }
            (Value::Array(a), Value::Array(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same_as(b))
            }
            (Value::Object(a), Value::Object(b)) => {
                let mut a: Vec<_> = a.iter().collect();
                let mut b: Vec<_> = b.iter().collect();
                a.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                b.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && a.1.same_as(&b.1))
            }
            _ => self == other,
        }
    }

    /// The kind of the value with its article, for error messages: `an integer`.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::Str(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

fn decode_nested(reader: &mut msgpack::MsgpackReader<'_>, depth: usize) -> Result<Value> {
    if depth > limits::NESTING {
        return Err(Error::new(
            Reason::DocumentInvalid,
            format!("nested more than {} levels deep", limits::NESTING),
        ));
    }
    let start = reader.position();
    let item = reader.token()?;
    work::step_bytes(reader.position() - start)?;
    Ok(match item {
        MsgpackItem::Nil => Value::Null,
        MsgpackItem::Bool(b) => Value::Bool(b),
        MsgpackItem::Int(i) => Value::Int(i),
        MsgpackItem::Float(f) => Value::Float(f),
        MsgpackItem::Str(s) => Value::Str(s.to_owned()),
        MsgpackItem::Array(len) => {
            let mut items = Vec::new();
            for _ in 0..len {
                items.push(decode_nested(reader, depth + 1)?);
            }
            Value::Array(items)
        }
        MsgpackItem::Map(len) => {
            let mut fields = Vec::new();
            for _ in 0..len {
                let name = reader.str()?.to_owned();
                fields.push((name, decode_nested(reader, depth + 1)?));
            }
            Value::Object(fields)
        }
    })
}

/// Compares an integer with a float exactly, without rounding the integer. `None` only if the float is NaN.
pub(crate) fn compare_int_float(int: i128, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    // All integers are within ±2^64, and a truncated float within ±2^100 is an exact i128.
    const BOUND: f64 = (1u128 << 100) as f64;
    if float >= BOUND {
        return Some(Ordering::Less);
    }
    if float <= -BOUND {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    #[expect(clippy::cast_possible_truncation, reason = "bounded by ±2^100 just above")]
    let ordering = int.cmp(&(whole as i128));
    // If the whole parts are equal, the fraction decides. `partial_cmp` makes -0.0 equal to 0.0.
    Some(ordering.then(whole.partial_cmp(&float)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_compare_with_floats_without_rounding() {
        assert_eq!(compare_int_float(1, 1.0), Some(Ordering::Equal));
        assert_eq!(compare_int_float(0, -0.0), Some(Ordering::Equal));
        assert_eq!(compare_int_float((1 << 53) + 1, 9007199254740992.0), Some(Ordering::Greater));
        assert_eq!(compare_int_float(2, 2.5), Some(Ordering::Less));
        assert_eq!(compare_int_float(-2, -2.5), Some(Ordering::Greater));
        assert_eq!(compare_int_float(i128::from(u64::MAX), 1e300), Some(Ordering::Less));
        assert_eq!(compare_int_float(i128::from(i64::MIN), f64::MIN), Some(Ordering::Greater));
    }
}
