//! The committer: takes what was admitted, makes it durable a group at a time, and answers.
//!
//! Requests are admitted under one lock, in the order they come, into the group that is gathering. One thread owns the log:
//! it takes the gathered group, appends and syncs it, publishes, and answers everyone in it with one wake-up. Meanwhile
//! the next group gathers.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::RequestId;
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::service::clock::now_ms;
use driftdb_common::storage::wal::appender::{AppendError, Log, TableStorage};
use driftdb_common::table::build::snapshot::ReadLimit;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::{CommitRequest, Operation, Precondition, WriteToken};
use driftdb_common::table::schema::Schema;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admit::{Admission, Admitted, With};
pub use crate::commit::batch::{Batch, Ingested, StreamState};
pub use crate::commit::queue::{Answer, Tail};
use crate::commit::queue::{Gathering, Settling, State};
use crate::requests::Refusal;
use crate::rows::Table;

mod batch;
mod queue;
mod thread;

/// Rows that are not in memory, of one change, from which on several threads look them up.
const WORTH_SHARING: usize = 64;

/// How often a table's files are looked at again where they are being replaced, and how long between.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

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
        let storage = ids().map(|id| (id, log.table_storage(id))).collect();
        let tail = |table: &Table| Tail {
            events: table.figures().events.saturating_sub(table.chain().counts().events),
            bytes: log.bytes_since_snapshot(table.id()),
        };
        let tails: HashMap<u64, Tail> =
            admission.tables().iter().map(|table| (table.id(), tail(table))).collect();
        let state = State {
            durable: admission.last(),
            fenced: log.fence().is_on(),
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
            .spawn(move || thread::run(log, &shared, &answers))
            .map_err(|e| Error::io("cannot start the committer's thread", &e))?;
        Ok((commits, thread))
    }

    /// Admits a change and waits until it is durable, or refused. A refusal that rests on a commit that is not
    /// durable yet is held back until that is.
    pub async fn commit(&self, change: CommitRequest, with: With) -> Result<Admitted> {
        if let CommitRequest::Rows { operations, preconditions } = &change {
            self.warm(operations, preconditions);
        }
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
    fn warm<'a>(&self, operations: impl IntoIterator<Item = &'a Operation>, preconditions: &[Precondition]) {
        let cold = self.0.state.lock().admission.cold(operations, preconditions);
        let read = |cold: &[(Arc<LayerMap>, Key)]| {
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
                // Without a thread for it, admission reads this share itself.
                let _ = std::thread::Builder::new().spawn_scoped(threads, || read(share));
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
        self.warm(batch.operations.iter().flatten(), &[]);
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
    pub fn durable(&self) -> WriteToken {
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
    pub fn look(&self, id: u64) -> Result<(Manifest, ReadLimit)> {
        self.with_log(move |log| {
            let (seq, _) = log.published();
            match (log.manifest(id), log.table_entry(id)) {
                (Some(manifest), Some(slot)) => {
                    let reach = ReadLimit { segment: slot.segment, bytes: slot.bytes, seq };
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
    pub fn past_of(&self, id: u64) -> Result<(Manifest, ReadLimit, Arc<LayerMap>)> {
        // Between the two the files may have been replaced.
        for _ in 0..LOOKS {
            let (manifest, reach) = self.look(id)?;
            let missing = || Error::new(Reason::TableNotFound, format!("there is no table of id {id}"));
            let chain = self.chain(id).ok_or_else(missing)?;
            if chain.end() == manifest.deltas.last().map_or(0, |era| era.seq) {
                return Ok((manifest, reach, chain));
            }
            std::thread::sleep(BETWEEN_LOOKS);
        }
        let message = format!("the newest snapshot of table {id} cannot be opened: see the writer's log");
        Err(Error::new(Reason::Internal, message))
    }

    /// A table's files, as admission uses them now. None where there is no such table.
    pub fn chain(&self, id: u64) -> Option<Arc<LayerMap>> {
        let state = self.0.state.lock();
        let table = state.admission.tables().iter().find(|table| table.id() == id);
        table.map(|table| Arc::clone(table.chain()))
    }

    /// Goes over to newer files of a table.
    pub fn adopt(&self, id: u64, chain: &Arc<LayerMap>) {
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
