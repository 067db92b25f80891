//! The list of an IN condition, with an index by hash, so that a long list costs no more for each row than a short one.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;

use crate::error::Result;
use crate::format::key::Key;
use crate::format::key_columns::KeyPart;
use crate::format::msgpack::{MsgpackItem, MsgpackReader};
use crate::format::value::Value;
use crate::work;

/// The values of an IN list: at least one. Clones share them.
///
/// The index only proposes values: whoever looks one up compares it. So the hash must be the same for values that are
/// equal, whatever their form: an integer and a float of the same value, two objects with their fields in another order.
#[derive(Clone)]
pub struct InList(Arc<IndexedValues>);

struct IndexedValues {
    values: Vec<Value>,
    has_null: bool,
    /// The positions of values by their hash.
    by_hash: HashMap<u64, Vec<u32>>,
    /// Random, so that nobody can choose values that all have one hash.
    hasher: RandomState,
}

impl fmt::Debug for InList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.values().fmt(f)
    }
}

impl PartialEq for InList {
    fn eq(&self, other: &InList) -> bool {
        self.values() == other.values()
    }
}

impl InList {
    /// A list of values.
    pub fn new(values: Vec<Value>) -> InList {
        let hasher = RandomState::new();
        let mut by_hash: HashMap<u64, Vec<u32>> = HashMap::with_capacity(values.len());
        for (value, position) in values.iter().zip(0..) {
            by_hash.entry(hash_value(&hasher, value)).or_default().push(position);
        }
        let has_null = values.contains(&Value::Null);
        InList(Arc::new(IndexedValues { values, has_null, by_hash, hasher }))
    }

    /// The values as written.
    pub fn values(&self) -> &[Value] {
        &self.0.values
    }

    /// Whether the list contains null.
    pub fn has_null(&self) -> bool {
        self.0.has_null
    }

    /// The values that can be equal to a scalar.
    pub(super) fn near_scalar(&self, found: MsgpackItem<'_>) -> impl Iterator<Item = &Value> {
        let hash = hash_item(&self.0.hasher, found);
        self.near(hash)
    }

    /// The values that can be equal to an encoded value.
    ///
    /// # Errors
    /// If the value is damaged.
    pub(super) fn near_encoded(&self, encoded: &[u8]) -> Result<impl Iterator<Item = &Value>> {
        let hash = hash_encoded(&self.0.hasher, &mut MsgpackReader::new(encoded))?;
        Ok(self.near(hash))
    }

    fn near(&self, hash: u64) -> impl Iterator<Item = &Value> {
        let positions = self.0.by_hash.get(&hash).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter_map(|position| self.0.values.get(usize::try_from(*position).ok()?))
    }
}

/// Hashes values so that equal ones have the same hash, whatever their form. Each hasher is random.
#[derive(Debug, Clone, Default)]
pub struct ValueHasher(RandomState);

impl ValueHasher {
    /// The hash of a value.
    pub fn of_value(&self, value: &Value) -> u64 {
        hash_value(&self.0, value)
    }

    /// The hash of an encoded value.
    ///
    /// # Errors
    /// If the value is damaged.
    pub fn of_encoded(&self, encoded: &[u8]) -> Result<u64> {
        hash_encoded(&self.0, &mut MsgpackReader::new(encoded))
    }

    /// The hash of a key, which is that of the equal value.
    pub fn of_key(&self, key: &Key) -> u64 {
        match key {
            Key::Int(int) => hash_item(&self.0, MsgpackItem::Int((*int).into())),
            Key::Str(text) => hash_item(&self.0, MsgpackItem::Str(text)),
            Key::Composite(key) => {
                let mut all = start(&self.0, ValueKey::Array(key.parts().len()));
                for part in key.parts() {
                    all.write_u64(match part {
                        KeyPart::Int(int) => hash_item(&self.0, MsgpackItem::Int((*int).into())),
                        KeyPart::Str(text) => hash_item(&self.0, MsgpackItem::Str(text)),
                    });
                }
                all.finish()
            }
        }
    }

    /// The hash of a text.
    pub fn of_text(&self, text: &str) -> u64 {
        hash_item(&self.0, MsgpackItem::Str(text))
    }
}

/// What a value is, for its hash: values of different kinds are never equal.
#[derive(Hash)]
enum ValueKey<'a> {
    Null,
    Bool(bool),
    /// An integer, or a float without a fraction.
    Whole(i128),
    /// The bits of any other float.
    Fraction(u64),
    Str(&'a str),
    Array(usize),
    Object(usize),
}

/// Floats beyond this are not equal to any integer, which has 64 bits, and fit in 128 bits.
const WHOLE_BOUND: f64 = (1u128 << 100) as f64;

fn float_key(float: f64) -> ValueKey<'static> {
    if float.fract() == 0.0 && float.abs() < WHOLE_BOUND {
        #[expect(clippy::cast_possible_truncation, reason = "bounded by ±2^100, and without a fraction")]
        let whole = float as i128;
        return ValueKey::Whole(whole);
    }
    ValueKey::Fraction(float.to_bits())
}

