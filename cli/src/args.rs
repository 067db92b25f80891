//! What a user can say on the command line: names, options and help, nothing that acts.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

mod maintenance;
#[cfg(test)]
mod tests;
mod watch;

pub use maintenance::{Compact, Doctor, Snapshot, StorageCheck, StoragePeer, Verify};
pub use watch::Watch;

/// Where the writer is looked for when nobody says.
pub const DEFAULT_WRITER: &str = "http://127.0.0.1:7401";
/// Where a reader is looked for when nobody says.
pub const DEFAULT_READER: &str = "http://127.0.0.1:7402";

/// DriftDB from the command line: write, ask, and travel in time.
#[derive(Debug, Parser)]
#[command(name = "driftctl", version, max_term_width = 110, after_help = FIRST_STEPS, after_long_help = FIRST_STEPS_LONG)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  driftctl demo                     a tour with 10,000 orders, in a few seconds
  driftctl dev                      both daemons in one process, on ./driftdb-data
  driftctl sql -e 'SHOW TABLES'     ask them";

const FIRST_STEPS_LONG: &str = "\
First steps:
  driftctl demo                     a tour with 10,000 orders, in a few seconds
  driftctl dev                      both daemons in one process, on ./driftdb-data
  driftctl sql -e 'SHOW TABLES'     ask them

A moment (--as-of, --from, --to, --until) is one of:
  @seq:100                          the state after commit 100
  @now                              the newest
  2026-01-01T00:00:00Z              a time; 2026-01-01 is its midnight, UTC
  '5 minutes ago'

Exit codes:
  0 done, 1 error, 2 usage, 3 nothing reachable, 4 not found, 5 precondition failed,
  6 damage found or storage unsafe, 130 interrupted

Data goes to stdout, everything else to stderr.";

/// Options that every command takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The writer; of several, separated by commas, the one that is not standing by [default: http://127.0.0.1:7401]
    #[arg(long, global = true, value_name = "URL", env = "DRIFTDB_WRITER", value_delimiter = ',')]
    pub writer: Vec<String>,
    /// The readers, separated by commas; those that answer are asked in turn [default: http://127.0.0.1:7402]
    #[arg(long, global = true, value_name = "URL", env = "DRIFTDB_READER", value_delimiter = ',')]
    pub reader: Vec<String>,
    /// Embedded: open this directory here, without daemons; beside a live writer it can be read
    #[arg(short, long, global = true, value_name = "DIR", env = "DRIFTDB_DATA")]
    pub data: Option<PathBuf>,
    /// How to print rows [default: table on a terminal, jsonl in a pipe]
    #[arg(short, long, global = true, value_name = "FORMAT", env = "DRIFTDB_OUTPUT")]
    pub output: Option<Format>,
    /// No colour, even on a terminal
    #[arg(long, global = true, env = "NO_COLOR", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub no_color: bool,
    /// Read what the reader has, without asking the writer how fresh that must be
    #[arg(long, global = true, env = "DRIFTDB_STALE", value_parser = FalseyValueParser::new())]
    pub stale: bool,
}

