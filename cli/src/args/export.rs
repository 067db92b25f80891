//! Options of `export`.

use std::path::Path;

use clap::Args;

use super::target::FileTargetArgs;

pub(super) const EXPORT_EXAMPLES: &str = "\
The format is that of -o, or of FILE's ending: .csv or .jsonl, also with .gz or .zst, which compresses, or .parquet. All rows are of
one point in time. An existing FILE is not overwritten. Until FILE is whole, it is FILE.partial.

CSV: a column for each field, in the order in which the rows have them; export reads the rows twice: to know the columns
and their types, also of those that --columns names. An object or a list is one cell of JSON. `ingest` takes the file back: numbers, text and truth values
become what they were, with the options that export prints where they are needed. What CSV cannot tell apart is an error, and
-o jsonl keeps everything.

Parquet: columns with types, for programs that analyse data; an object, a list or a column of mixed values is text of JSON. It needs
a driftctl that was built with `cargo build --features parquet`.

Examples:
  driftctl export orders orders.csv
  driftctl export orders --as-of '1 day ago' --where 'amount > 100' --columns id,amount big.csv.gz
  driftctl export -t orders -o jsonl - | wc -l";

/// Options of `export`.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) target: FileTargetArgs,
    /// Point in time of the rows [default: @now]
    #[arg(long, value_name = "POINT")]
    pub(crate) as_of: Option<String>,
    /// Condition in DriftQL, for example: status = "paid" AND amount > 100 [default: all rows]
    #[arg(long = "where", value_name = "COND")]
    pub(crate) condition: Option<String>,
    /// Value of $1, $2, … in the condition, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON")]
    pub(crate) param: Vec<String>,
    /// Fields to write, in this order, separated by commas [default: all fields]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    pub(crate) columns: Vec<String>,
}

/// The format of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExportFormat {
    /// Comma-separated values with a header.
    Csv,
    /// One JSON object per line.
    Jsonl,
    /// Columns with types, in compressed row groups.
    Parquet,
}

impl ExportFormat {
    /// The format that a name asks for by its ending.
    pub(crate) fn of_name(file: &Path) -> Option<ExportFormat> {
        let name = file.file_name()?.to_str()?.to_ascii_lowercase();
        let endings = [".gz", ".zst", ".zstd"];
        let inner = endings.iter().find_map(|ending| name.strip_suffix(ending));
        match inner.unwrap_or(&name).rsplit_once('.')?.1 {
            "csv" => Some(ExportFormat::Csv),
            "jsonl" | "ndjson" => Some(ExportFormat::Jsonl),
            "parquet" => Some(ExportFormat::Parquet),
            _ => None,
        }
    }
}
