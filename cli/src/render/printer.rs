//! The printer of results: rows, differences, changes and messages, in the requested format.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use driftdb_common::error::counted;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use super::csv::CsvWriter;
use super::fields::JsonFields;
use super::notes::{note, print_stderr};
use super::pages::Pages;
use super::style::Style;
use super::table::TableWriter;
use super::table::{Page, VerticalMode};
use super::width::terminal_size;
use super::{diff, live};
use crate::args::{Format, GlobalArgs};
use crate::exit::{CliResult, Failure};
use crate::shapes::{self, Difference, EventJson, TableJson};

/// One result of a daemon.
#[derive(Debug)]
pub(crate) enum ResultItem {
    /// A JSON object on one line.
    Record(String),
    /// The properties of a table.
    Table(Box<TableJson>),
    /// The net change of a row.
    Difference(Difference),
    /// A message for people: a query plan, or what a job did.
    Message(String),
    /// The columns of the records that follow. They come in this order, even if the first records lack some.
    Columns(Vec<String>),
    /// What in the statement is probably a mistake.
    Note(String),
}

/// Prints results in a format.
pub(crate) struct Printer {
    out: Box<dyn Write + Send>,
    format: Format,
    /// Whether the user chose the format.
    format_chosen: bool,
    terminal: bool,
    /// Whether this is standard output and not a terminal, so that its reader may close it.
    piped: bool,
    style: Style,
    /// The number of rows written to the JSON array so far.
    written: u64,
    /// Whether something else was printed, so that no empty array stands for the result.
    has_text: bool,
    /// The number of rows of the present result; `None` if it is a message.
    result_rows: Option<u64>,
    /// Whether rows are printed one field a line.
    vertical: VerticalMode,
    /// The pager of a terminal.
    pages: Option<Pages>,
    /// Standard output and its colours, while the output goes to a file.
    redirected: Option<(Box<dyn Write + Send>, Style)>,
    table: TableWriter,
    csv: CsvWriter,
    /// Notes about the present result, for stderr after it.
    notes: Vec<String>,
}

