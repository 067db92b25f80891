//! One call: reserves the memory of its request and its answer around the handler, and ends it at its deadline.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use tonic::Status;
use tonic::body::Body;

use crate::error::{Error, Reason, Result};
use crate::planted::{PlantedBug, is_planted};
use crate::service::access::caller::Caller;
use crate::service::access::control::AccessControl;
use crate::service::deadline::parse_timeout;
use crate::service::server::answer_body::{AnswerBody, answer, refusal, timed};
use crate::service::server::call_memory::CallMemory;
use crate::service::server::call_metrics::CallTimer;
use crate::service::server::clients::ClientId;
use crate::service::server::connection_calls::CallQueue;
use crate::service::server::connections::ConnectionState;
use crate::service::server::message_scan::MessageScan;
use crate::service::server::peer::Peer;
use crate::service::server::request_body::RequestBody;
use crate::service::server::services::{ServerServices, ServiceFuture};
use crate::service::status::to_status;
use crate::trace::InTrace;

/// Health checks have no rate: whoever watches a daemon must not take a busy one for a dead one.
const HEALTH: &str = "/grpc.health.v1.Health/";
/// Clients keep a stream of reflection open while a person thinks about the next request.
const REFLECTION: &str = "/grpc.reflection.";
/// Memory that a header takes besides its name and value.
const HEADER_OVERHEAD_BYTES: usize = 64;

/// Serves the calls of one connection.
pub struct CallService {
    services: ServerServices,
    connection: Arc<ConnectionState>,
    calls: CallQueue,
    peer: Arc<Peer>,
    access: Arc<AccessControl>,
    /// Why every call is refused, if it is.
    refused: Option<Status>,
}

impl CallService {
    /// Serves calls of a client with `services`, and announces them to `calls`.
    pub fn new(
        services: ServerServices,
        (connection, calls): (Arc<ConnectionState>, CallQueue),
        peer: Arc<Peer>,
        access: Arc<AccessControl>,
    ) -> CallService {
        CallService { services, connection, calls, peer, access, refused: None }
    }

    /// Refuses every call, if there is a reason.
    #[must_use]
    pub fn refusing(self, why: Option<Error>) -> CallService {
        CallService { refused: why.map(to_status), ..self }
    }
}

impl HyperService<Request<Incoming>> for CallService {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let timer = CallTimer::start(request.uri().path(), request.headers());
        if let Some(why) = &self.refused {
            return Box::pin(std::future::ready(Ok(timed(refusal(why.clone()), timer))));
        }
        match self.admit(&mut request) {
            Ok(memory) => {
                self.calls.announce(&memory);
                let timeout = timeout(request.headers());
                let may_pause = request.uri().path().starts_with(REFLECTION);
                let scan = MessageScan::new(request.uri().path());
                let body = |body| Body::new(RequestBody::new(body, memory.clone(), scan, may_pause));
                let mut request = request.map(body);
                request.extensions_mut().insert(memory.clone());
                let handler = timer.trace().within(self.services.call(request));
                Box::pin(async move { Ok(timed(serve(handler, timeout, memory).await, timer)) })
            }
            Err(error) => Box::pin(std::future::ready(Ok(timed(refusal(to_status(error)), timer)))),
        }
    }
}

impl CallService {
    /// Takes a call, or refuses it: because its token is not valid, or because its client or the server has too many.
    fn admit(&self, request: &mut Request<Incoming>) -> Result<CallMemory> {
        // Who calls is decided here, once, and before any byte of the body is taken. What the caller may do, each handler decides.
        let method = request.uri().path();
        let is_health = method.starts_with(HEALTH);
        let caller = Caller::authenticate(&self.access, request.headers(), Some(&self.peer), method);
        let principal = caller.as_ref().ok().and_then(Caller::principal);
        // Whoever cannot prove who he is counts by his address: nobody may guess as often as he likes.
        let client = match principal {
            Some(principal) => ClientId::Principal(principal.name.as_str().into()),
            None => ClientId::at(self.connection.peer()),
        };
        if !is_health {
            self.connection.clients.count_call(&client, Instant::now())?;
        }
        let caller = caller?;
        // Whether a daemon is alive, anyone may ask. Of anyone else's request not even the body is received.
        if !is_health && !is_planted(PlantedBug::AnonymousHeard) {
            caller.check_known()?;
        }
        request.extensions_mut().insert(caller);
        request.extensions_mut().insert(Arc::clone(&self.peer));
        CallMemory::open(&self.connection, client, header_bytes(request.headers()))
    }
}

/// Runs the handler of a call until it has an answer, or until the time of the call is over.
async fn serve(
    handler: InTrace<ServiceFuture>,
    timeout: Option<Duration>,
    memory: CallMemory,
) -> Response<AnswerBody> {
    let handled = match timeout {
        Some(timeout) => match tokio::time::timeout(timeout, handler).await {
            Ok(handled) => handled,
            Err(_) => return refusal(timed_out(timeout)),
        },
        None => handler.await,
    };
    match handled {
        Ok(response) => {
            if !memory.is_computed_on_demand() {
                memory.release_request();
            }
            answer(response, memory)
        }
        Err(error) => refusal(Status::from_error(error.into())),
    }
}

fn timed_out(timeout: Duration) -> Status {
    let message = format!("the call took longer than its deadline of {timeout:?}; allow more time");
    to_status(Error::new(Reason::StatementTimeout, message))
}

fn header_bytes(headers: &HeaderMap) -> u64 {
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD_BYTES);
    bytes.sum::<usize>() as u64
}

/// The time that the client gives the call.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    parse_timeout(headers.get("grpc-timeout")?.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_a_number_and_a_unit() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(parse("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        assert_eq!(
            (parse("3S"), parse("250m")),
            (Some(Duration::from_secs(3)), Some(Duration::from_millis(250)))
        );
        for wrong in ["", "S", "3", "3s", "-1S", "100000000S", "3 S"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
