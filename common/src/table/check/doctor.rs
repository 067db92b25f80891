//! The doctor examines a data directory without a daemon: it reports what is damaged or missing, what that means, and what to
//! do; with `repair`, it rebuilds what other files prove.

use std::sync::Arc;

use crate::error::{Error, Reason, Result};
use crate::storage::fs::FileSystem;
use crate::storage::layout::DataDir;
use crate::storage::lock::Lock;

mod diagnosis;
mod examination;
mod finding;
mod layer_examination;
mod repair;

pub use finding::{ExamSummary, Finding, Severity};

/// The maximum number of rounds of repairs. One round can make the next possible: a rebuilt HEAD allows to rebuild a manifest.
const ROUNDS: u32 = 5;

/// Examines the database in `dir` while no writer can open it, and reports each finding once. Changes nothing, and needs no right
/// to write.
///
/// With `repair` it takes the writer's lock, and rebuilds what other files prove without loss: `database.json`, HEAD, manifests. It removes damaged snapshots
/// and indexes from the manifest, because the log has everything (I8), and it removes unused files. It never changes a segment.
/// It reports each repair before it makes it. The summary describes the state after the repairs.
///
/// Fails with [`Reason::ArgumentInvalid`] if the directory contains no database, with [`Reason::DatabaseLocked`] if a writer is
/// running.
pub fn examine(
    fs: Arc<dyn FileSystem>,
    dir: &DataDir,
    repair: bool,
    on_finding: &mut dyn FnMut(Finding),
) -> Result<ExamSummary> {
    // Check first: taking the writer's lock creates LOCK, which must not appear in a directory that is not a database.
    let entries = fs.list(dir.root());
    let entries = entries.map_err(|e| Error::io(format_args!("cannot list {}", dir.root().display()), &e))?;
    if !entries.iter().any(|name| ["database.json", "HEAD", "tables"].contains(&name.as_str())) {
        let message = format!(
            "{} contains no database: it has neither database.json nor HEAD nor tables",
            dir.root().display()
        );
        return Err(Error::new(Reason::ArgumentInvalid, message));
    }
    let _exclusive = if repair { Some(Lock::acquire(&*fs, dir)?) } else { None };
    let _shared = if repair { None } else { Lock::acquire_shared(&*fs, dir)? };
    let mut reported: Vec<Finding> = Vec::new();
    let mut report_once = |finding: Finding| {
        if !reported.contains(&finding) {
            reported.push(finding.clone());
            on_finding(finding);
        }
    };
    let (mut summary, mut diagnosis) = examination::examine(&fs, dir, &mut report_once)?;
    let mut repaired = 0;
    for _ in 0..ROUNDS {
        let repairs = if repair { repair::repair(&fs, dir, &diagnosis, &mut report_once)? } else { 0 };
        if repairs == 0 {
            break;
        }
        repaired += repairs;
        (summary, diagnosis) = examination::examine(&fs, dir, &mut report_once)?;
    }
    Ok(ExamSummary { repaired, ..summary })
}
