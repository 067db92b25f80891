//! Writes a sorted block file from front to back, holding one block of each level in memory.

use std::fmt;
use std::io::{self, Write};
use std::mem;

use super::block::{Builder, COUNT_BYTES, ENTRY_OVERHEAD};
use super::{
    BlockEncoder, BlockHandle, FilterHandle, SstDirectory, SstIdentity, TARGET_BYTES, Trailer, Tree,
    encode_raw, filter,
};
use crate::error::{Error, Reason, Result};
use crate::limits;

/// Writes a sorted block file.
///
/// Trees come one after the other, each between [`SstWriter::begin_tree`] and [`SstWriter::end_tree`], with its keys
/// ascending. After an error the file is of no use.
pub struct SstWriter<W> {
    blocks: Blocks<W>,
    target: usize,
    trees: Vec<Tree>,
    open: Option<Open>,
}

/// The tree being written.
struct Open {
    id: u8,
    entries: u64,
    /// The block being filled of each level, that of the data first.
    levels: Vec<Level>,
    /// What a filter is made from; `None` where none is wanted.
    hashes: Option<Vec<u64>>,
    /// The last bytes hashed.
    hashed: Option<Vec<u8>>,
}

#[derive(Default)]
struct Level {
    block: Builder,
    written: u64,
}

/// The file, and how far it has got.
struct Blocks<W> {
    out: W,
    identity: SstIdentity,
    offset: u64,
    packer: BlockEncoder,
}

impl<W> fmt::Debug for SstWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let identity = &self.blocks.identity;
        f.debug_struct("SstWriter").field("identity", identity).finish_non_exhaustive()
    }
}

impl<W: Write> Blocks<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let failed = |e: io::Error| Error::io("cannot write a block", &e);
        self.out.write_all(bytes).map_err(failed)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn place(&mut self, block: &[u8]) -> Result<BlockHandle> {
        let len = u32::try_from(block.len()).map_err(|_| defect("a block is over the limit"))?;
        let handle = BlockHandle { offset: self.offset, len };
        self.put(block)?;
        Ok(handle)
    }

    fn write(&mut self, raw: &[u8]) -> Result<BlockHandle> {
        let block = self.packer.pack(raw, self.identity, self.offset)?;
        self.place(&block)
    }

    /// Writes a filter of these hashes.
    fn write_filter(&mut self, mut hashes: Vec<u64>) -> Result<FilterHandle> {
        // In the order of the partitions they are in.
        hashes.sort_unstable();
        hashes.dedup();
        let shape = filter::shape(hashes.len()).ok_or_else(|| defect("a filter is over the limit"))?;
        let (partitions, lines) = shape;
        let place = FilterHandle { offset: self.offset, partitions, lines };
        let mut rest = hashes.as_slice();
        for number in 0..u64::from(partitions) {
            let len = rest.partition_point(|hash| filter::partition(&place, *hash) <= number);
            let (here, after) = rest.split_at(len);
            rest = after;
            // Unpacked, so that all have one length and a partition's place follows from its number.
            let block = encode_raw(&filter::fill(&place, here), self.identity, self.offset)?;
            self.put(&block)?;
        }
        Ok(place)
    }
}

impl<W: Write> SstWriter<W> {
    /// Starts a file.
    pub fn new(out: W, identity: SstIdentity) -> Result<SstWriter<W>> {
        let blocks = Blocks { out, identity, offset: 0, packer: BlockEncoder::new()? };
        Ok(SstWriter { blocks, target: TARGET_BYTES, trees: Vec::new(), open: None })
    }

    /// Makes blocks of about another size from now on, for tests that want many of them.
    pub fn set_target(&mut self, bytes: usize) {
        self.target = bytes.min(limits::BLOCK_BYTES_MAX);
    }

    /// Starts a tree, whose id none before it has.
    pub fn begin_tree(&mut self, id: u8, filtered: bool) -> Result<()> {
        if self.open.is_some() {
            return Err(defect("a tree is begun inside another"));
        }
        if self.trees.iter().any(|tree| tree.id == id) {
            return Err(defect("two trees have one id"));
        }
        let hashes = filtered.then(Vec::new);
        self.open = Some(Open { id, entries: 0, levels: vec![Level::default()], hashes, hashed: None });
        Ok(())
    }

