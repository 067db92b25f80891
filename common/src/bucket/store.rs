//! A bucket: named objects. A chunk is created only if no object has its name.
//!
//! A PUT whose answer is lost may have been done, or may be done later. So a creation is repeated with the same bytes until the
//! store says "done" or "exists", and what exists is compared with the bytes: nothing else tells who has created it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;

use crate::bucket::chunk::{Chunk, StoredFile, chunk_name};
use crate::bucket::objects::{
    CountedObjects, CreateAnswer, FaultKind, FoundObject, Objects, PART_BYTES, PAUSE_FIRST, StoreFault,
};
use crate::bucket::remote;
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs::FileSystem;

pub use crate::bucket::objects::Persistence;

/// The parts that a large object has at most: S3 takes 10,000.
const PARTS_MOST: u64 = 9000;

/// What exists under the name of a chunk that was to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkOutcome {
    /// The bytes that were to be stored: by this attempt, or by an earlier one.
    Stored,
    /// Another writer's chunk.
    Taken(Bytes),
}

/// The objects of one database in an object store.
#[derive(Debug, Clone)]
pub struct BucketStore {
    objects: Arc<dyn Objects>,
    /// For messages. Contains no credentials.
    url: Arc<str>,
    /// The same for all spellings of the URL.
    place: Arc<str>,
    /// How long reads, uploads and listings are repeated.
    patience: Duration,
    /// The first pause between two attempts.
    pause: Duration,
    stop: Arc<AtomicBool>,
}

impl BucketStore {
    /// Opens the bucket of a URL such as `s3://bucket/prefix`, or a directory. Sends nothing yet.
    pub fn open(url: &str) -> Result<BucketStore> {
        BucketStore::open_with_timeout(url, Duration::from_secs(limits::BUCKET_REQUEST_SECS))
    }

    /// The same with another time after which a request has failed.
    pub fn open_with_timeout(url: &str, timeout: Duration) -> Result<BucketStore> {
        let objects = remote::open(url, timeout)?;
        let place = Arc::from(remote::place_of(url)?);
        Ok(BucketStore { place, ..BucketStore::new(Arc::new(CountedObjects(objects)), url) })
    }

    /// Fails if a URL cannot be that of a bucket, for example because it has credentials, which the error does not repeat.
    pub fn check_url(url: &str) -> Result<()> {
        remote::place_of(url).map(drop)
    }

    /// A bucket over some objects, for example those of a simulation.
    pub fn new(objects: Arc<dyn Objects>, url: &str) -> BucketStore {
        let patience = Duration::from_secs(limits::BUCKET_PATIENCE_SECS);
        let (url, stop): (Arc<str>, _) = (Arc::from(url), Arc::default());
        BucketStore { objects, place: Arc::clone(&url), url, patience, pause: PAUSE_FIRST, stop }
    }

    /// The bucket with another time for which reads, uploads and listings are repeated. Zero for one attempt.
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> BucketStore {
        self.patience = patience;
        self
    }

    /// The bucket, without pauses between attempts, for simulations.
    #[must_use]
    pub fn without_pauses(mut self) -> BucketStore {
        self.pause = Duration::ZERO;
        self
    }

    /// The bucket, whose operations are given up soon after `stop` is set.
    #[must_use]
    pub fn stopped_by(mut self, stop: &Arc<AtomicBool>) -> BucketStore {
        self.stop = Arc::clone(stop);
        self
    }

    /// The URL, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the bucket is: the same for all spellings of the URL.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Repeats attempts as long as reads are repeated by default, and not after the bucket is stopped.
    pub fn persistence(&self) -> Persistence {
        Persistence::lasting(Duration::from_secs(limits::BUCKET_PATIENCE_SECS)).stopped_by(&self.stop)
    }

    /// Repeats an attempt while the store is not reachable.
    fn repeat<T>(&self, what: &str, attempt: impl Fn() -> Result<T, StoreFault>) -> Result<T> {
        self.patience().repeat(attempt).map_err(|fault| self.error(what, &fault))
    }

