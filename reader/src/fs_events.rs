//! File system events: the operating system reports that files in a directory changed, if the file system supports it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use driftdb_common::error::{Error, Result};
use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Wakes the thread in [`FsEvents::wait`].
#[derive(Debug, Clone)]
pub struct EventWaker {
    /// Has room for one: an event says only that something changed.
    wake: SyncSender<()>,
    stopped: Arc<AtomicBool>,
}

impl EventWaker {
    fn wake(&self) {
        // If the channel is full, the thread will wake anyway.
        let _ = self.wake.try_send(());
    }

    /// Makes the current wait and all later ones return [`WakeReason::Stopped`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// A file changed, or may have: the system dropped events.
    Changed,
    /// No event came within the time limit.
    TimedOut,
    /// [`EventWaker::stop`] was called.
    Stopped,
}

/// The events of the files directly in a directory; or no events, only a timed wait.
pub struct FsEvents {
    waker: EventWaker,
    woken: Receiver<()>,
    /// Watches the directory until it is dropped.
    watcher: Option<RecommendedWatcher>,
}

impl fmt::Debug for FsEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FsEvents").finish_non_exhaustive()
    }
}

impl FsEvents {
    /// No events: a wait lasts until its time limit.
    pub fn none() -> FsEvents {
        let (wake, woken) = mpsc::sync_channel(1);
        FsEvents { waker: EventWaker { wake, stopped: Arc::default() }, woken, watcher: None }
    }

    /// The events of a directory. Fails if the operating system reports none for it.
    pub fn of(dir: &Path) -> Result<FsEvents> {
        let events = FsEvents::none();
        let waker = events.waker();
        let handler = move |event: notify::Result<notify::Event>| {
            if may_be_a_change(&event) {
                waker.wake();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
        let failed = |e: notify::Error| {
            let what = format_args!("cannot watch {} for file system events", dir.display());
            Error::io(what, &std::io::Error::other(e))
        };
        Ok(FsEvents { watcher: Some(watcher.map_err(failed)?), ..events })
    }

    /// Watches the directory at a path instead of the one that had the path before. Without events, does nothing.
    pub fn watch_again(&mut self, dir: &Path) {
        let Some(watcher) = &mut self.watcher else { return };
        if let Err(error) = watcher.unwatch(dir) {
            tracing::debug!(%error, "the old directory is not watched any more");
        }
        if let Err(error) = watcher.watch(dir, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, "no file system events for the new directory: only polling HEAD");
        }
    }

    /// The handle that wakes or stops a wait.
    pub fn waker(&self) -> EventWaker {
        self.waker.clone()
    }

    /// Waits for an event for at most `limit`. Returns at once if an event came since the last wait.
    pub fn wait(&self, limit: Duration) -> WakeReason {
        let woken = self.woken.recv_timeout(limit);
        if self.waker.stopped.load(Ordering::Acquire) {
            return WakeReason::Stopped;
        }
        match woken {
            Ok(()) => WakeReason::Changed,
            Err(RecvTimeoutError::Timeout) => WakeReason::TimedOut,
            Err(RecvTimeoutError::Disconnected) => WakeReason::Stopped,
        }
    }
}

/// Whether an event may be a change of a file.
///
/// Opening and reading a file are events too; they must not count, or each reader would wake all readers. If the system's
/// queue overflows, it reports that as an event or as an error: a dropped event may have been a change.
fn may_be_a_change(event: &notify::Result<notify::Event>) -> bool {
    match event {
        Ok(event) => event.need_rescan() || !matches!(event.kind, EventKind::Access(_)),
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};
    use notify::Event;
    use notify::event::{AccessKind, Flag, ModifyKind};

    use super::*;

    #[test]
    fn dropped_events_wake_and_reads_do_not() {
        assert!(may_be_a_change(&Ok(Event::new(EventKind::Modify(ModifyKind::Any)))));
        assert!(may_be_a_change(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))));
        assert!(may_be_a_change(&Err(notify::Error::generic("overflow"))));
        let read = Event::new(EventKind::Access(AccessKind::Read));
        assert!(!may_be_a_change(&Ok(read.clone())));
        assert!(may_be_a_change(&Ok(read.set_flag(Flag::Rescan))));
    }

    #[test]
    fn many_events_wake_once_and_do_not_hide_a_stop() {
        let events = FsEvents::none();
        assert_eq!(events.wait(Duration::ZERO), WakeReason::TimedOut);
        let waker = events.waker();
        (0..1000).for_each(|_| waker.wake());
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Changed);
        assert_eq!(events.wait(Duration::ZERO), WakeReason::TimedOut);
        waker.wake();
        waker.stop();
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Stopped);
    }

    #[test]
    fn a_write_wakes_and_a_read_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("HEAD");
        let file = OsFileSystem.create(&path).unwrap();
        let events = FsEvents::of(dir.path()).unwrap();
        for byte in 0..20 {
            file.write_at(&[byte], byte.into()).unwrap();
            // Without an event this wait times out after a minute.
            assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Changed);
            // The system may report a write twice.
            while events.wait(Duration::from_millis(20)) == WakeReason::Changed {}
            fs::read(&OsFileSystem, &path, 100).unwrap().unwrap();
            assert_eq!(events.wait(Duration::from_millis(20)), WakeReason::TimedOut);
        }
    }

    #[test]
    fn watching_a_missing_directory_fails() {
        let error = FsEvents::of(Path::new("/no/such/directory")).unwrap_err();
        assert!(error.message().contains("/no/such/directory"), "{error}");
    }
}
