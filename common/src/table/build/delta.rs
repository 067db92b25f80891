//! Builds a delta layer from the log: the events after a table's newest delta layer.
//!
//! The log is in commit order and the layer is in key order, so the events are collected in memory first; [`DeltaLimits`]
//! bounds how many. A row's PATCHes are stored as they are, and now and then together with the row after them, so that a
//! lookup reads a bounded number of versions. Nothing here names the new files in a manifest.

use crate::error::Result;
use crate::format::event::EventType;
use crate::format::key::Key;
use crate::format::manifest::{DeltaLayer, Manifest};
use crate::format::snapshot::{
    ChangeRef, DeltaProperties, SchemaEntry, commit_key, encode_commit, encode_version, kind, push_version,
    tree,
};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::delta_stem;
use crate::storage::sst::{SstOutput, write_file};
use crate::table::build::delta::content::{
    CollectedChange, CollectedCommit, CollectedRow, DeltaContent, read_log,
};
pub use crate::table::build::delta_limits::DeltaLimits;
use crate::table::build::index::IndexBuilder;
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::layers::LayerMap;
use crate::table::log_tail::ReadLimit;
use crate::table::row_fold::RowFold;
use crate::table::schema::SchemaEvent;
use crate::table::table_files::TableFiles;

mod content;

/// The most PATCHes of a row in a delta layer between two that are stored with the row after them.
const PATCHES_WITHOUT_IMAGE: u32 = 16;

/// A delta layer, and the keys of the rows that changed in it.
#[derive(Debug)]
pub struct BuiltDelta {
    /// The layer.
    pub layer: DeltaLayer,
    /// The keys, each once, in order.
    pub keys: Vec<Key>,
    /// The table's name at the layer's end.
    pub table_name: String,
}

/// Builds the delta layer after a table's newest one, with as many commits as the limits allow. Returns `None` if the log
/// has no new commit.
pub fn build_next(
    files: &TableFiles,
    manifest: &Manifest,
    layers: &LayerMap,
    read_limit: ReadLimit,
    limits: DeltaLimits,
    progress: ProgressFn<'_>,
) -> Result<Option<BuiltDelta>> {
    let content = read_log(files, manifest, layers, read_limit, limits, progress)?;
    let Some(CollectedCommit { seq, time_ms, .. }) = content.commits.last() else { return Ok(None) };
    let (base, seq, time_ms) = (layers.end(), *seq, *time_ms);
    let name = &manifest.table;
    let identity = SstIdentity { table: manifest.table_id, base, seq, kind: kind::DELTA };
    let (table_name, indexes) = newest_names(manifest, &content.schemas)?;
    let mut builders: Vec<IndexBuilder> = indexes.iter().map(|path| IndexBuilder::new(path)).collect();
    let (events, rows) = content.counts().last().unwrap_or_default();
    let properties = DeltaProperties { events, rows, time_ms, schema_entries: content.schemas.clone() };
    files.create_dirs(name)?;
    let (mut new_files, path) = (NewFiles::of(files, name), files.dir.delta_layer(name, base, seq));
    new_files.add(&path);
    let mut bytes = write_file(&*files.fs, &path, identity, |file| {
        file.begin_tree(tree::VERSIONS, true)?;
        let mut writer = VersionWriter::new(file, layers, &content);
        for (at, row) in (0..).zip(content.rows()) {
            if at % REPORT_INTERVAL == 0 {
                progress(content.frames + at)?;
            }
            writer.write_row(row, &mut builders, &|| progress(content.frames + at))?;
        }
        file.end_tree()?;
        write_other_trees(file, &content)?;
        Ok(properties.encode())
    })?;
    for index in builders {
        let path = files.dir.index(name, index.path(), &delta_stem(base, seq));
        new_files.add(&path);
        bytes += index.write(files, &path, SstIdentity { kind: kind::DELTA_INDEX, ..identity })?;
    }
    files.sync_dirs(name)?;
    new_files.keep();
    let (events, position) = (content.frames, content.position);
    let layer = DeltaLayer { base, seq, bytes, events, indexes, position };
    Ok(Some(BuiltDelta { layer, keys: content.into_keys(), table_name }))
}

