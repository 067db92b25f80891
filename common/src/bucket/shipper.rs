//! Ships to a bucket what it lacks of a data directory, one chunk at a time.
//!
//! A chunk leads from what the bucket has to one published HEAD. What was appended to segments goes into it as pieces. Layers and
//! indexes are uploaded first, as objects of their own, and so are whole segments if there is too much for pieces, or for a base, from
//! which mirrors begin. The names of these objects contain their digests, so an upload can be repeated by anyone at any time.
//!
//! Large uploads must not hold up a commit that waits for its chunk. So [`Shipper::wanted`] lists what must be uploaded, its caller
//! does that without the shipper, and [`Shipper::ship`] finds it done.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::bucket::chunk::{
    Chunk, ChunkHeader, ChunkKind, ChunkMark, ChunkOrigin, ContentDigest, LogPiece, StoredFile,
};
use crate::bucket::disk_state::{DiskReader, DiskState};
use crate::bucket::fencing::BucketClaim;
use crate::bucket::ship_source::{KnownFile, ShipSource, Uploads, WantedFile, known_files};
use crate::bucket::shipped::ShippedState;
use crate::bucket::store::{BucketStore, Persistence, read_part};
use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs::FileSystem;
use crate::storage::head::Head;
use crate::storage::layout::DataDir;

/// How often a chunk is put together again because files were removed meanwhile.
const TRIES: u32 = 20;

/// From which HEAD a chunk is made.
#[derive(Debug)]
pub enum ShippedHead {
    /// The one on disk.
    OnDisk,
    /// One that is about to be published. Nothing else changes the directory meanwhile.
    Next(Head),
}

/// What was shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShipReport {
    /// The last commit that the bucket has.
    pub last: ChunkMark,
    /// The last chunk.
    pub chunk: u64,
    /// Whether a chunk was created.
    pub is_new: bool,
}

/// A directory, and the end of the log in its bucket.
#[derive(Debug)]
pub struct Shipper {
    source: ShipSource,
    claim: BucketClaim,
    origin: ChunkOrigin,
    /// The number of chunks after which a base follows.
    base_chunks: u64,
    /// A chunk that may be stored, because its creation was given up.
    unresolved: Option<Chunk>,
}

impl Shipper {
    /// A shipper that continues what the bucket has, under a claim.
    pub fn new(
        store: BucketStore,
        (fs, dir): (Arc<dyn FileSystem>, DataDir),
        claim: BucketClaim,
        shipped: ShippedState,
        origin: ChunkOrigin,
    ) -> Shipper {
        let known = known_files(shipped.files.values().flat_map(BTreeMap::values));
        let base_chunks = limits::BUCKET_BASE_CHUNKS;
        let source = ShipSource { store, disk: DiskReader { fs, dir }, shipped, known, skips_missing: false };
        Shipper { source, claim, origin, base_chunks, unresolved: None }
    }

    /// The shipper, with another number of chunks after which a base follows.
    #[must_use]
    pub fn with_base_after(mut self, chunks: u64) -> Shipper {
        self.base_chunks = chunks;
        self
    }

    /// The last commit that the bucket has, and the last chunk.
    pub fn report(&self) -> ShipReport {
        let last = &self.claim.chain.last;
        ShipReport { last: last.last, chunk: last.number, is_new: false }
    }

    /// Whether the start of a chunk is not this writer's own: another has taken over.
    pub fn is_of_other(&self, start: &Bytes, number: u64) -> bool {
        self.claim.is_of_other(start, number)
    }

    /// The files that the next chunk needs in the bucket. Takes little time.
    pub fn wanted(&mut self) -> Result<Vec<WantedFile>> {
        let mut wanted = Vec::new();
        let Some(state) = self.source.disk.state(&self.source.shipped, self.is_base_due())? else {
            return Ok(wanted);
        };
        if state.head.last_seq() >= self.claim.chain.last.last.seq {
            self.source.parts(&state, self.is_base_due(), &mut Uploads::Note(&mut wanted))?;
        }
        Ok(wanted)
    }

    /// Whether a chunk since the last base, or one to come, may name an object.
    pub fn may_name(&self, object: &str) -> bool {
        // A name ends with the digest: only of files that have it the name is made, because commits wait meanwhile.
        let digest = object.rsplit('.').next().and_then(ContentDigest::parse);
        let is_it = |file: &StoredFile| digest == Some(file.digest) && file.object() == object;
        self.source.known.values().any(|known| is_it(&known.stored))
            || self.source.shipped.retired.contains_key(object)
            || self.source.shipped.files.values().flat_map(BTreeMap::values).any(is_it)
    }

    /// Notes that a file is in the bucket.
    pub fn note_uploaded(&mut self, file: KnownFile) {
        self.source.note_uploaded(file);
    }

    /// Creates the next chunk with what was published of the log, while the files of a new manifest are not in the bucket yet: the table
    /// keeps the old manifest there. Returns `None` if that cannot be, because the chunk needs files itself.
    pub fn ship_log(&mut self, persistence: &Persistence) -> Result<Option<ShipReport>> {
        self.create_unresolved(persistence)?;
        if self.source.shipped.head.is_none() {
            return Ok(None);
        }
        let Some(mut state) = self.source.disk.state(&self.source.shipped, false)? else { return Ok(None) };
        if self.is_behind_bucket(&state) {
            return Ok(None);
        }
        self.source.skips_missing = false;
        self.source.keep_old_manifests(&mut state)?;
        let mut wanted = Vec::new();
        self.source.parts(&state, false, &mut Uploads::Note(&mut wanted))?;
        if !wanted.is_empty() {
            return Ok(None);
        }
        let chunk = self.chunk(&state, false)?;
        self.create_if_new(chunk, persistence).map(Some)
    }

