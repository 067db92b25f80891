//! The curves of `bench`: how the figures change while one size grows.

use std::time::Duration;

use driftdb::client::{Client, WatchEvent};
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::task::JoinSet;

use super::history::LoadedStore;
use super::history::queries::DatasetQuery;
use super::load::{Sample, channels, drive};
use super::report::BenchReport;
use super::setup::Bench;
use super::svg::Chart;
use super::writes::RowWrites;
use crate::address::DaemonAddress;
use crate::args::{BenchPhase, GrowthAxis};
use crate::errors::to_error;
use crate::processes::DaemonProcess;
use crate::render;

/// How long a watcher may take to open.
const OPENING: Duration = Duration::from_secs(60);
/// The bytes of a document without padding.
const DOCUMENT_BYTES: usize = 200;
/// The reads whose latency is measured over the length of the history.
const READS: [BenchPhase; 6] =
    [BenchPhase::R1, BenchPhase::R2, BenchPhase::R3, BenchPhase::R4Now, BenchPhase::R4Asof, BenchPhase::R5];

/// The figures at each size.
struct Growth<'a> {
    bench: &'a Bench<'a>,
    axis: GrowthAxis,
    report: BenchReport,
    chart: Chart,
    size: u32,
    /// Writes of new rows: each has a new key.
    work: RowWrites,
}

/// The sizes of an axis, and what they count.
fn sizes(axis: GrowthAxis) -> (&'static [u32], &'static str) {
    match axis {
        GrowthAxis::Events => (&[1_000_000, 2_000_000, 5_000_000, 10_000_000], "events"),
        GrowthAxis::Tables => (&[1, 4, 16, 64], "tables"),
        GrowthAxis::Readers => (&[0, 1, 2, 4, 8], "readers"),
        GrowthAxis::Watchers => (&[1, 10, 100, 1000], "watches"),
        GrowthAxis::Documents => (&[200, 1024, 4096, 16_384, 65_536], "bytes of a document"),
    }
}

/// The sizes of an axis after scaling, smallest first, without repetitions.
fn scaled(axis: GrowthAxis, scale: f64) -> Vec<u32> {
    let least = match axis {
        GrowthAxis::Events => 100,
        GrowthAxis::Readers => 0,
        GrowthAxis::Tables | GrowthAxis::Watchers => 1,
        GrowthAxis::Documents => 200,
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most 10 times a small size"
    )]
    let scaled = |size: &u32| ((f64::from(*size) * scale).round() as u32).max(least);
    let mut sizes: Vec<u32> = sizes(axis).0.iter().map(scaled).collect();
    sizes.dedup();
    sizes
}

/// Measures an axis.
pub(super) async fn measure(bench: &Bench<'_>, axis: GrowthAxis) -> Result<(BenchReport, Chart)> {
    let (_, what) = sizes(axis);
    let history = bench.args.history.first().copied().unwrap_or(1_000_000);
    let title = match axis {
        GrowthAxis::Events => "Figures over the length of the history".to_owned(),
        _ => format!("Figures over {what}, on a store of {history} events"),
    };
    let chart = Chart { title, size: what.to_owned(), ..Chart::default() };
    let mut growth = Growth {
        bench,
        axis,
        report: BenchReport::default(),
        chart,
        size: 0,
        work: RowWrites::new(std::slice::from_ref(&bench.target.table), 0)?,
    };
    let all = scaled(axis, bench.args.scale);
    if axis == GrowthAxis::Events {
        for events in all {
            growth.begin(events);
            growth.events(events).await?;
        }
        return Ok((growth.report, growth.chart));
    }
    render::note(&format!("loading {history} events"));
    let mut store = LoadedStore::load(&bench.target, history, &mut BenchReport::default()).await?;
    for size in all {
        growth.begin(size);
        match axis {
            GrowthAxis::Events => {}
            GrowthAxis::Tables => growth.tables(&mut store, size).await?,
            GrowthAxis::Readers => growth.readers(&mut store, size).await?,
            GrowthAxis::Watchers => growth.watchers(&store, size).await?,
            GrowthAxis::Documents => growth.documents(&mut store, size).await?,
        }
    }
    bench.target.clean_up(store.served).await?;
    Ok((growth.report, growth.chart))
}

