//! The commit of a request that is alone: the request's own task writes it.
//!
//! The committer's thread costs a commit two wake-ups of a thread, which take as long as a fast sync. They are worth it only if
//! the sync is shared. So a request takes the log if nobody waits and the last group was one request, too: with more clients the
//! committer collects groups. The sync blocks, so the thread first hands its other tasks to another thread; what arrives there
//! meanwhile is the committer's next group. The calls of the request's own connection wait for the sync, because they share its
//! task. So a request takes the log only if the last write of a group was quick: on a slow disk, the committer writes.

use driftdb_common::error::{Error, Reason};
use driftdb_common::storage::wal::appender::Log;
use tokio::runtime::{Handle, RuntimeFlavor};

use crate::commit::committer::{TakenGroup, take_group, write_group};
use crate::commit::state::{CommitShared, CommitState};

/// A group of one request, with the log to write it to.
pub(super) struct LoneCommit {
    log: Box<Log>,
    taken: TakenGroup,
}

/// Stops the writer if a panic ends the write: the log is lost then.
struct LostLog<'a>(&'a CommitShared);

impl Drop for LostLog<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = Error::new(Reason::Internal, "a request's commit panicked");
            let mut state = self.0.state.lock();
            state.stopped = Some(error.clone());
            state.fatal = Some(error);
            drop(state);
            self.0.work_ready.notify_one();
        }
    }
}

impl LoneCommit {
    /// Takes the log and the open group if the group is one request that nobody else waits for.
    pub(super) fn take(state: &mut CommitState) -> Option<LoneCommit> {
        let is_alone = state.gathering.expects_one()
            && state.open.acks.len() == 1
            && state.log_tasks.is_empty()
            && state.fatal.is_none()
            && !state.gate.may_wait()
            && can_block();
        let log = if is_alone { state.log.take()? } else { return None };
        Some(LoneCommit { log, taken: take_group(state) })
    }

    /// Makes the group durable, and sends its acks.
    pub(super) fn write(self, shared: &CommitShared) {
        let LoneCommit { log, taken } = self;
        let answered = tokio::task::block_in_place(|| {
            let _lost = LostLog(shared);
            write_group(shared, log, taken)
        });
        let must_wake = shared.state.lock().must_wake_committer();
        if must_wake {
            shared.work_ready.notify_one();
        }
        answered.into_iter().for_each(|ack| ack.send());
    }
}

/// Whether this thread can hand its other tasks to another one.
fn can_block() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread)
}

#[cfg(test)]
mod tests;
