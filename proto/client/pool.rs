//! Interchangeable daemons, the connections to them, and the meaning of their failures.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::sync::OnceCell;
use tonic::codegen::http::uri::Scheme;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, ConnectError, Status};
use tonic_types::{ErrorDetails, StatusExt};
use tower::service_fn;

use super::api::{ReaderApi, WriterApi, reader_with, writer_with};
use super::credentials::{Credentials, SharedToken};
use super::reasons::{ADDRESS, DOMAIN, OUTCOME_UNKNOWN, STATEMENT_TIMEOUT, TLS_FAILED, UNREACHABLE, reason};
use super::tls::{self, ClientTls, TlsFailure};

/// How long it may take to connect.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection with open calls is considered broken if it is silent for this long, and again after a ping. This is
/// short enough that a write can still be retried at another writer.
const KEEPALIVE: Duration = Duration::from_secs(5);
/// Why an `https://` address cannot be used.
const NO_CA: &str = "https:// needs the certificates of the CAs to trust: give a file with them (driftctl: --tls-ca), for example ca.pem \
                     of `driftctl cert new`, or /etc/ssl/certs/ca-certificates.crt for public CAs";
/// How long a daemon that failed or was behind is used only after the others.
const ASIDE: Duration = Duration::from_secs(5);

/// Interchangeable daemons.
#[derive(Debug)]
pub(super) struct BackendPool {
    all: Vec<Arc<Backend>>,
    /// The index of the daemon to use first.
    first: AtomicUsize,
}

impl BackendPool {
    pub(super) fn new(all: Vec<Backend>) -> Arc<BackendPool> {
        Arc::new(BackendPool { all: all.into_iter().map(Arc::new).collect(), first: AtomicUsize::new(0) })
    }

    pub(super) fn all(&self) -> &[Arc<Backend>] {
        &self.all
    }

    /// The daemon with this index; `what` names it in errors.
    pub(super) fn get(&self, what: &str, index: usize) -> Result<&Backend, Status> {
        let backend = self.all.get(index).map(|backend| &**backend);
        let message = || format!("{what} index {index} is out of range: the client has {}", self.all.len());
        backend.ok_or_else(|| Status::invalid_argument(message()))
    }

    /// All daemons with their indexes, starting with the one to use first.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = (usize, &Arc<Backend>)> {
        self.from(self.first.load(Ordering::Relaxed))
    }

    /// All daemons, starting with the next one in turn; those set aside come last.
    pub(super) fn round(&self) -> impl Iterator<Item = &Arc<Backend>> {
        let mut backends: Vec<_> = self.from(self.first.fetch_add(1, Ordering::Relaxed)).collect();
        if backends.len() > 1 {
            backends.sort_by_cached_key(|(_, backend)| backend.is_aside());
        }
        backends.into_iter().map(|(_, backend)| backend)
    }

    fn from(&self, first: usize) -> impl Iterator<Item = (usize, &Arc<Backend>)> {
        let first = first.checked_rem(self.all.len()).unwrap_or_default();
        let all = self.all.iter().enumerate();
        all.clone().skip(first).chain(all.take(first))
    }

    /// Makes the next daemon the first one, unless another call has already chosen one.
    pub(super) fn pass_over(&self, index: usize) {
        let next = (index + 1).checked_rem(self.all.len()).unwrap_or_default();
        let _ = self.first.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Makes this daemon the first one.
    pub(super) fn prefer(&self, index: usize) {
        self.first.store(index, Ordering::Relaxed);
    }
}

/// A daemon: its address, and connections that are opened when they are first needed.
#[derive(Debug)]
pub(super) struct Backend {
    what: &'static str,
    address: String,
    /// For `https://` addresses, and for others whose daemon has TLS.
    tls: Option<Arc<ClientTls>>,
    channels: Vec<OnceCell<Channel>>,
    next: AtomicUsize,
    credentials: Credentials,
    /// The connection was given by the caller, and no other can be opened.
    given: bool,
    aside: Mutex<Option<Instant>>,
}

