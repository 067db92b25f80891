//! Formats errors for people: the message, the line of the statement, and a caret below the location.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar;

use crate::error::{Error, QueryPlace, Reason};
use crate::query::ast::TableName;
use crate::query::location::place;

/// The number of characters shown of a long line.
const SHOWN: usize = 100;
/// How many of them are before the location.
const SHOWN_BEFORE: usize = 40;

/// Adds the location of the table's name to an error about a missing table or about the name. Other errors are returned unchanged.
pub fn at_table(error: Error, statement: &str, table: Option<&TableName>) -> Error {
    let about = |name: &&TableName| error.metadata().get("table") == Some(&name.text);
    let is_placed =
        matches!(error.reason(), Reason::TableNotFound | Reason::TableExists | Reason::NameInvalid);
    let Some(name) = table.filter(about).filter(|_| is_placed) else { return error };
    match error.metadata().get("nearest") {
        // The suggestion moves from the message to the hint.
        Some(near) => Error::new(Reason::TableNotFound, format!("table {:?} does not exist", name.text))
            .with("table", name.text.clone())
            .with("nearest", near.clone())
            .at(place(statement, name.start, name.end, format!("did you mean {near:?}?"))),
        None => error.at(place(statement, name.start, name.end, "")),
    }
}

/// Formats an error: message, line and column, the line itself, and the hint.
pub fn describe(error: &Error, statement: &str) -> String {
    describe_in(error, statement, 0)
}

/// Formats an error of a statement that starts at byte `offset` of a script. Line and column refer to the script.
pub fn describe_in(error: &Error, script: &str, offset: usize) -> String {
    let mut out = format!("error: {}", error.message());
    let Some(found) = error.place() else { return out };
    let at = |position: u32| offset.saturating_add(usize::try_from(position).unwrap_or(usize::MAX));
    // The location may come from another process: clamp it to this text.
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

/// Returns the clipped line, the number of characters before the location, and the length of the location.
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
    // A line that fits is shown whole, even if tabs make it longer.
    let mut room = if fits { SHOWN } else { SHOWN.saturating_sub(padding) };
    let carets = push_visible(&mut line, marked.chars().take(room));
    let shown = marked.chars().take(room).count();
    room = room.saturating_sub(carets);
    push_visible(&mut line, after.chars().take(room));
    if rest.chars().nth(shown + room).is_some() {
        line.push('…');
    }
    (line, padding, carets.max(1))
}

/// Appends characters, tabs as four spaces, and returns the number of columns. Control characters are replaced
/// because they could move the terminal's cursor.
fn push_visible(line: &mut String, chars: impl Iterator<Item = char>) -> usize {
    let mut columns = 0;
    for c in chars {
        match c {
            '\t' => line.push_str("    "),
            '\r' => line.push(' '),
            c if c.is_control() => line.push('\u{fffd}'),
            c => line.push(c),
        }
        columns += match c {
            '\t' => 4,
            c if c.is_control() => 1,
            // A wide character has two columns, a combining one none.
            c => c.width().unwrap_or(1),
        };
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::location::invalid_at;

    #[test]
    fn formats_the_example_of_the_documentation() {
        let statement = "SELECT * FROM ordes WHERE status = \"paid\"";
        let error =
            invalid_at(statement, 14, 19, "table \"ordes\" does not exist", "did you mean \"orders\"?");
        let expected = r#"error: table "ordes" does not exist
 --> 1:15
  | SELECT * FROM ordes WHERE status = "paid"
  |               ^^^^^ did you mean "orders"?"#;
        assert_eq!(describe(&error, statement), expected);
    }

    #[test]
    fn locations_count_lines_and_characters() {
        let place = place("SELECT *\nFROM é x", 17, 18, "");
        assert_eq!((place.line, place.column), (2, 8));
    }

    #[test]
    fn carets_line_up_below_tabs_and_control_characters() {
        let statement = "\tSELECT\u{1b}[2J x";
        let error = invalid_at(statement, 12, 13, "no", "");
        assert_eq!(
            describe(&error, statement),
            "error: no\n --> 1:13\n  |     SELECT\u{fffd}[2J x\n  |                ^"
        );
    }

    #[test]
    fn carets_line_up_below_wide_characters() {
        let error = invalid_at("SELECT 日本 x", 14, 15, "no", "");
        assert_eq!(
            describe(&error, "SELECT 日本 x"),
            "error: no\n --> 1:11\n  | SELECT 日本 x\n  |             ^"
        );
    }

    #[test]
    fn long_lines_are_clipped_around_the_location() {
        let statement = format!("{}HERE{}", "a".repeat(10_000), "b".repeat(10_000));
        let shown = describe(&invalid_at(&statement, 10_000, 10_004, "no", "a hint"), &statement);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(lines[2], format!("  | …{}HERE{}…", "a".repeat(40), "b".repeat(55)));
        assert_eq!(lines[3], format!("  | {}^^^^ a hint", " ".repeat(41)));
        let shown = describe(&invalid_at(&statement, 0, 20_004, "no", "a hint"), &statement);
        assert_eq!(shown.lines().nth(2).unwrap(), format!("  | {}…", "a".repeat(100)));
    }

    #[test]
    fn locations_outside_the_text_are_clamped() {
        for (start, end) in [(0, 0), (5, 2), (3, 900), (800, 900), (1, 2)] {
            let error = invalid_at(&"x".repeat(1000), start, end, "no", "hint");
            for statement in ["", "é", "ab\ncd", "\n\n"] {
                assert!(describe(&error, statement).contains("hint"));
            }
        }
    }

    #[test]
    fn line_numbers_refer_to_the_script() {
        let script = "BEGIN;\n  SELCT 1;";
        let error = invalid_at("SELCT 1", 0, 5, "no", "");
        assert_eq!(describe_in(&error, script, 9), "error: no\n --> 2:3\n  |   SELCT 1;\n  |   ^^^^^");
    }
}
