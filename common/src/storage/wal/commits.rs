//! Puts the tables' frames together again into whole commits, in the order of their numbers.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::error::{Error, Result};
use crate::format::event::{CommitMeta, Event};
use crate::format::frame::FrameError;
use crate::storage::wal::cursor::{Cursor, CursorItem, CursorPosition, DecodedFrame, Span};

/// A whole commit.
#[derive(Debug)]
pub struct LogCommit {
    /// Its number.
    pub seq: u64,
    /// Its time, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who and why.
    pub meta: Option<Box<CommitMeta>>,
    /// Its events by table id, tables in the order of their ids, events in the order they were written.
    pub parts: Vec<(u64, Vec<Event>)>,
}

/// One table's part of a commit, perhaps not read to its end yet.
#[derive(Debug)]
struct Part {
    seq: u64,
    time_ms: u64,
    frames: u32,
    frames_in_table: u32,
    events: Vec<Event>,
    /// Where its first frame stands.
    start: CursorPosition,
}

impl Part {
    fn complete(&self) -> bool {
        self.events.len() as u64 == u64::from(self.frames_in_table)
    }
}

/// One table's log as far as it may be read.
#[derive(Debug)]
pub struct LogSource {
    cursor: Cursor,
    part: Option<Part>,
    /// The part is complete, and in [`CommitReader::ready`].
    queued: bool,
    invalid: Option<FrameError>,
    last_seq: u64,
}

impl LogSource {
    /// The last commit handed out that has a part here; 0 for none.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The table's remaining bytes from where reading stopped.
    pub fn rest(&mut self) -> Result<bytes::Bytes> {
        self.cursor.read_to_end()
    }

    /// Where the table's log goes on after the commits handed out: before the first frame that was not.
    pub fn mark(&self) -> &CursorPosition {
        match &self.part {
            Some(part) => &part.start,
            None => self.cursor.mark(),
        }
    }

    /// The cursor: where the valid frames end, as far as they may be read.
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// Why reading stopped before the end of what may be read.
    pub fn invalid(&self) -> Option<FrameError> {
        self.invalid
    }
}

/// Merges the tables' logs into commits.
#[derive(Debug)]
pub struct CommitReader {
    sources: HashMap<u64, LogSource>,
    /// Complete parts at the front of their sources.
    ready: BinaryHeap<Reverse<(u64, u64)>>,
    /// Sources that may have more to read and have no complete part.
    hungry: Vec<u64>,
    next_seq: u64,
    /// Commits up to this one are known to be whole.
    settled: u64,
    /// The greatest "last published" that any frame told of.
    published: u64,
}

impl CommitReader {
    /// Nothing read yet. Commits up to and with `settled` are known to be whole, and to be in order: of them only the parts
    /// are there that snapshots do not hold.
    pub fn new(settled: u64) -> CommitReader {
        CommitReader {
            sources: HashMap::new(),
            ready: BinaryHeap::new(),
            hungry: Vec::new(),
            next_seq: settled + 1,
            settled,
            published: 0,
        }
    }

    /// The number of the next commit that must be whole.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The last commit that is known to be whole without being looked at.
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Commits up to this one are known to be whole: what comes of them belongs to tables that were added since, or to
    /// none that was asked before.
    pub fn settle(&mut self, settled: u64) {
        self.settled = self.settled.max(settled);
        self.next_seq = self.next_seq.max(settled + 1);
    }

    /// The greatest "last published" seq that the frames read tell of.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Whether a table's log is read here.
    pub fn has(&self, table_id: u64) -> bool {
        self.sources.contains_key(&table_id)
    }

    /// Adds a table's log, from after commit `last_seq` on.
    pub fn add(&mut self, table_id: u64, cursor: Cursor, last_seq: u64) {
        self.sources
            .insert(table_id, LogSource { cursor, part: None, queued: false, invalid: None, last_seq });
    }

    /// The tables' logs.
    pub fn sources(&self) -> &HashMap<u64, LogSource> {
        &self.sources
    }

    /// The tables' logs, to read what reading stopped at.
    pub fn sources_mut(&mut self) -> &mut HashMap<u64, LogSource> {
        &mut self.sources
    }

    /// Allows a table's log to be read on.
    pub fn extend(&mut self, table_id: u64, span: Span) {
        if let Some(source) = self.sources.get_mut(&table_id) {
            source.cursor.extend(span);
            source.invalid = None;
            if !source.queued {
                self.hungry.push(table_id);
            }
        }
    }

    /// Reads every file anew that was found too short or damaged; it may have been a stale view of it.
    pub fn refresh(&mut self) {
        for (id, source) in &mut self.sources {
            source.cursor.refresh();
            if source.invalid.take().is_some() {
                self.hungry.push(*id);
            }
        }
    }

