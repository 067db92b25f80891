//! Rebuilds files that other files prove, and removes damaged snapshots and indexes from manifests. Never changes a segment.

use std::path::Path;
use std::sync::Arc;

use super::diagnosis::{DamagedLayers, Diagnosis};
use super::finding::{Finding, FindingReporter, RESTORE_COPY};
use crate::error::{Error, Reason, Result};
use crate::format::event::EventType;
use crate::format::head::{FORMAT_VERSION, HeadIncarnation, Header, TableEntry};
use crate::format::manifest::{self, Database, Manifest, Segment, created_name};
use crate::storage::fs::{self, FileSystem};
use crate::storage::head::{self, Head};
use crate::storage::head_file::HeadFile;
use crate::storage::head_reader::replace_damaged_entries;
use crate::storage::layout::{self, DataDir, segment_number};
use crate::storage::recovery;
use crate::storage::wal::cursor::{CursorItem, LogCursor, SegmentSpan};
use crate::table::check::verification::CommitOrder;
use crate::table::schema::SchemaEvent;
use crate::table::sound_layers::manifest_of_sound_layers;

/// A rebuilt value, or the reason why it cannot be rebuilt. An `Err` of the outer result stops all repairs.
type Rebuilt<T> = Result<std::result::Result<T, String>>;

struct Repair<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a DataDir,
    diagnosis: &'a Diagnosis,
    reporter: FindingReporter<'a>,
}

/// Makes the repairs that are possible now. Returns their number.
pub(super) fn repair(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    diagnosis: &Diagnosis,
    on_finding: &mut dyn FnMut(Finding),
) -> Result<u64> {
    let mut repair = Repair { fs, dir, diagnosis, reporter: FindingReporter::new(on_finding) };
    if diagnosis.is_database_damaged {
        repair.rebuild_database()?;
    }
    if diagnosis.is_head_damaged {
        repair.rebuild_head()?;
    } else if diagnosis.is_head_incomplete {
        repair.rewrite_head()?;
    }
    for table in &diagnosis.damaged_manifests {
        repair.rebuild_manifest(table)?;
    }
    for layers in &diagnosis.damaged_layers {
        repair.remove_damaged_layers(layers)?;
    }
    for leftover in &diagnosis.leftovers {
        repair.remove_file(leftover)?;
    }
    Ok(repair.reporter.summary.repaired)
}

