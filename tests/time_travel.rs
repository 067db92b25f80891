//! Random histories, with restarts and kills of the writer, compared with a plain in-memory model at random commits.

use std::collections::BTreeMap;

use crate::harness::lane::by_lane;
use crate::harness::model::{Model, Op};
use crate::harness::*;
use driftdb::v1;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

const TABLES: [&str; 3] = ["a", "b", "c"];

#[derive(Debug, Clone)]
enum Step {
    Commit(Vec<(usize, OpKind, u8, u8)>),
    Restart,
    Kill,
    /// Reads at one commit, given as a share of the history.
    Ask(u8),
}

#[derive(Debug, Clone, Copy)]
enum OpKind {
    Insert,
    Put,
    Patch,
    Delete,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind =
        prop_oneof![Just(OpKind::Insert), Just(OpKind::Put), Just(OpKind::Patch), Just(OpKind::Delete)];
    let op = (0..TABLES.len(), kind, 0u8..12, any::<u8>());
    let step = prop_oneof![
        20 => prop::collection::vec(op, 1..6).prop_map(Step::Commit),
        1 => Just(Step::Restart),
        1 => Just(Step::Kill),
        6 => any::<u8>().prop_map(Step::Ask),
    ];
    prop::collection::vec(step, 20..120)
}

fn document(key: &str, salt: u8) -> Value {
    json!({"id": key, "n": salt, "nested": {"x": salt % 3, "list": [salt, {"deep": null}]}, "é": "ü"})
}

fn patch_of(salt: u8) -> Value {
    match salt % 4 {
        0 => json!({"n": salt}),
        1 => json!({"nested": {"x": null, "y": salt}}),
        2 => json!({"nested": null, "extra": [salt]}),
        _ => json!({"nested": {"list": {"now": "an object"}}}),
    }
}

/// A step's operations, for the model and for the API.
fn operations(ops: &[(usize, OpKind, u8, u8)]) -> (Vec<(String, Op)>, Vec<v1::Operation>) {
    ops.iter()
        .map(|(table, kind, key, salt)| {
            let (table, key) = (TABLES[*table], format!("k{key}"));
            let (op, wire) = match kind {
                OpKind::Insert => {
                    let document = document(&key, *salt);
                    (Op::Insert(key, document.clone()), insert(table, document.to_string()))
                }
                OpKind::Put => {
                    let document = document(&key, *salt);
                    (Op::Put(key, document.clone()), put(table, document.to_string()))
                }
                OpKind::Patch => {
                    let change = patch_of(*salt);
                    (Op::Patch(key.clone(), change.clone()), patch(table, &key, change.to_string()))
                }
                OpKind::Delete => (Op::Delete(key.clone()), delete(table, &key)),
            };
            ((table.to_owned(), op), wire)
        })
        .unzip()
}

struct Run {
    cluster: Cluster,
    model: Model,
}

impl Run {
    async fn start() -> Run {
        let mut run = Run { cluster: Cluster::start().await, model: Model::new() };
        for table in TABLES {
            run.cluster.create(table).await;
            run.model.create(table);
        }
        run
    }

    async fn step(&mut self, step: &Step) {
        match step {
            Step::Commit(ops) => {
                let (ops, wire) = operations(ops);
                let outcome = apply(&mut self.cluster.writer, wire).await;
                let expected = self.model.apply(&ops);
                match outcome {
                    Ok(token) => {
                        assert!(expected, "the model refuses {ops:?}");
                        assert_eq!(token.seq, self.model.seq());
                    }
                    Err(status) => assert!(!expected, "{status} for {ops:?}"),
                }
            }
            Step::Restart | Step::Kill => {
                if matches!(step, Step::Restart) {
                    assert!(self.cluster.writer_daemon.terminate().await.success());
                } else {
                    self.cluster.writer_daemon.kill();
                }
                self.cluster.writer_daemon = Daemon::writer(self.cluster.dir.path());
                self.cluster.writer = self.cluster.writer_daemon.as_writer().await;
            }
            Step::Ask(share) => {
                let seq = u64::from(*share) * self.model.seq() / 255;
                let mut reader = self.cluster.reader.clone();
                self.ask(&mut reader, seq).await;
            }
        }
    }

