//! The [`Client`] handle: its options, its daemons, and the state that its reads must include.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;

use super::api::{ReaderApi, WriterApi};
use super::credentials::{BearerToken, SharedToken};
use super::pauses::Pauses;
use super::pool::{Backend, BackendPool};
use super::reasons::is_standby;
use super::time_limit::TimeLimit;
use super::tls::ClientTls;
use crate::v1;

/// How long a writer may take to report its status. A stopped process accepts connections and never responds.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// The options of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientOptions {
    /// The number of connections to each daemon. Calls use them in turn. Default: 2.
    pub connections: usize,
    /// Whether writes get a random request id if they have none. The writer executes a request id only once, so a write
    /// with an id can be retried safely. Default: true.
    pub request_ids: bool,
    /// How often a write is tried at each writer. Default: as often as the retry timeout allows.
    pub tries: usize,
    /// How long a write is retried after its first try. Default: 30 s.
    pub retry_timeout: Duration,
    /// How long a call waits for its first answer, retries included, and then for each further one. A write whose time is over is
    /// `OUTCOME_UNKNOWN`, a read `STATEMENT_TIMEOUT`. Watches and maintenance jobs have no limit. Default: none.
    pub timeout: Option<Duration>,
    /// Whether reads return what the reader has. Otherwise they wait for this client's own writes and, if there are
    /// several readers, for the newest state that this client has read. Default: false.
    pub stale: bool,
    /// The token that proves who calls, for daemons with --auth-file. It is sent only over TLS, or to this machine. Default: none.
    pub token: Option<BearerToken>,
    /// TLS, for `https://` addresses and those without a scheme. Default: none.
    pub tls: Option<ClientTls>,
    /// The IANA name of the time zone in which conditions and statements mean "yesterday", unless their request names one. Default:
    /// UTC.
    pub time_zone: String,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            connections: 2,
            request_ids: true,
            tries: usize::MAX,
            retry_timeout: Duration::from_secs(30),
            timeout: None,
            stale: false,
            token: None,
            tls: None,
            time_zone: String::new(),
        }
    }
}

/// A database: its writer and its readers. Clones share connections and the newest write.
#[derive(Debug, Clone)]
pub struct Client {
    pub(super) options: ClientOptions,
    pub(super) writers: Arc<BackendPool>,
    pub(super) readers: Arc<BackendPool>,
    known: Arc<Mutex<Known>>,
    token: SharedToken,
}

/// The state that reads must include.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The newest write of this client.
    pub(super) written: Option<v1::WriteToken>,
    /// The newest state that a reader has returned.
    pub(super) seen: Option<SeenState>,
}

/// A state that a reader has returned.
#[derive(Debug, Clone, Copy)]
pub(super) struct SeenState {
    pub(super) epoch: u64,
    pub(super) incarnation: u64,
    pub(super) seq: u64,
}

impl Client {
    /// Creates a client of the daemons at these addresses; `http://`, or `https://` with TLS, can be omitted. It connects when a call needs it.
    /// One writer is active; the client finds it among those named, also after a takeover. Reads use the readers in
    /// turn; one that failed or was behind is used after the others for some seconds.
    pub fn new<W: AsRef<str>, R: AsRef<str>>(
        writers: impl IntoIterator<Item = W>,
        readers: impl IntoIterator<Item = R>,
    ) -> Client {
        Client::with(ClientOptions::default(), writers, readers)
    }

    /// Like [`Client::new`], with options.
    pub fn with<W: AsRef<str>, R: AsRef<str>>(
        options: ClientOptions,
        writers: impl IntoIterator<Item = W>,
        readers: impl IntoIterator<Item = R>,
    ) -> Client {
        let token = SharedToken::new(options.token.clone());
        let at = |what, address: &str| {
            Backend::at(what, address, options.connections, (options.tls.as_ref(), &token))
        };
        let writers = writers.into_iter().map(|address| at("writer", address.as_ref())).collect();
        let readers = readers.into_iter().map(|address| at("reader", address.as_ref())).collect();
        let (writers, readers) = (BackendPool::new(writers), BackendPool::new(readers));
        Client { options, writers, readers, known: Arc::default(), token }
    }

    /// Creates a client on existing connections, for example to daemons in this process. It sends no token.
    pub fn on(options: ClientOptions, writer: Option<Channel>, reader: Option<Channel>) -> Client {
        let writer = writer.map(|channel| Backend::on("writer", channel));
        let reader = reader.map(|channel| Backend::on("reader", channel));
        let writers = BackendPool::new(writer.into_iter().collect());
        let readers = BackendPool::new(reader.into_iter().collect());
        Client { options, writers, readers, known: Arc::default(), token: SharedToken::default() }
    }

