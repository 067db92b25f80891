//! The total order of values, as bytes: what ORDER BY sorts by, and what DISTINCT and GROUP BY take as the same value.
//!
//! Booleans (false first) < numbers < texts by code points < arrays < objects < null < a missing field. Numbers are compared
//! exactly, whether they are integers or floats; arrays element by element, then by length; objects as lists of their fields
//! in the order of names. Values that are equal (`1` and `1.0`) have the same bytes, and different values never have. Unlike
//! the keys of an index ([`crate::format::sortkey`]) nothing is rounded or truncated. In a descending order the values are
//! reversed, but null and missing fields still come last: nobody asks for the ten largest amounts to see rows without one.

use crate::error::Result;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};
use crate::format::sortkey::{ScalarKind, write_number, write_text};
use crate::work;

const END: u8 = 0;
const ARRAY: u8 = 7;
const OBJECT: u8 = 9;
/// Inside of an array or an object.
const NULL: u8 = 11;
/// The first byte of a key.
const VALUE: u8 = 1;
const NULL_LAST: u8 = 2;
const MISSING_LAST: u8 = 3;

/// Appends the key of an encoded value; `None` is a missing field. More bytes can follow without changing the order.
///
/// # Errors
/// If the value is damaged, or if the present work was stopped.
pub fn write_order_key(out: &mut Vec<u8>, value: Option<&[u8]>, descending: bool) -> Result<()> {
    let Some(value) = value else {
        out.push(MISSING_LAST);
        return Ok(());
    };
    let mut reader = MsgpackReader::new(value);
    let item = reader.token()?;
    if item == MsgpackItem::Nil {
        out.push(NULL_LAST);
        return Ok(());
    }
    out.push(VALUE);
    let start = out.len();
    write_item(out, item, &mut reader)?;
    if descending {
        // No key is a prefix of another one, so that the inverted bytes have the reverse order.
        out.iter_mut().skip(start).for_each(|byte| *byte = !*byte);
    }
    Ok(())
}

/// Documents were checked against the nesting limit, which bounds the recursion.
fn write_item(out: &mut Vec<u8>, item: MsgpackItem<'_>, reader: &mut MsgpackReader<'_>) -> Result<()> {
    match item {
        MsgpackItem::Nil => out.push(NULL),
        MsgpackItem::Bool(value) => out.extend_from_slice(&[ScalarKind::Bool as u8, value.into()]),
        MsgpackItem::Int(int) => write_integer(out, int),
        MsgpackItem::Float(float) => write_float(out, float),
        MsgpackItem::Str(text) => {
            work::step_bytes(text.len())?;
            out.push(ScalarKind::Text as u8);
            write_text(out, text.as_bytes());
        }
        MsgpackItem::Array(len) => {
            out.push(ARRAY);
            for _ in 0..len {
                work::step(1)?;
                let item = reader.token()?;
                write_item(out, item, reader)?;
            }
            out.push(END);
        }
        MsgpackItem::Map(len) => {
            out.push(OBJECT);
            let mut fields = Vec::new();
            for _ in 0..len {
                fields.push((reader.str()?, reader.value()?));
            }
            work::step(len.saturating_mul(8))?;
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                out.push(VALUE);
                write_text(out, name.as_bytes());
                let mut reader = MsgpackReader::new(value);
                let item = reader.token()?;
                write_item(out, item, &mut reader)?;
            }
            out.push(END);
        }
    }
    Ok(())
}

/// The middle of the differences between an integer and the nearest float, which are less than 2^15.
const NO_DIFFERENCE: i128 = 1 << 15;

/// Numbers are encoded as the nearest float, then the difference to it: only integers beyond 2^53 have one.
fn write_integer(out: &mut Vec<u8>, int: i128) {
    out.push(ScalarKind::Number as u8);
    #[expect(clippy::cast_precision_loss, reason = "the difference follows")]
    let nearest = int as f64;
    write_number(out, nearest);
    #[expect(clippy::cast_possible_truncation, reason = "a float next to an integer of 65 bits")]
    let difference = int - nearest as i128;
    let shifted = u16::try_from(difference + NO_DIFFERENCE).unwrap_or(u16::MAX);
    out.extend_from_slice(&shifted.to_be_bytes());
}

