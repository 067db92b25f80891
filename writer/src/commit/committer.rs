//! The committer's thread: takes the open group, makes it durable, and acknowledges it.
//!
//! Whoever holds the log writes. While nothing is to be written, the log is in the state, and a request that is alone may take it
//! for its own commit (`lone_commit`). The committer then waits until the log is back.

use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::metrics;
use driftdb_common::storage::wal::appender::{AppendError, Log};
use driftdb_common::table::operation::WriteToken;
use parking_lot::MutexGuard;

use crate::admission::tables::{DiscardedUndo, UndoMark};
use crate::commit::acks::CommitAck;
use crate::commit::group_trace;
use crate::commit::state::{CommitShared, CommitState, LogTask, OpenGroup};

/// How often an idle writer checks whether another writer has taken over, or its files were moved.
const FENCE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the committer does next.
enum CommitterWork {
    /// Run tasks on the log, then write a group.
    Write(Box<Log>, Box<TakenGroup>, Vec<LogTask>),
    /// Close the log: the writer is closing, and nothing is left.
    Close(Box<Log>),
}

/// A group that is being written.
pub(super) struct TakenGroup {
    pub(super) group: OpenGroup,
    /// The undo log's end when the group was taken.
    mark: UndoMark,
}

/// Writes groups until the writer closes. An error means that the content of the disk is not known any more
/// (I5).
pub(super) fn run(shared: &CommitShared) -> Result<()> {
    loop {
        let (mut log, taken, log_tasks) = match wait_for_work(shared)? {
            CommitterWork::Write(log, taken, log_tasks) => (log, taken, log_tasks),
            CommitterWork::Close(log) => return log.close(),
        };
        for task in log_tasks {
            if let Err(AppendError::Fatal(error) | AppendError::Refused(error)) = task(&mut log) {
                return Err(stop_before_write(shared, taken.group, &error));
            }
        }
        if taken.group.acks.is_empty() {
            let mut state = shared.state.lock();
            state.writing = false;
            state.log = Some(log);
            continue;
        }
        send(write_group(shared, log, *taken));
    }
}

/// Waits until the log is here and the open group or the log tasks are not empty, and takes them. An idle writer checks
/// periodically that it still is the writer, because calls such as Status do not go through the committer. Fails if a group
/// has stopped the writer.
fn wait_for_work(shared: &CommitShared) -> Result<CommitterWork> {
    let mut state = shared.state.lock();
    state.gathering.begin();
    loop {
        if let Some(error) = state.fatal.take() {
            // Who waits for the open group or a task learns from the drop that the writer has stopped.
            let waiting = (std::mem::take(&mut state.open), std::mem::take(&mut state.log_tasks));
            let log = state.log.take();
            drop(state);
            // The drop of the log waits for threads.
            drop((log, waiting));
            return Err(error);
        }
        if state.gathers()
            && let Some(until) = state.gathering.deadline()
        {
            shared.work_ready.wait_until(&mut state, until);
            continue;
        }
        // From now on, the first request wakes the committer.
        let requests = state.open.acks.len();
        state.gathering.end(requests);
        if let Some(until) = state.waits_for_gate() {
            shared.work_ready.wait_until(&mut state, until);
            continue;
        }
        let has_work = state.has_work();
        if (has_work || state.closing)
            && let Some(log) = state.log.take()
        {
            if !has_work {
                return Ok(CommitterWork::Close(log));
            }
            let log_tasks = std::mem::take(&mut state.log_tasks);
            return Ok(CommitterWork::Write(log, Box::new(take_group(&mut state)), log_tasks));
        }
        let waited = shared.work_ready.wait_for(&mut state, FENCE_CHECK_INTERVAL);
        if waited.timed_out() && state.log.is_some() {
            state.log_tasks.push(Box::new(|log| log.check_writer().map_err(AppendError::Fatal)));
        }
    }
}

/// Takes the open group. The caller has taken the log.
pub(super) fn take_group(state: &mut CommitState) -> TakenGroup {
    state.writing = true;
    let mark = state.admission.tables.undo_mark();
    // If only log tasks wait, the open group is empty and stays.
    let group =
        if state.open.acks.is_empty() { OpenGroup::default() } else { std::mem::take(&mut state.open) };
    TakenGroup { group, mark }
}

