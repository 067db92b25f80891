//! The Ingest call: takes batches of one stream in order, many at a time, and acknowledges each once it is on
//! disk.
//!
//! Two tasks serve a stream. One decodes and admits batches, the other waits for them to become durable. So a
//! client can send many batches before the first is acknowledged, and a sync is shared by all batches
//! admitted before it.
//!
//! A stream whose client does not read must not fill the memory. Before a batch is taken, memory is reserved for
//! the worst that it can lead to: the refusal of all its operations. What the batch did not need is given back
//! once it is admitted, the rest when its acknowledgement is sent. A stream without memory takes no further batch,
//! and gRPC's flow control makes the client wait.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::IngestOrigin;
use driftdb_common::limits;
use driftdb_common::memory::{MemoryPermit, MemoryUse};
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, StreamLease};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::convert;
use driftdb_common::service::server::{CallMemory, ResponseStream, STREAM_WINDOW};
use driftdb_common::service::status::to_status;
use driftdb_common::table::operation::Operation;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::admission::CommitContext;
use crate::admission::draft::DraftOperation;
use crate::admission::producers::RefusedOperation;
use crate::commit::{AdmittedBatch, CommitPipeline, IngestBatch, IngestPipeline, IngestSession};
use crate::maintenance::MaintenanceHealth;
use crate::rpc::authorization::authorize_conditions;
use crate::rpc::commit_tokens::CommitTokens;
use crate::rpc::decoding;
use crate::rpc::ingest_acks::{
    BatchMemory, MessageOutcome, StreamMemory, acknowledge_batches, refusal_to_wire,
};
use crate::rpc::made_keys::made_key_to_wire;
use crate::rpc::revert::RevertResolver;
use crate::tasks::TaskPool;

/// Batches of one stream that may be admitted and not acknowledged. At the limit the stream takes no more
/// messages, and gRPC's flow control makes the client wait.
const UNACKNOWLEDGED_BATCHES: usize = 4096;
/// The most refused operations that the answer to a producer without operations repeats.
const REFUSALS_REPEATED: usize = 1000;
/// Acknowledgements that wait for a slow client.
const ACKS_AHEAD: usize = 16;
/// How long a stream waits before it checks again whether the full queue of writes has room: first this long, then longer.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);
const QUEUE_FULL_LONGEST_PAUSE: Duration = Duration::from_millis(64);

/// Serves Ingest calls.
#[derive(Debug, Clone)]
pub(crate) struct IngestService {
    pipeline: IngestPipeline,
    commits: CommitPipeline,
    reverts: RevertResolver,
    tasks: TaskPool,
    tokens: CommitTokens,
    /// What ends the newest stream of each producer. A newer stream ends the older one.
    newest: Arc<Mutex<HashMap<String, CancellationToken>>>,
    shutdown: CancellationToken,
    health: Arc<MaintenanceHealth>,
}

/// The task that admits a stream's batches.
struct BatchReceiver {
    service: IngestService,
    caller: Caller,
    /// The right to write the tables that the stream has written so far, and to read those of its conditions.
    lease: StreamLease,
    written: BTreeSet<String>,
    read: BTreeSet<String>,
    producer: Option<String>,
    session: IngestSession,
    last_batch: Option<u64>,
    /// Whether a refused operation has ended the stream.
    stopped: bool,
    outcomes: mpsc::Sender<MessageOutcome>,
    /// Takes why the stream ends, if there is no room for it among the outcomes.
    revoked: Option<oneshot::Sender<Status>>,
    call: CallMemory,
    memory: StreamMemory,
    /// Reserved for what the client can send before the stream reads it.
    _window: MemoryPermit,
}

impl IngestService {
    /// Admits batches through `pipeline`. `tokens` names the commits. `shutdown` ends all streams.
    pub(crate) fn new(
        (pipeline, commits): (IngestPipeline, CommitPipeline),
        (reverts, tasks): (RevertResolver, TaskPool),
        tokens: CommitTokens,
        shutdown: CancellationToken,
    ) -> IngestService {
        let (newest, health) = (Arc::default(), Arc::default());
        IngestService { pipeline, commits, reverts, tasks, tokens, newest, shutdown, health }
    }

    /// The same service; damage that admission finds is noted in `health`.
    pub(crate) fn noting_damage_in(self, health: Arc<MaintenanceHealth>) -> IngestService {
        IngestService { health, ..self }
    }

