//! A watcher that resumes at another reader whenever its stream breaks, and checks every message.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use driftdb::v1;
use tokio::sync::watch;
use tonic::transport::Endpoint;
use tonic::{Status, Streaming};

use super::checker::{Checker, Violation, reach};
use super::history::History;
use super::{Reader, reason};

pub type Stream = Streaming<v1::WatchDriftResponse>;

/// The longest time to wait for something that must happen.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The interval of progress messages, in milliseconds.
pub fn heartbeat(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

/// The acknowledged history while it grows.
#[derive(Debug)]
pub struct Journal {
    history: RwLock<History>,
    complete: watch::Sender<u64>,
}

impl Journal {
    pub fn new() -> Arc<Journal> {
        Arc::new(Journal { history: RwLock::default(), complete: watch::Sender::new(0) })
    }

    pub fn add(&self, commit: super::history::Committed) {
        let mut history = self.history.write().unwrap();
        history.add(commit);
        self.complete.send_replace(history.complete());
    }

    /// All commits up to this one are known.
    pub fn complete(&self) -> u64 {
        *self.complete.borrow()
    }

    /// Waits until all commits up to one are known.
    pub async fn known(&self, seq: u64) {
        let mut complete = self.complete.subscribe();
        complete.wait_for(|complete| *complete >= seq).await.unwrap();
    }

    pub fn read<T>(&self, with: impl FnOnce(&History) -> T) -> T {
        with(&self.history.read().unwrap())
    }
}

/// A watcher in its own task.
#[derive(Debug)]
pub struct Watcher {
    pub checker: Checker,
    pub heartbeat_ms: u64,
    /// A slow subscriber: pauses for this time after every so many messages. If it asked for rows at the start, it
    /// pauses only while they arrive.
    pub pause: Option<(u64, Duration)>,
    /// All commits up to this one have arrived. Other tasks may read it.
    pub position: Arc<AtomicU64>,
    pub streams: u64,
    /// How many streams started before all rows had arrived.
    pub streams_in_rows: u64,
}

/// Whether a watcher should resume after this error: readers are killed and replaced during the tests.
fn is_passing(status: &Status) -> bool {
    // Without a reason the error is a broken connection.
    matches!(reason(status).as_str(), "" | "SHUTTING_DOWN" | "REPLICA_BEHIND")
}

impl Watcher {
    pub fn new(checker: Checker) -> Watcher {
        Watcher {
            checker,
            heartbeat_ms: 200,
            pause: None,
            position: Arc::default(),
            streams: 0,
            streams_in_rows: 0,
        }
    }

    /// Follows any of the readers until everything up to `end` has arrived.
    pub async fn follow(
        mut self,
        readers: Arc<Mutex<Vec<String>>>,
        journal: Arc<Journal>,
        mut end: watch::Receiver<u64>,
    ) -> Result<Watcher, Violation> {
        let mut turn = Arc::as_ptr(&self.position) as usize / 64;
        loop {
            turn += 1;
            let url = {
                let readers = readers.lock().unwrap();
                readers[turn % readers.len()].clone()
            };
            let Ok(stream) = self.open(&url).await? else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            if self.drain(stream, &journal, &mut end).await? {
                return Ok(self);
            }
        }
    }

    /// Opens a stream where the last one ended. A retry may help with the inner error.
    async fn open(&mut self, url: &str) -> Result<Result<Stream, Status>, Violation> {
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap().connect_timeout(Duration::from_secs(2));
        // With large windows this process would buffer what the subscriber does not read.
        let endpoint = if self.pause.is_some() {
            endpoint.initial_stream_window_size(64 << 10).initial_connection_window_size(64 << 10)
        } else {
            endpoint
        };
        let channel = match endpoint.connect().await {
            Ok(channel) => channel,
            Err(e) => return Ok(Err(Status::unavailable(e.to_string()))),
        };
        let mut reader = Reader::new(channel).max_decoding_message_size(usize::MAX);
        let request =
            v1::WatchDriftRequest { heartbeat: heartbeat(self.heartbeat_ms), ..self.checker.request() };
        self.streams += 1;
        match reader.watch_drift(request).await {
            Ok(answer) => Ok(Ok(answer.into_inner())),
            Err(status) if is_passing(&status) => Ok(Err(status)),
            Err(status) => Err(refused(&status)),
        }
    }

    /// Returns true at the end, false if the stream broke.
    async fn drain(
        &mut self,
        mut stream: Stream,
        journal: &Journal,
        end: &mut watch::Receiver<u64>,
    ) -> Result<bool, Violation> {
        let mut messages = 0;
        self.streams_in_rows += u64::from(self.checker.in_rows());
        loop {
            let done = *end.borrow_and_update();
            if self.checker.position() >= done && !self.checker.in_rows() {
                return Ok(true);
            }
            let message = tokio::select! {
                message = stream.message() => message,
                _ = end.changed() => continue,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Err(status) if is_passing(&status) => return Ok(false),
                Err(status) => return Err(refused(&status)),
                Ok(None) => {
                    let what = "the stream ended before the requested commit".to_owned();
                    return Err(Violation { of: super::checker::Guarantee::Resumable, what });
                }
            };
            // A reader may show a commit before its writer has received the acknowledgement.
            journal.known(reach(&message)).await;
            journal.read(|history| self.checker.take(history, message))?;
            self.position.store(self.checker.position(), Ordering::Relaxed);
            messages += 1;
            if let Some((every, pause)) = self.pause
                && messages % every == 0
                && (self.checker.in_rows() || !self.checker.wants_rows())
            {
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn refused(status: &Status) -> Violation {
    let what = format!("the reader refused to resume: {} {status:?}", reason(status));
    Violation { of: super::checker::Guarantee::Resumable, what }
}

/// The next message of a stream, which must arrive.
pub async fn next(stream: &mut Stream) -> v1::WatchDriftResponse {
    let message =
        tokio::time::timeout(LIMIT, stream.message()).await.expect("timed out waiting for a message");
    message.unwrap().expect("the stream ended")
}
