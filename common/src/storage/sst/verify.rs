//! Reads a whole sorted block file and checks that it is as its writer left it.

use super::SstFile;
use crate::error::Result;
use crate::format::sst::{BlockHandle, Tree};

/// What a walk through a tree has seen.
#[derive(Default)]
struct Walk {
    /// The last key, of the data.
    last: Option<Vec<u8>>,
    entries: u64,
    bytes: u64,
}

pub(super) fn verify(file: &SstFile) -> Result<u64> {
    let (mut entries, mut bytes) = (0, 0);
    for tree in &file.directory.trees {
        let mut walk = Walk::default();
        if let Some(root) = tree.root {
            walk.below(file, tree, root, tree.depth)?;
        }
        if walk.entries != tree.entries {
            let what = format_args!("tree {} has {} entries, not {}", tree.id, walk.entries, tree.entries);
            return Err(file.damaged(file.directory_at.offset, what));
        }
        entries += walk.entries;
        bytes += walk.bytes + filter(file, tree)?;
    }
    if bytes != file.directory_at.offset {
        let what = format_args!("its blocks have {bytes} bytes, which leaves some over");
        return Err(file.damaged(file.directory_at.offset, what));
    }
    Ok(entries)
}

impl Walk {
    /// Checks a block and all below it, `depth` levels in all.
    fn below(&mut self, file: &SstFile, tree: &Tree, handle: BlockHandle, depth: u8) -> Result<()> {
        let block = file.read_entries(handle)?;
        let damaged = |what: &str| Err(file.damaged(handle.offset, what));
        self.bytes += u64::from(handle.len);
        for index in 0..block.len() {
            let (Some(key), Some(value)) = (block.key(index), block.value(index)) else {
                return damaged("an entry is missing");
            };
            if let Some(lower) = depth.checked_sub(1).filter(|lower| *lower > 0) {
                let Ok(child) = BlockHandle::decode(&value) else {
                    return damaged("an index entry is no place");
                };
                self.below(file, tree, child, lower)?;
                if self.last.as_deref() != Some(key) {
                    return damaged("an index entry has another key than its block ends with");
                }
                continue;
            }
            if self.last.as_deref().is_some_and(|last| last >= key) {
                return damaged("its keys do not ascend");
            }
            let last = self.last.get_or_insert_default();
            last.clear();
            last.extend_from_slice(key);
            self.entries += 1;
        }
        if self.entries > tree.entries {
            return damaged("its tree has more entries than the directory says");
        }
        Ok(())
    }
}

/// Checks a tree's filter. Hands back its bytes in the file.
fn filter(file: &SstFile, tree: &Tree) -> Result<u64> {
    let Some(place) = tree.filter else { return Ok(0) };
    for partition in 0..u64::from(place.partitions) {
        file.read_partition(&place, place.handle(partition))?;
    }
    Ok(place.handle(place.partitions.into()).offset.saturating_sub(place.offset))
}