    /// Repeats one read, or the upload of one part, from now on.
    fn patience(&self) -> Persistence {
        Persistence::lasting(self.patience).stopped_by(&self.stop).pausing(self.pause)
    }

    /// The error for a fault.
    pub fn error(&self, what: &str, fault: &StoreFault) -> Error {
        let (reason, advice) = match fault.kind {
            FaultKind::Transient => (Reason::Unreachable, "check the network and the store, then try again"),
            FaultKind::Denied => (
                Reason::PermissionDenied,
                "set credentials in the environment that may list, read, create and delete objects there",
            ),
            FaultKind::Unsupported => (Reason::NotSupported, "run `driftctl storage-check` with the URL"),
            FaultKind::Damaged => (Reason::Corrupt, "run `driftctl backup verify` with the URL"),
        };
        let message = format!("cannot {what} in the bucket {}: {}; {advice}", self.url, fault.message);
        Error::new(reason, message)
    }

    /// Creates the chunk of a number, or finds out who has. Repeats the attempt as long as `persistence` says; if it gives up, the
    /// outcome is not known.
    pub fn create_chunk(&self, number: u64, bytes: &Bytes, persistence: Persistence) -> Result<ChunkOutcome> {
        self.create(&chunk_name(number), bytes, persistence)
    }

    /// Creates an object, or returns what exists under its name. See [`BucketStore::create_chunk`].
    pub fn create(&self, name: &str, bytes: &Bytes, mut persistence: Persistence) -> Result<ChunkOutcome> {
        loop {
            let attempt = match self.objects.create(name, bytes) {
                Ok(CreateAnswer::Created) => return Ok(ChunkOutcome::Stored),
                Ok(CreateAnswer::Exists) => self.objects.get(name, None, limits::BUCKET_CHUNK_BYTES),
                Err(fault) => Err(fault),
            };
            let fault = match attempt {
                Ok(Some(found)) if found == *bytes => return Ok(ChunkOutcome::Stored),
                Ok(Some(found)) => return Ok(ChunkOutcome::Taken(found)),
                // It is being deleted, or the refusal meant that another request for the name is under way (409).
                Ok(None) => {
                    let message = format!("{name} exists and cannot be read");
                    StoreFault { kind: FaultKind::Transient, message }
                }
                Err(fault) => fault,
            };
            if !persistence.wait() {
                return Err(self.error(&format!("create {name}"), &fault));
            }
        }
    }

    /// The bytes of a chunk; `None` if it does not exist.
    pub fn chunk_bytes(&self, number: u64) -> Result<Option<Bytes>> {
        self.read(&chunk_name(number), limits::BUCKET_CHUNK_BYTES)
    }

    /// A chunk, decoded, and its bytes; `None` if it does not exist. Whether it continues others is for
    /// [`ChunkChain`](crate::bucket::chain::ChunkChain) to say.
    pub fn chunk(&self, number: u64) -> Result<Option<(Chunk, Bytes)>> {
        let Some(bytes) = self.chunk_bytes(number)? else { return Ok(None) };
        let name = format!("{}/{}", self.url, chunk_name(number));
        Chunk::decode(&bytes, number, &name).map(|chunk| Some((chunk, bytes)))
    }

    /// The first bytes of a chunk, for its header; `None` if it does not exist.
    pub fn chunk_start(&self, number: u64, len: u64) -> Result<Option<Bytes>> {
        let name = chunk_name(number);
        self.repeat(&format!("read {name}"), || self.objects.get(&name, Some(0..len), len))
    }

    /// Whether a chunk exists.
    pub fn has_chunk(&self, number: u64) -> Result<bool> {
        let name = chunk_name(number);
        let length = self.repeat(&format!("look for {name}"), || self.objects.length(&name))?;
        Ok(length.is_some())
    }

    /// A small object as a whole; `None` if it does not exist.
    pub fn read(&self, name: &str, limit: u64) -> Result<Option<Bytes>> {
        self.repeat(&format!("read {name}"), || self.objects.get(name, None, limit))
    }

