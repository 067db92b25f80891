//! Random creations, drops, renames, changes, compactions and restarts, compared with a plain model: what each name means, and what its
//! table holds, at random commits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::harness::calls::{Answer, Outcome, ask, compact, run, snapshot};
use crate::harness::lane::by_lane;
use crate::harness::watching::words;
use crate::harness::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tonic::Status;

const NAMES: [&str; 3] = ["t", "u", "v"];
/// The keys that a table can have: the field, and how the CREATE names it.
const KEYS: [(&str, &str); 3] = [("id", "id"), ("sku", "sku STRING"), ("n", "n INT")];

#[derive(Debug, Clone)]
enum Step {
    Create {
        name: usize,
        key: usize,
        indexed: bool,
    },
    Drop {
        name: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Put {
        name: usize,
        row: u8,
        salt: u8,
    },
    Delete {
        name: usize,
        row: u8,
    },
    Snapshot {
        name: usize,
    },
    Compact {
        name: usize,
        share: u8,
        whole: bool,
    },
    Restart {
        kill: bool,
    },
    /// A reader that starts now.
    NewReader,
    Ask {
        share: u8,
        from: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = || 0..NAMES.len();
    let step = prop_oneof![
        6 => (name(), 0..KEYS.len(), any::<bool>()).prop_map(|(name, key, indexed)| Step::Create { name, key, indexed }),
        4 => name().prop_map(|name| Step::Drop { name }),
        4 => (name(), name()).prop_map(|(from, to)| Step::Rename { from, to }),
        16 => (name(), 0u8..6, any::<u8>()).prop_map(|(name, row, salt)| Step::Put { name, row, salt }),
        3 => (name(), 0u8..6).prop_map(|(name, row)| Step::Delete { name, row }),
        3 => name().prop_map(|name| Step::Snapshot { name }),
        2 => (name(), any::<u8>(), any::<bool>()).prop_map(|(name, share, whole)| Step::Compact { name, share, whole }),
        1 => any::<bool>().prop_map(|kill| Step::Restart { kill }),
        1 => Just(Step::NewReader),
        5 => (any::<u8>(), any::<u8>()).prop_map(|(share, from)| Step::Ask { share, from }),
    ];
    prop::collection::vec(step, 30..90)
}

/// A table after a commit.
#[derive(Debug, Clone, PartialEq)]
struct Table {
    id: u64,
    key: usize,
    rows: BTreeMap<String, Value>,
}

/// An event as SHOW DRIFT tells it: the commit, and the change in words.
type Told = (u64, String);

#[derive(Debug, Default)]
struct Model {
    /// The tables by name after each commit, from commit 0 on.
    states: Vec<BTreeMap<&'static str, Table>>,
    /// By id: the last name, the key and the commit of the DROP of a table that does not exist.
    dropped: BTreeMap<u64, (&'static str, usize, u64)>,
    /// By id.
    events: BTreeMap<u64, Vec<Told>>,
    with_rows: BTreeSet<u64>,
    floors: BTreeMap<u64, u64>,
}

impl Model {
    fn seq(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn now(&self) -> &BTreeMap<&'static str, Table> {
        self.states.last().unwrap()
    }

    fn at(&self, seq: u64) -> &BTreeMap<&'static str, Table> {
        &self.states[usize::try_from(seq).unwrap()]
    }

    fn commit(&mut self, id: u64, what: String, change: impl FnOnce(&mut BTreeMap<&'static str, Table>)) {
        let mut next = self.now().clone();
        change(&mut next);
        self.states.push(next);
        let seq = self.seq();
        self.events.entry(id).or_default().push((seq, what));
    }

    /// The id of the table that a CREATE makes; `None` if it is refused.
    fn create(&self, name: &str, key: usize) -> Option<u64> {
        if let Some(live) = self.now().get(name) {
            let is_empty = !self.with_rows.contains(&live.id);
            return (is_empty && live.key != key).then_some(live.id);
        }
        let of_name = self.dropped.iter().filter(|(_, (last, ..))| *last == name);
        let last = of_name.max_by_key(|(_, (.., seq))| *seq);
        let continued = last.filter(|(id, (_, old, _))| *old == key || !self.with_rows.contains(id));
        Some(continued.map_or(self.seq() + 1, |(id, _)| *id))
    }

    /// The tables whose history a compaction of a name discards.
    fn of_name(&self, name: &str) -> Vec<u64> {
        let live = self.now().get(name).map(|table| table.id);
        let dropped = self.dropped.iter().filter(|(_, (last, ..))| *last == name).map(|(id, _)| *id);
        live.into_iter().chain(dropped).collect()
    }

    fn floor(&self, id: u64) -> u64 {
        self.floors.get(&id).copied().unwrap_or(0)
    }

    /// The table that a name means after a commit, if it was not compacted away.
    fn readable(&self, name: &str, seq: u64) -> Expected<'_> {
        match self.at(seq).get(name) {
            None => Expected::NotFound,
            Some(table) if seq < self.floor(table.id) => Expected::BelowFloor,
            Some(table) => Expected::Table(table),
        }
    }
}

enum Expected<'a> {
    Table(&'a Table),
    NotFound,
    BelowFloor,
}

struct Run {
    cluster: Cluster,
    model: Model,
}

fn document(row: u8, salt: u8) -> Value {
    json!({"id": format!("k{row}"), "sku": format!("k{row}"), "n": row, "salt": salt, "pad": "x".repeat(usize::from(salt))})
}

impl Run {
    async fn start() -> Run {
        let mut model = Model::default();
        model.states.push(BTreeMap::new());
        Run { cluster: Cluster::start().await, model }
    }

    /// Runs a statement. Its outcome must be the one that the model expects.
    async fn tell(&mut self, statement: &str, refusal: Option<&str>) -> bool {
        let outcome = run(&mut self.cluster.writer, statement).await;
        match (outcome, refusal) {
            (Ok(token), None) => {
                assert_eq!(token.seq, self.model.seq() + 1, "{statement}");
                true
            }
            (Err(status), Some(expected)) => {
                assert_eq!(reason(&status), expected, "{statement}: {status}");
                false
            }
            (outcome, expected) => panic!("{statement}: {outcome:?}, expected {expected:?}"),
        }
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Create { name, key, indexed } => self.create(NAMES[name], key, indexed).await,
            Step::Drop { name } => {
                let name = NAMES[name];
                let live = self.model.now().get(name).map(|table| (table.id, table.key));
                let refusal = live.is_none().then_some("TABLE_NOT_FOUND");
                if self.tell(&format!("DROP TABLE {name}"), refusal).await
                    && let Some((id, key)) = live
                {
                    self.model.commit(id, format!("schema {name}"), |tables| _ = tables.remove(name));
                    self.model.dropped.insert(id, (name, key, self.model.seq()));
                }
            }
            Step::Rename { from, to } => self.rename(NAMES[from], NAMES[to]).await,
            Step::Put { name, row, salt } => self.change(NAMES[name], row, Some(salt)).await,
            Step::Delete { name, row } => self.change(NAMES[name], row, None).await,
            Step::Snapshot { name } => {
                let taken = snapshot(&mut self.cluster.writer, NAMES[name]).await;
                assert_eq!(taken.is_ok(), self.model.now().contains_key(NAMES[name]));
            }
            Step::Compact { name, share, whole } => self.compact(NAMES[name], share, whole).await,
            Step::Restart { kill } => {
                if kill {
                    self.cluster.writer_daemon.kill();
                } else {
                    assert!(self.cluster.writer_daemon.terminate().await.success());
                }
                self.cluster.writer_daemon = Daemon::writer(self.cluster.dir.path());
                self.cluster.writer = self.cluster.writer_daemon.as_writer().await;
            }
            Step::NewReader => {
                self.cluster.reader_daemon = Daemon::reader(self.cluster.dir.path());
                self.cluster.reader = self.cluster.reader_daemon.as_reader().await;
            }
            Step::Ask { share, from } => {
                let seq = u64::from(share) * self.model.seq() / 255;
                self.ask(seq, u64::from(from) * seq / 255).await;
            }
        }
    }

    async fn create(&mut self, name: &'static str, key: usize, indexed: bool) {
        let index = if indexed { ", INDEX(salt)" } else { "" };
        let id = self.model.create(name, key);
        let refusal = id.is_none().then_some("TABLE_EXISTS");
        let statement = format!("CREATE TABLE {name} (pk={}{index})", KEYS[key].1);
        if self.tell(&statement, refusal).await
            && let Some(id) = id
        {
            let table = Table { id, key, rows: BTreeMap::new() };
            self.model.commit(id, format!("schema {name}"), |tables| _ = tables.insert(name, table));
            self.model.dropped.remove(&id);
        }
    }

    async fn rename(&mut self, from: &'static str, to: &'static str) {
        let now = self.model.now();
        let refusal = match now.get(from) {
            None => Some("TABLE_NOT_FOUND"),
            Some(_) if from == to => Some("ARGUMENT_INVALID"),
            Some(_) if now.contains_key(to) => Some("TABLE_EXISTS"),
            Some(_) => None,
        };
        let id = now.get(from).map(|table| table.id);
        if self.tell(&format!("ALTER TABLE {from} RENAME TO {to}"), refusal).await
            && let Some(id) = id
        {
            self.model.commit(id, format!("schema {to}"), |tables| {
                let table = tables.remove(from).unwrap();
                tables.insert(to, table);
            });
        }
    }

    /// Writes a row, or deletes it.
    async fn change(&mut self, name: &'static str, row: u8, salt: Option<u8>) {
        let live = self.model.now().get(name).cloned();
        let field = live.as_ref().map_or("id", |table| KEYS[table.key].0);
        let (key, shown) = if field == "n" {
            (row.to_string(), row.to_string())
        } else {
            (format!("k{row}"), format!("\"k{row}\""))
        };
        let refusal = match &live {
            None => Some("TABLE_NOT_FOUND"),
            Some(table) if salt.is_none() && !table.rows.contains_key(&key) => Some("ROW_NOT_FOUND"),
            Some(_) => None,
        };
        let statement = match salt {
            Some(salt) => format!("UPSERT INTO {name} {}", document(row, salt)),
            None => format!("SOFT DELETE FROM {name} KEY {shown}"),
        };
        if self.tell(&statement, refusal).await
            && let Some(table) = live
        {
            let what = format!("{} {name}/{key}", if salt.is_some() { "insert" } else { "delete" });
            self.model.with_rows.insert(table.id);
            self.model.commit(table.id, what, |tables| {
                let rows = &mut tables.get_mut(name).unwrap().rows;
                match salt {
                    Some(salt) => _ = rows.insert(key, document(row, salt)),
                    None => _ = rows.remove(&key),
                }
            });
        }
    }

    async fn compact(&mut self, name: &str, share: u8, whole: bool) {
        let ids = self.model.of_name(name);
        let seq = if whole { self.model.seq() } else { u64::from(share) * self.model.seq() / 255 };
        let older: Vec<u64> = ids.iter().copied().filter(|id| *id <= seq).collect();
        let outcome = compact(&mut self.cluster.writer, name, at_seq(seq), false).await;
        if older.is_empty() {
            assert_eq!(reason(&outcome.unwrap_err()), "TABLE_NOT_FOUND", "{name} at {seq}");
            return;
        }
        outcome.unwrap_or_else(|status| panic!("compaction of {name} at {seq}: {status}"));
        for id in older {
            let floor = self.model.floors.entry(id).or_default();
            *floor = seq.max(*floor);
            // No commit tells a reader of a floor: it sees the floor in HEAD soon.
            let mut below = (0..*floor).filter_map(|seq| {
                let (name, _) = self.model.at(seq).iter().find(|(_, table)| table.id == id)?;
                Some(format!("SELECT * FROM {name} AS OF @seq:{seq}"))
            });
            let Some(statement) = below.next_back() else { continue };
            let deadline = Instant::now() + Duration::from_secs(30);
            while ask(&mut self.cluster.reader, &statement, self.model.seq()).await.is_ok() {
                assert!(Instant::now() < deadline, "{statement} is not refused after a compaction");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Compares all that can be read at a commit, and what changed since another.
    async fn ask(&mut self, seq: u64, from: u64) {
        let newest = self.model.seq();
        let reader = &mut self.cluster.reader.clone();
        for name in NAMES {
            let found = ask(reader, &format!("SELECT * FROM {name} AS OF @seq:{seq}"), newest).await;
            let what = format!("{name} at {seq}");
            match self.model.readable(name, seq) {
                Expected::Table(table) => {
                    let found = found.unwrap_or_else(|status| panic!("{what}: {status}"));
                    let mut rows: Vec<(String, Value)> = table.rows.clone().into_iter().collect();
                    if table.key == 2 {
                        rows.sort_by_key(|(key, _)| key.parse::<i64>().unwrap());
                    }
                    assert_eq!(found.rows(), rows, "{what}");
                    self.ask_history(reader, name, seq, table.id).await;
                    self.ask_diff(reader, name, (from, seq), table.id).await;
                }
                Expected::NotFound => assert_eq!(refusal(found), "TABLE_NOT_FOUND", "{what}"),
                Expected::BelowFloor => assert_eq!(refusal(found), "BELOW_FLOOR", "{what}"),
            }
        }
        let listed = ask(reader, &format!("SHOW TABLES AS OF @seq:{seq}"), newest).await.unwrap();
        let listed: Vec<_> = listed.tables().iter().map(|table| table.table.clone()).collect();
        let expected =
            NAMES.iter().filter(|name| matches!(self.model.readable(name, seq), Expected::Table(_)));
        assert_eq!(listed, expected.copied().collect::<Vec<_>>(), "tables at {seq}");
    }

    async fn ask_history(&self, reader: &mut Reader, name: &str, seq: u64, id: u64) {
        let floor = self.model.floor(id);
        let statement = format!("SHOW DRIFT {name} TO @seq:{seq}");
        let found = told(&ask(reader, &statement, self.model.seq()).await.unwrap());
        let events = self.model.events[&id].iter().filter(|(at, _)| *at > floor && *at <= seq);
        assert_eq!(found, events.cloned().collect::<Vec<_>>(), "{statement}");
    }

    async fn ask_diff(&self, reader: &mut Reader, name: &str, (from, to): (u64, u64), id: u64) {
        let statement = format!("SHOW DIFF {name} FROM @seq:{from} TO @seq:{to}");
        let found = ask(reader, &statement, self.model.seq()).await;
        let mut tables = (from..=to).filter_map(|seq| self.model.at(seq).get(name));
        if tables.any(|table| table.id != id) {
            assert_eq!(refusal(found), "TABLE_NOT_FOUND", "{statement}");
            return;
        }
        let existed = self.model.at(from).values().find(|table| table.id == id);
        if existed.is_some() && from < self.model.floor(id) {
            assert_eq!(refusal(found), "BELOW_FLOOR", "{statement}");
            return;
        }
        let empty = BTreeMap::new();
        let (before, after) = (existed.map_or(&empty, |table| &table.rows), &self.model.at(to)[name].rows);
        let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let expected: BTreeSet<&String> =
            keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
        let found = found.unwrap_or_else(|status| panic!("{statement}: {status}")).diff();
        let found: BTreeSet<&String> = found.iter().map(|(key, ..)| key).collect();
        assert_eq!(found, expected, "{statement}");
    }

    /// A reader that starts now gives the same answers as the one that followed.
    async fn finish(mut self) {
        let last = self.model.seq();
        for step in [Step::Restart { kill: false }, Step::NewReader] {
            for seq in (0..=last).step_by(5).chain([last]) {
                self.ask(seq, seq / 2).await;
            }
            self.step(&step).await;
        }
        self.ask(last, last / 2).await;
    }
}

/// Why a read was refused.
fn refusal(outcome: Result<Answer, Status>) -> String {
    match outcome {
        Ok(answer) => panic!("not refused: {:?}", answer.results),
        Err(status) => reason(&status),
    }
}

/// The events of SHOW DRIFT, with their names.
fn told(answer: &Answer) -> Vec<Told> {
    let commits = answer.results.iter().map(|result| match result {
        Outcome::Commit(commit) => commit,
        other => panic!("expected a commit, found {other:?}"),
    });
    commits.flat_map(|commit| commit.changes.iter().map(|change| (commit.seq, words(change)))).collect()
}

fn check(cases: u32) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = Config { cases, max_shrink_iters: 200, failure_persistence: None, ..Config::default() };
    let checked = TestRunner::new(config).run(&steps(), |steps| {
        runtime.block_on(async {
            let mut run = Run::start().await;
            for step in &steps {
                run.step(step).await;
            }
            run.finish().await;
        });
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn a_few_random_histories_of_tables_read_as_the_model_says() {
    check(1);
}

#[test]
#[ignore = "slow"]
fn random_histories_of_tables_read_as_the_model_says() {
    check(by_lane(12, 300));
}
