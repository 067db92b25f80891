//! The log, open for writing: makes groups of commits durable and publishes them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::frame::{FrameAddress, FrameBuffer};
use crate::format::head::{HeadIncarnation, TableEntry};
use crate::format::lineage::{Lineage, LineageEntry};
use crate::format::manifest::{self, Database, Manifest, Seal, Segment};
use crate::limits;
use crate::storage::fence::{Fence, Fencing};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir};
use crate::storage::lineage;
use crate::storage::lock::Lock;
use crate::storage::wal::background::Background;
use crate::storage::wal::segment::ActiveSegment;

/// How a log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The length in bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// Whether background threads sync segments and preallocate zeros. Off only in tests that need a known order.
    pub background: bool,
    /// Whether the writer checks for other writers that have taken over.
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
    /// The tables that the commits create: id and name.
    pub created: Vec<(u64, String)>,
    /// Frames by table id.
    pub tables: BTreeMap<u64, TableFrames>,
    /// The changed schemas, for people: table and YAML text.
    pub schemas: Vec<(String, String)>,
    /// The last commit.
    pub last_seq: u64,
    /// The time of the last commit, in milliseconds since 1970.
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
    /// Nothing was written, and the log stays usable: for example, the disk is full.
    Refused(Error),
    /// It is not known what is on disk. The log must not be used again (I5).
    Fatal(Error),
}

impl AppendError {
    /// Converts the error of a step that can fail without harm to the log. It is fatal if another writer has taken over.
    fn from_step(error: Error) -> AppendError {
        match error.reason() {
            Reason::Fenced => AppendError::Fatal(error),
            _ => AppendError::Refused(error),
        }
    }
}

/// The storage that a table uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableStorage {
    /// Bytes of frames in all segments.
    pub bytes: u64,
    /// The number of segments.
    pub segments: u64,
    /// Bytes of all files: frames, snapshots and indexes.
    pub bytes_on_disk: u64,
    /// The number of snapshot files, without indexes.
    pub snapshots: u64,
    /// The oldest commit that can be read; 0 if all can.
    pub floor: u64,
}

/// The input of a compaction of a table's log.
#[derive(Debug, Clone)]
pub struct CompactionInput {
    /// The manifest.
    pub manifest: Manifest,
    /// The number of the segment to write. No other segment gets this number.
    pub number: u64,
    /// The writer's term, for the name of the unfinished segment.
    pub term: u64,
    /// Segment files that the manifest does not list: superseded by an earlier compaction, and not removed yet.
    pub stale: Vec<u64>,
}

/// One table's log.
#[derive(Debug)]
pub(in crate::storage) struct TableLog {
    pub(in crate::storage) manifest: Manifest,
    /// The index of the table's entry in HEAD.
    pub(in crate::storage) entry_index: usize,
    pub(in crate::storage) entry: TableEntry,
    pub(in crate::storage) segment: ActiveSegment,
    /// The greatest segment number in use, including segments that the manifest does not list yet.
    pub(in crate::storage) reserved: u64,
}

impl TableLog {
    /// Reserves the number of the table's next segment: above all existing ones.
    fn next_number(&mut self) -> u64 {
        let segments = self.manifest.segments.iter().map(|segment| segment.number);
        self.reserved = segments.fold(self.reserved, u64::max) + 1;
        self.reserved
    }
}

/// The log of a database, open for writing. Holds the lock.
#[derive(Debug)]
pub struct Log {
    /// Fenced, if fencing is on.
    pub(in crate::storage) fs: Arc<dyn FileSystem>,
    pub(in crate::storage) fence: Fence,
    pub(in crate::storage) dir: DataDir,
    pub(in crate::storage) options: LogOptions,
    pub(in crate::storage) database: Database,
    pub(in crate::storage) head: HeadFile,
    pub(in crate::storage) lineage: Lineage,
    pub(in crate::storage) tables: HashMap<u64, TableLog>,
    pub(in crate::storage) background: Background,
    /// The last field, so that it is dropped last: no thread of this log may write after another writer can open it.
    pub(in crate::storage) lock: Lock,
}

impl Log {
    /// Returns the database's id, epoch and format.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// Returns the writer's term: how many writers have opened this database, including this one.
    pub fn term(&self) -> u64 {
        self.head.head().header.term
    }

