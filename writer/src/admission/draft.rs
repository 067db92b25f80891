//! A change on its way into admission: its operations, and what was read and computed for them before the lock.
//!
//! All requests share the admission lock, so whatever takes long is done before it: keys are found in documents, rows are read
//! from files, and patches are merged into large rows. None of it binds admission. A row may change until the lock is held, so
//! a merged patch counts only if the row is still the very document that it was computed from; otherwise it is computed again.
//! What is missing then, admission tells in a [`MissingWork`](crate::admission::missing::MissingWork) and the lock is given back.

use std::collections::HashMap;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::table::operation::{Action, Boundary, Check, KeyInput, Operation, Precondition};
use driftdb_common::table::schema::Schema;
use driftdb_common::table::state;

use crate::admission::boundaries::DraftBoundary;
use crate::admission::made_keys::{self, MadeKey};
use crate::admission::read_rows::ReadRows;
use crate::admission::row_key::row_key;
use crate::admission::table::AdmittedTable;

/// A change with at most this many operations and preconditions, and bytes of documents, is small: its keys are found under the
/// lock, which takes less than to take the lock twice.
const SMALL_PARTS: usize = 16;
const SMALL_BYTES: usize = 4 << 10;

/// A change of rows.
#[derive(Debug, Default)]
pub(crate) struct Draft {
    pub(crate) operations: Vec<DraftOperation>,
    pub(crate) conditions: DraftConditions,
    pub(crate) rows: ReadRows,
}

/// What must hold before a change.
#[derive(Debug, Default)]
pub(crate) struct DraftConditions {
    /// Conditions on one row.
    pub(crate) rows: Vec<DraftPrecondition>,
    /// Conditions over many rows.
    pub(crate) boundaries: Vec<DraftBoundary>,
}

impl DraftConditions {
    /// Conditions whose keys are not known yet. Fails if they are too many, or name a table that no database can have.
    pub(crate) fn new(
        preconditions: Vec<Precondition>,
        boundaries: Vec<Boundary>,
    ) -> Result<DraftConditions> {
        check_count("preconditions", preconditions.len(), limits::PRECONDITIONS_PER_COMMIT)?;
        check_count("preconditions with WHERE", boundaries.len(), limits::BOUNDARIES_PER_COMMIT)?;
        let rows = preconditions.into_iter().map(|precondition| {
            check_name(&precondition.table)?;
            Ok(DraftPrecondition { precondition, key: None })
        });
        let boundaries = boundaries.into_iter().map(|boundary| {
            check_name(&boundary.table)?;
            DraftBoundary::new(boundary)
        });
        Ok(DraftConditions {
            rows: rows.collect::<Result<_>>()?,
            boundaries: boundaries.collect::<Result<_>>()?,
        })
    }

    /// Adds a condition of the statement itself, which does not count as one of the client's. It comes last: a change that breaks a
    /// condition of the client is the client's error.
    pub(crate) fn with_own(mut self, boundary: Option<Boundary>) -> Result<DraftConditions> {
        if let Some(boundary) = boundary {
            self.boundaries.push(DraftBoundary::new(boundary)?);
        }
        Ok(self)
    }
}

/// The key of an operation or a precondition, in a table whose schema was known.
#[derive(Debug)]
struct DraftKey {
    table: u64,
    schema: Arc<Schema>,
    key: Result<Key>,
}

/// A patch merged into a row.
#[derive(Debug)]
struct DraftMerge {
    before: Document,
    after: Result<MergedRow>,
}

/// A row after a patch.
#[derive(Debug, Clone)]
pub(crate) struct MergedRow {
    pub(crate) document: Document,
    /// Whether its primary key field is as before.
    pub(crate) keeps_key: bool,
}

/// An operation.
#[derive(Debug)]
pub(crate) struct DraftOperation {
    pub(crate) operation: Operation,
    key: Option<DraftKey>,
    merge: Option<DraftMerge>,
    /// The document of an insert as it was sent, if its key was made here.
    without_key: Option<Document>,
}

/// A precondition.
#[derive(Debug)]
pub(crate) struct DraftPrecondition {
    pub(crate) precondition: Precondition,
    key: Option<DraftKey>,
}

/// The ids and schemas of tables, by name.
pub(crate) type KnownTables = HashMap<String, (u64, Arc<Schema>)>;

/// The newest content of the rows that a change patches, if they are in memory: by the table's id and the key.
pub(crate) type RowsInMemory = HashMap<(u64, Key), Option<Document>>;

impl DraftKey {
    /// The key, if it was computed for a table as it is now.
    fn of<'a>(key: Option<&'a DraftKey>, table: &AdmittedTable) -> Option<&'a Result<Key>> {
        let key = key?;
        let (then, now) = (&key.schema, table.schema());
        let same = Arc::ptr_eq(then, now)
            || (&then.primary_key, then.key_type, then.auto_key)
                == (&now.primary_key, now.key_type, now.auto_key);
        (key.table == table.id() && same).then_some(&key.key)
    }
}

