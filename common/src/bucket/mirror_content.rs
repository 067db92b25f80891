//! What the chunks of a bucket make in the directory of a mirror.
//!
//! Within a chunk the order is that in which a writer makes things visible: layers and segments first, then the manifests that name
//! them, HEAD last. Every step can be repeated with the same result.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use crate::bucket::chunk::{Chunk, ChunkKind, ContentDigest, StoredFile, chunk_name};
use crate::bucket::mirror_files::{MirrorFiles, MirrorRecord, MirroredFile, UnfinishedFile, temporary_path};
use crate::bucket::objects::PART_BYTES;
use crate::bucket::remote_files::RemoteFiles;
use crate::bucket::store::{BucketStore, read_part};
use crate::bucket::truncation::remove_unnamed_files;
use crate::error::{Error, Result};
use crate::format::head;
use crate::format::manifest::{self, Database, Manifest};
use crate::storage::fs;
use crate::storage::layout;

/// How long a file stays that no manifest names any more. Readers look at the manifests every second.
const OBSOLETE_KEPT: Duration = Duration::from_secs(10);

/// What is written at most before a checkpoint, in bytes, and for how long. What comes after the last one is copied again after a break.
const CHECKPOINT_BYTES: u64 = 256 << 20;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(10);

/// Takes reports of the bytes that were read from the bucket, and of those of the chunk's files that are still to be read. An error stops
/// the work.
pub(super) type CopyProgressFn<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// The directory of a mirror, and how far it is.
#[derive(Debug)]
pub(super) struct MirrorContent {
    pub(super) store: BucketStore,
    pub(super) files: MirrorFiles,
    pub(super) record: MirrorRecord,
    /// The manifests by table id.
    pub(super) manifests: HashMap<u64, Manifest>,
    /// Files that no manifest names any more, and since when; `None` for those that an earlier process has left.
    obsolete: Vec<(Option<Instant>, String)>,
    /// The files that stay in the bucket; `None` if none does.
    remote: Option<Arc<RemoteFiles>>,
    /// The bytes that were read from the bucket.
    pub(super) read: u64,
    checkpoint_at: Instant,
}

impl MirrorContent {
    pub(super) fn new(
        store: BucketStore,
        files: MirrorFiles,
        record: MirrorRecord,
        manifests: HashMap<u64, Manifest>,
    ) -> MirrorContent {
        let checkpoint_at = Instant::now();
        let obsolete = Vec::new();
        MirrorContent { store, files, record, manifests, obsolete, remote: None, read: 0, checkpoint_at }
    }

    /// Makes durable what was applied, and records it.
    pub(super) fn checkpoint(&mut self) -> Result<()> {
        self.files.sync()?;
        self.record.write(&*self.files.fs, &self.files.dir)?;
        self.checkpoint_at = Instant::now();
        Ok(())
    }

    /// Does the same if much was written, or the last time was long ago.
    pub(super) fn checkpoint_if_due(&mut self) -> Result<()> {
        let is_due =
            self.files.written() >= CHECKPOINT_BYTES || self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL;
        if is_due { self.checkpoint() } else { Ok(()) }
    }

    /// Leaves layers, indexes and older segments in the bucket from now on. Adds those that were left there before.
    pub(super) fn keep_in_bucket(&mut self, remote: Arc<RemoteFiles>) {
        self.record.is_partial = true;
        let ids: HashMap<&str, u64> =
            self.record.tables.iter().map(|(id, directory)| (directory.as_str(), *id)).collect();
        for (path, file) in &self.record.files {
            let table = path.split('/').nth(1).and_then(|table| ids.get(table));
            if let (Some(table), Some(digest)) = (table, file.digest()) {
                let stored = StoredFile { table: *table, path: path.clone(), bytes: file.bytes, digest };
                remote.add(self.files.path(path), stored.object(), stored.bytes);
            }
        }
        self.remote = Some(remote);
    }

    /// Whether the directory is a database that can be opened.
    pub(super) fn is_whole(&self) -> bool {
        self.record.number > 0 && self.record.identity.is_none()
    }

