//! The raw content of data and index blocks: sorted entries, and where each starts.

use bytes::Bytes;

use super::BlockError;

/// What an entry takes beside its key and value: its key's length and its place in the list of starts.
pub(super) const ENTRY_OVERHEAD: usize = 8;
/// The number of entries at the end.
pub(super) const COUNT_BYTES: usize = 4;

/// The entries of one block, unpacked. A clone shares its memory.
#[derive(Debug, Clone)]
pub struct Block {
    raw: Bytes,
    /// Where the list of starts begins: the end of the last entry.
    starts: usize,
    len: usize,
}

impl Block {
    /// Checks raw content. What passes has at least one entry, each whole and in its place; that the keys ascend is
    /// not checked here.
    pub fn parse(raw: Bytes) -> Result<Block, BlockError> {
        let (rest, count) = raw.split_last_chunk::<COUNT_BYTES>().ok_or(BlockError::Incomplete)?;
        let len = usize::try_from(u32::from_le_bytes(*count)).map_err(|_| BlockError::Incomplete)?;
        if len == 0 {
            return Err(BlockError::Content("the block is empty"));
        }
        let starts = len.checked_mul(4).and_then(|bytes| rest.len().checked_sub(bytes));
        let starts = starts.ok_or(BlockError::Content("it has fewer entries than it says"))?;
        let block = Block { raw, starts, len };
        let mut end = 0;
        for index in 0..len {
            if block.start(index) != Some(end) {
                return Err(BlockError::Content("an entry does not start where the one before it ends"));
            }
            end = block.start(index + 1).ok_or(BlockError::Incomplete)?;
            if block.entry(index).is_none() {
                return Err(BlockError::Content("an entry is longer than its place"));
            }
        }
        Ok(block)
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: a block has an entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        self.raw.len()
    }

    /// Where an entry starts; for the one after the last, where that ends.
    fn start(&self, index: usize) -> Option<usize> {
        if index == self.len {
            return Some(self.starts);
        }
        let at = index.checked_mul(4)?.checked_add(self.starts)?;
        let start = self.raw.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*start)).ok()
    }

    /// An entry's key, and where its value starts and ends.
    fn entry(&self, index: usize) -> Option<(&[u8], usize, usize)> {
        if index >= self.len {
            return None;
        }
        let (start, end) = (self.start(index)?, self.start(index + 1)?);
        let (key_len, rest) = self.raw.get(start..end)?.split_first_chunk::<4>()?;
        let key = rest.get(..usize::try_from(u32::from_le_bytes(*key_len)).ok()?)?;
        Some((key, start + 4 + key.len(), end))
    }

    /// An entry's key.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.entry(index).map(|(key, ..)| key)
    }

    /// The last entry's key.
    pub fn last_key(&self) -> Option<&[u8]> {
        self.key(self.len.checked_sub(1)?)
    }

    /// An entry's value, which shares the block's memory.
    pub fn value(&self, index: usize) -> Option<Bytes> {
        let (_, start, end) = self.entry(index)?;
        Some(self.raw.slice(start..end))
    }

    /// The first entry whose key is not `before`; the number of entries where all are.
    pub fn partition_point(&self, before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut low, mut high) = (0, self.len);
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

/// Puts entries together, and knows the last key.
#[derive(Debug, Default)]
pub(super) struct Builder {
    raw: Vec<u8>,
    starts: Vec<u32>,
    last_key: Vec<u8>,
}

impl Builder {
    pub(super) fn len(&self) -> usize {
        self.starts.len()
    }

    /// The raw block's length with one more entry of so many bytes of key and value.
    pub(super) fn len_with(&self, more: usize) -> usize {
        self.raw.len() + self.starts.len() * 4 + more + ENTRY_OVERHEAD + COUNT_BYTES
    }

    /// Adds an entry. `None` where it does not fit in four bytes of offset.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.starts.push(u32::try_from(self.raw.len()).ok()?);
        self.raw.extend_from_slice(&u32::try_from(key.len()).ok()?.to_le_bytes());
        self.raw.extend_from_slice(key);
        self.raw.extend_from_slice(value);
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        Some(())
    }

    pub(super) fn last_key(&self) -> &[u8] {
        &self.last_key
    }

    /// The raw block, with its list of starts.
    pub(super) fn finish(&mut self) -> Option<&[u8]> {
        let count = u32::try_from(self.starts.len()).ok()?;
        for start in &self.starts {
            self.raw.extend_from_slice(&start.to_le_bytes());
        }
        self.raw.extend_from_slice(&count.to_le_bytes());
        Some(&self.raw)
    }

    /// Starts anew. The last key stays, for the next to be compared with.
    pub(super) fn clear(&mut self) {
        self.raw.clear();
        self.starts.clear();
    }
}
