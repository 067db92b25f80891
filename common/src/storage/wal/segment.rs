//! The active segment: the writer appends frames at its end and preallocates zeros ahead of them.
//!
//! A segment holds no file descriptor unless the log has opened it, because a database can have more tables than a process may
//! open files. Linux reports a failed write-back once to each open file, and an open that comes later may not see it. So the log
//! closes a segment only if everything in it was synced successfully, and whoever writes zeros uses a file of its own: a sync of
//! zeros must not consume the report that the sync of frames must get.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::format::manifest::{Digest, Seal};
use crate::storage::disk_space::DiskSpace;
use crate::storage::fs::{self, File, FileSystem};
use crate::storage::wal::append_error::AppendError;

/// The first zeros of a new segment, in bytes. Most tables of a database with thousands of tables need no more.
const FIRST_ZEROS: u64 = 4 << 10;
/// The first preallocation after them, in bytes. Each one after it is twice as long, up to [`PREALLOCATION_MAX`].
const PREALLOCATION_MIN: u64 = 64 << 10;
/// The longest preallocation, in bytes.
const PREALLOCATION_MAX: u64 = 8 << 20;
/// What one write of a preallocation writes. Not memory of its own each time, which the system would have to clear first.
static ZEROS: [u8; 128 << 10] = [0; 128 << 10];

/// What every segment of a log uses.
#[derive(Debug, Clone)]
pub(in crate::storage) struct SegmentFiles {
    pub(in crate::storage) fs: Arc<dyn FileSystem>,
    pub(in crate::storage) space: Arc<DiskSpace>,
    /// The length in bytes at which a segment is sealed.
    pub(in crate::storage) limit: u64,
}

/// A segment that the writer appends frames to.
#[derive(Debug)]
pub(in crate::storage) struct ActiveSegment {
    /// The number in the file's name.
    pub(in crate::storage) number: u64,
    /// The offset of the next frame: the bytes written so far.
    pub(in crate::storage) offset: u64,
    /// The file that frames are written to and synced through, while it is open.
    file: Option<Arc<dyn File>>,
    digest: Digest,
    preallocation: Arc<Preallocation>,
}

/// The zeros ahead of the frames. A write into them changes no metadata, which makes fdatasync cheaper.
///
/// Danger: zeros must never overwrite frames. Frames are written only below `zeroed_to`, zeros only at or above it, and
/// whoever writes zeros holds `progress`.
#[derive(Debug)]
pub(in crate::storage) struct Preallocation {
    files: SegmentFiles,
    zeroed_to: AtomicU64,
    /// The file may have zeros after `zeroed_to` that were found when it was opened, and do not count.
    has_tail: AtomicBool,
    /// Half a preallocation: with fewer zeros than this ahead, more are needed.
    low_water: AtomicU64,
    progress: Mutex<PreallocationProgress>,
    /// A sync of zeros failed. The open file of the frames would report that failure as its own.
    has_failed: AtomicBool,
}

#[derive(Debug)]
struct PreallocationProgress {
    path: PathBuf,
    /// The length of the next preallocation, in bytes.
    next_len: u64,
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
        if progress.is_closed || zeroed_to >= self.files.limit || !self.is_low(offset) {
            return;
        }
        if let Err(error) = self.fill(&mut progress, zeroed_to + 1) {
            // Not a failure yet: the write that needs the zeros tries again, and is refused.
            tracing::debug!(%error, "cannot preallocate zeros in a segment");
        }
    }

    /// Makes sure that all bytes below `end` are zeroed. If this fails, nothing was written for the caller.
    fn reserve(&self, end: u64) -> Result<()> {
        if self.zeroed_to.load(Ordering::Acquire) >= end {
            return Ok(());
        }
        let mut progress = self.progress.lock();
        let filled = self.fill(&mut progress, end);
        let what = || format!("cannot preallocate space in {}", progress.path.display());
        filled.map_err(|e| Error::io(what(), &e))
    }

    fn fill(&self, progress: &mut PreallocationProgress, end: u64) -> io::Result<()> {
        let start = self.zeroed_to.load(Ordering::Acquire);
        if start >= end {
            return Ok(());
        }
        self.files.space.check_growth()?;
        let file = self.files.fs.open_write(&progress.path)?;
        let ahead = progress.next_len.min(self.files.limit.saturating_sub(start));
        let end = end.max(start + ahead);
        let mut at = start;
        while at < end {
            let left = usize::try_from(end - at).unwrap_or(usize::MAX);
            let zeros = ZEROS.get(..left).unwrap_or(&ZEROS);
            file.write_at(zeros, at)?;
            at += zeros.len() as u64;
        }
        file.sync().inspect_err(|_| self.has_failed.store(true, Ordering::Release))?;
        self.zeroed_to.store(end, Ordering::Release);
        progress.next_len = (progress.next_len * 2).clamp(PREALLOCATION_MIN, PREALLOCATION_MAX);
        self.low_water.store(progress.next_len / 2, Ordering::Relaxed);
        self.files.space.record_room();
        Ok(())
    }
}

impl ActiveSegment {
    /// Creates a segment with its first zeros under a temporary name, durable except for the name. Leaves nothing behind if
    /// this fails.
    pub(in crate::storage) fn create_unnamed(
        files: &SegmentFiles,
        temporary: &Path,
        number: u64,
    ) -> Result<ActiveSegment> {
        let failed = |e: io::Error| Error::io(format_args!("cannot create {}", temporary.display()), &e);
        let zeros = FIRST_ZEROS.min(files.limit);
        let bytes = vec![0; usize::try_from(zeros).unwrap_or_default()];
        fs::write_temporary(&*files.fs, temporary, &bytes).map_err(failed)?;
        let segment = ActiveSegment::open(files, temporary, number, (0, zeros), Digest::default());
        segment.preallocation.zeroed_to.store(zeros, Ordering::Release);
        segment.preallocation.progress.lock().next_len = PREALLOCATION_MIN;
        Ok(segment)
    }

