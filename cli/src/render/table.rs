//! Aligned columns for people. The first rows determine the widths, so that memory use is bounded.
//!
//! On a terminal, columns of text shrink and their cells wrap until a row fits. If that would leave too little of them, each field has a line
//! of its own instead. Nothing is cut: what is at the end of a text is often what to do. Without a terminal, columns are as wide as their
//! cells.

use std::io::{self, Write};

use serde_json::value::RawValue;

use super::expanded;
use super::fields::{JsonFields, cell_text};
use super::style::{Style, visible};
use super::width::{text_width, wrap};

/// How many rows determine the widths.
const WINDOW: usize = 256;
/// The same in bytes of text.
const WINDOW_BYTES: usize = 4 << 20;
/// A column of text does not shrink below this width.
const LEAST: usize = 12;
/// Rows with more lines are easier to read one field a line.
const LINES: usize = 6;
/// The columns between two cells.
const GAP: usize = 2;

/// Whether rows are printed one field a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum VerticalMode {
    /// Never.
    Off,
    /// If they do not fit the terminal.
    #[default]
    Auto,
    /// Always.
    On,
}

/// What a table is printed on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page {
    pub(super) style: Style,
    /// The columns of the terminal; `None` if there is none.
    pub(super) room: Option<usize>,
    pub(super) vertical: VerticalMode,
}

/// A table in progress.
#[derive(Default)]
pub(super) struct TableWriter {
    columns: Vec<ColumnLayout>,
    /// Fields that have no column, because all their texts so far are empty.
    hidden: Vec<String>,
    /// Rows that are kept until their layout is known.
    waiting: Vec<Vec<Option<Cell>>>,
    waiting_bytes: usize,
    stage: TableStage,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum TableStage {
    /// The layout is not known yet.
    #[default]
    Waiting,
    /// The header is written.
    Columns,
    /// Rows are written one field a line; the number of rows so far.
    Vertical(u64),
}

struct ColumnLayout {
    /// The name of the field, and how it is shown.
    field: String,
    name: String,
    width: usize,
    numbers: bool,
}

impl ColumnLayout {
    fn new(field: String) -> ColumnLayout {
        let name: String = field.chars().flat_map(visible).collect();
        ColumnLayout { width: text_width(&name), field, name, numbers: true }
    }
}

struct Cell {
    text: String,
    width: usize,
    number: bool,
}

impl TableWriter {
    pub(super) fn add(&mut self, out: &mut dyn Write, page: Page, fields: JsonFields) -> io::Result<()> {
        if page.vertical == VerticalMode::On && self.stage == TableStage::Waiting {
            self.stage = TableStage::Vertical(0);
        }
        if let TableStage::Vertical(_) = self.stage {
            return self.write_vertical(out, page, &shown_fields(&fields));
        }
        if self.stage == TableStage::Columns && !self.has_columns_for(&fields) {
            // Start a new header for a new column, so that no value is lost.
            *self = TableWriter::default();
            writeln!(out)?;
        }
        let row = self.arrange(fields);
        if self.stage == TableStage::Columns {
            return self.write_row(out, page, &row);
        }
        self.waiting_bytes += row.iter().flatten().map(|cell| cell.text.len()).sum::<usize>();
        self.waiting.push(row);
        let is_full = self.waiting.len() == WINDOW || self.waiting_bytes >= WINDOW_BYTES;
        if is_full { self.flush(out, page) } else { Ok(()) }
    }

    /// The columns of the rows that follow, unless some are known.
    pub(super) fn expect_columns(&mut self, names: &[String]) {
        if self.columns.is_empty() {
            self.columns = names.iter().map(|name| ColumnLayout::new(name.clone())).collect();
        }
    }

    pub(super) fn end(&mut self, out: &mut dyn Write, page: Page) -> io::Result<()> {
        if !self.waiting.is_empty() {
            self.flush(out, page)?;
        }
        *self = TableWriter::default();
        Ok(())
    }

    fn has_columns_for(&self, fields: &JsonFields) -> bool {
        fields.0.iter().all(|(name, value)| {
            self.columns.iter().any(|column| column.field == *name)
                || (value.get() == "\"\"" && self.hidden.contains(name))
        })
    }

    /// Puts fields under their columns, and adds new columns.
    fn arrange(&mut self, fields: JsonFields) -> Vec<Option<Cell>> {
        let mut row: Vec<Option<Cell>> = self.columns.iter().map(|_| None).collect();
        for (name, value) in fields.0 {
            if self.hidden.contains(&name) {
                continue;
            }
            let cell = Some(Cell::new(&value));
            let at = self.columns.iter().position(|column| column.field == name);
            match at.and_then(|at| row.get_mut(at)) {
                Some(slot) => *slot = cell,
                None => {
                    self.columns.push(ColumnLayout::new(name));
                    row.push(cell);
                }
            }
        }
        row
    }

