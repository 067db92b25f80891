//! What a mirror of a bucket has: learned from its chunks, so that a writer ships only what is missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::bucket::chain::ChunkChain;
use crate::bucket::chunk::{Chunk, ChunkHeader, ChunkKind, StoredFile, chunk_name};
use crate::bucket::store::BucketStore;
use crate::error::{Error, Result};
use crate::format::lineage::Lineage;
use crate::format::manifest::{self, Manifest};
use crate::storage::head::Head;
use crate::storage::layout::{self, DataDir, LINEAGE, segment_number};

/// What the chunks of a bucket add up to.
#[derive(Debug, Clone, Default)]
pub struct ShippedState {
    /// HEAD, if there is a chunk with one.
    pub head: Option<Head>,
    /// Whether the last chunk with a HEAD has everything that its writer had acknowledged.
    is_all_acknowledged: bool,
    /// The first fence of a writer after that chunk; of one that acknowledges commits before it ships them.
    pub writer_fence: Option<u64>,
    async_fence: Option<u64>,
    /// The incarnations of the history that the chunks have.
    pub lineage: Lineage,
    /// The manifests, by table id.
    pub manifests: HashMap<u64, Manifest>,
    /// The files that are objects, by table id and path in the data directory. Of segments: their start, as uploaded last.
    pub files: HashMap<u64, BTreeMap<String, StoredFile>>,
    /// The files that chunks since the last base named, or that base, and that are not named any more.
    pub retired: BTreeMap<String, StoredFile>,
    /// The lengths of segments, by table id and number.
    pub segments: HashMap<(u64, u64), u64>,
    /// The bytes of pieces since the last base.
    pub bytes_since_base: u64,
}

impl ShippedState {
    /// Reads the chunks from the base of the last chunk on. `chain` is at the last chunk; of a chunk that was checked before, its
    /// predecessors are, too.
    pub fn read(store: &BucketStore, end: &ChunkChain) -> Result<ShippedState> {
        let mut state = ShippedState::default();
        if end.last.base == 0 {
            return Ok(state);
        }
        let mut chain: Option<ChunkChain> = None;
        for number in end.last.base..=end.last.number {
            state.read_next(store, number, &mut chain)?;
        }
        if chain.is_none_or(|chain| chain.digest != end.digest) {
            let name = format!("{}/{}", store.url(), chunk_name(end.last.number));
            return Err(Error::corrupt(name, 0, "the chunk has changed since it was read"));
        }
        Ok(state)
    }

    /// Reads the chunk after those that the state has, and checks that it continues them.
    pub fn read_next(
        &mut self,
        store: &BucketStore,
        number: u64,
        chain: &mut Option<ChunkChain>,
    ) -> Result<()> {
        let Some((chunk, bytes)) = store.chunk(number)? else {
            let name = format!("{}/{}", store.url(), chunk_name(number));
            return Err(Error::corrupt(name, 0, "the chunk is missing, and the bucket has later ones"));
        };
        match chain {
            Some(chain) => chain.accept(&chunk, &bytes).map_err(|error| error.context(store.url()))?,
            None => *chain = Some(ChunkChain::begin(&chunk, &bytes)),
        }
        self.apply(&chunk).map_err(|error| error.context(store.url()))
    }

    /// Adds what a chunk has.
    pub fn apply(&mut self, chunk: &Chunk) -> Result<()> {
        let damaged = |detail: String| Error::corrupt(chunk_name(chunk.header.number), 0, detail);
        match chunk.header.kind {
            ChunkKind::Fence => {
                self.note_fence(&chunk.header);
                return Ok(());
            }
            ChunkKind::Base => *self = ShippedState::default(),
            ChunkKind::Changes => {}
        }
        for file in &chunk.files {
            if let Some(segment) = file.path.rsplit('/').next().and_then(segment_number) {
                self.extend(file.table, segment, file.bytes);
            }
            let files = self.files.entry(file.table).or_default();
            let before = files.insert(file.path.clone(), file.clone()).filter(|before| before != file);
            self.retire(before);
            self.retired.remove(&file.object());
        }
        for piece in &chunk.pieces {
            self.extend(piece.table, piece.segment, piece.offset + piece.bytes.len() as u64);
            self.bytes_since_base += piece.bytes.len() as u64;
        }
        for file in chunk.replaced.iter().filter(|file| file.path.ends_with("/meta.json")) {
            let manifest: Manifest = manifest::decode(&file.bytes)
                .map_err(|detail| damaged(format!("{}: {detail}", file.path)))?;
            self.forget_unnamed(&manifest);
            self.manifests.insert(manifest.table_id, manifest);
        }
        if let Some(file) = chunk.replaced.iter().find(|file| file.path == LINEAGE) {
            self.lineage = manifest::decode(&file.bytes)
                .map_err(|detail| damaged(format!("{}: {detail}", file.path)))?;
        }
        let head = Head::decode(&chunk.head).ok_or_else(|| damaged("its HEAD is not valid".to_owned()))?;
        // The database that was backed up may have been opened again by a writer that does not ship.
        let is_closed = head.header.closed && !chunk.header.is_backup;
        self.is_all_acknowledged = chunk.header.is_sync || is_closed;
        self.head = Some(head);
        (self.writer_fence, self.async_fence) = (None, None);
        Ok(())
    }

