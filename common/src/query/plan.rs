//! Which rows a condition leaves to look at. Only the cost depends on it: whoever reads the rows checks them again.

mod probe;

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;

use crate::format::key::{Key, KeyType};
use crate::format::value::Value;
use crate::query::ast::{Column, Comparison, Condition};
use crate::query::like;
pub use crate::query::plan::probe::{Probe, ValueRange};
use crate::table::schema::Schema;

/// The ways to come to the rows that can match. Each alone leaves out none of them: whoever reads takes one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryPlan {
    /// By key.
    pub key: AccessPath,
    /// By secondary indexes, at most once each, the most promising first. They say what may be used, not what is
    /// there to be used.
    pub probes: Vec<Probe>,
}

/// What a condition allows on a table.
pub fn plan(condition: Option<&Condition>, schema: &Schema) -> QueryPlan {
    QueryPlan {
        key: access(condition, &schema.primary_key, schema.key_type),
        probes: condition.map(|condition| probe::probes(condition, &schema.indexes)).unwrap_or_default(),
    }
}

/// How to come to the rows that can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessPath {
    /// Look these keys up; in order, each once. None: nothing can match.
    Keys(Vec<Key>),
    /// Read this range of keys.
    Range {
        /// The least.
        from: Bound<Key>,
        /// The greatest.
        to: Bound<Key>,
    },
    /// Read every row.
    Scan,
}

/// The narrowest access by key that leaves out no row that could match.
///
/// `primary_key` is the field that holds the key, in every document of the table: a condition on it is one on `_key`.
pub fn access(condition: Option<&Condition>, primary_key: &str, key_type: KeyType) -> AccessPath {
    match condition {
        Some(condition) => Planner { primary_key, key_type }.access(condition),
        None => AccessPath::Scan,
    }
}

struct Planner<'a> {
    primary_key: &'a str,
    key_type: KeyType,
}

impl Planner<'_> {
    fn access(&self, condition: &Condition) -> AccessPath {
        match condition {
            Condition::And(parts) => {
                parts.iter().fold(AccessPath::Scan, |access, part| intersect(access, self.access(part)))
            }
            Condition::Or(parts) => {
                let all: Option<Vec<Vec<Key>>> = parts.iter().map(|part| self.access(part).keys()).collect();
                all.map_or(AccessPath::Scan, |keys| lookups(keys.into_iter().flatten()))
            }
            Condition::Compare { column, op, value } if self.is_key(column) => self.compare(*op, value),
            Condition::In { column, values, negated: false } if self.is_key(column) => {
                lookups(values.iter().filter_map(|value| self.key(value)))
            }
            Condition::Between { column, low, high, negated: false } if self.is_key(column) => intersect(
                self.compare(Comparison::GreaterOrEqual, low),
                self.compare(Comparison::LessOrEqual, high),
            ),
            Condition::Like { column, pattern, negated: false } if self.is_key(column) => self.like(pattern),
            // A row always has its key.
            Condition::IsNull { column, negated: false }
            | Condition::IsMissing { column, negated: false }
                if self.is_key(column) =>
            {
                nothing()
            }
            _ => AccessPath::Scan,
        }
    }

    fn is_key(&self, column: &Column) -> bool {
        match column {
            Column::Key => true,
            Column::Seq | Column::Time => false,
            Column::Path(path) => path.names() == [self.primary_key],
        }
    }

    /// The one key that equals a value. No key equals a value of another kind, or one that no key can have.
    fn key(&self, value: &Value) -> Option<Key> {
        match (self.key_type, value) {
            (KeyType::String, Value::Str(text)) => Key::parse(text, KeyType::String).ok(),
            (KeyType::Int, Value::Int(int)) => i64::try_from(*int).ok().map(Key::Int),
            (KeyType::Int, Value::Float(float)) => {
                let whole = whole_below(*float);
                let key = i64::try_from(whole).ok().map(Key::Int);
                if float.fract() == 0.0 { key } else { None }
            }
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

    fn like(&self, pattern: &str) -> AccessPath {
        if self.key_type == KeyType::Int {
            return nothing();
        }
        let (prefix, exact) = like::prefix(pattern);
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

impl AccessPath {
    fn keys(self) -> Option<Vec<Key>> {
        match self {
            AccessPath::Keys(keys) => Some(keys),
            AccessPath::Range { .. } | AccessPath::Scan => None,
        }
    }
}

fn nothing() -> AccessPath {
    AccessPath::Keys(Vec::new())
}

fn lookups(keys: impl IntoIterator<Item = Key>) -> AccessPath {
    AccessPath::Keys(keys.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

/// The greatest integer that is not above a float; beyond what any key can be, some integer beyond it too.
fn whole_below(float: f64) -> i128 {
    #[expect(clippy::cast_possible_truncation, reason = "saturates, far beyond every key")]
    let whole = float.floor() as i128;
    whole
}

/// The INT keys on one side of a number; `whole` is the greatest integer not above it, and `exact` if it is it.
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

/// The least text above every text with a prefix; `None` where there is none.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut text = prefix.to_owned();
    while let Some(last) = text.pop() {
        // Skips the surrogates, which are no characters.
        if let Some(next) = (last..=char::MAX).nth(1) {
            text.push(next);
            return Some(text);
        }
    }
    None
}

/// A range, or nothing where no key can lie in it.
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

fn intersect(a: AccessPath, b: AccessPath) -> AccessPath {
    match (a, b) {
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
    }
}

/// Of two bounds on the same side the one that leaves less; `inside` tells whether a key lies further in.
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
                0 => f.write_str("keys: nothing can match"),
                1 => f.write_str("keys: 1 lookup"),
                n => write!(f, "keys: {n} lookups"),
            },
            AccessPath::Range { from, to } => {
                f.write_str("key range")?;
                match from {
                    Bound::Included(key) => write!(f, " from {}", Quoted(key))?,
                    Bound::Excluded(key) => write!(f, " after {}", Quoted(key))?,
                    Bound::Unbounded => {}
                }
                match to {
                    Bound::Included(key) => write!(f, " to {}", Quoted(key)),
                    Bound::Excluded(key) => write!(f, " to before {}", Quoted(key)),
                    Bound::Unbounded => Ok(()),
                }
            }
            AccessPath::Scan => f.write_str("full scan"),
        }
    }
}

struct Quoted<'a>(&'a Key);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Key::Int(int) => int.fmt(f),
            Key::Str(text) => write!(f, "{text:?}"),
        }
    }
}

#[cfg(test)]
mod tests;
