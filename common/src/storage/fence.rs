//! Fencing by term: a writer makes sure that no other has taken the database over, before others rely on what it does.
//!
//! On a local file system the lock alone does that. Where a lock may lapse, a writer that was stopped may wake up at any
//! moment, between a look at HEAD and what rests on that look. So the one that takes over first puts its HEAD in place, then
//! removes the temporary files of all terms, and only then reads what there is: a rename of the old one that comes later
//! finds nothing to rename, and one that came earlier is seen.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::storage::fs::{File, FileSystem};
use crate::storage::head;
use crate::storage::layout::DataDir;

/// Whether a writer looks for others that have taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fencing {
    /// Where the data directory lies on a network file system, whose locks may lapse.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never: the lock alone fences.
    Off,
}

impl Fencing {
    /// Whether that means a data directory. It must exist.
    pub fn is_on(self, disk: &dyn FileSystem, dir: &DataDir) -> Result<bool> {
        match self {
            Fencing::On => Ok(true),
            Fencing::Off => Ok(false),
            Fencing::Auto => disk.is_network(dir.root()).map_err(|e| {
                Error::io(format_args!("cannot tell the file system of {}", dir.root().display()), &e)
            }),
        }
    }
}

/// One writer's look at whether it still is the writer. Without fencing it always is.
#[derive(Debug, Clone)]
pub struct Fence(Option<Arc<Post>>);

#[derive(Debug)]
struct Post {
    disk: Arc<dyn FileSystem>,
    dir: DataDir,
    term: u64,
}

impl Fence {
    /// The fence of the writer of a term.
    pub fn new(disk: &Arc<dyn FileSystem>, dir: &DataDir, term: u64, is_on: bool) -> Fence {
        let post = || Arc::new(Post { disk: Arc::clone(disk), dir: dir.clone(), term });
        Fence(is_on.then(post))
    }

    /// Whether there is one.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Fails with FENCED where another writer has taken over. HEAD is opened anew: it may have been replaced.
    pub fn check(&self) -> Result<()> {
        let Some(Post { disk, dir, term }) = self.0.as_deref() else { return Ok(()) };
        match head::read_header(&**disk, dir)? {
            Some(header) if header.term == *term => Ok(()),
            Some(header) => Err(taken_over(dir, *term, header.term)),
            None => Err(Error::corrupt(dir.head().display(), 0, "it is missing")),
        }
    }

    /// A disk on which this fence stands before every change of a name.
    pub fn around(&self, disk: Arc<dyn FileSystem>) -> Arc<dyn FileSystem> {
        if self.is_on() { Arc::new(FencedDisk { disk, fence: self.clone() }) } else { disk }
    }
}

/// The error of a writer that finds another's term.
pub fn taken_over(dir: &DataDir, own: u64, found: u64) -> Error {
    let dir = dir.root().display();
    let message = format!(
        "another writer has taken {dir} over: this writer's term is {own}, and HEAD's is {found}; send writes to the other one"
    );
    Error::new(Reason::Fenced, message).with("term", own.to_string()).with("head_term", found.to_string())
}

/// A disk whose names only the writer of the newest term changes.
#[derive(Debug)]
struct FencedDisk {
    disk: Arc<dyn FileSystem>,
    fence: Fence,
}

impl FencedDisk {
    fn check(&self) -> io::Result<()> {
        self.fence.check().map_err(io::Error::other)
    }

    /// Where a file is missing because whoever has taken over removed it, that is what to tell.
    fn told<T>(&self, outcome: io::Result<T>) -> io::Result<T> {
        outcome.or_else(|error| self.check().and(Err(error)))
    }
}

impl FileSystem for FencedDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.disk.open(path)
    }

    fn open_fresh(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.disk.open_fresh(path)
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        // In this order: what has been opened while this still is the writer is no file that another has put in its place.
        let file = self.told(self.disk.open_write(path))?;
        self.check()?;
        Ok(file)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.told(self.disk.create(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check()?;
        self.told(self.disk.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.told(self.disk.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.told(self.disk.create_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.check()?;
        self.told(self.disk.remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.told(self.disk.sync_dir(path))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.disk.lock(path)
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_network(path)
    }
}
