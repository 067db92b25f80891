//! SELECT returns the same rows whatever indexes a table has: none, on single paths, or composite ones, at every commit, and
//! before and after snapshots, compactions and restarts.

use crate::harness::calls::{ask, compact, fresh, snapshot};
use crate::harness::condition::{Condition, Random};
use crate::harness::indexed_tables::{IndexedTables, TABLES};
use crate::harness::*;
use driftdb::v1;
use serde_json::{Value, json};

/// A value with which a condition may compare.
fn literal(random: &mut Random) -> Value {
    let values = json!([0, 1, 2, 2.0, "x", "xy", "", true]);
    random.pick(values.as_array().unwrap())
}

fn comparison(random: &mut Random, path: &'static str) -> Condition {
    let (first, second) = (literal(random), literal(random));
    match random.below(8) {
        0 => Condition::In(path, vec![first, second], false),
        1 => Condition::Compare(path, random.pick(&["<", "<=", ">", ">="]), first),
        2 => Condition::Between(path, first, second, false),
        3 => Condition::Like(path, random.pick(&["x%", "xy", "%"]), false),
        _ => Condition::Compare(path, "=", first),
    }
}

fn condition(random: &mut Random) -> Condition {
    let mut parts = vec![comparison(random, "a"), comparison(random, "b")];
    if random.below(3) == 0 {
        parts.push(comparison(random, "n.c"));
    }
    match random.below(6) {
        0 => Condition::Or(vec![Condition::And(parts), comparison(random, "b")]),
        1 => parts.swap_remove(0),
        _ => Condition::And(parts),
    }
}

/// Asks every table the same, at a commit.
async fn check(tables: &mut IndexedTables, seq: usize) {
    let condition = condition(&mut tables.random);
    let text = condition.text(&mut None);
    let last = tables.last();
    let limit = if tables.random.below(4) == 0 { 1 + tables.random.below(5) } else { 0 };
    let rows = tables.states[seq].values().filter(|row| condition.met(row) == Some(true));
    let expected: Vec<(String, Value)> = rows
        .map(|row| (row.key.as_str().unwrap().to_owned(), row.document.clone()))
        .take(if limit == 0 { usize::MAX } else { limit })
        .collect();
    for (table, _) in TABLES {
        let request = v1::SelectRequest {
            table: table.into(),
            r#where: text.clone(),
            as_of: at_seq(seq as u64),
            freshness: fresh(last as u64),
            limit: limit as u64,
            ..Default::default()
        };
        let found = select(tables.reader.as_mut().unwrap(), request).await.unwrap();
        let found: Vec<(String, Value)> =
            found.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
        assert_eq!(found, expected, "{table} at {seq}: {text} LIMIT {limit}");
    }
}

async fn check_some(tables: &mut IndexedTables, count: usize) {
    for _ in 0..count {
        let (floor, last) = (tables.floor, tables.last());
        let seq = floor + tables.random.below(last + 1 - floor);
        check(tables, seq).await;
        check(tables, last).await;
    }
}

#[tokio::test]
async fn selects_return_the_same_rows_whatever_indexes_there_are() {
    let seed = lane::by_lane(7, 70);
    let mut run = IndexedTables::new(seed as u64).await;
    for round in 0..lane::by_lane(5, 60) {
        run.only_whole_rows = round % 2 == 0;
        for _ in 0..40 {
            run.commit().await;
        }
        check_some(&mut run, 12).await;
        if round == 1 {
            run.write("CREATE INDEX ON late ((b, a), b)").await;
        }
        if round == 3 {
            run.write("DROP INDEX ON late ((b, a))").await;
        }
        for (table, _) in TABLES {
            snapshot(run.writer.as_mut().unwrap(), table).await.unwrap();
        }
        check_some(&mut run, 12).await;
        if round % 2 == 1 {
            let floor = run.floor + (run.last() - run.floor) / 2;
            for (table, _) in TABLES {
                compact(run.writer.as_mut().unwrap(), table, at_seq(floor as u64), false).await.unwrap();
            }
            run.floor = floor;
            check_some(&mut run, 8).await;
        }
        run.restart().await;
        check_some(&mut run, 8).await;
    }
}

#[tokio::test]
async fn a_composite_index_is_declared_shown_chosen_and_dropped() {
    let mut run = IndexedTables::new(3).await;
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

    let last = run.last() as u64;
    let answer = ask(run.reader.as_mut().unwrap(), "DESCRIBE mixed", last).await.unwrap();
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
