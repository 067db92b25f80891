//! The active segment: the writer appends frames at its end and preallocates zeros ahead of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::format::manifest::{Digest, Seal};
use crate::storage::fs::{File, FileSystem};

/// The first preallocation, in bytes. Each one after it is twice as long, up to [`PREALLOCATION_MAX`].
const PREALLOCATION_MIN: u64 = 64 << 10;
/// The longest preallocation, in bytes.
const PREALLOCATION_MAX: u64 = 8 << 20;

/// A segment that the writer appends frames to.
#[derive(Debug)]
pub(in crate::storage) struct ActiveSegment {
    /// The number in the file's name.
    pub(in crate::storage) number: u64,
    /// The offset of the next frame: the bytes written so far.
    pub(in crate::storage) offset: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    digest: Digest,
    preallocation: Arc<Preallocation>,
}

/// The zeros ahead of the frames. A write into them changes no metadata, which makes fdatasync cheaper.
///
/// Danger: zeros must never overwrite frames. Frames are written only below `zeroed_to`, zeros only at or above it, and
/// whoever writes zeros holds `progress`.
#[derive(Debug)]
pub(in crate::storage) struct Preallocation {
    /// A separate handle: Linux reports a failed write-back once per open file, and a sync here must not consume the
    /// report that the committer's sync must get.
    file: Box<dyn File>,
    zeroed_to: AtomicU64,
    /// Half a preallocation: with fewer zeros than this ahead, more are needed.
    low_water: AtomicU64,
    progress: Mutex<PreallocationProgress>,
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct PreallocationProgress {
    /// The length of the next preallocation, in bytes.
    next_len: u64,
    /// The offset up to which zeros are written ahead of need.
    limit: u64,
    is_closed: bool,
}

impl Preallocation {
    /// Returns whether few zeros are left after `offset`. A guess, without waiting: [`Preallocation::fill_ahead`] checks
    /// again.
    pub(super) fn is_low(&self, offset: u64) -> bool {
        self.zeroed_to.load(Ordering::Acquire).saturating_sub(offset)
            <= self.low_water.load(Ordering::Relaxed)
    }

    /// Writes the next zeros if less than half a preallocation is left after `offset`.
    pub(super) fn fill_ahead(&self, offset: u64) {
        let mut progress = self.progress.lock();
        let zeroed_to = self.zeroed_to.load(Ordering::Acquire);
        if progress.is_closed || zeroed_to >= progress.limit || !self.is_low(offset) {
            return;
        }
        if let Err(error) = self.fill(&mut progress, zeroed_to + 1) {
            // A full disk is not a failure yet: the write that needs the space tries again, and is refused.
            tracing::debug!(%error, "cannot preallocate zeros in a segment");
        }
    }

    /// Makes sure that all bytes below `end` are zeroed. If this fails, nothing was written for the caller.
    fn reserve(&self, end: u64) -> io::Result<()> {
        if self.zeroed_to.load(Ordering::Acquire) >= end {
            return Ok(());
        }
        let mut progress = self.progress.lock();
        self.fill(&mut progress, end)
    }