impl DraftOperation {
    /// An operation whose key is not known yet. Fails if no table can have the name.
    pub(crate) fn new(operation: Operation) -> Result<DraftOperation> {
        check_name(&operation.table)?;
        let Operation { table, key, action } = operation;
        // The row keeps the document for long: it must not keep the whole request in memory.
        let action = match action {
            Action::Insert(document) => Action::Insert(document.detached()),
            Action::Put(document) => Action::Put(document.detached()),
            Action::Restore(Some(document)) => Action::Restore(Some(document.detached())),
            other => other,
        };
        let operation = Operation { table, key, action };
        Ok(DraftOperation { operation, key: None, merge: None, without_key: None })
    }

    /// The key of the operation's row in a table; `None` if it was not computed for it.
    pub(crate) fn key(&self, table: &AdmittedTable) -> Option<&Result<Key>> {
        DraftKey::of(self.key.as_ref(), table)
    }

    /// Computes the key, if the table is known.
    #[must_use]
    pub(crate) fn with_key(mut self, tables: &KnownTables) -> DraftOperation {
        if let Some((id, schema)) = tables.get(&self.operation.table) {
            self.find_key(*id, schema);
        }
        self
    }

    /// Computes the key in a table with this id and schema, or makes it.
    pub(crate) fn find_key(&mut self, table: u64, schema: &Arc<Schema>) {
        if let (Action::Insert(document), Some(sent)) = (&mut self.operation.action, self.without_key.take())
        {
            // The key was made for another table of this name.
            *document = sent;
        }
        let key = made_keys::make(schema, &mut self.operation).and_then(|without_key| {
            self.without_key = without_key;
            row_key(schema, &self.operation)
        });
        self.key = Some(DraftKey { table, schema: Arc::clone(schema), key });
    }

    /// The operation's key, if it was made here.
    pub(crate) fn made_key(&self) -> Option<&Key> {
        let key = self.key.as_ref().filter(|_| self.without_key.is_some())?;
        key.key.as_ref().ok()
    }

    /// The patch, if the operation is one.
    pub(crate) fn patch(&self) -> Option<&Document> {
        match &self.operation.action {
            Action::Patch(patch) => Some(patch),
            _ => None,
        }
    }

    /// Whether the operation writes a row whatever it was before.
    pub(crate) fn is_whole_row(&self) -> bool {
        matches!(self.operation.action, Action::Insert(_) | Action::Put(_) | Action::Restore(Some(_)))
    }

    /// The patched row, if the patch was merged into this very document.
    pub(crate) fn merged(&self, before: &Document) -> Option<&Result<MergedRow>> {
        self.merge.as_ref().filter(|merge| merge.before.is_same_buffer(before)).map(|merge| &merge.after)
    }

    /// Whether the patch was merged, into whatever document.
    pub(crate) fn is_merged(&self) -> bool {
        self.merge.is_some()
    }

    /// The bytes of the operation's document.
    pub(crate) fn bytes(&self) -> usize {
        match &self.operation.action {
            Action::Insert(document)
            | Action::Put(document)
            | Action::Patch(document)
            | Action::Restore(Some(document)) => document.msgpack().len(),
            Action::SoftDelete | Action::Revert(_) | Action::Restore(None) => 0,
        }
    }
}

impl DraftPrecondition {
    /// The key of the precondition's row in a table; `None` if it was not computed for it.
    pub(crate) fn key(&self, table: &AdmittedTable) -> Option<&Result<Key>> {
        DraftKey::of(self.key.as_ref(), table)
    }

    /// Computes the key in a table with this id and schema.
    pub(crate) fn find_key(&mut self, table: u64, schema: &Arc<Schema>) {
        let key = self.precondition.key.of_table(schema);
        self.key = Some(DraftKey { table, schema: Arc::clone(schema), key });
    }

    /// What is required.
    pub(crate) fn check(&self) -> (&str, &KeyInput, Check) {
        let Precondition { table, key, check } = &self.precondition;
        (table, key, *check)
    }
}

impl Draft {
    /// A change of one commit. Fails if it has too many parts, or names a table that no database can have.
    pub(crate) fn new(operations: Vec<Operation>, conditions: DraftConditions) -> Result<Draft> {
        check_count("operations", operations.len(), limits::OPERATIONS_PER_COMMIT)?;
        let count = operations.len();
        let operations = operations.into_iter().enumerate().map(|(i, operation)| {
            DraftOperation::new(operation).map_err(|e| error_at_operation(e, i, count))
        });
        Ok(Draft { operations: operations.collect::<Result<_>>()?, conditions, rows: ReadRows::default() })
    }

    /// Whether it is cheap to find the keys.
    pub(crate) fn is_small(&self) -> bool {
        self.operations.len() + self.conditions.rows.len() <= SMALL_PARTS
            && self.operations.iter().map(DraftOperation::bytes).sum::<usize>() <= SMALL_BYTES
    }

    /// Whether work on the documents is short enough for a thread that serves the network.
    pub(crate) fn is_short(&self) -> bool {
        self.operations.len() + self.conditions.rows.len() <= SMALL_PARTS * SMALL_PARTS
            && self.operations.iter().map(DraftOperation::bytes).sum::<usize>() <= SMALL_BYTES * SMALL_PARTS
    }

