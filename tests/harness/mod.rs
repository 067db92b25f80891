//! Starts the real daemons as processes, on real directories, and calls them.

pub mod access;
mod binaries;
pub mod buckets;
pub mod calls;
pub mod certificates;
pub mod checker;

pub mod condition;
pub mod database;
pub mod figures;
pub mod filter;
pub mod history;
pub mod honest;
pub mod indexed_tables;

pub mod journaled_writes;
pub mod lane;
pub mod model;
pub mod open_database;
pub mod oracle;
pub mod random_writer;
pub mod raw_frames;
pub mod raw_http2;
pub mod refusal;
pub mod s3_server;
pub mod scrape;
pub mod script;
pub mod secure_cluster;
pub mod sim_bucket;
pub mod small_disk;
pub mod steady_load;
pub mod transcript;
pub mod watcher;
pub mod watching;
pub mod world;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use driftdb::v1;
use driftdb::v1::reader_service_client::ReaderServiceClient;
use driftdb::v1::writer_service_client::WriterServiceClient;
use tonic::transport::{Channel, Endpoint};

pub use binaries::{binary, example};

pub type Writer = WriterServiceClient<Channel>;
pub type Reader = ReaderServiceClient<Channel>;

/// A daemon in its own process. Dropping it kills the process.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pub url: String,
}

impl Daemon {
    /// Starts a daemon and waits until it listens; panics if it exits instead.
    pub fn start(name: &str, data: &Path, args: &[&str]) -> Daemon {
        Daemon::try_start(name, data, args).unwrap_or_else(|stderr| panic!("{name} does not start: {stderr}"))
    }

    /// Starts a daemon and waits until it listens. If it exits instead, returns its standard error.
    pub fn try_start(name: &str, data: &Path, args: &[&str]) -> Result<Daemon, String> {
        let mut command = Command::new(binary(name));
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--log", "warn"]).args(args);
        Daemon::spawn(command)
    }

