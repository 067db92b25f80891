//! What the commands for buckets share: their threads, their progress, and their temporary directories.

use driftdb_common::bucket::mirror::MirrorProgress;
use driftdb_common::bucket::restore::RestoreProgress;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::table::format_time;
use serde::Serialize;

use crate::render::{self, ProgressLine};

/// What the newest commit is called.
pub(crate) const NEWEST: &str = "@now";

/// What was restored: all tables, or some of them.
#[derive(Serialize)]
pub(crate) struct RestoredJson {
    pub(crate) last_seq: u64,
    pub(crate) last_time: Option<String>,
    pub(crate) epoch: String,
    pub(crate) tables: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) chunk: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) discarded: Option<u64>,
}

/// Runs work that blocks on a thread of its own.
pub(crate) async fn on_thread<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Error::new(Reason::Internal, format!("{what} failed: {e}")))?
}

/// Shows how far a bucket was read.
pub(crate) fn show_copied(line: &mut ProgressLine, what: &str, made: MirrorProgress) {
    let MirrorProgress { chunk, last_chunk, bytes, left } = made;
    let mib = bytes >> 20;
    match left >> 20 {
        0 => line.show(format_args!("{what}: chunk {chunk} of {last_chunk}, {mib} MiB")),
        left => line.show(format_args!(
            "{what}: chunk {chunk} of {last_chunk}, {mib} MiB; {left} MiB of its files are left"
        )),
    }
}

/// Shows how far a restore has come.
pub(crate) fn show_made(line: &mut ProgressLine, made: RestoreProgress) {
    match made {
        RestoreProgress::Continuing(Some(seq)) => {
            render::note(&format!("continues an interrupted restore to commit {seq}"));
        }
        RestoreProgress::Continuing(None) => render::note("continues an interrupted restore"),
        RestoreProgress::Copying(made) => show_copied(line, "copying", made),
        RestoreProgress::Cutting(seq) => line.show(format_args!("cutting off after commit {seq}")),
        RestoreProgress::Verifying => line.show("verifying"),
    }
}

/// The time of a commit; `None` for the state before the first.
pub(crate) fn commit_time(seq: u64, time_ms: u64) -> Option<String> {
    (seq > 0).then(|| format_time(time_ms))
}

/// A temporary directory, which is removed when it is dropped.
pub(crate) fn scratch_directory() -> Result<tempfile::TempDir> {
    let made = tempfile::Builder::new().prefix("driftctl-").tempdir();
    made.map_err(|e| Error::io("cannot create a temporary directory", &e))
}
