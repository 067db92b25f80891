//! The log of a daemon: lines on standard error, as text or as JSON.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::error::{Error, Reason, Result};

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// Readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The library for HTTP/2. It warns of each client that breaks a rule, and a client can do so as often as it likes: unless the filter
/// names it, only its errors are logged.
const HTTP: &str = "h2";

/// Starts logging at the levels that `filter` names: `info`, `debug`, `driftdb_writer=trace` …
///
/// Fails if `filter` is invalid, or if this process already logs.
pub(super) fn start(format: LogFormat, filter: &str) -> Result<()> {
    let directives = match filter.contains(HTTP) {
        true => filter.to_owned(),
        false => format!("{HTTP}=error,{filter}"),
    };
    let filter = EnvFilter::try_new(directives).map_err(|e| {
        Error::new(Reason::ArgumentInvalid, format!("invalid log filter --log {filter:?}: {e}"))
    })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let builder = builder.with_ansi(is_coloured());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(|e| Error::new(Reason::Internal, format!("cannot start logging: {e}")))
}

/// Whether lines have colours: on a terminal only, since a file or a supervisor's journal shows their control codes as text; and
/// not if the user has set [`NO_COLOR`](https://no-color.org).
fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
