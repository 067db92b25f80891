//! Compaction: discards a table's history below a new floor, in the log and in the layers.
//!
//! The state at the floor replaces the events up to it: an image layer holds its rows, a base delta layer without events holds
//! the schemas, requests and producers, and a new segment of the log begins with all of these, followed by a copy of the
//! frames after the floor.
//!
//! The order of the steps makes it safe to stop at any point:
//! 1. Build the new files. If the writer stops, the next start removes them, because no manifest names them.
//! 2. Publish the floor in the manifest. From now on, nobody is answered from the files that will be removed.
//! 3. Rename the new segment to its final name.
//! 4. Replace the manifest: it names the new files. Until this step, all old files are in place.
//! 5. Remove the old files, once readers have had time to read the new manifest. The caller does this.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::format::compaction_base::FloorFrame;
use crate::format::manifest::{DeltaLayer, Floor, ImageLayer, LogPosition, Manifest, Segment};
use crate::storage::layout::{image_stem, snapshot_files};
use crate::storage::wal::appender::CompactionInput;
use crate::storage::wal::compaction_base::BaseWriter;
use crate::table::build::image;
use crate::table::build::new_files::NewFiles;
use crate::table::build::progress::ProgressFn;
use crate::table::layers::LayerMap;
use crate::table::table_files::TableFiles;

mod base;
mod plan;

pub use plan::{CompactionPlan, CompactionRequest, is_complete, plan};

/// A change of a manifest.
pub type ManifestEdit = Box<dyn Fn(&mut Manifest) + Send + Sync>;

/// What a compaction needs of the log of its table. While it runs, nobody else may change the table's layers.
pub trait CompactionLog {
    /// Seals the log up to a segment. See [`crate::storage::wal::appender::Log::begin_compaction`].
    fn begin(&self, up_to: u64) -> Result<CompactionInput>;

    /// Changes the manifest, and makes the writer and readers use it. Returns the new manifest.
    fn install(&self, edit: ManifestEdit) -> Result<Manifest>;
}

/// What a compaction has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompactionResult {
    /// The plan, with the actual size of the new files.
    pub plan: CompactionPlan,
    /// Segments that no manifest names any more. They may be removed once readers have had time to read the new manifest.
    pub superseded: Vec<PathBuf>,
}

/// The new files, and how the manifest changes.
#[derive(Debug, Clone)]
struct CompactedFiles {
    floor: Floor,
    /// `None` if the manifest names an image layer at the floor already.
    image: Option<ImageLayer>,
    base_delta: DeltaLayer,
    segment: Segment,
    superseded: Vec<u64>,
    /// Offsets in the segment at the boundary, and the positions to which their frames were copied.
    moved: Vec<(u64, LogPosition)>,
    /// The number of the segment at the boundary.
    boundary: u64,
}

/// Compacts a table as planned. The layers must be the manifest's, and hold every commit up to the floor.
pub fn run(
    files: &TableFiles,
    log: &dyn CompactionLog,
    layers: &LayerMap,
    (plan, request): (CompactionPlan, CompactionRequest),
    progress: ProgressFn<'_>,
) -> Result<CompactionResult> {
    let input = log.begin(plan.boundary.segment)?;
    let table = input.manifest.table.clone();
    let (old, number) = (snapshot_files(&files.dir, &input.manifest), input.number);
    let temporary = files.dir.segment_tmp(&table, number, input.term);
    let mut new_files = NewFiles::of(files, &table);
    new_files.add(&temporary);
    let new = build(files, layers, &input, (&plan, request), (&mut new_files, progress))?;
    let floor = new.floor;
    log.install(Box::new(move |manifest| manifest.floor = Some(floor)))?;
    let segment = files.dir.segment(&table, number);
    new_files.add(&segment);
    let rename = || {
        files.fs.rename(&temporary, &segment)?;
        // The sync also makes the removal of segments durable that an earlier compaction superseded: the new FLOOR frame
        // does not name those.
        files.fs.sync_dir(&files.dir.segments(&table))
    };
    rename().map_err(|e| Error::io(format_args!("cannot rename segment {number} of table {table:?}"), &e))?;
    let applied = new.clone();
    let manifest = log.install(Box::new(move |manifest| applied.apply_to(manifest)))?;
    new_files.keep();
    let bytes_after: u64 = manifest.deltas.first().map_or(0, |delta| delta.bytes)
        + new.image.as_ref().map_or(0, |image| image.bytes)
        + new.segment.sealed.map_or(0, |seal| seal.bytes);
    tracing::info!(
        table,
        floor_seq = floor.seq,
        events = plan.events,
        segment = number,
        files = old.len(),
        "compacted"
    );
    let superseded = new.superseded.iter().map(|number| files.dir.segment(&table, *number)).collect();
    Ok(CompactionResult { plan: CompactionPlan { bytes_after, ..plan }, superseded })
}

