//! Runs the merge policy on a table: writes image layers, merges delta layers, drops old images, and updates
//! indexes.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use driftdb_common::error::Result;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::table::build::merge_policy::{self, MergeTask};
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::build::{image, merge};
use driftdb_common::table::layers::LayerMap;

use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::indexer::Indexer;
use crate::maintenance::table_editor::TableEditor;

/// Runs the merge policy.
#[derive(Debug)]
pub(super) struct Merger {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
    indexer: Arc<Indexer>,
}

impl Merger {
    pub(super) fn new(
        context: Arc<MaintenanceContext>,
        editor: Arc<TableEditor>,
        indexer: Arc<Indexer>,
    ) -> Merger {
        Merger { context, editor, indexer }
    }

    /// Runs the merge policy's tasks until none is left, then updates the indexes. The caller must hold the
    /// table's lock.
    pub(super) fn run_merge_policy(&self, id: u64, progress: ProgressFn<'_>) -> Result<()> {
        self.run_tasks(id, merge_policy::next_task, &|| false, progress).map(drop)
    }

    /// As [`Merger::run_merge_policy`], but ends between two tasks if something else has become urgent. Returns whether
    /// no task is left.
    pub(super) fn run_while_idle(
        &self,
        id: u64,
        is_urgent: &dyn Fn() -> bool,
        progress: ProgressFn<'_>,
    ) -> Result<bool> {
        self.run_tasks(id, merge_policy::next_task, is_urgent, progress)
    }

    /// Runs only the tasks that bound the number of layers, because the table's next delta layer is due. The caller must
    /// hold the table's lock.
    pub(super) fn run_urgent_tasks(&self, id: u64, progress: ProgressFn<'_>) -> Result<()> {
        self.run_tasks(id, merge_policy::next_urgent_task, &|| false, progress).map(drop)
    }

    fn run_tasks(
        &self,
        id: u64,
        next_task: fn(&Manifest) -> Option<MergeTask>,
        is_urgent: &dyn Fn() -> bool,
        progress: ProgressFn<'_>,
    ) -> Result<bool> {
        loop {
            if is_urgent() {
                return Ok(false);
            }
            let (manifest, _, layers) = self.editor.current(id)?;
            match next_task(&manifest) {
                Some(MergeTask::WriteImage) => self.write_image(id, &manifest, &layers, progress)?,
                Some(MergeTask::MergeDeltas(range)) => {
                    if !self.merge_deltas(id, &manifest, &layers, range, progress)? {
                        return Ok(true);
                    }
                }
                Some(MergeTask::RemoveImage(at)) => {
                    self.editor.replace_files(id, move |manifest| _ = manifest.images.remove(at))?;
                }
                None => return self.indexer.update(id, progress).map(|()| true),
            }
        }
    }

    /// Writes an image layer at the end of the newest delta layer.
    fn write_image(
        &self,
        id: u64,
        manifest: &Manifest,
        layers: &LayerMap,
        progress: ProgressFn<'_>,
    ) -> Result<()> {
        let table = (manifest.table.as_str(), id);
        let indexes = manifest.deltas.last().map(|delta| delta.indexes.clone()).unwrap_or_default();
        let start = Instant::now();
        let image = image::build(&self.context.files, table, layers, layers.end(), &indexes, progress)?;
        tracing::info!(
            table = manifest.table,
            seq = image.seq,
            rows = image.rows,
            bytes = image.bytes,
            elapsed_ms = millis_since(start),
            "wrote an image layer"
        );
        self.editor.replace_files(id, move |manifest| manifest.images.push(image.clone()))?;
        Ok(())
    }

    /// Merges neighbouring delta layers into one. Returns false if there is nothing to merge.
    fn merge_deltas(
        &self,
        id: u64,
        manifest: &Manifest,
        layers: &LayerMap,
        range: Range<usize>,
        progress: ProgressFn<'_>,
    ) -> Result<bool> {
        let table = (manifest.table.as_str(), id);
        let deltas = layers.deltas_of(manifest, range.clone());
        let since = self.context.requests_since();
        let start = Instant::now();
        let merged = merge::merge_deltas(&self.context.files, table, &deltas, since, progress)?;
        let Some(merged) = merged else { return Ok(false) };
        tracing::info!(
            table = manifest.table,
            seq = merged.seq,
            layers = deltas.len(),
            events = merged.events,
            bytes = merged.bytes,
            elapsed_ms = millis_since(start),
            "merged delta layers"
        );
        self.editor.replace_files(id, move |manifest| {
            manifest.deltas.splice(range.clone(), [merged.clone()]);
        })?;
        Ok(true)
    }
}

/// The milliseconds since a point in time.
pub(super) fn millis_since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}
