//! Logs: to standard error, as text or JSON lines.

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::error::{Error, Reason, Result};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, at the level that `filter` names (`info`, `debug`, `driftdb_writer=trace` …).
pub fn init(format: LogFormat, filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(filter).map_err(|e| {
        Error::new(Reason::ArgumentInvalid, format!("--log {filter:?} is no log filter: {e}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Error::new(Reason::Internal, format!("cannot start logging: {e}")))
}