    /// Gives a segment its final name, durably (I6). Nothing may be written to it before.
    pub(in crate::storage) fn publish_name(&mut self, path: &Path) -> Result<()> {
        let failed = |e: io::Error| Error::io(format_args!("cannot create {}", path.display()), &e);
        self.file = None;
        let mut progress = self.preallocation.progress.lock();
        let fs = &*self.preallocation.files.fs;
        fs.rename(&progress.path, path).map_err(failed)?;
        path.clone_into(&mut progress.path);
        fs::sync_parent(fs, path).map_err(failed)
    }

    /// Removes the file of a segment that nothing refers to.
    pub(in crate::storage) fn discard(self) {
        let mut progress = self.preallocation.progress.lock();
        progress.is_closed = true;
        fs::discard(&*self.preallocation.files.fs, &progress.path);
    }

    /// Continues a segment of `len` bytes after its last frame, at `offset`. All bytes after `offset` must be zeros. They are
    /// written again before they are used, because nothing says that they are on disk. Opens no file.
    pub(in crate::storage) fn open(
        files: &SegmentFiles,
        path: &Path,
        number: u64,
        (offset, len): (u64, u64),
        digest: Digest,
    ) -> ActiveSegment {
        let next_len = FIRST_ZEROS;
        let progress = PreallocationProgress { path: path.to_owned(), next_len, is_closed: false };
        let preallocation = Preallocation {
            files: files.clone(),
            zeroed_to: AtomicU64::new(offset),
            has_tail: AtomicBool::new(len > offset),
            low_water: AtomicU64::new(next_len / 2),
            progress: Mutex::new(progress),
            has_failed: AtomicBool::new(false),
        };
        ActiveSegment { number, offset, file: None, digest, preallocation: Arc::new(preallocation) }
    }

    /// Makes room for `len` more bytes. If this fails, no frame was written.
    pub(super) fn reserve(&self, len: u64) -> Result<()> {
        self.preallocation.reserve(self.offset + len)
    }

    /// Returns the file, so that another thread can sync it. Opens it if it is not open.
    pub(super) fn open_file(&mut self) -> Result<Arc<dyn File>> {
        if self.preallocation.has_failed.swap(false, Ordering::AcqRel) {
            // All frames in the file were synced successfully, so the failure is that of zeros that do not count.
            self.file = None;
        }
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        let path = self.path();
        let opened = self.preallocation.files.fs.open_write(&path);
        let opened = opened.map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
        let file: Arc<dyn File> = opened.into();
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Closes the file. Everything in it must have been synced successfully.
    pub(super) fn close_file(&mut self) {
        self.file = None;
    }

    /// Appends frames, after [`ActiveSegment::reserve`] has made room. A failure is final. Returns the file to sync.
    pub(super) fn write(&mut self, frames: &[u8], crcs: &[u32]) -> Result<Arc<dyn File>> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => self.open_file()?,
        };
        file.write_at(frames, self.offset)
            .map_err(|e| Error::io(format_args!("cannot write {}", self.path().display()), &e))?;
        self.offset += frames.len() as u64;
        crcs.iter().for_each(|crc| self.digest.add(*crc));
        Ok(file)
    }

    fn path(&self) -> PathBuf {
        self.preallocation.progress.lock().path.clone()
    }

    /// Returns the preallocation, so that another thread can extend it.
    pub(super) fn preallocation(&self) -> &Arc<Preallocation> {
        &self.preallocation
    }

    /// Returns the seal that the segment has if no more frames are written to it.
    pub(super) fn next_seal(&self) -> Seal {
        self.digest.seal(self.offset)
    }

    /// Ends the segment: cuts the zeros off and syncs the file. If this is refused, nothing has changed.
    pub(super) fn seal(&mut self) -> Result<(), AppendError> {
        let file = self.open_file().map_err(AppendError::from_step)?;
        let failed = |e: io::Error| Error::io(format_args!("cannot seal {}", self.path().display()), &e);
        self.cut(&*file).map_err(|e| AppendError::from_step(failed(e)))?;
        file.sync().map_err(|e| AppendError::Fatal(failed(e)))
    }

    /// Continues a sealed segment, because its successor does not count.
    pub(super) fn unseal(&self) {
        self.preallocation.progress.lock().is_closed = false;
    }

    fn cut(&self, file: &dyn File) -> io::Result<()> {
        let mut progress = self.preallocation.progress.lock();
        file.truncate(self.offset)?;
        progress.is_closed = true;
        self.preallocation.zeroed_to.store(self.offset, Ordering::Release);
        self.preallocation.has_tail.store(false, Ordering::Release);
        Ok(())
    }

    /// Cuts the zeros off when the log closes. A failure changes nothing that counts: the next open cuts them off.
    pub(super) fn cut_zeros(&mut self) {
        let has_tail = self.preallocation.has_tail.load(Ordering::Acquire);
        if self.preallocation.zeroed_to.load(Ordering::Acquire) <= self.offset && !has_tail {
            return;
        }
        let cut = self.open_file().and_then(|file| {
            self.cut(&*file).map_err(|e| Error::io(format_args!("cannot cut {}", self.path().display()), &e))
        });
        if let Err(error) = cut {
            tracing::warn!(%error, "left preallocated zeros in a segment; the next start of the writer removes them");
        }
        self.file = None;
    }
}
