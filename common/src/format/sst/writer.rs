//! Writes an SST from front to back, with one block of each level in memory.

use std::fmt;
use std::io::{self, Write};
use std::mem;

use super::block::{Block, COUNT_BYTES};
use super::block_builder::{BlockBuilder, ENTRY_OVERHEAD};
use super::codec::{BlockEncoder, StoredBlock, encode_raw};
use super::filter::{self, FilterHandle};
use super::footer::{SstDirectory, Trailer, Tree};
use super::handle::{BlockHandle, SstIdentity};
use crate::error::{Error, Reason, Result};
use crate::limits;

/// The size at which a raw block is complete, in bytes. A larger entry gets a block of its own.
pub const TARGET_BYTES: usize = 16 << 10;

/// Writes an SST.
///
/// Trees are written one after the other, each between [`SstWriter::begin_tree`] and [`SstWriter::end_tree`], in ascending
/// order of its keys. After an error the file is unusable.
pub struct SstWriter<W> {
    blocks: BlockWriter<W>,
    target: usize,
    trees: Vec<Tree>,
    open: Option<OpenTree>,
}

/// The tree that is being written.
struct OpenTree {
    id: u8,
    entries: u64,
    /// The current block of each level, data blocks first.
    levels: Vec<TreeLevel>,
    /// The hashes of the filter; `None` if the tree has no filter.
    hashes: Option<Vec<u64>>,
    /// The item that was hashed last: versions of a row are adjacent and have the same item.
    last_hashed: Option<Vec<u8>>,
    /// The last data block, if it was copied.
    copied: Option<BlockHandle>,
}

#[derive(Default)]
struct TreeLevel {
    block: BlockBuilder,
    /// Blocks of the level that are in the file.
    written: u64,
}

/// The file, and the offset of its next byte.
struct BlockWriter<W> {
    out: W,
    identity: SstIdentity,
    offset: u64,
    encoder: BlockEncoder,
}

impl<W> fmt::Debug for SstWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.blocks.identity;
        f.debug_struct("SstWriter").field("identity", identity).finish_non_exhaustive()
    }
}

impl<W: Write> BlockWriter<W> {
    fn write_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = |e: io::Error| Error::io("cannot write a block", &e);
        self.out.write_all(bytes).map_err(failed)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn append(&mut self, block: &[u8]) -> Result<BlockHandle> {
        let len = u32::try_from(block.len()).map_err(|_| bug("a block is longer than 4 GiB"))?;
        let handle = BlockHandle { offset: self.offset, len };
        self.write_bytes(block)?;
        Ok(handle)
    }

    fn write(&mut self, raw: &[u8]) -> Result<BlockHandle> {
        let block = self.encoder.encode(raw, self.identity, self.offset)?;
        self.append(&block)
    }

    /// Writes a filter that contains `hashes`.
    fn write_filter(&mut self, mut hashes: Vec<u64>) -> Result<FilterHandle> {
        // Sorted hashes are in the order of their partitions.
        hashes.sort_unstable();
        hashes.dedup();
        let shape = filter::shape(hashes.len()).ok_or_else(|| bug("a filter has too many items"))?;
        let (partitions, lines) = shape;
        let filter = FilterHandle { offset: self.offset, partitions, lines };
        let mut rest = hashes.as_slice();
        for number in 0..u64::from(partitions) {
            let len = rest.partition_point(|hash| filter::partition(&filter, *hash) <= number);
            let (here, after) = rest.split_at(len);
            rest = after;
            // Not compressed, so that all partitions have one length and their offsets follow from their numbers.
            let block = encode_raw(&filter::fill(&filter, here), self.identity, self.offset)?;
            self.write_bytes(&block)?;
        }
        Ok(filter)
    }
}

impl<W: Write> SstWriter<W> {
    /// Starts a file, which is written to `out`.
    pub fn new(out: W, identity: SstIdentity) -> Result<SstWriter<W>> {
        let blocks = BlockWriter { out, identity, offset: 0, encoder: BlockEncoder::new()? };
        Ok(SstWriter { blocks, target: TARGET_BYTES, trees: Vec::new(), open: None })
    }

    /// Changes the target size of the next blocks, in bytes. Tests use it to get many blocks.
    pub fn set_target(&mut self, bytes: usize) {
        self.target = bytes.min(limits::BLOCK_BYTES_MAX);
    }

