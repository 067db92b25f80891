//! Why bytes are not a block of an SST, or not the end of one.

use std::fmt;

/// Why bytes are not a valid block, directory or trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// The bytes end before the block does.
    Incomplete,
    /// The length field has a value that no block has.
    Length(u32),
    /// The CRC does not match.
    Crc,
    /// The codec is unknown.
    Codec(u8),
    /// The CRC matches, but the block does not decompress to the length in its header.
    Compression,
    /// The last bytes of the file are not the trailer of an SST.
    Trailer(&'static str),
    /// The CRC matches, but the content is invalid.
    Content(&'static str),
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BlockError::Incomplete => f.write_str("the block is cut short"),
            BlockError::Length(length) => write!(f, "invalid block length {length}"),
            BlockError::Crc => f.write_str("the CRC does not match"),
            BlockError::Codec(codec) => write!(f, "the CRC matches, but codec {codec} is unknown"),
            BlockError::Compression => {
                f.write_str("the CRC matches, but the block does not decompress to its stated length")
            }
            BlockError::Trailer(what) => f.write_str(what),
            BlockError::Content(what) => write!(f, "the CRC matches, but {what}"),
        }
    }
}

impl std::error::Error for BlockError {}
