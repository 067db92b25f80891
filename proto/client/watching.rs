//! Watches: commits as they happen, each once and whole, across broken connections and readers.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;
use tonic_types::StatusExt;

use super::handle::Client;
use super::opening::{OpenStream, StreamOpening, is_retryable_watch};
use super::pauses::Pauses;
use super::planted::is_planted;
use super::reasons::{TLS_FAILED, reason};
use crate::v1;
use v1::watch_drift_request::Start;
use v1::watch_drift_response::Event;

/// The default interval of heartbeats of an idle stream.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// After this many missing heartbeats the connection is considered broken.
const SILENT_BEATS: u32 = 3;
/// The shortest silence after which a connection is considered broken.
const SILENCE_MIN: Duration = Duration::from_secs(2);

/// An event of a [`Watcher`].
#[derive(Debug, Clone)]
pub enum WatchEvent {
    /// The first event: where the watch starts. Every later commit follows.
    Opened(v1::ReadHeader),
    /// Initial rows, if requested.
    Rows(v1::RowBatch),
    /// All initial rows were delivered.
    RowsDone(v1::ReadHeader),
    /// A whole commit: those of its changes that pass the filter.
    Commit(v1::Commit),
    /// Everything up to `read_seq` was delivered.
    Progress(v1::ReadHeader),
    /// The stream has reached the head and follows it.
    CaughtUp(v1::ReadHeader),
    /// This watch is slower than the database: commits come from files until it has caught up. No commit is lost.
    FellBehind(v1::ReadHeader),
    /// The connection broke, or no reader responds. The watch resumes by itself, and no commit is lost.
    Interrupted(Status),
    /// The watch has resumed after `read_seq`, possibly at another reader.
    Resumed(v1::ReadHeader),
}

/// Commits as they happen: in order, each once and whole. If a connection breaks or a reader stops, the watch resumes
/// at the next reader, after the last delivered event. It has its own connection, so that a watch that is not polled
/// does not block other calls.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    /// The request to send next: it starts from the newest token, once there is one.
    request: v1::WatchDriftRequest,
    retry_timeout: Option<Duration>,
    /// After this time without a message the connection is considered broken.
    silence: Duration,
    stream: Option<OpenStream>,
    /// The next stream while none is open. It outlives the call that started it.
    opening: Option<StreamOpening>,
    /// The received parts of a commit that is not complete yet.
    parts: Option<v1::Commit>,
    retry: Retry,
    opened: bool,
    /// Where the watch starts.
    start: Option<v1::ReadHeader>,
    /// What came while the watch was opened.
    early: VecDeque<WatchEvent>,
    /// The last state that the reader has named.
    state: Option<v1::ReadHeader>,
    /// Whether initial rows are still to be delivered.
    rows_pending: bool,
    /// All commits up to this seq were delivered.
    delivered: u64,
    last_commit: u64,
    ended: bool,
}

/// The attempts to open a stream since the last one broke.
#[derive(Debug, Default)]
struct Retry {
    pauses: Option<Pauses>,
    /// The time before which no attempt is made.
    next: Option<Instant>,
    reported: bool,
}

impl Client {
    /// Watches changes from the start of the request, or else from when the watch is opened: by [`Watcher::open`], or by the first
    /// [`Watcher::next`]. Nothing is sent before. After [`WatchEvent::Opened`] no commit is lost.
    pub fn watch(&self, mut request: v1::WatchDriftRequest) -> Watcher {
        self.choose_zone(&mut request.time_zone);
        let heartbeat = request.heartbeat.and_then(|given| Duration::try_from(given).ok());
        let heartbeat = heartbeat.filter(|given| !given.is_zero()).unwrap_or(HEARTBEAT);
        request.heartbeat = prost_types::Duration::try_from(heartbeat).ok();
        Watcher {
            client: self.clone(),
            retry_timeout: None,
            silence: heartbeat.saturating_mul(SILENT_BEATS).max(SILENCE_MIN),
            stream: None,
            opening: None,
            parts: None,
            retry: Retry::default(),
            opened: false,
            start: None,
            early: VecDeque::new(),
            state: None,
            rows_pending: request.initial_rows,
            delivered: 0,
            last_commit: 0,
            ended: false,
            request,
        }
    }
}

