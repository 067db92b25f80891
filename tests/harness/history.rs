//! The acknowledged history: every commit with its changes, and the row before and after each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use driftdb::v1;
use serde_json::{Value, json};

use super::model::merge;
use super::{delete, insert, patch, put};

/// The seq of a commit that is not acknowledged yet.
const PENDING: u64 = u64::MAX;

/// A row after one of its changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub seq: u64,
    pub time_ms: i64,
    pub document: Arc<Value>,
}

/// One change.
#[derive(Debug, Clone)]
pub struct RowChange {
    pub table: Arc<str>,
    /// Empty for a schema change.
    pub key: String,
    /// The key with its type in documents.
    pub id: Value,
    pub kind: v1::ChangeKind,
    pub payload: Option<Arc<Value>>,
    pub before: Option<Version>,
    pub after: Option<Version>,
}

/// One commit. Its changes are in the order in which a watch sends them: by table, then in the order of the operations.
#[derive(Debug, Clone)]
pub struct Committed {
    pub seq: u64,
    pub time_ms: i64,
    pub reason: String,
    pub changes: Vec<RowChange>,
}

/// Milliseconds since 1970.
pub fn millis(time: Option<&prost_types::Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds * 1000 + i64::from(time.nanos / 1_000_000))
}

/// A time in milliseconds since 1970.
pub fn timestamp(ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).unwrap();
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos }
}

/// All acknowledged commits.
#[derive(Debug, Default)]
pub struct History {
    commits: BTreeMap<u64, Arc<Committed>>,
    /// All commits up to this one are known.
    complete: u64,
    /// The commit that first created each table.
    born: BTreeMap<Arc<str>, u64>,
}

impl History {
    /// Adds an acknowledged commit. Commits of several writers may be added in any order.
    pub fn add(&mut self, mut commit: Committed) {
        for change in commit.changes.iter().filter(|change| change.kind == v1::ChangeKind::Schema) {
            self.born.entry(change.table.clone()).or_insert(commit.seq);
        }
        commit.changes.sort_by_key(|change| self.born[&change.table]);
        let seq = commit.seq;
        let twice = self.commits.insert(seq, Arc::new(commit));
        assert!(twice.is_none(), "commit {seq} was acknowledged twice");
        while self.commits.contains_key(&(self.complete + 1)) {
            self.complete += 1;
        }
    }

    /// All commits up to this one are known.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    /// The commits from `after` (exclusive) to `upto` (inclusive).
    pub fn between(&self, after: u64, upto: u64) -> impl Iterator<Item = &Arc<Committed>> {
        assert!(upto <= self.complete, "commit {upto} was shown and not acknowledged");
        self.commits.range(after + 1..upto.max(after) + 1).map(|(_, commit)| commit)
    }

    pub fn commit(&self, seq: u64) -> Option<&Arc<Committed>> {
        self.commits.get(&seq)
    }

    /// The last commit at or before a time.
    pub fn seq_at(&self, time_ms: i64) -> u64 {
        self.commits.values().take_while(|commit| commit.time_ms <= time_ms).last().map_or(0, |c| c.seq)
    }

    /// All rows after a commit, by table and key, each with its typed key.
    pub fn rows(&self, seq: u64) -> BTreeMap<(Arc<str>, String), (Value, Version)> {
        let mut rows = BTreeMap::new();
        for change in self.between(0, seq).flat_map(|commit| &commit.changes) {
            if change.kind == v1::ChangeKind::Schema {
                if change.payload.as_ref().is_some_and(|schema| schema["action"] != "alter") {
                    rows.retain(|(table, _), _| *table != change.table);
                }
                continue;
            }
            let row = (change.table.clone(), change.key.clone());
            match &change.after {
                Some(version) => _ = rows.insert(row, (change.id.clone(), version.clone())),
                None => _ = rows.remove(&row),
            }
        }
        rows
    }
}

#[derive(Debug, Default)]
struct Table {
    int: bool,
    live: bool,
    indexes: Vec<String>,
    rows: BTreeMap<String, Version>,
}

/// Tables that only one writer writes: makes operations, and knows their effects.
#[derive(Debug, Default)]
pub struct TableOwner {
    tables: BTreeMap<Arc<str>, Table>,
    pending: Vec<RowChange>,
}

impl TableOwner {
    pub fn is_live(&self, table: &str) -> bool {
        self.tables.get(table).is_some_and(|table| table.live)
    }

    pub fn has(&self, table: &str, key: &str) -> bool {
        self.tables[table].rows.contains_key(key)
    }

