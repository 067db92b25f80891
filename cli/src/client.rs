//! Connections to a writer and to readers: over the network, or embedded in this process.

use std::path::PathBuf;
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::reader_service_client::ReaderServiceClient;
use driftdb::v1::writer_service_client::WriterServiceClient;
use driftdb_common::error::{Error, Kind, Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::status::from_status;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};

use crate::args::{DEFAULT_READER, DEFAULT_WRITER, Global};
use crate::exit::ADDRESS;
use crate::render;

mod embedded;
#[cfg(test)]
mod tests;

/// A client of a writer.
pub type Writer = WriterServiceClient<Channel>;
/// A client of a reader.
pub type Reader = ReaderServiceClient<Channel>;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(2);
/// A connection with calls open that is silent for this long, and again after being asked, is given up.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// A database, wherever it is served. Reads see what was written before them.
#[derive(Debug)]
pub struct Client {
    backend: Backend,
    stale: bool,
    /// The newest write of this client.
    token: Option<v1::WriteToken>,
    /// The user knows already that the writer does not answer.
    told: bool,
}

#[derive(Debug)]
enum Backend {
    Remote(Remote),
    Embedded(embedded::Embedded),
}

#[derive(Debug)]
struct Remote {
    writers: Vec<String>,
    readers: Vec<String>,
    writer: Option<Writer>,
    /// A slot per address.
    connected: Vec<Option<Reader>>,
}

impl Client {
    /// The database that the options name. Nothing is connected or opened yet.
    pub fn new(global: &Global) -> Client {
        match &global.data {
            Some(data) => Client::embedded(data.clone()),
            None => Client::remote(
                addresses(&global.writer, DEFAULT_WRITER),
                addresses(&global.reader, DEFAULT_READER),
            ),
        }
        .stale(global.stale)
    }

    /// Daemons at these addresses.
    pub fn remote(writers: Vec<String>, readers: Vec<String>) -> Client {
        let connected = readers.iter().map(|_| None).collect();
        Client::on(Backend::Remote(Remote { writers, readers, writer: None, connected }))
    }

    /// A directory, served in this process.
    pub fn embedded(data: PathBuf) -> Client {
        Client::on(Backend::Embedded(embedded::Embedded::new(data)))
    }

    fn on(backend: Backend) -> Client {
        Client { backend, stale: false, token: None, told: false }
    }

    /// Whether reads do without asking how fresh they must be.
    #[must_use]
    pub fn stale(self, stale: bool) -> Client {
        Client { stale, ..self }
    }

    /// The directory, where it is served in this process.
    pub fn directory(&self) -> Option<&PathBuf> {
        match &self.backend {
            Backend::Remote(_) => None,
            Backend::Embedded(embedded) => Some(embedded.directory()),
        }
    }

    /// The writer: the first address that answers, or the directory's, opened under its lock.
    pub async fn writer(&mut self) -> Result<Writer> {
        match &mut self.backend {
            Backend::Remote(remote) => remote.writer().await,
            Backend::Embedded(embedded) => embedded.writer().await,
        }
    }

    /// Remembers a write, so that later reads see it.
    pub fn wrote(&mut self, token: Option<v1::WriteToken>) {
        if let Some(token) = token {
            self.token = Some(token);
        }
    }

    /// One atomic commit.
    pub async fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::WriteToken> {
        let answer = self.writer().await?.apply(request).await.map_err(|s| from_status(&s))?.into_inner();
        let token = answer
            .token
            .ok_or_else(|| Error::new(Reason::Internal, "the writer answered without a token"))?;
        self.wrote(Some(token));
        Ok(token)
    }

    /// What the writer says of itself.
    pub async fn writer_status(&mut self) -> Result<v1::WriterServiceStatusResponse> {
        let mut writer = self.writer().await?;
        let status = writer.status(v1::WriterServiceStatusRequest {}).await;
        status.map(Response::into_inner).map_err(|s| from_status(&s))
    }

    /// How fresh a reader must be for the next read.
    pub async fn freshness(&mut self) -> Result<Option<v1::Freshness>> {
        if self.stale {
            return Ok(None);
        }
        let own = self.token.map(|t| v1::Freshness { min_seq: t.seq, epoch: t.epoch, ..Default::default() });
        if matches!(self.backend, Backend::Embedded(_)) {
            return Ok(own);
        }
        match self.writer_status().await {
            Ok(status) => {
                let (min_seq, epoch) = (status.last_seq, status.epoch);
                Ok(Some(v1::Freshness { min_seq, epoch, ..Default::default() }))
            }
            Err(error) if error.kind() == Kind::Unavailable => {
                if !self.told {
                    render::note(&format!("note: {}; reading what the reader has", error.message()));
                    self.told = true;
                }
                // The writer may be back later in this session, at another address.
                if let Backend::Remote(remote) = &mut self.backend {
                    remote.writer = None;
                }
                Ok(own)
            }
            Err(error) => Err(error),
        }
    }

