//! A block as stored: a header with a CRC, and content that is compressed if that makes it smaller.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};

use super::error::BlockError;
use super::field_reader::FieldReader;
use super::handle::{HEADER_BYTES, SstIdentity};
use crate::error::{Error, Reason, Result};
use crate::limits;

const CODEC_RAW: u8 = 0;
const CODEC_ZSTD: u8 = 1;
/// Level 3 takes more than twice as long, and makes a block of events 2 % smaller.
const ZSTD_LEVEL: i32 = 1;

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

/// Encodes blocks, and reuses its compressor and buffer from one block to the next.
pub(super) struct BlockEncoder {
    compressor: Compressor<'static>,
    compressed: Vec<u8>,
}

impl fmt::Debug for BlockEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockEncoder").finish_non_exhaustive()
    }
}

impl BlockEncoder {
    /// An encoder. Fails if zstd cannot allocate its context.
    pub fn new() -> Result<BlockEncoder> {
        let compressor = Compressor::new(ZSTD_LEVEL).map_err(|e| failed(&e))?;
        Ok(BlockEncoder { compressor, compressed: Vec::new() })
    }

    /// Encodes `raw` as the block at `offset` of a file, compressed if that makes it smaller.
    ///
    /// Fails with [`Reason::TooLarge`] if `raw` exceeds [`limits::BLOCK_BYTES_MAX`].
    pub fn encode(&mut self, raw: &[u8], identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.compressor.compress_to_buffer(raw, &mut self.compressed).map_err(|e| failed(&e))?;
        if self.compressed.len() < raw.len() {
            encode(CODEC_ZSTD, &self.compressed, raw.len(), identity, offset)
        } else {
            encode(CODEC_RAW, raw, raw.len(), identity, offset)
        }
    }
}

fn failed(e: &std::io::Error) -> Error {
    Error::new(Reason::Internal, format!("cannot compress a block: {e}"))
}

/// Encodes `raw` as the block at `offset` of a file, without compression.
///
/// Fails with [`Reason::TooLarge`] if `raw` exceeds [`limits::BLOCK_BYTES_MAX`].
pub(crate) fn encode_raw(raw: &[u8], identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
    encode(CODEC_RAW, raw, raw.len(), identity, offset)
}

