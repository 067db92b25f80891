//! FIND, DELETED, SHOW DRIFT with a filter and AS OF EVERY answer as a replay of all events does: with and without indexes, from
//! memory and from snapshots, after a compaction and after restarts.

use std::collections::BTreeMap;

use crate::harness::calls::{Answer, ask, compact, fresh, run, snapshot, value_of};
use crate::harness::condition::{Condition, Random, Row};
use crate::harness::model::merge;
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::reader_service_execute_response::Result as Outcome;
use serde_json::{Value, json};

const TABLES: [(&str, &str); 2] = [("plain", ""), ("indexed", ", INDEX(n, s, (s, n))")];
const KEYS: usize = 12;

/// An event of a row, with the row before and after it.
#[derive(Debug, Clone)]
struct Event {
    seq: u64,
    key: String,
    before: Option<Row>,
    after: Option<Row>,
}

type Rows = BTreeMap<String, Row>;
/// The last document of each soft-deleted row, and the commit that deleted it.
type Deleted = BTreeMap<String, (Value, u64)>;

/// Two tables with one history, replayed in a plain way.
struct Replay {
    dir: tempfile::TempDir,
    daemons: Option<(Daemon, Daemon)>,
    clients: Option<(Writer, Reader)>,
    /// The rows after each commit, and the deleted ones.
    states: Vec<Rows>,
    deleted: Vec<Deleted>,
    /// Whether the tables exist after each commit.
    exists: Vec<bool>,
    /// The commits after which only the first table has changed its schema.
    half_changed: Vec<u64>,
    /// The times of the commits that changed rows, and who made them.
    times: BTreeMap<u64, i64>,
    actors: BTreeMap<u64, String>,
    events: Vec<Event>,
    floor: u64,
    random: Random,
}

impl Replay {
    async fn new(seed: u64) -> Replay {
        let mut replay = Replay {
            dir: tempfile::tempdir().unwrap(),
            daemons: None,
            clients: None,
            states: vec![Rows::new()],
            deleted: vec![Deleted::new()],
            exists: vec![false],
            half_changed: Vec::new(),
            times: BTreeMap::new(),
            actors: BTreeMap::new(),
            events: Vec::new(),
            floor: 0,
            random: Random(seed),
        };
        replay.open().await;
        replay.create().await;
        replay
    }

    async fn open(&mut self) {
        let writer = Daemon::start("driftdb-writer", self.dir.path(), &["--snapshot-events", "150"]);
        let reader = Daemon::reader(self.dir.path());
        self.clients = Some((writer.as_writer().await, reader.as_reader().await));
        self.daemons = Some((writer, reader));
    }

    async fn restart(&mut self) {
        self.clients = None;
        let (mut writer, mut reader) = self.daemons.take().unwrap();
        writer.kill();
        reader.kill();
        self.open().await;
    }

    fn writer(&mut self) -> &mut Writer {
        &mut self.clients.as_mut().unwrap().0
    }

    fn last(&self) -> u64 {
        self.states.len() as u64 - 1
    }

    fn push(&mut self, rows: Rows, deleted: Deleted, exists: bool) {
        self.states.push(rows);
        self.deleted.push(deleted);
        self.exists.push(exists);
    }

    /// Changes the schema of both tables; without tables all rows are gone, and none counts as deleted.
    async fn schema(&mut self, statements: [String; 2], exists: bool) {
        self.half_changed.push(self.last() + 1);
        for statement in statements {
            run(self.writer(), &statement).await.unwrap();
            self.push(Rows::new(), Deleted::new(), exists);
        }
    }

    async fn create(&mut self) {
        self.schema(TABLES.map(|(table, indexes)| format!("CREATE TABLE {table} (pk=id{indexes})")), true)
            .await;
    }

    async fn drop_and_create(&mut self) {
        self.schema(TABLES.map(|(table, _)| format!("DROP TABLE {table}")), false).await;
        self.create().await;
    }

