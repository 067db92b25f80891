//! What background jobs report to the commit state after they have changed a table's files.

use std::sync::Arc;
use std::time::Instant;

use driftdb_common::format::key::Key;
use driftdb_common::storage::wal::appender::TableStorage;
use driftdb_common::table::layers::LayerMap;

use crate::commit::state::{CommitShared, LogTail};

/// Updates tables after their files have changed.
#[derive(Debug, Clone)]
pub(crate) struct TableUpdates(Arc<CommitShared>);

impl TableUpdates {
    pub(super) fn new(shared: &Arc<CommitShared>) -> TableUpdates {
        TableUpdates(Arc::clone(shared))
    }

    /// Makes admission read a table's rows from newer files.
    pub(crate) fn set_layers(&self, id: u64, layers: &Arc<LayerMap>) {
        self.0.state.lock().admission.tables.set_layers(id, layers);
    }

    /// Sets what a table takes on disk.
    pub(crate) fn set_storage(&self, id: u64, storage: TableStorage) {
        self.0.state.lock().storage.insert(id, storage);
    }

    /// Gives up the content of rows in memory if the table's files hold their last state.
    pub(crate) fn evict_rows(&self, id: u64, keys: &[Key]) {
        let evicted = self.0.state.lock().admission.tables.evict(id, keys);
        // Many documents: freed after the lock.
        drop(evicted);
    }

    /// Says why snapshots fail, for the refusals of writes that wait for one; `None` if they do not.
    pub(crate) fn set_snapshot_failure(&self, failure: Option<String>) {
        self.0.state.lock().snapshot_failure = failure;
    }

    /// Shortens a table's tail by what a new snapshot covers.
    pub(crate) fn shorten_tail(&self, id: u64, by: LogTail) {
        let mut state = self.0.state.lock();
        if let Some(tail) = state.tails.get_mut(&id) {
            let bytes = tail.bytes.min(by.bytes);
            tail.bytes -= bytes;
            tail.events = tail.events.saturating_sub(by.events);
            tail.since = (tail.events > 0).then(Instant::now);
            state.tail_bytes = state.tail_bytes.saturating_sub(bytes);
        }
    }
}
