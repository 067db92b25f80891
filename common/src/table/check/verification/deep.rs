//! The deep comparison: delta layers with the log, image layers with the delta layers before them, indexes with their layers.
//!
//! It goes layer by layer, and within a layer by chunks of commits, so that memory does not depend on the size of a layer. To
//! know a row before a chunk, it reads the layers that it has compared already. After a version that differs from the log,
//! rows are unknown: the comparison continues without them, and reports what it leaves out.

use crate::error::{Error, Reason, Result};
use crate::format::event::EventType;
use crate::format::manifest::{DeltaLayer, ImageLayer, Manifest};
use crate::format::snapshot::{SchemaEntry, TableChange};
use crate::storage::sst::SstFile;
use crate::storage::wal::cursor::{CursorItem, DecodedFrame, LogCursor};
use crate::table::check::verification::compaction_base::{self, ComparedBase, FloorLayers};
use crate::table::check::verification::delta_layer::{DeltaComparison, TableTotals};
use crate::table::check::verification::log_chunk::{LogChunk, RowEvent};
use crate::table::check::verification::problem::ProblemReporter;
use crate::table::check::verification::{candidates, image_layer};
use crate::table::event_id::EventId;
use crate::table::layers::LayerFile;
use crate::table::layers::{LayerMap, sort_key};
use crate::table::log_tail::{ReadLimit, log_after};
use crate::table::schema::SchemaEvent;
use crate::table::sound_layers::SoundLayers;
use crate::table::table_files::TableFiles;

/// Compares all snapshots and indexes of a table with its log, up to `limit`. The log must be readable.
pub(super) fn compare(
    files: &TableFiles,
    manifest: &Manifest,
    limit: ReadLimit,
    layers: &SoundLayers,
    reporter: &mut ProblemReporter<'_>,
) -> Result<()> {
    let mut replay = LogReplay::new(files, manifest, limit);
    let mut images = manifest.images.iter().zip(&layers.images).peekable();
    let mut deltas = manifest.deltas.iter().zip(&layers.deltas).peekable();
    if let Some((listed, delta)) = deltas.next_if(|(listed, _)| listed.is_compaction_base()) {
        let image =
            images.next_if(|(image, _)| image.seq == listed.seq).and_then(|(_, image)| image.as_ref());
        let (Some(delta), Some(image)) = (delta, image) else {
            let what = "no snapshot was compared with the log, because a layer at the floor is damaged";
            reporter.report(&files.dir.manifest(&manifest.table), 0, what);
            return Ok(());
        };
        let next = deltas.peek().and_then(|(_, next)| next.as_ref()).filter(|next| next.base < listed.seq);
        let at_floor = FloorLayers { delta, image, next };
        if !replay.start_at_floor((files, manifest, limit), listed, at_floor, reporter)? {
            return Ok(());
        }
    }
    for (listed, delta) in deltas {
        let Some(delta) = delta else {
            let what = "the layer is damaged: it and all newer snapshots were not compared with the log";
            reporter.report(&files.dir.delta_layer(&manifest.table, listed.base, listed.seq), 0, what);
            return Ok(());
        };
        match replay.compare_delta(listed, delta, reporter) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return reporter.report_error(delta.file.path(), error),
        }
        let is_compared = replay.totals.are_rows_known;
        for (path, index) in delta.indexes.iter().filter(|_| is_compared) {
            let result =
                candidates::compare_with_delta(&replay.layers, (delta, replay.floor), path, index, reporter);
            report_failure(reporter, index, result)?;
        }
        while let Some((listed, image)) = images.next_if(|(image, _)| image.seq <= listed.seq) {
            if let Some(image) = image.as_ref().filter(|_| is_compared) {
                replay.compare_image(listed, image, reporter)?;
            }
        }
    }
    for (image, _) in images {
        let what = format!("the layer is at commit {}, after the newest delta layer", image.seq);
        reporter.report(&files.dir.image_layer(&manifest.table, image.seq), 0, what);
    }
    Ok(())
}

/// Reports an error of a comparison as a problem of the compared file.
fn report_failure(reporter: &mut ProblemReporter<'_>, file: &SstFile, result: Result<()>) -> Result<()> {
    result.or_else(|error| reporter.report_error(file.path(), error))
}

