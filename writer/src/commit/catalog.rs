//! The tables as admission sees them, for callers that look up schemas, ids and files.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::schema::Schema;

use crate::admission::draft::check_name;
use crate::admission::table::AdmittedTable;
use crate::commit::state::CommitShared;
use crate::errors::unknown_table_id;

/// A table, as it was when the catalog was asked.
#[derive(Debug, Clone)]
pub(crate) struct CatalogTable {
    pub(crate) id: u64,
    /// Whether the table is not dropped.
    pub(crate) is_live: bool,
    pub(crate) schema: Arc<Schema>,
    /// The snapshot files that admission reads.
    pub(crate) layers: Arc<LayerMap>,
}

/// Looks up tables. What it returns includes changes that are not durable yet.
#[derive(Debug, Clone)]
pub(crate) struct TableCatalog(Arc<CommitShared>);

impl TableCatalog {
    pub(super) fn new(shared: &Arc<CommitShared>) -> TableCatalog {
        TableCatalog(Arc::clone(shared))
    }

    /// The schema of a table that is not dropped.
    pub(crate) fn schema(&self, table: &str) -> Result<Arc<Schema>> {
        self.of_live(table, |table| Arc::clone(table.schema()))
    }

    /// The id of a table that is not dropped.
    pub(crate) fn table_id(&self, table: &str) -> Result<u64> {
        self.of_live(table, AdmittedTable::id)
    }

    /// Calls `f` for a table that is not dropped.
    fn of_live<T>(&self, name: &str, f: impl FnOnce(&AdmittedTable) -> T) -> Result<T> {
        check_name(name)?;
        self.0.state.lock().admission.tables.live(name).map(f)
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

    /// Every table, including dropped ones. Callers look at these copies, not at the tables under the lock.
    pub(crate) fn tables(&self) -> Vec<CatalogTable> {
        let state = self.0.state.lock();
        let table = |table: &AdmittedTable| CatalogTable {
            id: table.id(),
            is_live: table.is_live(),
            schema: Arc::clone(table.schema()),
            layers: Arc::clone(table.layers()),
        };
        state.admission.tables.iter().map(table).collect()
    }
}
