//! Tests of scripts and transactions with an embedded database.

use crate::testing::{driftctl, embedded, refused};

const TABLE: &str = "CREATE TABLE t (pk=id)";

#[tokio::test(flavor = "multi_thread")]
async fn a_script_reads_its_own_writes() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"CREATE TABLE t (pk=id); INSERT INTO t {"id":"a","z":1,"b":2}; -- ; no end
        SELECT * FROM t; PATCH t KEY "a" SET {"b":null}; SELECT * FROM t; SELECT COUNT(*) FROM t"#;
    let found = embedded(dir.path(), &["sql", "-e", script]).await;
    // Each write tells where its commit is.
    let [first, second] = ["{\"id\":\"a\",\"z\":1,\"b\":2}\n", "{\"id\":\"a\",\"z\":1}\n"];
    let seqs = ["{\"seq\":1}\n{\"seq\":2}\n", "{\"seq\":3}\n"];
    assert_eq!(found, [seqs[0], first, seqs[1], second, "{\"count\":1}\n"].concat());
    // Another process sees the writes too.
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, second);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_one_commit() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"BEGIN; INSERT INTO t {"id":"a"}; PATCH t KEY "a" SET {"n":1};
        UPSERT INTO t {"id":"b"}; SOFT DELETE FROM t KEY "b"; COMMIT"#;
    embedded(dir.path(), &["sql", "-e", TABLE, "-e", script, "--reason", "why"]).await;
    let drift = embedded(dir.path(), &["drift", "-t", "t", "--from", "@seq:1"]).await;
    let lines: Vec<serde_json::Value> =
        drift.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let kinds: Vec<&str> = lines.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["insert", "patch", "insert", "soft_delete"]);
    assert!(lines.iter().all(|line| line["seq"] == 2 && line["reason"] == "why"), "{drift}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_spans_tables_and_contains_every_kind_of_write() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"CREATE TABLE t (pk=id); CREATE TABLE u (pk=id INT);
        INSERT INTO t {"id":"a","n":1}; PATCH t KEY "a" SET {"n":2}; INSERT INTO u {"id":7}"#;
    embedded(dir.path(), &["sql", "-e", script]).await;
    let script = r#"BEGIN; REVERT t KEY "a" TO @seq:3; PATCH t KEY "a" SET {"m":1};
        PATCH u KEY 7 SET {"n":1} IF SEQ = 5; UPSERT INTO u {"id":8}; COMMIT"#;
    embedded(dir.path(), &["sql", "-e", script]).await;
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "{\"id\":\"a\",\"n\":1,\"m\":1}\n");
    assert_eq!(embedded(dir.path(), &["select", "-t", "u"]).await, "{\"id\":7,\"n\":1}\n{\"id\":8}\n");
    for table in ["t", "u"] {
        let drift = embedded(dir.path(), &["drift", "-t", table, "--from", "@seq:5"]).await;
        assert!(
            drift.lines().count() == 2 && drift.lines().all(|line| line.starts_with("{\"seq\":6,")),
            "{drift}"
        );
    }
    // Both failed preconditions are reported, and nothing is written.
    let script =
        r#"BEGIN; PATCH t KEY "a" SET {"n":9} IF SEQ = 1; SOFT DELETE FROM u KEY 7 IF SEQ = 2; COMMIT"#;
    let (code, text) = refused(dir.path(), &["sql", "-e", script]).await;
    assert!(code == 5 && text.contains("t/a") && text.contains("u/7"), "{text}");
    assert_eq!(embedded(dir.path(), &["sql", "-e", "SELECT COUNT(*) FROM u"]).await, "{\"count\":2}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn revert_previews_its_effect_and_then_restores_the_row() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"CREATE TABLE t (pk=id); INSERT INTO t {"id":"a","n":1}; SOFT DELETE FROM t KEY "a""#;
    embedded(dir.path(), &["sql", "-e", script]).await;
    let revert = ["revert", "-t", "t", "-k", "a", "--to", "@seq:2"];
    let preview = [&revert[..], &["--dry-run"]].concat();
    let shown = "{\"key\":\"a\",\"kind\":\"added\",\"before\":null,\"after\":{\"id\":\"a\",\"n\":1}}\n";
    assert_eq!(embedded(dir.path(), &preview).await, shown);
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "");
    let done = embedded(dir.path(), &revert).await;
    assert_eq!(done, "{\"last_seq\":4,\"commits\":1,\"events\":1}\n");
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "{\"id\":\"a\",\"n\":1}\n");
    assert_eq!(embedded(dir.path(), &preview).await, "");
    let (code, text) = refused(dir.path(), &["revert", "-t", "nowhere", "-k", "a", "--to", "@seq:2"]).await;
    assert_eq!(code, 4, "{text}");
    let (code, text) = refused(dir.path(), &["revert", "-t", "t", "-k", "a", "--to", "@seq:99"]).await;
    assert!(code == 1 && text.contains("BEYOND_HEAD"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_load_does_not_load_rows_twice() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", TABLE]).await;
    let mut rows = tempfile::NamedTempFile::new().unwrap();
    (0..2500).for_each(|i| writeln!(rows, "{{\"id\":\"r{i}\",\"n\":{i}}}").unwrap());
    let path = rows.path().to_str().unwrap().to_owned();
    let load = ["ingest", "-t", "t", "--file", &path];
    assert_eq!(embedded(dir.path(), &load).await, "{\"last_seq\":2501,\"commits\":2500,\"events\":2500}\n");
    assert_eq!(embedded(dir.path(), &load).await, "{\"last_seq\":0,\"commits\":0,\"events\":0}\n");
    let (code, text) = refused(dir.path(), &[&load[..], &["--restart"]].concat()).await;
    assert!(code == 1 && text.contains("line 1: ") && text.contains("ROW_EXISTS"), "{text}");
    let again = embedded(dir.path(), &[&load[..], &["--restart", "--upsert"]].concat()).await;
    assert!(again.ends_with("\"commits\":2500,\"events\":2500}\n"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_atomic() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", TABLE, "-e", r#"INSERT INTO t {"id":"a"}"#]).await;
    for (script, code, expected) in [
        (r#"BEGIN; INSERT INTO t {"id":"b"}; PATCH t KEY "no" SET {"n":1}; COMMIT"#, 4, "ROW_NOT_FOUND"),
        (
            r#"BEGIN; INSERT INTO t {"id":"b"}; PATCH t KEY "a" SET {"n":1} IF SEQ = 9; COMMIT"#,
            5,
            "PRECONDITION_FAILED",
        ),
        (r#"BEGIN; INSERT INTO t {"id":"b"}"#, 1, "the transaction has no COMMIT"),
        (r#"BEGIN; INSERT INTO t {"id":"b"}; SELECT * FROM t; COMMIT"#, 1, "can only contain writes"),
        (r#"BEGIN; INSERT INTO t {"id":"b"}; CREATE TABLE u (pk=id); COMMIT"#, 1, "outside"),
        (r#"BEGIN; INSERT INTO t {"id":"b"}; BEGIN"#, 1, "a transaction is already open"),
        ("COMMIT", 1, "COMMIT needs a BEGIN"),
        ("ROLLBACK", 1, "ROLLBACK needs a BEGIN"),
    ] {
        let (found, text) = refused(dir.path(), &["sql", "-e", script]).await;
        assert_eq!(found, code, "{script}: {text}");
        assert!(text.contains(expected), "{script}: {text}");
    }
    embedded(dir.path(), &["sql", "-e", r#"BEGIN; INSERT INTO t {"id":"b"}; ROLLBACK"#]).await;
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "{\"id\":\"a\"}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_stops_at_its_first_error_and_reports_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let script = "CREATE TABLE t (pk=id);\n\nINSERT INTO t {\"id\":\"a\"};\n  SELCT * FROM t;\nDROP TABLE t";
    let (code, text) = refused(dir.path(), &["sql", "-e", script]).await;
    assert_eq!(code, 1);
    assert!(text.contains(" --> 4:3\n  |   SELCT * FROM t;"), "{text}");
    assert!(
        text.contains("QUERY_SYNTAX; the statement starts at line 4)") || text.contains("line 4\n"),
        "{text}"
    );
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "{\"id\":\"a\"}\n");

    let (code, text) =
        refused(dir.path(), &["sql", "-e", "SHOW TABLES;\nPATCH t KEY \"no\" SET {\"n\":1}"]).await;
    assert_eq!(code, 4);
    assert!(text.contains("(NOT_FOUND, ROW_NOT_FOUND; the statement starts at line 2)"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_get_parameters_and_commit_times() {
    let dir = tempfile::tempdir().unwrap();
    let time = ["--time", "2020-01-02T03:04:05Z"];
    embedded(
        dir.path(),
        &["sql", time[0], time[1], "-e", TABLE, "-e", r#"INSERT INTO t {"id":"a b","n":7}"#],
    )
    .await;
    let select = "SELECT id FROM t WHERE id = $1 AND n = $2";
    let found = embedded(dir.path(), &["sql", "-e", select, "--param", "\"a b\"", "--param", "7"]).await;
    assert_eq!(found, "{\"id\":\"a b\"}\n");
    let found =
        embedded(dir.path(), &["select", "-t", "t", "--where", "n = $1", "--param", "7", "--meta"]).await;
    assert_eq!(
        found,
        "{\"key\":\"a b\",\"seq\":2,\"time\":\"2020-01-02T03:04:05.000Z\",\"doc\":{\"id\":\"a b\",\"n\":7}}\n"
    );
    let (code, text) = refused(dir.path(), &["sql", "-e", select, "--param", "nonsense"]).await;
    assert_eq!(code, 1, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_printed_in_each_format() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"CREATE TABLE t (pk=id); INSERT INTO t {"id":"a","n":1}; PATCH t KEY "a" SET {"n":2}"#;
    embedded(dir.path(), &["sql", "-e", script]).await;
    for (args, expected) in [
        (
            ["-o", "json", "sql", "-e", "SELECT * FROM t; SELECT COUNT(*) FROM t"],
            "[{\"id\":\"a\",\"n\":2},\n{\"count\":1}]\n",
        ),
        (["-o", "json", "sql", "-e", "SELECT * FROM t WHERE n = 1"], "[]\n"),
        (
            // The first result has no n.
            [
                "-o",
                "csv",
                "sql",
                "-e",
                "SELECT n, id AS key FROM t; SELECT missing, MAX(n) AS n FROM t GROUP BY missing",
            ],
            "n,key\n2,a\nmissing,n\n,2\n",
        ),
        (
            ["-o", "table", "sql", "-e", "SELECT missing, MAX(n), COUNT(*) AS n FROM t GROUP BY missing"],
            "missing  MAX(n)  n\n-------  ------  -\n              2  1\n",
        ),
        (["-o", "json", "sql", "-e", "SELECT DISTINCT n FROM t WHERE n > 5"], "[]\n"),
        (["-o", "table", "sql", "-e", "SHOW DIFF t FROM @seq:2 TO @now"], "~ a\n    n: 1 → 2\n"),
        (["-o", "csv", "sql", "-e", "SELECT * FROM t; SELECT COUNT(*) FROM t"], "id,n\na,2\ncount\n1\n"),
    ] {
        assert_eq!(embedded(dir.path(), &args).await, expected, "{args:?}");
    }
    let diff = embedded(dir.path(), &["sql", "-e", "SHOW DIFF t FROM @seq:2 TO @seq:3"]).await;
    assert_eq!(
        diff,
        "{\"key\":\"a\",\"kind\":\"changed\",\"before\":{\"id\":\"a\",\"n\":1},\"after\":{\"id\":\"a\",\"n\":2}}\n"
    );
    assert_eq!(diff, embedded(dir.path(), &["diff", "-t", "t", "--from", "@seq:2"]).await);
    let retained = ["sql", "-e", "ALTER TABLE t RETAIN \"90d\"; DESCRIBE t; ALTER TABLE t RETAIN FOREVER"];
    let described = embedded(dir.path(), &retained).await;
    assert!(described.contains(",\"retain\":\"90d\"}\n"), "{described}");
    let tables = embedded(dir.path(), &["sql", "-e", "SHOW TABLES"]).await;
    assert!(tables.ends_with(",\"retain\":null}\n"), "{tables}");
    assert!(tables.starts_with(
        "{\"table\":\"t\",\"primary_key\":\"id\",\"key_type\":\"STRING\",\"indexes\":[],\"rows\":1,"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn select_sorts_rows() {
    let dir = tempfile::tempdir().unwrap();
    let script =
        r#"CREATE TABLE t (pk=id); INSERT INTO t {"id":"a","n":1}, {"id":"b","n":3}, {"id":"c","n":2}"#;
    embedded(dir.path(), &["sql", "-e", script]).await;
    let select = ["select", "t", "--fields", "id", "--order-by"];
    let sorted = embedded(dir.path(), &[&select[..], &["n DESC", "--limit", "2"]].concat()).await;
    assert_eq!(sorted, "{\"id\":\"b\"}\n{\"id\":\"c\"}\n");
    let (code, text) = refused(dir.path(), &[&select[..], &["n DOWN"]].concat()).await;
    assert!(code == 1 && text.contains(" | n DOWN\n  |   ^^^^"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_with_a_running_writer_can_be_read_but_not_written() {
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", TABLE]).await;
    let held = driftdb_writer::WriterDaemon::open(driftdb_writer::WriterConfig::new(dir.path())).unwrap();
    assert_eq!(embedded(dir.path(), &["select", "-t", "t"]).await, "");
    let (code, text) = refused(dir.path(), &["sql", "-e", r#"INSERT INTO t {"id":"a"}"#]).await;
    assert_eq!(code, 5, "{text}");
    assert!(text.contains("DATABASE_LOCKED") && text.contains(&std::process::id().to_string()), "{text}");
    held.close().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_loads_a_file_commit_by_commit() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    embedded(&data, &["sql", "-e", TABLE, "--time", "2020-01-01T00:00:00Z"]).await;

    let rows = r#"INSERT INTO t {"id":"r0"}, {"id":"r1"}"#;
    embedded(&data, &["sql", "-e", rows]).await;
    let mut commits = tempfile::NamedTempFile::new().unwrap();
    writeln!(commits, r#"{{"ops":[{{"op":"put","table":"t","doc":{{"id":"r0"}}}},{{"op":"delete","table":"t","key":"r1"}}]}}"#).unwrap();
    writeln!(commits, "\n{{\"ops\":[{{\"op\":\"put\"}}]}}").unwrap();
    let path = commits.path().to_str().unwrap().to_owned();
    let (code, text) = refused(&data, &["apply", "--file", &path]).await;
    assert!(code == 1 && text.contains("line 3: not a commit: missing field `table`"), "{text}");
    assert_eq!(embedded(&data, &["get", "-t", "t", "r0"]).await, "{\"id\":\"r0\"}\n");
    let (code, _) = refused(&data, &["get", "-t", "t", "r1", "r2"]).await;
    assert_eq!(code, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_times_never_decrease() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    embedded(dir.path(), &["sql", "-e", TABLE, "--time", "2020-01-01T00:00:00Z"]).await;
    let mut commits = tempfile::NamedTempFile::new().unwrap();
    for (key, time) in [("a", "2019-01-01"), ("b", "2021-01-01"), ("c", "2020-06-01"), ("d", "2022-01-01")] {
        let doc = format!("{{\"id\":\"{key}\"}}");
        writeln!(
            commits,
            r#"{{"time":"{time}T00:00:00Z","ops":[{{"op":"insert","table":"t","doc":{doc}}}]}}"#
        )
        .unwrap();
    }
    let path = commits.path().to_str().unwrap().to_owned();
    writeln!(commits, r#"{{"time":"2023-01-01T00:00:00Z","ops":[]}}"#).unwrap();
    // A line without operations becomes a commit, too.
    let loaded = embedded(dir.path(), &["apply", "--file", &path, "--preserve-time"]).await;
    assert_eq!(loaded, "{\"last_seq\":6,\"commits\":5,\"events\":4}\n");
    let drift = embedded(dir.path(), &["drift", "-t", "t", "--from", "@seq:1"]).await;
    let years: Vec<String> = drift
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["time"].as_str().unwrap()[..4].into()
        })
        .collect();
    assert_eq!(years, ["2020", "2021", "2021", "2022"]);
}

#[tokio::test]
async fn an_unreachable_daemon_gives_exit_code_3() {
    // A port that was free until now.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    for command in [&["status"][..], &["select", "-t", "t"], &["sql", "-e", TABLE]] {
        let args = [&["--writer", &address, "--reader", &address], command].concat();
        let (outcome, _) = driftctl(&args).await;
        let failure = outcome.unwrap_err();
        assert_eq!(failure.code(), 3, "{}", failure.text());
        assert!(failure.text().contains(&address), "{}", failure.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_rows_are_changed_and_reverted_from_the_command_line() {
    let dir = tempfile::tempdir().unwrap();
    let rows = r#"INSERT INTO t {"id":"a","n":1}, {"id":"b","n":2}"#;
    embedded(dir.path(), &["sql", "-e", TABLE, "-e", rows]).await;
    let change = r#"PATCH t SET {"x": true} WHERE n > 0"#;
    let dry = embedded(dir.path(), &["sql", "-o", "jsonl", "-e", &format!("{change} DRY RUN")]).await;
    let lines: Vec<_> = dry.lines().collect();
    assert_eq!(lines.len(), 3, "{dry}");
    assert_eq!(lines[2], r#"{"rows":2,"commits":0,"dry_run":true,"read_seq":2}"#);
    let done = embedded(dir.path(), &["sql", "-o", "jsonl", "-e", change]).await;
    assert_eq!(done.trim(), r#"{"seq":3,"rows":2,"commits":1}"#);
    let one = [
        "revert",
        "t",
        "--where",
        "n = 1 -- the first",
        "--to",
        "@seq:2",
        "--reason",
        "oops",
        "--actor",
        "anna",
    ];
    let done = embedded(dir.path(), &one).await;
    assert_eq!(done.trim(), r#"{"seq":4,"rows":1,"commits":1}"#);
    let done =
        embedded(dir.path(), &["revert", "t", "--all", "--to", "@seq:2", "--in-batches-of", "1"]).await;
    assert_eq!(done.trim(), r#"{"seq":5,"rows":1,"commits":1}"#);
    let drift = embedded(dir.path(), &["drift", "t", "--from", "@seq:3"]).await;
    let line: serde_json::Value = serde_json::from_str(drift.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&line["kind"], &line["actor"], &line["reason"]),
        (&"revert".into(), &"anna".into(), &"oops".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_names_its_fields_is_refused_in_a_transaction_as_outside_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let tables = r#"CREATE TABLE t (pk=id); CREATE TABLE p (pk=(a, b INT)); INSERT INTO t {"id":"x"}; INSERT INTO p {"a":"x","b":3}"#;
    embedded(dir.path(), &["sql", "-e", tables]).await;
    for change in
        [r#"PATCH t KEY (id = "x", b = 3) SET {"n":1}"#, r#"PATCH p KEY (a = "x", c = 3) SET {"n":1}"#]
    {
        let alone = refused(dir.path(), &["sql", "-e", change]).await;
        let transaction = format!(r#"BEGIN; UPSERT INTO t {{"id":"y"}}; {change}; COMMIT"#);
        let within = refused(dir.path(), &["sql", "-e", &transaction]).await;
        for (code, text) in [alone, within] {
            assert!(code == 1 && text.contains("KEY_INVALID"), "{change}: {text}");
        }
    }
    let right = r#"BEGIN; PATCH p KEY (b = 3, a = "x") SET {"n":1}; COMMIT"#;
    embedded(dir.path(), &["sql", "-e", right]).await;
    assert_eq!(embedded(dir.path(), &["select", "p"]).await, "{\"a\":\"x\",\"b\":3,\"n\":1}\n");
    assert_eq!(embedded(dir.path(), &["sql", "-e", "SELECT COUNT(*) FROM t"]).await, "{\"count\":1}\n");
}
