//! The newest changes of rows, in memory: what conditions over many rows are checked against.
//!
//! A condition names a commit, usually the newest one that its client has read, and a few changes follow it. So the writer keeps
//! the newest changes of all tables, each with the row before and after it, up to a bound in bytes; what is older must be read
//! again by the client. The documents are shared with the rows. The changes are in chunks, so that a request takes what it needs
//! under the lock at the cost of some pointers, and compares documents outside of it.

use std::collections::VecDeque;
use std::sync::Arc;

use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::limits;

/// The number of changes of one chunk.
const CHUNK: usize = 64;
/// A chunk with as many bytes takes no more changes: only whole chunks make room.
const CHUNK_BYTES: usize = 1 << 20;
/// Memory of a change without its key's text and its documents.
const CHANGE_BYTES: usize = 160;

/// A row before a change.
#[derive(Debug)]
pub(crate) enum PriorRow {
    /// No live row had the key.
    Absent,
    /// The row's content.
    Content(Document),
    /// The row was live, and only the snapshot files hold its content.
    InFiles,
}

/// One change of one row.
#[derive(Debug)]
pub(crate) struct RecentChange {
    /// The commit.
    pub(crate) seq: u64,
    /// The table's id.
    pub(crate) table: u64,
    pub(crate) key: Key,
    pub(crate) before: PriorRow,
    /// The row after the change; `None` if it was deleted.
    pub(crate) after: Option<Document>,
}

impl RecentChange {
    /// About the bytes that the change takes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let key = self.key.bytes();
        let before = match &self.before {
            PriorRow::Content(document) => document.msgpack().len(),
            PriorRow::Absent | PriorRow::InFiles => 0,
        };
        CHANGE_BYTES + key + before + self.after.as_ref().map_or(0, |after| after.msgpack().len())
    }
}

/// A change in a chunk.
type SharedChange = Arc<RecentChange>;

/// The newest changes, in the order of commits.
#[derive(Debug, Default)]
pub(crate) struct RecentChanges {
    /// Full chunks, oldest first.
    sealed: VecDeque<Arc<Vec<SharedChange>>>,
    open: Vec<SharedChange>,
    open_bytes: usize,
    /// All bytes, those of `open` included.
    bytes: usize,
    /// Every change of later commits is here.
    base: u64,
    /// How often commits were taken back: the numbers of those commits may since mean others.
    rollbacks: u64,
}

/// The changes after a commit, as they were when they were taken.
#[derive(Debug, Default)]
pub(crate) struct ChangesSince {
    chunks: Vec<Arc<Vec<SharedChange>>>,
    open: Vec<SharedChange>,
    since: u64,
}

impl ChangesSince {
    /// The changes, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &RecentChange> {
        let changes = self.chunks.iter().flat_map(|chunk| chunk.iter()).chain(&self.open);
        changes.map(Arc::as_ref).filter(|change| change.seq > self.since)
    }
}

impl RecentChanges {
    /// Every change after this commit is known.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// How often commits were taken back.
    pub(crate) fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    /// Starts after a commit: what happened up to it is not known.
    pub(crate) fn begin_after(&mut self, seq: u64) {
        *self = RecentChanges { base: seq, rollbacks: self.rollbacks + 1, ..RecentChanges::default() };
    }

    /// Adds a change of the newest commit. The oldest changes make room for it.
    pub(crate) fn push(&mut self, change: RecentChange) {
        self.bytes += change.bytes();
        self.open_bytes += change.bytes();
        self.open.push(Arc::new(change));
        if self.open.len() >= CHUNK || self.open_bytes >= CHUNK_BYTES {
            self.open_bytes = 0;
            self.sealed.push_back(Arc::new(std::mem::replace(&mut self.open, Vec::with_capacity(CHUNK))));
        }
        while self.bytes > limits::RECENT_CHANGES_BYTES
            && let Some(oldest) = self.sealed.pop_front()
        {
            self.bytes = self.bytes.saturating_sub(oldest.iter().map(|change| change.bytes()).sum());
            self.base = oldest.last().map_or(self.base, |last| last.seq.max(self.base));
        }
    }

    /// Takes back the newest change.
    pub(crate) fn pop(&mut self) {
        if self.open.is_empty()
            && let Some(newest) = self.sealed.pop_back()
        {
            self.open = newest.to_vec();
            self.open_bytes = self.open.iter().map(|change| change.bytes()).sum();
        }
        if let Some(change) = self.open.pop() {
            self.bytes = self.bytes.saturating_sub(change.bytes());
            self.open_bytes = self.open_bytes.saturating_sub(change.bytes());
        }
    }

