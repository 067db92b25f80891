//! Daemons in this process, over a directory: a reader without the lock, a writer under it once something is written.

use std::path::PathBuf;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::service::server::{Listener, MemoryConnector};
use hyper_util::rt::TokioIo;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use super::{db, options};

/// A directory and the daemons that serve it here.
#[derive(Debug)]
pub(super) struct Embedded {
    directory: PathBuf,
    writer: Option<(Channel, Running)>,
    reader: Option<(Channel, Running)>,
}

/// A daemon's task, and what ends it.
#[derive(Debug)]
struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Embedded {
    pub(super) fn new(directory: PathBuf) -> Embedded {
        Embedded { directory, writer: None, reader: None }
    }

    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Opens the directory for writing, under its lock. Whether that is news.
    pub(super) async fn open_writer(&mut self) -> Result<bool> {
        if self.writer.is_some() {
            return Ok(false);
        }
        let config = driftdb_writer::WriterConfig::new(&self.directory);
        let opened = blocking(move || driftdb_writer::Writer::open(config)).await?;
        let (connector, listener) = Listener::memory();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(opened.serve(listener, shutdown.clone()));
        self.writer = Some((channel(connector), Running { shutdown, task }));
        Ok(true)
    }

    /// Opens the directory for reading. Whether that is news.
    pub(super) async fn open_reader(&mut self) -> Result<bool> {
        if self.reader.is_some() {
            return Ok(false);
        }
        let config = driftdb_reader::Config::new(&self.directory);
        let opened = blocking(move || driftdb_reader::Reader::open(config)).await?;
        let (connector, listener) = Listener::memory();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(opened.serve(listener, shutdown.clone()));
        self.reader = Some((channel(connector), Running { shutdown, task }));
        Ok(true)
    }

    /// A client of what is open now, which has written what the one before it has.
    pub(super) fn client(&self, before: &db::Client) -> db::Client {
        let channel =
            |daemon: &Option<(Channel, Running)>| daemon.as_ref().map(|(channel, _)| channel.clone());
        let client = db::Client::on(options(), channel(&self.writer), channel(&self.reader));
        before.token().into_iter().for_each(|token| client.wrote(token));
        client
    }

    /// Ends both daemons; the writer's error is the one that matters.
    pub(super) async fn close(self) -> Result<()> {
        // The connections go first: a daemon waits for those that are open.
        let reader = self.reader.map(|(_, running)| running);
        let writer = self.writer.map(|(_, running)| running);
        let ended = match writer {
            Some(running) => running.end().await,
            None => Ok(()),
        };
        match reader {
            Some(running) => ended.and(running.end().await),
            None => ended,
        }
    }
}

impl Running {
    async fn end(self) -> Result<()> {
        self.shutdown.cancel();
        let ended = self.task.await;
        ended.map_err(|e| Error::new(Reason::Internal, format!("a daemon in this process: {e}")))?
    }
}

/// Runs what blocks away from the tasks that must go on.
async fn blocking<T: Send + 'static>(open: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database: {e}")))?
}

fn channel(connector: MemoryConnector) -> Channel {
    // The address is never looked up: the connector knows where to go.
    let endpoint = Endpoint::from_static("http://embedded");
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move { connector.connect().await.map(TokioIo::new) }
    }))
}
