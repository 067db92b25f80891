//! The newest state of the tables: rows changed since their snapshots in memory, the others in files; and how to go back
//! from changes that did not reach the disk.

use std::collections::HashMap;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::schema::Schema;

/// A row as its last change left it.
#[derive(Debug, Clone)]
pub struct RowState {
    /// The commit that last changed it.
    pub seq: u64,
    /// Its content; `None` once deleted. The key is kept, for preconditions.
    pub document: Option<Document>,
}

/// A table's figures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Live rows.
    pub rows: u64,
    /// Events since its creation.
    pub events: u64,
    /// The last commit with an event in it.
    pub last_seq: u64,
}

/// A table's newest state.
#[derive(Debug)]
pub struct Table {
    id: u64,
    created_seq: u64,
    schema: Schema,
    dropped: bool,
    /// Rows that were changed after the chain's end, and perhaps some before.
    rows: HashMap<Key, RowState>,
    chain: Arc<LayerMap>,
    figures: Figures,
}

impl Table {
    /// An empty table; `seq` is the commit of its CREATE.
    pub fn new(id: u64, seq: u64, schema: Schema) -> Table {
        Table {
            id,
            created_seq: seq,
            schema,
            dropped: false,
            rows: HashMap::new(),
            chain: Arc::default(),
            figures: Figures::default(),
        }
    }

    /// A table as its snapshots have it.
    pub fn in_files(self, chain: LayerMap, dropped: bool) -> Table {
        let counts = chain.counts();
        let figures = Figures { rows: counts.rows, events: counts.events, last_seq: counts.last_seq };
        Table { chain: Arc::new(chain), dropped, figures, ..self }
    }

    /// Its past in files.
    pub fn chain(&self) -> &Arc<LayerMap> {
        &self.chain
    }

    /// Whether what is known of a row is in memory.
    pub fn has_in_memory(&self, key: &Key) -> bool {
        self.rows.contains_key(key)
    }

    /// Lets go of rows that the chain holds as they are.
    pub fn forget(&mut self, keys: &[Key]) {
        let end = self.chain.end();
        for key in keys {
            if self.rows.get(key).is_some_and(|row| row.seq <= end) {
                self.rows.remove(key);
            }
        }
    }

    /// Its id: the seq that first created it.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The commit of its last CREATE.
    pub fn created_seq(&self) -> u64 {
        self.created_seq
    }

    /// The commit that made it anew after a drop; 0 where none did.
    pub fn reborn_seq(&self) -> u64 {
        if self.created_seq > self.id { self.created_seq } else { 0 }
    }

    /// Its schema; that of its last days where it has been dropped.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Whether it has not been dropped.
    pub fn is_live(&self) -> bool {
        !self.dropped
    }

    /// Its figures.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// A row's last state, deleted rows included, as far back as the floor allows.
    pub fn row(&self, key: &Key) -> Result<Option<RowState>> {
        if let Some(row) = self.rows.get(key) {
            return Ok(Some(row.clone()));
        }
        if self.chain.end() == 0 {
            return Ok(None);
        }
        // What was before the table's last CREATE is not this table's.
        let row = self.chain.last_change(key)?.filter(|row| row.seq >= self.created_seq);
        Ok(row.map(|row| RowState { seq: row.seq, document: row.document }))
    }

    /// A live row's content.
    pub fn live(&self, key: &Key) -> Result<Option<Document>> {
        Ok(self.row(key)?.and_then(|row| row.document))
    }

    /// Sets a row's state and returns the one before, where that was in memory; `was_live` says what the row was.
    pub fn set(&mut self, key: Key, row: RowState, was_live: bool) -> Option<RowState> {
        let is = u64::from(row.document.is_some());
        self.figures.rows = (self.figures.rows + is).saturating_sub(u64::from(was_live));
        self.rows.insert(key, row)
    }

    /// Counts an event.
    pub fn count_event(&mut self, seq: u64) {
        self.figures.events += 1;
        self.figures.last_seq = seq;
    }
}

/// One step back.
#[derive(Debug)]
enum Undo {
    Row { table: String, key: Key, prior: Option<RowState>, figures: Figures },
    Table { name: String, prior: Option<Box<Table>> },
    Schema { prior: Schema, figures: Figures },
}

/// How many changes had been made at some point, counted since the writer started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark(u64);

/// All tables, dropped ones too, and the way back to the last durable state.
#[derive(Debug, Default)]
pub struct Tables {
    by_name: HashMap<String, Table>,
    /// Names by id, and by name in lower case: names are unique whatever their case.
    names: HashMap<u64, String>,
    folded: HashMap<String, String>,
    undo: std::collections::VecDeque<Undo>,
    /// Changes whose undo has been forgotten.
    forgotten: u64,
}