fn compare_image_indexes(image: &LayerFile, reporter: &mut ProblemReporter<'_>) -> Result<()> {
    for (path, index) in &image.indexes {
        let result = candidates::compare_with_image(image, path, index, reporter);
        report_failure(reporter, index, result)?;
    }
    Ok(())
}

/// Reads the log, and the state of the table that follows from it.
struct LogReplay {
    cursor: LogCursor,
    /// A frame that was read, but belongs to a later layer.
    ahead: Option<DecodedFrame>,
    /// The layers that were compared, and the one that is being compared.
    layers: LayerMap,
    totals: TableTotals,
    /// The commit that created the table.
    created_at: u64,
    /// The log has no events up to this seq, only a compaction base.
    floor: u64,
}

impl LogReplay {
    /// Before the first event.
    fn new(files: &TableFiles, manifest: &Manifest, limit: ReadLimit) -> LogReplay {
        let without_layers = Manifest { deltas: Vec::new(), ..manifest.clone() };
        LogReplay {
            cursor: log_after(files, &without_layers, limit),
            ahead: None,
            layers: LayerMap { table: manifest.table_id, ..LayerMap::default() },
            totals: TableTotals { are_rows_known: true, ..TableTotals::default() },
            created_at: 0,
            floor: 0,
        }
    }

    /// Compares the compaction base with the layers at the floor, and starts after it. Returns false if the log cannot be read,
    /// which is reported.
    fn start_at_floor(
        &mut self,
        (files, manifest, limit): (&TableFiles, &Manifest, ReadLimit),
        listed: &DeltaLayer,
        layers: FloorLayers<'_>,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<bool> {
        let problems = reporter.counts.problems;
        let ComparedBase { floor, position, schema_entries } =
            match compaction_base::compare(files, manifest, layers, reporter) {
                Ok(Some(base)) => base,
                Ok(None) => return Ok(false),
                Err(error) => return reporter.report_error(layers.image.file.path(), error).map(|()| false),
            };
        let after_base =
            Manifest { deltas: vec![DeltaLayer { position, ..listed.clone() }], ..manifest.clone() };
        self.cursor = log_after(files, &after_base, limit);
        self.floor = floor.seq;
        self.layers.floor = Some(floor);
        self.layers.deltas.push(layers.delta.clone());
        self.layers.images.push(layers.image.clone());
        self.layers.newest.schema_entries.clone_from(&schema_entries);
        self.created_at = self.layers.created_at(floor.seq)?.unwrap_or(0);
        self.totals = TableTotals {
            events: floor.events,
            rows: floor.rows,
            are_rows_known: reporter.counts.problems == problems,
            time_ms: floor.time_ms,
            schema_entries,
        };
        if self.totals.are_rows_known {
            compare_image_indexes(layers.image, reporter)?;
        }
        Ok(true)
    }

    /// The next frame, if its commit is not after `last_seq`.
    fn next_frame(&mut self, last_seq: u64) -> Result<Option<DecodedFrame>> {
        let frame = match self.ahead.take() {
            Some(frame) => frame,
            None => match self.cursor.next_frame()? {
                CursorItem::Frame(frame) => frame,
                CursorItem::End => return Ok(None),
                CursorItem::Invalid(error) => {
                    let (path, offset) = (self.cursor.path(), self.cursor.position().offset);
                    return Err(Error::corrupt_by(path.display(), offset, error));
                }
            },
        };
        if frame.seq > last_seq {
            self.ahead = Some(frame);
            return Ok(None);
        }
        Ok(Some(frame))
    }

