//! Makes a group of commits durable and publishes it.
//!
//! First everything that can fail without harm is done whole: new tables, next segments and manifests under temporary names, zeros
//! for the frames, room in HEAD, open files. If any of it fails, the group is refused, what was made is removed, and the log goes
//! on. Only after that is a byte written that will be acknowledged, and from then on a failure is fatal (I5).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::{Error, Reason, Result};
use crate::format::frame::FrameAddress;
use crate::metrics;
use crate::planted::{PlantedBug, is_planted};
use crate::storage::fs::{self, File};
use crate::storage::wal::appender::{AppendError, Group, GroupTimes, Log, TableFrames};
use crate::storage::wal::new_table::NewTable;
use crate::storage::wal::rotation::Rotation;

/// How long the log waits for a file descriptor when part of a group is written already.
const DESCRIPTOR_WAIT: Duration = Duration::from_secs(5);
/// The pause between two tries meanwhile.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(10);

/// What was made for a group before anything of it counts.
#[derive(Debug, Default)]
struct Preparation {
    created: Vec<NewTable>,
    rotations: Vec<Rotation>,
}

impl Log {
    /// Makes a group durable and publishes it: appends frames, syncs segments, writes HEAD. When this returns, the commits
    /// are on disk (I3) and readers may show them (I4).
    pub fn append(&mut self, group: &mut Group) -> Result<(), AppendError> {
        // Also if there is nothing to write: the caller's answers are valid only while this process is the writer.
        self.fence.check().map_err(AppendError::Fatal)?;
        if group.tables.values().all(|table| table.frames.is_empty()) {
            return Ok(());
        }
        self.spares.retake();
        self.prepare(group).inspect_err(|error| {
            if let AppendError::Refused(error) = error {
                self.space.record_refusal(error);
            }
        })?;
        self.write_and_publish(group).map_err(AppendError::Fatal)
    }

    /// Prepares everything that the group needs. If the process has no file descriptor left, gives up the spare ones.
    fn prepare(&mut self, group: &Group) -> Result<(), AppendError> {
        match self.try_prepare(group) {
            Err(AppendError::Refused(error))
                if error.reason() == Reason::Overloaded && self.release_descriptors() =>
            {
                self.try_prepare(group)
            }
            prepared => prepared,
        }
    }

    fn try_prepare(&mut self, group: &Group) -> Result<(), AppendError> {
        let is_full = |id: &u64| {
            let table = self.tables.get(id);
            table.is_some_and(|table| table.segment.offset >= self.options.segment_bytes)
        };
        let rotated: Vec<u64> = group.tables.keys().copied().filter(is_full).collect();
        if !(group.created.is_empty() && rotated.is_empty()) {
            // A manifest must not name a later commit than HEAD on disk.
            self.sync_head().map_err(AppendError::Fatal)?;
            self.head.reserve(group.created.len())?;
        }
        let mut made = Preparation::default();
        let outcome = self
            .make_all(group, rotated, &mut made)
            .map_err(AppendError::from_step)
            .and_then(|()| self.finish_rotations(&mut made.rotations))
            .and_then(|()| NewTable::install_all(&*self.fs, &made.created));
        if let Err(error) = outcome {
            // After a fatal error the files stay as they are: recovery decides what counts.
            if matches!(error, AppendError::Refused(_)) {
                made.rotations.into_iter().for_each(|rotation| self.cancel_rotation(rotation));
                made.created.into_iter().for_each(|table| table.discard(&*self.fs, &self.dir));
            }
            return Err(error);
        }
        for table in made.created {
            self.add_new_table(table);
        }
        Ok(())
    }

    /// Makes everything whole that the group needs, under names that nothing refers to yet.
    fn make_all(&mut self, group: &Group, rotated: Vec<u64>, made: &mut Preparation) -> Result<()> {
        let needs_files = !(group.created.is_empty() && rotated.is_empty());
        if needs_files {
            self.space.check_growth().map_err(|e| Error::io("cannot create a segment", &e))?;
        }
        let len = |frames: Option<&TableFrames>| frames.map_or(0, |table| table.frames.bytes().len() as u64);
        for (id, name) in &group.created {
            let table = self.create_table(*id, name)?;
            let reserved = table.segment.reserve(len(group.tables.get(id)));
            made.created.push(table);
            reserved?;
        }
        for id in rotated {
            let rotation = self.prepare_rotation(id)?;
            let reserved = rotation.segment.reserve(len(group.tables.get(&id)));
            made.rotations.push(rotation);
            reserved?;
        }
        let mut first = Vec::new();
        for (id, frames) in &group.tables {
            let is_rotated = made.rotations.iter().any(|rotation| rotation.id == *id);
            if !is_rotated && let Some(table) = self.tables.get(id) {
                table.segment.reserve(len(Some(frames)))?;
                first.push(*id);
            }
        }
        if needs_files {
            self.space.record_room();
        }
        first.truncate(self.open_segments.limit());
        first.into_iter().try_for_each(|id| self.open_segment(id).map(drop))
    }

