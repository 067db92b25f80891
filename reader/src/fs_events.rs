//! File system events: the operating system reports that files in a directory changed, if the file system supports it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use driftdb_common::error::{Error, Result};

#[cfg(target_os = "linux")]
use inotify::{Bell, DirectoryEvents};
#[cfg(not(target_os = "linux"))]
use portable::{NotifyBell as Bell, NotifyEvents as DirectoryEvents};

#[cfg(target_os = "linux")]
mod inotify;
#[cfg(not(target_os = "linux"))]
mod portable;

/// Wakes the thread in [`FsEvents::wait`].
#[derive(Debug, Clone)]
pub struct EventWaker {
    bell: Bell,
    stopped: Arc<AtomicBool>,
}

impl EventWaker {
    /// Makes the current wait and all later ones return [`WakeReason::Stopped`].
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.bell.ring();
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
#[derive(Debug)]
pub struct FsEvents {
    events: DirectoryEvents,
    waker: EventWaker,
}

impl FsEvents {
    /// No events: a wait lasts until its time limit.
    pub fn none() -> FsEvents {
        FsEvents::from(DirectoryEvents::none())
    }

    fn from(events: DirectoryEvents) -> FsEvents {
        let waker = EventWaker { bell: events.bell(), stopped: Arc::default() };
        FsEvents { events, waker }
    }

    /// The events of a directory. Fails if the operating system reports none for it.
    pub fn of(dir: &Path) -> Result<FsEvents> {
        let events = DirectoryEvents::of(dir);
        let failed = |e: std::io::Error| {
            Error::io(format_args!("cannot watch {} for file system events", dir.display()), &e)
        };
        Ok(FsEvents::from(events.map_err(failed)?))
    }

    /// Watches the directory at a path instead of the one that had the path before. Without events, does nothing.
    pub fn watch_again(&mut self, dir: &Path) {
        if let Err(error) = self.events.watch_again(dir) {
            tracing::warn!(%error, "no file system events for the new directory: only polling HEAD");
        }
    }

    /// The handle that stops a wait.
    pub fn waker(&self) -> EventWaker {
        self.waker.clone()
    }

    /// Waits for an event for at most `limit`. Returns at once if an event came since the last wait.
    pub fn wait(&self, limit: Duration) -> WakeReason {
        let changed = self.events.wait(limit);
        if self.waker.stopped.load(Ordering::Acquire) {
            return WakeReason::Stopped;
        }
        if changed { WakeReason::Changed } else { WakeReason::TimedOut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use driftdb_common::storage::fs::{self, FileSystem, OsFileSystem};

    #[test]
    fn many_events_wake_once_and_do_not_hide_a_stop() {
        let events = FsEvents::none();
        assert_eq!(events.wait(Duration::ZERO), WakeReason::TimedOut);
        let waker = events.waker();
        (0..1000).for_each(|_| waker.bell.ring());
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Changed);
        assert_eq!(events.wait(Duration::ZERO), WakeReason::TimedOut);
        waker.bell.ring();
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
    fn a_stop_ends_a_wait_for_events() {
        let dir = tempfile::tempdir().unwrap();
        let events = FsEvents::of(dir.path()).unwrap();
        let waker = events.waker();
        let stopping = std::thread::spawn(move || waker.stop());
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Stopped);
        stopping.join().unwrap();
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Stopped);
    }

    #[test]
    fn the_directory_that_takes_the_place_of_another_is_watched() {
        let outer = tempfile::tempdir().unwrap();
        let (dir, old) = (outer.path().join("data"), outer.path().join("old"));
        OsFileSystem.create_dir(&dir).unwrap();
        let mut events = FsEvents::of(&dir).unwrap();
        OsFileSystem.rename(&dir, &old).unwrap();
        OsFileSystem.create_dir(&dir).unwrap();
        events.watch_again(&dir);
        while events.wait(Duration::from_millis(20)) == WakeReason::Changed {}
        OsFileSystem.create(&old.join("HEAD")).unwrap();
        assert_eq!(events.wait(Duration::from_millis(20)), WakeReason::TimedOut);
        OsFileSystem.create(&dir.join("HEAD")).unwrap();
        assert_eq!(events.wait(Duration::from_secs(60)), WakeReason::Changed);
    }

    #[test]
    fn watching_a_missing_directory_fails() {
        let error = FsEvents::of(Path::new("/no/such/directory")).unwrap_err();
        assert!(error.message().contains("/no/such/directory"), "{error}");
    }
}
