//! The file of `--skip-bad`: lines that could not be loaded, unchanged.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs;

use super::notes::Notes;
use crate::exit::{CliResult, Failure};

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
    notes: Notes,
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
        let mut skipped = SkippedLines {
            path: path.to_owned(),
            file,
            known,
            hasher,
            empty,
            lines: 0,
            notes: Notes::default(),
        };
        if stamp.is_some() {
            skipped.read().map_err(|e| skipped.failed("read", &e))?;
        }
        Ok(skipped)
    }

    fn read(&mut self) -> io::Result<()> {
        let mut source = BufReader::new(fs::open_input(&self.path).map_err(io::Error::other)?);
        loop {
            let mut line = Vec::new();
            if source.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            if line.last() != Some(&b'\n') {
                // An earlier run was killed while it wrote this line. The line is written again, whole.
                return self.file.write_all(b"\n");
            }
            *self.known.entry(self.hasher.hash_one(line)).or_default() += 1;
        }
    }

    /// Writes the CSV header to an empty file, so that the file can be corrected and loaded.
    pub(crate) fn header(&mut self, raw: &[u8]) -> Result<()> {
        if self.empty { self.write(raw) } else { Ok(()) }
    }

    /// Reports how many skipped lines were not reported one by one.
    pub(crate) fn finish(&mut self) {
        self.notes.finish("lines were skipped", &self.path.display().to_string());
    }

    /// Skips a line and writes it to the file, with its line ending. `error` names the line.
    pub(crate) fn add(&mut self, raw: &[u8], error: &Error) -> Result<()> {
        self.lines += 1;
        self.notes.show(&format!("skipped: {error}"));
        if self.is_known(raw) { Ok(()) } else { self.write(raw) }
    }

    /// Whether an earlier run has written a record. If so, it is not known any more: another one like it is written.
    fn is_known(&mut self, raw: &[u8]) -> bool {
        let lines: Vec<u64> =
            raw.split_inclusive(|byte| *byte == b'\n').map(|line| self.hasher.hash_one(line)).collect();
        let is_known = lines.iter().all(|line| self.known.get(line).is_some_and(|times| *times > 0));
        if is_known {
            for line in lines {
                self.known.entry(line).and_modify(|times| *times = times.saturating_sub(1));
            }
        }
        is_known
    }

    fn write(&mut self, raw: &[u8]) -> Result<()> {
        self.file.write_all(raw).map_err(|e| self.failed("write", &e))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Error {
        Error::io(format_args!("cannot {what} {}", self.path.display()), error)
    }
}
