//! The simulated disk: its contents, its planned faults and its open files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::crash::{CrashPolicy, survivors};
use super::faults::{Fault, FaultPlan, Repeat, SimCall, SimOp, TracedOp};
use super::state::{FileContent, InodeNumber, SimState, failed};
use crate::storage::fs::{File, FileId, FileSystem};

/// A disk in memory. A clone is another handle of the same disk.
///
/// The disk keeps what programs see apart from what is durable: [`File::sync`] makes bytes durable,
/// [`FileSystem::sync_dir`] makes names durable, and neither does the other. Operations that change the disk are numbered
/// from 1.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<SimMachine>>);

#[derive(Debug)]
struct SimMachine {
    state: SimState,
    plan: FaultPlan,
    /// The bytes that all files together may have; `None` if they may have any number.
    capacity: Option<u64>,
    /// Locked files, each with the id of the lock that a live handle holds.
    locked: BTreeMap<InodeNumber, u64>,
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// Creates an empty disk without faults.
    pub fn new() -> SimDisk {
        SimDisk::with(SimState::new())
    }

    fn with(state: SimState) -> SimDisk {
        let (plan, locked) = (FaultPlan::default(), BTreeMap::new());
        SimDisk(Arc::new(Mutex::new(SimMachine { state, plan, capacity: None, locked })))
    }

