//! The typed lines: statements that end with `;`, and shell commands that start with a backslash.

use driftdb_common::query::lexer::{Lexer, TokenKind};
use driftdb_common::query::script::split;

/// A complete entry.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ShellEntry {
    /// A command of the shell.
    Command(String),
    /// One or more statements.
    Script(String),
}

/// The lines of a statement that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Input {
    pending: String,
}

impl Input {
    /// Adds a line. Returns the entry that it completes, if any.
    pub(crate) fn push(&mut self, line: &str) -> Option<ShellEntry> {
        let word = line.trim();
        // In DriftQL no line starts with a backslash, so shell commands also work inside a statement.
        if word.starts_with('\\') || (!self.is_open() && matches!(word, "help" | "quit" | "exit")) {
            return Some(ShellEntry::Command(word.to_owned()));
        }
        self.pending.push_str(line);
        match state(&self.pending) {
            Completeness::Open => {
                self.pending.push('\n');
                None
            }
            Completeness::Blank => {
                self.pending.clear();
                None
            }
            Completeness::Whole => Some(ShellEntry::Script(std::mem::take(&mut self.pending))),
        }
    }

    /// The lines of the statement that has been started.
    pub(crate) fn pending(&self) -> &str {
        &self.pending
    }

    /// Whether a statement has been started and not completed.
    pub(crate) fn is_open(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Discards the incomplete statement.
    pub(crate) fn clear(&mut self) {
        self.pending.clear();
    }
}

enum Completeness {
    /// There is no statement.
    Blank,
    /// The statement continues on the next line.
    Open,
    /// Ready to run, or invalid in a way that further lines cannot correct.
    Whole,
}

fn state(text: &str) -> Completeness {
    match split(text).last() {
        None => Completeness::Blank,
        Some(last) if last.terminated => Completeness::Whole,
        Some(_) => match first_error(text) {
            Some(start) if !text.get(start..).unwrap_or_default().starts_with("/*") => Completeness::Whole,
            _ => Completeness::Open,
        },
    }
}

/// The position of the first lexical error.
fn first_error(text: &str) -> Option<usize> {
    let mut lexer = Lexer::new(text);
    loop {
        match lexer.next() {
            Ok(token) if token.kind == TokenKind::End => return None,
            Ok(_) => {}
            Err(error) => return error.place().and_then(|place| usize::try_from(place.start).ok()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(lines: &[&str]) -> (Vec<ShellEntry>, bool) {
        let mut input = Input::default();
        let found = lines.iter().filter_map(|line| input.push(line)).collect();
        (found, input.is_open())
    }

    fn script(text: &str) -> ShellEntry {
        ShellEntry::Script(text.to_owned())
    }

    fn meta(text: &str) -> ShellEntry {
        ShellEntry::Command(text.to_owned())
    }

    #[test]
    fn a_statement_continues_until_its_semicolon() {
        assert_eq!(typed(&["SELECT *", "FROM t;"]), (vec![script("SELECT *\nFROM t;")], false));
        assert_eq!(typed(&["BEGIN; SELECT", " 1;  "]), (vec![script("BEGIN; SELECT\n 1;  ")], false));
        assert_eq!(typed(&["", "  -- nothing", ";"]), (vec![], false));
        assert_eq!(typed(&["SELECT \";\""]), (vec![], true));
        assert_eq!(typed(&["/* a;", "b */ SHOW TABLES;"]), (vec![script("/* a;\nb */ SHOW TABLES;")], false));
    }

    #[test]
    fn a_statement_that_cannot_become_valid_is_run_at_once() {
        assert_eq!(typed(&["SELECT # FROM t"]), (vec![script("SELECT # FROM t")], false));
        assert_eq!(typed(&["SELECT \"abc"]), (vec![script("SELECT \"abc")], false));
    }

    #[test]
    fn shell_commands_start_with_a_backslash() {
        assert_eq!(typed(&[" \\d t "]), (vec![meta("\\d t")], false));
        assert_eq!(
            typed(&["SELECT *", "\\timing", "FROM t;"]),
            (vec![meta("\\timing"), script("SELECT *\nFROM t;")], false)
        );
        assert_eq!(typed(&["exit"]), (vec![meta("exit")], false));
        assert_eq!(typed(&["SELECT", "exit"]), (vec![], true));
    }

    #[test]
    fn a_cleared_statement_is_discarded() {
        let mut input = Input::default();
        assert_eq!(input.push("SELECT"), None);
        input.clear();
        assert_eq!(input.push("SHOW TABLES;"), Some(script("SHOW TABLES;")));
    }
}
