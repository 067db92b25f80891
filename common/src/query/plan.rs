//! The planner: which access paths a condition allows. A plan changes only the cost, never the result, because every row
//! that an access path returns is checked against the condition again.

mod probe;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use crate::error::Result;
use crate::format::key::{Key, KeyType};
use crate::format::key_columns::{CompositeKey, KeyColumnTypes, KeyPart};
use crate::format::value::Value;
use crate::query::ast::{Column, Comparison, Condition};
use crate::query::like::LikePattern;
pub use crate::query::plan::probe::Probe;
use crate::table::schema::Schema;
use crate::work;

/// The access paths for a condition. Each one alone finds every row that can match, so the reader chooses one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPlan {
    /// The access path by primary key.
    pub key: AccessPath,
    /// Probes of secondary indexes: at most one for each index, the most selective first. The index files may not exist
    /// at the point in time that is read.
    pub probes: Vec<Probe>,
}

/// Returns the access paths that a condition allows on a table.
///
/// # Errors
/// Only that the present work was stopped.
pub fn plan(condition: Option<&Condition>, schema: &Schema) -> Result<QueryPlan> {
    let probes = condition.map(|condition| probe::probes(condition, &schema.indexes)).transpose()?;
    Ok(QueryPlan { key: access(condition, schema)?, probes: probes.unwrap_or_default() })
}

/// How to find the rows that can match, by primary key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessPath {
    /// Look up these keys, in order, no duplicates. An empty list means that no row can match.
    Keys(Vec<Key>),
    /// Read this range of keys.
    Range {
        /// The lower bound.
        from: Bound<Key>,
        /// The upper bound.
        to: Bound<Key>,
    },
    /// Read every row.
    Scan,
}

/// Returns the narrowest access path by key that finds every row that can match.
///
/// The fields that hold the key are in every document, so a condition on the field of the key is a condition on `_key`.
///
/// # Errors
/// Only that the present work was stopped.
pub fn access(condition: Option<&Condition>, schema: &Schema) -> Result<AccessPath> {
    let Some(condition) = condition else { return Ok(AccessPath::Scan) };
    let Schema { primary_key, key_type, .. } = schema;
    match key_type {
        KeyType::Composite(_) => composite_access(condition, schema),
        _ => Planner { field: Some(primary_key), reads_key: true, key_type: *key_type }.access(condition),
    }
}

/// Plans for one column of the key, or for the whole key.
struct Planner<'a> {
    /// The field that holds the values.
    field: Option<&'a str>,
    /// Whether `_key` has them, too.
    reads_key: bool,
    key_type: KeyType,
}

