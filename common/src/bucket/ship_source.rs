//! What the next chunk is made of: the parts that a directory has and its bucket lacks, and the files that are uploaded before it.
//!
//! Files that become objects of their own are found by their content, so an upload can be repeated by anyone at any time.

use std::collections::HashMap;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::bucket::chunk::{ContentDigest, ReplacedFile, StoredFile};
use crate::bucket::disk_state::{DiskReader, DiskState, TableOnDisk};
use crate::bucket::objects::PART_BYTES;
use crate::bucket::shipped::{ShippedState, layer_paths, segment_path};
use crate::bucket::store::{BucketStore, read_part};
use crate::error::{Reason, Result};
use crate::limits;
use crate::storage::fs::{self, FileId, FileSystem};
use crate::storage::head::Head;

/// A base has the bytes of a segment after its last upload as a piece if there are at most this many.
const BASE_PIECE_BYTES: u64 = 8 << 20;

/// Whether a chunk is put together, or only what it needs in the bucket first.
pub(super) enum Uploads<'a> {
    /// The files to upload are only noted.
    Note(&'a mut Vec<WantedFile>),
    /// They are uploaded.
    Make,
}

/// The parts of a chunk.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) replaced: Vec<ReplacedFile>,
    pub(super) files: Vec<StoredFile>,
    /// Table id, segment, path, and the range.
    pub(super) ranges: Vec<(u64, u64, String, u64, u64)>,
}

/// A directory, and what its bucket has of it.
#[derive(Debug)]
pub(super) struct ShipSource {
    pub(super) store: BucketStore,
    pub(super) disk: DiskReader,
    pub(super) shipped: ShippedState,
    /// By path in the data directory.
    pub(super) known: HashMap<String, KnownFile>,
    /// Whether layers that are missing on disk are left out: daemons do without them, and a mirror has no more.
    pub(super) skips_missing: bool,
}

impl ShipSource {
    /// Notes that a file is in the bucket.
    pub(super) fn note_uploaded(&mut self, file: KnownFile) {
        self.known.insert(file.stored.path.clone(), file);
    }

    /// While a commit waits, layers that are not in the bucket yet are left to a later chunk: the bucket keeps the manifest that it
    /// has, unless the log has gone on to a segment that only the new one names.
    pub(super) fn keep_old_manifests(&self, state: &mut DiskState) -> Result<()> {
        for table in &mut state.tables {
            let Some(old) = self.shipped.manifests.get(&table.entry.table) else { continue };
            let is_active = |number| old.segments.last().is_some_and(|segment| segment.number == number);
            if table.bytes.is_some() && is_active(table.entry.segment) && !self.has_all_layers(table)? {
                table.entry.manifest = old.version;
                table.entry.floor = old.floor.map_or(0, |floor| floor.seq);
                *table = TableOnDisk { entry: table.entry, manifest: old.clone(), bytes: None };
            }
        }
        let entries: HashMap<u64, _> =
            state.tables.iter().map(|table| (table.entry.table, table.entry)).collect();
        for entry in &mut state.head.entries {
            *entry = entries.get(&entry.table).copied().unwrap_or(*entry);
        }
        Ok(())
    }

