//! `ingest --dry-run`: reads the whole file as a load would, and tells what it would find, in the file alone: whether the table has a
//! row already, only a load finds out.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use driftdb_common::error::{Error, Reason, Result, counted};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use serde::Serialize;

use super::key_fields::TableKey;
use super::notes::{Notes, show_note, show_types};
use super::rows::{InputPiece, Pieces};
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

#[derive(Default, Serialize)]
struct FoundRows {
    rows: u64,
    bad: u64,
}

/// The keys of the rows so far, as two hashes each: two keys of one file never have both in common.
#[derive(Default)]
struct SeenKeys {
    first: RandomState,
    second: RandomState,
    hashes: HashSet<(u64, u64)>,
    /// The rows that came when no more could be remembered.
    passed_over: u64,
}

impl SeenKeys {
    /// Whether a row before had this key.
    fn has(&mut self, key: &[Key]) -> bool {
        let hashes = (self.first.hash_one(key), self.second.hash_one(key));
        if self.hashes.len() < limits::DRY_RUN_KEYS {
            return !self.hashes.insert(hashes);
        }
        let is_seen = self.hashes.contains(&hashes);
        self.passed_over += u64::from(!is_seen);
        is_seen
    }
}

/// Fails if no load could load the row.
fn check(document: &Bytes, (table, is_upsert): (&TableKey, bool), seen: &mut SeenKeys) -> Result<()> {
    match table.of(document)? {
        Some(key) if !is_upsert && seen.has(&key) => {
            let key = key.iter().map(Key::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("a row before it has the key {key:?}; --upsert replaces rows");
            Err(Error::new(Reason::RowExists, message))
        }
        _ => Ok(()),
    }
}

/// Prints the types of the columns, the rows that cannot be loaded, and how many rows there are. Fails if one cannot be loaded. The table
/// comes with whether its rows are replaced.
pub(crate) async fn run(mut pieces: Pieces, into: (&TableKey, bool), out: &mut Printer) -> CliResult {
    let (mut found, mut notes, mut seen) = (FoundRows::default(), Notes::default(), SeenKeys::default());
    while let Some(piece) = pieces.next().await {
        match piece? {
            InputPiece::Header(_, columns) => show_types(&columns),
            InputPiece::Batch(batch) => {
                for row in &batch.rows {
                    match check(&row.document, into, &mut seen) {
                        Ok(()) => found.rows += 1,
                        Err(error) => {
                            found.bad += 1;
                            notes.show(&format!("line {}: {}", row.line, error.message()));
                        }
                    }
                }
            }
            InputPiece::Bad(line, _, error) => {
                found.bad += 1;
                notes.show(&format!("line {line}: {}", error.message()));
            }
            InputPiece::End(_, note) => show_note(note),
        }
    }
    notes.finish("rows cannot be loaded", "fix them, or set them aside with --skip-bad");
    if seen.passed_over > 0 {
        let rows = counted(seen.passed_over, "row");
        show_note(Some(format!(
            "whether {rows} at the end of the file have keys that occur twice was not checked"
        )));
    }
    out.print_record(&shapes::line(&found)?)?;
    let FoundRows { rows, bad } = found;
    if bad == 0 {
        return Ok(());
    }
    let message = format!("{bad} of {} rows cannot be loaded; nothing was loaded", rows + bad);
    out.finish_with(Error::new(Reason::DocumentInvalid, message))
}
