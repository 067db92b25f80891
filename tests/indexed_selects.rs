//! SELECT returns the same rows whatever indexes a table has: none, on single paths, or composite ones, at every commit, and
//! before and after snapshots, compactions and restarts.

use std::collections::BTreeMap;

use crate::harness::calls::{ask, compact, fresh, run, snapshot};
use crate::harness::condition::{Condition, Random, Row};
use crate::harness::model::merge;
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};

/// An operation, for the table with that name.
type TableOperation = Box<dyn Fn(&str) -> v1::Operation>;

/// Tables with the same rows, and the indexes of each.
const TABLES: [(&str, &str); 5] = [
    ("plain", ""),
    ("single", ", INDEX(a, b)"),
    ("pair", ", INDEX((a, b))"),
    ("mixed", ", INDEX(b, (a, b, n.c), (b, a))"),
    ("late", ""),
];
const KEYS: usize = 60;

struct Run {
    dir: tempfile::TempDir,
    daemons: Option<(Daemon, Daemon)>,
    writer: Option<Writer>,
    reader: Option<Reader>,
    /// The rows after each commit.
    states: Vec<BTreeMap<String, Row>>,
    /// The oldest commit that can be read.
    floor: usize,
    random: Random,
}

impl Run {
    async fn new(seed: u64) -> Run {
        let dir = tempfile::tempdir().unwrap();
        let states = vec![BTreeMap::new()];
        let mut run =
            Run { dir, daemons: None, writer: None, reader: None, states, floor: 0, random: Random(seed) };
        run.open().await;
        for (table, indexes) in TABLES {
            run.write(&format!("CREATE TABLE {table} (pk=id{indexes})")).await;
        }
        run.floor = TABLES.len();
        run
    }

    async fn open(&mut self) {
        let writer = Daemon::start("driftdb-writer", self.dir.path(), &["--snapshot-events", "97"]);
        let reader = Daemon::reader(self.dir.path());
        (self.writer, self.reader) = (Some(writer.as_writer().await), Some(reader.as_reader().await));
        self.daemons = Some((writer, reader));
    }

