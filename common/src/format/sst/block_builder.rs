//! Builds the raw content of data and index blocks.

use super::block::COUNT_BYTES;

/// Bytes that an entry takes in addition to its key and value: the length of its key, and its offset in the list.
pub(super) const ENTRY_OVERHEAD: usize = 8;

/// Collects the entries of one block, and remembers the last key.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    raw: Vec<u8>,
    offsets: Vec<u32>,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// The length of the raw block with one more entry whose key and value have `more` bytes.
    pub(super) fn len_with(&self, more: usize) -> usize {
        self.raw.len() + self.offsets.len() * 4 + more + ENTRY_OVERHEAD + COUNT_BYTES
    }

    /// Adds an entry. `None` if a length or offset exceeds four bytes.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        self.offsets.push(u32::try_from(self.raw.len()).ok()?);
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

    /// Takes note of a last key that was written elsewhere: the next must be greater.
    pub(super) fn set_last_key(&mut self, key: &[u8]) {
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
    }

    /// The raw block: entries, their offsets, their number. `None` if the number exceeds four bytes.
    pub(super) fn finish(&mut self) -> Option<&[u8]> {
        let count = u32::try_from(self.offsets.len()).ok()?;
        for start in &self.offsets {
            self.raw.extend_from_slice(&start.to_le_bytes());
        }
        self.raw.extend_from_slice(&count.to_le_bytes());
        Some(&self.raw)
    }

    /// Starts the next block. The last key stays, because the next key must be greater.
    pub(super) fn clear(&mut self) {
        self.raw.clear();
        self.offsets.clear();
    }
}
