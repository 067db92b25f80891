//! The committer: takes what was admitted, makes it durable a group at a time, and answers.
//!
//! Requests are admitted under one lock, in the order they come, into the group that is gathering. One thread owns the log:
//! it takes the gathered group, appends and syncs it, publishes, and answers everyone in it with one wake-up. Meanwhile
//! the next group gathers.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::log::appender::{AppendError, Group, Log, TableStorage};
use driftdb_common::table::operation::{Change, CommitOptions, Token};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{mpsc, oneshot};

use crate::admit::Admission;
use crate::rows::{Mark, Table};

/// How long a client should wait before another try when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// An answer on its way to the request that waits for it.
#[derive(Debug)]
pub struct Answer {
    to: oneshot::Sender<Result<Token>>,
    result: Result<Token>,
}

impl Answer {
    /// Hands the answer over. Who asked may have gone; the commit stands.
    pub fn send(self) {
        let _ = self.to.send(self.result);
    }
}

/// Admitted, and waiting to be written.
#[derive(Debug, Default)]
struct Gathering {
    group: Group,
    answers: Vec<Answer>,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    gathering: Gathering,
    /// A group is being written: what is admitted now rests on something that is not durable yet.
    writing: bool,
    durable: Token,
    storage: HashMap<u64, TableStorage>,
    closing: bool,
    /// Why the writer has stopped taking writes.
    stopped: Option<Error>,
}

/// What request tasks and the committer's thread share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    gathered: Condvar,
}

/// The way to the committer's thread.
#[derive(Debug, Clone)]
pub struct Commits(Arc<Shared>);

impl Commits {
    /// Starts the committer's thread. Answers go to `answers`, a group at a time, to be sent from within the runtime.
    pub fn start(
        log: Log,
        admission: Admission,
        answers: mpsc::UnboundedSender<Vec<Answer>>,
    ) -> Result<(Commits, JoinHandle<Result<()>>)> {
        let storage = admission.tables().iter().map(|table| (table.id(), log.storage(table.id()))).collect();
        let state = State {
            durable: admission.last(),
            admission,
            gathering: Gathering::default(),
            writing: false,
            storage,
            closing: false,
            stopped: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), gathered: Condvar::new() });
        let commits = Commits(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("driftdb-commit".to_owned())
            .spawn(move || run(log, &shared, &answers))
            .map_err(|e| Error::io("cannot start the committer's thread", &e))?;
        Ok((commits, thread))
    }

    /// Admits a change and waits until it is durable, or refused. A refusal that rests on a commit that is not
    /// durable yet is held back until that is.
    pub async fn commit(&self, change: Change, options: CommitOptions) -> Result<Token> {
        let (to, answer) = oneshot::channel();
        {
            let mut state = self.0.state.lock();
            if let Some(stopped) = &state.stopped {
                return Err(stopped.clone());
            }
            if state.closing {
                return Err(Error::new(Reason::ShuttingDown, "the writer is shutting down"));
            }
            let State { admission, gathering, .. } = &mut *state;
            let bytes: usize = gathering.group.tables.values().map(|table| table.frames.bytes().len()).sum();
            if gathering.answers.len() >= limits::QUEUE_REQUESTS || bytes >= limits::QUEUE_BYTES {
                let message = "too many writes are waiting for the disk: try again";
                return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
            }
            let result = admission.admit(change, &options, now_ms(), &mut gathering.group);
            let durable = !state.writing && state.gathering.answers.is_empty();
            match result {
                Err(error) if durable => return Err(error),
                Ok(token) if token == state.durable => return Ok(token),
                result => state.gathering.answers.push(Answer { to, result }),
            }
        }
        self.0.gathered.notify_one();
        let gone =
            |_| Error::new(Reason::OutcomeUnknown, "the writer stopped before it could tell the outcome");
        answer.await.map_err(gone)?
    }

    /// The last commit that readers may show.
    pub fn durable(&self) -> Token {
        self.0.state.lock().durable
    }

    /// Every table that has not been dropped, as `look` sees it.
    pub fn tables<T>(&self, mut look: impl FnMut(&Table, TableStorage) -> T) -> Vec<T> {
        let state = self.0.state.lock();
        let live = state.admission.tables().iter().filter(|table| table.is_live());
        live.map(|table| look(table, state.storage.get(&table.id()).copied().unwrap_or_default())).collect()
    }

    /// Takes no more writes; the thread ends once those admitted are durable.
    pub fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.gathered.notify_one();
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The committer's thread. Ends with an error when what is on disk is no longer known (I5).
fn run(mut log: Log, shared: &Shared, answers: &mpsc::UnboundedSender<Vec<Answer>>) -> Result<()> {
    while let Some((mut gathered, mark)) = take(shared) {
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

/// Waits for a group and takes it; `None` when there will be none.
fn take(shared: &Shared) -> Option<(Gathering, Mark)> {
    let mut state = shared.state.lock();
    while state.gathering.answers.is_empty() {
        if state.closing {
            return None;
        }
        shared.gathered.wait(&mut state);
    }
    state.writing = true;
    let mark = state.admission.tables().mark();
    Some((std::mem::take(&mut state.gathering), mark))
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
                state.durable = Token { seq: gathered.group.last_seq, time_ms: gathered.group.last_ms };
            }
            state.admission.forget_undo(mark);
            for id in gathered.group.tables.keys() {
                state.storage.insert(*id, log.storage(*id));
            }
            (answers, None)
        }
        Err(AppendError::Refused(error)) => {
            // Nothing was written. What gathered meanwhile rests on it, and goes back as well.
            answers.append(&mut state.gathering.answers);
            state.gathering = Gathering::default();
            let durable = state.durable;
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
                answer.result = Err(stopped.clone());
                answers.push(answer);
            }
            state.stopped = Some(stopped);
            (answers, Some(error))
        }
    }
}
