//! The Ingest call: takes batches of one stream in order, many at a time, and acknowledges each once it is on
//! disk.
//!
//! Two tasks serve a stream. One decodes and admits batches, the other waits for them to become durable. So a
//! client can send many batches before the first is acknowledged, and a sync is shared by all batches
//! admitted before it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::IngestOrigin;
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::service::status::{self, to_status};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::admission::CommitContext;
use crate::admission::producers::RefusedOperation;
use crate::commit::{AdmittedBatch, IngestBatch, IngestPipeline, IngestSession};
use crate::rpc::commit_tokens::CommitTokens;
use crate::rpc::revert::RevertResolver;

/// Batches of one stream that may be admitted and not acknowledged. At the limit the stream takes no more
/// messages, and gRPC's flow control makes the client wait.
const UNACKNOWLEDGED_BATCHES: usize = 4096;
/// Acknowledgements that wait for a slow client.
const ACKS_AHEAD: usize = 16;
/// How long a stream waits before it checks again whether the full queue of writes has room.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);
/// One acknowledgement takes in no further batch once it reports this many refused operations.
const REFUSALS_PER_ACK: usize = 1000;

/// Serves Ingest calls.
#[derive(Debug, Clone)]
pub(crate) struct IngestService {
    pipeline: IngestPipeline,
    reverts: RevertResolver,
    tokens: CommitTokens,
    /// What ends the newest stream of each producer. A newer stream ends the older one.
    newest: Arc<Mutex<HashMap<String, CancellationToken>>>,
    shutdown: CancellationToken,
}

/// What came of a message, in the order of the messages.
enum MessageOutcome {
    /// A batch was processed.
    Batch(AdmittedBatch),
    /// The stream ends with this status.
    End(Status),
}

/// The task that admits a stream's batches.
struct BatchReceiver {
    service: IngestService,
    producer: Option<String>,
    session: IngestSession,
    last_batch: Option<u64>,
    outcomes: mpsc::Sender<MessageOutcome>,
}

impl IngestService {
    /// Admits batches through `pipeline`. `tokens` names the commits. `shutdown` ends all streams.
    pub(crate) fn new(
        pipeline: IngestPipeline,
        reverts: RevertResolver,
        tokens: CommitTokens,
        shutdown: CancellationToken,
    ) -> IngestService {
        IngestService { pipeline, reverts, tokens, newest: Arc::default(), shutdown }
    }

    /// Starts both tasks of a stream and returns its acknowledgements.
    pub(crate) fn serve(
        &self,
        inbound: Streaming<v1::IngestRequest>,
    ) -> ReceiverStream<Result<v1::IngestResponse, Status>> {
        let (outcomes, admitted) = mpsc::channel(UNACKNOWLEDGED_BATCHES);
        let (acks, responses) = mpsc::channel(ACKS_AHEAD);
        let session = self.pipeline.open_session(self.shutdown.child_token());
        let receiver =
            BatchReceiver { service: self.clone(), producer: None, session, last_batch: None, outcomes };
        tokio::spawn(receiver.run(inbound));
        tokio::spawn(acknowledge_batches(admitted, acks, self.tokens.clone()));
        ReceiverStream::new(responses)
    }

    /// Ends the producer's older stream. Returns what ends the new one.
    fn replace_stream(&self, producer: &str) -> CancellationToken {
        let token = self.shutdown.child_token();
        if let Some(older) = self.newest.lock().insert(producer.to_owned(), token.clone()) {
            older.cancel();
        }
        token
    }
}

