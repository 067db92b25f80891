//! The stream of batches to the writer: several batches are in flight, and unacknowledged batches are sent again on a
//! new stream if the stream breaks.
//!
//! The writer remembers how far a load is, and a repeated command resumes there. So that point must never pass a row that is
//! neither loaded nor set aside: the writer stops at a refused row and ends the stream. Then either the load fails, and the next
//! run begins with that row; or the row is written to the file of `--skip-bad`, and only then the batch is sent again without
//! it. An interruption at any moment leaves the row to the next run.

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
use super::notes::{Notes, show_note, show_types};
use super::rows::{InputBatch, InputPiece, InputRow, Pieces};
use super::skipped::SkippedLines;
use super::tally::Tally;
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
    pieces: Pieces,
    skipped: Option<SkippedLines>,
    meter: Meter,
    tally: Tally,
    /// Notes about refused rows after the first.
    refusals: Notes,
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
    /// The batch that an earlier run has loaded in part, and the number of rows in that part.
    half_done: (u64, u64),
    /// The writer has stopped at a refused row: the stream ends.
    held: bool,
    /// The file has ended, or an error has occurred.
    ended: bool,
    /// The number of records in the file, once it has ended.
    records: Option<u64>,
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
        pieces: Pieces,
        skipped: Option<SkippedLines>,
        meter: Meter,
    ) -> Load<'a> {
        Load {
            plan,
            database,
            pieces,
            skipped,
            meter,
            tally: Tally::default(),
            refusals: Notes::default(),
            last_seq: 0,
            pending: VecDeque::new(),
            read: 0,
            durable: 0,
            durable_line: 0,
            resumed: None,
            half_done: (0, 0),
            held: false,
            ended: false,
            records: None,
            failed: None,
            broken: None,
        }
    }

    /// Loads the whole file. If it fails, the rows before the error are on disk.
    pub(crate) async fn run(&mut self) -> Result<()> {
        let outcome = self.stream_all().await;
        self.refusals.finish("rows were refused", &self.plan.file);
        self.skipped.iter_mut().for_each(SkippedLines::finish);
        outcome?;
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let unread = || Error::new(Reason::Internal, "the file was not read to its end");
        self.tally.check_complete(self.records.ok_or_else(unread)?)?;
        self.note_complete();
        Ok(())
    }

    /// Sends everything, on as many streams as it takes. Returns at the end of the file, or when the load has failed.
    async fn stream_all(&mut self) -> Result<()> {
        let mut stream = self.open().await?;
        self.resumed = Some(self.durable).filter(|durable| *durable > 0);
        loop {
            match self.feed(&mut stream).await {
                Ok(()) if self.held && self.failed.is_none() => {
                    // The refused rows are set aside by now.
                    stream = match self.open().await {
                        Ok(stream) => stream,
                        Err(error) => self.reopen(error).await?,
                    }
                }
                Ok(()) => return Ok(()),
                Err(error) => stream = self.reopen(error).await?,
            }
        }
    }

    /// The result of this run.
    pub(crate) fn loaded(&self) -> LoadSummary {
        let events = self.tally.loaded;
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
            self.half_done = (answer.durable_batch_id + 1, answer.operations_passed.into());
        }
        self.held = false;
        self.handle_acknowledgement(answer);
        for batch in &self.pending {
            // The channel has room. If the writer has stopped at a refused row meanwhile, its answer says so.
            if requests.send(self.request(batch)).await.is_err() {
                break;
            }
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

    /// Sends batches and receives acknowledgements until everything is on disk, or the writer stops at a refused row. An error
    /// means that the stream broke.
    async fn feed(&mut self, stream: &mut BatchStream) -> Result<()> {
        while !(self.held || self.ended && self.pending.is_empty()) {
            let room = !self.ended && self.pending.len() < self.plan.in_flight;
            tokio::select! {
                answer = stream.responses.message() => match answer.map_err(|s| to_error(&s))? {
                    Some(answer) => self.handle_acknowledgement(answer),
                    None => return Err(Error::new(Reason::Unreachable, "the writer ended the stream")),
                },
                piece = self.pieces.next(), if room => {
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
            Some(Ok(InputPiece::Header(raw, columns))) => {
                show_types(&columns);
                let written = self.skipped.as_mut().map_or(Ok(()), |skipped| skipped.header(&raw));
                written.unwrap_or_else(|error| self.fail(error));
            }
            Some(Ok(InputPiece::End(records, note))) => {
                show_note(note);
                self.records = Some(records);
            }
            Some(Ok(InputPiece::Bad(line, raw, error))) => {
                self.tally.read += 1;
                // If a later batch is on disk, an earlier run has set this line aside.
                match self.read < self.durable {
                    true => self.tally.earlier += 1,
                    false => self.skip_or_fail(line, &raw, error),
                }
            }
            Some(Ok(InputPiece::Batch(batch))) => {
                let rows = batch.rows.len() as u64;
                self.read = batch.id;
                self.tally.read += rows;
                if batch.id > self.durable {
                    self.meter.begin();
                    return Some(batch);
                }
                self.tally.earlier += rows;
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
        let set_aside = batch.set_aside.clone();
        v1::IngestRequest {
            batch_id: batch.id,
            operations,
            stop_at_refusal: true,
            set_aside,
            ..Default::default()
        }
    }

    fn handle_acknowledgement(&mut self, answer: v1::IngestResponse) {
        let is_first = self.read == 0;
        let stopped_at = answer.errors.first().map(|first| (first.batch_id, first.index));
        for error in answer.errors {
            if is_first {
                let v1::OperationError { batch_id, index, message, .. } = error;
                let row = index + 1;
                self.refusals.show(&format!(
                    "note: row {row} of batch {batch_id} was rejected in an earlier run: {message}"
                ));
            } else if error.batch_id > self.durable {
                // A writer that does not know `stop_at_refusal` has gone on after it.
                self.held = error.batch_id > answer.durable_batch_id;
                self.handle_refusal(error);
            }
        }
        if is_first {
            self.refusals.finish("rows were rejected in an earlier run", &self.plan.file);
        }
        while let Some(batch) = self.pending.pop_front_if(|batch| batch.id <= answer.durable_batch_id) {
            self.durable_line = batch.last_line();
            self.broken = None;
            let rows = (batch.rows.len() - batch.set_aside.len()) as u64;
            let earlier = if batch.id == self.half_done.0 { self.half_done.1.min(rows) } else { 0 };
            self.tally.earlier += earlier;
            self.tally.loaded += rows - earlier;
            self.meter.add(rows, batch.offset);
            if rows > earlier {
                self.last_seq = answer.token.map_or(0, |token| token.seq);
            }
        }
        self.durable = self.durable.max(answer.durable_batch_id);
        if let Some((batch, first)) = stopped_at.filter(|_| self.held && self.failed.is_some()) {
            self.count_partial_batch(batch, first);
        }
    }

    /// Handles a row that the writer refused: it is set aside, or the load fails.
    fn handle_refusal(&mut self, refused: v1::OperationError) {
        let reason = Reason::parse(&refused.reason).unwrap_or(Reason::Internal);
        let error = Error::new(reason, refused.message);
        let batch = self.pending.iter_mut().find(|batch| batch.id == refused.batch_id);
        let index = usize::try_from(refused.index).ok();
        let found = batch.zip(index).and_then(|(batch, index)| Some((batch.rows.get(index)?.clone(), batch)));
        let Some((row, batch)) = found else {
            return self.fail(error.context(format_args!("batch {}", refused.batch_id)));
        };
        if !is_caused_by_row(&error) {
            return self.fail(error.context(self.place(row.line)));
        }
        if self.skipped.is_some() {
            let at = batch.set_aside.partition_point(|index| *index < refused.index);
            batch.set_aside.insert(at, refused.index);
        }
        self.skip_or_fail(row.line, &row.raw, error);
    }

    /// After a failure in the middle of a batch: counts the rows before the first refused one, which are on disk.
    fn count_partial_batch(&mut self, id: u64, first_refused: u32) {
        let Some(batch) = self.pending.iter().find(|batch| batch.id == id) else { return };
        let aside = batch.set_aside.iter().filter(|index| **index < first_refused).count() as u64;
        let earlier = if id == self.half_done.0 { self.half_done.1 } else { 0 };
        self.tally.loaded += u64::from(first_refused).saturating_sub(aside).saturating_sub(earlier);
        let before = usize::try_from(first_refused).ok().and_then(|index| index.checked_sub(1));
        if let Some(row) = before.and_then(|index| batch.rows.get(index)) {
            self.durable_line = row.line;
        }
    }

    fn skip_or_fail(&mut self, line: u64, raw: &[u8], error: Error) {
        let error = error.context(self.place(line));
        match &mut self.skipped {
            Some(skipped) => match skipped.add(raw, &error) {
                Ok(()) => self.tally.set_aside += 1,
                Err(error) => self.fail(error),
            },
            None => {
                self.tally.refused += 1;
                if self.failed.is_some() {
                    self.refusals.show(&format!("refused: {error}"));
                }
                self.fail(error);
            }
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
        if self.tally.earlier > 0 && self.tally.earlier == self.tally.read {
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
