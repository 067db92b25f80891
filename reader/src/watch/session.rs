//! One watch: reads commits from files, then follows the live ring, and returns to the files if it falls behind the ring.
//!
//! A session computes a message only when the subscriber takes one. A slow subscriber therefore costs the memory of a few
//! messages, and delays nobody else. Compaction may remove table files at any time, also while a session reads them. The
//! session then waits until the follower has read the tables again, and reads the commits that it has not sent once more.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::watch_drift_response::Event;
use driftdb_common::error::{CAUSE, Error, Reason, Result};
use driftdb_common::service::convert;
use driftdb_common::table::history::Images;
use driftdb_common::trace::{OpenStep, TraceContext, TraceStep};
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::context::RequestContext;
use crate::read_point::ReadPoint;
use crate::replica::Replica;
use crate::resume_token::{InitialRowPosition, WatchToken};
use crate::running_query::RunningQuery;
use crate::subscriptions::{NextCommit, Subscription};
use crate::watch::catch_up::CatchUp;
use crate::watch::commit_assembler::CommitAssembler;
use crate::watch::delivery::Delivery;
use crate::watch::filter::WatchFilter;
use crate::watch::initial_rows::{InitialRowBatch, InitialRows};
use crate::watch::request::ResolvedWatch;
use crate::watch::watch_memory::{SHORT_BYTES, WatchMemory};

/// How long a session waits for the follower to read tables again whose files are gone.
const RELOAD_WAIT: Duration = Duration::from_secs(5);

/// With more tables, even a header takes long.
const FEW_TABLES: usize = 64;

/// One WatchDrift call in progress.
#[derive(Debug)]
pub struct WatchSession {
    /// Computes what the session sends, unless that is short.
    query: RunningQuery,
    replica: Arc<Replica>,
    shutdown: CancellationToken,
    filter: Arc<WatchFilter>,
    /// The row images to send with each event.
    images: Images,
    format: v1::DocumentFormat,
    /// The session ends after this commit; `None` for never.
    until: Option<u64>,
    heartbeat: Duration,
    /// All commits up to this one have been sent.
    position: u64,
    /// All commits up to this one have been read: their events that pass have been sent, or are in `out`.
    read_position: u64,
    out: CommitAssembler,
    phase: WatchPhase,
    /// The commit at which the subscriber gets CaughtUp; `None` once it got that message.
    catching_up_to: Option<u64>,
    trace: TraceContext,
    /// Set from the first commit that the session reads from files until it has caught up.
    reading_files: Option<OpenStep>,
    /// [`Replica::table_reloads`] when the session last looked up its tables.
    table_reloads: u64,
    sent_at: Instant,
    memory: WatchMemory,
    subscription: Subscription,
}

/// What a session does next.
#[derive(Debug)]
enum WatchPhase {
    /// Sends Opened, then initial rows if there is a position.
    Opening(Option<InitialRowPosition>),
    /// Sends the initial rows.
    InitialRows(Box<InitialRows>),
    /// Reads commits from files; `None` before the read has started.
    CatchingUp(Option<Box<CatchUp>>),
    /// Follows the live ring; delivers a commit if there is one.
    Following(Option<Delivery>),
    Ended,
}

impl WatchSession {
    /// A session that executes a watch.
    pub fn new(query: RunningQuery, watch: ResolvedWatch) -> WatchSession {
        let (replica, shutdown) = (Arc::clone(&query.context().replica), query.context().shutdown.clone());
        watch.subscription.note_position(watch.start_seq);
        WatchSession {
            query,
            filter: watch.filter,
            images: watch.images,
            format: watch.format,
            until: watch.until,
            heartbeat: watch.heartbeat,
            position: watch.start_seq,
            read_position: watch.start_seq,
            out: CommitAssembler::new(watch.format, SHORT_BYTES),
            phase: WatchPhase::Opening(watch.initial_rows),
            catching_up_to: None,
            trace: TraceContext::current(),
            reading_files: None,
            table_reloads: replica.table_reloads(),
            sent_at: Instant::now(),
            memory: watch.memory,
            subscription: watch.subscription,
            replica,
            shutdown,
        }
    }

