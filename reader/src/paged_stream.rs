//! Response streams that compute one page at a time, at the pace of the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

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

/// As [`stream_pages`], for answers whose messages hold little each: a step computes a page of messages, which are returned one by one.
/// A change of threads for each message would cost much more than the message.
pub fn stream_messages<T, F>(query: RunningQuery, step: F) -> ResponseStream<T>
where
    T: Send + Unpin + 'static,
    F: FnMut() -> Result<PageStep<Vec<T>>> + Send + 'static,
{
    Box::pin(PagedMessages { pages: stream_pages(query, step), page: Vec::new().into_iter() })
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

struct PagedMessages<T> {
    pages: ResponseStream<Vec<T>>,
    /// What is left of the last page.
    page: std::vec::IntoIter<T>,
}

impl<T: Unpin> Stream for PagedMessages<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(message) = this.page.next() {
                return Poll::Ready(Some(Ok(message)));
            }
            match ready!(this.pages.as_mut().poll_next(cx)) {
                Some(Ok(page)) => this.page = page.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
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

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt as _;

    use super::*;

    /// The messages of some pages, after the last of which comes an error if there is one.
    async fn messages(pages: Vec<Vec<u8>>, error: Option<Status>) -> Vec<Result<u8, String>> {
        let pages = pages.into_iter().map(Ok).chain(error.map(Err));
        let stream =
            PagedMessages { pages: Box::pin(tokio_stream::iter(pages)), page: Vec::new().into_iter() };
        stream.map(|message| message.map_err(|status| status.message().to_owned())).collect().await
    }

    #[tokio::test]
    async fn the_messages_of_pages_come_one_by_one_and_an_error_after_those_before_it() {
        let pages = vec![vec![], vec![1, 2], vec![], vec![3]];
        assert_eq!(messages(pages.clone(), None).await, [Ok(1), Ok(2), Ok(3)]);
        let failed = messages(pages, Some(Status::internal("lost"))).await;
        assert_eq!(failed, [Ok(1), Ok(2), Ok(3), Err("lost".to_owned())]);
        assert_eq!(messages(Vec::new(), None).await, []);
    }
}
