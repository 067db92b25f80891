//! Access paths by a composite key: conditions on its first columns narrow the range of keys.
//!
//! Each column is planned as the key of a table of its own. Then the columns are taken in turn: as long as each has few values, the
//! values are combined; the first column that has a range, or none, ends the prefix. All columns together are lookups.

use std::ops::Bound;

use crate::error::Result;
use crate::format::key::Key;
use crate::format::key_columns::{CompositeKey, KeyColumnTypes, KeyPart};
use crate::format::value::Value;
use crate::query::ast::Condition;
use crate::query::plan::{AccessPath, Planner, intersect, lookups, nothing, range};
use crate::table::schema::Schema;
use crate::work;

/// The most combinations of values of the columns. With more, the range between the first and the last is read.
const MOST_LOOKUPS: usize = 1000;

/// The narrowest access path for a condition on a table with a composite key.
pub(super) fn access(condition: &Condition, schema: &Schema) -> Result<AccessPath> {
    let whole = Planner { field: None, reads_key: true, key_type: schema.key_type }.access(condition)?;
    intersect(whole, by_columns(condition, schema)?)
}

/// The key that equals an array; `None` if no key of these types does.
pub(super) fn key(types: KeyColumnTypes, values: &[Value]) -> Option<Key> {
    if values.len() != types.count() {
        return None;
    }
    let part = |(is_int, value): (bool, &Value)| match (is_int, value) {
        (true, Value::Int(int)) => i64::try_from(*int).ok().map(KeyPart::Int),
        (false, Value::Str(text)) => Some(KeyPart::Str(text.as_str().into())),
        _ => None,
    };
    let parts = types.are_ints().zip(values).map(part).collect::<Option<_>>()?;
    CompositeKey::checked(parts).ok().map(Key::of_columns)
}

fn by_columns(condition: &Condition, schema: &Schema) -> Result<AccessPath> {
    let mut prefixes: Vec<Vec<KeyPart>> = vec![Vec::new()];
    for (field, key_type) in schema.key_fields().iter().zip(schema.key_type.columns()) {
        let planner = Planner { field: Some(field), reads_key: false, key_type };
        let bounds = match planner.access(condition)? {
            AccessPath::Keys(keys) => match (keys.first(), keys.last()) {
                (Some(first), Some(last)) if prefixes.len().saturating_mul(keys.len()) > MOST_LOOKUPS => {
                    (Bound::Included(first.clone()), Bound::Included(last.clone()))
                }
                (Some(_), _) => {
                    prefixes = combined(&prefixes, &keys)?;
                    continue;
                }
                (None, _) => return Ok(nothing()),
            },
            AccessPath::Range { from, to } => (from, to),
            AccessPath::Scan => (Bound::Unbounded, Bound::Unbounded),
        };
        return Ok(range_of(&prefixes, bounds));
    }
    Ok(lookups(prefixes.into_iter().map(|parts| Key::of_columns(CompositeKey::new(parts)))))
}

/// Each prefix with each of the values after it, in order.
fn combined(prefixes: &[Vec<KeyPart>], keys: &[Key]) -> Result<Vec<Vec<KeyPart>>> {
    work::step(u32::try_from(prefixes.len() * keys.len()).unwrap_or(u32::MAX))?;
    let with = |prefix: &Vec<KeyPart>| {
        let parts = keys.iter().filter_map(|key| key.clone().into_part());
        parts.map(|part| [prefix.as_slice(), &[part]].concat()).collect::<Vec<_>>()
    };
    Ok(prefixes.iter().flat_map(with).collect())
}

/// The range from the first prefix to the last, narrowed by the bounds of the next column.
fn range_of(prefixes: &[Vec<KeyPart>], (from, to): (Bound<Key>, Bound<Key>)) -> AccessPath {
    let (Some(first), Some(last)) = (prefixes.first(), prefixes.last()) else { return nothing() };
    let from = match with_column(first, from) {
        Bound::Unbounded if first.is_empty() => Bound::Unbounded,
        Bound::Unbounded => Bound::Included(first.clone()),
        Bound::Included(parts) => Bound::Included(parts),
        Bound::Excluded(parts) => match after(parts) {
            Some(parts) => Bound::Included(parts),
            None => return nothing(),
        },
    };
    let before = |parts: Option<Vec<KeyPart>>| parts.map_or(Bound::Unbounded, Bound::Excluded);
    let to = match with_column(last, to) {
        Bound::Unbounded => before(after(last.clone())),
        Bound::Included(parts) => before(after(parts)),
        Bound::Excluded(parts) => Bound::Excluded(parts),
    };
    let key = |parts| Key::of_columns(CompositeKey::new(parts));
    match (from.map(key), to.map(key)) {
        (Bound::Unbounded, Bound::Unbounded) => AccessPath::Scan,
        (from, to) => range(from, to),
    }
}

/// A bound of a column as a bound of the columns up to it.
fn with_column(prefix: &[KeyPart], bound: Bound<Key>) -> Bound<Vec<KeyPart>> {
    bound.map(|key| [prefix, key.into_part().as_slice()].concat())
}

/// The first columns of the least keys after all that begin with these columns; `None` if no key comes after them.
fn after(mut parts: Vec<KeyPart>) -> Option<Vec<KeyPart>> {
    while let Some(last) = parts.pop() {
        match last {
            KeyPart::Int(i64::MAX) => {}
            KeyPart::Int(int) => {
                parts.push(KeyPart::Int(int + 1));
                return Some(parts);
            }
            KeyPart::Str(text) => {
                // No text is between the two.
                parts.push(KeyPart::Str(format!("{text}\0").into()));
                return Some(parts);
            }
        }
    }
    None
}

/// The bounds of a range of composite keys, for people; `None` if they are of another range.
pub(super) fn describe(from: &Bound<Key>, to: &Bound<Key>) -> Option<String> {
    let mut text = String::new();
    match from {
        Bound::Included(Key::Composite(key)) => match before_zero(key) {
            Some(key) => text += &format!(" after {key}"),
            None => text += &format!(" from {key}"),
        },
        Bound::Unbounded => {}
        Bound::Included(_) | Bound::Excluded(_) => return None,
    }
    match to {
        Bound::Excluded(Key::Composite(key)) => match before_zero(key) {
            Some(key) => text += &format!(" to {key}"),
            None => text += &format!(" to before {key}"),
        },
        Bound::Unbounded => {}
        Bound::Included(_) | Bound::Excluded(_) => return None,
    }
    Some(text).filter(|text| !text.is_empty())
}

/// The columns that [`after`] made these of, if the last one is text.
fn before_zero(key: &CompositeKey) -> Option<CompositeKey> {
    let (KeyPart::Str(last), before) = key.parts().split_last()? else { return None };
    let text = last.strip_suffix('\0')?;
    Some(CompositeKey::new([before, &[KeyPart::Str(text.into())]].concat()))
}
