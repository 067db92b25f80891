//! `bench`: measures the throughput and latency of this machine or a deployment, and compares them with ceilings.

use std::time::Duration;

use driftdb_common::error::Result;

use self::phases::Phases;
use self::report::BenchReport;
use self::setup::Bench;
use self::target::Target;
use crate::args::{BenchArgs, BenchPhase, GlobalArgs};
use crate::exit::{CliResult, Failure};
use crate::render::{self, Printer};

pub(crate) mod ceiling;

mod disk;
mod growth;
mod history;
mod ingest;
mod load;
mod phases;
mod report;
mod security;
mod setup;
mod shipping;
mod summary;
mod sustain;
mod svg;
mod tables;
mod target;
mod watches;
mod writes;

/// Measures, and prints every figure.
pub(crate) async fn run(args: &BenchArgs, global: &GlobalArgs, out: &mut Printer) -> CliResult {
    if global.data.is_some() {
        let message = "bench measures daemons and does not take --data; pass --dir to choose where it creates its own data";
        return Err(Failure::Usage(message.to_owned()));
    }
    let bench = Bench { args, target: Target::new(args, global)? };
    let starts_own = args.growth.is_some() || args.sustain.is_some() || args.tls || args.bucket.is_some();
    if starts_own && bench.target.is_given() {
        let message = "--growth, --sustain, --tls and --bucket start their own daemons; they do not take --writer and --reader";
        return Err(Failure::Usage(message.to_owned()));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut report = BenchReport::default();
    report.add("machine", "cores", "cores", cores as f64);
    if let Some(axis) = args.growth {
        let (figures, chart) = growth::measure(&bench, axis).await?;
        report.append(figures);
        print(&report, out)?;
        return match &args.svg {
            Some(path) => Ok(svg::write(path, &chart)?),
            None => Ok(()),
        };
    }
    if let Some(seconds) = args.sustain {
        report.append(sustain::measure(&bench, Duration::from_secs(seconds.into())).await?);
        return print(&report, out);
    }
    if args.tls {
        report.append(Box::pin(security::measure(&bench)).await?);
        return print(&report, out);
    }
    if let Some(url) = &args.bucket {
        report.append(Box::pin(shipping::measure(&bench, url)).await?);
        return print(&report, out);
    }
    print(&report, out)?;
    let mut reports = Vec::new();
    if BenchPhase::DEFAULT.iter().any(|phase| bench.wants(*phase)) {
        for events in args.history.iter().copied() {
            let report = Box::pin(Phases::measure(&bench, events)).await?;
            print(&report, out)?;
            reports.push(report);
        }
    }
    if reports.len() > 1 {
        render::note(&format!("\n{}", report::side_by_side(&reports)));
    }
    if bench.wants(BenchPhase::T500) && bench.has_own(BenchPhase::T500) {
        print(&many_tables(&bench).await?, out)?;
    }
    Ok(())
}

/// Prints figures: for people a table, otherwise a record for each.
fn print(report: &BenchReport, out: &mut Printer) -> CliResult {
    match out.is_for_people() {
        true => out.print_text(&summary::table(report, out.style())),
        false => report.print(out),
    }
}

/// Measures many tables.
async fn many_tables(bench: &Bench<'_>) -> Result<BenchReport> {
    let BenchArgs { tables, table_events: events, runs, .. } = *bench.args;
    let plan = tables::TablesPlan { tables, events, runs, time: bench.time(), clients: bench.writers() };
    let dir = bench.target.fresh_dir()?;
    tables::measure(&dir.path().join("data"), plan).await
}
