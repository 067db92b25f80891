//! Examines every file of a data directory once.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::diagnosis::Diagnosis;
use super::finding::{
    ExamSummary, Finding, FindingReporter, REBUILD_FROM_HEAD, REBUILD_FROM_LOG, REPAIRED_ON_OPEN,
    RESTORE_COPY, REWRITE_HEAD,
};
use super::layer_examination::{
    examine_layers, find_unused_of_database, find_unused_of_table, list_if_exists,
};
use crate::error::{Error, Result};
use crate::format::head::{
    CELL, Header, TableEntry, cell_offset, decode_header, decode_incarnation, decode_table_entries,
    incarnation_cell,
};
use crate::format::manifest::{Manifest, Segment};
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::{self, DataDir, SEGMENT_TMP, segment_number};
use crate::storage::wal::compaction_base::BaseReader;
use crate::storage::wal::cursor::{CursorItem, CursorPosition, LogCursor, SegmentSpan};
use crate::table::check::verification::LayerEnds;

/// The maximum length of HEAD that is read, in bytes: more than table entries for every possible table need.
const HEAD_BYTES_MAX: u64 = 16 << 20;

/// Examines all files, and reports each finding.
pub(super) fn examine(
    fs: &Arc<dyn FileSystem>,
    dir: &DataDir,
    on_finding: &mut dyn FnMut(Finding),
) -> Result<(ExamSummary, Diagnosis)> {
    let (reporter, diagnosis) = (FindingReporter::new(on_finding), Diagnosis::default());
    let mut examination = Examination { fs, dir, reporter, newest_seq: 0, diagnosis };
    let id = examination.examine_database()?;
    examination.examine_head(id)?;
    examination.examine_tables()?;
    let unused = find_unused_of_database((&**fs, dir), &mut examination.reporter)?;
    examination.diagnosis.leftovers.extend(unused);
    examination.check_newest_seq();
    Ok((examination.reporter.summary, examination.diagnosis))
}

struct Examination<'a> {
    fs: &'a Arc<dyn FileSystem>,
    dir: &'a DataDir,
    reporter: FindingReporter<'a>,
    /// The newest seq in any valid frame.
    newest_seq: u64,
    diagnosis: Diagnosis,
}

/// A segment, and what the manifest and HEAD say about it.
struct ExaminedSegment<'a> {
    manifest: &'a Manifest,
    segment: &'a Segment,
    path: &'a Path,
    /// Its durable bytes, if it is the active segment and HEAD has an entry for the table.
    durable: Option<u64>,
}

