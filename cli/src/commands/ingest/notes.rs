//! Notes about single rows: the first ones are printed, the others only counted.

use super::column_types::Columns;
use crate::render;

/// How many rows are reported one by one.
const REPORTED: u64 = 10;

/// Prints the types of the columns, which the user may want to change before anything is loaded.
pub(crate) fn show_types(columns: &Columns) {
    if let Some(types) = columns.description() {
        render::note(&format!("note: column types: {types}; --types COLUMN=TYPE changes one"));
    }
    for doubt in columns.doubts() {
        render::note(&format!("note: {doubt}"));
    }
}

/// Prints a note about the whole file, if there is one.
pub(crate) fn show_note(note: Option<String>) {
    if let Some(note) = note {
        render::note(&format!("note: {note}"));
    }
}

/// Notes of one kind.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    count: u64,
}

impl Notes {
    /// Prints a note, or counts it if enough were printed.
    pub(crate) fn show(&mut self, note: &str) {
        self.count += 1;
        if self.count <= REPORTED {
            render::note(note);
        }
    }

    /// Prints how many were only counted, such as `5 more lines were skipped: bad.csv`.
    pub(crate) fn finish(&mut self, what: &str, place: &str) {
        let more = self.count.saturating_sub(REPORTED);
        if more > 0 {
            render::note(&format!("note: {more} more {what}: {place}"));
        }
        self.count = 0;
    }
}
