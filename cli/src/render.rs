//! Everything that driftctl prints: rows go to stdout in the requested format, the rest to stderr.
//!
//! No other module writes to stdout.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};

use driftdb_common::error::{Error, Reason};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::args::{Format, Global};
use crate::exit::{Failure, Outcome};
use crate::shapes::{self, Difference, Event};

mod csv;
mod diff;
mod expanded;
mod live;
mod table;

/// One result of a daemon.
#[derive(Debug)]
pub enum Answer {
    /// A JSON object on one line.
    Record(String),
    /// The net change of a row.
    Difference(Difference),
    /// A message for people: a query plan, or what a job did.
    Message(String),
}

/// Prints results in a format.
pub struct Output {
    out: Box<dyn Write + Send>,
    format: Format,
    /// Whether the user chose the format.
    asked: bool,
    terminal: bool,
    /// Whether this is standard output and not a terminal, so that its reader may close it.
    piped: bool,
    style: Style,
    /// The number of rows written to the JSON array so far.
    written: u64,
    /// The rows printed of this result if rows are printed one field a line; `None` if they are printed in columns.
    expanded: Option<u64>,
    table: table::Table,
    csv: csv::Sheet,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Output {
    /// Standard output, configured by the options.
    pub fn stdout(global: &Global) -> Output {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let format = global.output.unwrap_or(if terminal { Format::Table } else { Format::Jsonl });
        let mut output = Output::new(Box::new(BufWriter::with_capacity(64 << 10, stdout)), format);
        output.asked = global.output.is_some();
        (output.terminal, output.piped) = (terminal, !terminal);
        output.style = Style { colour: terminal && !global.no_color };
        output
    }

    /// Any writer, without colour.
    pub fn new(out: Box<dyn Write + Send>, format: Format) -> Output {
        Output {
            out,
            format,
            asked: true,
            terminal: false,
            piped: false,
            style: Style::PLAIN,
            written: 0,
            expanded: None,
            table: table::Table::default(),
            csv: csv::Sheet::default(),
        }
    }

    /// Whether people read the output: the format is `table`.
    pub fn for_people(&self) -> bool {
        self.format == Format::Table
    }

    /// Whether rows can be printed before the last one is known.
    pub fn can_go_on(&self) -> bool {
        self.format != Format::Csv
    }

    /// Whether errors are also printed as JSON.
    pub fn errors_as_json(&self) -> bool {
        self.asked && matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether notes about success are printed on stderr.
    pub fn wants_notes(&self) -> bool {
        self.terminal && self.for_people()
    }

    /// The colours in use.
    pub fn style(&self) -> Style {
        self.style
    }

    /// Whether rows are printed one field a line.
    pub fn expanded(&self) -> bool {
        self.expanded.is_some()
    }

    /// Selects one field a line, or columns.
    pub fn expand(&mut self, on: bool) {
        self.expanded = on.then_some(0);
    }

    /// Prints one record: a JSON object on one line.
    pub fn record(&mut self, json: &str) -> Outcome {
        match self.format {
            Format::Jsonl => {
                self.out.write_all(json.as_bytes())?;
                self.out.write_all(b"\n")?;
            }
            Format::Json => {
                self.out.write_all(if self.written == 0 { b"[" } else { b",\n" })?;
                self.out.write_all(json.as_bytes())?;
            }
            Format::Table if self.expanded.is_some() => {
                let number = self.expanded.map_or(1, |rows| rows + 1);
                self.expanded = Some(number);
                expanded::write(&mut self.out, self.style, number, &Fields::parse(json)?)?;
            }
            Format::Table => self.table.add(&mut self.out, self.style, Fields::parse(json)?)?,
            Format::Csv => self.csv.add(&mut self.out, Fields::parse(json)?)?,
        }
        self.written += 1;
        Ok(())
    }

    /// Prints a result in the shape that suits the format.
    pub fn answer(&mut self, answer: Answer) -> Outcome {
        #[derive(Serialize)]
        struct Message {
            message: String,
        }
        match answer {
            Answer::Record(json) => self.record(&json),
            Answer::Difference(diff) if self.for_people() => {
                let lines = diff::lines(&diff, self.style)?;
                self.out.write_all(lines.as_bytes()).map_err(Failure::from)
            }
            Answer::Difference(diff) => self.record(&shapes::line(&diff)?),
            Answer::Message(message) if self.for_people() => {
                self.end_of_result()?;
                self.text(&format!("{}\n", message.trim_end()))
            }
            Answer::Message(message) => self.record(&shapes::line(&Message { message })?),
        }
    }

    /// Prints a change: for people a readable line, otherwise a record.
    pub fn event(&mut self, event: &Event) -> Outcome {
        match self.for_people() {
            true => Ok(self.out.write_all(live::event(event, self.style)?.as_bytes())?),
            false => self.record(&shapes::line(event)?),
        }
    }

    /// Prints a record that is not a change: for people on its own line.
    pub fn aside(&mut self, json: &str) -> Outcome {
        match self.for_people() {
            true => Ok(self.out.write_all(live::aside(json, self.style).as_bytes())?),
            false => self.record(json),
        }
    }

    /// Flushes the output.
    pub fn flush(&mut self) -> Outcome {
        Ok(self.out.flush()?)
    }

    /// Whether the reader of a pipe has closed it, so that the next write would fail.
    pub fn is_closed(&self) -> bool {
        let stdout = io::stdout();
        let mut ends = [PollFd::new(&stdout, PollFlags::empty())];
        let found = self.piped && poll(&mut ends, Some(&Timespec::default())).is_ok();
        found && ends.iter().any(|end| end.revents().contains(PollFlags::ERR))
    }

    /// Ends the result of one statement: the next result may have other columns.
    pub fn end_of_result(&mut self) -> Outcome {
        self.table.end(&mut self.out, self.style)?;
        self.csv.end(&mut self.out)?;
        self.expand(self.expanded());
        self.out.flush()?;
        Ok(())
    }

    /// Ends the output.
    pub fn finish(&mut self) -> Outcome {
        self.end_of_result()?;
        match (self.format, self.written) {
            (Format::Json, 0) => self.out.write_all(b"[]\n")?,
            (Format::Json, _) => self.out.write_all(b"]\n")?,
            _ => {}
        }
        self.out.flush()?;
        Ok(())
    }

    /// Prints text unchanged and flushes it.
    pub fn text(&mut self, text: &str) -> Outcome {
        self.out.write_all(text.as_bytes())?;
        self.out.flush()?;
        Ok(())
    }

    /// Prints bytes unchanged.
    pub fn bytes(&mut self, bytes: &[u8]) -> Outcome {
        self.out.write_all(bytes)?;
        Ok(())
    }

    /// Prints an error on stderr, after the results that came before it.
    pub fn fail(&mut self, failure: &Failure) {
        // Stdout may be what failed. Print the error nevertheless.
        let _ = self.end_of_result();
        let mut told = failure.text();
        if self.errors_as_json() {
            told.extend(failure.json());
        }
        say(&told);
    }
}

/// Prints a line on stderr.
pub fn note(text: &str) {
    say(&format!("{text}\n"));
}

fn say(text: &str) {
    // If stderr is closed, nothing can be reported.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A progress line on stderr that is overwritten. It is shown only on a terminal.
#[derive(Debug)]
pub struct Progress {
    shown: bool,
    last: Option<std::time::Instant>,
}

impl Default for Progress {
    fn default() -> Progress {
        Progress { shown: io::stderr().is_terminal(), last: None }
    }
}

impl Progress {
    /// Shows the progress, at most ten times a second.
    pub fn show(&mut self, text: impl fmt::Display) {
        let due = self.last.is_none_or(|last| last.elapsed().as_millis() >= 100);
        if self.shown && due {
            say(&format!("\r\x1b[K{text}"));
            self.last = Some(std::time::Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.last.is_some() {
            say("\r\x1b[K");
        }
    }
}

/// Colours, or none.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// No colours.
    pub const PLAIN: Style = Style { colour: false };
    /// All colours.
    #[cfg(test)]
    pub const COLOUR: Style = Style { colour: true };

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// Whether colours are off.
    pub fn is_plain(self) -> bool {
        !self.colour
    }

    /// For headings.
    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// For added text.
    pub fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    /// For removed text.
    pub fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    /// For changed text.
    pub fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    /// For secondary text.
    pub fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }
}

/// The fields of a JSON object in their order, with their values as JSON text.
struct Fields(Vec<(String, Box<RawValue>)>);

impl Fields {
    fn parse(json: &str) -> Outcome<Fields> {
        let wrong = |e| Error::new(Reason::Internal, format!("a result is not a JSON object: {e}"));
        Ok(serde_json::from_str(json).map_err(wrong)?)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Fields, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Visit)
    }
}

/// The text of a cell: strings without quotes, other values as JSON.
fn cell_text(value: &RawValue) -> String {
    let raw = value.get();
    if raw.starts_with('"') {
        return serde_json::from_str(raw).unwrap_or_else(|_| raw.to_owned());
    }
    raw.to_owned()
}

/// Escapes control characters, so that data cannot control the terminal.
fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = (!c.is_control()).then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Sink;

    fn rendered(format: Format, records: &[&str]) -> String {
        let sink = Sink::default();
        let mut output = Output::new(Box::new(sink.clone()), format);
        for record in records {
            output.record(record).unwrap();
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
            let mut output = Output::new(Box::new(Closed), format);
            let outcome = output.record(ROWS[0]).and_then(|()| output.finish());
            let failure = outcome.unwrap_err();
            assert!(matches!(failure, Failure::BrokenPipe), "{format:?}: {failure:?}");
            assert_eq!((failure.code(), failure.text()), (0, String::new()));
        }
    }
}
