//! Admission of preconditions: what a commit requires of rows before it changes anything.

use driftdb_common::error::{Error, Reason, Result, Violation};
use driftdb_common::limits;
use driftdb_common::table::operation::Check;

use crate::admission::draft::DraftPrecondition;
use crate::admission::read_rows::{CurrentRow, ReadRows};
use crate::admission::table::AdmittedTable;
use crate::admission::tables::AdmittedTables;

/// Checks all preconditions. All that do not hold are counted, and the first ones described.
pub(super) fn check_preconditions(
    tables: &AdmittedTables,
    preconditions: &[DraftPrecondition],
    rows: &ReadRows,
) -> Result<()> {
    let (mut violations, mut count) = (Vec::new(), 0u64);
    for precondition in preconditions {
        let (name, key, check) = precondition.check();
        let table = tables.live(name)?;
        let typed = precondition.key(table).ok_or_else(without_key)?.as_ref().map_err(Clone::clone)?;
        let row = table.row(typed, rows)?;
        let row = row.as_ref();
        let seq = row.map_or(oldest_known_seq(table), |row| row.seq);
        if holds(check, row, seq) {
            continue;
        }
        count += 1;
        if violations.len() < limits::PRECONDITIONS_LISTED {
            let (check, expected) = describe(check);
            let subject = format!("{name}/{key}");
            let description = format!("{expected}; {}", describe_last_change(table, row, seq));
            violations.push(Violation { check: check.to_owned(), subject, description });
        }
    }
    let Some(first) = violations.first() else { return Ok(()) };
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let message = format!("precondition failed: {}: {}{more}", first.subject, first.description);
    Err(Error::new(Reason::PreconditionFailed, message)
        .with("failed", count.to_string())
        .violating(violations))
}

fn holds(check: Check, row: Option<&CurrentRow>, seq: u64) -> bool {
    match check {
        Check::SeqIs(expected) => row.is_some_and(|row| row.seq == expected),
        Check::Exists(expected) => row.is_some_and(|row| row.is_live) == expected,
        Check::UnchangedSince(since) => seq <= since,
    }
}

/// The check's name, and what it expected.
fn describe(check: Check) -> (&'static str, String) {
    match check {
        Check::SeqIs(seq) => ("seq_is", format!("expected its last change to be commit {seq}")),
        Check::Exists(true) => ("exists", "expected a live row".to_owned()),
        Check::Exists(false) => ("exists", "expected no live row".to_owned()),
        Check::UnchangedSince(since) => {
            ("unchanged_since", format!("expected no change after commit {since}"))
        }
    }
}

fn without_key() -> Error {
    Error::new(Reason::Internal, "a precondition reached admission without its key")
}

/// The commit up to which a missing row may have been deleted without trace: a DROP deletes all rows and does
/// not keep which ones, and compaction removes what was deleted before the floor. 0 if every deletion is
/// known.
fn oldest_known_seq(table: &AdmittedTable) -> u64 {
    let floor = table.layers().floor().map_or(0, |floor| floor.seq);
    table.recreated_seq().max(floor)
}

/// Describes the last change of a row, for the message.
fn describe_last_change(table: &AdmittedTable, row: Option<&CurrentRow>, seq: u64) -> String {
    match row {
        Some(row) if row.is_live => format!("commit {seq} changed it last"),
        Some(_) => format!("commit {seq} deleted it"),
        None if seq == 0 => "the row does not exist".to_owned(),
        None if seq == table.recreated_seq() => format!("the row does not exist; {}", table.recreation()),
        None => format!("the row does not exist; deletions up to commit {seq} are not known any more"),
    }
}
