//! Cuts a file of rows into batches. The same file is always cut in the same way, so that a load can resume.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use driftdb_common::error::{Error, Result};
use driftdb_common::format::document::Document;
use tokio::sync::mpsc;

use super::column_types::{CellRules, Columns, TypeSample};
use super::csv_parser::CsvParser;
use super::json_advice;
use super::json_array::JsonArray;
use crate::input;

/// A batch is full when its lines have this many bytes.
const BYTES: u64 = 1 << 20;
/// The types of CSV columns are chosen from this much of a file, which is kept in memory meanwhile.
const SAMPLE_BYTES: u64 = 32 << 20;
/// The same for a pipe, which may deliver its rows slowly.
const PIPE_SAMPLE_BYTES: u64 = 256 << 10;
/// How many pieces are read ahead.
const AHEAD: usize = 4;

/// A row to load.
#[derive(Debug, Clone)]
pub(crate) struct InputRow {
    /// The line number, from 1; the first line if the record has several.
    pub(crate) line: u64,
    /// The encoded document.
    pub(crate) document: Bytes,
    /// The text of the line; empty unless it may have to be written to the file of skipped lines.
    pub(crate) raw: Bytes,
}

/// The rows of one request.
#[derive(Debug, Clone)]
pub(crate) struct InputBatch {
    /// The number of the batch, from 1.
    pub(crate) id: u64,
    /// Never empty.
    pub(crate) rows: Vec<InputRow>,
    /// The positions of the rows that are set aside, in increasing order.
    pub(crate) set_aside: Vec<u32>,
    /// The byte offset of the end of this batch in the file.
    pub(crate) offset: u64,
}

impl InputBatch {
    /// The line number of the last row.
    pub(crate) fn last_line(&self) -> u64 {
        self.rows.last().map_or(0, |row| row.line)
    }
}

/// The pieces of a file, in order.
#[derive(Debug)]
pub(crate) enum InputPiece {
    /// The CSV header, and the columns.
    Header(Bytes, Columns),
    /// Rows.
    Batch(InputBatch),
    /// The line number, text and error of a line that is not a row.
    Bad(u64, Bytes, Error),
    /// The end of the file, with the number of records in it, whether they are rows or not, and what may be wrong with them.
    End(u64, Option<String>),
}

/// The pieces of a file. The first can be looked at before anything is done.
#[derive(Debug)]
pub(crate) struct Pieces {
    first: Option<Result<InputPiece>>,
    rest: mpsc::Receiver<Result<InputPiece>>,
}

impl Pieces {
    /// The pieces that a reading thread sends.
    pub(crate) fn new(rest: mpsc::Receiver<Result<InputPiece>>) -> Pieces {
        Pieces { first: None, rest }
    }

    /// The next piece, which stays the next; `None` at the end.
    pub(crate) async fn peek(&mut self) -> Option<&Result<InputPiece>> {
        if self.first.is_none() {
            self.first = self.rest.recv().await;
        }
        self.first.as_ref()
    }

    /// The next piece; `None` at the end. If it is cancelled, no piece is lost.
    pub(crate) async fn next(&mut self) -> Option<Result<InputPiece>> {
        match self.first.take() {
            Some(piece) => Some(piece),
            None => self.rest.recv().await,
        }
    }
}

/// How a file is read.
#[derive(Debug, Clone)]
pub(crate) struct ReadRules {
    /// The rules for CSV cells; `None` for JSON Lines.
    pub(crate) csv: Option<CellRules>,
    /// The number of rows in a batch.
    pub(crate) batch: usize,
    /// Whether rows keep the text of their lines.
    pub(crate) keep_raw: bool,
}

