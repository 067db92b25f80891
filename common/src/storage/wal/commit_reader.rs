//! Reassembles whole commits from the logs of all tables, in commit order.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use crate::error::{Error, Result};
use crate::format::event::{CommitMeta, Event};
use crate::format::frame::FrameError;
use crate::storage::descriptors::{DescriptorShares, RecentlyUsed};
use crate::storage::wal::cursor::{CursorItem, CursorPosition, DecodedFrame, LogCursor, SegmentSpan};

/// A whole commit.
#[derive(Debug)]
pub struct LogCommit {
    /// The commit's sequence number.
    pub seq: u64,
    /// The commit's time, in milliseconds since 1970.
    pub time_ms: u64,
    /// The actor, the reason and the request id.
    pub meta: Option<Box<CommitMeta>>,
    /// The events of each table by table id: tables in ascending order, events in the order they were written.
    pub parts: Vec<(u64, Vec<Event>)>,
}

/// One table's part of a commit, possibly incomplete.
#[derive(Debug)]
struct CommitPart {
    seq: u64,
    time_ms: u64,
    frames: u32,
    frames_in_table: u32,
    events: Vec<Event>,
    /// The position of the first frame.
    start: CursorPosition,
}

impl CommitPart {
    fn is_complete(&self) -> bool {
        self.events.len() as u64 == u64::from(self.frames_in_table)
    }
}

/// One table's log, and the commit that is being read from it.
#[derive(Debug)]
pub struct LogSource {
    cursor: LogCursor,
    part: Option<CommitPart>,
    /// Whether the part is complete and in [`CommitReader::ready`].
    is_queued: bool,
    invalid: Option<FrameError>,
    last_seq: u64,
}

impl LogSource {
    /// Returns the last commit that was returned and has a part in this table; 0 if none was.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Reads the table's remaining bytes, from where reading stopped.
    pub(in crate::storage) fn read_to_end(&mut self) -> Result<bytes::Bytes> {
        self.cursor.read_to_end()
    }

    /// Returns the position after the commits that were returned: that of the first frame of a later commit.
    pub fn position(&self) -> &CursorPosition {
        match &self.part {
            Some(part) => &part.start,
            None => self.cursor.position(),
        }
    }

    /// Returns the cursor. Its position is the end of the valid frames that may be read.
    pub fn cursor(&self) -> &LogCursor {
        &self.cursor
    }

    /// Returns why reading stopped before the end of what may be read.
    pub fn invalid(&self) -> Option<FrameError> {
        self.invalid
    }
}

/// Merges the logs of all tables into commits.
#[derive(Debug)]
pub struct CommitReader {
    sources: HashMap<u64, LogSource>,
    /// Commit number and table id of every complete part.
    ready: BinaryHeap<Reverse<(u64, u64)>>,
    /// Tables that may have more to read and have no complete part.
    incomplete: Vec<u64>,
    /// Whether the next frame of any log may be invalid.
    has_invalid: bool,
    next_seq: u64,
    /// Commits up to this one are assumed to be whole.
    assumed_whole: u64,
    /// The greatest "last published" seq of any frame.
    published: u64,
    /// The tables whose files are open.
    open_files: RecentlyUsed,
}

impl CommitReader {
    /// A reader that has read nothing. See [`CommitReader::assume_whole`].
    pub fn new(assumed_whole: u64) -> CommitReader {
        CommitReader {
            sources: HashMap::new(),
            ready: BinaryHeap::new(),
            incomplete: Vec::new(),
            has_invalid: false,
            next_seq: assumed_whole + 1,
            assumed_whole,
            published: 0,
            open_files: RecentlyUsed::new(DescriptorShares::of_process().log_files),
        }
    }

    /// Returns the number of the next commit that must be whole.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Returns the last commit that is assumed to be whole.
    pub fn assumed_whole(&self) -> u64 {
        self.assumed_whole
    }

    /// Assumes that all commits up to `seq` are whole, because a snapshot or an earlier reader has seen them. The reader
    /// then returns only those parts of them that no snapshot contains.
    pub fn assume_whole(&mut self, seq: u64) {
        self.assumed_whole = self.assumed_whole.max(seq);
        self.next_seq = self.next_seq.max(seq + 1);
    }

