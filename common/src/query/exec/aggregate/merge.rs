//! Adds the rows of one accumulator to another.

use super::{Accumulator, AggregateState, ENTRY_OVERHEAD, OrderedValue};
use crate::error::Result;
use crate::query::ast::AggregateFunction;
use crate::query::exec::query_memory::QueryMemory;
use crate::work;

impl Accumulator {
    /// Adds the rows of an accumulator of the same aggregate.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is.
    pub fn merge(&mut self, other: &Accumulator, memory: &mut QueryMemory) -> Result<()> {
        work::step(2)?;
        self.ignored = self.ignored.wrapping_add(other.ignored);
        let is_min = self.aggregate.function == AggregateFunction::Min;
        match (&mut self.state, &other.state) {
            (AggregateState::Count(count), AggregateState::Count(other)) => {
                *count = count.wrapping_add(*other);
            }
            (AggregateState::Sum { sum, count }, AggregateState::Sum { sum: other, count: others }) => {
                sum.merge(other);
                *count = count.wrapping_add(*others);
            }
            (AggregateState::Extreme(best), AggregateState::Extreme(Some(new)))
                if new.is_better(best.as_ref(), is_min) =>
            {
                memory.release(best.as_ref().map_or(0, OrderedValue::bytes));
                memory.charge(new.bytes(), &self.aggregate)?;
                *best = Some(new.clone());
            }
            (AggregateState::Distinct(values), AggregateState::Distinct(others)) => {
                for key in others {
                    work::step(2)?;
                    if !values.contains(key) {
                        memory.charge(key.len() + ENTRY_OVERHEAD, &self.aggregate)?;
                        values.insert(key.clone());
                    }
                }
            }
            // The other one has no value, or none that is better.
            _ => {}
        }
        Ok(())
    }
}
