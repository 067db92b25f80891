//! Words for moments mean the same in options, statements and conditions, in the time zone that is asked for, and the answer says what they
//! were taken for. Questions that begin before a table's creation have answers.

use std::process::{Command, Output};

use crate::harness::calls::{ask, run, run_with};
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;
use driftdb::v1;
use prost_types::Timestamp;
use serde_json::Value;
use tonic::Code;

const DAY: i64 = 86_400;

fn driftctl(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(binary("driftctl"));
    command.env_remove("DRIFTDB_TZ").env("DRIFTDB_WRITER", &cluster.writer_daemon.url);
    command.env("DRIFTDB_READER", &cluster.reader_daemon.url).args(args).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A table with one row that was written three days ago, two days ago and now: "n" is 3, 2 and 0.
async fn three_days() -> Cluster {
    let mut cluster = Cluster::start().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |days: i64| {
        let commit_time = Some(Timestamp { seconds: now - days * DAY, nanos: 0 });
        Some(v1::CommitOptions { commit_time, ..Default::default() })
    };
    let request = v1::CreateTableRequest { table: "t".into(), options: at(4), ..Default::default() };
    cluster.writer.create_table(request).await.unwrap();
    for days in [3, 2, 0] {
        let operations = vec![put("t", format!(r#"{{"id":"a","n":{days}}}"#))];
        let options = at(days).filter(|_| days > 0);
        cluster.writer.apply(v1::ApplyRequest { operations, options, ..Default::default() }).await.unwrap();
    }
    cluster
}

#[tokio::test]
async fn words_are_understood_everywhere_and_the_answer_says_how() {
    let mut cluster = three_days().await;
    let n =
        |output: &Output| lines(output).iter().map(|line| line["n"].as_i64().unwrap()).collect::<Vec<_>>();
    for args in [
        vec!["get", "t", "a", "--as-of", "yesterday"],
        vec!["select", "t", "--as-of", "yesterday"],
        vec!["sql", "SELECT * FROM t AS OF \"yesterday\""],
    ] {
        let output = driftctl(&cluster, &args);
        assert_eq!(n(&output), [2], "{args:?}");
        let note = said(&output);
        assert!(
            note.contains("note: \"yesterday\" means ") && note.contains("in the time zone UTC"),
            "{note}"
        );
        let berlin = driftctl(&cluster, &[&args[..], &["--tz", "Europe/Berlin"]].concat());
        assert!(said(&berlin).contains(":00:00.000Z, in the time zone Europe/Berlin"), "{}", said(&berlin));
    }
    let output = driftctl(&cluster, &["drift", "t", "--from", "yesterday"]);
    assert_eq!(lines(&output).len(), 1);
    let output = driftctl(&cluster, &["select", "t", "--where", "_time > \"yesterday\""]);
    assert_eq!((n(&output), said(&output).matches("\"yesterday\" means").count()), (vec![0], 1));
    let output = driftctl(&cluster, &["sql", "REVERT t KEY \"a\" TO \"yesterday\""]);
    assert!(output.status.success() && said(&output).contains("\"yesterday\" means"), "{output:?}");
    assert_eq!(n(&driftctl(&cluster, &["get", "t", "a"])), [2]);
    let output = driftctl(&cluster, &["compact", "t", "--before", "yesterday", "--dry-run"]);
    assert_eq!(lines(&output)[0]["floor_seq"], 3);
    // Nobody is asked for what needs no words.
    assert_eq!(said(&driftctl(&cluster, &["select", "t", "--as-of", "2 days ago"])), "");

    let unknown = driftctl(&cluster, &["get", "t", "a", "--as-of", "yesterdya"]);
    assert!(!unknown.status.success() && said(&unknown).contains("\"5 minutes ago\""), "{unknown:?}");
    let zone = driftctl(&cluster, &["get", "t", "a", "--tz", "Mars/Olympus"]);
    assert!(zone.status.code() == Some(2) && said(&zone).contains("Europe/Berlin"), "{zone:?}");
    let request = v1::ReaderServiceExecuteRequest {
        statement: "SHOW TABLES".into(),
        time_zone: "Mars/Olympus".into(),
        ..Default::default()
    };
    invalid(cluster.reader.execute(request).await, "ARGUMENT_INVALID");
    run_with(&mut cluster.writer, "REVERT t KEY \"a\" TO $1", &["\"yesterday\""]).await.unwrap();
}

#[tokio::test]
async fn a_day_of_the_calendar_is_a_step_of_as_of_every() {
    let cluster = three_days().await;
    let statement = "SELECT MAX(n) AS n FROM t AS OF EVERY \"1 day\" FROM \"5 days ago\"";
    let output = driftctl(&cluster, &["sql", statement]);
    let found: Vec<_> = lines(&output)
        .iter()
        .map(|line| (line["_moment_seq"].as_u64().unwrap(), line["n"].as_i64()))
        .collect();
    let expected = [(0, None), (1, None), (2, Some(3)), (3, Some(2)), (3, Some(2))];
    assert_eq!(found[..5], expected, "{output:?}");
    assert!(said(&output).contains("it has no rows at moments before that"), "{}", said(&output));
}

#[tokio::test]
async fn a_diff_and_a_watch_can_begin_before_the_creation_of_a_table() {
    let mut cluster = Cluster::start().await;
    cluster.create("other").await;
    cluster.create("t").await;
    apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a"}"#), insert("t", r#"{"id":"b"}"#)])
        .await
        .unwrap();
    let diff = ask(&mut cluster.reader, "SHOW DIFF t FROM @seq:1 TO @seq:3", 3).await.unwrap();
    assert_eq!(
        diff.diff().iter().map(|(key, before, _)| (key.as_str(), before.is_null())).collect::<Vec<_>>(),
        [("a", true), ("b", true)]
    );
    assert!(diff.headers[0].notes[0].contains("created by commit 2"), "{:?}", diff.headers[0].notes);
    let one = ask(&mut cluster.reader, "SHOW DIFF t KEY \"b\" FROM @seq:1 TO @now", 3).await.unwrap();
    assert_eq!(one.diff().len(), 1);
    let strict = ask(&mut cluster.reader, "SHOW DIFF t FROM @seq:1 TO @seq:3 STRICT", 3).await;
    refused(strict, Code::NotFound, "TABLE_NOT_FOUND");
    let request = v1::DiffRequest { table: "t".into(), start: at_seq(1), ..Default::default() };
    refused(cluster.reader.diff(request).await, Code::NotFound, "TABLE_NOT_FOUND");

    let output = driftctl(&cluster, &["diff", "t", "--from", "@seq:1"]);
    assert_eq!(lines(&output).len(), 2);
    assert!(said(&output).contains("every row counts as added"), "{}", said(&output));
    assert_eq!(driftctl(&cluster, &["diff", "t", "--from", "@seq:1", "--strict"]).status.code(), Some(4));
    let watch = ["watch", "-t", "t", "--from", "@seq:1", "--until", "@now"];
    let output = driftctl(&cluster, &watch);
    assert_eq!(lines(&output).len(), 3);
    assert!(said(&output).contains("created by commit 2"), "{}", said(&output));
    assert_eq!(driftctl(&cluster, &[&watch[..], &["--strict"]].concat()).status.code(), Some(4));
}

#[tokio::test]
async fn drift_shows_the_events_and_images_that_are_asked_for() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    for statement in [
        r#"INSERT INTO t {"id": "a", "n": 1}"#,
        r#"PATCH t KEY "a" SET {"n": 5}"#,
        r#"INSERT INTO t {"id": "b", "n": 2}"#,
    ] {
        run(&mut cluster.writer, statement).await.unwrap();
    }
    let output = driftctl(&cluster, &["drift", "t", "--where", "n > $1", "--param", "4", "--with-before"]);
    let found = lines(&output);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!((&found[0]["before"]["n"], found[0].get("after")), (&Value::from(1), None));
    assert!(lines(&driftctl(&cluster, &["drift", "t", "--by", "nobody"])).is_empty());
    let wrong = driftctl(&cluster, &["drift", "t", "--where", "n >"]);
    assert!(said(&wrong).contains("n >") && !wrong.status.success(), "{wrong:?}");
    let found = lines(&driftctl(&cluster, &["sql", "FIND FIRST IN t WHERE n > 4"]));
    assert_eq!(
        (&found[0]["seq"], &found[0]["before"]["n"], &found[0]["after"]["n"]),
        (&3.into(), &1.into(), &5.into())
    );
}

#[tokio::test]
async fn driftctl_find_asks_what_the_statement_asks() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE `key` (pk=id INT)").await.unwrap();
    for statement in [
        r#"INSERT INTO `key` {"id": 1, "n": 1}, {"id": 2, "n": 9}"#,
        r#"PATCH `key` KEY 1 SET {"n": 9}"#,
        r#"PATCH `key` KEY 2 SET {"n": 0}"#,
        r#"PATCH `key` KEY 2 SET {"n": 9}"#,
    ] {
        run(&mut cluster.writer, statement).await.unwrap();
    }
    let seqs = |args: &[&str]| {
        let output = driftctl(&cluster, &[&["find", "key"], args].concat());
        lines(&output).iter().map(|line| line["seq"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    let condition = ["--where", "n > $1 -- large", "--param", "8"];
    assert_eq!(seqs(&condition), [2]);
    assert_eq!(seqs(&[&condition[..], &["--first"]].concat()), [2]);
    assert_eq!(seqs(&[&condition[..], &["--last"]].concat()), [5]);
    assert_eq!(seqs(&[&["1"], &condition[..]].concat()), [3]);
    assert_eq!(seqs(&[&condition[..], &["-k", "2", "--last", "--to", "@seq:4"]].concat()), [2]);
    let nothing = driftctl(&cluster, &["find", "key", "--where", "n > 8", "--from", "@seq:5"]);
    assert!(lines(&nothing).is_empty() && said(&nothing).contains("at no commit after seq 5"), "{nothing:?}");
    for (args, words) in [
        (vec!["find", "key", "--where", "n >"], "n >"),
        (vec!["find", "key", "x", "--where", "n > 8"], "the keys of this table are integers"),
        (vec!["find", "key", "--where", "n > 8", "--first", "--last"], "--last"),
        (vec!["find", "keys", "--where", "n > 8"], "\"keys\""),
        (vec!["find", "key"], "--where"),
    ] {
        let output = driftctl(&cluster, &args);
        assert!(!output.status.success() && said(&output).contains(words), "{args:?}: {output:?}");
    }
}

/// A row that was deleted now, and the text of `_deleted_time`.
async fn deleted_row() -> (Cluster, String) {
    let mut cluster = three_days().await;
    let seen = apply(&mut cluster.writer, vec![delete("t", "a")]).await.unwrap().seq;
    let answer = ask(&mut cluster.reader, "SELECT _deleted_time FROM t DELETED", seen).await.unwrap();
    let time = answer.documents()[0]["_deleted_time"].as_str().unwrap().to_owned();
    (cluster, time)
}

#[tokio::test]
async fn the_time_of_a_deletion_is_compared_as_a_time() {
    let (mut cluster, time) = deleted_row().await;
    let half = time.replace('Z', "5Z");
    for (condition, expected) in [
        ("_deleted_time > \"yesterday\"".to_owned(), 1),
        ("_deleted_time < \"yesterday\"".to_owned(), 0),
        ("_deleted_time <= @now".to_owned(), 1),
        ("_deleted_time > @now".to_owned(), 0),
        ("_deleted_time BETWEEN \"yesterday\" AND @now".to_owned(), 1),
        ("_time < @now".to_owned(), 1),
        (format!("_deleted_time = \"{time}\""), 1),
        (format!("_deleted_time IN (\"{time}\", @now)"), 1),
        // Half a millisecond later.
        (format!("_deleted_time = \"{half}\""), 0),
        (format!("_deleted_time < \"{half}\""), 1),
        (format!("_deleted_time <= \"{half}\""), 1),
        (format!("_deleted_time > \"{half}\""), 0),
        (format!("_deleted_time >= \"{half}\""), 0),
        (format!("_deleted_time BETWEEN \"{time}\" AND \"{half}\""), 1),
        (format!("_deleted_time BETWEEN \"{half}\" AND \"9000-01-01\""), 0),
    ] {
        let statement = format!("SELECT id FROM t DELETED WHERE {condition}");
        let found = ask(&mut cluster.reader, &statement, 0).await.unwrap().keys().len();
        let request = v1::SelectRequest {
            table: "t".into(),
            deleted: true,
            r#where: condition,
            time_zone: "Europe/Berlin".into(),
            ..Default::default()
        };
        let rows = select(&mut cluster.reader, request).await.unwrap().len();
        assert_eq!((found, rows), (expected, expected), "{statement}");
    }
    for (condition, expected) in [
        ("MAX(_deleted_time) > \"1 hour ago\"", 1),
        ("MAX(_deleted_time) < \"1 hour ago\"", 0),
        ("MIN(_deleted_time) <= @now AND MAX(_time) < @now", 1),
    ] {
        let statement = format!("SELECT id, COUNT(*) FROM t DELETED GROUP BY id HAVING {condition}");
        let found = ask(&mut cluster.reader, &statement, 0).await.unwrap().documents().len();
        assert_eq!(found, expected, "{statement}");
    }
    let number = ask(&mut cluster.reader, "SELECT id FROM t DELETED WHERE _deleted_time > 5", 0).await;
    invalid(number, "QUERY_INVALID");
    let request = v1::SelectRequest {
        table: "t".into(),
        deleted: true,
        r#where: "_deleted_time > \"yesterday\"".into(),
        time_zone: "Europe/Berlin".into(),
        ..Default::default()
    };
    let mut stream = cluster.reader.select(request).await.unwrap().into_inner();
    let notes = stream.message().await.unwrap().unwrap().header.unwrap().notes;
    assert!(notes[0].contains("in the time zone Europe/Berlin"), "{notes:?}");
}

#[tokio::test]
async fn a_watch_without_a_condition_checks_its_time_zone_too() {
    let mut cluster = three_days().await;
    let request = v1::WatchDriftRequest { time_zone: "Nowhere".into(), ..Default::default() };
    invalid(cluster.reader.watch_drift(request).await, "ARGUMENT_INVALID");
}
