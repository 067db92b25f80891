//! Examines a data directory without a daemon: what is damaged or missing, what that means, and what would do.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::format::head::{
    CELL, Header, TableEntry, cell_offset, decode_header, decode_table_entries, table_entry_cell,
};
use crate::format::manifest::{Manifest, Segment};
use crate::storage::fs::{self, FileSystem};
use crate::storage::layout::{self, DataDir, SEGMENT_TMP, segment_number};
use crate::storage::lock::Lock;
use crate::storage::wal::compaction_base::BaseReader;
use crate::storage::wal::cursor::{CursorItem, CursorPosition, LogCursor, SegmentSpan};
use crate::table::check::verification::{Files, Positions};

mod derived;
mod repair;

/// The most that is read of HEAD: more than slots for every table need.
const HEAD_BYTES: u64 = 16 << 20;
const COPY_BACK: &str = "put back a copy of this file, or restore the database from a backup";
const FROM_HEAD: &str =
    "put back a copy of this file, or have it made from HEAD with driftctl doctor --repair";
const FROM_LOG: &str =
    "put back a copy of this file, or have it made from the segments with driftctl doctor --repair";
const NEXT_OPEN: &str = "nothing: the next writer sees to it when it opens the database";

/// How bad something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Something that was published is not there as it was written.
    Damage,
    /// Worth knowing; no data is concerned.
    Note,
    /// What a repair is about to do.
    Repair,
}

/// Something found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// What was found, and what it means.
    pub message: String,
    /// What would do.
    pub remedy: &'static str,
}

/// What was gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExamSummary {
    /// Tables with a manifest.
    pub tables: u64,
    /// Files read.
    pub files: u64,
    /// Frames read.
    pub frames: u64,
    /// Findings that are damage.
    pub damage: u64,
    /// Findings that are not.
    pub notes: u64,
    /// What was repaired.
    pub repaired: u64,
}

/// What a repair begins with.
#[derive(Default)]
struct Wounds {
    /// database.json is missing or not to be read.
    database: bool,
    /// HEAD is missing, or has no valid header.
    head: bool,
    header: Option<Header>,
    slots: BTreeMap<u64, TableEntry>,
    /// Tables with a manifest.
    known: Vec<u64>,
    /// Tables whose manifest is missing or not to be read.
    manifests: Vec<String>,
    /// Tables with a segment that is.
    segments: Vec<String>,
    /// Tables of which snapshots or indexes are damaged, with what is left.
    derived: Vec<Derived>,
    leftovers: Vec<PathBuf>,
}

/// A table's snapshots, where not all are sound.
struct Derived {
    manifest: Manifest,
    files: Files,
    /// The last commits of eras that do not end where they say.
    misplaced: Vec<u64>,
}

/// Rounds of repairs: one may make the next possible.
const ROUNDS: u32 = 5;

