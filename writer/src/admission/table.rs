//! One table's newest admitted state: rows changed since its snapshots in memory, all other rows in files.

use std::collections::HashMap;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::table_counts::TableCounts;

use crate::admission::read_rows::{CurrentRow, ReadRows};

/// A row after its last change.
#[derive(Debug, Clone)]
pub(crate) struct RowState {
    /// The commit that last changed the row.
    pub(crate) seq: u64,
    /// Whether the row is live. A deleted row stays here until it is in files, because preconditions ask which commit deleted it.
    pub(crate) is_live: bool,
    /// The content of a live row; `None` if only the snapshot files hold it.
    pub(crate) document: Option<Document>,
}

impl RowState {
    /// A row whose whole state is in memory; deleted if it has no document.
    pub(crate) fn new(seq: u64, document: Option<Document>) -> RowState {
        RowState { seq, is_live: document.is_some(), document }
    }
}

/// A table's newest admitted state.
#[derive(Debug)]
pub(crate) struct AdmittedTable {
    id: u64,
    created_seq: u64,
    /// Shared, so that a caller can keep it without a copy made under the lock.
    schema: Arc<Schema>,
    /// The name of the table's directory.
    directory: Arc<str>,
    /// The commit that dropped the table; `None` if it exists.
    dropped: Option<u64>,
    /// How many of the table's events are SCHEMA events.
    schema_events: u64,
    /// The commit that gave the table its name, if another table may have had the name before; else 0.
    named_seq: u64,
    /// Every row that changed after the end of `layers`, and possibly some that changed before.
    rows: HashMap<Key, RowState>,
    /// The bytes of the documents in `rows`.
    row_bytes: u64,
    layers: Arc<LayerMap>,
    counts: TableCounts,
}

/// The bytes of the documents of some rows.
fn document_bytes<'a>(rows: impl IntoIterator<Item = &'a RowState>) -> u64 {
    let documents = rows.into_iter().filter_map(|row| row.document.as_ref());
    documents.map(|document| document.msgpack().len() as u64).sum()
}

impl AdmittedTable {
    /// An empty table that commit `seq` creates.
    pub(crate) fn new(id: u64, seq: u64, schema: Schema) -> AdmittedTable {
        AdmittedTable {
            id,
            created_seq: seq,
            directory: Arc::from(schema.table.as_str()),
            schema: Arc::new(schema),
            dropped: None,
            schema_events: 0,
            named_seq: 0,
            rows: HashMap::new(),
            row_bytes: 0,
            layers: Arc::default(),
            counts: TableCounts::default(),
        }
    }

    /// This table in a directory that has another name than it was created with.
    pub(crate) fn in_directory(self, directory: String) -> AdmittedTable {
        AdmittedTable { directory: Arc::from(directory), ..self }
    }

    /// This table with a name that it has since a commit, and that another table may have had before.
    pub(crate) fn named_at(self, named_seq: u64) -> AdmittedTable {
        AdmittedTable { named_seq, ..self }
    }

    /// This table with the rows and counts of its snapshot files.
    pub(crate) fn with_layers(self, layers: LayerMap, dropped: Option<u64>) -> AdmittedTable {
        let counts = layers.counts();
        let schema_events = layers.properties().schema_entries.len() as u64;
        AdmittedTable { layers: Arc::new(layers), dropped, counts, schema_events, ..self }
    }

    /// This table as the successor of its `past`: a new CREATE continues the past's history and starts without rows.
    pub(crate) fn continuing(self, past: &AdmittedTable) -> AdmittedTable {
        let counts = TableCounts { rows: 0, ..past.counts };
        let (layers, directory) = (Arc::clone(&past.layers), Arc::clone(&past.directory));
        let (schema_events, named_seq) = (past.schema_events, past.named_seq);
        AdmittedTable { layers, directory, counts, schema_events, named_seq, ..self }
    }

    /// This table after its DROP: no rows, the same history.
    pub(crate) fn after_drop(&self, seq: u64) -> AdmittedTable {
        AdmittedTable {
            id: self.id,
            created_seq: self.created_seq,
            schema: Arc::clone(&self.schema),
            directory: Arc::clone(&self.directory),
            dropped: Some(seq),
            schema_events: self.schema_events,
            named_seq: self.named_seq,
            rows: HashMap::new(),
            row_bytes: 0,
            layers: Arc::clone(&self.layers),
            counts: TableCounts { rows: 0, ..self.counts },
        }
    }