    /// Starts a daemon with the given command line.
    pub fn spawn(mut command: Command) -> Result<Daemon, String> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            let output = child.wait_with_output().unwrap();
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        };
        let url = format!("http://{address}");
        // Copies the daemon's further log lines to the test's own output.
        let stderr = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                eprintln!("daemon: {line}");
            }
        });
        Ok(Daemon { child, url })
    }

    pub fn writer(data: &Path) -> Daemon {
        Daemon::start("driftdb-writer", data, &[])
    }

    /// A writer of a database that no writer has opened for longer than `--max-clock-jump`: such as a frozen store, whose tests
    /// would otherwise fail a day after it was made.
    pub fn writer_of_old(data: &Path) -> Daemon {
        Daemon::start("driftdb-writer", data, &["--max-clock-jump", "none"])
    }

    pub fn reader(data: &Path) -> Daemon {
        Daemon::start("driftdb-reader", data, &[])
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A figure of this process in `/proc`, such as `VmRSS:`, in KiB.
    #[expect(clippy::disallowed_methods, reason = "reads what the system says of a process")]
    pub fn memory_kib(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Sends SIGKILL and waits for the process to exit.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Sends SIGTERM and waits for the process to exit.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait(Duration::from_secs(20)).await
    }

    /// Waits for the process to exit; panics if it is still running at the limit.
    ///
    /// The wait leaves the runtime free: a client of this daemon must run to close its connection, and the daemon waits up
    /// to 10 s for open connections.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon is still running after {limit:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Connects to this writer.
    pub async fn as_writer(&self) -> Writer {
        WriterServiceClient::new(connect(&self.url).await).max_decoding_message_size(usize::MAX)
    }

    /// Connects to this reader.
    pub async fn as_reader(&self) -> Reader {
        ReaderServiceClient::new(connect(&self.url).await).max_decoding_message_size(usize::MAX)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

pub async fn connect(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect().await.unwrap()
}

/// A database directory with a writer and a reader.
pub struct Cluster {
    pub writer_daemon: Daemon,
    pub reader_daemon: Daemon,
    pub writer: Writer,
    pub reader: Reader,
    /// The last field, so that it is dropped after the daemons.
    pub dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start() -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let writer_daemon = Daemon::writer(dir.path());
        let reader_daemon = Daemon::reader(dir.path());
        let (writer, reader) = (writer_daemon.as_writer().await, reader_daemon.as_reader().await);
        Cluster { dir, writer_daemon, reader_daemon, writer, reader }
    }

    /// Creates a table with STRING keys in the field `id`, and waits until the reader has it: a read that asks for no freshness may
    /// otherwise be too early.
    pub async fn create(&mut self, table: &str) -> u64 {
        let seq = create_table(&mut self.writer, table).await.unwrap().seq;
        let request = v1::ListTablesRequest { freshness: calls::fresh(seq), ..Default::default() };
        self.reader.list_tables(request).await.unwrap();
        seq
    }
}

pub async fn create_table(writer: &mut Writer, table: &str) -> Result<v1::WriteToken, tonic::Status> {
    let request =
        v1::CreateTableRequest { table: table.into(), primary_key: "id".into(), ..Default::default() };
    writer.create_table(request).await.map(|answer| answer.into_inner().token.unwrap())
}

pub fn json(text: impl Into<String>) -> v1::Document {
    v1::Document { body: Some(v1::document::Body::Json(text.into())) }
}

pub fn text_of(document: &v1::Document) -> &str {
    match document.body.as_ref().unwrap() {
        v1::document::Body::Json(text) => text,
        v1::document::Body::Msgpack(_) => panic!("expected JSON"),
    }
}

pub fn insert(table: &str, document: impl Into<String>) -> v1::Operation {
    use v1::operation::Action;
    v1::Operation { table: table.into(), key: String::new(), action: Some(Action::Insert(json(document))) }
}

pub fn put(table: &str, document: impl Into<String>) -> v1::Operation {
    use v1::operation::Action;
    v1::Operation { table: table.into(), key: String::new(), action: Some(Action::Put(json(document))) }
}

pub fn patch(table: &str, key: &str, patch: impl Into<String>) -> v1::Operation {
    use v1::operation::Action;
    v1::Operation { table: table.into(), key: key.into(), action: Some(Action::Patch(json(patch))) }
}

pub fn delete(table: &str, key: &str) -> v1::Operation {
    use v1::operation::{Action, SoftDelete};
    v1::Operation { table: table.into(), key: key.into(), action: Some(Action::SoftDelete(SoftDelete {})) }
}

pub async fn apply(
    writer: &mut Writer,
    operations: Vec<v1::Operation>,
) -> Result<v1::WriteToken, tonic::Status> {
    let request = v1::ApplyRequest { operations, ..Default::default() };
    writer.apply(request).await.map(|answer| answer.into_inner().token.unwrap())
}

pub fn at_seq(seq: u64) -> Option<v1::AsOf> {
    Some(v1::AsOf { at: Some(v1::as_of::At::Seq(seq)) })
}

/// A table's rows after a commit, as (key, JSON text), in the order of the answer.
pub async fn select_at(
    reader: &mut Reader,
    table: &str,
    seq: u64,
) -> Result<Vec<(String, String)>, tonic::Status> {
    let request = v1::SelectRequest { table: table.into(), as_of: at_seq(seq), ..Default::default() };
    select(reader, request).await
}

pub async fn select(
    reader: &mut Reader,
    request: v1::SelectRequest,
) -> Result<Vec<(String, String)>, tonic::Status> {
    let mut stream = reader.select(request).await?.into_inner();
    let mut rows = Vec::new();
    while let Some(message) = stream.message().await? {
        rows.extend(
            message
                .rows
                .iter()
                .map(|row| (row.key.clone(), text_of(row.document.as_ref().unwrap()).to_owned())),
        );
    }
    Ok(rows)
}

/// The reason in a status's ErrorInfo; empty if there is none.
pub fn reason(status: &tonic::Status) -> String {
    use tonic_types::StatusExt;
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}
