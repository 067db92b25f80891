//! A bucket: named objects. A chunk is created only if no object has its name.
//!
//! A PUT whose answer is lost may have been done, or may be done later. So a creation is repeated with the same bytes until the
//! store says "done" or "exists", and what exists is compared with the bytes: nothing else tells who has created it.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::bucket::chunk::{Chunk, StoredFile, chunk_name};
use crate::bucket::objects::{
    CountedObjects, CreateAnswer, FaultKind, FoundObject, Objects, PART_BYTES, StoreFault,
};
use crate::bucket::remote;
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::metrics::{self, catalog};
use crate::storage::fs::FileSystem;

/// The first pause before an attempt is repeated, and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long a pause can be before it is seen that the caller stops.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// What exists under the name of a chunk that was to be created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChunkOutcome {
    /// The bytes that were to be stored: by this attempt, or by an earlier one.
    Stored,
    /// Another writer's chunk.
    Taken(Bytes),
}

/// Says whether a failed attempt is repeated, and pauses before it is.
#[derive(Debug, Clone)]
pub struct Persistence {
    /// When attempts are given up; `None` for never.
    until: Option<Instant>,
    stop: Arc<AtomicBool>,
    pause: Duration,
}

impl Persistence {
    /// Repeats attempts for some time.
    pub fn lasting(time: Duration) -> Persistence {
        Persistence { until: Some(Instant::now() + time), stop: Arc::default(), pause: PAUSE_FIRST }
    }

    /// Repeats attempts until `stop` is set.
    pub fn until_stopped(stop: &Arc<AtomicBool>) -> Persistence {
        Persistence { until: None, stop: Arc::clone(stop), pause: PAUSE_FIRST }
    }

    /// Without pauses, for simulations: gives up when `stop` is set.
    pub fn without_pauses(stop: &Arc<AtomicBool>) -> Persistence {
        Persistence { pause: Duration::ZERO, ..Persistence::until_stopped(stop) }
    }

    /// Waits before the next attempt. Returns false if there is to be none.
    fn wait(&mut self) -> bool {
        let end = Instant::now() + self.pause;
        if self.until.is_some_and(|until| end >= until) {
            return false;
        }
        while !self.stop.load(Ordering::Acquire) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                metrics::count(&catalog::BUCKET_RETRIES);
                return true;
            }
            std::thread::sleep(left.min(STOP_CHECK));
        }
        false
    }
}

/// The objects of one database in an object store.
#[derive(Debug, Clone)]
pub struct BucketStore {
    objects: Arc<dyn Objects>,
    /// For messages. Contains no credentials.
    url: Arc<str>,
    /// How long reads, uploads and listings are repeated.
    patience: Duration,
    /// The first pause between two attempts.
    pause: Duration,
    stop: Arc<AtomicBool>,
}

impl BucketStore {
    /// Opens the bucket of a URL such as `s3://bucket/prefix`, or a directory. Sends nothing yet.
    pub fn open(url: &str) -> Result<BucketStore> {
        let timeout = Duration::from_secs(limits::BUCKET_REQUEST_SECS);
        let objects = remote::open(url, timeout)?;
        Ok(BucketStore::new(Arc::new(CountedObjects(objects)), url))
    }

    /// A bucket over some objects, for example those of a simulation.
    pub fn new(objects: Arc<dyn Objects>, url: &str) -> BucketStore {
        let patience = Duration::from_secs(limits::BUCKET_PATIENCE_SECS);
        BucketStore { objects, url: Arc::from(url), patience, pause: PAUSE_FIRST, stop: Arc::default() }
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

    /// Repeats attempts as long as reads are repeated by default, and not after the bucket is stopped.
    pub fn persistence(&self) -> Persistence {
        let lasting = Persistence::lasting(Duration::from_secs(limits::BUCKET_PATIENCE_SECS));
        Persistence { stop: Arc::clone(&self.stop), ..lasting }
    }

    /// Repeats an attempt while the store is not reachable.
    fn repeat<T>(&self, what: &str, attempt: impl Fn() -> Result<T, StoreFault>) -> Result<T> {
        let until = Some(Instant::now() + self.patience);
        let mut persistence = Persistence { until, stop: Arc::clone(&self.stop), pause: self.pause };
        loop {
            match attempt() {
                Ok(done) => return Ok(done),
                Err(fault) if fault.kind == FaultKind::Transient && persistence.wait() => {}
                Err(fault) => return Err(self.error(what, &fault)),
            }
        }
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

    /// Deletes an object.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.repeat(&format!("delete {name}"), || self.objects.delete(name))
    }

    /// Uploads the first bytes of a file, unless the object exists: its name contains the digest of its content.
    pub fn upload(&self, fs: &dyn FileSystem, root: &Path, file: &StoredFile) -> Result<()> {
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
        self.repeat(&what, || {
            let starts = (0..file.bytes).step_by(usize::try_from(PART_BYTES).unwrap_or(usize::MAX));
            let mut parts = starts.map(|start| {
                read_part(fs, &path, start, PART_BYTES.min(file.bytes - start)).map(Bytes::from)
            });
            self.objects.put_parts(&name, &mut parts)
        })?
    }
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
