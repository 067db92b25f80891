//! The raw content of data and index blocks: sorted entries, then the offset of each.
//!
//! A search in a block compares few keys but touches as many places of the block, and most of its time goes into waiting for
//! memory. So a parsed block also has, in one array, where each entry begins and four bytes of its key: those after the bytes that
//! all keys share. Most searches compare only these and one key.

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;

use super::error::BlockError;

/// Bytes of the number of entries, the last field of a block.
pub(super) const COUNT_BYTES: usize = 4;

/// The entries of one decompressed block. A clone shares its memory.
#[derive(Debug, Clone)]
pub struct Block {
    raw: Bytes,
    /// Where the list of entry offsets begins: the end of the last entry.
    offsets_start: usize,
    len: usize,
    /// The number of bytes with which all keys begin.
    shared: usize,
    places: Arc<[EntryPlace]>,
}

/// Where an entry is.
#[derive(Debug, Clone, Copy)]
struct EntryPlace {
    /// The four bytes of its key after those that all keys share, as a number; missing bytes count as zero.
    head: u32,
    /// Where it begins.
    start: u32,
}

impl EntryPlace {
    fn start(&self) -> usize {
        usize::try_from(self.start).unwrap_or(usize::MAX)
    }
}

/// The key of the entry that begins some bytes.
#[inline]
fn key_of(entry: &[u8]) -> Option<&[u8]> {
    let (len, rest) = entry.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_le_bytes(*len)).ok()?)
}

impl Block {
    /// Parses raw content. A parsed block has at least one entry, and its entries are contiguous. This does not check that
    /// the keys ascend: `storage::sst` does when it verifies a file.
    pub fn parse(raw: Bytes) -> Result<Block, BlockError> {
        let (rest, count) = raw.split_last_chunk::<COUNT_BYTES>().ok_or(BlockError::Incomplete)?;
        let len = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| BlockError::Incomplete)?;
        if len == 0 {
            return Err(BlockError::Content("the block has no entries"));
        }
        let offsets_start = len.checked_mul(4).and_then(|bytes| rest.len().checked_sub(bytes));
        let offsets_start =
            offsets_start.ok_or(BlockError::Content("it has fewer entries than its count"))?;
        let (entries, starts) = rest.split_at_checked(offsets_start).ok_or(BlockError::Incomplete)?;
        let mut places = Vec::with_capacity(len);
        for start in starts.as_chunks::<4>().0 {
            places.push(EntryPlace { head: 0, start: u32::from_le_bytes(*start) });
        }
        let (mut first, mut last, mut expected) = (None, &[][..], 0);
        let ends = places.iter().skip(1).map(EntryPlace::start).chain([offsets_start]);
        for (start, end) in places.iter().map(EntryPlace::start).zip(ends) {
            if start != expected {
                return Err(BlockError::Content("its entries are not contiguous"));
            }
            expected = end;
            let key = entries.get(start..end).and_then(key_of);
            last = key.ok_or(BlockError::Content("a key is longer than its entry"))?;
            first.get_or_insert(last);
        }
        let shared = first.unwrap_or_default().iter().zip(last).take_while(|(a, b)| a == b).count();
        for place in &mut places {
            let key = entries.get(place.start()..).and_then(key_of);
            place.head = head(key.unwrap_or_default(), shared);
        }
        Ok(Block { raw, offsets_start, len, shared, places: places.into() })
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Always false: a block has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The memory of the block, in bytes.
    pub fn bytes(&self) -> usize {
        self.raw.len() + self.places.len() * size_of::<EntryPlace>()
    }

    /// The offset of an entry; for `index == len`, the end of the last entry.
    fn start(&self, index: usize) -> Option<usize> {
        if index == self.len {
            return Some(self.offsets_start);
        }
        self.places.get(index).map(EntryPlace::start)
    }

    /// An entry's key, and the start and end of its value.
    fn entry(&self, index: usize) -> Option<(&[u8], usize, usize)> {
        if index >= self.len {
            return None;
        }
        let (start, end) = (self.start(index)?, self.start(index + 1)?);
        let key = key_of(self.raw.get(start..end)?)?;
        Some((key, start + 4 + key.len(), end))
    }

