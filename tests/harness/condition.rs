//! An independent implementation of conditions: renders them as DriftQL, and evaluates them over plain JSON as
//! documented.

use std::cmp::Ordering;

use serde_json::Value;

/// A row, as a condition sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub key: Value,
    pub seq: u64,
    pub time_ms: i64,
    pub document: Value,
}

#[derive(Debug, Clone)]
pub enum Condition {
    Compare(&'static str, &'static str, Value),
    In(&'static str, Vec<Value>, bool),
    Between(&'static str, Value, Value, bool),
    Like(&'static str, &'static str, bool),
    ILike(&'static str, &'static str, bool),
    Contains(&'static str, Value, bool),
    Any(&'static str, &'static str, Value),
    IsNull(&'static str, bool),
    IsMissing(&'static str, bool),
    And(Vec<Condition>),
    Or(Vec<Condition>),
    Not(Box<Condition>),
}

/// The value of a column in a row.
pub fn operand(path: &str, row: &Row) -> Option<Value> {
    match path {
        "_key" => Some(row.key.clone()),
        "_seq" => Some(row.seq.into()),
        "_time" => Some(row.time_ms.into()),
        path => {
            let mut value = &row.document;
            for name in path.split('.') {
                value = value.as_object()?.get(name.trim_matches('`'))?;
            }
            Some(value.clone())
        }
    }
}

/// The order of two values, if they can be compared.
pub fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.chars().cmp(b.chars())),
        (Value::Number(a), Value::Number(b)) => {
            let whole =
                |n: &serde_json::Number| n.as_i64().map(i128::from).or_else(|| n.as_u64().map(i128::from));
            match (whole(a), whole(b)) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                // Floats in these rows and conditions are exact.
                _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
            }
        }
        _ => None,
    }
}

pub fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| equal(a, b)))
        }
        (a, b) => order(a, b) == Some(Ordering::Equal),
    }
}

/// A text compared with `_time` is a time: its value in milliseconds since 1970.
fn right(path: &str, value: &Value) -> Value {
    match (path, value) {
        ("_time", Value::String(text)) => {
            let time: prost_types::Timestamp = text.parse().unwrap();
            (time.seconds * 1000 + i64::from(time.nanos / 1_000_000)).into()
        }
        (_, value) => value.clone(),
    }
}

fn compare(path: &str, op: &str, value: &Value, row: &Row) -> Option<bool> {
    compare_values(operand(path, row), op, &right(path, value))
}

/// Compares a value, or a missing one, with another; `None` means unknown.
pub fn compare_values(found: Option<Value>, op: &str, value: &Value) -> Option<bool> {
    let found = found.filter(|found| !found.is_null())?;
    if value.is_null() {
        return None;
    }
    match op {
        "=" => Some(equal(&found, value)),
        "!=" | "<>" => Some(!equal(&found, value)),
        op => {
            let ordering = order(&found, value)?;
            Some(match op {
                "<" => ordering.is_lt(),
                "<=" => ordering.is_le(),
                ">" => ordering.is_gt(),
                _ => ordering.is_ge(),
            })
        }
    }
}

fn like(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['%', rest @ ..] => (0..=text.len()).any(|skipped| like(rest, &text[skipped..])),
        ['_', rest @ ..] => !text.is_empty() && like(rest, &text[1..]),
        ['\\', c, rest @ ..] | [c, rest @ ..] => text.first() == Some(c) && like(rest, &text[1..]),
    }
}

fn all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut met = Some(true);
    for part in parts {
        met = match (met, part) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            _ => None,
        };
    }
    met
}

