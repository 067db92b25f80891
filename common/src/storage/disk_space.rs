//! The room on the disk: whether writes find any, and a reserve of blocks for what must succeed on a full disk.
//!
//! A full disk refuses writes and ends nothing. But the way out of it needs room itself: opening writes a copy of HEAD and the
//! manifests of tables that rotate, and a compaction writes the files that replace larger ones. So the writer keeps the file
//! RESERVE, whose blocks are real and whose content means nothing, and removes it when one of these finds the disk full. While a
//! job uses that room, segments do not grow, because they would take it first. The reserve is written again as soon as there is
//! room for it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::limits;
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::DataDir;

/// The size of one write of the reserve, in bytes.
const CHUNK: u64 = 256 << 10;
/// The disk counts as full until this many bytes can be written again.
const ROOM_BYTES: u64 = 256 << 10;
/// The free bytes at which the reserve is written: more than it takes, so that it does not fill the disk.
const RESERVE_ROOM_BYTES: u64 = limits::RESERVE_BYTES + limits::RESERVE_BYTES / 2;

/// The room on the disk of a data directory, as the writer found it.
#[derive(Debug)]
pub struct DiskSpace {
    fs: Arc<dyn FileSystem>,
    dir: DataDir,
    /// Whether `state.full` is set, without its lock.
    is_full: AtomicBool,
    /// Whether the reserve was given up and not written again since. Then what room there is goes to it first.
    is_given_up: AtomicBool,
    /// The jobs that use the room of the reserve.
    users: AtomicUsize,
    state: Mutex<DiskReport>,
    /// Held while RESERVE is written or removed, so that the two do not mix.
    changing: Mutex<()>,
}

/// What is known about the room on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskReport {
    /// The bytes that the file system has left for this process.
    pub free_bytes: u64,
    /// The bytes of the reserve; less than [`limits::RESERVE_BYTES`] if it was given up.
    pub reserve_bytes: u64,
    /// Set while writes that need room are refused.
    pub full: Option<FullDisk>,
}

/// Since when, and why, writes are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullDisk {
    /// The time of the first refusal, in milliseconds since 1970.
    pub since_ms: u64,
    /// The message of the newest refusal.
    pub message: String,
}

/// The use of the reserve's room by a job. Segments do not grow until it is dropped.
#[derive(Debug)]
pub struct ReserveUse(Arc<DiskSpace>);

impl Drop for ReserveUse {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::AcqRel);
        self.0.refresh();
    }
}

impl DiskSpace {
    /// Looks at the disk of a data directory.
    pub fn new(fs: Arc<dyn FileSystem>, dir: &DataDir) -> Arc<DiskSpace> {
        let space = DiskSpace {
            fs,
            dir: dir.clone(),
            is_full: AtomicBool::new(false),
            is_given_up: AtomicBool::new(false),
            users: AtomicUsize::new(0),
            state: Mutex::default(),
            changing: Mutex::new(()),
        };
        let reserve_bytes = space.fs.open(&dir.reserve()).and_then(|file| file.len()).unwrap_or(0);
        *space.state.lock() = DiskReport { free_bytes: space.free_bytes(), reserve_bytes, full: None };
        Arc::new(space)
    }

    /// Continues on another file system of the same disk: that of the writer of a term.
    pub(in crate::storage) fn on(&self, fs: Arc<dyn FileSystem>) -> Arc<DiskSpace> {
        let space = DiskSpace::new(fs, &self.dir);
        *space.state.lock() = self.report();
        space.is_given_up.store(self.is_given_up.load(Ordering::Acquire), Ordering::Release);
        space
    }

    /// Returns what is known, without looking at the disk.
    pub fn report(&self) -> DiskReport {
        self.state.lock().clone()
    }

