//! Secondary indexes in files: which rows may have a value, sorted by value and key.

use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::format::document::Document;
use crate::format::path::Path;
use crate::format::snapshot::{CandidateEntry, RowEntry, VersionEntry, kind, read_version, tree};
use crate::format::sortkey;
use crate::format::sst::{SstIdentity, SstWriter};
use crate::storage::layout::{delta_stem, image_stem};
use crate::storage::sst::{SstFile, SstOutput, TreeCursor, write_file};
use crate::table::build::snapshot::{ProgressFn, make_dirs, sync_dirs};
use crate::table::state;
use crate::table::table_files::{LayerFile, TableFiles};

/// Candidates in memory before they are written aside, in bytes.
const SPILL_BYTES: usize = 64 << 20;

/// Candidates of one path, gathered row by row in the order of keys.
#[derive(Debug)]
pub struct Candidates {
    text: String,
    path: Path,
    /// Values of the current row, each with when it was held.
    held: Vec<(Vec<u8>, CandidateEntry)>,
    gathered: Vec<(Vec<u8>, CandidateEntry)>,
    bytes: usize,
    /// Sorted stretches written aside.
    runs: Vec<(PathBuf, Arc<SstFile>)>,
}

impl Candidates {
    /// None yet, of a path as a schema names it.
    pub fn new(path: &str) -> Candidates {
        Candidates {
            text: path.to_owned(),
            path: Path::of_index(path),
            held: Vec::new(),
            gathered: Vec::new(),
            bytes: 0,
            runs: Vec::new(),
        }
    }

    /// The path, as a schema names it.
    pub fn path(&self) -> &str {
        &self.text
    }

    /// The current row after a commit.
    pub fn step(&mut self, seq: u64, row: Option<&Document>) -> Result<()> {
        let value = value_at(&self.path, row)?;
        for (held, entry) in &mut self.held {
            if entry.until == 0 && Some(&*held) != value.as_ref() {
                entry.until = seq;
            }
        }
        if let Some(value) = value {
            match self.held.iter_mut().find(|(held, _)| *held == value) {
                Some((_, entry)) => entry.until = 0,
                None => self.held.push((value, CandidateEntry { first: seq, until: 0 })),
            }
        }
        Ok(())
    }

    /// The current row is over: its sort key.
    pub fn end_row(&mut self, key: &[u8]) {
        for (mut bytes, entry) in self.held.drain(..) {
            bytes.extend_from_slice(key);
            self.bytes += bytes.len() + 64;
            self.gathered.push((bytes, entry));
        }
    }

    /// Writes what is in memory aside, beside the file that it will be in, where it is much.
    pub fn spill(&mut self, shelf: &TableFiles, beside: impl FnOnce(&str) -> PathBuf) -> Result<()> {
        if self.bytes < SPILL_BYTES {
            return Ok(());
        }
        let mut name = beside(&self.text).into_os_string();
        name.push(format!(".{}.run", self.runs.len()));
        let path = PathBuf::from(name);
        let identity = SstIdentity { table: 0, base: 0, seq: self.runs.len() as u64, kind: u8::MAX };
        self.gathered.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let gathered = std::mem::take(&mut self.gathered);
        self.bytes = 0;
        write_file(&*shelf.disk, &path, identity, |file| {
            file.begin_tree(tree::CANDIDATES, false)?;
            add_all(file, gathered.iter().map(|(bytes, entry)| (bytes.as_slice(), *entry)))?;
            file.end_tree()?;
            Ok(Vec::new())
        })?;
        let file = SstFile::open(Arc::clone(&shelf.disk), path.clone(), identity, Arc::clone(&shelf.cache))?;
        self.runs.push((path, file));
        Ok(())
    }
}

/// What an index on a path holds of a row; `None` where the row has no such value.
pub(in crate::table) fn value_at(path: &Path, row: Option<&Document>) -> Result<Option<Vec<u8>>> {
    let value = row.map(|row| row.get(path)).transpose()?.flatten();
    let scalar = value.map(sortkey::scalar_of).transpose()?.flatten();
    Ok(scalar.map(|scalar| {
        let mut bytes = Vec::new();
        sortkey::write_scalar(&mut bytes, scalar);
        bytes
    }))
}

fn add_all<'a>(
    file: &mut SstWriter<SstOutput>,
    entries: impl Iterator<Item = (&'a [u8], CandidateEntry)>,
) -> Result<()> {
    let mut value = Vec::new();
    for (bytes, entry) in entries {
        value.clear();
        entry.encode(&mut value);
        file.add(bytes, None, &value)?;
    }
    Ok(())
}

