//! Tests of the shell without a terminal.

use std::path::Path;

use super::*;
use crate::args::Format;
use crate::render::sink::Sink;
use crate::testing::embedded;

/// Types lines. Returns, for each completed entry, its error or an empty text; then the prompt, the note on leaving and
/// the output.
async fn typed(dir: &Path, format: Format, lines: &[&str]) -> (Vec<String>, String, Option<String>, String) {
    let sink = Sink::default();
    let mut out = Printer::new(Box::new(sink.clone()), format);
    let mut database = DatabaseHandle::embedded(dir.to_owned());
    let session = Session::new(&mut database, &mut out, v1::CommitOptions::default(), Vec::new()).unwrap();
    let (mut shell, mut input, mut errors) = (Shell::new(session), Input::default(), Vec::new());
    for line in lines {
        let Some(entry) = input.push(line) else { continue };
        match shell.accept(entry).await {
            Ok(flow) => errors.push(if flow == Flow::Quit { "quit".to_owned() } else { String::new() }),
            Err(failure) => errors.push(failure.text()),
        }
    }
    let state = (errors, shell.prompt(input.is_open()), shell.dropped());
    out.end_result().unwrap();
    database.close().await.unwrap();
    (state.0, state.1, state.2, sink.text())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_commit_across_tables() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", "CREATE TABLE a (pk=id); CREATE TABLE b (pk=id)"]).await;
    let (errors, prompt, dropped, _) = typed(
        dir.path(),
        Format::Jsonl,
        &["BEGIN;", "INSERT INTO a", "{\"id\":\"x\"};", "INSERT INTO b {\"id\":\"y\"};", "\\d a", "COMMIT;"],
    )
    .await;
    assert!(errors.iter().all(String::is_empty), "{errors:?}");
    assert_eq!((prompt.as_str(), dropped), ("driftdb> ", None));
    let tables = ["a", "b"].map(|table| ["select", "-t", table, "--meta"]);
    for select in tables {
        assert!(embedded(dir.path(), &select).await.contains("\"seq\":3,"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_transaction_is_shown_and_discarded() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", "CREATE TABLE a (pk=id)"]).await;
    let begun = ["BEGIN;", "INSERT INTO a {\"id\":\"x\"};", "SELECT * FROM a;", "INSRT;"];
    let (errors, prompt, dropped, _) = typed(dir.path(), Format::Jsonl, &begun).await;
    assert!(errors[2].contains("a transaction can only contain writes"), "{errors:?}");
    assert!(errors[3].contains("QUERY_SYNTAX"), "{errors:?}");
    assert_eq!(prompt, "driftdb (transaction: 1 write)> ");
    assert!(dropped.unwrap().contains("discarded"));

    let rolled_back = [&begun[..2], &["ROLLBACK;", "SELECT COUNT(*) FROM a;", "SELECT"]].concat();
    let (errors, prompt, dropped, text) = typed(dir.path(), Format::Jsonl, &rolled_back).await;
    assert!(errors.iter().all(String::is_empty), "{errors:?}");
    assert_eq!((prompt.as_str(), dropped, text.as_str()), ("      -> ", None, "{\"count\":0}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_show_their_position_and_the_shell_continues() {
    let dir = tempfile::tempdir().unwrap();
    let lines =
        ["CREATE TABLE a (pk=id);", "SHOW", "  TABELS;", "\\nonsense", "SELECT COUNT(*) FROM a;", "\\q"];
    let (errors, _, _, text) = typed(dir.path(), Format::Jsonl, &lines).await;
    assert!(errors[1].contains(" --> 2:3\n") && errors[1].contains("line 1"), "{}", errors[1]);
    assert!(errors[2].contains("unknown command"), "{}", errors[2]);
    assert_eq!((errors[4].as_str(), text.as_str()), ("quit", "{\"seq\":1}\n{\"count\":0}\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_without_as_of_use_that_of_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    let made = "CREATE TABLE a (pk=id); INSERT INTO a {\"id\":\"x\"}; INSERT INTO a {\"id\":\"y\"}";
    embedded(dir.path(), &["sql", "-e", made]).await;
    let count = "SELECT COUNT(*) FROM a;";
    let lines = ["\\as-of @seq:2", count, "SELECT COUNT(*) FROM a AS OF @seq:1;", "\\as-of off", count];
    let (errors, _, _, text) = typed(dir.path(), Format::Jsonl, &lines).await;
    assert!(errors.iter().all(String::is_empty), "{errors:?}");
    assert_eq!(text, "{\"count\":1}\n{\"count\":0}\n{\"count\":2}\n");
    let (errors, prompt, ..) = typed(dir.path(), Format::Jsonl, &["\\as-of @seq:2", "\\watch"]).await;
    assert_eq!(prompt, "driftdb as of @seq:2> ");
    assert!(errors[1].contains("no SELECT has run"), "{errors:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn expanded_rows_have_one_field_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let made = "CREATE TABLE a (pk=id); INSERT INTO a {\"id\":\"x\",\"amount\":7}, {\"id\":\"y\"}";
    embedded(dir.path(), &["sql", "-e", made]).await;
    let select = "SELECT * FROM a;";
    let (_, _, _, text) = typed(dir.path(), Format::Table, &["\\x", select, select, "\\x off", select]).await;
    let rows = "-- row 1\nid      x\namount  7\n-- row 2\nid  y\n";
    assert_eq!(text, format!("{rows}{rows}id  amount\n--  ------\nx        7\ny\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn table_names_are_optional_for_the_shell() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", "CREATE TABLE a (pk=id); CREATE TABLE b (pk=id)"]).await;
    for (data, expected) in [(dir.path().to_owned(), &["a", "b"][..]), (dir.path().join("no"), &[])] {
        let mut out = Printer::new(Box::new(Sink::default()), Format::Jsonl);
        let mut database = DatabaseHandle::embedded(data);
        let session =
            Session::new(&mut database, &mut out, v1::CommitOptions::default(), Vec::new()).unwrap();
        assert_eq!(Shell::new(session).tables().await, expected);
        database.close().await.unwrap();
    }
}
