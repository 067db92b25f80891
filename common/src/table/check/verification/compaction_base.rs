//! Compares the compaction base of a table's log with the layers at the floor.

use bytes::Bytes;

use crate::error::Result;
use crate::format::compaction_base::KeepFrame;
use crate::format::manifest::{Floor, LogPosition, Manifest};
use crate::format::snapshot::{DeltaProperties, ProducerEntry, RequestEntry, RowEntry, SchemaEntry, tree};
use crate::storage::sst::TreeCursor;
use crate::storage::wal::compaction_base::{BaseItem, BaseReader};
use crate::table::check::verification::describe;
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::layers::LayerFile;
use crate::table::layers::sort_key;
use crate::table::table_files::TableFiles;

/// What the comparison of the later layers needs from the compaction base.
pub(super) struct ComparedBase {
    pub(super) floor: Floor,
    /// The position after the base, where events start.
    pub(super) position: LogPosition,
    pub(super) schema_entries: Vec<SchemaEntry>,
}

/// The layers at the floor.
#[derive(Clone, Copy)]
pub(super) struct FloorLayers<'a> {
    /// The compaction base.
    pub(super) delta: &'a LayerFile,
    /// The rows at the floor.
    pub(super) image: &'a LayerFile,
    /// The delta layer that contains the floor, if one does. It has the requests and producers of its own commits.
    pub(super) next: Option<&'a LayerFile>,
}

/// The layers at the floor, read along with the compaction base.
struct FloorComparison<'a> {
    layers: FloorLayers<'a>,
    requests: TreeCursor,
    producers: TreeCursor,
    rows: TreeCursor,
    schema_entries: Vec<SchemaEntry>,
}

/// Compares the compaction base in the log with the layers at the floor. `None` if the log cannot be read, which is reported.
pub(super) fn compare(
    files: &TableFiles,
    manifest: &Manifest,
    layers: FloorLayers<'_>,
    reporter: &mut ProblemReporter<'_>,
) -> Result<Option<ComparedBase>> {
    let table = (manifest.table.as_str(), manifest.table_id);
    let Some(first) = manifest.segments.first() else { return Ok(None) };
    let end = first.sealed.map_or(0, |seal| seal.bytes);
    let path = files.dir.segment(&manifest.table, first.number);
    let mut reader = match BaseReader::open(&*files.fs, &files.dir, table, first.number, end) {
        Ok(Some(reader)) => reader,
        // The check of the segments has reported that the base is missing.
        Ok(None) => return Ok(None),
        Err(error) => return reporter.report_error(&path, error).map(|()| None),
    };
    let mut comparison = FloorComparison::new(layers)?;
    loop {
        reporter.step()?;
        match reader.next_item() {
            Ok(Some(BaseItem::Keep(keep))) => comparison.compare_keep(keep, reporter)?,
            Ok(Some(BaseItem::Event(seq, time_ms, event))) => {
                let meta = event.meta.unwrap_or_default();
                match (event.key, event.document) {
                    (None, Some(document)) => {
                        let (actor, reason) = (meta.actor, meta.reason);
                        let document = document.detached();
                        comparison.schema_entries.push(SchemaEntry { seq, time_ms, actor, reason, document });
                    }
                    (Some(key), Some(document)) => {
                        let row = RowEntry { seq, time_ms, document };
                        comparison.compare_row(&sort_key(&key), &row, reporter)?;
                    }
                    (_, None) => {}
                }
            }
            Ok(None) => break,
            Err(error) => return reporter.report_error(&path, error).map(|()| None),
        }
    }
    let floor = reader.floor().floor;
    let schema_entries = comparison.finish(floor, reporter)?;
    Ok(Some(ComparedBase { floor, position: reader.position().to_log_position(), schema_entries }))
}

