//! The file of `--skip-bad`: lines that could not be loaded, unchanged.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs;

use crate::exit::{CliResult, Failure};
use crate::render;

/// How many skipped lines are reported one by one.
const REPORTED: u64 = 20;

/// The file of skipped lines, and its earlier content.
pub(crate) struct SkippedLines {
    path: PathBuf,
    file: Box<dyn Write + Send>,
    /// Hashes of the lines of earlier runs, with their number: a resumed load does not write them again.
    known: HashMap<u64, u64>,
    hasher: RandomState,
    empty: bool,
    /// The number of lines skipped in this run.
    pub(crate) lines: u64,
}

impl SkippedLines {
    /// Opens the file. It must not be the input file.
    pub(crate) fn open(path: &Path, input: Option<&fs::FileStamp>) -> CliResult<SkippedLines> {
        let file = fs::create_output(path)?;
        let stamp = fs::read_stamp(path)?;
        if input.is_some_and(|input| stamp.as_ref().is_some_and(|stamp| stamp.path == input.path)) {
            return Err(Failure::Usage(format!(
                "--skip-bad {} is the input file; name another file",
                path.display()
            )));
        }
        let empty = stamp.as_ref().is_none_or(|stamp| stamp.len == 0);
        let (known, hasher) = (HashMap::new(), RandomState::new());
        let mut skipped = SkippedLines { path: path.to_owned(), file, known, hasher, empty, lines: 0 };
        if stamp.is_some() {
            skipped.read().map_err(|e| skipped.failed("read", &e))?;
        }
        Ok(skipped)
    }

    fn read(&mut self) -> io::Result<()> {
        let source = fs::open_input(&self.path).map_err(io::Error::other)?;
        for line in BufReader::new(source).split(b'\n') {
            let mut line = line?;
            line.push(b'\n');
            *self.known.entry(self.hasher.hash_one(line)).or_default() += 1;
        }
        Ok(())
    }

    /// Writes the CSV header to an empty file, so that the file can be corrected and loaded.
    pub(crate) fn header(&mut self, raw: &[u8]) -> Result<()> {
        if self.empty { self.write(raw) } else { Ok(()) }
    }

    /// Skips a line and writes it to the file, with its line ending. `error` names the line.
    pub(crate) fn add(&mut self, raw: &[u8], error: &Error) -> Result<()> {
        self.lines += 1;
        match self.lines {
            ..=REPORTED => render::note(&format!("skipped: {error}")),
            _ if self.lines == REPORTED + 1 => render::note("further skipped lines are not reported"),
            _ => {}
        }
        // A record with several lines is identified by its last line.
        let last = raw.trim_ascii_end().iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let line = self.hasher.hash_one(raw.get(last..).unwrap_or_default());
        match self.known.get_mut(&line) {
            Some(times @ 1..) => {
                *times -= 1;
                Ok(())
            }
            _ => self.write(raw),
        }
    }

    fn write(&mut self, raw: &[u8]) -> Result<()> {
        self.file.write_all(raw).map_err(|e| self.failed("write", &e))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::io(format_args!("cannot {what} {}", self.path.display()), error)
    }
}
