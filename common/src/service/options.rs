//! Command-line options that both daemons have, and the parser for durations in options.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::FalseyValueParser;
use jiff::SignedDuration;

use crate::limits;
use crate::service::access::audit_options::AuditArgs;
use crate::service::telemetry::LogFormat;

/// The option that names the data directory.
#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// Data directory of the database
    ///
    /// It can be on a local disk, or on a network file system that the daemons share.
    #[arg(long, short = 'd', env = "DRIFTDB_DATA", value_name = "DIR")]
    pub data: PathBuf,
}

/// The option that bounds the memory of requests.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Memory")]
pub struct MemoryArgs {
    /// Memory that requests and their answers may take together, in bytes
    ///
    /// At least 67108864 (64 MiB). Divided between requests, answers, queries, ingest and watches; `driftctl status` shows
    /// what each use takes. A call that finds no memory fails with OVERLOADED and can be retried. Raise it if that happens
    /// under normal load; lower it on a small machine. The cache and the memtables come on top.
    #[arg(
        long,
        env = "DRIFTDB_REQUEST_MEMORY",
        default_value_t = limits::REQUEST_MEMORY_BYTES,
        value_name = "BYTES",
        value_parser = clap::value_parser!(u64).range(limits::REQUEST_MEMORY_LEAST_BYTES..)
    )]
    pub request_memory: u64,
}

/// The options of the log on standard error.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Format of log lines on standard error
    #[arg(long, value_enum, env = "DRIFTDB_LOG_FORMAT", default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Log level: error, warn, info, debug or trace
    ///
    /// A comma-separated list sets levels by module, for example `info,driftdb_common=debug`. Use `debug` to investigate a
    /// problem.
    #[arg(long, env = "DRIFTDB_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}

/// The option for metrics.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Metrics")]
pub struct MetricsArgs {
    /// Address on which to serve /metrics, /healthz and /readyz over HTTP [default: none]
    ///
    /// For Prometheus and for probes: docs/metrics.md lists the metrics. The port has neither TLS nor authentication, and shows no
    /// names and no data of clients. An address that others than this machine can reach needs --metrics-insecure-listen. Port 0
    /// picks a free port, which the log shows.
    #[arg(long, env = "DRIFTDB_METRICS", value_name = "ADDR")]
    pub metrics: Option<SocketAddr>,
    /// Serve metrics on any address, although their port has neither TLS nor authentication
    ///
    /// Whoever reaches it sees how the daemon is used. For networks that only you can reach. It permits nothing for the port of
    /// gRPC: --insecure-listen does that.
    #[arg(long, env = "DRIFTDB_METRICS_INSECURE_LISTEN", value_parser = FalseyValueParser::new())]
    pub metrics_insecure_listen: bool,
}

/// The options for traces.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Tracing")]
pub struct TraceArgs {
    /// Collector of OpenTelemetry that receives traces over OTLP/gRPC, such as http://127.0.0.1:4317 [default: none]
    ///
    /// A call that brings a W3C trace context (`traceparent`) is recorded if its caller records it. docs/traces.md lists the spans.
    /// Needs a program that was built with the Cargo feature `otlp`.
    #[arg(long, env = "DRIFTDB_OTLP", value_name = "URL")]
    pub otlp: Option<String>,
    /// Share of the calls without a trace context that are recorded, from 0 to 1
    ///
    /// Each recorded call takes some microseconds. Raise it to find out what a slow call waits for.
    #[arg(long, env = "DRIFTDB_OTLP_SAMPLE", default_value_t = 0.01, value_name = "SHARE", value_parser = parse_share)]
    pub otlp_sample: f64,
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "not a share; write a number from 0 to 1, such as 0.01".to_owned())
}

/// The options that decide who may connect.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Security")]
pub struct SecurityArgs {
    /// Certificate of this daemon, in PEM, with the certificates between it and the CA; clients must then use TLS
    ///
    /// The TLS files are read again when they change, and on SIGHUP. Connections go on. A file that cannot be used is logged
    /// and named in Status, and the former ones stay in use. `driftctl cert new` makes certificates for trying it out.
    #[arg(long, env = "DRIFTDB_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, env = "DRIFTDB_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of the CAs whose client certificates are accepted, in PEM; every client must then show one
    ///
    /// When a CA is taken out of the file, the connections of its clients end.
    #[arg(long, env = "DRIFTDB_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,
    /// Listen on any address, without TLS or without authentication
    ///
    /// Without this option, a daemon that has not both listens on loopback addresses only: anyone who reaches it could read and
    /// write everything. For networks that only you can reach.
    #[arg(long, env = "DRIFTDB_INSECURE_LISTEN", value_parser = FalseyValueParser::new())]
    pub insecure_listen: bool,
    /// File with the principals, their tokens and certificates, and what each may do
    ///
    /// With it every call needs a valid token or client certificate; without it everyone may do everything. The file is read
    /// again when it changes, and on SIGHUP. One that cannot be used is logged, and the former rules stay in use. `driftctl token
    /// new` makes a token, and `driftctl auth check` explains a file.
    #[arg(long, env = "DRIFTDB_AUTH_FILE", value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
    /// The audit log.
    #[command(flatten)]
    pub audit: AuditArgs,
}

/// Parses the duration that an option takes: `50ms`, `1s`, `2 minutes`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = text.trim().parse::<SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    duration.ok_or_else(|| "not a duration; write a number and a unit, such as 50ms, 1s or 2m".to_owned())
}

/// Parses a duration that can also be a number of days: `30d`.
pub fn parse_days(text: &str) -> Result<Duration, String> {
    match text.trim().strip_suffix('d').and_then(|days| days.trim().parse::<u64>().ok()) {
        Some(days) => Ok(Duration::from_secs(days.saturating_mul(86_400))),
        None => parse_duration(text),
    }
}

/// The longest jump of the clock that needs no confirmation; `None` to trust the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockJump(pub Option<Duration>);

/// Parses the longest jump of the clock: a duration, or `none`.
pub fn parse_clock_jump(text: &str) -> Result<ClockJump, String> {
    if text == "none" {
        return Ok(ClockJump(None));
    }
    let jump = parse_duration(text).map_err(|e| format!("{e}, or none"))?;
    Ok(ClockJump(Some(jump).filter(|jump| !jump.is_zero())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_jump_is_a_duration_or_none() {
        assert_eq!(parse_clock_jump("24h"), Ok(ClockJump(Some(Duration::from_secs(86_400)))));
        assert_eq!(
            (parse_clock_jump("none"), parse_clock_jump("0s")),
            (Ok(ClockJump(None)), Ok(ClockJump(None)))
        );
        assert!(parse_clock_jump("1").is_err());
    }

    #[test]
    fn durations_need_a_unit() {
        for (text, ms) in [("50ms", 50), ("1s", 1000), ("2 minutes", 120_000), ("1.5s", 1500), ("0s", 0)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "5", "-1s", "soon", "1 month"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
