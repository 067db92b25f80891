//! Options of `bench` and of the servers of its ceilings.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

pub(super) const BENCH_EXAMPLES: &str = "\
Without --writer and --reader, bench starts its own daemons on a new directory in --dir and removes it at the end.
With them it measures that deployment, in its own table, which it drops at the end; it skips the phases history and T500,
because these start and stop daemons. Each line of output is one figure; --output selects the format [default: jsonl].

Examples:
  driftctl bench
  driftctl bench --phases log,W1,W2 --runs 5 --dir /mnt/data
  driftctl bench --phases history --history 1000000,10000000";

/// Options of `bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Phases to measure, separated by commas
    #[arg(long, value_name = "PHASE,…", value_delimiter = ',', default_values_t = BenchPhase::ALL)]
    pub(crate) phases: Vec<BenchPhase>,
    /// Number of measurements of each figure; the median is reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) runs: u32,
    /// Duration of a run, in seconds; longer runs vary less
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Number of concurrent clients [default: 64 for W2, 32 for R1 and R2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) clients: Option<u16>,
    /// Directory in which to create the data, on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Number of rows in the table of R1 and R2
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=999_999),
          help_heading = "Amount of data")]
    pub(crate) keys: u32,
    /// Number of versions of each of these rows
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000),
          help_heading = "Amount of data")]
    pub(crate) versions: u32,
    /// Number of events of each long history, separated by commas; several are shown side by side
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
    /// Get by key, now.
    R1,
    /// Get by key at a random point in the past.
    R2,
    /// Watches: 5,000 commits per second to one watcher, then 500 per second to each of 100.
    #[value(name = "WA")]
    Wa,
    /// A long history: start-up, Get, history of a row, indexed select, scan, snapshot, compaction, memory, disk.
    #[value(name = "history")]
    History,
    /// Many tables: start-up, memory, and durable writes spread over the tables.
    T500,
}

impl BenchPhase {
    /// Every phase, in the order of measurement.
    pub(crate) const ALL: [BenchPhase; 9] = [
        BenchPhase::Echo,
        BenchPhase::Log,
        BenchPhase::W1,
        BenchPhase::W2,
        BenchPhase::R1,
        BenchPhase::R2,
        BenchPhase::Wa,
        BenchPhase::History,
        BenchPhase::T500,
    ];
}

impl std::fmt::Display for BenchPhase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BenchPhase::Echo => "echo",
            BenchPhase::Log => "log",
            BenchPhase::W1 => "W1",
            BenchPhase::W2 => "W2",
            BenchPhase::R1 => "R1",
            BenchPhase::R2 => "R2",
            BenchPhase::Wa => "WA",
            BenchPhase::History => "history",
            BenchPhase::T500 => "T500",
        })
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
