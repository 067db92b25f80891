//! SELECT returns the rows that match its condition, at every point in time, whichever access path it uses.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::harness::calls::{ask, ask_with, run};
use crate::harness::condition::{Condition, Random, Row};
use crate::harness::*;
use driftdb::v1;
use prost_types::Timestamp;
use serde_json::{Value, json};

const HOUR_MS: i64 = 3_600_000;
const COMMITS: i64 = 12;

/// Two tables with one history, `texts` with STRING and `numbers` with INT keys, and their rows after each commit. The
/// commits are an hour apart; the last one was an hour ago.
struct Shelf {
    cluster: Cluster,
    /// The time of commit `i + 1`.
    times: Vec<i64>,
    texts: Vec<BTreeMap<String, Row>>,
    numbers: Vec<BTreeMap<i64, Row>>,
    random: Random,
}

fn timestamp(ms: i64) -> Timestamp {
    Timestamp { seconds: ms.div_euclid(1000), nanos: (ms.rem_euclid(1000) * 1_000_000) as i32 }
}

fn document(random: &mut Random) -> Value {
    let mut document = json!({"n": random.below(20) as i64 - 5});
    let fields = document.as_object_mut().unwrap();
    let status = json!(["new", "paid", "päid", "", "100%", "a_b", null, 5, true, ["new"], {"x": 1}]);
    if random.below(8) > 0 {
        fields.insert("status".into(), random.pick(status.as_array().unwrap()));
    }
    if random.below(3) > 0 {
        let deep = json!([1, 1.0, 1.5, "1", null, false, 9007199254740993_i64, 18446744073709551615_u64]);
        fields.insert(
            "o".into(),
            json!({"deep": random.pick(deep.as_array().unwrap()), "odd name": random.below(3)}),
        );
    }
    document
}

impl Shelf {
    async fn fill() -> Shelf {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64;
        let mut shelf = Shelf {
            cluster: Cluster::start().await,
            times: Vec::new(),
            texts: vec![BTreeMap::new()],
            numbers: vec![BTreeMap::new()],
            random: Random(7),
        };
        for i in 0..COMMITS {
            let time = now - (COMMITS - i) * HOUR_MS;
            shelf.times.push(time);
            let options =
                Some(v1::CommitOptions { commit_time: Some(timestamp(time)), ..Default::default() });
            if i < 2 {
                let (table, key_type) =
                    [("texts", v1::KeyType::String), ("numbers", v1::KeyType::Int)][i as usize];
                let request = v1::CreateTableRequest {
                    table: table.into(),
                    key_type: key_type.into(),
                    options,
                    ..Default::default()
                };
                shelf.cluster.writer.create_table(request).await.unwrap();
                shelf.texts.push(BTreeMap::new());
                shelf.numbers.push(BTreeMap::new());
                continue;
            }
            let operations = shelf.change(i as u64 + 1, time);
            let request = v1::ApplyRequest { operations, options, ..Default::default() };
            shelf.cluster.writer.apply(request).await.unwrap();
        }
        shelf
    }

    /// Changes some rows of both tables in the model, and returns the operations for the API.
    fn change(&mut self, seq: u64, time_ms: i64) -> Vec<v1::Operation> {
        let (mut texts, mut numbers) =
            (self.texts.last().unwrap().clone(), self.numbers.last().unwrap().clone());
        let mut operations = Vec::new();
        for _ in 0..60 {
            let key =
                format!("{}{:02}", self.random.pick(&["a", "ab", "b", "é", "100%"]), self.random.below(40));
            let number = self.random.below(300) as i64 - 150;
            let mut content = document(&mut self.random);
            if self.random.below(5) == 0 {
                if texts.remove(&key).is_some() {
                    operations.push(delete("texts", &key));
                }
                if numbers.remove(&number).is_some() {
                    operations.push(delete("numbers", &number.to_string()));
                }
                continue;
            }
            content["id"] = key.clone().into();
            operations.push(put("texts", content.to_string()));
            texts.insert(key.clone(), Row { key: key.into(), seq, time_ms, document: content.clone() });
            content["id"] = number.into();
            operations.push(put("numbers", content.to_string()));
            numbers.insert(number, Row { key: number.into(), seq, time_ms, document: content });
        }
        self.texts.push(texts);
        self.numbers.push(numbers);
        operations
    }

    /// A table's rows after a commit, in key order.
    fn rows(&self, table: &str, seq: usize) -> Vec<&Row> {
        match table {
            "texts" => self.texts[seq].values().collect(),
            _ => self.numbers[seq].values().collect(),
        }
    }

