//! Splits a script into statements.

use crate::query::lexer::{Lexer, TokenKind};

/// One statement of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScriptStatement<'a> {
    /// Its text, from the first token up to the `;`, which is not included.
    pub text: &'a str,
    /// Byte offset of `text` in the script, for `report::describe_in`.
    pub offset: usize,
    /// The line on which it starts, counted from 1.
    pub line: u32,
    /// Whether a `;` ends it. If not, an interactive prompt asks for more lines.
    pub terminated: bool,
}

/// Returns the statements of a script, in order, without empty ones.
///
/// If the text cannot be split into tokens (for example, an unterminated string), the last statement extends to the
/// end of the script, and parsing it returns the error.
pub fn split(script: &str) -> impl Iterator<Item = ScriptStatement<'_>> {
    let mut lexer = Lexer::new(script);
    // Lines are counted from the previous statement, so that the script is scanned once.
    let (mut counted, mut line) = (0, 1u32);
    let mut done = false;
    std::iter::from_fn(move || {
        let mut span: Option<(usize, usize)> = None;
        let terminated = loop {
            if done {
                break false;
            }
            match lexer.next() {
                Ok(token) if token.kind == TokenKind::Symbol(";") && span.is_none() => {}
                Ok(token) if token.kind == TokenKind::Symbol(";") => break true,
                Ok(token) if token.kind == TokenKind::End => done = true,
                Ok(token) => span = Some((span.map_or(token.start, |(start, _)| start), token.end)),
                Err(error) => {
                    done = true;
                    let at = error.place().and_then(|place| usize::try_from(place.start).ok());
                    let start = span.map(|(start, _)| start).or(at).unwrap_or(script.len());
                    span = Some((start, script.len()));
                }
            }
        };
        let (start, end) = span?;
        let passed = script.get(counted..start).unwrap_or_default();
        line = line.saturating_add(u32::try_from(passed.matches('\n').count()).unwrap_or(u32::MAX));
        counted = start;
        Some(ScriptStatement {
            text: script.get(start..end).unwrap_or_default(),
            offset: start,
            line,
            terminated,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(script: &str) -> Vec<(&str, u32, bool)> {
        split(script)
            .map(|statement| {
                assert_eq!(
                    &script[statement.offset..statement.offset + statement.text.len()],
                    statement.text
                );
                (statement.text, statement.line, statement.terminated)
            })
            .collect()
    }

    #[test]
    fn statements_end_at_their_semicolons() {
        let script = "-- first; not a statement\nBEGIN;;\n  INSERT INTO t {\"a\": \"x;y\", 'b': 1} -- ; no\n;\n\
                      /* ; */ SELECT `odd;name`\n FROM t ; COMMIT -- end";
        assert_eq!(
            pieces(script),
            [
                ("BEGIN", 2, true),
                ("INSERT INTO t {\"a\": \"x;y\", 'b': 1}", 3, true),
                ("SELECT `odd;name`\n FROM t", 5, true),
                ("COMMIT", 6, false),
            ]
        );
        assert_eq!(pieces(" ;; -- nothing\n"), []);
    }

    #[test]
    fn text_that_cannot_be_split_is_the_last_statement() {
        assert_eq!(
            pieces("BEGIN; SELECT # FROM t; COMMIT"),
            [("BEGIN", 1, true), ("SELECT # FROM t; COMMIT", 1, false)]
        );
        assert_eq!(pieces("BEGIN;\n\"abc"), [("BEGIN", 1, true), ("\"abc", 2, false)]);
        assert_eq!(pieces("/* x"), [("/* x", 1, false)]);
    }
}
