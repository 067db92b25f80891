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
use driftdb_common::format::event::RequestId;
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::limits;
use driftdb_common::log::appender::{AppendError, Group, Log, TableStorage};
use driftdb_common::table::chain::Chain;
use driftdb_common::table::operation::{Change, Operation, Token};
use driftdb_common::table::schema::Schema;
use driftdb_common::table::snapshot::Reach;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::admit::{Admission, Admitted, Commit, With};
use crate::requests::{Position, Refusal};
use crate::rows::{Mark, Table};

/// How long a client should wait before another try when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Rows that are not in memory, of one change, from which on several threads look them up.
const WORTH_SHARING: usize = 64;

/// How often a table's files are looked at again where they are being replaced, and how long between.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// An answer on its way to the request that waits for it.
#[derive(Debug)]
pub struct Answer {
    to: oneshot::Sender<Result<Admitted>>,
    result: Result<Admitted>,
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

/// Work on the log, for its thread to do between two groups.
type LogWork = Box<dyn FnOnce(&mut Log) -> Result<(), AppendError> + Send>;

/// What of a table's log no snapshot holds yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tail {
    /// Events.
    pub events: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

struct State {
    admission: Admission,
    gathering: Gathering,
    log_work: Vec<LogWork>,
    tails: HashMap<u64, Tail>,
    /// Bytes of all tails together.
    tail_bytes: u64,
    /// A group is being written: what is admitted now rests on something that is not durable yet.
    writing: bool,
    durable: Token,
    storage: HashMap<u64, TableStorage>,
    closing: bool,
    /// How often admitted commits had to be taken back. A stream that saw one of them admitted must not go on.
    rollbacks: u64,
    /// Why the writer has stopped taking writes.
    stopped: Option<Error>,
}

impl State {
    /// Fails where no write is taken any more.
    fn check_open(&self) -> Result<()> {
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
    fn check_room(&self, tail_limit: u64) -> Result<()> {
        if !self.has_room() || self.tail_bytes > tail_limit {
            let message = "too many writes are waiting for the disk: try again";
            return Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER));
        }
        Ok(())
    }

    /// Admits what is new in a batch; returns what was refused.
    fn admit_batch(
        &mut self,
        with: &With,
        batch: u64,
        operations: Vec<Result<Operation>>,
        atomic: bool,
    ) -> Vec<Refusal> {
        let producer = with.origin.as_ref().map(|origin| origin.producer.clone());
        let position = producer.as_ref().and_then(|producer| self.admission.producers().position(producer));
        let mut refused = Vec::new();
        let Some(first) = first_new(position, batch) else { return refused };
        let commits: Vec<(u32, Result<Vec<Operation>>)> = if atomic {
            let last = u32::try_from(operations.len().saturating_sub(1)).unwrap_or(u32::MAX);
            let all = (last, operations.into_iter().collect());
            if u32::try_from(first).is_ok_and(|first| first <= last) { vec![all] } else { Vec::new() }
        } else {
            let one =
                |(operation, index): (Result<_>, u32)| (index, operation.map(|operation| vec![operation]));
            operations.into_iter().zip(0..).skip(first).map(one).collect()
        };
        // Each is held until the next is admitted: only then is it known not to be the batch's last.
        let mut held: Option<Commit> = None;
        for (last, operations) in commits {
            match self.prepare_part(with, last, operations) {
                Ok(Some(commit)) => {
                    if let Some(before) = held.replace(commit) {
                        before.encode(&mut self.gathering.group);
                    }
                }
                Ok(None) => {}
                Err(error) => refused.push(Refusal { batch, index: if atomic { 0 } else { last }, error }),
            }
        }
        if let Some(mut commit) = held {
            commit.ends_batch();
            commit.encode(&mut self.gathering.group);
        }
        if let Some(producer) = producer {
            self.admission.complete_batch(&producer, batch, &refused);
        }
        refused
    }

    /// Admits a commit of a batch, whose last operation is the batch's operation `last`.
    fn prepare_part(
        &mut self,
        with: &With,
        last: u32,
        operations: Result<Vec<Operation>>,
    ) -> Result<Option<Commit>> {
        let mut with = with.clone();
        if let Some(origin) = &mut with.origin {
            origin.operation = last;
        }
        let change = Change::Rows { operations: operations?, preconditions: Vec::new() };
        Ok(self.admission.prepare(change, with, now_ms(), &mut self.gathering.group)?.1)
    }

