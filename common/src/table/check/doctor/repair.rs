//! Makes anew what can be told from other files, and lets go of what the log can make again. Segments are never touched.

use std::path::Path;
use std::sync::Arc;

use super::{COPY_BACK, Derived, Finding, Severity, Wounds};
use crate::error::{Error, Reason, Result};
use crate::format::event::EventType;
use crate::format::head::{FORMAT_VERSION, Header, TableEntry};
use crate::format::manifest::{self, Database, Manifest, Segment};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::Head;
use crate::storage::head_file::HeadFile;
use crate::storage::layout::{self, DataDir, segment_number};
use crate::storage::recovery;
use crate::storage::wal::cursor::{CursorItem, LogCursor, SegmentSpan};
use crate::table::check::verification::Order;
use crate::table::schema::SchemaEvent;

/// Why something is not repaired, for people; the outer error is one of the machine.
type Tried<T> = Result<std::result::Result<T, String>>;

struct Repair<'a> {
    disk: &'a Arc<dyn FileSystem>,
    dir: &'a DataDir,
    wounds: &'a Wounds,
    say: &'a mut dyn FnMut(Finding),
    done: u64,
}

/// Repairs what can be now; returns how much was.
pub(super) fn repair(
    disk: &Arc<dyn FileSystem>,
    dir: &DataDir,
    wounds: &Wounds,
    say: &mut dyn FnMut(Finding),
) -> Result<u64> {
    let mut repair = Repair { disk, dir, wounds, say, done: 0 };
    if wounds.database {
        repair.database()?;
    }
    if wounds.head {
        repair.head()?;
    }
    for table in &wounds.manifests {
        repair.manifest(table)?;
    }
    for derived in &wounds.derived {
        repair.derived(derived)?;
    }
    for leftover in &wounds.leftovers {
        repair.remove(leftover)?;
    }
    Ok(repair.done)
}

