//! Options of the commands that look at running daemons: `health` and `top`.

use std::time::Duration;

use clap::Args;
use driftdb_common::service::options::parse_duration;

pub(super) const HEALTH_EXAMPLES: &str = "\
Asks the gRPC health service of the daemons that --writer and --reader name, or of both at their default addresses. Of several
writers one must be active; every reader must be ready. A token is needed if the daemons have an --auth-file, except with --live.

Exit code 0: all are ready. 1: one is not, or refuses the question. 3: one does not answer.

Examples:
  driftctl health
  driftctl health --writer http://127.0.0.1:7401 --live
  driftctl health --reader http://127.0.0.1:7402,http://127.0.0.1:7403 --wait 30s";

pub(super) const TOP_EXAMPLES: &str = "\
On a terminal a live view; q or Ctrl-C ends it. Otherwise, or with -o or --count, one record per daemon and interval. Rates
are per second, since the status before. With an --auth-file, a caller that is no administrator sees its own tables only.

Examples:
  driftctl top
  driftctl top --interval 5s --reader http://127.0.0.1:7402,http://127.0.0.1:7403
  driftctl top --count 2 -o jsonl";

/// Options of `health`.
#[derive(Debug, Args)]
pub(crate) struct HealthArgs {
    /// Ask only whether the processes are alive: they may be standbys, or lag behind
    #[arg(long)]
    pub(crate) live: bool,
    /// Ask again until all are ready, for at most this time [default: ask once]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) wait: Option<Duration>,
    /// Time that a daemon may take to answer
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) timeout: Duration,
}

/// Options of `top`.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Time between two looks at the daemons, from 100ms to 1h
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_interval)]
    pub(crate) interval: Duration,
    /// Number of intervals after which to end; prints records, also on a terminal [default: no end]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let interval = parse_duration(text)?;
    let bounds = Duration::from_millis(100)..=Duration::from_secs(3600);
    if bounds.contains(&interval) { Ok(interval) } else { Err("must be between 100ms and 1h".to_owned()) }
}