    /// Returns the greatest "last published" seq of the frames that were read.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Adds a table's log, from the first commit after `last_seq`. It replaces what was read of the table before.
    pub fn add_table(&mut self, table_id: u64, cursor: LogCursor, last_seq: u64) {
        self.ready.retain(|Reverse((_, id))| *id != table_id);
        self.incomplete.retain(|id| *id != table_id);
        self.sources
            .insert(table_id, LogSource { cursor, part: None, is_queued: false, invalid: None, last_seq });
    }

    /// Returns the logs by table id.
    pub fn sources(&self) -> &HashMap<u64, LogSource> {
        &self.sources
    }

    /// Returns the logs whose next frame is invalid, by table id.
    pub fn invalid_sources(&self) -> impl Iterator<Item = (&u64, &LogSource)> {
        let sources = self.has_invalid.then_some(&self.sources);
        sources.into_iter().flatten().filter(|(_, source)| source.invalid.is_some())
    }

    /// Returns the logs by table id, to read the bytes after an invalid frame.
    pub(in crate::storage) fn sources_mut(&mut self) -> &mut HashMap<u64, LogSource> {
        &mut self.sources
    }

    /// Extends what may be read of a table's log.
    pub fn extend(&mut self, table_id: u64, span: SegmentSpan) {
        if let Some(source) = self.sources.get_mut(&table_id) {
            source.cursor.extend(span);
            source.invalid = None;
            if !source.is_queued {
                self.incomplete.push(table_id);
            }
        }
    }

    /// Reads every file again that was too short or damaged, because a network file system may have returned stale bytes.
    pub fn refresh(&mut self) {
        self.has_invalid = false;
        for (id, source) in &mut self.sources {
            source.cursor.refresh();
            if source.invalid.take().is_some() {
                self.incomplete.push(*id);
            }
        }
    }

    /// Returns the next commit if it is whole. Of a commit that is assumed to be whole, returns the parts that the logs
    /// contain.
    pub fn next_commit(&mut self) -> Result<Option<LogCommit>> {
        while let Some(id) = self.incomplete.last().copied() {
            let read = self.read_part(id);
            self.limit_open_files(id);
            read?;
            self.incomplete.pop();
        }
        if let Some(commit) = self.next_assumed_whole()? {
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
            frames += self.front_part(id).map_or(0, |part| part.frames_in_table);
        }
        let expected =
            ids.first().and_then(|id| self.front_part(*id)).map(|part| (part.frames, part.time_ms));
        match expected {
            Some((total, time_ms)) if frames == total => {
                self.next_seq += 1;
                self.take_commit(ids, self.next_seq - 1, time_ms).map(Some)
            }
            Some((total, _)) if frames > total => {
                let id = ids.first().copied().unwrap_or_default();
                Err(self.misplaced_error(id, "the commit has more frames than its first frame says"))
            }
            _ => {
                // Some tables do not have their part yet.
                self.ready.extend(ids.into_iter().map(|id| Reverse((self.next_seq, id))));
                Ok(None)
            }
        }
    }

    /// Returns the present parts of the next commit that is assumed to be whole. Every log was read as far as it may be.
    fn next_assumed_whole(&mut self) -> Result<Option<LogCommit>> {
        let Some(seq) = self.ready.peek().map(|Reverse((seq, _))| *seq).filter(|seq| *seq < self.next_seq)
        else {
            return Ok(None);
        };
        let mut ids = Vec::new();
        while let Some(Reverse((_, id))) = self.ready.peek().copied().filter(|Reverse((at, _))| *at == seq) {
            if seq > self.assumed_whole || self.sources.get(&id).is_some_and(|source| seq <= source.last_seq)
            {
                return Err(self.misplaced_error(id, "the commit number was used before"));
            }
            self.ready.pop();
            ids.push(id);
        }
        let time_ms = ids.first().and_then(|id| self.front_part(*id)).map_or(0, |part| part.time_ms);
        self.take_commit(ids, seq, time_ms).map(Some)
    }