    /// Applies what a chunk contains.
    pub(super) fn apply(&mut self, chunk: &Chunk, progress: CopyProgressFn<'_>) -> Result<()> {
        let name = self.object(&chunk_name(chunk.header.number));
        let damaged = |what: String| Error::corrupt(&name, 0, what);
        let mut replaced = HashMap::new();
        for file in &chunk.replaced {
            if file.path.ends_with("/meta.json") {
                let found: Manifest = manifest::decode(&file.bytes)
                    .map_err(|detail| damaged(format!("{}: {detail}", file.path)))?;
                if self.files.dir.manifest(&found.table) != self.files.path(&file.path) {
                    return Err(damaged(format!("{}: it is that of table {:?}", file.path, found.table)));
                }
                self.record.tables.insert(found.table_id, found.table.clone());
                replaced.insert(found.table_id, found);
            }
        }
        let found = head::decode_header(&chunk.head);
        let found = found.ok_or_else(|| damaged("its HEAD has no valid header".to_owned()))?;
        if found.last_seq > chunk.header.last.seq || found.database_id != chunk.header.database_id {
            let last = chunk.header.last.seq;
            return Err(damaged(format!(
                "its HEAD ends at commit {}, and the chunk at {last}",
                found.last_seq
            )));
        }
        self.fetch_all(&chunk.files, &replaced, progress)?;
        for piece in &chunk.pieces {
            let Some(directory) = self.record.tables.get(&piece.table) else {
                return Err(damaged(format!("it has bytes of table {}, which has no manifest", piece.table)));
            };
            let path = self.files.dir.segment(directory, piece.segment);
            self.append(&name, path, piece.offset, &piece.bytes)?;
        }
        for manifest in replaced.into_values() {
            // A segment that was begun just now has no bytes.
            let active = manifest.segments.last().map_or(0, |segment| segment.number);
            self.files.write_at(&self.files.dir.segment(&manifest.table, active), &[], 0)?;
            self.note_obsolete(&manifest);
            self.manifests.insert(manifest.table_id, manifest);
        }
        let is_base = chunk.header.kind == ChunkKind::Base;
        for file in &chunk.replaced {
            self.replace(&file.path, &file.bytes, is_base)?;
        }
        self.files.replace(&self.files.dir.head(), &chunk.head)
    }

    /// Replaces a file as a whole. A base names every file, also those that are as they were.
    fn replace(&mut self, name: &str, bytes: &[u8], is_base: bool) -> Result<()> {
        let path = self.files.path(name);
        if path == self.files.dir.database() && !self.is_whole() {
            let identity = String::from_utf8(bytes.to_vec());
            let identity = identity.map_err(|e| Error::corrupt(self.object(name), 0, e))?;
            let found: Database =
                manifest::decode(bytes).map_err(|detail| Error::corrupt(self.object(name), 0, detail))?;
            if found.id != self.record.database {
                return Err(Error::corrupt(self.object(name), 0, "it is that of another database"));
            }
            self.record.identity = Some(identity);
            return Ok(());
        }
        let is_same = is_base
            && fs::read(&*self.files.fs, &path, manifest::FILE_BYTES)?.is_some_and(|found| found == bytes);
        if is_same { Ok(()) } else { self.files.replace(&path, bytes) }
    }

    /// Appends bytes to a segment. Bytes that it has are written again, because a power cut may have torn them.
    fn append(&mut self, chunk: &str, path: PathBuf, offset: u64, bytes: &[u8]) -> Result<()> {
        let name = path.strip_prefix(self.files.dir.root()).unwrap_or(&path).to_string_lossy().into_owned();
        let known = self.record.files.get(&name).map_or(0, |file| file.bytes);
        if offset > known {
            let what =
                format!("it continues {name} at byte {offset}, and the chunks before it end at byte {known}");
            return Err(Error::corrupt(chunk, 0, what));
        }
        self.files.write_at(&path, bytes, offset)?;
        let len = known.max(offset + bytes.len() as u64);
        self.record.files.insert(name, MirroredFile { bytes: len, digest: String::new() });
        Ok(())
    }

    /// Fetches the files that the directory does not have, or leaves them in the bucket. Records now and then what is there.
    fn fetch_all(
        &mut self,
        files: &[StoredFile],
        replaced: &HashMap<u64, Manifest>,
        progress: CopyProgressFn<'_>,
    ) -> Result<()> {
        let mut missing = Vec::new();
        for file in files {
            if self.has(file) {
                continue;
            }
            match &self.remote {
                Some(remote) if !is_segment(file) || self.is_before_layers(file, replaced) => {
                    remote.add(self.files.path(&file.path), file.object(), file.bytes);
                    let known = MirroredFile { bytes: file.bytes, digest: file.digest.to_string() };
                    self.record.files.insert(file.path.clone(), known);
                }
                _ => missing.push(file),
            }
        }
        let mut left: u64 = missing.iter().map(|file| file.bytes - self.copied_bytes(file)).sum();
        for file in missing {
            left = left.saturating_sub(file.bytes - self.copied_bytes(file));
            self.fetch(file, &mut |read, rest| progress(read, left + rest))?;
            self.checkpoint_if_due()?;
        }
        self.forget_unfinished()
    }