/// Makes a group durable and gives the log back. Returns the acks to send.
pub(super) fn write_group(shared: &CommitShared, mut log: Box<Log>, taken: TakenGroup) -> Vec<CommitAck> {
    let TakenGroup { mut group, mark } = taken;
    let began = Instant::now();
    let outcome = log.append(&mut group.group);
    let took = began.elapsed();
    group_trace::record(&group, began);
    settle(shared, log, (group, mark, took), outcome)
}

/// Sends a group's acks. The first one of each connection wakes its task. A thread that runs it takes longer to wake than to send
/// the others.
fn send(answered: Vec<CommitAck>) {
    answered.into_iter().for_each(CommitAck::send);
}

fn log_stop(error: &Error) {
    tracing::error!(%error, "the writer stops: it cannot write to the log any more");
}

fn stopped_error(cause: &Error) -> Error {
    Error::new(Reason::WriterStopped, format!("the writer has stopped: {}", cause.message()))
}

/// Stops the writer after a log task has failed.
fn stop_before_write(shared: &CommitShared, group: OpenGroup, error: &Error) -> Error {
    log_stop(error);
    let mut state = shared.state.lock();
    state.writing = false;
    let answered = settle_unwritten(state, group, error);
    send(answered);
    error.clone()
}

/// Updates the state after a group was written or refused, and gives the log back. Returns the acks to send.
fn settle(
    shared: &CommitShared,
    log: Box<Log>,
    (group, mark, took): (OpenGroup, UndoMark, Duration),
    outcome: Result<(), AppendError>,
) -> Vec<CommitAck> {
    let mut state = shared.state.lock();
    state.writing = false;
    let waiting = state.open.acks.len();
    state.gathering.note((group.acks.len(), waiting), took);
    match outcome {
        Ok(()) => {
            let discarded = settle_durable(&mut state, &log, &group, mark);
            state.log = Some(log);
            // Earlier states of many rows: freed after the lock.
            drop(state);
            drop(discarded);
            // If the channel is full, the receiver has a message already.
            let _ = shared.growth.try_send(());
            group.acks
        }
        Err(AppendError::Refused(error)) => {
            state.log = Some(log);
            settle_refused(&mut state, group, &error)
        }
        Err(AppendError::Fatal(error)) => {
            log_stop(&error);
            state.log = Some(log);
            state.fatal = Some(error.clone());
            if group.group.written {
                settle_unknown(state, group, &error)
            } else {
                settle_unwritten(state, group, &error)
            }
        }
    }
}

fn settle_durable(state: &mut CommitState, log: &Log, group: &OpenGroup, mark: UndoMark) -> DiscardedUndo {
    if group.group.last_seq > 0 {
        let commits = group.group.last_seq.saturating_sub(state.durable.seq);
        metrics::GROUP_COMMITS.record(u32::try_from(commits).unwrap_or(u32::MAX));
        state.durable = WriteToken { seq: group.group.last_seq, time_ms: group.group.last_ms };
    }
    let durable = state.durable;
    let discarded = state.admission.discard_undo(mark, durable);
    for (id, table) in &group.group.tables {
        state.storage.insert(*id, log.table_storage(*id));
        let (events, bytes) = (table.frames.frames() as u64, table.frames.bytes().len() as u64);
        let tail = state.tails.entry(*id).or_default();
        tail.events += events;
        tail.since.get_or_insert_with(Instant::now);
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

/// The writer ends, and nothing of the group was written: every request in it gets WRITER_STOPPED.
fn settle_unwritten(
    mut state: MutexGuard<'_, CommitState>,
    group: OpenGroup,
    error: &Error,
) -> Vec<CommitAck> {
    let stopped = stopped_error(error);
    let mut acks = group.acks;
    acks.append(&mut state.open.acks);
    acks.iter_mut().for_each(|ack| ack.outcome = Err(stopped.clone()));
    state.stopped = Some(stopped);
    state.log_tasks.clear();
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
