//! All tables in their newest admitted state, with an undo log back to the last durable one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::schema::Schema;
use driftdb_common::table::table_counts::TableCounts;

use crate::admission::name_index::NameIndex;
use crate::admission::recent_changes::{PriorRow, RecentChange, RecentChanges};
use crate::admission::table::{AdmittedTable, RowState};

/// Memory of an evicted row's state without its key's text.
const STATE_BYTES: usize = 192;

/// How to take back one change.
#[derive(Debug)]
enum UndoEntry {
    Row { table: u64, key: Key, prior: Option<RowState>, counts: TableCounts },
    Table { id: u64, prior: Option<Box<AdmittedTable>> },
    Schema { table: u64, prior: (Arc<Schema>, u64), counts: TableCounts },
}

/// A position in the undo log: the number of changes made since the writer started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct UndoMark(u64);

/// Discarded undo entries: earlier states of rows and tables.
#[derive(Debug)]
pub(crate) struct DiscardedUndo {
    _entries: Vec<UndoEntry>,
}

/// A table that cannot be read. Whoever names it gets the error; its events in the log are passed over.
#[derive(Debug)]
pub(crate) struct UnusableTable {
    /// Its name, as far as its manifest and the log after its layers tell.
    pub(crate) name: String,
    /// The name of its directory.
    pub(crate) directory: String,
    pub(crate) error: Error,
}

/// All tables, including dropped ones.
#[derive(Debug, Default)]
pub(crate) struct AdmittedTables {
    by_id: HashMap<u64, AdmittedTable>,
    names: NameIndex,
    /// Names that tables had until a RENAME, each with the commit and the table of the last one. A RENAME that is taken back leaves its
    /// name here: conditions then count as broken once too often.
    former_names: HashMap<String, (u64, u64)>,
    /// By id: tables whose layers are damaged beyond what the log can replace.
    unusable: HashMap<u64, UnusableTable>,
    /// The bytes of the documents that all tables have in memory.
    row_bytes: u64,
    /// The rows whose content was evicted, oldest first: the table's id, the key, and the row's last commit.
    evicted: VecDeque<(u64, Key, u64)>,
    /// About the bytes that their states take in memory.
    evicted_bytes: usize,
    undo: VecDeque<UndoEntry>,
    /// The number of changes whose undo entries are discarded.
    undo_discarded: u64,
    recent: RecentChanges,
}

impl AdmittedTables {
    /// The newest changes of rows.
    pub(crate) fn recent(&self) -> &RecentChanges {
        &self.recent
    }

    /// The newest changes of rows.
    pub(crate) fn recent_mut(&mut self) -> &mut RecentChanges {
        &mut self.recent
    }