    /// Returns the incarnations of the database. The last one is this log's.
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Begins this log's incarnation after the last commit that recovery found. It is in HEAD, durably, before any commit of it.
    pub(in crate::storage) fn begin_incarnation(&mut self, start: u64) -> Result<()> {
        self.fence.check()?;
        let entry = LineageEntry { id: lineage::draw_incarnation(), start };
        self.lineage.begin(entry);
        lineage::write(&*self.fs, &self.dir, self.term(), &self.lineage)?;
        self.head.begin(HeadIncarnation { id: entry.id, start, term: self.term() })
    }

    /// Returns the last published commit and its time in milliseconds since 1970.
    pub fn published(&self) -> (u64, u64) {
        let header = &self.head.head().header;
        (header.last_seq, header.last_ms)
    }

    /// Returns the file system that this writer must use for all other files: once another writer has taken over, no
    /// name can be changed through it.
    pub fn fs(&self) -> &Arc<dyn FileSystem> {
        &self.fs
    }

    /// Returns the fence, which checks whether this process still is the writer.
    pub fn fence(&self) -> &Fence {
        &self.fence
    }

    /// Records in LOCK the address that clients connect to.
    pub fn set_address(&mut self, address: &str) -> Result<()> {
        self.fence.check()?;
        self.lock.set_address(address)
    }

    /// Returns the storage that a table uses.
    pub fn table_storage(&self, table_id: u64) -> TableStorage {
        let Some(table) = self.tables.get(&table_id) else { return TableStorage::default() };
        let sealed =
            table.manifest.segments.iter().filter_map(|segment| segment.sealed).map(|seal| seal.bytes);
        let Manifest { deltas, images, segments, floor, .. } = &table.manifest;
        let bytes = sealed.sum::<u64>() + table.segment.offset;
        let files = deltas.iter().map(|delta| delta.bytes).chain(images.iter().map(|image| image.bytes));
        TableStorage {
            bytes,
            segments: segments.len() as u64,
            bytes_on_disk: bytes + files.sum::<u64>(),
            snapshots: (deltas.len() + images.len()) as u64,
            floor: floor.map_or(0, |floor| floor.seq),
        }
    }

    /// Returns the bytes of a table's log after its newest snapshot.
    pub fn bytes_since_snapshot(&self, table_id: u64) -> u64 {
        let Some(table) = self.tables.get(&table_id) else { return 0 };
        let position = table.manifest.deltas.last().map(|delta| delta.position).unwrap_or_default();
        let segments = table.manifest.segments.iter();
        let after =
            segments.skip_while(|segment| position.segment != 0 && segment.number != position.segment);
        let bytes = after.map(|segment| segment.sealed.map_or(table.segment.offset, |seal| seal.bytes));
        bytes.sum::<u64>().saturating_sub(position.offset)
    }