    /// Finds the keys in tables with these ids and schemas, by name.
    pub(crate) fn find_keys(&mut self, tables: &KnownTables) {
        for operation in &mut self.operations {
            if let Some((id, schema)) = tables.get(&operation.operation.table) {
                operation.find_key(*id, schema);
            }
        }
        for precondition in &mut self.conditions.rows {
            if let Some((id, schema)) = tables.get(&precondition.precondition.table) {
                precondition.find_key(*id, schema);
            }
        }
    }

    /// Merges the patches into the rows, as admission would if no row changed meanwhile: into what was read, or into what is in
    /// memory. Fails with TOO_LARGE if the rows are too large together.
    pub(crate) fn merge_patches(&mut self, in_memory: &RowsInMemory) -> Result<()> {
        let mut newest: HashMap<(u64, &Key), Option<Document>> = HashMap::new();
        let mut bytes = 0;
        for DraftOperation { operation, key, merge: merged, .. } in &mut self.operations {
            let Some(DraftKey { table, schema, key: Ok(key) }) = key else { continue };
            let (table, schema, key) = (*table, &*schema, &*key);
            let row = newest.entry((table, key)).or_insert_with(|| {
                let read = || self.rows.document(table, key).cloned();
                in_memory.get(&(table, key.clone())).cloned().unwrap_or_else(read)
            });
            match &operation.action {
                // Admission refuses the operation, or the row was not read because its content did not matter.
                Action::Insert(_) if row.is_some() => {}
                Action::Insert(document) | Action::Put(document) => *row = Some(document.clone()),
                Action::Restore(restored) => row.clone_from(restored),
                Action::SoftDelete => *row = None,
                Action::Patch(patch) => {
                    let Some(before) = row.take() else { continue };
                    let after = merge(&before, patch, schema, key);
                    bytes += before.msgpack().len();
                    bytes += after.as_ref().map_or(0, |after| after.document.msgpack().len());
                    *row =
                        Some(after.as_ref().map_or_else(|_| before.clone(), |after| after.document.clone()));
                    *merged = Some(DraftMerge { before, after });
                    check_patched_bytes(bytes)?;
                }
                Action::Revert(_) => {}
            }
        }
        Ok(())
    }
}

/// The keys that were made for the operations of a commit. `first` is the position of the commit's first operation in its request.
pub(crate) fn made_keys_of(operations: &[DraftOperation], first: u32) -> Vec<MadeKey> {
    if !operations.iter().any(|operation| operation.made_key().is_some()) {
        return Vec::new();
    }
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut made = Vec::new();
    for (index, operation) in (first..).zip(operations) {
        let table = operation.operation.table.as_str();
        let count = counts.entry(table).or_default();
        if let Some(key) = operation.made_key() {
            made.push(MadeKey { index, table: table.to_owned(), in_table: *count, key: key.clone() });
        }
        *count += 1;
    }
    made
}

/// Merges a patch into a row.
pub(crate) fn merge(before: &Document, patch: &Document, schema: &Schema, key: &Key) -> Result<MergedRow> {
    let after = state::apply(Some(before), EventType::Patch, Some(patch))?;
    let document = after
        .ok_or_else(|| Error::new(Reason::Internal, "a patch has deleted its row"))?
        // Without the free space after it.
        .detached();
    let keeps_key = schema.key_of(&document).is_ok_and(|after| after == *key);
    Ok(MergedRow { document, keeps_key })
}

fn check_patched_bytes(bytes: usize) -> Result<()> {
    if bytes <= limits::PATCHED_BYTES_PER_COMMIT {
        return Ok(());
    }
    let message = format!(
        "the rows that the patches of this commit read and write are too large together: more than {} bytes; split the patches into several commits",
        limits::PATCHED_BYTES_PER_COMMIT
    );
    Err(Error::new(Reason::TooLarge, message))
}

/// Fails if a commit has too many of something.
pub(crate) fn check_count(what: &str, count: usize, limit: usize) -> Result<()> {
    if count <= limit {
        return Ok(());
    }
    let message = format!(
        "too many {what} in one commit: {count}, the limit is {limit}; split them into several commits"
    );
    Err(Error::new(Reason::TooLarge, message))
}

/// Fails if no table can have this name. A lookup would hash all of it under the lock.
pub(crate) fn check_name(table: &str) -> Result<()> {
    if table.len() <= limits::TABLE_NAME_BYTES {
        return Ok(());
    }
    let shown: String = table.chars().take(limits::TABLE_NAME_BYTES).collect();
    let message = format!(
        "table \"{}…\" does not exist: the name has {} bytes, the limit is {}",
        shown.escape_debug(),
        table.len(),
        limits::TABLE_NAME_BYTES
    );
    Err(Error::new(Reason::TableNotFound, message).with("table", shown))
}

/// Adds to an error which of `count` operations it belongs to, if there are several.
pub(crate) fn error_at_operation(error: Error, index: usize, count: usize) -> Error {
    match count {
        0 | 1 => error,
        _ => error.context(format_args!("operation {}", index + 1)).with("operation", index.to_string()),
    }
}
