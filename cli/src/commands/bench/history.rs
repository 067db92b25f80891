//! A long history, loaded into daemons of its own: what it costs to start on it, to ask about it, to keep it.

use std::path::Path;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use tokio::process::Command;
use tokio::time::Instant;

use self::dataset::{Dataset, Script, TABLE};
use self::questions::{Asker, Question};
use super::ingest;
use super::load::summary;
use super::report::Report;
use super::target::Ceiling;
use crate::client::{Client, Reader, connect, reader_on, told, writer_on};
use crate::orders::id;
use crate::processes::Daemon;
use crate::render::{self, Progress};

mod dataset;
mod questions;

/// How it is measured.
#[derive(Debug, Clone, Copy)]
pub struct How {
    /// Events before the tail.
    pub events: u32,
    /// How often each figure is taken.
    pub runs: u32,
    /// How long a question is asked at most, in a run.
    pub time: Duration,
}

/// A loaded history, and the writer that wrote it.
struct Loaded<'a> {
    how: How,
    data: &'a Path,
    writer: Daemon,
    script: Script,
    report: Report,
}

/// Loads a history into a directory and measures. `echo` is what a call that does nothing takes.
pub async fn measure(data: &Path, how: How, echo: Option<&Ceiling>) -> Result<Report> {
    let mut loaded = Loaded::load(data, how).await?;
    let first_seq = loaded.first_seq().await?;
    let dataset = loaded.script.dataset(first_seq);
    let large = dataset.large_orders(Asker::middle(&dataset));
    let asker = Asker { dataset: &dataset, large };
    for run in 1..=how.runs {
        let echo = match echo {
            Some(echo) => {
                loaded.tell(run, "echo");
                let sample = echo.measure(1, how.time).await?;
                loaded.report.add("echo.c1", "p50", "µs", sample.p50);
                Some(sample.p50)
            }
            None => None,
        };
        loaded.starts(run, &dataset).await?;
        for question in Question::ALL {
            loaded.asks(run, &asker, question, echo).await?;
        }
    }
    loaded.snapshots().await?;
    loaded.compaction().await?;
    loaded.writer.stop().await?;
    Ok(loaded.report)
}

