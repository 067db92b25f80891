//! Parses CSV records from lines and converts them to JSON documents.
//!
//! A line ends with LF or CRLF. What a carriage return alone means is not decidable: the end of a line for a classic Mac, a
//! character of a cell for others. The parser below would end the record there, so a line that goes on after one is an invalid
//! record that names the column: nothing of it is loaded, and nothing of it is lost.

use csv_core::ReadRecordResult;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::{Key, KeyType};

/// The maximum size of a record, in bytes: a document of 1 MiB with every character doubled and quoted.
const RECORD_BYTES: usize = 4 << 20;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

/// How CSV cells are converted.
#[derive(Debug, Clone)]
pub(crate) struct CellRules {
    /// Whether every cell is text, except the key of an INT table.
    pub(crate) text: bool,
    /// The name of the primary key field.
    pub(crate) key: String,
    /// The type of the primary key.
    pub(crate) key_type: KeyType,
}

/// The parser of a CSV file. It is fed line by line.
#[derive(Debug)]
pub(crate) struct CsvParser {
    cells: CellRules,
    header: Vec<String>,
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
    /// Creates a parser for a file whose first record is the header.
    pub(crate) fn new(cells: CellRules) -> CsvParser {
        let (text, ends) = (vec![0; 4096], vec![0; 64]);
        let parser = csv_core::Reader::new();
        CsvParser { cells, header: Vec::new(), parser, len: 0, text, used: 0, ends, ended: 0, broken: None }
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

    /// Whether the header has not been parsed yet.
    pub(crate) fn header_is_missing(&self) -> bool {
        self.header.is_empty()
    }

    /// Takes the cells of the complete record.
    fn cells(&mut self) -> Result<Vec<String>> {
        let mut start = 0;
        let mut cells = Vec::with_capacity(self.ended);
        for end in self.ends.iter().take(self.ended) {
            let cell = self.text.get(start..*end).unwrap_or_default();
            cells.push(String::from_utf8(cell.to_vec()));
            start = *end;
        }
        (self.len, self.used, self.ended) = (0, 0, 0);
        cells.into_iter().map(|cell| cell.map_err(|e| invalid(format!("not UTF-8: {e}")))).collect()
    }

    /// Takes the complete record as a JSON document; `None` if it is the header.
    pub(crate) fn document(&mut self) -> Result<Option<String>> {
        let cells = self.cells();
        if let Some(why) = self.broken.take() {
            return Err(invalid(why));
        }
        let cells = cells?;
        if self.header.is_empty() {
            self.header = header(cells, &self.cells.key)?;
            return Ok(None);
        }
        if cells.len() != self.header.len() {
            let message =
                format!("the record has {} cells, but the header has {}", cells.len(), self.header.len());
            return Err(invalid(message));
        }
        let mut json = String::from("{");
        for (name, cell) in self.header.iter().zip(&cells) {
            if json.len() > 1 {
                json.push(',');
            }
            json += &quoted(name)?;
            json.push(':');
            match self.is_literal(name, cell) {
                true => json += cell,
                false => json += &quoted(cell)?,
            }
        }
        json.push('}');
        Ok(Some(json))
    }

    fn is_literal(&self, name: &str, cell: &str) -> bool {
        if name == self.cells.key {
            return self.cells.key_type == KeyType::Int && Key::parse(cell, KeyType::Int).is_ok();
        }
        !self.cells.text && (matches!(cell, "true" | "false" | "null") || is_number(cell))
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

fn header(names: Vec<String>, key: &str) -> Result<Vec<String>> {
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(invalid(format!("field {} of the header has no name", i + 1)));
        }
        if names.iter().take(i).any(|other| other == name) {
            return Err(invalid(format!("field {name:?} appears twice in the header")));
        }
    }
    if !names.iter().any(|name| name == key) {
        return Err(invalid(format!(
            "the header has no field {key:?}, which is the table's primary key: no row could be loaded"
        )));
    }
    Ok(names)
}

fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text)
        .map_err(|e| Error::new(Reason::Internal, format!("cannot encode text as JSON: {e}")))
}

