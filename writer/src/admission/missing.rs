//! What a change still needs before it can be admitted, and the work that provides it, outside of the lock.

use std::collections::HashMap;
use std::num::NonZero;
use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::key::Key;

use crate::admission::boundaries::{UncheckedChanges, unchecked_changes};
use crate::admission::draft::{Draft, KnownTables, RowsInMemory};
use crate::admission::read_rows::{CurrentRow, RowToRead};
use crate::admission::table::AdmittedTable;
use crate::admission::tables::AdmittedTables;

/// The number of rows of one change from which several threads read them.
const ROWS_WORTH_THREADS: usize = 64;

/// What a change needs.
#[derive(Debug, Default)]
pub(crate) struct MissingWork {
    /// The tables whose keys are not found yet.
    tables: KnownTables,
    rows: Vec<RowToRead>,
    in_memory: RowsInMemory,
    /// The changes that conditions over many rows are not compared with yet.
    changes: Vec<UncheckedChanges>,
}

/// Which rows a change needs, while they are collected.
struct Collector<'a> {
    draft: &'a Draft,
    missing: MissingWork,
    /// The rows that are in `missing` already, and their positions.
    listed: HashMap<(u64, Key), usize>,
}

/// Returns what a change needs before it can be admitted after commit `last`; `None` if it can be admitted now. Patches of rows
/// with up to `merge_bytes` bytes together, and as many bytes of changes, are left to admission.
pub(super) fn missing_work(
    tables: &AdmittedTables,
    draft: &mut Draft,
    (last, merge_bytes): (u64, usize),
) -> Option<MissingWork> {
    if draft.is_small() {
        find_keys(tables, draft);
    } else {
        let tables = tables_without_keys(tables, draft);
        if !tables.is_empty() {
            return Some(MissingWork { tables, ..MissingWork::default() });
        }
    }
    let mut collector = Collector { draft, missing: MissingWork::default(), listed: HashMap::new() };
    // Unknown tables and invalid keys are skipped here: admission refuses them.
    for operation in &draft.operations {
        if let Ok(table) = tables.live(&operation.operation.table)
            && let Some(Ok(key)) = operation.key(table)
        {
            collector.add(table, key, operation.patch().is_some());
        }
    }
    for precondition in &draft.conditions.rows {
        if let Ok(table) = tables.live(precondition.check().0)
            && let Some(Ok(key)) = precondition.key(table)
        {
            collector.add(table, key, false);
        }
    }
    let mut missing = collector.missing;
    missing.changes = unchecked_changes(tables, &draft.conditions.boundaries, last, merge_bytes);
    let is_complete = missing.rows.is_empty() && missing.changes.is_empty();
    if is_complete && bytes_to_merge(tables, draft) <= merge_bytes {
        return None;
    }
    missing.in_memory = patched_in_memory(tables, draft);
    Some(missing)
}

/// Finds the keys that are missing.
fn find_keys(tables: &AdmittedTables, draft: &mut Draft) {
    for operation in &mut draft.operations {
        if let Ok(table) = tables.live(&operation.operation.table)
            && operation.key(table).is_none()
        {
            operation.find_key(table.id(), table.schema());
        }
    }
    for precondition in &mut draft.conditions.rows {
        if let Ok(table) = tables.live(precondition.check().0)
            && precondition.key(table).is_none()
        {
            precondition.find_key(table.id(), table.schema());
        }
    }
}

/// The tables of operations and preconditions whose keys were not found for the table as it is now.
fn tables_without_keys(tables: &AdmittedTables, draft: &Draft) -> KnownTables {
    let mut unknown = KnownTables::new();
    let mut add = |name: &str, has_key: &dyn Fn(&AdmittedTable) -> bool| {
        if let Ok(table) = tables.live(name)
            && !has_key(table)
            && !unknown.contains_key(name)
        {
            unknown.insert(name.to_owned(), (table.id(), Arc::clone(table.schema())));
        }
    };
    for operation in &draft.operations {
        add(&operation.operation.table, &|table| operation.key(table).is_some());
    }
    for precondition in &draft.conditions.rows {
        add(precondition.check().0, &|table| precondition.key(table).is_some());
    }
    unknown
}

/// The changes of one row within a change.
struct RowChain {
    /// Whether every patch so far was merged, and into the row as it is now.
    is_merged: bool,
    /// About how long the row is after them.
    len: usize,
}