    /// Whether the directory has all of a file.
    fn has(&self, file: &StoredFile) -> bool {
        self.record.files.get(&file.path).is_some_and(|known| match is_segment(file) {
            true => known.bytes >= file.bytes,
            false => known.digest == file.digest.to_string(),
        })
    }

    /// How many bytes of a segment the directory has and has checked.
    fn checked_bytes(&self, file: &StoredFile) -> u64 {
        let known = self.record.files.get(&file.path).filter(|_| is_segment(file));
        known.map_or(0, |known| known.bytes)
    }

    /// How many bytes of a file the directory has, checked or not.
    fn copied_bytes(&self, file: &StoredFile) -> u64 {
        let is_this = |begun: &&UnfinishedFile| {
            begun.path == file.path && begun.digest == file.digest.to_string() && begun.bytes <= file.bytes
        };
        let begun = self.record.unfinished.as_ref().filter(is_this).map_or(0, |begun| begun.bytes);
        begun.max(self.checked_bytes(file))
    }

    /// Fetches what the directory does not have of a file.
    fn fetch(&mut self, file: &StoredFile, progress: CopyProgressFn<'_>) -> Result<()> {
        let path = self.files.path(&file.path);
        let copied = self.copied_bytes(file);
        let local = if is_segment(file) { path.clone() } else { temporary_path(&path) };
        // The digest is that of the whole file. What cannot be read is fetched again.
        let start = match self.digest_of(&local, copied) {
            Some(digest) => (copied, digest),
            None => (0, Xxh3::new()),
        };
        // If the bytes that are there are wrong, the object can be sound.
        let is_sound = self.fetch_from(file, start, progress)?
            || (copied > 0 && self.fetch_from(file, (0, Xxh3::new()), progress)?);
        if !is_sound {
            self.forget_unfinished()?;
            let what = "its content does not match the digest in its name";
            return Err(Error::corrupt(self.object(&file.object()), 0, what));
        }
        let digest = if is_segment(file) { String::new() } else { file.digest.to_string() };
        self.record.files.insert(file.path.clone(), MirroredFile { bytes: file.bytes, digest });
        self.record.unfinished = None;
        Ok(())
    }

    /// Fetches a file from a byte on; `digest` is that of the bytes before it. Returns whether the digest of all of it is right: if not,
    /// the file does not get its name.
    fn fetch_from(
        &mut self,
        file: &StoredFile,
        (mut at, mut digest): (u64, Xxh3),
        progress: CopyProgressFn<'_>,
    ) -> Result<bool> {
        let (path, object, checked) = (self.files.path(&file.path), file.object(), self.checked_bytes(file));
        let mut pending = match (is_segment(file), at) {
            (true, _) => None,
            (false, 0) => Some(self.files.begin(&path)?),
            (false, _) => Some(self.files.resume(&path, at)?),
        };
        if pending.is_none() && checked == 0 {
            // A segment may have no bytes yet.
            self.files.write_at(&path, &[], 0)?;
        }
        while at < file.bytes {
            let bytes = self.store.read_range(&object, at..file.bytes.min(at + PART_BYTES))?;
            digest.update(&bytes);
            match &mut pending {
                Some(pending) => {
                    pending.append(&bytes)?;
                    self.files.note_pending(pending, bytes.len());
                }
                // Bytes that the segment has stay as they are: a reader may be reading them.
                None => {
                    let skipped = usize::try_from(checked.saturating_sub(at)).unwrap_or(usize::MAX);
                    let new = bytes.get(skipped..).unwrap_or_default();
                    self.files.write_at(&path, new, at.max(checked))?;
                }
            }
            at += bytes.len() as u64;
            self.read += bytes.len() as u64;
            let digest = file.digest.to_string();
            self.record.unfinished = Some(UnfinishedFile { path: file.path.clone(), digest, bytes: at });
            self.checkpoint_if_due()?;
            progress(self.read, file.bytes - at)?;
        }
        let is_sound = ContentDigest(digest.digest128().to_le_bytes()) == file.digest;
        match pending {
            Some(pending) if is_sound => self.files.put_in_place(pending, &path)?,
            _ => {}
        }
        Ok(is_sound)
    }

