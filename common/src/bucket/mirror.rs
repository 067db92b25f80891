//! Makes and follows a directory with the bytes of a bucket, so that readers, recovery, verification and the doctor work on it as on any
//! other.
//!
//! Chunks are applied in their order, each checked against the one before it, and none is skipped. A mirror that serves a reader keeps
//! files that no manifest names any more for a while, as a writer does. `database.json` is put in place when the
//! mirror has caught up for the first time: until then nothing takes the directory for a database.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::bucket::chain::{self, ChunkChain, LogEnds};
use crate::bucket::chunk::{Chunk, ChunkHeader, ChunkKind, ContentDigest, chunk_name};
use crate::bucket::mirror_content::MirrorContent;
use crate::bucket::mirror_files::{BegunBase, MirrorFiles, MirrorRecord};
use crate::bucket::remote_files::RemoteFiles;
use crate::bucket::store::BucketStore;
use crate::error::{Error, Reason, Result};
use crate::format::lineage::Lineage;
use crate::format::manifest;
use crate::planted::{PlantedBug, is_planted};
use crate::storage::fs::{File, FileSystem};
use crate::storage::layout::{self, DataDir, LINEAGE, MIRROR_RECORD};
use crate::storage::{head, lineage};

/// What a directory may have that becomes a mirror.
const HARMLESS_NAMES: [&str; 7] =
    ["LOCK", "RESERVE", "bucket.tmp", "lost+found", MIRROR_LOCK, "restore.lock", "parts"];
/// The lock that keeps two mirrors out of one directory.
pub(super) const MIRROR_LOCK: &str = "mirror.lock";

/// How far a mirror has come, for a progress line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MirrorProgress {
    /// The last chunk that was applied, or the one whose files are being copied.
    pub chunk: u64,
    /// The last chunk to apply.
    pub last_chunk: u64,
    /// The bytes that were read from the bucket.
    pub bytes: u64,
    /// The bytes of the files of this chunk that are still to be read.
    pub left: u64,
}

/// Takes reports of progress. An error stops the work.
pub type MirrorProgressFn<'a> = &'a mut dyn FnMut(MirrorProgress) -> Result<()>;

/// A directory that has the bytes of a bucket.
#[derive(Debug)]
pub struct Mirror {
    content: MirrorContent,
    /// The last chunk, once the bucket has shown it.
    chain: Option<ChunkChain>,
    /// Held as long as the mirror lives.
    _lock: Box<dyn File>,
}

impl Mirror {
    /// A mirror in an empty directory, or the one that the directory contains. Asks the bucket nothing yet.
    pub fn open(store: BucketStore, fs: Arc<dyn FileSystem>, dir: &DataDir) -> Result<Mirror> {
        let failed = |e| Error::io(format_args!("cannot create {}", dir.root().display()), &e);
        fs.create_dir(dir.root()).map_err(failed)?;
        // Its name, too, outlives a power cut. Not everyone may read the directory above: then the copy may begin again.
        let above = dir.root().parent().filter(|above| !above.as_os_str().is_empty());
        let _ = fs.sync_dir(above.unwrap_or(Path::new(".")));
        let lock = lock(&*fs, dir)?;
        let record = match MirrorRecord::read(&*fs, dir)? {
            Some(record) if record.bucket == store.place() => record,
            Some(record) => return Err(other_place(dir, &store, &record)),
            None => {
                check_empty(&*fs, dir, store.url())?;
                // Before anything else is written: what a break leaves is this mirror's.
                let record = MirrorRecord::of_bucket(store.place());
                record.write(&*fs, dir)?;
                record
            }
        };
        let (mut manifests, mut is_complete) = (HashMap::new(), record.number > 0);
        for name in record.tables.values() {
            match layout::read_manifest(&*fs, dir, name) {
                Ok(found) => {
                    is_complete &= found.is_some();
                    manifests.extend(found.map(|manifest| (manifest.table_id, manifest)));
                }
                // It was written after the record, and a power cut has torn it: its chunk is applied again.
                Err(error) if error.reason() == Reason::Corrupt => is_complete = false,
                Err(error) => return Err(error),
            }
        }
        let mut content = MirrorContent::new(store, MirrorFiles::new(fs, dir.clone()), record, manifests);
        // A manifest that cannot be read may name them.
        if is_complete {
            content.note_left_over();
        }
        Ok(Mirror { content, chain: None, _lock: lock })
    }

    /// The same mirror, which copies only the log that readers follow: layers, indexes and older segments stay in the bucket.
    pub fn keeping_in_bucket(mut self, remote: Arc<RemoteFiles>) -> Result<Mirror> {
        let has_files = self.content.record.number > 0 || !self.content.record.files.is_empty();
        if has_files && !self.content.record.is_partial {
            return Err(self.other_kind("it has whole files"));
        }
        self.content.keep_in_bucket(remote);
        Ok(self)
    }

