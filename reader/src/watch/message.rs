//! Commits as messages: whole, or in parts of a bounded size.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::limits;
use driftdb_common::service::convert;
use driftdb_common::table::history::DriftEvent;

use crate::answers::change_size;

/// Messages ready to be sent at most.
const MESSAGES: usize = 1024;

/// Puts changes, which come in order, together to messages.
#[derive(Debug)]
pub struct Assembler {
    format: v1::DocumentFormat,
    /// Ready to be sent.
    ready: VecDeque<v1::Commit>,
    /// About how many bytes these take.
    bytes: usize,
    /// The commit under way, and about how many bytes of it there are.
    current: Option<(v1::Commit, usize)>,
    /// The last commit taken was a part that others follow.
    is_within: bool,
}

impl Assembler {
    /// Nothing yet; documents will be in a format.
    pub fn new(format: v1::DocumentFormat) -> Assembler {
        Assembler { format, ready: VecDeque::new(), bytes: 0, current: None, is_within: false }
    }

    /// Whether another change may come before messages are taken.
    pub fn has_room(&self) -> bool {
        self.ready.len() < MESSAGES && self.bytes < limits::MESSAGE_BYTES
    }

    /// Lets go of the commit under way, which comes again, where no part of it has been made ready. Whether there is something
    /// to be sent and nothing else is left.
    pub fn settle(&mut self) -> bool {
        let split = match self.ready.back() {
            Some(last) => last.more,
            None => self.is_within,
        };
        if split || self.ready.is_empty() {
            return false;
        }
        self.current = None;
        true
    }

    /// Whether nothing is ready, nor under way.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.current.is_none()
    }

    /// Whether part of a commit has been taken, and its rest has not.
    pub fn is_within(&self) -> bool {
        self.is_within
    }

    /// Adds a change, which belongs to the commit under way or begins the next.
    pub fn push(&mut self, change: &DriftEvent, table: &str) -> Result<()> {
        let change_to_add = convert::change_to_wire(change, table, self.format)?;
        let added = change_size(&change_to_add) + table.len();
        self.finish_before(change.commit.seq);
        if self.current.as_ref().is_some_and(|(_, bytes)| *bytes + added > limits::MESSAGE_BYTES) {
            self.set_ready(true);
        }
        let (commit, bytes) =
            self.current.get_or_insert_with(|| (convert::commit_to_wire(&change.commit), 0));
        commit.changes.push(change_to_add);
        *bytes += added;
        Ok(())
    }

    /// Ends the commit under way where it comes before another.
    pub fn finish_before(&mut self, seq: u64) {
        if self.current.as_ref().is_some_and(|(commit, _)| commit.seq < seq) {
            self.set_ready(false);
        }
    }

    fn set_ready(&mut self, more: bool) {
        if let Some((mut commit, bytes)) = self.current.take() {
            commit.more = more;
            self.bytes += bytes;
            self.ready.push_back(commit);
        }
    }

    /// The next commit, or part of one, to be sent.
    pub fn take(&mut self) -> Option<v1::Commit> {
        let commit = self.ready.pop_front()?;
        if self.ready.is_empty() {
            self.bytes = 0;
        }
        self.is_within = commit.more;
        Some(commit)
    }
}
