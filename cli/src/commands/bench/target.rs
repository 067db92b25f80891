//! What is measured: daemons that `bench` starts, those that the options name, and the ceilings.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::load::{Sample, channels, drive};
use super::writes::Work;
use crate::args::{Bench, DEFAULT_READER, DEFAULT_WRITER, Global, Phase};
use crate::client::Client;
use crate::processes::{Daemon, own_program};

/// Where daemons come from, and the table to use.
pub struct Target {
    dir: TempDir,
    given: Option<(String, String)>,
    /// The table that is measured; not there yet.
    pub table: String,
}

/// A writer, and a reader where one was asked for, with the measured table in place.
pub struct Served {
    /// The writer's address.
    pub writer: String,
    /// The reader's address.
    pub reader: String,
    /// The writer, where it was started here.
    pub writer_process: Option<Daemon>,
    /// The reader, where it was started here.
    pub reader_process: Option<Daemon>,
}

impl Target {
    /// As the options say: with addresses, that deployment; without, daemons of its own.
    pub fn new(args: &Bench, global: &Global) -> Result<Target> {
        let dir = tempfile::Builder::new().prefix("driftdb-bench-").tempdir_in(&args.dir);
        let dir = dir
            .map_err(|e| Error::io(format_args!("cannot make a directory in {}", args.dir.display()), &e))?;
        if global.writer.is_empty() && global.reader.is_empty() {
            return Ok(Target { dir, given: None, table: "orders".to_owned() });
        }
        let first =
            |given: &[String], default: &str| given.first().map_or(default, String::as_str).to_owned();
        let given = (first(&global.writer, DEFAULT_WRITER), first(&global.reader, DEFAULT_READER));
        // Somebody's own tables are there: this one must not be among them.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|e| Error::new(Reason::Internal, format!("the clock: {e}")))?;
        Ok(Target { dir, given: Some(given), table: format!("bench_orders_{}", now.as_millis()) })
    }

    /// Whether the daemons are somebody else's.
    pub fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// A directory for data that are measured, then removed.
    pub fn fresh_dir(&self) -> Result<TempDir> {
        let dir = tempfile::tempdir_in(self.dir.path());
        dir.map_err(|e| Error::io("cannot make a directory for the data", &e))
    }

    /// Starts daemons on a fresh directory, where none are given, and makes the table.
    pub async fn serve(&self, name: &str, with_reader: bool) -> Result<Served> {
        let served = match self.given.clone() {
            Some((writer, reader)) => Served { writer, reader, writer_process: None, reader_process: None },
            None => self.start(name, with_reader).await?,
        };
        let create = format!("CREATE TABLE {} (pk=id, INDEX(status, customer_id))", self.table);
        execute(&served, create).await?;
        Ok(served)
    }

    async fn start(&self, name: &str, with_reader: bool) -> Result<Served> {
        let data = self.dir.path().join(name);
        let writer = Daemon::start("driftdb-writer", &data).await?;
        let reader = match with_reader {
            true => Some(Daemon::start("driftdb-reader", &data).await?),
            false => None,
        };
        Ok(Served {
            writer: writer.url().to_owned(),
            reader: reader.as_ref().map(|reader| reader.url().to_owned()).unwrap_or_default(),
            writer_process: Some(writer),
            reader_process: reader,
        })
    }

    /// Leaves a deployment as it was found, but for the history of a dropped table; ends daemons of its own.
    pub async fn clean_up(&self, served: Served) -> Result<()> {
        if self.given.is_some() {
            execute(&served, format!("DROP TABLE {}", self.table)).await?;
        }
        for daemon in [served.reader_process, served.writer_process].iter_mut().flatten() {
            daemon.stop().await?;
        }
        Ok(())
    }

    /// Starts a ceiling's server, to be measured with so many clients.
    pub async fn ceiling(&self, phase: Phase, clients: Vec<usize>) -> Result<Ceiling> {
        let name = phase.to_string();
        let dir = self.dir.path().join(format!("ceiling-{name}"));
        let args = ["bench-server".as_ref(), name.as_ref(), "--dir".as_ref(), dir.as_os_str()];
        let process = Daemon::spawn(&own_program()?, args).await?;
        let channels = channels(process.url()).await?;
        Ok(Ceiling { name, clients, process, channels, work: Work::new(&self.table)? })
    }
}

async fn execute(served: &Served, statement: String) -> Result<()> {
    let mut client = Client::remote(vec![served.writer.clone()], Vec::new());
    let request = v1::WriterServiceExecuteRequest { statement, ..Default::default() };
    client.execute(request).await.map(drop)
}

/// A server that does the least: what a phase is compared with.
pub struct Ceiling {
    /// `echo`, `log`
    pub name: String,
    /// How many clients it is measured with.
    pub clients: Vec<usize>,
    process: Daemon,
    channels: Vec<Channel>,
    work: Work,
}

impl Ceiling {
    /// One run.
    pub async fn measure(&self, clients: usize, time: Duration) -> Result<Sample> {
        drive(self.work.clients(&self.channels, clients), time, Some(&self.process)).await
    }

    /// Ends the server.
    pub async fn stop(mut self) -> Result<()> {
        self.process.stop().await
    }
}
