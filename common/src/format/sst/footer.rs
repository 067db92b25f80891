//! The end of an SST: the directory of its trees, and the trailer that contains the handle of the directory.

use super::error::BlockError;
use super::field_reader::FieldReader;
use super::filter::{self, FilterHandle};
use super::handle::{BlockHandle, SstIdentity};
use crate::error::{Error, Reason, Result};

/// The length of the trailer, in bytes. It is the last part of a file.
pub const TRAILER_BYTES: usize = 50;

const MAGIC: &[u8; 8] = b"DRIFTBLK";
const VERSION: u8 = 1;
/// The maximum number of levels of a tree. Every index block except the last of a level has at least two entries.
const DEPTH_MAX: u8 = 64;

/// The last bytes of a file: its identity, and the handle of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trailer {
    /// The identity of the file.
    pub identity: SstIdentity,
    /// The directory block, which ends where the trailer starts.
    pub directory: BlockHandle,
}

impl Trailer {
    /// Encodes the trailer.
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

    /// Decodes a trailer.
    pub fn decode(bytes: &[u8; TRAILER_BYTES]) -> Result<Trailer, BlockError> {
        let (covered, stored) = bytes.split_last_chunk::<4>().ok_or(BlockError::Incomplete)?;
        let mut fields = FieldReader::new(covered);
        if &fields.array::<8>()? != MAGIC {
            return Err(BlockError::Trailer("it does not end with the trailer of an SST"));
        }
        if crc32fast::hash(covered) != u32::from_le_bytes(*stored) {
            return Err(BlockError::Crc);
        }
        if fields.u8()? != VERSION {
            return Err(BlockError::Trailer(
                "its SST version is unknown: a newer DriftDB may have written it",
            ));
        }
        let kind = fields.u8()?;
        let identity = SstIdentity { table: fields.u64()?, base: fields.u64()?, seq: fields.u64()?, kind };
        let directory = BlockHandle::decode(fields.bytes(BlockHandle::BYTES)?)?;
        Ok(Trailer { identity, directory })
    }
}

/// The trees of a file, and the properties that its writer stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SstDirectory {
    /// Bytes that only the user of the SST interprets.
    pub properties: Vec<u8>,
    /// The trees, in ascending order of their ids.
    pub trees: Vec<Tree>,
}

/// A tree of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tree {
    /// The id, unique in the file.
    pub id: u8,
    /// The number of levels of blocks, data blocks included; 0 if the tree is empty.
    pub depth: u8,
    /// The number of entries.
    pub entries: u64,
    /// The root block; `None` if the tree is empty.
    pub root: Option<BlockHandle>,
    /// The filter, if the tree has one.
    pub filter: Option<FilterHandle>,
}

impl SstDirectory {
    /// Encodes the raw content of the directory block.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let count = |len: usize| {
            u32::try_from(len).map_err(|_| {
                let message = format!("cannot write an SST: its directory has a length of {len}");
                Error::new(Reason::TooLarge, message)
            })
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

    /// Decodes the directory of a file. `blocks` is the length of all blocks before the directory, in bytes.
    pub fn decode(raw: &[u8], blocks: u64) -> Result<SstDirectory, BlockError> {
        let mut fields = FieldReader::new(raw);
        let len = usize::try_from(fields.u32()?).map_err(|_| BlockError::Incomplete)?;
        let properties = fields.bytes(len)?.to_vec();
        let count = fields.u32()?;
        if count > 256 {
            return Err(BlockError::Content("its directory has more than 256 trees"));
        }
        let mut trees: Vec<Tree> = Vec::new();
        for _ in 0..count {
            let tree = Tree::decode(&mut fields, blocks)?;
            if trees.last().is_some_and(|last| last.id >= tree.id) {
                return Err(BlockError::Content("the ids of its trees do not ascend"));
            }
            trees.push(tree);
        }
        fields.finish()?;
        Ok(SstDirectory { properties, trees })
    }

    /// The tree with an id.
    pub fn tree(&self, id: u8) -> Option<&Tree> {
        self.trees.iter().find(|tree| tree.id == id)
    }
}

impl Tree {
    fn decode(fields: &mut FieldReader<'_>, blocks: u64) -> Result<Tree, BlockError> {
        let (id, depth, entries) = (fields.u8()?, fields.u8()?, fields.u64()?);
        let root = fields.bytes(BlockHandle::BYTES)?;
        let filter = FilterHandle { offset: fields.u64()?, partitions: fields.u32()?, lines: fields.u32()? };
        let root = match (depth, entries) {
            (0, 0) if root == [0; BlockHandle::BYTES] => None,
            (1..=DEPTH_MAX, 1..) => Some(BlockHandle::decode(root)?),
            _ => return Err(BlockError::Content("a tree's depth, entries and root do not agree")),
        };
        if root.is_some_and(|root| root.end() > blocks) {
            return Err(BlockError::Content("a tree's root is outside the file"));
        }
        let filter = match (filter.partitions, filter.lines) {
            (0, 0) if filter.offset == 0 => None,
            (1.., 1..=filter::PARTITION_LINES) => Some(filter),
            _ => return Err(BlockError::Content("a filter has an invalid shape")),
        };
        if filter.is_some_and(|filter| filter.handle(filter.partitions.into()).offset > blocks) {
            return Err(BlockError::Content("a filter is outside the file"));
        }
        Ok(Tree { id, depth, entries, root, filter })
    }
}
