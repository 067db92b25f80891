//! What the writer's background work cannot do: damaged files that it does without, and failures that it retries.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason};
use driftdb_common::metrics;
use driftdb_common::metrics::catalog;
use driftdb_common::metrics::samples::Samples;
use driftdb_common::table::check::verification::Problem;
use driftdb_common::table::damaged_files::{DamagedFile, DamagedFiles};
use driftdb_common::table::sound_layers::damaged_layer_file;
use parking_lot::Mutex;

/// What the writer does about a damaged file.
pub(super) const REBUILDS: &str = "the writer builds the file again from the log";
/// What the writer does about a damaged file that the log cannot replace.
pub(super) const CANNOT_REBUILD: &str =
    "nothing: the log cannot replace the file; requests that need it fail; run `driftctl doctor`";
/// The pause after a failure of a table's maintenance. It doubles with each further failure of the same.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(60);

/// A piece of background work on one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chore {
    Snapshot,
    Index,
    Retention,
    Rebuild,
}

impl Chore {
    fn as_str(self) -> &'static str {
        match self {
            Chore::Snapshot => "take a snapshot",
            Chore::Index => "update the indexes",
            Chore::Retention => "enforce the retention",
            Chore::Rebuild => "build damaged files again",
        }
    }

    fn metric_label(self) -> &'static str {
        match self {
            Chore::Snapshot => "snapshot",
            Chore::Index => "index",
            Chore::Retention => "retention",
            Chore::Rebuild => "rebuild",
        }
    }
}

/// The last failure of some work.
#[derive(Debug, Clone)]
struct FailedChore {
    table: String,
    error: Error,
    pause: Duration,
    next_try: Instant,
}

/// What does not work, for Status, the log and the refusals of writes.
#[derive(Debug, Default)]
pub(crate) struct MaintenanceHealth {
    /// The files that the writer does without, or found damaged.
    pub(crate) damaged_files: DamagedFiles,
    /// By table id and work.
    failures: Mutex<BTreeMap<(u64, Chore), FailedChore>>,
}

impl MaintenanceHealth {
    /// Takes note of the file that an error finds damaged, if it is a layer or an index: the background task builds it
    /// again.
    pub(crate) fn note_damage(&self, error: &Error) {
        if let Some(path) = damaged_layer_file(error) {
            self.note_damaged_file(DamagedFile::new(&path, error));
        }
    }

    /// Takes note of the file in which a verification found a problem.
    pub(super) fn note_problem(&self, problem: &Problem) {
        self.note_damage(&Error::corrupt(&problem.file, problem.offset, &problem.message));
    }

    fn note_damaged_file(&self, file: DamagedFile) {
        if !self.damaged_files.paths().contains(&file.path) {
            self.damaged_files.add(file, REBUILDS);
        }
    }

    /// Takes note of a file that the open of the database found damaged.
    pub(crate) fn note_damage_at_start(&self, file: DamagedFile, is_table_unusable: bool) {
        self.damaged_files.add(file, if is_table_unusable { CANNOT_REBUILD } else { REBUILDS });
    }

    /// Whether some work on a table failed so recently that it waits.
    pub(super) fn is_paused(&self, table: u64, chore: Chore) -> bool {
        self.failures.lock().get(&(table, chore)).is_some_and(|failure| Instant::now() < failure.next_try)
    }

    /// Records how some work on a table ended. A failure is logged if it is not the one before.
    pub(super) fn note_outcome(&self, (table, name): (u64, &str), chore: Chore, failure: Option<Error>) {
        let mut failures = self.failures.lock();
        let Some(error) = failure else {
            failures.remove(&(table, chore));
            return;
        };
        if error.reason() == Reason::ShuttingDown {
            return;
        }
        metrics::count_with(&catalog::MAINTENANCE_FAILURES, chore.metric_label());
        if chore == Chore::Snapshot {
            metrics::count(&catalog::SNAPSHOT_FAILURES);
        }
        let before = failures.get(&(table, chore));
        let what = chore.as_str();
        if before.is_none_or(|before| before.error.message() != error.message()) {
            tracing::error!(%error, table = name, "cannot {what}; commits continue, and the writer retries");
        }
        let pause = before.map_or(FAILURE_PAUSE, |before| (before.pause * 2).min(FAILURE_PAUSE_MAX));
        let (table_name, next_try) = (name.to_owned(), Instant::now() + pause);
        failures.insert((table, chore), FailedChore { table: table_name, error, pause, next_try });
    }

    /// Why the last snapshot that failed did so; `None` if none fails.
    pub(super) fn snapshot_failure(&self) -> Option<String> {
        let failures = self.failures.lock();
        let failed = failures.iter().find(|((_, chore), _)| *chore == Chore::Snapshot);
        failed.map(|(_, failure)| {
            format!("the last snapshot of table {:?} failed: {}", failure.table, failure.error)
        })
    }

    /// Reads the metrics of what does not work.
    pub(crate) fn sample(&self, samples: &mut Samples) {
        samples.set(&catalog::DAMAGED_FILES, self.damaged_files.len());
        samples.set(&catalog::PROBLEMS, self.failures.lock().len());
    }

    /// What fails and is retried, one line each.
    pub(crate) fn problems(&self) -> Vec<String> {
        let line = |((_, chore), failure): (&(u64, Chore), &FailedChore)| {
            format!("cannot {} of table {:?}: {}; retrying", chore.as_str(), failure.table, failure.error)
        };
        self.failures.lock().iter().map(line).collect()
    }

    /// Forgets the damaged files of a table, which were built again. Returns their number.
    pub(super) fn forget_damage_below(&self, table_dir: &Path) -> usize {
        self.damaged_files.remove_below(table_dir)
    }
}
