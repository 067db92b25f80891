//! Aggregates over rows: COUNT, SUM, AVG, MIN, MAX and COUNT(DISTINCT), to which rows are added.
//!
//! Missing fields and null do not count, as in SQL. SUM and AVG add numbers exactly ([`ExactSum`]) and leave other values out,
//! which [`Accumulator::ignored`] counts so that the answer can say so. MIN and MAX follow the total order of values. Of
//! equal values (`1` and `1.0`) they return the one whose encoding is the least, whatever the order of the rows.
//!
//! From counts and sums, rows can be taken out again, even before they are added: an accumulator then holds a difference, and its
//! counts wrap until it is merged with the rest.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

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

/// One aggregate over the rows that were added.
#[derive(Debug, Clone)]
pub struct Accumulator {
    aggregate: Arc<Aggregate>,
    state: AggregateState,
    ignored: u64,
}

#[derive(Debug, Clone)]
enum AggregateState {
    Count(u64),
    Sum { sum: Box<ExactSum>, count: u64 },
    Extreme(Option<OrderedValue>),
    Distinct(HashSet<Box<[u8]>>),
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

    /// Whether MIN or MAX returns this value rather than the best one so far.
    fn is_better(&self, best: Option<&OrderedValue>, is_min: bool) -> bool {
        best.is_none_or(|best| match self.key.cmp(&best.key) {
            std::cmp::Ordering::Equal => self.encoded < best.encoded,
            order => order.is_lt() == is_min,
        })
    }
}

impl Accumulator {
    /// An accumulator without rows.
    pub fn new(aggregate: &Arc<Aggregate>) -> Accumulator {
        let state = match aggregate.function {
            AggregateFunction::Count => AggregateState::Count(0),
            AggregateFunction::CountDistinct => AggregateState::Distinct(HashSet::new()),
            AggregateFunction::Sum | AggregateFunction::Avg => {
                AggregateState::Sum { sum: Box::default(), count: 0 }
            }
            AggregateFunction::Min | AggregateFunction::Max => AggregateState::Extreme(None),
        };
        Accumulator { aggregate: Arc::clone(aggregate), state, ignored: 0 }
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
        match self.aggregate.value_in(row)? {
            Some(value) => self.add_value(&value, memory),
            None => Ok(()),
        }
    }

    /// Adds a row by the value that the aggregate has in it.
    ///
    /// # Errors
    /// As [`Accumulator::add`].
    pub fn add_value(&mut self, value: &[u8], memory: &mut QueryMemory) -> Result<()> {
        work::step(2)?;
        let is_min = self.aggregate.function == AggregateFunction::Min;
        match &mut self.state {
            AggregateState::Count(count) => *count = count.wrapping_add(1),
            AggregateState::Sum { sum, count } => {
                match msgpack::first(value)? {
                    MsgpackItem::Int(int) => sum.add_int(int),
                    MsgpackItem::Float(float) => sum.add_float(float),
                    _ => {
                        self.ignored = self.ignored.wrapping_add(1);
                        return Ok(());
                    }
                }
                *count = count.wrapping_add(1);
            }
            AggregateState::Extreme(best) => {
                let new = ordered(value)?;
                if new.is_better(best.as_ref(), is_min) {
                    memory.release(best.as_ref().map_or(0, OrderedValue::bytes));
                    memory.charge(new.bytes(), &self.aggregate)?;
                    *best = Some(new);
                }
            }
            AggregateState::Distinct(values) => {
                let key = ordered(value)?.key;
                if !values.contains(&key) {
                    memory.charge(key.len() + ENTRY_OVERHEAD, &self.aggregate)?;
                    values.insert(key);
                }
            }
        }
        Ok(())
    }

    /// Takes a row out again, by the value that the aggregate has in it. MIN, MAX and COUNT(DISTINCT) cannot do that, see
    /// [`Aggregate::is_reversible`].
    ///
    /// # Errors
    /// `CORRUPT` if the value is damaged, or `INTERNAL` if the aggregate is not reversible.
    pub fn remove_value(&mut self, value: &[u8]) -> Result<()> {
        work::step(2)?;
        match &mut self.state {
            AggregateState::Count(count) => *count = count.wrapping_sub(1),
            AggregateState::Sum { sum, count } => {
                match msgpack::first(value)? {
                    MsgpackItem::Int(int) => sum.remove_int(int),
                    MsgpackItem::Float(float) => sum.remove_float(float),
                    _ => {
                        self.ignored = self.ignored.wrapping_sub(1);
                        return Ok(());
                    }
                }
                *count = count.wrapping_sub(1);
            }
            AggregateState::Extreme(_) | AggregateState::Distinct(_) => {
                let message = format!("cannot take a row out of {}", self.aggregate);
                return Err(Error::new(Reason::Internal, message));
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
        };
        let mut encoded = Vec::new();
        value.encode(&mut encoded);
        Ok(encoded)
    }

    fn overflow(&self) -> Error {
        let advice = match self.aggregate.function {
            AggregateFunction::Sum => "sum fewer rows, or use AVG",
            _ => "add a WHERE, so that fewer rows are summed",
        };
        let message = format!(
            "{} overflows: the sum is outside of the numbers that a document can contain; {advice}",
            self.aggregate
        );
        Error::new(Reason::QueryInvalid, message)
    }
}

impl Aggregate {
    /// The encoded value to aggregate; `None` if the row does not count.
    ///
    /// # Errors
    /// `CORRUPT` if the document is damaged.
    pub fn value_in<'r>(&self, row: RowRef<'r>) -> Result<Option<Cow<'r, [u8]>>> {
        let Some(argument) = &self.argument else {
            return Ok(Some(Cow::Borrowed(&[])));
        };
        match argument.value_in(row)? {
            Some(value) if !is_null(&value)? => Ok(Some(value)),
            _ => Ok(None),
        }
    }

    /// Whether the rows that an accumulator has taken can be taken out again.
    pub fn is_reversible(&self) -> bool {
        match self.function {
            AggregateFunction::Count | AggregateFunction::Sum | AggregateFunction::Avg => true,
            AggregateFunction::CountDistinct | AggregateFunction::Min | AggregateFunction::Max => false,
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
