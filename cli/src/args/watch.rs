//! What can be said to `watch`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

pub(super) const WATCH_HELP: &str = r#"A line for every change, as `drift` prints it; with --with-before and --with-after also the row before and after it.
With --initial first {"row":{"table":…,"key":…,"seq":…,"time":…,"doc":{…}}} for each row.
With --progress now and then {"progress":{"seq":…}}: everything up to there has come.

Where a connection breaks, or a reader goes down, it goes on by itself: nothing is lost and nothing comes twice.
With --resume FILE that also holds from one run to the next. What was printed or run last before a crash may come again.

CMD is run for each commit, one after another. On its standard input stands
  {"seq":…,"time":…,"actor":…,"reason":…,"changes":[{"table":…,"key":…,"kind":…,"payload":{…}}]}
and DRIFTDB_SEQ holds the commit's number. With --initial it gets {"rows":[…]} first, some at a time. Where CMD fails, the
watch ends, and with --resume the next run begins with the same commit.

Examples:
  driftctl watch -t orders
  driftctl watch -t orders --where 'status = "paid"' --from '1 hour ago' --with-after
  driftctl watch -t orders --initial --until @now -o jsonl
  driftctl watch -t orders --resume orders.watch -- ./send-mail.sh"#;

/// `watch`
#[derive(Debug, Args)]
pub struct Watch {
    /// Only these tables; may be given several times [default: all]
    #[arg(short, long, value_name = "TABLE", value_delimiter = ',')]
    pub table: Vec<String>,
    /// Only this row; may be given several times
    #[arg(short, long, value_name = "KEY")]
    pub key: Vec<String>,
    /// Only rows whose key begins so
    #[arg(long, value_name = "TEXT")]
    pub prefix: Option<String>,
    /// Only changes of rows that match before or after: status = "paid" AND amount > 100
    #[arg(long = "where", value_name = "COND")]
    pub condition: Option<String>,
    /// A value for $1, $2, … in the condition: JSON, so a string comes in double quotes
    #[arg(long, value_name = "JSON")]
    pub param: Vec<String>,
    /// Begin with the commit after this moment [default: now]
    #[arg(long, value_name = "POINT")]
    pub from: Option<String>,
    /// First the rows as they are at the beginning
    #[arg(long)]
    pub initial: bool,
    /// End after the last commit at or before this moment, which may not lie in the future
    #[arg(long, value_name = "POINT")]
    pub until: Option<String>,
    /// With each change the row before it
    #[arg(long)]
    pub with_before: bool,
    /// With each change the row after it
    #[arg(long)]
    pub with_after: bool,
    /// Say now and then how far it is
    #[arg(long)]
    pub progress: bool,
    /// How often, at least [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = heartbeat)]
    pub heartbeat: Option<Duration>,
    /// Keep in this file how far it came, and go on from there the next time, whatever --from and --initial say
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,
    /// Run this for each commit, instead of printing
    #[arg(last = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let given = text.parse::<jiff::SignedDuration>().ok().and_then(|given| Duration::try_from(given).ok());
    given
        .filter(|given| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(given))
        .ok_or_else(|| "it takes 100ms to 1h: 5s".to_owned())
}