/// Opens a file and starts to read it on another thread.
pub(crate) fn open(path: &Path, rules: ReadRules) -> Result<mpsc::Receiver<Result<InputPiece>>> {
    let (source, name) = (input::open(path)?, input::name(path));
    let is_pipe = input::is_stdin(path);
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        // If nobody receives, the command has failed for another reason.
        let send = |piece| sender.blocking_send(piece).is_ok();
        let begun = input::text_of(source).and_then(|input::InputText { text: mut source, skipped }| {
            let (mut start, limit) = (Vec::new(), sample_bytes(&rules, is_pipe));
            let read = source.by_ref().take(limit).read_to_end(&mut start);
            let is_whole = (read.map_err(|e| Error::io("cannot read", &e))? as u64) < limit;
            let sample = rules.csv.as_ref().map(|cells| sampled(&start, is_whole, cells));
            let sample = sample.unwrap_or_default();
            Cutter::new(io::Cursor::new(start).chain(source), skipped, rules, sample)
        });
        let mut cutter = match begun {
            Ok(cutter) => cutter,
            Err(error) => {
                send(Err(error.context(name)));
                return;
            }
        };
        loop {
            let (piece, last) = match cutter.next() {
                Ok(Some(piece)) => (Ok(piece), false),
                Ok(None) => (Ok(cutter.end()), true),
                Err(error) => (Err(error.context(format_args!("{name}, line {}", cutter.line))), true),
            };
            if !send(piece) || last {
                return;
            }
        }
    });
    Ok(receiver)
}

/// How much of a file is read before its first row is converted.
fn sample_bytes(rules: &ReadRules, is_pipe: bool) -> u64 {
    match &rules.csv {
        None => 0,
        Some(cells) if cells.needs_no_sample() => 0,
        Some(_) if is_pipe => PIPE_SAMPLE_BYTES,
        Some(_) => SAMPLE_BYTES,
    }
}

/// What the types of the columns can be, by the whole records at the start of a file. What cannot be parsed is reported when it is
/// loaded.
fn sampled(text: &[u8], is_whole: bool, rules: &CellRules) -> TypeSample {
    let (mut sheet, mut sample) = (CsvParser::new(rules.delimiter), None);
    // The last line of a file may have no end. The last line of a part of one may be half a line.
    let end = is_whole.then_some(b"\n".as_slice());
    for line in text.split_inclusive(|byte| *byte == b'\n').chain(end) {
        match sheet.take(line) {
            Ok(false) => {}
            Ok(true) => match (sheet.record(), &mut sample) {
                (Ok(header), None) => sample = Some(TypeSample::of_columns(header.len())),
                (Ok(row), Some(sample)) => sample.add(&row, &rules.nulls),
                (Err(_), _) => {}
            },
            Err(_) => break,
        }
    }
    sample.unwrap_or_default()
}

/// Cuts a file into pieces. A batch ends when it is full, before an invalid line, and at the end of the file.
struct Cutter<R> {
    source: BufReader<R>,
    sheet: Option<CsvParser>,
    /// The array, if the file is one.
    array: Option<JsonArray>,
    /// The columns, once the header was read.
    columns: Option<Columns>,
    /// The types that fit the first rows.
    sample: TypeSample,
    rules: ReadRules,
    id: u64,
    /// The line at which the current record starts.
    line: u64,
    lines_read: u64,
    /// The records found, the header not counted.
    records: u64,
    offset: u64,
    /// The offset at which the current record starts.
    begun: u64,
    /// The bytes before the first record, which `offset` does not count.
    skipped: u64,
    /// The text of the only record so far.
    only: Option<String>,
    /// The piece after the last batch: what ended it.
    waiting: Option<Result<InputPiece>>,
}

/// The content of a line.
enum ParsedLine {
    Row(InputRow),
    Header(Bytes, Columns),
    Bad(u64, Bytes, Error),
}

impl<R: Read> Cutter<R> {
    fn new(source: R, skipped: u64, rules: ReadRules, sample: TypeSample) -> Result<Cutter<R>> {
        let mut source = BufReader::with_capacity(256 << 10, source);
        let first = source.fill_buf().map_err(|e| Error::io("cannot read", &e))?;
        // No row of JSON Lines begins like that: rows are objects.
        let is_array = rules.csv.is_none() && first.trim_ascii_start().first() == Some(&b'[');
        let sheet = rules.csv.as_ref().map(|cells| CsvParser::new(cells.delimiter));
        Ok(Cutter {
            source,
            sheet,
            array: is_array.then(JsonArray::default),
            columns: None,
            sample,
            rules,
            id: 0,
            line: 0,
            lines_read: 0,
            records: 0,
            offset: 0,
            begun: 0,
            skipped,
            only: None,
            waiting: None,
        })
    }

    /// The piece after the last record.
    fn end(&mut self) -> InputPiece {
        let note = self.only.take().as_deref().and_then(json_advice::note_of_only_row);
        InputPiece::End(self.records, note)
    }