    fn machine(&self) -> MutexGuard<'_, SimMachine> {
        self.0.lock()
    }

    /// Returns this disk as the trait object that the database takes.
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// Returns the disk as the machine finds it after a power cut at this moment. This disk does not change, so that a
    /// test can inspect several outcomes of one run. The new disk has no locks, no planned faults, and counts operations
    /// from 1.
    pub fn crash(&self, policy: CrashPolicy) -> SimDisk {
        SimDisk::with(survivors(&self.machine().state, policy))
    }

    /// Returns an independent copy: what the next process finds if this one is killed and the machine keeps running. The
    /// copy keeps what is durable apart from what is not. It has no locks, no planned faults, and counts operations
    /// from 1.
    pub fn clone_state(&self) -> SimDisk {
        SimDisk::with(self.machine().state.clone())
    }

    /// Releases all locks while their holders continue and do not notice, as network file systems may.
    pub fn lapse_locks(&self) {
        self.machine().locked.clear();
    }

    /// Makes the operation with a number fail.
    pub fn fail_at(&self, number: u64, fault: Fault, repeat: Repeat) {
        self.machine().plan.fail_at(number, fault, repeat);
    }

    /// Makes the `nth` (from 1) operation of a kind fail, counted from now, among those whose path contains `path`.
    pub fn fail_when(&self, op: SimOp, path: &str, nth: u64, fault: Fault, repeat: Repeat) {
        self.machine().plan.fail_when(op, path, nth, fault, repeat);
    }

    /// Removes the planned faults. The effects of earlier faults remain.
    pub fn clear_faults(&self) {
        self.machine().plan.clear();
    }

    /// Limits the bytes of all files together: a write that would exceed the limit fails with no space left.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.machine().capacity = bytes;
    }

    /// Returns the bytes of all files together.
    pub fn used_bytes(&self) -> u64 {
        self.machine().state.used_bytes()
    }

    /// Turns the machine off just before the operation with a number. That operation and all later ones, reads too, do
    /// nothing and fail with an error that [`super::is_power_off`] recognizes.
    pub fn power_off_at(&self, number: u64) {
        self.machine().plan.power_off_at(number);
    }

    /// Returns whether [`SimDisk::power_off_at`] has turned the machine off.
    pub fn is_off(&self) -> bool {
        self.machine().plan.is_off()
    }

    /// Returns how many operations have tried to change the disk so far.
    pub fn operations(&self) -> u64 {
        self.machine().plan.operations()
    }

    /// Starts to keep a trace of operations.
    pub fn start_trace(&self) {
        self.machine().plan.start_trace();
    }

    /// Returns the operations since [`SimDisk::start_trace`], including those that failed.
    pub fn trace(&self) -> Vec<TracedOp> {
        self.machine().plan.trace()
    }

    /// Returns the path of every file as programs see it, absolute and sorted.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.machine().state.paths()
    }

    /// Returns a file's bytes as programs see them.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut machine = self.machine();
        let number = machine.state.find_file(path.as_ref()).ok()?;
        Some(machine.state.content(number).ok()?.live.to_vec())
    }

    /// Damages a file: flips one bit, both on disk and in what programs see.
    pub fn flip_bit(&self, path: impl AsRef<Path>, offset: usize, bit: u8) -> io::Result<()> {
        let outside = || failed(io::ErrorKind::InvalidInput, path.as_ref());
        let mut machine = self.machine();
        let number = machine.state.find_file(path.as_ref())?;
        let content = machine.state.content(number)?;
        let mask = 1u8.checked_shl(bit.into()).ok_or_else(outside)?;
        *Arc::make_mut(&mut content.live).get_mut(offset).ok_or_else(outside)? ^= mask;
        if let Some(byte) = Arc::make_mut(&mut content.durable).get_mut(offset) {
            *byte ^= mask;
        }
        Ok(())
    }

    /// Damages a file: cuts it off at a length, both on disk and in what programs see.
    pub fn cut(&self, path: impl AsRef<Path>, len: usize) -> io::Result<()> {
        let mut machine = self.machine();
        let number = machine.state.find_file(path.as_ref())?;
        let content = machine.state.content(number)?;
        Arc::make_mut(&mut content.live).truncate(len);
        Arc::make_mut(&mut content.durable).truncate(len);
        Ok(())
    }

    /// Creates or overwrites a file, durably, with its name and its parent directories. Open handles of an overwritten
    /// file see the new bytes.
    pub fn put(&self, path: impl AsRef<Path>, bytes: &[u8]) -> io::Result<()> {
        let path = path.as_ref();
        let mut machine = self.machine();
        let state = &mut machine.state;
        let dir = path.parent().unwrap_or(Path::new(""));
        state.create_dir(dir)?;
        let number = match state.find_file(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => state.create(path)?,
            found => found?,
        };
        let content = state.content(number)?;
        content.live = Arc::new(bytes.to_vec());
        content.durable = Arc::clone(&content.live);
        content.unsynced.clear();
        for parent in dir.ancestors() {
            let (number, _) = state.find_dir(parent)?;
            state.sync_dir(number);
        }
        Ok(())
    }

    /// Runs one operation unless the plan makes it fail. A fault leaves nothing done.
    fn run<T>(
        &self,
        call: SimCall<'_>,
        run: impl FnOnce(&mut SimMachine, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        let fault = machine.plan.admit(call)?;
        match fault.and_then(Fault::error) {
            Some(error) => Err(error),
            None => run(&mut machine, fault),
        }
    }

    fn handle(&self, number: InodeNumber, path: &Path, mode: AccessMode) -> Box<dyn File> {
        Box::new(self.file(number, path, mode))
    }

    fn file(&self, number: InodeNumber, path: &Path, mode: AccessMode) -> SimFile {
        let reported = self.machine().state.content(number).map_or(0, |content| content.failures.len());
        let reported = AtomicUsize::new(reported);
        SimFile { disk: self.clone(), number, path: path.to_path_buf(), mode, reported, lock: 0 }
    }
}

fn call(op: SimOp, path: &Path) -> SimCall<'_> {
    SimCall { op, path, to: None }
}

