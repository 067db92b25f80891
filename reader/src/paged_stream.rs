//! Streamed answers: computed a bounded step at a time, as fast as the client takes them.

use std::pin::Pin;
use std::task::{Context, Poll};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::status::to_status;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// A stream of messages, as tonic takes it.
pub type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What a step has come to.
#[derive(Debug)]
pub enum Step<T> {
    /// A message.
    Message(T),
    /// The last message.
    Last(T),
    /// No message yet: other requests may go first.
    Working,
    /// No more messages.
    Done,
}

/// A stream that computes its messages by `step`. An error ends it; so does `shutdown`.
pub fn stream<T: Send + 'static>(
    shutdown: CancellationToken,
    step: impl FnMut() -> Result<Step<T>> + Send + Unpin + 'static,
) -> Answers<T> {
    Box::pin(Steps { shutdown, step, ended: false })
}

struct Steps<F> {
    shutdown: CancellationToken,
    step: F,
    ended: bool,
}

impl<T, F: FnMut() -> Result<Step<T>> + Unpin> Stream for Steps<F> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let step = if this.shutdown.is_cancelled() {
            Err(Error::new(Reason::ShuttingDown, "the reader is shutting down: ask again, or elsewhere"))
        } else {
            (this.step)()
        };
        match step {
            Ok(Step::Message(message)) => Poll::Ready(Some(Ok(message))),
            Ok(Step::Last(message)) => {
                this.ended = true;
                Poll::Ready(Some(Ok(message)))
            }
            Ok(Step::Working) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(Step::Done) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Err(error) => {
                this.ended = true;
                Poll::Ready(Some(Err(to_status(error))))
            }
        }
    }
}
