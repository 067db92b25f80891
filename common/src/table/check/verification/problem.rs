//! A problem that verification finds, the counts of what it has read, and the reporter of both.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use crate::error::{Error, Reason, Result};
use crate::table::build::progress::ProgressFn;

/// The number of problems that are reported for one file. Further problems are only counted.
const REPORTED_PER_FILE: u64 = 20;
/// Frames or entries between two calls of the progress function.
const PROGRESS_INTERVAL: u64 = 64;

/// Something wrong in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the file.
    pub file: String,
    /// The byte offset in the file; 0 if the problem has no offset.
    pub offset: u64,
    /// What was expected, and what was found.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.message)
    }
}

/// How much a verification has read, and how many problems it has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VerifiedCounts {
    /// Files.
    pub files: u64,
    /// Frames in segments.
    pub frames: u64,
    /// Rows and versions of rows in snapshots.
    pub rows: u64,
    /// Problems, including those that were only counted.
    pub problems: u64,
}

/// Counts what a verification reads, and reports the problems that it finds.
pub(in crate::table) struct ProblemReporter<'a> {
    pub(in crate::table) counts: VerifiedCounts,
    reported: HashMap<String, u64>,
    steps: u64,
    progress: ProgressFn<'a>,
    on_problem: &'a mut dyn FnMut(Problem),
}

impl<'a> ProblemReporter<'a> {
    pub(in crate::table) fn new(
        progress: ProgressFn<'a>,
        on_problem: &'a mut dyn FnMut(Problem),
    ) -> ProblemReporter<'a> {
        let (counts, reported) = (VerifiedCounts::default(), HashMap::new());
        ProblemReporter { counts, reported, steps: 0, progress, on_problem }
    }

    pub(super) fn report(&mut self, file: &Path, offset: u64, message: impl Into<String>) {
        self.counts.problems += 1;
        let file = file.display().to_string();
        let reported = self.reported.entry(file.clone()).or_default();
        *reported += 1;
        if *reported <= REPORTED_PER_FILE {
            (self.on_problem)(Problem { file, offset, message: message.into() });
        }
    }

    /// Reports an error of reading a file as a problem of that file. Returns other errors, such as a cancellation.
    pub(super) fn report_error(&mut self, file: &Path, error: Error) -> Result<()> {
        // Other errors, such as too many open files, say nothing about the file.
        let is_about_file =
            matches!(error.reason(), Reason::Corrupt | Reason::FileGone) || is_media_error(&error);
        if !is_about_file {
            return Err(error);
        }
        let message = error.file_error().filter(|about| about.file == file.display().to_string());
        let message = message.map_or(error.message(), |about| &about.detail).to_owned();
        self.report(file, error.offset().unwrap_or(0), message);
        Ok(())
    }

    /// Counts a frame or an entry that was read. Fails if the progress function cancels the verification.
    pub(super) fn step(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps.is_multiple_of(PROGRESS_INTERVAL) { (self.progress)(self.steps) } else { Ok(()) }
    }
}

/// Whether the disk could not read a part of a file (`EIO`).
fn is_media_error(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.and_then(std::io::Error::raw_os_error) == Some(rustix::io::Errno::IO.raw_os_error())
}
