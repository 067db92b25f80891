//! The log, open for writing: makes groups of commits durable and publishes them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::error::{Error, Reason, Result};
use crate::format::frame::FrameBuffer;
use crate::format::head::{HeadIncarnation, TableEntry};
use crate::format::lineage::{Lineage, LineageEntry};
use crate::format::manifest::{Database, Manifest};
use crate::limits;
use crate::storage::descriptors::{DescriptorShares, RecentlyUsed, SpareDescriptors};
use crate::storage::disk_space::DiskSpace;
use crate::storage::fence::{Fence, Fencing};
use crate::storage::fs::FileSystem;
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir};
use crate::storage::lineage;
use crate::storage::lock::Lock;
pub use crate::storage::wal::append_error::AppendError;
use crate::storage::wal::background::Background;
use crate::storage::wal::next_segment::NextSegment;
use crate::storage::wal::publish_gate::{OpenGate, PublishGate};
use crate::storage::wal::segment::{ActiveSegment, SegmentFiles};

/// How a log is written.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The length in bytes at which a segment is sealed.
    pub segment_bytes: u64,
    /// Whether background threads sync segments and preallocate zeros. Off only in tests that need a known order.
    pub background: bool,
    /// Whether the writer checks for other writers that have taken over.
    pub fencing: Fencing,
    /// The number of active segments that are open at the same time.
    pub open_segments: usize,
    /// Whether to give up the reserve before anything is written, because an open without that found the disk full.
    pub give_up_reserve: bool,
    /// What every group must pass before it is published.
    pub gate: Arc<dyn PublishGate>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: limits::SEGMENT_BYTES,
            background: true,
            fencing: Fencing::Auto,
            open_segments: DescriptorShares::of_process().log_files,
            give_up_reserve: false,
            gate: Arc::new(OpenGate),
        }
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
    /// Whether writing has begun. Until then an error means that nothing of the group is on disk.
    pub written: bool,
    /// When its steps ended. `None` until it is published, or if nothing was to be written.
    pub times: Option<GroupTimes>,
}

/// When the steps of writing a group ended.
#[derive(Debug, Clone, Copy)]
pub struct GroupTimes {
    /// Its frames were written, and its syncs began.
    pub written: Instant,
    /// Its segments were synced.
    pub synced: Instant,
    /// It had passed the gate, if that can hold groups up.
    pub passed: Option<Instant>,
    /// HEAD contained it.
    pub published: Instant,
}

/// A group's frames in one table.
#[derive(Debug, Default)]
pub struct TableFrames {
    /// The frames.
    pub frames: FrameBuffer,
    /// The last commit among them.
    pub last_seq: u64,
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
    /// The segment after the active one, if it was asked for.
    pub(in crate::storage) next: Option<NextSegment>,
    /// The greatest segment number in use, including segments that the manifest does not list yet.
    pub(in crate::storage) reserved: u64,
}