    /// The digest of the first bytes of a file on this machine; `None` if they cannot be read.
    fn digest_of(&self, path: &Path, len: u64) -> Option<Xxh3> {
        let (mut at, mut digest) = (0, Xxh3::new());
        while at < len {
            let bytes = read_part(&*self.files.fs, path, at, PART_BYTES.min(len - at)).ok()?;
            digest.update(&bytes);
            at += bytes.len() as u64;
        }
        Some(digest)
    }

    /// Forgets a file that was begun and is not needed, or is wrong.
    fn forget_unfinished(&mut self) -> Result<()> {
        let Some(begun) = self.record.unfinished.take() else { return Ok(()) };
        let path = self.files.path(&begun.path);
        self.files.remove(&temporary_path(&path))
    }

    /// Whether a stored file is a whole segment that readers do not follow, because layers have all that it has.
    fn is_before_layers(&self, file: &StoredFile, replaced: &HashMap<u64, Manifest>) -> bool {
        let manifest = replaced.get(&file.table).or_else(|| self.manifests.get(&file.table));
        let Some(manifest) = manifest else { return false };
        let Some(layer) = manifest.deltas.last() else { return false };
        let path = self.files.path(&file.path);
        let mut before =
            manifest.segments.iter().take_while(|segment| segment.number != layer.position.segment);
        before.any(|segment| {
            segment.sealed.is_some_and(|seal| seal.bytes == file.bytes)
                && self.files.dir.segment(&manifest.table, segment.number) == path
        })
    }

    /// Notes the files that a manifest names and its successor does not.
    fn note_obsolete(&mut self, next: &Manifest) {
        let Some(last) = self.manifests.get(&next.table_id) else { return };
        let (now, kept): (_, HashSet<String>) = (Some(Instant::now()), self.names(next).collect());
        let gone: Vec<_> =
            self.names(last).filter(|name| !kept.contains(name)).map(|name| (now, name)).collect();
        self.obsolete.extend(gone);
    }

    /// Notes the files that are recorded and that no manifest names: an earlier process has ended before it removed them, or has copied
    /// them for an older base.
    pub(super) fn note_left_over(&mut self) {
        let named = self.named();
        let left = self.record.files.keys().filter(|name| !named.contains(*name));
        let left: Vec<_> = left.map(|name| (None, name.clone())).collect();
        self.obsolete.splice(0..0, left);
    }

    /// The names of the files that a manifest lists.
    fn names(&self, manifest: &Manifest) -> impl Iterator<Item = String> {
        let dir = &self.files.dir;
        let segments = manifest.segments.iter().map(|segment| dir.segment(&manifest.table, segment.number));
        let files = layout::snapshot_files(dir, manifest).into_iter().chain(segments);
        let name =
            |path: PathBuf| path.strip_prefix(dir.root()).unwrap_or(&path).to_string_lossy().into_owned();
        files.map(name)
    }

    /// The names of the files that all manifests list.
    fn named(&self) -> HashSet<String> {
        self.manifests.values().flat_map(|manifest| self.names(manifest)).collect()
    }

    /// Whether there are files to remove: those that no manifest has named for a while.
    pub(super) fn has_obsolete(&self) -> bool {
        self.obsolete.first().is_some_and(is_due)
    }

    /// Removes these files. What was applied must be recorded before: the record may not be older than the manifests without them.
    pub(super) fn remove_obsolete(&mut self) -> Result<()> {
        let due: Vec<_> = self.obsolete.extract_if(.., |found| is_due(found)).collect();
        let named = self.named();
        for (_, name) in due.into_iter().filter(|(_, name)| !named.contains(name)) {
            self.record.files.remove(&name);
            let path = self.files.path(&name);
            if let Some(remote) = &self.remote {
                remote.remove(&path);
            }
            self.files.remove(&path)?;
        }
        Ok(())
    }

    /// Removes at once what no manifest names.
    pub(super) fn sweep(&mut self) -> Result<()> {
        self.obsolete.clear();
        for manifest in self.manifests.values() {
            remove_unnamed_files(&*self.files.fs, &self.files.dir, manifest)?;
        }
        Ok(())
    }

    /// An object of the bucket, for messages.
    pub(super) fn object(&self, name: &str) -> String {
        format!("{}/{name}", self.store.url())
    }
}

/// Whether a file that no manifest names can be removed.
fn is_due((since, _): &(Option<Instant>, String)) -> bool {
    since.is_none_or(|since| since.elapsed() >= OBSOLETE_KEPT)
}

fn is_segment(file: &StoredFile) -> bool {
    file.path.contains("/segments/")
}
