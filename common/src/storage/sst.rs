//! Reads sorted block files through a cache, and writes them whole.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::error::{Error, Reason, Result};
use crate::format::sst::{
    Block, BlockError, BlockHandle, FilterHandle, HEADER_BYTES, SstDirectory, SstIdentity, TRAILER_BYTES,
    Trailer, Tree, decode_block, filter,
};
use crate::storage::fs::{File, FileSystem, read_failed};

mod cache;
mod cursor;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use cache::BlockCache;
use cache::Cached;
pub use cursor::TreeCursor;
pub use writer::{SstOutput, write_file};

/// A sorted block file, open for reading. Its descriptor may be closed at any time and opened again when needed.
#[derive(Debug)]
pub struct SstFile {
    disk: Arc<dyn FileSystem>,
    path: PathBuf,
    /// Names the file in the cache; no other has it.
    id: u64,
    bytes: u64,
    /// As found when first opened: what is at the path later must end with the same.
    trailer: [u8; TRAILER_BYTES],
    identity: SstIdentity,
    /// Where the directory block is: what stands before it are blocks of trees and filters.
    directory_at: BlockHandle,
    directory: SstDirectory,
    cache: Arc<BlockCache>,
}

impl Drop for SstFile {
    fn drop(&mut self) {
        self.cache.close(self.id);
    }
}

impl SstFile {
    /// Opens a file and checks what its end says of it. Where there is no such file: [`Reason::FileGone`].
    pub fn open(
        disk: Arc<dyn FileSystem>,
        path: PathBuf,
        identity: SstIdentity,
        cache: Arc<BlockCache>,
    ) -> Result<Arc<SstFile>> {
        let handle = disk.open(&path).map_err(|e| read_failed(&path, &e))?;
        let (bytes, trailer_bytes) = read_trailer(handle.as_ref()).map_err(|e| read_failed(&path, &e))?;
        let ends = bytes.saturating_sub(TRAILER_BYTES as u64);
        let damaged = |offset: u64, e: BlockError| Error::corrupt(path.display(), offset, e);
        let trailer = trailer_bytes.ok_or_else(|| damaged(0, BlockError::Incomplete))?;
        let found = Trailer::decode(&trailer).map_err(|e| damaged(ends, e))?;
        if found.identity != identity {
            return Err(Error::corrupt(path.display(), ends, "it is another file than its name says"));
        }
        let directory_at = found.directory;
        if directory_at.end() != ends {
            return Err(Error::corrupt(path.display(), ends, "its directory is not where it says"));
        }
        let raw = read_block(handle.as_ref(), &path, identity, directory_at)?;
        let directory = SstDirectory::decode(&raw, directory_at.offset);
        let directory = directory.map_err(|e| damaged(directory_at.offset, e))?;
        let id = cache.admit(handle);
        Ok(Arc::new(SstFile { disk, path, id, bytes, trailer, identity, directory_at, directory, cache }))
    }

