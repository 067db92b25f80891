//! Rows for people, one field a line: for rows that are too wide for columns.

use std::io::{self, Write};

use super::style::Style;
use super::width::{text_width, wrap};

/// Values are not wrapped if they would get fewer columns than this.
const LEAST: usize = 20;

/// Writes row `number`, counted from 1. Names and values are safe to print. Values are wrapped in `room` columns, if it is known.
pub(super) fn write<'a>(
    out: &mut dyn Write,
    style: Style,
    room: Option<usize>,
    number: u64,
    fields: &[(&'a str, &'a str)],
) -> io::Result<()> {
    let width = fields.iter().map(|(name, _)| text_width(name)).max().unwrap_or_default();
    let room = room.and_then(|room| room.checked_sub(width + 2)).filter(|room| *room >= LEAST);
    writeln!(out, "{}", style.dim(&format!("-- row {number}")))?;
    for (name, value) in fields {
        let gap = " ".repeat(width.saturating_sub(text_width(name)));
        let lines = room.map_or_else(|| vec![*value], |room| wrap(value, room));
        let indented = lines.join(&format!("\n{}  ", " ".repeat(width)));
        writeln!(out, "{}{gap}  {indented}", style.bold(name))?;
    }
    Ok(())
}
