//! The layer and index files that a daemon does without, because they are damaged or missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::{Error, Reason};
use crate::limits;

/// A file that a daemon does without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedFile {
    /// The file's path.
    pub path: PathBuf,
    /// The byte offset of the damage; `None` if the file is missing.
    pub offset: Option<u64>,
    /// What was found.
    pub message: String,
}

impl DamagedFile {
    /// The file that an error of its open or of a read is about.
    pub fn new(path: &Path, error: &Error) -> DamagedFile {
        let about = error.file_error().filter(|about| Path::new(&about.file) == path);
        let message = match (error.reason(), about) {
            (Reason::FileGone, _) => "the file is missing".to_owned(),
            (_, Some(about)) => about.detail.clone(),
            (_, None) => error.message().to_owned(),
        };
        DamagedFile { path: path.to_path_buf(), offset: error.offset(), message }
    }
}

/// The damaged files that a daemon knows, each with what it does about it.
#[derive(Debug, Default)]
pub struct DamagedFiles(Mutex<BTreeMap<PathBuf, (DamagedFile, String)>>);

impl DamagedFiles {
    /// Adds a file, and logs it if it is new. At most [`limits::PROBLEMS_LISTED`] files are kept.
    pub fn add(&self, file: DamagedFile, what_is_done: impl Into<String>) {
        let what_is_done = what_is_done.into();
        let mut files = self.0.lock();
        if files.get(&file.path).is_some_and(|(_, known)| *known == what_is_done) {
            return;
        }
        let (path, found) = (file.path.display(), &file.message);
        tracing::error!(%path, offset = file.offset, error = found, action = what_is_done, "a snapshot or index file is damaged");
        if files.len() < usize::try_from(limits::PROBLEMS_LISTED).unwrap_or(usize::MAX) {
            files.insert(file.path.clone(), (file, what_is_done));
        }
    }

    /// Removes the files that are below a directory, because they were built again.
    pub fn remove_below(&self, dir: &Path) -> usize {
        let mut files = self.0.lock();
        let before = files.len();
        files.retain(|path, _| !path.starts_with(dir));
        before - files.len()
    }

    /// The number of files.
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    /// Whether no file is damaged.
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// The files, and what is done about each.
    pub fn list(&self) -> Vec<(DamagedFile, String)> {
        self.0.lock().values().cloned().collect()
    }

    /// The paths of the files.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.0.lock().keys().cloned().collect()
    }
}
