//! A disk in memory that can lose power, fail and lie, for tests.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::{File, FileSystem};

mod crash;
mod faults;
mod process;
mod state;

#[cfg(test)]
mod tests;

pub use crash::Lost;
use faults::{Asked, Plan};
pub use faults::{Fault, Op, Repeat, Step, is_power_off};
pub use process::Process;
use state::{Number, State, failed};

/// A disk in memory. A clone is another handle of the same disk.
///
/// It keeps what programs see apart from what is durable: bytes become durable by [`File::sync`], names by
/// [`FileSystem::sync_dir`], and neither by the other. Operations that change it are numbered from 1.
#[derive(Debug, Clone)]
pub struct SimDisk(Arc<Mutex<Machine>>);

#[derive(Debug)]
struct Machine {
    state: State,
    plan: Plan,
    /// The files that a live handle holds locked, and which of all the locks that there were it is.
    locked: BTreeMap<Number, u64>,
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

impl SimDisk {
    /// An empty disk that works.
    pub fn new() -> SimDisk {
        SimDisk::with(State::new())
    }

    fn with(state: State) -> SimDisk {
        SimDisk(Arc::new(Mutex::new(Machine { state, plan: Plan::default(), locked: BTreeMap::new() })))
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.0.lock()
    }

    /// This disk, as the database takes it.
    pub fn shared(&self) -> Arc<dyn FileSystem> {
        Arc::new(self.clone())
    }

    /// The disk as the next machine finds it after a power cut now. This one is left as it is, so that several ends of
    /// one run can be looked at. No locks, no faults planned, operations counted anew.
    pub fn crash(&self, lost: Lost) -> SimDisk {
        SimDisk::with(crash::crash(&self.machine().state, lost))
    }

    /// A copy that goes its own way: what the next process finds where this one was killed and the machine runs on.
    /// What is durable and what is not stays apart. No locks, no faults planned, operations counted anew.
    pub fn clone_state(&self) -> SimDisk {
        SimDisk::with(self.machine().state.clone())
    }

    /// A handle of this disk for one process.
    pub fn process(&self) -> Process {
        Process::new(self.clone())
    }

    /// Lets all locks lapse, as network file systems may: those who hold them go on, and know nothing of it.
    pub fn lapse_locks(&self) {
        self.machine().locked.clear();
    }

    /// Lets an operation fail, by its number.
    pub fn fail_at(&self, number: u64, fault: Fault, repeat: Repeat) {
        self.machine().plan.fail_at(number, fault, repeat);
    }

    /// Lets the `nth` (from 1) operation from now on fail of those with this kind whose path contains `path`.
    pub fn fail_when(&self, op: Op, path: &str, nth: u64, fault: Fault, repeat: Repeat) {
        self.machine().plan.fail_when(op, path, nth, fault, repeat);
    }

    /// Forgets the faults planned. What they have done stays done.
    pub fn heal(&self) {
        self.machine().plan.heal();
    }

    /// Turns the machine off just before an operation, by its number: that one does nothing, and it and all that come
    /// after it, reads too, fail with an error that [`is_power_off`] knows.
    pub fn stop_at(&self, number: u64) {
        self.machine().plan.stop_at(number);
    }

    /// Whether [`SimDisk::stop_at`] has struck.
    pub fn is_off(&self) -> bool {
        self.machine().plan.is_off()
    }

    /// How many operations have tried to change the disk so far.
    pub fn operations(&self) -> u64 {
        self.machine().plan.operations()
    }

    /// Keeps a trace of operations from now on.
    pub fn record(&self) {
        self.machine().plan.record();
    }

    /// The operations since [`SimDisk::record`], those that failed too.
    pub fn trace(&self) -> Vec<Step> {
        self.machine().plan.trace()
    }

    /// Every file's path as programs see it, sorted, from `/` down.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.machine().state.paths()
    }

    /// A file's bytes as programs see them.
    pub fn bytes(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        let mut machine = self.machine();
        let number = machine.state.find_file(path.as_ref()).ok()?;
        Some(machine.state.content(number).ok()?.live.to_vec())
    }

    /// Damage: turns a bit over, on disk and in what programs see.
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

    /// Damage: cuts a file off at a length, on disk and in what programs see.
    pub fn cut(&self, path: impl AsRef<Path>, len: usize) -> io::Result<()> {
        let mut machine = self.machine();
        let number = machine.state.find_file(path.as_ref())?;
        let content = machine.state.content(number)?;
        Arc::make_mut(&mut content.live).truncate(len);
        Arc::make_mut(&mut content.durable).truncate(len);
        Ok(())
    }

