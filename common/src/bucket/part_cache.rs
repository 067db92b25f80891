//! Parts of objects on disk, with a budget in bytes: what was read from the bucket once is read from here.
//!
//! A part has a CRC, so that one that a power cut has torn is fetched again. The parts that were not used for the longest time go first.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::bucket::part_requests::PartRequests;
use crate::error::{Error, Result};
use crate::metrics::samples::Samples;
use crate::metrics::{catalog, counter_of};
use crate::storage::fs::{self, FileSystem};

/// The length of a part. The last one of an object can be shorter.
pub(super) const CACHED_PART_BYTES: u64 = 128 << 10;
/// Parts that are fetched ahead take at most the budget divided by this.
const AHEAD_SHARE: u64 = 16;
/// The length of the CRC at the end of a file.
const CRC_BYTES: usize = 4;

/// A cached part.
#[derive(Debug, Clone, Copy)]
struct CachedPart {
    bytes: u64,
    used_at: u64,
}

/// What is cached.
#[derive(Debug, Default)]
struct CacheIndex {
    parts: HashMap<String, CachedPart>,
    bytes: u64,
    clock: u64,
}

/// Parts of the objects of a bucket, in a directory.
#[derive(Debug)]
pub(super) struct PartCache {
    fs: Arc<dyn FileSystem>,
    dir: PathBuf,
    budget: u64,
    index: Mutex<CacheIndex>,
    /// Makes the names of unfinished files unique.
    unfinished: AtomicU64,
}

impl PartCache {
    /// Opens the cache in a directory. Keeps what an earlier process has left there.
    pub(super) fn open(fs: Arc<dyn FileSystem>, dir: PathBuf, budget: u64) -> Result<PartCache> {
        let failed = |e| Error::io(format_args!("cannot open the cache {}", dir.display()), &e);
        fs.create_dir(&dir).map_err(failed)?;
        let mut index = CacheIndex::default();
        for name in fs.list(&dir).map_err(failed)? {
            let path = dir.join(&name);
            if name.ends_with(".tmp") {
                fs::remove_if_exists(&*fs, &path).map_err(failed)?;
                continue;
            }
            let bytes = fs.open(&path).and_then(|file| file.len()).map_err(failed)?;
            index.bytes += bytes;
            index.parts.insert(name, CachedPart { bytes, used_at: 0 });
        }
        let cache = PartCache { fs, dir, budget, index: Mutex::new(index), unfinished: AtomicU64::new(0) };
        cache.evict()?;
        Ok(cache)
    }

    /// A part of an object: from the cache, or from the bucket. If it is fetched, then with the parts after it, up to `window` parts and
    /// up to the first that is cached: a request takes much longer than its bytes.
    pub(super) fn read(
        &self,
        requests: &Arc<PartRequests>,
        (object, len): (&str, u64),
        part: u64,
        window: u64,
    ) -> Result<Bytes> {
        // The name of an object ends with the digest of its content.
        let digest = object.rsplit('.').next().unwrap_or(object);
        let name = |part: u64| format!("{digest}-{part}");
        if let Some(bytes) = self.find(&name(part)) {
            count_parts("hit", 1);
            return Ok(bytes);
        }
        let most = window.min(self.budget / CACHED_PART_BYTES / AHEAD_SHARE).max(1);
        let parts = {
            let index = self.index.lock();
            (1..most).find(|next| index.parts.contains_key(&name(part + next))).unwrap_or(most)
        };
        let start = part * CACHED_PART_BYTES;
        let bytes = requests.read(object, start..len.min(start + parts * CACHED_PART_BYTES))?;
        let size = usize::try_from(CACHED_PART_BYTES).unwrap_or(usize::MAX);
        let mut kept = 0;
        while kept < bytes.len() {
            let end = bytes.len().min(kept + size);
            self.keep(&name(part + (kept / size) as u64), &bytes.slice(kept..end))?;
            kept = end;
        }
        count_parts("miss", 1);
        count_parts("ahead", bytes.len().div_ceil(size).saturating_sub(1));
        Ok(bytes.slice(..bytes.len().min(size)))
    }

    /// Reads the metrics of the cache.
    pub(super) fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::PART_BYTES, self.index.lock().bytes);
        samples.set(&catalog::PART_LIMIT, self.budget);
    }

    /// A part that is cached and whole.
    fn find(&self, name: &str) -> Option<Bytes> {
        {
            let mut index = self.index.lock();
            index.clock += 1;
            let now = index.clock;
            index.parts.get_mut(name)?.used_at = now;
        }
        let limit = CACHED_PART_BYTES + CRC_BYTES as u64;
        // What cannot be read is fetched again.
        let bytes = Bytes::from(fs::read(&*self.fs, &self.dir.join(name), limit).ok()??);
        let end = bytes.len().checked_sub(CRC_BYTES)?;
        let is_whole = bytes.get(end..) == Some(&crc32fast::hash(bytes.get(..end)?).to_le_bytes()[..]);
        is_whole.then(|| bytes.slice(..end))
    }

    fn keep(&self, name: &str, bytes: &Bytes) -> Result<()> {
        let path = self.dir.join(name);
        let number = self.unfinished.fetch_add(1, Ordering::Relaxed);
        let temporary = self.dir.join(format!("{name}.{number}.tmp"));
        let crc = crc32fast::hash(bytes).to_le_bytes();
        let steps = || {
            let file = self.fs.create(&temporary)?;
            file.write_at(bytes, 0)?;
            file.write_at(&crc, bytes.len() as u64)?;
            self.fs.rename(&temporary, &path)
        };
        if let Err(error) = steps() {
            // A full disk must not keep anyone from reading: the part stays in the bucket.
            tracing::debug!(%error, path = %path.display(), "cannot keep a part of a file");
            fs::discard(&*self.fs, &temporary);
            return Ok(());
        }
        let len = (bytes.len() + CRC_BYTES) as u64;
        {
            let mut index = self.index.lock();
            index.clock += 1;
            let added = CachedPart { bytes: len, used_at: index.clock };
            let replaced = index.parts.insert(name.to_owned(), added).map_or(0, |old| old.bytes);
            index.bytes = index.bytes + len - replaced;
        }
        self.evict()
    }

    /// Removes the parts that were not used for the longest time, until a tenth of the budget is free.
    fn evict(&self) -> Result<()> {
        let mut removed = Vec::new();
        {
            let mut index = self.index.lock();
            if index.bytes <= self.budget {
                return Ok(());
            }
            let mut by_use: Vec<(u64, String)> =
                index.parts.iter().map(|(name, part)| (part.used_at, name.clone())).collect();
            by_use.sort_unstable();
            for (_, name) in by_use {
                if index.bytes <= self.budget - self.budget / 10 {
                    break;
                }
                if let Some(part) = index.parts.remove(&name) {
                    index.bytes -= part.bytes;
                    removed.push(name);
                }
            }
        }
        for name in removed {
            let path = self.dir.join(name);
            fs::remove_if_exists(&*self.fs, &path)
                .map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))?;
        }
        Ok(())
    }
}

fn count_parts(result: &'static str, parts: usize) {
    counter_of(&catalog::PART_REQUESTS, &[result]).increment(parts as u64);
}