    /// The next piece; `None` at the end of the file. After a read error the rest of the file cannot be parsed.
    fn next(&mut self) -> Result<Option<InputPiece>> {
        if let Some(piece) = self.waiting.take() {
            return piece.map(Some);
        }
        let (mut rows, began) = (Vec::new(), self.offset);
        while rows.len() < self.rules.batch && self.offset - began < BYTES {
            match self.found() {
                Ok(None) => break,
                Ok(Some(ParsedLine::Row(row))) => rows.push(row),
                Ok(Some(ParsedLine::Header(raw, columns))) => {
                    return Ok(Some(InputPiece::Header(raw, columns)));
                }
                Ok(Some(ParsedLine::Bad(line, raw, error))) => {
                    self.waiting = Some(Ok(InputPiece::Bad(line, raw, error)));
                    break;
                }
                // Return the rows before the error first.
                Err(error) => {
                    self.waiting = Some(Err(error));
                    break;
                }
            }
        }
        if rows.is_empty() {
            return self.waiting.take().transpose();
        }
        self.id += 1;
        Ok(Some(InputPiece::Batch(InputBatch {
            id: self.id,
            rows,
            set_aside: Vec::new(),
            offset: self.offset,
        })))
    }

    /// The next record, or the next line that is not blank.
    fn found(&mut self) -> Result<Option<ParsedLine>> {
        loop {
            let Some(raw) = self.print_record()? else { return Ok(None) };
            let begins = self.skipped + self.begun;
            let text = match (&mut self.sheet, &self.rules.csv) {
                (Some(sheet), Some(rules)) => {
                    let cells = match std::str::from_utf8(&raw) {
                        Ok(_) => sheet.record(),
                        // The record is taken, too: the next one begins after it.
                        Err(_) => {
                            // The parser skips this record: its error is not the cause.
                            let _ = sheet.record();
                            Err(input::not_utf8(&raw, begins))
                        }
                    };
                    let Some(columns) = &self.columns else {
                        // Without a header the rows have no field names.
                        let columns = rules.columns(&cells?, &std::mem::take(&mut self.sample))?;
                        self.columns = Some(columns.clone());
                        return Ok(Some(ParsedLine::Header(raw.into(), columns)));
                    };
                    cells.and_then(|cells| columns.document(&cells))
                }
                _ if raw.trim_ascii().is_empty() => continue,
                _ => std::str::from_utf8(raw.trim_ascii())
                    .map(str::to_owned)
                    .map_err(|_| input::not_utf8(&raw, begins)),
            };
            self.records += 1;
            let document = text.and_then(|text| self.document(text));
            return Ok(Some(match document {
                Ok(document) => {
                    let raw = if self.rules.keep_raw { raw.into() } else { Bytes::new() };
                    ParsedLine::Row(InputRow { line: self.line, document: document.msgpack().clone(), raw })
                }
                Err(error) => ParsedLine::Bad(self.line, raw.into(), error),
            }));
        }
    }

    /// The document of a record, which is `self.records`.
    fn document(&mut self, text: String) -> Result<Document> {
        let found = Document::from_json(&text);
        if self.sheet.is_some() {
            return found;
        }
        let is_first = self.records == 1 && self.array.is_none();
        let found = found.map_err(|error| json_advice::explained(error, &text, is_first));
        self.only = Some(text).filter(|_| is_first && found.is_ok());
        found
    }

    /// The bytes of the next record with their line endings. A record can have several lines.
    fn print_record(&mut self) -> Result<Option<Vec<u8>>> {
        if let Some(array) = &mut self.array {
            let element = array.next(&mut self.source).inspect_err(|_| self.line = array.line())?;
            self.offset = array.offset;
            return Ok(element.map(|(line, text)| {
                self.line = line;
                text
            }));
        }
        let mut record = Vec::new();
        while let Some(mut line) = input::read_raw_line(&mut self.source)? {
            self.offset += line.len() as u64;
            self.lines_read += 1;
            if record.is_empty() {
                self.line = self.lines_read;
                self.begun = self.offset - line.len() as u64;
            }
            if !line.ends_with(b"\n") {
                line.push(b'\n');
            }
            record.extend_from_slice(&line);
            let Some(sheet) = &mut self.sheet else { return Ok(Some(record)) };
            if sheet.take(&line)? {
                return Ok(Some(record));
            }
            if sheet.finish().is_ok() {
                // A blank line.
                record.clear();
            }
        }
        self.sheet.as_ref().map_or(Ok(()), CsvParser::finish).map(|()| None)
    }
}