impl Repair<'_> {
    /// Reports a repair, then replaces the file.
    fn replace(&mut self, file: &Path, bytes: &[u8], message: String) -> Result<()> {
        self.reporter.repair(file, message);
        fs::replace(&**self.fs, file, bytes)
    }

    fn report_unrepaired(&mut self, file: &Path, why: &str) {
        self.reporter.note(file, format!("cannot be repaired: {why}"), RESTORE_COPY);
    }

    fn rebuild_database(&mut self) -> Result<()> {
        let path = self.dir.database();
        let Some(header) = self.diagnosis.header else {
            self.report_unrepaired(&path, "HEAD, which contains the same id, has no valid header");
            return Ok(());
        };
        let id = uuid::Uuid::from_bytes(header.database_id);
        let database = Database { id, epoch: header.epoch, format: FORMAT_VERSION };
        self.replace(
            &path,
            &manifest::encode(&database)?,
            format!("rebuilt from HEAD: the database id is {id}"),
        )
    }

    /// Rebuilds HEAD from the segments, without table entries: the next writer then syncs every active segment again before it
    /// trusts it.
    fn rebuild_head(&mut self) -> Result<()> {
        let path = self.dir.head();
        let database = match layout::read_database(&**self.fs, self.dir) {
            Ok(Some(database)) => database,
            Ok(None) => {
                self.report_unrepaired(
                    &path,
                    "database.json, which contains the database id, is missing too",
                );
                return Ok(());
            }
            Err(error) => {
                let why =
                    format!("database.json, which contains the database id, cannot be read either: {error}");
                self.report_unrepaired(&path, &why);
                return Ok(());
            }
        };
        if !self.diagnosis.damaged_manifests.is_empty() || !self.diagnosis.damaged_segments.is_empty() {
            self.report_unrepaired(&path, "a manifest or a segment is damaged too, and without HEAD nothing shows whether the damaged commits were published");
            return Ok(());
        }
        let mut term = 0;
        for name in layout::table_names(&**self.fs, self.dir)? {
            term =
                term.max(layout::read_manifest(&**self.fs, self.dir, &name)?.map_or(0, |found| found.term));
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
            format: FORMAT_VERSION,
        };
        // The next writer begins another incarnation, and takes the older ones from lineage.json.
        let incarnation = HeadIncarnation::default();
        let empty = Head { header, incarnation, entries: Vec::new() };
        let (last_seq, last_ms) = match recovery::last_whole(self.fs, self.dir, &empty) {
            Ok(found) => found,
            Err(error) => {
                self.report_unrepaired(&path, error.message());
                return Ok(());
            }
        };
        let message = format!(
            "rebuilt from the segments: the last complete commit is {last_seq}. If the last commits before the loss of HEAD are \
             damaged, they look like commits that were never acknowledged: the next writer cuts them off and keeps them in a \
             .torn file"
        );
        self.reporter.repair(&path, message);
        let header = Header { last_seq, last_ms, ..header };
        HeadFile::replace(&**self.fs, self.dir, &Head { header, ..empty })
    }

    /// Rewrites HEAD: both copies of the header from the valid one, and damaged table entries from the segments.
    fn rewrite_head(&mut self) -> Result<()> {
        let path = self.dir.head();
        if !self.diagnosis.damaged_manifests.is_empty() || !self.diagnosis.damaged_segments.is_empty() {
            self.report_unrepaired(&path, "a manifest or a segment is damaged too");
            return Ok(());
        }
        let Some(found) = head::read_tolerant(&**self.fs, self.dir)? else { return Ok(()) };
        match replace_damaged_entries(self.fs, self.dir, &found)? {
            Some(head) => {
                let message = "rewritten from its valid cells and from the segments";
                self.reporter.repair(&path, message);
                HeadFile::replace(&**self.fs, self.dir, &head)
            }
            None => {
                self.report_unrepaired(&path, "it has no room for the entry of a table");
                Ok(())
            }
        }
    }

    fn rebuild_manifest(&mut self, table: &str) -> Result<()> {
        let path = self.dir.manifest(table);
        match self.manifest_from_log(table)? {
            Ok(rebuilt) => {
                let message = format!(
                    "rebuilt from {} segments, without snapshots: the next writer takes new snapshots",
                    rebuilt.segments.len()
                );
                self.replace(&path, &manifest::encode(&rebuilt)?, message)
            }
            Err(why) => {
                self.report_unrepaired(&path, &why);
                Ok(())
            }
        }
    }

    /// The manifest of a table, from its segments and its table entry in HEAD.
    fn manifest_from_log(&self, table: &str) -> Rebuilt<Manifest> {
        let Some(header) = self.diagnosis.header else {
            return Ok(Err(
                "HEAD, which contains how far its segments are durable, has no valid header".to_owned()
            ));
        };
        let names = self.fs.list(&self.dir.segments(table));
        let names =
            names.map_err(|e| Error::io(format_args!("cannot list the segments of table {table:?}"), &e))?;
        let mut numbers: Vec<u64> = names.iter().filter_map(|name| segment_number(name)).collect();
        numbers.sort_unstable();
        let mut unclaimed = self
            .diagnosis
            .table_entries
            .values()
            .filter(|entry| !self.diagnosis.tables_with_manifest.contains(&entry.table));
        let Some(first) = numbers.first() else { return Ok(Err("the table has no segments".to_owned())) };
        let mut own = None;
        for entry in &mut unclaimed {
            if self.creates_table(table, entry.table, *first)? {
                own = Some(*entry);
                break;
            }
        }
        let Some(entry) = own else {
            let why = "the first segment does not start with the creation of a table that has an entry in HEAD and no meta.json";
            return Ok(Err(why.to_owned()));
        };
        if entry.floor > 0 {
            return Ok(Err(
                "the table was compacted, and only the lost meta.json lists the segments that remained"
                    .to_owned(),
            ));
        }
        let segments = match self.seal_segments(table, entry, &numbers)? {
            Ok(segments) => segments,
            Err(why) => return Ok(Err(why)),
        };
        Ok(Ok(Manifest {
            table: table.to_owned(),
            name: None,
            table_id: entry.table,
            version: entry.manifest + 1,
            term: header.term,
            published: header.last_seq,
            published_ms: 0,
            floor: None,
            deltas: Vec::new(),
            images: Vec::new(),
            segments,
        }))
    }

    /// A cursor over one segment.
    fn cursor(&self, table: &str, id: u64, number: u64) -> Result<LogCursor> {
        let path = self.dir.segment(table, number);
        let len = self.fs.open(&path).and_then(|file| file.len());
        let end = len.map_err(|e| Error::io(format_args!("cannot open {}", path.display()), &e))?;
        let mut cursor = LogCursor::new(Arc::clone(self.fs), self.dir, table, id);
        cursor.extend(SegmentSpan { segment: number, end, seal: None });
        Ok(cursor)
    }

    /// Whether a segment starts with the creation of the table with this name and id.
    fn creates_table(&self, table: &str, id: u64, number: u64) -> Result<bool> {
        let first = match self.cursor(table, id, number)?.next_frame() {
            Ok(CursorItem::Frame(frame)) if frame.seq == id && frame.event.kind == EventType::Schema => frame,
            Err(error) if error.reason() != Reason::Corrupt => return Err(error),
            _ => return Ok(false),
        };
        let schema = first.event.document.as_ref().map(SchemaEvent::from_document);
        Ok(schema.is_some_and(|event| event.is_ok_and(|event| event.schema.table == created_name(table))))
    }

    /// The segments of the rebuilt manifest. Every segment except the last must be valid to its end, and together they must
    /// contain everything that the table entry in HEAD has published.
    fn seal_segments(&self, table: &str, entry: TableEntry, numbers: &[u64]) -> Rebuilt<Vec<Segment>> {
        let mut order = CommitOrder::default();
        let mut segments = Vec::new();
        for number in numbers {
            let mut cursor = self.cursor(table, entry.table, *number)?;
            let is_active = numbers.last() == Some(number);
            let is_valid = loop {
                match cursor.next_frame() {
                    Ok(CursorItem::Frame(frame)) => {
                        if let Some(what) = order.add(&frame) {
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
            if (!is_valid && !is_active) || (*number == entry.segment && end < entry.bytes) {
                return Ok(Err(format!("segment {number} is damaged at byte {end}")));
            }
            let sealed = (!is_active).then(|| cursor.position().digest.seal(end));
            segments.push(Segment { number: *number, sealed });
        }
        if !numbers.contains(&entry.segment) || order.last_seq() < entry.last_seq {
            let (number, seq) = (entry.segment, entry.last_seq);
            return Ok(Err(format!(
                "HEAD has published segment {number} and commit {seq}, but the segments end before them"
            )));
        }
        Ok(Ok(segments))
    }

    fn remove_damaged_layers(&mut self, damaged: &DamagedLayers) -> Result<()> {
        let before = &damaged.manifest;
        let path = self.dir.manifest(&before.table);
        match self.manifest_of_sound_layers(damaged)? {
            Ok(rebuilt) => {
                let message = format!(
                    "rebuilt with the sound layers only: {} of {} delta layers and {} of {} image layers. The log contains the \
                     rest, and the next writer builds new layers from it",
                    rebuilt.deltas.len(),
                    before.deltas.len(),
                    rebuilt.images.len(),
                    before.images.len()
                );
                self.replace(&path, &manifest::encode(&rebuilt)?, message)
            }
            Err(why) => {
                self.report_unrepaired(&path, &why);
                Ok(())
            }
        }
    }

    /// The manifest without damaged layers and indexes, with a version above the damaged one.
    fn manifest_of_sound_layers(&self, damaged: &DamagedLayers) -> Rebuilt<Manifest> {
        let DamagedLayers { manifest, sound } = damaged;
        let entry = self.diagnosis.table_entries.get(&manifest.table_id);
        let mut rebuilt = match manifest_of_sound_layers(manifest, sound) {
            Ok(rebuilt) => rebuilt,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        rebuilt.version = rebuilt.version.max(entry.map_or(0, |entry| entry.manifest)) + 1;
        let loses_deltas = rebuilt.deltas.len() < manifest.deltas.len();
        if loses_deltas && self.diagnosis.damaged_segments.contains(&manifest.table) {
            return Ok(Err("the segments from which the layers would be built again are damaged".to_owned()));
        }
        Ok(Ok(rebuilt))
    }

    fn remove_file(&mut self, path: &Path) -> Result<()> {
        self.reporter.repair(path, "removed, because the file is unused");
        let failed = |e| Error::io(format_args!("cannot remove {}", path.display()), &e);
        self.fs.remove(path).map_err(failed)?;
        match path.parent() {
            Some(dir) => self.fs.sync_dir(dir).map_err(failed),
            None => Ok(()),
        }
    }
}
