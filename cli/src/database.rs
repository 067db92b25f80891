//! The database that the options name: daemons over the network, or a directory served in this process.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use driftdb::client::{Client, ClientOptions, ClientTls, Credentials, Executed, WriteReceipt};
use driftdb::v1;
use driftdb_common::error::{Error, ErrorKind, Reason, Result};
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::service::clock::now_ms;
use tokio::time::timeout;
use tonic::Status;

use crate::args::{DEFAULT_READER, DEFAULT_WRITER, GlobalArgs};
use crate::changes::SchemaRequest;
use crate::errors::to_error;
use crate::render::{self, ProgressLine};
use crate::token::token;

pub(crate) use tables::{all_tables_at, key_type_of, tables_at};

pub(crate) use driftdb::client::{ReaderApi, WriterApi};

mod bucket_copy;
mod embedded;
mod tables;
#[cfg(test)]
mod tests;

/// How long a daemon may take to report its status.
const STATUS_TIMEOUT: Duration = Duration::from_secs(5);

/// A database. Reads include all earlier writes, unless they are allowed to be stale.
#[derive(Debug)]
pub(crate) struct DatabaseHandle {
    /// The directory that is served in this process, if any.
    embedded: Option<embedded::Embedded>,
    client: Client,
    stale: bool,
    /// The time zone of words for moments; empty for UTC.
    time_zone: String,
    /// Whether the writer was reachable once. From then on the client waits for it during a takeover or restart.
    writer_found: bool,
    /// Whether the user was told that the writer is unreachable.
    noted: bool,
    expected: ExpectedDaemons,
    /// The name of the context that has named the database, if any.
    context: Option<String>,
}

/// The daemons that the user expects: those that are named, and the writer if none is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExpectedDaemons {
    pub(crate) writer: bool,
    pub(crate) readers: bool,
}

impl DatabaseHandle {
    /// The database that the options name. Nothing is connected or opened yet.
    pub(crate) fn new(global: &GlobalArgs) -> DatabaseHandle {
        match &global.data {
            Some(data) if data.to_str().is_some_and(|data| data.contains("://")) => {
                let url = data.to_string_lossy().into_owned();
                let embedded = embedded::Embedded::of_bucket(url, global.bucket_cache.clone());
                DatabaseHandle::on(Some(embedded), Client::on(client_options(), None, None))
            }
            Some(data) => {
                let embedded = embedded::Embedded::new(data.clone(), global.max_clock_jump);
                DatabaseHandle::on(Some(embedded), Client::on(client_options(), None, None))
            }
            None => {
                let (writers, readers) = (!global.writer.is_empty(), !global.reader.is_empty());
                let expected = ExpectedDaemons { writer: writers || !readers, readers };
                let tls = global.tls.client();
                let remote = DatabaseHandle::remote(
                    addresses(&global.writer, default_address(DEFAULT_WRITER, tls.is_some())),
                    addresses(&global.reader, default_address(DEFAULT_READER, tls.is_some())),
                    tls,
                );
                DatabaseHandle { expected, ..remote }
            }
        }
        .stale(global.stale)
        .in_zone(global.tz.as_deref())
        .in_context(global.context.as_deref())
    }

    /// The daemons at these addresses.
    pub(crate) fn remote(
        writers: Vec<String>,
        readers: Vec<String>,
        tls: Option<ClientTls>,
    ) -> DatabaseHandle {
        let options = ClientOptions { tls, ..client_options() };
        DatabaseHandle::on(None, Client::with(options, writers, readers))
    }

    /// A directory, served in this process.
    pub(crate) fn embedded(data: PathBuf) -> DatabaseHandle {
        DatabaseHandle::on(
            Some(embedded::Embedded::new(data, None)),
            Client::on(client_options(), None, None),
        )
    }

    fn on(embedded: Option<embedded::Embedded>, client: Client) -> DatabaseHandle {
        let expected = ExpectedDaemons { writer: embedded.is_none(), readers: true };
        DatabaseHandle {
            embedded,
            client,
            stale: false,
            time_zone: String::new(),
            writer_found: false,
            noted: false,
            expected,
            context: None,
        }
    }