    /// Reads every table's log to the end of its valid frames, past the last whole commit: to find the greatest published
    /// commit that these frames name, and where they end.
    pub fn drain(&mut self) -> Result<()> {
        for source in self.sources.values_mut().filter(|source| source.invalid.is_none()) {
            let was_open = source.cursor.is_open();
            loop {
                match source.cursor.next_frame()? {
                    CursorItem::Frame(frame) => {
                        self.published = self.published.max(frame.event.published.unwrap_or(0))
                    }
                    CursorItem::Invalid(error) => {
                        source.invalid = Some(error);
                        self.has_invalid = true;
                        break;
                    }
                    CursorItem::End => break,
                }
            }
            if !was_open {
                source.cursor.close_file();
            }
        }
        Ok(())
    }

    fn take_commit(&mut self, ids: Vec<u64>, seq: u64, time_ms: u64) -> Result<LogCommit> {
        let mut commit = LogCommit { seq, time_ms, meta: None, parts: Vec::with_capacity(ids.len()) };
        for id in ids {
            let Some(source) = self.sources.get_mut(&id) else { continue };
            source.is_queued = false;
            source.last_seq = seq;
            let Some(mut part) = source.part.take() else { continue };
            if part.time_ms != time_ms {
                return Err(
                    self.misplaced_error(id, "the frame has another time than the rest of its commit")
                );
            }
            if let Some(meta) = part.events.first_mut().and_then(|event| event.meta.take()) {
                commit.meta = Some(meta);
            }
            commit.parts.push((id, part.events));
            self.incomplete.push(id);
        }
        Ok(commit)
    }

    fn front_part(&self, id: u64) -> Option<&CommitPart> {
        self.sources.get(&id)?.part.as_ref()
    }

    fn misplaced_error(&self, id: u64, detail: &str) -> Error {
        match self.sources.get(&id) {
            Some(source) => Error::corrupt(source.cursor.path().display(), source.position().offset, detail),
            None => Error::corrupt("a segment", 0, detail),
        }
    }

    /// Closes the file that was not used for the longest time, if reading table `id` has opened one too many.
    fn limit_open_files(&mut self, id: u64) {
        if self.sources.get(&id).is_some_and(|source| source.cursor.is_open())
            && let Some(oldest) = self.open_files.touch(id)
            && let Some(source) = self.sources.get_mut(&oldest)
        {
            source.cursor.close_file();
        }
    }

    /// Reads a log until its part is complete or nothing more may be read.
    fn read_part(&mut self, id: u64) -> Result<()> {
        let Some(source) = self.sources.get_mut(&id).filter(|source| !source.is_queued) else {
            return Ok(());
        };
        loop {
            if let Some(part) = &source.part
                && part.is_complete()
            {
                self.ready.push(Reverse((part.seq, id)));
                source.is_queued = true;
                return Ok(());
            }
            match source.cursor.next_frame()? {
                CursorItem::End => return Ok(()),
                CursorItem::Invalid(error) => {
                    source.invalid = Some(error);
                    self.has_invalid = true;
                    return Ok(());
                }
                CursorItem::Frame(frame) => {
                    self.published = self.published.max(frame.event.published.unwrap_or(0));
                    append_frame(&mut source.part, frame, &source.cursor)?;
                }
            }
        }
    }
}