    fn write_and_publish(&mut self, group: &mut Group) -> Result<()> {
        group.written = true;
        let (published, _) = self.published();
        let mut written = None;
        let ids: Vec<u64> = group.tables.keys().copied().collect();
        // No more tables at once than may be open: a segment can be closed only after it was synced.
        for some in ids.chunks(self.open_segments.limit()) {
            let mut files = Vec::with_capacity(some.len());
            for id in some {
                if let Some(frames) = group.tables.get_mut(id) {
                    files.push(self.write_frames(*id, frames, published)?);
                }
            }
            if is_planted(PlantedBug::HeadEarly) {
                self.publish(some.iter().copied(), group.last_seq, group.last_ms)?;
            }
            if !is_planted(PlantedBug::AnswerBeforeFsync) {
                let began = Instant::now();
                written.get_or_insert(began);
                self.background.sync_all(&files).map_err(|e| Error::io("cannot sync segments", &e))?;
                metrics::FSYNC.record(began.elapsed().as_secs_f64());
            }
        }
        let synced = Instant::now();
        // A writer that takes over after this check finds the group on disk, and keeps it.
        self.fence.check()?;
        self.pass_gate(ids.iter().copied(), group.last_seq, group.last_ms)?;
        let passed = self.options.gate.may_wait().then(Instant::now);
        self.publish(ids.into_iter(), group.last_seq, group.last_ms)?;
        let written = written.unwrap_or(synced);
        group.times = Some(GroupTimes { written, synced, passed, published: Instant::now() });
        self.prepare_ahead(group.tables.keys().copied());
        for (name, yaml) in &group.schemas {
            // The file is for people only (I8): a failure does not affect the durable commit.
            let (path, temporary) = (self.dir.schema(name), self.dir.schema_tmp(name, self.term()));
            if let Err(error) = fs::replace_via(&*self.fs, &temporary, &path, yaml.as_bytes()) {
                tracing::warn!(%error, table = name, "cannot write schema.yaml");
            }
        }
        Ok(())
    }

    /// Writes a table's frames, and returns the file to sync.
    fn write_frames(&mut self, id: u64, frames: &mut TableFrames, published: u64) -> Result<Arc<dyn File>> {
        let deadline = Instant::now() + DESCRIPTOR_WAIT;
        loop {
            match self.open_segment(id) {
                Ok(_) => break,
                // Frames of other tables are written already. Others will close their files.
                Err(error) if error.reason() == Reason::Overloaded && Instant::now() < deadline => {
                    self.release_descriptors();
                    std::thread::sleep(DESCRIPTOR_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        let table = self.table_mut(id)?;
        let address = FrameAddress { table: id, segment: table.segment.number, offset: table.segment.offset };
        let crcs = frames.frames.stamp(address, published);
        let file = table.segment.write(frames.frames.bytes(), &crcs)?;
        table.entry.bytes = table.segment.offset;
        table.entry.last_seq = frames.last_seq;
        Ok(file)
    }

    /// Opens a table's active segment, and closes the one that was not used for the longest time if too many are open.
    /// All frames in that one were synced.
    fn open_segment(&mut self, id: u64) -> Result<Arc<dyn File>> {
        if let Some(oldest) = self.open_segments.touch(id)
            && let Some(table) = self.tables.get_mut(&oldest)
        {
            table.segment.close_file();
        }
        self.table_mut(id)?.segment.open_file()
    }

    /// Closes half of the active segments, and gives up the spare descriptors. Must be called only if all frames were synced,
    /// except those of the tables used last. Returns whether any was closed.
    fn release_descriptors(&mut self) -> bool {
        let mut released = self.spares.give_up();
        for _ in 0..self.open_segments.len() / 2 {
            let Some(oldest) = self.open_segments.pop_oldest() else { break };
            if let Some(table) = self.tables.get_mut(&oldest) {
                table.segment.close_file();
                released = true;
            }
        }
        released
    }
}
