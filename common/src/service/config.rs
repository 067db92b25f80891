//! The command-line options that both daemons share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;

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

/// A duration as people write one, for options: `50ms`, `1s`, `2 minutes`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = text.trim().parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    duration.ok_or_else(|| "write a duration: 50ms, 1s, 2m".to_owned())
}

/// Says on standard output where a daemon listens: the first line that it prints there.
pub fn announce(address: Option<SocketAddr>) {
    if let Some(address) = address {
        println!("listening on {address}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_with_their_unit() {
        for (text, ms) in [("50ms", 50), ("1s", 1000), ("2 minutes", 120_000), ("1.5s", 1500), ("0s", 0)] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "-1s", "soon", "1 month"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
