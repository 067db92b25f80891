//! What the log does off the committer's thread: syncing several segments at once, zeros ahead, HEAD each second.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::limits;
use crate::storage::fs::File;
use crate::storage::head::HeadSync;
use crate::storage::wal::segment::Space;

/// How often HEAD is synced while busy.
const HEAD_SYNC_EVERY: Duration = Duration::from_secs(1);

/// The log's threads. With [`Background::inline`] there are none, and everything happens on the caller's, in order.
#[derive(Debug, Default)]
pub struct Background {
    syncers: Vec<Syncer>,
    keeper: Option<Worker<SpaceJob>>,
    /// Held only to be dropped: the thread ends when its sender is gone.
    head: Option<Worker<()>>,
}

type SpaceJob = (Arc<Space>, u64);
type SyncJob = (Arc<dyn File>, Sender<io::Result<()>>);
type Syncer = Worker<SyncJob>;

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
        let gone = || io::Error::other("a thread of the log has ended");
        self.queue.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl<T> Drop for Worker<T> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

impl Background {
    /// No threads: for tests that need every step in a known order.
    pub fn inline() -> Background {
        Background::default()
    }

    /// Starts the threads.
    pub fn start(head: Arc<HeadSync>) -> io::Result<Background> {
        let keeper = Worker::spawn("driftdb-space", |jobs: Receiver<SpaceJob>| {
            for (space, offset) in jobs {
                space.fill_ahead(offset);
            }
        })?;
        let head = Worker::spawn("driftdb-head", move |stop: Receiver<()>| {
            while let Err(RecvTimeoutError::Timeout) = stop.recv_timeout(HEAD_SYNC_EVERY) {
                if let Err(error) = head.run() {
                    // Remembered in HeadSync: the next publish fails, and with it the writer.
                    tracing::error!(%error, "could not sync HEAD");
                }
            }
        })?;
        Ok(Background { syncers: Vec::new(), keeper: Some(keeper), head: Some(head) })
    }

    /// Syncs all files, at most [`limits::PARALLEL_SYNCS`] at a time. Every failure counts; none is tried again.
    pub fn sync_all(&mut self, files: &[Arc<dyn File>]) -> io::Result<()> {
        let Some((first, others)) = files.split_first() else { return Ok(()) };
        if self.head.is_none() || others.is_empty() {
            return files.iter().try_for_each(|file| file.sync());
        }
        while self.syncers.len() < others.len().min(limits::PARALLEL_SYNCS - 1) {
            self.syncers.push(Worker::spawn("driftdb-sync", |jobs: Receiver<SyncJob>| {
                for (file, reply) in jobs {
                    // The receiver is gone only where another sync has failed, which ends the writer.
                    let _ = reply.send(file.sync());
                }
            })?);
        }
        let (reply, replies) = mpsc::channel();
        for (file, syncer) in others.iter().zip(self.syncers.iter().cycle()) {
            syncer.send((Arc::clone(file), reply.clone()))?;
        }
        drop(reply);
        let ours = first.sync();
        let mut done = 0;
        for result in replies {
            result?;
            done += 1;
        }
        ours?;
        if done == others.len() { Ok(()) } else { Err(io::Error::other("a sync was not carried out")) }
    }

    /// Has zeros written ahead of a segment, soon.
    pub fn fill_ahead(&self, space: &Arc<Space>, offset: u64) {
        if let Some(keeper) = &self.keeper
            && space.wants(offset)
            && keeper.send((Arc::clone(space), offset)).is_err()
        {
            tracing::warn!("no more zeros are written ahead of segments");
        }
    }
}
