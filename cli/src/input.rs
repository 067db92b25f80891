//! Files that a user names, or stdin: scripts whole, data line by line. Read on threads of their own, because a pipe
//! may keep silent while Ctrl-C must still be heard.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::storage::fs;
use tokio::sync::mpsc;

/// The longest line: nothing longer fits in a request.
const LINE_BYTES: usize = limits::REQUEST_BYTES;
/// The longest script: it is held in memory.
const SCRIPT_BYTES: usize = 256 << 20;
/// Lines read ahead.
const AHEAD: usize = 64;

/// How errors name a file.
pub fn name(path: &Path) -> String {
    if is_stdin(path) { "stdin".to_owned() } else { path.display().to_string() }
}

/// Whether a path means stdin.
pub fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Opens a file, or stdin.
pub fn open(path: &Path) -> Result<Box<dyn Read + Send>> {
    if is_stdin(path) { Ok(Box::new(io::stdin())) } else { fs::open_input(path) }
}

/// The whole of a script.
pub async fn script(path: &Path) -> Result<String> {
    let (path, name) = (path.to_owned(), name(path));
    let reading = tokio::task::spawn_blocking(move || {
        let failed = |e: io::Error| Error::io(format_args!("cannot read {name}"), &e);
        let mut text = String::new();
        let read = open(&path)?.take(SCRIPT_BYTES as u64 + 1).read_to_string(&mut text).map_err(failed)?;
        if read > SCRIPT_BYTES {
            let message =
                format!("{name} is over {} MiB: load data with ingest or apply", SCRIPT_BYTES >> 20);
            return Err(Error::new(Reason::TooLarge, message));
        }
        Ok(text)
    });
    reading.await.map_err(|e| Error::new(Reason::Internal, format!("reading a script: {e}")))?
}

/// A line of a file, without its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Line {
    /// From 1.
    pub number: u64,
    /// Not blank.
    pub text: String,
}

/// The lines of a file that are not blank, as they are read.
#[derive(Debug)]
pub struct Lines {
    name: String,
    receiver: mpsc::Receiver<Result<Line>>,
}

impl Lines {
    /// Opens a file and begins to read it.
    pub fn open(path: &Path) -> Result<Lines> {
        let (name, source) = (name(path), open(path)?);
        let (sender, receiver) = mpsc::channel(AHEAD);
        let named = name.clone();
        tokio::task::spawn_blocking(move || read_lines(source, &named, &sender));
        Ok(Lines { name, receiver })
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Line>> {
        self.receiver.recv().await.transpose()
    }

    /// How errors name a line.
    pub fn place(&self, number: u64) -> String {
        format!("{}, line {number}", self.name)
    }
}

fn read_lines(source: impl Read, name: &str, sender: &mpsc::Sender<Result<Line>>) {
    let mut source = BufReader::with_capacity(256 << 10, source);
    for number in 1.. {
        let line = match read_line(&mut source) {
            Ok(None) => return,
            Ok(Some(text)) if text.trim().is_empty() => continue,
            Ok(Some(text)) => Ok(Line { number, text }),
            Err(error) => Err(error.context(format_args!("{name}, line {number}"))),
        };
        let last = line.is_err();
        // Nobody listens any more: the command has failed for another reason.
        if sender.blocking_send(line).is_err() || last {
            return;
        }
    }
}

/// The next line with its end; `None` where there is no more.
pub fn raw_line(source: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let read = source.by_ref().take(LINE_BYTES as u64 + 1).read_until(b'\n', &mut bytes);
    if read.map_err(|e| Error::io("cannot read", &e))? == 0 {
        return Ok(None);
    }
    if bytes.len() > LINE_BYTES {
        let message = format!("a line over {} MiB", LINE_BYTES >> 20);
        return Err(Error::new(Reason::TooLarge, message));
    }
    Ok(Some(bytes))
}

fn read_line(source: &mut impl BufRead) -> Result<Option<String>> {
    let Some(mut bytes) = raw_line(source)? else { return Ok(None) };
    while matches!(bytes.last(), Some(b'\n' | b'\r')) {
        bytes.pop();
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|e| Error::new(Reason::DocumentInvalid, format!("not UTF-8: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(bytes: &[u8]) -> Vec<Result<Line>> {
        let (sender, mut receiver) = mpsc::channel(100);
        read_lines(bytes, "x.jsonl", &sender);
        drop(sender);
        std::iter::from_fn(|| receiver.blocking_recv()).collect()
    }

    #[test]
    fn blank_lines_count_but_are_left_out() {
        let found: Vec<Line> =
            lines(b"{\"a\":1}\r\n\n  \n{\"b\":2}").into_iter().collect::<Result<_>>().unwrap();
        let line = |number, text: &str| Line { number, text: text.to_owned() };
        assert_eq!(found, [line(1, "{\"a\":1}"), line(4, "{\"b\":2}")]);
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn a_bad_line_is_named_and_is_the_last() {
        let found = lines(b"{}\n\xff\n{}\n");
        assert_eq!(found.len(), 2);
        let error = found[1].as_ref().unwrap_err();
        assert!(error.message().starts_with("x.jsonl, line 2: not UTF-8"), "{error}");
    }
}