    /// Fails if the directory has only a part of the files: it can be continued only with [`Mirror::keeping_in_bucket`].
    pub fn with_whole_files(self) -> Result<Mirror> {
        if self.content.record.is_partial { Err(self.other_kind("it has parts of files")) } else { Ok(self) }
    }

    fn other_kind(&self, what: &str) -> Error {
        let dir = self.content.files.dir.root().display();
        let message = format!(
            "cannot continue the copy of a bucket in {dir}: {what}; start with the same --bucket-cache option as before, or remove {dir}, \
             which is only a copy"
        );
        Error::new(Reason::ArgumentInvalid, message)
    }

    /// Whether the directory is a database that can be opened: the mirror had caught up once.
    pub fn is_whole(&self) -> bool {
        self.content.is_whole()
    }

    /// The number of the last chunk that was applied; 0 if there is none.
    pub fn last_chunk(&self) -> u64 {
        self.content.record.number
    }

    /// What was decided about the mirror, beyond its chunks.
    pub(super) fn record_mut(&mut self) -> &mut MirrorRecord {
        &mut self.content.record
    }

    /// The header of the last chunk, once [`Mirror::catch_up`] has been there.
    pub fn last_header(&self) -> Option<&ChunkHeader> {
        self.chain.as_ref().map(|chain| &chain.last)
    }

    /// Looks for the place in the bucket again at the next [`Mirror::catch_up`]: the next chunk may not be kept any more.
    pub fn reconnect(&mut self) {
        self.chain = None;
    }

    /// Applies all chunks up to `last`, from the newest base on if the directory has none. Continues where an earlier call has stopped,
    /// also within a chunk.
    /// `ends` are the first chunk that the bucket keeps and the last one to apply.
    pub fn catch_up(&mut self, ends: LogEnds, progress: MirrorProgressFn<'_>) -> Result<()> {
        let outcome = self.apply_up_to(ends, progress);
        if let Err(error) = &outcome
            // After a failed write or sync it is not known what is there.
            && !matches!(error.reason(), Reason::Internal | Reason::Io | Reason::DiskFull)
        {
            // What is there is not fetched again. If this fails, too, more is.
            let _ = self.checkpoint();
        }
        outcome
    }

    fn apply_up_to(&mut self, ends: LogEnds, progress: MirrorProgressFn<'_>) -> Result<()> {
        let last = ends.last;
        if self.chain.is_none() {
            self.find_start(ends, progress)?;
        }
        while self.content.record.number < last {
            let next = self.content.record.number + 1;
            let Some((chunk, bytes)) = self.content.store.chunk(next)? else {
                return Err(self.missing(next, last));
            };
            self.take_next(&chunk, &bytes, last, progress)?;
            progress(MirrorProgress { chunk: next, last_chunk: last, bytes: self.content.read, left: 0 })?;
        }
        Ok(())
    }

    /// Applies the next chunk. Returns whether there was one.
    pub fn advance(&mut self, progress: MirrorProgressFn<'_>) -> Result<bool> {
        let next = self.content.record.number + 1;
        let Some((chunk, bytes)) = self.content.store.chunk(next)? else {
            if self.content.has_obsolete() {
                self.checkpoint()?;
                self.content.remove_obsolete()?;
            }
            return Ok(false);
        };
        self.take_next(&chunk, &bytes, next, progress)?;
        Ok(true)
    }

    /// Fails if the next chunk is missing, and does not only not exist yet.
    pub fn check_no_gap(&self) -> Result<()> {
        chain::check_no_gap_after(&self.content.store, self.content.record.number)
    }

    /// Whether the bucket still keeps the last chunk that was applied. If not, the next one may never come: collection has passed it.
    pub fn is_kept(&self) -> Result<bool> {
        let number = self.content.record.number;
        match self.last_header() {
            // Fences are never deleted.
            Some(last) if ChunkChain::is_fence(last) => Ok(chain::first_kept(&self.content.store)? <= number),
            _ => self.content.store.has_chunk(number),
        }
    }

