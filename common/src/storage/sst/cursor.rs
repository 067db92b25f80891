//! A cursor over one tree of an SST.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;

use super::file::SstFile;
use crate::error::{Error, Result};
use crate::format::sst::{Block, BlockHandle, SstWriter, Tree};

/// A cursor over a tree: on an entry, before the first, or after the last. It keeps the blocks on its path in memory.
///
/// Before the first entry, [`TreeCursor::next`] moves to the first. After the last, `prev` moves to the last.
/// After an error, the cursor is on no entry.
#[derive(Debug, Clone)]
pub struct TreeCursor {
    file: Arc<SstFile>,
    tree: Option<Tree>,
    /// The blocks from the root to the data. Complete while the cursor is on an entry; otherwise a valid part of it.
    path: Vec<CursorLevel>,
    state: CursorState,
    /// Whether the cache keeps the blocks that the cursor reads.
    is_cached: bool,
}

/// Of a range in so many blocks or more, it does not matter where in the first and the last block it ends.
const MANY_BLOCKS: u64 = 4;

/// One block on a cursor's path, and the index of the entry in it.
#[derive(Debug, Clone)]
struct CursorLevel {
    block: Block,
    index: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CursorState {
    BeforeFirst,
    OnEntry,
    AfterLast,
}

/// Which entry of each block to follow on the way down.
#[derive(Clone, Copy)]
enum BlockEnd {
    First,
    Last,
}

impl SstFile {
    /// Returns a cursor over a tree, before its first entry. An absent tree is empty.
    pub fn cursor(self: &Arc<Self>, tree: u8) -> TreeCursor {
        let tree = self.directory().tree(tree).copied();
        let (path, state) = (Vec::new(), CursorState::BeforeFirst);
        TreeCursor { file: Arc::clone(self), tree, path, state, is_cached: true }
    }

    /// Returns a cursor that leaves no blocks in the cache: for jobs that read whole trees once, which would otherwise fill
    /// the cache with what nobody asks for.
    pub fn uncached_cursor(self: &Arc<Self>, tree: u8) -> TreeCursor {
        TreeCursor { is_cached: false, ..self.cursor(tree) }
    }

    /// About how many entries of a tree have keys from `low` on to `high` and keys that begin with it. If they are in many data
    /// blocks, none of these is read.
    pub fn estimate_entries(self: &Arc<Self>, tree: u8, (low, high): (&[u8], &[u8])) -> Result<u64> {
        let entries = self.entries(tree);
        let mut cursor = self.cursor(tree);
        let depth = cursor.depth();
        let mut estimate = 0;
        for depth in [depth.saturating_sub(1).max(1), depth] {
            let (first, _) = cursor.find_rank(depth, entries, &|key: &[u8]| key < low)?;
            let up_to_high = |key: &[u8]| key < high || key.starts_with(high);
            let (after, share) = cursor.find_rank(depth, entries, &up_to_high)?;
            estimate = after.saturating_sub(first);
            if estimate >= share.saturating_mul(MANY_BLOCKS) {
                break;
            }
        }
        Ok(estimate)
    }
}

impl TreeCursor {
    /// Returns the key of the present entry; `None` if the cursor is on no entry.
    pub fn key(&self) -> Option<&[u8]> {
        let level = self.leaf()?;
        level.block.key(level.index)
    }

    /// Returns the value of the present entry. It shares the block's memory and keeps the block in memory.
    pub fn value(&self) -> Option<Bytes> {
        let level = self.leaf()?;
        level.block.value(level.index)
    }

    /// Returns the bytes of the present entry's value.
    pub fn value_bytes(&self) -> Option<&[u8]> {
        let level = self.leaf()?;
        level.block.value_bytes(level.index)
    }

