//! Tests of dumps: what is loaded again is what was dumped.

use std::path::Path;

use driftdb_common::storage::fs;

use crate::orders::SplitMix64;
use crate::testing::{driftctl, embedded, refused};

/// A history of two tables with every kind of change, at times of its own. Returns its last seq.
async fn history(dir: &Path) -> u64 {
    let mut random = SplitMix64::new(7);
    let create = "CREATE TABLE a (pk=id, INDEX(n, (s, n)))";
    let mut statements = vec![create.to_owned(), "CREATE TABLE b (pk=k INT)".to_owned()];
    for step in 0..40 {
        let (key, n) = (random.below(5), random.below(100));
        statements.push(match random.below(6) {
            0 | 1 => format!("UPSERT INTO a {{\"id\":\"a{key}\",\"n\":{n}.50,\"s\":\"x{n}\"}}"),
            2 => format!(
                "UPSERT INTO b {{\"k\":{key},\"tags\":[1,{n}]}}, {{\"k\":{},\"o\":{{\"z\":null}}}}",
                key + 10
            ),
            3 => format!("PATCH a KEY \"a{key}\" SET {{\"n\":null,\"m\":{n}}}"),
            4 => format!("SOFT DELETE FROM a KEY \"a{key}\""),
            _ => format!("BEGIN; UPSERT INTO a {{\"id\":\"t{key}\"}}; UPSERT INTO b {{\"k\":{key}}}; COMMIT"),
        });
        match step {
            10 => statements.push("ALTER TABLE a ADD INDEX(m), DROP INDEX(n)".to_owned()),
            20 => statements.push("DROP TABLE b".to_owned()),
            25 => statements.push("CREATE TABLE b (pk=k INT, RETAIN \"30d\")".to_owned()),
            30 => statements.push("REVERT a KEY \"a1\" TO @seq:9".to_owned()),
            _ => {}
        }
    }
    for (second, statement) in statements.iter().enumerate() {
        let time = format!("2026-01-01T00:{:02}:{:02}Z", second / 60, second % 60);
        let reason = format!("step {second}");
        let sql = [
            "sql",
            statement.as_str(),
            "--time",
            time.as_str(),
            "--reason",
            reason.as_str(),
            "--actor",
            "ann",
        ];
        // A patch or a delete of a row that does not exist makes no commit.
        let _ = driftctl(&[["-d", dir.to_str().unwrap()].as_slice(), sql.as_slice()].concat()).await;
    }
    let drift = embedded(dir, &["drift", "a"]).await + &embedded(dir, &["drift", "b"]).await;
    let seqs = drift.lines().map(|line| {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        event["seq"].as_u64().unwrap()
    });
    seqs.max().unwrap()
}

/// What both tables are after each commit.
async fn moments(dir: &Path, last: u64) -> Vec<String> {
    let mut found = Vec::new();
    for seq in 1..=last {
        let point = format!("@seq:{seq}");
        for table in ["a", "b"] {
            let args = ["-d", dir.to_str().unwrap(), "select", table, "--meta", "--as-of", &point];
            let (outcome, text) = driftctl(&args).await;
            found.push(outcome.map_or_else(|failure| format!("{seq}: {}", failure.text()), |()| text));
        }
    }
    found
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loaded_history_is_the_same_at_every_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) =
        (dir.path().join("from"), dir.path().join("to"), path(dir.path(), "dump.jsonl.zst"));
    let last = history(&from).await;
    let summary = embedded(&from, &["dump", "--history", &file]).await;
    assert!(summary.starts_with(&format!("{{\"tables\":2,\"commits\":{last},")), "{summary}");
    embedded(&to, &["load", &file]).await;
    assert_eq!(moments(&from, last).await, moments(&to, last).await);
    for args in [["drift", "a"], ["drift", "b"]] {
        // What a revert wrote or deleted is loaded as any other change.
        let written = |drift: String| {
            let drift = drift.replace("\"revert\",\"payload\":null", "\"soft_delete\",\"payload\":null");
            drift.replace("\"revert\"", "\"replace\"")
        };
        assert_eq!(written(embedded(&from, &args).await), embedded(&to, &args).await);
    }
    for table in ["a", "b"] {
        let describe = |text: String| text.split("\"rows\"").next().unwrap().to_owned();
        let statement = format!("DESCRIBE {table}");
        let [one, other] = [&from, &to].map(|dir| embedded_owned(dir.clone(), statement.clone()));
        assert_eq!(describe(one.await), describe(other.await));
    }
}

