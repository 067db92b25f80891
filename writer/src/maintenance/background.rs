//! The background task: takes snapshots that are due, updates indexes, enforces retention, and deletes unused
//! files.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::table::build::merge_policy;
use driftdb_common::table::build::progress::ProgressFn;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::commit::LogTail;
use crate::config::SnapshotTriggers;
use crate::errors::shutting_down;
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::health::Chore;
use crate::maintenance::indexer::Indexer;
use crate::maintenance::rebuilder::Rebuilder;
use crate::maintenance::retention::Retention;
use crate::maintenance::snapshotter::Snapshotter;
use crate::maintenance::table_editor::TableEditor;

/// The pause after a pass.
const PASS_PAUSE: Duration = Duration::from_millis(50);
/// The pause after a failed pass. It doubles with each further failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failed passes.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The longest time between two passes: files wait for their deletion.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Maintains tables in the background.
#[derive(Debug)]
pub(crate) struct BackgroundMaintenance {
    pub(super) context: Arc<MaintenanceContext>,
    pub(super) editor: Arc<TableEditor>,
    pub(super) snapshotter: Arc<Snapshotter>,
    pub(super) indexer: Arc<Indexer>,
    pub(super) retention: Retention,
    pub(super) rebuilder: Rebuilder,
    /// The tables whose merges were put off, or have failed; `None` before the first pass, which looks for them.
    pub(super) unmerged: Mutex<Option<BTreeSet<u64>>>,
}

