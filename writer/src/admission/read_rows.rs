//! Rows that were read from snapshot files before admission, so that admission reads no file under its lock.

use std::collections::HashMap;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::table::layers::LayerMap;

/// A row's last state, as admission needs it.
#[derive(Debug, Clone)]
pub(crate) struct CurrentRow {
    /// The commit that last changed the row.
    pub(crate) seq: u64,
    /// Whether the row is live. A deleted row is known, because preconditions ask which commit deleted it.
    pub(crate) is_live: bool,
    /// The content of a live row. It may be missing if the row was read for an operation that does not depend on it.
    pub(crate) document: Option<Document>,
}

/// A row to read.
#[derive(Debug)]
pub(crate) struct RowToRead {
    /// The table's id.
    pub(crate) table: u64,
    /// The files that hold the row.
    pub(crate) layers: Arc<LayerMap>,
    pub(crate) key: Key,
    /// What was found in older files. A row that did not change since is not read again: under a load the files change all the
    /// time, and a change of many rows would never be admitted.
    pub(crate) known: Option<KnownRow>,
    /// Whether the content matters. If not, it is not kept: a change of 10,000 large rows must not hold them all.
    pub(crate) with_document: bool,
}

/// What files that end at a commit say of a row.
#[derive(Debug)]
pub(crate) struct KnownRow {
    end: u64,
    row: Option<CurrentRow>,
}

/// What was found, and in which files.
#[derive(Debug)]
struct FoundRow {
    layers: Arc<LayerMap>,
    has_document: bool,
    row: Result<Option<CurrentRow>>,
}

/// The rows that were read for one change.
#[derive(Debug, Default)]
pub(crate) struct ReadRows(HashMap<u64, HashMap<Key, FoundRow>>);

impl ReadRows {
    /// What was found of a row in these files, or in others with the same events; `None` if it was not read. Newer files may
    /// hold a later state of the row, which was in memory in between, so what older files hold says nothing.
    pub(crate) fn get(
        &self,
        table: u64,
        key: &Key,
        layers: &Arc<LayerMap>,
    ) -> Option<&Result<Option<CurrentRow>>> {
        let found = self.0.get(&table)?.get(key)?;
        found.is_of(layers).then_some(&found.row)
    }

    /// Whether a row was read from these files, with its content if that is asked for.
    pub(crate) fn has(&self, table: u64, key: &Key, layers: &Arc<LayerMap>, with_document: bool) -> bool {
        let found = self.0.get(&table).and_then(|rows| rows.get(key));
        found.is_some_and(|found| found.is_of(layers) && (found.has_document || !with_document))
    }

    /// What was found of a row in older files.
    pub(crate) fn known(&self, table: u64, key: &Key, with_document: bool) -> Option<KnownRow> {
        let found = self.0.get(&table)?.get(key)?;
        let row = found.row.as_ref().ok()?.clone();
        (found.has_document || !with_document).then_some(KnownRow { end: found.layers.end(), row })
    }

    /// The content of a row that was read, from whatever files.
    pub(crate) fn document(&self, table: u64, key: &Key) -> Option<&Document> {
        self.0.get(&table)?.get(key)?.row.as_ref().ok()?.as_ref()?.document.as_ref()
    }

    /// Adds what [`RowToRead::read`] found.
    pub(crate) fn insert(&mut self, row: RowToRead, found: Result<Option<CurrentRow>>) {
        let RowToRead { table, layers, key, known: _, with_document } = row;
        let found = FoundRow { layers, has_document: with_document, row: found };
        self.0.entry(table).or_default().insert(key, found);
    }
}

impl FoundRow {
    /// Whether the files have the events of those that the row was read from. Merged files do. After an error it counts only for
    /// the very files: they may be rebuilt.
    fn is_of(&self, layers: &Arc<LayerMap>) -> bool {
        Arc::ptr_eq(&self.layers, layers) || (self.row.is_ok() && self.layers.end() == layers.end())
    }
}

impl RowToRead {
    /// Reads the row. Blocks.
    pub(crate) fn read(&self) -> Result<Option<CurrentRow>> {
        if let Some(known) = &self.known
            && !self.layers.may_have_changed_since(&self.key, known.end)?
        {
            return Ok(known.row.clone());
        }
        let found = self.layers.last_change(&self.key)?;
        Ok(found.map(|row| CurrentRow {
            seq: row.seq,
            is_live: row.document.is_some(),
            // A copy: the document would keep its whole block in memory.
            document: row.document.filter(|_| self.with_document).map(|document| document.detached()),
        }))
    }
}