/// How rows are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for people.
    Table,
    /// One JSON array.
    Json,
    /// One JSON object a line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an empty database
    #[command(after_help = "Example:\n  driftctl init ./mydata && driftctl -d ./mydata sql -e 'SHOW TABLES'")]
    Init(Init),
    /// Run a writer and a reader in this process, for development
    #[command(
        after_help = "Examples:\n  driftctl dev\n  driftctl dev -d ./mydata --listen 127.0.0.1:7501 --reader-listen 127.0.0.1:7502"
    )]
    Dev(Dev),
    /// Take a tour: 10,000 orders, queries, time travel, drift, diff and a watch on a fresh directory
    Demo(Demo),
    /// Run DriftQL: from -e, from a file, or from stdin
    #[command(after_help = SQL_EXAMPLES)]
    Sql(Sql),
    /// Open a prompt for DriftQL: \? lists what it knows; without a terminal it is `sql` on stdin
    Shell,
    /// Print rows by key
    #[command(
        after_help = "Examples:\n  driftctl get -t orders order1 order2\n  driftctl get -t orders order1 --as-of '1 hour ago' --meta"
    )]
    Get(Get),
    /// Print the rows that match
    #[command(after_help = SELECT_EXAMPLES)]
    Select(Select),
    /// Print what happened: every change of a row, or of a table
    #[command(
        after_help = "Examples:\n  driftctl drift -t orders -k order1\n  driftctl drift -t orders --from @seq:100 --to '5 minutes ago'"
    )]
    Drift(Drift),
    /// Print the net difference between two moments
    #[command(
        after_help = "Examples:\n  driftctl diff -t orders --from @seq:100 --to @seq:200\n  driftctl diff -t orders -k order1 --from '1 day ago'"
    )]
    Diff(Diff),
    /// Print changes as they happen, from now on or from a moment of the past, or run a program for each commit
    #[command(after_help = watch::WATCH_HELP)]
    Watch(Watch),
    /// Load rows from a JSON Lines or CSV file, and go on where a run before stopped
    #[command(after_help = INGEST_EXAMPLES)]
    Ingest(Ingest),
    /// Bring a row back as it was at a moment, as a new event
    #[command(
        after_help = "Examples:\n  driftctl revert -t orders -k order1 --to '1 hour ago' --dry-run\n  driftctl revert -t orders -k order1 --to @seq:100"
    )]
    Revert(Revert),
    /// Apply commits from a JSON Lines file, a commit a line
    #[command(after_help = APPLY_EXAMPLES)]
    Apply(Apply),
    /// Write a snapshot of a table
    #[command(after_help = "Example:\n  driftctl snapshot -t orders")]
    Snapshot(Snapshot),
    /// Let go of a table's oldest past: asks first
    #[command(after_help = maintenance::COMPACT_EXAMPLES)]
    Compact(Compact),
    /// Read everything and tell of what is damaged, at the writer
    #[command(after_help = "Examples:\n  driftctl verify\n  driftctl verify -t orders --deep")]
    Verify(Verify),
    /// Examine a data directory without daemons
    #[command(after_help = "Example:\n  driftctl doctor -d ./mydata")]
    Doctor(Doctor),
    /// Try what a file system does of what DriftDB needs, from two processes
    #[command(after_help = maintenance::STORAGE_EXAMPLES)]
    StorageCheck(StorageCheck),
    /// The other process of `storage-check`
    #[command(hide = true)]
    StoragePeer(StoragePeer),
    /// Show the writer, the readers, how far behind they are, and the tables
    Status,
    /// Measure this machine, or a deployment: JSON lines, a figure each
    #[command(after_help = BENCH_EXAMPLES)]
    Bench(Bench),
    /// Print a completion script for a shell
    #[command(
        after_help = "Example:\n  driftctl completions bash > ~/.local/share/bash-completion/completions/driftctl"
    )]
    Completions(Completions),
    /// Serve a ceiling for `bench` to compare with
    #[command(hide = true)]
    BenchServer(BenchServer),
}

const SQL_EXAMPLES: &str = r#"Examples:
  driftctl sql -e 'CREATE TABLE orders (pk=id, INDEX(status, customer_id))'
  driftctl sql -e 'INSERT INTO orders {"id": "order1", "status": "pending", "amount": 100}'
  driftctl sql -e 'SELECT * FROM orders WHERE status = "pending" AS OF "1 hour ago"'
  driftctl sql -e 'SELECT * FROM orders WHERE status = $1' --param '"pending"'
  driftctl sql -f script.dql
  driftctl sql -e 'BEGIN; PATCH a KEY "x" SET {"n": 1}; PATCH b KEY "y" SET {"n": 2}; COMMIT'"#;

const SELECT_EXAMPLES: &str = r#"Examples:
  driftctl select -t orders --where 'status = "paid" AND amount > 100' --limit 10
  driftctl select -t orders --fields id,status --as-of @seq:1000
  driftctl select -t orders -o csv > orders.csv"#;

const INGEST_EXAMPLES: &str = "\
Each row is a commit of its own. Where the connection breaks or the writer is started anew, it goes on by itself; where
driftctl itself was ended, the same command goes on where it stopped, as long as the file is the same.

CSV: the first line names the fields. A cell that is a number just as JSON would write it, true, false or null becomes
that; all else is text, 007 and 1.50 for two, and so is the empty cell. The primary key is what the table says it is.

Examples:
  driftctl ingest -t orders --file orders.jsonl
  driftctl ingest -t orders --file orders.csv --skip-bad bad.csv
  zcat orders.jsonl.gz | driftctl ingest -t orders --file - --upsert";

const APPLY_EXAMPLES: &str = r#"A line:
  {"time":"2026-01-01T00:00:00Z","reason":"import","ops":[
     {"op":"insert","table":"orders","doc":{"id":"o1","status":"new"}},
     {"op":"put","table":"orders","doc":{"id":"o2","status":"new"}},
     {"op":"patch","table":"orders","key":"o1","patch":{"status":"paid"}},
     {"op":"delete","table":"orders","key":"o2"}]}
(on one line; time and reason may be left out)

Examples:
  driftctl apply --file commits.jsonl
  driftctl apply --file history.jsonl --preserve-time"#;

