//! The stream of batches to the writer: several batches are in flight, and unacknowledged batches are sent again on a
//! new stream if the stream breaks.

use std::collections::VecDeque;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use driftdb::v1;
use driftdb_common::error::{Error, ErrorKind, Reason, Result};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use v1::operation::Action;

use super::meter::Meter;
use super::rows::{InputBatch, InputPiece, InputRow};
use super::skipped::SkippedLines;
use crate::database::DatabaseHandle;
use crate::errors::to_error;
use crate::render;
use crate::shapes::LoadSummary;

/// How long to try to reach the writer again.
const RETRY_TIMEOUT: Duration = Duration::from_secs(120);
/// The pauses between two attempts.
const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_secs(2))
    .without_max_times();

/// The parameters of a load.
#[derive(Debug, Clone)]
pub(crate) struct LoadPlan {
    pub(crate) table: String,
    /// The name of the file in messages.
    pub(crate) file: String,
    pub(crate) upsert: bool,
    pub(crate) producer: String,
    /// The maximum number of batches in flight.
    pub(crate) in_flight: usize,
}

/// A load in progress.
pub(crate) struct Load<'a> {
    plan: LoadPlan,
    database: &'a mut DatabaseHandle,
    pieces: mpsc::Receiver<Result<InputPiece>>,
    skipped: Option<SkippedLines>,
    meter: Meter,
    /// The number of rows that are on disk or were rejected.
    done: u64,
    /// The number of rejected rows among them.
    rejected: u64,
    last_seq: u64,
    /// Batches that were read and not acknowledged.
    pending: VecDeque<InputBatch>,
    /// The id of the last batch read.
    read: u64,
    /// The id of the last batch on disk.
    durable: u64,
    /// The last line of that batch.
    durable_line: u64,
    /// The last batch of an earlier run, until it has been read again.
    resumed: Option<u64>,
    /// The batch that an earlier run may have written in part, and the last seq at the start of this run.
    half_done: (u64, u64),
    /// The file has ended, or an error has occurred.
    ended: bool,
    /// The error that ended the load.
    failed: Option<Error>,
    /// When the stream broke, if no batch was acknowledged since.
    broken: Option<Instant>,
}

/// An open stream.
struct BatchStream {
    requests: mpsc::Sender<v1::IngestRequest>,
    responses: Streaming<v1::IngestResponse>,
}

