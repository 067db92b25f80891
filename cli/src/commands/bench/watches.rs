//! The watching clients of `bench`: how fast a commit arrives at one watcher and at many.

use std::sync::Arc;
use std::time::Duration;

use driftdb::client::{Client, WatchEvent, Watcher};
use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::sync::{Barrier, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval_at};

use super::load::{WARM_UP, channels, processor_time, summary, used_since};
use super::report::BenchReport;
use super::target::Served;
use super::writes::{RowWrites, WriteClient};
use crate::errors::to_error;

/// The number of writing clients.
const WRITERS: u32 = 50;

/// The parameters of the phase.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WatchRun {
    /// The name of the figures.
    pub(crate) phase: &'static str,
    /// The number of watchers, each with its own connection.
    pub(crate) watchers: usize,
    /// The number of events written per second, one commit each.
    pub(crate) rate: u32,
    /// The duration of the writes.
    pub(crate) time: Duration,
}

/// One watcher, at the rate used in benchmarks of comparable systems.
pub(crate) fn alone(time: Duration) -> WatchRun {
    WatchRun { phase: "WA", watchers: 1, rate: 5000, time }
}

/// Many watchers, which together receive ten times as many events.
pub(crate) fn fan(time: Duration) -> WatchRun {
    WatchRun { phase: "WA.fan", watchers: 100, rate: 500, time }
}

/// A commit: when it was sent and when it was acknowledged.
struct TimedCommit {
    seq: u64,
    sent: Instant,
    acknowledged: Instant,
}

/// Measures one run. Every watcher must receive every commit, once and in order.
pub(crate) async fn measure(
    served: &Served,
    table: &str,
    work: &RowWrites,
    plan: WatchRun,
    report: &mut BenchReport,
) -> Result<()> {
    let opened = Arc::new(Barrier::new(plan.watchers + 1));
    let (last, known) = watch::channel(None);
    let mut watching = JoinSet::new();
    for _ in 0..plan.watchers {
        let database = Client::with(served.reader.options(), [""; 0], [served.reader.url()]);
        let request = v1::WatchDriftRequest {
            tables: vec![table.to_owned()],
            format: v1::DocumentFormat::Msgpack.into(),
            ..Default::default()
        };
        watching.spawn(one(database.watch(request), opened.clone(), known.clone()));
    }
    let writing = async {
        opened.wait().await;
        let servers: Vec<_> = served.reader_process.iter().collect();
        let before = processor_time(&servers);
        let mut written = write(served, work, plan).await?;
        written.sort_by_key(|written| written.seq);
        last.send_replace(Some(written.last().map_or(0, |written| written.seq)));
        Ok::<_, Error>((written, before))
    };
    let joined = async {
        let mut all = Vec::new();
        while let Some(ended) = watching.join_next().await {
            all.push(ended.map_err(|e| Error::new(Reason::Internal, format!("a watcher failed: {e}")))??);
        }
        Ok::<_, Error>(all)
    };
    let ((written, before), delivered) = tokio::try_join!(writing, joined)?;
    let used = used_since(before, &served.reader_process.iter().collect::<Vec<_>>());
    add_figures(&written, &delivered, used, plan, report)
}

/// Writes at the requested rate until the time is over.
async fn write(served: &Served, work: &RowWrites, plan: WatchRun) -> Result<Vec<TimedCommit>> {
    let begin = Instant::now();
    let every = Duration::from_secs(1) * WRITERS / plan.rate.max(1);
    let mut writing = JoinSet::new();
    let clients = work.clients(&channels(&served.writer).await?, usize::try_from(WRITERS).unwrap_or(1));
    for (number, client) in (0..WRITERS).zip(clients) {
        writing.spawn(paced(client, begin + every * number / WRITERS, every, begin + WARM_UP + plan.time));
    }
    let mut written = Vec::new();
    while let Some(ended) = writing.join_next().await {
        written.extend(ended.map_err(|e| Error::new(Reason::Internal, format!("a client failed: {e}")))??);
    }
    Ok(written)
}

async fn paced(
    mut client: WriteClient,
    first: Instant,
    every: Duration,
    end: Instant,
) -> Result<Vec<TimedCommit>> {
    let mut ticks = interval_at(first, every);
    let mut written = Vec::new();
    loop {
        ticks.tick().await;
        let sent = Instant::now();
        if sent >= end {
            return Ok(written);
        }
        let seq = client.write().await?;
        written.push(TimedCommit { seq, sent, acknowledged: Instant::now() });
    }
}

/// Runs one watcher until the last commit has arrived. Returns when each commit arrived.
async fn one(
    mut watch: Watcher,
    opened: Arc<Barrier>,
    mut last: watch::Receiver<Option<u64>>,
) -> Result<Vec<(u64, Instant)>> {
    let mut arrived: Vec<(u64, Instant)> = Vec::with_capacity(1 << 14);
    loop {
        let newest = arrived.last().map_or(0, |(seq, _)| *seq);
        if last.borrow().is_some_and(|last| newest >= last) {
            return Ok(arrived);
        }
        let event = tokio::select! {
            event = watch.next() => event.map_err(|s| to_error(&s))?,
            // The sender outlives every watcher.
            _ = last.changed() => continue,
        };
        match event {
            Some(WatchEvent::Opened(_)) => {
                opened.wait().await;
            }
            Some(WatchEvent::Commit(commit)) => arrived.push((commit.seq, Instant::now())),
            Some(WatchEvent::Interrupted(status)) => return Err(to_error(&status)),
            Some(_) => {}
            None => return Err(Error::new(Reason::Internal, "a watch ended unexpectedly")),
        }
    }
}

/// Adds the figures of a run.
fn add_figures(
    written: &[TimedCommit],
    delivered: &[Vec<(u64, Instant)>],
    processor: Option<Duration>,
    plan: WatchRun,
    report: &mut BenchReport,
) -> Result<()> {
    let counted = written.first().map(|first| first.sent + WARM_UP);
    let micros = |span: Duration| u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
    let (mut since_sent, mut since_acknowledged) = (Vec::new(), Vec::new());
    for arrived in delivered {
        if !arrived.iter().map(|(seq, _)| seq).eq(written.iter().map(|written| &written.seq)) {
            let message = format!("a watcher received {} commits, expected {}", arrived.len(), written.len());
            return Err(Error::new(Reason::Internal, message));
        }
        let both = written.iter().zip(arrived).filter(|(written, _)| Some(written.sent) >= counted);
        for (written, (_, arrived)) in both {
            since_sent.push(micros(arrived.saturating_duration_since(written.sent)));
            since_acknowledged.push(micros(arrived.saturating_duration_since(written.acknowledged)));
        }
    }
    let deliveries = (written.len() * delivered.len()) as f64;
    let phase = plan.phase;
    report.add(phase, "events", "events/s", written.len() as f64 / (WARM_UP + plan.time).as_secs_f64());
    for (name, latencies) in [("send_to_delivered", since_sent), ("ack_to_delivered", since_acknowledged)] {
        let sample = summary(latencies, plan.time, None)?;
        report.add(phase, &format!("{name}_p50"), "µs", sample.p50);
        report.add(phase, &format!("{name}_p99"), "µs", sample.p99);
    }
    if let Some(used) = processor {
        report.add(phase, "server_cpu", "µs/delivery", used.as_secs_f64() * 1e6 / deliveries);
    }
    Ok(())
}
