//! Tests of loads that are cut off, repeated and begun again.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use driftdb_common::storage::fs;

use crate::testing::{driftctl, embedded, refused};

/// A history whose schemas change before, between and after its rows, one change a month: by the end, the writer has forgotten the request
/// ids of the beginning.
const HISTORY: [&str; 11] = [
    "CREATE TABLE gone (pk=id)",
    "DROP TABLE gone",
    r#"CREATE TABLE a (pk=id, RETAIN "3650d")"#,
    r#"ALTER TABLE a RETAIN "3650d""#,
    r#"UPSERT INTO a {"id":"x","n":1}"#,
    "CREATE TABLE b (pk=id)",
    "DROP TABLE a",
    r#"UPSERT INTO b {"id":"y"}"#,
    r#"PATCH b KEY "y" SET {"n":2}"#,
    "CREATE TABLE u (pk=id)",
    "DROP TABLE u",
];

/// A directory with a database of this history, and its dump.
struct Dumped {
    dir: tempfile::TempDir,
    lines: Vec<String>,
}

impl Dumped {
    async fn new(history: &[&str]) -> Dumped {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        for (month, statement) in (1..).zip(history) {
            embedded(&from, &["sql", statement, "--time", &format!("2025-{month:02}-01T00:00:00Z")]).await;
        }
        let mut dumped = Dumped { dir, lines: Vec::new() };
        dumped.lines = dumped.history_of("from").await;
        dumped
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The lines of a dump of a database.
    async fn history_of(&self, name: &str) -> Vec<String> {
        let args = ["-d", self.path(name).to_str().unwrap(), "dump", "--history", "-"].map(str::to_owned);
        let (outcome, text) = driftctl(&args.each_ref().map(String::as_str)).await;
        outcome.unwrap_or_else(|failure| panic!("{}", failure.text()));
        text.lines().map(str::to_owned).collect()
    }

    /// A file with the header and the first lines of the dump.
    fn cut(&self, commits: usize) -> String {
        let file = self.path(&format!("cut-{commits}")).to_str().unwrap().to_owned();
        if fs::open_input(file.as_ref()).is_err() {
            let mut out = fs::create_output(file.as_ref()).unwrap();
            out.write_all(self.lines[..=commits].join("\n").as_bytes()).unwrap();
        }
        file
    }

    fn whole(&self) -> String {
        self.cut(self.lines.len() - 1)
    }
}

async fn cut_off(to: &Path, args: &[&str]) {
    let (_, message) = refused(to, args).await;
    assert!(message.contains("is incomplete: it has no end"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_begins_after_the_history_that_a_dropped_table_has_lost() {
    let history = [
        "CREATE TABLE short (pk=id)",
        r#"UPSERT INTO short {"id":"x"}"#,
        "CREATE TABLE long (pk=id)",
        r#"UPSERT INTO long {"id":"y","n":1}"#,
        "DROP TABLE short",
        r#"PATCH long KEY "y" SET {"n":2}"#,
    ];
    let dumped = Dumped::new(&history).await;
    embedded(&dumped.path("from"), &["sql", "COMPACT short"]).await;
    let lines = dumped.history_of("from").await;
    assert!(lines[0].contains(r#""from_seq":5"#) && lines[2].contains(r#""n":1"#), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_is_cut_off_anywhere_resumes_and_is_then_done() {
    let dumped = Dumped::new(&HISTORY).await;
    assert_eq!(dumped.lines.len(), HISTORY.len() + 2);
    for commits in 0..=HISTORY.len() {
        let name = format!("to-{commits}");
        let to = dumped.path(&name);
        cut_off(&to, &["load", &dumped.cut(commits)]).await;
        let rest = embedded(&to, &["load", &dumped.whole()]).await;
        let left = HISTORY.len() - commits;
        assert!(rest.contains(&format!("\"commits\":{left},")), "cut off after {commits}: {rest}");
        for _ in 0..2 {
            let again = embedded(&to, &["load", &dumped.whole()]).await;
            assert!(again.contains("\"commits\":0,"), "cut off after {commits}: {again}");
        }
        assert_eq!(dumped.history_of(&name).await[1..], dumped.lines[1..], "cut off after {commits}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_is_cut_off_is_what_the_next_load_resumes() {
    let dumped = Dumped::new(&[
        "CREATE TABLE a (pk=id)",
        r#"UPSERT INTO a {"id":"x"}"#,
        r#"UPSERT INTO a {"id":"y"}"#,
    ])
    .await;
    let to = dumped.path("to");
    embedded(&to, &["load", &dumped.whole()]).await;
    for commits in [1, 2] {
        let (code, message) = refused(&to, &["load", "--restart", &dumped.whole()]).await;
        assert!(code == 1 && message.contains("has a table \"a\" already"), "{message}");
        embedded(&to, &["sql", "DROP TABLE a"]).await;
        let (_, message) = refused(&to, &["load", &dumped.whole()]).await;
        assert!(message.contains("pass --restart to load all of it again"), "{message}");
        cut_off(&to, &["load", "--restart", &dumped.cut(commits)]).await;
        embedded(&to, &["load", &dumped.whole()]).await;
        assert_eq!(embedded(&to, &["select", "a"]).await, "{\"id\":\"x\"}\n{\"id\":\"y\"}\n");
        let again = embedded(&to, &["load", &dumped.whole()]).await;
        assert!(again.contains("\"commits\":0,"), "{again}");
    }
}

/// The writer has forgotten that a restart made the table: only its commit tells that the rows of the first run are not in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_load_after_a_forgotten_restart_is_refused_and_does_not_pass_over_rows() {
    let dumped = Dumped::new(&["CREATE TABLE a (pk=id)", r#"UPSERT INTO a {"id":"x"}"#]).await;
    let to = dumped.path("to");
    embedded(&to, &["load", &dumped.whole()]).await;
    embedded(&to, &["sql", "DROP TABLE a", "--time", "2025-04-01T00:00:00Z"]).await;
    cut_off(&to, &["load", "--restart", &dumped.cut(1)]).await;
    embedded(&to, &["sql", "CREATE TABLE z (pk=id)", "--time", "2025-06-01T00:00:00Z"]).await;
    let (code, message) = refused(&to, &["load", &dumped.whole()]).await;
    assert!(code == 1 && message.contains("pass --restart to load all of it again"), "{message}");
    embedded(&to, &["sql", "DROP TABLE a"]).await;
    embedded(&to, &["load", "--restart", &dumped.whole()]).await;
    assert_eq!(embedded(&to, &["select", "a"]).await, "{\"id\":\"x\"}\n");
    let again = embedded(&to, &["load", &dumped.whole()]).await;
    assert!(again.contains("\"commits\":0,"), "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_refuses_a_table_that_the_history_drops_before_it_changes_anything() {
    let dumped = Dumped::new(&HISTORY).await;
    for (table, shown) in [("GONE", "GONE"), ("u", "u"), ("a", "a")] {
        let to = dumped.path(table);
        embedded(&to, &["sql", &format!("CREATE TABLE {table} (pk=id)")]).await;
        let before = dumped.history_of(table).await;
        let (code, message) = refused(&to, &["load", &dumped.whole()]).await;
        assert!(code == 1 && message.contains(&format!("has a table {shown:?} already")), "{message}");
        assert_eq!(dumped.history_of(table).await[1..], before[1..]);
    }
    // A dump of rows, and one of an older version, do not have these names.
    let header = &dumped.lines[0];
    assert!(header.contains(r#""history_tables":["a","b","gone","u"]"#), "{header}");
    let older = header.replace(r#","history_tables":["a","b","gone","u"]"#, "");
    let file = dumped.path("older");
    let mut out = fs::create_output(&file).unwrap();
    out.write_all([&[older], &dumped.lines[1..]].concat().join("\n").as_bytes()).unwrap();
    embedded(&dumped.path("to"), &["load", file.to_str().unwrap()]).await;
    assert_eq!(dumped.history_of("to").await[1..], dumped.lines[1..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_failed_does_not_stand_in_the_way_of_the_next_one() {
    let dumped = Dumped::new(&HISTORY).await;
    let (from, file) = (dumped.path("from"), dumped.path("dump.jsonl"));
    let mut begun = fs::create_new_output(&file).unwrap();
    begun.write_all(&[b'x'; 100_000]).unwrap();
    assert!(fs::open_input(&file).is_err(), "the file has its name before it is whole");
    let (code, message) = refused(&from, &["dump", file.to_str().unwrap()]).await;
    assert!(code == 1 && message.contains("another process is writing it"), "{message}");
    drop(begun);
    embedded(&from, &["dump", "--history", file.to_str().unwrap()]).await;
    let mut text = String::new();
    fs::open_input(&file).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), dumped.lines[1..]);
    assert!(fs::open_input(&dumped.path("dump.jsonl.partial")).is_err());
    let (_, message) = refused(&from, &["dump", file.to_str().unwrap()]).await;
    assert!(message.contains("the file exists"), "{message}");
    // A file that got the name meanwhile is not replaced.
    let (late, taken) = (dumped.path("late"), fs::create_new_output(&dumped.path("late")).unwrap());
    fs::create_output(&late).unwrap().write_all(b"mine").unwrap();
    assert!(taken.finish().is_err());
    let mut text = String::new();
    fs::open_input(&late).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "mine");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_to_standard_output_ends_with_its_end_in_every_format() {
    let dumped = Dumped::new(&HISTORY).await;
    let from = dumped.path("from");
    for format in ["json", "jsonl", "table"] {
        let text = embedded(&from, &["-o", format, "dump", "-"]).await;
        assert!(text.lines().last().unwrap().starts_with("{\"end\":"), "{format}: {text}");
    }
}