    /// A commit that changes some rows, in the same way in both tables.
    async fn commit(&mut self) {
        let seq = self.last() + 1;
        let (mut rows, mut deleted) =
            (self.states.last().unwrap().clone(), self.deleted.last().unwrap().clone());
        let (mut operations, mut events) = (Vec::new(), Vec::new());
        for _ in 0..1 + self.random.below(5) {
            let key = format!("k{:02}", self.random.below(KEYS));
            let before = rows.get(&key).cloned();
            let n = self.random.below(4);
            let s = self.random.pick(&["new", "paid", "late"]);
            let mut both = |operation: &dyn Fn(&str) -> v1::Operation| {
                operations.extend(TABLES.map(|(table, _)| operation(table)));
            };
            let document = match (&before, self.random.below(8)) {
                (Some(_), 0..=1) => {
                    both(&|table| delete(table, &key));
                    None
                }
                (Some(row), 2..=5) => {
                    let change = self.random.pick(&[json!({"n": n}), json!({"s": s}), json!({"n": null})]);
                    both(&|table| patch(table, &key, change.to_string()));
                    let mut document = row.document.clone();
                    merge(&mut document, &change);
                    Some(document)
                }
                _ => {
                    let document = json!({"id": key, "n": n, "s": s, "f": n as f64 / 8.0});
                    both(&|table| put(table, document.to_string()));
                    Some(document)
                }
            };
            let after = document.map(|document| Row { key: key.clone().into(), seq, time_ms: 0, document });
            match &after {
                Some(row) => {
                    rows.insert(key.clone(), row.clone());
                    deleted.remove(&key);
                }
                None => {
                    let row = rows.remove(&key).unwrap();
                    deleted.insert(key.clone(), (row.document, seq));
                }
            }
            events.push(Event { seq, key, before, after });
        }
        let actor = self.random.pick(&["", "ann", "bob"]).to_owned();
        let options = Some(v1::CommitOptions { actor: actor.clone(), ..Default::default() });
        let request = v1::ApplyRequest { operations, options, ..Default::default() };
        let token = self.writer().apply(request).await.unwrap().into_inner().token.unwrap();
        assert_eq!(token.seq, seq);
        self.actors.insert(seq, actor);
        let time = token.time.unwrap();
        self.times.insert(seq, time.seconds * 1000 + i64::from(time.nanos / 1_000_000));
        self.events.extend(events);
        self.push(rows, deleted, true);
    }

    async fn ask(&mut self, statement: &str) -> Answer {
        let seen = self.last();
        let reader = &mut self.clients.as_mut().unwrap().1;
        ask(reader, statement, seen).await.unwrap_or_else(|error| panic!("{statement}: {error}"))
    }

    /// Where the state of a table after a commit is stored.
    fn place(&self, table: &str, seq: u64) -> usize {
        let is_behind = table == TABLES[1].0 && self.half_changed.contains(&seq);
        usize::try_from(seq - u64::from(is_behind)).unwrap()
    }

    fn at(&self, table: &str, seq: u64) -> &Rows {
        &self.states[self.place(table, seq)]
    }

    fn condition(&mut self) -> Condition {
        let n = self.random.below(4);
        let s = self.random.pick(&["new", "paid", "late"]);
        let mut all = vec![
            Condition::Compare("n", "=", n.into()),
            Condition::Compare("n", ">=", n.into()),
            Condition::Compare("s", "=", s.into()),
            Condition::Compare("_seq", ">", self.random.below(60).into()),
            Condition::Compare("_key", "<", format!("k{:02}", self.random.below(KEYS)).into()),
            Condition::In("_key", vec!["k01".into(), "k05".into(), "k99".into()], false),
            Condition::IsMissing("n", false),
            Condition::Not(Box::new(Condition::Compare("s", "=", s.into()))),
        ];
        let (a, b) = (self.random.below(all.len()), self.random.below(all.len()));
        let (a, b) = (all[a].clone(), all[b].clone());
        all.push(Condition::And(vec![a.clone(), b.clone()]));
        all.push(Condition::Or(vec![a, b]));
        let at = self.random.below(all.len());
        all.swap_remove(at)
    }

    /// A range of commits that can be read: after the first, up to the second.
    fn range(&mut self) -> (u64, u64) {
        let (floor, last) = (self.floor, self.last());
        let mut any = || floor + self.random.below(usize::try_from(last - floor + 1).unwrap()) as u64;
        let (a, b) = (any(), any());
        (a.min(b), a.max(b))
    }