impl Tables {
    /// How many there are, dropped ones too.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Every table, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Table> {
        self.by_name.values()
    }

    /// A table that has not been dropped.
    pub fn live(&self, name: &str) -> Result<&Table> {
        let found = self.by_name.get(name).filter(|table| table.is_live());
        found.ok_or_else(|| self.unknown(name))
    }

    /// A table by its name in any case.
    pub fn by_name_in_any_case(&self, name: &str) -> Option<&Table> {
        self.by_name.get(self.folded.get(&name.to_ascii_lowercase())?)
    }

    /// A table by its id.
    pub fn by_id_mut(&mut self, id: u64) -> Result<&mut Table> {
        let name = self.names.get(&id);
        let table = name.and_then(|name| self.by_name.get_mut(name));
        table.ok_or_else(|| Error::new(Reason::Corrupt, format!("an event of table {id} before its CREATE")))
    }

    fn unknown(&self, name: &str) -> Error {
        Error::unknown_table(
            name,
            self.iter().filter(|table| table.is_live()).map(|table| table.schema.table.as_str()),
        )
    }

    /// Puts in place a table that was found in files.
    pub fn found(&mut self, table: Table) {
        let name = table.schema.table.clone();
        self.names.insert(table.id, name.clone());
        self.folded.insert(name.to_ascii_lowercase(), name.clone());
        self.by_name.insert(name, table);
    }

    /// Newer files of a table. What they hold may be forgotten in memory.
    pub fn adopt(&mut self, id: u64, chain: &Arc<LayerMap>) {
        if let Ok(table) = self.by_id_mut(id) {
            table.chain = Arc::clone(chain);
        }
        for undo in &mut self.undo {
            // A table that a drop or a creation may be taken back to must find its rows, too.
            if let Undo::Table { prior: Some(prior), .. } = undo
                && prior.id == id
            {
                prior.chain = Arc::clone(chain);
            }
        }
    }

    /// Changes a row, remembering how to go back; `was_live` says what the row was.
    pub fn change(&mut self, name: &str, key: Key, row: RowState, was_live: bool) {
        let Some(table) = self.by_name.get_mut(name) else { return };
        let figures = table.figures;
        let seq = row.seq;
        let prior = table.set(key.clone(), row, was_live);
        table.count_event(seq);
        self.undo.push_back(Undo::Row { table: name.to_owned(), key, prior, figures });
    }

    /// Makes a table, or makes a dropped one anew, remembering how to go back.
    pub fn create(&mut self, mut table: Table) {
        let name = table.schema.table.clone();
        self.names.insert(table.id, name.clone());
        self.folded.insert(name.to_ascii_lowercase(), name.clone());
        if let Some(past) = self.by_name.get(&name) {
            table.chain = Arc::clone(&past.chain);
            table.figures = Figures { rows: 0, ..past.figures };
        }
        table.count_event(table.created_seq);
        let prior = self.by_name.insert(name.clone(), table).map(Box::new);
        self.undo.push_back(Undo::Table { name, prior });
    }

    /// Gives a table another schema, remembering how to go back.
    pub fn alter(&mut self, schema: Schema, seq: u64) -> Result<()> {
        let Some(table) = self.by_name.get_mut(&schema.table) else {
            return Err(self.unknown(&schema.table));
        };
        let figures = table.figures;
        table.count_event(seq);
        let prior = std::mem::replace(&mut table.schema, schema);
        self.undo.push_back(Undo::Schema { prior, figures });
        Ok(())
    }

    /// Drops a table, remembering how to go back.
    pub fn drop_table(&mut self, name: &str, seq: u64) -> Result<()> {
        let Some(prior) = self.by_name.remove(name) else { return Err(self.unknown(name)) };
        let mut dropped = Table {
            dropped: true,
            figures: Figures { rows: 0, ..prior.figures },
            chain: Arc::clone(&prior.chain),
            ..Table::new(prior.id, prior.created_seq, prior.schema.clone())
        };
        dropped.count_event(seq);
        self.by_name.insert(name.to_owned(), dropped);
        self.undo.push_back(Undo::Table { name: name.to_owned(), prior: Some(Box::new(prior)) });
        Ok(())
    }

    /// The point that the changes made so far end at.
    pub fn mark(&self) -> Mark {
        Mark(self.forgotten + self.undo.len() as u64)
    }

    /// Takes back every change made after a point, as far as that is remembered.
    pub fn undo_to(&mut self, mark: Mark) {
        while self.mark() > mark {
            match self.undo.pop_back() {
                Some(Undo::Row { table, key, prior, figures }) => {
                    let Some(table) = self.by_name.get_mut(&table) else { continue };
                    match prior {
                        Some(prior) => _ = table.rows.insert(key, prior),
                        None => _ = table.rows.remove(&key),
                    }
                    table.figures = figures;
                }
                Some(Undo::Schema { prior, figures }) => {
                    let Some(table) = self.by_name.get_mut(&prior.table) else { continue };
                    table.schema = prior;
                    table.figures = figures;
                }
                Some(Undo::Table { name, prior: Some(prior) }) => _ = self.by_name.insert(name, *prior),
                Some(Undo::Table { name, prior: None }) => {
                    if let Some(table) = self.by_name.remove(&name) {
                        self.names.remove(&table.id);
                        self.folded.remove(&name.to_ascii_lowercase());
                    }
                }
                None => return,
            }
        }
    }

    /// Forgets how to go back before a point.
    pub fn forget_undo_before(&mut self, mark: Mark) {
        let count = mark.0.saturating_sub(self.forgotten);
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(self.undo.len());
        self.undo.drain(..count);
        self.forgotten += count as u64;
    }
}