    /// Starts both tasks of a stream and returns its acknowledgements.
    ///
    /// # Errors
    /// `OVERLOADED` if there is no memory for another stream.
    pub(crate) fn serve(
        &self,
        inbound: Streaming<v1::IngestRequest>,
        call: CallMemory,
        caller: Caller,
    ) -> Result<ResponseStream<v1::IngestResponse>> {
        let window = call.account().reserve(MemoryUse::Requests, u64::from(STREAM_WINDOW))?;
        call.wait_for_messages();
        let (outcomes, admitted) = mpsc::channel(UNACKNOWLEDGED_BATCHES);
        let (acks, responses) = mpsc::channel(ACKS_AHEAD);
        let (revoked, revocation) = oneshot::channel();
        let session = self.pipeline.open_session(self.shutdown.child_token());
        let receiver = BatchReceiver {
            service: self.clone(),
            lease: StreamLease::new(&caller, LeaseNeeds::Principal),
            written: BTreeSet::new(),
            read: BTreeSet::new(),
            caller: caller.clone(),
            producer: None,
            session,
            last_batch: None,
            stopped: false,
            outcomes,
            revoked: Some(revoked),
            memory: StreamMemory::new(Arc::clone(call.account())),
            call,
            _window: window,
        };
        tokio::spawn(receiver.run(inbound));
        tokio::spawn(acknowledge_batches((admitted, revocation), acks, self.tokens.clone()));
        // The memory of an acknowledgement is given back when the acknowledgement is taken to be sent.
        let acks = ReceiverStream::new(responses);
        Ok(Box::pin(acks.map(move |ack| match ack {
            Ok(ack) => Ok(ack.response),
            Err(status) => Err(caller.redact(status)),
        })))
    }

    /// Decodes the operations of a batch, resolves its reverts and finds the keys. An operation that cannot be decoded is its
    /// error.
    async fn decode(
        &self,
        operations: Vec<v1::Operation>,
        unknown: HashMap<String, Error>,
    ) -> Result<Vec<Result<DraftOperation>>> {
        let tables = self.pipeline.known_tables(operations.iter().map(|operation| operation.table.as_str()));
        let draft = move |operation: Operation| {
            DraftOperation::new(operation).map(|operation| operation.with_key(&tables))
        };
        // An operation on a table that does not exist for the caller is refused, as one on a table that does not exist.
        let from_wire = move |operation: v1::Operation| match unknown.get(&operation.table) {
            Some(error) => Err(error.clone()),
            None => convert::operation_from_wire(operation),
        };
        let is_short = decoding::is_short(&operations);
        if operations.iter().any(decoding::is_revert) {
            let decode = move || Ok(operations.into_iter().map(from_wire).collect::<Vec<_>>());
            let operations = if is_short { decode()? } else { self.tasks.run(decode).await? };
            let operations = self.reverts.resolve_each(operations).await?;
            return Ok(operations.into_iter().map(|operation| operation.and_then(&draft)).collect());
        }
        let decode = move || {
            let decoded = operations.into_iter().map(from_wire);
            Ok(decoded.map(|operation| operation.and_then(&draft)).collect())
        };
        if is_short { decode() } else { self.tasks.run(decode).await }
    }

    /// Ends the producer's older stream. Returns what ends the new one.
    fn replace_stream(&self, producer: &str) -> CancellationToken {
        let token = self.shutdown.child_token();
        if let Some(older) = self.newest.lock().insert(producer.to_owned(), token.clone()) {
            older.cancel();
        }
        token
    }

    /// Forgets the stream of a producer that has ended, unless a newer one has replaced it: a client can choose any number of producers.
    fn forget_stream(&self, producer: &str, ended: &CancellationToken) {
        let mut newest = self.newest.lock();
        if !ended.is_cancelled() {
            newest.remove(producer);
        }
    }
}

impl Drop for BatchReceiver {
    fn drop(&mut self) {
        if let Some(producer) = &self.producer {
            self.service.forget_stream(producer, &self.session.ended);
        }
    }
}

impl BatchReceiver {
    async fn run(mut self, mut inbound: Streaming<v1::IngestRequest>) {
        let mut first = true;
        loop {
            let message = tokio::select! {
                biased;
                () = self.session.ended.cancelled() => Err(self.end_status()),
                error = self.lease.ended() => Err(to_status(error)),
                message = inbound.message() => message,
            };
            let processed = match message {
                Ok(Some(request)) => {
                    let processed = self.process(request, first).await;
                    let processed = processed.inspect_err(|error| self.service.health.note_damage(error));
                    processed.map_err(to_status)
                }
                Ok(None) => return,
                Err(status) => Err(status),
            };
            self.call.hand_on_messages();
            first = false;
            let (outcome, ends) = match processed {
                Ok(Some(outcome)) => (outcome, self.stopped),
                // The stream has ended meanwhile. The next turn reports why.
                Ok(None) if self.session.ended.is_cancelled() => continue,
                Ok(None) => return,
                Err(status) => (MessageOutcome::End(status), true),
            };
            // A client that does not read its acknowledgements keeps no stream that must end. If it reads them later, it learns why the
            // stream has ended, and not of this batch, like a client whose connection breaks.
            let is_sent = tokio::select! {
                biased;
                sent = self.outcomes.send(outcome) => sent.is_ok(),
                error = self.lease.ended() => {
                    // If the other task has ended, nobody waits for the reason.
                    let _ = self.revoked.take().map(|revoked| revoked.send(to_status(error)));
                    false
                }
            };
            if !is_sent || ends {
                return;
            }
        }
    }