    /// What the writer of the file said of it.
    pub fn properties(&self) -> &[u8] {
        &self.directory.properties
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the file is.
    pub fn identity(&self) -> SstIdentity {
        self.identity
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many entries a tree has; none where it is absent.
    pub fn entries(&self, tree: u8) -> u64 {
        self.directory.tree(tree).map_or(0, |tree| tree.entries)
    }

    /// Whether a tree may have an entry that was filtered on these bytes. Yes where it has no filter, no where it has
    /// no entry.
    pub fn may_contain(&self, tree: u8, item: &[u8]) -> Result<bool> {
        let Some(Tree { filter, entries: 1.., .. }) = self.directory.tree(tree) else { return Ok(false) };
        let Some(place) = filter else { return Ok(true) };
        let hash = filter::hash(item);
        let handle = place.handle(filter::partition(place, hash));
        let partition = match self.cache.get(self.id, handle.offset) {
            Some(Cached::Partition(partition)) => partition,
            _ => {
                let partition = self.read_partition(place, handle)?;
                self.cache.put(self.id, handle.offset, Cached::Partition(partition.clone()));
                partition
            }
        };
        Ok(filter::may_contain(place, &partition, hash))
    }

    /// A cursor over a tree, before its first entry. A tree that is absent is empty.
    pub fn cursor(self: &Arc<Self>, tree: u8) -> TreeCursor {
        TreeCursor::new(Arc::clone(self), self.directory.tree(tree).copied())
    }

    /// Reads every block of every tree and filter from the disk and checks it: its CRC, the order of keys, what index
    /// and directory say of it, and that nothing else is in the file. Hands back how many entries there are.
    pub fn verify(&self) -> Result<u64> {
        verify::verify(self)
    }

    /// A data or index block, through the cache.
    fn block(&self, handle: BlockHandle) -> Result<Block> {
        if let Some(Cached::Entries(block)) = self.cache.get(self.id, handle.offset) {
            return Ok(block);
        }
        let block = self.read_entries(handle)?;
        self.cache.put(self.id, handle.offset, Cached::Entries(block.clone()));
        Ok(block)
    }

    /// A data or index block, from the disk.
    fn read_entries(&self, handle: BlockHandle) -> Result<Block> {
        Block::parse(self.read(handle)?).map_err(|e| self.damaged(handle.offset, e))
    }

    /// A filter's partition, from the disk.
    fn read_partition(&self, place: &FilterHandle, handle: BlockHandle) -> Result<Bytes> {
        let partition = self.read(handle)?;
        if partition.len() != place.partition_bytes() {
            return Err(self.damaged(handle.offset, "a part of the filter has another length"));
        }
        Ok(partition)
    }

    /// A block's raw content, from the disk.
    fn read(&self, handle: BlockHandle) -> Result<Bytes> {
        if handle.end() > self.directory_at.offset {
            return Err(self.damaged(handle.offset, "a block lies outside the file"));
        }
        let file = self.cache.file(self.id, || self.reopen())?;
        let read = read_block(file.as_ref().as_ref(), &self.path, self.identity, handle);
        if read.as_ref().is_err_and(|e| e.reason() == Reason::FileGone) {
            self.cache.close(self.id);
        }
        read
    }

    /// Opens the file again, which must be the one that it was.
    fn reopen(&self) -> Result<Box<dyn File>> {
        let file = self.disk.open(&self.path).map_err(|e| read_failed(&self.path, &e))?;
        let (bytes, trailer) = read_trailer(file.as_ref()).map_err(|e| read_failed(&self.path, &e))?;
        if bytes != self.bytes || trailer != Some(self.trailer) {
            return Err(Error::file_gone(self.path.display(), "another file has taken its place"));
        }
        Ok(file)
    }

    fn damaged(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        Error::corrupt(self.path.display(), offset, what)
    }
}

/// A file's length and its last bytes; those are `None` where it is too short.
fn read_trailer(file: &dyn File) -> io::Result<(u64, Option<[u8; TRAILER_BYTES]>)> {
    let bytes = file.len()?;
    let Some(at) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok((bytes, None)) };
    let mut trailer = [0; TRAILER_BYTES];
    let read = file.read_at(&mut trailer, at)?;
    Ok((bytes, (read == TRAILER_BYTES).then_some(trailer)))
}

/// Reads a block and unpacks it.
fn read_block(file: &dyn File, path: &Path, identity: SstIdentity, handle: BlockHandle) -> Result<Bytes> {
    // Handles are checked when decoded: the length is that of a block.
    let len = usize::try_from(handle.len).unwrap_or(HEADER_BYTES);
    let mut stored = vec![0; len];
    let read = file.read_at(&mut stored, handle.offset).map_err(|e| read_failed(path, &e))?;
    stored.truncate(read);
    let raw = if read == len {
        decode_block(&stored.into(), identity, handle.offset)
    } else {
        Err(BlockError::Incomplete)
    };
    raw.map_err(|e| Error::corrupt(path.display(), handle.offset, e))
}
