//! `ingest --dry-run`: reads the whole file as a load would, and tells what it would find, in the file alone: whether two rows have one
//! key, or the table has a row already, only a load finds out.

use driftdb_common::error::{Error, Reason};
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

/// Prints the types of the columns, the rows that cannot be loaded, and how many rows there are. Fails if one cannot be loaded.
pub(crate) async fn run(mut pieces: Pieces, table: &TableKey, out: &mut Printer) -> CliResult {
    let (mut found, mut notes) = (FoundRows::default(), Notes::default());
    while let Some(piece) = pieces.next().await {
        match piece? {
            InputPiece::Header(_, columns) => show_types(&columns),
            InputPiece::Batch(batch) => {
                for row in &batch.rows {
                    match table.check_key(&row.document) {
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
    out.print_record(&shapes::line(&found)?)?;
    let FoundRows { rows, bad } = found;
    if bad == 0 {
        return Ok(());
    }
    let message = format!("{bad} of {} rows cannot be loaded; nothing was loaded", rows + bad);
    out.finish_with(Error::new(Reason::DocumentInvalid, message))
}