    /// Finds the chunk to continue after: the last one of the directory, or if it has none, or one that is not kept any more, the base
    /// of chunk `last`.
    fn find_start(&mut self, LogEnds { first, last }: LogEnds, progress: MirrorProgressFn<'_>) -> Result<()> {
        let known = self.content.record.number;
        if known > last {
            let detail = format!("it has chunk {known}, and the bucket ends with chunk {last}");
            return Err(self.other_bucket(&detail));
        }
        // Before the first kept chunk there are only fences, and what is kept follows one of them at most: a writer that starts
        // over has left its fence on a number that was used before.
        if known > 0
            && known >= first
            && let Some((chunk, bytes)) = self.content.store.chunk(known)?
        {
            let chain = ChunkChain::begin(&chunk, &bytes);
            if chain.digest != self.content.record.digest() {
                return Err(self.other_bucket(&format!("its chunk {known} is another one")));
            }
            self.chain = Some(chain);
            return Ok(());
        }
        let header = chain::expect_header(&self.content.store, last)?;
        if header.base == 0 {
            let message =
                format!("the bucket {} has no commit yet; wait for its writer", self.content.store.url());
            return Err(Error::new(Reason::Unreachable, message));
        }
        let Some((chunk, bytes)) = self.content.store.chunk(header.base)? else {
            return Err(self.missing(header.base, last));
        };
        if chunk.header.kind != ChunkKind::Base {
            let what = format!("chunk {last} names it as its base, and it is none");
            return Err(Error::corrupt(self.content.object(&chunk_name(header.base)), 0, what));
        }
        let id = uuid::Uuid::from_bytes(chunk.header.database_id);
        let has_begun = known > 0 || self.content.record.begun.is_some();
        if has_begun && id != self.content.record.database {
            return Err(self.other_bucket("it is of another database"));
        }
        if known > 0 {
            self.check_continued_by(&chunk)?;
        } else {
            self.begin_base(&chunk, id)?;
        }
        self.content.read += bytes.len() as u64;
        self.apply(&chunk, last, progress)?;
        self.content.record.begun = None;
        if known == 0 {
            self.content.note_left_over();
        }
        self.chain = Some(ChunkChain::begin(&chunk, &bytes));
        self.finish_chunk(&chunk, &bytes)
    }

    /// Records, before the first file, which history the files have: a copy that was interrupted is continued with the newest base.
    fn begin_base(&mut self, base: &Chunk, id: uuid::Uuid) -> Result<()> {
        let history = self.lineage_of(base)?;
        let begun = self.content.record.begun;
        if begun.is_some_and(|begun| !history.continues(begun.point())) {
            return Err(self.other_bucket("its database has another history"));
        }
        self.content.record.database = id;
        self.content.record.begun = Some(BegunBase::at(history.point(base.header.last.seq)));
        self.checkpoint()
    }

    /// The history of a base; empty if it is older than lineages.
    fn lineage_of(&self, base: &Chunk) -> Result<Lineage> {
        let Some(file) = base.replaced.iter().find(|file| file.path == LINEAGE) else {
            return Ok(Lineage::default());
        };
        manifest::decode(&file.bytes)
            .map_err(|detail| Error::corrupt(self.content.object(LINEAGE), 0, detail))
    }

    /// Applies what a chunk contains.
    fn apply(&mut self, chunk: &Chunk, last_chunk: u64, progress: MirrorProgressFn<'_>) -> Result<()> {
        let number = chunk.header.number;
        self.content.apply(chunk, &mut |bytes, left| {
            progress(MirrorProgress { chunk: number, last_chunk, bytes, left })
        })
    }

    /// Fails unless a base has the history of the directory: bytes of two histories must not come into one file.
    fn check_continued_by(&self, base: &Chunk) -> Result<()> {
        let (fs, dir) = (&*self.content.files.fs, &self.content.files.dir);
        let head = match head::read(fs, dir) {
            // The base replaces a HEAD that cannot be read: it does not tell which history this is.
            Err(error) if error.reason() == Reason::Corrupt => return Ok(()),
            found => found?,
        };
        let Some(head) = head else { return Ok(()) };
        let history = self.lineage_of(base)?;
        let own = lineage::read(fs, dir, &head)?.point(head.last_seq());
        match history.continues(own) {
            true => Ok(()),
            false => Err(self.other_bucket("its database has another history")),
        }
    }

    fn take_next(
        &mut self,
        chunk: &Chunk,
        bytes: &Bytes,
        last_chunk: u64,
        progress: MirrorProgressFn<'_>,
    ) -> Result<()> {
        let Some(chain) = &self.chain else {
            return Err(Error::new(Reason::Internal, "a mirror continues before it has caught up"));
        };
        let mut chain = *chain;
        chain.accept(chunk, bytes).map_err(|e| e.context(self.content.store.url()))?;
        self.content.read += bytes.len() as u64;
        if chunk.header.kind != ChunkKind::Fence {
            self.apply(chunk, last_chunk, progress)?;
        }
        self.chain = Some(chain);
        self.finish_chunk(chunk, bytes)
    }

    fn finish_chunk(&mut self, chunk: &Chunk, bytes: &Bytes) -> Result<()> {
        self.content.record.advance(chunk.header.number, ContentDigest::of(bytes));
        self.content.checkpoint_if_due()
    }

    /// Makes durable what was applied, and records it.
    pub fn checkpoint(&mut self) -> Result<()> {
        self.content.checkpoint()
    }

