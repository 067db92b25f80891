//! New files of a table: removed again unless a manifest names them, so that a failed job takes no space.

use std::path::{Path, PathBuf};

use crate::storage::fs;
use crate::storage::layout::{self, snapshot_files};
use crate::table::table_files::TableFiles;

/// Files that a job writes and that no manifest names yet. Dropping this removes them, unless the manifest on disk names them by
/// then or they were kept.
#[derive(Debug)]
pub(super) struct NewFiles<'a> {
    files: &'a TableFiles,
    table: &'a str,
    paths: Vec<PathBuf>,
}

impl<'a> NewFiles<'a> {
    /// No files of a table yet.
    pub(super) fn of(files: &'a TableFiles, table: &'a str) -> NewFiles<'a> {
        NewFiles { files, table, paths: Vec::new() }
    }

    /// Adds a file, before or after it is written.
    pub(super) fn add(&mut self, path: &Path) {
        self.paths.push(path.to_owned());
    }

    /// Leaves the files to the caller, which names them in a manifest.
    pub(super) fn keep(mut self) {
        self.paths.clear();
    }
}

impl Drop for NewFiles<'_> {
    fn drop(&mut self) {
        remove_unlisted(self.files, self.table, &self.paths);
    }
}

/// Removes those of some files that a table's manifest does not name. It is read again: a manifest whose replacement failed may
/// be the new one or the old one. If it cannot be read, the files stay, and the next start of the writer removes them.
pub fn remove_unlisted(files: &TableFiles, table: &str, paths: &[PathBuf]) {
    if paths.is_empty() {
        return;
    }
    let manifest = match layout::read_manifest(&*files.fs, &files.dir, table) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return,
        Err(error) => {
            tracing::warn!(%error, "left files that no manifest may name; the next start of the writer removes them");
            return;
        }
    };
    let mut listed = snapshot_files(&files.dir, &manifest);
    listed.extend(manifest.segments.iter().map(|segment| files.dir.segment(table, segment.number)));
    for path in paths.iter().filter(|path| !listed.contains(path)) {
        fs::discard(&*files.fs, path);
    }
}
