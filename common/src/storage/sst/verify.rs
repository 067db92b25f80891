//! Verifies an SST: reads the whole file and checks every block, key and filter.

use super::file::SstFile;
use crate::error::Result;
use crate::format::sst::{BlockHandle, Tree};

/// What a walk through a tree has seen so far.
#[derive(Default)]
struct TreeWalk {
    /// The last key of the data blocks.
    last_key: Option<Vec<u8>>,
    entries: u64,
    bytes: u64,
}

impl SstFile {
    /// Reads every block of every tree and filter from disk and checks it: its CRC, the order of keys, that index and
    /// directory agree with it, and that the file contains nothing else. Returns the number of entries.
    pub fn verify(&self) -> Result<u64> {
        let (mut entries, mut bytes) = (0, 0);
        let directory_at = self.directory_handle().offset;
        for tree in &self.directory().trees {
            let mut walk = TreeWalk::default();
            if let Some(root) = tree.root {
                walk.visit(self, tree, root, tree.depth)?;
            }
            if walk.entries != tree.entries {
                let detail = format_args!(
                    "the directory says that tree {} has {} entries; it has {}",
                    tree.id, tree.entries, walk.entries
                );
                return Err(self.damaged(directory_at, detail));
            }
            entries += walk.entries;
            bytes += walk.bytes + verify_filter(self, tree)?;
        }
        if bytes != directory_at {
            let detail = format_args!(
                "the directory is at byte {directory_at}, and the blocks before it have {bytes} bytes"
            );
            return Err(self.damaged(directory_at, detail));
        }
        Ok(entries)
    }
}

impl TreeWalk {
    /// Checks a block and all blocks below it; `depth` is the number of levels, including this one.
    fn visit(&mut self, file: &SstFile, tree: &Tree, handle: BlockHandle, depth: u8) -> Result<()> {
        let block = file.read_entries(handle)?;
        let damaged = |detail: &str| Err(file.damaged(handle.offset, detail));
        self.bytes += u64::from(handle.len);
        for index in 0..block.len() {
            let (Some(key), Some(value)) = (block.key(index), block.value(index)) else {
                return damaged("an entry of the block is missing");
            };
            if let Some(lower) = depth.checked_sub(1).filter(|lower| *lower > 0) {
                let Ok(child) = BlockHandle::decode(&value) else {
                    return damaged("an index entry is not a block handle");
                };
                self.visit(file, tree, child, lower)?;
                if self.last_key.as_deref() != Some(key) {
                    return damaged("an index entry's key is not the last key of its block");
                }
                continue;
            }
            if self.last_key.as_deref().is_some_and(|last| last >= key) {
                return damaged("the keys are not in ascending order");
            }
            let last_key = self.last_key.get_or_insert_default();
            last_key.clear();
            last_key.extend_from_slice(key);
            self.entries += 1;
        }
        if self.entries > tree.entries {
            return damaged("the tree has more entries than the directory says");
        }
        Ok(())
    }
}

/// Checks a tree's filter, and returns its length in the file in bytes.
fn verify_filter(file: &SstFile, tree: &Tree) -> Result<u64> {
    let Some(place) = tree.filter else { return Ok(0) };
    for partition in 0..u64::from(place.partitions) {
        file.read_partition(&place, place.handle(partition))?;
    }
    Ok(place.handle(place.partitions.into()).offset.saturating_sub(place.offset))
}
