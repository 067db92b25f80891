//! What a bucket costs and gives: W2 with shipping beside W2 without, how far the bucket is behind, readers that start from the bucket, and
//! writers that take over from it.
//!
//! Each side has a store and daemons of its own, with the same history. They are measured in turns, and which side comes first
//! rotates: the speed of a machine varies over time.

use std::cell::Cell;
use std::ffi::OsString;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_reader::bucket_mirror::BUCKET_POLL_INTERVAL;
use tokio::time::Instant;
use tonic::transport::Channel;

use self::bench_folder::BenchFolder;
use self::bucket_progress::{bucket_state, last_seq};
use self::machine_loss::LosableWriter;
use super::disk::bytes_in;
use super::history::{LoadedStore, mebibytes};
use super::load::{Sample, channels, drive};
use super::report::BenchReport;
use super::setup::Bench;
use super::target::Target;
use super::writes::RowWrites;
use crate::args::{GET_PRICE, PUT_PRICE};
use crate::commands::request_costs::in_a_month;
use crate::database::writer_on;
use crate::render;

mod bench_folder;
mod bucket_progress;
mod machine_loss;

/// How often a writer is asked how far its bucket is.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// How long the bucket may take to have everything.
const CATCH_UP: Duration = Duration::from_secs(600);
/// The budget of a reader that leaves snapshots in the bucket, in bytes.
const PARTS_BYTES: &str = "1073741824";

/// How a side ships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ShippingMode {
    /// Not at all.
    Plain,
    /// Behind the acknowledgements.
    Async,
    /// Before them.
    Sync,
}

const MODES: [ShippingMode; 3] = [ShippingMode::Plain, ShippingMode::Async, ShippingMode::Sync];

impl ShippingMode {
    fn name(self) -> &'static str {
        match self {
            ShippingMode::Plain => "plain",
            ShippingMode::Async => "async",
            ShippingMode::Sync => "sync",
        }
    }
}

/// One side.
struct ShippingSide {
    mode: ShippingMode,
    /// Holds the directory of the daemons.
    target: Target,
    store: LoadedStore,
    writers: Vec<Channel>,
    work: RowWrites,
    /// The writer's options about its bucket.
    options: Vec<OsString>,
    url: Option<String>,
}

/// What the runs of one side add up to.
#[derive(Debug, Default)]
struct ShippedRuns {
    chunks: u64,
    time: Duration,
    /// The file objects before the first run.
    files: usize,
}

/// Measures everything, in a folder of its own, which is emptied at the end.
pub(super) async fn measure(bench: &Bench<'_>, url: &str) -> Result<BenchReport> {
    let folder = BenchFolder::new(url);
    folder.check().await?;
    let measured = Box::pin(measure_in(bench, &folder)).await;
    // Also after a failure, which counts then.
    let removed = folder.remove(&MODES.map(ShippingMode::name)).await;
    let report = measured?;
    removed.map(|()| report)
}

async fn measure_in(bench: &Bench<'_>, folder: &BenchFolder) -> Result<BenchReport> {
    let mut report = BenchReport::default();
    let mut sides = Vec::new();
    for mode in MODES {
        sides.push(ShippingSide::open(bench, folder, mode).await?);
    }
    measure_writes(bench, &sides, &mut report).await?;
    for side in &sides {
        side.until_shipped().await?;
        if side.mode == ShippingMode::Async {
            side.measure_readers(bench, &mut report).await?;
        }
    }
    for side in sides {
        side.measure_losses(bench, &mut report).await?;
    }
    Ok(report)
}