    /// The next commit, where it is there and whole; of a settled one, what is there of it.
    pub fn next_commit(&mut self) -> Result<Option<LogCommit>> {
        while let Some(id) = self.hungry.last().copied() {
            self.fill(id)?;
            self.hungry.pop();
        }
        if let Some(commit) = self.next_settled()? {
            return Ok(Some(commit));
        }
        let mut frames = 0;
        let mut ids = Vec::new();
        while let Some(Reverse((seq, id))) = self.ready.peek().copied() {
            if seq > self.next_seq {
                break;
            }
            self.ready.pop();
            ids.push(id);
            frames += self.front(id).map_or(0, |part| part.frames_in_table);
        }
        let expected = ids.first().and_then(|id| self.front(*id)).map(|part| (part.frames, part.time_ms));
        match expected {
            Some((total, time_ms)) if frames == total => {
                self.next_seq += 1;
                self.take(ids, self.next_seq - 1, time_ms).map(Some)
            }
            Some((total, _)) if frames > total => {
                Err(self
                    .misplaced(ids.first().copied().unwrap_or_default(), "more frames than its commit has"))
            }
            _ => {
                // Not all of its tables have it yet.
                self.ready.extend(ids.into_iter().map(|id| Reverse((self.next_seq, id))));
                Ok(None)
            }
        }
    }

    /// What is there of the next settled commit. Every source has been read as far as it may be.
    fn next_settled(&mut self) -> Result<Option<LogCommit>> {
        let Some(seq) = self.ready.peek().map(|Reverse((seq, _))| *seq).filter(|seq| *seq < self.next_seq)
        else {
            return Ok(None);
        };
        let mut ids = Vec::new();
        while let Some(Reverse((_, id))) = self.ready.peek().copied().filter(|Reverse((at, _))| *at == seq) {
            if seq > self.settled || self.sources.get(&id).is_some_and(|source| seq <= source.last_seq) {
                return Err(self.misplaced(id, "a commit number that has been used before"));
            }
            self.ready.pop();
            ids.push(id);
        }
        let time_ms = ids.first().and_then(|id| self.front(*id)).map_or(0, |part| part.time_ms);
        self.take(ids, seq, time_ms).map(Some)
    }

