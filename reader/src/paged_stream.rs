//! Response streams that compute one page at a time, at the pace of the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use driftdb_common::error::Result;
use driftdb_common::service::server::ResponseStream;
use driftdb_common::service::status::to_status;
use tokio_stream::Stream;
use tokio_util::sync::ReusableBoxFuture;
use tonic::Status;

use crate::page_step::PageStep;
use crate::running_query::RunningQuery;

/// A stream that computes each page when it is polled for it, so that a client who does not read costs one page at most. An
/// error ends the stream. Dropping it stops the work.
pub fn stream_pages<T, F>(query: RunningQuery, step: F) -> ResponseStream<T>
where
    T: Send + Unpin + 'static,
    F: FnMut() -> Result<PageStep<T>> + Send + 'static,
{
    stream_pages_after(None, query, step)
}

/// As [`stream_pages`], if the first page may have been computed before.
pub fn stream_pages_after<T, F>(
    first: Option<Result<PageStep<T>>>,
    query: RunningQuery,
    step: F,
) -> ResponseStream<T>
where
    T: Send + Unpin + 'static,
    F: FnMut() -> Result<PageStep<T>> + Send + 'static,
{
    Box::pin(PagedStream { first, next: ReusableBoxFuture::new(next_page(query, step)), ended: false })
}

/// A query, its step unless that was lost, and the page that it has computed.
type NextPage<F, T> = (RunningQuery, Option<F>, Result<PageStep<T>>);

async fn next_page<T, F>(query: RunningQuery, step: F) -> NextPage<F, T>
where
    T: Send + Unpin + 'static,
    F: FnMut() -> Result<PageStep<T>> + Send + 'static,
{
    let (step, page) = query.next_page(step).await;
    (query, step, page)
}

struct PagedStream<F, T> {
    /// The first page, if it has been computed.
    first: Option<Result<PageStep<T>>>,
    /// Computes the next page once it is polled. All pages use the same allocation.
    next: ReusableBoxFuture<'static, NextPage<F, T>>,
    ended: bool,
}

impl<T, F> Stream for PagedStream<F, T>
where
    T: Send + Unpin + 'static,
    F: FnMut() -> Result<PageStep<T>> + Send + 'static,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        if let Some(first) = this.first.take() {
            this.ended = !matches!(first, Ok(PageStep::Page(_)));
            return Poll::Ready(item(first));
        }
        let Poll::Ready((query, step, page)) = this.next.poll(cx) else { return Poll::Pending };
        this.ended = true;
        if let (Ok(PageStep::Page(_)), Some(step)) = (&page, step) {
            this.next.set(next_page(query, step));
            this.ended = false;
        }
        Poll::Ready(item(page))
    }
}

/// What a stream returns for a page.
fn item<T>(page: Result<PageStep<T>>) -> Option<Result<T, Status>> {
    match page {
        Ok(PageStep::Page(message) | PageStep::LastPage(message)) => Some(Ok(message)),
        Ok(PageStep::Working | PageStep::End) => None,
        Err(error) => Some(Err(to_status(error))),
    }
}
