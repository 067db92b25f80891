//! Locations in a statement: from byte offsets to the line and column that an error reports.

use crate::error::{Error, QueryPlace, Reason};

/// Returns the location of the bytes `start..end` in a statement. Offsets outside the text are clamped.
pub fn place(statement: &str, start: usize, end: usize, hint: impl Into<String>) -> QueryPlace {
    let start = floor_boundary(statement, start);
    let end = floor_boundary(statement, end).max(start);
    let before = statement.get(..start).unwrap_or_default();
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
    QueryPlace {
        start: narrow(start),
        end: narrow(end),
        line: narrow(before.bytes().filter(|b| *b == b'\n').count() + 1),
        column: narrow(column),
        hint: hint.into(),
    }
}

/// Returns a `QUERY_INVALID` error for a statement that parses but makes no sense, with its location.
pub fn invalid_at(
    statement: &str,
    start: usize,
    end: usize,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Error {
    Error::new(Reason::QueryInvalid, message).at(place(statement, start, end, hint))
}

fn floor_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
