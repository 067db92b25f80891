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
    assert!(errors[2].contains("invalid command"), "{}", errors[2]);
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
async fn completion_knows_the_tables_and_columns_of_this_moment() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", "CREATE TABLE a (pk=id); CREATE TABLE b (pk=id)"]).await;
    for (data, expected) in [(dir.path().to_owned(), &["a", "b"][..]), (dir.path().join("no"), &[])] {
        let mut out = Printer::new(Box::new(Sink::default()), Format::Jsonl);
        let mut database = DatabaseHandle::embedded(data);
        let session =
            Session::new(&mut database, &mut out, v1::CommitOptions::default(), Vec::new()).unwrap();
        let mut shell = Shell::new(session);
        let catalogue = shell.catalogue().await;
        assert_eq!(completed(catalogue, "SELECT * FROM ").await, expected);
        if !expected.is_empty() {
            // A table and a row that are made now are known when Tab is pressed next.
            shell
                .session
                .run_script("CREATE TABLE c (pk=id); INSERT INTO c {\"id\":\"x\",\"n\":1}", None)
                .await
                .unwrap();
            shell.session.run_script("SELECT * FROM c", None).await.unwrap();
            let catalogue = shell.catalogue().await;
            assert_eq!(completed(catalogue, "DESCRIBE ").await, ["a", "b", "c"]);
            let catalogue = shell.catalogue().await;
            assert_eq!(completed(catalogue, "SELECT * FROM c WHERE ").await, ["id", "n"]);
        }
        database.close().await.unwrap();
    }
}

/// What Tab offers. As in the shell, on a thread that may block.
async fn completed(catalogue: Option<Catalogue>, before: &'static str) -> Vec<String> {
    let complete = move || completion::complete(before, "", catalogue.as_ref()).1;
    tokio::task::spawn_blocking(complete).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_are_included_and_results_go_to_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (data, script, file) = (dir.path().join("data"), dir.path().join("a.dql"), dir.path().join("out"));
    let mut written = fs::create_output(&script).unwrap();
    io::Write::write_all(&mut written, b"CREATE TABLE a (pk=id);\nINSRT;\n").unwrap();
    let include = format!("\\i {}", script.display());
    let output = format!("\\o {}", file.display());
    let lines =
        [&include, &output, "SELECT COUNT(*) FROM a;", "\\o", "SELECT COUNT(*) FROM a;", "\\i no.dql"];
    let (errors, _, _, text) = typed(&data, Format::Jsonl, &lines).await;
    assert!(errors[0].contains(" --> 2:1") && errors[0].contains("a.dql"), "{errors:?}");
    assert!(errors[5].contains("cannot open no.dql"), "{errors:?}");
    assert_eq!(text, "{\"seq\":1}\n{\"count\":0}\n");
    let mut kept = String::new();
    io::Read::read_to_string(&mut fs::open_input(&file).unwrap(), &mut kept).unwrap();
    assert_eq!(kept, "{\"count\":0}\n");
}
