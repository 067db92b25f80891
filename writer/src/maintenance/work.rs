//! The work of maintenance jobs: a snapshot, a compaction, or a verification that a call asks for.

use std::sync::Arc;

use driftdb_common::bucket::beginning;
use driftdb_common::bucket::shipper::ShipReport;
use driftdb_common::bucket::store::BucketStore;
use driftdb_common::error::{Reason, Result};
use driftdb_common::table::build::progress::ProgressFn;
use driftdb_common::table::check::verification::{self, Problem, VerifiedCounts};
use driftdb_common::table::point_in_time::PointInTime;
use parking_lot::Mutex;

use crate::jobs::JobHandle;
use crate::maintenance::background::BackgroundMaintenance;
use crate::maintenance::commit_lookup::CommitLookup;
use crate::maintenance::compactor::Compactor;
use crate::maintenance::context::MaintenanceContext;
use crate::maintenance::indexer::Indexer;
use crate::maintenance::merger::Merger;
use crate::maintenance::rebuilder::Rebuilder;
use crate::maintenance::retention::Retention;
use crate::maintenance::snapshotter::Snapshotter;
use crate::maintenance::summaries::{CompactionSummary, SnapshotSummary, VerificationSummary};
use crate::maintenance::table_editor::TableEditor;

/// How often a table is verified without its lock. After that its lock is held, so that its files do not
/// change meanwhile.
const UNLOCKED_TRIES: u32 = 3;

/// Maintains tables on request.
#[derive(Debug, Clone)]
pub(crate) struct MaintenanceWork {
    context: Arc<MaintenanceContext>,
    editor: Arc<TableEditor>,
    snapshotter: Arc<Snapshotter>,
    compactor: Arc<Compactor>,
}

impl MaintenanceWork {
    /// The work on request and the work in the background, over the same tables.
    pub(crate) fn new(context: MaintenanceContext) -> (MaintenanceWork, BackgroundMaintenance) {
        let context = Arc::new(context);
        let editor = Arc::new(TableEditor::new(Arc::clone(&context)));
        let indexer = Arc::new(Indexer::new(Arc::clone(&context), Arc::clone(&editor)));
        let merger = Merger::new(Arc::clone(&context), Arc::clone(&editor), Arc::clone(&indexer));
        let snapshotter = Arc::new(Snapshotter::new(Arc::clone(&context), Arc::clone(&editor), merger));
        let lookup = Arc::new(CommitLookup::new(Arc::clone(&context)));
        let compactor = Arc::new(Compactor::new(
            Arc::clone(&context),
            Arc::clone(&editor),
            Arc::clone(&snapshotter),
            Arc::clone(&lookup),
        ));
        let rebuilder = Rebuilder::new(Arc::clone(&context), Arc::clone(&editor), Arc::clone(&snapshotter));
        let retention = Retention::new(Arc::clone(&context), Arc::clone(&compactor), lookup);
        let background = BackgroundMaintenance {
            context: Arc::clone(&context),
            editor: Arc::clone(&editor),
            snapshotter: Arc::clone(&snapshotter),
            indexer,
            retention,
            rebuilder,
            unmerged: Mutex::default(),
        };
        (MaintenanceWork { context, editor, snapshotter, compactor }, background)
    }

    /// Takes a snapshot of a table.
    pub(crate) fn snapshot(&self, table: &str, job: &JobHandle) -> Result<SnapshotSummary> {
        let id = self.context.commits.catalog.table_id(table)?;
        let progress = |rows| {
            job.report(rows, 0, "rows");
            job.check_cancelled()
        };
        let snapshot = || self.snapshotter.take_snapshot(id, &progress);
        let taken = self.context.run_on_full_disk("to take a snapshot", snapshot);
        Ok(taken.inspect_err(|error| self.context.health.note_damage(error))?.summary)
    }

