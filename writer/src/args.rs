//! The writer's command line.

use std::net::SocketAddr;
use std::time::Duration;

use crate::bucket_args::BucketArgs;
use clap::builder::FalseyValueParser;
use clap::{Parser, ValueEnum};
use driftdb_common::limits;
use driftdb_common::service::options::{
    ClockJump, DataArgs, LogArgs, MemoryArgs, MetricsArgs, SecurityArgs, TraceArgs, parse_clock_jump,
    parse_duration,
};
use driftdb_common::service::server::limit_options::LimitArgs;
use driftdb_writer::{Fencing, RequestWindow, SnapshotTriggers, WriterConfig};

/// Serve writes to a DriftDB database
///
/// The writer is the one process that changes a database. It locks the data directory, repairs what a crash
/// has left, and serves gRPC: driftdb.v1.WriterService, health and reflection. It acknowledges a commit after
/// the commit is on disk. If the data directory is empty or missing, the writer creates a database in it.
///
/// The writer does not answer queries: driftdb-reader does. Any number of readers can use the same directory.
///
/// SIGTERM or SIGINT shuts the writer down cleanly: it finishes the calls under way and closes the log.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  driftdb-writer --data ./mydata
  driftdb-writer --data ./mydata --listen 127.0.0.1:0 --log-format json
  driftdb-writer --data ./mydata --listen 127.0.0.1:7411 --standby
  driftdb-writer --config writer.toml --print-config
  driftdb-writer --data ./mydata --bucket s3://backups/orders --bucket-ack sync"
)]
pub(crate) struct WriterArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Address to listen on
    ///
    /// Port 0 picks a free port. The first line on standard output is `listening on ADDR`. Change it to
    /// accept clients from other hosts.
    #[arg(
        long,
        env = "DRIFTDB_LISTEN",
        default_value = "127.0.0.1:7401",
        value_name = "ADDR",
        help_heading = "Network"
    )]
    pub(crate) listen: SocketAddr,
    /// Address that clients use for this writer [default: the address listened on]
    ///
    /// Readers and standby writers report it to clients. Set it if clients cannot connect to the address
    /// listened on, for example if that is 0.0.0.0 or behind a proxy.
    #[arg(long, env = "DRIFTDB_ADVERTISE", value_name = "ADDR", help_heading = "Network")]
    pub(crate) advertise: Option<String>,
    /// Wait if another writer holds the database, and take over when it ends
    ///
    /// Meanwhile the writer listens, refuses calls with the reason STANDBY and the other writer's address,
    /// and reports NOT_SERVING to health checks. Without this option the writer exits if another one holds
    /// the database.
    #[arg(
        long,
        env = "DRIFTDB_STANDBY",
        value_parser = FalseyValueParser::new(),
        help_heading = "High availability"
    )]
    pub(crate) standby: bool,
    /// When to check that no other writer has taken over
    ///
    /// A writer that checks reads HEAD before each write and before each answer, and stops if another writer
    /// has taken over. This costs time, but a lock on a network file system can expire while its holder is
    /// alive. Use the same value for all writers of a directory.
    #[arg(
        long,
        env = "DRIFTDB_FENCE",
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "High availability"
    )]
    pub(crate) fence: FenceMode,
    /// Size at which a log segment is sealed, in bytes
    ///
    /// At least 4096. With larger segments a table has fewer files; with smaller ones compaction copies less.
    #[arg(
        long,
        env = "DRIFTDB_SEGMENT_BYTES",
        default_value_t = limits::SEGMENT_BYTES,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(4096..),
        help_heading = "Storage"
    )]
    pub(crate) segment_bytes: u64,
    /// Number of events after which a table's next snapshot is taken
    ///
    /// Lower values use less memory and make starts faster, but write more to disk in the background.
    #[arg(
        long,
        env = "DRIFTDB_SNAPSHOT_EVENTS",
        default_value_t = limits::SNAPSHOT_EVENTS,
        value_name = "N",
        value_parser = clap::value_parser!(u64).range(1..),
        help_heading = "Storage"
    )]
    pub(crate) snapshot_events: u64,
    /// Size of a table's log after which its next snapshot is taken, in bytes
    ///
    /// At least 4096. A snapshot is taken when this size or --snapshot-events is reached, whichever comes
    /// first.
    #[arg(
        long,
        env = "DRIFTDB_SNAPSHOT_BYTES",
        default_value_t = limits::SNAPSHOT_BYTES,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(4096..),
        help_heading = "Storage"
    )]
    pub(crate) snapshot_bytes: u64,
    /// Size of the log that no snapshot covers, in bytes
    ///
    /// At least 4096. Counts all tables together; the rows in this log are in memory. At this size the writer
    /// takes a snapshot of the table with the longest log. At twice this size it refuses writes with
    /// OVERLOADED until a snapshot is taken. Lower it to use less memory; raise it if writes are refused.
    #[arg(
        long,
        env = "DRIFTDB_MEMORY",
        default_value_t = limits::MEMTABLE_BYTES,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(4096..),
        help_heading = "Memory"
    )]
    pub(crate) memory: u64,
    /// Size of the cache of uncompressed snapshot blocks, in bytes
    ///
    /// Raise it if clients often patch, replace or delete rows that have not changed lately, and the disk is
    /// slow.
    #[arg(
        long = "cache",
        env = "DRIFTDB_CACHE",
        default_value_t = limits::CACHE_BYTES,
        value_name = "BYTES",
        help_heading = "Memory"
    )]
    pub(crate) cache_bytes: u64,
    #[command(flatten)]
    pub(crate) request_memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) clients: LimitArgs,
    /// Time that a request may spend reading old states of rows
    ///
    /// A REVERT reads its row as of an earlier point in time, from snapshots and from the log after them. A
    /// request whose REVERTs take longer fails with STATEMENT_TIMEOUT; 0 means no limit. Snapshots,
    /// compactions and verifications are jobs, and do not end at this time.
    #[arg(
        long,
        env = "DRIFTDB_STATEMENT_TIMEOUT",
        default_value = "30s",
        value_name = "TIME",
        value_parser = parse_revert_timeout,
        help_heading = "Requests"
    )]
    pub(crate) statement_timeout: RevertTimeout,
    /// Number of commits for which request ids are remembered
    ///
    /// A retry with a remembered id returns the commit of the first attempt. A later retry counts as a new
    /// request. Raise it if clients retry after a longer time; each id takes about 200 bytes of memory.
    #[arg(
        long,
        env = "DRIFTDB_REQUEST_COMMITS",
        default_value_t = RequestWindow::default().commits,
        value_name = "N",
        help_heading = "Retries"
    )]
    pub(crate) request_commits: u64,
    /// Time for which request ids are remembered, in seconds
    ///
    /// An id is forgotten after this time or after --request-commits, whichever comes first.
    #[arg(
        long,
        env = "DRIFTDB_REQUEST_SECONDS",
        default_value_t = RequestWindow::default().millis / 1000,
        value_name = "SECONDS",
        help_heading = "Retries"
    )]
    pub(crate) request_seconds: u64,
    /// Longest jump of the system's clock that needs no confirmation, or `none`
    ///
    /// A commit's time can never be taken back. If the clock is further ahead of the time that the last
    /// commit, the last writer and the monotonic clock let expect, commits fail with CLOCK_JUMPED until the
    /// clock is corrected or `driftctl clock confirm` confirms it. `none` trusts the clock.
    #[arg(
        long,
        env = "DRIFTDB_MAX_CLOCK_JUMP",
        default_value = "24h",
        value_name = "DURATION",
        value_parser = parse_clock_jump,
        help_heading = "Clock"
    )]
    pub(crate) max_clock_jump: ClockJump,
    #[command(flatten)]
    pub(crate) bucket: BucketArgs,
    #[command(flatten)]
    pub(crate) security: SecurityArgs,
    #[command(flatten)]
    pub(crate) metrics: MetricsArgs,
    #[command(flatten)]
    pub(crate) traces: TraceArgs,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// How long the REVERTs of one request may take; `None` for any time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RevertTimeout(Option<Duration>);

