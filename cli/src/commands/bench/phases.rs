//! The phases of `bench` on one loaded store, each beside its ceilings.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::time::{Duration, Instant};
use tonic::transport::Channel;

use super::history::LoadedStore;
use super::history::queries::DatasetQuery;
use super::load::{Sample, channels, drive, processor_time, summary, used_since};
use super::report::BenchReport;
use super::setup::Bench;
use super::target::CeilingProcess;
use super::writes::RowWrites;
use super::{ingest, watches};
use crate::args::BenchPhase;
use crate::database::{reader_on, writer_on};
use crate::exit::Failure;
use crate::render;

/// The number of tables of W8.
const TABLES: usize = 8;
/// The number of single events of W.stream in flight.
const STREAMED: usize = 1024;
/// The number of counts of R5 in a run.
const COUNTS: usize = 3;
/// The number of queries on a reader with an empty cache.
const COLD_QUERIES: usize = 50;

/// The phases on one store.
pub(super) struct Phases<'a> {
    bench: &'a Bench<'a>,
    store: LoadedStore,
    report: BenchReport,
    ceilings: Vec<CeilingProcess>,
    work: RowWrites,
    /// The same over several tables.
    wide: RowWrites,
    writers: Vec<Channel>,
    readers: Vec<Channel>,
}

/// The result of a ceiling in this run.
struct Reached {
    name: String,
    clients: usize,
    sample: Sample,
}

/// The ceiling of requests with a thousand events each.
const BATCHES: &str = "log.batch";

