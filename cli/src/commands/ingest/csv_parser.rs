//! Parses CSV records from lines.
//!
//! A line ends with LF or CRLF. What a carriage return alone means is not decidable: the end of a line for a classic Mac, a
//! character of a cell for others. The parser below would end the record there, so a line that goes on after one is an invalid
//! record that names the column: nothing of it is loaded, and nothing of it is lost.

use csv_core::ReadRecordResult;
use driftdb_common::error::{Error, Reason, Result};

/// The maximum size of a record, in bytes: a document of 1 MiB with every character doubled and quoted.
const RECORD_BYTES: usize = 4 << 20;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

/// The parser of a CSV file. It is fed line by line.
#[derive(Debug)]
pub(crate) struct CsvParser {
    parser: csv_core::Reader,
    /// The bytes of the current record.
    len: usize,
    /// The cells of the current record, concatenated, and free space.
    text: Vec<u8>,
    used: usize,
    /// The end offsets of the cells, and free space.
    ends: Vec<usize>,
    ended: usize,
    /// Why the current record cannot be read, if a carriage return within a line ended it.
    broken: Option<String>,
}

impl CsvParser {
    /// Creates a parser for cells that this byte separates.
    pub(crate) fn new(delimiter: u8) -> CsvParser {
        let (text, ends) = (vec![0; 4096], vec![0; 64]);
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        CsvParser { parser, len: 0, text, used: 0, ends, ended: 0, broken: None }
    }

    /// Parses a line with its line ending. Returns whether it completes a record: a quoted cell can span lines.
    pub(crate) fn take(&mut self, line: &[u8]) -> Result<bool> {
        self.len += line.len();
        let mut rest = line;
        loop {
            let (text, ends) = (self.text.get_mut(self.used..), self.ends.get_mut(self.ended..));
            let (result, read, written, ended) =
                self.parser.read_record(rest, text.unwrap_or_default(), ends.unwrap_or_default());
            rest = rest.get(read..).unwrap_or_default();
            self.used += written;
            self.ended += ended;
            match result {
                ReadRecordResult::OutputFull => self.text.resize(self.text.len() * 2, 0),
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record if rest.iter().all(|byte| matches!(byte, b'\r' | b'\n')) => {
                    return Ok(true);
                }
                ReadRecordResult::Record => {
                    // The rest of the line is parsed too: it can open a quote that spans lines.
                    self.broken.get_or_insert_with(|| carriage_return(line, line.len() - rest.len()));
                    (self.used, self.ended) = (0, 0);
                }
                ReadRecordResult::InputEmpty | ReadRecordResult::End if self.len > RECORD_BYTES => {
                    return Err(unclosed());
                }
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    // A blank line adds nothing.
                    self.len = if self.finish().is_ok() { 0 } else { self.len };
                    return Ok(false);
                }
            }
        }
    }

    /// Ends the file. No record may be incomplete.
    pub(crate) fn finish(&self) -> Result<()> {
        if self.used > 0 || self.ended > 0 || self.broken.is_some() { Err(unclosed()) } else { Ok(()) }
    }

    /// Takes the cells of the complete record.
    pub(crate) fn record(&mut self) -> Result<Vec<String>> {
        let mut start = 0;
        let mut cells = Vec::with_capacity(self.ended);
        for end in self.ends.iter().take(self.ended) {
            let cell = self.text.get(start..*end).unwrap_or_default();
            cells.push(String::from_utf8(cell.to_vec()));
            start = *end;
        }
        (self.len, self.used, self.ended) = (0, 0, 0);
        if let Some(why) = self.broken.take() {
            return Err(invalid(why));
        }
        cells.into_iter().map(|cell| cell.map_err(|e| invalid(format!("not UTF-8: {e}")))).collect()
    }
}

fn unclosed() -> Error {
    invalid("the quote that starts here is not closed")
}

/// What is wrong with a line that goes on after a carriage return, whose last byte is before `end`.
fn carriage_return(line: &[u8], end: usize) -> String {
    let before = line.get(..end).unwrap_or(line);
    let column = String::from_utf8_lossy(before).chars().count();
    format!(
        "column {column}: a carriage return within the line, which could end it or belong to a cell; end lines with LF or CRLF, and put cells with line breaks in quotes"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(text: &str) -> Result<Vec<Vec<String>>> {
        let mut sheet = CsvParser::new(b',');
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            if sheet.take(line.as_bytes())? {
                found.push(sheet.record()?);
            }
        }
        sheet.finish().map(|()| found)
    }

    #[test]
    fn records_can_span_lines_and_lines_can_be_blank() {
        let text = "id,a\r\n\r\n1,\"x\r\ny, \"\"z\"\"\"\r\n\n2,\"\"\n";
        assert_eq!(records(text).unwrap(), [["id", "a"], ["1", "x\r\ny, \"z\""], ["2", ""]]);
    }

    #[test]
    fn a_carriage_return_within_a_line_loses_nothing() {
        for (text, column) in [
            ("id,a\r1,x\r2,y\r", "column 5:"),
            ("id,a\n1,x\r2,y\n", "column 4:"),
            ("id,a\n4,é\rworld\n", "column 4:"),
            ("id,a\n1,x\r2,\"y\nz\"\n", "column 4:"),
            ("id,a\n1,\"x\"\r2,y\n", "column 6:"),
        ] {
            let error = records(text).unwrap_err();
            assert!(error.message().starts_with(column), "{text:?}: {error}");
        }
        // In a quoted cell it is a character, and before a line ending it adds nothing.
        let found = records("id,a\r\r\n1,\"x\ry\"\r\r\n\r\n2,z\r").unwrap();
        assert_eq!(found, [["id", "a"], ["1", "x\ry"], ["2", "z"]]);
    }

    #[test]
    fn the_record_after_a_broken_one_is_read() {
        let mut sheet = CsvParser::new(b',');
        let mut found = Vec::new();
        for line in "id,a\n1,x\r2,\"y\n3,z\"\n4,u\n".split_inclusive('\n') {
            if sheet.take(line.as_bytes()).unwrap() {
                found.push(sheet.record().map_err(|error| error.message()[..8].to_owned()));
            }
        }
        let record = |cells: [&str; 2]| Ok(cells.map(str::to_owned).to_vec());
        assert_eq!(found, [record(["id", "a"]), Err("column 4".into()), record(["4", "u"])]);
        sheet.finish().unwrap();
    }

    #[test]
    fn a_quote_that_is_not_closed_is_reported() {
        let error = records("id,a\n1,\"x\n2,y\n").unwrap_err();
        assert!(error.message().contains("is not closed"), "{error}");
    }
}
