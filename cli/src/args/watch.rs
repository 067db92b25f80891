//! Options of `watch`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

pub(super) const WATCH_HELP: &str = r#"Each change is one line, in the shape of `drift`. Other lines:
  --initial   {"row":{"table":…,"key":…,"seq":…,"time":…,"doc":{…}}} for each row, before the first change
  --progress  {"progress":{"seq":…}} periodically: everything up to this seq has been printed

If a connection breaks or a reader stops, the watch resumes automatically: no change is lost or repeated. With --resume FILE
this also holds from one run to the next; after a crash, only the last changes before it may be repeated.

CMD is run once for each commit, one after another. It gets the commit on stdin and its seq in DRIFTDB_SEQ:
  {"seq":…,"time":…,"actor":…,"reason":…,"changes":[{"table":…,"key":…,"kind":…,"payload":{…}}]}
With --initial it first gets batches of rows: {"rows":[…]}. If CMD fails, the watch stops with exit code 1; with
--resume, the next run starts with the same commit.

Examples:
  driftctl watch -t orders
  driftctl watch -t orders --where 'status = "paid"' --from '1 hour ago' --with-after
  driftctl watch -t orders --initial --until @now -o jsonl
  driftctl watch -t orders --resume orders.watch -- ./send-mail.sh
  driftctl watch --format changes --from @seq:0 | driftctl -d ./copy apply --file - --preserve-time"#;

/// Options of `watch`.
#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Table to watch; can be repeated [default: all tables]
    #[arg(short, long, value_name = "TABLE", value_delimiter = ',', help_heading = "Filter")]
    pub(crate) table: Vec<String>,
    /// Key of a row; can be repeated [default: all rows]
    #[arg(short, long, value_name = "KEY", help_heading = "Filter")]
    pub(crate) key: Vec<String>,
    /// Prefix of the keys
    #[arg(long, value_name = "TEXT", help_heading = "Filter")]
    pub(crate) prefix: Option<String>,
    /// Condition that the row must match before or after the change, for example: status = "paid" AND amount > 100
    #[arg(long = "where", value_name = "COND", help_heading = "Filter")]
    pub(crate) condition: Option<String>,
    /// Value of $1, $2, … in the condition, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON", help_heading = "Filter")]
    pub(crate) param: Vec<String>,
    /// Start with the first commit after this point in time [default: @now]
    #[arg(long, value_name = "POINT", help_heading = "Range")]
    pub(crate) from: Option<String>,
    /// Fail if a table of --table did not exist at --from
    #[arg(long, requires = "from", help_heading = "Range")]
    pub(crate) strict: bool,
    /// Print the rows at the start of the watch first
    #[arg(long, help_heading = "Range")]
    pub(crate) initial: bool,
    /// Stop after the last commit at or before this past point in time [default: never]
    #[arg(long, value_name = "POINT", help_heading = "Range")]
    pub(crate) until: Option<String>,
    /// Save the position of the watch in this file; if the file exists, resume from it and ignore --from and --initial
    #[arg(long, value_name = "FILE", help_heading = "Range")]
    pub(crate) resume: Option<PathBuf>,
    /// Print the changes as records, or whole commits as lines that `driftctl apply` takes [default: events]
    #[arg(long, value_name = "FORMAT", conflicts_with_all = ["command", "initial", "progress", "output"], help_heading = "Content")]
    pub(crate) format: Option<WatchFormat>,
    /// Include the row before each change
    #[arg(long, help_heading = "Content")]
    pub(crate) with_before: bool,
    /// Include the row after each change
    #[arg(long, help_heading = "Content")]
    pub(crate) with_after: bool,
    /// Print progress periodically
    #[arg(long, help_heading = "Content")]
    pub(crate) progress: bool,
    /// Longest interval between progress messages, 100ms to 1h; shorter intervals detect broken connections sooner
    /// [default: 10s]
    #[arg(long, value_name = "DURATION", value_parser = heartbeat, help_heading = "Content")]
    pub(crate) heartbeat: Option<Duration>,
    /// Program to run for each commit, with its arguments [default: print the changes]
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<OsString>,
}

/// What a watch prints for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WatchFormat {
    /// A record for each change, in the format of --output.
    Events,
    /// One line of JSON for each commit, which `driftctl apply` takes back.
    Changes,
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let given = text.parse::<jiff::SignedDuration>().ok().and_then(|given| Duration::try_from(given).ok());
    given
        .filter(|given| (Duration::from_millis(100)..=Duration::from_secs(3600)).contains(given))
        .ok_or_else(|| "must be a duration between 100ms and 1h, for example 5s".to_owned())
}
