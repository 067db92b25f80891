//! The acknowledgements of an ingest stream, and the memory that they hold until they are sent.

use std::sync::Arc;

use driftdb::v1;
use driftdb_common::memory::{Claim, MemoryAccount, MemoryPermit, MemoryUse};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::status::{self, to_status};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;

use crate::admission::producers::RefusedOperation;
use crate::commit::PendingAck;
use crate::rpc::commit_tokens::CommitTokens;

/// One acknowledgement reports at most this many refused operations.
const REFUSALS_PER_ACK: usize = 1000;
/// A refusal's message is cut at this length, in bytes.
const MESSAGE_BYTES: usize = 512;
/// Memory of one refusal: more than its message and its other fields take.
const REFUSAL_BYTES: usize = MESSAGE_BYTES + 128;
/// Memory of one key that was made: more than its text and its other fields take. A refused operation has none, so an operation
/// takes at most [`REFUSAL_BYTES`].
const MADE_KEY_BYTES: usize = 128;
/// One acknowledgement reports at most this many keys that were made, unless one batch has more.
const MADE_KEYS_PER_ACK: usize = 1000;
/// Memory of one batch that is not acknowledged, besides its refusals.
const BATCH_BYTES: usize = 512;
/// Memory that the unsent acknowledgements of one stream may hold, in units of [`UNIT`]. More than one batch can need.
const STREAM_UNITS: usize = (8 << 20) / UNIT;
/// The unit in which a stream counts its memory, in bytes.
const UNIT: usize = 512;

/// What came of a message, in the order of the messages.
#[derive(Debug)]
pub(super) enum MessageOutcome {
    /// A batch was processed.
    Batch {
        number: u64,
        operations_passed: u32,
        errors: Vec<v1::OperationError>,
        made_keys: Vec<v1::MadeKey>,
        ack: PendingAck,
        memory: BatchMemory,
    },
    /// The stream ends with this status.
    End(Status),
}

/// The memory that the unsent acknowledgements of one stream may hold.
#[derive(Debug)]
pub(super) struct StreamMemory {
    account: Arc<MemoryAccount>,
    /// Keeps one stream from taking all memory of its connection.
    stream: Arc<Semaphore>,
}

/// The memory of one batch until its acknowledgement is sent.
#[derive(Debug)]
pub(super) struct BatchMemory {
    reserved: MemoryPermit,
    stream: OwnedSemaphorePermit,
}

impl StreamMemory {
    pub(super) fn new(account: Arc<MemoryAccount>) -> StreamMemory {
        StreamMemory { account, stream: Arc::new(Semaphore::new(STREAM_UNITS)) }
    }

    /// Waits for the memory that the acknowledgement of a batch can need at most.
    pub(super) async fn reserve(&self, operations: usize) -> Option<BatchMemory> {
        let bytes = BATCH_BYTES + operations * REFUSAL_BYTES;
        let units = u32::try_from(bytes.div_ceil(UNIT).min(STREAM_UNITS)).ok()?;
        // An error means that the semaphore is closed, which never happens.
        let stream = Arc::clone(&self.stream).acquire_many_owned(units).await.ok()?;
        let reserved = Arc::clone(&self.account)
            .reserve_when_free(MemoryUse::Ingest, Claim::Present, bytes as u64)
            .await;
        Some(BatchMemory { reserved, stream })
    }
}

impl BatchMemory {
    /// Gives back what the batch does not need: these of its operations were refused, and these keys were made.
    pub(super) fn keep_for(&mut self, errors: &[v1::OperationError], made_keys: &[v1::MadeKey]) {
        let needed = BATCH_BYTES + errors.len() * REFUSAL_BYTES + made_keys.len() * MADE_KEY_BYTES;
        self.reserved.shrink(self.reserved.bytes().saturating_sub(needed as u64));
        let spare = self.stream.num_permits().saturating_sub(needed.div_ceil(UNIT));
        drop(self.stream.split(spare));
    }
}

/// An acknowledgement, and the memory that it holds.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    pub(super) response: v1::IngestResponse,
    memory: Vec<BatchMemory>,
}

