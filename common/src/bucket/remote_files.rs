//! The file system of a mirror whose layers stay in the bucket: what a query needs of them is read in parts, through a cache on disk.
//!
//! The log that readers follow, the manifests and HEAD are files on this machine. Layers, indexes and the segments before the newest
//! snapshot are most of a database, and a reader needs little of them. Their blocks have CRCs that bind them to their file and place, so a
//! part of a file is checked as well as the whole would be.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::bucket::part_cache::{CACHED_PART_BYTES, PartCache};
use crate::bucket::part_requests::PartRequests;
use crate::bucket::store::BucketStore;
use crate::error::Result;
use crate::limits;
use crate::metrics::samples::Samples;
use crate::storage::fs::{File, FileId, FileSystem};
use crate::storage::layout::DataDir;

/// In how many places a file is read in order at once.
const RUNS: usize = 4;
/// The directory of the cached parts in that of the mirror.
const PARTS: &str = "parts";

/// The files that are in the bucket and not on this machine.
#[derive(Debug)]
pub struct RemoteFiles {
    requests: Arc<PartRequests>,
    cache: PartCache,
    files: RwLock<HashMap<PathBuf, RemoteObject>>,
}

/// Where the content of a file is.
#[derive(Debug, Clone)]
struct RemoteObject {
    object: String,
    bytes: u64,
    /// Shared by all who have the file open.
    runs: Arc<Mutex<ReadRuns>>,
}

/// How a file is read: here and there, or in order in a few places at once, such as the rows and the nodes of a tree above them.
#[derive(Debug, Default)]
struct ReadRuns(VecDeque<ReadRun>);

/// A place in which a file is read.
#[derive(Debug)]
struct ReadRun {
    /// The part after the last one that was read.
    next: u64,
    /// How many parts to fetch at once.
    window: u64,
}

impl ReadRuns {
    /// Notes that a part is read, and returns how many to fetch if it is not cached: more and more while the file is read in order.
    fn window_at(&mut self, part: u64) -> u64 {
        let at = self.0.iter().position(|run| run.next == part || run.next == part + 1);
        let known = at.and_then(|at| self.0.remove(at));
        let mut run = known.unwrap_or(ReadRun { next: part + 1, window: 1 });
        if run.next == part {
            let most = limits::BUCKET_READ_AHEAD_BYTES / CACHED_PART_BYTES;
            run = ReadRun { next: part + 1, window: (run.window * 2).min(most) };
        }
        let window = run.window;
        self.0.push_front(run);
        self.0.truncate(RUNS);
        window
    }
}

impl RemoteFiles {
    /// No files yet, and a cache for their parts in the directory of a mirror.
    pub fn new(
        store: BucketStore,
        fs: Arc<dyn FileSystem>,
        dir: &DataDir,
        budget: u64,
    ) -> Result<Arc<RemoteFiles>> {
        let cache = PartCache::open(fs, dir.root().join(PARTS), budget)?;
        Ok(Arc::new(RemoteFiles { requests: PartRequests::new(store), cache, files: RwLock::default() }))
    }

    /// Reads the metrics of the cache.
    pub fn sample(&self, samples: &mut Samples) {
        self.cache.sample(samples);
    }

    /// Adds a file.
    pub(super) fn add(&self, path: PathBuf, object: String, bytes: u64) {
        self.files.write().insert(path, RemoteObject { object, bytes, runs: Arc::default() });
    }

    /// Removes a file, if it is one.
    pub(super) fn remove(&self, path: &Path) {
        self.files.write().remove(path);
    }
}

/// The files of a mirror: those on this machine, and those in the bucket.
#[derive(Debug)]
pub struct BucketFileSystem {
    local: Arc<dyn FileSystem>,
    remote: Arc<RemoteFiles>,
}

impl BucketFileSystem {
    /// The files of a mirror.
    pub fn new(local: Arc<dyn FileSystem>, remote: Arc<RemoteFiles>) -> BucketFileSystem {
        BucketFileSystem { local, remote }
    }

    fn find(&self, path: &Path) -> Option<Box<dyn File>> {
        let found = self.remote.files.read().get(path).cloned()?;
        Some(Box::new(RemoteFile { remote: Arc::clone(&self.remote), found }))
    }
}

impl FileSystem for BucketFileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.find(path).map_or_else(|| self.local.open(path), Ok)
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.find(path).map_or_else(|| self.local.open_fresh(path), Ok)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.local.open_write(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.local.create(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.local.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.local.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.local.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.local.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.local.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.local.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.local.lock(path)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.local.lock_shared(path)
    }

    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        // The name of an object identifies its content, and a file in the bucket has no other identity.
        if self.remote.files.read().contains_key(path) { Ok(None) } else { self.local.file_id(path) }
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.local.is_network(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.local.free_bytes(path)
    }
}

/// A file whose content is in the bucket.
#[derive(Debug)]
struct RemoteFile {
    remote: Arc<RemoteFiles>,
    found: RemoteObject,
}

impl File for RemoteFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let RemoteObject { object, bytes, runs } = &self.found;
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset.saturating_add(done as u64);
            if at >= *bytes {
                break;
            }
            let part = at / CACHED_PART_BYTES;
            let window = runs.lock().window_at(part);
            let found = self.remote.cache.read(&self.remote.requests, (object, *bytes), part, window);
            let found = found.map_err(io::Error::other)?;
            let skipped = usize::try_from(at - part * CACHED_PART_BYTES).unwrap_or(usize::MAX);
            let source = found.get(skipped..).unwrap_or_default();
            let len = source.len().min(rest.len());
            let (Some(target), Some(source)) = (rest.get_mut(..len), source.get(..len)) else { break };
            if len == 0 {
                break;
            }
            target.copy_from_slice(source);
            done += len;
        }
        Ok(done)
    }

    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.found.bytes)
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the file is in the bucket, where it never changes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_file_that_is_read_in_order_is_read_ahead() {
        let mut runs = ReadRuns::default();
        let windows: Vec<u64> = [0, 0, 1, 2, 2, 3, 4, 5, 6].map(|part| runs.window_at(part)).into();
        assert_eq!(windows, [1, 1, 2, 4, 4, 8, 16, 16, 16]);
        // In two places in turns.
        let windows: Vec<u64> = [7, 90, 8, 91, 9].map(|part| runs.window_at(part)).into();
        assert_eq!(windows, [16, 1, 16, 2, 16]);
        let windows: Vec<u64> = [40, 17, 200, 300, 12, 3].map(|part| runs.window_at(part)).into();
        assert_eq!(windows, [1; 6]);
    }
}
