//! The tailer: wakes the follower when HEAD moves. A change notice is a wake-up, a poll is the floor.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use notify::event::EventKind;
use notify::{RecursiveMode, Watcher};

use crate::follower::Follower;
use crate::replica::Replica;

/// How often HEAD is looked at when nothing tells of a change: network file systems send no notices.
const POLL: Duration = Duration::from_millis(50);
/// Notices that come this close together count as one.
const COALESCE: Duration = Duration::from_micros(200);

enum Wake {
    Changed,
    Stop,
}

/// The follower's thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Tailer {
    stop: Sender<Wake>,
    thread: Option<JoinHandle<()>>,
    replica: Arc<Replica>,
}

impl Tailer {
    /// Starts following.
    pub fn start(follower: Follower, root: &Path) -> Result<Tailer> {
        let (wake, woken) = mpsc::channel();
        let replica = Arc::clone(follower.replica());
        let watcher = watch(root, wake.clone());
        let thread = std::thread::Builder::new()
            .name("driftdb-follow".to_owned())
            .spawn(move || {
                let _watcher = watcher;
                run(follower, &woken);
            })
            .map_err(|e| Error::io("cannot start the follower's thread", &e))?;
        Ok(Tailer { stop: wake, thread: Some(thread), replica })
    }

    /// What the follower tells.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for Tailer {
    fn drop(&mut self) {
        let _ = self.stop.send(Wake::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

/// Has changes in the directory tell `wake`. Without notices, the poll is all there is.
fn watch(root: &Path, wake: Sender<Wake>) -> Option<impl Watcher + Send + use<>> {
    let handler = move |event: notify::Result<notify::Event>| {
        // Opens and reads are events too: a reader's own would wake every reader.
        if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
            let _ = wake.send(Wake::Changed);
        }
    };
    let watcher = notify::recommended_watcher(handler)
        .and_then(|mut watcher| watcher.watch(root, RecursiveMode::NonRecursive).map(|()| watcher));
    watcher
        .inspect_err(|error| tracing::warn!(%error, "no change notices: HEAD is polled every {POLL:?}"))
        .ok()
}

fn run(mut follower: Follower, woken: &Receiver<Wake>) {
    let mut reported: Option<Reason> = None;
    loop {
        match woken.recv_timeout(POLL) {
            Ok(Wake::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            Ok(Wake::Changed) => {
                std::thread::sleep(COALESCE);
                if woken.try_iter().any(|wake| matches!(wake, Wake::Stop)) {
                    return;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        match follower.look() {
            Ok(()) => reported = None,
            // Said once, not twenty times a second.
            Err(error) if reported == Some(error.reason()) => {}
            Err(error) => {
                tracing::error!(%error, "cannot follow the log; what has been applied is still served");
                reported = Some(error.reason());
            }
        }
    }
}
