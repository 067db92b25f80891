//! A Rust client: one handle for the writer and any number of readers. It retries only if that is safe.
//!
//! ```no_run
//! use driftdb::client::Client;
//! use driftdb::v1;
//!
//! # async fn tour() -> Result<(), tonic::Status> {
//! let client = Client::new(["127.0.0.1:7401"], ["127.0.0.1:7402"]);
//! let orders = v1::CreateTableRequest { table: "orders".into(), primary_key: "id".into(), ..Default::default() };
//! client.create_table(orders).await?;
//! let inserted = client.insert("orders", r#"{"id":"o1","status":"pending"}"#).await?;
//! client.patch("orders", "o1", r#"{"status":"paid"}"#).await?;
//!
//! // A client reads its own writes.
//! let now = client.get("orders", "o1").await?.expect("the row exists");
//! assert_eq!(now.json(), Some(r#"{"id":"o1","status":"paid"}"#));
//!
//! let pending = v1::SelectRequest {
//!     table: "orders".into(),
//!     r#where: "status = $1".into(),
//!     params: vec![r#""pending""#.into()],
//!     as_of: Some(v1::AsOf::seq(inserted.seq)),
//!     ..Default::default()
//! };
//! let mut rows = client.select(pending).await?;
//! while let Some(row) = rows.next().await? {
//!     println!("{} was pending as of commit {}", row.key, rows.header().read_seq);
//! }
//! # Ok(())
//! # }
//! ```

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::v1;
use v1::reader_service_client::ReaderServiceClient;
use v1::writer_service_client::WriterServiceClient;

mod answers;
mod maintaining;
mod opening;
mod pauses;
mod pool;
mod reading;
mod shorthand;
#[cfg(test)]
mod tests;
mod watching;
mod writing;

pub use answers::{Answers, Rows};
use pauses::Pauses;
use pool::{Daemon, Daemons};
pub use watching::{Watch, WatchEvent};
pub use writing::{Executed, Written};

/// The API of a writer, on a connection of a [`Client`].
pub type Writer = WriterServiceClient<Channel>;
/// The API of a reader, on a connection of a [`Client`].
pub type Reader = ReaderServiceClient<Channel>;

/// The domain of DriftDB in `google.rpc.ErrorInfo`.
const DOMAIN: &str = "driftdb.v1";
/// The reason if a daemon cannot be reached: nothing was sent.
const UNREACHABLE: &str = "UNREACHABLE";
/// The error detail that holds the address of that daemon.
const ADDRESS: &str = "address";
/// The reason of a standby writer, which has executed nothing.
const STANDBY: &str = "STANDBY";
/// The error detail that holds the address of the active writer.
const WRITER: &str = "writer";
/// The reason if the response to a write is missing.
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// How long a writer may take to report its status. A stopped process accepts connections and never responds.
const ANSWER: Duration = Duration::from_secs(5);
/// The maximum size of a message from a daemon, in bytes.
const MESSAGE_BYTES: usize = 64 << 20;

/// The options of a [`Client`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The number of connections to each daemon. Calls use them in turn. Default: 2.
    pub connections: usize,
    /// Whether writes get a random request id if they have none. The writer executes a request id only once, so a write
    /// with an id can be retried safely. Default: true.
    pub request_ids: bool,
    /// How often a write is tried at each writer. Default: 20.
    pub tries: usize,
    /// How long a write is retried after its first try. Default: 30 s.
    pub patience: Duration,
    /// Whether reads return what the reader has. Otherwise they wait for this client's own writes and, if there are several
    /// readers, for the newest state that this client has read. Default: false.
    pub stale: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            connections: 2,
            request_ids: true,
            tries: 20,
            patience: Duration::from_secs(30),
            stale: false,
        }
    }
}

/// A database: its writer and its readers. Clones share connections and the newest write.
#[derive(Debug, Clone)]
pub struct Client {
    options: Options,
    writers: Arc<Daemons>,
    readers: Arc<Daemons>,
    known: Arc<Mutex<Known>>,
}

/// The state that reads must include.
#[derive(Debug, Default)]
struct Known {
    /// The newest write of this client.
    written: Option<v1::WriteToken>,
    /// The epoch and seq of the newest state that a reader has returned.
    seen: Option<(u64, u64)>,
}

impl Client {
    /// Creates a client of the daemons at these addresses; `http://` can be omitted. It connects when a call needs it.
    /// One writer is active; the client finds it among those named, also after a takeover. Reads use the readers in turn;
    /// one that failed or was behind is used after the others for some seconds.
    pub fn new<W: AsRef<str>, R: AsRef<str>>(
        writers: impl IntoIterator<Item = W>,
        readers: impl IntoIterator<Item = R>,
    ) -> Client {
        Client::with(Options::default(), writers, readers)
    }

