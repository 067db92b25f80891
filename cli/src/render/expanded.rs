//! Rows for people, one field a line: for rows that are too wide for columns.

use std::io::{self, Write};

use super::fields::{JsonFields, cell_text};
use super::style::{Style, visible};

/// Writes row `number`, counted from 1.
pub(super) fn write(out: &mut dyn Write, style: Style, number: u64, fields: &JsonFields) -> io::Result<()> {
    let names = fields.0.iter().map(|(name, _)| name.chars().flat_map(visible).collect::<String>());
    let names: Vec<String> = names.collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or_default();
    writeln!(out, "{}", style.dim(&format!("-- row {number}")))?;
    for (name, (_, value)) in names.iter().zip(&fields.0) {
        let value: String = cell_text(value).chars().flat_map(visible).collect();
        let gap = " ".repeat(width - name.chars().count().min(width));
        writeln!(out, "{}{gap}  {value}", style.bold(name))?;
    }
    Ok(())
}
