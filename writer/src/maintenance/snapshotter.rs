//! Takes snapshots: writes a table's log after its newest snapshot into delta layers, and evicts the rows
//! from memory.

use std::sync::Arc;
use std::time::Instant;

use driftdb_common::error::Result;
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::{DeltaLayer, LogPosition, Manifest};
use driftdb_common::table::build::delta::{self, BuiltDelta, DeltaLimits};
use driftdb_common::table::build::progress::ProgressFn;

use crate::commit::LogTail;
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::merger::{Merger, millis_since};
use crate::maintenance::summaries::SnapshotSummary;
use crate::maintenance::table_editor::TableEditor;

/// The number of rows that are evicted from memory at a time, because eviction holds the commit lock.
const EVICT_AT_ONCE: usize = 1000;

/// Takes snapshots.
#[derive(Debug)]
pub(super) struct Snapshotter {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
    merger: Merger,
}

/// A snapshot that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SnapshotTaken {
    pub(super) summary: SnapshotSummary,
    /// The number of delta layers written; 0 if the newest snapshot was up to date.
    pub(super) deltas: u64,
}

impl Snapshotter {
    pub(super) fn new(
        context: Arc<MaintenanceContext>,
        editor: Arc<TableEditor>,
        merger: Merger,
    ) -> Snapshotter {
        Snapshotter { context, editor, merger }
    }

    /// Takes a snapshot of a table at the newest published commit, and runs the merge policy. `progress`
    /// receives the rows done so far; its error ends the snapshot.
    pub(super) fn take_snapshot(&self, id: u64, progress: ProgressFn<'_>) -> Result<SnapshotTaken> {
        let lock = self.editor.table_lock(id);
        let _locked = lock.lock();
        let (_, limit, _) = self.editor.current(id)?;
        let mut taken = SnapshotTaken::default();
        while let Some(delta) = self.take_delta(id, limit.seq, progress)? {
            taken.deltas += 1;
            taken.summary.bytes += delta.bytes;
            // The next delta layer looks rows up in the layers, so there must not be too many.
            self.merger.run_urgent_tasks(id, progress)?;
        }
        self.merger.run_merge_policy(id, progress)?;
        let (manifest, _, layers) = self.editor.current(id)?;
        if taken.deltas == 0 {
            // No commit came after the newest snapshot, so report that one.
            taken.summary.bytes = manifest.deltas.last().map_or(0, |delta| delta.bytes);
        }
        taken.summary.seq = layers.end();
        taken.summary.rows = layers.counts().rows;
        Ok(taken)
    }

    /// Writes the next delta layer of a table that is due, and what bounds the number of its layers. The rest of the merge
    /// policy's tasks is left to [`Snapshotter::merge_while_idle`]. Returns false if no commit is left.
    pub(super) fn take_due_delta(&self, id: u64, progress: ProgressFn<'_>) -> Result<bool> {
        let lock = self.editor.table_lock(id);
        let _locked = lock.lock();
        let (_, limit, _) = self.editor.current(id)?;
        let taken = self.take_delta(id, limit.seq, progress)?;
        self.merger.run_urgent_tasks(id, progress)?;
        Ok(taken.is_some())
    }

    /// Runs the merge policy on a table until something else is urgent. Returns whether nothing is left to do.
    pub(super) fn merge_while_idle(
        &self,
        id: u64,
        is_urgent: &dyn Fn() -> bool,
        progress: ProgressFn<'_>,
    ) -> Result<bool> {
        let lock = self.editor.table_lock(id);
        let _locked = lock.lock();
        self.merger.run_while_idle(id, is_urgent, progress)
    }

    /// Writes the next delta layer, up to commit `upto`. Returns `None` if no commit is left. The caller must
    /// hold the table's lock.
    pub(super) fn take_delta(
        &self,
        id: u64,
        upto: u64,
        progress: ProgressFn<'_>,
    ) -> Result<Option<DeltaLayer>> {
        let (manifest, mut limit, layers) = self.editor.current(id)?;
        limit.seq = upto;
        let (files, triggers) = (&self.context.files, &self.context.triggers);
        let limits = DeltaLimits { events: triggers.events, bytes: triggers.bytes };
        let start = Instant::now();
        let built = delta::build_next(files, &manifest, &layers, limit, limits, progress)?;
        let Some(BuiltDelta { layer: delta, keys, table_name }) = built else { return Ok(None) };
        tracing::info!(
            table = manifest.table,
            seq = delta.seq,
            events = delta.events,
            bytes = delta.bytes,
            elapsed_ms = millis_since(start),
            "took a snapshot"
        );
        let bytes = bytes_between(&manifest, delta.position);
        let covered = LogTail { events: delta.events, bytes, ..LogTail::default() };
        let added = delta.clone();
        let (before, after) = self.editor.edit_manifest(id, move |manifest| {
            manifest.set_table_name(&table_name);
            manifest.deltas.push(added.clone());
        })?;
        // Before the files are opened: if that fails, the delta layer is part of the manifest all the same.
        self.context.commits.updates.shorten_tail(id, covered);
        self.editor.switch_files(id, before, &after)?;
        self.evict_rows(id, &keys);
        Ok(Some(delta))
    }

    /// Evicts rows that the newest delta layer holds from memory.
    fn evict_rows(&self, id: u64, keys: &[Key]) {
        for keys in keys.chunks(EVICT_AT_ONCE) {
            self.context.commits.updates.evict_rows(id, keys);
        }
    }
}

/// The bytes of a table's log between the end of a manifest's newest snapshot and a later position.
fn bytes_between(manifest: &Manifest, end: LogPosition) -> u64 {
    let start = manifest.deltas.last().map(|delta| delta.position).unwrap_or_default();
    let segments = manifest.segments.iter().map(|segment| (segment.number, segment.sealed));
    let passed = segments
        .skip_while(|(number, _)| start.segment != 0 && *number != start.segment)
        .take_while(|(number, _)| *number != end.segment);
    let passed: u64 = passed.filter_map(|(_, sealed)| sealed).map(|seal| seal.bytes).sum();
    (passed + end.offset).saturating_sub(start.offset)
}
