//! A place in a tree of a sorted block file, and the ways to move it.

use std::sync::Arc;

use bytes::Bytes;

use super::SstFile;
use crate::error::Result;
use crate::format::sst::{Block, BlockHandle, Tree};

/// A place in a tree: on an entry, before the first, or past the last. It keeps the blocks that it stands on.
///
/// From before the first entry [`TreeCursor::next`] goes to the first, from past the last [`TreeCursor::prev`] goes to
/// the last. After an error it stands on no entry.
#[derive(Debug, Clone)]
pub struct TreeCursor {
    file: Arc<SstFile>,
    tree: Option<Tree>,
    /// From the root to the data. Whole while the cursor stands on an entry; otherwise a part of it may be left, whose
    /// blocks are as good as ever.
    path: Vec<Step>,
    spot: Spot,
}

#[derive(Debug, Clone)]
struct Step {
    block: Block,
    at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spot {
    Before,
    On,
    Past,
}

/// Which entry of each block on the way down.
#[derive(Clone, Copy)]
enum End {
    First,
    Last,
}

impl TreeCursor {
    pub(super) fn new(file: Arc<SstFile>, tree: Option<Tree>) -> TreeCursor {
        TreeCursor { file, tree, path: Vec::new(), spot: Spot::Before }
    }

    /// The key of the entry that it stands on.
    pub fn key(&self) -> Option<&[u8]> {
        let step = self.leaf()?;
        step.block.key(step.at)
    }

    /// The value of the entry that it stands on. It shares a block's memory, and keeps that.
    pub fn value(&self) -> Option<Bytes> {
        let step = self.leaf()?;
        step.block.value(step.at)
    }

    /// Goes to the first entry whose key is `key` or greater.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.seek_by(|found| found < key)
    }

    /// Goes to the first entry whose key is not `before`, which holds for the keys up to some place and for none after.
    pub fn seek_by(&mut self, before: impl Fn(&[u8]) -> bool) -> Result<()> {
        self.moving(|cursor| cursor.find(&before))
    }

    /// Goes to the last entry whose key is `upto`, which holds for the keys up to some place and for none after. Where
    /// it holds for none, before the first.
    pub fn seek_last_by(&mut self, upto: impl Fn(&[u8]) -> bool) -> Result<()> {
        self.seek_by(upto)?;
        self.prev()
    }

    /// Goes to the first entry.
    pub fn first(&mut self) -> Result<()> {
        self.moving(|cursor| {
            cursor.path.truncate(1);
            cursor.rooted()?;
            cursor.turn(End::First);
            cursor.descend(End::First).map(|found| if found { Spot::On } else { Spot::Past })
        })
    }

    /// Goes to the last entry.
    pub fn last(&mut self) -> Result<()> {
        self.moving(|cursor| {
            cursor.path.truncate(1);
            cursor.rooted()?;
            cursor.turn(End::Last);
            cursor.descend(End::Last).map(|found| if found { Spot::On } else { Spot::Before })
        })
    }

    /// Goes to the next entry.
    #[expect(clippy::should_implement_trait, reason = "it moves, and its entry is borrowed from it")]
    pub fn next(&mut self) -> Result<()> {
        match self.spot {
            Spot::Before => self.first(),
            Spot::Past => Ok(()),
            Spot::On => self.moving(|cursor| {
                while let Some(step) = cursor.path.last_mut() {
                    if step.at + 1 < step.block.len() {
                        step.at += 1;
                        cursor.descend(End::First)?;
                        return Ok(Spot::On);
                    }
                    cursor.path.pop();
                }
                Ok(Spot::Past)
            }),
        }
    }

    /// Goes to the entry before.
    pub fn prev(&mut self) -> Result<()> {
        match self.spot {
            Spot::Before => Ok(()),
            Spot::Past => self.last(),
            Spot::On => self.moving(|cursor| {
                while let Some(step) = cursor.path.last_mut() {
                    if let Some(at) = step.at.checked_sub(1) {
                        step.at = at;
                        cursor.descend(End::Last)?;
                        return Ok(Spot::On);
                    }
                    cursor.path.pop();
                }
                Ok(Spot::Before)
            }),
        }
    }

    fn leaf(&self) -> Option<&Step> {
        if self.spot == Spot::On { self.path.last() } else { None }
    }

    /// Does a move, and stands on no entry where it fails.
    fn moving(&mut self, run: impl FnOnce(&mut Self) -> Result<Spot>) -> Result<()> {
        match run(self) {
            Ok(spot) => {
                self.spot = spot;
                Ok(())
            }
            Err(e) => {
                self.path.clear();
                self.spot = Spot::Past;
                Err(e)
            }
        }
    }

    fn depth(&self) -> usize {
        self.tree.map_or(0, |tree| tree.depth.into())
    }

    /// Puts the root on the path where that is empty. The path stays empty where the tree is.
    fn rooted(&mut self) -> Result<()> {
        if let (true, Some(root)) = (self.path.is_empty(), self.tree.and_then(|tree| tree.root)) {
            self.path.push(Step { block: self.file.block(root)?, at: 0 });
        }
        Ok(())
    }

    fn find(&mut self, before: &impl Fn(&[u8]) -> bool) -> Result<Spot> {
        while self.path.len() > 1 && !self.leads(before) {
            self.path.pop();
        }
        self.rooted()?;
        loop {
            let depth = self.depth();
            let level = self.path.len();
            let Some(step) = self.path.last_mut() else { return Ok(Spot::Past) };
            step.at = step.block.partition_point(before);
            if step.at == step.block.len() {
                // Below the root this means that an index says more than its block holds.
                return if level <= 1 { Ok(Spot::Past) } else { Err(self.misled()) };
            }
            if level >= depth {
                return Ok(Spot::On);
            }
            self.step_down()?;
        }
    }

    /// Whether the first entry that is not `before` lies below the last step, as far as the blocks at hand show.
    fn leads(&self, before: &impl Fn(&[u8]) -> bool) -> bool {
        let Some((step, above)) = self.path.split_last() else { return false };
        if step.block.last_key().is_none_or(before) {
            return false;
        }
        // What lies before it is `before` when its own first key is, or the last key of its neighbour.
        let neighbour = above.last().and_then(|above| above.block.key(above.at.checked_sub(1)?));
        step.block.key(0).is_some_and(before) || neighbour.is_some_and(before)
    }

    /// Goes down to the data, by the first or the last entry of each block below. Whether there is any.
    fn descend(&mut self, end: End) -> Result<bool> {
        while !self.path.is_empty() && self.path.len() < self.depth() {
            self.step_down()?;
            self.turn(end);
        }
        Ok(!self.path.is_empty())
    }

    /// Goes to an end of the last step's block.
    fn turn(&mut self, end: End) {
        if let Some(step) = self.path.last_mut() {
            step.at = match end {
                End::First => 0,
                End::Last => step.block.len().saturating_sub(1),
            };
        }
    }

    /// Puts the block on the path that the last step's entry leads to.
    fn step_down(&mut self) -> Result<()> {
        let value = self.path.last().and_then(|step| step.block.value(step.at));
        let handle = value.ok_or_else(|| self.misled())?;
        let handle = BlockHandle::decode(&handle).map_err(|_| self.misled())?;
        self.path.push(Step { block: self.file.block(handle)?, at: 0 });
        Ok(())
    }

    fn misled(&self) -> crate::error::Error {
        let root = self.tree.and_then(|tree| tree.root).map_or(0, |root| root.offset);
        self.file.damaged(root, "the index below this root leads nowhere")
    }
}