    /// Compares every kind of read at one commit.
    async fn ask(&self, reader: &mut Reader, seq: u64) {
        for table in TABLES {
            let found = select_at(reader, table, seq).await;
            let Some(expected) = self.model.at(seq, table) else {
                assert_eq!(reason(&found.unwrap_err()), "TABLE_NOT_FOUND");
                continue;
            };
            let found: Vec<(String, Value)> = found
                .unwrap()
                .into_iter()
                .map(|(key, text)| (key, serde_json::from_str(&text).unwrap()))
                .collect();
            let expected_rows: Vec<(String, Value)> =
                expected.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
            assert_eq!(found, expected_rows, "{table} at {seq}");
            let described = describe(reader, table, seq).await;
            assert_eq!(described.rows, expected.len() as u64, "rows of {table} at {seq}");
            self.ask_diff(reader, table, seq).await;
        }
        let key = format!("k{}", seq % 12);
        for table in TABLES {
            self.ask_history(reader, table, &key).await;
        }
    }

    async fn ask_diff(&self, reader: &mut Reader, table: &str, seq: u64) {
        let to = self.model.seq();
        let request = v1::DiffRequest {
            table: table.into(),
            start: at_seq(seq),
            end: at_seq(to),
            ..Default::default()
        };
        let mut stream = reader.diff(request).await.unwrap().into_inner();
        let mut found = BTreeMap::new();
        while let Some(message) = stream.message().await.unwrap() {
            for row in message.rows {
                let parse = |document: Option<v1::Document>| {
                    document.map(|document| serde_json::from_str::<Value>(text_of(&document)).unwrap())
                };
                found.insert(row.key.clone(), (parse(row.before), parse(row.after)));
            }
        }
        let (before, after) = (self.model.at(seq, table).unwrap(), self.model.at(to, table).unwrap());
        let keys = before.keys().chain(after.keys());
        let expected: BTreeMap<_, _> = keys
            .map(|key| (key.clone(), (before.get(key).cloned(), after.get(key).cloned())))
            .filter(|(_, (before, after))| before != after)
            .collect();
        assert_eq!(found, expected, "diff of {table} from {seq} to {to}");
    }

    async fn ask_history(&self, reader: &mut Reader, table: &str, key: &str) {
        let request = v1::HistoryRequest {
            table: table.into(),
            key: key.into(),
            end: at_seq(self.model.seq()),
            with_before: true,
            with_after: true,
            ..Default::default()
        };
        let mut stream = reader.history(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        let mut previous: Option<String> = None;
        while let Some(message) = stream.message().await.unwrap() {
            for commit in message.commits {
                for change in commit.changes {
                    let kind = match change.kind() {
                        v1::ChangeKind::Insert => "insert",
                        v1::ChangeKind::Patch => "patch",
                        v1::ChangeKind::SoftDelete => "soft_delete",
                        other => panic!("unexpected {other:?}"),
                    };
                    found.push((commit.seq, kind));
                    assert_eq!(change.before.as_ref().map(|d| text_of(d).to_owned()), previous);
                    previous = change.after.as_ref().map(|d| text_of(d).to_owned());
                }
            }
        }
        assert_eq!(found, self.model.drift(table, key), "drift of {table}/{key}");
    }

    /// A reader that starts now must give the same answers as the one that followed from the start.
    async fn finish(self) {
        let fresh = Daemon::reader(self.cluster.dir.path());
        let mut reader = fresh.as_reader().await;
        for seq in (0..=self.model.seq()).step_by(7) {
            self.ask(&mut reader, seq).await;
        }
    }
}

async fn describe(reader: &mut Reader, table: &str, seq: u64) -> v1::TableInfo {
    let request = v1::DescribeTableRequest { table: table.into(), as_of: at_seq(seq), freshness: None };
    reader.describe_table(request).await.unwrap().into_inner().table.unwrap()
}

#[test]
#[ignore = "slow"]
fn every_commit_of_a_random_history_reads_as_the_model_says() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cases = by_lane(12, 500);
    let config = Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&steps(), |steps| {
            runtime.block_on(async {
                let mut run = Run::start().await;
                for step in &steps {
                    run.step(step).await;
                }
                run.finish().await;
            });
            Ok(())
        })
        .unwrap();
}