fn parse_revert_timeout(text: &str) -> Result<RevertTimeout, String> {
    match text.trim() {
        "off" | "0" => Ok(RevertTimeout(None)),
        text => Ok(RevertTimeout(Some(parse_duration(text)?).filter(|timeout| !timeout.is_zero()))),
    }
}

/// When the writer checks that no other writer has taken over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FenceMode {
    /// If the data directory is on a network file system: NFS, SMB, FUSE and others
    Auto,
    /// Always
    On,
    /// Never: only the lock keeps other writers out
    Off,
}

impl From<FenceMode> for Fencing {
    fn from(mode: FenceMode) -> Fencing {
        match mode {
            FenceMode::Auto => Fencing::Auto,
            FenceMode::On => Fencing::On,
            FenceMode::Off => Fencing::Off,
        }
    }
}

impl WriterArgs {
    /// The configuration that the options ask for.
    pub(crate) fn config(&self) -> WriterConfig {
        WriterConfig {
            advertise: self.advertise.clone(),
            fencing: self.fence.into(),
            segment_bytes: self.segment_bytes,
            requests: RequestWindow {
                commits: self.request_commits,
                millis: self.request_seconds.saturating_mul(1000),
            },
            snapshots: SnapshotTriggers {
                events: self.snapshot_events,
                bytes: self.snapshot_bytes,
                memory: self.memory,
            },
            cache_bytes: self.cache_bytes,
            give_up_reserve: false,
            request_memory: self.request_memory.request_memory,
            client_limits: self.clients.limits(),
            statement_timeout: self.statement_timeout.0,
            max_clock_jump: self.max_clock_jump.0,
            bucket: self.bucket.options(),
            backup_dir: self.bucket.backup_dir(),
            ..WriterConfig::new(&self.data.data)
        }
    }
}