/// Measures W2 on all sides, and what shipping does meanwhile.
async fn measure_writes(bench: &Bench<'_>, sides: &[ShippingSide], report: &mut BenchReport) -> Result<()> {
    let mut shipped = ShippedRuns::default();
    for side in sides.iter().filter(|side| side.mode == ShippingMode::Async) {
        shipped.files = side.count_files().await?;
    }
    for run in 1..=bench.args.runs {
        render::note(&format!("run {run} of {}: W2 with and without the bucket", bench.args.runs));
        let mut samples = Vec::new();
        let first = usize::try_from(run).unwrap_or_default() % sides.len().max(1);
        for side in sides.iter().cycle().skip(first).take(sides.len()) {
            let sample = match side.mode {
                ShippingMode::Async => side.measure_async_writes(bench, &mut shipped, report).await?,
                _ => side.measure_writes(bench).await?,
            };
            // What is still to be shipped must not slow down the next side.
            side.until_shipped().await?;
            samples.push((side.mode, sample));
        }
        let of = |mode| samples.iter().find(|(of, _)| *of == mode).map(|(_, sample)| *sample);
        for mode in MODES {
            let (Some(sample), Some(plain)) = (of(mode), of(ShippingMode::Plain)) else { continue };
            let phase = format!("W2.{}", mode.name());
            report.sample(&phase, &sample);
            if mode != ShippingMode::Plain {
                report.ratio(&phase, &sample, ShippingMode::Plain.name(), &plain);
            }
        }
    }
    for side in sides.iter().filter(|side| side.mode == ShippingMode::Async) {
        let files = side.count_files().await?.saturating_sub(shipped.files);
        let puts = shipped.chunks as f64 + files as f64;
        report_requests("writer_puts", puts / shipped.time.as_secs_f64().max(0.001), PUT_PRICE, report);
    }
    report_requests("reader_gets", 1.0 / BUCKET_POLL_INTERVAL.as_secs_f64(), GET_PRICE, report);
    Ok(())
}

fn report_requests(what: &str, per_second: f64, price: f64, report: &mut BenchReport) {
    let (_, usd) = in_a_month(per_second, price);
    report.add("requests", what, "1/min", per_second * 60.0);
    report.add("requests", &format!("{what}_cost"), "USD/month", usd);
}

impl ShippingSide {
    async fn open(bench: &Bench<'_>, folder: &BenchFolder, mode: ShippingMode) -> Result<ShippingSide> {
        let url = (mode != ShippingMode::Plain).then(|| folder.of(mode.name()));
        let options: Vec<OsString> = match &url {
            Some(url) => ["--bucket", url, "--bucket-ack", mode.name()].map(OsString::from).to_vec(),
            None => Vec::new(),
        };
        let target = Target::own(bench.args, None)?.with_writer_options(options.clone());
        let events = bench.args.history.first().copied().unwrap_or(1_000_000);
        render::note(&format!("{}: loading {events} events", mode.name()));
        let store = LoadedStore::load_unmeasured(&target, events, &mut BenchReport::default()).await?;
        let writers = channels(&store.served.writer).await?;
        let work = RowWrites::new(std::slice::from_ref(&target.table), 0)?;
        let side = ShippingSide { mode, target, store, writers, work, options, url };
        side.until_shipped().await?;
        Ok(side)
    }

    async fn measure_writes(&self, bench: &Bench<'_>) -> Result<Sample> {
        let servers: Vec<_> = self.store.served.writer_process.iter().collect();
        drive(self.work.clients(&self.writers, bench.writers()), bench.time(), &servers).await
    }

    /// Measures W2, and asks the writer meanwhile how far the bucket is.
    async fn measure_async_writes(
        &self,
        bench: &Bench<'_>,
        shipped: &mut ShippedRuns,
        report: &mut BenchReport,
    ) -> Result<Sample> {
        let mut asking = writer_on(self.store.served.writer.connect().await?);
        let before = bucket_state(&mut asking).await?.chunk;
        let (is_done, began) = (Cell::new(false), Instant::now());
        let writes = async {
            let sample = self.measure_writes(bench).await;
            is_done.set(true);
            sample
        };
        let asked = async {
            let mut lags = Vec::new();
            while !is_done.get() {
                lags.push(bucket_state(&mut asking).await?.lag_ms as f64);
                tokio::time::sleep(ASK_EVERY).await;
            }
            Ok::<_, Error>(lags)
        };
        let (sample, lags) = tokio::join!(writes, asked);
        let (sample, mut lags) = (sample?, lags?);
        shipped.time += began.elapsed();
        shipped.chunks += bucket_state(&mut asking).await?.chunk.saturating_sub(before);
        lags.sort_unstable_by(f64::total_cmp);
        let at = |index: usize| lags.get(index).copied().unwrap_or_default();
        report.add("lag.async", "p50", "ms", at(lags.len() / 2));
        report.add("lag.async", "max", "ms", at(lags.len().saturating_sub(1)));
        Ok(sample)
    }

