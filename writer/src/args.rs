//! The writer's command line.

use std::net::SocketAddr;

use clap::builder::FalseyValueParser;
use clap::{Parser, ValueEnum};
use driftdb_common::limits;
use driftdb_common::service::options::{DataArgs, LogArgs};
use driftdb_writer::{Fencing, RequestWindow, SnapshotTriggers, WriterConfig};

/// Run the writer of a DriftDB database
///
/// The writer is the one process that changes a database. It locks the data directory, repairs what a crash has left, and
/// serves gRPC: driftdb.v1.WriterService, health and reflection. It acknowledges a commit after the commit is on disk. If the
/// data directory is empty or missing, the writer creates a database in it.
///
/// Queries are answered by driftdb-reader. Any number of readers can use the same directory.
///
/// SIGTERM or SIGINT shuts the writer down cleanly: it finishes the calls under way and closes the log.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  driftdb-writer --data ./mydata
  driftdb-writer --data ./mydata --listen 127.0.0.1:0 --log-format json
  driftdb-writer --data /shared/db --listen 10.0.0.4:7401 --standby"
)]
pub(crate) struct WriterArgs {
    #[command(flatten)]
    pub(crate) data: DataArgs,
    /// Listen on this address; port 0 picks a free port. The first line on standard output is `listening on ADDR`. Change it
    /// to serve clients on other hosts
    #[arg(
        long,
        env = "DRIFTDB_LISTEN",
        default_value = "127.0.0.1:7401",
        value_name = "ADDR",
        help_heading = "Network"
    )]
    pub(crate) listen: SocketAddr,
    /// Tell clients to reach this writer at this address, as host:port. Readers pass it to clients that send them a write.
    /// Set it if clients cannot connect to the address listened on, for example behind a proxy [default: the address
    /// listened on]
    #[arg(long, env = "DRIFTDB_ADVERTISE", value_name = "ADDR", help_heading = "Network")]
    pub(crate) advertise: Option<String>,
    /// Wait if another writer holds the database, and take over when it ends. Meanwhile this writer listens, refuses calls
    /// with the reason STANDBY and the other writer's address, and reports NOT_SERVING in health checks. Without this
    /// option the writer exits if the database is held
    #[arg(long, env = "DRIFTDB_STANDBY", value_parser = FalseyValueParser::new(), help_heading = "High availability")]
    pub(crate) standby: bool,
    /// Check HEAD before each write and each answer for another writer that has taken over, and stop if there is one. Locks on
    /// network file systems can expire while their holder is alive. Use the same value for all writers of a directory
    #[arg(
        long,
        env = "DRIFTDB_FENCE",
        value_enum,
        default_value = "auto",
        value_name = "WHEN",
        help_heading = "High availability"
    )]
    pub(crate) fence: FenceMode,
    /// Seal a log segment at this size, in bytes. Smaller segments let compaction free space sooner; larger ones make fewer
    /// files
    #[arg(long, env = "DRIFTDB_SEGMENT_BYTES", default_value_t = limits::SEGMENT_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..), help_heading = "Storage")]
    pub(crate) segment_bytes: u64,
    /// Take a snapshot of a table after this number of events in it. A lower number makes starts faster and uses less memory; a
    /// higher one writes less to disk
    #[arg(long, env = "DRIFTDB_SNAPSHOT_EVENTS", default_value_t = limits::SNAPSHOT_EVENTS, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..), help_heading = "Storage")]
    pub(crate) snapshot_events: u64,
    /// Take a snapshot of a table after this number of bytes of its log, even if it has fewer events than --snapshot-events
    #[arg(long, env = "DRIFTDB_SNAPSHOT_BYTES", default_value_t = limits::SNAPSHOT_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..), help_heading = "Storage")]
    pub(crate) snapshot_bytes: u64,
    /// Take a snapshot of the table with the longest log if the logs of all tables after their newest snapshots have more bytes
    /// than this. At twice this size, writes are refused with OVERLOADED until a snapshot is taken. Lower it to use less
    /// memory; raise it if writes are refused
    #[arg(long, env = "DRIFTDB_MEMORY", default_value_t = limits::MEMTABLE_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..), help_heading = "Memory")]
    pub(crate) memory: u64,
    /// Keep this many bytes of uncompressed snapshot blocks in memory. Raise it if writes change rows that are not in memory and
    /// wait for disk reads
    #[arg(long = "cache", env = "DRIFTDB_CACHE", default_value_t = limits::CACHE_BYTES, value_name = "BYTES", help_heading = "Memory")]
    pub(crate) cache_bytes: u64,
    /// Remember request ids for this number of commits. A retry with a remembered id returns the first attempt's commit; a later
    /// retry counts as a new request. Raise it if clients retry after a longer time
    #[arg(long, env = "DRIFTDB_REQUEST_COMMITS", default_value_t = RequestWindow::default().commits, value_name = "N",
          help_heading = "Retries")]
    pub(crate) request_commits: u64,
    /// Remember request ids for this number of seconds, even if fewer commits than --request-commits have followed
    #[arg(long, env = "DRIFTDB_REQUEST_SECONDS", default_value_t = RequestWindow::default().millis / 1000,
          value_name = "SECONDS", help_heading = "Retries")]
    pub(crate) request_seconds: u64,
    #[command(flatten)]
    pub(crate) log: LogArgs,
}

/// When the writer checks for another writer that has taken over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum FenceMode {
    /// Check if the data directory is on a network file system: NFS, SMB, FUSE and others
    Auto,
    /// Always check
    On,
    /// Never check: only the lock keeps other writers out
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
            data: self.data.data.clone(),
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
        }
    }
}
