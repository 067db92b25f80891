//! StreamOpening the stream of a watch. An opening survives a call that is cancelled, and the next call continues it.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{Code, Status, Streaming};

use super::handle::Client;
use super::pool::Backend;
use super::reasons::{OVERLOADED, UNREACHABLE, is_retryable_read, reason};
use crate::v1;

/// How long a reader may take to open a stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// A stream that is being opened. A caller can stop waiting for it and continue to wait later.
pub(super) struct StreamOpening(Mutex<Pin<Box<Connecting>>>);

/// The lock is never contended. It makes a watch `Sync`.
type Connecting = dyn Future<Output = Result<OpenStream, Status>> + Send;

impl StreamOpening {
    /// Prepares to open a stream, not before a certain time. Nothing is sent before the first poll.
    pub(super) fn new(
        client: Client,
        request: v1::WatchDriftRequest,
        not_before: Option<Instant>,
    ) -> StreamOpening {
        StreamOpening(Mutex::new(Box::pin(async move {
            if let Some(moment) = not_before {
                sleep_until(moment).await;
            }
            connect(&client, &request).await
        })))
    }
}

impl Future for StreamOpening {
    type Output = Result<OpenStream, Status>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(context)
    }
}

impl fmt::Debug for StreamOpening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOpening").finish_non_exhaustive()
    }
}

/// A stream of a watch, and its reader.
#[derive(Debug)]
pub(super) struct OpenStream {
    messages: Streaming<v1::WatchDriftResponse>,
    pub(super) backend: Arc<Backend>,
    /// When the last message was received.
    heard: Instant,
    /// Whether the first event was received.
    pub(super) opened: bool,
}

impl OpenStream {
    /// Receives the next message. If none arrives within `silence`, the connection is considered broken.
    pub(super) async fn message(
        &mut self,
        silence: Duration,
    ) -> Result<Option<v1::WatchDriftResponse>, Status> {
        let limit = if self.opened { silence } else { OPEN_TIMEOUT };
        let message = timeout_at(self.heard + limit, self.messages.message()).await;
        let message = message.map_err(|_| self.backend.no_response(limit))?;
        self.heard = Instant::now();
        message.map_err(|status| self.backend.map_status(status, false))
    }
}

/// Opens a stream at the first reader that accepts it.
async fn connect(client: &Client, request: &v1::WatchDriftRequest) -> Result<OpenStream, Status> {
    let mut failed: Option<Status> = None;
    for backend in client.readers.round() {
        match open(backend, request).await {
            Ok(messages) => {
                backend.set_healthy();
                let backend = backend.clone();
                return Ok(OpenStream { messages, backend, heard: Instant::now(), opened: false });
            }
            Err(status) if !is_retryable_watch(&status) => return Err(status),
            Err(status) => {
                backend.set_aside();
                // The error of a reader that responds is more useful than that of one that cannot be reached.
                let is_better = reason(&status).is_some_and(|reason| reason != UNREACHABLE);
                failed = if is_better { Some(status) } else { failed.or(Some(status)) };
            }
        }
    }
    Err(failed.unwrap_or_else(|| Status::invalid_argument("the client has no reader address")))
}

async fn open(
    backend: &Backend,
    request: &v1::WatchDriftRequest,
) -> Result<Streaming<v1::WatchDriftResponse>, Status> {
    let mut reader = backend.own_reader().await?;
    let call = timeout(OPEN_TIMEOUT, reader.watch_drift(request.clone())).await;
    let answer = call.map_err(|_| backend.no_response(OPEN_TIMEOUT))?;
    Ok(answer.map_err(|status| backend.map_status(status, false))?.into_inner())
}

/// Whether a watch can continue after this error, at another reader or later.
pub(super) fn is_retryable_watch(status: &Status) -> bool {
    is_retryable_read(status)
        || status.code() == Code::ResourceExhausted && reason(status).as_deref() == Some(OVERLOADED)
}
