//! Reads and writes `clock.json`: the last time that a writer saw on a clock that it trusted.
//!
//! The time of the last commit alone does not show that a clock has jumped, because a database can be without commits for long.

use crate::error::{Reason, Result};
use crate::format::manifest::{self, ClockRecord};
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::{self, DataDir};

/// Reads the record. Returns `None` if the file is missing or damaged: the last commit's time then stands alone.
pub fn read(fs: &dyn FileSystem, dir: &DataDir) -> Result<Option<ClockRecord>> {
    match layout::read_clock_record(fs, dir) {
        Err(error) if error.reason() == Reason::Corrupt => {
            tracing::warn!(%error, "the time that the last writer saw is not known");
            Ok(None)
        }
        found => found,
    }
}

/// Replaces the record, as the writer of a term.
pub fn write(fs: &dyn FileSystem, dir: &DataDir, term: u64, record: ClockRecord) -> Result<()> {
    fs::replace_via(fs, &dir.clock_tmp(term), &dir.clock(), &manifest::encode(&record)?)
}