impl Examination<'_> {
    /// Returns the id of the database, if `database.json` can be read.
    fn examine_database(&mut self) -> Result<Option<[u8; 16]>> {
        let path = self.dir.database();
        self.reporter.summary.files += 1;
        match layout::read_database(&**self.fs, self.dir) {
            Ok(Some(database)) => return Ok(Some(*database.id.as_bytes())),
            Ok(None) => {
                let what = "the file is missing: without it the database has no identity";
                self.reporter.damage(&path, 0, what, REBUILD_FROM_HEAD);
            }
            Err(error) => self.reporter.read_error(&path, error, REBUILD_FROM_HEAD)?,
        }
        self.diagnosis.is_database_damaged = true;
        Ok(None)
    }

    fn examine_head(&mut self, id: Option<[u8; 16]>) -> Result<()> {
        let path = self.dir.head();
        self.reporter.summary.files += 1;
        let bytes = match fs::read(&**self.fs, &path, HEAD_BYTES_MAX) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                let what = "the file is missing: without it nothing shows which commits were published";
                self.reporter.damage(&path, 0, what, REBUILD_FROM_LOG);
                self.diagnosis.is_head_damaged = true;
                return Ok(());
            }
            Err(error) => return self.reporter.read_error(&path, error, RESTORE_COPY),
        };
        let copies = [decode_header_copy(&bytes, 0), decode_header_copy(&bytes, 1)];
        for (i, _) in (0..).zip(copies).filter(|(_, copy)| copy.is_none()) {
            if copies.iter().any(Option::is_some) {
                let what = format!("header copy {i} is not valid: DriftDB uses the other copy");
                self.reporter.damage(&path, cell_offset(i), what, REWRITE_HEAD);
                self.diagnosis.is_head_incomplete = true;
            }
        }
        let Some(header) = decode_header(&bytes) else {
            let what = "neither copy of the header is valid: nothing shows which commits were published";
            self.reporter.damage(&path, 0, what, REBUILD_FROM_LOG);
            self.diagnosis.is_head_damaged = true;
            return Ok(());
        };
        if id.is_some_and(|id| id != header.database_id) {
            let what = "HEAD and database.json belong to different databases";
            self.reporter.damage(&path, 0, what, RESTORE_COPY);
        }
        self.diagnosis.header = Some(header);
        self.examine_lineage(&header, &bytes)?;
        let first = usize::try_from(cell_offset(header.table_entry_cell(0))).unwrap_or(usize::MAX);
        let cells = bytes.get(first..).unwrap_or_default();
        for (i, entry) in (0..).zip(decode_table_entries(cells, header.table_entry_count, header.format)) {
            match entry {
                Some(entry) if entry.table != 0 => {
                    self.diagnosis.table_entries.insert(entry.table, entry);
                }
                Some(_) => {}
                None => {
                    let offset = cell_offset(header.table_entry_cell(i));
                    let what =
                        format!("table entry {i} is not valid: the segments contain the same information");
                    self.reporter.damage(&path, offset, what, REWRITE_HEAD);
                    self.diagnosis.is_head_incomplete = true;
                }
            }
        }
        Ok(())
    }

    /// Examines what names the incarnations: both copies in HEAD, and `lineage.json`.
    fn examine_lineage(&mut self, header: &Header, head: &[u8]) -> Result<()> {
        if header.format == 1 {
            return Ok(());
        }
        let Some(incarnation) = decode_incarnation(head) else {
            let offset = cell_offset(incarnation_cell(0));
            let what = format!(
                "neither copy of the incarnation at byte {offset} is valid: readers cannot tell whether the history is theirs"
            );
            self.reporter.damage(&self.dir.head(), offset, what, REPAIRED_ON_OPEN);
            return Ok(());
        };
        if incarnation.id == 0 {
            return Ok(());
        }
        let path = self.dir.lineage();
        self.reporter.summary.files += 1;
        let lost = match layout::read_lineage(&**self.fs, self.dir) {
            Ok(Some(lineage)) => {
                let is_known = lineage.entries().iter().any(|entry| entry.id == incarnation.id);
                (!is_known).then_some("the file does not have the incarnation that HEAD names")
            }
            Ok(None) => Some("the file is missing"),
            Err(error) => return self.reporter.read_error(&path, error, REPAIRED_ON_OPEN),
        };
        if let Some(lost) = lost {
            let what = format!("{lost}: resume tokens and write tokens of earlier incarnations are refused");
            self.reporter.note(&path, what, REPAIRED_ON_OPEN);
        }
        Ok(())
    }

    fn examine_tables(&mut self) -> Result<()> {
        let mut missing: BTreeMap<u64, TableEntry> = self.diagnosis.table_entries.clone();
        let mut without_manifest = Vec::new();
        for name in layout::table_names(&**self.fs, self.dir)? {
            let path = self.dir.manifest(&name);
            match layout::read_manifest(&**self.fs, self.dir, &name) {
                Ok(Some(manifest)) => {
                    self.reporter.summary.tables += 1;
                    self.reporter.summary.files += 1;
                    missing.remove(&manifest.table_id);
                    self.diagnosis.tables_with_manifest.push(manifest.table_id);
                    self.examine_table(&manifest)?;
                }
                Ok(None) => without_manifest.push(name),
                Err(error) => {
                    self.reporter.read_error(&path, error, REBUILD_FROM_LOG)?;
                    self.diagnosis.damaged_manifests.push(name);
                }
            }
        }
        for name in without_manifest {
            self.examine_without_manifest(&name, !missing.is_empty())?;
        }
        for id in missing.into_keys() {
            let what = format!(
                "HEAD has an entry for table id {id}, but no table directory has a readable meta.json with this id"
            );
            let remedy = "put back the table's directory, or its meta.json";
            self.reporter.damage(&self.dir.head(), 0, what, remedy);
        }
        Ok(())
    }

    /// Examines a table directory without a manifest. Either the table's creation never became durable, or the
    /// manifest was lost. It was lost if HEAD has an entry for a table that is missing, or if more than the first
    /// segment exists.
    fn examine_without_manifest(&mut self, name: &str, is_table_missing: bool) -> Result<()> {
        let path = self.dir.manifest(name);
        let files = list_if_exists(&**self.fs, &self.dir.segments(name))?;
        let newest = files.iter().filter_map(|file| segment_number(file)).max().unwrap_or(0);
        if newest > 1 || (newest == 1 && is_table_missing) {
            let what = "the file is missing, but the table has segments: without it the table cannot be read";
            self.reporter.damage(&path, 0, what, REBUILD_FROM_LOG);
            self.diagnosis.damaged_manifests.push(name.to_owned());
        } else {
            let what =
                "the file is missing: the creation of the table was not finished, or the file was lost";
            self.reporter.note(&path, what, REPAIRED_ON_OPEN);
        }
        Ok(())
    }

    fn examine_table(&mut self, manifest: &Manifest) -> Result<()> {
        let present = list_if_exists(&**self.fs, &self.dir.segments(&manifest.table))?;
        let entry = self.diagnosis.table_entries.get(&manifest.table_id).copied();
        let mut layer_ends = LayerEnds::of(manifest);
        let damage = self.reporter.summary.damage;
        let mut last_seq = 0;
        for segment in &manifest.segments {
            let path = self.dir.segment(&manifest.table, segment.number);
            if present.iter().any(|name| segment_number(name) == Some(segment.number)) {
                let durable = entry.filter(|entry| entry.segment == segment.number).map(|entry| entry.bytes);
                let examined = ExaminedSegment { manifest, segment, path: &path, durable };
                self.examine_segment(&examined, &mut layer_ends, &mut last_seq)?;
            } else {
                let what = "the segment is missing, but meta.json lists it";
                self.reporter.damage(&path, 0, what, RESTORE_COPY);
            }
        }
        let is_log_complete = self.reporter.summary.damage == damage;
        if !is_log_complete {
            self.diagnosis.damaged_segments.push(manifest.table.clone());
        }
        let ends = (layer_ends, is_log_complete);
        let damaged = examine_layers((self.fs, self.dir), manifest, ends, &mut self.reporter)?;
        self.diagnosis.damaged_layers.extend(damaged);
        let unused = find_unused_of_table((&**self.fs, self.dir), manifest, &mut self.reporter)?;
        self.diagnosis.leftovers.extend(unused);
        self.note_other_files(manifest, &present);
        Ok(())
    }

    /// Notes the files in the segments directory that are not listed segments.
    fn note_other_files(&mut self, manifest: &Manifest, present: &[String]) {
        for name in present {
            let path = self.dir.segments(&manifest.table).join(name);
            let (what, remedy) = match segment_number(name) {
                Some(number) if manifest.segments.iter().any(|segment| segment.number == number) => continue,
                Some(_) => ("unused segment: meta.json does not list it", REPAIRED_ON_OPEN),
                None if name.contains(".torn.") => (
                    "recovery cut these bytes off a segment: they belong to commits that were never acknowledged",
                    "remove the file if nobody needs it to investigate a crash",
                ),
                None if name.ends_with(SEGMENT_TMP) => {
                    ("unfinished segment: a writer stopped while it created the file", REPAIRED_ON_OPEN)
                }
                None => ("DriftDB did not create this file", "remove the file if nobody needs it"),
            };
            self.reporter.note(&path, what, remedy);
        }
    }

    /// Reads the compaction base at the start of a segment, if it has one. Returns the position after it.
    fn read_compaction_base(
        &mut self,
        manifest: &Manifest,
        number: u64,
        end: u64,
    ) -> Result<Option<CursorPosition>> {
        let table = (manifest.table.as_str(), manifest.table_id);
        let Some(mut base) = BaseReader::open(&**self.fs, self.dir, table, number, end)? else {
            return Ok(None);
        };
        self.reporter.summary.frames += 1;
        while base.next_item()?.is_some() {
            self.reporter.summary.frames += 1;
        }
        self.newest_seq = self.newest_seq.max(base.floor().floor.last_seq);
        Ok(Some(base.position()))
    }

    /// Reads the frames of a segment. A sealed segment must match its seal; the active segment must be valid up to
    /// its durable bytes.
    fn examine_segment(
        &mut self,
        examined: &ExaminedSegment<'_>,
        layer_ends: &mut LayerEnds<'_>,
        last_seq: &mut u64,
    ) -> Result<()> {
        let ExaminedSegment { manifest, segment, path, durable } = *examined;
        self.reporter.summary.files += 1;
        let end = match (segment.sealed, durable) {
            (Some(seal), _) => seal.bytes,
            (None, Some(bytes)) => bytes,
            // Without an entry in HEAD, every valid frame counts, and an invalid one is not damage.
            (None, None) => match self.fs.open(path).and_then(|file| file.len()) {
                Ok(len) => len,
                Err(e) => {
                    let error = Error::io("cannot open the segment", &e);
                    return self.reporter.read_error(path, error, RESTORE_COPY);
                }
            },
        };
        let mut cursor = LogCursor::new(Arc::clone(self.fs), self.dir, &manifest.table, manifest.table_id);
        if segment.sealed.is_some() && manifest.floor.is_some() {
            match self.read_compaction_base(manifest, segment.number, end) {
                Ok(Some(position)) => cursor = cursor.starting_at(position),
                Ok(None) => {}
                Err(error) => return self.reporter.read_error(path, error, RESTORE_COPY),
            }
        }
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        loop {
            match cursor.next_frame() {
                Ok(CursorItem::Frame(frame)) => {
                    self.reporter.summary.frames += 1;
                    self.newest_seq = self.newest_seq.max(frame.seq);
                    layer_ends.pass_later(&frame.at, *last_seq, Some(frame.seq));
                    *last_seq = frame.seq;
                }
                Ok(CursorItem::End) => {
                    layer_ends.pass_later(cursor.position(), *last_seq, None);
                    return Ok(());
                }
                Ok(CursorItem::Invalid(_)) if segment.sealed.is_none() && durable.is_none() => {
                    layer_ends.pass_later(cursor.position(), *last_seq, None);
                    return Ok(());
                }
                Ok(CursorItem::Invalid(error)) => {
                    let authority = if segment.sealed.is_some() { "meta.json" } else { "HEAD" };
                    let what = format!(
                        "{error}: published commits from here on cannot be read ({authority} says that the segment is \
                         valid up to byte {end})"
                    );
                    self.reporter.damage(path, cursor.position().offset, what, RESTORE_COPY);
                    return Ok(());
                }
                Err(error) => return self.reporter.read_error(path, error, RESTORE_COPY),
            }
        }
    }

    /// Reports damage if HEAD has published a commit that is in no segment.
    fn check_newest_seq(&mut self) {
        let Some(Header { last_seq, .. }) = self.diagnosis.header else { return };
        let newest = self.newest_seq;
        if newest < last_seq {
            let what = format!(
                "HEAD has published commit {last_seq}, but the newest commit that can be read from the segments is {newest}"
            );
            let remedy = "repair the segments that other findings name: they contain the missing commits";
            self.reporter.damage(&self.dir.head(), 0, what, remedy);
        }
    }
}

/// Decodes one of the two copies of the header.
fn decode_header_copy(bytes: &[u8], copy: usize) -> Option<Header> {
    // The other copy is set to zeros, which are not valid.
    let mut cells: Vec<u8> = bytes.iter().copied().take(2 * CELL).collect();
    let other = if copy == 0 { CELL } else { 0 };
    cells.iter_mut().skip(other).take(CELL).for_each(|byte| *byte = 0);
    decode_header(&cells)
}