impl Watcher {
    /// Limits how long after a break the watch looks for a reader. By default there is no limit.
    #[must_use]
    pub fn retry_timeout(self, retry_timeout: Duration) -> Watcher {
        Watcher { retry_timeout: Some(retry_timeout), ..self }
    }

    /// The resume token after the last delivered event. A watch with the same filter that starts from it continues
    /// there, at any reader. Store it together with the effect of the event.
    pub fn token(&self) -> Option<&Bytes> {
        match &self.request.start {
            Some(Start::ResumeToken(token)) => Some(token),
            _ => None,
        }
    }

    /// The next event; `None` after the request's `until_seq`. An error is final. Cancelling a call, for example with a
    /// timeout, loses nothing.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, Status> {
        match self.early.pop_front() {
            Some(event) => Ok(Some(event)),
            None => self.receive().await,
        }
    }

    async fn receive(&mut self) -> Result<Option<WatchEvent>, Status> {
        while !self.ended {
            let found = match &mut self.stream {
                Some(stream) => stream.message(self.silence).await,
                None => match self.open_stream().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(status) => Err(status),
                },
            };
            let event = match found {
                Ok(Some(message)) => self.accept(message)?,
                Ok(None) if self.is_complete() => {
                    self.ended = true;
                    None
                }
                // A reader that shuts down may end its streams without an error.
                Ok(None) => self.handle_break(Status::unavailable("the reader ended the stream"))?,
                Err(status) => self.handle_break(status)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }

    /// Opens the watch now, and returns where it starts: it delivers every commit after `read_seq`. Without this call a watch opens at the
    /// first [`Watcher::next`], and "now" is then. It waits for a reader as long as [`Watcher::retry_timeout`] says. [`Watcher::next`]
    /// still returns [`WatchEvent::Opened`].
    ///
    /// # Errors
    /// Those of [`Watcher::next`].
    pub async fn open(&mut self) -> Result<v1::ReadHeader, Status> {
        loop {
            if let Some(start) = &self.start {
                return Ok(start.clone());
            }
            let event = self.receive().await?;
            self.early.push_back(event.ok_or_else(|| Status::cancelled("the watch has ended"))?);
        }
    }

    /// Opens the next stream. Continues the opening of a cancelled call.
    async fn open_stream(&mut self) -> Result<OpenStream, Status> {
        let begin = || StreamOpening::new(self.client.clone(), self.request.clone(), self.retry.next);
        let opened = self.opening.get_or_insert_with(begin).await;
        self.opening = None;
        opened
    }

    /// Handles a broken stream. The first break since the last message is reported; all are retried within the retry
    /// timeout.
    fn handle_break(&mut self, status: Status) -> Result<Option<WatchEvent>, Status> {
        if let Some(stream) = self.stream.take().filter(|_| is_retryable_watch(&status)) {
            stream.backend.set_aside();
        }
        self.parts = None;
        let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
        let pauses = self.retry.pauses.get_or_insert_with(|| Pauses::new(self.retry_timeout));
        let pause = pauses.at_least(asked.unwrap_or_default()).filter(|_| is_retryable_watch(&status));
        // Before the first opening it is a mistake of the user; after it, a certificate that is being renewed.
        let is_mistake = !self.opened && reason(&status).as_deref() == Some(TLS_FAILED);
        let pause = pause.filter(|_| !is_mistake);
        let Some(pause) = pause else {
            self.ended = true;
            return Err(status);
        };
        self.retry.next = Some(Instant::now() + pause);
        let reported = std::mem::replace(&mut self.retry.reported, true);
        Ok((!reported).then_some(WatchEvent::Interrupted(status)))
    }

    /// Registers what an event has shown, as a read: no later read of this client returns an older state.
    fn register_event(&mut self, event: &WatchEvent) {
        match event {
            WatchEvent::Opened(header)
            | WatchEvent::Resumed(header)
            | WatchEvent::RowsDone(header)
            | WatchEvent::Progress(header)
            | WatchEvent::CaughtUp(header) => self.state = Some(header.clone()),
            WatchEvent::Commit(commit) => {
                self.state.iter_mut().for_each(|state| state.read_seq = state.read_seq.max(commit.seq));
            }
            _ => return,
        }
        self.client.register_read(self.state.as_ref());
    }

    /// The event of a message, once it is complete.
    fn accept(&mut self, message: v1::WatchDriftResponse) -> Result<Option<WatchEvent>, Status> {
        let event = match message.event {
            Some(Event::Opened(header)) => Some(self.register_opening(header)),
            // A batch without rows is a heartbeat.
            Some(Event::Rows(rows)) => (!rows.rows.is_empty()).then_some(WatchEvent::Rows(rows)),
            Some(Event::RowsDone(header)) => {
                self.rows_pending = false;
                Some(WatchEvent::RowsDone(header))
            }
            Some(Event::Commit(part)) => match self.assemble(part)? {
                Some(commit) => Some(WatchEvent::Commit(commit)),
                None => return Ok(None),
            },
            Some(Event::Progress(header)) => {
                self.delivered = self.delivered.max(header.read_seq);
                // Everything was delivered: if the connection breaks before the end of the stream, there is nothing to
                // resume.
                self.ended = self.is_complete();
                Some(WatchEvent::Progress(header))
            }
            Some(Event::CaughtUp(header)) => Some(WatchEvent::CaughtUp(header)),
            Some(Event::FellBehind(header)) => Some(WatchEvent::FellBehind(header)),
            // An event of an unknown kind, from a newer reader.
            None => None,
        };
        if !matches!(event, Some(WatchEvent::Opened(_) | WatchEvent::Resumed(_))) {
            self.retry = Retry::default();
        }
        if message.resume_token.is_empty() {
            // Without a token, resuming would lose or repeat events.
            return Err(self.violation("sent an event without a resume token"));
        }
        event.iter().for_each(|event| self.register_event(event));
        if !is_planted("client-resumes-at-the-start") {
            self.request.start = Some(Start::ResumeToken(message.resume_token));
        }
        Ok(event)
    }

    fn register_opening(&mut self, header: v1::ReadHeader) -> WatchEvent {
        if let Some(stream) = &mut self.stream {
            stream.opened = true;
        }
        self.retry.reported = false;
        self.start.get_or_insert_with(|| header.clone());
        if !self.rows_pending {
            self.delivered = self.delivered.max(header.read_seq);
        }
        match std::mem::replace(&mut self.opened, true) {
            false => WatchEvent::Opened(header),
            true => WatchEvent::Resumed(header),
        }
    }

    /// The commit, once its last part was received.
    fn assemble(&mut self, part: v1::Commit) -> Result<Option<v1::Commit>, Status> {
        let commit = match self.parts.take() {
            None => part,
            Some(mut commit) if commit.seq == part.seq => {
                commit.changes.extend(part.changes);
                commit.more = part.more;
                commit
            }
            Some(_) => return Err(self.violation("sent another commit before the end of the last one")),
        };
        if commit.more {
            self.parts = Some(commit);
            return Ok(None);
        }
        if commit.seq <= self.last_commit {
            return Err(self.violation("sent a commit twice or out of order"));
        }
        (self.last_commit, self.rows_pending) = (commit.seq, false);
        self.delivered = self.delivered.max(commit.seq);
        Ok(Some(commit))
    }

    /// Whether everything that was requested was delivered.
    fn is_complete(&self) -> bool {
        self.request.until_seq != 0 && self.delivered >= self.request.until_seq
    }

    /// Ends the watch after a violation of the protocol.
    fn violation(&mut self, what: &str) -> Status {
        self.ended = true;
        let stream = self.stream.take();
        let address = stream.as_ref().map_or("?", |stream| stream.backend.address());
        Status::internal(format!("the reader at {address} {what}"))
    }
}
