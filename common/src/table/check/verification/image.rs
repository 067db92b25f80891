//! All rows at a moment, compared with what the eras up to then make of them.

use crate::error::Result;
use crate::format::snapshot::{RowEntry, tree};
use crate::table::check::verification::ProblemList;
use crate::table::layers::{LayerFile, LayerMap};
use crate::table::row_fold::RowVersion;

/// Compares the rows in a file with the state after commit `seq` that `past` gives, which does not have that file.
pub(super) fn compare(
    past: &LayerMap,
    seq: u64,
    born: Option<u64>,
    open: &LayerFile,
    report: &mut ProblemList<'_>,
) -> Result<()> {
    let path = open.file.path();
    let mut cursor = open.file.cursor(tree::ROWS);
    cursor.first()?;
    let mut scan = past.scan(seq, &[])?;
    while let Some(key) = scan.key() {
        report.step()?;
        let row = scan.take(&key)?.filter(|row| born.is_some_and(|born| row.seq >= born));
        let Some(RowVersion { seq, time_ms, document: Some(document) }) = row else { continue };
        while let Some(extra) = cursor.key().filter(|found| **found < *key) {
            report.problem(path, 0, format!("{}, which the log does not have then", name(extra)));
            cursor.next()?;
        }
        let Some(value) = cursor.value().filter(|_| cursor.key() == Some(&key)) else {
            report.problem(path, 0, format!("{} is missing", name(&key)));
            continue;
        };
        let found = RowEntry::decode(&value)?;
        if (found.seq, found.time_ms) != (seq, time_ms) {
            let what = format!(
                "{} is of commit {} at {}, and the log has commit {seq} at {time_ms}",
                name(&key),
                found.seq,
                found.time_ms
            );
            report.problem(path, 0, what);
        } else if found.document != document {
            report.problem(path, 0, format!("{} is not what the log makes of it", name(&key)));
        }
        cursor.next()?;
    }
    while let Some(extra) = cursor.key() {
        report.problem(path, 0, format!("{}, which the log does not have then", name(extra)));
        cursor.next()?;
    }
    Ok(())
}

/// A row for people: its sort key is mostly readable.
pub(super) fn name(key: &[u8]) -> String {
    format!("row \"{}\"", key.escape_ascii())
}