impl Repair<'_> {
    fn tell(&mut self, file: &Path, message: String, remedy: &'static str) {
        let severity = Severity::Repair;
        (self.say)(Finding { severity, file: file.display().to_string(), offset: 0, message, remedy });
    }

    /// Says what comes, then puts a file in place.
    fn replace(&mut self, file: &Path, bytes: &[u8], message: String) -> Result<()> {
        self.tell(file, message, "done with this");
        self.done += 1;
        fs::replace(&**self.disk, file, bytes)
    }

    fn cannot(&mut self, file: &Path, why: &str) {
        let message = format!("it cannot be made anew: {why}");
        (self.say)(Finding {
            severity: Severity::Note,
            file: file.display().to_string(),
            offset: 0,
            message,
            remedy: COPY_BACK,
        });
    }

    fn database(&mut self) -> Result<()> {
        let path = self.dir.database();
        let Some(header) = self.wounds.header else {
            self.cannot(&path, "HEAD, which says the same, has no valid header");
            return Ok(());
        };
        let id = uuid::Uuid::from_bytes(header.database_id);
        let database = Database { id, epoch: header.epoch, format: FORMAT_VERSION };
        self.replace(&path, &manifest::encode(&database)?, format!("made anew from HEAD: database {id}"))
    }

    /// HEAD from the segments. Without a slot for any table the next writer writes every active segment again before it
    /// trusts it.
    fn head(&mut self) -> Result<()> {
        let path = self.dir.head();
        let database = match layout::read_database(&**self.disk, self.dir) {
            Ok(Some(database)) => database,
            Ok(None) => {
                self.cannot(&path, "database.json, which names the database, is missing too");
                return Ok(());
            }
            Err(_) => {
                self.cannot(&path, "database.json, which names the database, cannot be read either");
                return Ok(());
            }
        };
        if !self.wounds.manifests.is_empty() || !self.wounds.segments.is_empty() {
            self.cannot(&path, "without it, other damage cannot be told from what was never published");
            return Ok(());
        }
        let mut term = 0;
        for name in layout::table_names(&**self.disk, self.dir)? {
            term =
                term.max(layout::read_manifest(&**self.disk, self.dir, &name)?.map_or(0, |found| found.term));
        }
        let header = Header {
            database_id: *database.id.as_bytes(),
            epoch: database.epoch,
            term: term + 1,
            last_seq: 0,
            last_ms: 0,
            generation: 0,
            table_entry_count: 0,
            closed: false,
        };
        let empty = Head { header, entries: Vec::new() };
        let (last_seq, last_ms) = match recovery::last_whole(self.disk, self.dir, &empty) {
            Ok(found) => found,
            Err(error) => {
                self.cannot(&path, error.message());
                return Ok(());
            }
        };
        let message = format!(
            "made anew from the segments: commit {last_seq} is the last that is whole. What HEAD alone knew cannot be proven: \
             if the last commits before it was lost are damaged, they look like ones that were never acknowledged, and the \
             next writer keeps them aside"
        );
        self.tell(&path, message, "done with this");
        self.done += 1;
        let header = Header { last_seq, last_ms, ..header };
        HeadFile::replace(&**self.disk, self.dir, &Head { header, entries: Vec::new() })
    }

    fn manifest(&mut self, table: &str) -> Result<()> {
        let path = self.dir.manifest(table);
        match self.manifest_of(table)? {
            Ok(made) => {
                let message = format!(
                    "made anew from {} segments, without snapshots: the next writer takes them again",
                    made.segments.len()
                );
                self.replace(&path, &manifest::encode(&made)?, message)
            }
            Err(why) => {
                self.cannot(&path, &why);
                Ok(())
            }
        }
    }

    /// A table's manifest, as its segments and HEAD tell it.
    fn manifest_of(&self, table: &str) -> Tried<Manifest> {
        let Some(header) = self.wounds.header else {
            return Ok(Err("HEAD, which says how far its segments go, has no valid header".to_owned()));
        };
        let names = self.disk.list(&self.dir.segments(table));
        let names = names.map_err(|e| Error::io(format_args!("cannot list segments of {table}"), &e))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        let mut unclaimed =
            self.wounds.slots.values().filter(|slot| !self.wounds.known.contains(&slot.table));
        let Some(first) = numbers.first() else { return Ok(Err("it has no segments".to_owned())) };
        let mut own = None;
        for slot in &mut unclaimed {
            if self.creates(table, slot.table, *first)? {
                own = Some(*slot);
                break;
            }
        }
        let Some(slot) = own else {
            let why = "no table that HEAD names and that has no meta.json begins with its first segment";
            return Ok(Err(why.to_owned()));
        };
        if slot.floor > 0 {
            return Ok(
                Err("it was compacted, and which segments that left is not told elsewhere".to_owned()),
            );
        }
        let segments = match self.sealed(table, slot, &numbers)? {
            Ok(segments) => segments,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Manifest {
            table: table.to_owned(),
            table_id: slot.table,
            version: slot.manifest + 1,
            term: header.term,
            published: header.last_seq,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments,
        }))
    }

    fn cursor(&self, table: &str, id: u64, number: u64) -> Result<LogCursor> {
        let path = self.dir.segment(table, number);
        let len = self.disk.open(&path).and_then(|file| file.len());
        let end = len.map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
        let mut cursor = LogCursor::new(Arc::clone(self.disk), self.dir, table, id);
        cursor.extend(SegmentSpan { segment: number, end, seal: None });
        Ok(cursor)
    }

    /// Whether a segment begins with the creation of this table, which has this id.
    fn creates(&self, table: &str, id: u64, number: u64) -> Result<bool> {
        let first = match self.cursor(table, id, number)?.next_frame() {
            Ok(CursorItem::Frame(entry)) if entry.seq == id && entry.event.kind == EventType::Schema => entry,
            Err(error) if error.reason() != Reason::Corrupt => return Err(error),
            _ => return Ok(false),
        };
        let schema = first.event.document.as_ref().map(SchemaEvent::from_document);
        Ok(schema.is_some_and(|event| event.is_ok_and(|event| event.schema.table == table)))
    }

    /// The segments as the manifest must list them: all read, all but the last to their ends, and HEAD's word kept.
    fn sealed(&self, table: &str, slot: TableEntry, numbers: &[u64]) -> Tried<Vec<Segment>> {
        let mut order = Order::default();
        let mut segments = Vec::new();
        for number in numbers {
            let mut cursor = self.cursor(table, slot.table, *number)?;
            let active = numbers.last() == Some(number);
            let whole = loop {
                match cursor.next_frame() {
                    Ok(CursorItem::Frame(entry)) => {
                        if let Some(what) = order.take(&entry) {
                            return Ok(Err(format!("segment {number}: {what}")));
                        }
                    }
                    Ok(CursorItem::End) => break true,
                    Ok(CursorItem::Invalid(_)) => break false,
                    Err(error) if error.reason() == Reason::Corrupt => {
                        return Ok(Err(error.message().to_owned()));
                    }
                    Err(error) => return Err(error),
                }
            };
            let end = cursor.position().offset;
            if (!whole && !active) || (*number == slot.segment && end < slot.bytes) {
                return Ok(Err(format!("segment {number} cannot be read past byte {end}")));
            }
            let sealed = (!active).then(|| cursor.position().digest.seal(end));
            segments.push(Segment { number: *number, sealed });
        }
        if !numbers.contains(&slot.segment) || order.last_seq() < slot.last_seq {
            let (number, seq) = (slot.segment, slot.last_seq);
            return Ok(Err(format!("HEAD says that it has segment {number} and commit {seq}")));
        }
        Ok(Ok(segments))
    }

    fn derived(&mut self, derived: &Derived) -> Result<()> {
        let path = self.dir.manifest(&derived.manifest.table);
        match self.lighter(derived)? {
            Ok(made) => {
                let before = &derived.manifest;
                let (deltas, images) = (before.deltas.len(), before.images.len());
                let message = format!(
                    "made anew to name only what is sound: {} of {deltas} eras, {} of {images} moments of all rows. The log has \
                     the rest, and the next writer makes files of it",
                    made.deltas.len(),
                    made.images.len()
                );
                self.replace(&path, &manifest::encode(&made)?, message)
            }
            Err(why) => {
                self.cannot(&path, &why);
                Ok(())
            }
        }
    }

    /// The manifest without the files that are not sound: of eras those before the first such one stay, so that they hold
    /// everything up to where the log is read on.
    fn lighter(&self, derived: &Derived) -> Tried<Manifest> {
        let Derived { manifest, files, misplaced } = derived;
        let slot = self.wounds.slots.get(&manifest.table_id);
        let mut made = manifest.clone();
        made.version = made.version.max(slot.map_or(0, |slot| slot.manifest)) + 1;
        made.deltas.clear();
        let folded = manifest.deltas.first().filter(|era| era.is_compaction_base()).map(|era| era.seq);
        let mut before = 0;
        for (at, (era, open)) in (0..).zip(manifest.deltas.iter().zip(&files.deltas)) {
            let follows = match (at, folded) {
                (0, Some(_)) => true,
                // The floor may lie within it.
                (1, Some(floor)) => era.base <= floor && era.seq > floor,
                _ => era.base == before,
            };
            let Some(open) = open.as_ref().filter(|_| !misplaced.contains(&era.seq) && follows) else {
                break;
            };
            let mut era = era.clone();
            era.indexes.retain(|path| open.index(path).is_some());
            era.bytes = open.file.bytes() + open.indexes.iter().map(|(_, file)| file.bytes()).sum::<u64>();
            before = era.seq;
            made.deltas.push(era);
        }
        made.images.clear();
        for (full, open) in manifest.images.iter().zip(&files.images) {
            let Some(open) = open.as_ref().filter(|_| full.seq <= before) else { continue };
            let mut full = full.clone();
            full.indexes.retain(|path| open.index(path).is_some());
            full.bytes = open.file.bytes() + open.indexes.iter().map(|(_, file)| file.bytes()).sum::<u64>();
            made.images.push(full);
        }
        if made.deltas.is_empty() {
            made.published_ms = 0;
        }
        let lost = made.deltas.len() < manifest.deltas.len();
        if let Some(why) = at_floor(manifest, &made) {
            return Ok(Err(why.to_owned()));
        }
        if lost && self.wounds.segments.contains(&manifest.table) {
            return Ok(Err("the segments that it would be made from are damaged".to_owned()));
        }
        Ok(Ok(made))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.tell(path, "removed: nothing names it".to_owned(), "done with this");
        self.done += 1;
        let failed = |e| Error::io(format_args!("cannot remove {}", path.display()), &e);
        self.disk.remove(path).map_err(failed)?;
        match path.parent() {
            Some(dir) => self.disk.sync_dir(dir).map_err(failed),
            None => Ok(()),
        }
    }
}

/// Why a compacted table cannot do without the files that `made` does not name any more. What was folded is in the
/// compacted segment too, but nothing makes files of that.
fn at_floor(manifest: &Manifest, made: &Manifest) -> Option<&'static str> {
    let floor = manifest.floor?.seq;
    let lost = made.deltas.len() < manifest.deltas.len();
    let folded = manifest.deltas.first().filter(|era| era.is_compaction_base()).map(|era| era.seq);
    if lost && folded != Some(floor) {
        return Some("a compaction was cut short, and only the next writer can tell what it left");
    }
    let state = made.images.iter().any(|full| Some(full.seq) == folded);
    if folded.is_some() && (made.deltas.is_empty() || !state) {
        return Some(
            "the table was compacted, and its state at the floor is not made anew from the compacted segment",
        );
    }
    // It alone tells the requests of its commits that are folded.
    let within = made.deltas.len() == 1 && manifest.deltas.get(1).is_some_and(|era| era.base < floor);
    within.then_some("the table was compacted, and the floor lies within the era that is not sound")
}
