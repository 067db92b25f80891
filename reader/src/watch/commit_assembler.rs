//! Assembles events into messages: each a whole commit, or a part of one with a bounded size.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::Result;
use driftdb_common::service::convert;
use driftdb_common::table::history::DriftEvent;
use driftdb_common::table::memtable::CommitInfo;

use crate::message_size::change_size;

/// Maximum number of messages that are ready to send.
const MAX_READY: usize = 1024;

/// Assembles events, which arrive in order, into messages.
#[derive(Debug)]
pub struct CommitAssembler {
    format: v1::DocumentFormat,
    /// No further events are added to this many bytes of messages, and no message gets larger by another event.
    limit: usize,
    /// The messages that are ready to send.
    ready: VecDeque<v1::Commit>,
    /// Estimated bytes of the ready messages.
    bytes: usize,
    /// The unfinished commit, and its estimated bytes.
    current: Option<(v1::Commit, usize)>,
    /// The message taken last was a part of a commit, and more parts follow.
    is_within_commit: bool,
}

impl CommitAssembler {
    /// An assembler without events, for documents in a format. It assembles about `limit` bytes at a time.
    pub fn new(format: v1::DocumentFormat, limit: usize) -> CommitAssembler {
        let ready = VecDeque::new();
        CommitAssembler { format, limit, ready, bytes: 0, current: None, is_within_commit: false }
    }

    /// Changes the number of bytes that are assembled at a time.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether another event may be added before messages are taken.
    pub fn has_room(&self) -> bool {
        self.ready.len() < MAX_READY && self.bytes < self.limit
    }

    /// Whether nothing is ready and no commit is unfinished.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.current.is_none()
    }

    /// Whether the message taken last was a part of a commit whose rest has not been taken.
    pub fn is_within_commit(&self) -> bool {
        self.is_within_commit
    }

    /// Drops the unfinished commit if messages are ready and no part of that commit is among them or was taken. Returns whether
    /// it did. The caller adds the events of the dropped commit again later.
    pub fn drop_unfinished(&mut self) -> bool {
        let is_split = match self.ready.back() {
            Some(last) => last.more,
            None => self.is_within_commit,
        };
        if is_split || self.ready.is_empty() {
            return false;
        }
        self.current = None;
        true
    }

    /// The encoding of documents.
    pub fn format(&self) -> v1::DocumentFormat {
        self.format
    }

    /// Adds an event of the unfinished commit or of a later one.
    pub fn push(&mut self, event: &DriftEvent, table: &str) -> Result<()> {
        self.push_change(&event.commit, convert::change_to_wire(event, table, self.format)?);
        Ok(())
    }

    /// Adds the message of an event of the unfinished commit or of a later one.
    pub fn push_change(&mut self, commit: &CommitInfo, change: v1::Change) {
        let added = change_size(&change) + change.table.len();
        self.finish_before(commit.seq);
        if self.current.as_ref().is_some_and(|(_, bytes)| *bytes + added > self.limit) {
            self.finish_part(true);
        }
        let (commit, bytes) = self.current.get_or_insert_with(|| (convert::commit_to_wire(commit), 0));
        commit.changes.push(change);
        *bytes += added;
    }

    /// Finishes the unfinished commit if it comes before `seq`.
    pub fn finish_before(&mut self, seq: u64) {
        if self.current.as_ref().is_some_and(|(commit, _)| commit.seq < seq) {
            self.finish_part(false);
        }
    }

    fn finish_part(&mut self, more: bool) {
        if let Some((mut commit, bytes)) = self.current.take() {
            commit.more = more;
            self.bytes += bytes;
            self.ready.push_back(commit);
        }
    }

    /// Takes the next message.
    pub fn take(&mut self) -> Option<v1::Commit> {
        let commit = self.ready.pop_front()?;
        if self.ready.is_empty() {
            self.bytes = 0;
        }
        self.is_within_commit = commit.more;
        Some(commit)
    }
}
