//! The planner: which access paths a condition allows. A plan changes only the cost, never the result, because every row
//! that an access path returns is checked against the condition again.

mod composite;
mod probe;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use crate::error::Result;
use crate::format::key::{Key, KeyType};
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
        KeyType::Composite(_) => composite::access(condition, schema),
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
            (KeyType::Composite(types), Value::Array(values)) => composite::key(types, values),
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
                if let Some(bounds) = composite::describe(from, to) {
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

#[cfg(test)]
mod tests;