    /// Ways to write a point in time, each with the commit that it means.
    fn moments(&mut self) -> Vec<(String, usize)> {
        let seq = 3 + self.random.below(COMMITS as usize - 3);
        let time = |ms: i64| timestamp(ms).to_string();
        vec![
            (String::new(), COMMITS as usize),
            (" AS OF @now".into(), COMMITS as usize),
            (format!(" AS OF @seq:{seq}"), seq),
            (format!(" AS OF \"@seq:{seq}\""), seq),
            (format!(" AS OF \"{}\"", time(self.times[seq - 1])), seq),
            (format!(" AS OF \"{}\"", time(self.times[seq - 1] - 1)), seq - 1),
            (format!(" AS OF \"{} minutes ago\"", (COMMITS as usize - seq) * 60 + 30), seq),
        ]
    }
}

/// A condition on a column, with values that occur and values that do not.
fn simple(random: &mut Random, times: &[i64]) -> Condition {
    let path = random.pick(&[
        "n",
        "n",
        "status",
        "status",
        "o.deep",
        "o.`odd name`",
        "o",
        "nowhere",
        "n.x",
        "_seq",
        "_time",
        "id",
        "_key",
    ]);
    let value = |random: &mut Random| match path {
        "_seq" => json!(random.below(14)),
        "_time" => json!(timestamp(random.pick(times) + random.below(3) as i64 - 1).to_string()),
        "id" | "_key" => {
            random.pick(&[json!("a07"), json!("b"), json!("é20"), json!(3), json!(-3.5), json!(50)])
        }
        "n" | "n.x" => random.pick(&[json!(3), json!(3.0), json!(-2.5), json!("3"), json!(true), json!(14)]),
        "o.`odd name`" => json!(random.below(3)),
        _ => random.pick(&[
            json!("new"),
            json!("paid"),
            json!(""),
            json!(5),
            json!(true),
            json!(false),
            json!(1),
            json!(1.0),
            json!("1"),
            json!(9007199254740992_i64),
            json!(9007199254740993_i64),
            json!(18446744073709551615_u64),
            json!(["new"]),
            json!({"x": 1.0}),
            json!({"odd name": 1, "deep": 1.5}),
        ]),
    };
    let negated = random.below(3) == 0;
    match random.below(9) {
        0..=3 => {
            let op = random.pick(&["=", "!=", "<>", "<", "<=", ">", ">="]);
            Condition::Compare(path, op, value(random))
        }
        4 => {
            let mut values: Vec<Value> = (0..=random.below(3)).map(|_| value(random)).collect();
            if random.below(4) == 0 {
                values.push(Value::Null);
            }
            Condition::In(path, values, negated)
        }
        5 => Condition::Between(path, value(random), value(random), negated),
        6 if !["_seq", "_time"].contains(&path) => {
            let patterns = ["a%", "%0_", "new", "p_id", "%", "", "100\\%", "a\\_b", "%é%", "_", "ab%7"];
            Condition::Like(path, random.pick(&patterns), negated)
        }
        7 => Condition::IsNull(path, negated),
        _ => Condition::IsMissing(path, negated),
    }
}

fn condition(random: &mut Random, times: &[i64], depth: usize) -> Condition {
    let parts =
        |random: &mut Random| (0..2 + random.below(2)).map(|_| condition(random, times, depth - 1)).collect();
    match random.below(if depth == 0 { 1 } else { 5 }) {
        3 => Condition::And(parts(random)),
        4 => Condition::Or(parts(random)),
        2 => Condition::Not(Box::new(condition(random, times, depth - 1))),
        _ => simple(random, times),
    }
}

fn shown(row: &Row) -> (String, Value) {
    let key = row.key.as_str().map_or_else(|| row.key.to_string(), str::to_owned);
    (key, row.document.clone())
}

