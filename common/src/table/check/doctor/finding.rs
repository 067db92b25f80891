//! A finding of the doctor, the summary of an examination, and the reporter of both.

use std::path::Path;

use crate::error::{Error, Reason, Result};

/// The remedy for damage that only a copy of the file can repair.
pub(super) const RESTORE_COPY: &str = "put back a copy of this file, or restore the database from a backup";
/// The remedy for damage that HEAD can repair.
pub(super) const REBUILD_FROM_HEAD: &str =
    "put back a copy of this file, or rebuild it from HEAD with driftctl doctor --repair";
/// The remedy for damage that the segments can repair.
pub(super) const REBUILD_FROM_LOG: &str =
    "put back a copy of this file, or rebuild it from the segments with driftctl doctor --repair";
/// The remedy for what the next writer repairs.
pub(super) const REPAIRED_ON_OPEN: &str = "nothing: the next writer repairs it when it opens the database";
/// The remedy for a damaged part of HEAD that the rest of HEAD and the segments contain, too.
pub(super) const REWRITE_HEAD: &str =
    "start the writer, which rewrites HEAD when it opens the database, or run driftctl doctor --repair";
/// The remedy for a damaged snapshot or index.
pub(super) const REBUILD_LAYER: &str = "start the writer, which does without the file and builds it again from the log, or run driftctl doctor --repair";
/// The remedy for an unused file.
pub(super) const REMOVE_UNUSED: &str = "run driftctl doctor --repair, which removes the file";

/// How severe a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something that was published is missing or is not as it was written.
    Damage,
    /// Worth knowing; no data is affected.
    Note,
    /// A repair that is about to be made.
    Repair,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How severe it is.
    pub severity: Severity,
    /// The path of the file.
    pub file: String,
    /// The byte offset in the file; 0 if the finding has no offset.
    pub offset: u64,
    /// What was found, and what it means.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// What an examination has read and found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExamSummary {
    /// Tables with a manifest.
    pub tables: u64,
    /// Files that were read.
    pub files: u64,
    /// Frames that were read.
    pub frames: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are notes.
    pub notes: u64,
    /// Repairs that were made.
    pub repaired: u64,
}

/// Counts what an examination reads, and reports its findings.
pub(super) struct FindingReporter<'a> {
    pub(super) summary: ExamSummary,
    on_finding: &'a mut dyn FnMut(Finding),
}

impl<'a> FindingReporter<'a> {
    pub(super) fn new(on_finding: &'a mut dyn FnMut(Finding)) -> FindingReporter<'a> {
        FindingReporter { summary: ExamSummary::default(), on_finding }
    }

    pub(super) fn damage(
        &mut self,
        file: &Path,
        offset: u64,
        message: impl Into<String>,
        remedy: &'static str,
    ) {
        self.summary.damage += 1;
        self.report(Severity::Damage, file, offset, message.into(), remedy);
    }

    pub(super) fn note(&mut self, file: &Path, message: impl Into<String>, remedy: &'static str) {
        self.summary.notes += 1;
        self.report(Severity::Note, file, 0, message.into(), remedy);
    }

    pub(super) fn repair(&mut self, file: &Path, message: impl Into<String>) {
        self.summary.repaired += 1;
        self.report(
            Severity::Repair,
            file,
            0,
            message.into(),
            "nothing: this repair needs no further action",
        );
    }

    /// Reports an error of reading a file as damage. Returns errors that are not about the content of a file.
    pub(super) fn read_error(&mut self, file: &Path, error: Error, remedy: &'static str) -> Result<()> {
        if !matches!(error.reason(), Reason::Corrupt | Reason::Io) {
            return Err(error);
        }
        let about = error.file_error().filter(|about| about.file == file.display().to_string());
        let message = about.map_or(error.message(), |about| &about.detail).to_owned();
        self.damage(file, error.offset().unwrap_or(0), message, remedy);
        Ok(())
    }

    fn report(
        &mut self,
        severity: Severity,
        file: &Path,
        offset: u64,
        message: String,
        remedy: &'static str,
    ) {
        (self.on_finding)(Finding { severity, file: file.display().to_string(), offset, message, remedy });
    }
}
