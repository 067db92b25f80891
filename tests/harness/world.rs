//! A plain model of a whole database: rows, events, tables and commit times after every commit; and random commits for
//! it.

use std::collections::{BTreeMap, BTreeSet};

use driftdb::v1;
use serde_json::{Value, json};

use super::condition::Random;
use super::model::merge;
use super::{delete, insert, json as document, patch, put};

/// A row's key. Keys of both types sort as in the database.
pub type Key = (i64, String);

/// The tables, and whether their keys are INT.
pub const TABLES: [(&str, bool); 4] = [("a", false), ("b", true), ("c", false), ("wide", false)];
pub const KEYS: usize = 14;

#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub seq: u64,
    pub document: Value,
}

/// A table after a commit.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub id: u64,
    pub created: u64,
    pub live: bool,
    pub indexes: BTreeSet<String>,
    pub rows: BTreeMap<Key, Row>,
    /// The last change of every row since the table was created, deletions included.
    pub changed: BTreeMap<Key, u64>,
    pub events: u64,
    pub last_seq: u64,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub seq: u64,
    pub table: String,
    pub key: Option<Key>,
    pub kind: v1::ChangeKind,
    pub before: Option<Value>,
    pub after: Option<Value>,
    pub reason: String,
}

pub type Tables = BTreeMap<String, Table>;

/// Everything, after every commit.
#[derive(Debug, Clone)]
pub struct World {
    pub states: Vec<Tables>,
    pub events: Vec<Event>,
    /// The time of each commit, in milliseconds since 1970.
    pub times: Vec<i64>,
}

pub fn key_of(table: &str, number: usize) -> Key {
    let is_int = TABLES.iter().any(|(name, int)| *name == table && *int);
    let number = i64::try_from(number).unwrap();
    if is_int { (number - 5, (number - 5).to_string()) } else { (0, format!("k{number:02}")) }
}

impl World {
    pub fn new() -> World {
        World { states: vec![Tables::new()], events: Vec::new(), times: vec![0] }
    }