fn append_frame(part: &mut Option<CommitPart>, frame: DecodedFrame, cursor: &LogCursor) -> Result<()> {
    let DecodedFrame { seq, time_ms, event, at } = frame;
    match part {
        None => {
            *part = Some(CommitPart {
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
            let detail = format!("commit {seq} starts before commit {} is complete", part.seq);
            return Err(Error::corrupt(cursor.path().display(), at.offset, detail));
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

    /// Writes a table's log. Each commit is its number, its frames in all tables, and its frames in this table.
    fn log(disk: &SimDisk, id: u64, commits: &[(u64, u32, u32)]) -> (LogCursor, u64) {
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
        (LogCursor::new(Arc::new(disk.clone()), &dir, &name, id), end)
    }

    /// A table's id, the last commit in its snapshot, and the commits in its log.
    type LogFixture<'a> = (u64, u64, &'a [(u64, u32, u32)]);

    /// Returns a reader over logs that may be read completely.
    fn reader(assumed_whole: u64, logs: &[LogFixture<'_>]) -> CommitReader {
        let disk = SimDisk::new();
        let mut reader = CommitReader::new(0);
        reader.assume_whole(assumed_whole);
        for (id, last_seq, commits) in logs {
            let (cursor, end) = log(&disk, *id, commits);
            reader.add_table(*id, cursor, *last_seq);
            reader.extend(*id, SegmentSpan { segment: 1, end, seal: None });
        }
        reader
    }

    fn read_all(reader: &mut CommitReader) -> Vec<(u64, Vec<u64>)> {
        let mut found = Vec::new();
        while let Some(commit) = reader.next_commit().unwrap() {
            assert_eq!(
                (commit.time_ms, commit.meta.unwrap().reason),
                (commit.seq * 10, format!("r{}", commit.seq))
            );
            found.push((commit.seq, commit.parts.iter().map(|(id, _)| *id).collect()));
        }
        found
    }

    #[test]
    fn commits_assumed_whole_are_returned_with_the_parts_that_exist_then_whole_commits() {
        // Table 1 has a snapshot up to commit 6, table 2 has none. Both tables had parts of 3, and one part is left. No part
        // of 4 is left.
        let mut reader = reader(
            6,
            &[(1, 6, &[(7, 2, 1), (8, 1, 1)]), (2, 0, &[(2, 1, 1), (3, 3, 2), (5, 1, 1), (7, 2, 1)])],
        );
        let expected = [(2, vec![2]), (3, vec![2]), (5, vec![2]), (7, vec![1, 2]), (8, vec![1])];
        assert_eq!(read_all(&mut reader), expected);
        assert_eq!((reader.next_seq(), reader.assumed_whole()), (9, 6));
    }

    #[test]
    fn a_commit_that_must_be_whole_and_is_not_is_not_returned() {
        let mut reader = reader(3, &[(1, 3, &[(5, 1, 1)]), (2, 0, &[(2, 1, 1), (4, 2, 1)])]);
        assert_eq!(read_all(&mut reader), [(2, vec![2])]);
        assert_eq!(reader.next_seq(), 4, "the next commit that must be whole");
        assert_eq!(
            reader.sources()[&2].position().offset,
            reader.sources()[&2].part.as_ref().unwrap().start.offset
        );
    }

    #[test]
    fn a_table_that_is_added_again_is_read_from_its_new_position() {
        // Table 2 lacks its part of 4, so the part of table 1 stays queued.
        let mut reader = reader(3, &[(1, 3, &[(4, 2, 1)]), (2, 3, &[])]);
        assert_eq!(read_all(&mut reader), []);
        let disk = SimDisk::new();
        for (id, commits) in [(1, [(2, 1, 1), (4, 2, 1)]), (2, [(3, 1, 1), (4, 2, 1)])] {
            let (cursor, end) = log(&disk, id, &commits);
            reader.add_table(id, cursor, 1);
            reader.extend(id, SegmentSpan { segment: 1, end, seal: None });
        }
        assert_eq!(read_all(&mut reader), [(2, vec![1]), (3, vec![2]), (4, vec![1, 2])]);
    }

    #[test]
    fn a_commit_that_a_snapshot_contains_or_that_was_returned_before_is_damage() {
        let mut contained = reader(6, &[(1, 4, &[(4, 1, 1)])]);
        assert!(
            contained.next_commit().is_err(),
            "the snapshot contains 4, and the log after it has 4 again"
        );
        let mut again = reader(2, &[(1, 0, &[(3, 1, 1)])]);
        assert_eq!(read_all(&mut again), [(3, vec![1])]);
        let disk = SimDisk::new();
        let (cursor, end) = log(&disk, 2, &[(3, 1, 1)]);
        again.add_table(2, cursor, 0);
        again.extend(2, SegmentSpan { segment: 1, end, seal: None });
        assert!(again.next_commit().is_err(), "3 was not assumed to be whole, and was returned before");
    }
}