    /// Answers at once where the outcome rests on durable commits only, and otherwise with the gathering group.
    fn answer(&mut self, result: Result<Admitted>) -> Settling {
        let all_durable =
            !self.writing && self.gathering.answers.is_empty() && self.gathering.group.tables.is_empty();
        let durable = match &result {
            Ok(admitted) => admitted.token.seq <= self.durable.seq,
            Err(_) => all_durable,
        };
        if durable {
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

/// A message of a producer's stream.
#[derive(Debug)]
pub struct Batch {
    /// What goes with its commits; `origin.operation` is filled in for each.
    pub with: With,
    /// Its number.
    pub batch: u64,
    /// Its operations, those that could not be decoded as the error they are.
    pub operations: Vec<Result<Operation>>,
    /// One commit for all, or one for each.
    pub atomic: bool,
}

/// What a stream began with.
#[derive(Debug, Clone)]
pub struct StreamState {
    /// Cancelled when a newer stream of the producer comes, or the writer goes down.
    pub ended: CancellationToken,
    rollbacks: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Ingested {
    /// Its number.
    pub batch: u64,
    /// Operations that were refused.
    pub refused: Vec<Refusal>,
    /// Settled when all of its commits are durable.
    pub answer: Settling,
}

/// The position of a batch's first operation that has not been admitted before; `None` where all have.
fn first_new(position: Option<Position>, batch: u64) -> Option<usize> {
    match position {
        Some(position) if batch < position.batch => None,
        Some(position) if batch == position.batch && position.complete => None,
        Some(position) if batch == position.batch => Some(usize::try_from(position.operation).ok()? + 1),
        _ => Some(0),
    }
}

/// What request tasks and the committer's thread share.
struct Shared {
    state: Mutex<State>,
    gathered: Condvar,
    /// Told when a group may have made a snapshot due, or an index missing.
    grown: mpsc::Sender<()>,
    /// Bytes of all tails together at which no write is taken until snapshots have let go of them.
    tail_limit: u64,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
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
        grown: mpsc::Sender<()>,
        tail_limit: u64,
    ) -> Result<(Commits, JoinHandle<Result<()>>)> {
        let ids = || admission.tables().iter().map(Table::id);
        let storage = ids().map(|id| (id, log.storage(id))).collect();
        let tail = |table: &Table| Tail {
            events: table.figures().events.saturating_sub(table.chain().counts().events),
            bytes: log.tail_bytes(table.id()),
        };
        let tails: HashMap<u64, Tail> =
            admission.tables().iter().map(|table| (table.id(), tail(table))).collect();
        let state = State {
            durable: admission.last(),
            admission,
            log_work: Vec::new(),
            tail_bytes: tails.values().map(|tail| tail.bytes).sum(),
            tails,
            gathering: Gathering::default(),
            writing: false,
            storage,
            closing: false,
            rollbacks: 0,
            stopped: None,
        };
        let shared =
            Arc::new(Shared { state: Mutex::new(state), gathered: Condvar::new(), grown, tail_limit });
        let commits = Commits(Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("driftdb-commit".to_owned())
            .spawn(move || run(log, &shared, &answers))
            .map_err(|e| Error::io("cannot start the committer's thread", &e))?;
        Ok((commits, thread))
    }

    /// Admits a change and waits until it is durable, or refused. A refusal that rests on a commit that is not
    /// durable yet is held back until that is.
    pub async fn commit(&self, change: Change, with: With) -> Result<Admitted> {
        self.warm(&change);
        let answer = {
            let mut state = self.0.state.lock();
            state.check_open()?;
            state.check_room(self.0.tail_limit)?;
            let State { admission, gathering, .. } = &mut *state;
            let result = admission.admit(change, with, now_ms(), &mut gathering.group);
            state.answer(result)
        };
        self.settled(answer).await
    }

    /// Reads the rows that a change is about and that are not in memory, so that admission finds them in the cache and
    /// does not read files while it holds the lock.
    fn warm(&self, change: &Change) {
        let cold = self.0.state.lock().admission.cold(change);
        let read = |cold: &[(Arc<Chain>, Key)]| {
            for (chain, key) in cold {
                // Whatever is wrong, admission comes upon it again, and says so.
                let _ = chain.last_change(key);
            }
        };
        let hands = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if cold.len() < WORTH_SHARING || hands < 2 {
            return read(&cold);
        }
        std::thread::scope(|threads| {
            for share in cold.chunks(cold.len().div_ceil(hands)) {
                threads.spawn(|| read(share));
            }
        });
    }

    /// The answer to a request that has been made before; `None` where it has not.
    pub async fn made_before(&self, request: &RequestId) -> Option<Result<Admitted>> {
        let answer = {
            let mut state = self.0.state.lock();
            let before = state.admission.made_before(request).transpose()?;
            state.answer(before.map(|token| Admitted { token, replayed: true }))
        };
        Some(self.settled(answer).await)
    }

    /// Whether the queue has room for another batch.
    pub fn has_room(&self) -> bool {
        let state = self.0.state.lock();
        // A writer that takes no more writes says so at once: nobody waits for it to make room.
        state.check_open().is_err() || state.check_room(self.0.tail_limit).is_ok()
    }

    /// A table's schema, as admitted so far.
    pub fn schema(&self, table: &str) -> Result<Schema> {
        Ok(self.0.state.lock().admission.tables().live(table)?.schema().clone())
    }

    /// The id of a table that has not been dropped.
    pub fn table_id(&self, table: &str) -> Result<u64> {
        Ok(self.0.state.lock().admission.tables().live(table)?.id())
    }

    /// Admits a batch of a producer's stream, from the first of its operations that has not been admitted before.
    /// `None`, with nothing done, where the stream has ended meanwhile: a newer one has been told where to go on.
    pub fn ingest(&self, batch: Batch, stream: &StreamState) -> Result<Option<Ingested>> {
        let operations = batch.operations.iter().flatten().cloned().collect();
        self.warm(&Change::Rows { operations, preconditions: Vec::new() });
        let mut state = self.0.state.lock();
        state.check_open()?;
        if stream.ended.is_cancelled() {
            return Ok(None);
        }
        if stream.rollbacks != state.rollbacks {
            let message = "earlier batches of this stream could not be written: connect again, and go on after those that were";
            return Err(Error::new(Reason::DiskFull, message));
        }
        let refused = state.admit_batch(&batch.with, batch.batch, batch.operations, batch.atomic);
        Ok(Some(self.told(state, batch.batch, refused)))
    }

    /// What a new stream has to know when it ingests.
    pub fn new_stream(&self, ended: CancellationToken) -> StreamState {
        StreamState { ended, rollbacks: self.0.state.lock().rollbacks }
    }

    /// What became of a batch, told once everything admitted so far is durable.
    fn told(&self, mut state: MutexGuard<'_, State>, batch: u64, refused: Vec<Refusal>) -> Ingested {
        let token = state.admission.last();
        let answer = state.answer(Ok(Admitted { token, replayed: false }));
        drop(state);
        self.0.gathered.notify_one();
        Ingested { batch, refused, answer }
    }

    /// Where a producer goes on, once that is durable: after the last batch that is known to have been gone through
    /// whole. What was refused lately is told again.
    pub fn position(&self, producer: &str) -> Result<Ingested> {
        let state = self.0.state.lock();
        state.check_open()?;
        let position = state.admission.producers().position(producer);
        let batch = position.map_or(0, |at| if at.complete { at.batch } else { at.batch.saturating_sub(1) });
        let refused = state.admission.producers().refusals(producer, batch);
        Ok(self.told(state, batch, refused))
    }

    async fn settled(&self, answer: Settling) -> Result<Admitted> {
        if matches!(answer, Settling::Later(_)) {
            self.0.gathered.notify_one();
        }
        answer.wait().await
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

    /// Has the log's thread do something with the log, between two groups, and waits for what comes of it. Blocks.
    ///
    /// A fatal error ends the writer (I5).
    pub fn with_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Log) -> Result<T, AppendError> + Send + 'static,
    ) -> Result<T> {
        let (reply, outcome) = std::sync::mpsc::channel();
        let work = move |log: &mut Log| match work(log) {
            Ok(done) => {
                // Who asked waits below.
                let _ = reply.send(Ok(done));
                Ok(())
            }
            Err(AppendError::Refused(error)) => {
                let _ = reply.send(Err(error));
                Ok(())
            }
            Err(AppendError::Fatal(error)) => {
                let _ = reply.send(Err(error.clone()));
                Err(AppendError::Fatal(error))
            }
        };
        {
            let mut state = self.0.state.lock();
            state.check_open()?;
            state.log_work.push(Box::new(work));
        }
        self.0.gathered.notify_one();
        let ended = |_| Error::new(Reason::WriterStopped, "the writer has stopped");
        outcome.recv().map_err(ended)?
    }

    /// A table's manifest, and how far its log may be read: up to the last published commit. Blocks.
    pub fn look(&self, id: u64) -> Result<(Manifest, Reach)> {
        self.with_log(move |log| {
            let (seq, _) = log.published();
            match (log.manifest(id), log.slot(id)) {
                (Some(manifest), Some(slot)) => {
                    let reach = Reach { segment: slot.segment, bytes: slot.bytes, seq };
                    Ok((manifest.clone(), reach))
                }
                _ => {
                    let message = format!("the log has no table of id {id}");
                    Err(AppendError::Refused(Error::new(Reason::TableNotFound, message)))
                }
            }
        })
    }

    /// As [`Commits::look`], with the files that go with the manifest.
    pub fn past_of(&self, id: u64) -> Result<(Manifest, Reach, Arc<Chain>)> {
        // Between the two the files may have been replaced.
        for _ in 0..LOOKS {
            let (manifest, reach) = self.look(id)?;
            let missing = || Error::new(Reason::TableNotFound, format!("there is no table of id {id}"));
            let chain = self.chain(id).ok_or_else(missing)?;
            if chain.end() == manifest.eras.last().map_or(0, |era| era.seq) {
                return Ok((manifest, reach, chain));
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let message = format!("the newest snapshot of table {id} cannot be opened: see the writer's log");
        Err(Error::new(Reason::Internal, message))
    }

    /// A table's files, as admission uses them now. None where there is no such table.
    pub fn chain(&self, id: u64) -> Option<Arc<Chain>> {
        let state = self.0.state.lock();
        let table = state.admission.tables().iter().find(|table| table.id() == id);
        table.map(|table| Arc::clone(table.chain()))
    }

    /// Goes over to newer files of a table.
    pub fn adopt(&self, id: u64, chain: &Arc<Chain>) {
        let mut state = self.0.state.lock();
        state.admission.tables_mut().adopt(id, chain);
    }

    /// What a table takes on disk now.
    pub fn stored(&self, id: u64, storage: TableStorage) {
        self.0.state.lock().storage.insert(id, storage);
    }

    /// Lets go of rows that are in files now, and counts a table's tail anew.
    pub fn forget(&self, id: u64, keys: &[Key]) {
        let mut state = self.0.state.lock();
        if let Ok(table) = state.admission.tables_mut().by_id_mut(id) {
            table.forget(keys);
        }
    }

    /// A snapshot holds so much more of a table's log now.
    pub fn shorten_tail(&self, id: u64, by: Tail) {
        let mut state = self.0.state.lock();
        if let Some(tail) = state.tails.get_mut(&id) {
            let bytes = tail.bytes.min(by.bytes);
            tail.bytes -= bytes;
            tail.events = tail.events.saturating_sub(by.events);
            state.tail_bytes = state.tail_bytes.saturating_sub(bytes);
        }
    }

    /// Bytes of log that no snapshot holds yet, and how many there may be.
    pub fn tail_bytes(&self) -> (u64, u64) {
        (self.0.state.lock().tail_bytes, self.0.tail_limit)
    }

    /// What of each table's log no snapshot holds yet, by table id.
    pub fn tails(&self) -> Vec<(u64, Tail)> {
        self.0.state.lock().tails.iter().map(|(id, tail)| (*id, *tail)).collect()
    }

    /// Every table as `look` sees it, dropped ones too.
    pub fn all_tables<T>(&self, mut look: impl FnMut(&Table) -> T) -> Vec<T> {
        self.0.state.lock().admission.tables().iter().map(&mut look).collect()
    }

    /// Takes no more writes; the thread ends once those admitted are durable.
    pub fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.gathered.notify_one();
    }
}

/// The clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The committer's thread. Ends with an error when what is on disk is no longer known (I5).
fn run(mut log: Log, shared: &Shared, answers: &mpsc::UnboundedSender<Vec<Answer>>) -> Result<()> {
    while let Some((mut gathered, mark, log_work)) = take(shared) {
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

/// Waits for a group and takes it; `None` when there will be none.
fn take(shared: &Shared) -> Option<(Gathering, Mark, Vec<LogWork>)> {
    let mut state = shared.state.lock();
    while state.gathering.answers.is_empty() && state.log_work.is_empty() {
        if state.closing {
            return None;
        }
        shared.gathered.wait(&mut state);
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
                state.durable = Token { seq: gathered.group.last_seq, time_ms: gathered.group.last_ms };
            }
            let durable = state.durable;
            state.admission.forget_undo(mark, durable);
            for (id, frames) in &gathered.group.tables {
                state.storage.insert(*id, log.storage(*id));
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
