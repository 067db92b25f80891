//! What recovery finds on disk, and whether everything that was published is among it. Changes nothing.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::replay::Replay;
use crate::error::{Error, Reason, Result};
use crate::format::event::{self, EventType};
use crate::format::frame::{self, FrameAddress};
use crate::format::manifest::Manifest;
use crate::limits;
use crate::storage::fence::{Fence, OpenedFiles};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::Head;
use crate::storage::layout::{self, DataDir};
use crate::storage::wal::commit_reader::CommitReader;
use crate::storage::wal::compaction_base::BaseReader;
use crate::storage::wal::cursor::{CursorPosition, LogCursor, SegmentSpan};

/// How often a directory that another writer may still change is surveyed before an error counts.
const SURVEYS: u32 = 5;
/// The directories for which another thread is worth its start.
const DIRECTORIES_PER_THREAD: usize = 64;
/// How long to wait between two such surveys.
const SURVEY_INTERVAL: Duration = Duration::from_millis(50);

/// Everything found on disk, before anything is changed.
pub(super) struct Survey {
    dir: DataDir,
    pub(super) commits: CommitReader,
    pub(super) tables: HashMap<u64, SurveyedTable>,
    /// Directories of tables without a manifest: their creation never became durable.
    pub(super) leftovers: Vec<String>,
    /// The greatest commit that anything on disk proves to have been published.
    published: u64,
    /// The greatest commit that is known to be whole because a snapshot contains it, and its time.
    snapshot_seq: u64,
    snapshot_ms: u64,
    /// The time of the last whole commit, in milliseconds since 1970.
    pub(super) last_ms: u64,
}

/// A table as found.
pub(super) struct SurveyedTable {
    pub(super) manifest: Manifest,
    /// Segment files that the manifest does not list, and that contain no frame that counts.
    pub(super) unlisted: Vec<u64>,
    /// The length of the active segment's file, in bytes.
    pub(super) active_len: u64,
    /// Files of layers that are damaged, and that `manifest` does not name any more.
    pub(super) damaged: Vec<PathBuf>,
}

impl SurveyedTable {
    /// Returns the index of a segment among the listed ones.
    fn segment_index(&self, number: u64) -> Option<usize> {
        self.manifest.segments.iter().position(|segment| segment.number == number)
    }
}

impl Survey {
    /// Surveys the directory. Fails if anything that was published is missing or damaged.
    pub(super) fn complete(
        fs: &Arc<dyn FileSystem>,
        dir: &DataDir,
        head: &Head,
        replay: &mut dyn Replay,
    ) -> Result<Survey> {
        let mut survey = Survey::open_tables(fs, dir, head, replay)?;
        survey.replay(replay)?;
        survey.check_published(head)?;
        Ok(survey)
    }

    /// Does the same as [`Survey::complete`] while the last writer may still change files. Tries several times: real damage
    /// stays, and a half-finished change disappears.
    pub(super) fn complete_beside_writer(
        fs: &Arc<dyn FileSystem>,
        dir: &DataDir,
        head: &Head,
    ) -> Result<Survey> {
        let mut surveys = 0;
        loop {
            let error = match Survey::complete(fs, dir, head, &mut |_| Ok(())) {
                Ok(survey) => return Ok(survey),
                Err(error) => error,
            };
            // If a third writer has taken over, report that instead.
            Fence::new(fs, dir, head.header.term, true, OpenedFiles::default()).check()?;
            surveys += 1;
            if surveys == SURVEYS {
                return Err(error);
            }
            std::thread::sleep(SURVEY_INTERVAL);
        }
    }

    /// Finds all tables and prepares to read their logs.
    fn open_tables(
        fs: &Arc<dyn FileSystem>,
        dir: &DataDir,
        head: &Head,
        replay: &mut dyn Replay,
    ) -> Result<Survey> {
        let mut survey = Survey {
            dir: dir.clone(),
            commits: CommitReader::new(0),
            tables: HashMap::new(),
            leftovers: Vec::new(),
            published: head.last_seq(),
            snapshot_seq: 0,
            snapshot_ms: 0,
            last_ms: 0,
        };
        for name in layout::table_names(&**fs, dir)? {
            match layout::read_manifest(&**fs, dir, &name)? {
                Some(manifest) => {
                    let (manifest, damaged) = replay.set_aside_damage(manifest)?;
                    survey.open_table(fs, manifest, damaged)?;
                }
                None => {
                    let numbers = layout::segment_numbers(&**fs, dir, &name)?;
                    if let Some(number) = numbers.into_iter().find(|number| *number > 1) {
                        let detail = "the table has no meta.json";
                        return Err(Error::corrupt(dir.segment(&name, number).display(), 0, detail));
                    }
                    survey.leftovers.push(name);
                }
            }
        }
        Ok(survey)
    }

