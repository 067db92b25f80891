//! Tables with the same rows and different indexes, and a plain model of the rows after each commit.

use std::collections::BTreeMap;

use super::calls::{ask, run};
use super::condition::{Random, Row};
use super::model::merge;
use super::{Daemon, Reader, Writer, apply, delete, patch, put};
use driftdb::v1;
use serde_json::{Value, json};

/// An operation, for the table with that name.
type TableOperation = Box<dyn Fn(&str) -> v1::Operation>;

/// Tables with the same rows, and the indexes of each.
pub const TABLES: [(&str, &str); 5] = [
    ("plain", ""),
    ("single", ", INDEX(a, b)"),
    ("pair", ", INDEX((a, b))"),
    ("mixed", ", INDEX(b, (a, b, n.c), (b, a))"),
    ("late", ""),
];
const KEYS: usize = 60;

/// The daemons, and what the tables must contain.
pub struct IndexedTables {
    pub dir: tempfile::TempDir,
    pub daemons: Option<(Daemon, Daemon)>,
    pub writer: Option<Writer>,
    pub reader: Option<Reader>,
    /// The rows after each commit.
    pub states: Vec<BTreeMap<String, Row>>,
    /// The oldest commit that can be read.
    pub floor: usize,
    /// Whether no row is patched: each change writes or deletes a whole row.
    pub only_whole_rows: bool,
    pub random: Random,
}

impl IndexedTables {
    pub async fn new(seed: u64) -> IndexedTables {
        let dir = tempfile::tempdir().unwrap();
        let states = vec![BTreeMap::new()];
        let mut tables = IndexedTables {
            dir,
            daemons: None,
            writer: None,
            reader: None,
            states,
            floor: 0,
            only_whole_rows: false,
            random: Random(seed),
        };
        tables.open().await;
        for (table, indexes) in TABLES {
            tables.write(&format!("CREATE TABLE {table} (pk=id{indexes})")).await;
        }
        tables.floor = TABLES.len();
        tables
    }

    async fn open(&mut self) {
        let writer = Daemon::start("driftdb-writer", self.dir.path(), &["--snapshot-events", "97"]);
        let reader = Daemon::reader(self.dir.path());
        (self.writer, self.reader) = (Some(writer.as_writer().await), Some(reader.as_reader().await));
        self.daemons = Some((writer, reader));
    }

    pub async fn restart(&mut self) {
        (self.writer, self.reader) = (None, None);
        let (mut writer, mut reader) = self.daemons.take().unwrap();
        if self.random.below(2) == 0 {
            writer.kill();
        } else {
            assert!(writer.terminate().await.success());
        }
        reader.kill();
        self.open().await;
    }

    pub fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// Executes a statement that changes no row.
    pub async fn write(&mut self, statement: &str) {
        let token = run(self.writer.as_mut().unwrap(), statement).await.unwrap();
        self.states.push(self.states.last().unwrap().clone());
        assert_eq!(token.seq, self.last() as u64);
    }

    fn value(&mut self) -> Value {
        let values = json!([0, 1, 2, 2.0, 1.25, "x", "Xy", "", true, null, [1], [2, "x"], {"c": 1}]);
        self.random.pick(values.as_array().unwrap())
    }

    /// Changes some rows in the same way in every table.
    pub async fn commit(&mut self) {
        let seq = self.last() as u64 + 1;
        let mut rows = self.states.last().unwrap().clone();
        let mut operations: Vec<TableOperation> = Vec::new();
        for _ in 0..1 + self.random.below(6) {
            let key = format!("k{:02}", self.random.below(KEYS));
            let mut content = json!({});
            for field in ["a", "b"] {
                if self.random.below(4) > 0 {
                    content[field] = self.value();
                }
            }
            if self.random.below(3) > 0 {
                content["n"] = json!({"c": self.value()});
            }
            let known = rows.get(&key).map(|row| row.document.clone());
            let (document, operation): (_, TableOperation) = match (known, self.random.below(5)) {
                (Some(_), 0) => {
                    rows.remove(&key);
                    operations.push(Box::new(move |table| delete(table, &key)));
                    continue;
                }
                (Some(mut document), 1..=3) if !self.only_whole_rows => {
                    merge(&mut document, &content);
                    let (key, text) = (key.clone(), content.to_string());
                    (document, Box::new(move |table| patch(table, &key, text.clone())))
                }
                _ => {
                    content["id"] = key.clone().into();
                    let text = content.to_string();
                    (content, Box::new(move |table| put(table, text.clone())))
                }
            };
            rows.insert(key.clone(), Row { key: key.into(), seq, time_ms: 0, document });
            operations.push(operation);
        }
        let all = TABLES.iter().flat_map(|(table, _)| operations.iter().map(|make| make(table))).collect();
        let token = apply(self.writer.as_mut().unwrap(), all).await.unwrap();
        assert_eq!(token.seq, seq);
        self.states.push(rows);
    }

    pub async fn plan(&mut self, table: &str, condition: &str) -> String {
        let statement = format!("EXPLAIN SELECT * FROM {table} WHERE {condition}");
        let last = self.last() as u64;
        ask(self.reader.as_mut().unwrap(), &statement, last).await.unwrap().message().to_owned()
    }
}
