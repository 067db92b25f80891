//! Loads: many commits over one stream, with several batches on their way at a time. A load of a named producer resumes by itself if a
//! connection breaks, and no batch is applied twice.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt;

use super::handle::Client;
use super::pauses::Pauses;
use super::pool::Backend;
use super::reasons::{OUTCOME_UNKNOWN, invalid, with_reason};
use super::time_limit::TimeLimit;
use crate::v1;

/// The batches on their way.
const WINDOW: usize = 8;
/// The most operations of a batch.
const BATCH_MAX: usize = 10_000;

/// The options of a [`Client::bulk_load`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkLoadOptions {
    /// The name of the source. With it a load resumes if a connection breaks, and a load that is repeated with the same operations and the
    /// same `batch` passes over what is on disk. Empty: a broken connection is `OUTCOME_UNKNOWN`.
    pub producer: String,
    /// The operations in a batch, at most 10,000. Default: 500.
    pub batch: usize,
    /// Whether each batch is one atomic commit. Otherwise each operation is a commit.
    pub atomic: bool,
}

impl Default for BulkLoadOptions {
    fn default() -> BulkLoadOptions {
        BulkLoadOptions { producer: String::new(), batch: 500, atomic: false }
    }
}

/// What a load did: all operations are on disk, except those that were refused.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct BulkLoaded {
    /// How many operations there were.
    pub operations: u64,
    /// The newest commit.
    pub token: Option<v1::WriteToken>,
    /// The operations that were refused, with their positions in the whole load.
    pub refused: BTreeMap<u64, v1::OperationError>,
    /// The keys that the writer made, as far as their acknowledgements arrived.
    pub made_keys: Vec<v1::MadeKey>,
}

/// A load that is under way.
struct BulkLoad<I> {
    operations: I,
    options: BulkLoadOptions,
    /// Sent, or to be sent again, and not acknowledged.
    waiting: VecDeque<(u64, Vec<v1::Operation>)>,
    next: u64,
    loaded: BulkLoaded,
    /// How long each answer is waited for.
    limit: TimeLimit,
}

impl Client {
    /// Loads many operations. A refused one is reported in the result, and the others are applied.
    ///
    /// # Errors
    /// `OUTCOME_UNKNOWN` if a connection breaks and the load has no producer, and those of [`Client::apply`].
    pub async fn bulk_load(
        &self,
        operations: impl IntoIterator<Item = v1::Operation>,
        options: BulkLoadOptions,
    ) -> Result<BulkLoaded, Status> {
        if options.batch == 0 || options.batch > BATCH_MAX {
            return Err(invalid(format!("a batch has 1 to {BATCH_MAX} operations; got {}", options.batch)));
        }
        let (operations, waiting) = (operations.into_iter(), VecDeque::new());
        let (loaded, limit) = (BulkLoaded::default(), self.limit());
        let mut load = BulkLoad { operations, options, waiting, next: 1, loaded, limit };
        let mut pauses = Pauses::new(self.options.retry_timeout);
        loop {
            let Some((index, backend)) = self.writers.in_turn().next() else {
                return Err(Status::unavailable("the client has no writer address"));
            };
            let before = load.acknowledged();
            let Err(status) = load.send_all(backend, self.limit()).await else { break };
            let status = backend.map_status(status, true);
            if !matches!(status.code(), Code::Unavailable | Code::Unknown | Code::ResourceExhausted) {
                return Err(status);
            }
            if load.options.producer.is_empty() && !load.waiting.is_empty() {
                let message = "the load was cut off, and cannot be resumed without a producer";
                return Err(with_reason(
                    Code::Unknown,
                    OUTCOME_UNKNOWN,
                    format!("{message}: {}", status.message()),
                ));
            }
            if load.acknowledged() > before {
                pauses = Pauses::new(self.options.retry_timeout);
            }
            let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
            let Some(pause) = pauses.at_least(asked.unwrap_or_default()) else { return Err(status) };
            self.writers.pass_over(index);
            tokio::time::sleep(pause).await;
        }
        load.loaded.token.iter().for_each(|token| self.wrote(*token));
        Ok(load.loaded)
    }
}