impl BatchReceiver {
    async fn run(mut self, mut inbound: Streaming<v1::IngestRequest>) {
        let mut first = true;
        loop {
            let message = tokio::select! {
                biased;
                () = self.session.ended.cancelled() => Err(self.end_status()),
                message = inbound.message() => message,
            };
            let processed = match message {
                Ok(Some(request)) => self.process(request, first).await.map_err(to_status),
                Ok(None) => return,
                Err(status) => Err(status),
            };
            first = false;
            let (outcome, ends) = match processed {
                Ok(Some(batch)) => (MessageOutcome::Batch(batch), false),
                // The stream has ended meanwhile. The next turn reports why.
                Ok(None) => continue,
                Err(status) => (MessageOutcome::End(status), true),
            };
            if self.outcomes.send(outcome).await.is_err() || ends {
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

    /// Admits the batch of a message, or looks up the producer's position if the message has no operations.
    async fn process(&mut self, request: v1::IngestRequest, first: bool) -> Result<Option<AdmittedBatch>> {
        if !request.producer_id.is_empty() {
            self.set_producer(&request.producer_id, first)?;
        }
        if request.operations.is_empty() {
            return self.position(request.batch_id).map(Some);
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
        let options = convert::options_from_wire(request.options)?;
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
        let mut operations = Vec::with_capacity(count);
        for operation in request.operations {
            operations.push(match convert::operation_from_wire(operation) {
                Ok(operation) => self.service.reverts.resolve(operation).await,
                Err(error) => Err(error),
            });
        }
        let context = CommitContext { options, request: None, origin };
        let batch = IngestBatch { context, number, operations, atomic: request.atomic };
        // Unlike a single commit, a stream does not fail if the queue is full: it waits.
        while !self.service.pipeline.has_room() {
            tokio::time::sleep(QUEUE_FULL_PAUSE).await;
        }
        self.service.pipeline.admit_batch(batch, &self.session)
    }

    fn set_producer(&mut self, producer: &str, first: bool) -> Result<()> {
        if !first && self.producer.as_deref() != Some(producer) {
            let message =
                "producer_id must be set in a stream's first message and must not change in later ones";
            return Err(Error::new(Reason::ArgumentInvalid, message));
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
            let ended = self.service.replace_stream(producer);
            self.session = self.service.pipeline.open_session(ended);
            self.producer = Some(producer.to_owned());
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

/// Acknowledges batches in order. Batches that are durable at the same time share one response.
async fn acknowledge_batches(
    mut admitted: mpsc::Receiver<MessageOutcome>,
    acks: mpsc::Sender<Result<v1::IngestResponse, Status>>,
    tokens: CommitTokens,
) {
    let mut next = admitted.recv().await;
    while let Some(outcome) = next {
        let durable = match outcome {
            MessageOutcome::Batch(batch) => durable_batch(batch, &tokens).await,
            MessageOutcome::End(status) => Err(status),
        };
        let mut response = match durable {
            Ok(response) => response,
            Err(status) => {
                let _ = acks.send(Err(status)).await;
                return;
            }
        };
        next = take_ready_batches(&mut admitted, &mut response, &tokens).await;
        if acks.send(Ok(response)).await.is_err() {
            return;
        }
        if next.is_none() {
            next = admitted.recv().await;
        }
    }
}

/// Adds the following batches to a response as long as they are durable already. Returns the first outcome
/// that is not part of the response, if one has arrived.
async fn take_ready_batches(
    admitted: &mut mpsc::Receiver<MessageOutcome>,
    response: &mut v1::IngestResponse,
    tokens: &CommitTokens,
) -> Option<MessageOutcome> {
    loop {
        match admitted.try_recv() {
            Ok(MessageOutcome::Batch(batch))
                if batch.ack.is_ready() && response.errors.len() < REFUSALS_PER_ACK =>
            {
                match durable_batch(batch, tokens).await {
                    Ok(durable) => {
                        response.durable_batch_id = durable.durable_batch_id;
                        response.token = durable.token;
                        response.errors.extend(durable.errors);
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
async fn durable_batch(batch: AdmittedBatch, tokens: &CommitTokens) -> Result<v1::IngestResponse, Status> {
    let AdmittedBatch { number, refused, ack } = batch;
    let receipt = ack.wait().await.map_err(to_status)?;
    Ok(v1::IngestResponse {
        durable_batch_id: number,
        token: Some(tokens.token(receipt.token)),
        errors: refused.iter().map(refusal_to_wire).collect(),
    })
}

fn refusal_to_wire(refused: &RefusedOperation) -> v1::OperationError {
    let RefusedOperation { batch, index, error } = refused;
    v1::OperationError {
        batch_id: *batch,
        index: *index,
        code: status::code(error.kind()).into(),
        reason: error.reason().as_str().to_owned(),
        message: error.message().to_owned(),
    }
}
