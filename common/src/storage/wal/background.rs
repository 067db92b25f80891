//! The log's background threads: sync several segments at once, preallocate zeros, and sync HEAD every second.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits;
use crate::planted::{PlantedBug, is_planted};
use crate::storage::disk_space::DiskSpace;
use crate::storage::fs::File;
use crate::storage::head_file::HeadSyncer;
use crate::storage::wal::next_segment::{CreateSegment, NextSegment};
use crate::storage::wal::segment::Preallocation;
use crate::vital::VitalPart;

/// How often HEAD is synced while commits are published.
const HEAD_SYNC_EVERY: Duration = Duration::from_secs(1);
/// How often the writer looks at the room on the disk.
const DISK_CHECK_EVERY: Duration = Duration::from_secs(1);

/// The log's threads. [`Background::inline`] starts none: the caller's thread then does everything, in order.
#[derive(Debug, Default)]
pub(in crate::storage) struct Background {
    segment_syncers: Vec<Worker<SyncJob>>,
    preallocator: Option<Worker<PreallocationJob>>,
    /// The threads that sync HEAD and look at the disk. Only kept to be dropped: a thread ends when its sender is dropped.
    periodic: Option<[Worker<()>; 2]>,
    /// Set when the log ends: nothing is made ahead any more.
    is_ending: Arc<AtomicBool>,
}

impl Drop for Background {
    fn drop(&mut self) {
        self.is_ending.store(true, Ordering::Release);
    }
}

/// Space that is made ahead of need.
enum PreallocationJob {
    /// Zeros in a segment, after an offset.
    Zeros(Arc<Preallocation>, u64),
    /// A table's next segment.
    Segment(NextSegment, CreateSegment),
}

impl fmt::Debug for PreallocationJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PreallocationJob")
    }
}

type SyncJob = (Arc<dyn File>, Sender<io::Result<()>>);

/// A thread with a queue. Dropping it ends and joins the thread.
#[derive(Debug)]
struct Worker<T> {
    queue: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    fn spawn(name: &'static str, run: impl FnOnce(Receiver<T>) + Send + 'static) -> io::Result<Worker<T>> {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let _vital = VitalPart::new(name);
            run(receiver);
        })?;
        Ok(Worker { queue: Some(sender), thread: Some(thread) })
    }
}

impl<T> Worker<T> {
    fn send(&self, job: T) -> io::Result<()> {
        let ended = || io::Error::other("a background thread of the log has ended");
        self.queue.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic of the thread.
            let _ = thread.join();
        }
    }
}

impl Background {
    /// Starts no threads, for tests that need a known order of operations.
    pub(in crate::storage) fn inline() -> Background {
        Background::default()
    }

    /// Starts the threads.
    pub(in crate::storage) fn start(head: Arc<HeadSyncer>, space: Arc<DiskSpace>) -> io::Result<Background> {
        let is_ending = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&is_ending);
        let preallocator = Worker::spawn("driftdb-space", move |jobs: Receiver<PreallocationJob>| {
            for job in jobs.into_iter().take_while(|_| !is_over.load(Ordering::Acquire)) {
                match job {
                    PreallocationJob::Zeros(preallocation, offset) => preallocation.fill_ahead(offset),
                    PreallocationJob::Segment(next, create) => next.create(create),
                }
            }
        })?;
        let disk_watch = Worker::spawn("driftdb-disk", move |stop: Receiver<()>| {
            space.refresh();
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(DISK_CHECK_EVERY) {
                space.refresh();
            }
        })?;
        let head_syncer = Worker::spawn("driftdb-head", move |stop: Receiver<()>| {
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(HEAD_SYNC_EVERY) {
                if let Err(error) = head.sync_if_dirty() {
                    // HeadSyncer remembers the failure: the next publish fails, and stops the writer.
                    tracing::error!(%error, "cannot sync HEAD");
                }
            }
        })?;
        let (preallocator, periodic) = (Some(preallocator), Some([head_syncer, disk_watch]));
        Ok(Background { segment_syncers: Vec::new(), preallocator, periodic, is_ending })
    }

    /// Syncs all files, at most [`limits::PARALLEL_SYNCS`] at a time. Fails if any sync fails, and retries none.
    pub(super) fn sync_all(&mut self, files: &[Arc<dyn File>]) -> io::Result<()> {
        let Some((first, others)) = files.split_first() else { return Ok(()) };
        if self.is_inline() || others.is_empty() {
            return files.iter().try_for_each(|file| sync_once(&**file));
        }
        while self.segment_syncers.len() < others.len().min(limits::PARALLEL_SYNCS - 1) {
            let syncer = Worker::spawn("driftdb-sync", |jobs: Receiver<SyncJob>| {
                for (file, reply) in jobs {
                    // The receiver is dropped only after another sync has failed, which stops the writer.
                    let _ = reply.send(sync_once(&*file));
                }
            });
            match syncer {
                Ok(syncer) => self.segment_syncers.push(syncer),
                // The syncs then take longer, and are the same.
                Err(error) => {
                    tracing::warn!(%error, "cannot start a thread that syncs segments");
                    break;
                }
            }
        }
        if self.segment_syncers.is_empty() {
            return files.iter().try_for_each(|file| sync_once(&**file));
        }
        let (reply, replies) = mpsc::channel();
        for (file, syncer) in others.iter().zip(self.segment_syncers.iter().cycle()) {
            syncer.send((Arc::clone(file), reply.clone()))?;
        }
        drop(reply);
        let own = sync_once(&**first);
        let mut synced = 0;
        for result in replies {
            result?;
            synced += 1;
        }
        own?;
        if synced == others.len() { Ok(()) } else { Err(io::Error::other("a sync thread did not reply")) }
    }

    /// Asks the background thread to write zeros ahead of a segment if few are left after `offset`.
    pub(super) fn fill_ahead(&self, preallocation: &Arc<Preallocation>, offset: u64) {
        if let Some(preallocator) = &self.preallocator
            && preallocation.is_low(offset)
        {
            send(preallocator, PreallocationJob::Zeros(Arc::clone(preallocation), offset));
        }
    }

    /// Asks the background thread to create a table's next segment.
    pub(super) fn prepare(&self, next: NextSegment, create: CreateSegment) {
        if let Some(preallocator) = &self.preallocator {
            send(preallocator, PreallocationJob::Segment(next, create));
        }
    }

    /// Whether no threads run.
    pub(super) fn is_inline(&self) -> bool {
        self.periodic.is_none()
    }
}

/// What fails here is done again when it is needed.
fn send(preallocator: &Worker<PreallocationJob>, job: PreallocationJob) {
    if preallocator.send(job).is_err() {
        tracing::warn!("cannot preallocate space for segments: the background thread has ended");
    }
}

/// Syncs a segment. A failed sync is never tried again: the second one may succeed although bytes are lost.
fn sync_once(file: &dyn File) -> io::Result<()> {
    match file.sync() {
        Err(_) if is_planted(PlantedBug::FsyncRetried) => file.sync(),
        synced => synced,
    }
}