const BENCH_EXAMPLES: &str = "\
Without --writer and --reader it starts daemons of its own on a fresh directory, and removes it.
With them it measures that deployment, in a table of its own that is dropped at the end; history and T500,
which start and stop daemons, are left out then.

Examples:
  driftctl bench
  driftctl bench --phases log,W1,W2 --runs 5 --dir /mnt/data
  driftctl bench --phases history --history 1000000,10000000";

/// `init`
#[derive(Debug, Args)]
pub struct Init {
    /// The directory of the new database
    pub dir: PathBuf,
}

/// `dev`
#[derive(Debug, Args)]
pub struct Dev {
    /// Where the writer listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    pub listen: SocketAddr,
    /// Where the reader listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub reader_listen: SocketAddr,
}

/// `demo`
#[derive(Debug, Args)]
pub struct Demo {
    /// Keep the demo's data directory, and say where it is
    #[arg(long)]
    pub keep: bool,
}

/// `sql`
#[derive(Debug, Default, Args)]
pub struct Sql {
    /// Statements, separated by semicolons; may be given several times
    #[arg(short = 'e', long, value_name = "STMT", conflicts_with = "file")]
    pub statement: Vec<String>,
    /// A file of statements; `-` is stdin
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A value for $1, $2, …, in this order: JSON, so a string comes in double quotes
    #[arg(long, value_name = "JSON")]
    pub param: Vec<String>,
    /// The time of the commits, for importing history: at or after the last commit's, not in the future
    #[arg(long, value_name = "TIME")]
    pub time: Option<jiff::Timestamp>,
    /// Why: kept with the commits
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<String>,
}

/// `get`
#[derive(Debug, Args)]
pub struct Get {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// The keys of the rows
    #[arg(value_name = "KEY", required_unless_present = "key")]
    pub keys: Vec<String>,
    /// Another way to name a key
    #[arg(short, long, value_name = "KEY")]
    pub key: Vec<String>,
    /// The moment to read at [default: now]
    #[arg(long, value_name = "POINT")]
    pub as_of: Option<String>,
    /// With each row its key, and the seq and time of its last change
    #[arg(long)]
    pub meta: bool,
}

/// `select`
#[derive(Debug, Args)]
pub struct Select {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// A DriftQL condition: status = "paid" AND amount > 100
    #[arg(long = "where", value_name = "COND")]
    pub condition: Option<String>,
    /// The moment to read at [default: now]
    #[arg(long, value_name = "POINT")]
    pub as_of: Option<String>,
    /// At most so many rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Only these fields; a dotted path reaches into an object
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    pub fields: Vec<String>,
    /// With each row its key, and the seq and time of its last change
    #[arg(long)]
    pub meta: bool,
    /// A value for $1, $2, … in the condition: JSON, so a string comes in double quotes
    #[arg(long, value_name = "JSON")]
    pub param: Vec<String>,
}

/// `drift`
#[derive(Debug, Args)]
pub struct Drift {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// Only this row
    #[arg(short, long, value_name = "KEY")]
    pub key: Option<String>,
    /// Only what came after this moment
    #[arg(long, value_name = "POINT")]
    pub from: Option<String>,
    /// Only what came up to this moment, and with it
    #[arg(long, value_name = "POINT")]
    pub to: Option<String>,
    /// At most so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
}

/// `diff`
#[derive(Debug, Args)]
pub struct Diff {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// Only this row; may be given several times
    #[arg(short, long, value_name = "KEY")]
    pub key: Vec<String>,
    /// The earlier moment
    #[arg(long, value_name = "POINT")]
    pub from: String,
    /// The later moment
    #[arg(long, value_name = "POINT", default_value = "@now")]
    pub to: String,
}

/// `ingest`
#[derive(Debug, Args)]
pub struct Ingest {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// The rows: JSON Lines, or CSV with a header; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Replace rows that exist, instead of refusing
    #[arg(long)]
    pub upsert: bool,
    /// What the file holds [default: csv where its name ends so, else jsonl]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<RowFormat>,
    /// CSV: keep every cell as text
    #[arg(long)]
    pub csv_text: bool,
    /// Add bad and refused lines to this file and go on, instead of stopping at the first
    #[arg(long, value_name = "FILE")]
    pub skip_bad: Option<PathBuf>,
    /// Names this load, for going on after a break: keep to the same rows and the same --batch
    /// [default: made of the table and the file's path, length and time]
    #[arg(long, value_name = "ID", conflicts_with = "restart")]
    pub producer: Option<String>,
    /// Begin anew, whatever was loaded before
    #[arg(long)]
    pub restart: bool,
    /// Rows sent together
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub batch: u32,
    /// Batches sent ahead of those that are known to be on disk
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub in_flight: u32,
}