impl Planner<'_> {
    fn access(&self, condition: &Condition) -> Result<AccessPath> {
        work::step(8)?;
        Ok(match condition {
            Condition::And(parts) => parts
                .iter()
                .try_fold(AccessPath::Scan, |access, part| intersect(access, self.access(part)?))?,
            Condition::Or(parts) => {
                let mut all = Vec::new();
                for part in parts {
                    match self.access(part)? {
                        AccessPath::Keys(keys) => all.extend(keys),
                        AccessPath::Range { .. } | AccessPath::Scan => return Ok(AccessPath::Scan),
                    }
                }
                lookups(all)
            }
            Condition::Compare { column, op, value } if self.is_key(column) => self.compare(*op, value),
            Condition::In { column, values, negated: false } if self.is_key(column) => {
                work::step(steps(values.values().len()))?;
                lookups(values.values().iter().filter_map(|value| self.key(value)))
            }
            Condition::Between { column, low, high, negated: false } if self.is_key(column) => intersect(
                self.compare(Comparison::GreaterOrEqual, low),
                self.compare(Comparison::LessOrEqual, high),
            )?,
            Condition::Like { column, pattern, negated: false } if self.is_key(column) => self.like(pattern),
            // A row always has its key.
            Condition::IsNull { column, negated: false }
            | Condition::IsMissing { column, negated: false }
                if self.is_key(column) =>
            {
                nothing()
            }
            _ => AccessPath::Scan,
        })
    }

    fn is_key(&self, column: &Column) -> bool {
        match column {
            Column::Key => self.reads_key,
            Column::Seq | Column::Time | Column::Aggregate(_) => false,
            Column::Path(path) => self.field.is_some_and(|field| path.names() == [field]),
        }
    }

    /// Returns the key that equals a value. A value of another kind, or one that no key can have, equals no key.
    fn key(&self, value: &Value) -> Option<Key> {
        match (self.key_type, value) {
            (KeyType::String, Value::Str(text)) => Key::parse(text, KeyType::String).ok(),
            (KeyType::Int, Value::Int(int)) => i64::try_from(*int).ok().map(Key::Int),
            (KeyType::Int, Value::Float(float)) => {
                let whole = whole_below(*float);
                let key = i64::try_from(whole).ok().map(Key::Int);
                if float.fract() == 0.0 { key } else { None }
            }
            (KeyType::Composite(types), Value::Array(values)) => composite_key(types, values),
            _ => None,
        }
    }

    fn compare(&self, op: Comparison, value: &Value) -> AccessPath {
        if op == Comparison::NotEqual {
            return AccessPath::Scan;
        }
        if op == Comparison::Equal {
            return lookups(self.key(value));
        }
        match (self.key_type, value) {
            // Arrays are unordered.
            (KeyType::Composite(_), _) => nothing(),
            (KeyType::String, Value::Str(text)) => {
                let key = Key::Str(text.as_str().into());
                let (from, to) = match op {
                    Comparison::Less => (Bound::Unbounded, Bound::Excluded(key)),
                    Comparison::LessOrEqual => (Bound::Unbounded, Bound::Included(key)),
                    Comparison::Greater => (Bound::Excluded(key), Bound::Unbounded),
                    _ => (Bound::Included(key), Bound::Unbounded),
                };
                range(from, to)
            }
            (KeyType::Int, Value::Int(int)) => int_range(op, *int, true),
            (KeyType::Int, Value::Float(float)) => int_range(op, whole_below(*float), float.fract() == 0.0),
            // Values of different kinds are unordered.
            _ => nothing(),
        }
    }

    fn like(&self, pattern: &LikePattern) -> AccessPath {
        if self.key_type != KeyType::String {
            return nothing();
        }
        let (prefix, exact) = pattern.prefix();
        if exact {
            return lookups(Key::parse(&prefix, KeyType::String).ok());
        }
        if prefix.is_empty() {
            return AccessPath::Scan;
        }
        let to = match after_prefix(&prefix) {
            Some(text) => Bound::Excluded(Key::Str(text.into())),
            None => Bound::Unbounded,
        };
        range(Bound::Included(Key::Str(prefix.into())), to)
    }
}

fn nothing() -> AccessPath {
    AccessPath::Keys(Vec::new())
}

