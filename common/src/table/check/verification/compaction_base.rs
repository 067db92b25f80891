//! The folded state that a compacted table's log begins with, compared with the files that stand for it.

use bytes::Bytes;

use crate::error::Result;
use crate::format::compaction_base::KeepFrame;
use crate::format::manifest::{Floor, LogPosition, Manifest};
use crate::format::snapshot::{ProducerEntry, RequestEntry, RowEntry, SchemaEntry, tree};
use crate::storage::sst::TreeCursor;
use crate::storage::wal::compaction_base::{BaseItem, BaseReader};
use crate::table::check::verification::ProblemList;
use crate::table::check::verification::deep::properties;
use crate::table::check::verification::image::name;
use crate::table::layers::sort_key;
use crate::table::table_files::{LayerFile, TableFiles};

/// What lies behind a folded state needs of it.
pub(super) struct Folded {
    pub(super) floor: Floor,
    /// Where events begin.
    pub(super) position: LogPosition,
    pub(super) schema_entries: Vec<SchemaEntry>,
}

/// The files, read along with the state.
struct Beside<'a> {
    era: &'a LayerFile,
    full: &'a LayerFile,
    /// The era that the floor lies within: it has what was kept of its own commits.
    next: Option<&'a LayerFile>,
    requests: TreeCursor,
    producers: TreeCursor,
    rows: TreeCursor,
    schema_entries: Vec<SchemaEntry>,
}

/// Compares the state at the floor, as the log has it, with the era and the rows there. `None` where the log cannot be read.
pub(super) fn compare(
    shelf: &TableFiles,
    manifest: &Manifest,
    (era, full, next): (&LayerFile, &LayerFile, Option<&LayerFile>),
    report: &mut ProblemList<'_>,
) -> Result<Option<Folded>> {
    let table = (manifest.table.as_str(), manifest.table_id);
    let Some(first) = manifest.segments.first() else { return Ok(None) };
    let end = first.sealed.map_or(0, |seal| seal.bytes);
    let path = shelf.dir.segment(&manifest.table, first.number);
    let mut reader = match BaseReader::open(&*shelf.disk, &shelf.dir, table, first.number, end) {
        Ok(Some(reader)) => reader,
        // That it is not there has been told.
        Ok(None) => return Ok(None),
        Err(error) => return report.failed(&path, error).map(|()| None),
    };
    let mut beside = Beside::begin(era, full, next)?;
    loop {
        report.step()?;
        match reader.next_item() {
            Ok(Some(BaseItem::Keep(keep))) => beside.keep(keep, report)?,
            Ok(Some(BaseItem::Event(seq, time_ms, event))) => {
                let meta = event.meta.unwrap_or_default();
                match (event.key, event.document) {
                    (None, Some(document)) => {
                        let (actor, reason) = (meta.actor, meta.reason);
                        let document = document.detached();
                        beside.schema_entries.push(SchemaEntry { seq, time_ms, actor, reason, document });
                    }
                    (Some(key), Some(document)) => {
                        beside.row(&sort_key(&key), &RowEntry { seq, time_ms, document }, report)?;
                    }
                    (_, None) => {}
                }
            }
            Ok(None) => break,
            Err(error) => return report.failed(&path, error).map(|()| None),
        }
    }
    let floor = reader.floor().floor;
    let schema_entries = beside.end(floor, report)?;
    Ok(Some(Folded { floor, position: reader.position().to_log_position(), schema_entries }))
}