    /// How many readers there are to try.
    pub fn readers(&self) -> usize {
        match &self.backend {
            Backend::Remote(remote) => remote.readers.len(),
            Backend::Embedded(_) => 1,
        }
    }

    /// The address of a reader.
    pub fn reader_name(&self, index: usize) -> String {
        match &self.backend {
            Backend::Remote(remote) => remote.readers.get(index).cloned().unwrap_or_default(),
            Backend::Embedded(embedded) => embedded.directory().display().to_string(),
        }
    }

    /// One of the readers.
    pub async fn reader(&mut self, index: usize) -> Result<Reader> {
        match &mut self.backend {
            Backend::Remote(remote) => remote.reader(index).await,
            Backend::Embedded(embedded) => embedded.reader().await,
        }
    }

    /// Asks the readers in turn until one is reachable and has caught up.
    pub async fn read<T>(&mut self, call: impl AsyncFn(Reader) -> Result<T, Status>) -> Result<T> {
        let mut failed: Option<Error> = None;
        for index in 0..self.readers() {
            let answer = match self.reader(index).await {
                Ok(reader) => call(reader).await.map_err(|s| from_status(&s)),
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                // A reader that is behind says more than one that is away.
                Err(error) if error.kind() == Kind::Behind => failed = Some(error),
                Err(error) if error.kind() == Kind::Unavailable => failed = failed.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(Reason::Unreachable, "no reader is named: pass --reader")))
    }

    /// The same for an answer of many messages. Where a reader fails before its first message, the next is asked.
    pub async fn read_stream<M: Send + 'static>(
        &mut self,
        call: impl AsyncFn(Reader) -> Result<Response<Streaming<M>>, Status>,
    ) -> Result<Answers<M>> {
        self.read(async |reader| {
            let mut rest = call(reader).await?.into_inner();
            let first = rest.message().await?;
            Ok(Answers { first, rest })
        })
        .await
    }

    /// Ends what was opened in this process, cleanly.
    pub async fn close(self) -> Result<()> {
        match self.backend {
            Backend::Remote(_) => Ok(()),
            Backend::Embedded(embedded) => embedded.close().await,
        }
    }
}

/// The messages of one answer.
#[derive(Debug)]
pub struct Answers<M> {
    first: Option<M>,
    rest: Streaming<M>,
}

impl<M> Answers<M> {
    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<M>> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.rest.message().await.map_err(|s| from_status(&s)),
        }
    }
}

impl Remote {
    async fn writer(&mut self) -> Result<Writer> {
        if let Some(writer) = &self.writer {
            return Ok(writer.clone());
        }
        let mut failed = None;
        // Only connecting is tried elsewhere: a write that was sent is never sent again.
        for address in &self.writers {
            match connect(address, "writer").await {
                Ok(channel) => {
                    let writer = writer_on(channel);
                    self.writer = Some(writer.clone());
                    return Ok(writer);
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or_else(|| Error::new(Reason::Unreachable, "no writer is named: pass --writer")))
    }

    async fn reader(&mut self, index: usize) -> Result<Reader> {
        let unknown = || Error::new(Reason::Internal, format!("there is no reader {index}"));
        let slot = self.connected.get_mut(index).ok_or_else(unknown)?;
        if let Some(reader) = slot {
            return Ok(reader.clone());
        }
        let address = self.readers.get(index).ok_or_else(unknown)?;
        let reader = reader_on(connect(address, "reader").await?);
        Ok(slot.insert(reader).clone())
    }
}

/// A writer's client, for answers of any size a daemon sends.
pub fn writer_on(channel: Channel) -> Writer {
    WriterServiceClient::new(channel).max_decoding_message_size(limits::REQUEST_BYTES)
}

/// A reader's client, for answers of any size a daemon sends.
pub fn reader_on(channel: Channel) -> Reader {
    ReaderServiceClient::new(channel).max_decoding_message_size(limits::REQUEST_BYTES)
}

/// Connects to a daemon; `what` names it in errors.
pub async fn connect(address: &str, what: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(address.to_owned());
    let endpoint = endpoint.map_err(|e| {
        Error::new(Reason::ArgumentInvalid, format!("{address:?} is no address of a {what}: {e}"))
    })?;
    let endpoint = endpoint
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    endpoint.connect().await.map_err(|e| {
        let message = format!("cannot reach the {what} at {address}: {}", innermost(&e));
        Error::new(Reason::Unreachable, message).with(ADDRESS, address)
    })
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Addresses as given, with the scheme that may be left out.
fn addresses(given: &[String], default: &str) -> Vec<String> {
    if given.is_empty() {
        return vec![default.to_owned()];
    }
    let full = |address: &String| match address.contains("://") {
        true => address.clone(),
        false => format!("http://{address}"),
    };
    given.iter().filter(|address| !address.is_empty()).map(full).collect()
}