    /// Makes a group durable and publishes it: appends frames, syncs segments, writes HEAD. When this returns, the commits
    /// are on disk (I3) and readers may show them (I4).
    pub fn append(&mut self, group: &mut Group) -> Result<(), AppendError> {
        // Also if there is nothing to write: the caller's answers are valid only while this process is the writer.
        self.fence.check().map_err(AppendError::Fatal)?;
        if group.tables.values().all(|table| table.frames.is_empty()) {
            return Ok(());
        }
        // Space first: if the disk is full, nothing has been written yet and the log stays usable.
        for (id, frames) in &group.tables {
            if let Some(table) = self.tables.get(id) {
                let needed = frames.frames.bytes().len() as u64;
                table.segment.reserve(needed).map_err(|e| match e.reason() {
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
            let address =
                FrameAddress { table: *id, segment: table.segment.number, offset: table.segment.offset };
            let crcs = frames.frames.stamp(address, published);
            table.segment.reserve(frames.frames.bytes().len() as u64)?;
            table.segment.write(frames.frames.bytes(), &crcs)?;
            table.entry.bytes = table.segment.offset;
            table.entry.last_seq = frames.last_seq;
            files.push(table.segment.file());
        }
        self.background.sync_all(&files).map_err(|e| Error::io("cannot sync segments", &e))?;
        // A writer that takes over after this check finds the group on disk, and keeps it.
        self.fence.check()?;
        self.publish(group.tables.keys().copied(), group.last_seq, group.last_ms)?;
        for (name, yaml) in &group.schemas {
            // The file is for people only (I8): a failure does not affect the durable commit.
            let (path, temporary) = (self.dir.schema(name), self.dir.schema_tmp(name, self.term()));
            if let Err(error) = fs::replace_via(&*self.fs, &temporary, &path, yaml.as_bytes()) {
                tracing::warn!(%error, table = name, "cannot write schema.yaml");
            }
        }
        Ok(())
    }

    fn publish(&mut self, ids: impl Iterator<Item = u64>, last_seq: u64, last_ms: u64) -> Result<()> {
        let mut entries = Vec::new();
        for id in ids {
            let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
            table.segment.check()?;
            entries.push((table.entry_index, table.entry));
            self.background.fill_ahead(table.segment.preallocation(), table.segment.offset);
        }
        // HeadFile appends new entries one by one, so they must come in ascending order.
        entries.sort_unstable_by_key(|(index, _)| *index);
        self.head.publish(&entries, last_seq, last_ms, false)
    }

    /// Publishes the present entry of every table, at the end of recovery.
    pub(in crate::storage) fn publish_all(&mut self, last_seq: u64, last_ms: u64) -> Result<()> {
        self.fence.check()?;
        let ids: Vec<u64> = self.tables.keys().copied().collect();
        self.publish(ids.into_iter(), last_seq, last_ms)?;
        self.sync_head()
    }

    fn sync_head(&self) -> Result<()> {
        self.head.syncer().sync_if_dirty().map_err(|e| Error::io("cannot sync HEAD", &e))
    }

    /// Creates a table's directory and first segment, durable with their names (I6).
    fn create_table(&mut self, id: u64, name: &str) -> Result<()> {
        let failed = |e: std::io::Error| Error::io(format_args!("cannot create table {name:?}"), &e);
        self.fs.create_dir(&self.dir.segments(name)).map_err(failed)?;
        self.fs.sync_dir(&self.dir.tables()).map_err(failed)?;
        self.fs.sync_dir(&self.dir.table(name)).map_err(failed)?;
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
        // The tables that this group creates have no entry in HEAD yet.
        let entry_index = self.tables.values().map(|table| table.entry_index + 1).max().unwrap_or(0);
        let entry = TableEntry { table: id, manifest: 1, segment: 1, ..TableEntry::default() };
        self.tables.insert(id, TableLog { manifest, entry_index, entry, segment, reserved: 1 });
        Ok(())
    }

    /// Seals a table's active segment and continues in a new one. The order matters: the old segment is sealed and synced,
    /// the new one is durable, and only then does the manifest list it.
    pub(in crate::storage) fn rotate(&mut self, id: u64) -> Result<()> {
        self.fence.check()?;
        let seal = self.tables.get(&id).ok_or_else(|| unknown_table(id))?.segment.seal()?;
        let segment = self.create_next_segment(id)?;
        self.switch_to_segment(id, seal, segment)
    }

    fn create_next_segment(&mut self, id: u64) -> Result<ActiveSegment> {
        let table = self.tables.get_mut(&id).ok_or_else(|| unknown_table(id))?;
        let number = table.next_number();
        let name = table.manifest.table.clone();
        self.new_segment(&name, number)
    }

    pub(in crate::storage) fn new_segment(&self, table: &str, number: u64) -> Result<ActiveSegment> {
        let (path, temporary) =
            (self.dir.segment(table, number), self.dir.segment_tmp(table, number, self.term()));
        ActiveSegment::create(&*self.fs, (&temporary, &path), number, self.options.segment_bytes)
    }

    fn switch_to_segment(&mut self, id: u64, seal: Seal, segment: ActiveSegment) -> Result<()> {
        let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
        let mut manifest = self.next_manifest(table);
        if let Some(last) = manifest.segments.last_mut() {
            last.sealed = Some(seal);
        }
        let number = segment.number;
        manifest.segments.push(Segment { number, sealed: None });
        self.write_manifest(&manifest)?;
        tracing::debug!(table = manifest.table, segment = number, "started a new segment");
        let table = self.tables.get_mut(&id).ok_or_else(|| unknown_table(id))?;
        table.entry = TableEntry { manifest: manifest.version, segment: number, bytes: 0, ..table.entry };
        table.manifest = manifest;
        table.segment = segment;
        Ok(())
    }

    /// Prepares a table's log for a compaction of the segments up to `upto`. Seals that segment if it is active, so that
    /// it does not grow during the compaction. Must be called between two groups.
    pub fn begin_compaction(&mut self, id: u64, upto: u64) -> Result<CompactionInput, AppendError> {
        let unknown = || AppendError::Refused(unknown_table(id));
        let table = self.tables.get(&id).ok_or_else(unknown)?;
        if table.segment.number == upto {
            // Create the new segment first: if the disk is full, nothing has been changed.
            let segment = self.create_next_segment(id).map_err(AppendError::from_step)?;
            self.fence.check().map_err(AppendError::Fatal)?;
            let table = self.tables.get(&id).ok_or_else(unknown)?;
            let seal = table.segment.seal().map_err(AppendError::Fatal)?;
            self.switch_to_segment(id, seal, segment).map_err(AppendError::Fatal)?;
        }
        let table = self.tables.get_mut(&id).ok_or_else(unknown)?;
        let (number, manifest) = (table.next_number(), table.manifest.clone());
        let present = layout::segment_numbers(&*self.fs, &self.dir, &manifest.table);
        let listed = |number: &u64| manifest.segments.iter().any(|segment| segment.number == *number);
        let present = present.map_err(AppendError::Refused)?;
        let stale = present.into_iter().filter(|number| !listed(number)).collect();
        Ok(CompactionInput { manifest, number, term: self.term(), stale })
    }

    /// Returns the next version of a table's manifest, for the caller to change and write.
    fn next_manifest(&self, table: &TableLog) -> Manifest {
        let (published, last_ms) = self.published();
        let version = table.manifest.version + 1;
        let published_ms = if table.manifest.deltas.is_empty() { 0 } else { last_ms };
        Manifest { version, term: self.term(), published, published_ms, ..table.manifest.clone() }
    }

    /// Returns a table's manifest.
    pub fn manifest(&self, id: u64) -> Option<&Manifest> {
        self.tables.get(&id).map(|table| &table.manifest)
    }

    /// Returns a table's entry in HEAD: how far its log is durable.
    pub fn table_entry(&self, id: u64) -> Option<&TableEntry> {
        self.tables.get(&id).map(|table| &table.entry)
    }

    /// Changes which files make up a table, except its active segment, and publishes the change. The files that the new
    /// manifest lists must be durable. After a failure, the old files stay in use; it is then not known which manifest is
    /// on disk, and both are valid. The floor is published before anything relies on it.
    pub fn edit_manifest(
        &mut self,
        id: u64,
        edit: &mut dyn FnMut(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest, AppendError> {
        let manifest = self.write_edited_manifest(id, edit).map_err(AppendError::from_step)?;
        let (last_seq, last_ms) = self.published();
        if let Some(table) = self.tables.get_mut(&id) {
            table.entry.manifest = manifest.version;
            table.entry.floor = manifest.floor.map_or(0, |floor| floor.seq);
            table.manifest = manifest.clone();
            let entry = (table.entry_index, table.entry);
            self.fence.check().map_err(AppendError::Fatal)?;
            self.head.publish(&[entry], last_seq, last_ms, false).map_err(AppendError::Fatal)?;
        }
        Ok(manifest)
    }

    fn write_edited_manifest(
        &mut self,
        id: u64,
        edit: &mut dyn FnMut(&mut Manifest) -> Result<()>,
    ) -> Result<Manifest> {
        let table = self.tables.get(&id).ok_or_else(|| unknown_table(id))?;
        let mut manifest = self.next_manifest(table);
        edit(&mut manifest)?;
        manifest.published_ms = if manifest.deltas.is_empty() { 0 } else { self.published().1 };
        if let Some(table) = self.tables.get_mut(&id) {
            // Two manifests must never have the same version, even if this write fails.
            table.manifest.version = manifest.version;
        }
        self.write_manifest(&manifest)?;
        Ok(manifest)
    }

    /// Writes a manifest. Syncs HEAD first, because a manifest must not name a later commit than HEAD on disk.
    fn write_manifest(&self, manifest: &Manifest) -> Result<()> {
        self.sync_head()?;
        let (path, temporary) =
            (self.dir.manifest(&manifest.table), self.dir.manifest_tmp(&manifest.table, manifest.term));
        fs::replace_via(&*self.fs, &temporary, &path, &manifest::encode(manifest)?)
    }

    /// Closes the log: cuts off preallocated zeros, marks HEAD closed, and releases the lock.
    pub fn close(mut self) -> Result<()> {
        self.fence.check()?;
        for table in self.tables.values() {
            table.segment.seal()?;
        }
        // The next writer continues in the segments of a closed log.
        self.fence.check()?;
        let (last_seq, last_ms) = self.published();
        self.head.publish(&[], last_seq, last_ms, true)?;
        self.sync_head()?;
        // If another writer has taken over, this HEAD has no name and nobody reads it.
        self.fence.check()
    }
}

fn unknown_table(id: u64) -> Error {
    Error::new(Reason::Internal, format!("the log has no table with id {id}"))
}
