//! The active segment: frames appended at its end, zeros written ahead of it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Reason, Result};
use crate::format::manifest::{Digest, Seal};
use crate::storage::fs::{File, FileSystem};

/// The first stretch of zeros written ahead; each one after it is twice as long, up to [`SPACE_MAX`].
const SPACE_MIN: u64 = 64 << 10;
/// The longest stretch of zeros written ahead at once.
const SPACE_MAX: u64 = 8 << 20;

/// A segment that frames are appended to.
#[derive(Debug)]
pub struct ActiveSegment {
    /// The number in its file's name.
    pub number: u64,
    /// Where the next frame goes: the bytes written so far.
    pub offset: u64,
    file: Arc<dyn File>,
    digest: Digest,
    space: Arc<Space>,
}

/// The zeros ahead of the frames. Writing into them changes no metadata, which makes fdatasync cheaper.
///
/// Danger: zeros must never land on frames. Frames are written only below `zeroed_to`, zeros only at or above it, and
/// `filling` is held by whoever writes zeros.
#[derive(Debug)]
pub struct Space {
    /// A handle of its own: Linux reports a failed write-back once per open file, and a sync here must not
    /// take away the report that the committer's sync is owed.
    file: Box<dyn File>,
    zeroed_to: AtomicU64,
    /// Half a stretch: with fewer zeros than this ahead it is time for more.
    low_water: AtomicU64,
    filling: Mutex<Filling>,
    failed: AtomicBool,
}

#[derive(Debug)]
struct Filling {
    stretch: u64,
    limit: u64,
    closed: bool,
}

impl Space {
    /// Whether the zeros ahead are running short. A guess, without waiting: [`Space::fill_ahead`] looks again.
    pub fn wants(&self, offset: u64) -> bool {
        self.zeroed_to.load(Ordering::Acquire).saturating_sub(offset)
            <= self.low_water.load(Ordering::Relaxed)
    }

    /// Writes the next stretch of zeros if less than half a stretch is left after `offset`.
    pub fn fill_ahead(&self, offset: u64) {
        let mut filling = self.filling.lock();
        let zeroed_to = self.zeroed_to.load(Ordering::Acquire);
        if filling.closed || zeroed_to >= filling.limit || !self.wants(offset) {
            return;
        }
        if let Err(error) = self.fill(&mut filling, zeroed_to + 1) {
            // No space is no failure yet: the write that needs it will ask again, and be refused.
            tracing::debug!(%error, "could not write zeros ahead of a segment");
        }
    }

    /// Makes sure that bytes up to `end` are zeroed. Nothing has been written for the caller when this fails.
    fn ensure(&self, end: u64) -> Result<()> {
        if self.zeroed_to.load(Ordering::Acquire) >= end {
            return Ok(());
        }
        let mut filling = self.filling.lock();
        self.fill(&mut filling, end).map_err(|e| Error::io("cannot make space in a segment", &e))
    }

    fn fill(&self, filling: &mut Filling, end: u64) -> io::Result<()> {
        while self.zeroed_to.load(Ordering::Acquire) < end {
            let from = self.zeroed_to.load(Ordering::Acquire);
            let room = filling.limit.saturating_sub(from).max(end - from);
            let len = filling.stretch.min(room).max(1);
            self.file.write_at(&vec![0; usize::try_from(len).unwrap_or(usize::MAX)], from)?;
            self.file.sync().inspect_err(|e| {
                if e.kind() != io::ErrorKind::StorageFull {
                    self.failed.store(true, Ordering::Release);
                }
            })?;
            self.zeroed_to.store(from + len, Ordering::Release);
            filling.stretch = (filling.stretch * 2).min(SPACE_MAX);
            self.low_water.store(filling.stretch / 2, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl ActiveSegment {
    /// Makes a segment, durable with its name and its first zeros (I6). It gets its name last, once it is open: by its name
    /// another writer's segment could be found.
    pub fn create(
        disk: &dyn FileSystem,
        (temporary, path): (&Path, &Path),
        number: u64,
        limit: u64,
    ) -> Result<ActiveSegment> {
        let failed = |e: io::Error| Error::io(format_args!("cannot create {}", path.display()), &e);
        disk.create(temporary).map_err(failed)?;
        let made = ActiveSegment::open(disk, temporary, number, 0, Digest::default(), limit);
        let segment = made.and_then(|segment| segment.ensure(1).map(|()| segment)).inspect_err(|_| {
            // There was no space, say. What cannot be removed, the next open removes.
            let _ = disk.remove(temporary);
        })?;
        segment.file.sync().map_err(failed)?;
        disk.rename(temporary, path).map_err(failed)?;
        if let Some(dir) = path.parent() {
            disk.sync_dir(dir).map_err(failed)?;
        }
        Ok(segment)
    }

    /// Goes on in a segment after its last frame, at `offset`. Whatever stood there must be zeros, or cut off.
    pub fn open(
        disk: &dyn FileSystem,
        path: &Path,
        number: u64,
        offset: u64,
        digest: Digest,
        limit: u64,
    ) -> Result<ActiveSegment> {
        let failed = |e: io::Error| Error::io(format_args!("cannot open {}", path.display()), &e);
        let file = disk.open_write(path).map_err(failed)?;
        let space = Space {
            file: disk.open_write(path).map_err(failed)?,
            zeroed_to: AtomicU64::new(offset),
            low_water: AtomicU64::new(SPACE_MIN / 2),
            filling: Mutex::new(Filling { stretch: SPACE_MIN.min(limit), limit, closed: false }),
            failed: AtomicBool::new(false),
        };
        Ok(ActiveSegment { number, offset, file: file.into(), digest, space: Arc::new(space) })
    }

    /// Makes room for `len` more bytes. Fails with DISK_FULL where there is none, and has then written no frame.
    pub fn ensure(&self, len: u64) -> Result<()> {
        self.space.ensure(self.offset + len)
    }

    /// Writes frames at the end; [`ActiveSegment::ensure`] has made room. A failure is final.
    pub fn write(&mut self, frames: &[u8], crcs: &[u32]) -> Result<()> {
        self.file
            .write_at(frames, self.offset)
            .map_err(|e| Error::io(format_args!("cannot write segment {}", self.number), &e))?;
        self.offset += frames.len() as u64;
        crcs.iter().for_each(|crc| self.digest.add(*crc));
        Ok(())
    }

    /// What syncs this segment, for another thread.
    pub fn file(&self) -> Arc<dyn File> {
        Arc::clone(&self.file)
    }

    /// The zeros ahead, for another thread to write.
    pub fn space(&self) -> &Arc<Space> {
        &self.space
    }

    /// Fails where writing zeros has ever failed to reach the disk: the file is then not to be trusted.
    pub fn check(&self) -> Result<()> {
        if self.space.failed.load(Ordering::Acquire) {
            return Err(Error::new(
                Reason::Io,
                format!("segment {}: a sync of the zeros ahead failed", self.number),
            ));
        }
        Ok(())
    }

    /// Ends the segment: cuts the zeros off, syncs, and sums it up.
    pub fn seal(&self) -> Result<Seal> {
        let mut filling = self.space.filling.lock();
        filling.closed = true;
        let steps = || {
            self.file.truncate(self.offset)?;
            self.file.sync()
        };
        steps().map_err(|e| Error::io(format_args!("cannot seal segment {}", self.number), &e))?;
        Ok(self.digest.seal(self.offset))
    }
}