    async fn restart(&mut self) {
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

    fn last(&self) -> usize {
        self.states.len() - 1
    }

    /// Executes a statement that changes no row.
    async fn write(&mut self, statement: &str) {
        let token = run(self.writer.as_mut().unwrap(), statement).await.unwrap();
        self.states.push(self.states.last().unwrap().clone());
        assert_eq!(token.seq, self.last() as u64);
    }

    fn value(&mut self) -> Value {
        let values = json!([0, 1, 2, 2.0, "x", "xy", "", true, null, [1], {"c": 1}]);
        self.random.pick(values.as_array().unwrap())
    }

    /// Changes some rows in the same way in every table.
    async fn commit(&mut self) {
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
                (Some(mut document), 1..=3) => {
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

    /// A value with which a condition may compare.
    fn literal(&mut self) -> Value {
        let values = json!([0, 1, 2, 2.0, "x", "xy", "", true]);
        self.random.pick(values.as_array().unwrap())
    }

    fn comparison(&mut self, path: &'static str) -> Condition {
        let (first, second) = (self.literal(), self.literal());
        match self.random.below(8) {
            0 => Condition::In(path, vec![first, second], false),
            1 => Condition::Compare(path, self.random.pick(&["<", "<=", ">", ">="]), first),
            2 => Condition::Between(path, first, second, false),
            3 => Condition::Like(path, self.random.pick(&["x%", "xy", "%"]), false),
            _ => Condition::Compare(path, "=", first),
        }
    }

    fn condition(&mut self) -> Condition {
        let mut parts = vec![self.comparison("a"), self.comparison("b")];
        if self.random.below(3) == 0 {
            parts.push(self.comparison("n.c"));
        }
        match self.random.below(6) {
            0 => Condition::Or(vec![Condition::And(parts), self.comparison("b")]),
            1 => parts.swap_remove(0),
            _ => Condition::And(parts),
        }
    }

    /// Asks every table the same, at a commit.
    async fn check(&mut self, seq: usize) {
        let condition = self.condition();
        let text = condition.text(&mut None);
        let limit = if self.random.below(4) == 0 { 1 + self.random.below(5) } else { 0 };
        let rows = self.states[seq].values().filter(|row| condition.met(row) == Some(true));
        let expected: Vec<(String, Value)> = rows
            .map(|row| (row.key.as_str().unwrap().to_owned(), row.document.clone()))
            .take(if limit == 0 { usize::MAX } else { limit })
            .collect();
        for (table, _) in TABLES {
            let request = v1::SelectRequest {
                table: table.into(),
                r#where: text.clone(),
                as_of: at_seq(seq as u64),
                freshness: fresh(self.last() as u64),
                limit: limit as u64,
                ..Default::default()
            };
            let found = select(self.reader.as_mut().unwrap(), request).await.unwrap();
            let found: Vec<(String, Value)> =
                found.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
            assert_eq!(found, expected, "{table} at {seq}: {text} LIMIT {limit}");
        }
    }

    async fn check_some(&mut self, count: usize) {
        for _ in 0..count {
            let seq = self.floor + self.random.below(self.last() + 1 - self.floor);
            self.check(seq).await;
            self.check(self.last()).await;
        }
    }

    async fn plan(&mut self, table: &str, condition: &str) -> String {
        let statement = format!("EXPLAIN SELECT * FROM {table} WHERE {condition}");
        let last = self.last() as u64;
        ask(self.reader.as_mut().unwrap(), &statement, last).await.unwrap().message().to_owned()
    }
}

#[tokio::test]
async fn selects_return_the_same_rows_whatever_indexes_there_are() {
    let seed = lane::by_lane(7, 70);
    let mut run = Run::new(seed as u64).await;
    for round in 0..lane::by_lane(5, 60) {
        for _ in 0..40 {
            run.commit().await;
        }
        run.check_some(12).await;
        if round == 1 {
            run.write("CREATE INDEX ON late ((b, a), b)").await;
        }
        if round == 3 {
            run.write("DROP INDEX ON late ((b, a))").await;
        }
        for (table, _) in TABLES {
            snapshot(run.writer.as_mut().unwrap(), table).await.unwrap();
        }
        run.check_some(12).await;
        if round % 2 == 1 {
            let floor = run.floor + (run.last() - run.floor) / 2;
            for (table, _) in TABLES {
                compact(run.writer.as_mut().unwrap(), table, at_seq(floor as u64), false).await.unwrap();
            }
            run.floor = floor;
            run.check_some(8).await;
        }
        run.restart().await;
        run.check_some(8).await;
    }
}

#[tokio::test]
async fn a_composite_index_is_declared_shown_chosen_and_dropped() {
    let mut run = Run::new(3).await;
    for _ in 0..30 {
        run.commit().await;
    }
    let both = run.plan("pair", "b = \"x\" AND a = 1").await;
    assert!(both.contains("index (a, b): = 1 value, "), "{both}");
    let range = run.plan("pair", "a = 1 AND b > \"x\"").await;
    assert!(range.contains("index (a, b): range, "), "{range}");
    let first = run.plan("pair", "a IN (1, 2)").await;
    assert!(first.contains("index (a, b): first column = 2 values, "), "{first}");
    let second = run.plan("pair", "b = 1").await;
    assert!(second.contains("full scan"), "{second}");
    let three = run.plan("mixed", "a = 1 AND b = 2 AND n.c = 1").await;
    assert!(three.contains("index (a, b, n.c): = 1 value, "), "{three}");

    let answer =
        ask(run.reader.as_mut().unwrap(), "DESCRIBE mixed", run.states.len() as u64 - 1).await.unwrap();
    let [info] = answer.tables()[..] else { panic!("{answer:?}") };
    assert_eq!(info.indexes, ["b"]);
    let composite: Vec<_> = info.composite_indexes.iter().map(|index| index.paths.join("+")).collect();
    assert_eq!(composite, ["a+b+n.c", "b+a"]);

    run.write("DROP INDEX ON mixed ((a, b, n.c))").await;
    let without = run.plan("mixed", "a = 1 AND b = 2 AND n.c = 1").await;
    assert!(without.contains("index (b, a): = 1 value, "), "{without}");
    let again =
        crate::harness::calls::run(run.writer.as_mut().unwrap(), "CREATE INDEX ON mixed ((b, a))").await;
    assert_eq!(reason(&again.unwrap_err()), "ARGUMENT_INVALID");
    let lone = v1::CompositeIndex { paths: vec!["a".into()] };
    let request =
        v1::CreateTableRequest { table: "t".into(), composite_indexes: vec![lone], ..Default::default() };
    let refused = run.writer.as_mut().unwrap().create_table(request).await.unwrap_err();
    assert_eq!(reason(&refused), "ARGUMENT_INVALID");
}

/// A field can have the name of a composite index.
#[tokio::test]
async fn an_index_on_a_field_with_an_odd_name_is_not_composite() {
    let mut cluster = Cluster::start().await;
    let request =
        v1::CreateTableRequest { table: "t".into(), indexes: vec!["(a, b)".into()], ..Default::default() };
    cluster.writer.create_table(request).await.unwrap();
    let rows = (0..20)
        .map(|i| insert("t", json!({"id": format!("k{i}"), "(a, b)": i % 4, "a": 1, "b": 2}).to_string()));
    let token = apply(&mut cluster.writer, rows.collect()).await.unwrap();
    snapshot(&mut cluster.writer, "t").await.unwrap();
    let request = v1::SelectRequest {
        table: "t".into(),
        r#where: "`(a, b)` = 3".into(),
        freshness: fresh(token.seq),
        ..Default::default()
    };
    assert_eq!(select(&mut cluster.reader, request).await.unwrap().len(), 5);
    let answer =
        ask(&mut cluster.reader, "EXPLAIN SELECT * FROM t WHERE `(a, b)` = 3", token.seq).await.unwrap();
    assert!(answer.message().contains("index `(a, b)`: = 1 value"), "{}", answer.message());
}