impl Condition {
    /// Evaluates the condition on a row; `None` means unknown.
    pub fn met(&self, row: &Row) -> Option<bool> {
        let turned = |met: Option<bool>, negated: bool| met.map(|met| met != negated);
        match self {
            Condition::Compare(path, op, value) => compare(path, op, value, row),
            Condition::In(path, values, negated) => {
                // `IN` is the OR of comparisons, and NOT IN its negation.
                let differ = values.iter().map(|value| compare(path, "!=", value, row));
                turned(all(differ), !negated)
            }
            Condition::Between(path, low, high, negated) => {
                let both = [compare(path, ">=", low, row), compare(path, "<=", high, row)];
                turned(all(both.into_iter()), *negated)
            }
            Condition::Like(path, pattern, negated) => {
                let found = operand(path, row).filter(|found| !found.is_null())?;
                let chars = |text: &str| text.chars().collect::<Vec<_>>();
                let met = found.as_str().is_some_and(|text| like(&chars(pattern), &chars(text)));
                Some(met != *negated)
            }
            Condition::ILike(path, pattern, negated) => {
                let found = operand(path, row).filter(|found| !found.is_null())?;
                let chars = |text: &str| text.to_lowercase().chars().collect::<Vec<_>>();
                let met = found.as_str().is_some_and(|text| like(&chars(pattern), &chars(text)));
                Some(met != *negated)
            }
            Condition::Contains(path, value, negated) => {
                let found = operand(path, row).filter(|found| !found.is_null())?;
                let met = found.as_array().is_some_and(|items| items.iter().any(|item| equal(item, value)));
                Some(met != *negated)
            }
            Condition::Any(path, op, value) => {
                let found = operand(path, row).filter(|found| !found.is_null())?;
                let Value::Array(items) = found else { return Some(false) };
                let each = items.into_iter().map(|item| turned(compare_values(Some(item), op, value), true));
                turned(all(each), true)
            }
            Condition::IsNull(path, negated) => {
                Some(operand(path, row).is_some_and(|found| found.is_null()) != *negated)
            }
            Condition::IsMissing(path, negated) => Some(operand(path, row).is_none() != *negated),
            Condition::And(parts) => all(parts.iter().map(|part| part.met(row))),
            Condition::Or(parts) => turned(all(parts.iter().map(|part| turned(part.met(row), true))), true),
            Condition::Not(inner) => turned(inner.met(row), true),
        }
    }

    /// The condition as DriftQL. Moves its values to `params`, if given, and refers to them as `$n`.
    pub fn text(&self, params: &mut Option<Vec<String>>) -> String {
        let mut literal = |value: &Value| match params {
            Some(params) => {
                params.push(value.to_string());
                format!("${}", params.len())
            }
            None => value.to_string(),
        };
        let not = |negated: &bool| if *negated { "NOT " } else { "" };
        match self {
            Condition::Compare(path, op, value) => format!("{path} {op} {}", literal(value)),
            Condition::In(path, values, negated) => {
                let values: Vec<String> = values.iter().map(literal).collect();
                format!("{path} {}IN ({})", not(negated), values.join(", "))
            }
            Condition::Between(path, low, high, negated) => {
                let low = literal(low);
                format!("{path} {}BETWEEN {low} AND {}", not(negated), literal(high))
            }
            Condition::Like(path, pattern, negated) => {
                format!("{path} {}LIKE {}", not(negated), literal(&(*pattern).into()))
            }
            Condition::ILike(path, pattern, negated) => {
                format!("{path} {}ILIKE {}", not(negated), literal(&(*pattern).into()))
            }
            Condition::Contains(path, value, negated) => {
                format!("{path} {}CONTAINS {}", not(negated), literal(value))
            }
            Condition::Any(path, op, value) => format!("ANY({path}) {op} {}", literal(value)),
            Condition::IsNull(path, negated) => format!("{path} IS {}NULL", not(negated)),
            Condition::IsMissing(path, negated) => format!("{path} IS {}MISSING", not(negated)),
            Condition::And(parts) | Condition::Or(parts) => {
                let word = if matches!(self, Condition::And(_)) { " AND " } else { " OR " };
                let parts: Vec<String> =
                    parts.iter().map(|part| format!("({})", part.text(params))).collect();
                parts.join(word)
            }
            Condition::Not(inner) => format!("NOT ({})", inner.text(params)),
        }
    }
}

/// Pseudo-random numbers that depend only on the seed.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next state. Its high bits are the most random.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() >> 33) as usize % n
    }

    pub fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())].clone()
    }
}