    /// The table's snapshot files.
    pub(crate) fn layers(&self) -> &Arc<LayerMap> {
        &self.layers
    }

    /// Replaces the table's snapshot files by newer ones.
    pub(crate) fn set_layers(&mut self, layers: &Arc<LayerMap>) {
        self.layers = Arc::clone(layers);
    }

    /// Whether the row's last state is in memory: with its content, or if that does not matter, perhaps without.
    pub(crate) fn is_in_memory(&self, key: &Key, with_document: bool) -> bool {
        self.rows.get(key).is_some_and(|row| !with_document || row.document.is_some() || !row.is_live)
    }

    /// Gives up a row's content if the snapshot files hold its last state. What most writes ask, whether the row is live and
    /// which commit changed it last, stays in memory until [`AdmittedTable::forget`]. Returns that commit and the content. A
    /// deleted row leaves memory: what is known of it must follow from the files, where compaction removes it.
    pub(crate) fn evict(&mut self, key: &Key) -> Option<(u64, Option<Document>)> {
        let end = self.layers.end();
        let row = self.rows.get_mut(key).filter(|row| row.seq <= end)?;
        self.row_bytes = self.row_bytes.saturating_sub(document_bytes([&*row]));
        let (is_live, evicted) = (row.is_live, (row.seq, row.document.take()));
        if !is_live {
            self.rows.remove(key);
            return None;
        }
        Some(evicted)
    }

    /// Removes a row from memory that was evicted and has not changed since commit `seq`.
    pub(crate) fn forget(&mut self, key: &Key, seq: u64) {
        if self.rows.get(key).is_some_and(|row| row.seq == seq && seq <= self.layers.end()) {
            let forgotten = self.rows.remove(key);
            self.row_bytes = self.row_bytes.saturating_sub(document_bytes(&forgotten));
        }
    }

    /// The table's id: the seq of its first CREATE.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The commit of the table's last CREATE.
    pub(crate) fn created_seq(&self) -> u64 {
        self.created_seq
    }

    /// The commit that created the table again after a DROP, or gave it a name that another table may have had: what was read of the
    /// name before is no longer there. 0 if there is none.
    pub(crate) fn recreated_seq(&self) -> u64 {
        let created = if self.created_seq > self.id { self.created_seq } else { 0 };
        created.max(self.named_seq)
    }

    /// What the commit of [`AdmittedTable::recreated_seq`] did, for messages.
    pub(crate) fn recreation(&self) -> String {
        let seq = self.recreated_seq();
        if seq > self.created_seq {
            return format!("commit {seq} gave the table this name");
        }
        format!("commit {seq} created the table again")
    }

    /// Records that another table may have had the name before this one was created.
    pub(crate) fn succeed_another(&mut self) {
        self.named_seq = self.named_seq.max(self.created_seq);
    }

    /// The table's schema; its last one if the table is dropped.
    pub(crate) fn schema(&self) -> &Arc<Schema> {
        &self.schema
    }

    /// Replaces the schema and when the table got its name, and returns those before.
    pub(crate) fn set_schema(&mut self, schema: Arc<Schema>, named_seq: u64) -> (Arc<Schema>, u64) {
        (std::mem::replace(&mut self.schema, schema), std::mem::replace(&mut self.named_seq, named_seq))
    }

    /// The commit that gave the table its name, if another table may have had the name before; else 0.
    pub(crate) fn named_seq(&self) -> u64 {
        self.named_seq
    }

    /// Whether the table is not dropped.
    pub(crate) fn is_live(&self) -> bool {
        self.dropped.is_none()
    }

    /// The commit that dropped the table; 0 if it exists.
    pub(crate) fn dropped_seq(&self) -> u64 {
        self.dropped.unwrap_or_default()
    }

    /// The name of the table's directory.
    pub(crate) fn directory(&self) -> &str {
        &self.directory
    }

    /// Whether no event was ever one of a row.
    pub(crate) fn never_had_row(&self) -> bool {
        self.counts.events == self.schema_events
    }

    /// The number of live rows and of events, and the last commit with an event in this table.
    pub(crate) fn counts(&self) -> TableCounts {
        self.counts
    }

    /// Sets the counts back to earlier ones.
    pub(crate) fn set_counts(&mut self, counts: TableCounts) {
        self.counts = counts;
    }