    /// Makes the directory a database that can be opened.
    pub fn complete(&mut self) -> Result<()> {
        if let Some(identity) = self.content.record.identity.take() {
            // Everything else first.
            self.content.files.sync()?;
            self.content.files.replace(&self.content.files.dir.database(), identity.as_bytes())?;
        }
        self.checkpoint()
    }

    /// Removes at once what no manifest names.
    pub(super) fn sweep(&mut self) -> Result<()> {
        self.content.sweep()
    }

    /// Removes at once what no manifest names, makes the directory a database, changes it, and ends the mirror: the directory is a
    /// database of its own from now on. If the process dies before, the directory has the record of a mirror, and no writer opens it.
    pub fn release(mut self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        self.sweep()?;
        self.complete()?;
        let mut change = Some(change);
        if !is_planted(PlantedBug::EpochLate)
            && let Some(change) = change.take()
        {
            change()?;
        }
        for name in [MIRROR_LOCK, MIRROR_RECORD] {
            let path = self.content.files.path(name);
            self.content.files.remove(&path)?;
        }
        let root = self.content.files.dir.root();
        self.content
            .files
            .fs
            .sync_dir(root)
            .map_err(|e| Error::io(format_args!("cannot sync {}", root.display()), &e))?;
        change.map_or(Ok(()), |change| change())
    }

    fn missing(&self, number: u64, last: u64) -> Error {
        let what = format!("the chunk is missing, and the bucket has chunk {last}");
        Error::corrupt(self.content.object(&chunk_name(number)), 0, what)
    }

    fn other_bucket(&self, detail: &str) -> Error {
        let dir = self.content.files.dir.root().display();
        let message = format!(
            "{dir} is not a mirror of the bucket {}: {detail}; remove {dir}, which is only a copy, or name the bucket that it is a \
             mirror of",
            self.content.store.url()
        );
        Error::new(Reason::ArgumentInvalid, message)
    }
}

fn other_place(dir: &DataDir, store: &BucketStore, record: &MirrorRecord) -> Error {
    let root = dir.root().display();
    let message = format!(
        "{root} is not a mirror of the bucket {}: it is a copy of {}; remove {root}, which is only a copy, or name the bucket that it is \
         a mirror of",
        store.url(),
        record.bucket
    );
    Error::new(Reason::ArgumentInvalid, message)
}

fn lock(fs: &dyn FileSystem, dir: &DataDir) -> Result<Box<dyn File>> {
    let path = dir.root().join(MIRROR_LOCK);
    let locked = fs.lock(&path).map_err(|e| Error::io(format_args!("cannot lock {}", path.display()), &e))?;
    locked.ok_or_else(|| {
        let root = dir.root().display();
        let message =
            format!("another process copies a bucket to {root}; wait for it, or name another directory");
        Error::new(Reason::DatabaseLocked, message)
    })
}

/// Fails if a directory has something that a mirror would mix with its files.
fn check_empty(fs: &dyn FileSystem, dir: &DataDir, url: &str) -> Result<()> {
    let root = dir.root();
    let names = fs.list(root).map_err(|e| Error::io(format_args!("cannot list {}", root.display()), &e))?;
    match names.iter().find(|name| !HARMLESS_NAMES.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => {
            let message = format!(
                "cannot copy the bucket {url} to {}: the directory contains {name:?}; name an empty directory, or one that does not \
                 exist yet",
                root.display()
            );
            Err(Error::new(Reason::ArgumentInvalid, message))
        }
    }
}

/// Makes a database of the bucket's content up to a chunk, `None` for all of it, in an empty directory. After a break, the same call
/// continues. Returns the header of the last chunk.
pub fn materialize(
    store: &BucketStore,
    up_to: Option<u64>,
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    progress: MirrorProgressFn<'_>,
) -> Result<ChunkHeader> {
    materialize_changed((store, up_to), (fs, dir), progress, || Ok(()))
}

/// The same, with a change of the whole database: no writer opens the directory without it.
pub fn materialize_changed(
    (store, up_to): (&BucketStore, Option<u64>),
    (fs, dir): (&Arc<dyn FileSystem>, &DataDir),
    progress: MirrorProgressFn<'_>,
    change: impl FnOnce() -> Result<()>,
) -> Result<ChunkHeader> {
    let mut ends = chain::ends(store)?;
    ends.last = up_to.unwrap_or(ends.last);
    let mut mirror = Mirror::open(store.clone(), Arc::clone(fs), dir)?.with_whole_files()?;
    mirror.catch_up(ends, progress)?;
    let header = mirror.last_header().copied();
    let header = header.ok_or_else(|| Error::new(Reason::Internal, "a mirror has no last chunk"))?;
    mirror.release(change)?;
    Ok(header)
}