/// Whether the cell is a number exactly as JSON prints it, so that the conversion loses nothing.
fn is_number(cell: &str) -> bool {
    let may = cell.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    may && serde_json::from_str::<serde_json::Number>(cell).is_ok_and(|number| number.to_string() == cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str, key_type: KeyType, csv_text: bool) -> Result<Vec<String>> {
        let mut sheet = CsvParser::new(CellRules { text: csv_text, key: "id".into(), key_type });
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            if sheet.take(line.as_bytes())? {
                found.extend(sheet.document()?);
            }
        }
        sheet.finish().map(|()| found)
    }

    #[test]
    fn cells_are_converted_without_loss() {
        let cells = [
            ("1", "1"),
            ("-7", "-7"),
            ("1.5", "1.5"),
            ("18446744073709551615", "18446744073709551615"),
            ("true", "true"),
            ("false", "false"),
            ("null", "null"),
            // Not numbers, or not as JSON prints them.
            ("007", "\"007\""),
            ("1.50", "\"1.50\""),
            ("+1", "\"+1\""),
            ("-0", "\"-0\""),
            ("1e400", "\"1e400\""),
            ("18446744073709551616", "\"18446744073709551616\""),
            ("NaN", "\"NaN\""),
            ("True", "\"True\""),
            ("", "\"\""),
            (" 1", "\" 1\""),
            ("a", "\"a\""),
        ];
        for (cell, json) in cells {
            let text = format!("id,n\nx,{cell}\n");
            assert_eq!(
                documents(&text, KeyType::String, false).unwrap(),
                [format!("{{\"id\":\"x\",\"n\":{json}}}")]
            );
            let as_text = serde_json::to_string(cell).unwrap();
            assert_eq!(
                documents(&text, KeyType::String, true).unwrap(),
                [format!("{{\"id\":\"x\",\"n\":{as_text}}}")]
            );
        }
    }

    #[test]
    fn the_key_has_the_type_of_the_table() {
        assert_eq!(documents("id\n7\n", KeyType::String, false).unwrap(), [r#"{"id":"7"}"#]);
        assert_eq!(documents("id\n7\n", KeyType::Int, true).unwrap(), [r#"{"id":7}"#]);
        assert_eq!(documents("id\n07\n", KeyType::Int, false).unwrap(), [r#"{"id":"07"}"#]);
    }

    #[test]
    fn records_can_span_lines_and_lines_can_be_blank() {
        let text = "id,a\r\n\r\n1,\"x\r\ny, \"\"z\"\"\"\r\n\n2,\"\"\n";
        let found = documents(text, KeyType::String, false).unwrap();
        assert_eq!(found, [r#"{"id":"1","a":"x\r\ny, \"z\""}"#, r#"{"id":"2","a":""}"#]);
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
            let error = documents(text, KeyType::String, false).unwrap_err();
            assert!(error.message().starts_with(column), "{text:?}: {error}");
        }
        // In a quoted cell it is a character, and before a line ending it adds nothing.
        let found = documents("id,a\r\r\n1,\"x\ry\"\r\r\n\r\n2,z\r", KeyType::String, false).unwrap();
        assert_eq!(found, [r#"{"id":"1","a":"x\ry"}"#, r#"{"id":"2","a":"z"}"#]);
    }

    #[test]
    fn the_record_after_a_broken_one_is_read() {
        let mut sheet = CsvParser::new(CellRules { text: false, key: "id".into(), key_type: KeyType::Int });
        let mut found = Vec::new();
        for line in "id,a\n1,x\r2,\"y\n3,z\"\n4,u\n".split_inclusive('\n') {
            if sheet.take(line.as_bytes()).unwrap() {
                found.push(sheet.document().map_err(|error| error.message()[..8].to_owned()));
            }
        }
        assert_eq!(found, [Ok(None), Err("column 4".into()), Ok(Some(r#"{"id":4,"a":"u"}"#.into()))]);
        sheet.finish().unwrap();
    }

    #[test]
    fn an_invalid_record_is_reported() {
        for (text, expected) in [
            ("name,a\n1,x\n", "the header has no field \"id\""),
            ("id,a\n1\n", "the record has 1 cells, but the header has 2"),
            ("id,id\n", "field \"id\" appears twice in the header"),
            ("id,\n", "field 2 of the header has no name"),
            ("id,a\n1,\"x\n2,y\n", "is not closed"),
        ] {
            let error = documents(text, KeyType::String, false).unwrap_err();
            assert!(error.message().contains(expected), "{text:?}: {error}");
        }
    }
}