/// What a file of rows holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum RowFormat {
    /// A JSON object a line.
    Jsonl,
    /// Comma-separated values, the fields named in the first line.
    Csv,
}

/// `revert`
#[derive(Debug, Args)]
pub struct Revert {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// The row
    #[arg(short, long, value_name = "KEY")]
    pub key: String,
    /// The moment to go back to
    #[arg(long, value_name = "POINT")]
    pub to: String,
    /// Only print what would change
    #[arg(long)]
    pub dry_run: bool,
}

/// `apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// JSON Lines, a commit a line; `-` is stdin
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Give each commit its line's time, or the last commit's where that is later
    #[arg(long)]
    pub preserve_time: bool,
}

/// `completions`
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    pub shell: clap_complete::Shell,
}

/// `bench`
#[derive(Debug, Args)]
pub struct Bench {
    /// What to measure
    #[arg(long, value_name = "PHASE,…", value_delimiter = ',', default_values_t = Phase::ALL)]
    pub phases: Vec<Phase>,
    /// How often each figure is taken; the median counts
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub runs: u32,
    /// How long a run lasts, in seconds
    #[arg(long, value_name = "S", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub seconds: u32,
    /// Concurrent clients, instead of 64 for W2 and 32 for R1 and R2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub clients: Option<u16>,
    /// Rows in the table that R1 and R2 read
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=999_999))]
    pub keys: u32,
    /// Versions of each of those rows
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub versions: u32,
    /// Events of the long histories: each is loaded and measured, and they are shown side by side
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1000000",
          value_parser = clap::value_parser!(u32).range(100..=100_000_000))]
    pub history: Vec<u32>,
    /// Tables of T500
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub tables: u32,
    /// Events of each of those tables
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub table_events: u32,
    /// Where to make the data directory: on the disk to measure
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
}

/// What `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "verbatim")]
pub enum Phase {
    /// Ceiling: a unary call that does nothing.
    #[value(name = "echo")]
    Echo,
    /// Ceiling: group commit and fdatasync, nothing else.
    #[value(name = "log")]
    Log,
    /// Durable writes of one event, 1 client.
    W1,
    /// Durable writes of one event, 64 clients.
    W2,
    /// Get by key, now.
    R1,
    /// Get by key at a random moment of the past.
    R2,
    /// Watches: 5,000 commits a second to one watcher, 500 a second to each of 100.
    #[value(name = "WA")]
    Wa,
    /// A long history: start-up, Get, history of a row, indexed select, scan, snapshot, compaction, memory, disk.
    #[value(name = "history")]
    History,
    /// Many tables: start-up, memory, and durable writes spread over them.
    T500,
}

impl Phase {
    /// Every phase, in the order measured.
    pub const ALL: [Phase; 9] = [
        Phase::Echo,
        Phase::Log,
        Phase::W1,
        Phase::W2,
        Phase::R1,
        Phase::R2,
        Phase::Wa,
        Phase::History,
        Phase::T500,
    ];
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Phase::Echo => "echo",
            Phase::Log => "log",
            Phase::W1 => "W1",
            Phase::W2 => "W2",
            Phase::R1 => "R1",
            Phase::R2 => "R2",
            Phase::Wa => "WA",
            Phase::History => "history",
            Phase::T500 => "T500",
        })
    }
}

/// `bench-server`
#[derive(Debug, Args)]
pub struct BenchServer {
    /// Which ceiling
    pub ceiling: Ceiling,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
    /// Where the log goes
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
}

/// What a ceiling server does with a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Ceiling {
    /// Nothing.
    Echo,
    /// Appends it to one file and syncs, a group at a time.
    Log,
}

/// Reads the process's arguments and environment; prints help or a usage error and exits where there is one.
pub fn parse() -> Cli {
    from_matches(&Cli::command().get_matches()).unwrap_or_else(|e| e.exit())
}

fn from_matches(matches: &ArgMatches) -> Result<Cli, clap::Error> {
    let mut cli = Cli::from_arg_matches(matches)?;
    // What is said on the command line beats the environment, also between options that exclude each other.
    let source = |id: &str| {
        let inner = matches.subcommand().and_then(|(_, sub)| sub.value_source(id));
        inner.or_else(|| matches.value_source(id))
    };
    let addressed = ["writer", "reader"].iter().any(|id| source(id) == Some(ValueSource::CommandLine));
    if addressed && source("data") == Some(ValueSource::EnvVariable) {
        cli.global.data = None;
    }
    Ok(cli)
}

/// The command line's own description, for completions.
pub fn command() -> clap::Command {
    Cli::command()
}
