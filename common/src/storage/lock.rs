//! The process-global lock: one writer per data directory, and who it is.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Reason, Result};
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::layout::DataDir;

/// Who holds the lock, as LOCK says. It outlives a killed holder: only the lock itself proves anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process id.
    pub pid: u32,
    /// The name of its machine.
    pub host: String,
    /// Where clients reach it; empty before it listens.
    pub address: String,
    /// When it took the lock, RFC 3339.
    pub since: String,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub struct Lock {
    file: Box<dyn File>,
    holder: Holder,
}

impl Lock {
    /// Takes the lock at once, or fails naming the holder.
    pub fn acquire(disk: &dyn FileSystem, dir: &DataDir) -> Result<Lock> {
        let path = dir.lock();
        let taken =
            disk.lock(&path).map_err(|e| Error::io(format_args!("cannot lock {}", path.display()), &e))?;
        let Some(file) = taken else {
            let mut held_at = String::new();
            let message = match read_holder(disk, dir) {
                Some(Holder { pid, host, address, since }) => {
                    held_at.clone_from(&address);
                    let listening =
                        if address.is_empty() { String::new() } else { format!(", listening on {address}") };
                    format!(
                        "{} is held by another writer: process {pid} on {host}{listening}, since {since}",
                        dir.root().display()
                    )
                }
                None => format!("{} is held by another writer", dir.root().display()),
            };
            let error = Error::new(Reason::DatabaseLocked, message);
            return Err(if held_at.is_empty() { error } else { error.with("writer", held_at) });
        };
        let holder = Holder {
            pid: std::process::id(),
            host: gethostname::gethostname().to_string_lossy().into_owned(),
            address: String::new(),
            since: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        };
        let lock = Lock { file, holder };
        lock.write()?;
        Ok(lock)
    }

    /// Says where clients reach the holder.
    pub fn set_address(&mut self, address: &str) -> Result<()> {
        address.clone_into(&mut self.holder.address);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.holder)
            .map_err(|e| Error::new(Reason::Internal, format!("cannot encode LOCK: {e}")))?;
        let steps = || {
            self.file.truncate(0)?;
            self.file.write_at(format!("{text}\n").as_bytes(), 0)
        };
        steps().map_err(|e| Error::io("cannot write LOCK", &e))
    }
}

/// Who holds the lock, or last held it, as far as LOCK says. For messages only.
pub fn read_holder(disk: &dyn FileSystem, dir: &DataDir) -> Option<Holder> {
    let bytes = fs::read(disk, &dir.lock(), 1 << 16).ok()??;
    serde_json::from_slice(&bytes).ok()
}
