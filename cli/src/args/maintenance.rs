//! Options of the commands that create, run, check and maintain databases.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use driftdb_common::service::options::parse_duration;

use super::target::TableTargetArgs;

/// What S3 takes for 1,000 PUT requests, in USD.
pub(crate) const PUT_PRICE: f64 = 0.005;
/// What S3 takes for 1,000 GET requests, in USD.
pub(crate) const GET_PRICE: f64 = 0.0004;

pub(super) const INIT_EXAMPLES: &str = "\
An existing database is not changed.

Examples:
  driftctl init ./mydata
  driftctl init ./mydata && driftctl -d ./mydata sql -e 'SHOW TABLES'";

pub(super) const DEV_EXAMPLES: &str = "\
The data directory is -d DIR, or ./driftdb-data. It is created if it does not exist. Ctrl-C stops both daemons.

Examples:
  driftctl dev
  driftctl dev -d ./mydata --listen 127.0.0.1:7501 --reader-listen 127.0.0.1:7502";

pub(super) const DEMO_EXAMPLES: &str = "\
The tour writes 10,000 orders to a new directory and shows queries, time travel, drift, diff, snapshots, compaction and a
watch. It checks every result.

Examples:
  driftctl demo
  driftctl demo --keep";

pub(super) const STATUS_EXAMPLES: &str = "\
Exit code 3 if no writer is active, or a daemon that was named does not answer; 1 if one refuses the token.

Examples:
  driftctl status
  driftctl status -o json --reader http://127.0.0.1:7402,http://127.0.0.1:7403";

pub(super) const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  driftctl completions bash > ~/.local/share/bash-completion/completions/driftctl
  driftctl completions fish > ~/.config/fish/completions/driftctl.fish";

pub(super) const MAN_EXAMPLES: &str = "\
A page for driftctl and one for each command: driftctl.1, driftctl-select.1 and so on. Existing pages are replaced.

Examples:
  driftctl man ~/.local/share/man/man1
  driftctl man ./man && man ./man/driftctl-select.1";

pub(super) const SNAPSHOT_EXAMPLES: &str = "\
The writer also takes snapshots automatically. Take one before a start of many readers, or before a compaction.

Examples:
  driftctl snapshot orders
  driftctl snapshot orders -o json";

pub(super) const COMPACT_EXAMPLES: &str = "\
Points in time before the new floor can no longer be read. The rows at the floor and all later history are kept.

Examples:
  driftctl compact orders --before '30 days ago' --dry-run
  driftctl compact orders --before @seq:1000
  driftctl compact orders --yes";

pub(super) const VERIFY_EXAMPLES: &str = "\
The writer checks the files while it runs. With -d no writer may be running, and nothing is written.

Exit code 6 if a file is damaged.

Examples:
  driftctl verify
  driftctl verify -t orders --deep";

pub(super) const CLOCK_EXAMPLES: &str = "\
If the system's clock is far ahead of the last commit, of the last time that a writer saw, and of the monotonic clock, the
writer refuses commits with CLOCK_JUMPED: the time of a commit can never be taken back. Correct the clock, or confirm it.

Examples:
  driftctl clock
  driftctl clock confirm
  driftctl -d ./mydata clock confirm --time 2026-01-31T12:00:00Z";

pub(super) const DOCTOR_EXAMPLES: &str = "\
No writer may be running on the directory. Without --repair nothing is written. Exit code 6 if damage is left.

Examples:
  driftctl doctor -d ./mydata
  driftctl doctor -d ./mydata --repair";

pub(super) const STORAGE_EXAMPLES: &str = "\
Two processes test locks, renames, appends, listings, syncs and change notifications in a temporary directory in DIR,
which is then removed. With --peer, the second process uses another mount of the same directory.

Each line is a check: ok, slow, no (not supported, and not needed) or UNSAFE. The last two lines tell whether a writer and
readers can run on this storage, and which --follow option readers need. Exit code 6 if a check is UNSAFE.

For the URL of a bucket, 8 writers race to create objects in a folder of its own, which is then removed; the last two lines
tell what the requests of a writer and of a reader cost. Prices are those of S3 Standard unless you give others.

Examples:
  driftctl storage-check s3://backups/orders --bucket-interval 10s
  driftctl storage-check /mnt/shared
  driftctl storage-check /srv/data --peer /mnt/data-by-nfs";

/// Options of `init`.
#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Directory of the new database
    pub(crate) dir: PathBuf,
}

/// Options of `dev`.
#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Address on which the writer listens; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7401")]
    pub(crate) listen: SocketAddr,
    /// Address on which the reader listens; port 0 selects a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    pub(crate) reader_listen: SocketAddr,
    /// Listen on addresses that others can reach, too, without TLS and authentication: they may read and write everything
    #[arg(long)]
    pub(crate) insecure_listen: bool,
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Keep the data directory of the demo and print its path [default: remove it]
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Options of `clock`.
#[derive(Debug, Args)]
pub(crate) struct ClockArgs {
    /// What to do [default: show]
    #[command(subcommand)]
    pub(crate) command: Option<ClockCommand>,
}

/// What `clock` does.
#[derive(Debug, Clone, Copy, Subcommand)]
pub(crate) enum ClockCommand {
    /// Show the writer's clock, and whether commits are refused because of it
    Show,
    /// Accept the time that the writer's clock shows
    Confirm {
        /// Confirm only if the writer's clock shows about this time
        #[arg(long, value_name = "TIME")]
        time: Option<jiff::Timestamp>,
    },
}

/// Options of `completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// Shell to complete for
    pub(crate) shell: clap_complete::Shell,
}

/// Options of `man`.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages; it is created if it does not exist
    pub(crate) dir: PathBuf,
}

/// Options of `storage-check`.
#[derive(Debug, Args)]
pub(crate) struct StorageCheckArgs {
    /// Directory to check, on the storage for a database, or the URL of a bucket
    pub(crate) dir: PathBuf,
    /// Bucket: how often the writer ships, for the cost
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) bucket_interval: Duration,
    /// Bucket: how often a reader asks for new commits, for the cost
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = parse_duration)]
    pub(crate) poll_interval: Duration,
    /// Bucket: price of 1,000 PUT requests in USD
    #[arg(long, value_name = "USD", default_value_t = PUT_PRICE)]
    pub(crate) put_price: f64,
    /// Bucket: price of 1,000 GET requests in USD
    #[arg(long, value_name = "USD", default_value_t = GET_PRICE)]
    pub(crate) get_price: f64,
    /// The same directory as the second process sees it, for example through NFS [default: DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) peer: Option<PathBuf>,
}

/// Options of `storage-peer`.
#[derive(Debug, Args)]
pub(crate) struct StoragePeerArgs {
    /// Temporary directory of the check, as this process sees it
    pub(crate) dir: PathBuf,
}

/// Options of `snapshot`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) table: TableTargetArgs,
}

/// Options of `compact`.
#[derive(Debug, Args)]
pub(crate) struct CompactArgs {
    #[command(flatten)]
    pub(crate) table: TableTargetArgs,
    /// New floor: the oldest point in time that stays readable [default: the end of the newest snapshot, or the
    /// newest commit if no snapshot exists]
    #[arg(long, value_name = "POINT")]
    pub(crate) before: Option<String>,
    /// Print the effect without compacting
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Compact without asking for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// Options of `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// Table to check [default: all tables]
    #[arg(short, long, value_name = "TABLE")]
    pub(crate) table: Option<String>,
    /// Also rebuild the tables from the log and compare: slower, but finds files that are valid and wrong
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Repair everything that can be repaired without losing data
    #[arg(long)]
    pub(crate) repair: bool,
}