    /// Computes the next message; `None` at the end.
    pub async fn next_message(&mut self) -> Result<Option<v1::WatchDriftResponse>> {
        loop {
            tokio::task::coop::consume_budget().await;
            if self.shutdown.is_cancelled() {
                let message = "the reader is shutting down; resume with the last resume token, here or at another reader";
                return Err(Error::new(Reason::ShuttingDown, message));
            }
            self.check_history()?;
            if let Some(commit) = self.out.take() {
                return self.commit_message(commit).map(Some);
            }
            self.memory.give_back_messages();
            self.position = self.position.max(self.read_position);
            self.subscription.note_position(self.position);
            let event = match std::mem::replace(&mut self.phase, WatchPhase::Ended) {
                WatchPhase::Opening(row_position) => Some(self.open(row_position).await?),
                WatchPhase::InitialRows(rows) => self.send_rows(rows).await?,
                WatchPhase::CatchingUp(read) => self.catch_up(read).await?,
                WatchPhase::Following(delivery) => self.follow(delivery).await?,
                WatchPhase::Ended => return Ok(None),
            };
            let event = match event {
                None if self.is_heartbeat_due() => Some(Event::Progress(self.header().await?)),
                event => event,
            };
            if let Some(event) = event {
                return self.event_message(event).map(Some);
            }
        }
    }

    /// Fails if the history that this session follows is lost: what comes after its position is not what follows.
    fn check_history(&self) -> Result<()> {
        let Some(loss) = self.replica.loss() else { return Ok(()) };
        let message = format!(
            "the watch ends, because its history is lost: start again without a resume token{CAUSE}{}",
            loss.message()
        );
        Err(Error::new(Reason::EpochChanged, message)
            .with("epoch", self.replica.database().epoch.to_string()))
    }

    /// Whether a Progress message is due. Progress has no meaning within initial rows or within a commit.
    fn is_heartbeat_due(&self) -> bool {
        !matches!(self.phase, WatchPhase::InitialRows(_))
            && !self.out.is_within_commit()
            && self.out.is_empty()
            && self.sent_at.elapsed() >= self.heartbeat
    }

    /// The header for the session's position.
    async fn header(&self) -> Result<v1::ReadHeader> {
        let point = ReadPoint { applied: self.replica.applied(), seq: self.position };
        let filter = Arc::clone(&self.filter);
        let is_short =
            point.applied.tables.len() <= FEW_TABLES && self.replica.has_time_in_memory(self.position);
        let header = move |replica: &Replica| point.header(replica, filter.timelines(&point.applied));
        if is_short { header(&self.replica) } else { self.query.compute(move |c| header(&c.replica)).await }
    }

    fn event_message(&mut self, event: Event) -> Result<v1::WatchDriftResponse> {
        let token = match &self.phase {
            WatchPhase::InitialRows(rows) => self.token(Some(rows.position()))?,
            _ => self.token(None)?,
        };
        Ok(self.message(event, token))
    }

    fn commit_message(&mut self, commit: v1::Commit) -> Result<v1::WatchDriftResponse> {
        if commit.more {
            // A watch cannot resume within a commit.
            return Ok(self.message(Event::Commit(commit), Vec::new()));
        }
        self.position = commit.seq;
        let token = self.token(None)?;
        Ok(self.message(Event::Commit(commit), token))
    }

    fn message(&mut self, event: Event, resume_token: Vec<u8>) -> v1::WatchDriftResponse {
        self.sent_at = Instant::now();
        v1::WatchDriftResponse { event: Some(event), resume_token: resume_token.into() }
    }

    /// The token for the session's position, and for a position in the initial rows while they are being sent.
    fn token(&self, rows: Option<&InitialRowPosition>) -> Result<Vec<u8>> {
        let (database, filter) = (self.replica.database(), &self.filter);
        let point = self.replica.lineage().point(self.position);
        let scope = (filter.hash(), filter.caller().token_scope());
        let token = WatchToken::new(database, scope, point, rows).after_time(filter.after_ms());
        token.with_names_of(filter.token_names()).encode()
    }

    async fn open(&mut self, row_position: Option<InitialRowPosition>) -> Result<Event> {
        self.phase = match row_position {
            Some(position) => WatchPhase::InitialRows(self.initial_rows(position)),
            None => WatchPhase::CatchingUp(None),
        };
        Ok(Event::Opened(self.header().await?))
    }

    fn initial_rows(&self, row_position: InitialRowPosition) -> Box<InitialRows> {
        Box::new(InitialRows::new(Arc::clone(&self.filter), &self.replica, self.position, row_position))
    }

