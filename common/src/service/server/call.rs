//! One call: reserves the memory of its request and its answer around the handler, and ends it at its deadline.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response};
use hyper::body::Incoming;
use hyper::service::Service as HyperService;
use tonic::Status;
use tonic::body::Body;

use crate::error::{Error, Reason};
use crate::service::server::answer_body::{AnswerBody, answer, refusal};
use crate::service::server::call_memory::CallMemory;
use crate::service::server::connection_calls::CallQueue;
use crate::service::server::connections::ConnectionState;
use crate::service::server::request_body::RequestBody;
use crate::service::server::services::{ServerServices, ServiceFuture};
use crate::service::status::to_status;

/// Memory that a header takes besides its name and value.
const HEADER_OVERHEAD_BYTES: usize = 64;

/// Serves the calls of one connection.
pub struct CallService {
    services: ServerServices,
    connection: Arc<ConnectionState>,
    calls: CallQueue,
}

impl CallService {
    /// Serves calls with `services`, and announces them to `calls`.
    pub fn new(services: ServerServices, connection: Arc<ConnectionState>, calls: CallQueue) -> CallService {
        CallService { services, connection, calls }
    }
}

impl HyperService<Request<Incoming>> for CallService {
    type Response = Response<AnswerBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        match CallMemory::open(&self.connection, header_bytes(request.headers())) {
            Ok(memory) => {
                self.calls.announce(&memory);
                let timeout = timeout(request.headers());
                let mut request = request.map(|body| Body::new(RequestBody::new(body, memory.clone())));
                request.extensions_mut().insert(memory.clone());
                let handler = self.services.call(request);
                Box::pin(async move { Ok(serve(handler, timeout, memory).await) })
            }
            Err(error) => Box::pin(std::future::ready(Ok(refusal(to_status(error))))),
        }
    }
}

/// Runs the handler of a call until it has an answer, or until the time of the call is over.
async fn serve(
    handler: ServiceFuture,
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

/// The time that the client gives the call: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = Some(number).filter(|number| number.len() <= 8)?.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
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
