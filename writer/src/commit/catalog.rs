//! The tables as admission sees them, for callers that look up schemas, ids and files.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::schema::Schema;

use crate::admission::table::AdmittedTable;
use crate::commit::state::CommitShared;
use crate::errors::unknown_table_id;

/// Looks up tables. What it returns includes changes that are not durable yet.
#[derive(Debug, Clone)]
pub(crate) struct TableCatalog(Arc<CommitShared>);

impl TableCatalog {
    pub(super) fn new(shared: &Arc<CommitShared>) -> TableCatalog {
        TableCatalog(Arc::clone(shared))
    }

    /// The schema of a table that is not dropped.
    pub(crate) fn schema(&self, table: &str) -> Result<Schema> {
        Ok(self.0.state.lock().admission.tables.live(table)?.schema().clone())
    }

    /// The id of a table that is not dropped.
    pub(crate) fn table_id(&self, table: &str) -> Result<u64> {
        Ok(self.0.state.lock().admission.tables.live(table)?.id())
    }

    /// The name of a table, for messages; empty if no table has the id.
    pub(crate) fn name(&self, id: u64) -> String {
        let state = self.0.state.lock();
        state.admission.tables.by_id(id).map_or_else(String::new, |table| table.schema().table.clone())
    }

    /// The ids of the tables that cannot be used.
    pub(crate) fn unusable_ids(&self) -> Vec<u64> {
        self.0.state.lock().admission.tables.unusable().map(|(_, table)| table.id).collect()
    }

    /// The snapshot files that admission reads of a table.
    pub(crate) fn layers(&self, id: u64) -> Result<Arc<LayerMap>> {
        let layers = self.0.state.lock().layers(id);
        layers.ok_or_else(|| unknown_table_id(id))
    }

    /// Calls `f` for every table, including dropped ones. The lock is held meanwhile, so `f` must be quick.
    pub(crate) fn map_tables<T>(&self, f: impl FnMut(&AdmittedTable) -> T) -> Vec<T> {
        self.0.state.lock().admission.tables.iter().map(f).collect()
    }
}
