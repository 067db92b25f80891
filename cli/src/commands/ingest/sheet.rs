//! CSV: records out of lines, and the JSON documents that they mean.

use csv_core::ReadRecordResult;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::{Key, KeyType};

/// The most bytes of one record: a document of 1 MiB fits, with every character doubled and quoted.
const RECORD_BYTES: usize = 4 << 20;

fn invalid(message: impl Into<String>) -> Error {
    Error::new(Reason::DocumentInvalid, message)
}

/// Which cells become something else than text.
#[derive(Debug, Clone)]
pub struct Cells {
    /// None does, but for the key of an INT table.
    pub text: bool,
    /// The primary key's field.
    pub key: String,
    /// What the table wants there.
    pub key_type: KeyType,
}

/// A file of comma-separated values, line by line.
#[derive(Debug)]
pub struct Sheet {
    cells: Cells,
    header: Vec<String>,
    parser: csv_core::Reader,
    /// The record's bytes so far.
    len: usize,
    /// The cells so far, one after another, and the room behind them.
    text: Vec<u8>,
    used: usize,
    /// Where each of them ends, and the room behind them.
    ends: Vec<usize>,
    ended: usize,
}

impl Sheet {
    /// A file whose header comes first.
    pub fn new(cells: Cells) -> Sheet {
        let (text, ends) = (vec![0; 4096], vec![0; 64]);
        let parser = csv_core::Reader::new();
        Sheet { cells, header: Vec::new(), parser, len: 0, text, used: 0, ends, ended: 0 }
    }

    /// Takes a line with its end. Whether a record is complete with it: a quoted cell may hold more lines.
    pub fn take(&mut self, line: &[u8]) -> Result<bool> {
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
                ReadRecordResult::Record => return Ok(true),
                ReadRecordResult::InputEmpty | ReadRecordResult::End if self.len > RECORD_BYTES => {
                    return Err(unclosed());
                }
                ReadRecordResult::InputEmpty | ReadRecordResult::End => {
                    // A blank line leaves nothing behind.
                    self.len = if self.used + self.ended == 0 { 0 } else { self.len };
                    return Ok(false);
                }
            }
        }
    }

    /// The end of the file: nothing may be left.
    pub fn finish(&self) -> Result<()> {
        if self.used > 0 || self.ended > 0 { Err(unclosed()) } else { Ok(()) }
    }

    /// Whether no header was found yet.
    pub fn header_is_missing(&self) -> bool {
        self.header.is_empty()
    }

    /// The complete record's cells.
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

    /// The complete record as the document it means; `None` for the header.
    pub fn document(&mut self) -> Result<Option<String>> {
        let cells = self.cells()?;
        if self.header.is_empty() {
            self.header = header(cells)?;
            return Ok(None);
        }
        if cells.len() != self.header.len() {
            let message = format!("{} cells, where the header has {}", cells.len(), self.header.len());
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
    invalid("a quote that is opened here is never closed")
}

fn header(names: Vec<String>) -> Result<Vec<String>> {
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(invalid(format!("the header's field {} has no name", i + 1)));
        }
        if names.iter().take(i).any(|other| other == name) {
            return Err(invalid(format!("the header names {name:?} twice")));
        }
    }
    Ok(names)
}

fn quoted(text: &str) -> Result<String> {
    serde_json::to_string(text).map_err(|e| Error::new(Reason::Internal, format!("text as JSON: {e}")))
}

/// A number in just the letters that JSON would write it in: nothing is lost, and comes back the same.
fn is_number(cell: &str) -> bool {
    let may = cell.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    may && serde_json::from_str::<serde_json::Number>(cell).is_ok_and(|number| number.to_string() == cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(text: &str, key_type: KeyType, csv_text: bool) -> Result<Vec<String>> {
        let mut sheet = Sheet::new(Cells { text: csv_text, key: "id".into(), key_type });
        let mut found = Vec::new();
        for line in text.split_inclusive('\n') {
            if sheet.take(line.as_bytes())? {
                found.extend(sheet.document()?);
            }
        }
        sheet.finish().map(|()| found)
    }

    #[test]
    fn cells_become_what_they_say_and_nothing_is_lost() {
        let cells = [
            ("1", "1"),
            ("-7", "-7"),
            ("1.5", "1.5"),
            ("18446744073709551615", "18446744073709551615"),
            ("true", "true"),
            ("false", "false"),
            ("null", "null"),
            // Not as JSON would write them, or not numbers at all.
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
    fn the_key_is_of_the_tables_type() {
        assert_eq!(documents("id\n7\n", KeyType::String, false).unwrap(), [r#"{"id":"7"}"#]);
        assert_eq!(documents("id\n7\n", KeyType::Int, true).unwrap(), [r#"{"id":7}"#]);
        assert_eq!(documents("id\n07\n", KeyType::Int, false).unwrap(), [r#"{"id":"07"}"#]);
    }

    #[test]
    fn records_may_span_lines_and_lines_may_be_empty() {
        let text = "id,a\r\n\r\n1,\"x\r\ny, \"\"z\"\"\"\r\n\n2,\"\"\n";
        let found = documents(text, KeyType::String, false).unwrap();
        assert_eq!(found, [r#"{"id":"1","a":"x\r\ny, \"z\""}"#, r#"{"id":"2","a":""}"#]);
    }

    #[test]
    fn what_is_no_record_is_named() {
        for (text, told) in [
            ("id,a\n1\n", "1 cells, where the header has 2"),
            ("id,id\n", "the header names \"id\" twice"),
            ("id,\n", "field 2 has no name"),
            ("id,a\n1,\"x\n2,y\n", "never closed"),
        ] {
            let error = documents(text, KeyType::String, false).unwrap_err();
            assert!(error.message().contains(told), "{text:?}: {error}");
        }
    }
}
