//! Reads little-endian fields from the front of a slice.

use super::error::BlockError;

/// Reads fields one after the other.
pub(super) struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> FieldReader<'a> {
        FieldReader(bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], BlockError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(BlockError::Incomplete)?;
        self.0 = rest;
        Ok(*field)
    }

    pub(super) fn bytes(&mut self, len: usize) -> Result<&'a [u8], BlockError> {
        let (field, rest) = self.0.split_at_checked(len).ok_or(BlockError::Incomplete)?;
        self.0 = rest;
        Ok(field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, BlockError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, BlockError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, BlockError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Fails if bytes are left over.
    pub(super) fn finish(&self) -> Result<(), BlockError> {
        if self.0.is_empty() { Ok(()) } else { Err(BlockError::Content("it has bytes after its last field")) }
    }
}
