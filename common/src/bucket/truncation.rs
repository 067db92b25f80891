//! Cuts a mirrored database off after one commit, so that it opens for writing like any other, as a history of its own.
//!
//! The log is the truth (I8), so the cut is a position in each table's log. What is made from later commits goes: layers that end after
//! the commit, and images that no kept delta layer reaches; the next writer builds them again. A cut segment is sealed where it is
//! cut, and the table continues in a new one: so it makes no difference whether the segment was active, sealed or compacted. Compaction
//! cannot be undone: a directory whose floor is above the commit is refused, and nothing is changed.
//!
//! Each step can be repeated, and HEAD comes last: after a break, the whole cut runs again with the same result.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::head::{FORMAT_VERSION, HeadIncarnation, TableEntry};
use crate::format::lineage::Lineage;
use crate::format::manifest::{self, Database, LogPosition, Manifest, Seal, Segment};
use crate::format::snapshot::DeltaProperties;
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir};
use crate::storage::lineage;
use crate::storage::sst::BlockCache;
use crate::storage::wal::cursor::{CursorItem, LogCursor};
use crate::table::log_tail::{ReadLimit, log_after};
use crate::table::schema::SchemaEvent;
use crate::table::table_files::TableFiles;

/// A commit: its seq and its time in milliseconds since 1970.
type CommitAt = (u64, u64);

/// What is left of one table.
struct CutTable {
    manifest: Manifest,
    /// Where the log is cut; `None` if nothing follows the commit.
    cut: Option<LogPosition>,
    /// The length of the active segment, in bytes.
    active_bytes: u64,
    /// The last frame that is kept after the newest delta layer.
    last_frame: Option<CommitAt>,
    /// The newest commits whose time is in the files.
    known: Vec<CommitAt>,
}

/// Cuts the database in `dir` off after commit `seq`, and gives it an identity: a restored database has another epoch, and a clone
/// another id, too. Returns the time of the commit.
///
/// `dir` must contain a mirror: no segment has a byte that was not published.
pub(super) fn cut_after(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    seq: u64,
    identity: (uuid::Uuid, u64),
) -> Result<u64> {
    let Some(head) = head::read(&**fs, dir)? else {
        return Err(Error::corrupt(dir.head().display(), 0, "the file is missing"));
    };
    let files = TableFiles { fs: Arc::clone(fs), dir: dir.clone(), cache: BlockCache::new(0) };
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for name in layout::table_names(&**fs, dir)? {
        match layout::read_manifest(&**fs, dir, &name)? {
            Some(manifest) if manifest.table_id <= seq => kept.push(plan(&files, manifest, seq)?),
            _ => gone.push(name),
        }
    }
    let last_ms = time_of(dir, seq, &kept)?;
    for name in gone {
        remove_tree(&**fs, &dir.table(&name))?;
    }
    let mut entries = Vec::with_capacity(kept.len());
    for table in kept {
        entries.push(apply(&files, table, (seq, last_ms), head.header.term)?);
    }
    entries.sort_unstable_by_key(|entry| entry.table);
    publish(&**fs, dir, &head, (seq, last_ms), entries, identity)?;
    Ok(last_ms)
}