    /// A row's last state, or `None` if the row never existed. A row that was deleted at or before the
    /// table's floor is not known any more and returns `None` too. A row that is not in memory must have been
    /// read before, from the files as they are now.
    pub(crate) fn row(&self, key: &Key, read: &ReadRows) -> Result<Option<CurrentRow>> {
        if let Some(RowState { seq, is_live, document }) = self.rows.get(key) {
            let document = match document {
                // If the content matters, it was read. The row has not changed since it left memory.
                None if *is_live => self.read_document(key, read)?.cloned(),
                document => document.clone(),
            };
            return Ok(Some(CurrentRow { seq: *seq, is_live: *is_live, document }));
        }
        if self.layers.end() == 0 {
            return Ok(None);
        }
        let unread = || Error::new(Reason::Internal, "a row was not read before its change was admitted");
        let row = read.get(self.id, key, &self.layers).ok_or_else(unread)?.clone()?;
        // A row from before the last CREATE belongs to the table that was dropped.
        Ok(row.filter(|row| row.seq >= self.created_seq))
    }

    /// A row's content, as far as it is in memory or was read.
    pub(crate) fn document<'a>(&'a self, key: &Key, read: &'a ReadRows) -> Option<&'a Document> {
        match self.rows.get(key) {
            Some(row) if row.document.is_some() || !row.is_live => row.document.as_ref(),
            Some(_) => self.read_document(key, read).ok().flatten(),
            None => read.document(self.id, key),
        }
    }

    /// A row's content, if it was read from the files as they are now. Fails if the read failed.
    fn read_document<'a>(&self, key: &Key, read: &'a ReadRows) -> Result<Option<&'a Document>> {
        match read.get(self.id, key, &self.layers) {
            Some(Ok(row)) => Ok(row.as_ref().and_then(|row| row.document.as_ref())),
            Some(Err(error)) => Err(error.clone()),
            None => Ok(None),
        }
    }

    /// A row's content, or `None` if no live row has the key. Reads files, so only for a database that is being opened.
    pub(crate) fn read_row(&self, key: &Key) -> Result<Option<Document>> {
        if let Some(row) = self.rows.get(key).filter(|row| row.document.is_some() || !row.is_live) {
            return Ok(row.document.clone());
        }
        if self.layers.end() == 0 {
            return Ok(None);
        }
        let row = self.layers.last_change(key)?.filter(|row| row.seq >= self.created_seq);
        Ok(row.and_then(|row| row.document))
    }

    /// Sets a row's state and returns the one before if that was in memory. `was_live` says whether the row
    /// was live, which the caller has looked up.
    pub(crate) fn set_row(&mut self, key: Key, row: RowState, was_live: bool) -> Option<RowState> {
        let is_live = u64::from(row.is_live);
        self.counts.rows = (self.counts.rows + is_live).saturating_sub(u64::from(was_live));
        self.insert_row(key, row)
    }

    fn insert_row(&mut self, key: Key, row: RowState) -> Option<RowState> {
        self.row_bytes += document_bytes([&row]);
        let prior = self.rows.insert(key, row);
        self.row_bytes = self.row_bytes.saturating_sub(document_bytes(&prior));
        prior
    }

    /// The bytes of the documents in memory. A patch of some bytes may have read a row of a megabyte, so the length of the log
    /// does not bound them.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Sets a row in memory back to an earlier state; `None` means that the row was not in memory.
    pub(crate) fn restore_row(&mut self, key: Key, prior: Option<RowState>) {
        match prior {
            Some(prior) => _ = self.insert_row(key, prior),
            None => {
                let removed = self.rows.remove(&key);
                self.row_bytes = self.row_bytes.saturating_sub(document_bytes(&removed));
            }
        }
    }

    /// Counts one event of commit `seq`.
    pub(crate) fn count_event(&mut self, seq: u64) {
        self.counts.events += 1;
        self.counts.last_seq = seq;
    }

    /// Counts one SCHEMA event of commit `seq`.
    pub(crate) fn count_schema_event(&mut self, seq: u64) {
        self.schema_events += 1;
        self.count_event(seq);
    }

    /// Takes a SCHEMA event back, to the counts before it.
    pub(crate) fn uncount_schema_event(&mut self, counts: TableCounts) {
        self.schema_events = self.schema_events.saturating_sub(1);
        self.set_counts(counts);
    }
}
