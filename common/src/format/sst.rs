//! The sorted block file: named trees of sorted keys in checked, packed blocks. See `FORMAT.md`.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Reason, Result};
use crate::limits;

pub mod block;
pub mod filter;
pub mod footer;
pub mod writer;

pub use block::Block;
pub use footer::{FilterHandle, SstDirectory, TRAILER_BYTES, Trailer, Tree};
pub use writer::SstWriter;

/// Bytes before a block's stored bytes: codec, stored length, raw length, CRC.
pub const HEADER_BYTES: usize = 13;
/// About the size of a block, unpacked, in bytes; a larger entry stands alone.
pub const TARGET_BYTES: usize = 16 << 10;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const LEVEL: i32 = 3;

/// What a file is. Every block's CRC covers it, so that a block is valid in no other file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SstIdentity {
    /// The table's id: the seq that created it.
    pub table: u64,
    /// The seq after which what it holds starts.
    pub base: u64,
    /// The seq up to which it goes.
    pub seq: u64,
    /// What kind of file it is.
    pub kind: u8,
}

/// Where a block stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockHandle {
    /// The offset of its header.
    pub offset: u64,
    /// Its length with its header, in bytes.
    pub len: u32,
}

impl BlockHandle {
    /// The bytes that an index entry's value has.
    pub const BYTES: usize = 12;

    /// The handle as an index holds it.
    pub fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (offset, len) = bytes.split_at_mut(8);
        offset.copy_from_slice(&self.offset.to_le_bytes());
        len.copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// Reads a handle that takes up all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<BlockHandle, BlockError> {
        let mut fields = Fields(bytes);
        let handle = BlockHandle { offset: fields.u64()?, len: fields.u32()? };
        fields.end()?;
        handle.check()?;
        Ok(handle)
    }

    /// Refuses a length that no block has, before anything is allocated for it.
    fn check(self) -> Result<(), BlockError> {
        let len = usize::try_from(self.len).unwrap_or(usize::MAX);
        if len <= HEADER_BYTES || len > HEADER_BYTES + limits::BLOCK_BYTES_MAX {
            return Err(BlockError::Length(self.len));
        }
        Ok(())
    }

    /// The offset of the byte after the block.
    pub fn end(self) -> u64 {
        self.offset.saturating_add(self.len.into())
    }
}

/// Why bytes are not a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// The bytes end before the block does.
    Incomplete,
    /// A length that no block has.
    Length(u32),
    /// The CRC does not match.
    Crc,
    /// A way of packing that is not known.
    Codec(u8),
    /// The CRC matches, but the packed bytes cannot be unpacked to what the header says.
    Packed,
    /// The end of the file is not that of a sorted block file.
    Trailer(&'static str),
    /// The CRC matches content that makes no sense.
    Content(&'static str),
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockError::Incomplete => f.write_str("a block is cut short"),
            BlockError::Length(length) => write!(f, "no block has a length of {length}"),
            BlockError::Crc => f.write_str("the CRC does not match"),
            BlockError::Codec(codec) => write!(f, "the CRC matches, but codec {codec} is unknown"),
            BlockError::Packed => f.write_str("the CRC matches, but the block cannot be unpacked"),
            BlockError::Trailer(what) => f.write_str(what),
            BlockError::Content(what) => write!(f, "the CRC matches, but {what}"),
        }
    }
}

impl std::error::Error for BlockError {}

fn crc(fields: &[u8], stored: &[u8], identity: SstIdentity, offset: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(fields);
    hasher.update(stored);
    hasher.update(&identity.table.to_le_bytes());
    hasher.update(&identity.base.to_le_bytes());
    hasher.update(&identity.seq.to_le_bytes());
    hasher.update(&[identity.kind]);
    hasher.update(&offset.to_le_bytes());
    hasher.finalize()
}

/// Packs blocks, and keeps what that takes between one and the next.
pub struct BlockEncoder {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
}

impl fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer").finish_non_exhaustive()
    }
}

impl BlockEncoder {
    /// A packer.
    pub fn new() -> Result<BlockEncoder> {
        let compressor = Compressor::new(LEVEL).map_err(|e| failed(&e))?;
        Ok(BlockEncoder { compressor, packed: Vec::new() })
    }

