//! Everything that driftctl prints: rows go to stdout in the requested format, the rest to stderr.
//!
//! No other module writes to stdout.

mod csv;
mod diff;
mod expanded;
mod fields;
mod live;
mod notes;
mod pages;
mod printer;
mod screen;
#[cfg(test)]
pub(crate) mod sink;
mod style;
mod table;
mod width;

pub(crate) use fields::JsonFields;
pub(crate) use notes::{ProgressLine, note, note_all, note_truncated};
pub(crate) use printer::{Printer, ResultItem};
pub(crate) use screen::{Screen, ScreenEvent};
pub(crate) use style::Style;
pub(crate) use table::VerticalMode;
pub(crate) use width::wrap;
