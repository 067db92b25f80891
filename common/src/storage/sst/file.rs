//! An SST, open for reading through the block cache.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::cache::{BlockCache, CachedBlock};
use crate::error::{Error, Reason, Result};
use crate::format::sst::{
    Block, BlockError, BlockHandle, FilterHandle, HEADER_BYTES, SstDirectory, SstIdentity, StoredBlock,
    TRAILER_BYTES, Trailer, Tree, decode_block, decode_stored, filter,
};
use crate::storage::fs::{self, File, FileId, FileSystem, read_failed};
use crate::storage::io_ban;
use crate::work;

/// An SST, open for reading. The cache may close its file descriptor at any time; the next read opens the file again.
#[derive(Debug)]
pub struct SstFile {
    fs: Arc<dyn FileSystem>,
    path: PathBuf,
    /// The file's unique id in the cache.
    id: u64,
    bytes: u64,
    /// The trailer at the first open. A file opened at the path later must end with the same trailer.
    trailer: [u8; TRAILER_BYTES],
    /// The file at the path at the first open.
    file_id: Option<FileId>,
    identity: SstIdentity,
    /// The directory block. All blocks of trees and filters are before it.
    directory_handle: BlockHandle,
    directory: SstDirectory,
    cache: Arc<BlockCache>,
}

impl Drop for SstFile {
    fn drop(&mut self) {
        self.cache.close(self.id);
    }
}

impl SstFile {
    /// Opens a file and checks its trailer and directory. Fails with [`Reason::FileGone`] if the file does not exist.
    pub fn open(
        fs: Arc<dyn FileSystem>,
        path: PathBuf,
        identity: SstIdentity,
        cache: Arc<BlockCache>,
    ) -> Result<Arc<SstFile>> {
        let handle = fs.open(&path).map_err(|e| read_failed(&path, &e))?;
        let (bytes, trailer_bytes) = read_trailer(handle.as_ref()).map_err(|e| read_failed(&path, &e))?;
        let trailer_at = bytes.saturating_sub(TRAILER_BYTES as u64);
        let damaged = |offset: u64, e: BlockError| Error::corrupt_by(path.display(), offset, e);
        let trailer = trailer_bytes.ok_or_else(|| damaged(0, BlockError::Incomplete))?;
        let found = Trailer::decode(&trailer).map_err(|e| damaged(trailer_at, e))?;
        if found.identity != identity {
            return Err(Error::corrupt(
                path.display(),
                trailer_at,
                "the file's identity does not match its name",
            ));
        }
        let directory_handle = found.directory;
        if directory_handle.end() != trailer_at {
            return Err(Error::corrupt(
                path.display(),
                trailer_at,
                "the directory block is not directly before the trailer",
            ));
        }
        let raw = read_block(handle.as_ref(), &path, identity, directory_handle)?;
        let directory = SstDirectory::decode(&raw, directory_handle.offset);
        let directory = directory.map_err(|e| damaged(directory_handle.offset, e))?;
        let file_id = fs.file_id(&path).map_err(|e| read_failed(&path, &e))?;
        let id = cache.register(handle);
        Ok(Arc::new(SstFile {
            fs,
            path,
            id,
            bytes,
            trailer,
            file_id,
            identity,
            directory_handle,
            directory,
            cache,
        }))
    }

    /// Removes the file, which nothing refers to.
    pub(crate) fn discard(&self) {
        fs::discard(&*self.fs, &self.path);
    }

    /// Returns the properties that the file's writer added.
    pub fn properties(&self) -> &[u8] {
        &self.directory.properties
    }