    fn note_fence(&mut self, fence: &ChunkHeader) {
        if !fence.is_backup {
            self.writer_fence.get_or_insert(fence.number);
        }
        if !fence.is_backup && !fence.is_sync {
            self.async_fence.get_or_insert(fence.number);
        }
    }

    /// Whether the bucket has everything that was acknowledged, as far as its chunks tell, to the writer whose fence is the last chunk:
    /// a writer between the last HEAD and that fence may have acknowledged commits, and died before it shipped any.
    pub fn has_all_acknowledged(&self, fence: u64) -> bool {
        self.is_all_acknowledged && self.async_fence.is_none_or(|first| first >= fence)
    }

    fn extend(&mut self, table: u64, segment: u64, end: u64) {
        let known = self.segments.entry((table, segment)).or_default();
        *known = end.max(*known);
    }

    /// Forgets the files of a table that its manifest does not name any more.
    fn forget_unnamed(&mut self, manifest: &Manifest) {
        let id = manifest.table_id;
        let named = named_files(manifest);
        let listed: HashSet<u64> = manifest.segments.iter().map(|segment| segment.number).collect();
        self.segments.retain(|(table, number), _| *table != id || listed.contains(number));
        let files = self.files.get_mut(&id);
        let gone =
            files.map(|files| files.extract_if(.., |path, _| !named.contains(path)).collect::<Vec<_>>());
        self.retire(gone.into_iter().flatten().map(|(_, file)| file));
    }

    fn retire(&mut self, files: impl IntoIterator<Item = StoredFile>) {
        self.retired.extend(files.into_iter().map(|file| (file.object(), file)));
    }

    /// What a base that names these files retires: also what was uploaded and never named.
    pub fn retired_by<'a>(
        &'a self,
        files: &[StoredFile],
        uploaded: impl Iterator<Item = &'a StoredFile>,
    ) -> Vec<StoredFile> {
        let named: HashSet<String> = files.iter().map(StoredFile::object).collect();
        let all = self.files.values().flat_map(BTreeMap::values).map(|file| (file.object(), file));
        let all = all.chain(uploaded.map(|file| (file.object(), file)));
        let all = all.chain(self.retired.iter().map(|(object, file)| (object.clone(), file)));
        let retired: BTreeMap<String, &StoredFile> =
            all.filter(|(object, _)| !named.contains(object)).collect();
        retired.into_values().cloned().collect()
    }

    /// The bytes of all segments.
    pub fn segment_bytes(&self) -> u64 {
        self.segments.values().sum()
    }

    /// How much of a segment is there.
    pub fn segment_len(&self, table: u64, segment: u64) -> u64 {
        self.segments.get(&(table, segment)).copied().unwrap_or_default()
    }
}

/// The paths in the data directory of all files that a manifest names, segments included.
pub fn named_files(manifest: &Manifest) -> HashSet<String> {
    let segments = manifest.segments.iter().map(|segment| segment_path(&manifest.table, segment.number));
    layer_paths(manifest).into_iter().chain(segments).collect()
}

/// The paths in the data directory of the layers and indexes that a manifest names.
pub fn layer_paths(manifest: &Manifest) -> Vec<String> {
    let paths = layout::snapshot_files(&DataDir::new(""), manifest);
    paths.into_iter().map(|path| path.to_string_lossy().into_owned()).collect()
}

/// The path of a segment in the data directory.
pub fn segment_path(table: &str, number: u64) -> String {
    DataDir::new("").segment(table, number).to_string_lossy().into_owned()
}
