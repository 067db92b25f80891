//! The log, open for writing: takes a group of commits from memory to disk, and publishes it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::frame::{FrameAddress, FrameBuffer};
use crate::format::head::TableEntry;
use crate::format::manifest::{self, Database, Manifest, Seal, Segment};
use crate::limits;
use crate::storage::fence::{Fence, Fencing};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::HeadFile;
use crate::storage::layout::{self, DataDir};
use crate::storage::lock::Lock;
use crate::storage::wal::background::Background;
use crate::storage::wal::segment::ActiveSegment;

/// How a log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// A segment is sealed when it has reached this many bytes.
    pub segment_bytes: u64,
    /// Whether threads sync segments together and write zeros ahead. Off only in tests that need a known order.
    pub background: bool,
    /// Whether it looks for writers that have taken over.
    pub fencing: Fencing,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions { segment_bytes: limits::SEGMENT_BYTES, background: true, fencing: Fencing::Auto }
    }
}

/// Commits that are written and synced together.
#[derive(Debug, Default)]
pub struct Group {
    /// Tables that its commits create: id and name.
    pub created: Vec<(u64, String)>,
    /// Frames by table id.
    pub tables: BTreeMap<u64, TableFrames>,
    /// Schemas it changes, for people: table and YAML text.
    pub schemas: Vec<(String, String)>,
    /// Its last commit.
    pub last_seq: u64,
    /// That commit's time.
    pub last_ms: u64,
}

/// A group's frames in one table.
#[derive(Debug, Default)]
pub struct TableFrames {
    /// The frames.
    pub frames: FrameBuffer,
    /// The last commit among them.
    pub last_seq: u64,
}

/// Why a group did not become durable.
#[derive(Debug)]
pub enum AppendError {
    /// Nothing was written, and the log goes on: no space.
    Refused(Error),
    /// What is on disk is not known. The log must not be used again (I5).
    Fatal(Error),
}

impl AppendError {
    /// That of something that can fail alone. Where another writer has taken over, all has failed.
    fn alone(error: Error) -> AppendError {
        match error.reason() {
            Reason::Fenced => AppendError::Fatal(error),
            _ => AppendError::Refused(error),
        }
    }
}

/// What a table's log amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStorage {
    /// Bytes of frames in all segments.
    pub bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of all files: frames, snapshots, indexes.
    pub bytes_on_disk: u64,
    /// Snapshot files, indexes not counted.
    pub snapshots: u64,
    /// The oldest moment that can be read; 0 where none is too old.
    pub floor: u64,
}

/// What a compaction of a table's log starts from.
#[derive(Debug, Clone)]
pub struct CompactionInput {
    /// The manifest.
    pub manifest: Manifest,
    /// The number of the segment to write. No other gets it.
    pub number: u64,
    /// The term of the writer, for the name of the segment while it is written.
    pub term: u64,
    /// Numbered segments that are there and that the manifest does not name: superseded before, not removed yet.
    pub stale: Vec<u64>,
}

/// One table's log.
#[derive(Debug)]
pub(in crate::storage) struct TableLog {
    pub(in crate::storage) manifest: Manifest,
    pub(in crate::storage) slot_index: usize,
    pub(in crate::storage) slot: TableEntry,
    pub(in crate::storage) segment: ActiveSegment,
    /// The greatest number that was given to a segment which the manifest may not name yet.
    pub(in crate::storage) reserved: u64,
}

impl TableLog {
    /// The number of the table's next segment: over all that there are.
    fn next_number(&mut self) -> u64 {
        let segments = self.manifest.segments.iter().map(|segment| segment.number);
        self.reserved = segments.fold(self.reserved, u64::max) + 1;
        self.reserved
    }
}

/// The log of a database, open for writing. Holds the lock.
#[derive(Debug)]
pub struct Log {
    /// Fenced, where fencing is on.
    pub(in crate::storage) disk: Arc<dyn FileSystem>,
    pub(in crate::storage) fence: Fence,
    pub(in crate::storage) dir: DataDir,
    pub(in crate::storage) options: LogOptions,
    pub(in crate::storage) database: Database,
    pub(in crate::storage) head: HeadFile,
    pub(in crate::storage) tables: HashMap<u64, TableLog>,
    pub(in crate::storage) background: Background,
    /// Last, so that it is let go last: no thread of this log may write once another writer can open it.
    pub(in crate::storage) lock: Lock,
}

impl Log {
    /// What names the database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Counts the writers that have opened this database, this one too.
    pub fn term(&self) -> u64 {
        self.head.head().header.term
    }

