//! Fencing by term: a writer checks that no other writer has taken the database over, before others rely on its work.
//!
//! On a local file system, the lock alone guarantees one writer. On a network file system a lock may lapse, and a writer
//! that was stopped may wake up at any moment, also between a check of HEAD and the operation that relies on the check. So
//! the writer that takes over works in this order: it installs its own HEAD, then removes the temporary files of all
//! terms, and only then reads the directory. A rename by the old writer that comes later fails, because its temporary file
//! is gone. A rename that came earlier is visible to the new writer.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::storage::fs::{File, FileSystem};
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

/// Checks whether a writer still is the writer. Without fencing, every check succeeds.
#[derive(Debug, Clone)]
pub struct Fence(Option<Arc<FencedTerm>>);

#[derive(Debug)]
struct FencedTerm {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    term: u64,
}

impl Fence {
    /// The fence of the writer with a term.
    pub(crate) fn new(fs: &Arc<dyn FileSystem>, dir: &DataDir, term: u64, is_on: bool) -> Fence {
        let fenced = || Arc::new(FencedTerm { fs: Arc::clone(fs), dir: dir.clone(), term });
        Fence(is_on.then(fenced))
    }

    /// Returns whether fencing is on.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Fails with FENCED if another writer has taken over. Opens HEAD fresh, because it may have been replaced.
    pub fn check(&self) -> Result<()> {
        let Some(FencedTerm { fs, dir, term }) = self.0.as_deref() else { return Ok(()) };
        match head::read_header(&**fs, dir)? {
            Some(header) if header.term == *term => Ok(()),
            Some(header) => Err(taken_over_error(dir, *term, header.term)),
            None => Err(Error::corrupt(dir.head().display(), 0, "the file is missing")),
        }
    }

    /// Returns a file system that checks this fence before every change of a name.
    pub(crate) fn wrap(&self, fs: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        if self.is_on() { Arc::new(FencedFileSystem { fs, fence: self.clone() }) } else { fs }
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

/// A file system whose names only the writer of the newest term can change.
#[derive(Debug)]
struct FencedFileSystem {
    fs: Arc<dyn FileSystem>,
    fence: Fence,
}

impl FencedFileSystem {
    fn check(&self) -> io::Result<()> {
        self.fence.check().map_err(io::Error::other)
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

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.fs.is_network(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.fs.free_bytes(path)
    }
}