    /// Starts a tree. Its id must be new in the file. With `filtered` the tree gets a filter.
    pub fn begin_tree(&mut self, id: u8, filtered: bool) -> Result<()> {
        if self.open.is_some() {
            return Err(bug("begin_tree was called inside a tree"));
        }
        if self.trees.iter().any(|tree| tree.id == id) {
            return Err(bug("two trees have the same id"));
        }
        let hashes = filtered.then(Vec::new);
        let levels = vec![TreeLevel::default()];
        self.open = Some(OpenTree { id, entries: 0, levels, hashes, last_hashed: None, copied: None });
        Ok(())
    }

    /// Adds an entry. Its key must be greater than the previous one. If the tree has a filter, the filter contains the item
    /// `filter_on`; with `None` the filter does not contain the entry.
    ///
    /// Fails with [`Reason::TooLarge`] if the key exceeds [`limits::BLOCK_KEY_BYTES`] or the entry exceeds
    /// [`limits::BLOCK_BYTES_MAX`].
    pub fn add(&mut self, key: &[u8], filter_on: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let Some(open) = self.open.as_mut() else { return Err(bug("add was called outside a tree")) };
        let size = key.len().saturating_add(value.len()).saturating_add(ENTRY_OVERHEAD + COUNT_BYTES);
        if key.len() > limits::BLOCK_KEY_BYTES || size > limits::BLOCK_BYTES_MAX {
            let (key, value) = (key.len(), value.len());
            let text = format!(
                "cannot write an entry with a key of {key} bytes and a value of {value} bytes: the limits are {} and {} bytes",
                limits::BLOCK_KEY_BYTES,
                limits::BLOCK_BYTES_MAX
            );
            return Err(Error::new(Reason::TooLarge, text));
        }
        if open.entries > 0 && open.levels.first().is_some_and(|level| level.block.last_key() >= key) {
            return Err(bug("the keys of a tree do not ascend"));
        }
        if let Some(item) = filter_on {
            open.hash(item);
        }
        open.push(0, key, value, self.target, &mut self.blocks)?;
        open.entries += 1;
        Ok(())
    }

    /// Adds all entries of a data block of another file, without compressing them again. They must be greater than the
    /// previous entry. `filter_on` returns the item of an entry's key for the filter, as for [`SstWriter::add`].
    ///
    /// Returns false, and adds nothing, if the block is so small that the tree would consist of small blocks in the end.
    pub fn add_block(
        &mut self,
        block: &Block,
        stored: &StoredBlock,
        filter_on: impl for<'a> Fn(&'a [u8]) -> Option<&'a [u8]>,
    ) -> Result<bool> {
        let Some(open) = self.open.as_mut() else { return Err(bug("add_block was called outside a tree")) };
        let (Some(first), Some(last)) = (block.key(0), block.last_key()) else { return Ok(false) };
        if stored.raw_len() < self.target / 2 {
            return Ok(false);
        }
        if open.entries > 0 && open.levels.first().is_some_and(|level| level.block.last_key() >= first) {
            return Err(bug("the keys of a tree do not ascend"));
        }
        for item in (0..block.len()).filter_map(|at| block.key(at).and_then(&filter_on)) {
            open.hash(item);
        }
        open.copy_block(last, stored, self.target, &mut self.blocks)?;
        open.entries += block.len() as u64;
        Ok(true)
    }

    /// Ends the tree: writes its last blocks and its filter.
    pub fn end_tree(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Err(bug("end_tree was called outside a tree")) };
        let root = open.close(self.target, &mut self.blocks)?;
        let depth = u8::try_from(open.levels.len()).map_err(|_| bug("a tree has too many levels"))?;
        let depth = if root.is_some() { depth } else { 0 };
        let filter = open.hashes.map(|hashes| self.blocks.write_filter(hashes)).transpose()?;
        self.trees.push(Tree { id: open.id, depth, entries: open.entries, root, filter });
        Ok(())
    }

    /// Ends the file: writes the directory and the trailer. Returns the output and the length of the file in bytes.
    pub fn finish(mut self, properties: &[u8]) -> Result<(W, u64)> {
        if self.open.is_some() {
            return Err(bug("finish was called inside a tree"));
        }
        let mut trees = mem::take(&mut self.trees);
        trees.sort_unstable_by_key(|tree| tree.id);
        let raw = SstDirectory { properties: properties.to_vec(), trees }.encode()?;
        let directory = self.blocks.write(&raw)?;
        let trailer = Trailer { identity: self.blocks.identity, directory };
        self.blocks.write_bytes(&trailer.encode())?;
        self.blocks.out.flush().map_err(|e| Error::io("cannot write a block", &e))?;
        Ok((self.blocks.out, self.blocks.offset))
    }
}