/// Builds the new files. The segment has its temporary name.
fn build(
    files: &TableFiles,
    layers: &LayerMap,
    input: &CompactionInput,
    (plan, request): (&CompactionPlan, CompactionRequest),
    (new_files, progress): (&mut NewFiles<'_>, ProgressFn<'_>),
) -> Result<CompactedFiles> {
    let (manifest, floor) = (&input.manifest, plan.floor);
    let table = (manifest.table.as_str(), manifest.table_id);
    let has_image = manifest.images.iter().any(|image| image.seq == floor.seq);
    let indexes = manifest.deltas.last().map(|delta| delta.indexes.clone()).unwrap_or_default();
    let image = match has_image {
        true => None,
        false => Some(image::build(files, table, layers, floor.seq, &indexes, progress)?),
    };
    // The rows for the log are read from the new image layer: it is one file instead of many, and reading it back proves
    // that it can be read.
    let mut with_image = manifest.clone();
    if let Some(image) = &image {
        insert_image(&mut with_image.images, image.clone());
        new_files.add(&files.dir.image_layer(table.0, image.seq));
        let stem = image_stem(image.seq);
        image.indexes.iter().for_each(|path| new_files.add(&files.dir.index(table.0, path, &stem)));
    }
    new_files.add(&files.dir.delta_layer(table.0, floor.seq, floor.seq));
    let with_image = files.open(&with_image, Some(layers))?;
    let mut base_delta = base::write_base_delta(files, table, layers, floor, request.requests)?;

    let replaced = plan::segments_up_to(manifest, plan.boundary.segment).iter();
    let mut superseded: Vec<u64> = replaced.map(|segment| segment.number).collect();
    superseded.extend(input.stale.iter().copied());
    let first = FloorFrame { floor, frames: 0, digest: 0, superseded: superseded.clone() };
    let path = files.dir.segment_tmp(table.0, input.number, input.term);
    let mut out = BaseWriter::create(&files.fs, path, table.1, input.number, first)?;
    base::write_kept(&mut out, layers, floor, request.requests)?;
    base::write_schemas(&mut out, layers, floor.seq)?;
    base::write_rows(&mut out, &with_image, floor.seq, progress)?;
    out.end_base()?;
    let (offsets, copied) = base::copy_rest(&mut out, files, manifest, plan.boundary, progress)?;
    let (seal, positions) = out.finish(&copied)?;
    let moved: Vec<(u64, LogPosition)> = offsets.into_iter().zip(positions).collect();
    let start = moved.iter().find(|(offset, _)| *offset == plan.boundary.offset);
    base_delta.position = start.map(|(_, position)| *position).unwrap_or_default();
    let segment = Segment { number: input.number, sealed: Some(seal) };
    Ok(CompactedFiles {
        floor,
        image,
        base_delta,
        segment,
        superseded,
        moved,
        boundary: plan.boundary.segment,
    })
}

impl CompactedFiles {
    /// Makes the manifest name the new files in place of those that they replace.
    fn apply_to(&self, manifest: &mut Manifest) {
        let floor = self.floor.seq;
        manifest.floor = Some(self.floor);
        manifest.segments.retain(|segment| !self.superseded.contains(&segment.number));
        manifest.segments.insert(0, self.segment.clone());
        manifest.deltas.retain(|delta| delta.seq > floor);
        for delta in manifest.deltas.iter_mut().filter(|delta| delta.position.segment == self.boundary) {
            let moved = self.moved.iter().find(|(offset, _)| *offset == delta.position.offset);
            if let Some((_, position)) = moved {
                delta.position = *position;
            }
        }
        manifest.deltas.insert(0, self.base_delta.clone());
        manifest.images.retain(|image| image.seq >= floor);
        if let Some(image) = &self.image {
            insert_image(&mut manifest.images, image.clone());
        }
    }
}

fn insert_image(images: &mut Vec<ImageLayer>, image: ImageLayer) {
    let at = images.partition_point(|other| other.seq < image.seq);
    images.insert(at, image);
}
