//! The only row matcher: decides whether a row meets a condition, for SELECT, watch filters and preconditions.
//!
//! It uses SQL's three-valued logic: true, false or unknown (`None`). It works on encoded documents and decodes only
//! the fields that the condition names.

use std::cmp::Ordering;
use std::collections::HashMap;

use crate::error::{Error, Reason, Result};
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::msgpack::{self, MsgpackItem, MsgpackReader};
use crate::format::value::{Value, compare_int_float};
use crate::query::ast::{Column, Comparison, Condition};
use crate::query::in_list::InList;
use crate::query::like::lower_case;
use crate::table::history::DriftEvent;
use crate::table::view::Row;
use crate::work;

/// A borrowed row, as conditions read it.
#[derive(Debug, Clone, Copy)]
pub struct RowRef<'a> {
    /// `_key`
    pub key: &'a Key,
    /// `_seq`: the commit that last changed the row.
    pub seq: u64,
    /// `_time`: the time of that commit, in milliseconds since 1970.
    pub time_ms: u64,
    /// The document that paths refer to.
    pub document: &'a Document,
}

impl Row {
    /// The row, as conditions read it.
    pub fn by_ref(&self) -> RowRef<'_> {
        RowRef { key: &self.key, seq: self.seq, time_ms: self.time_ms, document: &self.document }
    }
}

