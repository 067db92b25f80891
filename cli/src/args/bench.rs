//! Options of `bench` and of the servers of its ceilings.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const BENCH_EXAMPLES: &str = "\
Bench loads a history first, and measures everything on that store: an empty table flatters. Without --writer and --reader, it
starts its own daemons on a new directory in --dir and removes it at the end. With them it measures that deployment, in its own
tables, which it drops at the end; it skips what needs its own daemons. On a terminal it prints a table with a bar for each ratio
to a ceiling, otherwise one JSON object per figure; --output selects the format.

Examples:
  driftctl bench
  driftctl bench --history 20000 --runs 1 --seconds 1
  driftctl bench --phases log,W1,W2 --runs 5 --dir /mnt/data
  driftctl bench --history 1000000,10000000
  driftctl bench --growth watchers --svg watchers.svg
  driftctl bench --sustain 1200
  driftctl bench --tls --history 100000 --runs 5
  driftctl bench --bucket s3://BUCKET/PREFIX --history 1000000";

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Phases to measure, separated by commas
    #[arg(long, value_name = "PHASE,…", value_delimiter = ',', default_values_t = BenchPhase::DEFAULT)]
    pub(crate) phases: Vec<BenchPhase>,
    /// Number of measurements of each figure; the median is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Duration of a run, in seconds; longer runs vary less
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Number of concurrent clients [default: 64 for writes, 32 for reads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) clients: Option<u16>,
    /// Directory in which to create the data, on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Number of events to load first, separated by commas; several are shown side by side
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000000",
          value_parser = clap::value_parser!(u32).range(100..=100_000_000), help_heading = "Amount of data")]
    pub(crate) history: Vec<u32>,
    /// Number of tables of T500
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=4000),
          help_heading = "Amount of data")]
    pub(crate) tables: u32,
    /// Number of events in each of these tables
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..=1_000_000),
          help_heading = "Amount of data")]
    pub(crate) table_events: u32,
    /// Measure how the figures change with one size, instead of the phases
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["phases", "sustain"], help_heading = "Other measurements")]
    pub(crate) growth: Option<GrowthAxis>,
    /// Factor for the sizes of --growth; a small one makes a quick run
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "growth", value_parser = parse_scale,
          help_heading = "Other measurements")]
    pub(crate) scale: f64,
    /// File for the curves of --growth
    #[arg(long, value_name = "FILE", requires = "growth", help_heading = "Other measurements")]
    pub(crate) svg: Option<PathBuf>,
    /// Measure writes, reads and a watch together for this many seconds, instead of the phases
    #[arg(long, value_name = "S", conflicts_with = "phases", value_parser = clap::value_parser!(u32).range(2..=86_400),
          help_heading = "Other measurements")]
    pub(crate) sustain: Option<u32>,
    /// Measure what client certificates and a token cost: W2 and R1 with them and without, in turns, instead of the phases
    #[arg(long, conflicts_with_all = ["phases", "sustain", "growth"], help_heading = "Other measurements")]
    pub(crate) tls: bool,
    /// Measure what this bucket costs and gives, instead of the phases: W2 with a writer that ships to it and without, in turns, readers
    /// that start from it, and writers that take over from it
    ///
    /// Loads the history three times. The objects are in a folder of their own below the URL, which is emptied at the end. The costs are
    /// those of S3's list prices; `driftctl storage-check` takes others.
    #[arg(long, value_name = "URL", conflicts_with_all = ["phases", "sustain", "growth", "tls"], help_heading = "Other measurements")]
    pub(crate) bucket: Option<String>,
}

fn parse_scale(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(scale) if (0.000_1..=10.0).contains(&scale) => Ok(scale),
        _ => Err("the factor must be a number between 0.0001 and 10".to_owned()),
    }
}

/// The size that grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GrowthAxis {
    /// Events of the history, 1 to 10 million: every kind of read, and writes.
    Events,
    /// Tables, 1 to 64: writes spread over them.
    Tables,
    /// Readers beside the writer, 0 to 8: writes.
    Readers,
    /// Watches, 1 to 1,000; one or all of them get every write: writes.
    Watchers,
    /// Bytes of a document, 200 to 65,536: writes and reads.
    Documents,
}

/// A phase of `bench`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub(crate) enum BenchPhase {
    /// Ceiling: a unary call that does nothing.
    #[value(name = "echo")]
    Echo,
    /// Ceiling: group commit with fdatasync, and nothing else.
    #[value(name = "log")]
    Log,
    /// Durable writes of one event, 1 client.
    W1,
    /// Durable writes of one event, 64 clients.
    W2,
    /// The load of the history: Ingest in batches of 1,000 events; memory and disk after it.
    W3,
    /// Ingest of single events, 1,024 of them in flight.
    #[value(name = "W.stream")]
    WStream,
    /// Durable writes of one event, 64 clients, over 8 tables.
    W8,
    /// Get by key, now.
    R1,
    /// Get by key at a random point in the past.
    R2,
    /// History of a row.
    R3,
    /// Select with two indexed conditions, about 100 rows, now.
    #[value(name = "R4.now")]
    R4Now,
    /// The same at a random point in the past.
    #[value(name = "R4.asof")]
    R4Asof,
    /// COUNT with a condition that no index helps, in the middle of the history.
    R5,
    /// A watch: 5,000 commits per second to one watcher.
    #[value(name = "WA")]
    Wa,
    /// Watches: 500 commits per second to each of 100 watchers.
    #[value(name = "WA.fan")]
    WaFan,
    /// Start of a reader to its first answer, and its memory.
    #[value(name = "ST")]
    St,
    /// Snapshot of 50,000 events.
    #[value(name = "SN")]
    Sn,
    /// Compaction of the whole history.
    #[value(name = "CO")]
    Co,
    /// Many tables, on a store of their own: start-up, memory, and durable writes spread over the tables.
    T500,
}

impl BenchPhase {
    /// The phases that are measured by default, in the order of measurement.
    pub(crate) const DEFAULT: [BenchPhase; 18] = [
        BenchPhase::Echo,
        BenchPhase::Log,
        BenchPhase::W3,
        BenchPhase::W1,
        BenchPhase::W2,
        BenchPhase::WStream,
        BenchPhase::W8,
        BenchPhase::R1,
        BenchPhase::R2,
        BenchPhase::R3,
        BenchPhase::R4Now,
        BenchPhase::R4Asof,
        BenchPhase::R5,
        BenchPhase::Wa,
        BenchPhase::WaFan,
        BenchPhase::St,
        BenchPhase::Sn,
        BenchPhase::Co,
    ];
}

impl std::fmt::Display for BenchPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // No variant is skipped.
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

/// Options of `bench-server`.
#[derive(Debug, Args)]
pub(crate) struct BenchServerArgs {
    /// Ceiling to serve
    pub(crate) ceiling: CeilingKind,
    /// Address on which to listen; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub(crate) listen: SocketAddr,
    /// Directory of the log
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: PathBuf,
}

/// What the server of a ceiling does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum CeilingKind {
    /// Nothing.
    Echo,
    /// Appends it to one file and syncs, in groups.
    Log,
}
