//! A watch: commits as they happen, each once and whole, over any number of broken connections and readers.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

use super::opening::{Opening, Stream, may_pass};
use super::{Client, Pauses};
use crate::v1;
use v1::watch_drift_request::Start;
use v1::watch_drift_response::Event;

/// How often a quiet stream must say that it is there, where nobody says.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// So many heartbeats without a message, and the connection is given up.
const SILENT_BEATS: u32 = 3;
/// It is not given up sooner than this, however short the heartbeat is.
const SILENCE_MIN: Duration = Duration::from_secs(2);

/// What a [`Watch`] hands out.
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The first: where the watch starts. Whatever is committed after this comes.
    Opened(v1::ReadHeader),
    /// Rows as of the start, where they were asked for.
    Rows(v1::RowBatch),
    /// All such rows have come.
    RowsDone(v1::ReadHeader),
    /// A commit, whole: those of its changes that pass.
    Commit(v1::Commit),
    /// Everything up to `read_seq` has come.
    Progress(v1::ReadHeader),
    /// The stream follows the head now.
    CaughtUp(v1::ReadHeader),
    /// This watch is slower than the database: commits come from the files until it has caught up. None is left out.
    FellBehind(v1::ReadHeader),
    /// The connection broke, or no reader answers. The watch goes on by itself, and nothing will be missing.
    Interrupted(Status),
    /// It goes on, after `read_seq`, perhaps at another reader.
    Resumed(v1::ReadHeader),
}

/// Commits as they happen: in order, each once and whole. Where a connection breaks or a reader goes down it resumes at
/// the next reader, after what was handed out last. It has a connection of its own, so that one that is not asked for
/// long holds up nothing else.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    /// As it would be sent now: from the newest token on, once there is one.
    request: v1::WatchDriftRequest,
    patience: Option<Duration>,
    /// So long without a message, and the connection is given up.
    silence: Duration,
    stream: Option<Stream>,
    /// While there is no stream: the next, once it has been asked for. It outlives the call that began it.
    opening: Option<Opening>,
    /// The parts that have come of a commit that is not whole yet.
    parts: Option<v1::Commit>,
    retry: Retry,
    opened: bool,
    /// Rows of the beginning are yet to come.
    rows_come: bool,
    /// The newest commit that is known to have come, as all before it.
    reached: u64,
    last_commit: u64,
    ended: bool,
}

/// Tries to open a stream since the last one broke.
#[derive(Debug, Default)]
struct Retry {
    pauses: Option<Pauses>,
    /// Not before this.
    next: Option<Instant>,
    told: bool,
}

impl Client {
    /// Watches what happens from now on, or from the request's start. Nothing is sent before the first
    /// [`Watch::next`]; from [`WatchEvent::Opened`] on nothing is missed.
    pub fn watch(&self, mut request: v1::WatchDriftRequest) -> Watch {
        let heartbeat = request.heartbeat.and_then(|given| Duration::try_from(given).ok());
        let heartbeat = heartbeat.filter(|given| !given.is_zero()).unwrap_or(HEARTBEAT);
        request.heartbeat = prost_types::Duration::try_from(heartbeat).ok();
        Watch {
            client: self.clone(),
            patience: None,
            silence: heartbeat.saturating_mul(SILENT_BEATS).max(SILENCE_MIN),
            stream: None,
            opening: None,
            parts: None,
            retry: Retry::default(),
            opened: false,
            rows_come: request.initial_rows,
            reached: 0,
            last_commit: 0,
            ended: false,
            request,
        }
    }
}

impl Watch {
    /// How long after a break a reader may be looked for. Without this, for ever.
    #[must_use]
    pub fn patience(self, patience: Duration) -> Watch {
        Watch { patience: Some(patience), ..self }
    }

    /// A watch of the same filter goes on after the event that was handed out last, at any reader, if it starts from
    /// this token. Keep it where the event's effect is kept.
    pub fn token(&self) -> Option<&Bytes> {
        match &self.request.start {
            Some(Start::ResumeToken(token)) => Some(token),
            _ => None,
        }
    }

