//! The command line of driftctl: commands, options and their help. Nothing here acts.

use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::error::ErrorKind as ClapErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::service::options::{ClockJump, parse_clock_jump};

mod backup;
mod bench;
mod cert;
mod context;
mod dump;
mod export;
mod given;
mod maintenance;
mod observe;
mod rows;
mod security;
mod statements;
mod target;
#[cfg(test)]
mod tests;
mod tls;
mod watch;

pub(crate) use backup::{
    BackupArgs, BackupCommand, CloneArgs, CollectBucketArgs, RestoreArgs, VerifyBucketArgs,
};
pub(crate) use bench::{BenchArgs, BenchPhase, BenchServerArgs, CeilingKind, GrowthAxis};
pub(crate) use cert::{CertArgs, CertCommand, NewCertArgs};
pub(crate) use context::{AddContextArgs, ContextArgs, ContextCommand, UseContextArgs};
pub(crate) use dump::{DumpArgs, LoadArgs};
pub(crate) use export::{ExportArgs, ExportFormat};
pub(crate) use given::GivenOptions;
pub(crate) use maintenance::{
    ClockArgs, ClockCommand, CompactArgs, CompletionsArgs, DemoArgs, DevArgs, DoctorArgs, GET_PRICE,
    InitArgs, ManArgs, PUT_PRICE, SnapshotArgs, StorageCheckArgs, StoragePeerArgs, VerifyArgs,
};
pub(crate) use observe::{HealthArgs, TopArgs};
pub(crate) use rows::{ApplyArgs, IngestArgs, RowFormat};
pub(crate) use security::{AuthArgs, AuthCommand, NewTokenArgs, TokenArgs, TokenCommand};
pub(crate) use statements::{DiffArgs, DriftArgs, FindArgs, GetArgs, RevertArgs, SelectArgs, SqlArgs};
pub(crate) use target::RowTargetArgs;
pub(crate) use tls::TlsArgs;
pub(crate) use watch::{WatchArgs, WatchFormat};

/// The default address of the writer.
pub(crate) const DEFAULT_WRITER: &str = "http://127.0.0.1:7401";
/// The default address of a reader.
pub(crate) const DEFAULT_READER: &str = "http://127.0.0.1:7402";

/// Write, query and time-travel DriftDB from the command line
#[derive(Debug, Parser)]
#[command(name = "driftctl", version, max_term_width = 110, after_help = FIRST_STEPS, after_long_help = FIRST_STEPS_LONG)]
pub(crate) struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub(crate) command: Command,
}

const FIRST_STEPS: &str = "\
First steps:
  driftctl demo                     take a tour of a few seconds with 10,000 orders
  driftctl dev                      start both daemons in one process, on ./driftdb-data
  driftctl sql -e 'SHOW TABLES'     query them from another terminal

Run `driftctl help` for points in time and exit codes.";

const FIRST_STEPS_LONG: &str = "\
First steps:
  driftctl demo                     take a tour of a few seconds with 10,000 orders
  driftctl dev                      start both daemons in one process, on ./driftdb-data
  driftctl sql -e 'SHOW TABLES'     query them from another terminal

Points in time (POINT in --as-of, --from, --to, --until and --before):
  @seq:100                          the state after the commit with seq 100
  @now                              the newest state
  2026-01-01T00:00:00Z              a time
  2026-01-01, '2026-01-01 09:30'    a date (its midnight) or a time in the time zone of --tz
  '5 minutes ago', '1 month ago'    a time before now; units from seconds to years
  yesterday, 'last monday 09:30'    a day (its midnight), or a time of it, in the time zone of --tz

Exit codes:
  0    success
  1    error
  2    invalid command line
  3    no daemon can serve the request, or the directory has no database
  4    the table or row does not exist
  5    a precondition failed, or another process holds the lock
  6    damage was found, or the storage is unsafe
  130  interrupted by Ctrl-C; 143 terminated by SIGTERM

Data goes to stdout. Notes, progress and errors go to stderr.";

