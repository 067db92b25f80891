//! A plain in-memory model of a database, to compare answers with.

use std::collections::BTreeMap;

use serde_json::Value;

/// One table's rows.
pub type Rows = BTreeMap<String, Value>;

/// A change of one row.
#[derive(Debug, Clone)]
pub enum Op {
    Insert(String, Value),
    Put(String, Value),
    Patch(String, Value),
    Delete(String),
}

/// One event of a row: the commit, and the kind as driftctl names it.
pub type DriftEntry = (u64, &'static str);

/// Keeps the whole state after every commit: slow, but obviously correct.
#[derive(Debug, Clone, Default)]
pub struct Model {
    states: Vec<BTreeMap<String, Rows>>,
    drift: BTreeMap<(String, String), Vec<DriftEntry>>,
}

impl Model {
    pub fn new() -> Model {
        Model { states: vec![BTreeMap::new()], drift: BTreeMap::new() }
    }

    /// The newest commit.
    pub fn seq(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn create(&mut self, table: &str) {
        let mut next = self.states.last().unwrap().clone();
        next.insert(table.to_owned(), Rows::new());
        self.states.push(next);
    }

    /// Applies a commit. Returns false, and applies nothing, if an operation cannot be applied.
    pub fn apply(&mut self, ops: &[(String, Op)]) -> bool {
        let mut next = self.states.last().unwrap().clone();
        let seq = self.states.len() as u64;
        let mut events = Vec::new();
        for (table, op) in ops {
            let rows = next.get_mut(table).unwrap();
            let (key, kind) = match op {
                Op::Insert(key, _) if rows.contains_key(key) => return false,
                Op::Patch(key, _) | Op::Delete(key) if !rows.contains_key(key) => return false,
                Op::Insert(key, document) | Op::Put(key, document) => {
                    rows.insert(key.clone(), document.clone());
                    (key, "insert")
                }
                Op::Patch(key, patch) => {
                    merge(rows.get_mut(key).unwrap(), patch);
                    (key, "patch")
                }
                Op::Delete(key) => {
                    rows.remove(key);
                    (key, "soft_delete")
                }
            };
            events.push(((table.clone(), key.clone()), (seq, kind)));
        }
        for (row, event) in events {
            self.drift.entry(row).or_default().push(event);
        }
        self.states.push(next);
        true
    }

    /// A table's rows after a commit; `None` if the table did not exist.
    pub fn at(&self, seq: u64, table: &str) -> Option<&Rows> {
        self.states[usize::try_from(seq).unwrap()].get(table)
    }

    /// The events of a row.
    pub fn drift(&self, table: &str, key: &str) -> Vec<DriftEntry> {
        self.drift.get(&(table.to_owned(), key.to_owned())).cloned().unwrap_or_default()
    }
}

/// Merges a patch into a document (RFC 7396).
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Default::default());
    }
    let target = target.as_object_mut().unwrap();
    for (name, change) in patch {
        if change.is_null() {
            target.remove(name);
        } else {
            merge(target.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}
