//! The raw content of data and index blocks: sorted entries, then the offset of each.
//!
//! A search in a block compares few keys but touches as many places of the block, and most of its time goes into waiting for
//! memory. So a parsed block also has, in one array, four bytes of each key: those after the bytes that all keys share.
//! Most searches compare only these and one key.

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
    /// For each key the four bytes after the shared ones, as a number; missing bytes count as zero.
    heads: Arc<[u32]>,
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
        let mut block = Block { raw, offsets_start, len, shared: 0, heads: Arc::default() };
        let mut end = 0;
        for index in 0..len {
            if block.start(index) != Some(end) {
                return Err(BlockError::Content("its entries are not contiguous"));
            }
            end = block.start(index + 1).ok_or(BlockError::Incomplete)?;
            if block.entry(index).is_none() {
                return Err(BlockError::Content("a key is longer than its entry"));
            }
        }
        let (first, last) = (block.key(0).unwrap_or_default(), block.last_key().unwrap_or_default());
        block.shared = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        block.heads =
            (0..len).map(|index| head(block.key(index).unwrap_or_default(), block.shared)).collect();
        Ok(block)
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
        self.raw.len() + self.heads.len() * size_of::<u32>()
    }

    /// The offset of an entry; for `index == len`, the end of the last entry.
    fn start(&self, index: usize) -> Option<usize> {
        if index == self.len {
            return Some(self.offsets_start);
        }
        let at = index.checked_mul(4)?.checked_add(self.offsets_start)?;
        let start = self.raw.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*start)).ok()
    }

    /// An entry's key, and the start and end of its value.
    fn entry(&self, index: usize) -> Option<(&[u8], usize, usize)> {
        if index >= self.len {
            return None;
        }
        let (start, end) = (self.start(index)?, self.start(index + 1)?);
        let (key_len, rest) = self.raw.get(start..end)?.split_first_chunk::<4>()?;
        let key = rest.get(..usize::try_from(u32::from_le_bytes(*key_len)).ok()?)?;
        Some((key, start + 4 + key.len(), end))
    }

    /// The key of an entry; `None` if `index` is out of range.
    #[inline]
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        // Parsing has checked that the key is no longer than its entry.
        let (key_len, rest) = self.raw.get(self.start(index)?..)?.split_first_chunk::<4>()?;
        rest.get(..usize::try_from(u32::from_le_bytes(*key_len)).ok()?)
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

    /// The value of an entry, which shares the block's memory; `None` if `index` is out of range.
    pub fn value(&self, index: usize) -> Option<Bytes> {
        let (_, start, end) = self.entry(index)?;
        Some(self.raw.slice(start..end))
    }

    /// The index of the first entry whose key is at least `key`, or greater if `past`; the number of entries if there is
    /// none.
    pub fn position(&self, key: &[u8], past: bool) -> usize {
        let is_before = |found: &[u8]| if past { found <= key } else { found < key };
        let shares = self.key(0).and_then(|first| first.get(..self.shared)) == key.get(..self.shared);
        if !shares {
            return self.partition_point(is_before);
        }
        let head = head(key, self.shared);
        let low = self.heads.partition_point(|found| *found < head);
        let same = self.heads.get(low..).unwrap_or_default().partition_point(|found| *found == head);
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