    fn open_table(
        &mut self,
        fs: &Arc<dyn FileSystem>,
        manifest: Manifest,
        damaged: Vec<PathBuf>,
    ) -> Result<()> {
        let (name, id) = (&manifest.table, manifest.table_id);
        let present = layout::segment_numbers(&**fs, &self.dir, name)?;
        let mut cursor = LogCursor::new(Arc::clone(fs), &self.dir, name, id);
        let newest = manifest.deltas.last();
        if let Some(layer) = newest {
            cursor = cursor.starting_at(CursorPosition::from_log_position(&layer.position));
        }
        let mut active_len = 0;
        // Segments before the newest snapshot's position are not read again.
        let mut is_readable = newest.is_none();
        for segment in &manifest.segments {
            let path = self.dir.segment(name, segment.number);
            if !present.contains(&segment.number) {
                return Err(Error::corrupt(path.display(), 0, "meta.json lists the file, and it is missing"));
            }
            let end = match segment.sealed {
                Some(seal) => seal.bytes,
                None => {
                    let len = fs.open_fresh(&path).and_then(|file| fs::find_end(&*file));
                    active_len =
                        len.map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
                    active_len
                }
            };
            is_readable |= newest.is_some_and(|layer| layer.position.segment == segment.number);
            if is_readable {
                cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
            }
        }
        if !is_readable {
            let detail =
                "the log continues after the newest snapshot in a segment that the file does not list";
            return Err(Error::corrupt(self.dir.manifest(name).display(), 0, detail));
        }
        let unlisted = self.check_unlisted(&**fs, &manifest, present)?;
        self.published = self.published.max(manifest.published);
        if newest.is_some() && manifest.published > self.snapshot_seq {
            (self.snapshot_seq, self.snapshot_ms) = (manifest.published, manifest.published_ms);
        }
        self.commits.add_table(id, cursor, newest.map_or(0, |layer| layer.seq));
        if let Some(last) = manifest.segments.last() {
            // The cursor has all spans already. This only makes the reader read the table.
            self.commits.extend(id, SegmentSpan { segment: last.number, end: 0, seal: None });
        }
        self.tables.insert(id, SurveyedTable { manifest, unlisted, active_len, damaged });
        Ok(())
    }

    /// Returns the segments that a manifest does not list. Fails if one of them contains frames that count.
    fn check_unlisted(
        &self,
        fs: &dyn FileSystem,
        manifest: &Manifest,
        present: Vec<u64>,
    ) -> Result<Vec<u64>> {
        let (name, id) = (&manifest.table, manifest.table_id);
        let listed = |number: &u64| manifest.segments.iter().any(|segment| segment.number == *number);
        let unlisted: Vec<u64> = present.into_iter().filter(|number| !listed(number)).collect();
        let superseded = superseded_segments(fs, &self.dir, manifest)?;
        for number in unlisted.iter().filter(|number| !superseded.contains(number)) {
            let path = self.dir.segment(name, *number);
            let bytes = fs::read_range(fs, &path, 0, frame::PREFIX as u64 + limits::FRAME_BYTES as u64)?;
            let first = frame::parse(&bytes, FrameAddress { table: id, segment: *number, offset: 0 });
            // A segment that starts with FLOOR is the result of a compaction that did not complete.
            if first.is_ok_and(|first| first.kind != EventType::Floor) {
                let detail = "the file contains frames, and meta.json does not list it";
                return Err(Error::corrupt(path.display(), 0, detail));
            }
        }
        Ok(unlisted)
    }

    /// Reads every whole commit.
    fn replay(&mut self, replay: &mut dyn Replay) -> Result<()> {
        // The commits in a snapshot, and all earlier ones, were published before the snapshot was taken.
        self.commits.assume_whole(self.snapshot_seq);
        let mut tables: Vec<&Manifest> = self.tables.values().map(|table| &table.manifest).collect();
        tables.sort_unstable_by_key(|manifest| manifest.table_id);
        tables.into_iter().try_for_each(|manifest| replay.replay_table(manifest))?;
        while let Some(commit) = self.commits.next_commit()? {
            if commit.time_ms < self.last_ms {
                let message = format!("commit {} has an earlier time than the commit before it", commit.seq);
                return Err(Error::new(Reason::Corrupt, message));
            }
            self.last_ms = commit.time_ms;
            replay.replay_commit(commit)?;
        }
        self.last_ms = self.last_ms.max(self.snapshot_ms);
        self.commits.drain()?;
        self.published = self.published.max(self.commits.published());
        Ok(())
    }

    /// Returns the last whole commit, before which all commits are whole.
    pub(super) fn last_whole_seq(&self) -> u64 {
        self.commits.next_seq() - 1
    }

    /// I7: fails if anything that was published is missing or damaged.
    fn check_published(&mut self, head: &Head) -> Result<()> {
        for source in self.commits.sources().values() {
            let (cursor, position) = (source.cursor(), source.cursor().position());
            if let Some(error) = source.invalid()
                && cursor.is_in_sealed_segment()
            {
                let path = cursor.path();
                return Err(Error::corrupt_by(path.display(), position.offset, error));
            }
        }
        for entry in head.entries.iter().filter(|entry| entry.table != 0) {
            let Some(source) = self.commits.sources().get(&entry.table) else {
                let detail = format!("HEAD has an entry of table {}, and no table has this id", entry.table);
                return Err(Error::corrupt(self.dir.head().display(), 0, detail));
            };
            let (cursor, position) = (source.cursor(), source.cursor().position());
            let index = |number| self.tables.get(&entry.table).and_then(|table| table.segment_index(number));
            if (index(position.segment), position.offset) < (index(entry.segment), entry.bytes) {
                let found = match source.invalid() {
                    Some(error) => error.to_string(),
                    None => "the file ends".to_owned(),
                };
                let detail = format!(
                    "{found}; HEAD says that segment {} is durable to byte {}",
                    entry.segment, entry.bytes
                );
                return Err(Error::corrupt(cursor.path().display(), position.offset, detail));
            }
        }
        self.scan_past_damage()?;
        if self.last_whole_seq() < self.published {
            return Err(self.lost_commits_error());
        }
        Ok(())
    }