    /// A range of an object. Fails if the object does not exist or ends before the range does.
    pub fn read_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let len = range.end.saturating_sub(range.start);
        let found =
            self.repeat(&format!("read {name}"), || self.objects.get(name, Some(range.clone()), len))?;
        let Some(found) = found else {
            return Err(Error::corrupt(format!("{}/{name}", self.url), 0, "the object is missing"));
        };
        if found.len() as u64 != len {
            let end = range.start + found.len() as u64;
            return Err(Error::corrupt(format!("{}/{name}", self.url), end, "the object ends here"));
        }
        Ok(found)
    }

    /// The length of an object; `None` if it does not exist.
    pub fn length(&self, name: &str) -> Result<Option<u64>> {
        self.repeat(&format!("look for {name}"), || self.objects.length(name))
    }

    /// The objects in a folder, by name. For tools, and for what begins: never in the steady state.
    pub fn list(&self, folder: &str) -> Result<Vec<FoundObject>> {
        self.repeat(&format!("list {folder}"), || self.objects.list(folder))
    }

    /// The objects in a folder whose names come after one, by name.
    pub fn list_after(&self, folder: &str, after: &str) -> Result<Vec<FoundObject>> {
        self.repeat(&format!("list {folder}"), || self.objects.list_after(folder, after))
    }

    /// Deletes an object.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.repeat(&format!("delete {name}"), || self.objects.delete(name))
    }

    /// Uploads the first bytes of a file, unless the object exists: its name contains the digest of its content. Calls `between` before
    /// each part of a long file; if that fails, the upload ends.
    pub fn upload(
        &self,
        fs: &dyn FileSystem,
        root: &Path,
        file: &StoredFile,
        between: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let name = file.object();
        if self.length(&name)? == Some(file.bytes) {
            return Ok(());
        }
        let path = root.join(&file.path);
        let what = format!("write {name}");
        if file.bytes <= PART_BYTES {
            let bytes = Bytes::from(read_part(fs, &path, 0, file.bytes)?);
            return self.repeat(&what, || self.objects.put_whole(&name, &bytes));
        }
        let part_bytes = part_bytes(file.bytes);
        let starts = (0..file.bytes).step_by(usize::try_from(part_bytes).unwrap_or(usize::MAX));
        let mut parts = starts.map(|start| {
            self.check_stop()?;
            between()?;
            read_part(fs, &path, start, part_bytes.min(file.bytes - start)).map(Bytes::from)
        });
        match self.objects.put_parts(&name, &mut parts, &|| self.patience()) {
            Ok(done) => done,
            // The answer to the last request may have been lost.
            Err(_) if self.length(&name)? == Some(file.bytes) => Ok(()),
            Err(fault) => Err(self.error(&what, &fault)),
        }
    }

    fn check_stop(&self) -> Result<()> {
        match self.stop.load(Ordering::Acquire) {
            true => Err(Error::new(Reason::Cancelled, "the upload was stopped")),
            false => Ok(()),
        }
    }
}

/// The length of the parts of an object: all have it but the last.
fn part_bytes(bytes: u64) -> u64 {
    PART_BYTES.max(bytes.div_ceil(PARTS_MOST))
}

/// Reads a part of a file. Fails if the file ends before.
pub(super) fn read_part(fs: &dyn FileSystem, path: &Path, offset: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let read = fs.open_fresh(path).and_then(|file| file.read_at(&mut bytes, offset));
    let read = read.map_err(|e| crate::storage::fs::read_failed(path, &e))?;
    if read < bytes.len() {
        let end = offset + read as u64;
        return Err(Error::corrupt(
            path.display(),
            end,
            format_args!("the file ends here, and {len} bytes from {offset} on are published"),
        ));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_of_any_size_has_fewer_parts_than_s3_takes() {
        for bytes in [PART_BYTES + 1, 80 << 30, (80 << 30) + 1, 1 << 40, 5 << 40] {
            assert!(bytes.div_ceil(part_bytes(bytes)) <= 10_000, "{bytes}");
        }
        assert_eq!(part_bytes(10 << 30), PART_BYTES);
    }
}