    /// The number of tables, including dropped ones.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len() + self.unusable.len()
    }

    /// Every table, including dropped ones, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &AdmittedTable> {
        self.by_id.values()
    }

    /// A table that is not dropped, by its name.
    pub(crate) fn live(&self, name: &str) -> Result<&AdmittedTable> {
        if let Some(found) = self.names.live(name).and_then(|id| self.by_id.get(&id)) {
            return Ok(found);
        }
        self.check_usable(name)?;
        Err(unknown_table(name))
    }

    /// The schemas of the tables that are not dropped.
    pub(crate) fn live_schemas(&self) -> Vec<Arc<Schema>> {
        self.iter().filter(|table| table.is_live()).map(|table| Arc::clone(table.schema())).collect()
    }

    /// The tables with a name in any case, or whose last name it was, in no order.
    pub(crate) fn of_name_in_any_case(&self, name: &str) -> impl Iterator<Item = &AdmittedTable> {
        self.names.in_any_case(name).iter().filter_map(|id| self.by_id.get(id))
    }

    /// The table that was dropped last under a name.
    pub(crate) fn last_dropped(&self, name: &str) -> Option<&AdmittedTable> {
        let of_name = self.of_name_in_any_case(name).filter(|table| table.schema().table == name);
        of_name.filter(|table| !table.is_live()).max_by_key(|table| table.dropped_seq())
    }

    /// A table by its id, or `None` if no table has it.
    pub(crate) fn by_id(&self, id: u64) -> Option<&AdmittedTable> {
        self.by_id.get(&id)
    }

    /// A table by its id. Fails with CORRUPT: an event in the log names a table that the log did not create.
    pub(crate) fn by_id_mut(&mut self, id: u64) -> Result<&mut AdmittedTable> {
        self.by_id.get_mut(&id).ok_or_else(|| {
            Error::new(Reason::Corrupt, format!("the log has an event of table {id} before its CREATE"))
        })
    }

    /// Fails if the table with this name, in any case, cannot be used.
    pub(crate) fn check_usable(&self, name: &str) -> Result<()> {
        let mut unusable = self.unusable.values().filter(|table| table.name.eq_ignore_ascii_case(name));
        unusable.next().map_or(Ok(()), |table| Err(table.error.clone()))
    }

    /// The tables that cannot be used, with their ids.
    pub(crate) fn unusable(&self) -> impl Iterator<Item = (&u64, &UnusableTable)> {
        self.unusable.iter()
    }

    /// Whether the table with this id cannot be used.
    pub(crate) fn is_unusable(&self, id: u64) -> bool {
        self.unusable.contains_key(&id)
    }

    /// Adds a table that cannot be used.
    pub(crate) fn add_unusable(&mut self, id: u64, table: UnusableTable) {
        self.unusable.insert(id, table);
    }

    /// Notes that a table that cannot be used has another name.
    pub(crate) fn rename_unusable(&mut self, id: u64, name: &str) {
        if let Some(table) = self.unusable.get_mut(&id) {
            name.clone_into(&mut table.name);
        }
    }

    /// Whether a table has a directory of this name, in any case.
    pub(crate) fn has_directory(&self, name: &str) -> bool {
        let unusable = self.unusable.values().map(|table| table.directory.as_str());
        self.iter()
            .map(AdmittedTable::directory)
            .chain(unusable)
            .any(|taken| taken.eq_ignore_ascii_case(name))
    }

    /// Looks again which tables have which names. While the log is replayed, tables are as their snapshots left them, so that two can
    /// have one name.
    pub(crate) fn index_names(&mut self) {
        self.names = NameIndex::default();
        for (id, table) in &self.by_id {
            self.names.add(&table.schema().table, *id, table.is_live());
        }
        let successors: Vec<u64> =
            self.iter().filter(|table| self.had_another(table)).map(AdmittedTable::id).collect();
        for id in successors {
            if let Some(table) = self.by_id.get_mut(&id) {
                table.succeed_another();
            }
        }
    }

    /// Notes that a table had a name until the RENAME of a commit.
    pub(crate) fn add_former_name(&mut self, name: String, seq: u64, id: u64) {
        let last = self.former_names.entry(name).or_default();
        *last = (*last).max((seq, id));
    }

    /// The name that a table has now that had another name until a RENAME, if the table is not dropped.
    pub(crate) fn renamed_to(&self, former: &str) -> Option<&str> {
        let (_, id) = self.former_names.get(former)?;
        let table = self.by_id.get(id).filter(|table| table.is_live())?;
        Some(table.schema().table.as_str()).filter(|name| *name != former)
    }

    /// Whether another table may have had a table's name before the table was created.
    fn had_another(&self, table: &AdmittedTable) -> bool {
        let name = &table.schema().table;
        let mut others = self.of_name_in_any_case(name).filter(|other| other.id() != table.id());
        self.former_names.contains_key(name)
            || others.any(|other| other.schema().table == *name && !other.is_live())
    }

    /// Adds a table that was read from its snapshot files. No undo entry is kept: the table is durable.
    pub(crate) fn add_durable(&mut self, table: AdmittedTable) {
        self.replace(table);
    }

    /// Puts a table in the place of the one with its id, which is returned.
    fn replace(&mut self, table: AdmittedTable) -> Option<AdmittedTable> {
        let (id, is_live) = (table.id(), table.is_live());
        let prior = self.remove(id);
        self.names.add(&table.schema().table, id, is_live);
        self.by_id.insert(id, table);
        prior
    }

    fn remove(&mut self, id: u64) -> Option<AdmittedTable> {
        let prior = self.by_id.remove(&id)?;
        self.names.remove(&prior.schema().table, id);
        Some(prior)
    }

    /// Replaces a table's snapshot files by newer ones. After that, rows that the files hold may be evicted.
    pub(crate) fn set_layers(&mut self, id: u64, layers: &Arc<LayerMap>) {
        if let Ok(table) = self.by_id_mut(id) {
            table.set_layers(layers);
        }
        for undo in &mut self.undo {
            // If a DROP or CREATE is taken back, the table before it must read from the newer files too.
            if let UndoEntry::Table { prior: Some(prior), .. } = undo
                && prior.id() == id
            {
                prior.set_layers(layers);
            }
        }
    }

    /// The bytes of the documents that all tables have in memory.
    pub(crate) fn row_bytes(&self) -> u64 {
        self.row_bytes
    }

    /// Counts those bytes again, after rows were evicted or taken back.
    pub(crate) fn recount_row_bytes(&mut self) {
        self.row_bytes = self.by_id.values().map(AdmittedTable::row_bytes).sum();
    }

    /// Gives up the content of rows whose last state the snapshot files hold. What else is known of them stays in memory, up to
    /// [`limits::ROW_STATES_BYTES`] for all tables together. Returns the contents, which the caller should drop after the lock.
    pub(crate) fn evict(&mut self, id: u64, keys: &[Key]) -> Vec<Document> {
        let mut contents = Vec::with_capacity(keys.len());
        let Ok(table) = self.by_id_mut(id) else { return contents };
        let mut evicted = Vec::with_capacity(keys.len());
        for key in keys {
            if let Some((seq, content)) = table.evict(key) {
                contents.extend(content);
                evicted.push((id, key.clone(), seq));
            }
        }
        self.evicted_bytes += evicted.iter().map(|(_, key, _)| state_bytes(key)).sum::<usize>();
        self.evicted.extend(evicted);
        while self.evicted_bytes > limits::ROW_STATES_BYTES
            && let Some((id, key, seq)) = self.evicted.pop_front()
        {
            self.evicted_bytes = self.evicted_bytes.saturating_sub(state_bytes(&key));
            if let Ok(table) = self.by_id_mut(id) {
                table.forget(&key, seq);
            }
        }
        self.recount_row_bytes();
        contents
    }

    /// Changes a row. `was_live` says whether the row was live, which the caller has looked up.
    pub(crate) fn change_row(&mut self, name: &str, key: Key, row: RowState, was_live: bool) {
        let id = self.names.live(name);
        let Some(table) = id.and_then(|id| self.by_id.get_mut(&id)) else { return };
        let counts = table.counts();
        let seq = row.seq;
        let row_bytes = table.row_bytes();
        let (id, changed_key, after) = (table.id(), key.clone(), row.document.clone());
        let prior = table.set_row(key.clone(), row, was_live);
        self.row_bytes = (self.row_bytes + table.row_bytes()).saturating_sub(row_bytes);
        table.count_event(seq);
        let before = match &prior {
            _ if !was_live => PriorRow::Absent,
            Some(RowState { document: Some(before), .. }) => PriorRow::Content(before.clone()),
            _ => PriorRow::InFiles,
        };
        self.recent.push(RecentChange { seq, table: id, key: changed_key, before, after });
        self.undo.push_back(UndoEntry::Row { table: id, key, prior, counts });
    }

    /// Creates a table, or creates the one with its id again.
    pub(crate) fn create(&mut self, table: AdmittedTable) {
        let id = table.id();
        let mut table = match self.by_id.get(&id) {
            Some(past) => table.continuing(past),
            None => table,
        };
        if self.had_another(&table) {
            table.succeed_another();
        }
        table.count_schema_event(table.created_seq());
        let prior = self.replace(table).map(Box::new);
        self.undo.push_back(UndoEntry::Table { id, prior });
    }

    /// Replaces a table's schema, and with it perhaps its name.
    pub(crate) fn alter(&mut self, id: u64, schema: Schema, seq: u64) -> Result<()> {
        let table = self.by_id_mut(id)?;
        let counts = table.counts();
        table.count_schema_event(seq);
        let former = table.schema().table.clone();
        let mut named_seq = table.named_seq();
        if former != schema.table {
            named_seq = seq;
            self.add_former_name(former, seq, id);
        }
        let prior = self.set_schema(id, Arc::new(schema), named_seq);
        self.undo.extend(prior.map(|prior| UndoEntry::Schema { table: id, prior, counts }));
        Ok(())
    }

    /// Sets a table's schema and when it got its name, and returns those before.
    fn set_schema(&mut self, id: u64, schema: Arc<Schema>, named_seq: u64) -> Option<(Arc<Schema>, u64)> {
        let table = self.by_id.get_mut(&id)?;
        self.names.remove(&table.schema().table, id);
        self.names.add(&schema.table, id, table.is_live());
        Some(table.set_schema(schema, named_seq))
    }

    /// Drops a table. Its history stays readable.
    pub(crate) fn drop_table(&mut self, id: u64, seq: u64) -> Result<()> {
        let mut dropped = self.by_id_mut(id)?.after_drop(seq);
        dropped.count_schema_event(seq);
        let prior = self.replace(dropped).map(Box::new);
        self.recount_row_bytes();
        self.undo.push_back(UndoEntry::Table { id, prior });
        Ok(())
    }

    /// The end of the undo log.
    pub(crate) fn undo_mark(&self) -> UndoMark {
        UndoMark(self.undo_discarded + self.undo.len() as u64)
    }

    /// Takes back every change made after `mark`, newest first, as far as the undo log reaches.
    pub(crate) fn undo_to(&mut self, mark: UndoMark) {
        while self.undo_mark() > mark {
            match self.undo.pop_back() {
                Some(UndoEntry::Row { table, key, prior, counts }) => {
                    self.recent.pop();
                    let Some(table) = self.by_id.get_mut(&table) else { continue };
                    table.restore_row(key, prior);
                    table.set_counts(counts);
                }
                Some(UndoEntry::Schema { table: id, prior: (schema, named_seq), counts }) => {
                    self.set_schema(id, schema, named_seq);
                    let Some(table) = self.by_id.get_mut(&id) else { continue };
                    table.uncount_schema_event(counts);
                }
                Some(UndoEntry::Table { prior: Some(prior), .. }) => _ = self.replace(*prior),
                Some(UndoEntry::Table { id, prior: None }) => _ = self.remove(id),
                None => break,
            }
        }
        self.recount_row_bytes();
    }

    /// Discards the undo entries before `mark`: those changes are durable.
    pub(crate) fn discard_undo_before(&mut self, mark: UndoMark) -> DiscardedUndo {
        let count = mark.0.saturating_sub(self.undo_discarded);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.undo.len());
        self.undo_discarded += count as u64;
        DiscardedUndo { _entries: self.undo.drain(..count).collect() }
    }
}