    /// Moves to the first entry whose key is at least `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.run_move(|cursor| {
            cursor.find(cursor.depth(), &|found: &[u8]| found < key, &|block| block.position(key, false))
        })
    }

    /// Moves to the first entry whose key is not `before`, a predicate that is true for a prefix of the sorted keys.
    pub(crate) fn seek_by(&mut self, before: impl Fn(&[u8]) -> bool) -> Result<()> {
        self.run_move(|cursor| cursor.find(cursor.depth(), &before, &|block| block.partition_point(&before)))
    }

    /// Moves to the last entry whose key is `upto`, a predicate that is true for a prefix of the sorted keys. If it is true
    /// for no key, moves before the first entry.
    pub(crate) fn seek_last_by(&mut self, upto: impl Fn(&[u8]) -> bool) -> Result<()> {
        self.seek_by(upto)?;
        self.prev()
    }

    /// Moves to the first entry.
    pub fn first(&mut self) -> Result<()> {
        self.run_move(|cursor| {
            cursor.path.truncate(1);
            cursor.load_root()?;
            cursor.move_to_end(BlockEnd::First);
            cursor
                .descend(BlockEnd::First)
                .map(|found| if found { CursorState::OnEntry } else { CursorState::AfterLast })
        })
    }

    /// Moves to the last entry.
    pub fn last(&mut self) -> Result<()> {
        self.run_move(|cursor| {
            cursor.path.truncate(1);
            cursor.load_root()?;
            cursor.move_to_end(BlockEnd::Last);
            cursor
                .descend(BlockEnd::Last)
                .map(|found| if found { CursorState::OnEntry } else { CursorState::BeforeFirst })
        })
    }

    /// Passes the entries from the present one on to `visit` until it returns false. Then the cursor is on the last entry passed.
    pub(crate) fn visit(&mut self, mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool>) -> Result<()> {
        while self.state == CursorState::OnEntry
            && let Some(level) = self.path.last_mut()
        {
            while let Some((key, value)) = level.block.key_and_value(level.index) {
                if !visit(key, value)? {
                    return Ok(());
                }
                if level.index + 1 == level.block.len() {
                    break;
                }
                level.index += 1;
            }
            self.next()?;
        }
        Ok(())
    }

    /// Moves to the next entry.
    #[expect(
        clippy::should_implement_trait,
        reason = "the entry borrows from the cursor, so this is no Iterator"
    )]
    pub fn next(&mut self) -> Result<()> {
        match self.state {
            CursorState::BeforeFirst => self.first(),
            CursorState::AfterLast => Ok(()),
            CursorState::OnEntry => self.run_move(|cursor| {
                while let Some(level) = cursor.path.last_mut() {
                    if level.index + 1 < level.block.len() {
                        level.index += 1;
                        cursor.descend(BlockEnd::First)?;
                        return Ok(CursorState::OnEntry);
                    }
                    cursor.path.pop();
                }
                Ok(CursorState::AfterLast)
            }),
        }
    }

    /// Moves to the previous entry.
    pub(crate) fn prev(&mut self) -> Result<()> {
        match self.state {
            CursorState::BeforeFirst => Ok(()),
            CursorState::AfterLast => self.last(),
            CursorState::OnEntry => self.run_move(|cursor| {
                while let Some(level) = cursor.path.last_mut() {
                    if let Some(index) = level.index.checked_sub(1) {
                        level.index = index;
                        cursor.descend(BlockEnd::Last)?;
                        return Ok(CursorState::OnEntry);
                    }
                    cursor.path.pop();
                }
                Ok(CursorState::BeforeFirst)
            }),
        }
    }

    /// Moves to the first entry whose key is greater than `key`.
    pub(crate) fn seek_after(&mut self, key: &[u8]) -> Result<()> {
        self.run_move(|cursor| {
            cursor.find(cursor.depth(), &|found: &[u8]| found <= key, &|block| block.position(key, true))
        })
    }

    /// Moves to the last entry whose key is at most `key`; before the first entry if there is none.
    pub(crate) fn seek_last(&mut self, key: &[u8]) -> Result<()> {
        self.seek_after(key)?;
        self.prev()
    }

    /// Finds the first entry whose key is not `before`, down to the block on level `depth` that has it. Returns about how many of
    /// the `entries` of the tree are before it or before what is below the same entry of that block, and how many are below each.
    fn find_rank(
        &mut self,
        depth: usize,
        entries: u64,
        before: &impl Fn(&[u8]) -> bool,
    ) -> Result<(u64, u64)> {
        let found = self.find(depth, before, &|block| block.partition_point(before))?;
        // From the root down, each block divides its share of the entries evenly.
        let (mut rank, mut share) = (0u128, u128::from(entries) << 64);
        for level in &self.path {
            share /= level.block.len().max(1) as u128;
            rank += share * level.index as u128;
        }
        let whole = |number: u128| u64::try_from(number >> 64).unwrap_or(u64::MAX);
        Ok((if found == CursorState::AfterLast { entries } else { whole(rank) }, whole(share)))
    }

    fn leaf(&self) -> Option<&CursorLevel> {
        if self.state == CursorState::OnEntry { self.path.last() } else { None }
    }

    /// Runs a move. If it fails, the cursor is on no entry.
    fn run_move(&mut self, steps: impl FnOnce(&mut Self) -> Result<CursorState>) -> Result<()> {
        match steps(self) {
            Ok(state) => {
                self.state = state;
                Ok(())
            }
            Err(e) => {
                self.path.clear();
                self.state = CursorState::AfterLast;
                Err(e)
            }
        }
    }

    fn depth(&self) -> usize {
        self.tree.map_or(0, |tree| tree.depth.into())
    }

    /// Loads the root if the path is empty. The path of an empty tree stays empty.
    fn load_root(&mut self) -> Result<()> {
        if let (true, Some(root)) = (self.path.is_empty(), self.tree.and_then(|tree| tree.root)) {
            self.path.push(CursorLevel { block: self.file.block(root, self.is_cached)?, index: 0 });
        }
        Ok(())
    }

    /// Moves to the first entry whose key is not `before`, on level `depth` of the blocks. `position` finds it in a block.
    fn find(
        &mut self,
        depth: usize,
        before: &impl Fn(&[u8]) -> bool,
        position: &impl Fn(&Block) -> usize,
    ) -> Result<CursorState> {
        while self.path.len() > 1 && !self.contains_target(before) {
            self.path.pop();
        }
        self.load_root()?;
        loop {
            let levels = self.path.len();
            let Some(level) = self.path.last_mut() else { return Ok(CursorState::AfterLast) };
            level.index = position(&level.block);
            if level.index == level.block.len() {
                // Below the root, the index promised a greater key than the block has.
                return if levels <= 1 { Ok(CursorState::AfterLast) } else { Err(self.bad_index_error()) };
            }
            if levels >= depth {
                return Ok(CursorState::OnEntry);
            }
            self.step_down()?;
        }
    }

    /// Returns whether the blocks on the path show that the first entry that is not `before` is in or below the last block.
    fn contains_target(&self, before: &impl Fn(&[u8]) -> bool) -> bool {
        let Some((level, parents)) = self.path.split_last() else { return false };
        // The parent is likely to be in the processor's cache, and has the last key of each block.
        let Some(parent) = parents.last() else { return false };
        if parent.block.key(parent.index).is_none_or(before) {
            return false;
        }
        // All entries of earlier blocks are `before` if the last key of the previous block is, or this block's first key.
        match parent.index.checked_sub(1).and_then(|previous| parent.block.key(previous)) {
            Some(previous) => before(previous),
            None => level.block.key(0).is_some_and(before),
        }
    }

    /// Moves down to the data, through the first or the last entry of each block. Returns false if the tree is empty.
    fn descend(&mut self, end: BlockEnd) -> Result<bool> {
        while !self.path.is_empty() && self.path.len() < self.depth() {
            self.step_down()?;
            self.move_to_end(end);
        }
        Ok(!self.path.is_empty())
    }

    /// Moves to the first or the last entry of the last block.
    fn move_to_end(&mut self, end: BlockEnd) {
        if let Some(level) = self.path.last_mut() {
            level.index = match end {
                BlockEnd::First => 0,
                BlockEnd::Last => level.block.len().saturating_sub(1),
            };
        }
    }

    /// Loads the block that the present entry of the last block points to.
    fn step_down(&mut self) -> Result<()> {
        let value = self.path.last().and_then(|level| level.block.value(level.index));
        let handle = value.ok_or_else(|| self.bad_index_error())?;
        let handle = BlockHandle::decode(&handle).map_err(|_| self.bad_index_error())?;
        self.path.push(CursorLevel { block: self.file.block(handle, self.is_cached)?, index: 0 });
        Ok(())
    }

    /// The last key of the data block whose first entry the cursor is on; `None` on any other entry.
    pub(crate) fn last_key_from_start(&self) -> Option<&[u8]> {
        let level = self.leaf().filter(|level| level.index == 0)?;
        level.block.last_key()
    }

    /// Adds all entries of the data block whose first entry the cursor is on to another file, as they are stored, and moves
    /// past them. Returns false, and moves nowhere, if [`SstWriter::add_block`] does not take the block.
    pub(crate) fn copy_block<W: Write>(
        &mut self,
        out: &mut SstWriter<W>,
        filter_on: impl for<'a> Fn(&'a [u8]) -> Option<&'a [u8]>,
    ) -> Result<bool> {
        let Some((_, parents)) = self.path.split_last() else { return Ok(false) };
        let handle = match parents.last() {
            Some(parent) => {
                let value = parent.block.value(parent.index).ok_or_else(|| self.bad_index_error())?;
                BlockHandle::decode(&value).map_err(|_| self.bad_index_error())?
            }
            None => match self.tree.and_then(|tree| tree.root) {
                Some(root) => root,
                None => return Ok(false),
            },
        };
        let (stored, block) = self.file.read_stored(handle)?;
        if !out.add_block(&block, &stored, filter_on)? {
            return Ok(false);
        }
        if let Some(level) = self.path.last_mut() {
            level.index = level.block.len().saturating_sub(1);
        }
        self.next()?;
        Ok(true)
    }

    fn bad_index_error(&self) -> Error {
        let root = self.tree.and_then(|tree| tree.root).map_or(0, |root| root.offset);
        self.file.damaged(root, "the index below this root block points to wrong blocks")
    }
}