impl<'a> FloorComparison<'a> {
    fn new(layers: FloorLayers<'a>) -> Result<FloorComparison<'a>> {
        let first_of = |layer: &LayerFile, id: u8| -> Result<TreeCursor> {
            let mut cursor = layer.file.cursor(id);
            cursor.first()?;
            Ok(cursor)
        };
        let (requests, producers) =
            (first_of(layers.delta, tree::REQUESTS)?, first_of(layers.delta, tree::PRODUCERS)?);
        let rows = first_of(layers.image, tree::ROWS)?;
        Ok(FloorComparison { layers, requests, producers, rows, schema_entries: Vec::new() })
    }

    /// The entry of a commit in the delta layer that contains the floor, if that layer contains the commit.
    fn find_in_next(&self, seq: u64, id: u8, key: &[u8]) -> Result<Option<Bytes>> {
        let Some(next) = self.layers.next.filter(|next| next.base < seq) else { return Ok(None) };
        let mut cursor = next.file.cursor(id);
        cursor.seek(key)?;
        Ok(cursor.value().filter(|_| cursor.key() == Some(key)))
    }

    fn compare_keep(&mut self, keep: KeepFrame, reporter: &mut ProblemReporter<'_>) -> Result<()> {
        let path = self.layers.delta.file.path();
        for (seq, expected) in keep.requests {
            let key = seq.to_be_bytes();
            let found = take_entry(&mut self.requests, &key, &mut |key| {
                reporter.report(path, 0, format!("{} is not in the log", describe::request(key)));
            })?;
            let found = match found {
                None => self.find_in_next(seq, tree::REQUESTS, &key)?,
                found => found,
            };
            let found = found.map(|value| RequestEntry::decode(&value)).transpose()?;
            if found.as_ref() != Some(&expected) {
                let what = describe::request_difference(&key, found.as_ref(), Some(&expected));
                reporter.report(path, 0, what);
            }
        }
        for expected in keep.producers {
            let key = expected.origin.producer.as_bytes();
            let found = take_entry(&mut self.producers, key, &mut |key| {
                reporter.report(path, 0, format!("{} is not in the log", describe::producer(key)));
            })?;
            let found = match self.find_in_next(expected.seq, tree::PRODUCERS, key)? {
                None => found,
                newer => newer,
            };
            let found = found.map(|value| ProducerEntry::decode(key, &value)).transpose()?;
            if found.as_ref() != Some(&expected) {
                let what = describe::producer_difference(key, found.as_ref(), Some(&expected));
                reporter.report(path, 0, what);
            }
        }
        Ok(())
    }

    fn compare_row(
        &mut self,
        key: &[u8],
        expected: &RowEntry,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        let path = self.layers.image.file.path();
        let found = take_entry(&mut self.rows, key, &mut |key| {
            reporter.report(
                path,
                0,
                format!("{} does not exist at the floor in the log", describe::row(key)),
            );
        })?;
        let Some(found) = found else {
            reporter.report(path, 0, format!("{} is missing", describe::row(key)));
            return Ok(());
        };
        let found = RowEntry::decode(&found)?;
        if (found.seq, found.time_ms) != (expected.seq, expected.time_ms) {
            let (found, in_log) = ((found.seq, found.time_ms), (expected.seq, expected.time_ms));
            let what = describe::row_commit_difference(key, found, in_log);
            reporter.report(path, 0, what);
        } else if found.document != expected.document {
            reporter.report(path, 0, format!("the document of {} differs from the log", describe::row(key)));
        }
        Ok(())
    }

    /// Checks, after the whole base was compared, that the layers have nothing else. Returns the schema entries of the base.
    fn finish(mut self, floor: Floor, reporter: &mut ProblemReporter<'_>) -> Result<Vec<SchemaEntry>> {
        let (delta, image) = (self.layers.delta.file.path(), self.layers.image.file.path());
        for (cursor, path, describe) in [
            (&mut self.rows, image, &describe::row as &dyn Fn(&[u8]) -> String),
            (&mut self.requests, delta, &describe::request),
            (&mut self.producers, delta, &describe::producer),
        ] {
            while let Some(key) = cursor.key() {
                reporter.report(path, 0, format!("{} is not in the log", describe(key)));
                cursor.next()?;
            }
        }
        let found = DeltaProperties::decode(&Bytes::copy_from_slice(self.layers.delta.file.properties()))?;
        if (found.events, found.rows) != (floor.events, floor.rows)
            || found.schema_entries != self.schema_entries
        {
            let what = format!(
                "the layer has {} events, {} rows and {} schema changes, but the compaction base in the log has {}, {} and {}",
                found.events,
                found.rows,
                found.schema_entries.len(),
                floor.events,
                floor.rows,
                self.schema_entries.len()
            );
            reporter.report(delta, 0, what);
        }
        Ok(self.schema_entries)
    }
}

/// Moves the cursor past `wanted`, and returns the value at that key, if it exists. Calls `on_extra` for each smaller key.
fn take_entry(
    cursor: &mut TreeCursor,
    wanted: &[u8],
    on_extra: &mut dyn FnMut(&[u8]),
) -> Result<Option<Bytes>> {
    while let Some(key) = cursor.key().filter(|key| *key < wanted) {
        on_extra(key);
        cursor.next()?;
    }
    let value = cursor.value().filter(|_| cursor.key() == Some(wanted));
    if value.is_some() {
        cursor.next()?;
    }
    Ok(value)
}
