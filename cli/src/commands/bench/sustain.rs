//! The sustained measurement of `bench`: writes, reads and a watch together, for minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driftdb::client::{Client, WatchEvent};
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::history::queries::DatasetQuery;
use super::history::{LoadedStore, mebibytes};
use super::load::{Call, channels, processor_time, used_since};
use super::report::BenchReport;
use super::setup::Bench;
use super::writes::RowWrites;
use crate::errors::to_error;
use crate::processes::DaemonProcess;
use crate::render;

/// The number of reading clients.
const READERS: usize = 4;
/// The number of intervals of a run that is shorter than as many minutes.
const INTERVALS: u32 = 4;

/// What the clients have done.
#[derive(Debug)]
struct Counters {
    began: Instant,
    writes: AtomicU64,
    reads: AtomicU64,
    delivered: AtomicU64,
    /// When a write was acknowledged last, and the longest time between two acknowledgements, in microseconds.
    last_write: AtomicU64,
    longest_pause: AtomicU64,
}

impl Counters {
    fn new() -> Counters {
        Counters {
            began: Instant::now(),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            last_write: AtomicU64::new(0),
            longest_pause: AtomicU64::new(0),
        }
    }

    fn count_write(&self) {
        let now = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let before = self.last_write.fetch_max(now, Ordering::AcqRel);
        self.longest_pause.fetch_max(now.saturating_sub(before), Ordering::AcqRel);
        self.writes.fetch_add(1, Ordering::AcqRel);
    }
}

/// Loads a history, then measures for a time.
pub(super) async fn measure(bench: &Bench<'_>, time: Duration) -> Result<BenchReport> {
    let mut report = BenchReport::default();
    let history = bench.args.history.first().copied().unwrap_or(1_000_000);
    render::note(&format!("loading {history} events"));
    let store = LoadedStore::load(&bench.target, history, &mut report).await?;
    let mut running = JoinSet::new();
    let counters = Arc::new(Counters::new());
    start_clients(bench, &store, &counters, &mut running).await?;
    let every = (time / INTERVALS).min(Duration::from_secs(60));
    let servers = store.served.processes();
    let begin = Instant::now();
    let mut rates = Vec::new();
    let mut number = 0;
    while begin.elapsed() + every / 2 < time {
        number += 1;
        let before = [&counters.writes, &counters.reads].map(|counter| counter.load(Ordering::Acquire));
        let used = processor_time(&servers);
        tokio::select! {
            () = sleep_until(begin + every * number) => {}
            Some(ended) = running.join_next() => return Err(match ended {
                Ok(Err(error)) => error,
                other => Error::new(Reason::Internal, format!("a client ended: {other:?}")),
            }),
        }
        let after = [&counters.writes, &counters.reads].map(|counter| counter.load(Ordering::Acquire));
        let [writes, reads] = [0, 1].map(|at: usize| {
            let at = |all: &[u64; 2]| all.get(at).copied().unwrap_or_default();
            (at(&after) - at(&before)) as f64
        });
        report.set_size(number.into());
        let rate = writes / every.as_secs_f64();
        rates.push(rate);
        report.add("sustain", "throughput", "ops/s", rate);
        report.add("sustain", "reads", "ops/s", reads / every.as_secs_f64());
        if let Some(used) = used_since(used, &servers) {
            report.add(
                "sustain",
                "server_cpu",
                "µs/op",
                used.as_secs_f64() * 1e6 / (writes + reads).max(1.0),
            );
        }
        let pause = counters.longest_pause.swap(0, Ordering::AcqRel);
        report.add("sustain", "longest_pause", "ms", pause as f64 / 1e3);
        let memory: Option<u64> = servers.iter().map(|server: &&DaemonProcess| server.memory()).sum();
        if let Some(memory) = memory {
            report.add("sustain", "memory", "MiB", mebibytes(memory));
        }
        render::note(&format!(
            "interval {number} of {every:?}: {rate:.0} writes/s, longest pause {} ms",
            pause / 1000
        ));
    }
    let behind =
        counters.writes.load(Ordering::Acquire).saturating_sub(counters.delivered.load(Ordering::Acquire));
    report.add("sustain", "not_delivered_at_end", "events", behind as f64);
    if let (Some(second), Some(last)) = (rates.get(1), rates.last()) {
        report.add("sustain", "last_of_second", "ratio", last / second.max(1.0));
    }
    running.abort_all();
    while running.join_next().await.is_some() {}
    bench.target.clean_up(store.served).await?;
    Ok(report)
}

/// Starts W2, some readers and a watch. They run until they are aborted, or fail.
async fn start_clients(
    bench: &Bench<'_>,
    store: &LoadedStore,
    counters: &Arc<Counters>,
    running: &mut JoinSet<Result<()>>,
) -> Result<()> {
    let table = bench.target.table.clone();
    let database = Client::with(store.served.reader.options(), [""; 0], [store.served.reader.url()]);
    let format = v1::DocumentFormat::Msgpack.into();
    let mut watch =
        database.watch(v1::WatchDriftRequest { tables: vec![table.clone()], format, ..Default::default() });
    let counted = Arc::clone(counters);
    running.spawn(async move {
        while let Some(event) = watch.next().await.map_err(|s| to_error(&s))? {
            match event {
                WatchEvent::Commit(commit) => {
                    counted.delivered.fetch_add(commit.changes.len() as u64, Ordering::AcqRel);
                }
                WatchEvent::Interrupted(status) => return Err(to_error(&status)),
                _ => {}
            }
        }
        Err(Error::new(Reason::Internal, "the watch ended"))
    });
    let work = RowWrites::new(&[table], 0)?;
    for mut client in work.clients(&channels(&store.served.writer).await?, bench.writers()) {
        let counters = Arc::clone(counters);
        running.spawn(async move {
            loop {
                client.call().await?;
                counters.count_write();
            }
        });
    }
    let readers = channels(&store.served.reader).await?;
    for mut client in store.queries.clients(&readers, READERS, DatasetQuery::GetAsOf) {
        let counters = Arc::clone(counters);
        running.spawn(async move {
            loop {
                client.call().await?;
                counters.reads.fetch_add(1, Ordering::AcqRel);
            }
        });
    }
    Ok(())
}
