//! Opening the stream of a watch. An opening survives a call that is cancelled, and the next call continues it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Status, Streaming};

use super::pool::Daemon;
use super::reading::another_may;
use super::{Client, UNREACHABLE, reader_on, reason};
use crate::v1;

/// The reason of a reader that has its maximum number of watchers.
const OVERLOADED: &str = "OVERLOADED";
/// How long a reader may take to open a stream.
const OPENING: Duration = Duration::from_secs(30);

/// A stream that is being opened. A caller can stop waiting for it and continue to wait later.
pub(super) struct Opening(Mutex<Pin<Box<Connecting>>>);

/// The lock is never contended. It makes a watch `Sync`.
type Connecting = dyn Future<Output = Result<Stream, Status>> + Send;

impl Opening {
    /// Prepares to open a stream, not before a certain time. Nothing is sent before the first poll.
    pub(super) fn new(
        client: Client,
        request: v1::WatchDriftRequest,
        not_before: Option<Instant>,
    ) -> Opening {
        Opening(Mutex::new(Box::pin(async move {
            if let Some(moment) = not_before {
                sleep_until(moment).await;
            }
            connect(&client, &request).await
        })))
    }
}

impl Future for Opening {
    type Output = Result<Stream, Status>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
    }
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").finish_non_exhaustive()
    }
}

/// A stream of a watch, and its reader.
#[derive(Debug)]
pub(super) struct Stream {
    messages: Streaming<v1::WatchDriftResponse>,
    pub(super) daemon: Arc<Daemon>,
    /// When the last message was received.
    heard: Instant,
    /// Whether the first event was received.
    pub(super) opened: bool,
}

impl Stream {
    /// Receives the next message. If none arrives within `silence`, the connection is considered broken.
    pub(super) async fn message(
        &mut self,
        silence: Duration,
    ) -> Result<Option<v1::WatchDriftResponse>, Status> {
        let limit = if self.opened { silence } else { OPENING };
        let message = timeout_at(self.heard + limit, self.messages.message()).await;
        let message = message.map_err(|_| self.daemon.silent(limit))?;
        self.heard = Instant::now();
        message.map_err(|status| self.daemon.told(status, false))
    }
}

/// Opens a stream at the first reader that accepts it.
async fn connect(client: &Client, request: &v1::WatchDriftRequest) -> Result<Stream, Status> {
    let mut failed: Option<Status> = None;
    for daemon in client.readers.round() {
        match open(daemon, request).await {
            Ok(messages) => {
                daemon.answered();
                let daemon = daemon.clone();
                return Ok(Stream { messages, daemon, heard: Instant::now(), opened: false });
            }
            Err(status) if !may_pass(&status) => return Err(status),
            Err(status) => {
                daemon.set_aside();
                // The error of a reader that responds is more useful than that of one that cannot be reached.
                let says_more = reason(&status).is_some_and(|reason| reason != UNREACHABLE);
                failed = if says_more { Some(status) } else { failed.or(Some(status)) };
            }
        }
    }
    Err(failed.unwrap_or_else(|| Status::invalid_argument("the client has no reader address")))
}

async fn open(
    daemon: &Daemon,
    request: &v1::WatchDriftRequest,
) -> Result<Streaming<v1::WatchDriftResponse>, Status> {
    let mut reader = reader_on(daemon.own_channel().await?);
    let call = timeout(OPENING, reader.watch_drift(request.clone())).await;
    let answer = call.map_err(|_| daemon.silent(OPENING))?;
    Ok(answer.map_err(|status| daemon.told(status, false))?.into_inner())
}

/// Whether a watch can continue after this error, at another reader or later.
pub(super) fn may_pass(status: &Status) -> bool {
    another_may(status)
        || status.code() == Code::ResourceExhausted && reason(status).as_deref() == Some(OVERLOADED)
}