    /// Reads every table's log to where its valid frames end, past the commits that can be handed out: for what those
    /// frames say was published, and for where they end.
    pub fn drain(&mut self) -> Result<()> {
        for source in self.sources.values_mut() {
            loop {
                match source.cursor.next_frame()? {
                    CursorItem::Frame(entry) => {
                        self.published = self.published.max(entry.event.published.unwrap_or(0))
                    }
                    CursorItem::Invalid(error) => {
                        source.invalid = Some(error);
                        break;
                    }
                    CursorItem::End => break,
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, ids: Vec<u64>, seq: u64, time_ms: u64) -> Result<LogCommit> {
        let mut commit = LogCommit { seq, time_ms, meta: None, parts: Vec::with_capacity(ids.len()) };
        for id in ids {
            let Some(source) = self.sources.get_mut(&id) else { continue };
            source.queued = false;
            source.last_seq = seq;
            let Some(mut part) = source.part.take() else { continue };
            if part.time_ms != time_ms {
                return Err(self.misplaced(id, "another time than the rest of its commit"));
            }
            if let Some(meta) = part.events.first_mut().and_then(|event| event.meta.take()) {
                commit.meta = Some(meta);
            }
            commit.parts.push((id, part.events));
            self.hungry.push(id);
        }
        Ok(commit)
    }

    fn front(&self, id: u64) -> Option<&Part> {
        self.sources.get(&id)?.part.as_ref()
    }

    fn misplaced(&self, id: u64, what: &str) -> Error {
        match self.sources.get(&id) {
            Some(source) => {
                let mark = source.mark();
                Error::corrupt(source.cursor.path().display(), mark.offset, what)
            }
            None => Error::corrupt("a segment", 0, what),
        }
    }

    /// Reads a source until its front part is complete or nothing more may be read.
    fn fill(&mut self, id: u64) -> Result<()> {
        let Some(source) = self.sources.get_mut(&id).filter(|source| !source.queued) else { return Ok(()) };
        loop {
            if let Some(part) = &source.part
                && part.complete()
            {
                self.ready.push(Reverse((part.seq, id)));
                source.queued = true;
                return Ok(());
            }
            match source.cursor.next_frame()? {
                CursorItem::End => return Ok(()),
                CursorItem::Invalid(error) => {
                    source.invalid = Some(error);
                    return Ok(());
                }
                CursorItem::Frame(entry) => {
                    self.published = self.published.max(entry.event.published.unwrap_or(0));
                    append(&mut source.part, entry, &source.cursor)?;
                }
            }
        }
    }
}

fn append(part: &mut Option<Part>, entry: DecodedFrame, cursor: &Cursor) -> Result<()> {
    let DecodedFrame { seq, time_ms, event, at } = entry;
    match part {
        None => {
            *part = Some(Part {
                seq,
                time_ms,
                frames: event.shape.frames,
                frames_in_table: event.shape.frames_in_table,
                events: vec![event],
                start: at,
            });
        }
        Some(part) if part.seq == seq && part.time_ms == time_ms => part.events.push(event),
        Some(part) => {
            let what = format!("commit {seq} begins before commit {} has all its frames", part.seq);
            return Err(Error::corrupt(cursor.path().display(), at.offset, what));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::format::document::Document;
    use crate::format::event::{self, CommitShape, EventType};
    use crate::format::frame::{FrameAddress, FrameBuffer};
    use crate::format::key::Key;
    use crate::storage::fs::sim::SimDisk;
    use crate::storage::layout::DataDir;

    /// Writes a table's log: of each commit, its number, its frames in all tables and its frames here.
    fn log(disk: &SimDisk, id: u64, commits: &[(u64, u32, u32)]) -> (Cursor, u64) {
        let (dir, name) = (DataDir::new("/data"), format!("t{id}"));
        let mut frames = FrameBuffer::default();
        for (seq, all, here) in commits {
            for i in 0..*here {
                let meta = CommitMeta { reason: format!("r{seq}"), ..CommitMeta::default() };
                let shape = CommitShape { frames: *all, frames_in_table: *here };
                let key = Key::Str(format!("k{i}").into());
                let document = Document::from_json("{}").unwrap();
                let first = (i == 0).then_some((shape, &meta));
                frames.push(*seq, seq * 10, EventType::Insert, |out| {
                    event::encode(out, Some(&key), Some(&document), false, first, false)
                });
            }
        }
        frames.stamp(FrameAddress { table: id, segment: 1, offset: 0 }, 0);
        disk.put(dir.segment(&name, 1), frames.bytes()).unwrap();
        let end = frames.bytes().len() as u64;
        (Cursor::new(Arc::new(disk.clone()), &dir, &name, id), end)
    }

    /// A table's id, the commit up to which its snapshot holds all, and the commits in its log.
    type TableLog<'a> = (u64, u64, &'a [(u64, u32, u32)]);

    /// A merge over logs, all of which are allowed to be read.
    fn merge(settled: u64, logs: &[TableLog<'_>]) -> CommitReader {
        let disk = SimDisk::new();
        let mut merge = CommitReader::new(0);
        merge.settle(settled);
        for (id, last_seq, commits) in logs {
            let (cursor, end) = log(&disk, *id, commits);
            merge.add(*id, cursor, *last_seq);
            merge.extend(*id, Span { segment: 1, end, seal: None });
        }
        merge
    }

    fn handed_out(merge: &mut CommitReader) -> Vec<(u64, Vec<u64>)> {
        let mut found = Vec::new();
        while let Some(commit) = merge.next_commit().unwrap() {
            assert_eq!(
                (commit.time_ms, commit.meta.unwrap().reason),
                (commit.seq * 10, format!("r{}", commit.seq))
            );
            found.push((commit.seq, commit.parts.iter().map(|(id, _)| *id).collect()));
        }
        found
    }

    #[test]
    fn settled_commits_come_in_order_as_far_as_they_are_there_and_whole_ones_after_them() {
        // Table 1 has a snapshot up to 6, table 2 none: of 3, which both have, only one part is left. 4 is gone whole.
        let mut merge = merge(
            6,
            &[(1, 6, &[(7, 2, 1), (8, 1, 1)]), (2, 0, &[(2, 1, 1), (3, 3, 2), (5, 1, 1), (7, 2, 1)])],
        );
        let expected = [(2, vec![2]), (3, vec![2]), (5, vec![2]), (7, vec![1, 2]), (8, vec![1])];
        assert_eq!(handed_out(&mut merge), expected);
        assert_eq!((merge.next_seq(), merge.settled()), (9, 6));
    }

    #[test]
    fn a_commit_after_the_settled_ones_that_is_not_whole_is_not_handed_out() {
        let mut merge = merge(3, &[(1, 3, &[(5, 1, 1)]), (2, 0, &[(2, 1, 1), (4, 2, 1)])]);
        assert_eq!(handed_out(&mut merge), [(2, vec![2])]);
        assert_eq!(merge.next_seq(), 4, "the next that must be whole");
        assert_eq!(
            merge.sources()[&2].mark().offset,
            merge.sources()[&2].part.as_ref().unwrap().start.offset
        );
    }

    #[test]
    fn a_settled_commit_that_a_snapshot_holds_or_that_came_before_is_damage() {
        let mut held = merge(6, &[(1, 4, &[(4, 1, 1)])]);
        assert!(held.next_commit().is_err(), "the snapshot holds 4, and the log after it has it again");
        let mut again = merge(2, &[(1, 0, &[(3, 1, 1)])]);
        assert_eq!(handed_out(&mut again), [(3, vec![1])]);
        let disk = SimDisk::new();
        let (cursor, end) = log(&disk, 2, &[(3, 1, 1)]);
        again.add(2, cursor, 0);
        again.extend(2, Span { segment: 1, end, seal: None });
        assert!(again.next_commit().is_err(), "3 was not settled, and has been handed out whole");
    }
}