    /// Compacts the tables with a name, as [`Compactor::compact`] does: the one that exists, and those that were dropped under it. A
    /// table that is younger than the floor that is asked for stays as it is, unless all are.
    pub(crate) fn compact(
        &self,
        table: &str,
        before: Option<PointInTime>,
        dry_run: bool,
        job: &JobHandle,
    ) -> Result<CompactionSummary> {
        let progress = |rows| {
            job.report(rows, 0, "rows");
            job.check_cancelled()
        };
        let (mut all, mut younger) = (None::<CompactionSummary>, None);
        for id in self.context.commits.catalog.ids_of_name(table)? {
            match self.compactor.compact(id, before, dry_run, &progress) {
                Ok(one) => all = Some(all.map_or(one, |all| all.and(one))),
                Err(error) if error.reason() == Reason::TableNotFound => _ = younger.get_or_insert(error),
                Err(error) => {
                    self.context.health.note_damage(&error);
                    return Err(error);
                }
            }
        }
        match (all, younger) {
            (Some(all), _) => Ok(all),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(CompactionSummary::default()),
        }
    }

    /// Ships to a bucket what it lacks of the database. Commits go on meanwhile: the backup is of a commit that was published when its
    /// last chunk was made.
    pub(crate) fn back_up(&self, url: &str, force: bool, job: &JobHandle) -> Result<ShipReport> {
        let store = BucketStore::open(url)?.stopped_by(job.stop_flag());
        let place = (Arc::clone(&self.context.files.fs), self.context.files.dir.clone());
        let shipped = beginning::back_up_with(&store, &place, force, &mut |done, total| {
            job.report(done, total, "bytes");
            job.check_cancelled()
        });
        // What is given up because the writer stops has failed for that.
        shipped.map_err(|error| job.check_cancelled().err().unwrap_or(error))
    }

    /// Reads the files of a table, or of all tables, and reports every problem. `deep` also rebuilds the
    /// tables' state from the log and compares. Commits continue meanwhile: each table is verified at the
    /// commit published when its turn comes.
    pub(crate) fn verify(
        &self,
        table: Option<&str>,
        deep: bool,
        job: &JobHandle,
        report: &mut dyn FnMut(Problem),
    ) -> Result<VerificationSummary> {
        let catalog = &self.context.commits.catalog;
        let ids = match table {
            Some(table) => vec![catalog.table_id(table)?],
            // Dropped tables too: their history can be read.
            None => {
                let tables = catalog.tables().into_iter().map(|table| table.id);
                tables.chain(catalog.unusable_ids()).collect()
            }
        };
        let mut summary = VerificationSummary::default();
        let mut done = 0;
        for id in ids {
            let progress = |more| {
                job.report(done + more, 0, "entries");
                job.check_cancelled()
            };
            let (counts, found) = self.verify_table(id, deep, &progress)?;
            for problem in found {
                self.context.health.note_problem(&problem);
                report(problem);
            }
            let VerifiedCounts { files, frames, rows, problems } = counts;
            done += frames + rows;
            summary.files += files;
            summary.frames += frames;
            summary.rows += rows;
            summary.problems += problems;
        }
        Ok(summary)
    }

    /// Verifies one table. A snapshot job can replace and delete files while they are read, which looks like
    /// damage. So problems count only if the manifest stayed the same; otherwise the table is verified again,
    /// finally under its lock.
    fn verify_table(
        &self,
        id: u64,
        deep: bool,
        progress: ProgressFn<'_>,
    ) -> Result<(VerifiedCounts, Vec<Problem>)> {
        let log = &self.context.commits.log;
        let mut tries = 0;
        loop {
            tries += 1;
            let lock = self.editor.table_lock(id);
            let _locked = (tries > UNLOCKED_TRIES).then(|| lock.lock());
            let (manifest, limit) = log.manifest(id)?;
            let mut found = Vec::new();
            let mut collect = |problem| found.push(problem);
            let files = &self.context.files;
            let counts = verification::verify(files, &manifest, limit, deep, progress, &mut collect)?;
            let has_changed = log.manifest(id)?.0.version != manifest.version;
            if found.is_empty() || !has_changed || tries > UNLOCKED_TRIES {
                return Ok((counts, found));
            }
        }
    }
}