/// The table's name, and the paths that it has indexes on, as the newest schema says.
fn newest_names(manifest: &Manifest, schemas: &[SchemaEntry]) -> Result<(String, Vec<String>)> {
    match schemas.last() {
        Some(entry) => {
            let schema = SchemaEvent::from_document(&entry.document)?.schema;
            Ok((schema.table, schema.indexes))
        }
        None => Ok((manifest.table_name().to_owned(), Vec::new())),
    }
}

/// Writes versions, and adds the row after each to the indexes.
struct VersionWriter<'a, 'f> {
    file: &'f mut SstWriter<SstOutput>,
    layers: &'a LayerMap,
    content: &'a DeltaContent,
    /// Buffers, used again for each version.
    version_key: Vec<u8>,
    value: Vec<u8>,
}

impl<'a, 'f> VersionWriter<'a, 'f> {
    fn new(file: &'f mut SstWriter<SstOutput>, layers: &'a LayerMap, content: &'a DeltaContent) -> Self {
        VersionWriter { file, layers, content, version_key: Vec::new(), value: Vec::new() }
    }

    /// Writes the versions of one row.
    fn write_row(
        &mut self,
        row: impl Iterator<Item = &'a CollectedRow>,
        indexes: &mut [IndexBuilder],
        check: &dyn Fn() -> Result<()>,
    ) -> Result<()> {
        let mut fold = RowFold::default();
        // PATCHes since the last version that was stored with the row after it, and their bytes.
        let (mut patches, mut patched_bytes) = (0, 0);
        let mut key: &[u8] = &[];
        for (number, change) in (1..).zip(row) {
            if number % REPORT_INTERVAL == 0 {
                check()?;
            }
            let Some(commit) = self.content.commits.get(change.commit) else { continue };
            key = self.content.sort_key(change);
            let row_before = || self.layers.document_before(key, commit.seq);
            let after = fold.apply(change.kind, change.document.as_ref(), None, row_before)?;
            let mut image = None;
            if change.kind == EventType::Patch {
                patches += 1;
                patched_bytes += change.document.as_ref().map_or(0, |patch| patch.msgpack().len());
                let row_bytes = after.map_or(0, |row| row.msgpack().len());
                if patches >= PATCHES_WITHOUT_IMAGE || patched_bytes * 4 >= row_bytes {
                    image = after;
                }
            }
            if change.kind != EventType::Patch || image.is_some() {
                (patches, patched_bytes) = (0, 0);
            }
            for index in &mut *indexes {
                index.push_version(commit.seq, after)?;
            }
            self.version_key.clear();
            self.version_key.extend_from_slice(key);
            push_version(&mut self.version_key, commit.seq, change.index);
            self.value.clear();
            let (documents, said) = ((change.document.as_ref(), image), commit.said());
            encode_version(&mut self.value, (change.kind, change.marks), commit.time_ms, said, documents);
            self.file.add(&self.version_key, Some(key), &self.value)?;
        }
        for index in indexes {
            index.end_row(key);
        }
        Ok(())
    }
}

/// Writes the trees after the tree of versions.
fn write_other_trees(file: &mut SstWriter<SstOutput>, content: &DeltaContent) -> Result<()> {
    let mut value = Vec::new();
    file.begin_tree(tree::COMMITS, false)?;
    for ((commit, changes), counts) in content.commits_with_changes().zip(content.counts()) {
        value.clear();
        let changes = changes.iter().map(|change| match change {
            CollectedChange::Row(row) => ChangeRef::Row(content.sort_key(row)),
            CollectedChange::Schema(document, emptied) => ChangeRef::Schema(document, *emptied),
        });
        encode_commit(&mut value, counts, commit.said(), changes);
        file.add(&commit_key(commit.time_ms, commit.seq), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::REQUESTS, false)?;
    for (seq, request) in &content.requests {
        value.clear();
        request.encode(&mut value);
        file.add(&seq.to_be_bytes(), None, &value)?;
    }
    file.end_tree()?;
    file.begin_tree(tree::PRODUCERS, false)?;
    for (name, producer) in &content.producers {
        value.clear();
        producer.encode(&mut value);
        file.add(name.as_bytes(), None, &value)?;
    }
    file.end_tree()
}