    fn matches(&self, table: &str, seq: u64, key: &str, condition: &Condition) -> bool {
        self.at(table, seq).get(key).is_some_and(|row| condition.met(row) == Some(true))
    }

    /// FIND by its definition: the row matches after the commit, and not after the commit before it.
    fn find(
        &self,
        table: &str,
        condition: &Condition,
        key: Option<&str>,
        (after, up_to): (u64, u64),
        last: bool,
    ) -> Option<(u64, String)> {
        let keys: Vec<String> = match key {
            Some(key) => vec![key.to_owned()],
            None => (0..KEYS).map(|n| format!("k{n:02}")).collect(),
        };
        let begins = |seq: &u64| {
            let begins = keys.iter().filter(|key| {
                self.matches(table, *seq, key, condition) && !self.matches(table, seq - 1, key, condition)
            });
            let found = if last { begins.max() } else { begins.min() };
            found.map(|key| (*seq, key.clone()))
        };
        let mut found = (after + 1..=up_to).filter_map(|seq| begins(&seq));
        if last { found.next_back() } else { found.next() }
    }

    async fn check_find(&mut self, table: &str) {
        let condition = self.condition();
        let key = (self.random.below(2) == 0).then(|| format!("k{:02}", self.random.below(KEYS)));
        let last = self.random.below(2) == 0;
        let (from, to) = self.range();
        let word = if last { "LAST" } else { "FIRST" };
        let of_key = key.as_ref().map(|key| format!(" KEY {key:?}")).unwrap_or_default();
        let text = condition.text(&mut None);
        let statement = format!("FIND {word} IN {table}{of_key} WHERE {text} FROM @seq:{from} TO @seq:{to}");
        if to < 2 {
            return;
        }
        let answer = self.ask(&statement).await;
        let found: Vec<(u64, String)> = answer.drift().into_iter().map(|(seq, _, key)| (seq, key)).collect();
        let expected = self.find(table, &condition, key.as_deref(), (from, to), last);
        assert_eq!(found, expected.clone().into_iter().collect::<Vec<_>>(), "{statement}");
        if let (Some((seq, key)), [Outcome::Commit(commit)]) = (expected, answer.results.as_slice()) {
            let change = &commit.changes[0];
            let document = |row: Option<&Row>| row.map_or(Value::Null, |row| row.document.clone());
            assert_eq!(
                value_of(change.after.as_ref()),
                document(self.at(table, seq).get(&key)),
                "{statement}"
            );
            assert_eq!(
                value_of(change.before.as_ref()),
                document(self.at(table, seq - 1).get(&key)),
                "{statement}"
            );
        }
        let keys = (0..KEYS).map(|n| format!("k{n:02}")).filter(|k| key.as_ref().is_none_or(|key| k == key));
        let held = keys.into_iter().any(|key| self.matches(table, from, &key, &condition)) && from < to;
        let says_so = answer.headers[0].notes.iter().any(|note| note.contains("holds already"));
        assert_eq!(says_so, held, "{statement}: {:?}", answer.headers[0].notes);
    }