    fn fill(&self, progress: &mut PreallocationProgress, end: u64) -> io::Result<()> {
        while self.zeroed_to.load(Ordering::Acquire) < end {
            let start = self.zeroed_to.load(Ordering::Acquire);
            let room = progress.limit.saturating_sub(start).max(end - start);
            let len = progress.next_len.min(room).max(1);
            self.file.write_at(&vec![0; usize::try_from(len).unwrap_or(usize::MAX)], start)?;
            self.file.sync().inspect_err(|e| {
                if e.kind() != io::ErrorKind::StorageFull {
                    self.has_failed.store(true, Ordering::Release);
                }
            })?;
            self.zeroed_to.store(start + len, Ordering::Release);
            progress.next_len = (progress.next_len * 2).min(PREALLOCATION_MAX);
            self.low_water.store(progress.next_len / 2, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl ActiveSegment {
    /// Creates a segment, durable with its name and its first zeros (I6). The file gets its final name last, after it was
    /// opened: a file opened by the final name might be another writer's.
    pub(in crate::storage) fn create(
        fs: &dyn FileSystem,
        (temporary, path): (&Path, &Path),
        number: u64,
        limit: u64,
    ) -> Result<ActiveSegment> {
        let failed = |e: io::Error| Error::io(format_args!("cannot create {}", path.display()), &e);
        fs.create(temporary).map_err(failed)?;
        let opened = ActiveSegment::open(fs, temporary, number, 0, Digest::default(), limit);
        let mut segment =
            opened.and_then(|segment| segment.reserve(1).map(|()| segment)).inspect_err(|_| {
                // For example, the disk is full. If this removal fails, the next open removes the file.
                let _ = fs.remove(temporary);
            })?;
        segment.file.sync().map_err(failed)?;
        fs.rename(temporary, path).map_err(failed)?;
        if let Some(dir) = path.parent() {
            fs.sync_dir(dir).map_err(failed)?;
        }
        path.clone_into(&mut segment.path);
        Ok(segment)
    }

    /// Continues a segment after its last frame, at `offset`. All bytes after `offset` must be zeros or cut off.
    pub(in crate::storage) fn open(
        fs: &dyn FileSystem,
        path: &Path,
        number: u64,
        offset: u64,
        digest: Digest,
        limit: u64,
    ) -> Result<ActiveSegment> {
        let failed = |e: io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
        let file = fs.open_write(path).map_err(failed)?;
        let progress =
            PreallocationProgress { next_len: PREALLOCATION_MIN.min(limit), limit, is_closed: false };
        let preallocation = Preallocation {
            file: fs.open_write(path).map_err(failed)?,
            zeroed_to: AtomicU64::new(offset),
            low_water: AtomicU64::new(PREALLOCATION_MIN / 2),
            progress: Mutex::new(progress),
            has_failed: AtomicBool::new(false),
        };
        Ok(ActiveSegment {
            number,
            offset,
            path: path.to_owned(),
            file: file.into(),
            digest,
            preallocation: Arc::new(preallocation),
        })
    }

    /// Makes room for `len` more bytes. Fails with DISK_FULL if the disk has no space; no frame was written then.
    pub(super) fn reserve(&self, len: u64) -> Result<()> {
        self.preallocation
            .reserve(self.offset + len)
            .map_err(|e| Error::io(format_args!("cannot preallocate space in {}", self.path.display()), &e))
    }

    /// Appends frames, after [`ActiveSegment::reserve`] has made room. A failure is final.
    pub(super) fn write(&mut self, frames: &[u8], crcs: &[u32]) -> Result<()> {
        self.file
            .write_at(frames, self.offset)
            .map_err(|e| Error::io(format_args!("cannot write {}", self.path.display()), &e))?;
        self.offset += frames.len() as u64;
        crcs.iter().for_each(|crc| self.digest.add(*crc));
        Ok(())
    }

    /// Returns the file, so that another thread can sync it.
    pub(super) fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// Returns the preallocation, so that another thread can extend it.
    pub(super) fn preallocation(&self) -> &Arc<Preallocation> {
        &self.preallocation
    }

    /// Fails if a sync of preallocated zeros has ever failed: the file is then not reliable.
    pub(super) fn check(&self) -> Result<()> {
        if self.preallocation.has_failed.load(Ordering::Acquire) {
            let message = format!("cannot use {}: a sync of preallocated zeros failed", self.path.display());
            return Err(Error::new(Reason::Io, message));
        }
        Ok(())
    }

    /// Ends the segment: cuts the zeros off, syncs the file, and returns its seal.
    pub(super) fn seal(&self) -> Result<Seal> {
        let mut progress = self.preallocation.progress.lock();
        progress.is_closed = true;
        let steps = || {
            self.file.truncate(self.offset)?;
            self.file.sync()
        };
        steps().map_err(|e| Error::io(format_args!("cannot seal {}", self.path.display()), &e))?;
        Ok(self.digest.seal(self.offset))
    }
}
