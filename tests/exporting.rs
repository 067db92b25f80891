//! `driftctl export`: files with the rows of one point in time, which `ingest` takes back.

#![expect(clippy::disallowed_methods, reason = "these tests look at the files of a user")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::harness::binary;

fn driftctl(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(binary("driftctl"));
    command.env("XDG_CONFIG_HOME", "/nonexistent").env_remove("DRIFTDB_OUTPUT");
    command.args(["-d", "data"]).args(args).current_dir(dir).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command that must succeed. Returns what it printed.
fn run(dir: &Path, args: &[&str]) -> String {
    let output = driftctl(dir, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail. Returns its exit code and error.
fn refused(dir: &Path, args: &[&str]) -> (i32, String) {
    let output = driftctl(dir, args);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A database with the table `t`: commit 2 inserts rows of all kinds, commit 3 changes and deletes some.
fn filled() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let rows = [
        json!({"id": "a", "n": 1, "f": 2.0, "text": "x, \"y\"\nz", "ok": true, "tags": ["a", {"b": null}]}),
        json!({"id": "b", "n": -7, "f": 0.1, "text": "007", "ok": false, "tags": {}}),
        json!({"id": "c", "n": null, "f": null, "text": null, "ok": null, "tags": null}),
        json!({"id": "d", "n": 18_446_744_073_709_551_615_u64, "f": 1e300, "text": "", "ok": true, "tags": 5}),
    ];
    let rows = rows.map(|row| row.to_string()).join(", ");
    run(dir.path(), &["sql", "CREATE TABLE t (pk=id)"]);
    run(dir.path(), &["sql", &format!("INSERT INTO t {rows}")]);
    run(dir.path(), &["sql", r#"BEGIN; PATCH t KEY "a" SET {"n": 2}; SOFT DELETE FROM t KEY "b"; COMMIT"#]);
    dir
}

fn rows(dir: &Path, table: &str, as_of: &str) -> Vec<Value> {
    let text = run(dir, &["select", table, "--as-of", as_of, "-o", "jsonl"]);
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn csv_is_loaded_again_with_the_options_that_are_printed() {
    let dir = filled();
    for (table, as_of, file) in
        [("u", "@seq:2", "old.csv"), ("v", "@now", "new.csv.zst"), ("w", "@now", "new.csv.gz")]
    {
        let summary = run(dir.path(), &["export", "t", file, "--as-of", as_of]);
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let expected = rows(dir.path(), "t", as_of);
        assert_eq!(summary["rows"].as_u64(), Some(expected.len() as u64), "{summary}");
        let options: Vec<String> = serde_json::from_value(summary["ingest_options"].clone()).unwrap();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let load = ["ingest", table, "--file", file, "--create", "--pk", "id"];
        run(dir.path(), &[&load[..], &options].concat());
        assert_eq!(rows(dir.path(), table, "@now"), expected, "{as_of}");
    }
}

#[test]
fn rows_are_of_one_point_in_time_and_of_the_columns_that_are_named() {
    let dir = filled();
    run(dir.path(), &["export", "t", "old.jsonl", "--as-of", "@seq:2"]);
    let text = fs::read_to_string(dir.path().join("old.jsonl")).unwrap();
    assert_eq!(text, run(dir.path(), &["select", "t", "--as-of", "@seq:2", "-o", "jsonl"]));
    let export = ["export", "-t", "t", "-o", "csv", "--as-of", "@seq:2", "--where", "n > $1", "--param", "0"];
    let printed = run(dir.path(), &[&export[..], &["--columns", "n,tags.b,id", "-"]].concat());
    assert_eq!(printed, "n,tags.b,id\n1,,a\n18446744073709551615,,d\n");
    // Of no rows, the header is left.
    let printed = run(dir.path(), &["export", "t", "-", "-o", "csv", "--where", "n = 12345"]);
    assert_eq!(printed, "id\n");
}

#[test]
fn a_file_is_whole_or_not_there_and_no_other_is_overwritten() {
    let dir = filled();
    fs::write(dir.path().join("mine.csv"), "mine").unwrap();
    let (code, error) = refused(dir.path(), &["export", "t", "mine.csv"]);
    assert!(code == 1 && error.contains("the file exists"), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join("mine.csv")).unwrap(), "mine");
    for (args, expected, what) in [
        (&["export", "none", "x.csv"][..], 4, "does not exist"),
        (&["export", "t", "x.csv", "--where", "n >"], 1, "^"),
        (&["export", "t", "x.csv", "--columns", "a b"], 1, "--columns"),
        (&["export", "t", "x.csv", "--as-of", "soonish"], 1, "soonish"),
        (&["export", "t", "x"], 2, "-o csv, -o jsonl or -o parquet"),
        // These tests build driftctl as it is by default.
        (&["export", "t", "x.parquet"], 2, "--features parquet"),
        (&["export", "t", "x.parquet.gz"], 2, "without .gz"),
        (&["select", "t", "-o", "parquet"], 2, "only export"),
        (&["export", "t", "x", "-o", "json"], 2, "not json"),
        (&["export", "t"], 2, "a file"),
    ] {
        let (code, error) = refused(dir.path(), args);
        assert!(code == expected && error.contains(what), "{args:?} {code}: {error}");
    }
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let left: Vec<PathBuf> = names.filter(|path| path.to_string_lossy().contains("/x")).collect();
    assert_eq!(left, Vec::<PathBuf>::new());
}
