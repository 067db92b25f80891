//! File system events on systems other than Linux.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::time::Duration;

use notify::event::EventKind;
use notify::{RecommendedWatcher, RecursiveMode, Watcher};

/// Ends a wait.
#[derive(Debug, Clone)]
pub struct NotifyBell(SyncSender<()>);

impl NotifyBell {
    /// Ends the wait under way, or the next one.
    pub fn ring(&self) {
        // If the channel is full, the thread will wake anyway.
        let _ = self.0.try_send(());
    }
}

/// The changes of the files directly in a directory; or none, only a timed wait.
pub struct NotifyEvents {
    bell: NotifyBell,
    woken: Receiver<()>,
    /// Watches the directory until it is dropped.
    watcher: Option<RecommendedWatcher>,
}

impl fmt::Debug for NotifyEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifyEvents").finish_non_exhaustive()
    }
}

impl NotifyEvents {
    /// No events.
    pub fn none() -> NotifyEvents {
        let (wake, woken) = mpsc::sync_channel(1);
        NotifyEvents { bell: NotifyBell(wake), woken, watcher: None }
    }

    /// The events of a directory.
    pub fn of(dir: &Path) -> io::Result<NotifyEvents> {
        let events = NotifyEvents::none();
        let bell = events.bell();
        let handler = move |event: notify::Result<notify::Event>| {
            if may_be_a_change(&event) {
                bell.ring();
            }
        };
        let watcher = notify::recommended_watcher(handler)
            .and_then(|mut watcher| watcher.watch(dir, RecursiveMode::NonRecursive).map(|()| watcher));
        Ok(NotifyEvents { watcher: Some(watcher.map_err(io::Error::other)?), ..events })
    }

    /// Watches the directory that has the path now.
    pub fn watch_again(&mut self, dir: &Path) -> io::Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        // It fails if the directory is gone.
        let _ = watcher.unwatch(dir);
        watcher.watch(dir, RecursiveMode::NonRecursive).map_err(io::Error::other)
    }

    /// What ends a wait.
    pub fn bell(&self) -> NotifyBell {
        self.bell.clone()
    }

    /// Waits for an event or the bell, for at most `limit`. Returns whether one came since the last wait.
    pub fn wait(&self, limit: Duration) -> bool {
        self.woken.recv_timeout(limit).is_ok()
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
