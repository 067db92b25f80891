//! The history phase of `bench`: loads a long history into its own daemons, and measures start-up, queries and
//! maintenance.

use std::path::Path;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::storage::fs::{FileSystem, OsFileSystem};
use tokio::process::Command;
use tokio::time::Instant;

use self::dataset::{Dataset, EventScript, TABLE};
use self::queries::{DatasetQuery, QueryClient};
use super::ingest;
use super::load::summary;
use super::report::BenchReport;
use super::target::CeilingProcess;
use crate::database::{DatabaseHandle, ReaderApi, connect, reader_on, writer_on};
use crate::errors::to_error;
use crate::orders::id;
use crate::processes::DaemonProcess;
use crate::render::{self, ProgressLine};

mod dataset;
mod queries;

/// The parameters of the phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HistoryPlan {
    /// The number of events before the tail.
    pub(crate) events: u32,
    /// How often each figure is measured.
    pub(crate) runs: u32,
    /// The maximum duration of each kind of query in a run.
    pub(crate) time: Duration,
}

/// A loaded history and the writer that wrote it.
struct LoadedHistory<'a> {
    plan: HistoryPlan,
    data: &'a Path,
    writer: DaemonProcess,
    script: EventScript,
    report: BenchReport,
}

/// Loads a history into a directory and measures it. `echo` is the ceiling of a call that does nothing.
pub(crate) async fn measure(
    data: &Path,
    plan: HistoryPlan,
    echo: Option<&CeilingProcess>,
) -> Result<BenchReport> {
    let mut loaded = LoadedHistory::load(data, plan).await?;
    let first_seq = loaded.first_seq().await?;
    let dataset = loaded.script.dataset(first_seq);
    let large = dataset.large_orders(QueryClient::middle(&dataset));
    let client = QueryClient { dataset: &dataset, large };
    for run in 1..=plan.runs {
        let echo = match echo {
            Some(echo) => {
                loaded.note_run(run, "echo");
                let sample = echo.measure(1, plan.time).await?;
                loaded.report.add("echo.c1", "p50", "µs", sample.p50);
                Some(sample.p50)
            }
            None => None,
        };
        loaded.measure_start(run, &dataset).await?;
        for query in DatasetQuery::ALL {
            loaded.measure_query(run, &client, query, echo).await?;
        }
    }
    loaded.measure_snapshots().await?;
    loaded.measure_compaction().await?;
    loaded.writer.stop().await?;
    Ok(loaded.report)
}

