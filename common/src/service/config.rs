//! The command-line options that both daemons share.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::service::telemetry::LogFormat;

/// Where logs go and how they look.
#[derive(Debug, Clone, Args)]
pub struct LogArgs {
    /// How log lines look on standard error.
    #[arg(long, value_enum, env = "DRIFTDB_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// What is logged: a level (error, warn, info, debug, trace), or levels by module, as in
    /// `info,driftdb_common=debug`.
    #[arg(long, env = "DRIFTDB_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// The data directory.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// The data directory: on a local disk, or on storage shared with the other daemons.
    #[arg(long, short = 'd', env = "DRIFTDB_DATA", value_name = "DIR")]
    pub data: PathBuf,
}

/// Says on standard output where a daemon listens: the first line that it prints there.
pub fn announce(address: Option<SocketAddr>) {
    if let Some(address) = address {
        println!("listening on {address}");
    }
}
