//! The reader's command line.

use std::net::SocketAddr;

use clap::Parser;
use driftdb_common::limits;
use driftdb_common::service::config::{DataArgs, LogArgs};
use driftdb_reader::Config;

/// A reader daemon of DriftDB: answers questions about a database, now or as of any moment in its past.
///
/// It follows the files that driftdb-writer writes, takes no lock and writes nothing: any number of readers may run on
/// one directory, without write permission, and they serve while the writer is down. It answers gRPC
/// (driftdb.v1.ReaderService, health and reflection).
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Example:\n  driftdb-reader --data ./mydata\n  driftctl select -t orders --as-of '5 minutes ago'\n\nSIGTERM ends it cleanly; streams under way end with UNAVAILABLE."
)]
pub struct Args {
    /// The database to follow.
    #[command(flatten)]
    pub data: DataArgs,
    /// The address to listen on; port 0 takes a free one. The first line on standard output says which.
    #[arg(long, env = "DRIFTDB_LISTEN", default_value = "127.0.0.1:7402", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Bytes of snapshots to keep in memory, unpacked. What is read often stays.
    #[arg(long = "cache", env = "DRIFTDB_CACHE", default_value_t = limits::CACHE_BYTES, value_name = "BYTES")]
    pub cache_bytes: u64,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

impl Args {
    /// How the reader is to run.
    pub fn config(&self) -> Config {
        Config { data: self.data.data.clone(), cache_bytes: self.cache_bytes }
    }
}
