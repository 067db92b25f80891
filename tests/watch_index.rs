//! A commit wakes only the watches that it may concern: hundreds of watches with random filters each get exactly their changes,
//! in order, while single commits arrive that concern a few of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::harness::checker::{Checker, Start};
use crate::harness::condition::{Condition, Random};
use crate::harness::filter::Filter;
use crate::harness::history::TableOwner;
use crate::harness::lane::by_lane;
use crate::harness::watcher::{Journal, LIMIT, Watcher};
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};

/// The seed of the filters and the history.
fn seed() -> u64 {
    std::env::var("DRIFTDB_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(12)
}

/// The tables, and whether their keys are numbers.
const TABLES: [(&str, bool); 3] = [("a", false), ("b", true), ("c", false)];
const PREFIXES: [&str; 6] = ["", "k", "k1", "k12", "1", "é"];

struct Dice(Random);

impl Dice {
    fn below(&mut self, limit: u64) -> usize {
        usize::try_from((self.0.next() >> 33) % limit).unwrap()
    }

    fn key(&mut self, is_number: bool) -> String {
        let number = self.below(25);
        if is_number { number.to_string() } else { format!("{}{number}", ["k", "é"][number % 2]) }
    }

    /// Values that are often equal, in several forms.
    fn value(&mut self) -> Value {
        let values =
            [json!(1), json!(1.0), json!(2), json!("1"), json!("x"), json!(null), json!([1, 2]), json!(true)];
        values[self.below(8)].clone()
    }

    fn equal(&mut self) -> Condition {
        let column = ["n", "s", "o.p", "_key"][self.below(4)];
        let value = match column {
            "_key" => json!(self.key(false)),
            _ => self.value(),
        };
        let value = if value.is_null() { json!(2) } else { value };
        match self.below(3) {
            0 => Condition::In(column, vec![value, self.value()], false),
            1 if column == "_key" => Condition::Compare("_key", "=", self.below(25).into()),
            _ => Condition::Compare(column, "=", value),
        }
    }

    fn condition(&mut self) -> Condition {
        match self.below(8) {
            0 => Condition::And(vec![self.equal(), Condition::Compare("n", ">", json!(1))]),
            1 => Condition::Or(vec![self.equal(), self.equal()]),
            2 => Condition::Or(vec![self.equal(), Condition::IsMissing("s", false)]),
            3 => Condition::Not(Box::new(self.equal())),
            4 => Condition::And(vec![self.equal(), self.equal()]),
            _ => self.equal(),
        }
    }

    fn filter(&mut self) -> Filter {
        let tables = match self.below(4) {
            0 => vec![],
            1 => vec!["a", "b"],
            _ => vec![TABLES[self.below(3)].0],
        };
        let keys = match self.below(4) {
            0 => (0..=self.below(3)).map(|number| self.key(number % 2 == 1)).collect(),
            _ => vec![],
        };
        // Of an INT table only integers are keys.
        let keys = if tables.is_empty() || tables == ["a"] || tables == ["c"] { keys } else { vec![] };
        let prefix = if self.below(4) == 0 { PREFIXES[self.below(6)] } else { "" };
        let condition = (self.below(2) == 0).then(|| self.condition());
        let (before, after, msgpack) = (self.below(2) == 0, self.below(2) == 0, self.below(3) == 0);
        Filter { tables, keys, prefix, condition, before, after, msgpack }
    }

    fn row(&mut self) -> Value {
        let mut row = json!({"n": self.value(), "o": {"p": self.value()}});
        if self.below(3) > 0 {
            row["s"] = self.value();
        }
        row
    }

    /// A few operations on rows of the tables.
    fn operations(&mut self, owner: &mut TableOwner) -> Vec<v1::Operation> {
        let mut operations = Vec::new();
        for _ in 0..=self.below(20) / 19 * 3 {
            let (table, is_number) = TABLES[self.below(3)];
            let key = self.key(is_number);
            operations.push(match self.below(6) {
                0 if owner.has(table, &key) => owner.delete(table, &key),
                // Half of the patches leave what conditions ask for as it is.
                1 | 2 if owner.has(table, &key) => owner.patch(table, &key, json!({"other": self.below(9)})),
                3 if owner.has(table, &key) => owner.patch(table, &key, json!({"n": self.value()})),
                _ => {
                    let row = self.row();
                    owner.put(table, &key, row)
                }
            });
        }
        operations
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_watch_gets_exactly_its_changes() {
    let mut cluster = Cluster::start().await;
    let (mut dice, mut owner, journal) = (Dice(Random(seed())), TableOwner::default(), Journal::new());
    for (table, is_number) in TABLES {
        let token =
            cluster.writer.create_table(owner.create(table, is_number)).await.unwrap().into_inner().token;
        journal.add(owner.acknowledged(&token.unwrap(), ""));
    }
    let (end, ended) = tokio::sync::watch::channel(u64::MAX);
    let readers = Arc::new(Mutex::new(vec![cluster.reader_daemon.url.clone()]));
    let mut following = Vec::new();
    let mut begin = |dice: &mut Dice| {
        let filter = dice.filter();
        let text = format!("{filter:?}");
        let start = if dice.below(3) == 0 { Start::AfterSeq(0) } else { Start::Now };
        let watcher = Watcher::new(Checker::new(filter, start));
        let followed = watcher.follow(readers.clone(), journal.clone(), ended.clone());
        following.push((text, tokio::spawn(followed)));
    };
    (0..by_lane(60, 400)).for_each(|_| begin(&mut dice));
    let commits = by_lane(250, 20_000);
    let mut last = 0;
    for number in 0..commits {
        let operations = dice.operations(&mut owner);
        let token = apply(&mut cluster.writer, operations).await.unwrap();
        journal.add(owner.acknowledged(&token, ""));
        last = token.seq;
        match number % 50 {
            // Rows leave the memory of the reader.
            49 => calls::snapshot(&mut cluster.writer, TABLES[dice.below(3)].0).await.unwrap(),
            25 => begin(&mut dice),
            // Most watches wait when the next commit comes.
            _ if dice.below(3) > 0 => tokio::time::sleep(Duration::from_millis(3)).await,
            _ => {}
        }
    }
    end.send_replace(last);
    let (mut wrong, mut changes) = (Vec::new(), 0);
    for (filter, followed) in following {
        match tokio::time::timeout(LIMIT, followed).await.expect("a watch does not reach the end").unwrap() {
            Ok(watcher) => changes += watcher.checker.counts.changes,
            Err(violation) => wrong.push(format!("{filter}: {violation:?}")),
        }
    }
    assert!(wrong.is_empty(), "{} of the watches: {wrong:#?}", wrong.len());
    assert!(changes > 0, "no change passed any filter");
}