#[tokio::test]
async fn a_condition_selects_the_same_rows_as_the_model_at_every_commit() {
    let mut shelf = Shelf::fill().await;
    let (mut asked, mut found) = (0, 0);
    for round in 0..400 {
        let times = shelf.times.clone();
        let condition = condition(&mut shelf.random, &times, 2);
        let mut params = (round % 3 == 0).then(Vec::new);
        let text = condition.text(&mut params);
        let params = params.unwrap_or_default();
        let params: Vec<&str> = params.iter().map(String::as_str).collect();
        let moments = shelf.moments();
        let (moment, seq) = shelf.random.pick(&moments);
        let table = shelf.random.pick(&["texts", "numbers"]);
        let expected: Vec<&Row> =
            shelf.rows(table, seq).into_iter().filter(|row| condition.met(row) == Some(true)).collect();
        let expected: Vec<(String, Value)> = expected.into_iter().map(shown).collect();
        let reader = &mut shelf.cluster.reader;
        for tail in [format!("WHERE {text}{moment}"), format!("{moment} WHERE {text}")] {
            let statement = format!("SELECT * FROM {table} {tail}");
            let answer = ask_with(reader, &statement, &params, COMMITS as u64).await.unwrap();
            assert_eq!(answer.seq(), seq as u64, "{statement}");
            assert_eq!(answer.rows(), expected, "{statement} with {params:?}");
        }
        let statement = format!("SELECT COUNT(*) FROM {table} WHERE {text}{moment}");
        let count = ask_with(reader, &statement, &params, COMMITS as u64).await.unwrap().count();
        assert_eq!(count, expected.len() as u64, "{statement}");
        let (limit, offset) = (shelf.random.below(6), shelf.random.below(4));
        let statement = format!("SELECT * FROM {table} WHERE {text} LIMIT {limit}{moment} OFFSET {offset}");
        let answer = ask_with(&mut shelf.cluster.reader, &statement, &params, COMMITS as u64).await.unwrap();
        let part: Vec<_> = expected.iter().skip(offset).take(limit).cloned().collect();
        assert_eq!(answer.rows(), part, "{statement}");
        asked += shelf.rows(table, seq).len();
        found += expected.len();
    }
    assert!(found > asked / 10 && found < asked * 9 / 10, "the conditions selected {found} of {asked} rows");
}

/// Conditions on the key, each with the most rows that it may read.
fn key_conditions(random: &mut Random, rows: &[&Row]) -> Vec<(Condition, usize)> {
    let ints = rows[0].key.is_i64();
    let column = random.pick(&["id", "_key"]);
    let there = |random: &mut Random| random.pick(rows).key.clone();
    let mut pair = [there(random), there(random)];
    pair.sort_by(|a, b| match (a.as_i64(), b.as_i64()) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_str().cmp(&b.as_str()),
    });
    let [low, high] = pair;
    let among = |cond: &Condition| rows.iter().filter(|row| cond.met(row) == Some(true)).count();
    let mut conditions = vec![
        (Condition::Compare(column, "=", there(random)), 1),
        (Condition::Compare(column, "=", json!("nobody")), 0),
        (
            Condition::In(
                column,
                vec![there(random), json!(0.5), there(random), Value::Null, there(random)],
                false,
            ),
            3,
        ),
        (
            Condition::Or(vec![
                Condition::Compare("id", "=", there(random)),
                Condition::Compare("_key", "=", there(random)),
            ]),
            2,
        ),
        (
            Condition::And(vec![
                Condition::Compare("n", ">", json!(0)),
                Condition::Compare(column, "=", there(random)),
            ]),
            1,
        ),
    ];
    for op in ["<", "<=", ">", ">="] {
        let value = if ints {
            random.pick(&[low.clone(), json!(-20.5), json!(30.0), json!(60.0)])
        } else {
            low.clone()
        };
        let range = Condition::Compare(column, op, value);
        let reads = among(&range);
        conditions.push((range, reads));
    }
    let between = Condition::Between(column, low, high, false);
    let reads = among(&between);
    conditions.push((Condition::And(vec![between.clone(), Condition::IsMissing("status", true)]), reads));
    conditions.push((between, reads));
    for pattern in ["a%", "ab%", "100\\%%", "é%", "b1_", "ab07"] {
        let prefix = pattern.replace("\\%", "!").trim_end_matches(['%', '_']).replace('!', "%");
        let like = Condition::Like(column, pattern, false);
        let reads =
            rows.iter().filter(|row| row.key.as_str().is_some_and(|key| key.starts_with(&prefix))).count();
        conditions.push((like, reads));
    }
    conditions
}

