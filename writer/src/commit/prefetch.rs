//! Reads rows ahead of admission, so that admission does not read files while it holds the lock.

use std::num::NonZero;
use std::sync::Arc;

use driftdb_common::format::key::Key;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::{Operation, Precondition};

use crate::commit::state::CommitShared;

/// The number of uncached rows of one change from which several threads read them.
const ROWS_WORTH_THREADS: usize = 64;

/// Reads the rows of a change that are not in memory into the block cache.
pub(super) fn prefetch_rows<'a>(
    shared: &CommitShared,
    operations: impl IntoIterator<Item = &'a Operation>,
    preconditions: &[Precondition],
) {
    let uncached = shared.state.lock().admission.uncached_rows(operations, preconditions);
    let read = |rows: &[(Arc<LayerMap>, Key)]| {
        for (layers, key) in rows {
            // An error is ignored here: admission reads the row again and reports it.
            let _ = layers.last_change(key);
        }
    };
    // The number of rows is checked first, because `available_parallelism` reads files on Linux.
    if uncached.len() < ROWS_WORTH_THREADS {
        return read(&uncached);
    }
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    if threads < 2 {
        return read(&uncached);
    }
    std::thread::scope(|scope| {
        for share in uncached.chunks(uncached.len().div_ceil(threads)) {
            // If the thread cannot be started, admission reads this share itself.
            let _ = std::thread::Builder::new().spawn_scoped(scope, || read(share));
        }
    });
}