/// Acknowledges batches in order. Batches that are durable at the same time share one response. After the last one comes why the stream
/// has ended, if it was ended from this side.
pub(super) async fn acknowledge_batches(
    (mut admitted, mut revocation): (mpsc::Receiver<MessageOutcome>, oneshot::Receiver<Status>),
    acks: mpsc::Sender<Result<Acknowledgement, Status>>,
    tokens: CommitTokens,
) {
    let mut acknowledged = None;
    let mut next = admitted.recv().await;
    while let Some(outcome) = next {
        let mut ack = match durable_batch(outcome, &tokens).await {
            Ok(ack) => ack,
            Err(status) => {
                // If the client has left, nobody waits for the status.
                let _ = acks.send(Err(status)).await;
                return;
            }
        };
        let before = acknowledged.unwrap_or_else(|| ack.response.durable_batch_id.saturating_sub(1));
        next = take_ready_batches(&mut admitted, &mut ack, &tokens).await;
        acknowledged = Some(ack.response.durable_batch_id);
        while ack.response.errors.len() > REFUSALS_PER_ACK {
            let part = v1::IngestResponse {
                durable_batch_id: before,
                token: ack.response.token,
                errors: ack.response.errors.drain(..REFUSALS_PER_ACK).collect(),
                ..v1::IngestResponse::default()
            };
            if acks.send(Ok(Acknowledgement { response: part, memory: Vec::new() })).await.is_err() {
                return;
            }
        }
        if acks.send(Ok(ack)).await.is_err() {
            return;
        }
        if next.is_none() {
            next = admitted.recv().await;
        }
    }
    if let Ok(status) = revocation.try_recv() {
        // If the client has left, nobody waits for the status.
        let _ = acks.send(Err(status)).await;
    }
}

/// Adds the following batches to an acknowledgement as long as they are durable already. Returns the first outcome
/// that is not part of it, if one has arrived.
async fn take_ready_batches(
    admitted: &mut mpsc::Receiver<MessageOutcome>,
    ack: &mut Acknowledgement,
    tokens: &CommitTokens,
) -> Option<MessageOutcome> {
    loop {
        match admitted.try_recv() {
            Ok(MessageOutcome::Batch {
                number,
                operations_passed,
                errors,
                made_keys,
                ack: pending,
                memory,
            }) if pending.is_ready()
                && ack.response.errors.len() + errors.len() <= REFUSALS_PER_ACK
                && ack.response.made_keys.len() + made_keys.len() <= MADE_KEYS_PER_ACK =>
            {
                let outcome = MessageOutcome::Batch {
                    number,
                    operations_passed,
                    errors,
                    made_keys,
                    ack: pending,
                    memory,
                };
                match durable_batch(outcome, tokens).await {
                    Ok(durable) => {
                        ack.response.durable_batch_id = durable.response.durable_batch_id;
                        ack.response.token = durable.response.token;
                        ack.response.errors.extend(durable.response.errors);
                        ack.response.made_keys.extend(durable.response.made_keys);
                        ack.memory.extend(durable.memory);
                    }
                    Err(status) => return Some(MessageOutcome::End(status)),
                }
            }
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
}

/// Waits until a batch is durable.
async fn durable_batch(outcome: MessageOutcome, tokens: &CommitTokens) -> Result<Acknowledgement, Status> {
    let (number, operations_passed, errors, made_keys, ack, memory) = match outcome {
        MessageOutcome::Batch { number, operations_passed, errors, made_keys, ack, memory } => {
            (number, operations_passed, errors, made_keys, ack, memory)
        }
        MessageOutcome::End(status) => return Err(status),
    };
    let receipt = ack.wait().await.map_err(to_status)?;
    let token = Some(tokens.token(receipt.token));
    let response =
        v1::IngestResponse { durable_batch_id: number, token, errors, operations_passed, made_keys };
    Ok(Acknowledgement { response, memory: vec![memory] })
}

/// An operation that was refused, as its caller may see it.
pub(super) fn refusal_to_wire(refused: &RefusedOperation, caller: &Caller) -> v1::OperationError {
    let RefusedOperation { batch, index, error } = refused;
    let message = match caller.is_admin() {
        true => status::clip(error.message(), MESSAGE_BYTES),
        false => status::clip(caller.redact(to_status(error.clone())).message(), MESSAGE_BYTES),
    };
    v1::OperationError {
        batch_id: *batch,
        index: *index,
        code: status::code(error.kind()).into(),
        reason: error.reason().as_str().to_owned(),
        message,
    }
}