    /// Returns whether writes that need room are refused.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Acquire)
    }

    /// Fails with DISK_FULL while writes that need room are refused. For requests that certainly need room.
    pub fn check_room(&self, what: impl std::fmt::Display) -> Result<()> {
        match self.state.lock().full.as_ref().filter(|_| self.is_full()) {
            Some(full) => {
                let message = format!("{what}: the disk is full: {}; free space, then retry", full.message);
                Err(Error::new(Reason::DiskFull, message))
            }
            None => Ok(()),
        }
    }

    /// Fails while a job uses the room of the reserve, which a growing segment would take from it.
    pub(in crate::storage) fn check_growth(&self) -> io::Result<()> {
        if self.users.load(Ordering::Acquire) == 0 {
            return Ok(());
        }
        let message = "the disk is full, and a job that frees space uses the reserve";
        Err(io::Error::other(Error::new(Reason::DiskFull, message)))
    }

    /// Records that a write was refused. Only a full disk counts, and only the first refusal is logged.
    pub fn record_refusal(&self, error: &Error) {
        if error.reason() != Reason::DiskFull {
            return;
        }
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let mut state = self.state.lock();
        let since_ms = state.full.as_ref().map_or(now, |full| full.since_ms);
        state.full = Some(FullDisk { since_ms, message: error.message().to_owned() });
        drop(state);
        if !self.is_full.swap(true, Ordering::AcqRel) {
            tracing::error!(%error, "the disk is full: writes that need space are refused until there is room");
        }
    }

    /// Records that room was found.
    pub(in crate::storage) fn record_room(&self) {
        if self.is_full.swap(false, Ordering::AcqRel) {
            self.state.lock().full = None;
            tracing::info!("the disk has room again: writes are accepted");
        }
    }

    /// Looks at the disk: whether a full disk has room again, and whether the reserve can be written.
    pub(in crate::storage) fn refresh(&self) {
        // What the other holder has written is not free any more.
        let _changing = self.changing.lock();
        let free_bytes = self.free_bytes();
        self.state.lock().free_bytes = free_bytes;
        if self.users.load(Ordering::Acquire) > 0 {
            return;
        }
        let reserve_bytes = self.state.lock().reserve_bytes;
        if reserve_bytes < limits::RESERVE_BYTES
            && free_bytes.saturating_add(reserve_bytes) >= RESERVE_ROOM_BYTES
        {
            self.write_reserve(limits::RESERVE_BYTES);
        } else if reserve_bytes == 0 && self.is_given_up.load(Ordering::Acquire) && free_bytes >= CHUNK {
            // As much as there is: on a full disk the reserve must not end as the room of writes.
            self.write_reserve((free_bytes / CHUNK * CHUNK).min(limits::RESERVE_BYTES));
        }
        if self.is_full() && free_bytes >= ROOM_BYTES && self.try_room() {
            self.record_room();
        }
    }

    /// Removes the reserve. Returns whether there was one.
    pub(in crate::storage) fn give_up_reserve(&self, purpose: &str) -> bool {
        let _changing = self.changing.lock();
        self.is_given_up.store(true, Ordering::Release);
        let bytes = std::mem::take(&mut self.state.lock().reserve_bytes);
        match self.fs.remove(&self.dir.reserve()) {
            Ok(()) => tracing::warn!(bytes, "gave up the reserve on the full disk {purpose}"),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return false,
            Err(error) => {
                tracing::warn!(%error, "cannot give up the reserve on the full disk {purpose}");
                return false;
            }
        }
        true
    }

    /// Gives up the reserve for a job that frees space. Returns `None` if there is no reserve.
    pub fn use_reserve(self: &Arc<DiskSpace>, purpose: &str) -> Option<ReserveUse> {
        self.users.fetch_add(1, Ordering::AcqRel);
        let reserve = ReserveUse(Arc::clone(self));
        self.give_up_reserve(purpose).then_some(reserve)
    }

    /// Gives up the reserve if the disk has less room than opening may need, or if opening has failed without that.
    pub(in crate::storage) fn make_room_to_open(&self, has_failed: bool) {
        if has_failed || self.report().free_bytes < limits::RESERVE_BYTES {
            self.give_up_reserve("to open the database");
        }
    }

    /// Writes the reserve again if opening has given it up, before anything else takes the room.
    pub(in crate::storage) fn restore_reserve(&self) {
        if self.is_given_up.load(Ordering::Acquire) {
            self.refresh();
        }
    }

    /// Returns the room on the disk of a database that is not open.
    pub fn look(fs: Arc<dyn FileSystem>, dir: &DataDir) -> DiskReport {
        DiskSpace::new(fs, dir).report()
    }

    fn free_bytes(&self) -> u64 {
        // Unknown counts as room: the write itself then finds out.
        self.fs.free_bytes(self.dir.root()).unwrap_or(u64::MAX)
    }

    fn write_reserve(&self, bytes: u64) {
        let path = self.dir.reserve();
        match self.write_blocks(&path, bytes) {
            Ok(()) => {
                self.is_given_up.store(false, Ordering::Release);
                self.state.lock().reserve_bytes = bytes;
            }
            Err(error) => {
                tracing::debug!(%error, "cannot write the reserve for a full disk");
                self.remove(&path);
                self.state.lock().reserve_bytes = 0;
            }
        }
    }

    /// Returns whether some blocks can be written now. The free bytes of a file system do not say that: quotas differ.
    fn try_room(&self) -> bool {
        let path = self.dir.reserve_tmp();
        let written = self.write_blocks(&path, ROOM_BYTES);
        self.remove(&path);
        written.is_ok()
    }

    /// Writes a file whose blocks are real: its bytes are not zeros, which a file system might not store, and not
    /// compressible.
    fn write_blocks(&self, path: &std::path::Path, len: u64) -> io::Result<()> {
        fs::remove_if_exists(&*self.fs, path)?;
        let file = self.fs.create(path)?;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let chunk: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .take(usize::try_from(CHUNK / 8).unwrap_or_default())
        .flatten()
        .collect();
        for offset in (0..len).step_by(usize::try_from(CHUNK).unwrap_or(usize::MAX)) {
            file.write_at(&chunk, offset)?;
        }
        file.sync()
    }

    fn remove(&self, path: &std::path::Path) {
        if let Err(error) = fs::remove_if_exists(&*self.fs, path) {
            tracing::warn!(%error, path = %path.display(), "cannot remove a file");
        }
    }
}