    /// After CORRUPT or FILE_GONE, waits until the follower has read the tables again, in case compaction removed their files. The session
    /// then repeats what it has not sent. Returns other errors as they are.
    async fn recover(&mut self, error: Error) -> Result<()> {
        if !matches!(error.reason(), Reason::Corrupt | Reason::FileGone) {
            return Err(error);
        }
        let deadline = Instant::now() + RELOAD_WAIT;
        let mut head_checks = self.replica.head_checks();
        while self.replica.table_reloads() == self.table_reloads {
            self.check_history()?;
            if timeout_at(deadline, head_checks.changed()).await.is_err() {
                // If the follower lags, its error explains more.
                let behind = self.replica.problem().filter(|problem| problem.reason() != error.reason());
                return Err(behind.unwrap_or(error));
            }
        }
        if self.out.is_within_commit() {
            // The session cannot repeat a commit of which it has sent parts. The last token is before that commit.
            let message = "the files of a commit were replaced while the commit was being sent; resume with the last \
                           resume token";
            return Err(Error::new(Reason::FileGone, message));
        }
        self.table_reloads = self.replica.table_reloads();
        self.out = CommitAssembler::new(self.format, SHORT_BYTES);
        self.read_position = self.position;
        Ok(())
    }

    /// The next batch of initial rows, or RowsDone. A batch without rows is sent only if a heartbeat is due.
    async fn send_rows(&mut self, mut rows: Box<InitialRows>) -> Result<Option<Event>> {
        let format = self.format;
        let batch;
        (rows, batch) = self
            .query
            .compute(move |context| {
                let batch = rows
                    .next_batch(&context.replica)
                    .and_then(|batch| batch.map(|batch| batch_to_wire(&batch, format)).transpose());
                Ok((rows, batch))
            })
            .await?;
        let batch = match batch {
            Ok(Some(batch)) => batch,
            Ok(None) => {
                self.phase = WatchPhase::CatchingUp(None);
                return Ok(Some(Event::RowsDone(self.header().await?)));
            }
            Err(error) => {
                self.recover(error).await?;
                self.phase = WatchPhase::InitialRows(self.initial_rows(rows.position().clone()));
                return Ok(None);
            }
        };
        self.phase = WatchPhase::InitialRows(rows);
        if batch.rows.is_empty() && self.sent_at.elapsed() < self.heartbeat {
            return Ok(None);
        }
        Ok(Some(Event::Rows(batch)))
    }

    fn is_at_end(&self) -> bool {
        self.until.is_some_and(|until| self.position >= until)
    }

    /// Ends the session with a Progress message.
    async fn end(&mut self) -> Result<Option<Event>> {
        self.phase = WatchPhase::Ended;
        Ok(Some(Event::Progress(self.header().await?)))
    }

    /// Reads commits from files, until the live ring has the next commit.
    async fn catch_up(&mut self, read: Option<Box<CatchUp>>) -> Result<Option<Event>> {
        if self.is_at_end() {
            return self.end().await;
        }
        // The files of a read that started before a table reload may be gone. Within a commit the read cannot start again.
        let is_current = self.replica.table_reloads() == self.table_reloads;
        let read = read.filter(|_| is_current || self.out.is_within_commit());
        let range = match &read {
            Some(_) => (0, 0),
            None => match self.start_catch_up() {
                Some(range) => range,
                None => {
                    self.phase = WatchPhase::Following(None);
                    return Ok(None);
                }
            },
        };
        self.out.set_limit(self.memory.take_for_messages());
        let mut out = std::mem::replace(&mut self.out, CommitAssembler::new(self.format, SHORT_BYTES));
        let (filter, images) = (Arc::clone(&self.filter), self.images);
        let step = move |context: &RequestContext| {
            let mut read = match read {
                Some(read) => read,
                None => Box::new(CatchUp::new(filter, &context.replica, range, images)?),
            };
            let reached = read.step(&mut out);
            Ok((read, out, reached))
        };
        let (read, out, reached) = self.query.compute(step).await?;
        self.out = out;
        match reached {
            Ok(reached) => {
                self.read_position = reached;
                // The subscriber may take the ready messages slowly: drop the read meanwhile if possible, because it keeps old
                // tables in memory.
                let keep = !read.is_done() && !self.out.drop_unfinished();
                self.phase = WatchPhase::CatchingUp(keep.then_some(read));
            }
            Err(error) => {
                self.recover(error).await?;
                self.phase = WatchPhase::CatchingUp(None);
            }
        }
        Ok(None)
    }