    /// Why the stream was ended from this side.
    fn end_status(&self) -> Status {
        if self.service.shutdown.is_cancelled() {
            let message =
                "the writer is shutting down; connect again later and send unacknowledged batches again";
            return to_status(Error::new(Reason::ShuttingDown, message));
        }
        Status::new(Code::Aborted, "a newer stream of the same producer_id has replaced this one")
    }

    /// Admits the batch of a message, or looks up the producer's position if the message has no operations. Returns
    /// `None` if the stream has ended meanwhile.
    async fn process(&mut self, request: v1::IngestRequest, first: bool) -> Result<Option<MessageOutcome>> {
        if !request.producer_id.is_empty() {
            self.set_producer(&request.producer_id, first)?;
        }
        if request.operations.is_empty() {
            let Some(memory) = self.reserve(REFUSALS_REPEATED).await? else { return Ok(None) };
            return self.position(request.batch_id).map(|batch| Some(outcome(batch, memory, &self.caller)));
        }
        let count = request.operations.len();
        if count > limits::OPERATIONS_PER_COMMIT {
            let message = format!(
                "too many operations in batch {}: {count}, the limit is {}; split them into several batches",
                request.batch_id,
                limits::OPERATIONS_PER_COMMIT
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        self.check_order(request.batch_id)?;
        // What the rules allow now, not when the stream began.
        self.caller = self.caller.renewed();
        let options = self.caller.sign(convert::options_from_wire(request.options)?)?;
        if !options.request_id.is_empty() {
            let message = "Ingest takes no request_id; set producer_id in the stream's first message, and repeated batches are recognized";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let number = request.batch_id;
        let origin = self.producer.clone().map(|producer| IngestOrigin {
            producer,
            batch: number,
            operation: 0,
            ends: false,
        });
        let preconditions = request.preconditions;
        if !(request.atomic || preconditions.is_empty()) {
            let message = "preconditions need an atomic batch: set atomic, or send each operation with Apply";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let unknown = self.authorize(&request.operations, &preconditions).await?;
        let conditions = decoding::conditions_of_batch(&self.service.tasks, preconditions).await?;
        let operations = self.service.decode(request.operations, unknown).await?;
        let Some(memory) = self.reserve(count).await? else { return Ok(None) };
        let context = CommitContext { options, request: None, origin };
        let v1::IngestRequest { atomic, stop_at_refusal, set_aside, .. } = request;
        let set_aside = set_aside.into_iter().collect();
        let batch =
            IngestBatch { context, number, operations, conditions, atomic, stop_at_refusal, set_aside };
        if !self.wait_for_room().await? {
            return Ok(None);
        }
        // Much can have changed while the batch waited.
        self.lease.check()?;
        let mut admitted = self.service.pipeline.admit_batch(batch, &self.session).await?;
        if let Some(batch) = &mut admitted {
            self.suggest(&mut batch.refused).await;
        }
        self.stopped = admitted.as_ref().is_some_and(|batch| batch.stopped);
        Ok(admitted.map(|batch| outcome(batch, memory, &self.caller)))
    }

    /// Fails unless the caller may write the tables of a batch that it may see, and read those of its conditions. Returns the errors
    /// of the others.
    async fn authorize(
        &mut self,
        operations: &[v1::Operation],
        preconditions: &[v1::Precondition],
    ) -> Result<HashMap<String, Error>> {
        let known = (self.written.len(), self.read.len());
        let (mut unknown, mut seen, mut last) = (HashMap::new(), HashSet::new(), "");
        for table in operations.iter().map(|operation| operation.table.as_str()) {
            if std::mem::replace(&mut last, table) == table || !seen.insert(table) {
                continue;
            }
            match authorize(&self.caller, AccessAction::Write, [table]) {
                Ok(()) if self.written.contains(table) => {}
                // Of names that no table has there could be any number.
                Ok(()) if self.service.pipeline.known_tables([table].into_iter()).is_empty() => {}
                Ok(()) => _ = self.written.insert(table.to_owned()),
                Err(error) if error.reason() == Reason::TableNotFound => {
                    unknown.insert(table.to_owned(), error);
                }
                Err(error) => return Err(error),
            }
        }
        let tables = preconditions.iter().map(|precondition| precondition.table.as_str());
        if let Err(error) = authorize_conditions(&self.caller, tables.clone()) {
            return Err(self.service.commits.suggesting(error, &self.caller).await);
        }
        self.read.extend(self.service.pipeline.known_tables(tables).into_keys());
        if known != (self.written.len(), self.read.len()) {
            self.renew_lease();
        }
        Ok(unknown)
    }

    /// Takes the tables into the lease that have been added since.
    fn renew_lease(&mut self) {
        let BatchReceiver { written, read, .. } = self;
        let tables = |names: &BTreeSet<String>| names.iter().cloned().collect::<Vec<_>>();
        let needs =
            [LeaseNeeds::Tables(Role::Write, tables(written)), LeaseNeeds::Tables(Role::Read, tables(read))];
        self.lease.set_needs(LeaseNeeds::Each(needs.into()));
    }

    /// Adds the nearest table's name to the first error of an unknown table.
    async fn suggest(&self, refused: &mut [RefusedOperation]) {
        let is_unknown = |refused: &&mut RefusedOperation| refused.error.reason() == Reason::TableNotFound;
        if let Some(refused) = refused.iter_mut().find(is_unknown) {
            refused.error = self.service.commits.suggesting(refused.error.clone(), &self.caller).await;
        }
    }

    /// Waits until the queue of writes has room: unlike a single commit, a stream does not fail if the queue is full. Returns false
    /// if the stream ends first, from either side.
    async fn wait_for_room(&mut self) -> Result<bool> {
        let mut pause = QUEUE_FULL_PAUSE;
        while !self.service.pipeline.has_room() {
            tokio::select! {
                biased;
                () = self.session.ended.cancelled() => return Ok(false),
                () = self.outcomes.closed() => return Ok(false),
                error = self.lease.ended() => return Err(error),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(QUEUE_FULL_LONGEST_PAUSE),
            }
        }
        Ok(true)
    }

    /// Waits for the memory of a batch's acknowledgement. Returns `None` if the stream ends first, from either side.
    async fn reserve(&mut self, operations: usize) -> Result<Option<BatchMemory>> {
        tokio::select! {
            biased;
            () = self.session.ended.cancelled() => Ok(None),
            () = self.outcomes.closed() => Ok(None),
            error = self.lease.ended() => Err(error),
            memory = self.memory.reserve(operations) => Ok(memory),
        }
    }

    fn set_producer(&mut self, producer: &str, first: bool) -> Result<()> {
        let scoped = self.caller.scoped_id(producer);
        if !first && self.producer.as_ref() != Some(&scoped) {
            let message =
                "producer_id must be set in a stream's first message and must not change in later ones";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if producer.starts_with('\0') {
            return Err(convert::scoped_id_error("producer_id"));
        }
        if producer.len() > limits::REQUEST_ID_BYTES {
            let message = format!(
                "producer_id is too long: {} bytes, the limit is {}",
                producer.len(),
                limits::REQUEST_ID_BYTES
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        if first {
            let ended = self.service.replace_stream(&scoped);
            self.session = self.service.pipeline.open_session(ended);
            self.producer = Some(scoped);
        }
        Ok(())
    }

    /// Checks that a named producer's batches have consecutive numbers: a gap would mean that a batch was
    /// lost.
    fn check_order(&mut self, batch: u64) -> Result<()> {
        let last = self.last_batch.replace(batch);
        if self.producer.is_none() {
            return Ok(());
        }
        let expected = last.map_or(batch.max(1), |last| last.saturating_add(1));
        if batch != expected {
            let message =
                format!("batches must have consecutive numbers: expected batch {expected}, got {batch}");
            return Err(
                Error::new(Reason::ArgumentInvalid, message).with("expected_batch_id", expected.to_string())
            );
        }
        Ok(())
    }

    /// The answer to a message without operations: the batch after which the producer continues.
    fn position(&self, batch: u64) -> Result<AdmittedBatch> {
        let Some(producer) = &self.producer else {
            let message = "cannot look up the position of an unnamed producer: a batch without operations needs producer_id in the stream's first message";
            return Err(Error::new(Reason::ArgumentInvalid, message).with("batch_id", batch.to_string()));
        };
        self.service.pipeline.producer_position(producer)
    }
}

/// What came of a batch, with no more memory than its refusals and the keys made for it need.
fn outcome(batch: AdmittedBatch, mut memory: BatchMemory, caller: &Caller) -> MessageOutcome {
    let AdmittedBatch { number, operations_passed, refused, made, ack, .. } = batch;
    let errors: Vec<_> = refused.iter().map(|refused| refusal_to_wire(refused, caller)).collect();
    let made_keys: Vec<_> = made.into_iter().map(|made| made_key_to_wire(made, number)).collect();
    memory.keep_for(&errors, &made_keys);
    MessageOutcome::Batch { number, operations_passed, errors, made_keys, ack, memory }
}
