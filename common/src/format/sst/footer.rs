//! The end of a sorted block file: the directory of its trees, and the trailer that says where that is.

use super::{BlockError, BlockHandle, Fields, HEADER_BYTES, SstIdentity, filter};
use crate::error::{Error, Reason, Result};

/// Bytes of the trailer, the last of a file.
pub const TRAILER_BYTES: usize = 50;

const MAGIC: &[u8; 8] = b"DRIFTBLK";
const VERSION: u8 = 1;
/// The most levels of a tree: an index block has two entries or more, but for the last of a level.
const DEPTH_MAX: u8 = 64;

/// The last bytes of a file: what it is, and where its directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// What the file is.
    pub identity: SstIdentity,
    /// Where the directory block is. It ends where the trailer starts.
    pub directory: BlockHandle,
}

impl Trailer {
    /// The trailer's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(TRAILER_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.push(VERSION);
        bytes.push(self.identity.kind);
        bytes.extend_from_slice(&self.identity.table.to_le_bytes());
        bytes.extend_from_slice(&self.identity.base.to_le_bytes());
        bytes.extend_from_slice(&self.identity.seq.to_le_bytes());
        bytes.extend_from_slice(&self.directory.encode());
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a trailer, which takes up all of `bytes`. The error says what is wrong with it.
    pub fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Trailer, BlockError> {
        let (covered, stored) = bytes.split_last_chunk::<4>().ok_or(BlockError::Incomplete)?;
        let mut fields = Fields(covered);
        if &fields.array::<8>()? != MAGIC {
            return Err(BlockError::Trailer("it does not end as a sorted block file does"));
        }
        if crc32fast::hash(covered) != u32::from_le_bytes(*stored) {
            return Err(BlockError::Crc);
        }
        if fields.u8()? != VERSION {
            return Err(BlockError::Trailer("its version is unknown"));
        }
        let kind = fields.u8()?;
        let identity = SstIdentity { table: fields.u64()?, base: fields.u64()?, seq: fields.u64()?, kind };
        let directory = BlockHandle::decode(fields.0)?;
        Ok(Trailer { identity, directory })
    }
}

/// What a file holds beside its blocks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SstDirectory {
    /// Bytes that mean something to whom wrote the file.
    pub properties: Vec<u8>,
    /// The trees, by id.
    pub trees: Vec<Tree>,
}

/// A tree, as the directory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// Its id, which names it.
    pub id: u8,
    /// How many levels of blocks it has, that of the data counted; none where it is empty.
    pub depth: u8,
    /// How many entries it has.
    pub entries: u64,
    /// Its highest block; `None` where it is empty.
    pub root: Option<BlockHandle>,
    /// Its filter, where it has one.
    pub filter: Option<FilterHandle>,
}

/// Where a filter is: partitions of one length, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilterHandle {
    /// The offset of the first partition's block.
    pub offset: u64,
    /// How many partitions there are; at least one.
    pub partitions: u32,
    /// How many lines each of them has; at least one.
    pub lines: u32,
}

impl FilterHandle {
    /// The bytes of a partition.
    pub fn partition_bytes(&self) -> usize {
        usize::try_from(self.lines.min(filter::PARTITION_LINES)).unwrap_or(0) * filter::LINE_BYTES
    }

    /// Where a partition's block is.
    pub fn handle(&self, partition: u64) -> BlockHandle {
        let len = u32::try_from(HEADER_BYTES + self.partition_bytes()).unwrap_or(u32::MAX);
        BlockHandle { offset: self.offset.saturating_add(partition.saturating_mul(len.into())), len }
    }
}

impl SstDirectory {
    /// The raw content of the directory block.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| Error::new(Reason::TooLarge, "a directory is over the limit"))
        };
        let mut raw = Vec::new();
        raw.extend_from_slice(&count(self.properties.len())?.to_le_bytes());
        raw.extend_from_slice(&self.properties);
        raw.extend_from_slice(&count(self.trees.len())?.to_le_bytes());
        for tree in &self.trees {
            raw.extend_from_slice(&[tree.id, tree.depth]);
            raw.extend_from_slice(&tree.entries.to_le_bytes());
            raw.extend_from_slice(&tree.root.unwrap_or(BlockHandle { offset: 0, len: 0 }).encode());
            let filter = tree.filter.unwrap_or(FilterHandle { offset: 0, partitions: 0, lines: 0 });
            raw.extend_from_slice(&filter.offset.to_le_bytes());
            raw.extend_from_slice(&filter.partitions.to_le_bytes());
            raw.extend_from_slice(&filter.lines.to_le_bytes());
        }
        Ok(raw)
    }

    /// Reads the directory of a file whose blocks before it take up `blocks` bytes.
    pub fn decode(raw: &[u8], blocks: u64) -> Result<SstDirectory, BlockError> {
        let mut fields = Fields(raw);
        let len = usize::try_from(fields.u32()?).map_err(|_| BlockError::Incomplete)?;
        let properties = fields.bytes(len)?.to_vec();
        let count = fields.u32()?;
        if count > 256 {
            return Err(BlockError::Content("it has more trees than there are ids"));
        }
        let mut trees: Vec<Tree> = Vec::new();
        for _ in 0..count {
            let tree = Tree::decode(&mut fields, blocks)?;
            if trees.last().is_some_and(|last| last.id >= tree.id) {
                return Err(BlockError::Content("its trees do not ascend"));
            }
            trees.push(tree);
        }
        fields.end()?;
        Ok(SstDirectory { properties, trees })
    }

    /// The tree of an id.
    pub fn tree(&self, id: u8) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.id == id)
    }
}

impl Tree {
    fn decode(fields: &mut Fields<'_>, blocks: u64) -> Result<Tree, BlockError> {
        let (id, depth, entries) = (fields.u8()?, fields.u8()?, fields.u64()?);
        let root = fields.bytes(BlockHandle::BYTES)?;
        let filter = FilterHandle { offset: fields.u64()?, partitions: fields.u32()?, lines: fields.u32()? };
        let root = match (depth, entries) {
            (0, 0) if root == [0; BlockHandle::BYTES] => None,
            (1..=DEPTH_MAX, 1..) => Some(BlockHandle::decode(root)?),
            _ => return Err(BlockError::Content("a tree's levels, entries and root do not agree")),
        };
        if root.is_some_and(|root| root.end() > blocks) {
            return Err(BlockError::Content("a tree's root lies outside the file"));
        }
        let filter = match (filter.partitions, filter.lines) {
            (0, 0) if filter.offset == 0 => None,
            (1.., 1..=filter::PARTITION_LINES) => Some(filter),
            _ => return Err(BlockError::Content("no filter has such a shape")),
        };
        if filter.is_some_and(|filter| filter.handle(filter.partitions.into()).offset > blocks) {
            return Err(BlockError::Content("a filter lies outside the file"));
        }
        Ok(Tree { id, depth, entries, root, filter })
    }
}