impl LoadedHistory<'_> {
    /// Writes the history, takes a snapshot, and writes the tail.
    async fn load(data: &Path, plan: HistoryPlan) -> Result<LoadedHistory<'_>> {
        let writer = DaemonProcess::start("driftdb-writer", data).await?;
        let mut client = client(&writer);
        let statement = format!("CREATE TABLE {TABLE} (pk=id, INDEX(status, customer_id))");
        client.execute(v1::WriterServiceExecuteRequest { statement, ..Default::default() }).await?;
        let report = BenchReport::of_history(plan.events.into());
        let mut loaded = LoadedHistory { plan, data, writer, script: dataset::script(plan.events), report };
        let whole = loaded.script.len();
        let began = Instant::now();
        loaded.ingest("load", 0..whole).await?;
        loaded.report.add("load", "throughput", "events/s", whole as f64 / began.elapsed().as_secs_f64());
        client.snapshot(TABLE).await?;
        // Includes the snapshots that were still pending.
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
        let mut progress = ProgressLine::default();
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

    /// The seq of the first event. All events were written, and nothing was written after them.
    async fn first_seq(&self) -> Result<u64> {
        let last = client(&self.writer).writer_status().await?.last_seq;
        let first = last.checked_sub(self.script.len() as u64).map(|before| before + 1);
        first.ok_or_else(|| Error::new(Reason::Internal, "the writer has fewer commits than were written"))
    }

    /// Measures the time from the start of a reader to its first response, with files in the page cache and without.
    async fn measure_start(&mut self, run: u32, dataset: &Dataset) -> Result<()> {
        self.note_run(run, "ST");
        let (mut reader, took, mut asking) = self.start(dataset).await?;
        self.report.add("ST", "first_answer", "ms", took.as_secs_f64() * 1e3);
        if let Some(memory) = reader.memory() {
            self.report.add("ST", "memory", "MiB", mebibytes(memory));
        }
        // The reader must answer from files too, not only from what it has just read.
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
                render::note(&format!("note: skipped ST.cold: {error}"));
                Ok(())
            }
        }
    }

    async fn start(&self, dataset: &Dataset) -> Result<(DaemonProcess, Duration, ReaderApi)> {
        let began = Instant::now();
        let daemon = DaemonProcess::start("driftdb-reader", self.data).await?;
        let mut reader = reader_on(connect(daemon.url()).await?);
        get(&mut reader, dataset, dataset.orders() / 2).await?;
        Ok((daemon, began.elapsed(), reader))
    }

    /// Measures one kind of query on a reader with empty caches, then the same queries again.
    async fn measure_query(
        &mut self,
        run: u32,
        client: &QueryClient<'_>,
        (query, phase, calls): (DatasetQuery, &str, usize),
        echo: Option<f64>,
    ) -> Result<()> {
        self.note_run(run, phase);
        let (mut daemon, _, mut reader) = self.start(client.dataset).await?;
        if run == 1 && query == DatasetQuery::Select {
            render::note(&format!("R4: {}", client.explain(&mut reader).await?.trim()));
        }
        let seed = u64::from(run);
        let cold = client.run(&mut reader, query, (calls, self.plan.time), seed).await?;
        // Repeat exactly the queries of the first round.
        let again = (cold.len(), Duration::from_secs(3600));
        let warm = client.run(&mut reader, query, again, seed).await?;
        for (latencies, name) in [(cold, format!("{phase}.cold")), (warm, format!("{phase}.warm"))] {
            let sample = summary(latencies, self.plan.time, None)?;
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

    /// Measures a snapshot of the tail; each run after the first adds another tail.
    async fn measure_snapshots(&mut self) -> Result<()> {
        for run in 1..=self.plan.runs {
            self.note_run(run, "SN");
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

    /// Measures a compaction up to the newest snapshot. It can only be done once.
    async fn measure_compaction(&mut self) -> Result<()> {
        self.note_run(1, "CO");
        let before = bytes_in(self.data);
        let began = Instant::now();
        let request = v1::CompactRequest { table: TABLE.to_owned(), ..Default::default() };
        match client(&self.writer).compact(request).await {
            Ok(_) => {}
            Err(error) if error.reason() == Reason::NotSupported => {
                render::note(&format!("note: skipped CO: {error}"));
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.report.add("CO", "time", "ms", began.elapsed().as_secs_f64() * 1e3);
        // The writer keeps obsolete files for a moment, because readers may still use them.
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

    fn note_run(&self, run: u32, phase: &str) {
        let HistoryPlan { events, runs, .. } = self.plan;
        render::note(&format!("run {run} of {runs}: {phase} of {events} events"));
    }
}

/// Reads one row, which must exist.
async fn get(reader: &mut ReaderApi, dataset: &Dataset, order: u32) -> Result<()> {
    let keys = vec![id(order.into())];
    let request = v1::GetRequest { table: TABLE.to_owned(), keys, ..Default::default() };
    let answer = reader.get(request).await.map_err(|s| to_error(&s))?.into_inner();
    let found = answer.rows.first().map(|row| row.seq);
    if found == dataset.written(order, dataset.last_seq()) {
        return Ok(());
    }
    Err(Error::new(Reason::Internal, format!("wrong result: order {order} has seq {found:?}")))
}

/// A connection to a writer without readers.
pub(crate) fn client(writer: &DaemonProcess) -> DatabaseHandle {
    DatabaseHandle::remote(vec![writer.url().to_owned()], Vec::new())
}

/// Converts bytes to MiB, the unit of memory figures.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// The total size in bytes of all files below a directory.
pub(crate) fn bytes_in(dir: &Path) -> u64 {
    files_in(dir).iter().filter_map(|file| OsFileSystem.open(file).ok()?.len().ok()).sum()
}

/// The files below a directory. Files that are removed meanwhile are ignored.
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

/// Drops the files of a directory from the page cache.
async fn leave_page_cache(dir: &Path) -> Result<()> {
    for file in files_in(dir) {
        // `dd` needs no special rights, and affects only these files.
        let mut input = std::ffi::OsString::from("if=");
        input.push(&file);
        let mut command = Command::new("dd");
        command.arg(input).args(["iflag=nocache", "count=0", "status=none"]);
        let output = command.output().await;
        let output = output.map_err(|e| Error::io("cannot drop files from the page cache: dd", &e))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(Error::new(
                Reason::NotSupported,
                format!("cannot drop files from the page cache: {stderr}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_size_of_a_directory_is_measured_and_its_files_can_be_dropped_from_the_page_cache() {
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
