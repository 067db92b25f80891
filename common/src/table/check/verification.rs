//! Reads a table's files and says what is wrong with them; deep, it also compares them with what the log makes of them.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::error::{Error, Reason, Result};
use crate::format::manifest::Manifest;
use crate::storage::sst::BlockCache;
use crate::table::build::snapshot::{ProgressFn, ReadLimit};
use crate::table::table_files::TableFiles;

mod candidates;
mod chunk;
mod compaction_base;
mod deep;
mod files;
mod image;
mod log;

pub(in crate::table) use files::{Files, open as open_files};
pub(in crate::table) use log::{Order, Positions};

/// Blocks that a verification keeps in memory: its own, so that it does not crowd out what queries need.
const CACHE_BYTES: u64 = 64 << 20;
/// Problems told of one file. More are counted.
const TOLD_OF_A_FILE: u64 = 20;
/// Frames or entries between two words to who watches.
const STEP: u64 = 1024;

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub file: String,
    /// Where in the file; 0 where no place can be named.
    pub offset: u64,
    /// What was expected, and what is there.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.message)
    }
}

/// What was gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifiedCounts {
    /// Files read.
    pub files: u64,
    /// Frames in segments.
    pub frames: u64,
    /// Rows and versions of rows in snapshots.
    pub rows: u64,
    /// Problems, those that nobody was told of too.
    pub problems: u64,
}

/// Takes down what is found.
pub(in crate::table) struct ProblemList<'a> {
    pub(in crate::table) figures: VerifiedCounts,
    told: HashMap<String, u64>,
    done: u64,
    watch: ProgressFn<'a>,
    problem: &'a mut dyn FnMut(Problem),
}

impl<'a> ProblemList<'a> {
    pub(in crate::table) fn new(
        watch: ProgressFn<'a>,
        problem: &'a mut dyn FnMut(Problem),
    ) -> ProblemList<'a> {
        ProblemList { figures: VerifiedCounts::default(), told: HashMap::new(), done: 0, watch, problem }
    }

    fn problem(&mut self, file: &Path, offset: u64, message: impl Into<String>) {
        self.figures.problems += 1;
        let file = file.display().to_string();
        let told = self.told.entry(file.clone()).or_default();
        *told += 1;
        if *told <= TOLD_OF_A_FILE {
            (self.problem)(Problem { file, offset, message: message.into() });
        }
    }

    /// An error of reading a file as a problem of that file; one that says nothing of a file goes on as an error.
    fn failed(&mut self, file: &Path, error: Error) -> Result<()> {
        if !matches!(error.reason(), Reason::Corrupt | Reason::Io | Reason::FileGone) {
            return Err(error);
        }
        let offset = error.offset().unwrap_or(0);
        self.problem(file, offset, error.message());
        Ok(())
    }

    /// One frame or entry more has been read.
    fn step(&mut self) -> Result<()> {
        self.done += 1;
        if self.done.is_multiple_of(STEP) { (self.watch)(self.done) } else { Ok(()) }
    }
}

/// Verifies a table's files as a manifest lists them, its log as far as `reach`.
///
/// Always: every segment's frames, that they are in order and give their seals, that eras go on where they say; every
/// snapshot and index, block by block and entry by entry, and that their counts agree. `deep`: the state is rebuilt from the
/// log, and every event, commit, request, row and candidate is compared with it (I8).
///
/// A file that is gone is a problem like others: whoever asks knows whether a newer manifest has let go of it since.
pub fn verify(
    shelf: &TableFiles,
    manifest: &Manifest,
    reach: ReadLimit,
    deep: bool,
    watch: ProgressFn<'_>,
    problem: &mut dyn FnMut(Problem),
) -> Result<VerifiedCounts> {
    let shelf = TableFiles { cache: BlockCache::new(CACHE_BYTES), ..shelf.clone() };
    let mut report = ProblemList::new(watch, problem);
    let readable = log::check(&shelf, manifest, reach, &mut report)?;
    let files = files::open(&shelf, manifest, &mut report)?;
    if deep && readable {
        deep::compare(&shelf, manifest, reach, &files, &mut report)?;
    } else if deep && !manifest.deltas.is_empty() {
        let what = "the log cannot be read to its end: snapshots and indexes were not compared with it";
        report.problem(&shelf.dir.segments(&manifest.table), 0, what);
    }
    Ok(report.figures)
}