    fn has_all_layers(&self, table: &TableOnDisk) -> Result<bool> {
        for path in layer_paths(&table.manifest) {
            match self.find_known(&path) {
                Ok((Some(_), ..)) => {}
                Ok((None, ..)) => return Ok(false),
                // It is damaged, or about to be built again.
                Err(error) if error.reason() == Reason::FileGone => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Finds a layer or an index in the bucket, and its identity and length on this machine.
    fn find_known(&self, path: &str) -> Result<(Option<KnownFile>, Option<FileId>, u64)> {
        let full = self.disk.dir.root().join(path);
        let found = self.disk.fs.open(&full).and_then(|file| Ok((self.disk.fs.file_id(&full)?, file.len()?)));
        let (id, len) = found.map_err(|e| fs::read_failed(&full, &e))?;
        let known = self.known.get(path).filter(|known| {
            let is_same = known.id.is_none() || id.is_none() || known.id == id;
            known.stored.bytes == len && is_same
        });
        Ok((known.map(|known| KnownFile { id, stored: known.stored.clone() }), id, len))
    }

    /// The parts of a chunk from one HEAD.
    pub(super) fn parts(
        &mut self,
        state: &DiskState,
        is_base: bool,
        uploads: &mut Uploads<'_>,
    ) -> Result<Parts> {
        let mut parts = Parts { replaced: self.small_files(&state.head, is_base)?, ..Parts::default() };
        for table in &state.tables {
            let id = table.entry.table;
            let shipped = self.shipped.manifests.get(&id);
            let is_new = is_base || shipped.is_none_or(|shipped| shipped.version != table.manifest.version);
            if let Some(bytes) = table.bytes.as_ref().filter(|_| is_new) {
                let name = &table.manifest.table;
                parts
                    .replaced
                    .push(ReplacedFile { path: format!("tables/{name}/meta.json"), bytes: bytes.clone() });
                let schema = format!("tables/{name}/schema.yaml");
                if let Some(bytes) = self.disk.file(&schema)? {
                    parts.replaced.push(ReplacedFile { path: schema, bytes });
                }
                for path in layer_paths(&table.manifest) {
                    self.add_layer(&mut parts, (id, path), is_base, uploads)?;
                }
            }
            let segments = table.manifest.segments.iter();
            let changed = segments.filter(|segment| is_new || segment.number == table.entry.segment);
            for segment in changed {
                let end = match segment.sealed {
                    Some(seal) => seal.bytes,
                    None if segment.number == table.entry.segment => table.entry.bytes,
                    None => 0,
                };
                let start = if is_base { 0 } else { self.shipped.segment_len(id, segment.number) };
                let path = segment_path(&table.manifest.table, segment.number);
                if is_base && let Some(start) = self.add_uploaded_segment(&mut parts, &path, end) {
                    if start < end {
                        parts.ranges.push((id, segment.number, path, start, end));
                    }
                } else if start < end {
                    parts.ranges.push((id, segment.number, path, start, end));
                }
            }
        }
        self.upload_long_ranges(&mut parts, is_base, uploads)?;
        Ok(parts)
    }

    /// `database.json`, `lineage.json` and `clock.json`, as far as they have changed.
    fn small_files(&self, head: &Head, is_base: bool) -> Result<Vec<ReplacedFile>> {
        let old = self.shipped.head.as_ref().filter(|_| !is_base);
        let is_same = |same: fn(&Head, &Head) -> bool| old.is_some_and(|old| same(old, head));
        let has_identity = is_same(|a, b| {
            let identity = |head: &Head| (head.header.database_id, head.header.epoch, head.header.format);
            identity(a) == identity(b)
        });
        let has_lineage = is_same(|a, b| a.incarnation == b.incarnation);
        let mut files = Vec::new();
        for (path, is_there) in
            [("database.json", has_identity), ("lineage.json", has_lineage), ("clock.json", old.is_some())]
        {
            if !is_there && let Some(bytes) = self.disk.file(path)? {
                files.push(ReplacedFile { path: path.to_owned(), bytes });
            }
        }
        Ok(files)
    }

    fn add_layer(
        &mut self,
        parts: &mut Parts,
        (table, path): (u64, String),
        is_base: bool,
        uploads: &mut Uploads<'_>,
    ) -> Result<()> {
        let (known, _, bytes) = match self.find_known(&path) {
            Err(error) if error.reason() == Reason::FileGone && self.skips_missing => {
                tracing::warn!(%error, "a missing file is not in the bucket either");
                return Ok(());
            }
            found => found?,
        };
        let stored = match known {
            Some(known) => {
                let stored = known.stored.clone();
                self.note_uploaded(known);
                Some(stored)
            }
            None => self.upload(WantedFile { table, path: path.clone(), bytes }, uploads)?,
        };
        let shipped = self.shipped.files.get(&table).and_then(|files| files.get(&path));
        if let Some(stored) = stored.filter(|stored| is_base || shipped != Some(stored)) {
            parts.files.push(stored);
        }
        Ok(())
    }

    /// Adds the start of a segment to a base as it was uploaded last, if little has come after it. Returns where that start ends.
    fn add_uploaded_segment(&self, parts: &mut Parts, path: &str, end: u64) -> Option<u64> {
        let stored = &self.known.get(path)?.stored;
        if stored.bytes > end || end - stored.bytes > BASE_PIECE_BYTES {
            return None;
        }
        parts.files.push(stored.clone());
        Some(stored.bytes)
    }

    /// Uploads whole segments in place of pieces: all of a base that no upload has, and else the longest until the rest fits in a chunk.
    fn upload_long_ranges(
        &mut self,
        parts: &mut Parts,
        is_base: bool,
        uploads: &mut Uploads<'_>,
    ) -> Result<()> {
        parts.ranges.sort_unstable_by_key(|(_, _, _, start, end)| end - start);
        let mut left: u64 = parts.ranges.iter().map(|(_, _, _, start, end)| end - start).sum();
        let mut kept = Vec::new();
        while let Some(range) = parts.ranges.pop() {
            let (table, _, path, start, end) = &range;
            let is_short = end - start <= BASE_PIECE_BYTES && (*start > 0 || !is_base);
            if left <= limits::BUCKET_CHANGES_BYTES && (!is_base || is_short) {
                kept.push(range);
                continue;
            }
            left -= end - start;
            let wanted = WantedFile { table: *table, path: path.clone(), bytes: *end };
            // A base has the start of the segment, which is replaced by all of it.
            parts.files.retain(|file| file.path != *path);
            if let Some(stored) = self.upload(wanted, uploads)? {
                parts.files.push(stored);
            }
        }
        kept.sort_unstable_by_key(|(table, segment, _, start, _)| (*table, *segment, *start));
        parts.ranges = kept;
        Ok(())
    }

    fn upload(&mut self, wanted: WantedFile, uploads: &mut Uploads<'_>) -> Result<Option<StoredFile>> {
        match uploads {
            Uploads::Note(noted) => {
                noted.push(wanted);
                Ok(None)
            }
            Uploads::Make => {
                let known =
                    upload(&self.store, &*self.disk.fs, self.disk.dir.root(), &wanted, &mut || Ok(()))?;
                let stored = known.stored.clone();
                self.note_uploaded(known);
                Ok(Some(stored))
            }
        }
    }
}

/// A file whose content is an object in the bucket.
#[derive(Debug, Clone)]
pub struct KnownFile {
    /// Which file it is on this machine; `None` if another process has uploaded it.
    pub(super) id: Option<FileId>,
    /// The object.
    pub(super) stored: StoredFile,
}

/// A file to upload: its first bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedFile {
    pub(super) table: u64,
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// Files that are in the bucket as some process has uploaded them.
pub(super) fn known_files<'a>(files: impl IntoIterator<Item = &'a StoredFile>) -> HashMap<String, KnownFile> {
    files
        .into_iter()
        .map(|stored| (stored.path.clone(), KnownFile { id: None, stored: stored.clone() }))
        .collect()
}

/// Uploads a file, unless the bucket has its content under its name.
pub fn upload(
    store: &BucketStore,
    fs: &dyn FileSystem,
    root: &Path,
    wanted: &WantedFile,
    between: &mut dyn FnMut() -> Result<()>,
) -> Result<KnownFile> {
    let full = root.join(&wanted.path);
    let mut digest = Xxh3::new();
    let mut at = 0;
    while at < wanted.bytes {
        let part = read_part(fs, &full, at, PART_BYTES.min(wanted.bytes - at))?;
        digest.update(&part);
        at += part.len() as u64;
        if at < wanted.bytes {
            between()?;
        }
    }
    let digest = ContentDigest(digest.digest128().to_le_bytes());
    let stored = StoredFile { table: wanted.table, path: wanted.path.clone(), bytes: wanted.bytes, digest };
    store.upload(fs, root, &stored, between)?;
    let id = fs.file_id(&full).map_err(|e| fs::read_failed(&full, &e))?;
    Ok(KnownFile { id, stored })
}
