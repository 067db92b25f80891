//! Admission of preconditions: what a commit wants to be true of rows before it.

use driftdb_common::error::{Error, Reason, Result, Violation};
use driftdb_common::limits;
use driftdb_common::table::operation::{Check, Precondition};

use crate::admit::Admission;

impl Admission {
    /// Checks all preconditions and reports every one that does not hold.
    pub(super) fn check(&self, preconditions: &[Precondition]) -> Result<()> {
        let mut violations = Vec::new();
        for Precondition { table: name, key, check } in preconditions {
            let table = self.tables.live(name)?;
            let row = table.row(&key.of_type(table.schema().key_type)?)?;
            let row = row.as_ref();
            let live = row.is_some_and(|row| row.document.is_some());
            // A row that went with its table has changed, and which rows those were is not kept; nor is what was deleted
            // before the floor.
            let floor = table.chain().floor().map_or(0, |floor| floor.seq);
            let seq = row.map_or(table.reborn_seq().max(floor), |row| row.seq);
            let (holds, check, expected) = match check {
                Check::SeqIs(expected) => (
                    row.is_some_and(|row| row.seq == *expected),
                    "seq_is",
                    format!("expected its last change to be commit {expected}"),
                ),
                Check::Exists(true) => (live, "exists", "expected a live row".to_owned()),
                Check::Exists(false) => (!live, "exists", "expected no live row".to_owned()),
                Check::UnchangedSince(since) => {
                    (seq <= *since, "unchanged_since", format!("expected no change after commit {since}"))
                }
            };
            if !holds {
                let found = match (live, seq) {
                    (true, seq) => format!("commit {seq} changed it last"),
                    (false, 0) => "there is no such row".to_owned(),
                    (false, seq) if row.is_some() => format!("commit {seq} deleted it"),
                    (false, seq) if seq == table.reborn_seq() => {
                        format!("there is no such row; commit {seq} made the table anew")
                    }
                    (false, seq) => {
                        format!("there is no such row, and what was deleted up to commit {seq} is not kept")
                    }
                };
                let subject = format!("{name}/{key}");
                let description = format!("{expected}; {found}");
                violations.push(Violation { check: check.to_owned(), subject, description });
            }
        }
        let count = violations.len();
        let Some(first) = violations.first() else { return Ok(()) };
        let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        let message = format!("a precondition failed: {}: {}{more}", first.subject, first.description);
        violations.truncate(limits::PRECONDITIONS_LISTED);
        Err(Error::new(Reason::PreconditionFailed, message)
            .with("failed", count.to_string())
            .violating(violations))
    }
}
