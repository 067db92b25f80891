//! The committer's thread: takes the open group, makes it durable, and acknowledges it.

use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::wal::appender::{AppendError, Log};
use driftdb_common::table::operation::WriteToken;
use parking_lot::MutexGuard;
use tokio::sync::mpsc;

use crate::admission::tables::{DiscardedUndo, UndoMark};
use crate::commit::acks::CommitAck;
use crate::commit::state::{CommitShared, CommitState, LogTask, OpenGroup};

/// How often an idle writer checks whether another writer has taken over, or its files were moved.
const FENCE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the committer does next.
struct CommitterWork {
    group: OpenGroup,
    /// The undo log's end when the group was taken.
    mark: UndoMark,
    log_tasks: Vec<LogTask>,
}

/// Writes groups until the writer closes. An error means that the content of the disk is not known any more
/// (I5).
pub(super) fn run(
    mut log: Log,
    shared: &CommitShared,
    acks: &mpsc::UnboundedSender<Vec<CommitAck>>,
) -> Result<()> {
    while let Some(work) = wait_for_work(shared) {
        let CommitterWork { mut group, mark, log_tasks } = work;
        for task in log_tasks {
            if let Err(AppendError::Fatal(error) | AppendError::Refused(error)) = task(&mut log) {
                return Err(stop_before_write(shared, group, &error, acks));
            }
        }
        if group.acks.is_empty() {
            shared.state.lock().writing = false;
            continue;
        }
        let outcome = log.append(&mut group.group);
        let (answered, fatal) = settle(shared, &log, group, mark, outcome);
        send(acks, answered);
        if let Some(error) = fatal {
            log_stop(&error);
            return Err(error);
        }
    }
    log.close()
}

/// Waits until the open group or the log tasks are not empty, and takes them. Returns `None` once the writer
/// is closing and nothing is left. An idle writer checks periodically that it still is the writer, because calls
/// such as Status do not go through the committer.
fn wait_for_work(shared: &CommitShared) -> Option<CommitterWork> {
    let mut state = shared.state.lock();
    while state.open.acks.is_empty() && state.log_tasks.is_empty() {
        if state.closing {
            return None;
        }
        if shared.work_ready.wait_for(&mut state, FENCE_CHECK_INTERVAL).timed_out() {
            state.log_tasks.push(Box::new(|log| log.fence().check().map_err(AppendError::Fatal)));
        }
    }
    state.writing = true;
    let mark = state.admission.tables.undo_mark();
    // If only log tasks wait, the open group is empty and stays.
    let group =
        if state.open.acks.is_empty() { OpenGroup::default() } else { std::mem::take(&mut state.open) };
    Some(CommitterWork { group, mark, log_tasks: std::mem::take(&mut state.log_tasks) })
}

/// Sends a group's acks. The receiver is gone only if the runtime is, and then no request waits.
fn send(acks: &mpsc::UnboundedSender<Vec<CommitAck>>, answered: Vec<CommitAck>) {
    let _ = acks.send(answered);
}

fn log_stop(error: &Error) {
    tracing::error!(%error, "the writer stops: it cannot write to the log any more");
}

fn stopped_error(cause: &Error) -> Error {
    Error::new(Reason::WriterStopped, format!("the writer has stopped: {}", cause.message()))
}

/// Stops the writer after a log task has failed. Nothing of the group was written, so every request in it
/// gets WRITER_STOPPED.
fn stop_before_write(
    shared: &CommitShared,
    mut group: OpenGroup,
    error: &Error,
    acks: &mpsc::UnboundedSender<Vec<CommitAck>>,
) -> Error {
    log_stop(error);
    let mut state = shared.state.lock();
    state.writing = false;
    let stopped = stopped_error(error);
    group.acks.append(&mut state.open.acks);
    group.acks.iter_mut().for_each(|ack| ack.outcome = Err(stopped.clone()));
    state.stopped = Some(stopped);
    state.log_tasks.clear();
    drop(state);
    send(acks, group.acks);
    error.clone()
}

/// Updates the state after a group was written or refused. Returns the acks to send, and the error that stops
/// the writer.
fn settle(
    shared: &CommitShared,
    log: &Log,
    group: OpenGroup,
    mark: UndoMark,
    outcome: Result<(), AppendError>,
) -> (Vec<CommitAck>, Option<Error>) {
    let mut state = shared.state.lock();
    state.writing = false;
    match outcome {
        Ok(()) => {
            let discarded = settle_durable(&mut state, log, &group, mark);
            // Earlier states of many rows: freed after the lock.
            drop(state);
            drop(discarded);
            // If the channel is full, the receiver has a message already.
            let _ = shared.growth.try_send(());
            (group.acks, None)
        }
        Err(AppendError::Refused(error)) => (settle_refused(&mut state, group, &error), None),
        Err(AppendError::Fatal(error)) => (settle_unknown(state, group, &error), Some(error)),
    }
}

fn settle_durable(state: &mut CommitState, log: &Log, group: &OpenGroup, mark: UndoMark) -> DiscardedUndo {
    if group.group.last_seq > 0 {
        state.durable = WriteToken { seq: group.group.last_seq, time_ms: group.group.last_ms };
    }
    let durable = state.durable;
    let discarded = state.admission.discard_undo(mark, durable);
    for (id, table) in &group.group.tables {
        state.storage.insert(*id, log.table_storage(*id));
        let (events, bytes) = (table.frames.frames() as u64, table.frames.bytes().len() as u64);
        let tail = state.tails.entry(*id).or_default();
        tail.events += events;
        tail.bytes += bytes;
        state.tail_bytes += bytes;
    }
    discarded
}

/// Nothing of the group was written. The open group depends on it, so both are taken back.
fn settle_refused(state: &mut CommitState, group: OpenGroup, error: &Error) -> Vec<CommitAck> {
    let mut acks = group.acks;
    acks.append(&mut state.open.acks);
    state.open = OpenGroup::default();
    let durable = state.durable;
    state.rollbacks += 1;
    state.refusal = Some(error.clone());
    state.admission.roll_back(durable);
    acks.iter_mut().for_each(|ack| ack.outcome = Err(error.clone()));
    acks
}

/// Part of the group may be on disk. Its commits get OUTCOME_UNKNOWN, everything else gets WRITER_STOPPED.
fn settle_unknown(mut state: MutexGuard<'_, CommitState>, group: OpenGroup, error: &Error) -> Vec<CommitAck> {
    let stopped = stopped_error(error);
    let unknown = Error::new(
        Reason::OutcomeUnknown,
        format!(
            "the commit was appended, but not confirmed to be on disk: {}; send it again with the same request_id, or read first",
            error.message()
        ),
    );
    let mut acks = group.acks;
    for ack in &mut acks {
        ack.outcome = Err(if ack.outcome.is_ok() { unknown.clone() } else { stopped.clone() });
    }
    for mut ack in std::mem::take(&mut state.open.acks) {
        // A repeated request of a commit in the written group is as uncertain as that commit.
        let is_in_group = matches!(&ack.outcome, Ok(receipt) if receipt.token.seq <= group.group.last_seq);
        ack.outcome = Err(if is_in_group { unknown.clone() } else { stopped.clone() });
        acks.push(ack);
    }
    state.stopped = Some(stopped);
    state.log_tasks.clear();
    acks
}