async fn embedded_owned(dir: std::path::PathBuf, statement: String) -> String {
    embedded(&dir, &["sql", &statement]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_rows_has_the_rows_of_its_moment() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) =
        (dir.path().join("from"), dir.path().join("to"), path(dir.path(), "dump.jsonl.gz"));
    history(&from).await;
    embedded(&from, &["dump", &file, "-t", "a", "--as-of", "@seq:12"]).await;
    embedded(&to, &["sql", "CREATE TABLE other (pk=id)"]).await;
    embedded(&to, &["load", &file]).await;
    let then = embedded(&from, &["select", "a", "--as-of", "@seq:12"]).await;
    assert!(!then.is_empty());
    assert_eq!(embedded(&to, &["select", "a"]).await, then);

    let (code, message) = refused(&from, &["dump", &file]).await;
    assert!(code == 1 && message.contains("the file exists"), "{message}");
    let (code, message) = refused(&from, &["dump", "-t", "aa", &path(dir.path(), "x")]).await;
    assert!(code == 4 && message.contains("did you mean \"a\"?"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_refuses_tables_that_exist_and_dumps_that_are_not_whole() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) = (dir.path().join("from"), dir.path().join("to"), path(dir.path(), "dump.jsonl"));
    history(&from).await;
    embedded(&from, &["dump", "--history", &file]).await;
    embedded(&to, &["sql", "CREATE TABLE b (pk=id)"]).await;
    let (code, message) = refused(&to, &["load", &file]).await;
    assert!(
        code == 1 && message.contains("has a table \"b\" already; load into an empty database"),
        "{message}"
    );

    let mut text = String::new();
    std::io::Read::read_to_string(&mut fs::open_input(file.as_ref()).unwrap(), &mut text).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let write = |name: &str, lines: &[&str]| {
        let file = path(dir.path(), name);
        let mut out = fs::create_output(file.as_ref()).unwrap();
        std::io::Write::write_all(&mut out, lines.join("\n").as_bytes()).unwrap();
        file
    };
    let half = write("half", &lines[..lines.len() / 2]);
    let to = dir.path().join("resumed");
    let (_, message) = refused(&to, &["load", &half]).await;
    assert!(message.contains("half is incomplete: it has no end"), "{message}");
    // The same dump, now whole: what was loaded is passed over.
    embedded(&to, &["load", &file]).await;
    let last = history_length(&lines);
    assert_eq!(moments(&from, last).await, moments(&to, last).await);
    // And again: nothing is left to do.
    let again = embedded(&to, &["load", &file]).await;
    assert!(again.contains("\"commits\":0"), "{again}");

    let gap = write("gap", &[&lines[..5], &lines[6..]].concat());
    let (_, message) = refused(&dir.path().join("gap-db"), &["load", &gap]).await;
    assert!(message.contains("is incomplete: it should have"), "{message}");
    let other = write("other", &["{\"id\":1}"]);
    let (_, message) = refused(&dir.path().join("other-db"), &["load", &other]).await;
    assert!(message.contains("not the header of a dump"), "{message}");
    let newer = write("newer", &[&lines[0].replacen(":1,", ":2,", 1)]);
    let (_, message) = refused(&dir.path().join("newer-db"), &["load", &newer]).await;
    assert!(message.contains("version 2"), "{message}");
}

fn history_length(lines: &[&str]) -> u64 {
    lines.len() as u64 - 2
}

#[tokio::test(flavor = "multi_thread")]
async fn watched_changes_can_be_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to, file) = (dir.path().join("from"), dir.path().join("to"), path(dir.path(), "changes"));
    let last = history(&from).await;
    let changes =
        embedded(&from, &["watch", "--format", "changes", "--from", "@seq:0", "--until", "@now"]).await;
    let mut out = fs::create_output(file.as_ref()).unwrap();
    std::io::Write::write_all(&mut out, changes.as_bytes()).unwrap();
    embedded(&to, &["apply", "--preserve-time", "--file", &file]).await;
    assert_eq!(moments(&from, last).await, moments(&to, last).await);
}