impl<'a> Load<'a> {
    /// Creates a load. Nothing is sent yet.
    pub(crate) fn new(
        plan: LoadPlan,
        database: &'a mut DatabaseHandle,
        pieces: mpsc::Receiver<Result<InputPiece>>,
        skipped: Option<SkippedLines>,
        meter: Meter,
    ) -> Load<'a> {
        Load {
            plan,
            database,
            pieces,
            skipped,
            meter,
            done: 0,
            rejected: 0,
            last_seq: 0,
            pending: VecDeque::new(),
            read: 0,
            durable: 0,
            durable_line: 0,
            resumed: None,
            half_done: (0, 0),
            ended: false,
            failed: None,
            broken: None,
        }
    }

    /// Loads the whole file. If it fails, the rows before the error are on disk.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let mut stream = self.open().await?;
        self.resumed = Some(self.durable).filter(|durable| *durable > 0);
        while let Err(error) = self.feed(&mut stream).await {
            stream = self.reopen(error).await?;
        }
        match self.failed.take() {
            Some(error) => Err(error),
            None => {
                self.note_complete();
                Ok(())
            }
        }
    }

    /// The result of this run.
    pub(crate) fn loaded(&self) -> LoadSummary {
        let events = self.done.saturating_sub(self.rejected);
        let skipped = self.skipped.as_ref().map(|skipped| skipped.lines);
        LoadSummary { last_seq: self.last_seq, commits: events, events, skipped }
    }

    /// The last line that is on disk or was skipped.
    pub(crate) fn last_line(&self) -> u64 {
        self.durable_line
    }

    /// Opens a stream, learns from the writer which batches are on disk, and sends those that are not.
    async fn open(&mut self) -> Result<BatchStream> {
        let lost = || Error::new(Reason::Unreachable, "the writer ended the stream");
        let (requests, receiver) = mpsc::channel(self.plan.in_flight + 1);
        let first = v1::IngestRequest { producer_id: self.plan.producer.clone(), ..Default::default() };
        requests.send(first).await.map_err(|_| lost())?;
        let mut writer = self.database.writer().await?;
        let answers = writer.ingest(ReceiverStream::new(receiver)).await.map_err(|s| to_error(&s))?;
        let mut answers = answers.into_inner();
        let answer = answers.message().await.map_err(|s| to_error(&s))?.ok_or_else(lost)?;
        if answer.durable_batch_id < self.durable {
            let message = "the writer has lost acknowledged batches: the database was restored or repaired meanwhile; start again with --restart";
            return Err(Error::new(Reason::EpochChanged, message));
        }
        if self.read == 0 {
            self.half_done = (answer.durable_batch_id + 1, answer.token.map_or(0, |token| token.seq));
        }
        self.handle_acknowledgement(answer);
        for batch in &self.pending {
            requests.send(self.request(batch)).await.map_err(|_| lost())?;
        }
        Ok(BatchStream { requests, responses: answers })
    }

    /// Opens a new stream after one broke.
    async fn reopen(&mut self, error: Error) -> Result<BatchStream> {
        let broke = *self.broken.get_or_insert_with(Instant::now);
        let (mut error, mut noted) = (error, false);
        for pause in PAUSES.build() {
            // A writer in this process does not restart.
            let hopeless = self.database.directory().is_some() || !is_transient(&error);
            if hopeless || broke.elapsed() > RETRY_TIMEOUT {
                return Err(error);
            }
            if !noted {
                render::note(&format!("note: {error}; retrying for up to {RETRY_TIMEOUT:?}"));
                noted = true;
            }
            tokio::time::sleep(pause).await;
            // Find the active writer: another one may have taken over.
            let opened = match self.database.writer_status().await {
                Ok(_) => self.open().await,
                Err(error) => Err(error),
            };
            match opened {
                Ok(stream) => {
                    render::note(&format!("note: resumed after line {}", self.durable_line));
                    return Ok(stream);
                }
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Sends batches and receives acknowledgements until everything is on disk. An error means that the stream broke.
    async fn feed(&mut self, stream: &mut BatchStream) -> Result<()> {
        while !(self.ended && self.pending.is_empty()) {
            let room = !self.ended && self.pending.len() < self.plan.in_flight;
            tokio::select! {
                answer = stream.responses.message() => match answer.map_err(|s| to_error(&s))? {
                    Some(answer) => self.handle_acknowledgement(answer),
                    None => return Err(Error::new(Reason::Unreachable, "the writer ended the stream")),
                },
                piece = self.pieces.recv(), if room => {
                    if let Some(batch) = self.accept(piece) {
                        let request = self.request(&batch);
                        self.pending.push_back(batch);
                        // The channel has room. If the stream has ended, its responses say why.
                        let _ = stream.requests.send(request).await;
                    }
                }
            }
        }
        Ok(())
    }

    /// Handles a piece of the file. Returns a batch if it must be sent.
    fn accept(&mut self, piece: Option<Result<InputPiece>>) -> Option<InputBatch> {
        match piece {
            None => self.ended = true,
            Some(Err(error)) => self.fail(error),
            Some(Ok(InputPiece::Header(raw))) => {
                let written = self.skipped.as_mut().map_or(Ok(()), |skipped| skipped.header(&raw));
                written.unwrap_or_else(|error| self.fail(error));
            }
            // A later batch is on disk, so an earlier run has handled this line.
            Some(Ok(InputPiece::Bad(..))) if self.read < self.durable => {}
            Some(Ok(InputPiece::Bad(line, raw, error))) => self.skip_or_fail(line, &raw, error),
            Some(Ok(InputPiece::Batch(batch))) => {
                self.read = batch.id;
                if batch.id > self.durable {
                    self.meter.begin();
                    return Some(batch);
                }
                self.durable_line = batch.last_line();
                self.meter.pass_over(batch.offset);
                if self.resumed.take_if(|last| *last == batch.id).is_some() {
                    let LoadPlan { file, producer, .. } = &self.plan;
                    render::note(&format!(
                        "note: an earlier run loaded {file} up to line {}; resuming after it (producer {producer})",
                        self.durable_line
                    ));
                }
            }
        }
        None
    }

    fn request(&self, batch: &InputBatch) -> v1::IngestRequest {
        let operation = |row: &InputRow| {
            let document = v1::Document { body: Some(v1::document::Body::Msgpack(row.document.clone())) };
            let action = if self.plan.upsert { Action::Put(document) } else { Action::Insert(document) };
            v1::Operation { table: self.plan.table.clone(), key: String::new(), action: Some(action) }
        };
        let operations = batch.rows.iter().map(operation).collect();
        v1::IngestRequest { batch_id: batch.id, operations, ..Default::default() }
    }

    fn handle_acknowledgement(&mut self, answer: v1::IngestResponse) {
        for error in answer.errors {
            self.handle_rejection(error);
        }
        while let Some(batch) = self.pending.pop_front_if(|batch| batch.id <= answer.durable_batch_id) {
            self.durable_line = batch.last_line();
            self.broken = None;
            let seq = answer.token.map_or(0, |token| token.seq);
            let (half_done, began_at) = self.half_done;
            if batch.id == half_done && seq <= began_at {
                // The batch was not half done but complete: nothing was written now.
                continue;
            }
            let rows = batch.rows.len() as u64;
            self.done += rows;
            self.meter.add(rows, batch.offset);
            self.last_seq = seq;
        }
        self.durable = self.durable.max(answer.durable_batch_id);
    }

    /// Handles a rejected operation: finds its line.
    fn handle_rejection(&mut self, rejected: v1::OperationError) {
        if rejected.batch_id <= self.durable {
            // Reported again after a broken stream: it was handled before.
            return;
        }
        if self.read == 0 {
            let v1::OperationError { batch_id, index, message, .. } = rejected;
            render::note(&format!(
                "note: row {} of batch {batch_id} was rejected in an earlier run: {message}",
                index + 1
            ));
            return;
        }
        let reason = Reason::parse(&rejected.reason).unwrap_or(Reason::Internal);
        let error = Error::new(reason, rejected.message);
        let batch = self.pending.iter().find(|batch| batch.id == rejected.batch_id);
        let index = usize::try_from(rejected.index).ok();
        let row = batch.zip(index).and_then(|(batch, index)| batch.rows.get(index)).cloned();
        self.rejected += 1;
        match row {
            Some(row) if is_caused_by_row(&error) => self.skip_or_fail(row.line, &row.raw, error),
            Some(row) => self.fail(error.context(self.place(row.line))),
            None => self.fail(error.context(format_args!("batch {}", rejected.batch_id))),
        }
    }

    fn skip_or_fail(&mut self, line: u64, raw: &[u8], error: Error) {
        let error = error.context(self.place(line));
        match &mut self.skipped {
            Some(skipped) => skipped.add(raw, &error).unwrap_or_else(|error| self.fail(error)),
            None => self.fail(error),
        }
    }

    fn place(&self, line: u64) -> String {
        format!("{}, line {line}", self.plan.file)
    }

    /// Stops reading. Only the first error is reported.
    fn fail(&mut self, error: Error) {
        self.failed.get_or_insert(error);
        self.ended = true;
    }

    /// Reports that an earlier run has loaded the whole file.
    fn note_complete(&self) {
        if self.done == 0 && self.durable > 0 {
            let LoadPlan { file, producer, .. } = &self.plan;
            render::note(&format!(
                "note: an earlier run loaded all of {file} (producer {producer}); to load it again, pass --restart"
            ));
        }
    }
}

/// Whether the row itself is the cause of a rejection, so that other rows may be accepted.
fn is_caused_by_row(error: &Error) -> bool {
    let kind = error.kind();
    let own = matches!(
        kind,
        ErrorKind::Invalid | ErrorKind::AlreadyExists | ErrorKind::NotFound | ErrorKind::Conflict
    );
    own && error.reason() != Reason::TableNotFound
}

/// Whether a broken stream should be opened again.
fn is_transient(error: &Error) -> bool {
    let kind = error.kind();
    matches!(kind, ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Exhausted)
        && error.reason() != Reason::DiskFull
}