impl Loaded<'_> {
    /// Writes the history, snapshots it, and writes the tail.
    async fn load(data: &Path, how: How) -> Result<Loaded<'_>> {
        let writer = Daemon::start("driftdb-writer", data).await?;
        let mut client = client(&writer);
        let statement = format!("CREATE TABLE {TABLE} (pk=id, INDEX(status, customer_id))");
        client.execute(v1::WriterServiceExecuteRequest { statement, ..Default::default() }).await?;
        let report = Report::of_history(how.events.into());
        let mut loaded = Loaded { how, data, writer, script: dataset::script(how.events), report };
        let whole = loaded.script.len();
        let began = Instant::now();
        loaded.ingest("load", 0..whole).await?;
        loaded.report.add("load", "throughput", "events/s", whole as f64 / began.elapsed().as_secs_f64());
        client.snapshot(TABLE).await?;
        // With the snapshots that were still to be taken, and what they brought with them.
        loaded.report.add("load", "time", "s", began.elapsed().as_secs_f64());
        loaded.add_tail(0).await?;
        loaded.add_memory("load", "writer_memory");
        loaded.report.add("disk", "bytes", "MB", megabytes(bytes_in(data)));
        let snapshots =
            ["snapshots", "indexes"].map(|dir| bytes_in(&data.join("tables").join(TABLE).join(dir)));
        loaded.report.add("disk", "of_snapshots", "MB", megabytes(snapshots.iter().sum()));
        Ok(loaded)
    }

    async fn ingest(&self, producer: &str, events: std::ops::Range<usize>) -> Result<v1::WriteToken> {
        let mut progress = Progress::default();
        let total = events.len().div_ceil(ingest::BATCH);
        let batches = self.script.batches(events, ingest::BATCH);
        let mut writer = writer_on(connect(self.writer.url()).await?);
        let show = |done| progress.show(format_args!("{producer}: batch {done} of {total}"));
        ingest::load(&mut writer, producer, batches, show).await
    }

    async fn add_tail(&mut self, number: u64) -> Result<()> {
        let before = self.script.len();
        self.script.add_tail(number);
        self.ingest(&format!("tail {number}"), before..self.script.len()).await.map(drop)
    }

    /// The seq of the first event: all were written, and nothing else after them.
    async fn first_seq(&self) -> Result<u64> {
        let last = client(&self.writer).writer_status().await?.last_seq;
        let first = last.checked_sub(self.script.len() as u64).map(|before| before + 1);
        first.ok_or_else(|| Error::new(Reason::Internal, "commits are missing"))
    }

    /// From the start of a reader's process to its first answer: files in the page cache, and not.
    async fn starts(&mut self, run: u32, dataset: &Dataset) -> Result<()> {
        self.tell(run, "ST");
        let (mut reader, took, mut asking) = self.start(dataset).await?;
        self.report.add("ST", "first_answer", "ms", took.as_secs_f64() * 1e3);
        if let Some(memory) = reader.memory() {
            self.report.add("ST", "memory", "MiB", mebibytes(memory));
        }
        // It answers from files too, not only what it has just read.
        get(&mut asking, dataset, 0).await?;
        drop(asking);
        reader.stop().await?;
        match leave_page_cache(self.data).await {
            Ok(()) => {
                let (mut reader, took, asking) = self.start(dataset).await?;
                self.report.add("ST.cold", "first_answer", "ms", took.as_secs_f64() * 1e3);
                drop(asking);
                reader.stop().await
            }
            Err(error) => {
                render::note(&format!("ST.cold is skipped: {error}"));
                Ok(())
            }
        }
    }

    async fn start(&self, dataset: &Dataset) -> Result<(Daemon, Duration, Reader)> {
        let began = Instant::now();
        let daemon = Daemon::start("driftdb-reader", self.data).await?;
        let mut reader = reader_on(connect(daemon.url()).await?);
        get(&mut reader, dataset, dataset.orders() / 2).await?;
        Ok((daemon, began.elapsed(), reader))
    }

    /// One kind of question to a reader that has read nothing, then the same ones again.
    async fn asks(
        &mut self,
        run: u32,
        asker: &Asker<'_>,
        (question, phase, calls): (Question, &str, usize),
        echo: Option<f64>,
    ) -> Result<()> {
        self.tell(run, phase);
        let (mut daemon, _, mut reader) = self.start(asker.dataset).await?;
        if run == 1 && question == Question::Select {
            render::note(&format!("R4: {}", asker.explain(&mut reader).await?.trim()));
        }
        let seed = u64::from(run);
        let cold = asker.ask(&mut reader, question, (calls, self.how.time), seed).await?;
        // As often as at first, so that all is asked a second time.
        let again = (cold.len(), Duration::from_secs(3600));
        let warm = asker.ask(&mut reader, question, again, seed).await?;
        for (latencies, name) in [(cold, format!("{phase}.cold")), (warm, format!("{phase}.warm"))] {
            let sample = summary(latencies, self.how.time, None)?;
            self.report.add(&name, "p50", "µs", sample.p50);
            self.report.add(&name, "p99", "µs", sample.p99);
            if let Some(echo) = echo {
                self.report.add(&name, "p50_of_echo", "ratio", sample.p50 / echo);
                self.report.add(&name, "p50_above_echo", "µs", sample.p50 - echo);
            }
        }
        if let Some(memory) = daemon.memory() {
            self.report.add(phase, "memory", "MiB", mebibytes(memory));
        }
        drop(reader);
        daemon.stop().await
    }

    /// A snapshot of the tail; for each run after the first, of another one.
    async fn snapshots(&mut self) -> Result<()> {
        for run in 1..=self.how.runs {
            self.tell(run, "SN");
            if run > 1 {
                self.add_tail(run.into()).await?;
            }
            let began = Instant::now();
            let info = client(&self.writer).snapshot(TABLE).await?;
            self.report.add("SN", "time", "ms", began.elapsed().as_secs_f64() * 1e3);
            self.report.add("SN", "written", "MB", megabytes(info.bytes));
        }
        self.add_memory("SN", "writer_memory");
        Ok(())
    }

    /// History is let go of up to the newest snapshot. There is only one way to do that, and only once.
    async fn compaction(&mut self) -> Result<()> {
        self.tell(1, "CO");
        let before = bytes_in(self.data);
        let began = Instant::now();
        let request = v1::CompactRequest { table: TABLE.to_owned(), ..Default::default() };
        match client(&self.writer).compact(request).await {
            Ok(_) => {}
            Err(error) if error.reason() == Reason::NotSupported => {
                render::note(&format!("CO is skipped: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.report.add("CO", "time", "ms", began.elapsed().as_secs_f64() * 1e3);
        // Files that are not needed any more are left to readers for a moment.
        tokio::time::sleep(Duration::from_secs(4)).await;
        self.report.add("CO", "disk_before", "MB", megabytes(before));
        self.report.add("CO", "disk_after", "MB", megabytes(bytes_in(self.data)));
        self.add_memory("CO", "writer_memory");
        Ok(())
    }

    fn add_memory(&mut self, phase: &str, metric: &str) {
        if let Some(memory) = self.writer.memory() {
            self.report.add(phase, metric, "MiB", mebibytes(memory));
        }
    }

    fn tell(&self, run: u32, phase: &str) {
        let How { events, runs, .. } = self.how;
        render::note(&format!("run {run} of {runs}: {phase} of {events} events"));
    }
}

/// One row, which must be there.
async fn get(reader: &mut Reader, dataset: &Dataset, order: u32) -> Result<()> {
    let keys = vec![id(order.into())];
    let request = v1::GetRequest { table: TABLE.to_owned(), keys, ..Default::default() };
    let answer = reader.get(request).await.map_err(|s| told(&s))?.into_inner();
    let found = answer.rows.first().map(|row| row.seq);
    if found == dataset.written(order, dataset.last_seq()) {
        return Ok(());
    }
    Err(Error::new(Reason::Internal, format!("a wrong answer: order {order} is of {found:?}")))
}

/// A client of a writer alone.
pub fn client(writer: &Daemon) -> Client {
    Client::remote(vec![writer.url().to_owned()], Vec::new())
}

/// In units of 1,048,576 bytes, as memory is told.
pub fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The bytes of all files below a directory.
pub fn bytes_in(dir: &Path) -> u64 {
    files_in(dir).iter().filter_map(|file| OsFileSystem.open(file).ok()?.len().ok()).sum()
}

/// The files below a directory. What vanishes meanwhile does not count.
fn files_in(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        match OsFileSystem.list(&path) {
            Ok(names) => open.extend(names.into_iter().map(|name| path.join(name))),
            Err(_) => files.push(path),
        }
    }
    files
}

/// Makes the system forget what it holds of a directory's files in memory.
async fn leave_page_cache(dir: &Path) -> Result<()> {
    for file in files_in(dir) {
        // This needs no rights that a user does not have, and touches nobody else's files.
        let mut input = std::ffi::OsString::from("if=");
        input.push(&file);
        let mut command = Command::new("dd");
        command.arg(input).args(["iflag=nocache", "count=0", "status=none"]);
        let output = command.output().await;
        let output = output.map_err(|e| Error::io("the page cache cannot be left: dd", &e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(Reason::NotSupported, format!("the page cache cannot be left: {said}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_files_of_a_directory_are_counted_and_can_leave_the_page_cache() {
        let dir = tempfile::tempdir().unwrap();
        OsFileSystem.create_dir(&dir.path().join("a/b")).unwrap();
        for (name, bytes) in [("x", 3), ("a/y", 5), ("a/b/z", 7)] {
            let file = OsFileSystem.create(&dir.path().join(name)).unwrap();
            file.write_at(&vec![1; bytes], 0).unwrap();
            file.sync().unwrap();
        }
        assert_eq!(bytes_in(dir.path()), 15);
        assert_eq!(bytes_in(&dir.path().join("none")), 0);
        if let Err(error) = leave_page_cache(dir.path()).await {
            assert!(error.message().contains("page cache"), "{error}");
        }
        assert_eq!(bytes_in(dir.path()), 15);
    }
}
