//! A list that one thread extends while others read it: nothing is moved, and no reader waits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The length of the first bucket. The next buckets are each twice as long as the one before, so that a short list is small, up to
/// the longest; then all have that length, so that little is left over.
const FIRST_BUCKET: usize = 16;
const LONGEST_BUCKET: usize = if cfg!(test) { 64 } else { 1024 };
/// The number of buckets that are shorter than the longest.
const SHORT_BUCKETS: usize = (LONGEST_BUCKET.ilog2() - FIRST_BUCKET.ilog2()) as usize;
/// Few in tests, so that these have several segments.
const LONG_BUCKETS: usize = if cfg!(test) { 3 } else { 31 };
const BUCKETS: usize = SHORT_BUCKETS + LONG_BUCKETS;
/// The number of items that a list can hold.
pub(super) const CAPACITY: usize = LONGEST_BUCKET - FIRST_BUCKET + LONG_BUCKETS * LONGEST_BUCKET;

/// The places of one bucket. They are filled from the first on.
type Bucket<T> = Box<[OnceLock<T>]>;

/// A list of at most [`CAPACITY`] items. Only one thread may append.
#[derive(Debug)]
pub(super) struct AppendList<T> {
    buckets: [OnceLock<Bucket<T>>; BUCKETS],
    len: AtomicUsize,
}

impl<T> Default for AppendList<T> {
    fn default() -> Self {
        AppendList { buckets: std::array::from_fn(|_| OnceLock::new()), len: AtomicUsize::new(0) }
    }
}

/// The bucket of an item, and its place there.
fn place_of(index: usize) -> (usize, usize) {
    let shifted = index + FIRST_BUCKET;
    if shifted >= LONGEST_BUCKET {
        return (SHORT_BUCKETS + shifted / LONGEST_BUCKET - 1, shifted % LONGEST_BUCKET);
    }
    let bucket = (shifted.ilog2() - FIRST_BUCKET.ilog2()) as usize;
    (bucket, shifted - (FIRST_BUCKET << bucket))
}

/// The number of places in a bucket.
fn bucket_len(bucket: usize) -> usize {
    if bucket < SHORT_BUCKETS { FIRST_BUCKET << bucket } else { LONGEST_BUCKET }
}

impl<T> AppendList<T> {
    /// The number of items.
    pub(super) fn len(&self) -> usize {
        self.len.load(Ordering::Acquire)
    }

    /// The item at a position.
    pub(super) fn get(&self, index: usize) -> Option<&T> {
        let (bucket, at) = place_of(index);
        self.buckets.get(bucket)?.get()?.get(at)?.get()
    }

    /// The newest item.
    pub(super) fn last(&self) -> Option<&T> {
        self.get(self.len().checked_sub(1)?)
    }

    /// Appends an item and returns its position; gives it back if the list is full.
    pub(super) fn push(&self, item: T) -> Result<usize, T> {
        let index = self.len();
        let (bucket, at) = place_of(index);
        let Some(bucket_lock) = self.buckets.get(bucket) else { return Err(item) };
        let places = bucket_lock
            .get_or_init(|| std::iter::repeat_with(OnceLock::new).take(bucket_len(bucket)).collect());
        let Some(place) = places.get(at) else { return Err(item) };
        place.set(item)?;
        self.len.store(index + 1, Ordering::Release);
        Ok(index)
    }

    /// The number of items at the front for which `holds` is true, if it is false for all after them.
    pub(super) fn partition_point(&self, holds: impl Fn(&T) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            if self.get(middle).is_some_and(&holds) { low = middle + 1 } else { high = middle }
        }
        low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_stays_at_its_position_until_the_list_is_full() {
        let list = AppendList::default();
        for index in 0..CAPACITY {
            assert_eq!(list.push(index), Ok(index));
        }
        assert_eq!((list.push(CAPACITY), list.len()), (Err(CAPACITY), CAPACITY));
        assert!((0..CAPACITY).all(|index| list.get(index) == Some(&index)));
        assert_eq!((list.get(CAPACITY), list.last()), (None, Some(&(CAPACITY - 1))));
        for at in [0, 1, 15, 16, 17, 47, 48, CAPACITY] {
            assert_eq!(list.partition_point(|item| *item < at), at);
        }
    }
}
