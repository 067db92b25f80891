//! Aggregates over rows: COUNT, SUM, AVG, MIN, MAX and COUNT(DISTINCT), to which rows are added and from which they are removed.
//!
//! Missing fields and null do not count, as in SQL. SUM and AVG add numbers exactly ([`ExactSum`]) and leave other values out,
//! which [`Accumulator::ignored`] counts so that the answer can say so. MIN and MAX follow the total order of values. Of
//! equal values (`1` and `1.0`) they return the one whose encoding is the least, whatever the order of the rows.

use std::collections::{BTreeMap, HashMap};

use crate::error::{Error, Reason, Result};
use crate::format::msgpack::{self, MsgpackItem};
use crate::format::order_key::{is_null, write_order_key};
use crate::format::value::Value;
use crate::query::ast::{Aggregate, AggregateFunction};
use crate::query::exec::exact_sum::ExactSum;
use crate::query::exec::query_memory::QueryMemory;
use crate::query::predicate::RowRef;
use crate::work;

mod merge;

/// An estimate of the bytes that an entry of a map takes besides its content.
const ENTRY_OVERHEAD: usize = 64;

/// Whether rows will be removed from an accumulator. MIN and MAX then keep every value with its count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retraction {
    /// Rows are only added.
    Never,
    /// Rows are removed, too.
    Possible,
}

/// One aggregate over the rows that were added and not removed.
#[derive(Debug, Clone)]
pub struct Accumulator {
    aggregate: Aggregate,
    state: AggregateState,
    ignored: u64,
}

#[derive(Debug, Clone)]
enum AggregateState {
    Count(u64),
    Sum { sum: Box<ExactSum>, count: u64 },
    Extreme(Option<OrderedValue>),
    Counted(BTreeMap<OrderedValue, u64>),
    Distinct(HashMap<Box<[u8]>, u64>),
}

/// A value, ordered by the total order and then by its encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct OrderedValue {
    key: Box<[u8]>,
    encoded: Box<[u8]>,
}

impl OrderedValue {
    fn bytes(&self) -> usize {
        self.key.len() + self.encoded.len() + ENTRY_OVERHEAD
    }
}

impl Accumulator {
    /// An accumulator without rows.
    pub fn new(aggregate: &Aggregate, retraction: Retraction) -> Accumulator {
        let state = match aggregate.function {
            AggregateFunction::Count => AggregateState::Count(0),
            AggregateFunction::CountDistinct => AggregateState::Distinct(HashMap::new()),
            AggregateFunction::Sum | AggregateFunction::Avg => {
                AggregateState::Sum { sum: Box::default(), count: 0 }
            }
            AggregateFunction::Min | AggregateFunction::Max => match retraction {
                Retraction::Never => AggregateState::Extreme(None),
                Retraction::Possible => AggregateState::Counted(BTreeMap::new()),
            },
        };
        Accumulator { aggregate: aggregate.clone(), state, ignored: 0 }
    }

    /// The aggregate.
    pub fn aggregate(&self) -> &Aggregate {
        &self.aggregate
    }

    /// How many values SUM or AVG has left out because they are neither numbers nor null.
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The bytes that an accumulator without rows takes, approximately.
    pub const BYTES: usize = 160;

    /// Adds a row.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is; `CORRUPT` if the document is damaged.
    pub fn add(&mut self, row: RowRef<'_>, memory: &mut QueryMemory) -> Result<()> {
        work::step(2)?;
        let Some(value) = self.value_of(row)? else { return Ok(()) };
        let is_min = self.aggregate.function == AggregateFunction::Min;
        match &mut self.state {
            AggregateState::Count(count) => *count += 1,
            AggregateState::Sum { sum, count } => {
                match msgpack::first(&value)? {
                    MsgpackItem::Int(int) => sum.add_int(int),
                    MsgpackItem::Float(float) => sum.add_float(float),
                    _ => {
                        self.ignored += 1;
                        return Ok(());
                    }
                }
                *count += 1;
            }
            AggregateState::Extreme(best) => {
                let new = ordered(&value)?;
                let is_better = best.as_ref().is_none_or(|best| match new.key.cmp(&best.key) {
                    std::cmp::Ordering::Equal => new.encoded < best.encoded,
                    order => order.is_lt() == is_min,
                });
                if is_better {
                    memory.release(best.as_ref().map_or(0, OrderedValue::bytes));
                    memory.charge(new.bytes(), &self.aggregate.to_string())?;
                    *best = Some(new);
                }
            }
            AggregateState::Counted(values) => {
                let new = ordered(&value)?;
                if let Some(count) = values.get_mut(&new) {
                    *count += 1;
                } else {
                    memory.charge(new.bytes(), &self.aggregate.to_string())?;
                    values.insert(new, 1);
                }
            }
            AggregateState::Distinct(values) => {
                let key = ordered(&value)?.key;
                if let Some(count) = values.get_mut(&key) {
                    *count += 1;
                } else {
                    memory.charge(key.len() + ENTRY_OVERHEAD, &self.aggregate.to_string())?;
                    values.insert(key, 1);
                }
            }
        }
        Ok(())
    }