/// Options that every command takes, before or after its name.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalArgs {
    /// Use the database of this name in your configuration file; see `driftctl context` [default: the current context]
    #[arg(long, global = true, value_name = "NAME", env = "DRIFTCTL_CONTEXT")]
    pub(crate) context: Option<String>,
    /// Address of the writer, or of several, separated by commas, if there are standbys: the active one is used
    /// [default: http://127.0.0.1:7401]
    #[arg(long, global = true, value_name = "URL", env = "DRIFTDB_WRITER", value_delimiter = ',')]
    pub(crate) writer: Vec<String>,
    /// Addresses of the readers, separated by commas: those that respond are used in turn
    /// [default: http://127.0.0.1:7402]
    #[arg(long, global = true, value_name = "URL", env = "DRIFTDB_READER", value_delimiter = ',')]
    pub(crate) reader: Vec<String>,
    /// File with the token to send to the daemons; it is sent only over TLS, or to this machine
    #[arg(long, global = true, value_name = "FILE", env = "DRIFTDB_TOKEN_FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// Open this data directory without daemons; it is read-only while a writer is running. The URL of a bucket, such as
    /// s3://backups/orders, opens a copy of its database for reading
    #[arg(short, long, global = true, value_name = "DIR", env = "DRIFTDB_DATA")]
    pub(crate) data: Option<PathBuf>,
    /// With the URL of a bucket as --data: directory in which the copy stays, so that the next command copies only what is new
    /// [default: a temporary directory, which is removed]
    #[arg(long, global = true, value_name = "DIR", env = "DRIFTDB_BUCKET_CACHE")]
    pub(crate) bucket_cache: Option<PathBuf>,
    /// Format of the output [default: table on a terminal, otherwise jsonl]
    #[arg(short, long, global = true, value_name = "FORMAT", env = "DRIFTDB_OUTPUT")]
    pub(crate) output: Option<Format>,
    /// Print without colours, even on a terminal
    #[arg(long, global = true, env = "NO_COLOR", value_parser = FalseyValueParser::new(), hide_env_values = true)]
    pub(crate) no_color: bool,
    /// Print long results without the pager that PAGER names [default: less, on a terminal]
    #[arg(long, global = true)]
    pub(crate) no_pager: bool,
    /// Read without asking the writer for its last seq: faster, but the newest commits may be missing
    #[arg(long, global = true, env = "DRIFTDB_STALE", value_parser = FalseyValueParser::new())]
    pub(crate) stale: bool,
    /// Time zone of words such as `yesterday`, and of dates and times without an offset, as an IANA name: Europe/Berlin
    /// [default: UTC]
    #[arg(long, global = true, value_name = "ZONE", env = "DRIFTDB_TZ", value_parser = parse_time_zone)]
    pub(crate) tz: Option<String>,
    /// With --data and `dev`: longest jump of the clock that needs no confirmation, or `none` [default: 24h]
    #[arg(long, global = true, value_name = "DURATION", env = "DRIFTDB_MAX_CLOCK_JUMP", value_parser = parse_clock_jump)]
    pub(crate) max_clock_jump: Option<ClockJump>,
    /// Connections with TLS.
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
}

/// Checks the name of a time zone.
pub(crate) fn parse_time_zone(name: &str) -> Result<String, String> {
    LocalClock::in_zone(name, 0).map(|clock| clock.zone_name().to_owned()).map_err(|e| e.message().to_owned())
}

