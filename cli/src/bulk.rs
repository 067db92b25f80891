//! What a statement that changes all rows of a condition has done, as people and programs read it.

use driftdb::v1;
use serde::Serialize;

use crate::exit::CliResult;
use crate::render::{self, Printer, ResultItem};
use crate::shapes;

/// The result for programs.
#[derive(Debug, Serialize)]
struct BulkJson {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    rows: u64,
    commits: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dry_run: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_seq: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

/// Prints a result, and the last commit that it made. `always` prints the record for programs whatever the format.
pub(crate) fn print(result: v1::BulkResult, seq: Option<u64>, always: bool, out: &mut Printer) -> CliResult {
    let v1::BulkResult { rows, commits, dry_run, sample, read_seq, replayed } = result;
    let shown = sample.len() as u64;
    for change in sample {
        let v1::Change { key, before, after, .. } = change;
        let diff = v1::RowDiff { key, before, after, ..Default::default() };
        out.print_item(ResultItem::Difference(shapes::difference(diff)?))?;
    }
    let counted = match rows {
        1 => "1 row".to_owned(),
        rows => format!("{rows} rows"),
    };
    let has_record = out.wants_commits() || always;
    // How many rows would change is what a dry run is for.
    if out.wants_notes() || (dry_run && !has_record) {
        let rest = rows.saturating_sub(shown);
        render::note(&match (dry_run, seq) {
            (true, _) if rest > 0 => {
                format!("dry run at seq {read_seq}: {counted} would change, of which {shown} are shown")
            }
            (true, _) => format!("dry run at seq {read_seq}: {counted} would change"),
            (false, None) => "ok, no row to change".to_owned(),
            (false, Some(seq)) if replayed => format!("ok, seq {seq}: the request had been executed before"),
            (false, Some(seq)) if commits > 1 => format!("ok, seq {seq}: {counted} in {commits} commits"),
            (false, Some(seq)) => format!("ok, seq {seq}: {counted}"),
        });
    }
    if has_record {
        let (dry_run, read_seq) = (dry_run.then_some(true), dry_run.then_some(read_seq));
        let json = BulkJson { seq, rows, commits, dry_run, read_seq, replayed };
        out.print_item(ResultItem::Record(shapes::line(&json)?))?;
    }
    Ok(())
}