    /// Compares a delta layer. Returns false if the log cannot be read, which is reported.
    fn compare_delta(
        &mut self,
        listed: &DeltaLayer,
        layer: &LayerFile,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<bool> {
        self.layers.deltas.push(layer.clone());
        let mut comparison = DeltaComparison::new(listed, layer, self.floor)?;
        let mut chunk = LogChunk::default();
        loop {
            let frame = match self.next_frame(listed.seq) {
                Ok(frame) => frame,
                Err(error) => return reporter.report_error(&self.cursor.path(), error).map(|()| false),
            };
            let starts_commit = frame.as_ref().is_none_or(|frame| comparison.last_seq() != frame.seq);
            if starts_commit {
                comparison.finish_commit(&self.totals, reporter)?;
                if chunk.is_full() || frame.is_none() {
                    let are_equal = comparison.compare_versions(std::mem::take(&mut chunk), reporter)?;
                    self.forget_rows_unless(are_equal, layer, reporter);
                }
            }
            let Some(frame) = frame else { break };
            reporter.step()?;
            self.add_frame(frame, layer, (&mut comparison, &mut chunk), reporter)?;
        }
        let are_equal = comparison.finish(&self.totals, reporter)?;
        self.forget_rows_unless(are_equal, layer, reporter);
        self.layers.newest.schema_entries.clone_from(&self.totals.schema_entries);
        Ok(true)
    }

    /// Compares an image layer and its indexes. A layer without problems then serves to read rows for newer layers.
    fn compare_image(
        &mut self,
        listed: &ImageLayer,
        image: &LayerFile,
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        let created_at = self.layers.created_at(listed.seq)?;
        let problems = reporter.counts.problems;
        let result = image_layer::compare(&self.layers, listed.seq, created_at, image, reporter);
        report_failure(reporter, &image.file, result)?;
        compare_image_indexes(image, reporter)?;
        if reporter.counts.problems == problems {
            self.layers.images.push(image.clone());
        }
        Ok(())
    }

    /// Marks rows as unknown if versions differ, and reports once what cannot be compared without them.
    fn forget_rows_unless(&mut self, are_equal: bool, layer: &LayerFile, reporter: &mut ProblemReporter<'_>) {
        if !are_equal && self.totals.are_rows_known {
            self.totals.are_rows_known = false;
            let what = "its versions differ from the log: rows, rows after patches and indexes from here on were not compared";
            reporter.report(layer.file.path(), 0, what);
        }
    }

    /// Adds a frame to the comparison and to the chunk, and updates the totals.
    fn add_frame(
        &mut self,
        frame: DecodedFrame,
        layer: &LayerFile,
        (comparison, chunk): (&mut DeltaComparison<'_>, &mut LogChunk),
        reporter: &mut ProblemReporter<'_>,
    ) -> Result<()> {
        let DecodedFrame { seq, time_ms, event, at } = frame;
        self.totals.time_ms = time_ms;
        let index = comparison.add_frame(seq, time_ms, &event, reporter)?;
        let Some(commit) = comparison.current_entry() else { return Ok(()) };
        match (event.kind, &event.document, &event.key) {
            (EventType::Schema, Some(document), _) => {
                let removes_rows = SchemaEvent::from_document(document)?.action.removes_rows();
                let document = document.detached();
                let (actor, reason) = (commit.actor.clone(), commit.reason.clone());
                commit.changes.push(TableChange::Schema(document.clone(), removes_rows));
                if removes_rows {
                    (self.created_at, self.totals.rows) = (seq, 0);
                }
                self.totals.events += 1;
                self.totals.schema_entries.push(SchemaEntry { seq, time_ms, actor, reason, document });
            }
            (EventType::Insert | EventType::Patch | EventType::SoftDelete, _, Some(key)) => {
                commit.changes.push(TableChange::Row(sort_key(key).into()));
                self.totals.events += 1;
                let (actor, reason) = (commit.actor.as_str(), commit.reason.as_str());
                let (id, created_at) = (EventId { seq, index }, self.created_at);
                let row_event = RowEvent { id, time_ms, event: &event, created_at, actor, reason };
                let layers = Some(&self.layers).filter(|_| self.totals.are_rows_known);
                match chunk.add(&row_event, layers) {
                    Ok(Some(live)) => {
                        let rows = self.totals.rows + u64::from(live.after);
                        self.totals.rows = rows.saturating_sub(u64::from(live.before));
                    }
                    Ok(None) => {}
                    Err(error) if error.reason() == Reason::Corrupt && error.file_error().is_none() => {
                        let path = self.cursor.path();
                        reporter.report(&path, at.offset, format!("commit {seq}: {}", error.message()));
                        self.forget_rows_unless(false, layer, reporter);
                    }
                    Err(error) => return Err(error),
                }
            }
            _ => {}
        }
        Ok(())
    }
}