/// Returns the last commit at or before a time, of those after commit `before`; `before` if there is none.
pub(super) fn last_commit_at(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    before: u64,
    time_ms: u64,
) -> Result<u64> {
    let files = TableFiles { fs: Arc::clone(fs), dir: dir.clone(), cache: BlockCache::new(0) };
    let mut last = before;
    for name in layout::table_names(&**fs, dir)? {
        let Some(mut manifest) = layout::read_manifest(&**fs, dir, &name)? else { continue };
        if let Some(floor) = manifest.floor.filter(|floor| floor.time_ms <= time_ms) {
            last = last.max(floor.seq);
        }
        manifest.deltas.retain(|layer| layer.seq <= before || layer.is_compaction_base());
        let mut cursor = log_of_mirror(&files, &manifest)?;
        loop {
            match cursor.next_frame()? {
                CursorItem::Frame(frame) if frame.time_ms <= time_ms => last = last.max(frame.seq),
                CursorItem::Frame(_) | CursorItem::End => break,
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt_by(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
    }
    Ok(last)
}

/// A cursor over a table's log after its newest delta layer, up to the last byte of the active segment.
fn log_of_mirror(files: &TableFiles, manifest: &Manifest) -> Result<LogCursor> {
    let limit =
        ReadLimit { segment: active_segment(manifest), bytes: active_bytes(files, manifest)?, seq: u64::MAX };
    Ok(log_after(files, manifest, limit))
}

fn active_segment(manifest: &Manifest) -> u64 {
    manifest.segments.last().map_or(0, |segment| segment.number)
}

fn active_bytes(files: &TableFiles, manifest: &Manifest) -> Result<u64> {
    let path = files.dir.segment(&manifest.table, active_segment(manifest));
    let end = files.fs.open_fresh(&path).and_then(|file| fs::find_end(&*file));
    end.map_err(|e| fs::read_failed(&path, &e))
}

/// Finds where a table's log is cut. Changes nothing.
fn plan(files: &TableFiles, found: Manifest, seq: u64) -> Result<CutTable> {
    if let Some(floor) = found.floor.filter(|floor| floor.seq > seq) {
        let message = format!(
            "cannot restore commit {seq}: table {:?} was compacted up to commit {} before the bucket had a later commit; \
             choose commit {} or a later one, or one before the compaction",
            found.table_name(),
            floor.seq,
            floor.seq
        );
        return Err(Error::new(Reason::BelowFloor, message).with("floor", floor.seq.to_string()));
    }
    let mut manifest = found.clone();
    manifest.deltas.retain(|layer| layer.seq <= seq);
    let covered = manifest.deltas.last().map_or(0, |layer| layer.seq);
    manifest.images.retain(|layer| layer.seq <= covered);
    let mut known = Vec::new();
    if let Some(floor) = found.floor {
        known.push((floor.seq, floor.time_ms));
    }
    if found.published <= seq && found.published_ms > 0 {
        known.push((found.published, found.published_ms));
    }
    let layers = files.open(&manifest, None)?;
    let newest = layers.properties();
    if let Some(layer) = manifest.deltas.last().filter(|layer| !layer.is_compaction_base()) {
        known.push((layer.seq, newest.time_ms));
    }
    if manifest.deltas.len() < found.deltas.len() {
        name_after_layers(&mut manifest, newest)?;
    }
    let active_bytes = active_bytes(files, &manifest)?;
    let mut cursor = log_of_mirror(files, &manifest)?;
    let (mut cut, mut last_frame) = (None, None);
    loop {
        match cursor.next_frame()? {
            CursorItem::Frame(frame) if frame.seq > seq => {
                cut = Some(frame.at.to_log_position());
                break;
            }
            CursorItem::Frame(frame) => last_frame = Some((frame.seq, frame.time_ms)),
            CursorItem::End => break,
            CursorItem::Invalid(error) => {
                return Err(Error::corrupt_by(cursor.path().display(), cursor.position().offset, error));
            }
        }
    }
    Ok(CutTable { manifest, cut, active_bytes, last_frame, known })
}

/// Records the name that the table had at the end of the delta layers that are kept.
fn name_after_layers(manifest: &mut Manifest, newest: &DeltaProperties) -> Result<()> {
    match newest.schema_entries.last() {
        Some(entry) => {
            let name = SchemaEvent::from_document(&entry.document)?.schema.table;
            manifest.set_table_name(&name);
        }
        None => manifest.name = None,
    }
    Ok(())
}

/// The time of the commit. Every commit has a frame in some table, so the newest of all that is kept must be it.
fn time_of(dir: &DataDir, seq: u64, kept: &[CutTable]) -> Result<u64> {
    let all = kept.iter().flat_map(|table| table.known.iter().chain(&table.last_frame));
    let (found, time_ms) = all.copied().max().unwrap_or_default();
    if found != seq {
        let what = format!("the log ends with commit {found}, and commit {seq} was published");
        return Err(Error::corrupt(dir.tables().display(), 0, what));
    }
    Ok(time_ms)
}

/// Cuts one table, and returns its entry of HEAD.
fn apply(files: &TableFiles, table: CutTable, last: CommitAt, term: u64) -> Result<TableEntry> {
    let (fs, dir) = (&*files.fs, &files.dir);
    let CutTable { mut manifest, cut, mut active_bytes, last_frame, .. } = table;
    let name = manifest.table.clone();
    let is_cut = cut.is_some();
    if let Some(position) = cut {
        cut_segments(fs, dir, &mut manifest, position)?;
        active_bytes = 0;
    }
    if manifest.published > last.0 {
        manifest.published = last.0;
        manifest.published_ms = last.1;
    }
    if manifest.deltas.is_empty() {
        manifest.published_ms = 0;
    }
    manifest.version += 1;
    manifest.term = term;
    let bytes = manifest::encode(&manifest)?;
    fs::replace_via(fs, &dir.manifest_tmp(&name, term), &dir.manifest(&name), &bytes)?;
    if is_cut {
        // It may be of a later schema, and only people read it.
        remove(fs, &dir.schema(&name))?;
    }
    remove_unnamed_files(fs, dir, &manifest)?;
    let segment = active_segment(&manifest);
    let covered = manifest.deltas.last().map_or(0, |layer| layer.seq);
    Ok(TableEntry {
        table: manifest.table_id,
        manifest: manifest.version,
        segment,
        bytes: active_bytes,
        last_seq: last_frame.map_or(covered, |(seq, _)| seq),
        floor: manifest.floor.map_or(0, |floor| floor.seq),
    })
}

/// Makes a manifest end at a position: seals the segment there, and continues in a new one. A segment that would have no frame cannot
/// be sealed, and becomes the active one.
fn cut_segments(
    fs: &dyn FileSystem,
    dir: &DataDir,
    manifest: &mut Manifest,
    position: LogPosition,
) -> Result<()> {
    let name = manifest.table.clone();
    let on_disk = layout::segment_numbers(fs, dir, &name)?;
    let greatest = manifest.segments.iter().map(|segment| segment.number).chain(on_disk).fold(0, u64::max);
    let at = manifest.segments.iter().position(|segment| segment.number == position.segment);
    manifest.segments.truncate(at.map_or(0, |at| at + 1));
    let Some(last) = manifest.segments.last_mut() else {
        let what = "the file does not list the segment in which the log is cut";
        return Err(Error::corrupt(dir.manifest(&name).display(), 0, what));
    };
    if position.offset == 0 {
        last.sealed = None;
        return truncate(fs, &dir.segment(&name, position.segment), 0);
    }
    let LogPosition { offset: bytes, frames, digest, .. } = position;
    last.sealed = Some(Seal { bytes, frames, digest });
    let number = greatest + 1;
    let path = dir.segment(&name, number);
    let failed = |e: io::Error| Error::io(format_args!("cannot create {}", path.display()), &e);
    let created = fs.create(&path).and_then(|file| file.sync()).and_then(|()| fs::sync_parent(fs, &path));
    created.map_err(failed)?;
    manifest.segments.push(Segment { number, sealed: None });
    Ok(())
}

/// Removes what a manifest does not name: segments, and the bytes of sealed ones after their ends, layers and indexes.
pub(super) fn remove_unnamed_files(fs: &dyn FileSystem, dir: &DataDir, manifest: &Manifest) -> Result<()> {
    let name = &manifest.table;
    for segment in &manifest.segments {
        if let Some(seal) = segment.sealed {
            truncate(fs, &dir.segment(name, segment.number), seal.bytes)?;
        }
    }
    for number in layout::segment_numbers(fs, dir, name)? {
        if !manifest.segments.iter().any(|segment| segment.number == number) {
            remove(fs, &dir.segment(name, number))?;
        }
    }
    let named = layout::snapshot_files(dir, manifest);
    for directory in [dir.snapshots(name), dir.indexes(name)] {
        for file in list(fs, &directory)? {
            let path = directory.join(file);
            if !named.contains(&path) {
                remove(fs, &path)?;
            }
        }
    }
    Ok(())
}

/// Writes `lineage.json`, `database.json` and HEAD, in this order.
fn publish(
    fs: &dyn FileSystem,
    dir: &DataDir,
    found: &Head,
    (last_seq, last_ms): CommitAt,
    entries: Vec<TableEntry>,
    (id, epoch): (uuid::Uuid, u64),
) -> Result<()> {
    let mut kept = Lineage::default();
    // Also if an earlier attempt has replaced it: all incarnations that begin before the commit are there.
    let all = match layout::read_lineage(fs, dir)? {
        Some(all) => all,
        None => lineage::read(fs, dir, found)?,
    };
    all.entries().iter().filter(|entry| entry.start < last_seq).for_each(|entry| kept.begin(*entry));
    let term = found.header.term;
    let current = kept.entries().last();
    let incarnation = current.map(|entry| HeadIncarnation { id: entry.id, start: entry.start, term });
    lineage::write(fs, dir, term, &kept)?;
    let database = Database { id, epoch, format: FORMAT_VERSION };
    fs::replace(fs, &dir.database(), &manifest::encode(&database)?)?;
    let mut header = found.header;
    header.database_id = *id.as_bytes();
    header.epoch = epoch;
    (header.last_seq, header.last_ms) = (last_seq, last_ms);
    header.generation = header.generation.wrapping_add(1);
    header.table_entry_count = u16::try_from(entries.len()).unwrap_or(u16::MAX);
    header.closed = true;
    header.format = FORMAT_VERSION;
    HeadFile::replace(fs, dir, &Head { header, incarnation: incarnation.unwrap_or_default(), entries })
}

fn truncate(fs: &dyn FileSystem, path: &Path, len: u64) -> Result<()> {
    let steps = || {
        let file = fs.open_write(path)?;
        if fs::find_end(&*file)? > len {
            file.truncate(len)?;
            file.sync()?;
        }
        Ok(())
    };
    steps().map_err(|e| Error::io(format_args!("cannot cut {}", path.display()), &e))
}

fn remove(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    let removed = fs::remove_if_exists(fs, path);
    removed.map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))
}

fn list(fs: &dyn FileSystem, path: &Path) -> Result<Vec<String>> {
    match fs.list(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|e| Error::io(format_args!("cannot list {}", path.display()), &e)),
    }
}

/// Removes a directory that a restore has made, with everything in it.
pub(super) fn remove_tree(fs: &dyn FileSystem, path: &Path) -> Result<()> {
    match fs.list(path) {
        Ok(names) => {
            names.iter().try_for_each(|name| remove_tree(fs, &path.join(name)))?;
            fs.remove_dir(path).map_err(|e| Error::io(format_args!("cannot remove {}", path.display()), &e))
        }
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => remove(fs, path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(format_args!("cannot list {}", path.display()), &e)),
    }
}
