//! The block cache: a bounded number of unpacked blocks and of open files, shared by many SSTs.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::{Cache, DefaultLifecycle};

use crate::error::{Reason, Result};
use crate::format::sst::{Block, TARGET_BYTES};
use crate::metrics::catalog;
use crate::metrics::samples::Samples;
use crate::storage::descriptors::{DescriptorShares, RecentlyUsed};
use crate::storage::fs::File;

/// The approximate overhead of a cached block, in bytes.
const OVERHEAD_BYTES: u64 = 128;

/// An unpacked block in memory.
#[derive(Debug, Clone)]
pub(super) enum CachedBlock {
    Entries(Block),
    Partition(Bytes),
}

/// A block's file id and offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct BlockKey(u64, u64);

/// Hashes a block's file id and offset. Both are numbers that DriftDB gives out, so no caller can choose keys that collide.
#[derive(Debug, Default)]
struct BlockHasher(u64);

/// 2⁶⁴ divided by the golden ratio, rounded to an odd number.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for BlockHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(SPREAD);
        self.0 = mixed ^ mixed >> 32;
    }

    fn finish(&self) -> u64 {
        let mixed = self.0.wrapping_mul(SPREAD);
        mixed ^ mixed >> 29
    }
}

#[derive(Clone)]
struct BlockWeighter;

impl Weighter<BlockKey, CachedBlock> for BlockWeighter {
    fn weight(&self, _: &BlockKey, block: &CachedBlock) -> u64 {
        let bytes = match block {
            CachedBlock::Entries(block) => block.bytes(),
            CachedBlock::Partition(partition) => partition.len(),
        };
        bytes as u64 + OVERHEAD_BYTES
    }
}

/// An open file. A reader keeps it open even after the cache has dropped it.
pub(super) type SharedFile = Arc<Box<dyn File>>;

/// Caches unpacked blocks of many files, up to a budget in bytes, and a bounded number of open files.
pub struct BlockCache {
    blocks: Cache<BlockKey, CachedBlock, BlockWeighter, BuildHasherDefault<BlockHasher>>,
    budget: u64,
    next_id: AtomicU64,
    files: Mutex<OpenFileTable>,
    hits: AtomicU64,
    misses: AtomicU64,
}

struct OpenFileTable {
    open: HashMap<u64, SharedFile>,
    used: RecentlyUsed,
}

impl fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockCache").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl BlockCache {
    /// Creates a cache for about `budget_bytes` of blocks.
    pub fn new(budget_bytes: u64) -> Arc<BlockCache> {
        let blocks = usize::try_from(budget_bytes / TARGET_BYTES as u64).unwrap_or(usize::MAX);
        let blocks = blocks.clamp(1, 1 << 20);
        let (hasher, lifecycle) = (BuildHasherDefault::default(), DefaultLifecycle::default());
        Arc::new(BlockCache {
            blocks: Cache::with(blocks, budget_bytes, BlockWeighter, hasher, lifecycle),
            budget: budget_bytes,
            next_id: AtomicU64::new(0),
            files: Mutex::new(OpenFileTable {
                open: HashMap::new(),
                used: RecentlyUsed::new(DescriptorShares::of_process().sst_files),
            }),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Returns the bytes of blocks in memory.
    pub fn used_bytes(&self) -> u64 {
        self.blocks.weight()
    }

    /// Returns the budget for blocks, in bytes.
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// Returns the number of open files.
    pub fn open_files(&self) -> usize {
        self.files.lock().open.len()
    }

    pub(super) fn get(&self, file: u64, offset: u64) -> Option<CachedBlock> {
        let found = self.blocks.get(&BlockKey(file, offset));
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Reads the metrics of the cache.
    pub fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::CACHE_BYTES, self.used_bytes());
        samples.set(&catalog::CACHE_LIMIT, self.budget);
        samples.set_with(&catalog::CACHE_REQUESTS, &["hit"], self.hits.load(Ordering::Relaxed));
        samples.set_with(&catalog::CACHE_REQUESTS, &["miss"], self.misses.load(Ordering::Relaxed));
    }

    pub(super) fn put(&self, file: u64, offset: u64, block: CachedBlock) {
        self.blocks.insert(BlockKey(file, offset), block);
    }

    /// Adds an open file, and returns its new id.
    pub(super) fn register(&self, file: Box<dyn File>) -> u64 {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let closed = self.files.lock().insert(id, Arc::new(file));
        drop(closed);
        id
    }

    /// Returns a file by its id. Calls `open` if the file is not open.
    pub(super) fn file(&self, id: u64, open: impl Fn() -> Result<Box<dyn File>>) -> Result<SharedFile> {
        if let Some(file) = self.files.lock().get(id) {
            return Ok(file);
        }
        // Without the lock, because an open may take long.
        let opened = match open() {
            Err(error) if error.reason() == Reason::Overloaded => {
                // Too many files are open: these can be opened again.
                let closed = self.files.lock().close_half();
                drop(closed);
                open()
            }
            opened => opened,
        };
        let file: SharedFile = Arc::new(opened?);
        let closed = self.files.lock().insert(id, Arc::clone(&file));
        drop(closed);
        Ok(file)
    }

    /// Closes a file that is no longer used.
    pub(super) fn close(&self, id: u64) {
        let closed = self.files.lock().remove(id);
        drop(closed);
    }
}

impl OpenFileTable {
    fn get(&mut self, id: u64) -> Option<SharedFile> {
        let file = Arc::clone(self.open.get(&id)?);
        // The file is in the set already, so none has to be closed for it.
        self.used.touch(id);
        Some(file)
    }

    /// Adds a file. Returns the file to close if too many are open.
    fn insert(&mut self, id: u64, file: SharedFile) -> Option<SharedFile> {
        self.open.insert(id, file);
        self.used.touch(id).and_then(|oldest| self.open.remove(&oldest))
    }

    fn remove(&mut self, id: u64) -> Option<SharedFile> {
        self.used.remove(id);
        self.open.remove(&id)
    }

    /// Removes the half of the files that was not used for the longest time, for the caller to close.
    fn close_half(&mut self) -> Vec<SharedFile> {
        let oldest = (0..self.used.len() / 2).filter_map(|_| self.used.pop_oldest()).collect::<Vec<u64>>();
        oldest.iter().filter_map(|id| self.open.remove(id)).collect()
    }
}
