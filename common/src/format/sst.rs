//! The SST (sorted string table): named trees of sorted keys in compressed blocks with checksums. See `FORMAT.md`.
//!
//! The layout follows LevelDB and RocksDB: data blocks, index blocks above them, filters, a directory, a trailer. Every
//! block's CRC also covers the identity of the file and the block's offset, so that a block of another file, or of another
//! place in this one, is damage.

mod block;
mod block_builder;
mod codec;
mod error;
mod field_reader;
pub mod filter;
mod footer;
mod handle;
mod writer;

pub use block::Block;
#[cfg(test)]
pub(crate) use codec::encode_raw;
pub use codec::{StoredBlock, decode_block, decode_stored};
pub use error::BlockError;
pub use filter::FilterHandle;
pub use footer::{SstDirectory, TRAILER_BYTES, Trailer, Tree};
pub use handle::{BlockHandle, HEADER_BYTES, SstIdentity};
pub use writer::{SstWriter, TARGET_BYTES};

#[cfg(test)]
mod tests;
