//! Adds the rows of one accumulator to another.

use super::{Accumulator, AggregateState, ENTRY_OVERHEAD, OrderedValue};
use crate::error::Result;
use crate::query::ast::AggregateFunction;
use crate::query::exec::query_memory::QueryMemory;
use crate::work;

impl Accumulator {
    /// Adds the rows of an accumulator of the same aggregate, with the same [`super::Retraction`].
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is.
    pub fn merge(&mut self, other: &Accumulator, memory: &mut QueryMemory) -> Result<()> {
        work::step(2)?;
        self.ignored += other.ignored;
        let is_min = self.aggregate.function == AggregateFunction::Min;
        match (&mut self.state, &other.state) {
            (AggregateState::Count(count), AggregateState::Count(other)) => *count += other,
            (AggregateState::Sum { sum, count }, AggregateState::Sum { sum: other, count: others }) => {
                sum.merge(other);
                *count += others;
            }
            (AggregateState::Extreme(best), AggregateState::Extreme(Some(new))) => {
                let is_better = best.as_ref().is_none_or(|best| match new.key.cmp(&best.key) {
                    std::cmp::Ordering::Equal => new.encoded < best.encoded,
                    order => order.is_lt() == is_min,
                });
                if is_better {
                    memory.release(best.as_ref().map_or(0, OrderedValue::bytes));
                    memory.charge(new.bytes(), &self.aggregate.to_string())?;
                    *best = Some(new.clone());
                }
            }
            (AggregateState::Counted(values), AggregateState::Counted(others)) => {
                for (value, count) in others {
                    work::step(2)?;
                    if !values.contains_key(value) {
                        memory.charge(value.bytes(), &self.aggregate.to_string())?;
                    }
                    *values.entry(value.clone()).or_default() += count;
                }
            }
            (AggregateState::Distinct(values), AggregateState::Distinct(others)) => {
                for (key, count) in others {
                    work::step(2)?;
                    if let Some(known) = values.get_mut(key) {
                        *known += count;
                    } else {
                        memory.charge(key.len() + ENTRY_OVERHEAD, &self.aggregate.to_string())?;
                        values.insert(key.clone(), *count);
                    }
                }
            }
            // The other one has no value.
            _ => {}
        }
        Ok(())
    }
}