/// About the bytes that the state of an evicted row takes: its entries in the table's rows and among the evicted ones.
fn state_bytes(key: &Key) -> usize {
    STATE_BYTES + 2 * key.bytes()
}

/// The error for a table that does not exist. It suggests no name: to compare it with all names takes long, and is left to the
/// caller, after the lock.
fn unknown_table(name: &str) -> Error {
    Error::unknown_table(name, [])
}

#[cfg(test)]
mod tests {
    use driftdb_common::format::key::KeyType;
    use driftdb_common::format::manifest::{DeltaLayer, LogPosition, Manifest};
    use driftdb_common::format::snapshot::{DeltaProperties, kind};
    use driftdb_common::format::sst::SstIdentity;
    use driftdb_common::storage::fs::sim::SimDisk;
    use driftdb_common::storage::layout::DataDir;
    use driftdb_common::storage::sst::{BlockCache, write_file};
    use driftdb_common::table::table_files::TableFiles;

    use super::*;
    use crate::admission::read_rows::ReadRows;

    fn schema(indexes: &[&str]) -> Schema {
        let indexes = indexes.iter().map(|path| (*path).to_owned()).collect();
        let (table, primary_key) = ("t".to_owned(), "id".to_owned());
        Schema { table, primary_key, key_type: KeyType::String, indexes, retain_ms: None, auto_key: false }
    }

