//! The commits of a dump on their way to the writer.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::rfc3339::UtcTime;
use driftdb_common::table::schema::SchemaEvent;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use uuid::Uuid;

use crate::changes::{ImportedCommit, ImportedContent, KnownSchemas};
use crate::commands::dump::{DumpContent, DumpHeader};
use crate::database::DatabaseHandle;
use crate::errors::to_error;
use crate::render;
use crate::shapes::{self, LoadSummary};

/// The maximum number of commits in flight.
const IN_FLIGHT: usize = 64;
/// The maximum number of bytes in flight, unless one commit alone has more.
const IN_FLIGHT_BYTES: usize = 32 << 20;

/// A dump that is being written again.
pub(super) struct Replay<'a> {
    header: DumpHeader,
    database: &'a mut DatabaseHandle,
    requests: mpsc::Sender<v1::IngestRequest>,
    responses: Streaming<v1::IngestResponse>,
    /// The schemas after the commits so far.
    schemas: KnownSchemas,
    /// The schemas that the database had when this run began: an earlier run may have made them.
    found: KnownSchemas,
    /// The number of the last batch that an earlier run has loaded.
    earlier: u64,
    /// The number of the last batch so far.
    batch: u64,
    /// The batches that are not acknowledged: their numbers, places and sizes.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// The time of the last commit, before which no commit may be.
    latest: Option<UtcTime>,
    /// How many commits got a later time than they had.
    moved: u64,
    last_seq: u64,
    loaded: LoadSummary,
}

struct InFlight {
    batch: u64,
    place: String,
    bytes: usize,
    events: u64,
}