/// Examines the database in `dir` under the writer's lock, and hands each finding to `say`. Changes nothing but LOCK.
///
/// With `repair` it rebuilds what can be told from other files without losing anything: database.json, HEAD, manifests; it
/// lets go of snapshots and indexes that are not sound, as the log has everything (I8), and of leftovers. Segments are never
/// touched. Each step is told before it is taken. The summary is of what is left then.
pub fn examine(
    disk: Arc<dyn FileSystem>,
    dir: &DataDir,
    repair: bool,
    say: &mut dyn FnMut(Finding),
) -> Result<ExamSummary> {
    // Before the lock: a directory that is none of ours gets no LOCK.
    let entries = disk.list(dir.root());
    let entries = entries.map_err(|e| Error::io(format_args!("cannot list {}", dir.root().display()), &e))?;
    if !entries.iter().any(|name| ["database.json", "HEAD", "tables"].contains(&name.as_str())) {
        let message = format!("{} holds no database", dir.root().display());
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    let _lock = Lock::acquire(&*disk, dir)?;
    let mut said: Vec<Finding> = Vec::new();
    let mut say_once = |finding: Finding| {
        if !said.contains(&finding) {
            said.push(finding.clone());
            say(finding);
        }
    };
    let (mut summary, mut wounds) = look(&disk, dir, &mut say_once)?;
    let mut repaired = 0;
    for _ in 0..ROUNDS {
        let done = if repair { repair::repair(&disk, dir, &wounds, &mut say_once)? } else { 0 };
        if done == 0 {
            break;
        }
        repaired += done;
        (summary, wounds) = look(&disk, dir, &mut say_once)?;
    }
    Ok(ExamSummary { repaired, ..summary })
}

/// Looks at everything once.
fn look(
    disk: &Arc<dyn FileSystem>,
    dir: &DataDir,
    say: &mut dyn FnMut(Finding),
) -> Result<(ExamSummary, Wounds)> {
    let (summary, wounds) = (ExamSummary::default(), Wounds::default());
    let mut exam = Exam { disk: Arc::clone(disk), dir, say, summary, newest: 0, wounds };
    let id = exam.database()?;
    let (header, slots) = exam.head(id)?;
    (exam.wounds.header, exam.wounds.slots) = (header, slots.clone());
    exam.tables(&slots)?;
    exam.leftovers()?;
    if let Some(header) = header.filter(|header| exam.newest < header.last_seq) {
        let (last, newest) = (header.last_seq, exam.newest);
        let message = format!("it says that commit {last} was published, and the newest found is {newest}");
        exam.damage(&dir.head(), 0, message, "see to the segments named before: they hold the commits");
    }
    Ok((exam.summary, exam.wounds))
}

struct Exam<'a> {
    disk: Arc<dyn FileSystem>,
    dir: &'a DataDir,
    say: &'a mut dyn FnMut(Finding),
    summary: ExamSummary,
    /// The newest commit seen in any frame.
    newest: u64,
    wounds: Wounds,
}

