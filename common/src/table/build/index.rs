//! Builds the secondary indexes of layers: which rows may have a value, sorted by value and key.
//!
//! An index is built row by row in key order, and its entries are sorted by value. It can be much larger than memory,
//! so sorted runs are written to temporary files beside it, and merged at the end. An index of a delta layer also
//! keeps the range of commits in which the row had the value, so that a select AS OF an older point in time skips
//! rows that got the value later.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::index_columns::IndexColumns;
use crate::format::snapshot::{CandidateEntry, RowEntry, VersionEntry, kind, read_version, tree};
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::{delta_stem, image_stem};
use crate::storage::sst::{SstFile, SstOutput, TreeCursor, write_file};
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::{ProgressFn, REPORT_INTERVAL};
use crate::table::layers::LayerFile;
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::row_fold::RowFold;
use crate::table::table_files::TableFiles;

/// The size in bytes at which the candidates in memory are written to a run.
const RUN_BYTES: usize = 64 << 20;

/// An index entry's bytes (value and sort key), and when the row had the value.
type IndexEntry = (Vec<u8>, CandidateEntry);

/// Collects the entries of one index, row by row in key order.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    /// The path as the schema names it.
    name: String,
    columns: IndexColumns,
    /// The values of the current row, and when it had each.
    row_values: Vec<(Vec<u8>, CandidateEntry)>,
    candidates: Vec<IndexEntry>,
    /// An estimate of the bytes that the candidates take in memory.
    bytes: usize,
    /// Sorted runs in temporary files.
    runs: Vec<(PathBuf, Arc<SstFile>)>,
}

impl IndexBuilder {
    /// An empty index on a path, as a schema names it.
    pub(super) fn new(path: &str) -> IndexBuilder {
        IndexBuilder {
            name: path.to_owned(),
            columns: IndexColumns::of(path),
            row_values: Vec::new(),
            candidates: Vec::new(),
            bytes: 0,
            runs: Vec::new(),
        }
    }

    /// The path, as the schema names it.
    pub(super) fn path(&self) -> &str {
        &self.name
    }

    /// Adds the state of the current row after a commit.
    pub(super) fn push_version(&mut self, seq: u64, row: Option<&Document>) -> Result<()> {
        let value = value_at(&self.columns, row)?;
        for (known, entry) in &mut self.row_values {
            if entry.until == 0 && Some(&*known) != value.as_ref() {
                entry.until = seq;
            }
        }
        if let Some(value) = value {
            match self.row_values.iter_mut().find(|(known, _)| *known == value) {
                Some((_, entry)) => entry.until = 0,
                None => self.row_values.push((value, CandidateEntry { first: seq, until: 0 })),
            }
        }
        Ok(())
    }

    /// Ends the current row, whose sort key this is.
    pub(super) fn end_row(&mut self, key: &[u8]) {
        for (mut bytes, entry) in self.row_values.drain(..) {
            bytes.extend_from_slice(key);
            self.bytes += bytes.len() + 64;
            self.candidates.push((bytes, entry));
        }
    }

    /// Writes the candidates in memory to a run beside the index if they take too much memory. `index_path` returns the
    /// path of the index file.
    pub(super) fn write_run_if_full(
        &mut self,
        files: &TableFiles,
        index_path: impl FnOnce(&str) -> PathBuf,
    ) -> Result<()> {
        if self.bytes < RUN_BYTES {
            return Ok(());
        }
        let mut name = index_path(&self.name).into_os_string();
        name.push(format!(".{}.run", self.runs.len()));
        let path = PathBuf::from(name);
        let identity = SstIdentity { table: 0, base: 0, seq: self.runs.len() as u64, kind: u8::MAX };
        self.candidates.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let candidates = std::mem::take(&mut self.candidates);
        self.bytes = 0;
        write_file(&*files.fs, &path, identity, |file| {
            file.begin_tree(tree::CANDIDATES, false)?;
            merge_runs(file, &[], &candidates)?;
            file.end_tree()?;
            Ok(Vec::new())
        })?;
        let file = SstFile::open(Arc::clone(&files.fs), path.clone(), identity, Arc::clone(&files.cache))?;
        self.runs.push((path, file));
        Ok(())
    }

    /// Writes the index file and removes the runs. Returns the file's length in bytes.
    pub(super) fn write(mut self, files: &TableFiles, path: &FilePath, identity: SstIdentity) -> Result<u64> {
        self.candidates.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let written = write_file(&*files.fs, path, identity, |file| {
            file.begin_tree(tree::CANDIDATES, false)?;
            merge_runs(file, &self.runs, &self.candidates)?;
            file.end_tree()?;
            Ok(self.name.clone().into_bytes())
        });
        for (path, _) in std::mem::take(&mut self.runs) {
            files
                .fs
                .remove(&path)
                .map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))?;
        }
        written
    }
}

impl Drop for IndexBuilder {
    /// Removes the runs of an index that was not completed.
    fn drop(&mut self) {
        self.runs.iter().for_each(|(_, run)| run.discard());
    }
}