    /// Puts a file in place, durable with its name and the directories above it. Open handles of a file that was there
    /// see the new bytes.
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
        for above in dir.ancestors() {
            let (number, _) = state.find_dir(above)?;
            state.sync_dir(number);
        }
        Ok(())
    }

    /// Goes by the plan, then does one operation whose faults leave nothing done.
    fn run<T>(
        &self,
        asked: Asked<'_>,
        run: impl FnOnce(&mut Machine, Option<Fault>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut machine = self.machine();
        let fault = machine.plan.meet(asked)?;
        match fault.and_then(Fault::error) {
            Some(error) => Err(error),
            None => run(&mut machine, fault),
        }
    }

    fn handle(&self, number: Number, path: &Path, access: Access) -> Box<dyn File> {
        Box::new(self.file(number, path, access))
    }

    fn file(&self, number: Number, path: &Path, access: Access) -> SimFile {
        let told = self.machine().state.content(number).map_or(0, |content| content.failures.len());
        let told = AtomicUsize::new(told);
        SimFile { disk: self.clone(), number, path: path.to_path_buf(), access, told, lock: 0 }
    }
}

fn asked(op: Op, path: &Path) -> Asked<'_> {
    Asked { op, path, to: None }
}

impl FileSystem for SimDisk {
    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(asked(Op::Read, path), |m, _| m.state.find_file(path))?;
        Ok(self.handle(number, path, Access::Read))
    }

    fn open_write(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(asked(Op::Read, path), |m, _| m.state.find_file(path))?;
        Ok(self.handle(number, path, Access::Write))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let number = self.run(asked(Op::Create, path), |m, _| m.state.create(path))?;
        Ok(self.handle(number, path, Access::Write))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let asked = Asked { op: Op::Rename, path: from, to: Some(to) };
        self.run(asked, |m, _| m.state.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.run(asked(Op::Remove, path), |m, _| m.state.remove(path))
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.run(asked(Op::CreateDir, path), |m, _| m.state.create_dir(path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(asked(Op::RemoveDir, path), |m, _| m.state.remove_dir(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        self.run(asked(Op::Read, path), |m, _| Ok(m.state.find_dir(path)?.1.live.keys().cloned().collect()))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.run(asked(Op::SyncDir, path), |m, fault| {
            let (number, _) = m.state.find_dir(path)?;
            if fault != Some(Fault::Lie) {
                m.state.sync_dir(number);
            }
            Ok(())
        })
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn File>>> {
        let found = self.run(asked(Op::Read, path), |m, _| m.state.find_file(path));
        let number = match found {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.run(asked(Op::Create, path), |m, _| m.state.create(path))?
            }
            found => found?,
        };
        static LOCKS: AtomicU64 = AtomicU64::new(1);
        let lock = LOCKS.fetch_add(1, Ordering::Relaxed);
        if *self.machine().locked.entry(number).or_insert(lock) != lock {
            return Ok(None);
        }
        let mut file = self.file(number, path, Access::Write);
        file.lock = lock;
        Ok(Some(Box::new(file)))
    }

    fn is_network(&self, _: &Path) -> io::Result<bool> {
        Ok(false)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// An open file of a [`SimDisk`]: like a file descriptor, it stays with the file when that is renamed or removed.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    number: Number,
    path: PathBuf,
    access: Access,
    /// How many failed syncs of the file this handle has been told of.
    told: AtomicUsize,
    /// The lock that it holds until it is dropped; 0 for none.
    lock: u64,
}

impl SimFile {
    fn change(
        &self,
        op: Op,
        change: impl FnOnce(&mut state::Content, Option<Fault>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.access == Access::Read {
            return Err(failed(io::ErrorKind::PermissionDenied, &self.path));
        }
        let mut machine = self.disk.machine();
        let fault = machine.plan.meet(asked(op, &self.path))?;
        change(machine.state.content(self.number)?, fault)
    }
}

/// The error that a fault is, once its damage is done.
fn outcome(fault: Option<Fault>) -> io::Result<()> {
    fault.and_then(Fault::error).map_or(Ok(()), Err)
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.disk.run(asked(Op::Read, &self.path), |m, _| Ok(m.state.content(self.number)?.read(buf, offset)))
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.change(Op::Write, |content, fault| {
            let done = match fault {
                Some(Fault::ShortWrite) => bytes.len() / 2,
                Some(Fault::Eio | Fault::Enospc) => 0,
                Some(Fault::Lie) | None => bytes.len(),
            };
            content.write(bytes.get(..done).unwrap_or_default(), offset)?;
            outcome(fault)
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.run(asked(Op::Read, &self.path), |m, _| {
            u64::try_from(m.state.content(self.number)?.live.len()).map_err(io::Error::other)
        })
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.change(Op::Truncate, |content, fault| {
            outcome(fault)?;
            content.set_len(len)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.change(Op::Sync, |content, fault| {
            let outcome = match fault {
                None => outcome(content.sync(self.told.load(Ordering::Relaxed))),
                Some(Fault::Lie) => Ok(()),
                Some(failure) => {
                    content.fail_sync(failure);
                    outcome(fault)
                }
            };
            self.told.store(content.failures.len(), Ordering::Relaxed);
            outcome
        })
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        if self.lock != 0 {
            // One that has lapsed may be another's now.
            self.disk.machine().locked.retain(|_, lock| *lock != self.lock);
        }
    }
}
