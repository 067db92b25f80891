//! The identity of an SST, and the handle of a block: its offset and length.

use super::error::BlockError;
use super::field_reader::FieldReader;
use crate::limits;

/// Bytes before a block's stored content: codec, stored length, raw length, CRC.
pub const HEADER_BYTES: usize = 13;

/// Which file an SST is. Every block's CRC covers it, so that a block is valid in no other file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SstIdentity {
    /// The table's id: the seq that created the table.
    pub table: u64,
    /// The file's events are after this seq; for an image layer, the same as `seq`.
    pub base: u64,
    /// The last seq that the file covers.
    pub seq: u64,
    /// One of [`snapshot::kind`](crate::format::snapshot::kind).
    pub kind: u8,
}

/// The offset and length of a block in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHandle {
    /// The offset of the block's header in the file.
    pub offset: u64,
    /// The block's length in bytes, header included.
    pub len: u32,
}

impl BlockHandle {
    /// The length of an encoded handle, in bytes.
    pub const BYTES: usize = 12;

    /// The handle in the form that index blocks contain.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (offset, len) = bytes.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_le_bytes());
        len.copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Decodes a handle from exactly `bytes`. Refuses a length that no block has, before anybody allocates memory for it.
    pub fn decode(bytes: &[u8]) -> Result<BlockHandle, BlockError> {
        let mut fields = FieldReader::new(bytes);
        let handle = BlockHandle { offset: fields.u64()?, len: fields.u32()? };
        fields.finish()?;
        let len = usize::try_from(handle.len).unwrap_or(usize::MAX);
        if len <= HEADER_BYTES || len > HEADER_BYTES + limits::BLOCK_BYTES_MAX {
            return Err(BlockError::Length(handle.len));
        }
        Ok(handle)
    }

    /// The offset of the byte after the block.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_refuses_lengths_that_no_block_has() {
        for len in [0, 13, u32::MAX] {
            let handle = BlockHandle { offset: 0, len };
            assert_eq!(BlockHandle::decode(&handle.encode()), Err(BlockError::Length(len)));
        }
    }
}