    /// The commits to read after the session's position; `None` if the live ring has the next commit.
    fn start_catch_up(&mut self) -> Option<(u64, u64)> {
        self.table_reloads = self.replica.table_reloads();
        self.out = CommitAssembler::new(self.format, SHORT_BYTES);
        let applied = self.replica.applied().seq;
        self.catching_up_to.get_or_insert(applied);
        if !matches!(self.replica.subscriptions().next_after(self.position), NextCommit::Behind) {
            return None;
        }
        self.reading_files.get_or_insert_with(|| self.trace.begin(TraceStep::CatchUp));
        Some((self.position, self.until.map_or(applied, |until| until.min(applied))))
    }

    /// Delivers the next commit of the live ring, or waits for one.
    async fn follow(&mut self, delivery: Option<Delivery>) -> Result<Option<Event>> {
        if let Some(delivery) = delivery {
            return self.deliver(delivery).await;
        }
        if self.is_at_end() {
            return self.end().await;
        }
        self.phase = WatchPhase::Following(None);
        if self.catching_up_to.take_if(|end| *end <= self.position).is_some() {
            self.reading_files = None;
            return Ok(Some(Event::CaughtUp(self.header().await?)));
        }
        match self.replica.subscriptions().next_after(self.position) {
            NextCommit::Ready(commit) => {
                self.phase = WatchPhase::Following(Some(Delivery::new(commit)));
                Ok(None)
            }
            NextCommit::Behind => self.fall_behind().await,
            NextCommit::AtHead => {
                self.wait().await;
                Ok(None)
            }
        }
    }

    /// Waits for a commit that may concern this watch, a heartbeat, or the end. Skips the commits that do not concern it.
    async fn wait(&mut self) {
        // The end, and CaughtUp, are due after a certain commit, whatever that contains.
        let for_any = self.until.is_some() || self.catching_up_to.is_some();
        if !self.subscription.begin_wait(self.position, for_any) {
            return;
        }
        tokio::select! {
            () = self.subscription.woken() => {}
            () = sleep_until(self.sent_at + self.heartbeat) => {}
            () = self.shutdown.cancelled() => {}
            () = self.replica.lost() => {}
        }
        self.position = self.position.max(self.subscription.end_wait());
        self.read_position = self.position;
    }

    /// Returns to the files. Sends FellBehind if the subscriber got CaughtUp before.
    async fn fall_behind(&mut self) -> Result<Option<Event>> {
        self.phase = WatchPhase::CatchingUp(None);
        match self.catching_up_to {
            None => Ok(Some(Event::FellBehind(self.header().await?))),
            Some(_) => Ok(None),
        }
    }

    /// Delivers a commit of the live ring, or the next part of it.
    async fn deliver(&mut self, mut delivery: Delivery) -> Result<Option<Event>> {
        let seq = delivery.seq();
        let needed = self.filter.needed_images(self.images);
        self.out.set_limit(self.memory.take_for_messages());
        let done = if delivery.is_short(&self.filter, needed) {
            delivery.step(&self.filter, self.images, &mut self.out)
        } else {
            let mut out = std::mem::replace(&mut self.out, CommitAssembler::new(self.format, SHORT_BYTES));
            let (filter, images) = (Arc::clone(&self.filter), self.images);
            let done;
            (delivery, out, done) = self
                .query
                .compute(move |_| {
                    let done = delivery.step(&filter, images, &mut out);
                    Ok((delivery, out, done))
                })
                .await?;
            self.out = out;
            done
        };
        match done {
            Ok(true) => {
                self.out.finish_before(seq + 1);
                self.read_position = seq;
                self.phase = WatchPhase::Following(None);
            }
            Ok(false) => self.phase = WatchPhase::Following(Some(delivery)),
            Err(error) => {
                self.recover(error).await?;
                return self.fall_behind().await;
            }
        }
        Ok(None)
    }
}

/// The API's message for some initial rows.
fn batch_to_wire(batch: &InitialRowBatch, format: v1::DocumentFormat) -> Result<v1::RowBatch> {
    let rows = batch.rows.iter().map(|row| convert::row_to_wire(row, format));
    Ok(v1::RowBatch { table: batch.table.clone(), rows: rows.collect::<Result<_>>()? })
}