/// Tables that were renamed, and that were made again with another key.
#[tokio::test(flavor = "multi_thread")]
async fn renamed_and_remade_tables_are_loaded_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let (from, file) = (dir.path().join("from"), path(dir.path(), "dump.jsonl"));
    let statements = [
        "CREATE TABLE a (pk=wrong)",
        "CREATE TABLE a (pk=id, INDEX(n))",
        "INSERT INTO a {\"id\":\"x\",\"n\":1}",
        "ALTER TABLE a RENAME TO b",
        "PATCH b KEY \"x\" SET {\"n\":2}",
        "CREATE TABLE a (pk=k INT)",
        "INSERT INTO a {\"k\":7}",
        "DROP TABLE a",
        "CREATE TABLE a (pk=id)",
        "INSERT INTO a {\"id\":\"y\"}",
    ];
    for statement in statements {
        embedded(&from, &["sql", statement]).await;
    }
    let last = statements.len() as u64;
    let compare = async |to: &Path| {
        assert_eq!(moments(&from, last).await, moments(to, last).await);
        for args in [["drift", "a"], ["drift", "b"]] {
            assert_eq!(embedded(&from, &args).await, embedded(to, &args).await);
        }
        let tables = async |dir: &Path| embedded(dir, &["sql", "SHOW TABLES AS OF @seq:7"]).await;
        let names =
            |text: String| text.matches("\"table\":\"a\"").count() + text.matches("\"table\":\"b\"").count();
        assert_eq!((names(tables(&from).await), names(tables(to).await)), (2, 2));
    };
    embedded(&from, &["dump", "--history", &file]).await;
    let to = dir.path().join("to");
    embedded(&to, &["load", &file]).await;
    compare(&to).await;
    let again = embedded(&to, &["load", &file]).await;
    assert!(again.contains("\"commits\":0"), "{again}");
    // Lines of a watch do the same.
    let changes =
        embedded(&from, &["watch", "--format", "changes", "--from", "@seq:0", "--until", "@now"]).await;
    let lines = path(dir.path(), "changes");
    let mut out = fs::create_output(lines.as_ref()).unwrap();
    std::io::Write::write_all(&mut out, changes.as_bytes()).unwrap();
    let applied = dir.path().join("applied");
    embedded(&applied, &["apply", "--preserve-time", "--file", &lines]).await;
    compare(&applied).await;
    // A dump of the renamed table alone has what it was under its old name.
    let alone = path(dir.path(), "alone.jsonl");
    embedded(&from, &["dump", "--history", "-t", "b", &alone]).await;
    let only = dir.path().join("only");
    embedded(&only, &["load", &alone]).await;
    assert_eq!(embedded(&only, &["select", "b"]).await, embedded(&from, &["select", "b"]).await);
    // From a floor on, at which it had its old name: the rows of then come first.
    embedded(&from, &["compact", "-t", "b", "--before", "@seq:3", "--yes"]).await;
    let floored = path(dir.path(), "floored.jsonl");
    embedded(&from, &["dump", "--history", "-t", "b", &floored]).await;
    let later = dir.path().join("later");
    embedded(&later, &["load", &floored]).await;
    assert_eq!(embedded(&later, &["select", "b"]).await, embedded(&from, &["select", "b"]).await);
}