impl<I: Iterator<Item = v1::Operation>> BulkLoad<I> {
    /// Sends what is not acknowledged, and waits until it is on disk.
    async fn send_all(&mut self, backend: &Backend, limit: TimeLimit) -> Result<(), Status> {
        self.limit = limit;
        // Room for all that can be on its way, so that sending never waits for a writer that waits for this client.
        let (sender, receiver) = mpsc::channel(WINDOW + 2);
        let open = async { backend.writer().await?.ingest(ReceiverStream::new(receiver)).await };
        let mut answers = limit.first(open).await?.into_inner();
        if !self.options.producer.is_empty() {
            let producer_id = self.options.producer.clone();
            let begin = v1::IngestRequest { producer_id, ..Default::default() };
            if sender.send(begin).await.is_ok() {
                self.acknowledge(&mut answers).await?;
            }
        }
        if self.send_batches(&sender, &mut answers).await?.is_err() {
            // The writer takes no more, and its answers say why: the stream ends with an error.
            loop {
                self.acknowledge(&mut answers).await?;
            }
        }
        while !self.waiting.is_empty() {
            self.acknowledge(&mut answers).await?;
        }
        Ok(())
    }

    /// Sends all batches. The inner error says that the writer takes no more.
    async fn send_batches(
        &mut self,
        sender: &mpsc::Sender<v1::IngestRequest>,
        answers: &mut Streaming<v1::IngestResponse>,
    ) -> Result<Result<(), SendError<v1::IngestRequest>>, Status> {
        for (number, batch) in &self.waiting {
            if let Err(ended) = sender.send(self.request(*number, batch)).await {
                return Ok(Err(ended));
            }
        }
        while let Some(number) = self.take_batch() {
            let (_, batch) = self.waiting.back().ok_or_else(|| Status::internal("a batch is missing"))?;
            if let Err(ended) = sender.send(self.request(number, batch)).await {
                return Ok(Err(ended));
            }
            while self.waiting.len() >= WINDOW {
                self.acknowledge(answers).await?;
            }
        }
        Ok(Ok(()))
    }

    fn request(&self, batch_id: u64, operations: &[v1::Operation]) -> v1::IngestRequest {
        let (operations, atomic) = (operations.to_vec(), self.options.atomic);
        v1::IngestRequest { batch_id, operations, atomic, ..Default::default() }
    }

    /// Takes the next batch, and returns its number; `None` at the end.
    fn take_batch(&mut self) -> Option<u64> {
        let batch: Vec<v1::Operation> = self.operations.by_ref().take(self.options.batch).collect();
        if batch.is_empty() {
            return None;
        }
        self.loaded.operations += batch.len() as u64;
        self.waiting.push_back((self.next, batch));
        self.next += 1;
        Some(self.next - 1)
    }

    /// How many batches are done.
    fn acknowledged(&self) -> u64 {
        self.next - 1 - self.waiting.len() as u64
    }

    /// Waits for what is on disk. A producer that was used before has batches that are passed over: they are on disk already.
    async fn acknowledge(&mut self, answers: &mut Streaming<v1::IngestResponse>) -> Result<(), Status> {
        let answer = self.limit.further(answers.message()).await?;
        let answer = answer.ok_or_else(|| {
            let message = "the writer ended the stream before it acknowledged every batch";
            with_reason(Code::Unknown, OUTCOME_UNKNOWN, message.to_owned())
        })?;
        while self.next <= answer.durable_batch_id && self.take_batch().is_some() {}
        self.waiting.retain(|(number, _)| *number > answer.durable_batch_id);
        if answer.token.is_some() {
            self.loaded.token = answer.token;
        }
        for error in answer.errors {
            let before = error.batch_id.saturating_sub(1) * self.options.batch as u64;
            self.loaded.refused.insert(before + u64::from(error.index), error);
        }
        self.loaded.made_keys.extend(answer.made_keys);
        Ok(())
    }
}
