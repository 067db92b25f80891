//! The blocks in memory and the files held open, both for many files and both bounded.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::error::Result;
use crate::format::sst::{Block, TARGET_BYTES};
use crate::limits;
use crate::storage::fs::File;

/// About what the cache needs for a block beside its bytes.
const OVERHEAD: u64 = 128;

/// A block in memory.
#[derive(Debug, Clone)]
pub(super) enum Cached {
    Entries(Block),
    Partition(Bytes),
}

/// A block's file and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key(u64, u64);

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Cached> for Weight {
    fn weight(&self, _: &Key, block: &Cached) -> u64 {
        let bytes = match block {
            Cached::Entries(block) => block.bytes(),
            Cached::Partition(partition) => partition.len(),
        };
        bytes as u64 + OVERHEAD
    }
}

/// An open file. Who reads from it keeps it open, whatever the cache does.
pub(super) type Open = Arc<Box<dyn File>>;

/// Unpacked blocks of many files, up to a budget of bytes, and a bounded number of open files.
pub struct BlockCache {
    blocks: Cache<Key, Cached, Weight>,
    budget: u64,
    next_id: AtomicU64,
    files: Mutex<Files>,
}

#[derive(Default)]
struct Files {
    open: HashMap<u64, (Open, u64)>,
    /// Counts uses, so that the one longest ago is known.
    uses: u64,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl BlockCache {
    /// A cache that keeps up to about so many bytes of blocks.
    pub fn new(budget_bytes: u64) -> Arc<BlockCache> {
        let blocks = usize::try_from(budget_bytes / TARGET_BYTES as u64).unwrap_or(usize::MAX);
        Arc::new(BlockCache {
            blocks: Cache::with_weighter(blocks.clamp(1, 1 << 20), budget_bytes, Weight),
            budget: budget_bytes,
            next_id: AtomicU64::new(0),
            files: Mutex::default(),
        })
    }

    /// The bytes of blocks in memory now.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// The bytes of blocks that it may hold.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// How many files are held open now.
    pub fn open_files(&self) -> usize {
        self.files.lock().open.len()
    }

    pub(super) fn get(&self, file: u64, offset: u64) -> Option<Cached> {
        self.blocks.get(&Key(file, offset))
    }

    pub(super) fn put(&self, file: u64, offset: u64, block: Cached) {
        self.blocks.insert(Key(file, offset), block);
    }

    /// Takes in a file just opened, and names it.
    pub(super) fn admit(&self, file: Box<dyn File>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.files.lock().keep(id, Arc::new(file));
        id
    }

    /// A file by its id, opened where it is not.
    pub(super) fn file(&self, id: u64, open: impl FnOnce() -> Result<Box<dyn File>>) -> Result<Open> {
        if let Some(file) = self.files.lock().get(id) {
            return Ok(file);
        }
        // Not under the lock: opening may take long.
        let file: Open = Arc::new(open()?);
        self.files.lock().keep(id, Arc::clone(&file));
        Ok(file)
    }

    /// Lets go of a file that is not read any more.
    pub(super) fn close(&self, id: u64) {
        let closed = self.files.lock().open.remove(&id);
        drop(closed);
    }
}

impl Files {
    fn get(&mut self, id: u64) -> Option<Open> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(&id)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn keep(&mut self, id: u64, file: Open) {
        self.uses += 1;
        self.open.insert(id, (file, self.uses));
        if self.open.len() > limits::OPEN_SST_FILES {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(id, _)| *id);
            if let Some(oldest) = oldest {
                self.open.remove(&oldest);
            }
        }
    }
}