    /// Creates a chunk whose creation was given up: it may be stored, so nothing else may get its number.
    fn create_unresolved(&mut self, persistence: &Persistence) -> Result<()> {
        self.unresolved.take().map_or(Ok(()), |chunk| self.create(chunk, persistence))
    }

    /// Whether the bucket already contains a later HEAD, which is about to be published.
    fn is_behind_bucket(&self, state: &DiskState) -> bool {
        state.head.last_seq() < self.claim.chain.last.last.seq
    }

    /// Creates a chunk, unless there is nothing new to ship.
    fn create_if_new(&mut self, chunk: Option<Chunk>, persistence: &Persistence) -> Result<ShipReport> {
        let Some(chunk) = chunk else { return Ok(self.report()) };
        self.create(chunk, persistence)?;
        Ok(ShipReport { is_new: true, ..self.report() })
    }

    /// Creates the next chunk, if the bucket lacks anything. Fails with FENCED if another writer has taken over.
    pub fn ship(&mut self, head: &ShippedHead, persistence: &Persistence) -> Result<ShipReport> {
        self.create_unresolved(persistence)?;
        let can_wait = matches!(head, ShippedHead::Next(_)) && self.source.shipped.head.is_some();
        let is_base = self.is_base_due() && !can_wait;
        for attempt in 0..TRIES {
            let state = match head {
                ShippedHead::OnDisk => self.source.disk.state(&self.source.shipped, is_base)?,
                ShippedHead::Next(head) => {
                    let mut state = self.source.disk.state_of(head.clone(), &self.source.shipped, is_base)?;
                    self.source.keep_old_manifests(&mut state)?;
                    Some(state)
                }
            };
            let Some(state) = state else { return Ok(self.report()) };
            if self.is_behind_bucket(&state) {
                return Ok(self.report());
            }
            self.source.skips_missing = attempt > TRIES / 2;
            match self.chunk(&state, is_base) {
                Ok(chunk) => return self.create_if_new(chunk, persistence),
                // A job has replaced files, and their manifest.
                Err(error) if error.reason() == Reason::FileGone => {}
                Err(error) => return Err(error),
            }
        }
        let message =
            "the files of the database change faster than they can be read; the next attempt continues";
        Err(Error::new(Reason::Overloaded, message))
    }

    fn create(&mut self, chunk: Chunk, persistence: &Persistence) -> Result<()> {
        match self.claim.append(&self.source.store, &chunk, persistence.clone()) {
            Ok(()) => {
                if chunk.header.kind == ChunkKind::Base {
                    // All others are retired.
                    let named: HashSet<&StoredFile> = chunk.files.iter().collect();
                    self.source.known.retain(|_, known| named.contains(&known.stored));
                }
                self.source.shipped.apply(&chunk)
            }
            Err(error) => {
                // It may be stored: no other chunk may be tried under its number.
                self.unresolved = Some(chunk);
                Err(error)
            }
        }
    }

    fn is_base_due(&self) -> bool {
        let last = &self.claim.chain.last;
        last.base == 0
            || self.source.shipped.head.is_none()
            || last.number - last.base >= self.base_chunks
            || self.source.shipped.bytes_since_base
                >= limits::BUCKET_BASE_BYTES.max(self.source.shipped.segment_bytes() / 4)
    }

    /// Puts the next chunk together. Returns `None` if nothing has changed.
    fn chunk(&mut self, state: &DiskState, is_base: bool) -> Result<Option<Chunk>> {
        let parts = self.source.parts(state, is_base, &mut Uploads::Make)?;
        let has_same_head =
            self.source.shipped.head.as_ref().is_some_and(|old| old.publishes_as(&state.head));
        let is_empty = parts.replaced.is_empty() && parts.files.is_empty() && parts.ranges.is_empty();
        if is_empty && has_same_head {
            return Ok(None);
        }
        let mut pieces = Vec::with_capacity(parts.ranges.len());
        for (table, segment, path, start, end) in parts.ranges {
            let path = self.source.disk.dir.root().join(path);
            let bytes = Bytes::from(read_part(&*self.source.disk.fs, &path, start, end - start)?);
            pieces.push(LogPiece { table, segment, offset: start, bytes });
        }
        let next = self.claim.chain.next_header();
        let header = ChunkHeader {
            kind: if is_base { ChunkKind::Base } else { ChunkKind::Changes },
            is_sync: self.origin.is_sync(),
            is_backup: self.origin.is_backup(),
            base: if is_base { next.number } else { next.base },
            last: ChunkMark { seq: state.head.last_seq(), time_ms: state.head.header.last_ms },
            ..next
        };
        let head = Bytes::from(state.head.encode());
        let uploaded = self.source.known.values().map(|known| &known.stored);
        let retired =
            if is_base { self.source.shipped.retired_by(&parts.files, uploaded) } else { Vec::new() };
        Ok(Some(Chunk { header, head, replaced: parts.replaced, files: parts.files, retired, pieces }))
    }
}