/// The bytes of rows and patches that admission would have to merge.
fn bytes_to_merge(tables: &AdmittedTables, draft: &Draft) -> usize {
    if !draft.operations.iter().any(|operation| operation.patch().is_some()) {
        return 0;
    }
    let mut rows: HashMap<(u64, &Key), RowChain> = HashMap::new();
    let mut bytes = 0;
    for operation in &draft.operations {
        let Ok(table) = tables.live(&operation.operation.table) else { continue };
        let Some(Ok(key)) = operation.key(table) else { continue };
        let at = (table.id(), key);
        let Some(patch) = operation.patch() else {
            rows.insert(at, RowChain { is_merged: true, len: operation.bytes() });
            continue;
        };
        let row = rows.entry(at).or_insert_with(|| match table.document(key, &draft.rows) {
            Some(row) => RowChain { is_merged: operation.merged(row).is_some(), len: row.msgpack().len() },
            None => RowChain { is_merged: true, len: 0 },
        });
        row.is_merged &= operation.is_merged();
        if !row.is_merged {
            row.len += patch.msgpack().len();
            bytes += row.len;
        }
    }
    bytes
}

/// The content of the patched rows that are in memory.
fn patched_in_memory(tables: &AdmittedTables, draft: &Draft) -> RowsInMemory {
    let patched = draft.operations.iter().filter(|operation| operation.patch().is_some());
    let found = patched.filter_map(|operation| {
        let table = tables.live(&operation.operation.table).ok()?;
        let key = operation.key(table)?.as_ref().ok()?;
        table
            .is_in_memory(key, true)
            .then(|| ((table.id(), key.clone()), table.document(key, &draft.rows).cloned()))
    });
    found.collect()
}

impl Collector<'_> {
    /// Adds a row if it is neither in memory nor read already.
    fn add(&mut self, table: &AdmittedTable, key: &Key, with_document: bool) {
        let layers = table.layers();
        if layers.end() == 0 || table.is_in_memory(key, with_document) {
            return;
        }
        if self.draft.rows.has(table.id(), key, layers, with_document) {
            return;
        }
        match self.listed.get(&(table.id(), key.clone())) {
            Some(at) => {
                if let Some(row) = self.missing.rows.get_mut(*at)
                    && with_document
                    && !row.with_document
                {
                    row.with_document = true;
                    row.known = self.draft.rows.known(table.id(), key, true);
                }
            }
            None => {
                self.listed.insert((table.id(), key.clone()), self.missing.rows.len());
                let known = self.draft.rows.known(table.id(), key, with_document);
                let (table, layers, key) = (table.id(), Arc::clone(layers), key.clone());
                self.missing.rows.push(RowToRead { table, layers, key, known, with_document });
            }
        }
    }
}

impl MissingWork {
    /// Whether this takes so little that a thread which serves the network may do it.
    pub(crate) fn is_short(&self, draft: &Draft) -> bool {
        !self.tables.is_empty() && self.rows.is_empty() && self.changes.is_empty() && draft.is_short()
    }

    /// Whether it compares changes with conditions, which can take much longer than the size of the request says.
    pub(crate) fn has_conditions(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Does it. Blocks. Errors of reads are kept for admission, which reports them where they belong.
    pub(crate) fn run(self, draft: &mut Draft) -> Result<()> {
        draft.find_keys(&self.tables);
        self.changes.into_iter().for_each(|changes| changes.run(&mut draft.conditions.boundaries));
        for (row, found) in read_all(self.rows) {
            draft.rows.insert(row, found);
        }
        if self.tables.is_empty() { draft.merge_patches(&self.in_memory) } else { Ok(()) }
    }
}

/// Reads rows: several at a time, if there are many.
fn read_all(rows: Vec<RowToRead>) -> Vec<(RowToRead, Result<Option<CurrentRow>>)> {
    let mut found: Vec<Option<Result<Option<CurrentRow>>>> = rows.iter().map(|_| None).collect();
    let read = |rows: &[RowToRead], found: &mut [Option<Result<Option<CurrentRow>>>]| {
        for (row, found) in rows.iter().zip(found) {
            *found = Some(row.read());
        }
    };
    // The number of rows is checked first, because `available_parallelism` reads files on Linux.
    let threads = match rows.len() {
        ..ROWS_WORTH_THREADS => 1,
        _ => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    if threads > 1 {
        let share = rows.len().div_ceil(threads);
        std::thread::scope(|scope| {
            for (rows, found) in rows.chunks(share).zip(found.chunks_mut(share)) {
                // If a thread cannot be started, its share is read below.
                let _ = std::thread::Builder::new().spawn_scoped(scope, || read(rows, found));
            }
        });
    }
    rows.into_iter()
        .zip(found)
        .map(|(row, found)| {
            let found = found.unwrap_or_else(|| row.read());
            (row, found)
        })
        .collect()
}
