//! Verification: reads a table's files and reports what is wrong. A deep verification also compares them with the log.

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::storage::sst::BlockCache;
use crate::table::build::progress::ProgressFn;
use crate::table::log_tail::ReadLimit;
use crate::table::table_files::TableFiles;

mod candidates;
mod commit_order;
mod compaction_base;
mod deep;
mod delta_layer;
mod describe;
mod image_layer;
mod layer_ends;
mod layer_files;
mod log_chunk;
mod problem;
mod segments;

pub(in crate::table) use commit_order::CommitOrder;
pub(in crate::table) use layer_ends::LayerEnds;
pub(in crate::table) use layer_files::check_layer_files;
pub(in crate::table) use problem::ProblemReporter;
pub use problem::{Problem, VerifiedCounts};

/// The size of a verification's block cache, in bytes. It has a cache of its own, so that it does not evict the blocks that
/// queries need.
const CACHE_BYTES: u64 = 64 << 20;

/// Verifies the files that a manifest lists, and the log up to `limit`. Reports each problem to `on_problem`.
///
/// Always checks every frame of every segment, the order of commits, the seals, and the positions at which delta layers end;
/// then every snapshot and index: blocks, entries, counts. With `deep` it also rebuilds the state from the log, and compares
/// every event, commit, request, row and candidate with it (I8).
///
/// A missing file is a problem like any other. The caller must check whether a newer manifest has stopped listing the file.
pub fn verify(
    files: &TableFiles,
    manifest: &Manifest,
    limit: ReadLimit,
    deep: bool,
    progress: ProgressFn<'_>,
    on_problem: &mut dyn FnMut(Problem),
) -> Result<VerifiedCounts> {
    let files = TableFiles { cache: BlockCache::new(CACHE_BYTES), ..files.clone() };
    let mut reporter = ProblemReporter::new(progress, on_problem);
    let is_log_readable = segments::check(&files, manifest, limit, &mut reporter)?;
    let layers = check_layer_files(&files, manifest, &mut reporter)?;
    if deep && is_log_readable {
        deep::compare(&files, manifest, limit, &layers, &mut reporter)?;
    } else if deep && !manifest.deltas.is_empty() {
        let what = "snapshots and indexes were not compared with the log, because the log is damaged";
        reporter.report(&files.dir.segments(&manifest.table), 0, what);
    }
    Ok(reporter.counts)
}
