//! What `bench` measures: daemons that it starts or that the options name, and the ceilings.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use driftdb::client::ClientTls;
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tempfile::TempDir;
use tokio::process::Command;
use tonic::transport::Channel;

use super::load::{Sample, channels, drive};
use super::writes::RowWrites;
use crate::address::DaemonAddress;
use crate::args::{BenchArgs, BenchPhase, DEFAULT_READER, DEFAULT_WRITER, GlobalArgs};
use crate::child::own_program;
use crate::database::{DatabaseHandle, default_address};
use crate::processes::DaemonProcess;

/// The source of daemons, and the measured table.
pub(crate) struct Target {
    dir: TempDir,
    given: Option<(DaemonAddress, DaemonAddress)>,
    /// How daemons that `bench` starts are protected; `None` if they are not.
    security: Option<DaemonSecurity>,
    /// Further options of writers that `bench` starts.
    writer_options: Vec<OsString>,
    /// The name of the measured table. `serve` creates it.
    pub(crate) table: String,
}

/// How daemons are protected, and how to connect to them then.
pub(crate) struct DaemonSecurity {
    /// The options of the daemons.
    pub(crate) options: Vec<OsString>,
    /// TLS of their clients.
    pub(crate) tls: ClientTls,
}

/// A writer, and a reader if requested, with the measured table.
pub(crate) struct Served {
    /// The address of the writer.
    pub(crate) writer: DaemonAddress,
    /// The address of the reader.
    pub(crate) reader: DaemonAddress,
    /// The process of the writer, if `bench` started it.
    pub(crate) writer_process: Option<DaemonProcess>,
    /// The process of the reader, if `bench` started it.
    pub(crate) reader_process: Option<DaemonProcess>,
    /// The data directory, if it is that of `bench`.
    pub(crate) data: Option<PathBuf>,
    /// The tables that `bench` created.
    tables: Vec<String>,
}

impl Served {
    /// The processes that `bench` started.
    pub(crate) fn processes(&self) -> Vec<&DaemonProcess> {
        self.writer_process.iter().chain(&self.reader_process).collect()
    }

    /// Creates a table with two indexes.
    pub(crate) async fn create(&mut self, table: &str) -> Result<()> {
        self.execute(format!("CREATE TABLE {table} (pk=id, INDEX(status, customer_id))")).await?;
        self.tables.push(table.to_owned());
        Ok(())
    }

    async fn execute(&self, statement: String) -> Result<()> {
        let mut client =
            DatabaseHandle::remote(vec![self.writer.url().to_owned()], Vec::new(), self.writer.tls());
        let request = v1::WriterServiceExecuteRequest { statement, ..Default::default() };
        client.execute(request).await.map(drop)
    }
}

impl Target {
    /// Uses the deployment whose addresses the options name; without addresses, `bench` starts its own daemons.
    pub(crate) fn new(args: &BenchArgs, global: &GlobalArgs) -> Result<Target> {
        if global.writer.is_empty() && global.reader.is_empty() {
            return Target::own(args, None);
        }
        let tls = global.tls.client();
        let first = |given: &[String], default: &'static str| {
            let url = given.first().map_or(default_address(default, tls.is_some()), String::as_str);
            DaemonAddress::new(url, tls.clone())
        };
        let given = (first(&global.writer, DEFAULT_WRITER), first(&global.reader, DEFAULT_READER));
        // The deployment may have tables of its own, so this table needs a unique name.
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_err(|e| Error::new(Reason::Internal, format!("the clock is before 1970: {e}")))?;
        let table = format!("bench_orders_{}", now.as_millis());
        Ok(Target { given: Some(given), table, ..Target::own(args, None)? })
    }

    /// Daemons that `bench` starts, with this protection.
    pub(crate) fn own(args: &BenchArgs, security: Option<DaemonSecurity>) -> Result<Target> {
        let dir = tempfile::Builder::new().prefix("driftdb-bench-").tempdir_in(&args.dir);
        let dir = dir.map_err(|e| {
            Error::io(format_args!("cannot create a directory in {}", args.dir.display()), &e)
        })?;
        Ok(Target { dir, given: None, security, writer_options: Vec::new(), table: "orders".to_owned() })
    }

    /// The same, with further options of the writers.
    #[must_use]
    pub(crate) fn with_writer_options(mut self, options: Vec<OsString>) -> Target {
        self.writer_options = options;
        self
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

    /// Starts a writer and a reader on a new directory, unless the options name some, and creates the table.
    pub(crate) async fn serve(&self, name: &str) -> Result<Served> {
        let mut served = match self.given.clone() {
            Some((writer, reader)) => Served {
                writer,
                reader,
                writer_process: None,
                reader_process: None,
                data: None,
                tables: Vec::new(),
            },
            None => self.start(name).await?,
        };
        served.create(&self.table).await?;
        Ok(served)
    }

    async fn start(&self, name: &str) -> Result<Served> {
        let data = self.dir.path().join(name);
        let options = self.security.as_ref().map(|security| security.options.as_slice()).unwrap_or_default();
        let tls = self.security.as_ref().map(|security| &security.tls);
        let for_writer = [options, &self.writer_options].concat();
        let writer = DaemonProcess::start_with("driftdb-writer", &data, &for_writer).await?;
        let reader = DaemonProcess::start_with("driftdb-reader", &data, options).await?;
        Ok(Served {
            writer: writer.address_with(tls),
            reader: reader.address_with(tls),
            writer_process: Some(writer),
            reader_process: Some(reader),
            data: Some(data),
            tables: Vec::new(),
        })
    }

    /// Drops the tables from a given deployment, and stops daemons that `bench` started.
    pub(crate) async fn clean_up(&self, served: Served) -> Result<()> {
        if self.given.is_some() {
            for table in &served.tables {
                served.execute(format!("DROP TABLE {table}")).await?;
            }
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
        let channels = channels(&process.address()).await?;
        Ok(CeilingProcess {
            name,
            clients,
            process,
            channels,
            work: RowWrites::new(std::slice::from_ref(&self.table), 0)?,
        })
    }
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
        drive(self.work.clients(&self.channels, clients), time, &[&self.process]).await
    }

    /// Measures one run of requests with many rows each. The figures are for a row.
    pub(crate) async fn measure_batches(&self, rows: usize, time: Duration) -> Result<Sample> {
        let clients = self.work.batch_clients(&self.channels, self.channels.len(), rows);
        let sample = drive(clients, time, &[&self.process]).await?;
        let processor = sample.processor.map(|each| each / rows as f64);
        Ok(Sample { ops: sample.ops * rows as f64, processor, ..sample })
    }

    /// Stops the server.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.process.stop().await
    }
}
