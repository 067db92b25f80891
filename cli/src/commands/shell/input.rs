//! What is typed, line by line: statements that end with `;`, and commands that begin with a backslash.

use driftdb_common::query::lexer::{Lexer, TokenKind};
use driftdb_common::query::script::split;

/// What a line completed.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry {
    /// A command of the shell itself.
    Meta(String),
    /// One statement or more.
    Script(String),
}

/// Lines that are no statement yet.
#[derive(Debug, Default)]
pub struct Input {
    pending: String,
}

impl Input {
    /// Takes a line; hands over what is complete now.
    pub fn push(&mut self, line: &str) -> Option<Entry> {
        let word = line.trim();
        // Nothing in DriftQL begins a line with a backslash, so commands work in the middle of a statement too.
        if word.starts_with('\\') || (!self.is_open() && matches!(word, "help" | "quit" | "exit")) {
            return Some(Entry::Meta(word.to_owned()));
        }
        self.pending.push_str(line);
        match state(&self.pending) {
            State::Open => {
                self.pending.push('\n');
                None
            }
            State::Blank => {
                self.pending.clear();
                None
            }
            State::Whole => Some(Entry::Script(std::mem::take(&mut self.pending))),
        }
    }

    /// Whether a statement has begun and not ended.
    pub fn is_open(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Forgets what was typed of a statement.
    pub fn clear(&mut self) {
        self.pending.clear();
    }
}

enum State {
    /// No statement at all.
    Blank,
    /// More lines belong to it.
    Open,
    /// Ready to run, or wrong in a way that more lines cannot mend.
    Whole,
}

fn state(text: &str) -> State {
    match split(text).last() {
        None => State::Blank,
        Some(last) if last.terminated => State::Whole,
        Some(_) => match first_error(text) {
            Some(start) if !text.get(start..).unwrap_or_default().starts_with("/*") => State::Whole,
            _ => State::Open,
        },
    }
}

/// Where a text stops being DriftQL.
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

    fn typed(lines: &[&str]) -> (Vec<Entry>, bool) {
        let mut input = Input::default();
        let found = lines.iter().filter_map(|line| input.push(line)).collect();
        (found, input.is_open())
    }

    fn script(text: &str) -> Entry {
        Entry::Script(text.to_owned())
    }

    fn meta(text: &str) -> Entry {
        Entry::Meta(text.to_owned())
    }

    #[test]
    fn statements_go_on_to_their_semicolon() {
        assert_eq!(typed(&["SELECT *", "FROM t;"]), (vec![script("SELECT *\nFROM t;")], false));
        assert_eq!(typed(&["BEGIN; SELECT", " 1;  "]), (vec![script("BEGIN; SELECT\n 1;  ")], false));
        assert_eq!(typed(&["", "  -- nothing", ";"]), (vec![], false));
        assert_eq!(typed(&["SELECT \";\""]), (vec![], true));
        assert_eq!(typed(&["/* a;", "b */ SHOW TABLES;"]), (vec![script("/* a;\nb */ SHOW TABLES;")], false));
    }

    #[test]
    fn what_more_lines_cannot_mend_is_told_at_once() {
        assert_eq!(typed(&["SELECT # FROM t"]), (vec![script("SELECT # FROM t")], false));
        assert_eq!(typed(&["SELECT \"abc"]), (vec![script("SELECT \"abc")], false));
    }

    #[test]
    fn commands_begin_with_a_backslash() {
        assert_eq!(typed(&[" \\d t "]), (vec![meta("\\d t")], false));
        assert_eq!(
            typed(&["SELECT *", "\\timing", "FROM t;"]),
            (vec![meta("\\timing"), script("SELECT *\nFROM t;")], false)
        );
        assert_eq!(typed(&["exit"]), (vec![meta("exit")], false));
        assert_eq!(typed(&["SELECT", "exit"]), (vec![], true));
    }

    #[test]
    fn what_is_dropped_is_gone() {
        let mut input = Input::default();
        assert_eq!(input.push("SELECT"), None);
        input.clear();
        assert_eq!(input.push("SHOW TABLES;"), Some(script("SHOW TABLES;")));
    }
}
