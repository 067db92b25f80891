//! One process's handle of a simulated disk: counts the process's operations, and pauses it before any of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::disk::SimDisk;
use crate::storage::fs::{File, FileId, FileSystem};

/// A process on a [`SimDisk`]. Its operations are numbered from 1, separately from those of other processes, and include
/// opening and listing.
#[derive(Debug, Clone)]
pub struct SimProcess {
    disk: SimDisk,
    breakpoint: Arc<Breakpoint>,
}

/// Pauses a process before one operation.
#[derive(Debug, Default)]
struct Breakpoint {
    progress: Mutex<ProcessProgress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct ProcessProgress {
    operations: u64,
    stop_before: Option<u64>,
    is_stopped: bool,
    has_ended: bool,
    last_operation: String,
}

impl Breakpoint {
    /// Counts an operation, and blocks while the process is stopped before it.
    fn pass(&self, what: &str, path: &Path) {
        let mut progress = self.progress.lock();
        progress.operations += 1;
        progress.last_operation = format!("{what} {}", path.display());
        if progress.stop_before == Some(progress.operations) {
            progress.is_stopped = true;
            self.changed.notify_all();
            while progress.is_stopped {
                self.changed.wait(&mut progress);
            }
        }
    }
}

impl SimProcess {
    /// Creates a process that uses a disk.
    pub fn new(disk: &SimDisk) -> SimProcess {
        SimProcess { disk: disk.clone(), breakpoint: Arc::default() }
    }

    /// Returns the process's file system as the trait object that the database takes.
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// Returns how many operations the process has requested so far.
    pub fn operations(&self) -> u64 {
        self.breakpoint.progress.lock().operations
    }

    /// Stops the process just before the operation with a number, until [`SimProcess::resume`].
    pub fn stop_before(&self, number: u64) {
        self.breakpoint.progress.lock().stop_before = Some(number);
    }

    /// Records that the process will do no more operations.
    pub fn mark_ended(&self) {
        self.breakpoint.progress.lock().has_ended = true;
        self.breakpoint.changed.notify_all();
    }

    /// Waits until the process has stopped, and returns the operation before which it stopped; `None` if the process
    /// ended first.
    pub fn wait_until_stopped(&self) -> Option<String> {
        let mut progress = self.breakpoint.progress.lock();
        while !(progress.is_stopped || progress.has_ended) {
            self.breakpoint.changed.wait(&mut progress);
        }
        progress.is_stopped.then(|| progress.last_operation.clone())
    }

    /// Lets a stopped process continue.
    pub fn resume(&self) {
        self.breakpoint.progress.lock().is_stopped = false;
        self.breakpoint.changed.notify_all();
    }

    fn file(&self, file: Box<dyn File>, path: &Path) -> Box<dyn File> {
        Box::new(SimProcessFile { file, breakpoint: Arc::clone(&self.breakpoint), path: path.into() })
    }
}

impl FileSystem for SimProcess {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.breakpoint.pass("Open", path);
        Ok(self.file(self.disk.open(path)?, path))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.breakpoint.pass("OpenWrite", path);
        Ok(self.file(self.disk.open_write(path)?, path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.breakpoint.pass("Create", path);
        Ok(self.file(self.disk.create(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.breakpoint.pass("Rename", to);
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.breakpoint.pass("Remove", path);
        self.disk.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.breakpoint.pass("CreateDir", path);
        self.disk.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.breakpoint.pass("RemoveDir", path);
        self.disk.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.breakpoint.pass("List", path);
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.breakpoint.pass("SyncDir", path);
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.disk.lock(path)
    }

    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        self.disk.file_id(path)
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_network(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }
}

#[derive(Debug)]
struct SimProcessFile {
    file: Box<dyn File>,
    breakpoint: Arc<Breakpoint>,
    path: Box<Path>,
}

impl File for SimProcessFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.breakpoint.pass("Write", &self.path);
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.breakpoint.pass("Truncate", &self.path);
        self.file.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.breakpoint.pass("Sync", &self.path);
        self.file.sync()
    }
}
