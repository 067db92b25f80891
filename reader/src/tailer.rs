//! The tailer: the thread on which the follower checks HEAD, after each file system event and at a fixed interval.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::vital::VitalPart;

use crate::follower::Follower;
use crate::fs_events::{EventWaker, FsEvents, WakeReason};
use crate::replica_slot::ReplicaSlot;

/// HEAD checks that events cause start at least this far apart: if many commits come, each check finds several. The first of
/// them waits for nothing.
const PAUSE: Duration = Duration::from_micros(200);

/// The follower's thread. Dropping the tailer ends the thread.
#[derive(Debug)]
pub struct Tailer {
    waker: EventWaker,
    thread: Option<JoinHandle<()>>,
    slot: Arc<ReplicaSlot>,
}

impl Tailer {
    /// Starts the thread, which checks HEAD after each event, and after `interval` without one.
    pub fn start(follower: Follower, events: FsEvents, interval: Duration) -> Result<Tailer> {
        let (slot, waker) = (Arc::clone(follower.slot()), events.waker());
        let thread = std::thread::Builder::new()
            .name("driftdb-follow".to_owned())
            .spawn(move || run(follower, events, interval))
            .map_err(|e| Error::io("cannot start the follower's thread", &e))?;
        Ok(Tailer { waker, thread: Some(thread), slot })
    }

    /// The replica that requests read.
    pub fn slot(&self) -> &Arc<ReplicaSlot> {
        &self.slot
    }
}

impl Drop for Tailer {
    fn drop(&mut self) {
        self.waker.stop();
        if let Some(thread) = self.thread.take() {
            // The panic hook has already reported a panic on that thread.
            let _ = thread.join();
        }
    }
}

fn run(mut follower: Follower, mut events: FsEvents, interval: Duration) {
    let _vital = VitalPart::new("the thread that follows the log");
    let mut reported: Option<Reason> = None;
    let mut checked_at = Instant::now();
    loop {
        let mut wake = events.wait(interval);
        let early = PAUSE.saturating_sub(checked_at.elapsed());
        if wake == WakeReason::Changed && !early.is_zero() {
            std::thread::sleep(early);
            wake = events.wait(Duration::ZERO);
        }
        if wake == WakeReason::Stopped {
            return;
        }
        checked_at = Instant::now();
        let outcome = follower.check_head();
        if follower.take_directory_change() {
            events.watch_again(follower.directory());
        }
        match outcome {
            Ok(()) => {
                if reported.take().is_some() {
                    tracing::info!("following the log again");
                }
            }
            // The check runs up to 1000 times a second: log a lasting error once.
            Err(error) if reported == Some(error.reason()) => {}
            Err(error) => {
                reported = Some(error.reason());
                match error.reason() {
                    Reason::ReplicaBehind | Reason::FileGone => {
                        tracing::warn!(%error, "falling behind; the reader still serves what it has applied");
                    }
                    _ => {
                        tracing::error!(%error, "cannot follow the log; the reader still serves what it has applied");
                    }
                }
            }
        }
    }
}