    /// Sets whether reads can be stale.
    #[must_use]
    pub(crate) fn stale(self, stale: bool) -> DatabaseHandle {
        DatabaseHandle { stale, ..self }
    }

    /// Sets the time zone of words for moments; UTC if `None`.
    fn in_zone(self, name: Option<&str>) -> DatabaseHandle {
        DatabaseHandle { time_zone: name.unwrap_or_default().to_owned(), ..self }
    }

    /// Sets the name of the context that has named the database.
    fn in_context(self, name: Option<&str>) -> DatabaseHandle {
        DatabaseHandle { context: name.map(str::to_owned), ..self }
    }

    /// The name of the context that has named the database, if any.
    pub(crate) fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// The time zone of words for moments, as requests name it.
    pub(crate) fn time_zone(&self) -> String {
        self.time_zone.clone()
    }

    /// What words for moments mean now.
    pub(crate) fn clock(&self) -> Result<LocalClock> {
        LocalClock::in_zone(&self.time_zone, now_ms())
    }

    /// The daemons that should answer.
    pub(crate) fn expected(&self) -> ExpectedDaemons {
        self.expected
    }

    /// The directory that is served in this process, if any.
    pub(crate) fn directory(&self) -> Option<&PathBuf> {
        self.embedded.as_ref().map(embedded::Embedded::directory)
    }

    /// The active writer. An embedded one is opened and takes the lock of the directory.
    pub(crate) async fn writer(&mut self) -> Result<WriterApi> {
        if let Some(embedded) = &mut self.embedded
            && embedded.open_writer().await?
        {
            self.client = embedded.client(client_options(), &self.client);
        }
        self.client.writer().await.map_err(|s| to_error(&s))
    }

    /// A client for writes. Fails at once if no writer was ever reachable, because waiting would not help.
    async fn write_client(&mut self) -> Result<&Client> {
        if !self.writer_found {
            self.writer().await?;
            self.writer_found = true;
        }
        Ok(&self.client)
    }

    /// Makes one atomic commit.
    pub(crate) async fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::WriteToken> {
        self.apply_inserts(request).await.map(|receipt| receipt.token)
    }

    /// Makes one atomic commit, and returns the keys that the writer made for it, too.
    pub(crate) async fn apply_inserts(&mut self, request: v1::ApplyRequest) -> Result<WriteReceipt> {
        self.write_client().await?.apply(request).await.map_err(|s| to_error(&s))
    }

    /// Repeats a change of a schema.
    pub(crate) async fn change_schema(&mut self, request: SchemaRequest) -> Result<Option<v1::WriteToken>> {
        let mut writer = self.writer().await?;
        let changed = match request {
            SchemaRequest::Create(request) => {
                writer.create_table(request).await.map(|r| r.into_inner().token)
            }
            SchemaRequest::Alter(request) => writer.alter_table(request).await.map(|r| r.into_inner().token),
            SchemaRequest::Drop(request) => writer.drop_table(request).await.map(|r| r.into_inner().token),
        };
        let token = changed.map_err(|s| to_error(&s))?;
        token.into_iter().for_each(|token| self.client.wrote(token));
        Ok(token)
    }

    /// The last commit of a request or of a producer, if the writer knows it.
    pub(crate) async fn find_commit(
        &mut self,
        made_by: v1::find_commit_request::MadeBy,
    ) -> Result<Option<v1::WriteToken>> {
        let found = self.write_client().await?.find_commit_made_by(made_by).await;
        found.map(|found| found.token).map_err(|s| to_error(&s))
    }

    /// Runs one statement at the writer.
    pub(crate) async fn execute(&mut self, request: v1::WriterServiceExecuteRequest) -> Result<Executed> {
        let client = self.write_client().await?;
        client.execute_request(request, progress_line()).await.map_err(|s| to_error(&s))
    }

    /// Runs one statement at the writer, and passes on its messages as they arrive.
    pub(crate) async fn execute_with_messages(
        &mut self,
        request: v1::WriterServiceExecuteRequest,
        message: impl Fn(String),
    ) -> Result<Executed> {
        let client = self.write_client().await?;
        client.execute_with_messages(request, progress_line(), message).await.map_err(|s| to_error(&s))
    }