/// Writes the candidates' file; returns its length.
pub fn write_index(
    shelf: &TableFiles,
    path: &FilePath,
    identity: SstIdentity,
    mut candidates: Candidates,
) -> Result<u64> {
    candidates.gathered.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    let runs = std::mem::take(&mut candidates.runs);
    let written = write_file(&*shelf.disk, path, identity, |file| {
        file.begin_tree(tree::CANDIDATES, false)?;
        if runs.is_empty() {
            add_all(file, candidates.gathered.iter().map(|(bytes, entry)| (bytes.as_slice(), *entry)))?;
        } else {
            merge_runs(file, &runs, &candidates.gathered)?;
        }
        file.end_tree()?;
        Ok(candidates.text.clone().into_bytes())
    });
    for (path, _) in &runs {
        shelf
            .disk
            .remove(path)
            .map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))?;
    }
    written
}

fn merge_runs(
    file: &mut SstWriter<SstOutput>,
    runs: &[(PathBuf, Arc<SstFile>)],
    last: &[(Vec<u8>, CandidateEntry)],
) -> Result<()> {
    let mut cursors = Vec::with_capacity(runs.len());
    for (_, run) in runs {
        let mut cursor = run.cursor(tree::CANDIDATES);
        cursor.first()?;
        cursors.push(cursor);
    }
    let mut last = last.iter().peekable();
    let mut value = Vec::new();
    loop {
        let least = cursors.iter_mut().filter(|cursor| cursor.key().is_some());
        let least = least.min_by(|a, b| a.key().cmp(&b.key()));
        let in_memory = last.peek().map(|(bytes, _)| bytes.as_slice());
        match (least, in_memory) {
            (None, None) => return Ok(()),
            (Some(cursor), in_memory)
                if in_memory.is_none_or(|bytes| cursor.key().is_some_and(|key| key < bytes)) =>
            {
                if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                    file.add(key, None, &value)?;
                }
                cursor.next()?;
            }
            _ => {
                if let Some((bytes, entry)) = last.next() {
                    value.clear();
                    entry.encode(&mut value);
                    file.add(bytes, None, &value)?;
                }
            }
        }
    }
}

/// Tells a row, by the bytes of its key, as it was before a commit.
pub type RowBefore<'a> = &'a dyn Fn(&[u8], u64) -> Result<Option<Document>>;

/// Makes the index on a path that a snapshot lacks; returns its length. `row_before` tells rows as they were before an era.
pub fn build(
    shelf: &TableFiles,
    (name, id): (&str, u64),
    snapshot: &LayerFile,
    path: &str,
    is_full: bool,
    row_before: RowBefore<'_>,
    watch: ProgressFn<'_>,
) -> Result<u64> {
    let (stem, kind) = match is_full {
        true => (image_stem(snapshot.seq), kind::IMAGE_INDEX),
        false => (delta_stem(snapshot.base, snapshot.seq), kind::DELTA_INDEX),
    };
    let target = shelf.dir.index(name, path, &stem);
    let identity = SstIdentity { table: id, base: snapshot.base, seq: snapshot.seq, kind };
    let mut candidates = Candidates::new(path);
    make_dirs(shelf, name)?;
    let mut cursor = snapshot.file.cursor(if is_full { tree::ROWS } else { tree::VERSIONS });
    cursor.first()?;
    let mut done = 0;
    while cursor.key().is_some() {
        if is_full {
            step_row(&mut cursor, &mut candidates)?;
        } else {
            step_versions(&mut cursor, &mut candidates, row_before)?;
        }
        candidates.spill(shelf, |_| target.clone())?;
        done += 1;
        if done % 4096 == 0 {
            watch(done)?;
        }
    }
    let bytes = write_index(shelf, &target, identity, candidates)?;
    sync_dirs(shelf, name)?;
    Ok(bytes)
}

fn step_row(cursor: &mut TreeCursor, candidates: &mut Candidates) -> Result<()> {
    if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
        let row = RowEntry::decode(&value)?;
        candidates.step(row.seq, Some(&row.document))?;
        candidates.end_row(key);
    }
    cursor.next()
}

/// Goes through all versions of the row that the cursor stands at.
fn step_versions(
    cursor: &mut TreeCursor,
    candidates: &mut Candidates,
    row_before: RowBefore<'_>,
) -> Result<()> {
    let mut current: Option<(Vec<u8>, Option<Document>)> = None;
    while let (Some(at), Some(value)) = (cursor.key(), cursor.value()) {
        let Some((row, seq, _)) = read_version(at) else { break };
        let version = VersionEntry::decode(&value)?;
        let before = match &mut current {
            Some((key, before)) if key.as_slice() == row => before.take(),
            Some(_) => break,
            None if version.image.is_none() && version.kind == crate::format::event::EventType::Patch => {
                row_before(row, seq)?
            }
            None => None,
        };
        let after = match version.image {
            Some(image) => Some(image),
            None => state::apply(before.as_ref(), version.kind, version.payload.as_ref())?,
        };
        candidates.step(seq, after.as_ref())?;
        current = Some((row.to_vec(), after));
        cursor.next()?;
    }
    match current {
        Some((key, _)) => candidates.end_row(&key),
        None => cursor.next()?,
    }
    Ok(())
}
