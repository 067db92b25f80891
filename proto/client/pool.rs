//! Connections to one daemon, and what their failures mean.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, ConnectError, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::{ADDRESS, DOMAIN, OUTCOME_UNKNOWN, UNREACHABLE, reason};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection with calls open that is silent for this long, and again after being asked, is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A daemon: its address, and connections that are made when they are first needed.
#[derive(Debug)]
pub(super) struct Daemon {
    what: &'static str,
    address: String,
    channels: Vec<OnceCell<Channel>>,
    next: AtomicUsize,
}

impl Daemon {
    /// The daemon at an address, whose `http://` may be left out; `what` names it in errors.
    pub(super) fn at(what: &'static str, address: &str, connections: usize) -> Daemon {
        let address = match address.contains("://") {
            true => address.to_owned(),
            false => format!("http://{address}"),
        };
        let channels = (0..connections.max(1)).map(|_| OnceCell::new()).collect();
        Daemon { what, address, channels, next: AtomicUsize::new(0) }
    }

    /// The daemon behind a connection that was made elsewhere.
    pub(super) fn on(what: &'static str, channel: Channel) -> Daemon {
        let channels = vec![OnceCell::new_with(Some(channel))];
        Daemon { what, address: "this process".to_owned(), channels, next: AtomicUsize::new(0) }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// One of the connections, in turn.
    pub(super) async fn channel(&self) -> Result<Channel, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.channels.len());
        let slot = turn.and_then(|turn| self.channels.get(turn));
        let slot = slot.ok_or_else(|| Status::internal("a daemon without connections"))?;
        slot.get_or_try_init(|| self.connect()).await.cloned()
    }

    async fn connect(&self) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(self.address.clone()).map_err(|e| {
            Status::invalid_argument(format!("{:?} is no address of a {}: {e}", self.address, self.what))
        })?;
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        endpoint.connect().await.map_err(|e| self.unreachable(&e))
    }

    fn unreachable(&self, error: &dyn Error) -> Status {
        let message = format!("cannot reach the {} at {}: {}", self.what, self.address, innermost(error));
        self.status(Code::Unavailable, UNREACHABLE, message)
    }

    /// A failed call as its caller should see it: what the daemon said, or what became of the connection. A request that
    /// never left is UNAVAILABLE; where `writes`, one whose answer is missing is UNKNOWN.
    pub(super) fn told(&self, status: Status, writes: bool) -> Status {
        if reason(&status).is_some() {
            return status;
        }
        if let Some(refused) = find::<ConnectError>(&status) {
            return self.unreachable(refused);
        }
        let lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        let Some(cause) = status.source().map(innermost).or(lost.then(|| status.message().to_owned())) else {
            return status;
        };
        let what = format!("the connection to the {} at {} broke", self.what, self.address);
        match writes {
            true => {
                let message = format!("{what} before the answer, so the outcome is not known: {cause}");
                self.status(Code::Unknown, OUTCOME_UNKNOWN, message)
            }
            false => Status::unavailable(format!("{what}: {cause}")),
        }
    }

    fn status(&self, code: Code, reason: &str, message: String) -> Status {
        let metadata = HashMap::from([(ADDRESS.to_owned(), self.address.clone())]);
        Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
    }
}

/// An error of some type behind a status.
fn find<T: Error + 'static>(status: &Status) -> Option<&T> {
    let mut error = status.source();
    while let Some(found) = error {
        if let Some(found) = found.downcast_ref() {
            return Some(found);
        }
        error = found.source();
    }
    None
}

fn innermost(error: &dyn Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
