//! Options of the commands that run statements and read or restore rows.

use std::path::PathBuf;

use clap::Args;
use driftdb_common::format::rfc3339::UtcTime;

use super::target::{RowTargetArgs, TableTargetArgs};

pub(super) const SQL_EXAMPLES: &str = r#"Without a statement and --file, statements are read from stdin. The first error stops the script; its line is reported.
The statements between BEGIN and COMMIT become one atomic commit.

Examples:
  driftctl sql 'CREATE TABLE orders (pk=id, INDEX(status, customer_id))'
  driftctl sql 'INSERT INTO orders {"id": "order1", "status": "pending", "amount": 100}'
  driftctl sql 'SELECT * FROM orders WHERE status = $1 AS OF "1 hour ago"' --param '"pending"'
  driftctl sql --file script.dql"#;

pub(super) const SHELL_EXAMPLES: &str = r"Type \? for the commands of the shell. If stdin is not a terminal, `shell` does the same as `sql`.

Examples:
  driftctl shell
  driftctl shell -d ./mydata";

pub(super) const GET_EXAMPLES: &str = "\
Rows are printed in the order of the keys. Exit code 4 if a key has no row.

Examples:
  driftctl get orders order1 order2
  driftctl get orders order1 --as-of '1 hour ago' --meta";

pub(super) const SELECT_EXAMPLES: &str = r#"Examples:
  driftctl select orders --where 'status = "paid" AND amount > 100' --limit 10
  driftctl select orders --fields id,status --as-of @seq:1000
  driftctl select orders --order-by 'amount DESC' --limit 10
  driftctl select orders -o csv > orders.csv"#;

pub(super) const DRIFT_EXAMPLES: &str = "\
Each line is one event, oldest first.

Examples:
  driftctl drift orders order1
  driftctl drift orders --where 'amount > 100' --with-before --from yesterday
  driftctl drift orders --from @seq:100 --to '5 minutes ago'";

pub(super) const FIND_EXAMPLES: &str = r#"A row begins to match with a commit if it matches after the commit and did not match before it. The commit is printed with the
row before and after it; nothing is printed if there is none.

Examples:
  driftctl find orders --where 'status = "paid"'
  driftctl find orders order1 --last --where 'amount > 100' --from '1 month ago'
  driftctl find orders --key order1 --where 'status = $1' --param '"lost"'"#;

pub(super) const DIFF_EXAMPLES: &str = "\
Examples:
  driftctl diff orders --from @seq:100 --to @seq:200
  driftctl diff orders order1 --from '1 day ago'";

pub(super) const REVERT_EXAMPLES: &str = "\
Rows are written again as new events, so their history stays complete. --where finds the rows that match now or that matched
then; rows that were made since are deleted, and deleted ones come back.

Examples:
  driftctl revert orders order1 --to '1 hour ago' --dry-run
  driftctl revert orders order1 --to @seq:100 --reason 'wrong import'
  driftctl revert orders --where 'status = \"lost\"' --to @seq:100 --dry-run
  driftctl revert orders --all --to @seq:100 --in-batches-of 1000";

/// Options of `sql`.
#[derive(Debug, Default, Args)]
pub(crate) struct SqlArgs {
    /// Statements, separated by semicolons
    #[arg(value_name = "STMT", conflicts_with_all = ["statement", "file"])]
    pub(crate) script: Option<String>,
    /// Statements, as an option; can be repeated
    #[arg(short = 'e', long, value_name = "STMT", conflicts_with = "file")]
    pub(crate) statement: Vec<String>,
    /// File with statements; `-` means stdin
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Value of $1, $2, … in this order, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON")]
    pub(crate) param: Vec<String>,
    /// Commit time, to import history: between the time of the last commit and now [default: now]
    #[arg(long, value_name = "TIME", help_heading = "Commit options")]
    pub(crate) time: Option<UtcTime>,
    /// Reason, stored with each commit
    #[arg(long, value_name = "TEXT", help_heading = "Commit options")]
    pub(crate) reason: Option<String>,
    /// Who makes the commits; stored with each, and not checked
    #[arg(long, value_name = "NAME", help_heading = "Commit options")]
    pub(crate) actor: Option<String>,
}

/// Options of `get`.
#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    #[command(flatten)]
    pub(crate) rows: RowTargetArgs,
    /// Point in time to read at [default: @now]
    #[arg(long, value_name = "POINT")]
    pub(crate) as_of: Option<String>,
    /// Print each row with its key, and with the seq and time of its last change
    #[arg(long)]
    pub(crate) meta: bool,
}

