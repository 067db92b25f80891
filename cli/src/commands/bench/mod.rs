//! `bench`: measures the throughput and latency of this machine or a deployment, and compares them with ceilings.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};

use crate::args::{BenchArgs, BenchPhase, GlobalArgs};
use crate::database::writer_on;
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};
use load::{Sample, channels, drive};
use reads::VersionedTable;
use report::BenchReport;
use target::{CeilingProcess, Target};
use writes::RowWrites;

pub(crate) mod ceiling;

mod history;
mod ingest;
mod load;
mod reads;
mod report;
mod tables;
mod target;
mod watches;
mod writes;

/// The number of clients of W2, and of its ceilings.
const WRITERS: usize = 64;
/// The number of clients of R1 and R2 in their concurrent runs.
const READERS: usize = 32;

/// Measures, and prints a line for each figure.
pub(crate) async fn run(args: &BenchArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    if global.data.is_some() {
        let message = "bench measures daemons and does not take --data; pass --dir to choose where it creates its own data";
        return Err(Failure::Usage(message.to_owned()));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut machine = BenchReport::default();
    machine.add("machine", "cores", "cores", cores as f64);
    machine.print(out)?;
    let runs = Runs { args, target: Target::new(args, global)? };
    if runs.wants(&[BenchPhase::Log, BenchPhase::W1, BenchPhase::W2]) {
        runs.writes().await?.print(out)?;
    }
    if runs.wants(&[BenchPhase::Echo, BenchPhase::R1, BenchPhase::R2]) {
        runs.reads().await?.print(out)?;
    }
    if runs.wants(&[BenchPhase::Wa]) {
        runs.watches().await?.print(out)?;
    }
    if runs.wants(&[BenchPhase::History]) && runs.has_own("history") {
        runs.histories(out).await?;
    }
    if runs.wants(&[BenchPhase::T500]) && runs.has_own("T500") {
        runs.tables().await?.print(out)?;
    }
    Ok(())
}

/// The requested runs.
struct Runs<'a> {
    args: &'a BenchArgs,
    target: Target,
}

/// The result of a ceiling in this run.
struct Reached {
    name: String,
    clients: usize,
    sample: Sample,
}

