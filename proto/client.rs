//! A client in Rust: the writer and any number of readers behind one handle, which retries only where that is safe.
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
//! // What this client has written, it reads.
//! let now = client.get("orders", "o1").await?.expect("it was written");
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

/// A writer's API, on a connection of a [`Client`].
pub type Writer = WriterServiceClient<Channel>;
/// A reader's API, on a connection of a [`Client`].
pub type Reader = ReaderServiceClient<Channel>;

/// The domain of DriftDB's `google.rpc.ErrorInfo`.
const DOMAIN: &str = "driftdb.v1";
/// The reason where nobody answers at an address: nothing was sent.
const UNREACHABLE: &str = "UNREACHABLE";
/// The detail of it that says where.
const ADDRESS: &str = "address";
/// The reason of a writer that waits for another's end, and has done nothing.
const STANDBY: &str = "STANDBY";
/// The detail of it that says where the other one is.
const WRITER: &str = "writer";
/// The reason where a write's answer is missing.
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// How long a writer may take to say how it is. One that is stopped takes connections, and never answers.
const ANSWER: Duration = Duration::from_secs(5);
/// The largest message that a daemon sends.
const MESSAGE_BYTES: usize = 64 << 20;

/// How a client behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Connections to each daemon. Calls take them in turn.
    pub connections: usize,
    /// Whether writes get a random request id, where they have none of their own. One with an id can be sent again
    /// safely, because the writer does it only once.
    pub request_ids: bool,
    /// How often a write is tried, at each writer.
    pub tries: usize,
    /// How long after its beginning a write may still be tried again.
    pub patience: Duration,
    /// Whether reads take what the reader has, instead of waiting for this client's own writes and, where there are
    /// several readers, for what it has read before.
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

/// A database: its writer and its readers. Clones share the connections and what was written last.
#[derive(Debug, Clone)]
pub struct Client {
    options: Options,
    writers: Arc<Daemons>,
    readers: Arc<Daemons>,
    known: Arc<Mutex<Known>>,
}

/// What reads must not fall behind.
#[derive(Debug, Default)]
struct Known {
    /// The newest write of this client.
    written: Option<v1::WriteToken>,
    /// The history and the newest moment that a reader has answered of.
    seen: Option<(u64, u64)>,
}

impl Client {
    /// A client of the daemons at these addresses; `http://` may be left out. Nothing is connected until it is needed.
    /// One writer serves a database: the one that is found among those named, also after another has taken over. Reads go
    /// round over the readers; one that failed or was behind is asked after the others for a while.
    pub fn new<W: AsRef<str>, R: AsRef<str>>(
        writers: impl IntoIterator<Item = W>,
        readers: impl IntoIterator<Item = R>,
    ) -> Client {
        Client::with(Options::default(), writers, readers)
    }

    /// The same, with options.
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

    /// A client on connections that were made elsewhere: of any kind, to daemons in this process say.
    pub fn on(options: Options, writer: Option<Channel>, reader: Option<Channel>) -> Client {
        let writer = writer.map(|channel| Daemon::on("writer", channel));
        let reader = reader.map(|channel| Daemon::on("reader", channel));
        let writers = Daemons::new(writer.into_iter().collect());
        let readers = Daemons::new(reader.into_iter().collect());
        Client { options, writers, readers, known: Arc::default() }
    }

    /// The newest write of this client, which its reads see.
    pub fn token(&self) -> Option<v1::WriteToken> {
        self.known().written
    }

    /// Remembers a write that was made elsewhere, so that reads see it.
    pub fn wrote(&self, token: v1::WriteToken) {
        let mut known = self.known();
        // After a restore the numbers begin anew: another epoch is always the newer.
        if known.written.is_none_or(|written| written.epoch != token.epoch || written.seq < token.seq) {
            known.written = Some(token);
        }
    }

    /// Forgets what was written and read: reads after a restore, whose history is another, would be refused.
    pub fn forget(&self) {
        *self.known() = Known::default();
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer: of several, the one that is not standing by; while one takes over, it is waited for, as long as
    /// patience allows. Calls on it are the caller's own: nothing is tried again.
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

    /// What the writer says of itself: the first that answers, and is not standing by.
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
                    // A writer that stands by says more than one that is away.
                    let says_more = is_standby(&status) && !failed.as_ref().is_some_and(is_standby);
                    failed = if says_more { Some(status) } else { failed.or(Some(status)) };
                }
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("no writer is named")))
    }

    /// The addresses of the writers.
    pub fn writers(&self) -> impl Iterator<Item = &str> {
        self.writers.all().iter().map(|daemon| daemon.address())
    }

    /// One of the writers, by its place in [`Client::writers`], whether or not it is standing by.
    pub async fn writer_at(&self, index: usize) -> Result<Writer, Status> {
        let daemon = self.writers.all().get(index);
        let daemon = daemon.ok_or_else(|| Status::invalid_argument(format!("there is no writer {index}")))?;
        daemon.channel().await.map(writer_on)
    }

    /// The addresses of the readers.
    pub fn readers(&self) -> impl Iterator<Item = &str> {
        self.readers.all().iter().map(|daemon| daemon.address())
    }

    /// One of the readers, by its place in [`Client::readers`]. Calls on it are the caller's own.
    pub async fn reader(&self, index: usize) -> Result<Reader, Status> {
        let daemon = self.readers.all().get(index);
        let daemon = daemon.ok_or_else(|| Status::invalid_argument(format!("there is no reader {index}")))?;
        daemon.channel().await.map(reader_on)
    }
}

/// A connection to a daemon at an address, as a [`Client`] makes it.
pub async fn connect(address: &str) -> Result<Channel, Status> {
    Daemon::at("server", address, 1).channel().await
}

/// A writer's API on a connection, for answers of any size a daemon sends.
pub fn writer_on(channel: Channel) -> Writer {
    WriterServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// A reader's API on a connection, for answers of any size a daemon sends.
pub fn reader_on(channel: Channel) -> Reader {
    ReaderServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES)
}

/// The address at which nobody answered, where that is what failed.
pub fn unreachable_at(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(ADDRESS).filter(|_| info.reason == UNREACHABLE)
}

/// The address of the writer that a standby waits for, where that is what a call failed with and it is known.
pub fn standby_for(status: &Status) -> Option<String> {
    let mut info = status.get_details_error_info().filter(|info| info.domain == DOMAIN)?;
    info.metadata.remove(WRITER).filter(|_| info.reason == STANDBY)
}

fn is_standby(status: &Status) -> bool {
    reason(status).as_deref() == Some(STANDBY)
}

/// The machine-readable reason of a failed call, `ROW_EXISTS` for one, where a daemon of DriftDB gave it.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}