fn write_float(out: &mut Vec<u8>, float: f64) {
    out.push(ScalarKind::Number as u8);
    write_number(out, float);
    out.extend_from_slice(&(1u16 << 15).to_be_bytes());
}

/// Whether an encoded value is null.
pub fn is_null(value: &[u8]) -> Result<bool> {
    Ok(msgpack::first(value)? == MsgpackItem::Nil)
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use proptest::prelude::*;

    use super::*;
    use crate::format::value::{Value, compare_int_float};

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-3i128..4).prop_map(Value::Int),
            (-3i128..4, 52u32..64).prop_map(|(n, power)| Value::Int((1 << power) - 4 + n)),
            (-6i32..7).prop_map(|n| Value::Float(f64::from(n) / 2.0)),
            (50i32..64).prop_map(|power| Value::Float(2f64.powi(power))),
            Just(Value::Float(-0.0)),
            "[\0aé]{0,3}".prop_map(Value::Str),
        ];
        scalar.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().rev().collect())),
            ]
        })
    }

    fn rank(value: &Value) -> u8 {
        match value {
            Value::Bool(_) => 1,
            Value::Int(_) | Value::Float(_) => 2,
            Value::Str(_) => 3,
            Value::Array(_) => 4,
            Value::Object(_) => 5,
            Value::Null => 6,
        }
    }

    /// The order as the documentation defines it.
    fn order(a: &Value, b: &Value) -> Ordering {
        match (a, b) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::Int(a), Value::Int(b)) => a.cmp(b),
            (Value::Float(a), Value::Float(b)) => a.partial_cmp(b).unwrap(),
            (Value::Int(a), Value::Float(b)) => compare_int_float(*a, *b).unwrap(),
            (Value::Float(a), Value::Int(b)) => compare_int_float(*b, *a).unwrap().reverse(),
            (Value::Str(a), Value::Str(b)) => a.cmp(b),
            (Value::Array(a), Value::Array(b)) => {
                let first = a.iter().zip(b).map(|(a, b)| order(a, b)).find(|order| order.is_ne());
                first.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            (Value::Object(a), Value::Object(b)) => {
                let (mut a, mut b) = (a.clone(), b.clone());
                a.sort_by(|a, b| a.0.cmp(&b.0));
                b.sort_by(|a, b| a.0.cmp(&b.0));
                let both = |(a, b): (&(String, Value), &(String, Value))| {
                    a.0.cmp(&b.0).then_with(|| order(&a.1, &b.1))
                };
                let first = a.iter().zip(&b).map(both).find(|order| order.is_ne());
                first.unwrap_or_else(|| a.len().cmp(&b.len()))
            }
            _ => rank(a).cmp(&rank(b)),
        }
    }

    fn key(value: Option<&Value>, descending: bool) -> Vec<u8> {
        let encoded = value.map(|value| {
            let mut out = Vec::new();
            value.encode(&mut out);
            out
        });
        let mut out = Vec::new();
        write_order_key(&mut out, encoded.as_deref(), descending).unwrap();
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn keys_sort_as_values(a in value(), b in value()) {
            let (key_a, key_b) = (key(Some(&a), false), key(Some(&b), false));
            prop_assert_eq!(key_a.cmp(&key_b), order(&a, &b), "{:?} {:?}", a, b);
            prop_assert_eq!(key_a == key_b, a.same_as(&b));
            prop_assert!(key_a == key_b || !key_b.starts_with(&key_a));
            let both_are_values = a != Value::Null && b != Value::Null;
            let expected = if both_are_values { order(&b, &a) } else { order(&a, &b) };
            prop_assert_eq!(key(Some(&a), true).cmp(&key(Some(&b), true)), expected);
            prop_assert!(key_a < key(None, false));
        }
    }
}