impl Phases<'_> {
    /// Loads a history and measures the wanted phases on it.
    pub(super) async fn measure(bench: &Bench<'_>, events: u32) -> Result<BenchReport, Failure> {
        let mut report = BenchReport::default();
        if bench.args.history.len() > 1 {
            report = BenchReport::of_history(events.into());
        }
        let mut ceilings = Vec::new();
        for phase in [BenchPhase::Echo, BenchPhase::Log] {
            if bench.wants(phase) {
                let many = if phase == BenchPhase::Echo { bench.readers() } else { bench.writers() };
                let mut clients = vec![1, many];
                clients.dedup();
                ceilings.push(bench.target.ceiling(phase, clients).await?);
            }
        }
        render::note(&format!("loading {events} events"));
        let mut store = LoadedStore::load(&bench.target, events, &mut report).await?;
        let table = bench.target.table.clone();
        let wide: Vec<String> = (0..TABLES).map(|number| format!("{table}_w{number}")).collect();
        if bench.wants(BenchPhase::W8) {
            for table in &wide {
                store.served.create(table).await?;
            }
        }
        let (writers, readers) =
            (channels(&store.served.writer).await?, channels(&store.served.reader).await?);
        let (work, wide) = (RowWrites::new(&[table], 0)?, RowWrites::new(&wide, 0)?);
        if bench.wants(BenchPhase::R4Now)
            && let Some(channel) = readers.first().cloned()
        {
            render::note(&format!("R4: {}", store.queries.explain(&mut reader_on(channel)).await?.trim()));
        }
        let mut phases = Phases { bench, store, report, ceilings, work, wide, writers, readers };
        for run in 1..=bench.args.runs {
            let reached = phases.reach(run).await?;
            for phase in BenchPhase::DEFAULT.into_iter().filter(|phase| bench.wants(*phase)) {
                phases.run_phase(run, phase, &reached).await?;
            }
        }
        Ok(phases.finish().await?)
    }

    /// Measures each ceiling once, beside each run: the speed of a machine varies over time.
    async fn reach(&mut self, run: u32) -> Result<Vec<Reached>> {
        let mut all = Vec::new();
        for ceiling in &self.ceilings {
            let name = &ceiling.name;
            for clients in ceiling.clients.iter().copied() {
                let phase = format!("{name}.c{clients}");
                note_run(self.bench, run, &phase);
                let sample = ceiling.measure(clients, self.bench.time()).await?;
                self.report.sample(&phase, &sample);
                all.push(Reached { name: name.clone(), clients, sample });
            }
            if name == "log" {
                note_run(self.bench, run, BATCHES);
                let sample = ceiling.measure_batches(ingest::BATCH, self.bench.time()).await?;
                self.report.add(BATCHES, "throughput", "events/s", sample.ops);
                all.push(Reached { name: BATCHES.to_owned(), clients: 0, sample });
            }
        }
        if run == 1
            && let Some(loaded) = self.report.value("W3", "throughput")
        {
            self.compare_batches("W3", loaded, &all);
        }
        Ok(all)
    }

    async fn run_phase(&mut self, run: u32, phase: BenchPhase, reached: &[Reached]) -> Result<()> {
        let name = phase.to_string();
        let (many, time) = (self.bench.writers(), self.bench.time());
        match phase {
            BenchPhase::Echo | BenchPhase::Log | BenchPhase::W3 | BenchPhase::T500 => return Ok(()),
            // They change what the other phases read.
            BenchPhase::Sn | BenchPhase::Co => return Ok(()),
            _ => note_run(self.bench, run, &name),
        }
        let servers = self.store.served.processes();
        match phase {
            BenchPhase::W1 | BenchPhase::W2 | BenchPhase::W8 => {
                let clients = if phase == BenchPhase::W1 { 1 } else { many };
                let work = if phase == BenchPhase::W8 { &self.wide } else { &self.work };
                let sample = drive(work.clients(&self.writers, clients), time, &servers).await?;
                self.compare(&name, ("log", clients), &sample, reached);
            }
            BenchPhase::WStream => {
                let sample = self.stream(time).await?;
                self.report.sample(&name, &sample);
                self.compare_batches(&name, sample.ops, reached);
            }
            BenchPhase::R1 | BenchPhase::R2 => {
                let Some(query) = DatasetQuery::of(phase) else { return Ok(()) };
                let mut counts = vec![1, self.bench.readers()];
                counts.dedup();
                let mut samples = Vec::new();
                for count in counts {
                    let clients = self.store.queries.clients(&self.readers, count, query);
                    samples.push((count, drive(clients, time, &servers).await?));
                }
                for (count, sample) in samples {
                    self.compare(&format!("{name}.c{count}"), ("echo", count), &sample, reached);
                }
                self.measure_cold(run, &name, query).await?;
            }
            BenchPhase::R3 | BenchPhase::R4Now | BenchPhase::R4Asof | BenchPhase::R5 => {
                let Some(query) = DatasetQuery::of(phase) else { return Ok(()) };
                let sample = self.one_reader(query, run).await?;
                self.compare(&name, ("echo", 1), &sample, reached);
                self.measure_cold(run, &name, query).await?;
            }
            BenchPhase::Wa | BenchPhase::WaFan => {
                let plan = if phase == BenchPhase::Wa { watches::alone(time) } else { watches::fan(time) };
                let table = self.bench.target.table.clone();
                watches::measure(&self.store.served, &table, &self.work, plan, &mut self.report).await?;
            }
            BenchPhase::St => {
                if let (true, Some(data)) = (self.bench.has_own(phase), self.store.served.data.as_deref()) {
                    self.store.measure_start(data, &mut self.report).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Measures a query with one client.
    async fn one_reader(&self, query: DatasetQuery, run: u32) -> Result<Sample> {
        let (time, servers) = (self.bench.time(), self.store.served.processes());
        if query != DatasetQuery::Count {
            return drive(self.store.queries.clients(&self.readers, 1, query), time, &servers).await;
        }
        // A count of a long history may take longer than a run.
        let reader = self.readers.first().cloned();
        let reader = reader.ok_or_else(|| Error::new(Reason::Internal, "no connection was opened"))?;
        let mut reader = reader_on(reader);
        let (began, before) = (Instant::now(), processor_time(&servers));
        let latencies = self.store.queries.run(&mut reader, query, COUNTS, run.into()).await?;
        summary(latencies, began.elapsed(), used_since(before, &servers))
    }

    /// Measures a query on a reader with an empty cache, once.
    async fn measure_cold(&mut self, run: u32, name: &str, query: DatasetQuery) -> Result<()> {
        let Some(data) = self.store.served.data.as_deref().filter(|_| run == 1) else { return Ok(()) };
        let calls = if query == DatasetQuery::Count { 1 } else { COLD_QUERIES };
        let sample = self.store.measure_cold(data, (query, calls), 7).await?;
        self.report.add(&format!("{name}.cold"), "p50", "µs", sample.p50);
        self.report.add(&format!("{name}.cold"), "p99", "µs", sample.p99);
        Ok(())
    }

    /// Streams single events until the time is over.
    async fn stream(&self, time: Duration) -> Result<Sample> {
        let channel = self.writers.first().cloned();
        let channel = channel.ok_or_else(|| Error::new(Reason::Internal, "no connection was opened"))?;
        let mut sent: Vec<Instant> = Vec::with_capacity(1 << 16);
        let (mut latencies, mut durable) = (Vec::with_capacity(1 << 16), 0usize);
        let servers = self.store.served.processes();
        let (began, before) = (Instant::now(), processor_time(&servers));
        let sent = std::cell::RefCell::new(&mut sent);
        let batches = std::iter::from_fn(|| {
            (began.elapsed() < time).then(|| {
                sent.borrow_mut().push(Instant::now());
                Ok::<Vec<v1::Operation>, Error>(vec![self.work.operation()])
            })
        });
        let acknowledged = |batch: u64| {
            let (now, batch) = (Instant::now(), usize::try_from(batch).unwrap_or(usize::MAX));
            let sent = sent.borrow();
            for at in sent.iter().take(batch).skip(durable) {
                latencies.push(u32::try_from((now - *at).as_micros()).unwrap_or(u32::MAX));
            }
            durable = durable.max(batch);
        };
        let producer = format!("stream of {}", uuid::Uuid::new_v4());
        ingest::load(&mut writer_on(channel), (&producer, STREAMED), batches, acknowledged).await?;
        summary(latencies, began.elapsed(), used_since(before, &servers))
    }

    /// Reports a sample, and its ratio to a ceiling with the same number of clients.
    fn compare(
        &mut self,
        phase: &str,
        (ceiling, clients): (&str, usize),
        sample: &Sample,
        reached: &[Reached],
    ) {
        self.report.sample(phase, sample);
        let same = |reached: &&Reached| reached.name == ceiling && reached.clients == clients;
        if let Some(reached) = reached.iter().find(same) {
            self.report.ratio(phase, sample, ceiling, &reached.sample);
        }
    }

    fn compare_batches(&mut self, phase: &str, throughput: f64, reached: &[Reached]) {
        if let Some(reached) = reached.iter().find(|reached| reached.name == BATCHES) {
            self.report.add(phase, "throughput_of_log.batch", "ratio", throughput / reached.sample.ops);
        }
    }

    /// Measures the phases that change the history, and stops all daemons.
    async fn finish(mut self) -> Result<BenchReport> {
        if self.bench.wants(BenchPhase::Sn) {
            for run in 1..=self.bench.args.runs {
                note_run(self.bench, run, "SN");
                self.store.measure_snapshot(run, &mut self.report).await?;
            }
        }
        if self.bench.wants(BenchPhase::Co) {
            note_run(self.bench, 1, "CO");
            self.store.measure_compaction(&mut self.report).await?;
        }
        drop((self.writers, self.readers));
        for ceiling in self.ceilings {
            ceiling.stop().await?;
        }
        self.bench.target.clean_up(self.store.served).await?;
        Ok(self.report)
    }
}

fn note_run(bench: &Bench<'_>, run: u32, phase: &str) {
    render::note(&format!("run {run} of {}: {phase}", bench.args.runs));
}
