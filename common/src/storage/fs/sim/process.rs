//! One process's handle of a simulated disk: it counts that one's operations, and stops it before any of them.

use std::io;
use std::path::Path;
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

use super::SimDisk;
use crate::storage::fs::{File, FileSystem};

/// A process on a [`SimDisk`]. Its operations are numbered from 1, apart from those of others; looking at a file by its name is
/// one, too.
#[derive(Debug, Clone)]
pub struct Process {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    pace: Mutex<Pace>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pace {
    operations: u64,
    stop_before: Option<u64>,
    stopped: bool,
    ended: bool,
    last: String,
}

impl Gate {
    fn pass(&self, what: &str, path: &Path) {
        let mut pace = self.pace.lock();
        pace.operations += 1;
        pace.last = format!("{what} {}", path.display());
        if pace.stop_before == Some(pace.operations) {
            pace.stopped = true;
            self.changed.notify_all();
            while pace.stopped {
                self.changed.wait(&mut pace);
            }
        }
    }
}

impl Process {
    pub(super) fn new(disk: SimDisk) -> Process {
        Process { disk, gate: Arc::default() }
    }

    /// This process's disk, as the database takes it.
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// How many operations it has asked for so far.
    pub fn operations(&self) -> u64 {
        self.gate.pace.lock().operations
    }

    /// Stops it just before an operation, by its number, until [`Process::go_on`].
    pub fn stop_before(&self, number: u64) {
        self.gate.pace.lock().stop_before = Some(number);
    }

    /// Says that it will do no more.
    pub fn end(&self) {
        self.gate.pace.lock().ended = true;
        self.gate.changed.notify_all();
    }

    /// Waits until it has stopped, and says before which operation; `None` where it has ended before that.
    pub fn wait(&self) -> Option<String> {
        let mut pace = self.gate.pace.lock();
        while !(pace.stopped || pace.ended) {
            self.gate.changed.wait(&mut pace);
        }
        pace.stopped.then(|| pace.last.clone())
    }

    /// Lets it go on.
    pub fn go_on(&self) {
        self.gate.pace.lock().stopped = false;
        self.gate.changed.notify_all();
    }

    fn file(&self, file: Box<dyn File>, path: &Path) -> Box<dyn File> {
        Box::new(ProcessFile { file, gate: Arc::clone(&self.gate), path: path.into() })
    }
}

impl FileSystem for Process {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.gate.pass("Open", path);
        Ok(self.file(self.disk.open(path)?, path))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.gate.pass("OpenWrite", path);
        Ok(self.file(self.disk.open_write(path)?, path))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.gate.pass("Create", path);
        Ok(self.file(self.disk.create(path)?, path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate.pass("Rename", to);
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.gate.pass("Remove", path);
        self.disk.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass("CreateDir", path);
        self.disk.create_dir(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass("RemoveDir", path);
        self.disk.remove_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.gate.pass("List", path);
        self.disk.list(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.gate.pass("SyncDir", path);
        self.disk.sync_dir(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        self.disk.lock(path)
    }

    fn is_network(&self, path: &Path) -> io::Result<bool> {
        self.disk.is_network(path)
    }
}

#[derive(Debug)]
struct ProcessFile {
    file: Box<dyn File>,
    gate: Arc<Gate>,
    path: Box<Path>,
}

impl File for ProcessFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.gate.pass("Write", &self.path);
        self.file.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.gate.pass("Truncate", &self.path);
        self.file.truncate(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.pass("Sync", &self.path);
        self.file.sync()
    }
}