    /// The key of a row with its type in documents.
    fn id(&self, table: &str, key: &str) -> Value {
        if self.tables[table].int { key.parse::<i64>().unwrap().into() } else { key.into() }
    }

    fn happened(
        &mut self,
        table: &str,
        key: &str,
        kind: v1::ChangeKind,
        payload: Option<Value>,
        after: Option<Value>,
    ) {
        let id = self.id(table, key);
        let (name, _) = self.tables.get_key_value(table).unwrap();
        let name = name.clone();
        let rows = &mut self.tables.get_mut(table).unwrap().rows;
        let version = |document| Version { seq: PENDING, time_ms: 0, document: Arc::new(document) };
        let after = after.map(version);
        let before = match &after {
            Some(version) => rows.insert(key.to_owned(), version.clone()),
            None => rows.remove(key),
        };
        let payload = payload.map(Arc::new);
        self.pending.push(RowChange { table: name, key: key.to_owned(), id, kind, payload, before, after });
    }

    /// Writes a whole row; the row's key becomes the field `id`.
    pub fn put(&mut self, table: &str, key: &str, mut fields: Value) -> v1::Operation {
        fields["id"] = self.id(table, key);
        let is_new = !self.has(table, key);
        let text = fields.to_string();
        self.happened(table, key, v1::ChangeKind::Insert, Some(fields.clone()), Some(fields));
        // Uses INSERT for half of the new rows.
        if is_new && text.len().is_multiple_of(2) { insert(table, text) } else { put(table, text) }
    }

    /// Merges a patch into a live row.
    pub fn patch(&mut self, table: &str, key: &str, change: Value) -> v1::Operation {
        let mut row = (*self.tables[table].rows[key].document).clone();
        merge(&mut row, &change);
        let text = change.to_string();
        self.happened(table, key, v1::ChangeKind::Patch, Some(change), Some(row));
        patch(table, key, text)
    }

    /// Deletes a live row.
    pub fn delete(&mut self, table: &str, key: &str) -> v1::Operation {
        self.happened(table, key, v1::ChangeKind::SoftDelete, None, None);
        delete(table, key)
    }

    fn schema(&mut self, name: Arc<str>, action: &str) {
        let table = &self.tables[&name];
        let key_type = if table.int { "INT" } else { "STRING" };
        let payload = json!({"action": action, "table": *name, "primary_key": "id", "key_type": key_type,
            "indexes": table.indexes});
        self.pending.push(RowChange {
            table: name,
            key: String::new(),
            id: Value::Null,
            kind: v1::ChangeKind::Schema,
            payload: Some(Arc::new(payload)),
            before: None,
            after: None,
        });
    }

    pub fn create(&mut self, name: &str, int: bool) -> v1::CreateTableRequest {
        let name: Arc<str> = name.into();
        let table = Table { int, live: true, ..Table::default() };
        self.tables.insert(name.clone(), table);
        self.schema(name.clone(), "create");
        let key_type = if int { v1::KeyType::Int } else { v1::KeyType::String };
        v1::CreateTableRequest {
            table: name.to_string(),
            primary_key: "id".into(),
            key_type: key_type.into(),
            ..Default::default()
        }
    }

    pub fn index(&mut self, name: &str, path: &str) -> v1::AlterTableRequest {
        self.tables.get_mut(name).unwrap().indexes.push(path.into());
        self.schema(name.into(), "alter");
        v1::AlterTableRequest { table: name.into(), add_indexes: vec![path.into()], ..Default::default() }
    }

    pub fn drop_table(&mut self, name: &str) -> v1::DropTableRequest {
        let table = self.tables.get_mut(name).unwrap();
        table.live = false;
        table.rows.clear();
        self.schema(name.into(), "drop");
        v1::DropTableRequest { table: name.into(), options: None }
    }

    /// Turns the operations since the last call into one acknowledged commit.
    pub fn acknowledged(&mut self, token: &v1::WriteToken, reason: &str) -> Committed {
        let (seq, time_ms) = (token.seq, millis(token.time.as_ref()));
        let settle = |version: &mut Version| {
            if version.seq == PENDING {
                (version.seq, version.time_ms) = (seq, time_ms);
            }
        };
        let mut changes = std::mem::take(&mut self.pending);
        for change in &mut changes {
            change.before.iter_mut().chain(&mut change.after).for_each(settle);
            if let Some(version) = self.tables.get_mut(&change.table).unwrap().rows.get_mut(&change.key) {
                settle(version);
            }
        }
        Committed { seq, time_ms, reason: reason.into(), changes }
    }
}