impl fmt::Debug for Printer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Printer").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Printer {
    /// Standard output, configured by the options.
    pub(crate) fn stdout(global: &GlobalArgs) -> Printer {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let format = global.output.unwrap_or(if terminal { Format::Table } else { Format::Jsonl });
        let pages = Pages::stdout(!global.no_pager);
        let mut output = Printer::new(Box::new(BufWriter::with_capacity(64 << 10, pages.clone())), format);
        output.pages = Some(pages).filter(|_| terminal);
        output.format_chosen = global.output.is_some();
        (output.terminal, output.piped) = (terminal, !terminal);
        output.style = Style::new(terminal && !global.no_color);
        output
    }

    /// Any writer, without colour.
    pub(crate) fn new(out: Box<dyn Write + Send>, format: Format) -> Printer {
        let vertical = if format == Format::Vertical { VerticalMode::On } else { VerticalMode::Auto };
        Printer {
            out,
            format: if format == Format::Vertical { Format::Table } else { format },
            format_chosen: true,
            terminal: false,
            piped: false,
            style: Style::PLAIN,
            written: 0,
            has_text: false,
            result_rows: Some(0),
            vertical,
            pages: None,
            redirected: None,
            table: TableWriter::default(),
            csv: CsvWriter::default(),
            notes: Vec::new(),
        }
    }

    /// Whether people read the output: the format is `table`.
    pub(crate) fn is_for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether the output is a terminal.
    pub(crate) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Whether rows can be printed before the last one is known.
    pub(crate) fn can_stream(&self) -> bool {
        self.format != Format::Csv
    }

    /// Whether errors are also printed as JSON.
    fn prints_errors_as_json(&self) -> bool {
        self.format_chosen && matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether notes about success are printed on stderr.
    pub(crate) fn wants_notes(&self) -> bool {
        self.terminal && self.is_for_people() && self.redirected.is_none()
    }

    /// Whether the commit of each write is part of the result: the user asked for JSON.
    pub(crate) fn wants_commits(&self) -> bool {
        self.format_chosen && matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// The colours in use.
    pub(crate) fn style(&self) -> Style {
        self.style
    }

    /// Whether rows are printed one field a line.
    pub(crate) fn vertical(&self) -> VerticalMode {
        self.vertical
    }

    /// Selects one field a line, or columns.
    pub(crate) fn set_vertical(&mut self, mode: VerticalMode) {
        self.vertical = mode;
    }

    /// Sends the output to another place, a file of the shell; `None` sends it to standard output again.
    pub(crate) fn redirect(&mut self, out: Option<Box<dyn Write + Send>>) -> CliResult {
        self.end_result()?;
        if let Some((stdout, style)) = self.redirected.take() {
            (self.out, self.style) = (stdout, style);
        }
        if let Some(out) = out {
            // A file gets no colours.
            let style = std::mem::replace(&mut self.style, Style::PLAIN);
            self.redirected = Some((std::mem::replace(&mut self.out, out), style));
        }
        Ok(())
    }

    /// Sets whether a terminal uses a pager.
    pub(crate) fn set_pager(&mut self, on: bool) {
        self.pages.iter().for_each(|pages| pages.set_wanted(on));
    }

    /// Begins a result that may be longer than the terminal: it goes to the pager then.
    pub(crate) fn begin_pages(&mut self) {
        self.pages
            .iter()
            .filter(|_| self.is_for_people() && self.redirected.is_none())
            .for_each(Pages::begin);
    }

    /// Ends the pages: waits until the user has left the pager.
    pub(crate) fn end_pages(&mut self) -> CliResult {
        // Flush first: the end of the result may still be here. If the user has left the pager, the second time drops it.
        let flushed = self.out.flush().or_else(|e| self.out.flush().and(Err(e)));
        let ended = self.pages.as_ref().map_or(Ok(()), Pages::end);
        Ok(flushed.and(ended)?)
    }

    /// Whether the user has left the pager before the end of a result. Resets the flag.
    pub(crate) fn take_left_pager(&mut self) -> bool {
        self.pages.as_ref().is_some_and(Pages::take_left)
    }

    /// What tables are printed on.
    fn page(&self) -> Page {
        let is_terminal = self.terminal && self.redirected.is_none();
        let room = terminal_size().map(|(columns, _)| columns).filter(|_| is_terminal);
        Page { style: self.style, room, vertical: self.vertical }
    }

    /// Prints one record: a JSON object on one line.
    pub(crate) fn print_record(&mut self, json: &str) -> CliResult {
        match self.format {
            // Of a Parquet file, what `export` reports about it.
            Format::Jsonl | Format::Parquet => {
                self.out.write_all(json.as_bytes())?;
                self.out.write_all(b"\n")?;
            }
            Format::Json => {
                self.out.write_all(if self.written == 0 { b"[" } else { b",\n" })?;
                self.out.write_all(json.as_bytes())?;
            }
            Format::Table | Format::Vertical => {
                let page = self.page();
                self.table.add(&mut self.out, page, JsonFields::parse(json)?)?;
            }
            Format::Csv => self.csv.add(&mut self.out, JsonFields::parse(json)?)?,
        }
        self.written += 1;
        self.result_rows = self.result_rows.map(|rows| rows + 1);
        Ok(())
    }

    /// Ends the result of a query. On a terminal, prints its number of rows: an empty result would look like no answer.
    pub(crate) fn end_rows(&mut self) -> CliResult {
        let rows = self.result_rows;
        self.end_table()?;
        if let Some(rows) = rows.filter(|_| self.wants_notes()) {
            let count = if rows == 0 { "no rows".to_owned() } else { counted(rows, "row") };
            self.print_text(&format!("({count})\n"))?;
        }
        let ended = self.end_pages();
        self.notes.drain(..).for_each(|text| note(&format!("note: {text}")));
        ended
    }

    /// Prints a result in the shape that suits the format.
    pub(crate) fn print_item(&mut self, item: ResultItem) -> CliResult {
        #[derive(Serialize)]
        struct Message {
            message: String,
        }
        match item {
            ResultItem::Record(json) => self.print_record(&json),
            ResultItem::Table(table) => self.print_record(&shapes::line(&table)?),
            ResultItem::Difference(diff) if self.is_for_people() => {
                self.result_rows = self.result_rows.map(|rows| rows + 1);
                let lines = diff::lines(&diff, self.style)?;
                self.out.write_all(lines.as_bytes()).map_err(Failure::from)
            }
            ResultItem::Difference(diff) => self.print_record(&shapes::line(&diff)?),
            ResultItem::Message(message) if self.is_for_people() => {
                self.end_result()?;
                self.result_rows = None;
                self.print_text(&format!("{}\n", message.trim_end()))
            }
            ResultItem::Message(message) => self.print_record(&shapes::line(&Message { message })?),
            ResultItem::Columns(names) => {
                self.table.expect_columns(&names);
                self.csv.expect_columns(&names);
                Ok(())
            }
            ResultItem::Note(note) => {
                self.notes.push(note);
                Ok(())
            }
        }
    }

    /// Prints a change: for people a readable line, otherwise a record.
    pub(crate) fn print_event(&mut self, event: &EventJson) -> CliResult {
        match self.is_for_people() {
            true => Ok(self.out.write_all(live::event(event, self.style)?.as_bytes())?),
            false => self.print_record(&shapes::line(event)?),
        }
    }

    /// Prints a record that is not a change: for people on its own line.
    pub(crate) fn print_aside(&mut self, json: &str) -> CliResult {
        match self.is_for_people() {
            true => Ok(self.out.write_all(live::aside(json, self.style).as_bytes())?),
            false => self.print_record(json),
        }
    }

    /// Flushes the output with the rows that CSV keeps back to learn their columns. All rows that follow must have these columns.
    pub(crate) fn flush_rows(&mut self) -> CliResult {
        self.csv.flush(&mut self.out)?;
        self.flush()
    }

    /// Flushes the output.
    pub(crate) fn flush(&mut self) -> CliResult {
        Ok(self.out.flush()?)
    }

    /// Whether the reader of a pipe has closed it, so that the next write would fail.
    pub(crate) fn is_closed(&self) -> bool {
        let stdout = io::stdout();
        let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
        let found = self.piped && poll(&mut ends, Some(&Timespec::default())).is_ok();
        found && ends.iter().any(|end| end.revents().contains(PollFlags::ERR))
    }

    /// Ends the result of one statement: the next result may have other columns.
    pub(crate) fn end_result(&mut self) -> CliResult {
        let ended = self.end_table();
        ended.and(self.end_pages())
    }

    fn end_table(&mut self) -> CliResult {
        let page = self.page();
        self.table.end(&mut self.out, page)?;
        self.csv.end(&mut self.out)?;
        self.result_rows = Some(0);
        self.out.flush()?;
        Ok(())
    }

    /// Ends the output of a command whose report is whole and is the reason why it fails. The JSON array of a command that fails on the
    /// way stays open: a part must not pass for the whole.
    pub(crate) fn finish_with(&mut self, failure: impl Into<Failure>) -> CliResult {
        self.finish()?;
        Err(failure.into())
    }

    /// Ends the output.
    pub(crate) fn finish(&mut self) -> CliResult {
        self.end_result()?;
        match (self.format, self.written) {
            (Format::Json, 0) if self.has_text => {}
            (Format::Json, 0) => self.out.write_all(b"[]\n")?,
            (Format::Json, _) => self.out.write_all(b"]\n")?,
            _ => {}
        }
        (self.written, self.has_text) = (0, true);
        self.out.flush()?;
        Ok(())
    }

    /// Prints text unchanged and flushes it.
    pub(crate) fn print_text(&mut self, text: &str) -> CliResult {
        self.has_text = true;
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Prints bytes unchanged.
    pub(crate) fn print_bytes(&mut self, bytes: &[u8]) -> CliResult {
        self.has_text = true;
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// Prints an error on stderr, after the results that came before it.
    pub(crate) fn print_failure(&mut self, failure: &Failure) {
        // Stdout may be what failed. Print the error nevertheless.
        let _ = self.end_result();
        let mut text = failure.text();
        if self.prints_errors_as_json() {
            text.extend(failure.json());
        }
        print_stderr(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::sink::Sink;

    fn rendered(format: Format, records: &[&str]) -> String {
        let sink = Sink::default();
        let mut output = Printer::new(Box::new(sink.clone()), format);
        for record in records {
            output.print_record(record).unwrap();
        }
        output.finish().unwrap();
        sink.text()
    }

    const ROWS: [&str; 3] = [
        r#"{"id":"o1","status":"a, \"b\"","amount":100,"tags":["x",1.0]}"#,
        r#"{"id":"o2","amount":2.50,"note":null}"#,
        r#"{"id":"ö3\n","status":""}"#,
    ];

    #[test]
    fn a_terminal_shows_how_many_rows_a_result_has() {
        let sink = Sink::default();
        let mut output = Printer::new(Box::new(sink.clone()), Format::Table);
        output.terminal = true;
        for count in [0, 1, 3] {
            ROWS.iter().take(count).for_each(|row| output.print_record(row).unwrap());
            output.end_rows().unwrap();
        }
        output.print_item(ResultItem::Message("the plan".to_owned())).unwrap();
        output.end_rows().unwrap();
        let counts: Vec<String> =
            sink.text().lines().filter(|line| line.starts_with('(')).map(str::to_owned).collect();
        assert_eq!(counts, ["(no rows)", "(1 row)", "(3 rows)"]);
    }

    #[test]
    fn jsonl_and_json_print_documents_unchanged() {
        assert_eq!(rendered(Format::Jsonl, &ROWS), format!("{}\n{}\n{}\n", ROWS[0], ROWS[1], ROWS[2]));
        assert_eq!(rendered(Format::Json, &ROWS), format!("[{},\n{},\n{}]\n", ROWS[0], ROWS[1], ROWS[2]));
        assert_eq!(rendered(Format::Json, &[]), "[]\n");
        assert_eq!(rendered(Format::Jsonl, &[]), "");
    }

    #[test]
    fn csv_has_a_column_for_each_field() {
        assert_eq!(
            rendered(Format::Csv, &ROWS),
            "id,status,amount,tags,note\n\
             o1,\"a, \"\"b\"\"\",100,\"[\"\"x\"\",1.0]\",\n\
             o2,,2.50,,\n\
             \"ö3\n\",,,,\n"
        );
    }

    #[test]
    fn table_columns_are_aligned() {
        let expected = [
            "id    status  amount  tags       note",
            "----  ------  ------  ---------  ----",
            "o1    a, \"b\"     100  [\"x\",1.0]",
            "o2              2.50             null",
            "ö3\\n",
            "",
        ];
        assert_eq!(rendered(Format::Table, &ROWS), expected.join("\n"));
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_pipe_ends_the_output_silently() {
        for format in [Format::Jsonl, Format::Json, Format::Csv, Format::Table] {
            let mut output = Printer::new(Box::new(Closed), format);
            let outcome = output.print_record(ROWS[0]).and_then(|()| output.finish());
            let failure = outcome.unwrap_err();
            assert!(matches!(failure, Failure::BrokenPipe), "{format:?}: {failure:?}");
            assert_eq!((failure.code(), failure.text()), (0, String::new()));
        }
    }
}