impl<'a> Beside<'a> {
    fn begin(era: &'a LayerFile, full: &'a LayerFile, next: Option<&'a LayerFile>) -> Result<Beside<'a>> {
        let first = |open: &LayerFile, id: u8| -> Result<TreeCursor> {
            let mut cursor = open.file.cursor(id);
            cursor.first()?;
            Ok(cursor)
        };
        let (requests, producers) = (first(era, tree::REQUESTS)?, first(era, tree::PRODUCERS)?);
        let rows = first(full, tree::ROWS)?;
        Ok(Beside { era, full, next, requests, producers, rows, schema_entries: Vec::new() })
    }

    /// What the era that the floor lies within has of a commit of its own.
    fn beyond(&self, seq: u64, id: u8, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(next) = self.next.filter(|next| next.base < seq) else { return Ok(None) };
        let mut cursor = next.file.cursor(id);
        cursor.seek(key)?;
        Ok(cursor.value().filter(|_| cursor.key() == Some(key)))
    }

    fn keep(&mut self, keep: KeepFrame, report: &mut ProblemList<'_>) -> Result<()> {
        let path = self.era.file.path();
        for (seq, expected) in keep.requests {
            let found = along(&mut self.requests, &seq.to_be_bytes(), &mut |key| {
                report.problem(path, 0, format!("{}, which the log did not keep", request(key)));
            })?;
            let found = match found {
                None => self.beyond(seq, tree::REQUESTS, &seq.to_be_bytes())?,
                found => found,
            };
            match found.map(|value| RequestEntry::decode(&value)).transpose()? {
                Some(found) if found == expected => {}
                found => {
                    let what =
                        format!("the request of commit {seq} is {found:?}, and the log kept {expected:?}");
                    report.problem(path, 0, what);
                }
            }
        }
        for expected in keep.producers {
            let key = expected.origin.producer.as_bytes();
            let found = along(&mut self.producers, key, &mut |key| {
                let what = format!("of producer \"{}\", which the log did not keep", key.escape_ascii());
                report.problem(path, 0, what);
            })?;
            let found = match self.beyond(expected.seq, tree::PRODUCERS, key)? {
                None => found,
                newer => newer,
            };
            match found.map(|value| ProducerEntry::decode(key, &value)).transpose()? {
                Some(found) if found == expected => {}
                found => {
                    report.problem(
                        path,
                        0,
                        format!("of a producer {found:?}, and the log kept {expected:?}"),
                    );
                }
            }
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], expected: &RowEntry, report: &mut ProblemList<'_>) -> Result<()> {
        let path = self.full.file.path();
        let found = along(&mut self.rows, key, &mut |key| {
            report.problem(path, 0, format!("{}, which the log does not have then", name(key)));
        })?;
        let Some(found) = found else {
            report.problem(path, 0, format!("{} is missing", name(key)));
            return Ok(());
        };
        let found = RowEntry::decode(&found)?;
        if (found.seq, found.time_ms) != (expected.seq, expected.time_ms) {
            let what = format!(
                "{} is of commit {} at {}, and the log has commit {} at {}",
                name(key),
                found.seq,
                found.time_ms,
                expected.seq,
                expected.time_ms
            );
            report.problem(path, 0, what);
        } else if found.document != expected.document {
            report.problem(path, 0, format!("{} is not what the log has of it", name(key)));
        }
        Ok(())
    }

    /// The state has been read: nothing more may be in the files. Hands back what the schema was.
    fn end(mut self, floor: Floor, report: &mut ProblemList<'_>) -> Result<Vec<SchemaEntry>> {
        let (era, full) = (self.era.file.path(), self.full.file.path());
        let mut more = |cursor: &mut TreeCursor, path, what: &dyn Fn(&[u8]) -> String| -> Result<()> {
            while let Some(key) = cursor.key() {
                report.problem(path, 0, format!("{}, which the log does not have", what(key)));
                cursor.next()?;
            }
            Ok(())
        };
        more(&mut self.rows, full, &name)?;
        more(&mut self.requests, era, &request)?;
        more(&mut self.producers, era, &|key| format!("of producer \"{}\"", key.escape_ascii()))?;
        let found = properties(&self.era.file)?;
        if (found.events, found.rows) != (floor.events, floor.rows)
            || found.schema_entries != self.schema_entries
        {
            let expected = (floor.events, floor.rows, &self.schema_entries);
            let what = format!("the table at the floor is {found:?}, and the log has {expected:?}");
            report.problem(era, 0, what);
        }
        Ok(self.schema_entries)
    }
}

fn request(key: &[u8]) -> String {
    match key.try_into().map(u64::from_be_bytes) {
        Ok(seq) => format!("a request of commit {seq}"),
        Err(_) => "a request without a commit".to_owned(),
    }
}

/// The value at a key, the cursor being moved past it; keys before it are handed to `extra`.
fn along(cursor: &mut TreeCursor, wanted: &[u8], extra: &mut dyn FnMut(&[u8])) -> Result<Option<Bytes>> {
    while let Some(key) = cursor.key().filter(|key| *key < wanted) {
        extra(key);
        cursor.next()?;
    }
    let value = cursor.value().filter(|_| cursor.key() == Some(wanted));
    if value.is_some() {
        cursor.next()?;
    }
    Ok(value)
}
