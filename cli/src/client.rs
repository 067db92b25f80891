//! The database that the command line names: daemons over the network, or a directory served in this process.

use std::cell::RefCell;
use std::path::PathBuf;
use std::time::Duration;

use driftdb::client::{self as db, Executed, Options, standby_for, unreachable_at};
use driftdb::v1;
use driftdb_common::error::{Error, ErrorKind, Reason, Result};
use driftdb_common::service::status::from_status;
use tokio::time::timeout;
use tonic::Status;

use crate::args::{DEFAULT_READER, DEFAULT_WRITER, Global};
use crate::exit::ADDRESS;
use crate::render::{self, Progress};

pub use driftdb::client::{Reader, Writer, reader_on, writer_on};

mod embedded;
#[cfg(test)]
mod tests;

/// The detail of a standby's error that says where the writer is that it waits for.
pub const HOLDER: &str = "writer";
/// How long a daemon may take to say how it is.
const ANSWER: Duration = Duration::from_secs(5);

/// A database, wherever it is served. Reads see what was written before them.
#[derive(Debug)]
pub struct Client {
    /// A directory that is served in this process.
    embedded: Option<embedded::Embedded>,
    db: db::Client,
    stale: bool,
    /// The writer has been found: from now on the database's client looks for it where it has to.
    found: bool,
    /// The user knows already that the writer does not answer.
    told: bool,
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
        Client {
            embedded: None,
            db: db::Client::with(options(), writers, readers),
            stale: false,
            found: false,
            told: false,
        }
    }

    /// A directory, served in this process.
    pub fn embedded(data: PathBuf) -> Client {
        let embedded = Some(embedded::Embedded::new(data));
        let db = db::Client::on(options(), None, None);
        Client { embedded, db, stale: false, found: false, told: false }
    }

    /// Whether reads do without asking how fresh they must be.
    #[must_use]
    pub fn stale(self, stale: bool) -> Client {
        Client { stale, ..self }
    }

    /// The directory, where it is served in this process.
    pub fn directory(&self) -> Option<&PathBuf> {
        self.embedded.as_ref().map(embedded::Embedded::directory)
    }

    /// The writer: of several addresses the one that is not standing by, or the directory's, opened under its lock.
    pub async fn writer(&mut self) -> Result<Writer> {
        if let Some(embedded) = &mut self.embedded
            && embedded.open_writer().await?
        {
            self.db = embedded.client(&self.db);
        }
        // Where nobody listens from the beginning, waiting does not help.
        self.db.writer().await.map_err(|s| told(&s))
    }

    /// Where no writer is there from the beginning, a write need not wait for one.
    async fn writing(&mut self) -> Result<&db::Client> {
        if !self.found {
            self.writer().await?;
            self.found = true;
        }
        Ok(&self.db)
    }

    /// One atomic commit.
    pub async fn apply(&mut self, request: v1::ApplyRequest) -> Result<v1::WriteToken> {
        let written = self.writing().await?.apply(request).await.map_err(|s| told(&s))?;
        Ok(written.token)
    }

    /// One statement that the writer runs.
    pub async fn execute(&mut self, request: v1::WriterServiceExecuteRequest) -> Result<Executed> {
        self.writing().await?.execute_request(request, meter()).await.map_err(|s| told(&s))
    }

    /// The same, with what it has to say as it comes.
    pub async fn execute_saying(
        &mut self,
        request: v1::WriterServiceExecuteRequest,
        message: impl Fn(String),
    ) -> Result<Option<v1::WriteToken>> {
        self.writing().await?.execute_saying(request, meter(), message).await.map_err(|s| told(&s))
    }

    /// A snapshot of a table.
    pub async fn snapshot(&mut self, table: &str) -> Result<v1::SnapshotInfo> {
        self.writing().await?.snapshot(table, meter()).await.map_err(|s| told(&s))
    }

    /// A compaction of a table, or what it would do.
    pub async fn compact(&mut self, request: v1::CompactRequest) -> Result<v1::CompactInfo> {
        self.writing().await?.compact(request, meter()).await.map_err(|s| told(&s))
    }

    /// A verification; problems as they are found.
    pub async fn verify(
        &mut self,
        request: v1::VerifyRequest,
        problem: impl Fn(v1::verify_response::Problem),
    ) -> Result<v1::verify_response::Summary> {
        self.writing().await?.verify(request, meter(), problem).await.map_err(|s| told(&s))
    }

    /// What the writer says of itself.
    pub async fn writer_status(&mut self) -> Result<v1::WriterServiceStatusResponse> {
        if self.embedded.is_some() {
            self.writer().await?;
        }
        self.db.writer_status().await.map_err(|s| told(&s))
    }

    /// The database for reading, however fresh.
    pub async fn database(&mut self) -> Result<&db::Client> {
        if let Some(embedded) = &mut self.embedded
            && embedded.open_reader().await?
        {
            self.db = embedded.client(&self.db);
        }
        Ok(&self.db)
    }

    /// The database for reading what has been written up to now.
    pub async fn reading(&mut self) -> Result<&db::Client> {
        self.database().await?;
        if self.stale {
            self.db.forget();
        } else if self.embedded.is_none() {
            self.see_the_newest().await?;
        }
        Ok(&self.db)
    }

    /// Asks the writer for its last commit, which reads must see.
    async fn see_the_newest(&mut self) -> Result<()> {
        match self.db.writer_status().await.map_err(|s| told(&s)) {
            Ok(status) => {
                let (seq, epoch, time) = (status.last_seq, status.epoch, status.last_time);
                self.db.wrote(v1::WriteToken { seq, time, epoch });
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                if !self.told {
                    render::note(&format!("note: {}; reading what the reader has", error.message()));
                    self.told = true;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// What each writer says of itself, by its address; one that stands by says so in its error.
    pub async fn writer_statuses(&mut self) -> Vec<(String, Result<v1::WriterServiceStatusResponse>)> {
        let (db, names) = (&self.db, self.db.writers().map(str::to_owned).collect());
        let ask = |index: usize| {
            let db = db.clone();
            async move { db.writer_at(index).await?.status(v1::WriterServiceStatusRequest {}).await }
        };
        all("writer", names, ask).await
    }

    /// What each reader says of itself, by its address.
    pub async fn reader_statuses(&mut self) -> Vec<(String, Result<v1::ReaderServiceStatusResponse>)> {
        let directory = self.directory().map(|directory| directory.display().to_string());
        if let Err(error) = self.database().await {
            return vec![(directory.unwrap_or_default(), Err(error))];
        }
        let db = &self.db;
        let name = |address: &str| directory.clone().unwrap_or_else(|| address.to_owned());
        let names = db.readers().map(name).collect();
        let ask = |index: usize| {
            let db = db.clone();
            async move { db.reader(index).await?.status(v1::ReaderServiceStatusRequest {}).await }
        };
        all("reader", names, ask).await
    }

    /// Ends what was opened in this process, cleanly.
    pub async fn close(self) -> Result<()> {
        let Client { embedded, db, .. } = self;
        // The connections go first: a daemon waits for those that are open.
        drop(db);
        match embedded {
            Some(embedded) => embedded.close().await,
            None => Ok(()),
        }
    }
}

/// Asks daemons at the same time, so that one that is stuck holds up no other.
async fn all<T, F>(what: &str, names: Vec<String>, ask: impl Fn(usize) -> F) -> Vec<(String, Result<T>)>
where
    T: Send + 'static,
    F: Future<Output = std::result::Result<tonic::Response<T>, Status>> + Send + 'static,
{
    let asked: Vec<_> =
        names.iter().enumerate().map(|(index, _)| tokio::spawn(timeout(ANSWER, ask(index)))).collect();
    let mut found = Vec::new();
    for (name, asked) in names.into_iter().zip(asked) {
        let answer = match asked.await {
            Ok(Ok(answer)) => answer.map(tonic::Response::into_inner).map_err(|s| told(&s)),
            Ok(Err(_)) => {
                let message = format!("the {what} at {name} does not answer within {ANSWER:?}");
                Err(Error::new(Reason::Unreachable, message))
            }
            Err(e) => Err(Error::new(Reason::Internal, format!("asking the {what} at {name}: {e}"))),
        };
        found.push((name, answer));
    }
    found
}

/// Shows on a terminal how far a job is, until it is dropped.
fn meter() -> impl Fn(v1::Progress) {
    let line = RefCell::new(Progress::default());
    move |p| {
        let what = if p.description.is_empty() { String::new() } else { format!("{}: ", p.description) };
        let waits = if p.queued { "waits for other jobs, " } else { "" };
        let total = if p.total > 0 { format!(" of {}", p.total) } else { String::new() };
        line.borrow_mut().show(format_args!("{what}{waits}{}{total} {}", p.done, p.unit));
    }
}

fn options() -> Options {
    Options { connections: 1, ..Options::default() }
}

/// The error that a status tells of, from a daemon or from the connection to it.
pub fn told(status: &Status) -> Error {
    let error = from_status(status);
    match (unreachable_at(status), standby_for(status)) {
        (Some(address), _) => error.with(ADDRESS, address),
        (None, Some(holder)) => error.with(HOLDER, holder),
        (None, None) => error,
    }
}

/// A connection to a daemon.
pub async fn connect(address: &str) -> Result<tonic::transport::Channel> {
    db::connect(address).await.map_err(|s| told(&s))
}

/// Addresses as given, or the one that nobody has to give.
fn addresses(given: &[String], default: &str) -> Vec<String> {
    if given.is_empty() {
        return vec![default.to_owned()];
    }
    given.iter().filter(|address| !address.is_empty()).cloned().collect()
}