    /// The last published commit and its time.
    pub fn published(&self) -> (u64, u64) {
        let header = &self.head.head().header;
        (header.last_seq, header.last_ms)
    }

    /// The disk, for all that is done in this writer's name beside the log: once another has taken over, no name changes.
    pub fn disk(&self) -> &Arc<dyn FileSystem> {
        &self.disk
    }

    /// What tells whether this still is the writer.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Says in LOCK where clients reach this writer.
    pub fn set_address(&mut self, address: &str) -> Result<()> {
        self.fence.check()?;
        self.lock.set_address(address)
    }

    /// What a table's log amounts to.
    pub fn storage(&self, table_id: u64) -> TableStorage {
        let Some(table) = self.tables.get(&table_id) else { return TableStorage::default() };
        let sealed =
            table.manifest.segments.iter().filter_map(|segment| segment.sealed).map(|seal| seal.bytes);
        let Manifest { deltas, images, segments, floor, .. } = &table.manifest;
        let bytes = sealed.sum::<u64>() + table.segment.offset;
        let files = deltas.iter().map(|era| era.bytes).chain(images.iter().map(|full| full.bytes));
        TableStorage {
            bytes,
            segments: segments.len() as u64,
            bytes_on_disk: bytes + files.sum::<u64>(),
            snapshots: (deltas.len() + images.len()) as u64,
            floor: floor.map_or(0, |floor| floor.seq),
        }
    }

    /// Bytes of a table's log after its newest snapshot.
    pub fn tail_bytes(&self, table_id: u64) -> u64 {
        let Some(table) = self.tables.get(&table_id) else { return 0 };
        let position = table.manifest.deltas.last().map(|era| era.position).unwrap_or_default();
        let segments = table.manifest.segments.iter();
        let after =
            segments.skip_while(|segment| position.segment != 0 && segment.number != position.segment);
        let bytes = after.map(|segment| segment.sealed.map_or(table.segment.offset, |seal| seal.bytes));
        bytes.sum::<u64>().saturating_sub(position.offset)
    }

    /// Makes a group durable and publishes it: append, sync, HEAD. When this returns, its commits are on disk (I3)
    /// and readers may show them (I4).
    pub fn append(&mut self, group: &mut Group) -> Result<(), AppendError> {
        // Also where nothing is to be written: what is answered rests on this still being the writer.
        self.fence.check().map_err(AppendError::Fatal)?;
        if group.tables.values().all(|table| table.frames.is_empty()) {
            return Ok(());
        }
        // Space first: where there is none, nothing has happened yet and the log can go on.
        for (id, frames) in &group.tables {
            if let Some(table) = self.tables.get(id) {
                let needed = frames.frames.bytes().len() as u64;
                table.segment.ensure(needed).map_err(|e| match e.reason() {
                    Reason::DiskFull => AppendError::Refused(e),
                    _ => AppendError::Fatal(e),
                })?;
            }
        }
        self.write_and_publish(group).map_err(AppendError::Fatal)
    }

    fn write_and_publish(&mut self, group: &mut Group) -> Result<()> {
        for (id, name) in &group.created {
            self.create_table(*id, name)?;
        }
        let (published, _) = self.published();
        let mut files = Vec::with_capacity(group.tables.len());
        for (id, frames) in &mut group.tables {
            if self.tables.get(id).is_some_and(|table| table.segment.offset >= self.options.segment_bytes) {
                self.rotate(*id)?;
            }
            let table = self.tables.get_mut(id).ok_or_else(|| unknown_table(*id))?;
            let place =
                FrameAddress { table: *id, segment: table.segment.number, offset: table.segment.offset };
            let crcs = frames.frames.stamp(place, published);
            table.segment.ensure(frames.frames.bytes().len() as u64)?;
            table.segment.write(frames.frames.bytes(), &crcs)?;
            table.slot.bytes = table.segment.offset;
            table.slot.last_seq = frames.last_seq;
            files.push(table.segment.file());
        }
        self.background.sync_all(&files).map_err(|e| Error::io("cannot sync a segment", &e))?;
        // One that takes over after this look finds the group on disk, and keeps it.
        self.fence.check()?;
        self.publish(group.tables.keys().copied(), group.last_seq, group.last_ms)?;
        for (name, yaml) in &group.schemas {
            // For people only (I8): a commit that is on disk is not undone by it.
            let (path, temporary) = (self.dir.schema(name), self.dir.schema_tmp(name, self.term()));
            if let Err(error) = fs::replace_by(&*self.disk, &temporary, &path, yaml.as_bytes()) {
                tracing::warn!(%error, table = name, "could not write schema.yaml");
            }
        }
        Ok(())
    }

