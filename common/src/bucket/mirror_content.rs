//! What the chunks of a bucket make in the directory of a mirror.
//!
//! Within a chunk the order is that in which a writer makes things visible: layers and segments first, then the manifests that name
//! them, HEAD last. Every step can be repeated with the same result.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::Xxh3;

use crate::bucket::chunk::{Chunk, ChunkKind, ContentDigest, StoredFile, chunk_name};
use crate::bucket::mirror_files::MirrorFiles;
use crate::bucket::mirror_files::{MirrorRecord, MirroredFile};
use crate::bucket::objects::PART_BYTES;
use crate::bucket::remote_files::RemoteFiles;
use crate::bucket::store::BucketStore;
use crate::bucket::truncation::remove_unnamed_files;
use crate::error::{Error, Result};
use crate::format::head;
use crate::format::manifest::{self, Database, Manifest};
use crate::storage::fs;
use crate::storage::layout;

/// How long a file stays that no manifest names any more. Readers look at the manifests every second.
const OBSOLETE_KEPT: Duration = Duration::from_secs(10);

/// The directory of a mirror, and how far it is.
#[derive(Debug)]
pub(super) struct MirrorContent {
    pub(super) store: BucketStore,
    pub(super) files: MirrorFiles,
    pub(super) record: MirrorRecord,
    /// The manifests by table id.
    pub(super) manifests: HashMap<u64, Manifest>,
    /// Files that no manifest names any more, and since when.
    obsolete: Vec<(Instant, String)>,
    /// The files that stay in the bucket; `None` if none does.
    remote: Option<Arc<RemoteFiles>>,
    /// The bytes that were read from the bucket.
    pub(super) read: u64,
}

impl MirrorContent {
    pub(super) fn new(
        store: BucketStore,
        files: MirrorFiles,
        record: MirrorRecord,
        manifests: HashMap<u64, Manifest>,
    ) -> MirrorContent {
        MirrorContent { store, files, record, manifests, obsolete: Vec::new(), remote: None, read: 0 }
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
    pub(super) fn apply(&mut self, chunk: &Chunk) -> Result<()> {
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
        chunk.files.iter().try_for_each(|file| self.fetch(file, &replaced))?;
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

    /// Fetches a file, unless the directory has it.
    fn fetch(&mut self, file: &StoredFile, replaced: &HashMap<u64, Manifest>) -> Result<()> {
        let is_segment = file.path.contains("/segments/");
        let known = self.record.files.get(&file.path);
        let has = known.is_some_and(|known| match is_segment {
            true => known.bytes >= file.bytes,
            false => known.digest == file.digest.to_string(),
        });
        if has {
            return Ok(());
        }
        if let Some(remote) = &self.remote
            && (!is_segment || self.is_before_layers(file, replaced))
        {
            remote.add(self.files.path(&file.path), file.object(), file.bytes);
            let known = MirroredFile { bytes: file.bytes, digest: file.digest.to_string() };
            self.record.files.insert(file.path.clone(), known);
            return Ok(());
        }
        let start = known.filter(|_| is_segment).map_or(0, |known| known.bytes);
        let (path, object) = (self.files.path(&file.path), file.object());
        let mut pending = if is_segment { None } else { Some(self.files.begin(&path)?) };
        if is_segment && start == 0 {
            // A segment may have no bytes yet.
            self.files.write_at(&path, &[], 0)?;
        }
        let (mut at, mut digest) = (0, Xxh3::new());
        while at < file.bytes {
            let bytes = self.store.read_range(&object, at..file.bytes.min(at + PART_BYTES))?;
            digest.update(&bytes);
            match &mut pending {
                Some(pending) => pending.append(&bytes)?,
                // Bytes that the segment has stay as they are: a reader may be reading them.
                None => {
                    let skipped = usize::try_from(start.saturating_sub(at)).unwrap_or(usize::MAX);
                    let new = bytes.get(skipped..).unwrap_or_default();
                    self.files.write_at(&path, new, at.max(start))?;
                }
            }
            at += bytes.len() as u64;
            self.read += bytes.len() as u64;
        }
        if ContentDigest(digest.digest128().to_le_bytes()) != file.digest {
            let what = "its content does not match the digest in its name";
            return Err(Error::corrupt(self.object(&object), 0, what));
        }
        let mut known = MirroredFile { bytes: file.bytes, digest: String::new() };
        if let Some(pending) = pending {
            self.files.put_in_place(pending, &path)?;
            known.digest = file.digest.to_string();
        }
        self.record.files.insert(file.path.clone(), known);
        Ok(())
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
        let (now, kept) = (Instant::now(), self.names(next));
        let gone = self.names(last).into_iter().filter(|name| !kept.contains(name));
        let gone: Vec<_> = gone.map(|name| (now, name)).collect();
        self.obsolete.extend(gone);
    }

    /// The names of the files that a manifest lists.
    fn names(&self, manifest: &Manifest) -> Vec<String> {
        let dir = &self.files.dir;
        let segments = manifest.segments.iter().map(|segment| dir.segment(&manifest.table, segment.number));
        let files = layout::snapshot_files(dir, manifest).into_iter().chain(segments);
        let name =
            |path: PathBuf| path.strip_prefix(dir.root()).unwrap_or(&path).to_string_lossy().into_owned();
        files.map(name).collect()
    }

    /// Whether there are files to remove: those that no manifest has named for a while.
    pub(super) fn has_obsolete(&self) -> bool {
        self.obsolete.first().is_some_and(|(since, _)| since.elapsed() >= OBSOLETE_KEPT)
    }

    /// Removes these files. What was applied must be recorded before: the record may not be older than the manifests without them.
    pub(super) fn remove_obsolete(&mut self) -> Result<()> {
        let due: Vec<_> =
            self.obsolete.extract_if(.., |(since, _)| since.elapsed() >= OBSOLETE_KEPT).collect();
        for (_, name) in due {
            let is_named = self.manifests.values().any(|manifest| self.names(manifest).contains(&name));
            if !is_named {
                self.record.files.remove(&name);
                let path = self.files.path(&name);
                if let Some(remote) = &self.remote {
                    remote.remove(&path);
                }
                self.files.remove(&path)?;
            }
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
