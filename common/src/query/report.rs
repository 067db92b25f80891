//! Where in a statement an error lies: computing the place, and showing it to people.

use std::fmt::Write as _;

use crate::error::{Error, QueryPlace, Reason};
use crate::query::ast::TableName;

/// How many characters of a long line are shown.
const SHOWN: usize = 100;
/// How many of them stand before the place.
const SHOWN_BEFORE: usize = 40;

/// The place of `start..end` (bytes) in a statement.
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

/// An error of a statement that parses but has no meaning, at its place.
pub fn invalid_at(
    statement: &str,
    start: usize,
    end: usize,
    message: impl Into<String>,
    hint: impl Into<String>,
) -> Error {
    Error::new(Reason::QueryInvalid, message).at(place(statement, start, end, hint))
}

/// An error about an unknown table, pointing at the table's name in a statement. Others stay as they are.
pub fn at_table(error: Error, statement: &str, table: Option<&TableName>) -> Error {
    let about = |name: &&TableName| error.metadata().get("table") == Some(&name.text);
    let Some(name) = table.filter(about).filter(|_| error.reason() == Reason::TableNotFound) else {
        return error;
    };
    match error.metadata().get("nearest") {
        // The hint takes the suggestion over from the message.
        Some(near) => Error::new(Reason::TableNotFound, format!("unknown table {:?}", name.text))
            .with("table", name.text.clone())
            .with("nearest", near.clone())
            .at(place(statement, name.start, name.end, format!("did you mean {near:?}?"))),
        None => error.at(place(statement, name.start, name.end, "")),
    }
}

/// The error as people read it: message, line and column, the line itself, and what would do.
pub fn describe(error: &Error, statement: &str) -> String {
    describe_in(error, statement, 0)
}

/// The same for a statement that starts at a byte of a script: line and column are the script's.
pub fn describe_in(error: &Error, script: &str, offset: usize) -> String {
    let mut out = format!("error: {}", error.message());
    let Some(found) = error.place() else { return out };
    let at = |position: u32| offset.saturating_add(usize::try_from(position).unwrap_or(usize::MAX));
    // The place may come from another process: everything is clamped to the text at hand.
    let found = place(script, at(found.start), at(found.end), found.hint.as_str());
    let _ = write!(out, "\n --> {}:{}", found.line, found.column);
    let (line, padding, carets) = excerpt(script, &found);
    let marks = format!("{}{} {}", " ".repeat(padding), "^".repeat(carets), found.hint);
    for shown in [line, marks] {
        let _ = write!(out, "\n  | {shown}");
        out.truncate(out.trim_end().len());
    }
    out
}

/// The line with the place, clipped; how many characters stand before the place, and how many it has.
fn excerpt(script: &str, found: &QueryPlace) -> (String, usize, usize) {
    let start = usize::try_from(found.start).unwrap_or(usize::MAX);
    let end = usize::try_from(found.end).unwrap_or(usize::MAX);
    let (before, rest) = script.split_at_checked(start).unwrap_or((script, ""));
    let before = before.rsplit('\n').next().unwrap_or_default();
    let rest = rest.split('\n').next().unwrap_or_default();
    let (marked, after) = rest.split_at_checked(end.saturating_sub(start)).unwrap_or((rest, ""));

    let fits = before.chars().chain(rest.chars()).nth(SHOWN).is_none();
    let skipped = if fits { 0 } else { before.chars().count().saturating_sub(SHOWN_BEFORE) };
    let mut line = String::new();
    if skipped > 0 {
        line.push('…');
    }
    let padding = usize::from(skipped > 0) + push_visible(&mut line, before.chars().skip(skipped));
    // A line that fits is shown whole, even where tabs make it longer.
    let mut room = if fits { SHOWN } else { SHOWN.saturating_sub(padding) };
    let carets = push_visible(&mut line, marked.chars().take(room));
    room = room.saturating_sub(carets);
    push_visible(&mut line, after.chars().take(room));
    if rest.chars().nth(carets + room).is_some() {
        line.push('…');
    }
    (line, padding, carets.max(1))
}

/// Appends characters as one column each, tabs as four; returns the columns. Control characters could move a
/// terminal's cursor, so they are not passed on.
fn push_visible(line: &mut String, chars: impl Iterator<Item = char>) -> usize {
    let mut columns = 0;
    for c in chars {
        match c {
            '\t' => line.push_str("    "),
            '\r' => line.push(' '),
            c if c.is_control() => line.push('\u{fffd}'),
            c => line.push(c),
        }
        columns += if c == '\t' { 4 } else { 1 };
    }
    columns
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_documentation() {
        let statement = "SELECT * FROM ordes WHERE status = \"paid\"";
        let error = invalid_at(statement, 14, 19, "unknown table \"ordes\"", "did you mean \"orders\"?");
        let expected = r#"error: unknown table "ordes"
 --> 1:15
  | SELECT * FROM ordes WHERE status = "paid"
  |               ^^^^^ did you mean "orders"?"#;
        assert_eq!(describe(&error, statement), expected);
    }

    #[test]
    fn a_place_counts_lines_and_characters() {
        let place = place("SELECT *\nFROM é x", 17, 18, "");
        assert_eq!((place.line, place.column), (2, 8));
    }

    #[test]
    fn tabs_and_control_characters_keep_the_marks_in_line() {
        let statement = "\tSELECT\u{1b}[2J x";
        let error = invalid_at(statement, 12, 13, "no", "");
        assert_eq!(
            describe(&error, statement),
            "error: no\n --> 1:13\n  |     SELECT\u{fffd}[2J x\n  |                ^"
        );
    }

    #[test]
    fn long_lines_are_clipped_around_the_place() {
        let statement = format!("{}HERE{}", "a".repeat(10_000), "b".repeat(10_000));
        let shown = describe(&invalid_at(&statement, 10_000, 10_004, "no", "a hint"), &statement);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[2], format!("  | …{}HERE{}…", "a".repeat(40), "b".repeat(55)));
        assert_eq!(lines[3], format!("  | {}^^^^ a hint", " ".repeat(41)));
        let shown = describe(&invalid_at(&statement, 0, 20_004, "no", "a hint"), &statement);
        assert_eq!(shown.lines().nth(2).unwrap(), format!("  | {}…", "a".repeat(100)));
    }

    #[test]
    fn a_place_outside_the_text_is_clamped() {
        for (start, end) in [(0, 0), (5, 2), (3, 900), (800, 900), (1, 2)] {
            let error = invalid_at(&"x".repeat(1000), start, end, "no", "hint");
            for statement in ["", "é", "ab\ncd", "\n\n"] {
                assert!(describe(&error, statement).contains("hint"));
            }
        }
    }

    #[test]
    fn a_script_has_its_own_lines() {
        let script = "BEGIN;\n  SELCT 1;";
        let error = invalid_at("SELCT 1", 0, 5, "no", "");
        assert_eq!(describe_in(&error, script, 9), "error: no\n --> 2:3\n  |   SELCT 1;\n  |   ^^^^^");
    }
}