/// The format of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns for people; on a terminal, one field per line if a row does not fit.
    Table,
    /// One field per line.
    Vertical,
    /// One JSON array.
    Json,
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated values with a header.
    Csv,
    /// A Parquet file; only of `export`.
    Parquet,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an empty database
    #[command(after_help = maintenance::INIT_EXAMPLES)]
    Init(InitArgs),
    /// Run a writer and a reader in one process
    #[command(after_help = maintenance::DEV_EXAMPLES)]
    Dev(DevArgs),
    /// Take a tour of DriftDB with example data
    #[command(after_help = maintenance::DEMO_EXAMPLES)]
    Demo(DemoArgs),
    /// Run DriftQL statements
    #[command(after_help = statements::SQL_EXAMPLES)]
    Sql(SqlArgs),
    /// Open an interactive prompt for DriftQL
    #[command(after_help = statements::SHELL_EXAMPLES)]
    Shell,
    /// Print rows by key
    #[command(after_help = statements::GET_EXAMPLES)]
    Get(GetArgs),
    /// Print the rows that match a condition
    #[command(after_help = statements::SELECT_EXAMPLES)]
    Select(SelectArgs),
    /// Print the history of a row or a table
    #[command(after_help = statements::DRIFT_EXAMPLES)]
    Drift(DriftArgs),
    /// Find the commit at which a condition began to hold
    #[command(after_help = statements::FIND_EXAMPLES)]
    Find(FindArgs),
    /// Print the net difference between two points in time
    #[command(after_help = statements::DIFF_EXAMPLES)]
    Diff(DiffArgs),
    /// Print changes as they happen, or run a program for each
    #[command(after_help = watch::WATCH_HELP)]
    Watch(WatchArgs),
    /// Load rows from a JSON Lines or CSV file
    #[command(after_help = rows::INGEST_EXAMPLES)]
    Ingest(IngestArgs),
    /// Restore rows as they were at a point in time
    #[command(after_help = statements::REVERT_EXAMPLES)]
    Revert(RevertArgs),
    /// Apply commits from a JSON Lines file
    #[command(after_help = rows::APPLY_EXAMPLES)]
    Apply(ApplyArgs),
    /// Write tables, or their whole history, to a file
    #[command(after_help = dump::DUMP_EXAMPLES)]
    Dump(DumpArgs),
    /// Write a dump into a database without its tables
    #[command(after_help = dump::LOAD_EXAMPLES)]
    Load(LoadArgs),
    /// Write rows to a CSV or JSON Lines file
    #[command(after_help = export::EXPORT_EXAMPLES)]
    Export(ExportArgs),
    /// Back up a database to a bucket, or check one
    #[command(after_help = backup::BACKUP_EXAMPLES)]
    Backup(BackupArgs),
    /// Restore a database from a bucket to any commit
    #[command(after_help = backup::RESTORE_EXAMPLES)]
    Restore(RestoreArgs),
    /// Begin a new database in a bucket as another one was
    #[command(after_help = backup::CLONE_EXAMPLES)]
    Clone(CloneArgs),
    /// Write a snapshot of a table
    #[command(after_help = maintenance::SNAPSHOT_EXAMPLES)]
    Snapshot(SnapshotArgs),
    /// Discard a table's oldest history (asks first)
    #[command(after_help = maintenance::COMPACT_EXAMPLES)]
    Compact(CompactArgs),
    /// Check every file and report damage
    #[command(after_help = maintenance::VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Check or repair a data directory without daemons
    #[command(after_help = maintenance::DOCTOR_EXAMPLES)]
    Doctor(DoctorArgs),
    /// Check that a file system or a bucket is safe for DriftDB
    #[command(after_help = maintenance::STORAGE_EXAMPLES)]
    StorageCheck(StorageCheckArgs),
    /// Run the second process of `storage-check`
    #[command(hide = true)]
    StoragePeer(StoragePeerArgs),
    /// Show the writer's clock, or confirm it after a jump
    #[command(after_help = maintenance::CLOCK_EXAMPLES)]
    Clock(ClockArgs),
    /// Make certificates for trying out TLS
    #[command(after_help = cert::CERT_EXAMPLES)]
    Cert(CertArgs),
    /// Show the daemons, the lag of the readers, and the tables
    #[command(after_help = maintenance::STATUS_EXAMPLES)]
    Status,
    /// Tell whether daemons are ready, by the exit code
    #[command(after_help = observe::HEALTH_EXAMPLES)]
    Health(HealthArgs),
    /// Watch the daemons: rates, lag, watchers, jobs, memory
    #[command(after_help = observe::TOP_EXAMPLES)]
    Top(TopArgs),
    /// Manage named databases
    #[command(after_help = context::CONTEXT_EXAMPLES)]
    Context(ContextArgs),
    /// Measure the performance of this machine or a deployment
    #[command(after_help = bench::BENCH_EXAMPLES)]
    Bench(BenchArgs),
    /// Make a token for the daemons
    #[command(after_help = security::TOKEN_EXAMPLES)]
    Token(TokenArgs),
    /// Check an auth file
    #[command(after_help = security::AUTH_EXAMPLES)]
    Auth(AuthArgs),
    /// Print a completion script for a shell
    #[command(after_help = maintenance::COMPLETIONS_EXAMPLES)]
    Completions(CompletionsArgs),
    /// Write the manual pages of driftctl
    #[command(after_help = maintenance::MAN_EXAMPLES)]
    Man(ManArgs),
    /// Run the server of a ceiling for `bench`
    #[command(hide = true)]
    BenchServer(BenchServerArgs),
}