fn encode(codec: u8, stored: &[u8], raw: usize, identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
    let length = |len: usize| match u32::try_from(len) {
        Ok(len) if raw <= limits::BLOCK_BYTES_MAX => Ok(len),
        _ => {
            let limit = limits::BLOCK_BYTES_MAX;
            let message = format!("cannot write a block of {raw} bytes: the limit is {limit} bytes");
            Err(Error::new(Reason::TooLarge, message))
        }
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

/// The content of a block as stored: compressed, or not.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    codec: u8,
    content: Bytes,
    raw_len: usize,
}

impl StoredBlock {
    /// The length of the raw content, in bytes.
    pub fn raw_len(&self) -> usize {
        self.raw_len
    }

    /// Unpacks the content.
    pub fn unpack(&self) -> Result<Bytes, BlockError> {
        match self.codec {
            CODEC_RAW if self.content.len() == self.raw_len => Ok(self.content.clone()),
            CODEC_RAW => Err(BlockError::Length(u32::try_from(self.raw_len).unwrap_or(u32::MAX))),
            CODEC_ZSTD => decompress(&self.content, self.raw_len),
            other => Err(BlockError::Codec(other)),
        }
    }

    /// Encodes the content, as it is, as the block at `offset` of another file.
    pub(super) fn encode(&self, identity: SstIdentity, offset: u64) -> Result<Vec<u8>> {
        encode(self.codec, &self.content, self.raw_len, identity, offset)
    }
}

/// Decodes the block that is exactly `bytes`, at `offset` of its file, and returns its raw content.
pub fn decode_block(bytes: &Bytes, identity: SstIdentity, offset: u64) -> Result<Bytes, BlockError> {
    decode_stored(bytes, identity, offset)?.unpack()
}

/// Checks the block that is exactly `bytes`, at `offset` of its file, and does not unpack it.
pub fn decode_stored(bytes: &Bytes, identity: SstIdentity, offset: u64) -> Result<StoredBlock, BlockError> {
    let (header, _) = bytes.split_at_checked(HEADER_BYTES).ok_or(BlockError::Incomplete)?;
    let (covered, _) = header.split_at_checked(HEADER_BYTES - 4).ok_or(BlockError::Incomplete)?;
    let mut fields = FieldReader::new(header);
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
    Ok(StoredBlock { codec, content: stored, raw_len: raw_size })
}

/// Decompresses into a buffer of the size in the header. Content that does not fit is an error, so a decompression bomb
/// allocates no more than one block.
fn decompress(stored: &[u8], raw_size: usize) -> Result<Bytes, BlockError> {
    thread_local! {
        // Creating a decompressor takes longer than decompressing a block.
        static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::new(Decompressor::default());
    }
    let mut raw = Vec::with_capacity(raw_size);
    DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.decompress_to_buffer(stored, &mut raw))
        .map_err(|_| BlockError::Compression)?;
    if raw.len() != raw_size {
        return Err(BlockError::Compression);
    }
    Ok(raw.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: SstIdentity = SstIdentity { table: 3, base: 100, seq: 200, kind: 1 };
    const OFFSET: u64 = 777;

    fn encoded(raw: &[u8]) -> Bytes {
        BlockEncoder::new().unwrap().encode(raw, IDENTITY, OFFSET).unwrap().into()
    }

    #[test]
    fn a_block_is_valid_only_in_its_file_at_its_offset() {
        let raw = [7; 1000];
        let block = encoded(&raw);
        assert!(block.len() < 100);
        assert_eq!(decode_block(&block, IDENTITY, OFFSET).unwrap(), raw[..]);
        assert_eq!(decode_block(&block, IDENTITY, OFFSET + 1), Err(BlockError::Crc));
        for wrong in [
            SstIdentity { table: 4, ..IDENTITY },
            SstIdentity { base: 101, ..IDENTITY },
            SstIdentity { seq: 201, ..IDENTITY },
            SstIdentity { kind: 2, ..IDENTITY },
        ] {
            assert_eq!(decode_block(&block, wrong, OFFSET), Err(BlockError::Crc));
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        for raw in [&[7; 1000][..], b"too short to compress"] {
            let block = encoded(raw);
            for bit in 0..block.len() * 8 {
                let mut flipped = block.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                assert!(decode_block(&flipped.into(), IDENTITY, OFFSET).is_err(), "bit {bit}");
            }
            for len in 0..block.len() {
                assert!(decode_block(&block.slice(..len), IDENTITY, OFFSET).is_err(), "cut at {len}");
            }
            let longer = [&block[..], b"x"].concat();
            assert!(decode_block(&longer.into(), IDENTITY, OFFSET).is_err());
        }
    }

    #[test]
    fn a_decompression_bomb_is_refused() {
        let bomb = Compressor::new(ZSTD_LEVEL).unwrap().compress(&vec![0; 64 << 20]).unwrap();
        assert!(bomb.len() < 10_000);
        for announced in [1, bomb.len(), limits::BLOCK_BYTES_MAX] {
            let block = encode(CODEC_ZSTD, &bomb, announced, IDENTITY, OFFSET).unwrap();
            assert_eq!(
                decode_block(&block.into(), IDENTITY, OFFSET),
                Err(BlockError::Compression),
                "{announced}"
            );
        }
        // The header states one byte more than the content has.
        let short = Compressor::new(ZSTD_LEVEL).unwrap().compress(&[0; 100]).unwrap();
        let block = encode(CODEC_ZSTD, &short, 101, IDENTITY, OFFSET).unwrap();
        assert_eq!(decode_block(&block.into(), IDENTITY, OFFSET), Err(BlockError::Compression));
        let block = encode(CODEC_ZSTD, b"no zstd", 100, IDENTITY, OFFSET).unwrap();
        assert_eq!(decode_block(&block.into(), IDENTITY, OFFSET), Err(BlockError::Compression));
    }

    #[test]
    fn invalid_lengths_and_codecs_are_refused() {
        let with_header = |codec: u8, stored: u32, raw: u32| {
            let mut block = vec![codec];
            block.extend_from_slice(&stored.to_le_bytes());
            block.extend_from_slice(&raw.to_le_bytes());
            let crc = crc(&block, b"four", IDENTITY, OFFSET);
            block.extend_from_slice(&crc.to_le_bytes());
            block.extend_from_slice(b"four");
            decode_block(&block.into(), IDENTITY, OFFSET)
        };
        assert_eq!(with_header(CODEC_RAW, 4, 4).unwrap(), b"four"[..]);
        assert_eq!(with_header(CODEC_RAW, 4, 5), Err(BlockError::Length(5)));
        assert_eq!(with_header(CODEC_RAW, 4, u32::MAX), Err(BlockError::Length(u32::MAX)));
        assert_eq!(with_header(CODEC_ZSTD, 4, u32::MAX), Err(BlockError::Length(u32::MAX)));
        assert_eq!(with_header(CODEC_ZSTD, 4, 0), Err(BlockError::Length(0)));
        assert_eq!(with_header(CODEC_RAW, 3, 3), Err(BlockError::Length(3)));
        assert_eq!(with_header(CODEC_RAW, 5, 5), Err(BlockError::Incomplete));
        assert_eq!(with_header(2, 4, 4), Err(BlockError::Codec(2)));
        assert!(encode_raw(&vec![0; limits::BLOCK_BYTES_MAX + 1], IDENTITY, OFFSET).is_err());
    }
}
