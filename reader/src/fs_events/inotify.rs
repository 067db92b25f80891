//! File system events on Linux. The thread that waits reads inotify itself: another thread in between costs each commit a wake-up.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

/// The changes of a directory. Opening and reading a file must not count, or each reader would wake all readers.
const CHANGES: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::CREATE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);
/// Room for some events. What does not fit is read by the next wait.
const BUFFER_BYTES: usize = 4096;

/// Ends a wait.
#[derive(Debug, Clone)]
pub enum Bell {
    /// Has room for one: a bell says only that it rang.
    Channel(SyncSender<()>),
    /// An event counter.
    Counter(Arc<OwnedFd>),
}

impl Bell {
    /// Ends the wait under way, or the next one.
    pub fn ring(&self) {
        match self {
            // If the channel is full, the thread will wake anyway.
            Bell::Channel(wake) => drop(wake.try_send(())),
            // It fails only if the counter is full, and then it rings.
            Bell::Counter(counter) => drop(rustix::io::write(counter, &1u64.to_ne_bytes())),
        }
    }
}

/// The changes of the files directly in a directory; or none, only a timed wait.
#[derive(Debug)]
pub enum DirectoryEvents {
    /// No events.
    Timed(Bell, Receiver<()>),
    /// The events of a directory.
    Inotify {
        /// The queue of events.
        queue: OwnedFd,
        /// The watch of the directory.
        watch: i32,
        /// Ends a wait.
        bell: Arc<OwnedFd>,
    },
}

impl DirectoryEvents {
    /// No events.
    pub fn none() -> DirectoryEvents {
        let (wake, woken) = mpsc::sync_channel(1);
        DirectoryEvents::Timed(Bell::Channel(wake), woken)
    }

    /// The events of a directory.
    pub fn of(dir: &Path) -> io::Result<DirectoryEvents> {
        let queue = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let watch = inotify::add_watch(&queue, dir, CHANGES)?;
        let bell = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        Ok(DirectoryEvents::Inotify { queue, watch, bell })
    }

    /// Watches the directory that has the path now.
    pub fn watch_again(&mut self, dir: &Path) -> io::Result<()> {
        let DirectoryEvents::Inotify { queue, watch, .. } = self else { return Ok(()) };
        // It fails if the directory is gone: then the system has removed the watch.
        let _ = inotify::remove_watch(&*queue, *watch);
        *watch = inotify::add_watch(&*queue, dir, CHANGES)?;
        Ok(())
    }

    /// What ends a wait.
    pub fn bell(&self) -> Bell {
        match self {
            DirectoryEvents::Timed(bell, _) => bell.clone(),
            DirectoryEvents::Inotify { bell, .. } => Bell::Counter(Arc::clone(bell)),
        }
    }

    /// Waits for an event or the bell, for at most `limit`. Returns whether one came since the last wait.
    pub fn wait(&self, limit: Duration) -> bool {
        let DirectoryEvents::Inotify { queue, bell, .. } = self else {
            let DirectoryEvents::Timed(_, woken) = self else { return false };
            return woken.recv_timeout(limit).is_ok();
        };
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut both = [PollFd::new(queue, PollFlags::IN), PollFd::new(&**bell, PollFlags::IN)];
            match poll(&mut both, Timespec::try_from(left).ok().as_ref()) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                // Out of memory: HEAD is still checked at each interval.
                Err(_) => {
                    std::thread::sleep(left);
                    return false;
                }
            }
            let [events, rung] = both.map(|one| !one.revents().is_empty());
            if rung {
                // It cannot fail: the counter is not zero.
                let _ = rustix::io::read(&**bell, &mut [0; 8]);
            }
            if (events && read_events(queue)) || rung {
                return true;
            }
        }
    }
}

/// Reads the events that have come. Returns whether there were any; an overflow of the queue is one.
fn read_events(queue: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
    let mut events = inotify::Reader::new(queue, &mut buffer);
    let mut found = false;
    while events.next().is_ok() {
        found = true;
        if events.is_buffer_empty() {
            break;
        }
    }
    found
}
