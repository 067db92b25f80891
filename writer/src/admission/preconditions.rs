//! Admission of preconditions: what a commit requires of rows before it changes anything.

use driftdb_common::error::{Error, Reason, Result, Violation};
use driftdb_common::limits;
use driftdb_common::table::operation::{Check, Precondition};

use crate::admission::table::{AdmittedTable, RowState};
use crate::admission::tables::AdmittedTables;

/// Checks all preconditions and reports every one that does not hold.
pub(super) fn check_preconditions(tables: &AdmittedTables, preconditions: &[Precondition]) -> Result<()> {
    let mut violations = Vec::new();
    for Precondition { table: name, key, check } in preconditions {
        let table = tables.live(name)?;
        let row = table.row(&key.of_type(table.schema().key_type)?)?;
        let row = row.as_ref();
        let is_live = row.is_some_and(|row| row.document.is_some());
        let seq = row.map_or(oldest_known_seq(table), |row| row.seq);
        let (holds, check, expected) = match check {
            Check::SeqIs(expected) => (
                row.is_some_and(|row| row.seq == *expected),
                "seq_is",
                format!("expected its last change to be commit {expected}"),
            ),
            Check::Exists(true) => (is_live, "exists", "expected a live row".to_owned()),
            Check::Exists(false) => (!is_live, "exists", "expected no live row".to_owned()),
            Check::UnchangedSince(since) => {
                (seq <= *since, "unchanged_since", format!("expected no change after commit {since}"))
            }
        };
        if !holds {
            let subject = format!("{name}/{key}");
            let description = format!("{expected}; {}", describe_last_change(table, row, seq));
            violations.push(Violation { check: check.to_owned(), subject, description });
        }
    }
    let count = violations.len();
    let Some(first) = violations.first() else { return Ok(()) };
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let message = format!("precondition failed: {}: {}{more}", first.subject, first.description);
    violations.truncate(limits::PRECONDITIONS_LISTED);
    Err(Error::new(Reason::PreconditionFailed, message)
        .with("failed", count.to_string())
        .violating(violations))
}

/// The commit up to which a missing row may have been deleted without trace: a DROP deletes all rows and does
/// not keep which ones, and compaction removes what was deleted before the floor. 0 if every deletion is
/// known.
fn oldest_known_seq(table: &AdmittedTable) -> u64 {
    let floor = table.layers().floor().map_or(0, |floor| floor.seq);
    table.recreated_seq().max(floor)
}

/// Describes the last change of a row, for the message.
fn describe_last_change(table: &AdmittedTable, row: Option<&RowState>, seq: u64) -> String {
    match row {
        Some(row) if row.document.is_some() => format!("commit {seq} changed it last"),
        Some(_) => format!("commit {seq} deleted it"),
        None if seq == 0 => "the row does not exist".to_owned(),
        None if seq == table.recreated_seq() => {
            format!("the row does not exist; commit {seq} created the table again")
        }
        None => format!("the row does not exist; deletions up to commit {seq} are not known any more"),
    }
}