impl BackgroundMaintenance {
    /// Runs a pass whenever `growth` receives a message, and at least once a second, until `shutdown` is
    /// cancelled.
    pub(crate) async fn run(self: Arc<Self>, mut growth: mpsc::Receiver<()>, shutdown: CancellationToken) {
        let mut pause = PASS_PAUSE;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = growth.recv() => {}
                () = tokio::time::sleep(PASS_INTERVAL_MAX) => {}
            }
            let (this, ending) = (Arc::clone(&self), shutdown.clone());
            let progress = move |_| if ending.is_cancelled() { Err(shutting_down()) } else { Ok(()) };
            let pass = tokio::task::spawn_blocking(move || this.run_pass(&progress)).await;
            let failure = match pass {
                Ok(outcome) => outcome.err(),
                Err(error) => Some(Error::new(Reason::Internal, format!("maintenance panicked: {error}"))),
            };
            if shutdown.is_cancelled() {
                return;
            }
            if let Some(error) = failure {
                // Commits continue. Their rows stay in memory until a snapshot succeeds.
                tracing::error!(%error, "background maintenance failed; the writer retries it");
                pause = (pause * 2).clamp(FAILURE_PAUSE, FAILURE_PAUSE_MAX);
            } else {
                pause = PASS_PAUSE;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Deletes all unused files, at a shutdown.
    pub(crate) fn delete_unused_files(&self) {
        self.editor.delete_unused_files(true);
    }

    /// Does everything that is due. What fails for one table waits, and is tried again later; it must not keep the
    /// others from their snapshots, without which all writes would be refused in the end.
    fn run_pass(&self, progress: ProgressFn<'_>) -> Result<()> {
        // First: on a full disk the other work fails until these files are gone.
        self.editor.delete_unused_files(false);
        self.rebuilder.rebuild_all(progress)?;
        self.take_due_snapshots(progress)?;
        self.indexer.update_all(progress)?;
        self.retention.compact_expired(progress)
    }

    /// Writes delta layers until no table is due, then merges layers until a table is due again, and so on until nothing is
    /// left to do. Delta layers come first, because only they take rows out of memory, here and in the readers.
    fn take_due_snapshots(&self, progress: ProgressFn<'_>) -> Result<()> {
        let put_off = self.unmerged.lock().take();
        let mut unmerged = match put_off {
            Some(unmerged) => unmerged,
            None => self.tables_to_merge(progress)?,
        };
        let ended = self.snapshot_and_merge(&mut unmerged, progress);
        *self.unmerged.lock() = Some(unmerged);
        ended
    }

    fn snapshot_and_merge(&self, unmerged: &mut BTreeSet<u64>, progress: ProgressFn<'_>) -> Result<()> {
        // Tables whose commits that made them due are not published yet.
        let mut unpublished = BTreeSet::new();
        loop {
            if let Some(id) = self.due_table().filter(|id| !unpublished.contains(id)) {
                let taken = self.snapshotter.take_due_delta(id, progress);
                match taken {
                    Ok(true) => _ = unmerged.insert(id),
                    Ok(false) => _ = unpublished.insert(id),
                    // The table waits, as its health says.
                    Err(_) => {}
                }
                self.note_snapshot(id, taken.map(drop))?;
            } else if let Some(id) = unmerged.iter().copied().find(|id| !self.is_paused(*id)) {
                let is_urgent = || self.due_table().is_some_and(|id| !unpublished.contains(&id));
                let merged = self.snapshotter.merge_while_idle(id, &is_urgent, progress);
                // After a failure the table waits, as its health says, and stays in the list.
                if *merged.as_ref().unwrap_or(&false) {
                    unmerged.remove(&id);
                }
                self.note_snapshot(id, merged.map(drop))?;
                unpublished.clear();
            } else {
                return Ok(());
            }
        }
    }

    /// The tables whose layers the merge policy would change: the writer that put it off has ended.
    fn tables_to_merge(&self, progress: ProgressFn<'_>) -> Result<BTreeSet<u64>> {
        let mut unmerged = BTreeSet::new();
        // A single layer is left as it is.
        let tables = self.context.commits.catalog.tables();
        for table in tables.iter().filter(|table| table.layers.len() > 1) {
            progress(0)?;
            let (manifest, _) = self.context.commits.log.manifest(table.id)?;
            if merge_policy::next_task(&manifest).is_some() {
                unmerged.insert(table.id);
            }
        }
        Ok(unmerged)
    }

    fn is_paused(&self, id: u64) -> bool {
        self.context.health.is_paused(id, Chore::Snapshot)
    }

    /// Notes whether a table's snapshot or its merges have failed. Returns an error only at a shutdown.
    fn note_snapshot(&self, id: u64, outcome: Result<()>) -> Result<()> {
        if let Err(error) = &outcome {
            if error.reason() == Reason::ShuttingDown {
                return outcome;
            }
            self.context.health.note_damage(error);
        }
        let name = self.context.commits.catalog.name(id);
        self.context.health.note_outcome((id, &name), Chore::Snapshot, outcome.err());
        self.context.commits.updates.set_snapshot_failure(self.context.health.snapshot_failure());
        Ok(())
    }

    /// A table that is due for a snapshot: one that has reached a trigger, or the one with the longest log if
    /// all tables together have.
    fn due_table(&self) -> Option<u64> {
        let SnapshotTriggers { events, memory, .. } = self.context.triggers;
        let mut tails = self.context.commits.status.tails();
        tails.retain(|(id, _)| !self.is_paused(*id));
        let longest = tails.iter().max_by_key(|(_, tail)| (tail.events.saturating_mul(1000), tail.bytes))?;
        let all = tails.iter().fold(LogTail::default(), |sum, (_, tail)| LogTail {
            events: sum.events + tail.events,
            bytes: sum.bytes + tail.bytes,
            row_bytes: sum.row_bytes + tail.row_bytes,
            since: None,
        });
        let due = tails.iter().find(|(_, tail)| tail.is_due(&self.context.triggers)).map(|(id, _)| *id);
        let is_too_much = all.bytes > memory || all.events > events.saturating_mul(2);
        if due.is_none() && all.row_bytes > memory {
            // Small patches have read large rows.
            let changed = tails.iter().filter(|(_, tail)| tail.events > 0);
            return changed.max_by_key(|(_, tail)| tail.row_bytes).map(|(id, _)| *id);
        }
        due.or(Some(longest.0).filter(|_| is_too_much && longest.1.events > 0))
    }
}