    /// The next event; `None` after the request's `until_seq`. An error is final. A call that is given up, by a timeout
    /// say, loses nothing.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, Status> {
        while !self.ended {
            let found = match &mut self.stream {
                Some(stream) => stream.message(self.silence).await,
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            let event = match found {
                Ok(Some(message)) => self.take(message)?,
                Ok(None) if self.is_complete() => {
                    self.ended = true;
                    None
                }
                // A reader that goes down may end its streams without an error.
                Ok(None) => self.broke(Status::unavailable("the reader ended the stream"))?,
                Err(status) => self.broke(status)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// The next stream, or what the readers said. What a call that was given up had begun goes on.
    async fn open(&mut self) -> Result<Stream, Status> {
        let begin = || Opening::new(self.client.clone(), self.request.clone(), self.retry.next);
        let opened = self.opening.get_or_insert_with(begin).await;
        self.opening = None;
        opened
    }

    /// What the end of a stream means: the first since the last message is told, and all are got over, while there is
    /// patience.
    fn broke(&mut self, status: Status) -> Result<Option<WatchEvent>, Status> {
        if let Some(stream) = self.stream.take().filter(|_| may_pass(&status)) {
            stream.daemon.set_aside();
        }
        self.parts = None;
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pauses = self.retry.pauses.get_or_insert_with(|| Pauses::new(self.patience));
        let pause = pauses.at_least(asked.unwrap_or_default()).filter(|_| may_pass(&status));
        let Some(pause) = pause else {
            self.ended = true;
            return Err(status);
        };
        self.retry.next = Some(Instant::now() + pause);
        let told = std::mem::replace(&mut self.retry.told, true);
        Ok((!told).then_some(WatchEvent::Interrupted(status)))
    }

    /// The event of a message, once it is whole.
    fn take(&mut self, message: v1::WatchDriftResponse) -> Result<Option<WatchEvent>, Status> {
        let event = match message.event {
            Some(Event::Opened(header)) => Some(self.opened(header)),
            // One without rows says that the reader is there.
            Some(Event::Rows(rows)) => (!rows.rows.is_empty()).then_some(WatchEvent::Rows(rows)),
            Some(Event::RowsDone(header)) => {
                self.rows_come = false;
                Some(WatchEvent::RowsDone(header))
            }
            Some(Event::Commit(part)) => match self.whole(part)? {
                Some(commit) => Some(WatchEvent::Commit(commit)),
                None => return Ok(None),
            },
            Some(Event::Progress(header)) => {
                self.reached = self.reached.max(header.read_seq);
                // The end is near enough: where the connection breaks before it, there is nothing to come back for.
                self.ended = self.is_complete();
                Some(WatchEvent::Progress(header))
            }
            Some(Event::CaughtUp(header)) => Some(WatchEvent::CaughtUp(header)),
            Some(Event::FellBehind(header)) => Some(WatchEvent::FellBehind(header)),
            // Of a kind that this version does not know.
            None => None,
        };
        if !matches!(event, Some(WatchEvent::Opened(_) | WatchEvent::Resumed(_))) {
            self.retry = Retry::default();
        }
        if message.resume_token.is_empty() {
            // Without it, coming back would mean that something is lost or comes twice.
            return Err(self.wrong("sent an event without a resume token"));
        }
        self.request.start = Some(Start::ResumeToken(message.resume_token));
        Ok(event)
    }

    fn opened(&mut self, header: v1::ReadHeader) -> WatchEvent {
        if let Some(stream) = &mut self.stream {
            stream.opened = true;
        }
        self.retry.told = false;
        if !self.rows_come {
            self.reached = self.reached.max(header.read_seq);
        }
        match std::mem::replace(&mut self.opened, true) {
            false => WatchEvent::Opened(header),
            true => WatchEvent::Resumed(header),
        }
    }

    /// A commit, once its last part has come.
    fn whole(&mut self, part: v1::Commit) -> Result<Option<v1::Commit>, Status> {
        let commit = match self.parts.take() {
            None => part,
            Some(mut commit) if commit.seq == part.seq => {
                commit.changes.extend(part.changes);
                commit.more = part.more;
                commit
            }
            Some(_) => return Err(self.wrong("broke off a commit and went on with another")),
        };
        if commit.more {
            self.parts = Some(commit);
            return Ok(None);
        }
        if commit.seq <= self.last_commit {
            return Err(self.wrong("sent a commit again, or too late"));
        }
        (self.last_commit, self.rows_come) = (commit.seq, false);
        self.reached = self.reached.max(commit.seq);
        Ok(Some(commit))
    }

    /// Whether all that was asked for has come.
    fn is_complete(&self) -> bool {
        self.request.until_seq != 0 && self.reached >= self.request.until_seq
    }

    /// A stream that cannot be trusted: the watch ends.
    fn wrong(&mut self, what: &str) -> Status {
        self.ended = true;
        let stream = self.stream.take();
        let address = stream.as_ref().map_or("?", |stream| stream.daemon.address());
        Status::internal(format!("the reader at {address} {what}"))
    }
}
