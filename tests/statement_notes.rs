//! A statement that is probably a mistake gets a note, in the gRPC answer and on the standard error of driftctl. A correct
//! statement gets none.

use std::process::Command;

use crate::harness::calls::{ask, fresh, run, snapshot};
use crate::harness::*;
use driftdb::v1;
use serde_json::json;

/// Tables with an index on `status` and without: the same rows, of which one in 300 has an error.
async fn filled() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    let mut seen = 0;
    for (table, indexes) in [("plain", ""), ("indexed", ", INDEX(status, error)")] {
        run(&mut cluster.writer, &format!("CREATE TABLE {table} (pk=id INT{indexes})")).await.unwrap();
        let row = |n: usize| {
            let mut row = json!({"id": n, "status": if n.is_multiple_of(2) { "paid" } else { "open" }, "amount": n, "mixed": n, "none": null});
            if n % 300 == 250 {
                row["error"] = "lost".into();
            }
            if n.is_multiple_of(2) {
                row["mixed"] = n.to_string().into();
            }
            insert(table, row.to_string())
        };
        seen = apply(&mut cluster.writer, (0..600).map(row).collect()).await.unwrap().seq;
    }
    (cluster, seen)
}

async fn notes(cluster: &mut Cluster, statement: &str, seen: u64) -> Vec<String> {
    let answer = ask(&mut cluster.reader, statement, seen).await;
    answer.unwrap_or_else(|status| panic!("{statement}: {status:?}")).notes
}

#[tokio::test]
async fn mistakes_get_notes() {
    let (mut cluster, seen) = filled().await;
    // In memory, then in snapshots.
    for _ in 0..2 {
        for table in ["plain", "indexed"] {
            for (statement, expected) in [
                ("SELECT id, amuont FROM t", "has a field amuont; did you mean \"amount\"?"),
                ("SELECT id, amuont FROM t WHERE id = 7", "has a field amuont"),
                ("SELECT SUM(amuont) FROM t", "has a field amuont"),
                ("SELECT id FROM t WHERE amuont IS NOT NULL", "has a field amuont"),
                ("SELECT * FROM t ORDER BY amuont LIMIT 1", "has a field amuont"),
                ("SELECT COUNT(*) FROM t GROUP BY status.code", "has a field status.code"),
                ("SELECT * FROM t WHERE stauts = \"paid\"", "did you mean \"status\"?"),
                ("SELECT COUNT(*) FROM t WHERE status = 5", "status is compared with numbers, but"),
                ("SELECT * FROM t WHERE status IN (5, true)", "compared with booleans or numbers, but"),
                ("SELECT * FROM t WHERE status > 5 AND amount > 5", "has only text"),
                ("SELECT * FROM t WHERE amount LIKE \"5%\"", "amount is compared with text, but"),
                ("SELECT * FROM t WHERE status CONTAINS \"paid\"", "compared with arrays, but"),
                (
                    "SELECT * FROM t WHERE id = \"7\"",
                    "of type INT, and comparing them with text never matches",
                ),
                ("SELECT * FROM t WHERE _key IN (\"7\", \"8\")", "write the key as a number"),
                ("EXPLAIN SELECT * FROM t WHERE status = 5", "status is compared with numbers"),
                ("SELECT AVG(status) FROM t", "AVG(status) leaves out 600 values that are not numbers"),
                (
                    "SELECT SUM(mixed) FROM t WHERE id < 2",
                    "SUM(mixed) leaves out 1 value that is not a number",
                ),
            ] {
                let statement = statement.replace("FROM t", &format!("FROM {table}"));
                let found = notes(&mut cluster, &statement, seen).await;
                let [note] = found.as_slice() else { panic!("{statement}: {found:?}") };
                assert!(note.contains(expected), "{statement}: {note}");
            }
            snapshot(&mut cluster.writer, table).await.unwrap();
        }
    }
}

#[tokio::test]
async fn correct_statements_get_no_notes() {
    let (mut cluster, seen) = filled().await;
    for _ in 0..2 {
        for table in ["plain", "indexed"] {
            for statement in [
                "SELECT * FROM t WHERE id = 7",
                "SELECT id, amount, none FROM t WHERE status = \"nowhere\"",
                "SELECT id, error FROM t",
                "SELECT * FROM t WHERE error = \"none has this\"",
                "SELECT * FROM t WHERE deleted IS MISSING LIMIT 5",
                "SELECT * FROM t WHERE deleted IS MISSING OR deleted = false",
                "SELECT * FROM t WHERE none = 5 OR none IS NULL",
                "SELECT * FROM t WHERE none = 5",
                "SELECT * FROM t WHERE status = 5 OR status = \"paid\"",
                "SELECT * FROM t WHERE status IN (5, \"gone\")",
                "SELECT * FROM t WHERE mixed = \"gone\"",
                "SELECT * FROM t WHERE mixed = -1",
                "SELECT * FROM t WHERE status != 5",
                "SELECT * FROM t WHERE id > 1.5 AND _time > \"2020-01-01\" AND _seq > 1",
                "SELECT * FROM t WHERE id > 100000",
                "SELECT COUNT(*), SUM(amount), MAX(_time) FROM t",
                "SELECT status, SUM(none) FROM t GROUP BY status ORDER BY status",
                "SELECT COUNT(*) FROM t",
                "SELECT _deleted_seq, amuont FROM t DELETED WHERE _deleted_by = \"me\"",
                "SELECT COUNT(_deleted_seq) FROM t DELETED WHERE amuont = 1",
            ] {
                let statement = statement.replace("FROM t", &format!("FROM {table}"));
                assert_eq!(notes(&mut cluster, &statement, seen).await, Vec::<String>::new(), "{statement}");
            }
            snapshot(&mut cluster.writer, table).await.unwrap();
        }
    }
    run(&mut cluster.writer, "CREATE TABLE empty (pk=id)").await.unwrap();
    let found = notes(&mut cluster, "SELECT a FROM empty WHERE b = 1 ORDER BY c", seen + 1).await;
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn notes_come_in_the_last_message_of_select_and_on_stderr() {
    let (mut cluster, seen) = filled().await;
    let request = v1::SelectRequest {
        table: "plain".into(),
        fields: vec!["amuont".into()],
        freshness: fresh(seen),
        ..Default::default()
    };
    let mut stream = cluster.reader.select(request).await.unwrap().into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.unwrap() {
        assert!(message.resume_token.is_empty() || message.notes.is_empty());
        last = Some(message);
    }
    assert!(last.unwrap().notes[0].contains("did you mean \"amount\"?"));

    for args in [
        &["sql", "-o", "json", "-e", "SELECT amuont FROM plain WHERE id = 7"][..],
        &["select", "-o", "json", "plain", "--fields", "amuont", "--where", "id = 7"],
    ] {
        let mut command = Command::new(binary("driftctl"));
        let addresses = ["--writer", &cluster.writer_daemon.url, "--reader", &cluster.reader_daemon.url];
        let output = command.args(args).args(addresses).output().unwrap();
        let (out, error) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{error}");
        assert_eq!(out, "[{}]\n");
        assert!(
            error.starts_with("note: none of the 101 rows")
                || error.starts_with("note: none of the 100 rows"),
            "{error}"
        );
    }
}
