//! The lock that makes one writer exclusive per data directory, and the identity of its holder.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::storage::fs::{self, File, FileId, FileSystem};
use crate::storage::layout::DataDir;

/// The most that is read of LOCK, in bytes.
const FILE_BYTES: u64 = 1 << 16;

/// The holder that LOCK names. The file outlives a killed holder, so it does not prove that the lock is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockHolder {
    /// The process id.
    pub pid: u32,
    /// The name of the machine.
    pub host: String,
    /// The address that clients connect to; empty until the holder listens.
    pub address: String,
    /// When the holder took the lock, in RFC 3339.
    pub since: String,
}

impl LockHolder {
    /// Returns whether another process on this machine has the holder's id: the holder may have lost its lock, because
    /// someone removed or replaced LOCK, and may still run.
    fn may_run(&self, fs: &dyn FileSystem) -> bool {
        let process = PathBuf::from(format!("/proc/{}", self.pid));
        self.host == host_name() && self.pid != std::process::id() && fs.file_id(&process).is_ok()
    }
}

fn host_name() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

/// A held lock. Dropping it releases the lock.
#[derive(Debug)]
pub struct Lock {
    file: Box<dyn File>,
    holder: LockHolder,
    id: Option<FileId>,
    may_predecessor_run: bool,
}

impl Lock {
    /// Takes the lock. Fails with DATABASE_LOCKED, naming the holder, if another process holds it.
    pub fn acquire(fs: &dyn FileSystem, dir: &DataDir) -> Result<Lock> {
        let path = dir.lock();
        let failed = |e: std::io::Error| Error::io(format_args!("cannot lock {}", path.display()), &e);
        let before = read_holder(fs, dir);
        let Some(file) = fs.lock(&path).map_err(failed)? else { return Err(locked_error(fs, dir)) };
        let id = fs.file_id(&path).map_err(failed)?;
        let may_predecessor_run = before.is_none_or(|holder| holder.may_run(fs));
        let holder = LockHolder {
            pid: std::process::id(),
            host: host_name(),
            address: String::new(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let lock = Lock { file, holder, id, may_predecessor_run };
        match lock.write_holder() {
            // The text is for messages only: a full disk must not keep the writer from opening.
            Err(error) if error.reason() == Reason::DiskFull => {
                tracing::warn!(%error, "LOCK does not name this writer");
            }
            written => written?,
        }
        Ok(lock)
    }

    /// Takes the lock for a look at the files that changes nothing, not even LOCK: several can hold it at once, and writers
    /// cannot. Returns `None` if LOCK does not exist, which is so only if no writer holds it. Fails with DATABASE_LOCKED,
    /// naming the holder, if a writer holds it. Keep what is returned for as long as the look takes.
    pub fn acquire_shared(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<Box<dyn File>>> {
        let path = dir.lock();
        match fs.lock_shared(&path) {
            Ok(Some(file)) => Ok(Some(file)),
            Ok(None) => Err(locked_error(fs, dir)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io(format_args!("cannot lock {}", path.display()), &e)),
        }
    }

    /// Returns the identity of the locked file.
    pub(crate) fn id(&self) -> Option<FileId> {
        self.id
    }

    /// Returns whether the last holder may run without the lock: LOCK was missing or names nobody, because someone removed
    /// or replaced it, or it names a process that runs.
    pub(crate) fn may_predecessor_run(&self) -> bool {
        self.may_predecessor_run
    }

    /// Records in LOCK the address that clients connect to.
    pub fn set_address(&mut self, address: &str) -> Result<()> {
        address.clone_into(&mut self.holder.address);
        match self.write_holder() {
            Err(error) if error.reason() == Reason::DiskFull => {
                tracing::warn!(%error, "LOCK does not name this writer's address");
                Ok(())
            }
            written => written,
        }
    }

    fn write_holder(&self) -> Result<()> {
        let text = serde_json::to_string(&self.holder)
            .map_err(|e| Error::new(Reason::Internal, format!("cannot encode LOCK: {e}")))?;
        let steps = || {
            // In place, so that a full disk needs no new block for it.
            let text = format!("{text}\n");
            self.file.write_at(text.as_bytes(), 0)?;
            self.file.truncate(text.len() as u64)
        };
        steps().map_err(|e| Error::io("cannot write LOCK", &e))
    }
}

/// Builds the error for a lock that another process holds.
fn locked_error(fs: &dyn FileSystem, dir: &DataDir) -> Error {
    let root = dir.root().display();
    if matches!(fs.lock_shared(&dir.lock()), Ok(Some(_))) {
        let message = format!(
            "cannot open {root} for writing: another process examines its files, such as driftctl doctor or verify; retry when it has ended"
        );
        return Error::new(Reason::DatabaseLocked, message);
    }
    let Some(LockHolder { pid, host, address, since }) = read_holder(fs, dir) else {
        let message = format!("cannot open {root} for writing: it is held by another writer");
        return Error::new(Reason::DatabaseLocked, message);
    };
    let listening = if address.is_empty() { String::new() } else { format!(", listening on {address}") };
    let message = format!(
        "cannot open {root} for writing: it is held by another writer: process {pid} on {host}{listening}, since {since}"
    );
    let error = Error::new(Reason::DatabaseLocked, message);
    if address.is_empty() { error } else { error.with("writer", address) }
}

/// Returns the present or last holder of the lock that LOCK names. For messages only.
pub fn read_holder(fs: &dyn FileSystem, dir: &DataDir) -> Option<LockHolder> {
    let bytes = fs::read(fs, &dir.lock(), FILE_BYTES).ok()??;
    serde_json::from_slice(&bytes).ok()
}