/// The bytes of a row's value in an index; `None` if the row has no value that is indexed.
pub(in crate::table) fn value_at(columns: &IndexColumns, row: Option<&Document>) -> Result<Option<Vec<u8>>> {
    Ok(row.map(|row| columns.value_of(row)).transpose()?.flatten())
}

/// A sorted run: in a file, or the last one in memory.
enum IndexRun<'a> {
    File(TreeCursor),
    Memory(&'a [IndexEntry]),
}

impl SortedSource for IndexRun<'_> {
    type Key = [u8];

    fn key(&self) -> Option<&[u8]> {
        match self {
            IndexRun::File(cursor) => cursor.key(),
            IndexRun::Memory(candidates) => candidates.first().map(|(bytes, _)| bytes.as_slice()),
        }
    }
}

/// Merges sorted runs into a tree. No two runs contain the same key, because each row is in one run.
fn merge_runs(
    file: &mut SstWriter<SstOutput>,
    runs: &[(PathBuf, Arc<SstFile>)],
    last: &[IndexEntry],
) -> Result<()> {
    let mut sources = Vec::with_capacity(runs.len() + 1);
    for (_, run) in runs {
        let mut cursor = run.cursor(tree::CANDIDATES);
        cursor.first()?;
        sources.push(IndexRun::File(cursor));
    }
    sources.push(IndexRun::Memory(last));
    let mut merged = MergingCursor::new(sources);
    let mut value = Vec::new();
    while let Some(run) = merged.least() {
        match run {
            IndexRun::File(cursor) => {
                if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                    file.add(key, None, &value)?;
                }
                cursor.next()?;
            }
            IndexRun::Memory(candidates) => {
                let Some(((bytes, entry), rest)) = candidates.split_first() else { continue };
                value.clear();
                entry.encode(&mut value);
                file.add(bytes, None, &value)?;
                *candidates = rest;
            }
        }
    }
    Ok(())
}

/// Returns a row, given its sort key, as it was before a commit.
type RowBefore<'a> = &'a dyn Fn(&[u8], u64) -> Result<Option<Document>>;

/// Builds the index on a path that a layer lacks. Returns the file's length in bytes. `row_before` supplies rows as
/// they were before the layer.
pub fn build(
    files: &TableFiles,
    (name, id): (&str, u64),
    layer: &LayerFile,
    path: &str,
    is_image: bool,
    row_before: RowBefore<'_>,
    progress: ProgressFn<'_>,
) -> Result<u64> {
    let (stem, kind) = match is_image {
        true => (image_stem(layer.seq), kind::IMAGE_INDEX),
        false => (delta_stem(layer.base, layer.seq), kind::DELTA_INDEX),
    };
    let target = files.dir.index(name, path, &stem);
    let identity = SstIdentity { table: id, base: layer.base, seq: layer.seq, kind };
    let mut index = IndexBuilder::new(path);
    files.create_dirs(name)?;
    let mut cursor = layer.file.cursor(if is_image { tree::ROWS } else { tree::VERSIONS });
    cursor.first()?;
    let mut done = 0;
    while cursor.key().is_some() {
        if is_image {
            add_row(&mut cursor, &mut index)?;
        } else {
            add_versions(&mut cursor, &mut index, row_before, &|| progress(done))?;
        }
        index.write_run_if_full(files, |_| target.clone())?;
        done += 1;
        if done % REPORT_INTERVAL == 0 {
            progress(done)?;
        }
    }
    let mut new_files = NewFiles::of(files, name);
    new_files.add(&target);
    let bytes = index.write(files, &target, identity)?;
    files.sync_dirs(name)?;
    new_files.keep();
    Ok(bytes)
}

/// Adds the row of an image layer that the cursor is on, and moves to the next row.
fn add_row(cursor: &mut TreeCursor, index: &mut IndexBuilder) -> Result<()> {
    if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        let row = RowEntry::decode(&value)?;
        index.push_version(row.seq, Some(&row.document))?;
        index.end_row(key);
    }
    cursor.next()
}

/// Adds all versions in a delta layer of the row that the cursor is on, and moves to the next row.
fn add_versions(
    cursor: &mut TreeCursor,
    index: &mut IndexBuilder,
    row_before: RowBefore<'_>,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let Some(key) = cursor.key().and_then(read_version).map(|(row, ..)| row.to_vec()) else {
        return cursor.next();
    };
    let (mut fold, mut versions) = (RowFold::default(), 0u64);
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        versions += 1;
        if versions.is_multiple_of(REPORT_INTERVAL) {
            check()?;
        }
        let Some((_, seq, _)) = read_version(at).filter(|(row, ..)| *row == key) else { break };
        let VersionEntry { kind, payload, image, .. } = VersionEntry::decode(&value)?;
        let row = fold.apply(kind, payload.as_ref(), image, || row_before(&key, seq))?;
        index.push_version(seq, row)?;
        cursor.next()?;
    }
    index.end_row(&key);
    Ok(())
}