    /// Notes that `last` is the newest commit, after changes were taken back. A change of a commit that came to nothing may have
    /// been the one that made room: the commit's number is free again, and nothing follows `last`.
    pub(crate) fn end_at(&mut self, last: u64) {
        self.base = self.base.min(last);
    }

    /// Notes that commits were taken back.
    pub(crate) fn note_rollback(&mut self) {
        self.rollbacks += 1;
    }

    /// The changes after a commit, newest first.
    pub(crate) fn newest_after(&self, seq: u64) -> impl Iterator<Item = &RecentChange> {
        let sealed = self.sealed.iter().rev().flat_map(|chunk| chunk.iter().rev());
        let changes = self.open.iter().rev().chain(sealed);
        changes.map(Arc::as_ref).take_while(move |change| change.seq > seq)
    }

    /// Takes the changes after a commit. Costs as much as there are chunks.
    pub(crate) fn since(&self, seq: u64) -> ChangesSince {
        let ends_before = |chunk: &Arc<Vec<SharedChange>>| chunk.last().is_none_or(|last| last.seq <= seq);
        let first = self.sealed.partition_point(ends_before);
        ChangesSince {
            chunks: self.sealed.iter().skip(first).cloned().collect(),
            open: self.open.clone(),
            since: seq,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(seq: u64, text: &str) -> RecentChange {
        let after = Document::from_json(&format!(r#"{{"id":"{text}"}}"#)).ok();
        RecentChange { seq, table: 1, key: Key::Str(text.into()), before: PriorRow::Absent, after }
    }

    fn seqs(recent: &RecentChanges, since: u64) -> Vec<u64> {
        let taken: Vec<_> = recent.since(since).iter().map(|change| change.seq).collect();
        let mut direct: Vec<_> = recent.newest_after(since).map(|change| change.seq).collect();
        direct.reverse();
        assert_eq!(taken, direct);
        taken
    }

    #[test]
    fn changes_are_found_by_their_commit_and_taken_back() {
        let mut recent = RecentChanges::default();
        recent.begin_after(10);
        for seq in 11..=300 {
            recent.push(change(seq, "a"));
        }
        for since in [10, 11, 73, 74, 75, 200, 299, 300, 400] {
            assert_eq!(seqs(&recent, since), (since.max(10) + 1..=300).collect::<Vec<_>>());
        }
        for _ in 0..150 {
            recent.pop();
        }
        assert_eq!(seqs(&recent, 100), (101..=150).collect::<Vec<_>>());
        recent.push(change(151, "b"));
        assert_eq!(seqs(&recent, 149), [150, 151]);
        (0..500).for_each(|_| recent.pop());
        assert_eq!((seqs(&recent, 0).len(), recent.bytes, recent.base()), (0, 0, 10));
    }

    #[test]
    fn the_oldest_changes_make_room() {
        let mut recent = RecentChanges::default();
        let text = "x".repeat(100_000);
        for seq in 1..=1000 {
            recent.push(change(seq, &text));
        }
        assert!(recent.bytes <= limits::RECENT_CHANGES_BYTES, "{}", recent.bytes);
        let base = recent.base();
        assert!(base > 0 && base < 1000, "{base}");
        assert_eq!(seqs(&recent, base).first(), Some(&(base + 1)));
    }

    #[test]
    fn large_changes_stay_within_the_limit() {
        let mut recent = RecentChanges::default();
        let text = "x".repeat(1 << 20);
        for seq in 1..CHUNK as u64 {
            recent.push(change(seq, &text));
            assert!(recent.bytes <= limits::RECENT_CHANGES_BYTES, "{}", recent.bytes);
        }
        assert_eq!(seqs(&recent, recent.base()).last(), Some(&63));
    }

    #[test]
    fn a_large_commit_that_came_to_nothing_leaves_the_newest_commit_known() {
        let mut recent = RecentChanges::default();
        recent.begin_after(10);
        recent.push(change(11, "a"));
        let text = "x".repeat(1 << 20);
        (0..50).for_each(|_| recent.push(change(12, &text)));
        (0..50).for_each(|_| recent.pop());
        recent.end_at(11);
        assert_eq!((recent.base(), seqs(&recent, 11).len()), (11, 0));
        recent.push(change(12, "b"));
        assert_eq!(seqs(&recent, 11), [12]);
    }
}
