//! CSV output: the first rows determine the columns, and later rows are streamed.

use std::io::Write;

use driftdb_common::error::{Error, Reason};

use super::fields::{JsonFields, cell_text};
use crate::exit::CliResult;

/// How many rows determine the columns, and how many rows are written at once.
const WINDOW: usize = 1000;

/// A CSV result in progress.
#[derive(Default)]
pub(super) struct CsvWriter {
    columns: Vec<String>,
    waiting: Vec<JsonFields>,
    header_written: bool,
}

impl CsvWriter {
    pub(super) fn add(&mut self, out: &mut dyn Write, fields: JsonFields) -> CliResult {
        for (name, _) in &fields.0 {
            if self.columns.contains(name) {
                continue;
            }
            if self.header_written {
                let message = format!(
                    "cannot print field {name:?} as CSV: it is not in the first {WINDOW} rows, and the header is already \
                                         written; name the columns with --fields, or use -o jsonl"
                );
                return Err(Error::new(Reason::ArgumentInvalid, message).into());
            }
            self.columns.push(name.clone());
        }
        self.waiting.push(fields);
        if self.waiting.len() == WINDOW { self.flush(out) } else { Ok(()) }
    }

    /// The columns of the rows that follow, unless the header is written.
    pub(super) fn expect_columns(&mut self, names: &[String]) {
        if !self.header_written && self.columns.is_empty() {
            self.columns = names.to_vec();
        }
    }

    pub(super) fn end(&mut self, out: &mut dyn Write) -> CliResult {
        self.flush(out)?;
        *self = CsvWriter::default();
        Ok(())
    }

    pub(super) fn flush(&mut self, out: &mut dyn Write) -> CliResult {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let failed = |e: csv::Error| std::io::Error::from(e);
        let mut writer = csv::Writer::from_writer(out);
        if !self.header_written {
            writer.write_record(&self.columns).map_err(failed)?;
            self.header_written = true;
        }
        for row in self.waiting.drain(..) {
            let cells = self.columns.iter().map(|column| {
                let value = row.0.iter().find(|(name, _)| name == column).map(|(_, value)| value);
                value.filter(|v| v.get() != "null").map(|v| cell_text(v)).unwrap_or_default()
            });
            writer.write_record(cells).map_err(failed)?;
        }
        writer.flush()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_flushed_have_one_header() {
        let (mut sheet, mut out) = (CsvWriter::default(), Vec::new());
        for i in 0..3 {
            sheet.add(&mut out, JsonFields::parse(&format!("{{\"n\":{i}}}")).unwrap()).unwrap();
            sheet.flush(&mut out).unwrap();
            assert_eq!(out.iter().filter(|b| **b == b'\n').count(), i + 2);
        }
        sheet.end(&mut out).unwrap();
        assert_eq!(out, b"n\n0\n1\n2\n");
    }

    #[test]
    fn a_new_field_after_the_header_is_an_error() {
        let (mut sheet, mut out) = (CsvWriter::default(), Vec::new());
        for i in 0..WINDOW {
            sheet.add(&mut out, JsonFields::parse(&format!("{{\"n\":{i}}}")).unwrap()).unwrap();
        }
        assert_eq!(out.iter().filter(|b| **b == b'\n').count(), WINDOW + 1);
        assert!(sheet.add(&mut out, JsonFields::parse(r#"{"n":1,"late":2}"#).unwrap()).is_err());
    }
}
