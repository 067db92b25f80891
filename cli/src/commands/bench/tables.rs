//! The T500 phase of `bench`: many tables with short histories.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::time::Instant;

use super::disk::bytes_in;
use super::history::{client, mebibytes};
use super::ingest;
use super::load::{Call, channels, drive};
use super::report::BenchReport;
use super::writes::{acknowledged, put_order};
use crate::database::{ReaderApi, WriterApi, reader_on, writer_on};
use crate::errors::to_error;
use crate::orders::id;
use crate::processes::DaemonProcess;
use crate::render::{self, ProgressLine};

/// The number of versions of each row.
const VERSIONS: u32 = 10;

/// The parameters of the phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TablesPlan {
    /// The number of tables.
    pub(crate) tables: u32,
    /// The number of events in each table.
    pub(crate) events: u32,
    /// How often each figure is measured.
    pub(crate) runs: u32,
    /// The duration of a run of writes.
    pub(crate) time: Duration,
    /// The number of writing clients.
    pub(crate) clients: usize,
}

/// Loads the tables into a directory and measures.
pub(crate) async fn measure(data: &Path, plan: TablesPlan) -> Result<BenchReport> {
    let mut report = BenchReport::default();
    let mut writer = DaemonProcess::start("driftdb-writer", data).await?;
    create(&writer, plan.tables).await?;
    let began = Instant::now();
    let loading = Loading { tables: plan.tables, rows: plan.events / VERSIONS };
    let mut progress = ProgressLine::default();
    let mut ingesting = writer_on(writer.address().connect().await?);
    let show = |done| progress.show(format_args!("T500: batch {done}"));
    ingest::load(&mut ingesting, ("tables", ingest::IN_FLIGHT), loading.batches(), show).await?;
    drop(ingesting);
    let events = f64::from(plan.tables) * f64::from(loading.rows * VERSIONS);
    report.add("T500", "load", "events/s", events / began.elapsed().as_secs_f64());
    add_memory(&mut report, "writer_memory", &writer);
    report.add("T500", "disk", "MB", bytes_in(data) as f64 / 1e6);
    let writers = channels(&writer.address()).await?;
    let next = Arc::new(AtomicU64::new(0));
    for run in 1..=plan.runs {
        render::note(&format!("run {run} of {}: T500", plan.runs));
        let began = Instant::now();
        let mut daemon = DaemonProcess::start("driftdb-reader", data).await?;
        let mut reader = reader_on(daemon.address().connect().await?);
        first_answer(&mut reader, &loading).await?;
        report.add("T500", "first_answer", "ms", began.elapsed().as_secs_f64() * 1e3);
        add_memory(&mut report, "memory", &daemon);
        drop(reader);
        daemon.stop().await?;
        let channels = writers.iter().cycle().take(plan.clients).cloned();
        let clients = channels.map(|channel| TableClient {
            writer: writer_on(channel),
            tables: plan.tables,
            next: Arc::clone(&next),
        });
        let sample = drive(clients.collect(), plan.time, &[&writer]).await?;
        report.sample(&format!("T500.c{}", plan.clients), &sample);
    }
    drop(writers);
    add_memory(&mut report, "writer_memory_after", &writer);
    writer.stop().await?;
    Ok(report)
}

async fn create(writer: &DaemonProcess, tables: u32) -> Result<()> {
    let mut client = client(&writer.address());
    for number in 0..tables {
        let statement = format!("CREATE TABLE {} (pk=id, INDEX(status))", name(number));
        client.execute(v1::WriterServiceExecuteRequest { statement, ..Default::default() }).await?;
    }
    Ok(())
}

fn name(number: u32) -> String {
    format!("orders_{number:04}")
}

fn add_memory(report: &mut BenchReport, metric: &str, daemon: &DaemonProcess) {
    if let Some(memory) = daemon.memory() {
        report.add("T500", metric, "MiB", mebibytes(memory));
    }
}

/// Reads the last row of the last table.
async fn first_answer(reader: &mut ReaderApi, loading: &Loading) -> Result<()> {
    let key = id((loading.rows - 1).into());
    let table = name(loading.tables - 1);
    let request = v1::GetRequest { table, keys: vec![key.clone()], ..Default::default() };
    let answer = reader.get(request).await.map_err(|s| to_error(&s))?.into_inner();
    match answer.rows.as_slice() {
        [row] if row.key == key => Ok(()),
        rows => Err(Error::new(
            Reason::Internal,
            format!("wrong result: {} rows for key {key}, expected 1", rows.len()),
        )),
    }
}

/// The data to load: table by table, version by version.
#[derive(Debug, Clone, Copy)]
struct Loading {
    tables: u32,
    rows: u32,
}

impl Loading {
    fn batches(self) -> impl Iterator<Item = Result<Vec<v1::Operation>>> {
        let events = move |table: u32| {
            (0..VERSIONS).flat_map(move |version| (0..self.rows).map(move |row| (table, row, version)))
        };
        let mut events = (0..self.tables).flat_map(events);
        std::iter::from_fn(move || {
            let batch: Vec<_> = events.by_ref().take(ingest::BATCH).collect();
            let operations = || {
                let put = |(table, row, version): &(u32, u32, u32)| put_order(&name(*table), *row, *version);
                batch.iter().map(put).collect()
            };
            (!batch.is_empty()).then(operations)
        })
    }
}

/// A client that makes durable writes to one table after another.
#[derive(Debug)]
struct TableClient {
    writer: WriterApi,
    tables: u32,
    next: Arc<AtomicU64>,
}

impl Call for TableClient {
    async fn call(&mut self) -> Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let table = u32::try_from(number % u64::from(self.tables)).unwrap_or_default();
        // Rows that the load has not written.
        let row = u32::try_from(number % 100_000).unwrap_or_default() + 1_000_000;
        let operations = vec![put_order(&name(table), row, 0)?];
        let request = v1::ApplyRequest { operations, ..Default::default() };
        acknowledged(&mut self.writer, request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_writes_every_version_of_every_row() {
        let loading = Loading { tables: 3, rows: 40 };
        let batches: Vec<_> = loading.batches().map(Result::unwrap).collect();
        let sizes: Vec<usize> = batches.iter().map(Vec::len).collect();
        assert_eq!(sizes, [1000, 200]);
        let all: Vec<_> = batches.concat();
        for table in 0..3 {
            assert_eq!(all.iter().filter(|operation| operation.table == name(table)).count(), 400);
        }
    }
}
