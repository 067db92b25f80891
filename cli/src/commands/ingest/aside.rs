//! Lines that could not be loaded, kept in a file of the user's as they were.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::fs;

use crate::exit::{Failure, Outcome};
use crate::render;

/// Lines that are told of one by one.
const TOLD: u64 = 20;

/// The file, and what stands in it already.
pub struct Aside {
    path: PathBuf,
    file: Box<dyn Write + Send>,
    /// Lines of earlier runs, and how often each: they are not written again where a load goes on.
    known: HashMap<u64, u64>,
    hasher: RandomState,
    empty: bool,
    /// How many lines were set aside in this run.
    pub lines: u64,
}

impl Aside {
    /// Opens the file, which must not be the one that is loaded.
    pub fn open(path: &Path, input: Option<&fs::FileStamp>) -> Outcome<Aside> {
        let file = fs::create_output(path)?;
        let stamp = fs::read_stamp(path)?;
        if input.is_some_and(|input| stamp.as_ref().is_some_and(|stamp| stamp.path == input.path)) {
            return Err(Failure::Usage(format!("--skip-bad {} is the file to load", path.display())));
        }
        let empty = stamp.as_ref().is_none_or(|stamp| stamp.len == 0);
        let (known, hasher) = (HashMap::new(), RandomState::new());
        let mut aside = Aside { path: path.to_owned(), file, known, hasher, empty, lines: 0 };
        if stamp.is_some() {
            aside.read().map_err(|e| aside.failed("read", &e))?;
        }
        Ok(aside)
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

    /// The names of the columns, so that the file can be loaded once it is put right.
    pub fn header(&mut self, raw: &[u8]) -> Result<()> {
        if self.empty { self.write(raw) } else { Ok(()) }
    }

    /// Sets a line aside, with its end; `error` names it.
    pub fn add(&mut self, raw: &[u8], error: &Error) -> Result<()> {
        self.lines += 1;
        match self.lines {
            ..=TOLD => render::note(&format!("set aside: {error}")),
            _ if self.lines == TOLD + 1 => render::note("more lines are set aside"),
            _ => {}
        }
        // Known by its last line, where a record has several.
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
