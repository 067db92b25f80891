//! Daemons in this process that serve one directory: a reader without the lock, and a writer that holds it.
//!
//! Each daemon is opened when it is first needed, so that a command that only reads never takes the lock.

use std::path::PathBuf;

use driftdb::client::{Client, ClientOptions};
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::service::options::ClockJump;
use driftdb_common::service::server::{Listener, MemoryConnector};
use driftdb_common::storage::fs::OsFileSystem;
use driftdb_common::storage::layout::DataDir;
use driftdb_common::table::check::offline;
use driftdb_common::table::check::verification::{Problem, VerifiedCounts};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint, Uri};

use super::bucket_copy::BucketCopy;

/// Reports of a verification that wait to be printed.
const REPORTS_AHEAD: usize = 64;

/// A directory and the daemons in this process that serve it.
#[derive(Debug)]
pub(super) struct Embedded {
    directory: PathBuf,
    max_clock_jump: Option<ClockJump>,
    /// The bucket whose database is copied into the directory, if any.
    bucket: Option<BucketCopy>,
    writer: Option<(Channel, ServingDaemon)>,
    reader: Option<(Channel, ServingDaemon)>,
}

/// The task of a daemon, and the token that stops it.
#[derive(Debug)]
struct ServingDaemon {
    shutdown: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Embedded {
    /// A directory. `max_clock_jump` is an option of the writer; `None` for its default.
    pub(super) fn new(directory: PathBuf, max_clock_jump: Option<ClockJump>) -> Embedded {
        Embedded { directory, max_clock_jump, bucket: None, writer: None, reader: None }
    }

    /// A bucket, which is copied when it is first read: into `cache`, or into a temporary directory.
    pub(super) fn of_bucket(url: String, cache: Option<PathBuf>) -> Embedded {
        let bucket = Some(BucketCopy::new(url.clone(), cache));
        Embedded { bucket, ..Embedded::new(PathBuf::from(url), None) }
    }

    /// Whether the directory is open for writing.
    pub(super) fn is_writer_open(&self) -> bool {
        self.writer.is_some()
    }

    /// Verifies the files without opening the database.
    pub(super) async fn verify(
        &self,
        request: v1::VerifyRequest,
        progress: impl Fn(v1::Progress),
        problem: impl Fn(v1::verify_response::Problem),
    ) -> Result<v1::verify_response::Summary> {
        if let Some(bucket) = &self.bucket {
            return Err(bucket.verify_error());
        }
        let dir = DataDir::new(&self.directory);
        let (sender, mut receiver) = mpsc::channel(REPORTS_AHEAD);
        let verifying = tokio::task::spawn_blocking(move || {
            let table = Some(request.table.as_str()).filter(|table| !table.is_empty());
            let gone = |_| Error::new(Reason::Cancelled, "the command has ended");
            let report = |done| {
                let made = v1::Progress { done, unit: "entries".to_owned(), ..Default::default() };
                sender.blocking_send(Ok(made)).map_err(gone)
            };
            // The next report notices that the command has ended.
            let mut found = |problem| _ = sender.blocking_send(Err(problem));
            let fs = OsFileSystem::shared();
            offline::verify_directory(&fs, &dir, (table, request.deep), &report, &mut found)
        });
        let mut listed = 0;
        while let Some(message) = receiver.recv().await {
            match message {
                Ok(made) => progress(made),
                Err(Problem { file, offset, message }) if listed < limits::PROBLEMS_LISTED => {
                    listed += 1;
                    problem(v1::verify_response::Problem { file, offset, message });
                }
                Err(_) => {}
            }
        }
        let verified = verifying.await;
        let verified =
            verified.map_err(|e| Error::new(Reason::Internal, format!("verifying failed: {e}")))?;
        let VerifiedCounts { files, frames, rows, problems } = verified?;
        Ok(v1::verify_response::Summary { files, frames, rows, problems })
    }

    pub(super) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Opens the directory for writing and takes its lock. Returns whether the writer was not open before.
    pub(super) async fn open_writer(&mut self) -> Result<bool> {
        if self.writer.is_some() {
            return Ok(false);
        }
        if let Some(bucket) = &self.bucket {
            return Err(bucket.read_only_error());
        }
        let mut config = driftdb_writer::WriterConfig::new(&self.directory);
        if let Some(ClockJump(jump)) = self.max_clock_jump {
            config.max_clock_jump = jump;
        }
        let opened = blocking(move || driftdb_writer::WriterDaemon::open(config)).await?;
        self.writer = Some(ServingDaemon::start(|listener, shutdown| opened.serve(listener, shutdown)));
        Ok(true)
    }

    /// Opens the directory for reading. Returns whether the reader was not open before.
    pub(super) async fn open_reader(&mut self) -> Result<bool> {
        if self.reader.is_some() {
            return Ok(false);
        }
        let mut config = driftdb_reader::ReaderConfig::new(&self.directory);
        if let Some(bucket) = &mut self.bucket {
            let (directory, state) = bucket.open().await?;
            config = driftdb_reader::ReaderConfig::new(directory);
            config.bucket = Some(state);
        }
        let opened = blocking(move || driftdb_reader::ReaderDaemon::open(config)).await?;
        self.reader = Some(ServingDaemon::start(|listener, shutdown| opened.serve(listener, shutdown)));
        Ok(true)
    }

    /// A client of the daemons that are open now. It keeps the write token of the client before it.
    pub(super) fn client(&self, options: ClientOptions, before: &Client) -> Client {
        let channel =
            |daemon: &Option<(Channel, ServingDaemon)>| daemon.as_ref().map(|(channel, _)| channel.clone());
        let client = Client::on(options, channel(&self.writer), channel(&self.reader));
        before.token().into_iter().for_each(|token| client.wrote(token));
        client
    }

    /// Stops both daemons. An error of the writer takes precedence.
    pub(super) async fn close(self) -> Result<()> {
        // Drop the connections first: a daemon waits for its open connections.
        let reader = self.reader.map(|(_, running)| running);
        let writer = self.writer.map(|(_, running)| running);
        let mut ended = match writer {
            Some(running) => running.end().await,
            None => Ok(()),
        };
        if let Some(running) = reader {
            ended = ended.and(running.end().await);
        }
        if let Some(bucket) = self.bucket {
            bucket.close().await;
        }
        ended
    }
}

impl ServingDaemon {
    /// Serves a daemon in a task, and connects to it in memory.
    fn start<F>(serve: impl FnOnce(Listener, CancellationToken) -> F) -> (Channel, ServingDaemon)
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let (connector, listener) = Listener::memory();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve(listener, shutdown.clone()));
        (channel(connector), ServingDaemon { shutdown, task })
    }

    async fn end(self) -> Result<()> {
        self.shutdown.cancel();
        let ended = self.task.await;
        ended.map_err(|e| Error::new(Reason::Internal, format!("a daemon in this process failed: {e}")))?
    }
}

/// Runs a blocking call on its own thread, so that other tasks can make progress.
async fn blocking<T: Send + 'static>(open: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let opened = tokio::task::spawn_blocking(open).await;
    opened.map_err(|e| Error::new(Reason::Internal, format!("opening the database failed: {e}")))?
}

fn channel(connector: MemoryConnector) -> Channel {
    // Nothing resolves this address: the connector returns an in-memory connection.
    let endpoint = Endpoint::from_static("http://embedded");
    endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let connector = connector.clone();
        async move { connector.connect().await.map(TokioIo::new) }
    }))
}