impl Exam<'_> {
    fn damage(&mut self, file: &Path, offset: u64, message: impl Into<String>, remedy: &'static str) {
        self.summary.damage += 1;
        self.found(Severity::Damage, file, offset, message.into(), remedy);
    }

    fn note(&mut self, file: &Path, message: impl Into<String>, remedy: &'static str) {
        self.summary.notes += 1;
        self.found(Severity::Note, file, 0, message.into(), remedy);
    }

    fn found(&mut self, severity: Severity, file: &Path, offset: u64, message: String, remedy: &'static str) {
        (self.say)(Finding { severity, file: file.display().to_string(), offset, message, remedy });
    }

    /// An error of reading a file as a finding; one that says nothing of the file goes on as an error.
    fn unreadable(&mut self, file: &Path, error: Error, remedy: &'static str) -> Result<()> {
        if !matches!(error.reason(), Reason::Corrupt | Reason::Io) {
            return Err(error);
        }
        let offset = error.offset().unwrap_or(0);
        self.damage(file, offset, error.message().to_owned(), remedy);
        Ok(())
    }

    fn database(&mut self) -> Result<Option<[u8; 16]>> {
        let path = self.dir.database();
        self.summary.files += 1;
        match layout::read_database(&*self.disk, self.dir) {
            Ok(Some(database)) => return Ok(Some(*database.id.as_bytes())),
            Ok(None) => self.damage(&path, 0, "it is missing: it names the database", FROM_HEAD),
            Err(error) => self.unreadable(&path, error, FROM_HEAD)?,
        }
        self.wounds.database = true;
        Ok(None)
    }

    /// The header and the slots that are valid, by table.
    fn head(&mut self, id: Option<[u8; 16]>) -> Result<(Option<Header>, BTreeMap<u64, TableEntry>)> {
        let path = self.dir.head();
        self.summary.files += 1;
        let bytes = match fs::read(&*self.disk, &path, HEAD_BYTES) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.damage(&path, 0, "it is missing: it says what was published", FROM_LOG);
                self.wounds.head = true;
                return Ok((None, BTreeMap::new()));
            }
            Err(error) => {
                self.unreadable(&path, error, COPY_BACK)?;
                return Ok((None, BTreeMap::new()));
            }
        };
        let copy = |which: usize| {
            // The other copy blanked out.
            let mut cells: Vec<u8> = bytes.iter().copied().take(2 * CELL).collect();
            let other = if which == 0 { CELL } else { 0 };
            cells.iter_mut().skip(other).take(CELL).for_each(|byte| *byte = 0);
            decode_header(&cells)
        };
        let copies = [copy(0), copy(1)];
        for (i, _) in (0..).zip(copies).filter(|(_, copy)| copy.is_none()) {
            if copies.iter().any(Option::is_some) {
                self.note(&path, format!("header copy {i} is not valid; the other one counts"), NEXT_OPEN);
            }
        }
        let Some(header) = decode_header(&bytes) else {
            let message = "neither copy of its header is valid: what was published is not known from it";
            self.damage(&path, 0, message, FROM_LOG);
            self.wounds.head = true;
            return Ok((None, BTreeMap::new()));
        };
        if id.is_some_and(|id| id != header.database_id) {
            self.damage(&path, 0, "it belongs to another database than database.json", COPY_BACK);
        }
        let cells = bytes.get(2 * CELL..).unwrap_or_default();
        let mut slots = BTreeMap::new();
        for (i, slot) in (0..).zip(decode_table_entries(cells, header.table_entry_count)) {
            match slot {
                Some(slot) if slot.table != 0 => drop(slots.insert(slot.table, slot)),
                Some(_) => {}
                None => {
                    let at = cell_offset(table_entry_cell(i));
                    let message = format!("slot {i}, at byte {at}, is not valid: segments tell what it said");
                    self.note(&path, message, NEXT_OPEN);
                }
            }
        }
        Ok((Some(header), slots))
    }

    fn tables(&mut self, slots: &BTreeMap<u64, TableEntry>) -> Result<()> {
        let mut missing = slots.clone();
        let mut bare = Vec::new();
        for name in layout::table_names(&*self.disk, self.dir)? {
            let path = self.dir.manifest(&name);
            match layout::read_manifest(&*self.disk, self.dir, &name) {
                Ok(Some(manifest)) => {
                    self.summary.tables += 1;
                    self.summary.files += 1;
                    missing.remove(&manifest.table_id);
                    self.wounds.known.push(manifest.table_id);
                    self.table(&manifest, slots.get(&manifest.table_id))?;
                }
                Ok(None) => bare.push(name),
                Err(error) => {
                    self.unreadable(&path, error, FROM_LOG)?;
                    self.wounds.manifests.push(name);
                }
            }
        }
        for name in bare {
            self.without_manifest(&name, !missing.is_empty())?;
        }
        for id in missing.into_keys() {
            let message =
                format!("it names table {id}, of which no directory under tables/ has a readable meta.json");
            self.damage(&self.dir.head(), 0, message, "put back the table's directory, or its meta.json");
        }
        Ok(())
    }

    /// A table's directory without a manifest: of a creation that never became durable, or of one that lost it. HEAD
    /// names a table that is missing, or there is more than the first segment: then it is the latter.
    fn without_manifest(&mut self, name: &str, table_missing: bool) -> Result<()> {
        let path = self.dir.manifest(name);
        let files = self.list(&self.dir.segments(name))?;
        let newest = files.iter().filter_map(|file| segment_number(file)).max().unwrap_or(0);
        if newest > 1 || (newest == 1 && table_missing) {
            let message = "it is missing, beside segments: without it the table cannot be read";
            self.damage(&path, 0, message, FROM_LOG);
            self.wounds.manifests.push(name.to_owned());
        } else {
            self.note(&path, "it is missing: the table's creation never became durable", NEXT_OPEN);
        }
        Ok(())
    }

    fn table(&mut self, manifest: &Manifest, slot: Option<&TableEntry>) -> Result<()> {
        let present = self.list(&self.dir.segments(&manifest.table))?;
        let mut positions = Positions::of(manifest);
        let damage = self.summary.damage;
        let mut last = 0;
        for segment in &manifest.segments {
            let path = self.dir.segment(&manifest.table, segment.number);
            if present.iter().any(|name| segment_number(name) == Some(segment.number)) {
                self.segment((manifest, segment, slot), &path, (&mut positions, &mut last))?;
            } else {
                self.damage(&path, 0, "meta.json lists it, and it is missing", COPY_BACK);
            }
        }
        if self.summary.damage > damage {
            self.wounds.segments.push(manifest.table.clone());
        }
        self.derived(manifest, positions)?;
        for name in &present {
            let path = self.dir.segments(&manifest.table).join(name);
            match segment_number(name) {
                Some(number) if manifest.segments.iter().any(|segment| segment.number == number) => {}
                Some(_) => self.note(&path, "a segment that meta.json does not list", NEXT_OPEN),
                None if name.contains(".torn.") => {
                    let message = "bytes that recovery cut from a segment: they were never acknowledged";
                    self.note(&path, message, "remove it once nobody wants to look at it");
                }
                None if name.ends_with(SEGMENT_TMP) => {
                    self.note(&path, "a writer began to make it, and did not finish", NEXT_OPEN);
                }
                None => self.note(&path, "no file of DriftDB's", "remove it if it is not wanted"),
            }
        }
        Ok(())
    }

    /// Reads the state that a compacted segment begins with; where its events begin.
    fn folded(&mut self, manifest: &Manifest, number: u64, end: u64) -> Result<Option<CursorPosition>> {
        let table = (manifest.table.as_str(), manifest.table_id);
        let Some(mut folded) = BaseReader::open(&*self.disk, self.dir, table, number, end)? else {
            return Ok(None);
        };
        self.summary.frames += 1;
        while folded.next_item()?.is_some() {
            self.summary.frames += 1;
        }
        self.newest = self.newest.max(folded.floor().floor.last_seq);
        Ok(Some(folded.position()))
    }

    /// Reads a segment's frames: those of a sealed one must give its seal, those of the active one reach as far as HEAD
    /// says that they are durable.
    fn segment(
        &mut self,
        (manifest, segment, slot): (&Manifest, &Segment, Option<&TableEntry>),
        path: &Path,
        (positions, last): (&mut Positions<'_>, &mut u64),
    ) -> Result<()> {
        self.summary.files += 1;
        let durable = slot.filter(|slot| slot.segment == segment.number).map(|slot| slot.bytes);
        let end = match (segment.sealed, durable) {
            (Some(seal), _) => seal.bytes,
            (None, Some(bytes)) => bytes,
            // HEAD does not say: whatever is whole counts, and its end proves nothing.
            (None, None) => match self.disk.open(path).and_then(|file| file.len()) {
                Ok(len) => len,
                Err(e) => return self.unreadable(path, Error::io("cannot open it", &e), COPY_BACK),
            },
        };
        let mut cursor = LogCursor::new(Arc::clone(&self.disk), self.dir, &manifest.table, manifest.table_id);
        if segment.sealed.is_some() && manifest.floor.is_some() {
            match self.folded(manifest, segment.number, end) {
                Ok(Some(mark)) => cursor = cursor.starting_at(mark),
                Ok(None) => {}
                Err(error) => return self.unreadable(path, error, COPY_BACK),
            }
        }
        cursor.extend(SegmentSpan { segment: segment.number, end, seal: segment.sealed });
        loop {
            match cursor.next_frame() {
                Ok(CursorItem::Frame(entry)) => {
                    self.summary.frames += 1;
                    self.newest = self.newest.max(entry.seq);
                    positions.note(&entry.at, *last, Some(entry.seq));
                    *last = entry.seq;
                }
                Ok(CursorItem::End) => {
                    positions.note(cursor.position(), *last, None);
                    return Ok(());
                }
                Ok(CursorItem::Invalid(_)) if segment.sealed.is_none() && durable.is_none() => {
                    positions.note(cursor.position(), *last, None);
                    return Ok(());
                }
                Ok(CursorItem::Invalid(error)) => {
                    let at = cursor.position().offset;
                    let said = if segment.sealed.is_some() {
                        "meta.json seals it"
                    } else {
                        "HEAD says that it is durable"
                    };
                    let message = format!(
                        "{error}; {said} to byte {end}, so what is from here on was published, and cannot be read"
                    );
                    self.damage(path, at, message, COPY_BACK);
                    return Ok(());
                }
                Err(error) => return self.unreadable(path, error, COPY_BACK),
            }
        }
    }

    fn list(&self, path: &Path) -> Result<Vec<String>> {
        match self.disk.list(path) {
            Ok(names) => Ok(names),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(Error::io(format_args!("cannot list {}", path.display()), &e)),
        }
    }
}