fn lookups(keys: impl IntoIterator<Item = Key>) -> AccessPath {
    AccessPath::Keys(keys.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

/// Rounds a float down to an integer. A float outside the range of keys gives an integer outside it, too.
fn whole_below(float: f64) -> i128 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, far beyond every key")]
    let whole = float.floor() as i128;
    whole
}

/// Returns the INT keys on one side of a number. `whole` is the number rounded down; `exact` tells whether it is whole.
fn int_range(op: Comparison, whole: i128, exact: bool) -> AccessPath {
    let least = |from: i128| match i64::try_from(from) {
        Ok(from) => range(Bound::Included(Key::Int(from)), Bound::Unbounded),
        Err(_) if from > 0 => nothing(),
        Err(_) => AccessPath::Scan,
    };
    let greatest = |to: i128| match i64::try_from(to) {
        Ok(to) => range(Bound::Unbounded, Bound::Included(Key::Int(to))),
        Err(_) if to < 0 => nothing(),
        Err(_) => AccessPath::Scan,
    };
    match op {
        Comparison::Less if exact => greatest(whole.saturating_sub(1)),
        Comparison::Less | Comparison::LessOrEqual => greatest(whole),
        Comparison::GreaterOrEqual if exact => least(whole),
        _ => least(whole.saturating_add(1)),
    }
}

/// Returns the smallest text above every text that starts with `prefix`, if one exists.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // The range skips surrogates, which are not characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// Returns a range, or an empty key list if no key can be in it.
fn range(from: Bound<Key>, to: Bound<Key>) -> AccessPath {
    let empty = match (&from, &to) {
        (Bound::Included(from), Bound::Included(to)) => from > to,
        (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
            from >= to
        }
        _ => false,
    };
    if empty { nothing() } else { AccessPath::Range { from, to } }
}

/// The steps of sorting or searching a list.
fn steps(items: usize) -> u32 {
    u32::try_from(items.saturating_mul(16)).unwrap_or(u32::MAX)
}

fn intersect(a: AccessPath, b: AccessPath) -> Result<AccessPath> {
    if let AccessPath::Keys(keys) = &a {
        work::step(steps(keys.len()))?;
    }
    Ok(match (a, b) {
        (AccessPath::Scan, other) | (other, AccessPath::Scan) => other,
        (AccessPath::Keys(a), AccessPath::Keys(b)) => {
            AccessPath::Keys(a.into_iter().filter(|key| b.binary_search(key).is_ok()).collect())
        }
        (AccessPath::Keys(keys), AccessPath::Range { from, to })
        | (AccessPath::Range { from, to }, AccessPath::Keys(keys)) => {
            let within = |key: &Key| std::ops::RangeBounds::contains(&(from.as_ref(), to.as_ref()), key);
            AccessPath::Keys(keys.into_iter().filter(within).collect())
        }
        (AccessPath::Range { from, to }, AccessPath::Range { from: other_from, to: other_to }) => {
            range(tighter(from, other_from, |a, b| a > b), tighter(to, other_to, |a, b| a < b))
        }
    })
}

/// Returns the tighter of two bounds on the same side. `inside` compares two keys: whether the first is further inside.
fn tighter(a: Bound<Key>, b: Bound<Key>, inside: impl Fn(&Key, &Key) -> bool) -> Bound<Key> {
    match (&a, &b) {
        (Bound::Unbounded, _) => b,
        (_, Bound::Unbounded) => a,
        (Bound::Included(x) | Bound::Excluded(x), Bound::Included(y) | Bound::Excluded(y)) => {
            let b_is_tighter = inside(y, x) || (x == y && matches!(b, Bound::Excluded(_)));
            if b_is_tighter { b } else { a }
        }
    }
}

impl fmt::Display for AccessPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AccessPath::Keys(keys) => match keys.len() {
                0 => f.write_str("keys: no match possible"),
                1 => f.write_str("keys: 1 lookup"),
                n => write!(f, "keys: {n} lookups"),
            },
            AccessPath::Range { from, to } => {
                f.write_str("key range")?;
                if let Some(bounds) = describe_composite(from, to) {
                    return f.write_str(&bounds);
                }
                match from {
                    Bound::Included(key) => write!(f, " from {}", key.quoted())?,
                    Bound::Excluded(key) => write!(f, " after {}", key.quoted())?,
                    Bound::Unbounded => {}
                }
                match to {
                    Bound::Included(key) => write!(f, " to {}", key.quoted()),
                    Bound::Excluded(key) => write!(f, " to before {}", key.quoted()),
                    Bound::Unbounded => Ok(()),
                }
            }
            AccessPath::Scan => f.write_str("full scan"),
        }
    }
}

/// Writes which indexes have found candidates, and how many.
pub(super) fn write_candidates(f: &mut fmt::Formatter<'_>, probes: &[Probe], count: usize) -> fmt::Result {
    for (at, probe) in probes.iter().enumerate() {
        let before = if at == 0 { "" } else { " and " };
        write!(f, "{before}{probe}")?;
    }
    let s = if count == 1 { "" } else { "s" };
    write!(f, ", {count} candidate{s}")
}

// Access paths by a composite key: each column is planned as the key of a table of its own. Then the columns are taken in turn: as long
// as each has few values, the values are combined; the first column that has a range, or none, ends the prefix. All columns together are
// lookups.

/// The most combinations of values of the columns. With more, the range between the first and the last is read.
const MOST_LOOKUPS: usize = 1000;

/// The narrowest access path for a condition on a table with a composite key.
fn composite_access(condition: &Condition, schema: &Schema) -> Result<AccessPath> {
    let whole = Planner { field: None, reads_key: true, key_type: schema.key_type }.access(condition)?;
    intersect(whole, by_columns(condition, schema)?)
}

/// The key that equals an array; `None` if no key of these types does.
fn composite_key(types: KeyColumnTypes, values: &[Value]) -> Option<Key> {
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
fn describe_composite(from: &Bound<Key>, to: &Bound<Key>) -> Option<String> {
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

#[cfg(test)]
mod tests;
