//! Response streams that compute one page at a time, at the pace of the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::ResponseStream;
use driftdb_common::service::status::to_status;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The outcome of one step towards the next page.
#[derive(Debug)]
pub enum PageStep<T> {
    /// A page; more may follow.
    Page(T),
    /// The last page.
    LastPage(T),
    /// No page yet. The stream yields to other requests before the next step.
    Working,
    /// The end, after all pages.
    End,
}

impl<T> PageStep<T> {
    /// Converts the page, if the step has one.
    pub fn try_map<U>(self, convert: impl FnOnce(T) -> Result<U>) -> Result<PageStep<U>> {
        Ok(match self {
            PageStep::Page(page) => PageStep::Page(convert(page)?),
            PageStep::LastPage(page) => PageStep::LastPage(convert(page)?),
            PageStep::Working => PageStep::Working,
            PageStep::End => PageStep::End,
        })
    }
}

/// A stream that calls `step` for each page. An error or `shutdown` ends the stream.
///
/// Each step must be short, a few milliseconds, because it runs on a thread of the async runtime.
pub fn stream_pages<T: Send + 'static>(
    shutdown: CancellationToken,
    step: impl FnMut() -> Result<PageStep<T>> + Send + Unpin + 'static,
) -> ResponseStream<T> {
    Box::pin(PagedStream { shutdown, step, ended: false })
}

struct PagedStream<F> {
    shutdown: CancellationToken,
    step: F,
    ended: bool,
}

impl<T, F: FnMut() -> Result<PageStep<T>> + Unpin> Stream for PagedStream<F> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let step = if this.shutdown.is_cancelled() {
            Err(Error::new(Reason::ShuttingDown, "the reader is shutting down; retry, or ask another reader"))
        } else {
            (this.step)()
        };
        match step {
            Ok(PageStep::Page(message)) => Poll::Ready(Some(Ok(message))),
            Ok(PageStep::LastPage(message)) => {
                this.ended = true;
                Poll::Ready(Some(Ok(message)))
            }
            Ok(PageStep::Working) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Ok(PageStep::End) => {
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