    /// The key of an entry; `None` if `index` is out of range.
    #[inline]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        // Parsing has checked that the key is no longer than its entry.
        key_of(self.raw.get(self.start(index)?..)?)
    }

    /// The key of the last entry.
    pub fn last_key(&self) -> Option<&[u8]> {
        self.key(self.len.checked_sub(1)?)
    }

    /// The bytes of an entry's value; `None` if `index` is out of range.
    pub fn value_bytes(&self, index: usize) -> Option<&[u8]> {
        let (_, start, end) = self.entry(index)?;
        self.raw.get(start..end)
    }

    /// The key and the bytes of the value of an entry; `None` if `index` is out of range.
    pub fn key_and_value(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let (key, start, end) = self.entry(index)?;
        Some((key, self.raw.get(start..end)?))
    }

    /// The value of an entry, which shares the block's memory; `None` if `index` is out of range.
    pub fn value(&self, index: usize) -> Option<Bytes> {
        let (_, start, end) = self.entry(index)?;
        Some(self.raw.slice(start..end))
    }

    /// The index of the first entry whose key is at least `key`, or greater if `past`; the number of entries if there is
    /// none.
    pub fn position(&self, key: &[u8], past: bool) -> usize {
        let is_before = |found: &[u8]| if past { found <= key } else { found < key };
        let Some(start) = key.get(..self.shared) else { return self.partition_point(is_before) };
        let head = head(key, self.shared);
        let low = self.places.partition_point(|place| place.head < head);
        // Any key has the shared bytes; this one is likely to be needed anyway.
        let found = self.key(low.min(self.len.saturating_sub(1))).unwrap_or_default();
        match start.cmp(found.get(..self.shared).unwrap_or_default()) {
            Ordering::Less => return 0,
            Ordering::Greater => return self.len,
            Ordering::Equal => {}
        }
        let is_same = |place: &EntryPlace| place.head == head;
        let rest = self.places.get(low..).unwrap_or_default();
        // Nearly always the bytes of one key, or of none.
        let same = match rest {
            [first, second, ..] if is_same(first) && is_same(second) => rest.partition_point(is_same),
            [first, ..] => usize::from(is_same(first)),
            [] => 0,
        };
        self.partition_point_in(low, low + same, is_before)
    }

    /// The index of the first entry for whose key `before` is false; the number of entries if it is true for all.
    pub fn partition_point(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        self.partition_point_in(0, self.len, before)
    }

    fn partition_point_in(&self, mut low: usize, mut high: usize, before: impl Fn(&[u8]) -> bool) -> usize {
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle).is_some_and(&before) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Four bytes of a key after its first `shared` bytes. Keys that share those sort as these numbers do, or the numbers are equal.
fn head(key: &[u8], shared: usize) -> u32 {
    let mut bytes = [0; 4];
    for (byte, found) in bytes.iter_mut().zip(key.get(shared..).unwrap_or_default()) {
        *byte = *found;
    }
    u32::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::format::sst::block_builder::BlockBuilder;

    proptest! {
        #[test]
        fn a_position_is_found_as_by_comparing_all_keys(
            shared in "[ab]{0,3}",
            keys in prop::collection::btree_set("[\0ab]{0,7}", 1..60),
            sought in "[\0abc]{0,9}",
        ) {
            let keys: BTreeSet<Vec<u8>> = keys.iter().map(|key| [shared.as_bytes(), key.as_bytes()].concat()).collect();
            let mut builder = BlockBuilder::default();
            keys.iter().for_each(|key| builder.push(key, b"value").unwrap());
            let block = Block::parse(builder.finish().unwrap().to_vec().into()).unwrap();
            for sought in keys.iter().cloned().chain([sought.clone().into(), [&shared, sought.as_str()].concat().into()]) {
                for past in [false, true] {
                    let expected = keys.iter().filter(|key| if past { **key <= sought } else { **key < sought }).count();
                    prop_assert_eq!(block.position(&sought, past), expected);
                }
            }
        }
    }
}