impl FileSystem for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(call(SimOp::Read, path), |m, _| m.state.find_file(path))?;
        Ok(self.handle(number, path, AccessMode::Read))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(call(SimOp::Read, path), |m, _| m.state.find_file(path))?;
        Ok(self.handle(number, path, AccessMode::Write))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(call(SimOp::Create, path), |m, _| m.state.create(path))?;
        Ok(self.handle(number, path, AccessMode::Write))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let call = SimCall { op: SimOp::Rename, path: from, to: Some(to) };
        self.run(call, |m, _| m.state.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(call(SimOp::Remove, path), |m, _| m.state.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(call(SimOp::CreateDir, path), |m, _| m.state.create_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(call(SimOp::RemoveDir, path), |m, _| m.state.remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.run(call(SimOp::Read, path), |m, _| Ok(m.state.find_dir(path)?.1.live.keys().cloned().collect()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(call(SimOp::SyncDir, path), |m, fault| {
            let (number, _) = m.state.find_dir(path)?;
            if fault != Some(Fault::IgnoredSync) {
                m.state.sync_dir(number);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        let found = self.run(call(SimOp::Read, path), |m, _| m.state.find_file(path));
        let number = match found {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.run(call(SimOp::Create, path), |m, _| m.state.create(path))?
            }
            found => found?,
        };
        static LOCKS: AtomicU64 = AtomicU64::new(1);
        let lock = LOCKS.fetch_add(1, Ordering::Relaxed);
        if *self.machine().locked.entry(number).or_insert(lock) != lock {
            return Ok(None);
        }
        let mut file = self.file(number, path, AccessMode::Write);
        file.lock = lock;
        Ok(Some(Box::new(file)))
    }

    fn file_id(&self, path: &Path) -> io::Result<Option<FileId>> {
        let inode = self.machine().state.find(path)?;
        Ok(Some(FileId { device: 0, inode }))
    }

    fn is_network(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        let machine = self.machine();
        Ok(machine.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(machine.state.used_bytes())))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AccessMode {
    Read,
    Write,
}

/// An open file of a [`SimDisk`]. Like a file descriptor, it keeps referring to the file after a rename or a removal.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    number: InodeNumber,
    path: PathBuf,
    mode: AccessMode,
    /// How many failed syncs of the file were reported to this handle.
    reported: AtomicUsize,
    /// The id of the lock that this handle holds until it is dropped; 0 for none.
    lock: u64,
}

impl SimFile {
    /// Changes the file. `end` is the offset at which a write ends.
    fn change(
        &self,
        op: SimOp,
        end: u64,
        change: impl FnOnce(&mut FileContent, Option<Fault>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.mode == AccessMode::Read {
            return Err(failed(io::ErrorKind::PermissionDenied, &self.path));
        }
        let mut machine = self.disk.machine();
        let fault = machine.plan.admit(call(op, &self.path))?;
        if let (SimOp::Write, Some(capacity)) = (op, machine.capacity) {
            let added = end.saturating_sub(machine.state.content(self.number)?.live.len() as u64);
            if added > 0 && machine.state.used_bytes() + added > capacity {
                return outcome(Some(Fault::Enospc));
            }
        }
        change(machine.state.content(self.number)?, fault)
    }
}

/// Returns a fault's error, once the fault has taken effect.
fn outcome(fault: Option<Fault>) -> io::Result<()> {
    fault.and_then(Fault::error).map_or(Ok(()), Err)
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk
            .run(call(SimOp::Read, &self.path), |m, _| Ok(m.state.content(self.number)?.read(buf, offset)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(SimOp::Write, offset.saturating_add(bytes.len() as u64), |content, fault| {
            let written = match fault {
                Some(Fault::ShortWrite) => bytes.len() / 2,
                Some(Fault::Eio | Fault::Enospc | Fault::Emfile) => 0,
                Some(Fault::IgnoredSync) | None => bytes.len(),
            };
            content.write(bytes.get(..written).unwrap_or_default(), offset)?;
            outcome(fault)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.run(call(SimOp::Read, &self.path), |m, _| {
            u64::try_from(m.state.content(self.number)?.live.len()).map_err(io::Error::other)
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(SimOp::Truncate, 0, |content, fault| {
            outcome(fault)?;
            content.set_len(len)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.change(SimOp::Sync, 0, |content, fault| {
            let outcome = match fault {
                None => outcome(content.sync(self.reported.load(Ordering::Relaxed))),
                Some(Fault::IgnoredSync) => Ok(()),
                Some(failure) => {
                    content.fail_sync(failure);
                    outcome(fault)
                }
            };
            self.reported.store(content.failures.len(), Ordering::Relaxed);
            outcome
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.lock != 0 {
            // If this lock has lapsed, another handle may hold the file's lock now.
            self.disk.machine().locked.retain(|_, lock| *lock != self.lock);
        }
    }
}
