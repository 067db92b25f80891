//! Fencing: a writer checks that no other writer has taken the database over, and that its files are where it opened them,
//! before others rely on its work.
//!
//! On a local file system, the lock alone guarantees one writer, as long as nobody moves or replaces the directory, LOCK or
//! HEAD by hand. The writer asks for their inode numbers before and after each sync of a group, which costs microseconds. A
//! writer that takes over replaces HEAD, so the old one finds out even if both hold a lock on a file named LOCK.
//!
//! On a network file system a lock may lapse, and a writer
//! that was stopped may wake up at any moment, also between a check of HEAD and the operation that relies on the check. So
//! the writer that takes over works in this order: it installs its own HEAD, then removes the temporary files of all
//! terms, and only then reads the directory. A rename by the old writer that comes later fails, because its temporary file
//! is gone. A rename that came earlier is visible to the new writer.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::storage::fs::{File, FileId, FileSystem};
use crate::storage::head;
use crate::storage::layout::DataDir;

/// Whether a writer checks for other writers that have taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fencing {
    /// Only if the data directory is on a network file system, where locks may lapse.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: only the lock excludes other writers.
    Off,
}

impl Fencing {
    /// Returns whether fencing is on for a data directory, which must exist.
    pub(crate) fn is_on(self, fs: &dyn FileSystem, dir: &DataDir) -> Result<bool> {
        match self {
            Fencing::On => Ok(true),
            Fencing::Off => Ok(false),
            Fencing::Auto => fs.is_network(dir.root()).map_err(|e| {
                Error::io(format_args!("cannot find out the file system of {}", dir.root().display()), &e)
            }),
        }
    }
}

/// What a writer has opened: the data directory, LOCK and HEAD. A name that leads elsewhere means that someone has moved,
/// removed or replaced them, and what the writer writes does not reach those who read at that path.
#[derive(Debug, Default)]
pub(crate) struct OpenedFiles(Vec<(PathBuf, FileId)>);

impl OpenedFiles {
    /// The files at these paths. A file whose file system does not tell its identity is not checked.
    pub(crate) fn new(files: impl IntoIterator<Item = (PathBuf, Option<FileId>)>) -> OpenedFiles {
        OpenedFiles(files.into_iter().filter_map(|(path, id)| Some((path, id?))).collect())
    }

    /// Returns the first path that does not lead to what was opened.
    fn moved(&self, fs: &dyn FileSystem) -> Result<Option<&Path>> {
        for (path, id) in &self.0 {
            match fs.file_id(path) {
                Ok(Some(found)) if found == *id => {}
                Ok(_) => return Ok(Some(path)),
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return Ok(Some(path));
                }
                Err(e) => return Err(Error::io(format_args!("cannot check {}", path.display()), &e)),
            }
        }
        Ok(None)
    }
}

/// Checks whether a writer still is the writer: whether its files are where it opened them and, with fencing, whether HEAD has
/// its term.
#[derive(Debug, Clone)]
pub struct Fence(Arc<FencedWriter>);

#[derive(Debug)]
struct FencedWriter {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    term: u64,
    is_on: bool,
    opened: OpenedFiles,
}

impl Fence {
    /// The fence of the writer with a term. With fencing off, only `opened` is checked.
    pub(crate) fn new(
        fs: &Arc<dyn FileSystem>,
        dir: &DataDir,
        term: u64,
        is_on: bool,
        opened: OpenedFiles,
    ) -> Fence {
        Fence(Arc::new(FencedWriter { fs: Arc::clone(fs), dir: dir.clone(), term, is_on, opened }))
    }

    /// Returns whether fencing is on.
    pub fn is_on(&self) -> bool {
        self.0.is_on
    }

    /// Fails with FENCED if another writer has taken over, or if the files were moved. Opens HEAD fresh, because it may have
    /// been replaced.
    pub fn check(&self) -> Result<()> {
        self.check_files()?;
        if self.is_on() { self.check_term() } else { Ok(()) }
    }

    /// Does the part of [`Fence::check`] that reads no file.
    fn check_files(&self) -> Result<()> {
        let FencedWriter { fs, dir, opened, .. } = &*self.0;
        let Some(path) = opened.moved(&**fs)? else { return Ok(()) };
        if path == dir.head() {
            self.check_term()?;
        }
        let message = format!(
            "{} is not the file that this writer opened: the database was moved, removed or replaced; \
             start a writer where the database is now",
            path.display()
        );
        Err(Error::new(Reason::Fenced, message).with("file", path.display().to_string()))
    }

    fn check_term(&self) -> Result<()> {
        let FencedWriter { fs, dir, term, .. } = &*self.0;
        match head::read_header(&**fs, dir)? {
            Some(header) if header.term == *term => Ok(()),
            Some(header) => Err(taken_over_error(dir, *term, header.term)),
            None => Err(Error::corrupt(dir.head().display(), 0, "the file is missing")),
        }
    }

    /// Returns a file system that checks this fence before every change of a name.
    pub(crate) fn wrap(&self, fs: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        Arc::new(FencedFileSystem { fs, fence: self.clone() })
    }
}

/// Builds the error of a writer that finds another writer's term in HEAD.
pub(crate) fn taken_over_error(dir: &DataDir, own: u64, found: u64) -> Error {
    let dir = dir.root().display();
    let message = format!(
        "another writer has taken over {dir}: this writer's term is {own}, and HEAD has term {found}; send writes to the other writer"
    );
    Error::new(Reason::Fenced, message).with("term", own.to_string()).with("head_term", found.to_string())
}

/// A file system whose names only the writer can change.
#[derive(Debug)]
struct FencedFileSystem {
    fs: Arc<dyn FileSystem>,
    fence: Fence,
}

impl FencedFileSystem {
    fn check(&self) -> io::Result<()> {
        self.fence.check().map_err(io::Error::other)
    }

    /// A new file needs no check of the term, because nothing refers to it yet. But it must not appear somewhere else.
    fn check_files(&self) -> io::Result<()> {
        self.fence.check_files().map_err(io::Error::other)
    }

    /// Replaces an error by FENCED if another writer has taken over: a file may be missing because that writer removed it.
    fn prefer_fenced<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.or_else(|error| self.check().and(Err(error)))
    }
}

impl FileSystem for FencedFileSystem {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.open(path)
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.fs.open_fresh(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        // Open first, check second: a file opened while this process still is the writer is not one that another writer
        // has put in its place.
        let file = self.prefer_fenced(self.fs.open_write(path))?;
        self.check()?;
        Ok(file)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.check_files()?;
        self.prefer_fenced(self.fs.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.prefer_fenced(self.fs.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.prefer_fenced(self.fs.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.check_files()?;
        self.prefer_fenced(self.fs.create_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.prefer_fenced(self.fs.remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.fs.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.prefer_fenced(self.fs.sync_dir(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.fs.lock(path)
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.fs.lock_shared(path)
    }

    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        self.fs.file_id(path)
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.fs.is_network(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.fs.free_bytes(path)
    }
}
