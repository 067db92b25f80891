//! Sorts items by key within the memory of a query: all of them, or only the first few.
//!
//! It is a heap in both uses. While items arrive and only the first `most` are wanted, the greatest is on top and makes room
//! for a smaller one. When they leave, the least is on top: sorting is spread over the pages of the result, and a caller who
//! stops reading does not pay for the rest.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::error::Result;
use crate::planted::{PlantedBug, is_planted};
use crate::query::exec::query_memory::QueryMemory;
use crate::work;

/// An estimate of the bytes that an entry takes besides its key and its item's content.
const ENTRY_OVERHEAD: usize = 128;

/// The items that have arrived.
#[derive(Debug)]
pub struct Sorter<T> {
    /// The greatest on top if `most` is set.
    entries: Entries<T>,
    most: Option<usize>,
    arrived: u64,
}

#[derive(Debug)]
enum Entries<T> {
    All(Vec<HeapItem<T>>),
    First(BinaryHeap<HeapItem<T>>),
}

/// The items in order.
#[derive(Debug)]
pub struct SortedItems<T>(BinaryHeap<Reverse<HeapItem<T>>>);

#[derive(Debug)]
struct HeapItem<T> {
    key: Box<[u8]>,
    /// Of equal keys, the one that arrived first is less.
    arrival: u64,
    bytes: usize,
    item: T,
}

impl<T> Ord for HeapItem<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.key.cmp(&other.key).then(self.arrival.cmp(&other.arrival))
    }
}

impl<T> PartialOrd for HeapItem<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> PartialEq for HeapItem<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T> Eq for HeapItem<T> {}

impl<T> Sorter<T> {
    /// A sorter of all items, or of the first `most` only.
    pub fn new(most: Option<usize>) -> Sorter<T> {
        let entries = match most {
            Some(_) => Entries::First(BinaryHeap::new()),
            None => Entries::All(Vec::new()),
        };
        Sorter { entries, most, arrived: 0 }
    }

    /// Whether an item with this key, arriving next, would be among those wanted.
    pub fn wants(&self, key: &[u8]) -> bool {
        match (&self.entries, self.most) {
            (Entries::First(heap), Some(most)) if heap.len() >= most => {
                if is_planted(PlantedBug::SortCutShort) {
                    return false;
                }
                heap.peek().is_some_and(|greatest| key < &*greatest.key)
            }
            _ => true,
        }
    }

    /// Adds an item whose content takes some bytes. `what` needs the memory.
    ///
    /// # Errors
    /// `QUERY_MEMORY_EXCEEDED` or `OVERLOADED` if it needs more memory than there is.
    pub fn push(
        &mut self,
        key: &[u8],
        item: T,
        bytes: usize,
        memory: &mut QueryMemory,
        what: &str,
    ) -> Result<()> {
        work::step(16)?;
        let arrival = self.arrived;
        self.arrived += 1;
        if !self.wants(key) {
            return Ok(());
        }
        let bytes = bytes + key.len() + ENTRY_OVERHEAD;
        let entry = HeapItem { key: key.into(), arrival, bytes, item };
        match &mut self.entries {
            Entries::All(entries) => {
                memory.charge(bytes, what)?;
                entries.push(entry);
            }
            Entries::First(heap) => {
                if self.most.is_some_and(|most| heap.len() >= most)
                    && let Some(greatest) = heap.pop()
                {
                    memory.release(greatest.bytes);
                }
                memory.charge(bytes, what)?;
                heap.push(entry);
            }
        }
        Ok(())
    }

    /// The items in order.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn into_sorted(self) -> Result<SortedItems<T>> {
        let entries = match self.entries {
            Entries::All(entries) => entries,
            Entries::First(heap) => heap.into_vec(),
        };
        work::step(u32::try_from(entries.len()).unwrap_or(u32::MAX))?;
        Ok(SortedItems(entries.into_iter().map(Reverse).collect()))
    }
}

impl<T> SortedItems<T> {
    /// Whether all items were taken.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next item.
    ///
    /// # Errors
    /// Only that the present work was stopped.
    pub fn pop(&mut self, memory: &mut QueryMemory) -> Result<Option<T>> {
        work::step(16)?;
        let Some(Reverse(entry)) = self.0.pop() else { return Ok(None) };
        memory.release(entry.bytes);
        Ok(Some(entry.item))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Reason;
    use crate::work::{StopCause, Work, WorkOptions};

    proptest! {
        #[test]
        fn the_first_items_are_those_of_a_stable_sort(
            keys in prop::collection::vec("[ab]{1,2}", 0..30),
            most in prop::option::of(0usize..12),
        ) {
            let mut expected: Vec<(String, usize)> = keys.iter().cloned().zip(0..).collect();
            expected.sort_by(|a, b| a.0.cmp(&b.0));
            expected.truncate(most.unwrap_or(usize::MAX));
            let mut memory = QueryMemory::default();
            let mut sorter = Sorter::new(most);
            for (at, key) in keys.iter().enumerate() {
                sorter.push(key.as_bytes(), at, 8, &mut memory, "ORDER BY").unwrap();
            }
            let mut sorted = sorter.into_sorted().unwrap();
            let found: Vec<usize> = std::iter::from_fn(|| sorted.pop(&mut memory).unwrap()).collect();
            prop_assert_eq!(found, expected.into_iter().map(|(_, at)| at).collect::<Vec<_>>());
            prop_assert!(memory.charge(crate::limits::QUERY_BYTES, "ORDER BY").is_ok(), "all memory is given back");
        }
    }

    #[test]
    fn sorting_ends_when_its_caller_has_left() {
        let work = Work::new(WorkOptions::default());
        let outcome = work.enter(None, || {
            let (mut memory, mut all) = (QueryMemory::default(), Sorter::new(None));
            for n in 0..10_000u32 {
                all.push(&n.to_be_bytes(), n, 8, &mut memory, "ORDER BY")?;
            }
            let mut sorted = all.into_sorted()?;
            work.stop(StopCause::CallerGone);
            while sorted.pop(&mut memory)?.is_some() {}
            Ok(())
        });
        assert_eq!(outcome.unwrap_err().reason(), Reason::Cancelled);
    }

    #[test]
    fn only_the_first_items_take_memory() {
        let (mut memory, mut all) = (QueryMemory::default(), Sorter::new(None));
        let mut push = |n: u32| all.push(&n.to_be_bytes(), n, 1000, &mut memory, "ORDER BY");
        let error = (0..100_000).find_map(|n| push(n).err()).unwrap();
        assert_eq!(error.reason(), Reason::QueryMemoryExceeded);
        let (mut memory, mut first) = (QueryMemory::default(), Sorter::new(Some(10)));
        for n in (0..100_000u32).rev() {
            first.push(&n.to_be_bytes(), n, 1000, &mut memory, "ORDER BY").unwrap();
        }
        assert!(memory.most() < 20_000, "{}", memory.most());
    }
}
