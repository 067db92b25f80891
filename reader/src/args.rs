//! The reader's command line.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use driftdb_common::limits;
use driftdb_common::service::options::{DataArgs, LogArgs, parse_duration};
use driftdb_reader::{Config, Follow};

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
pub struct ReaderArgs {
    /// The database to follow.
    #[command(flatten)]
    pub data: DataArgs,
    /// The address to listen on; port 0 takes a free one. The first line on standard output says which.
    #[arg(long, env = "DRIFTDB_LISTEN", default_value = "127.0.0.1:7402", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Bytes of snapshots to keep in memory, unpacked. What is read often stays.
    #[arg(long = "cache", env = "DRIFTDB_CACHE", default_value_t = limits::CACHE_BYTES, value_name = "BYTES")]
    pub cache_bytes: u64,
    /// How it comes to know of new commits.
    #[arg(long, value_enum, env = "DRIFTDB_FOLLOW", default_value = "auto", value_name = "HOW")]
    pub follow: Follow,
    /// How often it looks for new commits where it polls: 1ms to 1s.
    #[arg(long, env = "DRIFTDB_POLL_INTERVAL", default_value = "50ms", value_name = "TIME", value_parser = poll_interval)]
    pub poll_interval: Duration,
    /// Further behind than this, health says NOT_SERVING for driftdb.v1.ReaderService, and reads are answered all the
    /// same; `off` or 0: never.
    #[arg(long, env = "DRIFTDB_MAX_LAG", default_value = "10s", value_name = "TIME", value_parser = max_lag)]
    pub max_lag: MaxLag,
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
}

/// A limit of lag, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxLag(Option<Duration>);

fn poll_interval(text: &str) -> Result<Duration, String> {
    // Files that were replaced are removed two seconds later: by then every reader is to have looked.
    let bounds = Duration::from_millis(1)..=Duration::from_secs(1);
    let interval = parse_duration(text)?;
    if bounds.contains(&interval) {
        Ok(interval)
    } else {
        Err("it is 1ms at least and 1s at most".to_owned())
    }
}

fn max_lag(text: &str) -> Result<MaxLag, String> {
    match text.trim() {
        "off" | "0" => Ok(MaxLag(None)),
        text => Ok(MaxLag(Some(parse_duration(text)?).filter(|limit| !limit.is_zero()))),
    }
}

impl ReaderArgs {
    /// How the reader is to run.
    pub fn config(&self) -> Config {
        Config {
            data: self.data.data.clone(),
            cache_bytes: self.cache_bytes,
            follow: self.follow,
            poll: self.poll_interval,
            max_lag: self.max_lag.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Result<Config, clap::Error> {
        let line = ["driftdb-reader", "--data", "dir"].into_iter().chain(options.iter().copied());
        ReaderArgs::try_parse_from(line).map(|args| args.config())
    }

    #[test]
    fn a_limit_of_lag_can_be_switched_off() {
        assert_eq!(parsed(&[]).unwrap().max_lag, Some(driftdb_reader::MAX_LAG));
        assert_eq!(parsed(&["--max-lag", "1m"]).unwrap().max_lag, Some(Duration::from_secs(60)));
        for none in ["off", "0", "0s"] {
            assert_eq!(parsed(&["--max-lag", none]).unwrap().max_lag, None, "{none}");
        }
    }

    #[test]
    fn intervals_have_bounds() {
        let poll = |text| parsed(&["--poll-interval", text]).map(|config| config.poll);
        assert_eq!(parsed(&[]).unwrap().poll, driftdb_reader::POLL);
        assert_eq!(poll("1ms").unwrap(), Duration::from_millis(1));
        assert_eq!(poll("1s").unwrap(), Duration::from_secs(1));
        for wrong in ["0s", "900us", "1001ms", "50", "soon"] {
            assert_eq!(poll(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