    /// Like [`Client::new`], with options.
    pub fn with<W: AsRef<str>, R: AsRef<str>>(
        options: Options,
        writers: impl IntoIterator<Item = W>,
        readers: impl IntoIterator<Item = R>,
    ) -> Client {
        let writers = writers.into_iter().map(|a| Daemon::at("writer", a.as_ref(), options.connections));
        let readers = readers.into_iter().map(|a| Daemon::at("reader", a.as_ref(), options.connections));
        let (writers, readers) = (Daemons::new(writers.collect()), Daemons::new(readers.collect()));
        Client { options, writers, readers, known: Arc::default() }
    }

    /// Creates a client on existing connections, for example to daemons in this process.
    pub fn on(options: Options, writer: Option<Channel>, reader: Option<Channel>) -> Client {
        let writer = writer.map(|channel| Daemon::on("writer", channel));
        let reader = reader.map(|channel| Daemon::on("reader", channel));
        let writers = Daemons::new(writer.into_iter().collect());
        let readers = Daemons::new(reader.into_iter().collect());
        Client { options, writers, readers, known: Arc::default() }
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

    /// Forgets what was written and read. After a restore, reads would otherwise be rejected, because the history changed.
    pub fn forget(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the active writer. During a takeover, waits for it up to the patience of the options. Calls on the returned
    /// writer are not retried.
    pub async fn writer(&self) -> Result<Writer, Status> {
        if let [only] = self.writers.all() {
            return only.channel().await.map(writer_on);
        }
        let mut pauses = Pauses::new(self.options.patience);
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

    async fn find_writer(&self) -> Result<(Writer, v1::WriterServiceStatusResponse), Status> {
        let mut failed: Option<Status> = None;
        for (index, daemon) in self.writers.in_turn() {
            let answer = match daemon.channel().await {
                Ok(channel) => {
                    let mut writer = writer_on(channel);
                    match timeout(ANSWER, writer.status(v1::WriterServiceStatusRequest {})).await {
                        Ok(Ok(answer)) => Ok((writer, answer.into_inner())),
                        Ok(Err(status)) => Err(daemon.told(status, false)),
                        Err(_) => Err(daemon.silent(ANSWER)),
                    }
                }
                Err(status) => Err(status),
            };
            match answer {
                Ok(found) => {
                    self.writers.prefer(index);
                    return Ok(found);
                }
                Err(status) => {
                    // The error of a standby is more useful than that of a writer that cannot be reached.
                    let says_more = is_standby(&status) && !failed.as_ref().is_some_and(is_standby);
                    failed = if says_more { Some(status) } else { failed.or(Some(status)) };
                }
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("the client has no writer address")))
    }

    /// The addresses of the writers.
    pub fn writers(&self) -> impl Iterator<Item = &str> {
        self.writers.all().iter().map(|daemon| daemon.address())
    }

    /// One of the writers by its index in [`Client::writers`], active or standby.
    pub async fn writer_at(&self, index: usize) -> Result<Writer, Status> {
        let daemon = self.writers.all().get(index);
        let daemon = daemon.ok_or_else(|| Status::invalid_argument(format!("writer index {index} is out of range")))?;
        daemon.channel().await.map(writer_on)
    }

    /// The addresses of the readers.
    pub fn readers(&self) -> impl Iterator<Item = &str> {
        self.readers.all().iter().map(|daemon| daemon.address())
    }

    /// One of the readers by its index in [`Client::readers`]. Calls on it are not retried.
    pub async fn reader(&self, index: usize) -> Result<Reader, Status> {
        let daemon = self.readers.all().get(index);
        let daemon = daemon.ok_or_else(|| Status::invalid_argument(format!("reader index {index} is out of range")))?;
        daemon.channel().await.map(reader_on)
    }
}

/// Connects to a daemon, with the settings of a [`Client`].
pub async fn connect(address: &str) -> Result<Channel, Status> {
    Daemon::at("server", address, 1).channel().await
}

/// The API of a writer on a connection, without a limit for responses below that of the daemon.
pub fn writer_on(channel: Channel) -> Writer {
    WriterServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// The API of a reader on a connection, without a limit for responses below that of the daemon.
pub fn reader_on(channel: Channel) -> Reader {
    ReaderServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// The address of the daemon that could not be reached, if that is why a call failed.
pub fn unreachable_at(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(ADDRESS).filter(|_| info.reason == UNREACHABLE)
}

/// The address of the active writer, if a call failed because the writer is a standby and knows the address.
pub fn standby_for(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(WRITER).filter(|_| info.reason == STANDBY)
}

fn is_standby(status: &Status) -> bool {
    reason(status).as_deref() == Some(STANDBY)
}

/// The machine-readable reason of a failed call, such as `ROW_EXISTS`, if a daemon of DriftDB gave one.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}
