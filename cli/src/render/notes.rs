//! Notes and progress on stderr.

use std::fmt;
use std::io::{self, IsTerminal, Write};

use driftdb::v1;

/// Prints a line on stderr.
pub(crate) fn note(text: &str) {
    print_stderr(&format!("{text}\n"));
}

/// Prints what an answer or an option has to say, one line each.
pub(crate) fn note_all(notes: &[String]) {
    for text in notes {
        note(&format!("note: {text}"));
    }
}

/// Tells that a history begins at the table's floor.
pub(crate) fn note_truncated(header: Option<&v1::ReadHeader>) {
    let floor = header.map_or(0, |header| header.floor_seq);
    note(&format!("note: the history begins at seq {floor}: older history was discarded by a compaction"));
}

/// Prints text on stderr.
pub(super) fn print_stderr(text: &str) {
    // If stderr is closed, nothing can be reported.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// A progress line on stderr that is overwritten. It is shown only on a terminal.
#[derive(Debug)]
pub(crate) struct ProgressLine {
    shown: bool,
    last: Option<std::time::Instant>,
}

impl Default for ProgressLine {
    fn default() -> ProgressLine {
        ProgressLine { shown: io::stderr().is_terminal(), last: None }
    }
}

impl ProgressLine {
    /// Shows the progress, at most ten times a second.
    pub(crate) fn show(&mut self, text: impl fmt::Display) {
        let due = self.last.is_none_or(|last| last.elapsed().as_millis() >= 100);
        if self.shown && due {
            print_stderr(&format!("\r\x1b[K{text}"));
            self.last = Some(std::time::Instant::now());
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.last.is_some() {
            print_stderr("\r\x1b[K");
        }
    }
}
