//! A hash table from rows to their newest events, which one thread changes while others read it: no reader waits.
//!
//! A word of the table holds half of a row's hash and the position of the row's newest event, whose key says which row it is. So
//! the table holds no keys, takes 8 bytes a place, and grows without looking at a key again. Rows are never removed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;

/// The number of places in an empty table, a power of two.
const LEAST_PLACES: usize = 32;

/// Rows, by hash.
#[derive(Debug)]
pub(super) struct RowTable {
    /// Zero if the place is free; else the upper half of the hash, and in the lower half the position plus one.
    places: ArcSwap<Box<[AtomicU64]>>,
    rows: AtomicUsize,
}

impl Default for RowTable {
    fn default() -> Self {
        RowTable { places: ArcSwap::from_pointee(empty(LEAST_PLACES)), rows: AtomicUsize::new(0) }
    }
}

fn empty(places: usize) -> Box<[AtomicU64]> {
    std::iter::repeat_with(AtomicU64::default).take(places).collect()
}

/// The places to look at for a hash, one after the other.
fn probe(places: &[AtomicU64], tag: u64) -> impl Iterator<Item = &AtomicU64> {
    let start = usize::try_from(tag).unwrap_or_default() & (places.len() - 1);
    let (before, after) = places.split_at_checked(start).unwrap_or((places, &[]));
    after.iter().chain(before)
}

fn position_in(word: u64) -> Option<usize> {
    usize::try_from(word & u64::from(u32::MAX)).ok()?.checked_sub(1)
}

impl RowTable {
    /// The position of a row's newest event. `is_row` says whether the event at a position is one of the row.
    pub(super) fn find(&self, hash: u64, is_row: impl Fn(usize) -> bool) -> Option<usize> {
        let (places, tag) = (self.places.load(), hash >> 32);
        let words =
            probe(&places, tag).map(|place| place.load(Ordering::Acquire)).take_while(|word| *word != 0);
        words.filter(|word| word >> 32 == tag).filter_map(position_in).find(|position| is_row(*position))
    }

    /// Sets the position of a row's newest event. Only one thread may call this.
    pub(super) fn set(&self, hash: u64, position: u32, is_row: impl Fn(usize) -> bool) {
        let (places, tag) = (self.places.load(), hash >> 32);
        let next = (tag << 32) | (u64::from(position) + 1);
        for place in probe(&places, tag) {
            let word = place.load(Ordering::Relaxed);
            if word == 0 {
                place.store(next, Ordering::Release);
                break;
            }
            if word >> 32 == tag && position_in(word).is_some_and(&is_row) {
                place.store(next, Ordering::Release);
                return;
            }
        }
        let rows = self.rows.fetch_add(1, Ordering::Relaxed) + 1;
        if rows * 4 > places.len() * 3 {
            self.places.store(std::sync::Arc::new(grown(&places)));
        }
    }
}

fn grown(places: &[AtomicU64]) -> Box<[AtomicU64]> {
    let next = empty(places.len() * 2);
    for word in places.iter().map(|place| place.load(Ordering::Relaxed)).filter(|word| *word != 0) {
        if let Some(free) = probe(&next, word >> 32).find(|place| place.load(Ordering::Relaxed) == 0) {
            free.store(word, Ordering::Relaxed);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_equal_hashes_are_told_apart_also_after_the_table_has_grown() {
        let table = RowTable::default();
        // Eight hashes for a thousand rows. Each row is changed twice: its events are `row` and `row + 1000`.
        let hash = |row: u32| u64::from(row % 8) << 61;
        let is_row = |row: u32| move |position: usize| position % 1000 == row as usize;
        for event in 0..2000 {
            table.set(hash(event % 1000), event, is_row(event % 1000));
        }
        for row in 0..1000 {
            assert_eq!(table.find(hash(row), is_row(row)), Some(row as usize + 1000));
        }
        assert_eq!(table.find(hash(3), |_| false), None);
        assert_eq!(table.find(77, |_| true), Some(1000), "the lower half of the hash does not count");
    }
}