    /// Removes a row that was added, as it was then. An accumulator of [`Retraction::Never`] for MIN or MAX refuses it.
    ///
    /// # Errors
    /// `CORRUPT` if the document is damaged.
    pub fn remove(&mut self, row: RowRef<'_>, memory: &mut QueryMemory) -> Result<()> {
        work::step(2)?;
        let Some(value) = self.value_of(row)? else { return Ok(()) };
        match &mut self.state {
            AggregateState::Count(count) => *count = count.saturating_sub(1),
            AggregateState::Sum { sum, count } => {
                match msgpack::first(&value)? {
                    MsgpackItem::Int(int) => sum.remove_int(int),
                    MsgpackItem::Float(float) => sum.remove_float(float),
                    _ => return Ok(()),
                }
                *count = count.saturating_sub(1);
            }
            AggregateState::Extreme(_) => {
                let message =
                    format!("{} keeps one value only: no row can be removed from it", self.aggregate);
                return Err(Error::new(Reason::Internal, message));
            }
            AggregateState::Counted(values) => {
                let old = ordered(&value)?;
                let count = values.get_mut(&old).map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if count == 0 && values.remove(&old).is_some() {
                    memory.release(old.bytes());
                }
            }
            AggregateState::Distinct(values) => {
                let key = ordered(&value)?.key;
                let count = values.get_mut(&key).map_or(0, |count| {
                    *count -= 1;
                    *count
                });
                if count == 0 && values.remove(&key).is_some() {
                    memory.release(key.len() + ENTRY_OVERHEAD);
                }
            }
        }
        Ok(())
    }

    /// The result, encoded: null if no value was added, but 0 for COUNT. A time is in milliseconds since 1970.
    ///
    /// # Errors
    /// `QUERY_INVALID` if a sum is too large for a document.
    pub fn result(&self) -> Result<Vec<u8>> {
        let value = match &self.state {
            AggregateState::Count(count) => Value::Int((*count).into()),
            AggregateState::Distinct(values) => Value::Int(i128::try_from(values.len()).unwrap_or(i128::MAX)),
            AggregateState::Sum { count: 0, .. } => Value::Null,
            AggregateState::Sum { sum, .. } if self.aggregate.function == AggregateFunction::Sum => {
                sum.value().ok_or_else(|| self.overflow())?
            }
            #[expect(clippy::cast_precision_loss, reason = "an average is a float")]
            AggregateState::Sum { sum, count } => {
                Value::Float(sum.to_float().ok_or_else(|| self.overflow())? / *count as f64)
            }
            AggregateState::Extreme(best) => return Ok(encoded_or_null(best.as_ref())),
            AggregateState::Counted(values) => return Ok(encoded_or_null(self.extreme(values))),
        };
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        Ok(encoded)
    }

    fn extreme<'v>(&self, values: &'v BTreeMap<OrderedValue, u64>) -> Option<&'v OrderedValue> {
        if self.aggregate.function == AggregateFunction::Min {
            return values.keys().next();
        }
        let last = values.keys().next_back()?;
        let first_equal = OrderedValue { key: last.key.clone(), encoded: Box::default() };
        values.range(first_equal..).next().map(|(value, _)| value)
    }

    fn overflow(&self) -> Error {
        let message = format!(
            "{} overflows: the sum is outside of the numbers that a document can contain; sum fewer rows, or use AVG",
            self.aggregate
        );
        Error::new(Reason::QueryInvalid, message)
    }

    /// The encoded value to aggregate; `None` if the row does not count.
    fn value_of<'r>(&self, row: RowRef<'r>) -> Result<Option<std::borrow::Cow<'r, [u8]>>> {
        let Some(argument) = &self.aggregate.argument else {
            return Ok(Some(std::borrow::Cow::Borrowed(&[])));
        };
        match argument.value_in(row)? {
            Some(value) if !is_null(&value)? => Ok(Some(value)),
            _ => Ok(None),
        }
    }
}

fn ordered(value: &[u8]) -> Result<OrderedValue> {
    let mut key = Vec::new();
    write_order_key(&mut key, Some(value), false)?;
    Ok(OrderedValue { key: key.into(), encoded: value.into() })
}

fn encoded_or_null(value: Option<&OrderedValue>) -> Vec<u8> {
    match value {
        Some(value) => value.encoded.to_vec(),
        None => {
            let mut null = Vec::new();
            Value::Null.encode(&mut null);
            null
        }
    }
}

#[cfg(test)]
mod tests;
