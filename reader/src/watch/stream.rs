//! A watch session as the response stream of WatchDrift.

use std::pin::Pin;
use std::task::{Context, Poll};

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::server::ResponseStream;
use driftdb_common::service::status::to_status;
use tokio_stream::Stream;
use tokio_util::sync::ReusableBoxFuture;
use tonic::Status;

use crate::watch::session::WatchSession;

/// The stream of a session's messages. An error ends the stream.
pub fn stream(session: WatchSession) -> ResponseStream<v1::WatchDriftResponse> {
    Box::pin(SessionStream { next: ReusableBoxFuture::new(step(session)), ended: false })
}

/// A session, and the message that it has computed.
type SessionStep = (WatchSession, Result<Option<v1::WatchDriftResponse>>);

async fn step(mut session: WatchSession) -> SessionStep {
    let message = session.next_message().await;
    (session, message)
}

struct SessionStream {
    /// Computes the next message. All messages use the same allocation.
    next: ReusableBoxFuture<'static, SessionStep>,
    ended: bool,
}

impl Stream for SessionStream {
    type Item = Result<v1::WatchDriftResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready((session, message)) = self.next.poll(cx) else { return Poll::Pending };
        match message {
            Ok(Some(message)) => {
                self.next.set(step(session));
                Poll::Ready(Some(Ok(message)))
            }
            Ok(None) => {
                self.ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                self.ended = true;
                Poll::Ready(Some(Err(to_status(error))))
            }
        }
    }
}
