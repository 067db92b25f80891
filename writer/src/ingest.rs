//! `Ingest`: batches in order over one stream, many under way, each acknowledged when it is on disk.

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

use crate::admit::With;
use crate::commit::{Batch, Ingested, StreamState};
use crate::requests::Refusal;
use crate::rpc::WriterRpc;

/// Batches of one stream that may be admitted and not yet acknowledged. Beyond it the client has to wait.
const BATCHES_UNDER_WAY: usize = 4096;
/// How long to wait before another try while the queue of writes is full.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(2);

/// The newest stream of each producer: an older one ends when it comes.
#[derive(Debug, Clone, Default)]
pub struct Streams(Arc<Mutex<HashMap<String, CancellationToken>>>);

impl Streams {
    /// Ends the producer's older stream; what the new one is ended by.
    fn take_over(&self, producer: &str, shutdown: &CancellationToken) -> CancellationToken {
        let token = shutdown.child_token();
        if let Some(older) = self.0.lock().insert(producer.to_owned(), token.clone()) {
            older.cancel();
        }
        token
    }
}

/// What came of a message, in the order of the messages.
enum Outcome {
    /// A batch, admitted as far as it could be.
    Batch(Ingested),
    /// The end of the stream, for a reason.
    End(Status),
}

/// One stream.
struct Stream {
    rpc: WriterRpc,
    producer: Option<String>,
    state: StreamState,
    last_batch: Option<u64>,
    outcomes: mpsc::Sender<Outcome>,
}

/// Serves a stream: one task takes batches in, another acknowledges them.
pub fn serve(
    rpc: WriterRpc,
    inbound: Streaming<v1::IngestRequest>,
) -> ReceiverStream<Result<v1::IngestResponse, Status>> {
    let (outcomes, admitted) = mpsc::channel(BATCHES_UNDER_WAY);
    let (acks, answers) = mpsc::channel(16);
    let epoch = rpc.epoch();
    let state = rpc.commits().new_stream(rpc.shutdown().child_token());
    let stream = Stream { rpc, producer: None, state, last_batch: None, outcomes };
    tokio::spawn(stream.run(inbound));
    tokio::spawn(acknowledge(admitted, acks, epoch));
    ReceiverStream::new(answers)
}

impl Stream {
    async fn run(mut self, mut inbound: Streaming<v1::IngestRequest>) {
        let mut first = true;
        loop {
            let message = tokio::select! {
                biased;
                () = self.state.ended.cancelled() => Err(self.why_ended()),
                message = inbound.message() => message,
            };
            let taken = match message {
                Ok(Some(request)) => self.take(request, first).await.map_err(to_status),
                Ok(None) => return,
                Err(status) => Err(status),
            };
            first = false;
            let (outcome, end) = match taken {
                Ok(Some(ingested)) => (Outcome::Batch(ingested), false),
                Ok(None) => continue,
                Err(status) => (Outcome::End(status), true),
            };
            // Waits while too many batches are under way: the client's window fills, and it waits as well.
            if self.outcomes.send(outcome).await.is_err() || end {
                return;
            }
        }
    }

    fn why_ended(&self) -> Status {
        if self.rpc.shutdown().is_cancelled() {
            return to_status(Error::new(Reason::ShuttingDown, "the writer is shutting down: connect again"));
        }
        Status::new(Code::Aborted, "a newer stream of the same producer has taken over")
    }

