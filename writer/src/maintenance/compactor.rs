//! Compacts a table: raises its floor to a commit, and replaces the history below the floor by one state.

use std::path::PathBuf;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::layout::image_stem;
use driftdb_common::storage::wal::appender::CompactionInput;
use driftdb_common::table::build::compaction::{
    self, CompactionLog, CompactionPlan, CompactionRequest, ManifestEdit,
};
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::point_in_time::PointInTime;

use crate::maintenance::commit_lookup::{CommitLookup, ScannedTail};
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::snapshotter::Snapshotter;
use crate::maintenance::summaries::CompactionSummary;
use crate::maintenance::table_editor::TableEditor;

/// Compacts tables.
#[derive(Debug)]
pub(super) struct Compactor {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
    snapshotter: Arc<Snapshotter>,
    lookup: Arc<CommitLookup>,
}

/// The log of the table that is compacted.
struct CompactedTable<'a> {
    compactor: &'a Compactor,
    id: u64,
}

impl CompactionLog for CompactedTable<'_> {
    fn begin(&self, upto: u64) -> Result<CompactionInput> {
        let id = self.id;
        self.compactor.context.commits.log.run(move |log| log.begin_compaction(id, upto))
    }

    fn install(&self, edit: ManifestEdit) -> Result<Manifest> {
        self.compactor.editor.replace_files(self.id, edit)
    }
}

impl Compactor {
    pub(super) fn new(
        context: Arc<MaintenanceContext>,
        editor: Arc<TableEditor>,
        snapshotter: Arc<Snapshotter>,
        lookup: Arc<CommitLookup>,
    ) -> Compactor {
        Compactor { context, editor, snapshotter, lookup }
    }

    /// Raises a table's floor to `before`. If `before` is `None`, the floor is the end of the newest snapshot, or the
    /// newest commit if no snapshot exists; of a dropped table, it is the DROP. A dry run reports what this would do and changes nothing.
    pub(super) fn compact(
        &self,
        id: u64,
        before: Option<PointInTime>,
        dry_run: bool,
        progress: ProgressFn<'_>,
    ) -> Result<CompactionSummary> {
        let lock = self.editor.table_lock(id);
        let _locked = lock.lock();
        let (manifest, limit) = self.context.commits.log.manifest(id)?;
        let requested = match before {
            Some(point) => {
                let clock = self.context.clock.read();
                // What is compacted cannot be brought back: a point before now needs a clock that is trusted.
                let now_ms = if matches!(point, PointInTime::Ago(_)) { clock.check()? } else { clock.now_ms };
                let last_at = |time_ms| self.lookup.last_commit_of_any_table_at(time_ms, limit.seq);
                point.resolve(limit.seq, now_ms, last_at)?
            }
            None => match self.context.commits.catalog.dropped_seq(id) {
                dropped if dropped > 0 && dropped <= limit.seq => Some(dropped),
                _ => self.lookup.default_floor(id)?,
            },
        };
        let Some(seq) = requested else { return Ok(unchanged(&manifest)) };
        if seq < id {
            let message = format!(
                "cannot compact table {:?} at seq {seq}: the table was created by commit {id}",
                self.context.commits.catalog.name(id)
            );
            return Err(Error::new(Reason::TableNotFound, message).with("seq", id.to_string()));
        }
        // A compaction that was interrupted after it raised the floor is completed now.
        let floor = manifest.floor.map_or(0, |floor| floor.seq);
        let seq = seq.max(floor);
        if seq == floor && compaction::is_complete(&manifest) {
            return Ok(unchanged(&manifest));
        }
        let (seq, time_ms) = self.floor_with_time(id, &manifest, seq)?;
        if seq == floor && compaction::is_complete(&manifest) {
            return Ok(unchanged(&manifest));
        }
        if dry_run {
            return self.preview(id, seq);
        }
        let raise = || self.raise_floor(id, (seq, time_ms), progress);
        self.context.run_on_full_disk("to compact a table", raise)
    }

