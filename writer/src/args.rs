//! The writer's command line.

use std::net::SocketAddr;

use clap::{Parser, ValueEnum};
use driftdb_common::limits;
use driftdb_common::service::options::{DataArgs, LogArgs};
use driftdb_writer::{Config, Fencing, When, Window};

/// The writer daemon of DriftDB: the one process that changes a database.
///
/// It takes the lock of the data directory, repairs what a crash may have left, and answers gRPC
/// (driftdb.v1.WriterService, health and reflection). An answer of success means: on disk. An empty or missing data
/// directory is made a database.
///
/// Any number of driftdb-reader daemons answer questions about the same directory.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  driftdb-writer --data ./mydata\n  driftctl sql -e 'CREATE TABLE orders (pk=id)'\n\nSIGTERM ends it cleanly: calls under way are answered, the log is closed."
)]
pub struct Args {
    /// Where everything is kept.
    #[command(flatten)]
    pub data: DataArgs,
    /// The address to listen on; port 0 takes a free one. The first line on standard output says which.
    #[arg(long, env = "DRIFTDB_LISTEN", default_value = "127.0.0.1:7401", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// The address that clients reach this writer at, where that is not the one listened on: readers hand it to
    /// clients that send them a write.
    #[arg(long, env = "DRIFTDB_ADVERTISE", value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Waits where another writer holds the database, and takes over when that one has ended. It listens meanwhile, and
    /// refuses what it is asked for with STANDBY, naming the other; health says NOT_SERVING.
    #[arg(long, env = "DRIFTDB_STANDBY", value_parser = clap::builder::FalseyValueParser::new())]
    pub standby: bool,
    /// Whether the writer looks at HEAD, before each write and before each answer, for another one that has taken over: it then
    /// stops, and acknowledges nothing more. `auto` does where the data directory lies on a network file system (NFS, SMB, FUSE
    /// and others), whose locks may lapse. All writers of a directory need the same.
    #[arg(long, env = "DRIFTDB_FENCE", value_enum, default_value = "auto", value_name = "WHEN")]
    pub fence: Fence,
    /// A log segment is sealed when it has reached this many bytes.
    #[arg(long, env = "DRIFTDB_SEGMENT_BYTES", default_value_t = limits::SEGMENT_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..))]
    pub segment_bytes: u64,
    /// Request ids are remembered for so many commits …
    #[arg(long, env = "DRIFTDB_REQUEST_COMMITS", default_value_t = Window::default().commits, value_name = "N")]
    pub request_commits: u64,
    /// … or for so many seconds, whichever is less. A retry that comes later counts as a new request.
    #[arg(long, env = "DRIFTDB_REQUEST_SECONDS", default_value_t = Window::default().millis / 1000, value_name = "SECONDS")]
    pub request_seconds: u64,
    /// A table's snapshot is taken after so many events …
    #[arg(long, env = "DRIFTDB_SNAPSHOT_EVENTS", default_value_t = limits::SNAPSHOT_EVENTS, value_name = "N",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub snapshot_events: u64,
    /// … or so many bytes of its log, whichever comes first.
    #[arg(long, env = "DRIFTDB_SNAPSHOT_BYTES", default_value_t = limits::SNAPSHOT_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..))]
    pub snapshot_bytes: u64,
    /// Bytes of log that no snapshot holds yet, of all tables together, at which the table with most is snapshotted;
    /// at twice that, writes wait.
    #[arg(long, env = "DRIFTDB_MEMORY", default_value_t = limits::MEMTABLE_BYTES, value_name = "BYTES",
          value_parser = clap::value_parser!(u64).range(4096..))]
    pub memory: u64,
    /// Bytes of snapshots to keep in memory, unpacked.
    #[arg(long = "cache", env = "DRIFTDB_CACHE", default_value_t = limits::CACHE_BYTES, value_name = "BYTES")]
    pub cache_bytes: u64,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// When a writer looks for others that have taken over.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Fence {
    /// On network file systems.
    Auto,
    /// Always.
    On,
    /// Never: the lock alone keeps others out.
    Off,
}

impl From<Fence> for Fencing {
    fn from(fence: Fence) -> Fencing {
        match fence {
            Fence::Auto => Fencing::Auto,
            Fence::On => Fencing::On,
            Fence::Off => Fencing::Off,
        }
    }
}

impl Args {
    /// How the writer is to run.
    pub fn config(&self) -> Config {
        Config {
            data: self.data.data.clone(),
            advertise: self.advertise.clone(),
            fencing: self.fence.into(),
            segment_bytes: self.segment_bytes,
            requests: Window {
                commits: self.request_commits,
                millis: self.request_seconds.saturating_mul(1000),
            },
            snapshots: When { events: self.snapshot_events, bytes: self.snapshot_bytes, memory: self.memory },
            cache_bytes: self.cache_bytes,
        }
    }
}
