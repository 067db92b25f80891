//! A set of keys that a query finds before it reads their rows, with a bound on their number and on their memory.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::key::Key;
use crate::limits;
use crate::memory::MemoryPermit;
use crate::work;

/// An estimate of the bytes that a key takes in the set besides its text.
const KEY_OVERHEAD: usize = 48;
/// The memory is reserved in pieces of this size.
const RESERVED_AT_ONCE: usize = 256 << 10;

/// Keys in order, and the memory that is reserved for them.
#[derive(Debug)]
pub struct BoundedKeys {
    keys: BTreeSet<Key>,
    most: usize,
    bytes: usize,
    reserved: usize,
    memory: Option<MemoryPermit>,
}

impl BoundedKeys {
    /// An empty set. It is over its bound if it has more than `most` keys, or keys of more than [`limits::QUERY_BYTES`].
    pub fn new(most: usize) -> BoundedKeys {
        BoundedKeys { keys: BTreeSet::new(), most, bytes: 0, reserved: 0, memory: None }
    }

    /// Adds a key.
    ///
    /// # Errors
    /// `OVERLOADED` if other queries use all the memory.
    pub fn insert(&mut self, key: Key) -> Result<()> {
        let bytes = key.bytes();
        if self.keys.insert(key) {
            self.bytes += KEY_OVERHEAD + bytes;
        }
        if self.bytes > self.reserved {
            match &mut self.memory {
                Some(memory) => memory.grow(RESERVED_AT_ONCE as u64)?,
                None => self.memory = work::reserve(RESERVED_AT_ONCE)?,
            }
            self.reserved += RESERVED_AT_ONCE;
        }
        Ok(())
    }

    /// Whether there are more keys than the set may have. Its owner must then do without them.
    pub fn is_over(&self) -> bool {
        self.keys.len() > self.most || self.bytes > limits::QUERY_BYTES
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys, and their memory, which must be kept as long as the keys.
    pub fn into_parts(self) -> (BTreeSet<Key>, Option<MemoryPermit>) {
        (self.keys, self.memory)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::error::Reason;
    use crate::memory::{MemoryBudget, MemoryUse};
    use crate::work::{Work, WorkOptions};

    #[test]
    fn the_number_and_the_bytes_are_bounded() {
        let mut few = BoundedKeys::new(2);
        (0..2).for_each(|n| few.insert(Key::Int(n)).unwrap());
        few.insert(Key::Int(0)).unwrap();
        assert!(!few.is_over());
        few.insert(Key::Int(2)).unwrap();
        assert!(few.is_over());
        let mut large = BoundedKeys::new(usize::MAX);
        let long = "k".repeat(1000);
        let mut count = 0;
        while !large.is_over() {
            large.insert(Key::Str(format!("{long}{count}").into())).unwrap();
            count += 1;
        }
        assert!((limits::QUERY_BYTES / 1100..limits::QUERY_BYTES / 1000).contains(&count), "{count}");
    }

    #[test]
    fn the_memory_comes_from_the_budget_of_the_work() {
        let budget = MemoryBudget::new(16 << 20);
        let work = Work::new(WorkOptions { memory: Some(Arc::clone(&budget)), ..WorkOptions::default() });
        let held = || budget.usage().iter().find(|usage| usage.of == MemoryUse::Queries).unwrap().bytes;
        let outcome = work.enter(None, || {
            let mut keys = BoundedKeys::new(usize::MAX);
            keys.insert(Key::Int(1))?;
            assert_eq!(held(), RESERVED_AT_ONCE as u64);
            (0..1_000_000).try_for_each(|n| keys.insert(Key::Int(n)))
        });
        assert_eq!(outcome.unwrap_err().reason(), Reason::Overloaded);
        assert_eq!(held(), 0);
    }
}
