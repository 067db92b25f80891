//! The committer's thread: takes the gathered group, makes it durable, and draws the consequences.

use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::wal::appender::{AppendError, Log};
use driftdb_common::table::operation::WriteToken;
use tokio::sync::mpsc;

use crate::commit::Shared;
use crate::commit::queue::{Answer, Gathering, LogWork};
use crate::rows::Mark;

/// How often an idle writer looks whether another has taken over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The committer's thread. Ends with an error when what is on disk is no longer known (I5).
pub(super) fn run(mut log: Log, shared: &Shared, answers: &mpsc::UnboundedSender<Vec<Answer>>) -> Result<()> {
    while let Some((mut gathered, mark, log_work)) = take(shared, log.fence().is_on()) {
        for work in log_work {
            if let Err(AppendError::Fatal(error) | AppendError::Refused(error)) = work(&mut log) {
                return Err(stop(shared, gathered, &error, answers));
            }
        }
        if gathered.answers.is_empty() {
            shared.state.lock().writing = false;
            continue;
        }
        let outcome = log.append(&mut gathered.group);
        let (answered, end) = settle(shared, &log, gathered, mark, outcome);
        // The receiver is gone only when the runtime is: then nobody waits.
        let _ = answers.send(answered);
        if let Some(error) = end {
            tracing::error!(%error, "the writer stops: what is on disk is no longer known");
            return Err(error);
        }
    }
    log.close()
}

/// Waits for a group and takes it; `None` when there will be none. A fenced writer that has nothing to do looks every now and
/// then whether it still is the writer: it answers questions, too.
fn take(shared: &Shared, fenced: bool) -> Option<(Gathering, Mark, Vec<LogWork>)> {
    let mut state = shared.state.lock();
    while state.gathering.answers.is_empty() && state.log_work.is_empty() {
        if state.closing {
            return None;
        }
        if !fenced {
            shared.gathered.wait(&mut state);
        } else if shared.gathered.wait_for(&mut state, LOOK_EVERY).timed_out() {
            state.log_work.push(Box::new(|log| log.fence().check().map_err(AppendError::Fatal)));
        }
    }
    state.writing = true;
    let mark = state.admission.tables().mark();
    let gathered = if state.gathering.answers.is_empty() {
        Gathering::default()
    } else {
        std::mem::take(&mut state.gathering)
    };
    Some((gathered, mark, std::mem::take(&mut state.log_work)))
}

/// Ends the writer where work on the log has failed for good: nothing of the group was written.
fn stop(
    shared: &Shared,
    mut gathered: Gathering,
    error: &Error,
    answers: &mpsc::UnboundedSender<Vec<Answer>>,
) -> Error {
    tracing::error!(%error, "the writer stops: what is on disk is no longer known");
    let mut state = shared.state.lock();
    state.writing = false;
    let stopped = Error::new(Reason::WriterStopped, format!("the writer has stopped: {}", error.message()));
    gathered.answers.append(&mut state.gathering.answers);
    gathered.answers.iter_mut().for_each(|answer| answer.result = Err(stopped.clone()));
    state.stopped = Some(stopped);
    state.log_work.clear();
    drop(state);
    // The receiver is gone only when the runtime is: then nobody waits.
    let _ = answers.send(gathered.answers);
    error.clone()
}

/// Draws the consequences of a group's outcome: the answers to give, and the error that ends the writer.
fn settle(
    shared: &Shared,
    log: &Log,
    gathered: Gathering,
    mark: Mark,
    outcome: Result<(), AppendError>,
) -> (Vec<Answer>, Option<Error>) {
    let mut state = shared.state.lock();
    state.writing = false;
    let mut answers = gathered.answers;
    match outcome {
        Ok(()) => {
            if gathered.group.last_seq > 0 {
                state.durable = WriteToken { seq: gathered.group.last_seq, time_ms: gathered.group.last_ms };
            }
            let durable = state.durable;
            state.admission.forget_undo(mark, durable);
            for (id, frames) in &gathered.group.tables {
                state.storage.insert(*id, log.table_storage(*id));
                let (events, bytes) = (frames.frames.frames() as u64, frames.frames.bytes().len() as u64);
                let tail = state.tails.entry(*id).or_default();
                tail.events += events;
                tail.bytes += bytes;
                state.tail_bytes += bytes;
            }
            // Full: it has been told already.
            let _ = shared.grown.try_send(());
            (answers, None)
        }
        Err(AppendError::Refused(error)) => {
            // Nothing was written. What gathered meanwhile rests on it, and goes back as well.
            answers.append(&mut state.gathering.answers);
            state.gathering = Gathering::default();
            let durable = state.durable;
            state.rollbacks += 1;
            state.admission.roll_back(durable);
            answers.iter_mut().for_each(|answer| answer.result = Err(error.clone()));
            (answers, None)
        }
        Err(AppendError::Fatal(error)) => {
            let stopped =
                Error::new(Reason::WriterStopped, format!("the writer has stopped: {}", error.message()));
            let unknown = Error::new(
                Reason::OutcomeUnknown,
                format!("appended, but durability was not confirmed: {}", error.message()),
            );
            for answer in &mut answers {
                answer.result = Err(if answer.result.is_ok() { unknown.clone() } else { stopped.clone() });
            }
            for mut answer in std::mem::take(&mut state.gathering.answers) {
                // One that joined a commit of the group in flight knows as little as that one.
                let joined = matches!(&answer.result, Ok(at) if at.token.seq <= gathered.group.last_seq);
                answer.result = Err(if joined { unknown.clone() } else { stopped.clone() });
                answers.push(answer);
            }
            state.stopped = Some(stopped);
            state.log_work.clear();
            (answers, Some(error))
        }
    }
}