    /// Waits until the bucket has everything that was written.
    async fn until_shipped(&self) -> Result<()> {
        if self.url.is_none() {
            return Ok(());
        }
        let mut asking = writer_on(self.store.served.writer.connect().await?);
        let seq = last_seq(&self.store.served.writer).await?;
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let bucket = bucket_state(&mut asking).await?;
            if bucket.last_seq >= seq {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!("the bucket does not catch up within {CATCH_UP:?}: {}", bucket.problem);
                return Err(Error::new(Reason::Unreachable, message));
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// The number of objects that are files of their own: layers, indexes, long segments.
    async fn count_files(&self) -> Result<usize> {
        match &self.url {
            Some(url) => bench_folder::count_files(url).await,
            None => Ok(0),
        }
    }

    /// Measures the start of readers that have only the bucket, to their first answer.
    async fn measure_readers(&self, bench: &Bench<'_>, report: &mut BenchReport) -> Result<()> {
        let Some(url) = &self.url else { return Ok(()) };
        for run in 1..=bench.args.runs {
            for (phase, more) in [
                ("ST.bucket", [].as_slice()),
                ("ST.bucket_parts", ["--bucket-cache", PARTS_BYTES].as_slice()),
            ] {
                render::note(&format!("run {run} of {}: {phase}", bench.args.runs));
                let cache = self.target.fresh_dir()?;
                let options: Vec<OsString> =
                    ["--bucket", url].into_iter().chain(more.iter().copied()).map(OsString::from).collect();
                let data = cache.path().join("cache");
                let (mut daemon, took, asking) = self.store.start_reader(&data, &options).await?;
                report.add(phase, "first_answer", "ms", took.as_secs_f64() * 1e3);
                report.add(phase, "copied", "MB", bytes_in(&data) as f64 / 1e6);
                if let Some(memory) = daemon.memory() {
                    report.add(phase, "memory", "MiB", mebibytes(memory));
                }
                drop(asking);
                daemon.stop().await?;
            }
        }
        Ok(())
    }

    /// Kills the writer under load and lets another take over from the bucket, then stops all daemons.
    async fn measure_losses(mut self, bench: &Bench<'_>, report: &mut BenchReport) -> Result<()> {
        if self.mode == ShippingMode::Plain {
            drop(self.writers);
            return self.target.clean_up(self.store.served).await;
        }
        // They are beside the disk that is lost.
        self.writers.clear();
        if let Some(mut reader) = self.store.served.reader_process.take() {
            reader.stop().await?;
        }
        let first = self.store.served.writer_process.take();
        let first = first.ok_or_else(|| Error::new(Reason::Internal, "the writer is not a child"))?;
        let mut writer = LosableWriter::new(first, self.options);
        let phase = format!("takeover.{}", self.mode.name());
        for run in 1..=bench.args.runs {
            render::note(&format!("run {run} of {}: {phase}", bench.args.runs));
            // Not always at the same time after a chunk.
            let time = bench.time() + Duration::from_millis(137) * run;
            let dir = self.target.fresh_dir()?;
            let loss = writer.lose(&self.work, (bench.writers(), time), dir).await?;
            if self.mode == ShippingMode::Sync && loss.writes > 0 {
                let message =
                    format!("{} writes that were acknowledged with --bucket-ack sync are lost", loss.writes);
                return Err(Error::new(Reason::Corrupt, message));
            }
            report.add(&phase, "first_write", "ms", loss.took.as_secs_f64() * 1e3);
            report.add(&phase, "lost", "writes", loss.writes as f64);
            report.add(&phase, "lost_time", "ms", loss.time.as_secs_f64() * 1e3);
        }
        writer.stop().await?;
        self.target.clean_up(self.store.served).await
    }
}
