//! `ingest --dry-run`: reads the whole file as a load would, and tells what it would find.

use driftdb_common::error::{Error, Reason, Result};
use serde::Serialize;
use tokio::sync::mpsc;

use super::notes::{Notes, show_types};
use super::rows::InputPiece;
use crate::exit::CliResult;
use crate::render::Printer;
use crate::shapes;

#[derive(Default, Serialize)]
struct FoundRows {
    rows: u64,
    bad: u64,
}

/// Prints the types of the columns, the rows that cannot be loaded, and how many rows there are. Fails if one cannot be loaded.
pub(crate) async fn run(mut pieces: mpsc::Receiver<Result<InputPiece>>, out: &mut Printer) -> CliResult {
    let (mut found, mut notes) = (FoundRows::default(), Notes::default());
    while let Some(piece) = pieces.recv().await {
        match piece? {
            InputPiece::Header(_, columns) => show_types(&columns),
            InputPiece::Batch(batch) => found.rows += batch.rows.len() as u64,
            InputPiece::Bad(line, _, error) => {
                found.bad += 1;
                notes.show(&format!("line {line}: {}", error.message()));
            }
            InputPiece::End(_) => {}
        }
    }
    notes.finish("rows cannot be loaded", "fix them, or set them aside with --skip-bad");
    out.print_record(&shapes::line(&found)?)?;
    let FoundRows { rows, bad } = found;
    if bad == 0 {
        return Ok(());
    }
    let message = format!("{bad} of {} rows cannot be loaded; nothing was loaded", rows + bad);
    Err(Error::new(Reason::DocumentInvalid, message).into())
}