impl Backend {
    /// The daemon at an address; `https://` can be omitted with TLS, and `http://` without. `what` names it in errors.
    pub(super) fn at(
        what: &'static str,
        address: &str,
        connections: usize,
        (tls, token): (Option<&ClientTls>, &SharedToken),
    ) -> Backend {
        let address = match (address.contains("://"), tls) {
            (true, _) => address.to_owned(),
            (false, Some(_)) => format!("https://{address}"),
            (false, None) => format!("http://{address}"),
        };
        let channels = (0..connections.max(1)).map(|_| OnceCell::new()).collect();
        let (tls, credentials) = (tls.cloned().map(Arc::new), token.at(&address));
        Backend { tls, credentials, ..Backend::of(what, address, channels, false) }
    }

    /// The daemon behind an existing connection.
    pub(super) fn on(what: &'static str, channel: Channel) -> Backend {
        let channels = vec![OnceCell::new_with(Some(channel))];
        Backend::of(what, "this process".to_owned(), channels, true)
    }

    fn of(what: &'static str, address: String, channels: Vec<OnceCell<Channel>>, given: bool) -> Backend {
        let (next, aside, credentials) = (AtomicUsize::new(0), Mutex::default(), Credentials::default());
        Backend { what, address, tls: None, channels, next, credentials, given, aside }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The API of the daemon, if it is a writer. Fails before it connects if the token must not be sent there.
    pub(super) async fn writer(&self) -> Result<WriterApi, Status> {
        self.credentials.check()?;
        Ok(writer_with(self.channel().await?, self.credentials.clone()))
    }

    /// The API of the daemon, if it is a reader. Fails before it connects if the token must not be sent there.
    pub(super) async fn reader(&self) -> Result<ReaderApi, Status> {
        self.credentials.check()?;
        Ok(reader_with(self.channel().await?, self.credentials.clone()))
    }

    /// As [`Backend::reader`], on a connection for one caller only, who may leave responses unread for any time.
    pub(super) async fn own_reader(&self) -> Result<ReaderApi, Status> {
        self.credentials.check()?;
        let channel = match self.given {
            true => self.channel().await?,
            false => self.connect().await?,
        };
        Ok(reader_with(channel, self.credentials.clone()))
    }

    /// One of the connections, in turn.
    pub(super) async fn channel(&self) -> Result<Channel, Status> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed).checked_rem(self.channels.len());
        let slot = turn.and_then(|turn| self.channels.get(turn));
        let slot = slot.ok_or_else(|| Status::internal("the daemon has no connections"))?;
        slot.get_or_try_init(|| self.connect()).await.cloned()
    }

    /// Notes that the daemon failed or is behind, so that others are preferred for some seconds.
    pub(super) fn set_aside(&self) {
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Notes that the daemon responded.
    pub(super) fn set_healthy(&self) {
        *self.aside.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn is_aside(&self) -> bool {
        let aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.is_some_and(|since| since.elapsed() < ASIDE)
    }

    async fn connect(&self) -> Result<Channel, Status> {
        let parsed = Endpoint::from_shared(self.address.clone()).map_err(|e| {
            Status::invalid_argument(format!(
                "{:?} is not a valid address of a {}: {e}",
                self.address, self.what
            ))
        })?;
        let address = parsed.uri().clone();
        let endpoint = match &self.tls {
            Some(_) => own_tls_endpoint(&address),
            None => parsed,
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let connected = match (&self.tls, address.scheme_str() == Some("https")) {
            (Some(tls), _) => {
                let tls = tls.clone();
                let connect = move |_| {
                    let opening = tls::open(tls.clone(), address.clone());
                    async move { opening.await.map(TokioIo::new) }
                };
                endpoint.connect_with_connector(service_fn(connect)).await
            }
            (None, true) => return Err(self.tls_failed(NO_CA)),
            (None, false) => endpoint.connect().await,
        };
        connected.map_err(|e| self.unreachable(&e))
    }

    /// The error of a TLS handshake that failed, or could not begin. Nothing was sent.
    fn tls_failed(&self, why: &str) -> Status {
        let message = format!("cannot connect to the {} at {}: {why}", self.what, self.address);
        self.status(Code::Unavailable, TLS_FAILED, message)
    }

    fn unreachable(&self, error: &(dyn Error + 'static)) -> Status {
        if let Some(failure) = find_in::<TlsFailure>(Some(error)) {
            return self.tls_failed(&failure.to_string());
        }
        let hint = match self.what {
            "server" => String::new(),
            what => format!(" (is driftdb-{what} running?)"),
        };
        let cause = innermost(error);
        let message = format!("cannot connect to the {} at {}: {cause}{hint}", self.what, self.address);
        self.status(Code::Unavailable, UNREACHABLE, message)
    }

    /// Converts the error of a call for its caller. An error of the daemon stays as it is; a failed connection becomes
    /// UNAVAILABLE if nothing was sent. If `writes` is set and the response is missing, it becomes UNKNOWN.
    pub(super) fn map_status(&self, status: Status, writes: bool) -> Status {
        if reason(&status).is_some() {
            return status;
        }
        if let Some(refused) = find::<ConnectError>(&status) {
            return self.unreachable(refused);
        }
        if status.code() == Code::DeadlineExceeded {
            return self.late(writes);
        }
        let lost = matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled);
        let Some(cause) = status.source().map(innermost).or(lost.then(|| status.message().to_owned())) else {
            return status;
        };
        let what = format!("the connection to the {} at {} broke", self.what, self.address);
        match writes {
            true => {
                let message =
                    format!("{what} before the response, so the outcome of the write is unknown: {cause}");
                self.status(Code::Unknown, OUTCOME_UNKNOWN, message)
            }
            false => Status::unavailable(format!("{what}: {cause}")),
        }
    }

    /// The error if an answer did not come in the time that the call has.
    fn late(&self, writes: bool) -> Status {
        let what = format!("the {} at {} did not answer within the timeout", self.what, self.address);
        match writes {
            true => {
                let message = format!("{what}, so the outcome of the write is unknown");
                self.status(Code::Unknown, OUTCOME_UNKNOWN, message)
            }
            false => {
                let message = format!("{what}; allow more time");
                self.status(Code::DeadlineExceeded, STATEMENT_TIMEOUT, message)
            }
        }
    }

    /// The error if the daemon has not responded for `span`.
    pub(super) fn no_response(&self, span: Duration) -> Status {
        Status::unavailable(format!("the {} at {} has not responded for {span:?}", self.what, self.address))
    }

    fn status(&self, code: Code, reason: &str, message: String) -> Status {
        let metadata = HashMap::from([(ADDRESS.to_owned(), self.address.clone())]);
        Status::with_error_details(code, message, ErrorDetails::with_error_info(reason, DOMAIN, metadata))
    }
}

/// An endpoint whose connections have the TLS of this client. tonic refuses an `https` address without its own TLS if any crate of the
/// program has enabled that: so it gets `http`, and sends `https` as the scheme of the calls.
fn own_tls_endpoint(address: &Uri) -> Endpoint {
    let mut parts = address.clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    match Uri::from_parts(parts) {
        Ok(plain) => Endpoint::from(plain).origin(address.clone()),
        Err(_) => Endpoint::from(address.clone()),
    }
}

/// Finds an error of a type among the sources of a status.
fn find<T: Error + 'static>(status: &Status) -> Option<&T> {
    find_in(status.source())
}

/// Finds an error of a type: the given one, or one of its sources.
fn find_in<'a, T: Error + 'static>(mut error: Option<&'a (dyn Error + 'static)>) -> Option<&'a T> {
    while let Some(found) = error {
        if let Some(found) = found.downcast_ref() {
            return Some(found);
        }
        error = found.source();
    }
    None
}

fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    // The kind is readable; the text of the system adds its number.
    match error.downcast_ref::<std::io::Error>() {
        Some(error) if error.raw_os_error().is_some() => error.kind().to_string(),
        _ => error.to_string(),
    }
}