    /// Writes a snapshot of a table.
    pub(crate) async fn snapshot(&mut self, table: &str) -> Result<v1::SnapshotInfo> {
        self.write_client().await?.snapshot(table, progress_line()).await.map_err(|s| to_error(&s))
    }

    /// Compacts a table, or computes what that would do.
    pub(crate) async fn compact(&mut self, request: v1::CompactRequest) -> Result<v1::CompactInfo> {
        self.write_client().await?.compact(request, progress_line()).await.map_err(|s| to_error(&s))
    }

    /// Verifies the files, and passes on problems as they are found.
    pub(crate) async fn verify(
        &mut self,
        request: v1::VerifyRequest,
        problem: impl Fn(v1::verify_response::Problem),
    ) -> Result<v1::verify_response::Summary> {
        if let Some(embedded) = &self.embedded
            && !embedded.is_writer_open()
        {
            // Nothing is written, so that files can be verified that must not be changed.
            return embedded.verify(request, progress_line(), problem).await;
        }
        let client = self.write_client().await?;
        client.verify(request, progress_line(), problem).await.map_err(|s| to_error(&s))
    }

    /// Has the writer ship to a bucket what it lacks of the database.
    pub(crate) async fn back_up(&mut self, request: v1::BackupRequest) -> Result<v1::BackupInfo> {
        self.write_client().await?.backup(request, progress_line()).await.map_err(|s| to_error(&s))
    }

    /// Accepts the time of the writer's clock.
    pub(crate) async fn confirm_clock(
        &mut self,
        request: v1::ConfirmClockRequest,
    ) -> Result<v1::ConfirmClockResponse> {
        self.write_client().await?.confirm_clock(request).await.map_err(|s| to_error(&s))
    }

    /// The status of the active writer.
    pub(crate) async fn writer_status(&mut self) -> Result<v1::WriterServiceStatusResponse> {
        if self.embedded.is_some() {
            self.writer().await?;
        }
        self.client.writer_status().await.map_err(|s| to_error(&s))
    }

    /// A client for reads that need not be fresh.
    pub(crate) async fn stale_client(&mut self) -> Result<&Client> {
        if let Some(embedded) = &mut self.embedded
            && embedded.open_reader().await?
        {
            self.client = embedded.client(client_options(), &self.client);
        }
        Ok(&self.client)
    }

    /// A client for reads that include all writes up to now, unless they are allowed to be stale.
    pub(crate) async fn fresh_client(&mut self) -> Result<&Client> {
        self.stale_client().await?;
        if self.stale {
            self.client.forget();
        } else if self.embedded.is_none() {
            self.require_last_seq().await?;
        }
        Ok(&self.client)
    }

