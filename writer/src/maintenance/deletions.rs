//! Files that wait for their deletion: no manifest names them, but readers may still use an older manifest.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use driftdb_common::storage::fs::{self, FileSystem};
use parking_lot::Mutex;

/// How long a file is kept after the manifest stopped naming it. Readers poll at least once a second, so they
/// have seen the new manifest by then.
const GRACE: Duration = Duration::from_secs(2);

/// The files that wait, each with the time since when.
#[derive(Debug, Default)]
pub(super) struct PendingDeletions(Mutex<Vec<(Instant, PathBuf)>>);

impl PendingDeletions {
    /// Schedules files for deletion. A file that is scheduled already keeps its time.
    pub(super) fn schedule_delete(&self, files: impl IntoIterator<Item = PathBuf>) {
        let now = Instant::now();
        let mut pending = self.0.lock();
        for file in files {
            if !pending.iter().any(|(_, other)| *other == file) {
                pending.push((now, file));
            }
        }
    }

    /// Cancels the deletion of files that are about to be written again under the same name.
    pub(super) fn cancel_delete(&self, files: &[PathBuf]) {
        self.0.lock().retain(|(_, file)| !files.contains(file));
    }

    /// Deletes the files whose grace period is over, or all of them if `all` is set.
    pub(super) fn delete_due(&self, disk: &dyn FileSystem, all: bool) {
        // The lock is held until the files are deleted: a deletion must not happen after it was cancelled.
        let mut pending = self.0.lock();
        let (due, kept): (Vec<_>, Vec<_>) =
            pending.drain(..).partition(|(since, _)| all || since.elapsed() >= GRACE);
        for (_, file) in due {
            // A compaction can list a file that is deleted meanwhile.
            if let Err(error) = fs::remove_if_exists(disk, &file) {
                let path = file.display();
                tracing::warn!(%error, %path, "cannot delete an unused file; the next start of the writer deletes it");
            }
        }
        *pending = kept;
    }
}