    /// Scans the bytes after invalid frames. The frames there may be torn, but the commits that they name as published
    /// were published.
    fn scan_past_damage(&mut self) -> Result<()> {
        for (id, source) in self.commits.sources_mut() {
            if source.invalid().is_some() {
                let tail = source.read_to_end()?;
                let published = greatest_published_in(&tail, *id, source.cursor().position());
                self.published = self.published.max(published);
            }
        }
        Ok(())
    }

    fn lost_commits_error(&self) -> Error {
        let missing = self.last_whole_seq() + 1;
        let detail = |found: &str| {
            format!("commit {missing} was published, and the log does not have all of it: {found}")
        };
        let sources = self.commits.sources().values();
        let suspect = sources.max_by_key(|source| (source.invalid().is_some(), source.position().offset));
        let Some(source) = suspect else {
            return Error::corrupt(self.dir.head().display(), 0, detail("no table exists"));
        };
        let (path, offset) = (source.cursor().path(), source.cursor().position().offset);
        match source.invalid() {
            Some(e) => Error::corrupt(path.display(), offset, detail(&e.to_string())).caused_by(e),
            None => Error::corrupt(path.display(), offset, detail("the log ends")),
        }
    }

    /// Makes every found name durable. A writer killed between a rename and its sync leaves names that a power cut can
    /// undo, and HEAD is about to rely on them.
    pub(super) fn sync_names(&self, fs: &dyn FileSystem, dir: &DataDir) -> Result<()> {
        let mut paths = vec![dir.root().to_owned(), dir.tables()];
        for table in self.tables.values() {
            paths.push(dir.table(&table.manifest.table));
            paths.push(dir.segments(&table.manifest.table));
        }
        let sync = |path: &PathBuf| {
            let failed = |e: io::Error| Error::io(format_args!("cannot sync {}", path.display()), &e);
            fs.sync_dir(path).map_err(failed)
        };
        let threads = (paths.len() / DIRECTORIES_PER_THREAD).min(limits::PARALLEL_SYNCS);
        if threads < 2 {
            return paths.iter().try_for_each(sync);
        }
        // Thousands of tables have thousands of directories, and a disk does many syncs in the time of one.
        std::thread::scope(|scope| {
            let sync_some = |some: &[PathBuf]| some.iter().try_for_each(sync);
            let parts = paths.chunks(paths.len().div_ceil(threads));
            let running: Vec<_> = parts.map(|some| scope.spawn(move || sync_some(some))).collect();
            let panicked = |_| Err(Error::new(Reason::Internal, "a thread that syncs directories panicked"));
            running.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(panicked))
        })
    }
}

/// Returns the segments that the first listed segment replaces, if a compaction wrote it. Those that still exist may be
/// removed.
fn superseded_segments(fs: &dyn FileSystem, dir: &DataDir, manifest: &Manifest) -> Result<Vec<u64>> {
    let (Some(first), Some(_)) = (manifest.segments.first(), manifest.floor) else { return Ok(Vec::new()) };
    let Some(seal) = first.sealed else { return Ok(Vec::new()) };
    let table = (manifest.table.as_str(), manifest.table_id);
    let base = BaseReader::open(fs, dir, table, first.number, seal.bytes)?;
    Ok(base.map(|base| base.floor().superseded.clone()).unwrap_or_default())
}

/// Returns the greatest "last published" seq of any valid frame in `tail`, the bytes from `position` on. Frames may start
/// at any offset.
fn greatest_published_in(tail: &[u8], table: u64, position: &CursorPosition) -> u64 {
    let mut published = 0;
    let mut at = 0;
    while let Some(rest) = tail.get(at..).filter(|rest| rest.len() > frame::PREFIX) {
        let address = FrameAddress { table, segment: position.segment, offset: position.offset + at as u64 };
        match frame::parse(rest, address) {
            Ok(frame) => {
                let payload = bytes::Bytes::copy_from_slice(frame.payload);
                let event = event::decode(frame.kind, &payload).ok();
                published = published.max(event.and_then(|event| event.published).unwrap_or(0));
                at += frame.len;
            }
            Err(_) => {
                // The length of a frame is not zero: skip the preallocated zeros, which can be many.
                let next = rest.iter().skip(1).position(|byte| *byte != 0).unwrap_or(rest.len());
                at += (next + 1).saturating_sub(3).max(1);
            }
        }
    }
    published
}