impl OpenTree {
    /// Adds an item to the filter.
    fn hash(&mut self, item: &[u8]) {
        let Some(hashes) = self.hashes.as_mut().filter(|_| self.last_hashed.as_deref() != Some(item)) else {
            return;
        };
        hashes.push(filter::hash(item));
        let hashed = self.last_hashed.get_or_insert_default();
        hashed.clear();
        hashed.extend_from_slice(item);
    }

    /// Writes a data block as it is stored elsewhere, after the current one.
    fn copy_block<W: Write>(
        &mut self,
        last_key: &[u8],
        stored: &StoredBlock,
        target: usize,
        blocks: &mut BlockWriter<W>,
    ) -> Result<()> {
        if self.levels.first().is_some_and(|level| level.block.len() > 0) {
            self.write(0, target, blocks)?;
        }
        let block = stored.encode(blocks.identity, blocks.offset)?;
        let handle = blocks.append(&block)?;
        self.copied = Some(handle);
        if let Some(level) = self.levels.first_mut() {
            level.block.set_last_key(last_key);
            level.written += 1;
        }
        self.push(1, last_key, &handle.encode(), target, blocks)
    }

    /// Adds an entry to a level. Writes the current block of the level first if the entry does not fit.
    fn push<W: Write>(
        &mut self,
        number: usize,
        key: &[u8],
        value: &[u8],
        target: usize,
        blocks: &mut BlockWriter<W>,
    ) -> Result<()> {
        // Index blocks of one entry would add levels without end.
        let least = if number == 0 { 1 } else { 2 };
        let size = key.len() + value.len();
        let full = |level: &TreeLevel| level.block.len() >= least && level.block.len_with(size) > target;
        if self.levels.get(number).is_some_and(full) {
            self.write(number, target, blocks)?;
        }
        if self.levels.len() <= number {
            self.levels.push(TreeLevel::default());
        }
        let level = self.levels.get_mut(number).and_then(|level| level.block.push(key, value));
        level.ok_or_else(|| bug("an entry does not fit into a block"))
    }

    /// Writes the current block of a level, and adds its handle to the level above.
    fn write<W: Write>(&mut self, number: usize, target: usize, blocks: &mut BlockWriter<W>) -> Result<()> {
        let Some(level) = self.levels.get_mut(number) else { return Ok(()) };
        let handle = level.flush(blocks)?;
        let key = level.block.last_key().to_vec();
        self.push(number + 1, &key, &handle.encode(), target, blocks)
    }

    /// Writes the last block of each level, from the data upwards, and returns the root: the only block of its level.
    fn close<W: Write>(&mut self, target: usize, blocks: &mut BlockWriter<W>) -> Result<Option<BlockHandle>> {
        let mut number = 0;
        while let Some(level) = self.levels.get_mut(number) {
            if level.block.len() == 0 {
                // Nothing was added, or the last data block was copied.
                if level.written <= 1 {
                    self.levels.truncate(1);
                    return Ok(self.copied);
                }
                number += 1;
                continue;
            }
            if level.written == 0 {
                return level.flush(blocks).map(Some);
            }
            self.write(number, target, blocks)?;
            number += 1;
        }
        Ok(None)
    }
}

impl TreeLevel {
    fn flush<W: Write>(&mut self, blocks: &mut BlockWriter<W>) -> Result<BlockHandle> {
        let raw = self.block.finish().ok_or_else(|| bug("a block is longer than 4 GiB"))?;
        let handle = blocks.write(raw)?;
        self.block.clear();
        self.written += 1;
        Ok(handle)
    }
}

fn bug(what: &str) -> Error {
    Error::new(Reason::Internal, format!("cannot write an SST: {what}"))
}