    /// The block of `raw` for a place in a file, packed where that makes it smaller.
    pub fn pack(&mut self, raw: &[u8], identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
        self.packed.clear();
        self.packed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut self.packed).map_err(|e| failed(&e))?;
        if self.packed.len() < raw.len() {
            encode(ZSTD, &self.packed, raw.len(), identity, offset)
        } else {
            encode(RAW, raw, raw.len(), identity, offset)
        }
    }
}

fn failed(e: &std::io::Error) -> Error {
    Error::new(Reason::Internal, format!("cannot pack a block: {e}"))
}

/// The block of `raw` for a place in a file, as it is.
pub fn encode_raw(raw: &[u8], identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
    encode(RAW, raw, raw.len(), identity, offset)
}

fn encode(codec: u8, stored: &[u8], raw: usize, identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
    let length = |len: usize| match u32::try_from(len) {
        Ok(len) if raw <= limits::BLOCK_BYTES_MAX => Ok(len),
        _ => Err(Error::new(Reason::TooLarge, format!("a block of {raw} bytes is over the limit"))),
    };
    let mut block = Vec::with_capacity(HEADER_BYTES + stored.len());
    block.push(codec);
    block.extend_from_slice(&length(stored.len())?.to_le_bytes());
    block.extend_from_slice(&length(raw)?.to_le_bytes());
    let crc = crc(&block, stored, identity, offset);
    block.extend_from_slice(&crc.to_le_bytes());
    block.extend_from_slice(stored);
    Ok(block)
}

/// The raw content of a block, which takes up all of `bytes` and stands at `offset` of its file.
pub fn decode_block(bytes: &Bytes, identity: SstIdentity, offset: u64) -> Result<Bytes, BlockError> {
    let (header, _) = bytes.split_at_checked(HEADER_BYTES).ok_or(BlockError::Incomplete)?;
    let (covered, _) = header.split_at_checked(HEADER_BYTES - 4).ok_or(BlockError::Incomplete)?;
    let mut fields = Fields(header);
    let (codec, stored_len, raw_len) = (fields.u8()?, fields.u32()?, fields.u32()?);
    let stored_crc = fields.u32()?;
    let size = |len: u32| match usize::try_from(len) {
        Ok(size) if (1..=limits::BLOCK_BYTES_MAX).contains(&size) => Ok(size),
        _ => Err(BlockError::Length(len)),
    };
    let (stored_size, raw_size) = (size(stored_len)?, size(raw_len)?);
    let stored = bytes.slice(HEADER_BYTES..);
    if stored.len() < stored_size {
        return Err(BlockError::Incomplete);
    }
    if stored.len() > stored_size {
        return Err(BlockError::Length(stored_len));
    }
    if crc(covered, &stored, identity, offset) != stored_crc {
        return Err(BlockError::Crc);
    }
    match codec {
        RAW if stored_size == raw_size => Ok(stored),
        RAW => Err(BlockError::Length(raw_len)),
        ZSTD => inflate(&stored, raw_size),
        other => Err(BlockError::Codec(other)),
    }
}

/// Unpacks into a buffer of the size that was announced: what does not fit is an error, so a bomb has no effect.
fn inflate(stored: &[u8], raw_size: usize) -> Result<Bytes, BlockError> {
    thread_local! {
        // Making one takes longer than unpacking a block.
        static UNPACKER: RefCell<Decompressor<'static>> = RefCell::new(Decompressor::default());
    }
    let mut raw = Vec::with_capacity(raw_size);
    UNPACKER
        .with_borrow_mut(|unpacker| unpacker.decompress_to_buffer(stored, &mut raw))
        .map_err(|_| BlockError::Packed)?;
    if raw.len() != raw_size {
        return Err(BlockError::Packed);
    }
    Ok(raw.into())
}

/// Takes little-endian fields off the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], BlockError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(BlockError::Incomplete)?;
        self.0 = rest;
        Ok(*field)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], BlockError> {
        let (field, rest) = self.0.split_at_checked(len).ok_or(BlockError::Incomplete)?;
        self.0 = rest;
        Ok(field)
    }

    fn u8(&mut self) -> Result<u8, BlockError> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn u32(&mut self) -> Result<u32, BlockError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, BlockError> {
        self.array().map(u64::from_le_bytes)
    }

    fn end(&self) -> Result<(), BlockError> {
        if self.0.is_empty() { Ok(()) } else { Err(BlockError::Content("bytes are left over")) }
    }
}

#[cfg(test)]
mod tests;