impl Command {
    /// Whether the command works on the current context's database if none is named. Those that create or start a database of their own,
    /// or load one, need to be told.
    pub(crate) fn uses_current_context(&self) -> bool {
        !matches!(
            self,
            Command::Init(_)
                | Command::Dev(_)
                | Command::Demo(_)
                | Command::Bench(_)
                | Command::Doctor(_)
                | Command::Token(_)
                | Command::Auth(_)
                | Command::Cert(_)
                | Command::Completions(_)
                | Command::Man(_)
                | Command::Context(_)
                | Command::StorageCheck(_)
                | Command::StoragePeer(_)
                | Command::BenchServer(_)
        )
    }
}

/// Parses the arguments and the environment of the process, and returns which options they have. If they are invalid or ask for help, prints
/// it and exits.
pub(crate) fn parse() -> (Cli, GivenOptions) {
    let matches = Cli::command().get_matches();
    (from_matches(&matches).unwrap_or_else(|e| e.exit()), GivenOptions::of(&matches))
}

/// The command line from what clap has matched. Sorts out what clap cannot, except for what a context may add: see [`check`].
pub(crate) fn from_matches(matches: &ArgMatches) -> Result<Cli, clap::Error> {
    let mut cli = Cli::from_arg_matches(matches)?;
    let resolved = match &mut cli.command {
        Command::Get(args) => args.rows.resolve(1, usize::MAX),
        Command::Diff(args) => args.rows.resolve(0, usize::MAX),
        Command::Drift(args) => args.rows.resolve(0, 1),
        Command::Find(args) => args.rows.resolve(0, 1),
        Command::Export(args) => args.target.resolve(),
        Command::Ingest(args) => args.target.resolve(),
        Command::Revert(args) => args.row.resolve(usize::from(!args.is_bulk()), usize::from(!args.is_bulk())),
        _ => Ok(()),
    };
    resolved.map_err(|message| Cli::command().error(ClapErrorKind::WrongNumberOfValues, message))?;
    // The command line takes precedence over the environment, also between options that exclude each other.
    let given = GivenOptions::of(matches);
    let is_addressed = given.on_command_line("writer") || given.on_command_line("reader");
    if is_addressed && !given.on_command_line("data") {
        cli.global.data = None;
    }
    Ok(cli)
}

/// Fails if an option is missing that another one needs, or does not fit the command, once it is known what the context has.
pub(crate) fn check(cli: &Cli) -> Result<(), clap::Error> {
    let checked = cli.global.tls.check();
    checked.map_err(|message| Cli::command().error(ClapErrorKind::MissingRequiredArgument, message))?;
    if cli.global.output == Some(Format::Parquet) && !matches!(cli.command, Command::Export(_)) {
        let message = "only export writes parquet; use another format of -o";
        return Err(Cli::command().error(ClapErrorKind::InvalidValue, message));
    }
    Ok(())
}

/// The definition of the command line, for completions.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}
