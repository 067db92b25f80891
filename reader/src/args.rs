//! The command line of `driftdb-reader`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use driftdb_common::limits;
use driftdb_common::service::options::{
    DataArgs, LogArgs, MemoryArgs, MetricsArgs, SecurityArgs, TraceArgs, parse_duration,
};
use driftdb_common::service::server::limit_options::{LimitArgs, ServerLimits};
use driftdb_reader::bucket_mirror::BUCKET_POLL_INTERVAL;
use driftdb_reader::{FollowMode, POLL_INTERVAL, ReaderConfig};

/// Serve reads and watches of a DriftDB database
///
/// A reader answers queries about the present and about any retained point in the past. It follows the files that
/// driftdb-writer writes, takes no lock, and writes nothing. Any number of readers can serve one data directory, without
/// write permission, and also while the writer is down.
///
/// The reader serves gRPC: driftdb.v1.ReaderService, health and reflection.
///
/// SIGTERM or SIGINT shuts the reader down cleanly: open streams end with UNAVAILABLE.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Examples:
  driftdb-reader --data ./mydata
  driftdb-reader --data ./mydata --listen 127.0.0.1:0 --log-format json
  driftdb-reader --data ./mydata --listen 127.0.0.1:7412 --follow poll --poll-interval 10ms
  driftdb-reader --config reader.toml --print-config
  driftdb-reader --bucket s3://backups/orders --data ./cache"
)]
pub struct ReaderArgs {
    /// The database.
    #[command(flatten)]
    pub data: DataArgs,
    /// Bucket to follow instead of a writer's directory: s3://…, gs://…, az://… or file:///…
    ///
    /// The reader copies the database to the directory of --data, which must be empty or its copy from before, and follows the
    /// bucket from then on. It answers as a reader beside the writer does. While the bucket does not answer, it serves what it
    /// has. Credentials come from the environment, as the tools of the store take them. See docs/bucket.md.
    #[arg(long, env = "DRIFTDB_BUCKET", value_name = "URL", help_heading = "Following the writer")]
    pub bucket: Option<String>,
    /// Disk space for parts of snapshots and older log, in bytes [default: these are copied as a whole]
    ///
    /// With this option they stay in the bucket, and the reader fetches the parts that queries need: it starts on a large database
    /// in seconds, and needs little disk. Queries that need parts which are not cached take longer, and fail while the bucket does not
    /// answer.
    #[arg(
        long,
        env = "DRIFTDB_BUCKET_CACHE",
        value_name = "BYTES",
        requires = "bucket",
        help_heading = "Following the writer"
    )]
    pub bucket_cache: Option<u64>,
    /// Address to listen on
    ///
    /// Port 0 picks a free port. The first line on standard output is `listening on ADDR`. Change it to accept clients from
    /// other hosts.
    #[arg(
        long,
        env = "DRIFTDB_LISTEN",
        default_value = "127.0.0.1:7402",
        value_name = "ADDR",
        help_heading = "Network"
    )]
    pub listen: SocketAddr,
    /// Size of the cache of uncompressed snapshot blocks, in bytes
    ///
    /// Raise it if queries read the same snapshots from disk again and again; lower it to save memory.
    #[arg(
        long = "cache",
        env = "DRIFTDB_CACHE",
        default_value_t = limits::CACHE_BYTES,
        value_name = "BYTES",
        help_heading = "Memory"
    )]
    pub cache_bytes: u64,
    /// The memory of requests.
    #[command(flatten)]
    pub request_memory: MemoryArgs,
    /// The limits on clients.
    #[command(flatten)]
    pub clients: LimitArgs,
    /// Watches that one client may have open
    ///
    /// A client is a principal, or an address if there is no --auth-file. A further watch fails at once with OVERLOADED. All
    /// clients together may have 20000. Lower it if one client can crowd out the others.
    #[arg(
        long,
        env = "DRIFTDB_WATCHES_PER_CLIENT",
        default_value_t = limits::WATCHES_PER_CLIENT,
        value_name = "N",
        help_heading = "Limits on clients"
    )]
    pub watches_per_client: usize,
    /// How the reader detects new commits
    ///
    /// Use `poll` if the file system reports no events for changes; the reader then sees commits at the next check.
    #[arg(
        long,
        value_enum,
        env = "DRIFTDB_FOLLOW",
        default_value = "auto",
        value_name = "MODE",
        help_heading = "Following the writer"
    )]
    pub follow: FollowMode,
    /// Interval between checks for new commits, from 1ms to 1s [default: 50ms, or 200ms with --bucket]
    ///
    /// Lower it to see new commits sooner on a network file system; raise it to use less CPU and network, and to pay for fewer
    /// requests to a bucket. Has no effect with `--follow notify`, which checks every second.
    #[arg(
        long,
        env = "DRIFTDB_POLL_INTERVAL",
        value_name = "TIME",
        value_parser = parse_poll_interval,
        help_heading = "Following the writer"
    )]
    pub poll_interval: Option<Duration>,
    /// Lag above which health reports NOT_SERVING; `off` for none
    ///
    /// The reader still answers requests while it lags. Lower the limit if a load balancer should drop a lagging reader sooner.
    /// At least twice the interval between checks for new commits.
    #[arg(
        long,
        env = "DRIFTDB_MAX_LAG",
        default_value = "10s",
        value_name = "TIME",
        value_parser = parse_max_lag,
        help_heading = "Following the writer"
    )]
    pub max_lag: MaxLag,
    /// Longest time that the reader works on one request; 0 for no limit
    ///
    /// The request then fails with STATEMENT_TIMEOUT. Waiting for others counts; the time in which a slow client reads its
    /// answer does not, and watches have no limit. Lower it to protect the reader from expensive queries.
    #[arg(
        long,
        env = "DRIFTDB_STATEMENT_TIMEOUT",
        default_value = "30s",
        value_name = "TIME",
        value_parser = parse_statement_timeout,
        help_heading = "Requests"
    )]
    pub statement_timeout: StatementTimeout,
    /// Who may connect.
    #[command(flatten)]
    pub security: SecurityArgs,
    /// The metrics.
    #[command(flatten)]
    pub metrics: MetricsArgs,
    /// The traces.
    #[command(flatten)]
    pub traces: TraceArgs,
    /// The log.
    #[command(flatten)]
    pub log: LogArgs,
}