impl Growth<'_> {
    fn begin(&mut self, size: u32) {
        render::note(&format!("{} {}", size, sizes(self.axis).1));
        self.size = size;
        self.report.set_size(size.into());
    }

    /// Adds a figure to the report and to the chart.
    fn add(&mut self, phase: &str, metric: &str, unit: &'static str, value: f64) {
        self.report.add(phase, metric, unit, value);
        self.chart.add(&format!("{phase} {metric}, {unit}"), f64::from(self.size), value);
    }

    fn add_writes(&mut self, phase: &str, sample: &Sample) {
        self.add(phase, "throughput", "ops/s", sample.ops);
        self.report.add(phase, "p50", "µs", sample.p50);
        self.report.add(phase, "p99", "µs", sample.p99);
        if let Some(processor) = sample.processor {
            self.add(phase, "server_cpu", "µs/op", processor);
        }
    }

    /// Measures W2, or the same over other tables or documents.
    async fn write(&self, store: &LoadedStore, work: &RowWrites, others: &[DaemonProcess]) -> Result<Sample> {
        let channels = channels(&store.served.writer).await?;
        let mut servers = store.served.processes();
        servers.extend(others);
        drive(work.clients(&channels, self.bench.writers()), self.bench.time(), &servers).await
    }

    async fn events(&mut self, events: u32) -> Result<()> {
        let mut load = BenchReport::default();
        let store = LoadedStore::load(&self.bench.target, events, &mut load).await?;
        for (phase, metric, unit) in
            [("W3", "throughput", "events/s"), ("memory", "both", "MiB"), ("disk", "bytes", "MB")]
        {
            if let Some(value) = load.value(phase, metric) {
                self.add(phase, metric, unit, value);
            }
        }
        let readers = channels(&store.served.reader).await?;
        for phase in READS {
            let Some(query) = DatasetQuery::of(phase) else { continue };
            if query != DatasetQuery::Count {
                let clients = store.queries.clients(&readers, 1, query);
                let sample = drive(clients, self.bench.time(), &store.served.processes()).await?;
                self.add(&phase.to_string(), "p50", "µs", sample.p50);
            }
            if let Some(data) = store.served.data.as_deref() {
                let calls = if query == DatasetQuery::Count { 1 } else { 50 };
                let sample = store.measure_cold(data, (query, calls), 7).await?;
                self.add(&format!("{phase}.cold"), "p50", "µs", sample.p50);
            }
        }
        let sample = self.write(&store, &self.work, &[]).await?;
        self.add_writes("W2", &sample);
        drop(readers);
        self.bench.target.clean_up(store.served).await
    }

    async fn tables(&mut self, store: &mut LoadedStore, count: u32) -> Result<()> {
        let names: Vec<String> = (0..count).map(|number| format!("of_{count}_{number}")).collect();
        for name in &names {
            store.served.create(name).await?;
        }
        let sample = self.write(store, &RowWrites::new(&names, 0)?, &[]).await?;
        self.add_writes("W", &sample);
        Ok(())
    }

    async fn readers(&mut self, store: &mut LoadedStore, count: u32) -> Result<()> {
        // The store has one reader, unless there should be none.
        if count == 0
            && let Some(mut reader) = store.served.reader_process.take()
        {
            reader.stop().await?;
        }
        let mut others = Vec::new();
        if let Some(data) = &store.served.data {
            let has = u32::from(store.served.reader_process.is_some());
            for _ in has..count {
                others.push(DaemonProcess::start("driftdb-reader", data).await?);
            }
        }
        let sample = self.write(store, &self.work, &others).await?;
        self.add_writes("W2", &sample);
        for mut reader in others {
            reader.stop().await?;
        }
        Ok(())
    }

    async fn watchers(&mut self, store: &LoadedStore, count: u32) -> Result<()> {
        for (phase, concerned) in [("W2.idle", 1), ("W2.concerned", count)] {
            let table = &self.bench.target.table;
            let watching = OpenWatches::open(&store.served.reader, table, (count, concerned)).await?;
            let sample = self.write(store, &self.work, &[]).await?;
            drop(watching);
            self.add_writes(phase, &sample);
        }
        Ok(())
    }

    async fn documents(&mut self, store: &mut LoadedStore, bytes: u32) -> Result<()> {
        let table = format!("documents_{bytes}");
        store.served.create(&table).await?;
        let padding = usize::try_from(bytes).unwrap_or_default().saturating_sub(DOCUMENT_BYTES);
        let work = RowWrites::new(&[table], padding)?;
        let sample = self.write(store, &work, &[]).await?;
        self.add_writes("W2", &sample);
        self.add("W2", "data", "MB/s", sample.ops * f64::from(bytes) / 1e6);
        Ok(())
    }
}

/// Open watches. They end when this is dropped.
struct OpenWatches(JoinSet<Result<()>>);

impl OpenWatches {
    /// Opens watches of a table, and waits until all follow it. The first `concerned` of them get every change, the others wait for keys that nobody writes.
    async fn open(reader: &DaemonAddress, table: &str, (count, concerned): (u32, u32)) -> Result<OpenWatches> {
        let mut watching = JoinSet::new();
        let (opened, mut all) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..count {
            let keys = if number < concerned { Vec::new() } else { vec![format!("none-{number}")] };
            let database = Client::with(reader.options(), [""; 0], [reader.url()]);
            let mut watch = database.watch(v1::WatchDriftRequest {
                tables: vec![table.to_owned()],
                keys,
                format: v1::DocumentFormat::Msgpack.into(),
                ..Default::default()
            });
            let opened = opened.clone();
            watching.spawn(async move {
                loop {
                    match watch.next().await.map_err(|s| to_error(&s))? {
                        // The receiver is gone once all are open.
                        Some(WatchEvent::CaughtUp(_)) => drop(opened.send(())),
                        Some(WatchEvent::Interrupted(status)) => return Err(to_error(&status)),
                        Some(_) => {}
                        None => return Ok(()),
                    }
                }
            });
        }
        for _ in 0..count {
            tokio::select! {
                _ = all.recv() => {}
                ended = watching.join_next() => {
                    let failed = |what: String| Error::new(Reason::Internal, format!("a watcher failed: {what}"));
                    return Err(match ended {
                        Some(Ok(Err(error))) => error,
                        other => failed(format!("{other:?}")),
                    });
                }
                () = tokio::time::sleep(OPENING) => {
                    return Err(Error::new(Reason::Internal, format!("the watches did not open within {OPENING:?}")));
                }
            }
        }
        Ok(OpenWatches(watching))
    }
}

impl Drop for OpenWatches {
    fn drop(&mut self) {
        self.0.abort_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_scale_down_to_the_least() {
        assert_eq!(scaled(GrowthAxis::Watchers, 0.1), [1, 10, 100]);
        assert_eq!(scaled(GrowthAxis::Readers, 0.25), [0, 1, 2]);
        assert_eq!(scaled(GrowthAxis::Events, 0.001), [1000, 2000, 5000, 10_000]);
        assert_eq!(scaled(GrowthAxis::Documents, 1.0).last(), Some(&65_536));
    }
}