impl TableLog {
    /// Reserves the number of the table's next segment: above all existing ones.
    pub(super) fn next_number(&mut self) -> u64 {
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
    pub(in crate::storage) space: Arc<DiskSpace>,
    /// The tables whose active segments are open.
    pub(in crate::storage) open_segments: RecentlyUsed,
    pub(in crate::storage) spares: SpareDescriptors,
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

    /// Returns the room on the disk.
    pub fn space(&self) -> &Arc<DiskSpace> {
        &self.space
    }

    /// Returns what every group must pass before it is published.
    pub fn gate(&self) -> &Arc<dyn PublishGate> {
        &self.options.gate
    }

    /// Fails if this process is not the database's writer any more.
    pub fn check_writer(&self) -> Result<()> {
        self.fence.check()?;
        self.options.gate.check_writer()
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

    /// What the active segments use.
    pub(in crate::storage) fn segment_files(&self) -> SegmentFiles {
        let (fs, space) = (Arc::clone(&self.fs), Arc::clone(&self.space));
        SegmentFiles { fs, space, limit: self.options.segment_bytes }
    }

    pub(super) fn table(&self, id: u64) -> Result<&TableLog> {
        self.tables.get(&id).ok_or_else(|| unknown_table(id))
    }

    pub(super) fn table_mut(&mut self, id: u64) -> Result<&mut TableLog> {
        self.tables.get_mut(&id).ok_or_else(|| unknown_table(id))
    }

    pub(super) fn publish(
        &mut self,
        ids: impl Iterator<Item = u64>,
        last_seq: u64,
        last_ms: u64,
    ) -> Result<()> {
        let entries = self.entries_of(ids)?;
        self.head.publish(&entries, last_seq, last_ms, false)
    }

    /// Waits until what is about to be published may be seen.
    pub(super) fn pass_gate(
        &self,
        ids: impl Iterator<Item = u64>,
        last_seq: u64,
        last_ms: u64,
    ) -> Result<()> {
        let entries = self.entries_of(ids)?;
        self.options.gate.pass(&|| self.head.next(&entries, last_seq, last_ms))
    }

    fn entries_of(&self, ids: impl Iterator<Item = u64>) -> Result<Vec<(usize, TableEntry)>> {
        let mut entries = Vec::new();
        for id in ids {
            let table = self.table(id)?;
            entries.push((table.entry_index, table.entry));
        }
        // HeadFile appends new entries one by one, so they must come in ascending order.
        entries.sort_unstable_by_key(|(index, _)| *index);
        Ok(entries)
    }

    /// Publishes the present entry of every table, at the end of recovery.
    pub(in crate::storage) fn publish_all(&mut self, last_seq: u64, last_ms: u64) -> Result<()> {
        self.fence.check()?;
        let ids: Vec<u64> = self.tables.keys().copied().collect();
        self.pass_gate(ids.iter().copied(), last_seq, last_ms)?;
        self.publish(ids.into_iter(), last_seq, last_ms)?;
        self.sync_head()
    }

    pub(super) fn sync_head(&self) -> Result<()> {
        self.head.syncer().sync_if_dirty().map_err(|e| Error::io("cannot sync HEAD", &e))
    }

    /// Prepares a table's log for a compaction of the segments up to `upto`. Seals that segment if it is active, so that
    /// it does not grow during the compaction. Must be called between two groups.
    pub fn begin_compaction(&mut self, id: u64, upto: u64) -> Result<CompactionInput, AppendError> {
        if self.table(id).map_err(AppendError::Refused)?.segment.number == upto {
            self.rotate(id)?;
        }
        let table = self.table_mut(id).map_err(AppendError::Refused)?;
        let (number, manifest) = (table.next_number(), table.manifest.clone());
        let present = layout::segment_numbers(&*self.fs, &self.dir, &manifest.table);
        let listed = |number: &u64| manifest.segments.iter().any(|segment| segment.number == *number);
        let present = present.map_err(AppendError::Refused)?;
        let stale = present.into_iter().filter(|number| !listed(number)).collect();
        Ok(CompactionInput { manifest, number, term: self.term(), stale })
    }

    /// Returns the next version of a table's manifest, for the caller to change and write.
    pub(super) fn next_manifest(&self, table: &TableLog) -> Manifest {
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

    /// The temporary and the final path of a manifest.
    pub(super) fn manifest_paths(&self, manifest: &Manifest) -> (PathBuf, PathBuf) {
        (self.dir.manifest_tmp(&manifest.table, manifest.term), self.dir.manifest(&manifest.table))
    }

    /// Closes the log: cuts off preallocated zeros, marks HEAD closed, and releases the lock.
    pub fn close(mut self) -> Result<()> {
        self.fence.check()?;
        for table in self.tables.values_mut() {
            table.segment.cut_zeros();
            if let Some(next) = table.next.take().and_then(|next| next.take()) {
                next.discard();
            }
        }
        // The next writer continues in the segments of a closed log.
        self.fence.check()?;
        let (last_seq, last_ms) = self.published();
        if let Err(error) = self.head.publish(&[], last_seq, last_ms, true) {
            // A file system that never writes in place needs room for the same bytes.
            if error.reason() != Reason::DiskFull || !self.space.give_up_reserve("to close the database") {
                return Err(error);
            }
            self.head.publish(&[], last_seq, last_ms, true)?;
        }
        self.sync_head()?;
        // If another writer has taken over, this HEAD has no name and nobody reads it.
        self.fence.check()
    }
}

fn unknown_table(id: u64) -> Error {
    Error::new(Reason::Internal, format!("the log has no table with id {id}"))
}
