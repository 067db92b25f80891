//! Sorted string tables (SSTs): immutable files of sorted trees, written atomically and read through a block cache.

mod cache;
mod cursor;
mod file;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use cache::BlockCache;
pub use cursor::TreeCursor;
pub use file::SstFile;
pub use writer::{SstOutput, write_file};
