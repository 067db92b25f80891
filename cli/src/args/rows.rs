//! Options of the commands that load files.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::target::FileTargetArgs;
use crate::commands::ingest::{NamedColumn, NamedKey};

pub(super) const INGEST_EXAMPLES: &str = "\
The file has rows as JSON Lines, a JSON array, CSV or TSV, and may be compressed with gzip or zstd.

Each row becomes one commit. If the connection breaks or the writer restarts, the load resumes automatically. If driftctl
stops, run the same command again: it resumes after the last loaded row, unless the file has changed.

CSV: the first line contains the field names. Each column has one type, which is chosen from the first 32 MiB of the
file (of a pipe, 256 KiB, which ingest waits for) and shown before anything is loaded; --types names it instead. A later
cell that does not fit its column is a bad row. Numbers with leading zeros are text. An empty cell is null, in a text
column empty text. The key has the type of the table.

Rows without a key can be loaded into a table whose keys are AUTO. The writer makes a key for each row, so it cannot tell
a row that is loaded a second time: resume such a load, and do not use --restart.

Examples:
  driftctl ingest orders orders.jsonl
  driftctl ingest orders orders.csv --skip-bad bad.csv
  driftctl ingest orders orders.csv --types price=decimal,zip=text
  driftctl ingest orders export.tsv.gz --create --pk id
  driftctl ingest readings readings.csv --create --pk id --auto
  driftctl ingest prices prices.csv --create --pk 'symbol,day INT'
  curl -s https://example.com/orders.json | driftctl ingest orders - --upsert";

/// Parses the character between two cells.
fn parse_delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(*byte),
        _ => Err("expected one ASCII character, or `tab`".to_owned()),
    }
}

pub(super) const APPLY_EXAMPLES: &str = r#"Each line is one atomic commit; `time`, `reason` and `actor` are optional. As one line:
  {"time":"2026-01-01T00:00:00Z","reason":"import","ops":[
     {"op":"insert","table":"orders","doc":{"id":"o1","status":"new"}},
     {"op":"put","table":"orders","doc":{"id":"o2","status":"new"}},
     {"op":"patch","table":"orders","key":"o1","patch":{"status":"paid"}},
     {"op":"delete","table":"orders","key":"o2"}]}

Examples:
  driftctl apply --file commits.jsonl
  driftctl apply --file history.jsonl --preserve-time"#;

/// Options of `ingest`.
#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    pub(crate) target: FileTargetArgs,
    /// Replace existing rows instead of rejecting new rows with the same key
    #[arg(long)]
    pub(crate) upsert: bool,
    /// Format of the file [default: csv or tsv if its name ends so, otherwise jsonl]
    #[arg(long, value_name = "FORMAT", help_heading = "Input options")]
    pub(crate) format: Option<RowFormat>,
    /// Types of CSV columns: int, decimal, float, text, bool or json [default: chosen from the first rows]
    #[arg(long, value_name = "COLUMN=TYPE", value_delimiter = ',', help_heading = "Input options")]
    pub(crate) types: Vec<NamedColumn>,
    /// Load the CSV columns that --types does not name as text
    #[arg(long, alias = "csv-text", help_heading = "Input options")]
    pub(crate) all_text: bool,
    /// Text of CSV cells that are null, such as NA; can be repeated
    #[arg(long, value_name = "TEXT", help_heading = "Input options")]
    pub(crate) null: Vec<String>,
    /// Character between two cells, or `tab` [default: a comma, in TSV a tab]
    #[arg(long, value_name = "CHAR", value_parser = parse_delimiter, help_heading = "Input options")]
    pub(crate) delimiter: Option<u8>,
    /// Create the table if it does not exist; needs --pk
    #[arg(long, requires = "pk", help_heading = "New table")]
    pub(crate) create: bool,
    /// Primary key of the new table: a field, or several with commas; `b INT` has whole numbers
    #[arg(
        long,
        value_name = "FIELD",
        requires = "create",
        value_delimiter = ',',
        help_heading = "New table"
    )]
    pub(crate) pk: Vec<NamedKey>,
    /// Let the keys of the new table be whole numbers, not text
    #[arg(long, requires = "create", help_heading = "New table")]
    pub(crate) int_key: bool,
    /// Let the writer make the keys of rows that have none
    #[arg(long, requires = "create", conflicts_with_all = ["int_key", "upsert"], help_heading = "New table")]
    pub(crate) auto: bool,
    /// Read the whole file and print what would be loaded, without loading it
    #[arg(long, conflicts_with = "skip_bad", help_heading = "Input options")]
    pub(crate) dry_run: bool,
    /// Append invalid and rejected lines to this file and continue [default: stop at the first]
    #[arg(long, value_name = "FILE", help_heading = "Input options")]
    pub(crate) skip_bad: Option<PathBuf>,
    /// Id under which the load can be resumed; resume with the same rows and the same --batch
    /// [default: derived from the table and the file's path, length and time]
    #[arg(long, value_name = "ID", conflicts_with = "restart", help_heading = "Resuming")]
    pub(crate) producer: Option<String>,
    /// Load the whole file, even if an earlier run loaded a part of it
    #[arg(long, help_heading = "Resuming")]
    pub(crate) restart: bool,
    /// Rows per request; fewer if rows are large, more if the network is slow
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000),
          help_heading = "Tuning")]
    pub(crate) batch: u32,
    /// Requests sent before the first is acknowledged; more if the network is slow
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=256),
          help_heading = "Tuning")]
    pub(crate) in_flight: u32,
}

/// The format of a file of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum RowFormat {
    /// One JSON object per line, or one JSON array of objects.
    Jsonl,
    /// Comma-separated values; the first line contains the field names.
    Csv,
    /// The same, separated by tabs.
    Tsv,
}

/// Options of `apply`.
#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// File with one commit per line, as JSON Lines; `-` means stdin
    #[arg(long, value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Commit each line at its `time`, or at the time of the last commit if that is later [default: now]
    #[arg(long)]
    pub(crate) preserve_time: bool,
}
