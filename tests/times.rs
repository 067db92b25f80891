//! A time means one thing, whatever takes it: statements, options, files and requests refuse what is not exactly a time.

use std::process::{Command, Output};

use crate::harness::refusal::invalid;
use crate::harness::*;
use driftdb::v1;
use prost_types::Timestamp;

struct Database {
    dir: tempfile::TempDir,
}

impl Database {
    /// A row that has the value `59.5` since half a second before the end of 2016.
    fn new() -> Database {
        let database = Database { dir: tempfile::tempdir().unwrap() };
        database.run(&["init", "db"]);
        let create = ["sql", "-d", "db", "--time", "2016-12-31T23:59:00Z", "-e", "CREATE TABLE t (pk=id)"];
        assert!(database.run(&create).status.success());
        let commit = r#"{"time":"2016-12-31T23:59:59.500Z","ops":[{"op":"put","table":"t","doc":{"id":"a","v":"59.5"}}]}"#;
        assert!(database.apply(commit).status.success());
        database
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(binary("driftctl")).current_dir(self.dir.path()).args(args).output().unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "a test's own file")]
    fn apply(&self, line: &str) -> Output {
        std::fs::write(self.dir.path().join("commits.jsonl"), line).unwrap();
        self.run(&["apply", "-d", "db", "--file", "commits.jsonl", "--preserve-time"])
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Malformed times, with what the refusal names.
const MALFORMED: [(&str, &str); 6] = [
    ("2016-12-31T23:59:60Z", "leap seconds are not supported"),
    ("2016-12-31T12:30:60Z", "there is no second 12:30:60"),
    ("2016-12-31T23:59:59.5000000001Z", "10 digits, the limit is 9"),
    ("2017-01-01T00:59:59.9+0100", "has no colon"),
    ("2016-12-31T23:59:59.9+25:00", "there is no offset +25:00"),
    ("2016-12-31T23Z", "the minutes and seconds are missing"),
];

/// A time without an offset is in the time zone of the request. Commits that are imported have none.
#[test]
fn an_imported_commit_needs_the_offset_of_its_time() {
    let database = Database::new();
    let output = database.apply(r#"{"time":"2016-12-31T23:59:59","ops":[]}"#);
    assert!(!output.status.success() && text(&output).contains("has no UTC offset"), "{}", text(&output));
}

/// A commit cannot be earlier than the one before it. That its own time is lost must not go unsaid.
#[test]
fn apply_says_which_times_it_could_not_keep() {
    let database = Database::new();
    let commit = |time: &str, id: &str| {
        format!(r#"{{"time":"{time}","ops":[{{"op":"put","table":"t","doc":{{"id":"{id}"}}}}]}}"#)
    };
    let lines = [
        commit("2016-06-01T00:00:00Z", "b"),
        commit("2016-12-31T23:59:59.500Z", "c"),
        commit("2016-12-31T23:59:59.400Z", "d"),
        commit("2017-01-01T00:00:00Z", "e"),
    ];
    let output = database.apply(&lines.join("\n"));
    assert!(output.status.success(), "{}", text(&output));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("note: 2 commits got a later time than in the file"), "{said}");
    let output = database.apply(&commit("2017-01-02T00:00:00Z", "f"));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn what_is_not_exactly_a_time_is_refused_everywhere() {
    let database = Database::new();
    for (time, what) in MALFORMED {
        let quoted = format!("SELECT * FROM t AS OF \"{time}\"");
        let compared = format!("SELECT * FROM t WHERE _time < \"{time}\"");
        let line = format!(r#"{{"time":"{time}","ops":[]}}"#);
        for output in [
            database.run(&["select", "-d", "db", "-t", "t", "--as-of", time]),
            database.run(&["sql", "-d", "db", "-e", &quoted]),
            database.run(&["sql", "-d", "db", "-e", &compared]),
            database.run(&["sql", "-d", "db", "--time", time, "-e", "UPSERT INTO t {\"id\":\"b\"}"]),
            database.run(&["revert", "-d", "db", "-t", "t", "-k", "a", "--to", time]),
            database.run(&["diff", "-d", "db", "-t", "t", "--from", time]),
            database.apply(&line),
        ] {
            let shown = text(&output);
            assert!(!output.status.success() && shown.contains(what), "{time}: {shown}");
        }
    }
}

#[test]
fn every_time_up_to_the_end_of_9999_can_be_asked_for() {
    let database = Database::new();
    for time in [
        "2016-12-31T23:59:59.5Z",
        "2016-12-31t23:59:59.999999999z",
        "2017-01-01 00:59:59.9+01:00",
        "9999-12-31",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999Z",
    ] {
        let output = database.run(&["select", "-d", "db", "-t", "t", "--as-of", time, "-o", "jsonl"]);
        assert_eq!(text(&output), "{\"id\":\"a\",\"v\":\"59.5\"}\n", "{time}");
        let explain = format!("EXPLAIN SELECT * FROM t WHERE _time <= \"{time}\"");
        let output = database.run(&["sql", "-d", "db", "-e", &explain]);
        assert!(output.status.success(), "{time}: {}", text(&output));
    }
    let output = database.run(&["select", "-d", "db", "-t", "t", "--as-of", "2016-12-31T23:59:59.499Z"]);
    assert_eq!(text(&output), "");
}

#[tokio::test]
async fn a_timestamp_that_protobuf_does_not_allow_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let last = 253_402_300_799;
    for (seconds, nanos, is_valid) in [
        (last, 999_999_999, true),
        (-62_135_596_800, 0, true),
        (last + 1, 0, false),
        (-62_135_596_801, 0, false),
        (i64::MAX, 0, false),
        (0, 1_000_000_000, false),
        (0, -1, false),
    ] {
        let as_of = v1::AsOf { at: Some(v1::as_of::At::Time(Timestamp { seconds, nanos })) };
        let request =
            v1::DiffRequest { table: "t".into(), start: at_seq(1), end: Some(as_of), ..Default::default() };
        let answer = cluster.reader.diff(request).await;
        if is_valid {
            // A time before the table is no invalid time.
            if let Err(error) = answer {
                assert_eq!(reason(&error), "TABLE_NOT_FOUND");
            }
        } else {
            invalid(answer, "ARGUMENT_INVALID").says(&["as_of.time"]);
        }
        let options =
            Some(v1::CommitOptions { commit_time: Some(Timestamp { seconds, nanos }), ..Default::default() });
        let operations = vec![put("t", r#"{"id":"a"}"#)];
        let request = v1::ApplyRequest { operations, options, ..Default::default() };
        invalid(cluster.writer.apply(request).await, "ARGUMENT_INVALID").says(&["commit_time"]);
    }
}