    /// The newest commit.
    pub fn seq(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    pub fn now(&self) -> &Tables {
        self.states.last().unwrap()
    }

    pub fn at(&self, seq: u64) -> &Tables {
        &self.states[usize::try_from(seq).unwrap()]
    }

    /// A table after a commit; `None` if it did not exist.
    pub fn table(&self, seq: u64, name: &str) -> Option<&Table> {
        self.at(seq).get(name).filter(|table| table.live)
    }

    /// The last commit at or before a time.
    pub fn seq_at(&self, time_ms: i64) -> u64 {
        self.times.iter().skip(1).take_while(|time| **time <= time_ms).count() as u64
    }

    fn schema_event(&mut self, name: &str, change: impl FnOnce(&mut Table, u64)) {
        let seq = self.states.len() as u64;
        let mut next = self.now().clone();
        let table = next.entry(name.to_owned()).or_default();
        change(table, seq);
        table.events += 1;
        table.last_seq = seq;
        self.states.push(next);
        let (kind, reason) = (v1::ChangeKind::Schema, String::new());
        let table = name.to_owned();
        self.events.push(Event { seq, table, key: None, kind, before: None, after: None, reason });
    }

    pub fn create(&mut self, name: &str, indexes: &[String]) {
        let indexes = indexes.iter().cloned().collect();
        self.schema_event(name, |table, seq| {
            let id = if table.id == 0 { seq } else { table.id };
            let past = std::mem::take(table);
            *table = Table { id, created: seq, live: true, indexes, events: past.events, ..Table::default() };
        });
    }

    pub fn drop_table(&mut self, name: &str) {
        self.schema_event(name, |table, _| {
            table.live = false;
            table.rows.clear();
            table.changed.clear();
        });
    }

    pub fn alter(&mut self, name: &str, path: &str, add: bool) {
        self.schema_event(name, |table, _| {
            _ = if add { table.indexes.insert(path.to_owned()) } else { table.indexes.remove(path) }
        });
    }

    /// A commit without operations.
    pub fn note(&mut self) {
        let seq = self.states.len() as u64;
        let mut next = self.now().clone();
        let oldest = next.values_mut().min_by_key(|table| table.id).unwrap();
        oldest.last_seq = seq;
        self.states.push(next);
    }

    fn holds(&self, precondition: &v1::Precondition) -> Option<bool> {
        use v1::precondition::Check;
        let table = self.table(self.seq(), &precondition.table)?;
        let key = find_key(&precondition.table, &precondition.key);
        let reborn = if table.created > table.id { table.created } else { 0 };
        let changed = table.changed.get(&key).copied();
        Some(match precondition.check.as_ref().unwrap() {
            Check::SeqIs(seq) => changed == Some(*seq),
            Check::Exists(exists) => table.rows.contains_key(&key) == *exists,
            Check::UnchangedSince(since) => changed.unwrap_or(reborn) <= *since,
        })
    }

    /// Applies a request as the writer should. Returns false if the writer should refuse it.
    pub fn apply(&mut self, request: &v1::ApplyRequest) -> bool {
        if request.preconditions.iter().any(|check| self.holds(check) != Some(true)) {
            return false;
        }
        if request.operations.is_empty() {
            self.note();
            return true;
        }
        let seq = self.states.len() as u64;
        let reason = request.options.as_ref().map(|options| options.reason.clone()).unwrap_or_default();
        let (mut next, mut events) = (self.now().clone(), Vec::new());
        for operation in &request.operations {
            let Some((key, kind, after)) = self.effect(&next, operation) else { return false };
            let table = next.get_mut(&operation.table).unwrap();
            let before = table.rows.remove(&key).map(|row| row.document);
            if let Some(document) = &after {
                table.rows.insert(key.clone(), Row { seq, document: document.clone() });
            }
            table.changed.insert(key.clone(), seq);
            table.events += 1;
            table.last_seq = seq;
            let (name, reason) = (operation.table.clone(), reason.clone());
            events.push(Event { seq, table: name, key: Some(key), kind, before, after, reason });
        }
        self.states.push(next);
        self.events.extend(events);
        true
    }

    /// The effect of an operation: the key, the kind of event, and the row after it; `None` if it is refused.
    fn effect(
        &self,
        next: &Tables,
        operation: &v1::Operation,
    ) -> Option<(Key, v1::ChangeKind, Option<Value>)> {
        use v1::ChangeKind as Kind;
        use v1::operation::Action;
        let table = next.get(&operation.table).filter(|table| table.live)?;
        let parse =
            |document: &v1::Document| -> Value { serde_json::from_str(super::text_of(document)).unwrap() };
        let key = find_key(&operation.table, &operation.key);
        let row = table.rows.get(&key);
        let of_document = |document: &Value| find_key(&operation.table, &text(&document["id"]));
        match operation.action.as_ref().unwrap() {
            Action::Insert(document) => {
                let document = parse(document);
                let key = of_document(&document);
                let free = !table.rows.contains_key(&key);
                free.then_some((key, Kind::Insert, Some(document)))
            }
            Action::Put(document) => {
                let document = parse(document);
                Some((of_document(&document), Kind::Insert, Some(document)))
            }
            Action::Patch(change) => {
                let mut document = row?.document.clone();
                merge(&mut document, &parse(change));
                Some((key, Kind::Patch, Some(document)))
            }
            Action::SoftDelete(_) => row.map(|_| (key, Kind::SoftDelete, None)),
            Action::Revert(to) => {
                let v1::as_of::At::Seq(to) = to.to.as_ref()?.at.as_ref()? else { return None };
                match self.table(*to, &operation.table)?.rows.get(&key) {
                    Some(past) => Some((key, Kind::Insert, Some(past.document.clone()))),
                    None => row.map(|_| (key, Kind::SoftDelete, None)),
                }
            }
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn find_key(table: &str, text: &str) -> Key {
    (0..KEYS).map(|number| key_of(table, number)).find(|key| key.1 == text).unwrap_or_default()
}

/// A random commit.
pub fn random_commit(random: &mut Random, world: &World, number: u64) -> v1::ApplyRequest {
    if random.below(15) == 0 {
        let options = Some(v1::CommitOptions { reason: format!("note {number}"), ..Default::default() });
        return v1::ApplyRequest { options, ..Default::default() };
    }
    let count = if random.below(12) == 0 { 40 } else { 1 + random.below(5) };
    let hot = (count == 40).then(|| (random.below(3), random.below(KEYS)));
    let operations = (0..count).map(|_| random_operation(random, world, hot)).collect();
    let mut preconditions = Vec::new();
    for _ in 0..[0, 0, 1, 3][random.below(4)] {
        preconditions.push(random_precondition(random, world));
    }
    let reason = if random.below(4) == 0 { format!("because {number}") } else { String::new() };
    let request_id = if random.below(3) == 0 { format!("request {number}") } else { String::new() };
    let options = Some(v1::CommitOptions { reason, request_id, ..Default::default() });
    v1::ApplyRequest { operations, preconditions, options }
}

fn random_operation(random: &mut Random, world: &World, hot: Option<(usize, usize)>) -> v1::Operation {
    let (table, number) = hot.unwrap_or_else(|| {
        // Changes wide rows rarely.
        let table = if random.below(40) == 0 { 3 } else { random.below(3) };
        (table, random.below(KEYS))
    });
    let name = TABLES[table].0;
    let key = key_of(name, number);
    let live = world.now().get(name).is_some_and(|table| table.rows.contains_key(&key));
    let salt = random.below(200);
    // Most operations can be applied.
    let (live, kind) = (if random.below(30) == 0 { !live } else { live }, random.below(10));
    match (live, kind) {
        _ if random.below(25) == 0 => {
            let to = super::at_seq(random.below(usize::try_from(world.seq()).unwrap() + 1) as u64);
            let revert = v1::operation::Action::Revert(v1::operation::Revert { to });
            v1::Operation { table: name.into(), key: key.1, action: Some(revert) }
        }
        (true, _) if hot.is_some() => patch(name, &key.1, patch_of(salt).to_string()),
        (false, _) if hot.is_some() => put(name, row_of(&key, name, salt).to_string()),
        (false, _) if kind < 5 => insert(name, row_of(&key, name, salt).to_string()),
        (false, _) => put(name, row_of(&key, name, salt).to_string()),
        (true, 0..=4) => patch(name, &key.1, patch_of(salt).to_string()),
        (true, 5..=6) => put(name, row_of(&key, name, salt).to_string()),
        (true, _) => delete(name, &key.1),
    }
}

fn random_precondition(random: &mut Random, world: &World) -> v1::Precondition {
    use v1::precondition::Check;
    let name = TABLES[random.below(4)].0;
    let key = key_of(name, random.below(KEYS));
    let table = world.now().get(name);
    let changed = table.and_then(|table| table.changed.get(&key)).copied().unwrap_or(0);
    let live = table.is_some_and(|table| table.rows.contains_key(&key));
    let off = u64::from(random.below(8) == 0);
    let check = match random.below(3) {
        0 if changed > 0 => Check::SeqIs(changed + off),
        1 => Check::Exists(live != (off == 1)),
        _ => Check::UnchangedSince((changed + random.below(2) as u64).saturating_sub(off)),
    };
    v1::Precondition { table: name.into(), key: key.1, check: Some(check), ..Default::default() }
}

pub fn row_of(key: &Key, table: &str, salt: usize) -> Value {
    let id: Value = if table == "b" { key.0.into() } else { key.1.clone().into() };
    let mut row = json!({"id": id, "n": salt, "nested": {"x": salt % 3, "list": [salt, {"deep": null}]}});
    match table {
        "wide" => row["pad"] = "wide ".repeat(4_200).into(),
        // A watch sends no images of such long rows.
        "c" => row["pad"] = format!("{salt} ").repeat(200).into(),
        _ => {}
    }
    row
}

fn patch_of(salt: usize) -> Value {
    match salt % 6 {
        0 => json!({"n": salt}),
        1 => json!({"nested": {"x": null, "y": salt}}),
        2 => json!({"nested": null, "extra": [salt]}),
        3 => json!({"nested": {"list": {"now": "an object"}}}),
        4 => json!({"n": null}),
        _ => json!({"more": {"a": {"b": {"c": salt}}}}),
    }
}

/// A put of a whole row.
pub fn put_row(table: &str, key: &Key, salt: usize) -> v1::Operation {
    let action = Some(v1::operation::Action::Put(document(row_of(key, table, salt).to_string())));
    v1::Operation { table: table.into(), key: String::new(), action }
}
