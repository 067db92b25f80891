//! The memory that one query holds for what it sorts, groups and counts: bounded, and taken from the daemon's budget.

use std::fmt;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::memory::MemoryPermit;
use crate::work;

/// The memory is reserved in pieces of this size.
const RESERVED_AT_ONCE: usize = 256 << 10;

/// What a query holds. All parts of a query charge the same one, so that [`limits::QUERY_BYTES`] bounds them together.
#[derive(Debug)]
pub struct QueryMemory {
    held: usize,
    most: usize,
    reserved: usize,
    limit: usize,
    permit: Option<MemoryPermit>,
}

impl Default for QueryMemory {
    fn default() -> QueryMemory {
        QueryMemory { held: 0, most: 0, reserved: 0, limit: limits::QUERY_BYTES, permit: None }
    }
}

impl QueryMemory {
    /// Adds bytes that `what` (`ORDER BY`) is about to hold.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` if the query would hold too much, `OVERLOADED` if other queries use all the memory.
    pub fn charge(&mut self, bytes: usize, what: impl fmt::Display) -> Result<()> {
        let held = self.held.saturating_add(bytes);
        if held > self.limit {
            return Err(exceeded(&what.to_string(), self.limit));
        }
        while held > self.reserved {
            match &mut self.permit {
                Some(permit) => permit.grow(RESERVED_AT_ONCE as u64)?,
                None => self.permit = work::reserve(RESERVED_AT_ONCE)?,
            }
            self.reserved += RESERVED_AT_ONCE;
        }
        self.held = held;
        self.most = self.most.max(held);
        Ok(())
    }

    /// Subtracts bytes that are no longer held. They stay reserved for the rest of the query.
    pub fn release(&mut self, bytes: usize) {
        self.held = self.held.saturating_sub(bytes);
    }

    /// The bytes that are held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// The most bytes that were held at one time.
    pub fn most(&self) -> usize {
        self.most
    }
}

fn exceeded(what: &str, limit: usize) -> Error {
    let advice = match what {
        "ORDER BY" => "add a LIMIT, a WHERE, or select fewer fields",
        "GROUP BY" => "group by a column with fewer values, or add a WHERE",
        _ => "add a WHERE",
    };
    let message =
        format!("{what} needs more memory than the {} MiB that one query may use; {advice}", limit >> 20);
    Error::new(Reason::QueryMemoryExceeded, message).with("limit_bytes", limit.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::memory::{MemoryBudget, MemoryUse};
    use crate::work::{Work, WorkOptions};

    #[test]
    fn a_query_is_bounded_and_takes_its_memory_from_the_budget() {
        let budget = MemoryBudget::new(512 << 20);
        let work = Work::new(WorkOptions { memory: Some(Arc::clone(&budget)), ..WorkOptions::default() });
        let held = || budget.usage().iter().find(|usage| usage.of == MemoryUse::Queries).unwrap().bytes;
        let error = work
            .enter(None, || {
                let mut memory = QueryMemory::default();
                memory.charge(1, "ORDER BY")?;
                assert_eq!(held(), RESERVED_AT_ONCE as u64);
                memory.charge(limits::QUERY_BYTES - 1, "ORDER BY")?;
                assert_eq!(held(), limits::QUERY_BYTES as u64);
                memory.release(10);
                memory.charge(10, "ORDER BY")?;
                memory.charge(1, "ORDER BY")
            })
            .unwrap_err();
        assert_eq!(error.reason(), Reason::QueryMemoryExceeded);
        assert!(error.message().contains("ORDER BY") && error.message().contains("32 MiB"), "{error}");
        assert_eq!(held(), 0);
    }
}
