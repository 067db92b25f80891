//! The tailer: has the follower look at HEAD when it moves. A change notice is a wake-up, a poll is the floor.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};

use crate::follower::Follower;
use crate::notices::{Notices, Waker, Woken};
use crate::replica::Replica;

/// Notices that come this close together count as one.
const COALESCE: Duration = Duration::from_micros(200);

/// The follower's thread. Dropping it ends the thread.
#[derive(Debug)]
pub struct Tailer {
    stop: Waker,
    thread: Option<JoinHandle<()>>,
    replica: Arc<Replica>,
}

impl Tailer {
    /// Starts following: HEAD is looked at when a notice comes, and `every` so often.
    pub fn start(follower: Follower, notices: Notices, every: Duration) -> Result<Tailer> {
        let (replica, stop) = (Arc::clone(follower.replica()), notices.waker());
        let thread = std::thread::Builder::new()
            .name("driftdb-follow".to_owned())
            .spawn(move || run(follower, &notices, every))
            .map_err(|e| Error::io("cannot start the follower's thread", &e))?;
        Ok(Tailer { stop, thread: Some(thread), replica })
    }

    /// What the follower tells.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for Tailer {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            // A panic there has already been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(mut follower: Follower, notices: &Notices, every: Duration) {
    let mut reported: Option<Reason> = None;
    loop {
        let mut woken = notices.wait(every);
        if woken == Woken::Changed {
            std::thread::sleep(COALESCE);
            woken = notices.wait(Duration::ZERO);
        }
        if woken == Woken::Stopped {
            return;
        }
        match follower.look() {
            Ok(()) => {
                if reported.take().is_some() {
                    tracing::info!("the log can be followed again");
                }
            }
            // Said once, not twenty times a second.
            Err(error) if reported == Some(error.reason()) => {}
            Err(error) => {
                reported = Some(error.reason());
                match error.reason() {
                    Reason::ReplicaBehind | Reason::FileGone => {
                        tracing::warn!(%error, "behind; what has been applied is still served");
                    }
                    _ => {
                        tracing::error!(%error, "cannot follow the log; what has been applied is still served")
                    }
                }
            }
        }
    }
}