    async fn check_deleted(&mut self, table: &str) {
        let (_, seq) = self.range();
        let place = self.place(table, seq);
        if !self.exists[place] {
            return;
        }
        let known = self.deleted[place].clone();
        let known: Vec<_> = known.into_iter().filter(|(_, (_, by))| *by > self.floor).collect();
        let answer = self.ask(&format!("SELECT * FROM {table} DELETED AS OF @seq:{seq}")).await;
        let mut found = answer.rows();
        for (_, document) in &mut found {
            let fields = document.as_object_mut().unwrap();
            let time = fields.remove("_deleted_time").unwrap();
            let by = fields["_deleted_seq"].as_u64().unwrap();
            let time: driftdb_common::format::rfc3339::UtcTime = time.as_str().unwrap().parse().unwrap();
            assert_eq!(time.millis(), self.times[&by]);
            assert_eq!(
                (fields.remove("_deleted_by"), fields.remove("_deleted_reason")),
                (Some(self.actors[&by].as_str().into()), Some("".into()))
            );
        }
        let with_seq = |(key, (document, by)): &(String, (Value, u64))| {
            let mut document = document.clone();
            document["_deleted_seq"] = (*by).into();
            (key.clone(), document)
        };
        let expected: Vec<_> = known.iter().map(with_seq).collect();
        assert_eq!(found, expected, "{table} at {seq}");
        // A condition on the last document and on the deletion; a limit.
        let (since, value) = (self.random.below(80) as u64, self.random.below(4));
        let (text, field, value) = match self.random.below(3) {
            0 => (format!("n = {value}"), "n", json!(value)),
            1 => ("s = \"paid\"".to_owned(), "s", json!("paid")),
            _ => (format!("n IN ({value}) AND s != \"x\""), "n", json!(value)),
        };
        let statement = format!(
            "SELECT _key, _deleted_seq FROM {table} DELETED WHERE {text} AND _deleted_seq > {since} AS OF @seq:{seq} LIMIT 2"
        );
        let found = self.ask(&statement).await.rows();
        let matching = expected.iter().filter(|(_, document)| {
            document[field] == value && document["_deleted_seq"].as_u64().unwrap() > since
        });
        let expected: Vec<_> = matching
            .map(|(key, document)| {
                (key.clone(), json!({"_key": key, "_deleted_seq": document["_deleted_seq"]}))
            })
            .take(2)
            .collect();
        assert_eq!(found, expected, "{statement}");
        let count = self.ask(&format!("SELECT COUNT(*) FROM {table} DELETED AS OF @seq:{seq}")).await.count();
        assert_eq!(count, known.len() as u64);
        self.check_arranged_deleted(table, seq, &known).await;
    }

    /// Sorted, grouped and different deleted rows are those of the deleted rows.
    async fn check_arranged_deleted(&mut self, table: &str, seq: u64, known: &[(String, (Value, u64))]) {
        let from = format!("FROM {table} DELETED");
        let at = format!("AS OF @seq:{seq}");
        let mut newest: Vec<_> = known.iter().map(|(key, (_, by))| (*by, key.clone())).collect();
        newest.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let found =
            self.ask(&format!("SELECT id {from} ORDER BY _deleted_seq DESC {at} LIMIT 4")).await.keys();
        assert_eq!(
            found,
            newest.into_iter().map(|(_, key)| key).take(4).collect::<Vec<_>>(),
            "{table} at {seq}"
        );
        let mut groups: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for (_, (document, by)) in known {
            let group = groups.entry(document["s"].as_str().unwrap().to_owned()).or_default();
            *group = (group.0 + 1, group.1.max(*by));
        }
        let expected: Vec<_> =
            groups.iter().map(|(s, (count, by))| json!({"s": s, "c": count, "last": by})).collect();
        let statement = format!("SELECT s, COUNT(*) AS c, MAX(_deleted_seq) AS last {from} GROUP BY s {at}");
        assert_eq!(self.ask(&statement).await.documents(), expected, "{statement}");
        let statement = format!("SELECT DISTINCT s {from} ORDER BY s {at}");
        let expected: Vec<_> = groups.keys().map(|s| json!({"s": s})).collect();
        assert_eq!(self.ask(&statement).await.documents(), expected, "{statement}");
        let total: u64 = groups.values().map(|(count, _)| count).sum();
        let statement = format!("SELECT COUNT(s) AS c, COUNT(DISTINCT s) AS d {from} {at}");
        let expected = [json!({"c": total, "d": groups.len()})];
        let answer = self.ask(&statement).await;
        assert_eq!(answer.documents(), expected, "{statement}");
        assert!(answer.notes.is_empty(), "{:?}", answer.notes);
    }

