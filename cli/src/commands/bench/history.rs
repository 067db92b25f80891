//! The store that `bench` measures: a writer and a reader with a history of orders, which is loaded first.

use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use tokio::time::Instant;

use super::disk::{bytes_in, leave_page_cache};
use super::ingest;
use super::load::{Sample, processor_time, summary, used_since};
use super::report::BenchReport;
use super::target::{Served, Target};
use crate::address::DaemonAddress;
use crate::database::{DatabaseHandle, ReaderApi, reader_on, writer_on};
use crate::errors::to_error;
use crate::orders::id;
use crate::processes::DaemonProcess;
use crate::render::{self, ProgressLine};

use self::dataset::{Dataset, EventScript};
use self::queries::{DatasetQuery, QueryClient};

mod dataset;
pub(crate) mod queries;

/// The bytes of a daemon that has no data, and what its allocator keeps of freed memory: pages that are partly in use.
const FIXED_BYTES: u64 = (32 + 32) << 20;
/// The times of the last million commits, in a reader.
const COMMIT_TIMES_BYTES: u64 = 8 << 20;
/// Which rows are live, in a writer.
const LIVE_ROWS_BYTES: u64 = 32 << 20;
/// The newest changes, in a writer.
const RECENT_CHANGES_BYTES: u64 = limits::RECENT_CHANGES_BYTES as u64;
/// A snapshot, a merge or an index that is being built, in a writer.
const JOB_BYTES: u64 = 64 << 20;
/// The newest commits, for watches, in a reader.
const RING_BYTES: u64 = limits::RING_BYTES as u64;
/// How long the memory that a load has freed takes to return to the system.
const MEMORY_SETTLES: Duration = Duration::from_secs(10);
/// How long a reader may take to have the history.
const READER_STARTS: Duration = Duration::from_secs(1800);
/// A daemon may take this much more than the formula says before `bench` says so.
const TOLERANCE: f64 = 1.25;

/// A writer and a reader with a loaded history.
pub(crate) struct LoadedStore {
    /// The daemons.
    pub(crate) served: Served,
    /// Asks queries about the history.
    pub(crate) queries: QueryClient,
    script: EventScript,
}

impl LoadedStore {
    /// Loads a history and reports the load, which is W3.
    pub(crate) async fn load(target: &Target, events: u32, report: &mut BenchReport) -> Result<LoadedStore> {
        let store = LoadedStore::load_unmeasured(target, events, report).await?;
        store.report_size(report).await?;
        Ok(store)
    }

    /// The same, without the memory and the bytes on disk, which need time to settle.
    pub(crate) async fn load_unmeasured(
        target: &Target,
        events: u32,
        report: &mut BenchReport,
    ) -> Result<LoadedStore> {
        let served = target.serve(&format!("history-{events}")).await?;
        let script = dataset::script(&target.table, events);
        let began = Instant::now();
        let before = processor_time(&served.processes());
        let token = ingest_events(&served, &script, "load", 0..script.len()).await?;
        let took = began.elapsed();
        let count = script.len() as f64;
        report.add("W3", "throughput", "events/s", count / took.as_secs_f64());
        wait_for_reader(&served, &target.table, &token).await?;
        if let Some(used) = used_since(before, &served.processes()) {
            report.add("W3", "server_cpu", "µs/op", used.as_secs_f64() * 1e6 / count);
        }
        let first = (token.seq + 1).checked_sub(script.len() as u64);
        let first = first
            .ok_or_else(|| Error::new(Reason::Internal, "the writer has fewer commits than were written"))?;
        let queries = QueryClient::new(Arc::new(script.dataset(first)));
        Ok(LoadedStore { served, queries, script })
    }

