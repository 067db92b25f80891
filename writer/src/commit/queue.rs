//! What waits for the committer's thread: admitted commits, their answers, work on the log; and the state that they rest on.

use std::collections::HashMap;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::storage::wal::appender::{AppendError, Group, Log, TableStorage};
use driftdb_common::table::operation::WriteToken;
use tokio::sync::oneshot;

use crate::admit::{Admission, Admitted};

/// How long a client should wait before another try when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// An answer on its way to the request that waits for it.
#[derive(Debug)]
pub struct Answer {
    to: oneshot::Sender<Result<Admitted>>,
    pub(super) result: Result<Admitted>,
}

impl Answer {
    /// Hands the answer over. Who asked may have gone; the commit stands.
    pub fn send(self) {
        let _ = self.to.send(self.result);
    }
}

/// Admitted, and waiting to be written.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    pub(super) group: Group,
    pub(super) answers: Vec<Answer>,
}

/// Work on the log, for its thread to do between two groups.
pub(super) type LogWork = Box<dyn FnOnce(&mut Log) -> Result<(), AppendError> + Send>;

/// What of a table's log no snapshot holds yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Events.
    pub events: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

/// All that is admitted and not yet durable, and what it rests on.
pub(super) struct State {
    pub(super) admission: Admission,
    pub(super) gathering: Gathering,
    pub(super) log_work: Vec<LogWork>,
    pub(super) tails: HashMap<u64, Tail>,
    /// Bytes of all tails together.
    pub(super) tail_bytes: u64,
    /// A group is being written: what is admitted now rests on something that is not durable yet.
    pub(super) writing: bool,
    pub(super) durable: WriteToken,
    /// Another writer may have taken over: no answer leaves before the committer has made sure that none has.
    pub(super) fenced: bool,
    pub(super) storage: HashMap<u64, TableStorage>,
    pub(super) closing: bool,
    /// How often admitted commits had to be taken back. A stream that saw one of them admitted must not go on.
    pub(super) rollbacks: u64,
    /// Why the writer has stopped taking writes.
    pub(super) stopped: Option<Error>,
}

impl State {
    /// Fails where no write is taken any more.
    pub(super) fn check_open(&self) -> Result<()> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if self.closing {
            return Err(Error::new(Reason::ShuttingDown, "the writer is shutting down"));
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let bytes: usize = self.gathering.group.tables.values().map(|table| table.frames.bytes().len()).sum();
        self.gathering.answers.len() < limits::QUEUE_REQUESTS && bytes < limits::QUEUE_BYTES
    }

    /// Fails where the queue is full, or more is in memory than snapshots have come to hold.
    pub(super) fn check_room(&self, tail_limit: u64) -> Result<()> {
        if !self.has_room() || self.tail_bytes > tail_limit {
            let message = "too many writes are waiting for the disk: try again";
            return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
        }
        Ok(())
    }

    /// Answers at once where the outcome rests on durable commits only, and otherwise with the gathering group.
    pub(super) fn answer(&mut self, result: Result<Admitted>) -> Settling {
        let all_durable =
            !self.writing && self.gathering.answers.is_empty() && self.gathering.group.tables.is_empty();
        let durable = match &result {
            Ok(admitted) => admitted.token.seq <= self.durable.seq,
            Err(_) => all_durable,
        };
        if durable && !self.fenced {
            return Settling::Now(Box::new(result));
        }
        let (to, answer) = oneshot::channel();
        self.gathering.answers.push(Answer { to, result });
        Settling::Later(answer)
    }
}

/// An outcome that is known already, or will be once what it rests on is durable.
#[derive(Debug)]
pub enum Settling {
    /// Known.
    Now(Box<Result<Admitted>>),
    /// Known when the group it is in has been written.
    Later(oneshot::Receiver<Result<Admitted>>),
}

impl Settling {
    /// Waits for the outcome.
    pub async fn wait(self) -> Result<Admitted> {
        match self {
            Settling::Now(result) => *result,
            Settling::Later(answer) => answer.await.map_err(|_| {
                Error::new(Reason::OutcomeUnknown, "the writer stopped before it could tell the outcome")
            })?,
        }
    }

    /// Whether the outcome is known by now.
    pub fn is_settled(&self) -> bool {
        match self {
            Settling::Now(_) => true,
            Settling::Later(answer) => !answer.is_empty(),
        }
    }
}
