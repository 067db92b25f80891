//! A service for every principal, whatever it may read: reflection. Its streams end when the rules do not know their caller any more.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

use crate::error::Error;
use crate::service::access::caller::Caller;
use crate::service::access::lease::{LeaseNeeds, StreamLease};
use crate::service::server::services::ServiceFuture;
use crate::service::status::to_status;

/// A service that says nothing of tables.
#[derive(Debug, Clone)]
pub struct ForPrincipals<S>(pub S);

impl<S: NamedService> NamedService for ForPrincipals<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for ForPrincipals<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = ServiceFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> ServiceFuture {
        let caller = match Caller::in_extensions(request.extensions().get()) {
            Ok(caller) => caller,
            Err(unauthenticated) => return Box::pin(ready(Ok(unauthenticated.into_http()))),
        };
        let answer = self.0.call(request);
        Box::pin(async move {
            let mut lease = StreamLease::new(&caller, LeaseNeeds::Principal);
            let ended = Box::pin(async move { lease.ended().await });
            Ok(answer.await?.map(|body| Body::new(LeasedBody { body, ended, has_ended: false })))
        })
    }
}

/// The body of an answer, which ends when the lease of its call does.
struct LeasedBody {
    body: Body,
    ended: Pin<Box<dyn Future<Output = Error> + Send>>,
    has_ended: bool,
}

impl http_body::Body for LeasedBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.has_ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(error) = this.ended.as_mut().poll(cx) else {
            return Pin::new(&mut this.body).poll_frame(cx);
        };
        this.has_ended = true;
        // As trailers: an error of the body would reset the stream, and say nothing.
        let (status, mut trailers) = (to_status(error), HeaderMap::new());
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
        }
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
    }
}