    async fn check_drift(&mut self, table: &str) {
        let condition = self.condition();
        let (from, to) = self.range();
        if to < 2 {
            return;
        }
        let limit = if self.random.below(2) == 0 { 1 + self.random.below(20) } else { 0 };
        let actor = self.random.pick(&["", "", "ann"]).to_owned();
        let newest_first = self.random.below(2) == 0;
        let images = self.random.below(2) == 0;
        let text = condition.text(&mut None);
        let asked =
            format!("{table} WHERE {text} BY {actor:?} from {from} to {to}, {newest_first} {limit} {images}");
        let request = v1::HistoryRequest {
            table: table.to_owned(),
            r#where: text,
            actor: actor.clone(),
            start: at_seq(from),
            end: at_seq(to),
            newest_first,
            with_before: images,
            with_after: images,
            limit: limit as u64,
            freshness: fresh(self.last()),
            ..Default::default()
        };
        let mut stream = self.clients.as_mut().unwrap().1.history(request).await.unwrap().into_inner();
        let mut found = Vec::new();
        while let Some(answer) = stream.message().await.unwrap() {
            for commit in answer.commits {
                assert_eq!(commit.actor, self.actors[&commit.seq]);
                found.extend(commit.changes.into_iter().map(|change| {
                    let image = |document: Option<v1::Document>| value_of(document.as_ref());
                    (commit.seq, change.key, image(change.before), image(change.after))
                }));
            }
        }
        let meets = |row: &Option<Row>| row.as_ref().is_some_and(|row| condition.met(row) == Some(true));
        let image = |row: &Option<Row>| match row {
            Some(row) if images => row.document.clone(),
            _ => Value::Null,
        };
        let passing = self.events.iter().filter(|event| {
            let is_by = actor.is_empty() || self.actors[&event.seq] == actor;
            event.seq > from && event.seq <= to && is_by && (meets(&event.before) || meets(&event.after))
        });
        let mut expected: Vec<_> = passing
            .map(|event| (event.seq, event.key.clone(), image(&event.before), image(&event.after)))
            .collect();
        if newest_first {
            expected.reverse();
        }
        if limit > 0 {
            expected.truncate(limit);
        }
        assert_eq!(found, expected, "{asked}");
    }

    /// The results of a statement with AS OF EVERY.
    async fn results(&mut self, statement: &str) -> Vec<Value> {
        let answer = self.ask(statement).await;
        let batches = answer.results.iter().map(|result| match result {
            Outcome::Results(batch) => batch,
            other => panic!("expected results, found {other:?}"),
        });
        batches.flat_map(|batch| &batch.results).map(|result| value_of(Some(result))).collect()
    }

    async fn check_every(&mut self, table: &str) {
        let condition = self.condition();
        let (from, to) = self.range();
        let step = 1 + self.random.below(9) as u64;
        let text = condition.text(&mut None);
        if to < 2 {
            return;
        }
        let every = format!("EVERY {step} SEQS FROM @seq:{from} TO @seq:{to}");
        let moments: Vec<u64> = (from..=to).step_by(usize::try_from(step).unwrap()).collect();
        let matching = |seq: u64| {
            let rows = self.at(table, seq).values().filter(|row| condition.met(row) == Some(true));
            rows.map(|row| row.document.clone()).collect::<Vec<_>>()
        };
        let whole: Vec<Value> = moments
            .iter()
            .map(|seq| {
                let rows = matching(*seq);
                let ns = || rows.iter().filter_map(|row| row["n"].as_i64());
                let sum = ns().next().map(|_| ns().sum::<i64>());
                let fs: f64 = rows.iter().filter_map(|row| row["f"].as_f64()).sum();
                let f = rows.iter().any(|row| row["f"].is_f64()).then_some(fs);
                json!({
                    "_moment_seq": seq, "COUNT(*)": rows.len(), "SUM(n)": sum, "SUM(f)": f,
                    "MIN(n)": ns().min(), "top": ns().max(),
                })
            })
            .collect();
        let mut groups = Vec::new();
        for seq in &moments {
            let mut of: BTreeMap<String, (u64, std::collections::BTreeSet<i64>)> = BTreeMap::new();
            for row in matching(*seq) {
                let group = of.entry(row["s"].as_str().unwrap().to_owned()).or_default();
                group.0 += 1;
                group.1.extend(row["n"].as_i64());
            }
            groups.extend(of.into_iter().filter(|(_, (count, _))| *count > 1).map(|(s, (count, ns))| {
                json!({"_moment_seq": seq, "s": s, "count": count, "COUNT(DISTINCT n)": ns.len()})
            }));
        }
        let times = self.times.clone();
        let without_time = |mut results: Vec<Value>| {
            for result in &mut results {
                let moment = result.as_object_mut().unwrap().remove("_moment");
                // The times of changes of the schema are not known here.
                if let Some(known) = times.get(&result["_moment_seq"].as_u64().unwrap()) {
                    let moment: driftdb_common::format::rfc3339::UtcTime =
                        moment.unwrap().as_str().unwrap().parse().unwrap();
                    assert_eq!(moment.millis(), *known, "{result}");
                }
            }
            results
        };
        let statement = format!(
            "SELECT COUNT(*), SUM(n), SUM(f), MIN(n), MAX(n) AS top FROM {table} WHERE {text} AS OF {every}"
        );
        assert_eq!(without_time(self.results(&statement).await), whole, "{statement}");
        let statement = format!(
            "SELECT s, COUNT(*) AS count, COUNT(DISTINCT n) FROM {table} WHERE {text} GROUP BY s HAVING count > 1 AS OF {every}"
        );
        assert_eq!(without_time(self.results(&statement).await), groups, "{statement}");
    }

