//! Builds the secondary indexes of layers: which rows may have a value, sorted by value and key.
//!
//! An index is built row by row in key order, and its entries are sorted by value. It can be much larger than memory,
//! so sorted runs are written to temporary files beside it, and merged at the end. An index of a delta layer also
//! keeps the range of commits in which the row had the value, so that a select AS OF an older point in time skips
//! rows that got the value later.

use std::cmp::Ordering;
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
use crate::table::sort_start::{SortStart, common_len};
use crate::table::table_files::TableFiles;

/// The size in bytes at which the candidates in memory are written to a run.
const RUN_BYTES: usize = 64 << 20;

/// Candidates, in one buffer.
#[derive(Debug, Default)]
struct CandidateList {
    /// For each candidate, its value and its row's sort key.
    bytes: Vec<u8>,
    entries: Vec<ListedCandidate>,
}

/// A candidate in a [`CandidateList`].
#[derive(Debug, Clone, Copy)]
struct ListedCandidate {
    start: SortStart,
    /// Where its bytes begin, where its value ends, and where its sort key ends.
    from: usize,
    value_end: usize,
    to: usize,
    entry: CandidateEntry,
}

impl CandidateList {
    fn push(&mut self, value: &[u8], key: &[u8], entry: CandidateEntry) {
        let from = self.bytes.len();
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(key);
        let (value_end, to) = (from + value.len(), self.bytes.len());
        self.entries.push(ListedCandidate { start: SortStart::default(), from, value_end, to, entry });
    }

    /// About the bytes that the list takes in memory.
    fn memory(&self) -> usize {
        self.bytes.len() + self.entries.len() * size_of::<ListedCandidate>()
    }

    fn value(&self, candidate: &ListedCandidate) -> &[u8] {
        self.bytes.get(candidate.from..candidate.value_end).unwrap_or_default()
    }

    fn key(&self, candidate: &ListedCandidate) -> &[u8] {
        self.bytes.get(candidate.from..candidate.to).unwrap_or_default()
    }

    /// Sorts the candidates. They were added in the order of their rows' keys, so those of one value are in order already.
    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        let common = common_len(entries.iter().map(|entry| self.key(entry)));
        for entry in &mut entries {
            entry.start = SortStart::new(self.key(entry), common);
        }
        let whole = |a: &ListedCandidate, b: &ListedCandidate| match self.value(a) == self.value(b) {
            true => Ordering::Equal,
            false => self.key(a).cmp(self.key(b)),
        };
        entries.sort_by(|a, b| a.start.compare(b.start, || whole(a, b)));
        self.entries = entries;
    }
}

/// Collects the entries of one index, row by row in key order.
#[derive(Debug)]
pub(super) struct IndexBuilder {
    /// The path as the schema names it.
    name: String,
    columns: IndexColumns,
    /// The values of the current row, and when it had each.
    row_values: Vec<(Vec<u8>, CandidateEntry)>,
    /// A buffer for the value of the state that is added.
    value: Vec<u8>,
    candidates: CandidateList,
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
            value: Vec::new(),
            candidates: CandidateList::default(),
            runs: Vec::new(),
        }
    }

    /// The path, as the schema names it.
    pub(super) fn path(&self) -> &str {
        &self.name
    }

    /// Adds the state of the current row after a commit.
    pub(super) fn push_version(&mut self, seq: u64, row: Option<&Document>) -> Result<()> {
        self.value.clear();
        let has_value = write_value_at(&mut self.value, &self.columns, row)?;
        let mut is_known = false;
        for (known, entry) in &mut self.row_values {
            if has_value && *known == self.value {
                entry.until = 0;
                is_known = true;
            } else if entry.until == 0 {
                entry.until = seq;
            }
        }
        if has_value && !is_known {
            self.row_values.push((self.value.clone(), CandidateEntry { first: seq, until: 0 }));
        }
        Ok(())
    }

    /// Ends the current row, whose sort key this is.
    pub(super) fn end_row(&mut self, key: &[u8]) {
        for (value, entry) in self.row_values.drain(..) {
            self.candidates.push(&value, key, entry);
        }
    }

    /// Writes the candidates in memory to a run beside the index if they take too much memory. `index_path` returns the
    /// path of the index file.
    pub(super) fn write_run_if_full(
        &mut self,
        files: &TableFiles,
        index_path: impl FnOnce(&str) -> PathBuf,
    ) -> Result<()> {
        if self.candidates.memory() < RUN_BYTES {
            return Ok(());
        }
        let mut name = index_path(&self.name).into_os_string();
        name.push(format!(".{}.run", self.runs.len()));
        let path = PathBuf::from(name);
        let identity = SstIdentity { table: 0, base: 0, seq: self.runs.len() as u64, kind: u8::MAX };
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.sort();
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
        self.candidates.sort();
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
    let mut bytes = Vec::new();
    Ok(write_value_at(&mut bytes, columns, row)?.then_some(bytes))
}

/// Appends the bytes of a row's value in an index. Returns false, and appends nothing, if no search finds the row.
fn write_value_at(out: &mut Vec<u8>, columns: &IndexColumns, row: Option<&Document>) -> Result<bool> {
    row.map_or(Ok(false), |row| columns.write_value(out, row))
}

/// A sorted run: in a file, or the last one in memory.
enum IndexRun<'a> {
    File(TreeCursor),
    Memory(&'a CandidateList, &'a [ListedCandidate]),
}

impl SortedSource for IndexRun<'_> {
    type Key = [u8];

    fn key(&self) -> Option<&[u8]> {
        match self {
            IndexRun::File(cursor) => cursor.key(),
            IndexRun::Memory(list, rest) => rest.first().map(|candidate| list.key(candidate)),
        }
    }
}

/// Merges sorted runs into a tree. No two runs contain the same key, because each row is in one run.
fn merge_runs(
    file: &mut SstWriter<SstOutput>,
    runs: &[(PathBuf, Arc<SstFile>)],
    last: &CandidateList,
) -> Result<()> {
    let mut sources = Vec::with_capacity(runs.len() + 1);
    for (_, run) in runs {
        let mut cursor = run.uncached_cursor(tree::CANDIDATES);
        cursor.first()?;
        sources.push(IndexRun::File(cursor));
    }
    sources.push(IndexRun::Memory(last, &last.entries));
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
            IndexRun::Memory(list, candidates) => {
                let Some((candidate, rest)) = candidates.split_first() else { continue };
                value.clear();
                candidate.entry.encode(&mut value);
                file.add(list.key(candidate), None, &value)?;
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
    let mut cursor = layer.file.uncached_cursor(if is_image { tree::ROWS } else { tree::VERSIONS });
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