#[tokio::test]
async fn conditions_on_the_key_read_few_rows_and_select_the_same() {
    let mut shelf = Shelf::fill().await;
    for table in ["texts", "numbers"] {
        for _ in 0..8 {
            let moments = shelf.moments();
            let (moment, seq) = shelf.random.pick(&moments);
            let all = shelf.rows(table, seq).into_iter().cloned().collect::<Vec<_>>();
            let conditions = key_conditions(&mut shelf.random, &all.iter().collect::<Vec<_>>());
            for (condition, reads) in conditions {
                let text = condition.text(&mut None);
                let fast = format!("SELECT * FROM {table} WHERE {text}{moment}");
                let slow = format!("SELECT * FROM {table} WHERE NOT (NOT ({text})){moment}");
                let reader = &mut shelf.cluster.reader;
                let rows = ask(reader, &fast, COMMITS as u64).await.unwrap().rows();
                let expected: Vec<_> =
                    all.iter().filter(|row| condition.met(row) == Some(true)).map(shown).collect();
                assert_eq!(rows, expected, "{fast}");
                assert_eq!(ask(reader, &slow, COMMITS as u64).await.unwrap().rows(), expected, "{slow}");
                let how = ask(reader, &format!("EXPLAIN {fast}"), COMMITS as u64).await.unwrap();
                let (how, seq) = (how.message().to_owned(), format!("{table} at seq {seq}: key"));
                assert!(how.starts_with(&seq), "{fast}: {how}");
                let read: usize = number_before(&how, " rows read");
                assert!(read <= reads, "{fast}: {how}, and {reads} would do");
                assert_eq!(number_before(&how, " returned"), expected.len(), "{how}");
                let how = ask(reader, &format!("EXPLAIN {slow}"), COMMITS as u64).await.unwrap();
                assert!(how.message().contains("full scan"), "{}", how.message());
                assert_eq!(number_before(how.message(), " rows read"), all.len());
            }
        }
    }
}

/// The number before some words.
fn number_before(text: &str, words: &str) -> usize {
    let before = text.split(words).next().unwrap();
    before.rsplit([' ', ',']).next().unwrap().parse().unwrap_or_else(|_| panic!("{words:?} in {text:?}"))
}

#[tokio::test]
async fn int_keys_are_ordered_as_numbers() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE n (pk=id INT)").await.unwrap();
    let mut numbers = vec![0, 9, 10, -1, -10, 100, 2, i64::MAX, i64::MIN, 9_007_199_254_740_993];
    let inserts = numbers.iter().map(|n| insert("n", format!(r#"{{"id":{n}}}"#))).collect();
    let seq = apply(&mut cluster.writer, inserts).await.unwrap().seq;
    numbers.sort_unstable();
    let texts = |numbers: &[i64]| numbers.iter().map(i64::to_string).collect::<Vec<_>>();
    for (condition, expected) in [
        ("id IS NOT NULL", &numbers[..]),
        ("id > -2 AND _key < 10", &[-1, 0, 2, 9]),
        ("id >= 9007199254740992.0", &[9_007_199_254_740_993, i64::MAX]),
        ("id = 9007199254740992.0", &[]),
        ("id < -9223372036854775807", &[i64::MIN]),
        ("id > 18446744073709551615", &[]),
        ("id <= 18446744073709551615", &numbers),
        ("id BETWEEN 9 AND 10", &[9, 10]),
        ("id IN (10, 2, 10, \"9\")", &[2, 10]),
    ] {
        let statement = format!("SELECT * FROM n WHERE {condition}");
        let answer = ask(&mut cluster.reader, &statement, seq).await.unwrap();
        assert_eq!(answer.keys(), texts(expected), "{condition}");
    }
}

#[tokio::test]
async fn a_select_returns_the_columns_that_it_names() {
    let mut shelf = Shelf::fill().await;
    let seq = COMMITS as usize;
    let statement = "SELECT n, o.deep, o.`odd name`, _key, _seq, _time, nowhere FROM texts";
    let rows = ask(&mut shelf.cluster.reader, statement, seq as u64).await.unwrap().rows();
    let expected: Vec<(String, Value)> = shelf
        .rows("texts", seq)
        .into_iter()
        .map(|row| {
            let mut columns = json!({"n": row.document["n"], "_key": row.key, "_seq": row.seq, "_time": ""});
            // The time as text, in milliseconds.
            let time = timestamp(row.time_ms).to_string();
            let (whole, fraction) =
                time.trim_end_matches('Z').split_once('.').unwrap_or((time.trim_end_matches('Z'), ""));
            columns["_time"] = format!("{whole}.{fraction:0<3}Z").into();
            if let Some(inner) = row.document.get("o") {
                columns["o.deep"] = inner["deep"].clone();
                columns["o.odd name"] = inner["odd name"].clone();
            }
            (shown(row).0, columns)
        })
        .collect();
    assert_eq!(rows, expected);
    let first =
        ask(&mut shelf.cluster.reader, "SELECT _seq, n FROM texts LIMIT 1", seq as u64).await.unwrap();
    let names: Vec<String> = first.rows()[0].1.as_object().unwrap().keys().cloned().collect();
    assert_eq!(names.len(), 2);
}