    fn renamed() -> Schema {
        Schema { table: "u".to_owned(), ..schema(&[]) }
    }

    fn row(seq: u64, json: &str) -> RowState {
        RowState::new(seq, Some(Document::from_json(json).unwrap()))
    }

    /// Everything that a rollback must restore.
    fn content(tables: &AdmittedTables) -> String {
        let table = tables.of_name_in_any_case("T").next().map(|table| {
            let row = table.row(&Key::Str("a".into()), &ReadRows::default()).unwrap();
            (table.is_live(), table.schema().clone(), table.counts(), row.map(|row| (row.seq, row.document)))
        });
        let live =
            ["t", "u"].map(|name| tables.live(name).ok().map(|table| (table.id(), table.never_had_row())));
        let known = (tables.len(), tables.by_id(1).is_some(), tables.row_bytes());
        format!("{known:?} {table:?} {live:?} {}", tables.has_directory("t.8"))
    }

    #[test]
    fn undo_returns_to_the_state_at_every_mark() {
        let mut tables = AdmittedTables::default();
        let mut states = vec![(tables.undo_mark(), content(&tables))];
        let key = || Key::Str("a".into());
        let changes: [&dyn Fn(&mut AdmittedTables); 8] = [
            &|tables| tables.create(AdmittedTable::new(1, 1, schema(&[]))),
            &|tables| tables.change_row("t", key(), row(2, r#"{"id":"a"}"#), false),
            &|tables| tables.change_row("t", key(), row(3, r#"{"id":"a","n":1}"#), true),
            &|tables| tables.alter(1, schema(&["n"]), 4).unwrap(),
            &|tables| tables.drop_table(1, 5).unwrap(),
            &|tables| tables.create(AdmittedTable::new(1, 6, schema(&[]))),
            &|tables| tables.alter(1, renamed(), 7).unwrap(),
            &|tables| tables.create(AdmittedTable::new(8, 8, schema(&["m"])).in_directory("t.8".to_owned())),
        ];
        for change in changes {
            change(&mut tables);
            states.push((tables.undo_mark(), content(&tables)));
        }
        for (mark, state) in states.iter().rev() {
            tables.undo_to(*mark);
            assert_eq!(content(&tables), *state);
        }
    }

    /// Layers of table 1 that end at a commit. They hold nothing: the tests ask only where they end.
    fn layers_up_to(seq: u64) -> LayerMap {
        let (fs, dir) = (SimDisk::new().shared(), DataDir::new("/data"));
        let files = TableFiles { fs, dir, cache: BlockCache::new(0) };
        let identity = SstIdentity { table: 1, base: 0, seq, kind: kind::DELTA };
        let path = files.dir.delta_layer("t", 0, seq);
        files.fs.create_dir(path.parent().unwrap()).unwrap();
        write_file(&*files.fs, &path, identity, |_| Ok(DeltaProperties::default().encode())).unwrap();
        let (indexes, position) = (Vec::new(), LogPosition::default());
        let delta = DeltaLayer { base: 0, seq, bytes: 0, events: 0, indexes, position };
        let manifest = Manifest {
            table: "t".to_owned(),
            name: None,
            table_id: 1,
            version: 1,
            term: 1,
            published: seq,
            published_ms: 0,
            floor: None,
            deltas: vec![delta],
            images: Vec::new(),
            segments: Vec::new(),
        };
        files.open(&manifest, None).unwrap()
    }

    /// A table with live rows a and b and a deleted row c, which snapshot files hold, and their keys.
    fn evicted() -> (AdmittedTables, [Key; 3]) {
        let mut tables = AdmittedTables::default();
        let layers = layers_up_to(4);
        tables.create(AdmittedTable::new(1, 1, schema(&[])));
        let keys = ["a", "b", "c"].map(|key| Key::Str(key.into()));
        tables.change_row("t", keys[0].clone(), row(2, r#"{"id":"a"}"#), false);
        tables.change_row("t", keys[1].clone(), row(3, r#"{"id":"b"}"#), false);
        tables.change_row("t", keys[2].clone(), RowState::new(4, None), true);
        drop(tables.discard_undo_before(tables.undo_mark()));
        tables.set_layers(1, &Arc::new(layers));
        assert_eq!(tables.evict(1, &keys).len(), 2);
        (tables, keys)
    }

    #[test]
    fn an_evicted_row_is_known_without_its_content() {
        let (tables, [a, _, c]) = evicted();
        let table = tables.live("t").unwrap();
        let row = table.row(&a, &ReadRows::default()).unwrap().unwrap();
        assert_eq!((row.seq, row.is_live, row.document), (2, true, None));
        // A patch must read the row, and a delete or a put need not.
        assert!(!table.is_in_memory(&a, true) && table.is_in_memory(&a, false));
        assert!(!table.is_in_memory(&c, false));
    }

    #[test]
    fn a_row_that_changes_after_its_eviction_is_not_forgotten() {
        let (mut tables, [a, b, _]) = evicted();
        tables.change_row("t", a.clone(), row(5, r#"{"id":"a"}"#), true);
        tables.evicted_bytes += limits::ROW_STATES_BYTES;
        assert!(tables.evict(1, &[]).is_empty());
        let table = tables.live("t").unwrap();
        assert!(table.is_in_memory(&a, true) && !table.is_in_memory(&b, false));
    }

    #[test]
    fn undo_stops_at_what_is_durable() {
        let mut tables = AdmittedTables::default();
        tables.create(AdmittedTable::new(1, 1, schema(&[])));
        drop(tables.discard_undo_before(tables.undo_mark()));
        let durable = content(&tables);
        tables.change_row("t", Key::Str("a".into()), row(2, r#"{"id":"a"}"#), false);
        tables.undo_to(UndoMark::default());
        assert_eq!(content(&tables), durable);
    }
}
