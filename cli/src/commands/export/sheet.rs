//! Rows as CSV, in pieces.

use driftdb_common::error::{Error, Reason, Result};
use serde_json::value::RawValue;

use super::columns::{ColumnPlan, PlannedColumn, text_of};
use crate::commands::ingest::ColumnType;
use crate::render::JsonFields;

/// The bytes after which a piece is full.
const PIECE_BYTES: usize = 64 << 10;
/// `ingest` reads at least this much of any input, a pipe included, before it chooses types. Of a longer file, every type is named.
const SEEN_BYTES: u64 = 256 << 10;

/// A CSV file in progress.
pub(super) struct Sheet {
    plan: ColumnPlan,
    writer: csv::Writer<Vec<u8>>,
    /// The bytes of the pieces that were taken.
    taken: u64,
}

impl Sheet {
    /// Nothing is written yet.
    pub(super) fn new(plan: ColumnPlan) -> Sheet {
        Sheet { plan, writer: csv::Writer::from_writer(Vec::new()), taken: 0 }
    }

    /// The header.
    pub(super) fn header(&mut self) -> Result<Vec<u8>> {
        let names = self.plan.columns.iter().map(|column| column.name.as_str());
        self.writer.write_record(names).map_err(|e| failed(&e))?;
        self.take()
    }

    /// Adds a row.
    pub(super) fn add(&mut self, row: JsonFields) -> Result<()> {
        // Most rows have their fields in the order of the columns, so the search for each begins after the one before.
        let (fields, mut next) = (row.0, 0);
        for column in &self.plan.columns {
            let rest = fields.iter().enumerate().cycle().skip(next).take(fields.len());
            let found = rest.into_iter().find(|(_, (name, _))| *name == column.name);
            let value = found.map(|(at, (_, value))| {
                next = at + 1;
                &**value
            });
            let cell = cell(column, value, self.plan.null)?;
            self.writer.write_field(cell.as_bytes()).map_err(|e| failed(&e))?;
        }
        self.writer.write_record(None::<&[u8]>).map_err(|e| failed(&e))
    }

    /// What is written and not taken yet, if it is a full piece.
    pub(super) fn take_full(&mut self) -> Result<Option<Vec<u8>>> {
        self.writer.flush().map_err(|e| Error::io("cannot write CSV", &e))?;
        if self.writer.get_ref().len() < PIECE_BYTES { Ok(None) } else { self.take().map(Some) }
    }

    /// What is written and not taken yet.
    pub(super) fn take(&mut self) -> Result<Vec<u8>> {
        let writer = std::mem::replace(&mut self.writer, csv::Writer::from_writer(Vec::new()));
        let bytes = writer.into_inner().map_err(|e| Error::io("cannot write CSV", e.error()))?;
        self.taken += bytes.len() as u64;
        Ok(bytes)
    }

    /// The options with which `ingest` reads the same rows again.
    pub(super) fn ingest_options(&self) -> Vec<String> {
        let is_seen = self.taken <= SEEN_BYTES;
        let is_named = |column: &&PlannedColumn| {
            // A comma separates names on the command line. Such a column has a type that `ingest` finds.
            !column.is_key && (!column.is_found || !is_seen && !column.name.contains(','))
        };
        let types = self.plan.columns.iter().filter(is_named);
        let types: Vec<String> = types.map(|column| format!("{}={}", column.name, column.of)).collect();
        let mut options = Vec::new();
        if !types.is_empty() {
            options.extend(["--types".to_owned(), types.join(",")]);
        }
        if let Some(null) = self.plan.null {
            options.extend(["--null".to_owned(), null.to_owned()]);
        }
        options
    }
}

/// A value as a cell.
fn cell(column: &PlannedColumn, value: Option<&RawValue>, null: Option<&str>) -> Result<String> {
    let is_text = column.of == ColumnType::Text;
    match value.map(RawValue::get) {
        None | Some("null") if is_text => Ok(null.unwrap_or_default().to_owned()),
        None | Some("null") => Ok(String::new()),
        Some(text) if text.starts_with('"') && column.of != ColumnType::Json => {
            value.map_or(Ok(String::new()), text_of)
        }
        Some(text) => Ok(text.to_owned()),
    }
}

fn failed(error: &csv::Error) -> Error {
    Error::new(Reason::Internal, format!("cannot write CSV: {error}"))
}