/// The value of a column in a row.
enum Operand<'a> {
    Missing,
    Scalar(MsgpackItem<'a>),
    /// An encoded array or object.
    Container(&'a [u8]),
}

impl Condition {
    /// Returns whether a row meets the condition. Unknown counts as no.
    ///
    /// # Errors
    /// `CORRUPT` if the document is damaged.
    pub fn matches(&self, row: RowRef<'_>) -> Result<bool> {
        Ok(self.evaluate(row)? == Some(true))
    }

    /// Returns whether the row before or after an event meets the condition. A SCHEMA event has no row.
    ///
    /// # Errors
    /// As [`Condition::matches`].
    pub fn matches_event(&self, event: &DriftEvent) -> Result<bool> {
        for row in [&event.before, &event.after].into_iter().flatten() {
            if self.matches(row.by_ref())? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn evaluate(&self, row: RowRef<'_>) -> Result<Option<bool>> {
        work::step(2)?;
        match self {
            Condition::And(parts) => decided_by(false, parts, row),
            Condition::Or(parts) => decided_by(true, parts, row),
            Condition::Not(inner) => Ok(inner.evaluate(row)?.map(|met| !met)),
            Condition::Compare { column, op, value } => compare(&column.of(row)?, *op, value),
            Condition::In { column, values, negated } => {
                let met = contains(values, &column.of(row)?)?;
                Ok(met.map(|met| met != *negated))
            }
            Condition::Between { column, low, high, negated } => {
                let found = column.of(row)?;
                let above = compare(&found, Comparison::GreaterOrEqual, low)?;
                let below = compare(&found, Comparison::LessOrEqual, high)?;
                let met = match (above, below) {
                    (Some(false), _) | (_, Some(false)) => Some(false),
                    (Some(true), Some(true)) => Some(true),
                    _ => None,
                };
                Ok(met.map(|met| met != *negated))
            }
            Condition::Like { column, pattern, negated } => Ok(match column.of(row)? {
                Operand::Missing | Operand::Scalar(MsgpackItem::Nil) => None,
                Operand::Scalar(MsgpackItem::Str(text)) => Some(pattern.matches(text)? != *negated),
                // As with `=`: a value that is not text never matches.
                _ => Some(*negated),
            }),
            Condition::ILike { column, pattern, negated } => Ok(match column.of(row)? {
                Operand::Missing | Operand::Scalar(MsgpackItem::Nil) => None,
                Operand::Scalar(MsgpackItem::Str(text)) => {
                    work::step_bytes(text.len())?;
                    Some(pattern.matches(&lower_case(text))? != *negated)
                }
                _ => Some(*negated),
            }),
            Condition::Contains { column, value, negated } => Ok(match column.of(row)? {
                Operand::Missing | Operand::Scalar(MsgpackItem::Nil) => None,
                Operand::Scalar(_) => Some(*negated),
                Operand::Container(encoded) => Some(contains_element(encoded, value)? != *negated),
            }),
            Condition::Any { column, op, value } => match column.of(row)? {
                Operand::Missing | Operand::Scalar(MsgpackItem::Nil) => Ok(None),
                Operand::Scalar(_) => Ok(Some(false)),
                Operand::Container(encoded) => any_element(encoded, *op, value),
            },
            Condition::IsNull { column, negated } => {
                let null = matches!(column.of(row)?, Operand::Scalar(MsgpackItem::Nil));
                Ok(Some(null != *negated))
            }
            Condition::IsMissing { column, negated } => {
                let missing = matches!(column.of(row)?, Operand::Missing);
                Ok(Some(missing != *negated))
            }
        }
    }
}

/// Evaluates AND (`deciding` is false) or OR (`deciding` is true): one part equal to `deciding` decides the result.
/// Otherwise one unknown part makes the result unknown.
fn decided_by(deciding: bool, parts: &[Condition], row: RowRef<'_>) -> Result<Option<bool>> {
    let mut answer = Some(!deciding);
    for part in parts {
        match part.evaluate(row)? {
            Some(met) if met == deciding => return Ok(Some(deciding)),
            Some(_) => {}
            None => answer = None,
        }
    }
    Ok(answer)
}

/// Whether a list contains a value, as an OR of comparisons decides it.
fn contains(values: &InList, found: &Operand<'_>) -> Result<Option<bool>> {
    let mut near: Box<dyn Iterator<Item = &Value>> = match found {
        Operand::Missing | Operand::Scalar(MsgpackItem::Nil) => return Ok(None),
        Operand::Scalar(item) => Box::new(values.near_scalar(*item)),
        Operand::Container(encoded) => Box::new(values.near_encoded(encoded)?),
    };
    for value in near.by_ref() {
        if compare(found, Comparison::Equal, value)? == Some(true) {
            return Ok(Some(true));
        }
    }
    Ok(if values.has_null() { None } else { Some(false) })
}

/// Whether an encoded value is an array with an element that equals a value, deeply. Null equals null, as inside of arrays.
fn contains_element(encoded: &[u8], value: &Value) -> Result<bool> {
    let mut reader = MsgpackReader::new(encoded);
    let MsgpackItem::Array(len) = reader.token()? else { return Ok(false) };
    for _ in 0..len {
        if equals(&mut MsgpackReader::new(reader.value()?), value)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an encoded value is an array with an element for which a comparison holds: an OR over the elements.
fn any_element(encoded: &[u8], op: Comparison, value: &Value) -> Result<Option<bool>> {
    let mut reader = MsgpackReader::new(encoded);
    let MsgpackItem::Array(len) = reader.token()? else { return Ok(Some(false)) };
    let mut answer = Some(false);
    for _ in 0..len {
        match compare(&Operand::of_value(reader.value()?)?, op, value)? {
            Some(true) => return Ok(Some(true)),
            Some(false) => {}
            None => answer = None,
        }
    }
    Ok(answer)
}

impl<'a> Operand<'a> {
    fn of_value(encoded: &'a [u8]) -> Result<Operand<'a>> {
        Ok(match msgpack::first(encoded)? {
            MsgpackItem::Array(_) | MsgpackItem::Map(_) => Operand::Container(encoded),
            scalar => Operand::Scalar(scalar),
        })
    }
}

impl Column {
    fn of<'a>(&self, row: RowRef<'a>) -> Result<Operand<'a>> {
        Ok(match self {
            Column::Key => match row.key {
                Key::Int(int) => Operand::Scalar(MsgpackItem::Int((*int).into())),
                Key::Str(text) => Operand::Scalar(MsgpackItem::Str(text)),
                Key::Composite(key) => Operand::Container(key.encoded()),
            },
            Column::Seq => Operand::Scalar(MsgpackItem::Int(row.seq.into())),
            Column::Time => Operand::Scalar(MsgpackItem::Int(row.time_ms.into())),
            Column::Path(path) => match row.document.get(path)? {
                None => Operand::Missing,
                Some(encoded) => Operand::of_value(encoded)?,
            },
            Column::Aggregate(aggregate) => {
                let message = format!("cannot read {aggregate} from a row");
                return Err(Error::new(Reason::Internal, message));
            }
        })
    }
}

fn compare(found: &Operand<'_>, op: Comparison, value: &Value) -> Result<Option<bool>> {
    let missing = matches!(found, Operand::Missing | Operand::Scalar(MsgpackItem::Nil));
    if missing || matches!(value, Value::Null) {
        return Ok(None);
    }
    let equality = matches!(op, Comparison::Equal | Comparison::NotEqual);
    if let Operand::Container(encoded) = found {
        if !equality {
            return Ok(None);
        }
        let equal = equals(&mut MsgpackReader::new(encoded), value)?;
        return Ok(Some(equal == (op == Comparison::Equal)));
    }
    let ordering = match found {
        Operand::Scalar(token) => order(*token, value),
        _ => None,
    };
    Ok(match op {
        Comparison::Equal => Some(ordering == Some(Ordering::Equal)),
        Comparison::NotEqual => Some(ordering != Some(Ordering::Equal)),
        Comparison::Less => ordering.map(Ordering::is_lt),
        Comparison::LessOrEqual => ordering.map(Ordering::is_le),
        Comparison::Greater => ordering.map(Ordering::is_gt),
        Comparison::GreaterOrEqual => ordering.map(Ordering::is_ge),
    })
}

/// Compares two scalars; `None` if they are of different kinds.
fn order(token: MsgpackItem<'_>, value: &Value) -> Option<Ordering> {
    match (token, value) {
        (MsgpackItem::Nil, Value::Null) => Some(Ordering::Equal),
        (MsgpackItem::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (MsgpackItem::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (MsgpackItem::Int(a), Value::Float(b)) => compare_int_float(a, *b),
        (MsgpackItem::Float(a), Value::Int(b)) => compare_int_float(*b, a).map(Ordering::reverse),
        (MsgpackItem::Float(a), Value::Float(b)) => a.partial_cmp(b),
        // UTF-8 bytes sort like code points.
        (MsgpackItem::Str(a), Value::Str(b)) => Some(a.cmp(b.as_str())),
        _ => None,
    }
}

/// Returns whether the next value equals `value`, deeply: numbers by value, objects in any field order, null only
/// to null. Both sides were checked against the nesting limit, which bounds the recursion. If the result is false,
/// the reader can be left at any position.
fn equals(reader: &mut MsgpackReader<'_>, value: &Value) -> Result<bool> {
    let before = reader.position();
    let token = reader.token()?;
    work::step_bytes(reader.position() - before)?;
    match (token, value) {
        (MsgpackItem::Array(len), Value::Array(items)) => {
            if usize::try_from(len) != Ok(items.len()) {
                return Ok(false);
            }
            for item in items {
                if !equals(reader, item)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (MsgpackItem::Map(len), Value::Object(fields)) => {
            if usize::try_from(len) != Ok(fields.len()) {
                return Ok(false);
            }
            // Neither side has duplicate fields, so the same number of fields, all found, means equal.
            let wanted: HashMap<&str, &Value> = fields.iter().map(|(name, v)| (name.as_str(), v)).collect();
            for _ in 0..len {
                match wanted.get(reader.str()?) {
                    Some(field) if equals(reader, field)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (token, value) => Ok(order(token, value) == Some(Ordering::Equal)),
    }
}

#[cfg(test)]
mod tests;