    /// Reports the memory of both daemons, what the formula in docs/operate.md gives, and the bytes on disk.
    async fn report_size(&self, report: &mut BenchReport) -> Result<()> {
        tokio::time::sleep(MEMORY_SETTLES).await;
        let mut writer = writer_on(self.served.writer.connect().await?);
        let status = writer.status(v1::WriterServiceStatusRequest {}).await.map_err(|s| to_error(&s))?;
        let writer = status.into_inner();
        let mut reader = reader_on(self.served.reader.connect().await?);
        let status = reader.status(v1::ReaderServiceStatusRequest {}).await.map_err(|s| to_error(&s))?;
        let reader = status.into_inner();
        let of_reader =
            FIXED_BYTES + COMMIT_TIMES_BYTES + RING_BYTES + reader.memtable_bytes + reader.cache_bytes;
        let for_all_tables = FIXED_BYTES + LIVE_ROWS_BYTES + RECENT_CHANGES_BYTES + JOB_BYTES;
        let of_writer = for_all_tables + writer.tail_bytes + writer.cache_bytes;
        let daemons = [
            ("reader", &self.served.reader_process, of_reader),
            ("writer", &self.served.writer_process, of_writer),
        ];
        let mut both = Some(0.0);
        for (name, process, formula) in daemons {
            let memory = process.as_ref().and_then(DaemonProcess::memory).map(mebibytes);
            both = both.zip(memory).map(|(both, memory)| both + memory);
            report.add("memory", &format!("{name}_formula"), "MiB", mebibytes(formula));
            let Some(memory) = memory else { continue };
            report.add("memory", name, "MiB", memory);
            let ratio = memory / mebibytes(formula);
            report.add("memory", &format!("{name}_of_formula"), "ratio", ratio);
            if ratio > TOLERANCE {
                render::note(&format!(
                    "warning: the {name} takes {memory:.0} MiB; the formula in docs/operate.md gives {:.0}",
                    mebibytes(formula)
                ));
            }
        }
        if let Some(both) = both {
            report.add("memory", "both", "MiB", both);
        }
        if let Some(data) = &self.served.data {
            report.add("disk", "bytes", "MB", megabytes(bytes_in(data)));
            let of_table =
                |dir: &str| bytes_in(&data.join("tables").join(&self.queries.dataset.table).join(dir));
            let derived: u64 = ["snapshots", "indexes"].into_iter().map(of_table).sum();
            report.add("disk", "of_snapshots", "MB", megabytes(derived));
        }
        Ok(())
    }

    /// Measures the time from the start of a reader to its first answer, with files in the page cache and without.
    pub(crate) async fn measure_start(&self, data: &Path, report: &mut BenchReport) -> Result<()> {
        let (mut reader, took, mut asking) = self.start_reader(data, &[]).await?;
        report.add("ST", "first_answer", "ms", took.as_secs_f64() * 1e3);
        if let Some(memory) = reader.memory() {
            report.add("ST", "memory", "MiB", mebibytes(memory));
        }
        // The reader must answer from files too, not only from what it has just read.
        get(&mut asking, &self.queries.dataset, 0).await?;
        drop(asking);
        reader.stop().await?;
        match leave_page_cache(data).await {
            Ok(()) => {
                let (mut reader, took, asking) = self.start_reader(data, &[]).await?;
                report.add("ST.cold", "first_answer", "ms", took.as_secs_f64() * 1e3);
                drop(asking);
                reader.stop().await
            }
            Err(error) => {
                render::note(&format!("note: skipped ST.cold: {error}"));
                Ok(())
            }
        }
    }

    /// Measures a query on a reader with an empty cache.
    pub(crate) async fn measure_cold(
        &self,
        data: &Path,
        (query, calls): (DatasetQuery, usize),
        seed: u64,
    ) -> Result<Sample> {
        let (mut daemon, _, mut reader) = self.start_reader(data, &[]).await?;
        let began = Instant::now();
        let latencies = self.queries.run(&mut reader, query, calls, seed).await?;
        let sample = summary(latencies, began.elapsed().max(Duration::from_millis(1)), None)?;
        drop(reader);
        daemon.stop().await?;
        Ok(sample)
    }