    fn flush(&mut self, out: &mut dyn Write, page: Page) -> io::Result<()> {
        for row in &self.waiting {
            for (column, cell) in self.columns.iter_mut().zip(row) {
                if let Some(cell) = cell {
                    column.width = column.width.max(cell.width);
                    column.numbers &= cell.number;
                }
            }
        }
        let fits = page.room.is_none_or(|room| self.fit(room));
        let waiting = std::mem::take(&mut self.waiting);
        if !fits && page.vertical == VerticalMode::Auto {
            self.stage = TableStage::Vertical(0);
            for row in &waiting {
                let columns = self.columns.iter().zip(row);
                let fields = columns
                    .filter_map(|(column, cell)| Some((column.name.clone(), cell.as_ref()?.text.clone())));
                let fields: Vec<_> = fields.collect();
                self.write_vertical(out, page, &fields)?;
            }
            return Ok(());
        }
        let names = self.columns.iter().map(|c| pad(&c.name, c));
        let names = names.collect::<Vec<_>>().join("  ");
        let rule = self.columns.iter().map(|c| "-".repeat(c.width)).collect::<Vec<_>>().join("  ");
        writeln!(out, "{}\n{}", page.style.bold(names.trim_end()), page.style.dim(&rule))?;
        self.stage = TableStage::Columns;
        waiting.iter().try_for_each(|row| self.write_row(out, page, row))
    }

    /// Makes the columns narrower until they fit. Returns whether they do, and the rows are not too high.
    fn fit(&mut self, room: usize) -> bool {
        if self.total() <= room {
            return true;
        }
        self.hide_empty();
        let Some(excess) = self.total().checked_sub(room).filter(|excess| *excess > 0) else { return true };
        let least = |column: &ColumnLayout| match column.numbers {
            true => column.width,
            false => column.width.min(LEAST.max(text_width(&column.name))),
        };
        let slack: usize = self.columns.iter().map(|column| column.width - least(column)).sum();
        if slack < excess {
            return false;
        }
        // The widest columns give first.
        let mut cap = self.columns.iter().map(|column| column.width).max().unwrap_or_default();
        let width = |column: &ColumnLayout, cap: usize| column.width.min(cap.max(least(column)));
        let gaps = GAP * self.columns.len().saturating_sub(1);
        while self.columns.iter().map(|column| width(column, cap)).sum::<usize>() + gaps > room {
            cap -= 1;
        }
        let widths: Vec<usize> = self.columns.iter().map(|column| width(column, cap)).collect();
        let lines = |row: &Vec<Option<Cell>>| {
            let cells = row.iter().zip(&widths).filter_map(|(cell, width)| Some((cell.as_ref()?, *width)));
            cells.map(|(cell, width)| cell.width.div_ceil(width.max(1))).max().unwrap_or_default()
        };
        if self.waiting.iter().any(|row| lines(row) > LINES) {
            return false;
        }
        self.columns.iter_mut().zip(widths).for_each(|(column, width)| column.width = width);
        true
    }

    fn total(&self) -> usize {
        let widths: usize = self.columns.iter().map(|column| column.width).sum();
        widths + GAP * self.columns.len().saturating_sub(1)
    }

    /// Drops the columns that have only empty texts.
    fn hide_empty(&mut self) {
        let is_empty = |at: usize| {
            self.waiting.iter().all(|row| match row.get(at) {
                Some(Some(cell)) => cell.text.is_empty(),
                _ => true,
            })
        };
        let empty: Vec<bool> = (0..self.columns.len()).map(is_empty).collect();
        let is_kept = |at: usize| !empty.get(at).copied().unwrap_or_default();
        for row in &mut self.waiting {
            let cells = std::mem::take(row).into_iter().enumerate();
            *row = cells.filter(|(at, _)| is_kept(*at)).map(|(_, cell)| cell).collect();
        }
        let (kept, hidden): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.columns).into_iter().enumerate().partition(|(at, _)| is_kept(*at));
        self.columns = kept.into_iter().map(|(_, column)| column).collect();
        self.hidden.extend(hidden.into_iter().map(|(_, column)| column.field));
    }

    fn write_row(&self, out: &mut dyn Write, page: Page, row: &[Option<Cell>]) -> io::Result<()> {
        let text = |at: usize| row.get(at).and_then(Option::as_ref).map_or("", |cell| cell.text.as_str());
        let lines_of = |(at, column): (usize, &ColumnLayout)| match page.room {
            Some(_) => wrap(text(at), column.width.max(1)),
            None => vec![text(at)],
        };
        let cells: Vec<Vec<&str>> = self.columns.iter().enumerate().map(lines_of).collect();
        for line in 0..cells.iter().map(Vec::len).max().unwrap_or_default() {
            let padded = cells.iter().zip(&self.columns);
            let padded =
                padded.map(|(lines, column)| pad(lines.get(line).copied().unwrap_or_default(), column));
            writeln!(out, "{}", padded.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }

    fn write_vertical(
        &mut self,
        out: &mut dyn Write,
        page: Page,
        fields: &[(String, String)],
    ) -> io::Result<()> {
        let TableStage::Vertical(written) = self.stage else { return Ok(()) };
        self.stage = TableStage::Vertical(written + 1);
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        expanded::write(out, page.style, page.room, written + 1, &fields)
    }
}

/// Fields as they are shown.
fn shown_fields(fields: &JsonFields) -> Vec<(String, String)> {
    let shown = |text: &str| text.chars().flat_map(visible).collect::<String>();
    fields.0.iter().map(|(name, value)| (shown(name), shown(&cell_text(value)))).collect()
}

impl Cell {
    fn new(value: &RawValue) -> Cell {
        let number = value.get().starts_with(|c: char| c == '-' || c.is_ascii_digit());
        let text: String = cell_text(value).chars().flat_map(visible).collect();
        Cell { width: text_width(&text), text, number }
    }
}

fn pad(text: &str, column: &ColumnLayout) -> String {
    let spaces = " ".repeat(column.width.saturating_sub(text_width(text)));
    if column.numbers { format!("{spaces}{text}") } else { format!("{text}{spaces}") }
}

#[cfg(test)]
mod tests;