impl Runs<'_> {
    /// Measures `log`, W1 and W2. No reader runs at the same time.
    async fn writes(&self) -> Result<BenchReport> {
        let many = self.args.clients.map_or(WRITERS, usize::from);
        let mut wanted = vec![(BenchPhase::Log, vec![1, many])];
        if self.wants(&[BenchPhase::W2]) {
            wanted.push((BenchPhase::Echo, vec![many]));
        }
        let ceilings = self.ceilings(wanted).await?;
        let phases = self.only(&[(BenchPhase::W1, "W1", 1), (BenchPhase::W2, "W2", many)]);
        let mut report = BenchReport::default();
        let served = match phases.is_empty() {
            true => None,
            false => Some(self.target.serve("writes", false).await?),
        };
        let channels = match &served {
            Some(served) => channels(&served.writer).await?,
            None => Vec::new(),
        };
        let work = RowWrites::new(&self.target.table)?;
        for run in 1..=self.args.runs {
            // Measure the ceilings beside each run, because the speed of a machine varies over time.
            let reached = self.reach(run, &ceilings, &mut report).await?;
            for (_, name, clients) in &phases {
                self.note_run(run, name);
                let process = served.as_ref().and_then(|served| served.writer_process.as_ref());
                let sample = drive(work.clients(&channels, *clients), self.time(), process).await?;
                compare(&mut report, name, *clients, &sample, &reached);
            }
        }
        drop(channels);
        if let Some(served) = served {
            self.target.clean_up(served).await?;
        }
        stop(ceilings).await?;
        Ok(report)
    }

    /// Measures `echo`, R1 and R2 on a history that is written first.
    async fn reads(&self) -> Result<BenchReport> {
        let many = self.args.clients.map_or(READERS, usize::from);
        let mut report = BenchReport::default();
        let ceilings = self.ceilings(vec![(BenchPhase::Echo, vec![1, many])]).await?;
        let (one, all) = (format!(".c{}", 1), format!(".c{many}"));
        let names = [BenchPhase::R1, BenchPhase::R2]
            .map(|phase| (phase, format!("{phase}{one}"), format!("{phase}{all}")));
        let phases: Vec<_> = names
            .iter()
            .flat_map(|(phase, one, all)| [(*phase, one.as_str(), 1), (*phase, all, many)])
            .collect();
        let phases = self.only(&phases);
        if phases.is_empty() {
            for run in 1..=self.args.runs {
                self.reach(run, &ceilings, &mut report).await?;
            }
            stop(ceilings).await?;
            return Ok(report);
        }
        let served = self.target.serve("reads", true).await?;
        let history = Arc::new(self.history(&served.writer).await?);
        report.add("dataset", "events", "events", history.events() as f64);
        let channels = channels(&served.reader).await?;
        history.await_reader(&channels).await?;
        for run in 1..=self.args.runs {
            let reached = self.reach(run, &ceilings, &mut report).await?;
            for (phase, name, clients) in &phases {
                self.note_run(run, name);
                let reading = history.clients(&channels, *clients, *phase == BenchPhase::R2);
                let sample = drive(reading, self.time(), served.reader_process.as_ref()).await?;
                compare(&mut report, name, *clients, &sample, &reached);
            }
        }
        drop(channels);
        self.target.clean_up(served).await?;
        stop(ceilings).await?;
        Ok(report)
    }

    /// Measures WA, with one watcher and with many.
    async fn watches(&self) -> Result<BenchReport> {
        let mut report = BenchReport::default();
        let served = self.target.serve("watches", true).await?;
        let work = RowWrites::new(&self.target.table)?;
        for run in 1..=self.args.runs {
            for plan in [watches::alone(self.time()), watches::fan(self.time())] {
                self.note_run(run, plan.phase);
                watches::measure(&served, &self.target.table, &work, plan, &mut report).await?;
            }
        }
        self.target.clean_up(served).await?;
        Ok(report)
    }

    /// Whether `bench` starts the daemons itself, which this phase needs.
    fn has_own(&self, phase: &str) -> bool {
        let own = !self.target.is_given();
        if !own {
            render::note(&format!("note: skipped {phase}: it must start and stop its own daemons"));
        }
        own
    }

    /// Measures long histories one after another, then prints them side by side.
    async fn histories(&self, out: &mut Printer) -> CliResult {
        let ceilings = self.ceilings(vec![(BenchPhase::Echo, vec![1])]).await?;
        let mut reports = Vec::new();
        for events in self.args.history.iter().copied() {
            let plan = history::HistoryPlan { events, runs: self.args.runs, time: self.time() };
            let dir = self.target.fresh_dir()?;
            let report = history::measure(&dir.path().join("data"), plan, ceilings.first()).await?;
            report.print(out)?;
            reports.push(report);
        }
        stop(ceilings).await?;
        if reports.len() > 1 {
            render::note(&format!("\n{}", report::side_by_side(&reports)));
        }
        Ok(())
    }

    /// Measures many tables.
    async fn tables(&self) -> Result<BenchReport> {
        let BenchArgs { tables, table_events: events, runs, .. } = *self.args;
        let clients = self.args.clients.map_or(WRITERS, usize::from);
        let plan = tables::TablesPlan { tables, events, runs, time: self.time(), clients };
        let dir = self.target.fresh_dir()?;
        tables::measure(&dir.path().join("data"), plan).await
    }

    async fn history(&self, writer: &str) -> Result<VersionedTable> {
        let channel = channels(writer).await?.pop();
        let channel = channel.ok_or_else(|| Error::new(Reason::Internal, "no connection was opened"))?;
        let BenchArgs { keys, versions, .. } = *self.args;
        VersionedTable::load(&mut writer_on(channel), &self.target.table, keys, versions).await
    }

    /// Starts the requested ceilings.
    async fn ceilings(&self, wanted: Vec<(BenchPhase, Vec<usize>)>) -> Result<Vec<CeilingProcess>> {
        let mut ceilings = Vec::new();
        for (phase, mut clients) in wanted {
            if self.wants(&[phase]) {
                clients.dedup();
                ceilings.push(self.target.ceiling(phase, clients).await?);
            }
        }
        Ok(ceilings)
    }

    /// Measures each ceiling once.
    async fn reach(
        &self,
        run: u32,
        ceilings: &[CeilingProcess],
        report: &mut BenchReport,
    ) -> Result<Vec<Reached>> {
        let mut reached = Vec::new();
        for ceiling in ceilings {
            for clients in ceiling.clients.iter().copied() {
                let phase = format!("{}.c{clients}", ceiling.name);
                self.note_run(run, &phase);
                let sample = ceiling.measure(clients, self.time()).await?;
                report.sample(&phase, &sample);
                reached.push(Reached { name: ceiling.name.clone(), clients, sample });
            }
        }
        Ok(reached)
    }

    fn wants(&self, phases: &[BenchPhase]) -> bool {
        phases.iter().any(|phase| self.args.phases.contains(phase))
    }

    /// The requested phases, with their names and numbers of clients, without repetitions.
    fn only<'n>(&self, phases: &[(BenchPhase, &'n str, usize)]) -> Vec<(BenchPhase, &'n str, usize)> {
        let mut phases: Vec<_> = phases.iter().copied().filter(|(phase, ..)| self.wants(&[*phase])).collect();
        phases.dedup();
        phases
    }

    fn time(&self) -> Duration {
        Duration::from_secs(self.args.seconds.into())
    }

    fn note_run(&self, run: u32, phase: &str) {
        render::note(&format!("run {run} of {}: {phase}", self.args.runs));
    }
}

async fn stop(ceilings: Vec<CeilingProcess>) -> Result<()> {
    for ceiling in ceilings {
        ceiling.stop().await?;
    }
    Ok(())
}

/// Reports a sample, and its ratio to the ceilings with the same number of clients.
fn compare(report: &mut BenchReport, phase: &str, clients: usize, sample: &Sample, reached: &[Reached]) {
    report.sample(phase, sample);
    for ceiling in reached.iter().filter(|ceiling| ceiling.clients == clients) {
        report.ratio(phase, sample, &ceiling.name, &ceiling.sample);
    }
}