    async fn check(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for (table, _) in TABLES {
                self.check_every(table).await;
                self.check_find(table).await;
                self.check_deleted(table).await;
                self.check_drift(table).await;
            }
        }
    }
}

async fn answers_as_a_replay_does(seed: u64, commits: usize) {
    let mut replay = Replay::new(seed).await;
    for _ in 0..commits {
        replay.commit().await;
    }
    replay.check(6).await;
    replay.drop_and_create().await;
    for _ in 0..commits {
        replay.commit().await;
    }
    replay.check(6).await;
    for (table, _) in TABLES {
        snapshot(replay.writer(), table).await.unwrap();
    }
    replay.check(6).await;
    for _ in 0..commits / 2 {
        replay.commit().await;
    }
    replay.restart().await;
    replay.check(6).await;
    let floor = replay.last() - commits as u64;
    for (table, _) in TABLES {
        compact(replay.writer(), table, at_seq(floor), false).await.unwrap();
    }
    // A commit after the compaction: who has applied it knows the floor.
    replay.commit().await;
    replay.floor = floor;
    replay.check(6).await;
    replay.restart().await;
    replay.check(6).await;
}

#[tokio::test]
async fn every_question_over_time_is_answered_as_a_replay_of_the_events_does() {
    answers_as_a_replay_does(11, 25).await;
}

#[tokio::test]
#[ignore = "slow"]
async fn every_question_over_time_is_answered_so_for_many_histories() {
    for seed in 100..108 {
        answers_as_a_replay_does(seed, 80).await;
    }
}

/// The groups of one moment can be more than fits into a message.
#[tokio::test]
async fn a_moment_with_many_groups_comes_in_several_messages() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let text = "x".repeat(2000);
    let rows = (0..400)
        .map(|n| insert("t", json!({"id": format!("k{n}"), "g": format!("{n:03}{text}")}).to_string()));
    let seen = apply(&mut cluster.writer, rows.collect()).await.unwrap().seq;
    let request = v1::ReaderServiceExecuteRequest {
        statement: format!(
            "SELECT g, COUNT(*) AS c FROM t GROUP BY g AS OF EVERY 1 SEQS FROM @seq:1 TO @seq:{seen}"
        ),
        freshness: fresh(seen),
        ..Default::default()
    };
    let mut stream = cluster.reader.execute(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        assert!(prost::Message::encoded_len(&message) < 2 * driftdb_common::limits::MESSAGE_BYTES);
        match message.result {
            Some(Outcome::Results(batch)) => {
                found.extend(batch.results.iter().map(|one| value_of(Some(one))))
            }
            other => panic!("expected results, found {other:?}"),
        }
    }
    let groups: Vec<_> =
        found.iter().map(|one| one["g"].as_str().unwrap()[..3].parse::<usize>().unwrap()).collect();
    assert_eq!(groups, (0..400).collect::<Vec<_>>());
}
