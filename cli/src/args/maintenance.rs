//! What can be said to the commands that maintain a database.

use clap::Args;

pub(super) const COMPACT_EXAMPLES: &str = "\
What lies before the new floor can no longer be read. Rows as they are at the floor, and all that came after, stay.

Examples:
  driftctl compact -t orders --before '30 days ago' --dry-run
  driftctl compact -t orders --before @seq:1000
  driftctl compact -t orders --yes";

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
