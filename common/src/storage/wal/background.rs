//! The log's background threads: sync several segments at once, preallocate zeros, and sync HEAD every second.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits;
use crate::storage::fs::File;
use crate::storage::head_file::HeadSyncer;
use crate::storage::wal::segment::Preallocation;

/// How often HEAD is synced while commits are published.
const HEAD_SYNC_EVERY: Duration = Duration::from_secs(1);

/// The log's threads. [`Background::inline`] starts none: the caller's thread then does everything, in order.
#[derive(Debug, Default)]
pub(in crate::storage) struct Background {
    segment_syncers: Vec<Worker<SyncJob>>,
    preallocator: Option<Worker<PreallocationJob>>,
    /// Only kept to be dropped: the thread ends when its sender is dropped.
    head_syncer: Option<Worker<()>>,
}

type PreallocationJob = (Arc<Preallocation>, u64);
type SyncJob = (Arc<dyn File>, Sender<io::Result<()>>);

/// A thread with a queue. Dropping it ends and joins the thread.
#[derive(Debug)]
struct Worker<T> {
    queue: Option<Sender<T>>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Worker<T> {
    fn spawn(name: &str, run: impl FnOnce(Receiver<T>) + Send + 'static) -> io::Result<Worker<T>> {
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || run(receiver))?;
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
    pub(in crate::storage) fn start(head: Arc<HeadSyncer>) -> io::Result<Background> {
        let preallocator = Worker::spawn("driftdb-space", |jobs: Receiver<PreallocationJob>| {
            for (preallocation, offset) in jobs {
                preallocation.fill_ahead(offset);
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
        let (preallocator, head_syncer) = (Some(preallocator), Some(head_syncer));
        Ok(Background { segment_syncers: Vec::new(), preallocator, head_syncer })
    }

    /// Syncs all files, at most [`limits::PARALLEL_SYNCS`] at a time. Fails if any sync fails, and retries none.
    pub(super) fn sync_all(&mut self, files: &[Arc<dyn File>]) -> io::Result<()> {
        let Some((first, others)) = files.split_first() else { return Ok(()) };
        if self.head_syncer.is_none() || others.is_empty() {
            return files.iter().try_for_each(|file| file.sync());
        }
        while self.segment_syncers.len() < others.len().min(limits::PARALLEL_SYNCS - 1) {
            self.segment_syncers.push(Worker::spawn("driftdb-sync", |jobs: Receiver<SyncJob>| {
                for (file, reply) in jobs {
                    // The receiver is dropped only after another sync has failed, which stops the writer.
                    let _ = reply.send(file.sync());
                }
            })?);
        }
        let (reply, replies) = mpsc::channel();
        for (file, syncer) in others.iter().zip(self.segment_syncers.iter().cycle()) {
            syncer.send((Arc::clone(file), reply.clone()))?;
        }
        drop(reply);
        let own = first.sync();
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
            && preallocator.send((Arc::clone(preallocation), offset)).is_err()
        {
            tracing::warn!("cannot preallocate zeros in segments: the background thread has ended");
        }
    }
}