    /// The same client, whose calls wait as long as [`ClientOptions::timeout`] says; `None` for no limit. It shares connections and the
    /// newest write with this one.
    #[must_use]
    pub fn with_timeout(&self, timeout: impl Into<Option<Duration>>) -> Client {
        let options = ClientOptions { timeout: timeout.into(), ..self.options.clone() };
        Client { options, ..self.clone() }
    }

    /// How long a call waits that begins now.
    pub(super) fn limit(&self) -> TimeLimit {
        TimeLimit::new(self.options.timeout)
    }

    /// Replaces the token, for this client and its clones: calls from now on have the new one. Connections stay.
    pub fn set_token(&self, token: Option<BearerToken>) {
        self.token.set(token);
    }

    /// The newest write of this client. Its reads include this write.
    pub fn token(&self) -> Option<v1::WriteToken> {
        self.known().written
    }

    /// Registers a write that was made elsewhere, so that reads include it.
    pub fn wrote(&self, token: v1::WriteToken) {
        let mut known = self.known();
        // After a restore, seqs start again: a token with another epoch is always newer.
        if known.written.is_none_or(|written| written.epoch != token.epoch || written.seq < token.seq) {
            known.written = Some(token);
        }
    }

    /// Forgets what was written and read. After a restore, reads would otherwise be rejected, because the history
    /// changed.
    pub fn forget(&self) {
        *self.known() = Known::default();
    }

    /// Locks the state that reads must include.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the active writer. During a takeover, waits for it up to the retry timeout of the options. Calls on the
    /// returned writer are not retried.
    pub async fn writer(&self) -> Result<WriterApi, Status> {
        if let [only] = self.writers.all() {
            return only.writer().await;
        }
        let mut pauses = Pauses::new(self.options.retry_timeout);
        loop {
            match self.find_writer().await {
                Ok((writer, _)) => return Ok(writer),
                Err(status) if is_standby(&status) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return Err(status),
                },
                Err(status) => return Err(status),
            }
        }
    }

    /// The status of the active writer: the first that responds and is not a standby.
    pub async fn writer_status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        self.find_writer().await.map(|(_, status)| status)
    }

    async fn find_writer(&self) -> Result<(WriterApi, v1::WriterServiceStatusResponse), Status> {
        let mut failed: Option<Status> = None;
        for (index, backend) in self.writers.in_turn() {
            let response = match backend.writer().await {
                Ok(mut writer) => {
                    match timeout(STATUS_TIMEOUT, writer.status(v1::WriterServiceStatusRequest {})).await {
                        Ok(Ok(status)) => Ok((writer, status.into_inner())),
                        Ok(Err(status)) => Err(backend.map_status(status, false)),
                        Err(_) => Err(backend.no_response(STATUS_TIMEOUT)),
                    }
                }
                Err(status) => Err(status),
            };
            match response {
                Ok(found) => {
                    self.writers.prefer(index);
                    return Ok(found);
                }
                Err(status) => {
                    // The error of a standby is more useful than that of a writer that cannot be reached.
                    let is_better = is_standby(&status) && !failed.as_ref().is_some_and(is_standby);
                    failed = if is_better { Some(status) } else { failed.or(Some(status)) };
                }
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("the client has no writer address")))
    }

    /// The addresses of the writers.
    pub fn writers(&self) -> impl Iterator<Item = &str> {
        self.writers.all().iter().map(|backend| backend.address())
    }

    /// One of the writers by its index in [`Client::writers`], active or standby.
    pub async fn writer_at(&self, index: usize) -> Result<WriterApi, Status> {
        self.writers.get("writer", index)?.writer().await
    }

    /// The addresses of the readers.
    pub fn readers(&self) -> impl Iterator<Item = &str> {
        self.readers.all().iter().map(|backend| backend.address())
    }

    /// One of the readers by its index in [`Client::readers`]. Calls on it are not retried.
    pub async fn reader_at(&self, index: usize) -> Result<ReaderApi, Status> {
        self.readers.get("reader", index)?.reader().await
    }
}

/// Connects to a daemon, with the settings of a [`Client`].
pub async fn connect(address: &str) -> Result<Channel, Status> {
    connect_with(address, None).await
}

/// Like [`connect`], with TLS for an `https://` address.
pub async fn connect_with(address: &str, tls: Option<&ClientTls>) -> Result<Channel, Status> {
    Backend::at("server", address, 1, (tls, &SharedToken::default())).channel().await
}