    /// Adds an entry, whose key is greater than the one before. Where the tree is filtered, it is found by the bytes of
    /// `filter_on`, and never by [`filter::may_contain`] where those are `None`.
    pub fn add(&mut self, key: &[u8], filter_on: Option<&[u8]>, value: &[u8]) -> Result<()> {
        let Some(open) = self.open.as_mut() else { return Err(defect("an entry stands in no tree")) };
        let size = key.len().saturating_add(value.len()).saturating_add(ENTRY_OVERHEAD + COUNT_BYTES);
        if key.len() > limits::BLOCK_KEY_BYTES || size > limits::BLOCK_BYTES_MAX {
            let (key, value) = (key.len(), value.len());
            let text = format!("an entry with a key of {key} bytes and a value of {value} is over the limit");
            return Err(Error::new(Reason::TooLarge, text));
        }
        if open.entries > 0 && open.levels.first().is_some_and(|level| level.block.last_key() >= key) {
            return Err(defect("keys do not ascend"));
        }
        if let (Some(hashes), Some(item)) = (open.hashes.as_mut(), filter_on)
            && open.hashed.as_deref() != Some(item)
        {
            hashes.push(filter::hash(item));
            let hashed = open.hashed.get_or_insert_default();
            hashed.clear();
            hashed.extend_from_slice(item);
        }
        open.push(0, key, value, self.target, &mut self.blocks)?;
        open.entries += 1;
        Ok(())
    }

    /// Ends the tree: writes what is left of it, and its filter.
    pub fn end_tree(&mut self) -> Result<()> {
        let Some(mut open) = self.open.take() else { return Err(defect("no tree is to be ended")) };
        let root = open.close(self.target, &mut self.blocks)?;
        let depth = u8::try_from(open.levels.len()).map_err(|_| defect("a tree has too many levels"))?;
        let depth = if root.is_some() { depth } else { 0 };
        let filter = open.hashes.map(|hashes| self.blocks.write_filter(hashes)).transpose()?;
        self.trees.push(Tree { id: open.id, depth, entries: open.entries, root, filter });
        Ok(())
    }

    /// Ends the file. Hands back where it was written to, and its length in bytes.
    pub fn finish(mut self, properties: &[u8]) -> Result<(W, u64)> {
        if self.open.is_some() {
            return Err(defect("a tree has not been ended"));
        }
        let mut trees = mem::take(&mut self.trees);
        trees.sort_unstable_by_key(|tree| tree.id);
        let raw = SstDirectory { properties: properties.to_vec(), trees }.encode()?;
        let directory = self.blocks.write(&raw)?;
        let trailer = Trailer { identity: self.blocks.identity, directory };
        self.blocks.put(&trailer.encode())?;
        self.blocks.out.flush().map_err(|e| Error::io("cannot write a block", &e))?;
        Ok((self.blocks.out, self.blocks.offset))
    }
}

impl Open {
    /// Adds an entry to a level, and first writes that level's block where it is full.
    fn push<W: Write>(
        &mut self,
        number: usize,
        key: &[u8],
        value: &[u8],
        target: usize,
        blocks: &mut Blocks<W>,
    ) -> Result<()> {
        // An index block of one entry would be a level that leads nowhere.
        let least = if number == 0 { 1 } else { 2 };
        let size = key.len() + value.len();
        let full = |level: &Level| level.block.len() >= least && level.block.len_with(size) > target;
        if self.levels.get(number).is_some_and(full) {
            self.write(number, target, blocks)?;
        }
        if self.levels.len() <= number {
            self.levels.push(Level::default());
        }
        let level = self.levels.get_mut(number).and_then(|level| level.block.push(key, value));
        level.ok_or_else(|| defect("an entry has no place"))
    }

    /// Writes a level's block and enters it in the level above.
    fn write<W: Write>(&mut self, number: usize, target: usize, blocks: &mut Blocks<W>) -> Result<()> {
        let Some(level) = self.levels.get_mut(number) else { return Ok(()) };
        let handle = level.flush(blocks)?;
        let key = level.block.last_key().to_vec();
        self.push(number + 1, &key, &handle.encode(), target, blocks)
    }

    /// Writes what is left, from the data upwards, to the one block that has none beside it.
    fn close<W: Write>(&mut self, target: usize, blocks: &mut Blocks<W>) -> Result<Option<BlockHandle>> {
        let mut number = 0;
        while let Some(level) = self.levels.get_mut(number) {
            if level.block.len() == 0 {
                break;
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

impl Level {
    fn flush<W: Write>(&mut self, blocks: &mut Blocks<W>) -> Result<BlockHandle> {
        let raw = self.block.finish().ok_or_else(|| defect("a block is over the limit"))?;
        let handle = blocks.write(raw)?;
        self.block.clear();
        self.written += 1;
        Ok(handle)
    }
}

fn defect(what: &str) -> Error {
    Error::new(Reason::Internal, format!("cannot write a sorted block file: {what}"))
}
