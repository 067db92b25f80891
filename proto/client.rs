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

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt;

use crate::v1;
use v1::reader_service_client::ReaderServiceClient;
use v1::writer_service_client::WriterServiceClient;

mod answers;
mod maintaining;
mod pool;
mod reading;
mod shorthand;
#[cfg(test)]
mod tests;
mod writing;

pub use answers::{Answers, Rows};
use pool::Daemon;
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
/// The reason where a write's answer is missing.
const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
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
    /// How often a write is tried.
    pub tries: usize,
    /// How long after its beginning a write may still be tried again.
    pub patience: Duration,
    /// Whether reads take what the reader has, instead of waiting for this client's own writes.
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
    token: Arc<Mutex<Option<v1::WriteToken>>>,
}

/// Daemons that can stand in for one another.
#[derive(Debug)]
struct Daemons {
    all: Vec<Arc<Daemon>>,
    /// The one that answered last.
    current: AtomicUsize,
}

impl Daemons {
    fn new(all: Vec<Daemon>) -> Arc<Daemons> {
        Arc::new(Daemons { all: all.into_iter().map(Arc::new).collect(), current: AtomicUsize::new(0) })
    }

    /// All of them, the one that answered last first.
    fn in_turn(&self) -> impl Iterator<Item = (usize, &Arc<Daemon>)> {
        let current = self.current.load(Ordering::Relaxed);
        let all = self.all.iter().enumerate();
        all.clone().skip(current).chain(all.take(current))
    }
}

impl Client {
    /// A client of the daemons at these addresses; `http://` may be left out. Nothing is connected until it is needed.
    /// One writer serves a database: others named here take over where it is away. Readers are asked in this order.
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
        Client { options, writers, readers, token: Arc::default() }
    }

    /// A client on connections that were made elsewhere: of any kind, to daemons in this process say.
    pub fn on(options: Options, writer: Option<Channel>, reader: Option<Channel>) -> Client {
        let writer = writer.map(|channel| Daemon::on("writer", channel));
        let reader = reader.map(|channel| Daemon::on("reader", channel));
        let writers = Daemons::new(writer.into_iter().collect());
        let readers = Daemons::new(reader.into_iter().collect());
        Client { options, writers, readers, token: Arc::default() }
    }

    /// The newest write of this client, which its reads see.
    pub fn token(&self) -> Option<v1::WriteToken> {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a write that was made elsewhere, so that reads see it.
    pub fn wrote(&self, token: v1::WriteToken) {
        let mut newest = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        // After a restore the numbers begin anew: another epoch is always the newer.
        if newest.is_none_or(|known| known.epoch != token.epoch || known.seq < token.seq) {
            *newest = Some(token);
        }
    }

    /// Forgets what was written: reads after a restore, whose history is another, would be refused.
    pub fn forget(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The first writer that can be connected. Calls on it are the caller's own: nothing is tried again.
    pub async fn writer(&self) -> Result<Writer, Status> {
        let mut failed = None;
        for (index, daemon) in self.writers.in_turn() {
            match daemon.channel().await {
                Ok(channel) => {
                    self.writers.current.store(index, Ordering::Relaxed);
                    return Ok(writer_on(channel));
                }
                Err(status) => failed = failed.or(Some(status)),
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("no writer is named")))
    }

    /// What the writer says of itself: the first that answers.
    pub async fn writer_status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        let mut failed = None;
        for (index, daemon) in self.writers.in_turn() {
            let answer = match daemon.channel().await {
                Ok(channel) => writer_on(channel).status(v1::WriterServiceStatusRequest {}).await,
                Err(status) => Err(status),
            };
            match answer {
                Ok(answer) => {
                    self.writers.current.store(index, Ordering::Relaxed);
                    return Ok(answer.into_inner());
                }
                Err(status) => failed = failed.or(Some(daemon.told(status, false))),
            }
        }
        Err(failed.unwrap_or_else(|| Status::unavailable("no writer is named")))
    }

    /// The addresses of the readers.
    pub fn readers(&self) -> impl Iterator<Item = &str> {
        self.readers.all.iter().map(|daemon| daemon.address())
    }

    /// One of the readers, by its place in [`Client::readers`]. Calls on it are the caller's own.
    pub async fn reader(&self, index: usize) -> Result<Reader, Status> {
        let daemon = self.readers.all.get(index);
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

/// The machine-readable reason of a failed call, `ROW_EXISTS` for one, where a daemon of DriftDB gave it.
pub fn reason(status: &Status) -> Option<String> {
    let info = status.get_details_error_info()?;
    (info.domain == DOMAIN).then_some(info.reason)
}