/// The most time that a request may take, or no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatementTimeout(Option<Duration>);

fn parse_statement_timeout(text: &str) -> Result<StatementTimeout, String> {
    match text.trim() {
        "off" | "0" => Ok(StatementTimeout(None)),
        text => Ok(StatementTimeout(Some(parse_duration(text)?).filter(|limit| !limit.is_zero()))),
    }
}

/// A maximum lag, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxLag(Option<Duration>);

fn parse_poll_interval(text: &str) -> Result<Duration, String> {
    // The writer removes replaced files after two seconds: by then every reader must have checked HEAD.
    let bounds = Duration::from_millis(1)..=Duration::from_secs(1);
    let interval = parse_duration(text)?;
    if bounds.contains(&interval) { Ok(interval) } else { Err("must be between 1ms and 1s".to_owned()) }
}

fn parse_max_lag(text: &str) -> Result<MaxLag, String> {
    match text.trim() {
        "off" | "0" => Ok(MaxLag(None)),
        text => Ok(MaxLag(Some(parse_duration(text)?).filter(|limit| !limit.is_zero()))),
    }
}

impl ReaderArgs {
    /// The configuration that the options describe.
    pub fn config(&self) -> ReaderConfig {
        ReaderConfig {
            data: self.data.data.clone(),
            cache_bytes: self.cache_bytes,
            request_memory: self.request_memory.request_memory,
            follow: self.follow,
            // With a bucket, the directory is on this machine, and its checks cost nothing.
            poll_interval: self.poll_interval.filter(|_| self.bucket.is_none()).unwrap_or(POLL_INTERVAL),
            max_lag: self.max_lag.0,
            statement_timeout: self.statement_timeout.0,
            client_limits: ServerLimits {
                watches_per_client: self.watches_per_client,
                ..self.clients.limits()
            },
            bucket: None,
        }
    }

    /// The interval between two questions to the bucket for the next chunk.
    pub fn bucket_poll_interval(&self) -> Duration {
        self.poll_interval.unwrap_or(BUCKET_POLL_INTERVAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(options: &[&str]) -> Result<ReaderConfig, clap::Error> {
        let line = ["driftdb-reader", "--data", "dir"].into_iter().chain(options.iter().copied());
        ReaderArgs::try_parse_from(line).map(|args| args.config())
    }

    #[test]
    fn the_lag_limit_can_be_disabled() {
        assert_eq!(parse(&[]).unwrap().max_lag, Some(driftdb_reader::MAX_LAG));
        assert_eq!(parse(&["--max-lag", "1m"]).unwrap().max_lag, Some(Duration::from_secs(60)));
        for none in ["off", "0", "0s"] {
            assert_eq!(parse(&["--max-lag", none]).unwrap().max_lag, None, "{none}");
        }
    }

    #[test]
    fn the_statement_timeout_can_be_disabled() {
        let timeout = |options: &[&str]| parse(options).unwrap().statement_timeout;
        assert_eq!(timeout(&[]), Some(driftdb_reader::STATEMENT_TIMEOUT));
        assert_eq!(timeout(&["--statement-timeout", "250ms"]), Some(Duration::from_millis(250)));
        for none in ["off", "0", "0s"] {
            assert_eq!(timeout(&["--statement-timeout", none]), None, "{none}");
        }
    }

    #[test]
    fn the_poll_interval_has_bounds() {
        let poll = |text| parse(&["--poll-interval", text]).map(|config| config.poll_interval);
        assert_eq!(parse(&[]).unwrap().poll_interval, driftdb_reader::POLL_INTERVAL);
        assert_eq!(poll("1ms").unwrap(), Duration::from_millis(1));
        assert_eq!(poll("1s").unwrap(), Duration::from_secs(1));
        for wrong in ["0s", "900us", "1001ms", "50", "soon"] {
            assert_eq!(poll(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
