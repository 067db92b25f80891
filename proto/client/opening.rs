//! The opening of a watch's stream: at the first reader that does, kept over calls that are given up.

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

/// The reason of a reader that has as many watchers as it takes.
const OVERLOADED: &str = "OVERLOADED";
/// How long a reader may take to open a stream.
const OPENING: Duration = Duration::from_secs(30);

/// A stream that is being opened. Whoever waits for it may stop, and wait again later, and it goes on from there.
pub(super) struct Opening(Mutex<Pin<Box<Connecting>>>);

/// In a lock that is never waited for: with it a watch can be shared between threads.
type Connecting = dyn Future<Output = Result<Stream, Status>> + Send;

impl Opening {
    /// Begins at some moment, not before it is waited for.
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

/// A stream of a watch, and where it comes from.
#[derive(Debug)]
pub(super) struct Stream {
    messages: Streaming<v1::WatchDriftResponse>,
    pub(super) daemon: Arc<Daemon>,
    /// When its last message came.
    heard: Instant,
    /// Its first event has come.
    pub(super) opened: bool,
}

impl Stream {
    /// The next message. Where nothing comes for `silence`, the connection is taken for dead.
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

/// Opens a stream at the first reader that does.
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
                // A reader that says no says more than one that is away.
                let says_more = reason(&status).is_some_and(|reason| reason != UNREACHABLE);
                failed = if says_more { Some(status) } else { failed.or(Some(status)) };
            }
        }
    }
    Err(failed.unwrap_or_else(|| Status::invalid_argument("no reader is named")))
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

/// Whether a watch gets over this, at another reader or after a while.
pub(super) fn may_pass(status: &Status) -> bool {
    another_may(status)
        || status.code() == Code::ResourceExhausted && reason(status).as_deref() == Some(OVERLOADED)
}
