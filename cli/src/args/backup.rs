//! Options of the commands for buckets: `backup`, `restore` and `clone`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use driftdb_common::service::options::parse_days;

pub(super) const BACKUP_EXAMPLES: &str = "\
A backup ships what the bucket does not have yet: run it again for the next one. With --writer, the running writer ships: URL is
then what its machine reaches, with its credentials, and you must be an administrator of the database. A writer that was started
with --bucket ships by itself, and needs no backup. URL is s3://BUCKET/PREFIX, gs://…, az://… or file:///DIRECTORY. Credentials come
from the environment, as the tools of the store take them, and never belong in the URL.

Exit code 6 if `backup verify` finds damage.

Examples:
  driftctl backup -d ./mydata s3://backups/orders
  driftctl backup --writer http://127.0.0.1:7401 s3://backups/orders
  driftctl backup list s3://backups/orders
  driftctl backup verify s3://backups/orders --deep
  driftctl backup collect s3://backups/orders --keep 30d";

pub(super) const RESTORE_EXAMPLES: &str = "\
DIR must not exist yet, or be empty. The restore works in DIR.restoring, and gives it its name when everything was verified. If
it is interrupted, run the same command again: it continues. The restored database is a history of its own, with a new epoch:
tokens from the one before it are refused.

Every commit that the tables' history has can be restored, and every time between the first and the last commit.

With --table, the whole database is copied first. Then each other table is dropped, by a commit of its own after the one that was
restored, and its history is discarded. The commits of the tables that are named keep their numbers and times.

Examples:
  driftctl restore s3://backups/orders ./restored
  driftctl restore s3://backups/orders ./before --to '10 minutes ago'
  driftctl restore file:///mnt/backups/orders ./restored --to @seq:1000
  driftctl restore s3://backups/orders ./invoices -t invoices -t customers";

pub(super) const CLONE_EXAMPLES: &str = "\
The clone is another database with an id of its own. It begins as the first one was at that point, with its history.

Examples:
  driftctl clone s3://backups/orders s3://backups/orders-test
  driftctl clone s3://backups/orders file:///tmp/orders --at '2026-01-31T12:00:00Z'";

/// Options of `backup`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BackupArgs {
    /// What to do [default: back up the directory of --data, or the database of --writer]
    #[command(subcommand)]
    pub(crate) command: Option<BackupCommand>,
    /// Bucket to back up to
    #[arg(value_name = "URL")]
    pub(crate) target: Option<String>,
    /// Take over a bucket whose writer has ended without closing its database; a writer that is at work there is stopped
    #[arg(long)]
    pub(crate) force: bool,
}

/// What `backup` does besides a backup.
#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Check that a bucket has everything that its chunks name
    Verify(VerifyBucketArgs),
    /// List what a bucket can restore
    List(ListBucketArgs),
    /// Show what a writer with --bucket-keep would delete
    ///
    /// Deletes nothing: only the writer that ships to a bucket deletes in it.
    Collect(CollectBucketArgs),
}

/// Options of `backup verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyBucketArgs {
    /// Bucket to check
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Also read every file, build the database in a temporary directory, and verify it there
    #[arg(long)]
    pub(crate) deep: bool,
}

/// Options of `backup list`.
#[derive(Debug, Args)]
pub(crate) struct ListBucketArgs {
    /// Bucket to list
    #[arg(value_name = "URL")]
    pub(crate) url: String,
}

/// Options of `backup collect`.
#[derive(Debug, Args)]
pub(crate) struct CollectBucketArgs {
    /// Bucket to look at
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Time for which every moment can be restored, back from the last commit, for example 30d
    #[arg(long, value_name = "TIME", value_parser = parse_days)]
    pub(crate) keep: Duration,
}

/// Options of `restore`.
#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// Bucket to restore from
    #[arg(value_name = "URL")]
    pub(crate) url: String,
    /// Directory of the restored database
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Point in time to restore [default: the newest commit in the bucket]
    #[arg(long, value_name = "POINT")]
    pub(crate) to: Option<String>,
    /// Table to restore, may be repeated; all others are dropped, and their history is discarded [default: all tables]
    #[arg(short, long = "table", value_name = "TABLE")]
    pub(crate) tables: Vec<String>,
}

/// Options of `clone`.
#[derive(Debug, Args)]
pub(crate) struct CloneArgs {
    /// Bucket of the database
    #[arg(value_name = "URL")]
    pub(crate) source: String,
    /// Bucket of the clone; it must not have a database
    #[arg(value_name = "URL2")]
    pub(crate) target: String,
    /// Point in time at which the clone begins [default: the newest commit in the bucket]
    #[arg(long, value_name = "POINT")]
    pub(crate) at: Option<String>,
}