fn hash_value(hasher: &RandomState, value: &Value) -> u64 {
    match value {
        Value::Null => hasher.hash_one(ValueKey::Null),
        Value::Bool(value) => hasher.hash_one(ValueKey::Bool(*value)),
        Value::Int(int) => hasher.hash_one(ValueKey::Whole(*int)),
        Value::Float(float) => hasher.hash_one(float_key(*float)),
        Value::Str(text) => hasher.hash_one(ValueKey::Str(text)),
        Value::Array(items) => {
            let mut all = start(hasher, ValueKey::Array(items.len()));
            items.iter().for_each(|item| all.write_u64(hash_value(hasher, item)));
            all.finish()
        }
        Value::Object(fields) => {
            let each = fields.iter().map(|(name, value)| hash_field(hasher, name, hash_value(hasher, value)));
            end_object(hasher, fields.len(), each.fold(0, u64::wrapping_add))
        }
    }
}

fn hash_item(hasher: &RandomState, item: MsgpackItem<'_>) -> u64 {
    hasher.hash_one(match item {
        MsgpackItem::Nil => ValueKey::Null,
        MsgpackItem::Bool(value) => ValueKey::Bool(value),
        MsgpackItem::Int(int) => ValueKey::Whole(int),
        MsgpackItem::Float(float) => float_key(float),
        MsgpackItem::Str(text) => ValueKey::Str(text),
        // Only their contents say what they are equal to.
        MsgpackItem::Array(_) => ValueKey::Array(0),
        MsgpackItem::Map(_) => ValueKey::Object(0),
    })
}

/// Documents were checked against the nesting limit, which bounds the recursion.
fn hash_encoded(hasher: &RandomState, reader: &mut MsgpackReader<'_>) -> Result<u64> {
    let before = reader.position();
    let item = reader.token()?;
    work::step_bytes(reader.position() - before)?;
    Ok(match item {
        MsgpackItem::Array(len) => {
            let mut all = start(hasher, ValueKey::Array(len as usize));
            for _ in 0..len {
                all.write_u64(hash_encoded(hasher, reader)?);
            }
            all.finish()
        }
        MsgpackItem::Map(len) => {
            let mut all = 0u64;
            for _ in 0..len {
                let name = reader.str()?;
                all = all.wrapping_add(hash_field(hasher, name, hash_encoded(hasher, reader)?));
            }
            end_object(hasher, len as usize, all)
        }
        scalar => hash_item(hasher, scalar),
    })
}

fn start(hasher: &RandomState, key: ValueKey<'_>) -> impl Hasher {
    let mut all = hasher.build_hasher();
    key.hash(&mut all);
    all
}

fn hash_field(hasher: &RandomState, name: &str, value: u64) -> u64 {
    let mut field = start(hasher, ValueKey::Str(name));
    field.write_u64(value);
    field.finish()
}

/// `all` is the sum over the fields, in which their order does not matter.
fn end_object(hasher: &RandomState, len: usize, all: u64) -> u64 {
    let mut object = start(hasher, ValueKey::Object(len));
    object.write_u64(all);
    object.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values that are often equal to one another, in several forms.
    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::Bool),
            (-2i128..3).prop_map(Value::Int),
            prop::sample::select(vec![0.0, -0.0, 1.0, 2.0, 0.5, 1e19, 18446744073709551616.0, 1e300, -1e300])
                .prop_map(Value::Float),
            prop::sample::select(vec![1i128 << 63, (1 << 64) - 1, -(1 << 63), 10_000_000_000_000_000_000])
                .prop_map(Value::Int),
            "[a1]{0,2}".prop_map(Value::Str),
        ];
        scalar.prop_recursive(2, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
                prop::collection::btree_map("[ab]", inner, 0..3)
                    .prop_map(|fields| Value::Object(fields.into_iter().rev().collect())),
            ]
        })
    }

    fn encoded(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.encode(&mut out);
        out
    }

    proptest! {
        #[test]
        fn equal_values_are_proposed(values in prop::collection::vec(value(), 1..6), found in value()) {
            let list = InList::new(values.clone());
            let bytes = encoded(&found);
            let near: Vec<&Value> = list.near_encoded(&bytes).unwrap().collect();
            for value in &values {
                if value.same_as(&found) {
                    prop_assert!(near.contains(&value), "{:?} {:?}", value, found);
                }
            }
        }
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let field = |name: &str, n: i128| (name.to_owned(), Value::Int(n));
        let list = InList::new(vec![Value::Object(vec![field("a", 1), field("b", 2)])]);
        let other = encoded(&Value::Object(vec![field("b", 2), ("a".into(), Value::Float(1.0))]));
        assert_eq!(list.near_encoded(&other).unwrap().count(), 1);
    }
}
