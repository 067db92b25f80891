//! The line editor: editing, history, completion and highlighting.

use std::borrow::Cow;
use std::env;
use std::path::PathBuf;

use driftdb_common::error::{Error, Reason};
use driftdb_common::query::keywords::KEYWORDS;
use driftdb_common::query::lexer::{Lexer, TokenKind};
use driftdb_common::storage::fs::OsFileSystem;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::{CmdKind, Highlighter};
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{Behavior, ColorMode, CompletionType, Config, Context, Helper};

use super::completion::{Catalogue, complete};
use crate::exit::{CliResult, Failure};
use crate::render::Style;

/// How many entries the history keeps.
const HISTORY: usize = 10_000;

/// The result of reading a line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Typed {
    /// A line.
    Line(String),
    /// Ctrl-C was pressed.
    Dropped,
    /// Ctrl-D was pressed, or the terminal is gone.
    End,
}

/// The line editor.
pub(crate) struct Editor {
    /// `None` while a line is being read on another thread.
    inner: Option<rustyline::Editor<Assistant, FileHistory>>,
    history: Option<PathBuf>,
}

impl std::fmt::Debug for Editor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Editor").field("history", &self.history).finish_non_exhaustive()
    }
}

impl Editor {
    /// Creates an editor on the terminal, with the saved history.
    pub(crate) fn new(style: Style) -> CliResult<Editor> {
        let builder = Config::builder().max_history_size(HISTORY).map_err(failed)?;
        let config = builder
            .completion_type(CompletionType::List)
            .color_mode(if style.is_plain() { ColorMode::Disabled } else { ColorMode::Enabled })
            // Print prompts to the terminal even if stdout, which is for rows, goes elsewhere.
            .behavior(Behavior::PreferTerm)
            .build();
        let mut inner = rustyline::Editor::with_config(config).map_err(failed)?;
        inner.set_helper(Some(Assistant { catalogue: None, pending: String::new(), style }));
        let history = history_file();
        if let Some(file) = &history {
            // The file does not exist at first. A history that cannot be read is not worth an error.
            let _ = inner.load_history(file);
        }
        Ok(Editor { inner: Some(inner), history })
    }

    /// Sets what completion asks, and the lines of the statement before the next one.
    pub(crate) fn set_catalogue(&mut self, catalogue: Option<Catalogue>, pending: &str) {
        if let Some(assistant) = self.inner.as_mut().and_then(rustyline::Editor::helper_mut) {
            (assistant.catalogue, assistant.pending) = (catalogue, pending.to_owned());
        }
    }

    /// Reads a line on another thread.
    pub(crate) async fn line(&mut self, prompt: String) -> CliResult<Typed> {
        let Some(mut inner) = self.inner.take() else { return Ok(Typed::End) };
        let reading = tokio::task::spawn_blocking(move || {
            let line = inner.readline(&prompt);
            (inner, line)
        });
        let (inner, line) = reading.await.map_err(failed)?;
        self.inner = Some(inner);
        match line {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Dropped),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(failed(error)),
        }
    }

    /// Adds an entry to the history, and to its file if possible.
    pub(crate) fn remember(&mut self, entry: &str) {
        let Some(inner) = self.inner.as_mut() else { return };
        if let (Ok(true), Some(file)) = (inner.add_history_entry(entry), &self.history) {
            let _ = inner.append_history(file);
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::Database(Error::new(Reason::Io, format!("cannot read the terminal: {error}")))
}

/// The history file, in a directory that is created if needed; `None` if the environment names none.
fn history_file() -> Option<PathBuf> {
    let directory = state_directory(|name| env::var_os(name).map(PathBuf::from))?;
    // If this fails, using the history fails later, silently.
    let _ = OsFileSystem::shared().create_dir(&directory);
    Some(directory.join("history"))
}

fn state_directory(var: impl Fn(&str) -> Option<PathBuf>) -> Option<PathBuf> {
    let state = var("XDG_STATE_HOME").filter(|path| path.is_absolute());
    let home = || var("HOME").filter(|path| path.is_absolute()).map(|home| home.join(".local/state"));
    Some(state.or_else(home)?.join("driftctl"))
}

/// The callbacks of rustyline.
struct Assistant {
    catalogue: Option<Catalogue>,
    pending: String,
    style: Style,
}

impl Helper for Assistant {}
impl Hinter for Assistant {
    type Hint = String;
}
impl Validator for Assistant {}

impl Completer for Assistant {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        Ok(complete(line.get(..pos).unwrap_or_default(), &self.pending, self.catalogue.as_ref()))
    }
}

impl Highlighter for Assistant {
    fn highlight<'l>(&self, line: &'l str, _: usize) -> Cow<'l, str> {
        highlight(line, self.style)
    }

    fn highlight_char(&self, _: &str, _: usize, kind: CmdKind) -> bool {
        !self.style.is_plain() && kind != CmdKind::MoveCursor
    }
}

/// Colours keywords and strings. Text that is not DriftQL stays unchanged.
fn highlight(line: &str, style: Style) -> Cow<'_, str> {
    if style.is_plain() || line.starts_with('\\') {
        return line.into();
    }
    let (mut painted, mut done) = (String::new(), 0);
    let mut lexer = Lexer::new(line);
    while let Ok(token) = lexer.next() {
        if token.kind == TokenKind::End {
            break;
        }
        let text = line.get(token.start..token.end).unwrap_or_default();
        painted.push_str(line.get(done..token.start).unwrap_or_default());
        match token.kind {
            TokenKind::Word if KEYWORDS.iter().any(|word| word.eq_ignore_ascii_case(text)) => {
                painted.push_str(&style.bold(text));
            }
            TokenKind::Str => painted.push_str(&style.green(text)),
            TokenKind::At | TokenKind::Param => painted.push_str(&style.yellow(text)),
            _ => painted.push_str(text),
        }
        done = token.end;
    }
    painted.push_str(line.get(done..).unwrap_or_default());
    painted.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_used_only_if_enabled() {
        let line = "select x from t where s = \"from\" # rest";
        assert_eq!(highlight(line, Style::PLAIN), line);
        assert_eq!(
            highlight(line, Style::COLOUR),
            "\x1b[1mselect\x1b[0m x \x1b[1mfrom\x1b[0m t \x1b[1mwhere\x1b[0m s = \x1b[32m\"from\"\x1b[0m # rest"
        );
    }

    #[test]
    fn the_history_directory_comes_from_the_environment() {
        let on = |pairs: &'static [(&str, &str)]| {
            state_directory(|name| {
                pairs.iter().find(|(n, _)| *n == name).map(|(_, value)| PathBuf::from(value))
            })
        };
        assert_eq!(on(&[("XDG_STATE_HOME", "/s"), ("HOME", "/h")]), Some("/s/driftctl".into()));
        assert_eq!(on(&[("XDG_STATE_HOME", "s"), ("HOME", "/h")]), Some("/h/.local/state/driftctl".into()));
        assert_eq!(on(&[]), None);
    }
}
