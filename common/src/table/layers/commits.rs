//! A walk over the commits of the delta layers, forward or backward.

use std::sync::Arc;

use crate::error::Result;
use crate::format::snapshot::{CommitEntry, read_commit_key, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::layers::file::at_file;
use crate::table::layers::keys::commit_seq;
use crate::work;

/// A walk over commits, layer by layer.
#[derive(Debug)]
pub struct CommitWalk {
    /// The layers that are still to be read, the next one last.
    files: Vec<Arc<SstFile>>,
    cursor: Option<(TreeCursor, Arc<SstFile>)>,
    after: u64,
    last: u64,
    backwards: bool,
}

/// A commit and what it did in one table.
#[derive(Debug)]
pub struct TableCommit {
    /// The commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// What it did.
    pub entry: CommitEntry,
}

impl CommitWalk {
    /// A walk over the commits after `after`, up to and including `last`. The next file to read is the last in `files`.
    pub(super) fn new(files: Vec<Arc<SstFile>>, (after, last): (u64, u64), backwards: bool) -> CommitWalk {
        CommitWalk { files, cursor: None, after, last, backwards }
    }

    /// Returns the next commit.
    pub fn next_commit(&mut self) -> Result<Option<TableCommit>> {
        loop {
            if self.cursor.is_none() {
                let Some(file) = self.files.pop() else { return Ok(None) };
                let mut cursor = file.cursor(tree::COMMITS);
                let (after, last) = (self.after, self.last);
                if self.backwards {
                    cursor.seek_last_by(|key| commit_seq(key) <= last)?;
                } else {
                    cursor.seek_by(|key| commit_seq(key) <= after)?;
                }
                self.cursor = Some((cursor, file));
            }
            let Some((cursor, file)) = &mut self.cursor else { return Ok(None) };
            let found = match (cursor.key().and_then(read_commit_key), cursor.value()) {
                (Some((time_ms, seq)), Some(value)) if seq > self.after && seq <= self.last => {
                    work::step_bytes(value.len())?;
                    let entry = CommitEntry::decode(&value).map_err(|e| at_file(e, file))?;
                    Some(TableCommit { seq, time_ms, entry })
                }
                _ => None,
            };
            match found {
                Some(commit) => {
                    if self.backwards {
                        cursor.prev()?
                    } else {
                        cursor.next()?
                    }
                    return Ok(Some(commit));
                }
                None => self.cursor = None,
            }
        }
    }
}