    /// Returns the file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the file's identity.
    pub fn identity(&self) -> SstIdentity {
        self.identity
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of entries of a tree; 0 if the tree is absent.
    pub fn entries(&self, tree: u8) -> u64 {
        self.directory.tree(tree).map_or(0, |tree| tree.entries)
    }

    /// Returns whether a tree may have an entry that was added to its filter with these bytes. True if the tree has no
    /// filter, false if it has no entries.
    pub fn may_contain(&self, tree: u8, item: &[u8]) -> Result<bool> {
        io_ban::check();
        let Some(Tree { filter, entries: 1.., .. }) = self.directory.tree(tree) else { return Ok(false) };
        let Some(place) = filter else { return Ok(true) };
        let hash = filter::hash(item);
        let handle = place.handle(filter::partition(place, hash));
        let partition = match self.cache.get(self.id, handle.offset) {
            Some(CachedBlock::Partition(partition)) => partition,
            _ => {
                let partition = self.read_partition(place, handle)?;
                self.cache.put(self.id, handle.offset, CachedBlock::Partition(partition.clone()));
                partition
            }
        };
        Ok(filter::may_contain(place, &partition, hash))
    }

    /// Returns the directory of trees.
    pub(super) fn directory(&self) -> &SstDirectory {
        &self.directory
    }

    /// Returns where the directory block is.
    pub(super) fn directory_handle(&self) -> BlockHandle {
        self.directory_handle
    }

    /// Returns a data or index block, through the cache. `is_kept` says whether the cache keeps a block that it did not have.
    pub(super) fn block(&self, handle: BlockHandle, is_kept: bool) -> Result<Block> {
        io_ban::check();
        if let Some(CachedBlock::Entries(block)) = self.cache.get(self.id, handle.offset) {
            return Ok(block);
        }
        let block = self.read_entries(handle)?;
        if is_kept {
            self.cache.put(self.id, handle.offset, CachedBlock::Entries(block.clone()));
        }
        Ok(block)
    }

    /// Reads a data block from disk, as it is stored and unpacked.
    pub(super) fn read_stored(&self, handle: BlockHandle) -> Result<(StoredBlock, Block)> {
        let damaged = |e| Error::corrupt_by(self.path.display(), handle.offset, e);
        let bytes = self.read_bytes(handle)?;
        let stored = decode_stored(&bytes, self.identity, handle.offset).map_err(damaged)?;
        let block = stored.unpack().and_then(Block::parse).map_err(damaged)?;
        Ok((stored, block))
    }

    /// Reads a data or index block from disk.
    pub(super) fn read_entries(&self, handle: BlockHandle) -> Result<Block> {
        Block::parse(self.read(handle)?).map_err(|e| Error::corrupt_by(self.path.display(), handle.offset, e))
    }

    /// Reads a partition of a filter from disk.
    pub(super) fn read_partition(&self, place: &FilterHandle, handle: BlockHandle) -> Result<Bytes> {
        let partition = self.read(handle)?;
        if partition.len() != place.partition_bytes() {
            return Err(self.damaged(handle.offset, "a filter partition has a wrong length"));
        }
        Ok(partition)
    }

    /// Reads a block's unpacked content from disk.
    fn read(&self, handle: BlockHandle) -> Result<Bytes> {
        let bytes = self.read_bytes(handle)?;
        decode_block(&bytes, self.identity, handle.offset)
            .map_err(|e| Error::corrupt_by(self.path.display(), handle.offset, e))
    }

    /// Reads a block as it is stored.
    fn read_bytes(&self, handle: BlockHandle) -> Result<Bytes> {
        if handle.end() > self.directory_handle.offset {
            return Err(self.damaged(handle.offset, "a block handle points outside the file's blocks"));
        }
        work::step_for_read()?;
        let file = self.cache.file(self.id, || self.reopen())?;
        let read = read_stored_block(file.as_ref().as_ref(), &self.path, handle);
        if read.as_ref().is_err_and(|e| e.reason() == Reason::FileGone) {
            self.cache.close(self.id);
        }
        read
    }

    /// Opens the file again. Fails with FILE_GONE if another file has its name.
    fn reopen(&self) -> Result<Box<dyn File>> {
        let file = self.fs.open(&self.path).map_err(|e| read_failed(&self.path, &e))?;
        let (bytes, trailer) = read_trailer(file.as_ref()).map_err(|e| read_failed(&self.path, &e))?;
        // A file of another history can have the same name, length and trailer.
        let found = self.fs.file_id(&self.path).map_err(|e| read_failed(&self.path, &e))?;
        let is_other = found != self.file_id && !self.fs.is_network(&self.path).unwrap_or(true);
        if is_other || bytes != self.bytes || trailer != Some(self.trailer) {
            return Err(Error::file_gone(self.path.display(), "another file has its name"));
        }
        Ok(file)
    }

    pub(super) fn damaged(&self, offset: u64, detail: impl std::fmt::Display) -> Error {
        Error::corrupt(self.path.display(), offset, detail)
    }
}

/// Reads a file's length and trailer; the trailer is `None` if the file is too short.
fn read_trailer(file: &dyn File) -> io::Result<(u64, Option<[u8; TRAILER_BYTES]>)> {
    let bytes = file.len()?;
    let Some(at) = bytes.checked_sub(TRAILER_BYTES as u64) else { return Ok((bytes, None)) };
    let mut trailer = [0; TRAILER_BYTES];
    let read = file.read_at(&mut trailer, at)?;
    Ok((bytes, (read == TRAILER_BYTES).then_some(trailer)))
}

/// Reads a block and unpacks it.
fn read_block(file: &dyn File, path: &Path, identity: SstIdentity, handle: BlockHandle) -> Result<Bytes> {
    let stored = read_stored_block(file, path, handle)?;
    decode_block(&stored, identity, handle.offset)
        .map_err(|e| Error::corrupt_by(path.display(), handle.offset, e))
}

/// Reads a block as it is stored.
fn read_stored_block(file: &dyn File, path: &Path, handle: BlockHandle) -> Result<Bytes> {
    // Decoding a handle checks that its length is valid for a block.
    let len = usize::try_from(handle.len).unwrap_or(HEADER_BYTES);
    let mut stored = vec![0; len];
    let read = file.read_at(&mut stored, handle.offset).map_err(|e| read_failed(path, &e))?;
    match read == len {
        true => Ok(stored.into()),
        false => Err(Error::corrupt_by(path.display(), handle.offset, BlockError::Incomplete)),
    }
}
