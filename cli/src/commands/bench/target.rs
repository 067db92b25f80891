//! What `bench` measures: daemons that it starts or that the options name, and the ceilings.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tonic::transport::Channel;

use super::load::{Sample, channels, drive};
use super::writes::RowWrites;
use crate::args::{BenchArgs, BenchPhase, DEFAULT_READER, DEFAULT_WRITER, GlobalArgs};
use crate::child::own_program;
use crate::database::DatabaseHandle;
use crate::processes::DaemonProcess;

/// The source of daemons, and the measured table.
pub(crate) struct Target {
    dir: TempDir,
    given: Option<(String, String)>,
    /// The name of the measured table. `serve` creates it.
    pub(crate) table: String,
}

/// A writer, and a reader if requested, with the measured table.
pub(crate) struct Served {
    /// The address of the writer.
    pub(crate) writer: String,
    /// The address of the reader.
    pub(crate) reader: String,
    /// The process of the writer, if `bench` started it.
    pub(crate) writer_process: Option<DaemonProcess>,
    /// The process of the reader, if `bench` started it.
    pub(crate) reader_process: Option<DaemonProcess>,
}

impl Target {
    /// Uses the deployment whose addresses the options name; without addresses, `bench` starts its own daemons.
    pub(crate) fn new(args: &BenchArgs, global: &GlobalArgs) -> Result<Target> {
        let dir = tempfile::Builder::new().prefix("driftdb-bench-").tempdir_in(&args.dir);
        let dir = dir.map_err(|e| {
            Error::io(format_args!("cannot create a directory in {}", args.dir.display()), &e)
        })?;
        if global.writer.is_empty() && global.reader.is_empty() {
            return Ok(Target { dir, given: None, table: "orders".to_owned() });
        }
        let first =
            |given: &[String], default: &str| given.first().map_or(default, String::as_str).to_owned();
        let given = (first(&global.writer, DEFAULT_WRITER), first(&global.reader, DEFAULT_READER));
        // The deployment may have tables of its own, so this table needs a unique name.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|e| Error::new(Reason::Internal, format!("the clock is before 1970: {e}")))?;
        Ok(Target { dir, given: Some(given), table: format!("bench_orders_{}", now.as_millis()) })
    }

    /// Whether the options name the daemons.
    pub(crate) fn is_given(&self) -> bool {
        self.given.is_some()
    }

    /// Creates a directory for data. It is removed on drop.
    pub(crate) fn fresh_dir(&self) -> Result<TempDir> {
        let dir = tempfile::tempdir_in(self.dir.path());
        dir.map_err(|e| Error::io("cannot create a directory for the data", &e))
    }

    /// Starts daemons on a new directory, unless the options name some, and creates the table.
    pub(crate) async fn serve(&self, name: &str, with_reader: bool) -> Result<Served> {
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
        let writer = DaemonProcess::start("driftdb-writer", &data).await?;
        let reader = match with_reader {
            true => Some(DaemonProcess::start("driftdb-reader", &data).await?),
            false => None,
        };
        Ok(Served {
            writer: writer.url().to_owned(),
            reader: reader.as_ref().map(|reader| reader.url().to_owned()).unwrap_or_default(),
            writer_process: Some(writer),
            reader_process: reader,
        })
    }

    /// Drops the table from a given deployment, and stops daemons that `bench` started.
    pub(crate) async fn clean_up(&self, served: Served) -> Result<()> {
        if self.given.is_some() {
            execute(&served, format!("DROP TABLE {}", self.table)).await?;
        }
        for daemon in [served.reader_process, served.writer_process].iter_mut().flatten() {
            daemon.stop().await?;
        }
        Ok(())
    }

    /// Starts the server of a ceiling, which is measured with these numbers of clients.
    pub(crate) async fn ceiling(&self, phase: BenchPhase, clients: Vec<usize>) -> Result<CeilingProcess> {
        let name = phase.to_string();
        let dir = self.dir.path().join(format!("ceiling-{name}"));
        let mut command = Command::new(own_program()?);
        command.args(["bench-server", &name, "--dir"]).arg(dir);
        let process = DaemonProcess::spawn(command).await?;
        let channels = channels(process.url()).await?;
        Ok(CeilingProcess { name, clients, process, channels, work: RowWrites::new(&self.table)? })
    }
}

async fn execute(served: &Served, statement: String) -> Result<()> {
    let mut client = DatabaseHandle::remote(vec![served.writer.clone()], Vec::new());
    let request = v1::WriterServiceExecuteRequest { statement, ..Default::default() };
    client.execute(request).await.map(drop)
}

/// A server that does the minimum: what a phase is compared with.
pub(crate) struct CeilingProcess {
    /// The name: `echo` or `log`.
    pub(crate) name: String,
    /// The numbers of clients with which it is measured.
    pub(crate) clients: Vec<usize>,
    process: DaemonProcess,
    channels: Vec<Channel>,
    work: RowWrites,
}

impl CeilingProcess {
    /// Measures one run.
    pub(crate) async fn measure(&self, clients: usize, time: Duration) -> Result<Sample> {
        drive(self.work.clients(&self.channels, clients), time, Some(&self.process)).await
    }

    /// Stops the server.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.process.stop().await
    }
}
