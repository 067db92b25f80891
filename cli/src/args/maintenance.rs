//! What can be said to the commands that maintain a database.

use std::path::PathBuf;

use clap::Args;

pub(super) const COMPACT_EXAMPLES: &str = "\
What lies before the new floor can no longer be read. Rows as they are at the floor, and all that came after, stay.

Examples:
  driftctl compact -t orders --before '30 days ago' --dry-run
  driftctl compact -t orders --before @seq:1000
  driftctl compact -t orders --yes";

pub(super) const STORAGE_EXAMPLES: &str = "\
It works in a directory of its own within DIR, which it removes, and touches nothing else. With --peer the other process
works in DIR as another mount, or another machine's export of it, shows it.

A line a check: ok, slow, no (and not needed), or UNSAFE and what that means. Two lines at the end say whether a writer and
readers can run there, and how readers should --follow. Exit code 6 where something is UNSAFE.

Examples:
  driftctl storage-check /mnt/shared
  driftctl storage-check /srv/data --peer /mnt/data-by-nfs";

/// `storage-check`
#[derive(Debug, Args)]
pub struct StorageCheck {
    /// The directory to check: on the storage that is to hold a database
    pub dir: PathBuf,
    /// The same directory as the other process sees it: through another mount [default: DIR]
    #[arg(long, value_name = "DIR")]
    pub peer: Option<PathBuf>,
}

/// `storage-peer`
#[derive(Debug, Args)]
pub struct StoragePeer {
    /// The check's own directory, as this process sees it
    pub dir: PathBuf,
}

/// `snapshot`
#[derive(Debug, Args)]
pub struct Snapshot {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
}

/// `compact`
#[derive(Debug, Args)]
pub struct Compact {
    /// The table
    #[arg(short, long, value_name = "TABLE")]
    pub table: String,
    /// The oldest moment that can still be read after it [default: the newest snapshot]
    #[arg(long, value_name = "POINT")]
    pub before: Option<String>,
    /// Only print what would be done
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

/// `verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// Only this table
    #[arg(short, long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Also rebuild the state from the log, and compare
    #[arg(long)]
    pub deep: bool,
}

/// `doctor`
#[derive(Debug, Args)]
pub struct Doctor {
    /// Repair what can be repaired without losing anything
    #[arg(long)]
    pub repair: bool,
}
