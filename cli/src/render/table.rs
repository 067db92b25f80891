//! Aligned columns for people. The first rows determine the widths, so that memory use is bounded.

use std::io::{self, Write};

use serde_json::value::RawValue;

use super::fields::{JsonFields, cell_text};
use super::style::{Style, visible};

/// How many rows determine the widths.
const WINDOW: usize = 256;
/// The maximum width of a cell, in characters.
const CELL: usize = 64;

/// A table in progress.
#[derive(Default)]
pub(super) struct TableWriter {
    columns: Vec<ColumnLayout>,
    /// Rows that are kept until the header is written.
    waiting: Vec<Vec<Option<Cell>>>,
    header_written: bool,
}

struct ColumnLayout {
    name: String,
    width: usize,
    numbers: bool,
}

impl ColumnLayout {
    fn new(name: &str) -> ColumnLayout {
        let name: String = name.chars().flat_map(visible).collect();
        ColumnLayout { width: name.chars().count(), name, numbers: true }
    }
}

struct Cell {
    text: String,
    width: usize,
    number: bool,
}

impl TableWriter {
    pub(super) fn add(&mut self, out: &mut dyn Write, style: Style, fields: JsonFields) -> io::Result<()> {
        let known = |name: &String| self.columns.iter().any(|c| c.name == *name);
        if self.header_written && !fields.0.iter().all(|(name, _)| known(name)) {
            // Start a new header for a new column, so that no value is lost.
            self.header_written = false;
            writeln!(out)?;
        }
        let row = self.arrange(fields);
        if self.header_written {
            return self.write_row(out, &row);
        }
        self.waiting.push(row);
        if self.waiting.len() == WINDOW { self.flush(out, style) } else { Ok(()) }
    }

    /// The columns of the rows that follow, unless some are known.
    pub(super) fn expect_columns(&mut self, names: &[String]) {
        if self.columns.is_empty() {
            self.columns = names.iter().map(|name| ColumnLayout::new(name)).collect();
        }
    }

    pub(super) fn end(&mut self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.flush(out, style)?;
        }
        *self = TableWriter::default();
        Ok(())
    }

    /// Puts fields under their columns, and adds new columns.
    fn arrange(&mut self, fields: JsonFields) -> Vec<Option<Cell>> {
        let mut row: Vec<Option<Cell>> = self.columns.iter().map(|_| None).collect();
        for (name, value) in fields.0 {
            let cell = Some(Cell::new(&value));
            let at = self.columns.iter().position(|column| column.name == name);
            match at.and_then(|at| row.get_mut(at)) {
                Some(slot) => *slot = cell,
                None => {
                    self.columns.push(ColumnLayout::new(&name));
                    row.push(cell);
                }
            }
        }
        row
    }

    fn flush(&mut self, out: &mut dyn Write, style: Style) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        for row in &waiting {
            for (column, cell) in self.columns.iter_mut().zip(row) {
                if let Some(cell) = cell {
                    column.width = column.width.max(cell.width);
                    column.numbers &= cell.number;
                }
            }
        }
        let names = self.columns.iter().map(|c| pad(&c.name, c.name.chars().count(), c));
        let names = names.collect::<Vec<_>>().join("  ");
        let rule = self.columns.iter().map(|c| "-".repeat(c.width)).collect::<Vec<_>>().join("  ");
        writeln!(out, "{}\n{}", style.bold(names.trim_end()), style.dim(&rule))?;
        self.header_written = true;
        waiting.iter().try_for_each(|row| self.write_row(out, row))
    }

    fn write_row(&self, out: &mut dyn Write, row: &[Option<Cell>]) -> io::Result<()> {
        let cells = self.columns.iter().enumerate().map(|(i, column)| match row.get(i) {
            Some(Some(cell)) => pad(&cell.text, cell.width, column),
            _ => pad("", 0, column),
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        writeln!(out, "{}", line.trim_end())
    }
}

impl Cell {
    fn new(value: &RawValue) -> Cell {
        let number = value.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let mut shown = cell_text(value).chars().flat_map(visible).take(CELL + 1).collect::<Vec<_>>();
        if shown.len() > CELL {
            shown.truncate(CELL - 1);
            shown.push('…');
        }
        Cell { width: shown.len(), text: shown.into_iter().collect(), number }
    }
}

fn pad(text: &str, width: usize, column: &ColumnLayout) -> String {
    let spaces = " ".repeat(column.width.saturating_sub(width));
    if column.numbers { format!("{spaces}{text}") } else { format!("{text}{spaces}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(table: &mut TableWriter, out: &mut Vec<u8>, row: &str) {
        table.add(out, Style::PLAIN, JsonFields::parse(row).unwrap()).unwrap();
    }

    #[test]
    fn a_late_column_starts_a_new_header() {
        let (mut table, mut out) = (TableWriter::default(), Vec::new());
        for i in 0..=WINDOW {
            add(&mut table, &mut out, &format!("{{\"n\":{i}}}"));
        }
        add(&mut table, &mut out, r#"{"n":1,"late":true}"#);
        table.end(&mut out, Style::PLAIN).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("  n\n---\n  0\n  1\n"), "{text}");
        assert!(text.ends_with("255\n256\n\n  n  late\n---  ----\n  1  true\n"), "{text}");
    }

    #[test]
    fn long_cells_are_cut_and_control_characters_are_escaped() {
        let (mut table, mut out) = (TableWriter::default(), Vec::new());
        add(&mut table, &mut out, &format!(r#"{{"a":"{}","b":"\u001b[2J"}}"#, "x".repeat(100)));
        table.end(&mut out, Style::COLOUR).unwrap();
        let text = String::from_utf8(out).unwrap();
        let last = text.lines().last().unwrap();
        assert_eq!(last, format!("{}…  \\u{{1b}}[2J", "x".repeat(CELL - 1)));
        assert!(text.starts_with("\x1b[1ma"), "{text}");
    }
}
