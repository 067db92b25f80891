//! Options of `dump` and `load`.

use std::path::PathBuf;

use clap::Args;

pub(super) const DUMP_EXAMPLES: &str = "\
A dump is JSON Lines: a header, a commit per line as `watch --format changes` prints it, and an end with the counts. A FILE
that ends in .gz or .zst is compressed. An existing file is not overwritten. Until FILE is whole, it is FILE.partial.

Without --history the dump has the tables and their rows at one point in time, 1,000 rows per commit. With --history it has
every commit with its time and reason, and `load` into an empty database makes every point in time readable again.

Examples:
  driftctl dump orders.jsonl.zst -t orders
  driftctl dump --history everything.jsonl.gz
  driftctl dump --as-of '1 day ago' - | ssh backup 'cat > orders.jsonl'";

pub(super) const LOAD_EXAMPLES: &str = "\
The database must have none of the dump's tables, nor of those that its history drops. If the load is interrupted, run `load`
again, without --restart: it resumes after the last commit that is on disk. Compressed files are recognized by their content.

Commits get the times that they had, unless the database has later commits already. If the dump has the whole history of a
whole database, and the database is empty, they also get the seqs that they had.

Examples:
  driftctl load everything.jsonl.gz
  driftctl -d ./copy load orders.jsonl.zst";

/// Options of `dump`.
#[derive(Debug, Args)]
pub(crate) struct DumpArgs {
    /// File to write; `-` means stdout
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Table to dump; can be repeated [default: all tables]
    #[arg(short, long, value_name = "TABLE", value_delimiter = ',')]
    pub(crate) table: Vec<String>,
    /// Point in time of the rows [default: @now]
    #[arg(long, value_name = "POINT", conflicts_with = "history")]
    pub(crate) as_of: Option<String>,
    /// Dump every commit, not only the rows
    #[arg(long)]
    pub(crate) history: bool,
}

/// Options of `load`.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// File that `dump` wrote; `-` means stdin
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Load the whole dump again, even if an earlier run loaded a part of it
    #[arg(long)]
    pub(crate) restart: bool,
}