    /// Asks the writer for its last seq, and makes reads wait for it.
    async fn require_last_seq(&mut self) -> Result<()> {
        match self.client.writer_status().await.map_err(|s| to_error(&s)) {
            Ok(status) => {
                let v1::WriterServiceStatusResponse { last_seq: seq, epoch, incarnation, .. } = status;
                self.client.wrote(v1::WriteToken { seq, time: status.last_time, epoch, incarnation });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                if !self.noted {
                    render::note(&format!(
                        "note: {}; reading without it, so the newest commits may be missing",
                        error.message()
                    ));
                    self.noted = true;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The status of each writer, by address. A standby reports an error.
    pub(crate) async fn writer_statuses(&mut self) -> Answers<v1::WriterServiceStatusResponse> {
        statuses_of_writers(self.client.clone()).await
    }

    /// The status of each writer and of each reader, asked at the same time.
    pub(crate) async fn all_statuses(
        &mut self,
    ) -> (Answers<v1::WriterServiceStatusResponse>, Answers<v1::ReaderServiceStatusResponse>) {
        let writers = statuses_of_writers(self.client.clone());
        tokio::join!(writers, self.reader_statuses())
    }

    /// The status of each reader, by address.
    pub(crate) async fn reader_statuses(&mut self) -> Answers<v1::ReaderServiceStatusResponse> {
        let directory = self.directory().map(|directory| directory.display().to_string());
        if let Err(error) = self.stale_client().await {
            return vec![(directory.unwrap_or_default(), Err(error))];
        }
        let client = &self.client;
        let name = |address: &str| directory.clone().unwrap_or_else(|| address.to_owned());
        let names = client.readers().map(name).collect();
        let ask = |index: usize| {
            let client = client.clone();
            async move { client.reader_at(index).await?.status(v1::ReaderServiceStatusRequest {}).await }
        };
        ask_all("reader", names, ask).await
    }

    /// Closes the daemons in this process cleanly.
    pub(crate) async fn close(self) -> Result<()> {
        let DatabaseHandle { embedded, client, .. } = self;
        // Drop the connections first: a daemon waits for its open connections.
        drop(client);
        match embedded {
            Some(embedded) => embedded.close().await,
            None => Ok(()),
        }
    }
}

/// What each daemon answers, by address.
type Answers<T> = Vec<(String, Result<T>)>;

async fn statuses_of_writers(client: Client) -> Answers<v1::WriterServiceStatusResponse> {
    let names = client.writers().map(str::to_owned).collect();
    let ask = |index: usize| {
        let client = client.clone();
        async move { client.writer_at(index).await?.status(v1::WriterServiceStatusRequest {}).await }
    };
    ask_all("writer", names, ask).await
}

/// Asks several daemons at the same time, so that one that does not respond does not delay the others.
async fn ask_all<T, F>(what: &str, names: Vec<String>, ask: impl Fn(usize) -> F) -> Vec<(String, Result<T>)>
where
    T: Send + 'static,
    F: Future<Output = std::result::Result<tonic::Response<T>, Status>> + Send + 'static,
{
    let calls: Vec<_> = names
        .iter()
        .enumerate()
        .map(|(index, _)| tokio::spawn(timeout(STATUS_TIMEOUT, ask(index))))
        .collect();
    let mut responses = Vec::new();
    for (name, call) in names.into_iter().zip(calls) {
        let response = match call.await {
            Ok(Ok(response)) => response.map(tonic::Response::into_inner).map_err(|s| to_error(&s)),
            Ok(Err(_)) => {
                let message = format!("the {what} at {name} did not respond within {STATUS_TIMEOUT:?}");
                Err(Error::new(Reason::Unreachable, message))
            }
            Err(e) => Err(Error::new(Reason::Internal, format!("asking the {what} at {name} failed: {e}"))),
        };
        responses.push((name, response));
    }
    responses
}

/// Shows the progress of a job on a terminal, until it is dropped.
fn progress_line() -> impl Fn(v1::Progress) {
    let line = RefCell::new(ProgressLine::default());
    move |p| {
        let what = if p.description.is_empty() { String::new() } else { format!("{}: ", p.description) };
        let queued = if p.queued { "waiting for other jobs, " } else { "" };
        let total = if p.total > 0 { format!(" of {}", p.total) } else { String::new() };
        line.borrow_mut().show(format_args!("{what}{queued}{}{total} {}", p.done, p.unit));
    }
}

fn client_options() -> ClientOptions {
    ClientOptions { connections: 1, token: token(), ..ClientOptions::default() }
}

/// The default address of a daemon: without its scheme if the client has TLS, so that it becomes `https://`.
pub(crate) fn default_address(address: &'static str, has_tls: bool) -> &'static str {
    let without = address.split_once("://").map_or(address, |(_, rest)| rest);
    if has_tls { without } else { address }
}

/// The API of a writer on a connection of a [`DaemonAddress`](crate::address::DaemonAddress), which has checked that the token may be sent.
pub(crate) fn writer_on(channel: tonic::transport::Channel) -> WriterApi {
    driftdb::client::writer_with(channel, checked_credentials())
}

/// The API of a reader on such a connection.
pub(crate) fn reader_on(channel: tonic::transport::Channel) -> ReaderApi {
    driftdb::client::reader_with(channel, checked_credentials())
}

/// The token of this process, for a connection that was checked.
fn checked_credentials() -> Credentials {
    Credentials::new(token(), DEFAULT_WRITER)
}

/// The given addresses, or the default address if none is given.
fn addresses(given: &[String], default: &str) -> Vec<String> {
    if given.is_empty() {
        return vec![default.to_owned()];
    }
    given.iter().filter(|address| !address.is_empty()).cloned().collect()
}