/// Options of `select`.
#[derive(Debug, Args)]
pub(crate) struct SelectArgs {
    #[command(flatten)]
    pub(crate) table: TableTargetArgs,
    /// Condition in DriftQL, for example: status = "paid" AND amount > 100 [default: all rows]
    #[arg(long = "where", value_name = "COND")]
    pub(crate) condition: Option<String>,
    /// Point in time to read at [default: @now]
    #[arg(long, value_name = "POINT")]
    pub(crate) as_of: Option<String>,
    /// Maximum number of rows [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
    /// Columns to sort by, for example: 'amount DESC, status' [default: the key]
    #[arg(long, value_name = "COLUMN,…")]
    pub(crate) order_by: Option<String>,
    /// Fields to print, separated by commas; a.b is field b of the object a [default: all fields]
    #[arg(long, value_name = "FIELD,…", value_delimiter = ',')]
    pub(crate) fields: Vec<String>,
    /// Print each row with its key, and with the seq and time of its last change
    #[arg(long)]
    pub(crate) meta: bool,
    /// Value of $1, $2, … in the condition, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON")]
    pub(crate) param: Vec<String>,
}

/// Options of `drift`.
#[derive(Debug, Args)]
pub(crate) struct DriftArgs {
    #[command(flatten)]
    pub(crate) rows: RowTargetArgs,
    /// Condition that the row must match before or after the event, for example: status = "paid" AND amount > 100
    #[arg(long = "where", value_name = "COND")]
    pub(crate) condition: Option<String>,
    /// Value of $1, $2, … in the condition, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON")]
    pub(crate) param: Vec<String>,
    /// Only events of commits by this actor
    #[arg(long, value_name = "ACTOR")]
    pub(crate) by: Option<String>,
    /// Include the row before each event
    #[arg(long)]
    pub(crate) with_before: bool,
    /// Include the row after each event
    #[arg(long)]
    pub(crate) with_after: bool,
    /// Start after this point in time [default: the oldest event]
    #[arg(long, value_name = "POINT")]
    pub(crate) from: Option<String>,
    /// End at this point in time, inclusive [default: @now]
    #[arg(long, value_name = "POINT")]
    pub(crate) to: Option<String>,
    /// Maximum number of events [default: no limit]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) limit: Option<u64>,
}

/// Options of `find`.
#[derive(Debug, Args)]
pub(crate) struct FindArgs {
    #[command(flatten)]
    pub(crate) rows: RowTargetArgs,
    /// Condition that a row begins to match, for example: status = "paid" AND amount > 100
    #[arg(long = "where", value_name = "COND")]
    pub(crate) condition: String,
    /// Value of $1, $2, … in the condition, as JSON: strings need double quotes; can be repeated
    #[arg(long, value_name = "JSON")]
    pub(crate) param: Vec<String>,
    /// Find the first such commit; the default
    #[arg(long, conflicts_with = "last")]
    pub(crate) first: bool,
    /// Find the last such commit
    #[arg(long)]
    pub(crate) last: bool,
    /// Look after this point in time [default: the oldest event]
    #[arg(long, value_name = "POINT")]
    pub(crate) from: Option<String>,
    /// Look up to this point in time, inclusive [default: @now]
    #[arg(long, value_name = "POINT")]
    pub(crate) to: Option<String>,
}

/// Options of `diff`.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub(crate) rows: RowTargetArgs,
    /// Earlier point in time
    #[arg(long, value_name = "POINT")]
    pub(crate) from: String,
    /// Later point in time
    #[arg(long, value_name = "POINT", default_value = "@now")]
    pub(crate) to: String,
    /// Fail if the table does not exist at the earlier point [default: every row counts as added]
    #[arg(long)]
    pub(crate) strict: bool,
}

/// Options of `revert`.
#[derive(Debug, Args)]
pub(crate) struct RevertArgs {
    #[command(flatten)]
    pub(crate) row: RowTargetArgs,
    /// Point in time whose version is restored
    #[arg(long, value_name = "POINT")]
    pub(crate) to: String,
    /// Print the change without making it
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Revert the rows that match this condition, instead of one row by its key
    #[arg(long = "where", value_name = "COND", conflicts_with = "all", help_heading = "Many rows")]
    pub(crate) condition: Option<String>,
    /// Revert the whole table, instead of one row by its key
    #[arg(long, help_heading = "Many rows")]
    pub(crate) all: bool,
    /// Make a commit of each N rows; the default is one commit of at most 10,000
    #[arg(long, value_name = "N", help_heading = "Many rows")]
    pub(crate) in_batches_of: Option<u64>,
    /// Reason, stored with the commit
    #[arg(long, value_name = "TEXT", help_heading = "Commit options")]
    pub(crate) reason: Option<String>,
    /// Who makes the commit; stored with it, and not checked
    #[arg(long, value_name = "NAME", help_heading = "Commit options")]
    pub(crate) actor: Option<String>,
}

impl RevertArgs {
    /// Whether rows are found by a condition, or all of them are reverted.
    pub(crate) fn is_bulk(&self) -> bool {
        self.all || self.condition.is_some()
    }
}