    fn publish(&mut self, ids: impl Iterator<Item = u64>, last_seq: u64, last_ms: u64) -> Result<()> {
        let mut slots = Vec::new();
        for id in ids {
            let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
            table.segment.check()?;
            slots.push((table.slot_index, table.slot));
            self.background.fill_ahead(table.segment.space(), table.segment.offset);
        }
        // New slots go to the end, each after the one before it.
        slots.sort_unstable_by_key(|(index, _)| *index);
        self.head.publish(&slots, last_seq, last_ms, false)
    }

    /// Publishes every table's slot as it stands: the end of recovery.
    pub(in crate::storage) fn publish_all(&mut self, last_seq: u64, last_ms: u64) -> Result<()> {
        self.fence.check()?;
        let ids: Vec<u64> = self.tables.keys().copied().collect();
        self.publish(ids.into_iter(), last_seq, last_ms)?;
        self.sync_head()
    }

    fn sync_head(&self) -> Result<()> {
        self.head.sync().run().map_err(|e| Error::io("cannot sync HEAD", &e))
    }

    /// Makes a table's directory and first segment, durable with their names (I6).
    fn create_table(&mut self, id: u64, name: &str) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format_args!("cannot create table {name}"), &e);
        self.disk.create_dir(&self.dir.segments(name)).map_err(failed)?;
        self.disk.sync_dir(&self.dir.tables()).map_err(failed)?;
        self.disk.sync_dir(&self.dir.table(name)).map_err(failed)?;
        let segment = self.new_segment(name, 1)?;
        let manifest = Manifest {
            table: name.to_owned(),
            table_id: id,
            version: 1,
            term: self.term(),
            published: self.published().0,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments: vec![Segment { number: 1, sealed: None }],
        };
        self.write_manifest(&manifest)?;
        // Tables created by this group have no slot in HEAD yet.
        let slot_index = self.tables.values().map(|table| table.slot_index + 1).max().unwrap_or(0);
        let slot = TableEntry { table: id, manifest: 1, segment: 1, ..TableEntry::default() };
        self.tables.insert(id, TableLog { manifest, slot_index, slot, segment, reserved: 1 });
        Ok(())
    }

    /// Seals a table's active segment and goes on in a new one. The order matters: the old one is sealed and synced,
    /// the new one exists durably, and only then does the manifest name it.
    pub(in crate::storage) fn rotate(&mut self, id: u64) -> Result<()> {
        self.fence.check()?;
        let seal = self.tables.get(&id).ok_or_else(|| unknown_table(id))?.segment.seal()?;
        let segment = self.create_segment(id)?;
        self.go_on_in(id, seal, segment)
    }

    fn create_segment(&mut self, id: u64) -> Result<ActiveSegment> {
        let table = self.tables.get_mut(&id).ok_or_else(|| unknown_table(id))?;
        let number = table.next_number();
        let name = table.manifest.table.clone();
        self.new_segment(&name, number)
    }

    pub(in crate::storage) fn new_segment(&self, table: &str, number: u64) -> Result<ActiveSegment> {
        let (path, temporary) =
            (self.dir.segment(table, number), self.dir.segment_tmp(table, number, self.term()));
        ActiveSegment::create(&*self.disk, (&temporary, &path), number, self.options.segment_bytes)
    }

    fn go_on_in(&mut self, id: u64, seal: Seal, segment: ActiveSegment) -> Result<()> {
        let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
        let mut manifest = self.next_manifest(table);
        if let Some(last) = manifest.segments.last_mut() {
            last.sealed = Some(seal);
        }
        let number = segment.number;
        manifest.segments.push(Segment { number, sealed: None });
        self.write_manifest(&manifest)?;
        tracing::debug!(table = manifest.table, segment = number, "rotated");
        let table = self.tables.get_mut(&id).ok_or_else(|| unknown_table(id))?;
        table.slot = TableEntry { manifest: manifest.version, segment: number, bytes: 0, ..table.slot };
        table.manifest = manifest;
        table.segment = segment;
        Ok(())
    }

    /// Readies a table's log for a compaction that takes in its segment `upto`: an active one is sealed, so that what
    /// is copied does not grow meanwhile. Between two groups only.
    pub fn begin_fold(&mut self, id: u64, upto: u64) -> Result<CompactionInput, AppendError> {
        let unknown = || AppendError::Refused(unknown_table(id));
        let table = self.tables.get(&id).ok_or_else(unknown)?;
        if table.segment.number == upto {
            // The new one first: where there is no space for it, nothing has happened.
            let segment = self.create_segment(id).map_err(AppendError::alone)?;
            self.fence.check().map_err(AppendError::Fatal)?;
            let table = self.tables.get(&id).ok_or_else(unknown)?;
            let seal = table.segment.seal().map_err(AppendError::Fatal)?;
            self.go_on_in(id, seal, segment).map_err(AppendError::Fatal)?;
        }
        let table = self.tables.get_mut(&id).ok_or_else(unknown)?;
        let (number, manifest) = (table.next_number(), table.manifest.clone());
        let path = self.dir.segments(&manifest.table);
        let names = self.disk.list(&path).map_err(|e| {
            AppendError::Refused(Error::io(format_args!("cannot list {}", path.display()), &e))
        })?;
        let listed = |number: &u64| manifest.segments.iter().any(|segment| segment.number == *number);
        let numbers = names.iter().filter_map(|name| layout::segment_number(name));
        let stale = numbers.filter(|number| !listed(number)).collect();
        Ok(CompactionInput { manifest, number, term: self.term(), stale })
    }

    /// A table's manifest, to be changed and put in place.
    fn next_manifest(&self, table: &TableLog) -> Manifest {
        let (published, last_ms) = self.published();
        let version = table.manifest.version + 1;
        let published_ms = if table.manifest.deltas.is_empty() { 0 } else { last_ms };
        Manifest { version, term: self.term(), published, published_ms, ..table.manifest.clone() }
    }

    /// A table's manifest.
    pub fn manifest(&self, id: u64) -> Option<&Manifest> {
        self.tables.get(&id).map(|table| &table.manifest)
    }

    /// How far a table's log is durable.
    pub fn slot(&self, id: u64) -> Option<&TableEntry> {
        self.tables.get(&id).map(|table| &table.slot)
    }

    /// Changes the files that make up a table, other than its active segment, and tells readers. What the new manifest
    /// names must be on disk. A failure leaves the old files in use; which manifest is on disk is then not known, and
    /// both are right. The floor is published before anything that relies on it is done.
    pub fn edit(
        &mut self,
        id: u64,
        edit: &mut dyn FnMut(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest, AppendError> {
        let manifest = self.put_edited(id, edit).map_err(AppendError::alone)?;
        let (last_seq, last_ms) = self.published();
        if let Some(table) = self.tables.get_mut(&id) {
            table.slot.manifest = manifest.version;
            table.slot.floor = manifest.floor.map_or(0, |floor| floor.seq);
            table.manifest = manifest.clone();
            let slot = (table.slot_index, table.slot);
            self.fence.check().map_err(AppendError::Fatal)?;
            self.head.publish(&[slot], last_seq, last_ms, false).map_err(AppendError::Fatal)?;
        }
        Ok(manifest)
    }

    fn put_edited(&mut self, id: u64, edit: &mut dyn FnMut(&mut Manifest) -> Result<()>) -> Result<Manifest> {
        let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
        let mut manifest = self.next_manifest(table);
        edit(&mut manifest)?;
        manifest.published_ms = if manifest.deltas.is_empty() { 0 } else { self.published().1 };
        if let Some(table) = self.tables.get_mut(&id) {
            // Never two manifests of one version, whatever comes of this one.
            table.manifest.version = manifest.version;
        }
        self.write_manifest(&manifest)?;
        Ok(manifest)
    }

    /// Puts a manifest in place. HEAD is synced before: what a manifest says must not lead it.
    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        self.sync_head()?;
        let (path, temporary) =
            (self.dir.manifest(&manifest.table), self.dir.manifest_tmp(&manifest.table, manifest.term));
        fs::replace_by(&*self.disk, &temporary, &path, &manifest::encode(manifest)?)
    }

    /// Ends the log in good order: cuts the zeros off, says in HEAD that it was closed, and lets the lock go.
    pub fn close(mut self) -> Result<()> {
        self.fence.check()?;
        for table in self.tables.values() {
            table.segment.seal()?;
        }
        // Whoever reads that the log was closed goes on in its segments.
        self.fence.check()?;
        let (last_seq, last_ms) = self.published();
        self.head.publish(&[], last_seq, last_ms, true)?;
        self.sync_head()?;
        // It may have been said in a HEAD that nobody reads.
        self.fence.check()
    }
}

fn unknown_table(id: u64) -> Error {
    Error::new(Reason::Internal, format!("the log has no table of id {id}"))
}