    /// The floor's commit and its time. If no table has that commit's time any more, the table's last commit
    /// before it is used, or its present floor if that is later: the table's state is the same there.
    fn floor_with_time(&self, id: u64, manifest: &Manifest, seq: u64) -> Result<(u64, u64)> {
        let floor = manifest.floor.filter(|floor| floor.seq == seq);
        if let Some(time_ms) =
            floor.map_or_else(|| self.lookup.time_of(seq), |floor| Ok(Some(floor.time_ms)))?
        {
            return Ok((seq, time_ms));
        }
        let layers = self.context.commits.catalog.layers(id)?;
        if seq > layers.end()
            && let Some(last) = self.lookup.scan_tail(id, |at, _| at <= seq)?.last
        {
            return Ok(last);
        }
        let last = layers.counts_at(seq)?.last_seq;
        // The table has no commit between its floor and the one asked for, and its files have no time of a commit
        // below the floor: other tables may have kept that commit, and be compacted by now.
        if let Some(floor) = manifest.floor.filter(|floor| floor.seq >= last) {
            return Ok((floor.seq, floor.time_ms));
        }
        let missing = || {
            let message =
                format!("the snapshots of table {:?} have no time of commit {last}", manifest.table);
            Error::new(Reason::Corrupt, message)
        };
        Ok((last, layers.time_of(last)?.ok_or_else(missing)?))
    }

    /// What a compaction at a floor would do.
    fn preview(&self, id: u64, seq: u64) -> Result<CompactionSummary> {
        let (manifest, _) = self.context.commits.log.manifest(id)?;
        let layers = self.context.commits.catalog.layers(id)?;
        let tail = if seq > layers.end() {
            self.lookup.scan_tail(id, |at, _| at <= seq)?
        } else {
            ScannedTail::default()
        };
        let upto = seq.min(layers.end());
        if upto == 0 {
            let dropped = self.context.commits.catalog.dropped_seq(id);
            // Of a dropped table nothing stays. How much the rows of another would take is not known without a snapshot.
            let bytes_freed = if dropped > 0 && dropped <= seq { tail.bytes } else { 0 };
            return Ok(CompactionSummary { floor_seq: seq, events_compacted: tail.events, bytes_freed });
        }
        let requests = self.context.requests_since();
        let request = CompactionRequest { seq: upto, time_ms: 0, requests };
        let plan = compaction::plan(&self.context.files, &manifest, &layers, request)?;
        Ok(CompactionSummary { floor_seq: seq, ..summary(&plan, tail) })
    }

    /// Compacts a table at a floor: snapshots the log up to there, then replaces what is below.
    fn raise_floor(
        &self,
        id: u64,
        (seq, time_ms): (u64, u64),
        progress: ProgressFn<'_>,
    ) -> Result<CompactionSummary> {
        let catalog = &self.context.commits.catalog;
        if seq > catalog.layers(id)?.end() {
            let (_, limit) = self.context.commits.log.manifest(id)?;
            while self.snapshotter.take_delta(id, limit.seq, progress)?.is_some() {}
        }
        let (manifest, _) = self.context.commits.log.manifest(id)?;
        let layers = catalog.layers(id)?;
        let request = CompactionRequest { seq, time_ms, requests: self.context.requests_since() };
        let plan = compaction::plan(&self.context.files, &manifest, &layers, request)?;
        self.editor.cancel_delete(&self.image_files(&manifest, seq));
        let table = CompactedTable { compactor: self, id };
        let done = compaction::run(&self.context.files, &table, &layers, (plan, request), progress)?;
        self.editor.schedule_delete(done.superseded);
        Ok(summary(&done.plan, ScannedTail::default()))
    }

    /// The files of the image layer at a commit, with its indexes. A compaction writes them, possibly under
    /// the names of files that wait for deletion.
    fn image_files(&self, manifest: &Manifest, seq: u64) -> Vec<PathBuf> {
        let (dir, name) = (&self.context.files.dir, manifest.table.as_str());
        let indexes = manifest.deltas.last().into_iter().flat_map(|delta| &delta.indexes);
        let indexes = indexes.map(|path| dir.index(name, path, &image_stem(seq)));
        indexes.chain([dir.image_layer(name, seq)]).collect()
    }
}

fn unchanged(manifest: &Manifest) -> CompactionSummary {
    let floor_seq = manifest.floor.map_or(0, |floor| floor.seq);
    CompactionSummary { floor_seq, events_compacted: 0, bytes_freed: 0 }
}

fn summary(plan: &CompactionPlan, tail: ScannedTail) -> CompactionSummary {
    CompactionSummary {
        floor_seq: plan.floor.seq,
        events_compacted: plan.events + tail.events,
        bytes_freed: (plan.bytes_before + tail.bytes).saturating_sub(plan.bytes_after),
    }
}