    /// Admits what a message holds.
    async fn take(&mut self, request: v1::IngestRequest, first: bool) -> Result<Option<Ingested>> {
        if !request.producer_id.is_empty() {
            self.name(&request.producer_id, first)?;
        }
        if request.operations.is_empty() {
            return self.position(request.batch_id).map(Some);
        }
        if request.operations.len() > limits::OPERATIONS_PER_COMMIT {
            let (found, limit) = (request.operations.len(), limits::OPERATIONS_PER_COMMIT);
            let message = format!("{found} operations are over the limit of {limit} a batch");
            return Err(Error::new(Reason::TooLarge, message));
        }
        self.check_order(request.batch_id)?;
        let options = convert::options_from_wire(request.options)?;
        if !options.request_id.is_empty() {
            let message = "Ingest takes no request_id: name the producer, and its batches are told apart";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let batch = request.batch_id;
        let origin =
            self.producer.clone().map(|producer| IngestOrigin { producer, batch, operation: 0, ends: false });
        let with = With { options, request: None, origin };
        let operations: Vec<_> = request.operations.into_iter().map(convert::operation_from_wire).collect();
        let mut resolved = Vec::with_capacity(operations.len());
        for operation in operations {
            resolved.push(match operation {
                Ok(operation) => self.rpc.resolve(operation).await,
                Err(error) => Err(error),
            });
        }
        let batch = Batch { with, batch, operations: resolved, atomic: request.atomic };
        // A stream does not fail because the disk is slow: it waits.
        while !self.rpc.commits().has_room() {
            tokio::time::sleep(QUEUE_FULL_WAIT).await;
        }
        self.rpc.commits().ingest(batch, &self.state)
    }

    fn name(&mut self, producer: &str, first: bool) -> Result<()> {
        if !first && self.producer.as_deref() != Some(producer) {
            let message = "producer_id belongs into the first message of a stream, and does not change in it";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if producer.len() > limits::REQUEST_ID_BYTES {
            let message = format!(
                "a producer id of {} bytes is over the limit of {}",
                producer.len(),
                limits::REQUEST_ID_BYTES
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        if first {
            let ended = self.rpc.streams().take_over(producer, self.rpc.shutdown());
            self.state = self.rpc.commits().new_stream(ended);
            self.producer = Some(producer.to_owned());
        }
        Ok(())
    }

    /// Batches of a named producer come in order: one left out would be lost unnoticed.
    fn check_order(&mut self, batch: u64) -> Result<()> {
        let last = self.last_batch.replace(batch);
        if self.producer.is_none() {
            return Ok(());
        }
        let expected = last.map_or(batch.max(1), |last| last.saturating_add(1));
        if batch != expected {
            let message = format!("batch {batch} of this producer came where batch {expected} was expected");
            return Err(
                Error::new(Reason::ArgumentInvalid, message).with("expected_batch_id", expected.to_string())
            );
        }
        Ok(())
    }

    /// Where a producer goes on: after the last batch that is known to be on disk whole.
    fn position(&self, batch: u64) -> Result<Ingested> {
        let Some(producer) = &self.producer else {
            let message = "a batch without operations asks where a producer goes on: name it in producer_id";
            return Err(Error::new(Reason::ArgumentInvalid, message).with("batch_id", batch.to_string()));
        };
        self.rpc.commits().position(producer)
    }
}

/// Acknowledges batches in order, those that are durable together in one answer.
async fn acknowledge(
    mut admitted: mpsc::Receiver<Outcome>,
    acks: mpsc::Sender<Result<v1::IngestResponse, Status>>,
    epoch: u64,
) {
    let mut next = admitted.recv().await;
    while let Some(outcome) = next {
        let Ingested { batch, refused, answer } = match outcome {
            Outcome::Batch(ingested) => ingested,
            Outcome::End(status) => {
                let _ = acks.send(Err(status)).await;
                return;
            }
        };
        let settled = answer.wait().await;
        let mut answer = match settled {
            Ok(admitted) => v1::IngestResponse {
                durable_batch_id: batch,
                token: Some(convert::token_to_wire(admitted.token, epoch)),
                errors: refused.iter().map(refusal).collect(),
            },
            Err(error) => {
                let _ = acks.send(Err(to_status(error))).await;
                return;
            }
        };
        next = loop {
            match admitted.try_recv() {
                Ok(Outcome::Batch(more))
                    if more.answer.is_settled() && answer.errors.len() < ERRORS_AT_ONCE =>
                {
                    let settled = match more.answer.wait().await {
                        Ok(settled) => settled,
                        Err(error) => break Some(Outcome::End(to_status(error))),
                    };
                    answer.durable_batch_id = more.batch;
                    answer.token = Some(convert::token_to_wire(settled.token, epoch));
                    answer.errors.extend(more.refused.iter().map(refusal));
                }
                Ok(other) => break Some(other),
                Err(_) => break None,
            }
        };
        if acks.send(Ok(answer)).await.is_err() {
            return;
        }
        if next.is_none() {
            next = admitted.recv().await;
        }
    }
}

/// Refused operations told of in one answer, about.
const ERRORS_AT_ONCE: usize = 1000;

fn refusal(Refusal { batch, index, error }: &Refusal) -> v1::OperationError {
    v1::OperationError {
        batch_id: *batch,
        index: *index,
        code: status::code(error.kind()).into(),
        reason: error.reason().as_str().to_owned(),
        message: error.message().to_owned(),
    }
}