impl<'a> Replay<'a> {
    /// Opens the stream. Fails if the database has a table of the dump, unless an earlier run has begun to load it.
    pub(super) async fn begin(
        header: DumpHeader,
        restart: bool,
        database: &'a mut DatabaseHandle,
    ) -> Result<Replay<'a>> {
        let id = if restart { Uuid::new_v4().to_string() } else { header.id.clone() };
        let (requests, receiver) = mpsc::channel(IN_FLIGHT + 1);
        let first = v1::IngestRequest { producer_id: format!("driftctl:load:{id}"), ..Default::default() };
        requests.send(first).await.map_err(|_| ended())?;
        let mut writer = database.writer().await?;
        let responses = writer.ingest(ReceiverStream::new(receiver)).await.map_err(|s| to_error(&s))?;
        let mut responses = responses.into_inner();
        let answer = responses.message().await.map_err(|s| to_error(&s))?.ok_or_else(ended)?;
        let status = database.writer_status().await?;
        let found = KnownSchemas::of(status.tables);
        let earlier = answer.durable_batch_id;
        if earlier == 0 {
            refuse_known_tables(&header, &found)?;
        } else {
            render::note(&format!(
                "note: an earlier run loaded the first {earlier} commits of rows; resuming after them"
            ));
        }
        Ok(Replay {
            header,
            database,
            requests,
            responses,
            schemas: KnownSchemas::default(),
            found,
            earlier,
            batch: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            latest: status.last_time.and_then(|time| UtcTime::from_parts(time.seconds, time.nanos)),
            moved: 0,
            last_seq: status.last_seq,
            loaded: LoadSummary { last_seq: status.last_seq, ..LoadSummary::default() },
        })
    }

    /// What this run has loaded.
    pub(super) fn loaded(&self) -> LoadSummary {
        LoadSummary {
            last_seq: self.last_seq,
            commits: self.loaded.commits,
            events: self.loaded.events,
            skipped: None,
        }
    }

    /// Writes a commit again.
    pub(super) async fn add(&mut self, commit: ImportedCommit, place: &str) -> Result<()> {
        self.fill_gap(&commit).await.map_err(|e| e.context(place))?;
        match commit.content {
            ImportedContent::Schema(ref event) => {
                self.change_schema(event, &commit).await.map_err(|e| e.context(place))
            }
            ImportedContent::Rows(ref operations) if operations.is_empty() => {
                self.mark(&commit).await.map_err(|e| e.context(place))
            }
            ImportedContent::Rows(_) => self.send(commit, place).await,
        }
    }

    /// Whether the commits get the seqs that they had.
    fn keeps_seqs(&self) -> bool {
        self.header.content == DumpContent::History && self.header.all_tables && self.header.from_seq == 0
    }

    /// A commit that changed nothing is in no history. It is made again, so that the commits after it keep their seqs.
    async fn fill_gap(&mut self, commit: &ImportedCommit) -> Result<()> {
        if !self.keeps_seqs() || commit.seq == 0 || self.batch < self.earlier {
            return Ok(());
        }
        let next = self.last_seq + self.in_flight.len() as u64 + 1;
        for seq in next..commit.seq {
            let (time, content) = (self.latest, ImportedContent::Rows(Vec::new()));
            let (reason, actor) = (String::new(), String::new());
            self.mark(&ImportedCommit { seq, time, reason, actor, content, more: false }).await?;
        }
        Ok(())
    }

    /// Makes a commit without changes, unless an earlier run has made it.
    async fn mark(&mut self, commit: &ImportedCommit) -> Result<()> {
        self.drain().await?;
        if self.batch < self.earlier || (self.keeps_seqs() && commit.seq != 0 && commit.seq <= self.last_seq)
        {
            return Ok(());
        }
        let options = self.options(commit);
        let request = v1::ApplyRequest { options: Some(options), ..Default::default() };
        self.last_seq = self.database.apply(request).await?.seq;
        self.loaded.commits += 1;
        Ok(())
    }

    async fn change_schema(&mut self, event: &SchemaEvent, commit: &ImportedCommit) -> Result<()> {
        let made = self.batch < self.earlier
            || (self.earlier > 0 && self.batch == self.earlier && self.found.contain(event));
        if !made {
            self.drain().await?;
            let options = self.options(commit);
            let request = self.schemas.request(event, options)?;
            if let Some(token) = self.database.change_schema(request).await? {
                self.last_seq = token.seq;
            }
            self.loaded.commits += 1;
            self.loaded.events += 1;
        }
        self.schemas.learn(event);
        if self.batch == self.earlier {
            self.found.learn(event);
        }
        Ok(())
    }

    async fn send(&mut self, commit: ImportedCommit, place: &str) -> Result<()> {
        self.batch += 1;
        if self.batch <= self.earlier {
            return self.check_earlier();
        }
        let options = self.options(&commit);
        let ImportedContent::Rows(operations) = commit.content else { return Ok(()) };
        let events = operations.len() as u64;
        let request = v1::IngestRequest {
            batch_id: self.batch,
            operations,
            atomic: true,
            options: Some(options),
            stop_at_refusal: true,
            ..Default::default()
        };
        let bytes = request.encoded_len();
        while self.in_flight.len() >= IN_FLIGHT
            || (!self.in_flight.is_empty() && self.in_flight_bytes + bytes > IN_FLIGHT_BYTES)
        {
            self.receive().await?;
        }
        self.in_flight.push_back(InFlight { batch: self.batch, place: place.to_owned(), bytes, events });
        self.in_flight_bytes += bytes;
        // The channel has room. If the stream has ended, its responses say why.
        if self.requests.send(request).await.is_err() {
            self.drain().await?;
        }
        Ok(())
    }

    /// Once the last batch of the earlier run is passed over: the tables must be those that it made.
    fn check_earlier(&self) -> Result<()> {
        if self.batch < self.earlier
            || self.schemas.names().all(|name| self.found.names().any(|found| found == name))
        {
            return Ok(());
        }
        let message = "an earlier run loaded a part of this dump, and its tables were dropped since; pass --restart to load all of it again";
        Err(Error::new(Reason::ArgumentInvalid, message))
    }

    /// Waits until everything that was sent is on disk.
    pub(super) async fn drain(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.receive().await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<()> {
        let answer = self.responses.message().await.map_err(|s| to_error(&s))?.ok_or_else(ended)?;
        while let Some(done) = self.in_flight.pop_front_if(|sent| sent.batch <= answer.durable_batch_id) {
            self.in_flight_bytes -= done.bytes;
            self.loaded.commits += 1;
            self.loaded.events += done.events;
            self.last_seq = answer.token.map_or(self.last_seq, |token| token.seq);
        }
        let Some(refused) = answer.errors.into_iter().next() else { return Ok(()) };
        let reason = Reason::parse(&refused.reason).unwrap_or(Reason::Internal);
        let place = self.in_flight.iter().find(|sent| sent.batch == refused.batch_id);
        let place = place.map_or_else(|| format!("batch {}", refused.batch_id), |sent| sent.place.clone());
        self.in_flight.clear();
        Err(Error::new(reason, refused.message).context(place))
    }

    /// Waits for the end, and tells about times that could not be kept.
    pub(super) async fn finish(&mut self) -> Result<()> {
        self.drain().await?;
        if self.batch < self.earlier {
            let message =
                "an earlier run has loaded more than this dump has; pass --restart to load all of it again";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        if self.moved > 0 {
            render::note(&format!(
                "note: {} commits have a later time than in the dump: the database had later commits already",
                self.moved
            ));
        }
        Ok(())
    }

    /// The options of a commit. Its time is not before that of the last one.
    fn options(&mut self, commit: &ImportedCommit) -> v1::CommitOptions {
        let time = commit.time.map(|time| self.latest.map_or(time, |latest| latest.max(time)));
        self.moved += u64::from(time > commit.time);
        self.latest = time.or(self.latest);
        v1::CommitOptions {
            reason: commit.reason.clone(),
            commit_time: time.map(shapes::timestamp),
            ..Default::default()
        }
    }
}

/// Fails if the database has a table of the dump.
fn refuse_known_tables(header: &DumpHeader, found: &KnownSchemas) -> Result<()> {
    let known = header.tables.iter().find(|table| found.names().any(|name| name == *table));
    match known {
        None => Ok(()),
        Some(table) => {
            let message = format!(
                "cannot load the dump: the database has a table {table:?} already; load into an empty database, for example with `driftctl -d DIR load FILE`, or drop the table first"
            );
            Err(Error::new(Reason::TableExists, message))
        }
    }
}

fn ended() -> Error {
    Error::new(Reason::Unreachable, "the writer ended the stream")
}
