//! Notices that files in a directory have changed, where the file system sends them.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::time::Duration;

use driftdb_common::error::{Error, Result};
use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Wakes whoever waits for notices.
#[derive(Debug, Clone)]
pub struct Waker {
    /// Room for one: that something has changed is all there is to tell.
    wake: SyncSender<()>,
    stopped: Arc<AtomicBool>,
}

impl Waker {
    fn wake(&self) {
        // Full, it is to be woken already.
        let _ = self.wake.try_send(());
    }

    /// Ends the waiting, now and for ever.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.wake();
    }
}

/// Why a wait has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// Something has changed, or may have: notices were lost.
    Changed,
    /// Nothing was told for that long.
    Quiet,
    /// [`Waker::stop`] was called.
    Stopped,
}

/// Notices of changes of a directory's own files; or none, and only waits.
pub struct Notices {
    waker: Waker,
    woken: Receiver<()>,
    /// Watches as long as it lives.
    _watcher: Option<RecommendedWatcher>,
}

impl fmt::Debug for Notices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notices").finish_non_exhaustive()
    }
}

impl Notices {
    /// No notices: only time ends a wait.
    pub fn none() -> Notices {
        let (wake, woken) = mpsc::sync_channel(1);
        Notices { waker: Waker { wake, stopped: Arc::default() }, woken, _watcher: None }
    }

    /// Notices of a directory. An error where the system gives none.
    pub fn of(dir: &Path) -> Result<Notices> {
        let notices = Notices::none();
        let waker = notices.waker();
        let handler = move |event: notify::Result<notify::Event>| {
            if may_be_a_change(&event) {
                waker.wake();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
        let refused = |e: notify::Error| {
            let what = format_args!("the system gives no notices of changes in {}", dir.display());
            Error::io(what, &std::io::Error::other(e))
        };
        Ok(Notices { _watcher: Some(watcher.map_err(refused)?), ..notices })
    }

    /// What wakes a waiter.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Waits for a notice, `limit` at most. Those that came since the last wait count.
    pub fn wait(&self, limit: Duration) -> Woken {
        let woken = self.woken.recv_timeout(limit);
        if self.waker.stopped.load(Ordering::Acquire) {
            return Woken::Stopped;
        }
        match woken {
            Ok(()) => Woken::Changed,
            Err(RecvTimeoutError::Timeout) => Woken::Quiet,
            Err(RecvTimeoutError::Disconnected) => Woken::Stopped,
        }
    }
}

/// Opens and reads are events too: a reader's own would wake every reader. That notices were lost (the system's queue has a
/// bound) is an event, or an error: what was lost may be a change.
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
    fn lost_notices_wake_and_reads_do_not() {
        assert!(may_be_a_change(&Ok(Event::new(EventKind::Modify(ModifyKind::Any)))));
        assert!(may_be_a_change(&Ok(Event::new(EventKind::Other).set_flag(Flag::Rescan))));
        assert!(may_be_a_change(&Err(notify::Error::generic("overflow"))));
        let read = Event::new(EventKind::Access(AccessKind::Read));
        assert!(!may_be_a_change(&Ok(read.clone())));
        assert!(may_be_a_change(&Ok(read.set_flag(Flag::Rescan))));
    }

    #[test]
    fn many_notices_are_one_and_an_end_is_not_lost_among_them() {
        let notices = Notices::none();
        assert_eq!(notices.wait(Duration::ZERO), Woken::Quiet);
        let waker = notices.waker();
        (0..1000).for_each(|_| waker.wake());
        assert_eq!(notices.wait(Duration::from_secs(60)), Woken::Changed);
        assert_eq!(notices.wait(Duration::ZERO), Woken::Quiet);
        waker.wake();
        waker.stop();
        assert_eq!(notices.wait(Duration::from_secs(60)), Woken::Stopped);
    }

    #[test]
    fn a_write_is_noticed_and_a_read_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("HEAD");
        let file = OsFileSystem.create(&path).unwrap();
        let notices = Notices::of(dir.path()).unwrap();
        for byte in 0..20 {
            file.write_at(&[byte], byte.into()).unwrap();
            // Without a notice this comes back in a minute, and says so.
            assert_eq!(notices.wait(Duration::from_secs(60)), Woken::Changed);
            // A write may be told of twice.
            while notices.wait(Duration::from_millis(20)) == Woken::Changed {}
            fs::read(&OsFileSystem, &path, 100).unwrap().unwrap();
            assert_eq!(notices.wait(Duration::from_millis(20)), Woken::Quiet);
        }
    }

    #[test]
    fn a_directory_that_is_not_there_gives_none() {
        let error = Notices::of(Path::new("/no/such/directory")).unwrap_err();
        assert!(error.message().contains("/no/such/directory"), "{error}");
    }
}
