//! Standard output with a pager: a result that is longer than the terminal goes to the program that PAGER names, or to `less`.
//!
//! Whether a result is long shows only while it is printed. So its first lines are kept until they fill the terminal, and then go to the
//! pager; a result that is shorter is printed as if there were none.

use std::env;
use std::io::{self, IsTerminal, Stdout, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;

use super::width::terminal_size;

/// What `less` does unless LESS says otherwise: colours, no screen of its own, and no prompt if all fits.
const LESS: &str = "FRX";

/// Standard output, through a pager while a result is printed.
#[derive(Clone)]
pub(super) struct Pages(Arc<Mutex<PagedOutput>>);

struct PagedOutput {
    stdout: Stdout,
    /// The pager and its arguments; empty for none.
    command: Vec<String>,
    stage: PageStage,
    /// The pager was left before it had shown everything.
    left: bool,
}

enum PageStage {
    /// Everything is printed at once.
    Direct,
    /// The first lines of a result are kept, until there are more of them than the terminal has.
    Kept { text: Vec<u8>, lines: usize },
    /// The result goes to the pager. Once the user has left it, the rest of the result is dropped: the printer above keeps bytes that
    /// it could not write, and would print them after the result.
    Paged(Child),
}

impl Pages {
    /// Standard output. No pager is used if it is no terminal, or if `wanted` is not set.
    pub(super) fn stdout(wanted: bool) -> Pages {
        let stdout = io::stdout();
        let command =
            if wanted && stdout.is_terminal() { command(env::var("PAGER").ok()) } else { Vec::new() };
        Pages(Arc::new(Mutex::new(PagedOutput { stdout, command, stage: PageStage::Direct, left: false })))
    }

    /// Sets whether a pager is used from now on.
    pub(super) fn set_wanted(&self, wanted: bool) {
        self.0.lock().command = if wanted { command(env::var("PAGER").ok()) } else { Vec::new() };
    }

    /// Begins a result that may be long.
    pub(super) fn begin(&self) {
        let mut output = self.0.lock();
        if !output.command.is_empty() && matches!(output.stage, PageStage::Direct) {
            output.stage = PageStage::Kept { text: Vec::new(), lines: 0 };
        }
    }

    /// Ends the result: prints what is kept, or waits until the user has left the pager.
    pub(super) fn end(&self) -> io::Result<()> {
        let mut output = self.0.lock();
        match std::mem::replace(&mut output.stage, PageStage::Direct) {
            PageStage::Direct => Ok(()),
            PageStage::Kept { text, .. } => {
                output.stdout.write_all(&text).and_then(|()| output.stdout.flush())
            }
            PageStage::Paged(mut child) => {
                drop(child.stdin.take());
                child.wait().map(|_| ())
            }
        }
    }

    /// Whether the user has left the pager before the end of a result. Resets the flag.
    pub(super) fn take_left(&self) -> bool {
        std::mem::take(&mut self.0.lock().left)
    }
}

impl PagedOutput {
    /// Opens the pager if more is kept than the terminal can show.
    fn turn(&mut self) -> io::Result<()> {
        let PageStage::Kept { text, lines } = &mut self.stage else { return Ok(()) };
        let rows = terminal_size().map_or(usize::MAX, |(_, rows)| rows);
        if *lines + 1 < rows {
            return Ok(());
        }
        let kept = std::mem::take(text);
        self.stage = match start(&self.command) {
            Ok(child) => PageStage::Paged(child),
            // A pager that does not start is not worth an error: the result is printed without it.
            Err(_) => PageStage::Direct,
        };
        self.write_all(&kept)
    }
}

impl Write for PagedOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stage {
            PageStage::Direct => self.stdout.write(bytes),
            PageStage::Kept { text, lines } => {
                text.extend_from_slice(bytes);
                *lines += bytes.iter().filter(|byte| **byte == b'\n').count();
                self.turn()?;
                Ok(bytes.len())
            }
            PageStage::Paged(child) => {
                let Some(pipe) = &mut child.stdin else { return Ok(bytes.len()) };
                let written = pipe.write(bytes);
                if written.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
                    self.left = true;
                    child.stdin = None;
                }
                written
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stage {
            PageStage::Direct => self.stdout.flush(),
            PageStage::Kept { .. } | PageStage::Paged(_) => Ok(()),
        }
    }
}

impl Write for Pages {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.lock().flush()
    }
}

/// The words of PAGER, or `less`. Empty, or `cat`, means none.
fn command(pager: Option<String>) -> Vec<String> {
    let words: Vec<String> =
        pager.as_deref().unwrap_or("less").split_whitespace().map(str::to_owned).collect();
    if words.first().is_some_and(|program| program == "cat") { Vec::new() } else { words }
}

fn start(words: &[String]) -> io::Result<Child> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
    let mut command = Command::new(program);
    if env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    command.args(arguments).stdin(Stdio::piped()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pager_is_named_by_the_environment() {
        let words = |text: Option<&str>| command(text.map(str::to_owned)).join("|");
        assert_eq!(words(None), "less");
        assert_eq!(words(Some("most -s")), "most|-s");
        assert_eq!((words(Some("")), words(Some("cat"))), (String::new(), String::new()));
    }
}