    /// Starts a reader with options, and waits for its first answer. Returns how long that took.
    pub(crate) async fn start_reader(
        &self,
        data: &Path,
        options: &[OsString],
    ) -> Result<(DaemonProcess, Duration, ReaderApi)> {
        let began = Instant::now();
        let daemon = DaemonProcess::start_with("driftdb-reader", data, options).await?;
        let mut reader = reader_on(daemon.address().connect().await?);
        let dataset = &self.queries.dataset;
        loop {
            match get(&mut reader, dataset, dataset.orders() / 2).await {
                Ok(()) => return Ok((daemon, began.elapsed(), reader)),
                // A reader of a bucket has nothing at first.
                Err(error) if is_not_ready(&error) && began.elapsed() < READER_STARTS => {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Measures a snapshot of a tail of new events. The queries do not know the tail.
    pub(crate) async fn measure_snapshot(&mut self, run: u32, report: &mut BenchReport) -> Result<()> {
        let mut client = client(&self.served.writer);
        let table = &self.queries.dataset.table;
        // What the phases before have written is not measured.
        client.snapshot(table).await?;
        let before = self.script.len();
        self.script.add_tail(run.into());
        ingest_events(&self.served, &self.script, &format!("tail {run}"), before..self.script.len()).await?;
        let servers: Vec<_> = self.served.writer_process.iter().collect();
        let (began, used) = (Instant::now(), processor_time(&servers));
        let info = client.snapshot(table).await?;
        report.add("SN", "time", "ms", began.elapsed().as_secs_f64() * 1e3);
        report.add("SN", "written", "MB", megabytes(info.bytes));
        if let Some(used) = used_since(used, &servers) {
            let events = (self.script.len() - before).max(1) as f64;
            report.add("SN", "server_cpu", "µs/op", used.as_secs_f64() * 1e6 / events);
        }
        Ok(())
    }

    /// Measures a compaction up to the newest snapshot. It can only be done once.
    pub(crate) async fn measure_compaction(&self, report: &mut BenchReport) -> Result<()> {
        let before = self.served.data.as_deref().map(bytes_in);
        let servers: Vec<_> = self.served.writer_process.iter().collect();
        let (began, used) = (Instant::now(), processor_time(&servers));
        let table = self.queries.dataset.table.clone();
        client(&self.served.writer).compact(v1::CompactRequest { table, ..Default::default() }).await?;
        report.add("CO", "time", "ms", began.elapsed().as_secs_f64() * 1e3);
        if let Some(used) = used_since(used, &servers) {
            report.add(
                "CO",
                "server_cpu",
                "µs/op",
                used.as_secs_f64() * 1e6 / self.script.len().max(1) as f64,
            );
        }
        if let (Some(before), Some(data)) = (before, &self.served.data) {
            // The writer keeps obsolete files for a moment, because readers may still use them.
            tokio::time::sleep(Duration::from_secs(4)).await;
            report.add("CO", "disk_before", "MB", megabytes(before));
            report.add("CO", "disk_after", "MB", megabytes(bytes_in(data)));
        }
        Ok(())
    }
}

async fn ingest_events(
    served: &Served,
    script: &EventScript,
    producer: &str,
    events: std::ops::Range<usize>,
) -> Result<v1::WriteToken> {
    let mut progress = ProgressLine::default();
    let total = events.len().div_ceil(ingest::BATCH);
    let batches = script.batches(events, ingest::BATCH);
    let mut writer = writer_on(served.writer.connect().await?);
    let show = |done| progress.show(format_args!("{producer}: batch {done} of {total}"));
    // A deployment may know the producer of an earlier bench.
    let producer = format!("{producer} of {}", uuid::Uuid::new_v4());
    ingest::load(&mut writer, (&producer, ingest::IN_FLIGHT), batches, show).await
}

/// Waits until the reader has applied a commit.
pub(crate) async fn wait_for_reader(served: &Served, table: &str, token: &v1::WriteToken) -> Result<()> {
    let freshness = v1::Freshness {
        min_seq: token.seq,
        epoch: token.epoch,
        wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
        ..Default::default()
    };
    let freshness = Some(freshness);
    let request =
        v1::GetRequest { table: table.to_owned(), keys: vec![id(0)], freshness, ..Default::default() };
    reader_on(served.reader.connect().await?).get(request).await.map(drop).map_err(|s| to_error(&s))
}

/// Whether a reader has no database yet, or not all of it.
fn is_not_ready(error: &Error) -> bool {
    matches!(error.reason(), Reason::Unreachable | Reason::ReplicaBehind)
}

/// Reads one row of the whole history, which must exist.
async fn get(reader: &mut ReaderApi, dataset: &Dataset, order: u32) -> Result<()> {
    let keys = vec![id(order.into())];
    let freshness = Some(v1::Freshness { min_seq: dataset.last_seq(), ..Default::default() });
    let request = v1::GetRequest { table: dataset.table.clone(), keys, freshness, ..Default::default() };
    let answer = reader.get(request).await.map_err(|s| to_error(&s))?.into_inner();
    let found = answer.rows.first().map(|row| row.seq);
    if found == dataset.written(order, dataset.last_seq()) {
        return Ok(());
    }
    Err(Error::new(Reason::Internal, format!("wrong result: order {order} has seq {found:?}")))
}

/// A connection to a writer without readers.
pub(crate) fn client(writer: &DaemonAddress) -> DatabaseHandle {
    DatabaseHandle::remote(vec![writer.url().to_owned()], Vec::new(), writer.tls())
}

/// Converts bytes to MiB, the unit of memory figures.
pub(crate) fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
