//! `driftctl watch` as its user sees it: what it prints and runs, how it resumes, and how it ends.

#![expect(clippy::disallowed_methods, reason = "this test looks at its own files")]

use std::io::{BufRead, BufReader, Lines, Read};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use crate::harness::{Cluster, Daemon, apply, binary, insert, patch, put};
use serde_json::{Value, json};

/// A command line for a cluster.
fn driftctl(cluster: &Cluster, args: &[&str]) -> Command {
    let mut command = Command::new(binary("driftctl"));
    command.env("DRIFTDB_WRITER", &cluster.writer_daemon.url);
    command.env("DRIFTDB_READER", &cluster.reader_daemon.url).args(args);
    command
}

fn run(cluster: &Cluster, args: &[&str]) -> Output {
    driftctl(cluster, args).output().unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{output:?}");
    printed(output)
}

/// What a command printed, whether it succeeded or not.
fn printed(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A running `driftctl watch`. Dropping it kills the process.
struct Watching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watching {
    fn start(mut command: Command) -> Watching {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Watching { child, lines }
    }

    fn next(&mut self) -> Value {
        let Some(line) = self.lines.next() else {
            let mut said = String::new();
            self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the watch has ended: {said}");
        };
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    fn interrupt(&mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "INT", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Three rows and their changes: commits 3 to 8.
async fn filled() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    cluster.create("u").await;
    for operations in [
        vec![insert("t", r#"{"id":"a1","n":1}"#), insert("t", r#"{"id":"a2","n":2}"#)],
        vec![insert("u", r#"{"id":"b1","n":9}"#)],
        vec![patch("t", "a1", r#"{"n":5}"#), patch("u", "b1", r#"{"n":1}"#)],
        vec![crate::harness::delete("t", "a2")],
        vec![put("t", r#"{"id":"c","n":7}"#)],
        vec![patch("u", "b1", r#"{"m":1}"#)],
    ] {
        apply(&mut cluster.writer, operations).await.unwrap();
    }
    cluster
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_prints_matching_changes_up_to_a_commit() {
    let cluster = filled().await;
    for (filter, expected) in [
        (vec!["-t", "u"], vec![(2, ""), (4, "b1"), (5, "b1"), (8, "b1")]),
        (
            vec!["-t", "t,u", "-k", "a1", "-k", "b1"],
            vec![(3, "a1"), (4, "b1"), (5, "a1"), (5, "b1"), (8, "b1")],
        ),
        (vec!["--prefix", "a"], vec![(3, "a1"), (3, "a2"), (5, "a1"), (6, "a2")]),
        (vec!["--where", "n > $1", "--param", "4"], vec![(4, "b1"), (5, "a1"), (5, "b1"), (7, "c")]),
        (vec!["--from", "@seq:6", "-t", "t"], vec![(7, "c")]),
        (vec!["--until", "@seq:3", "-t", "t"], vec![(1, ""), (3, "a1"), (3, "a2")]),
    ] {
        let mut args = vec!["watch"];
        let given = |option| filter.contains(&option);
        if !given("--from") {
            args.extend(["--from", "@seq:0"]);
        }
        if !given("--until") {
            args.extend(["--until", "@now"]);
        }
        args.extend(&filter);
        let found = lines(&run(&cluster, &args));
        let found: Vec<_> =
            found.iter().map(|e| (e["seq"].as_u64().unwrap(), e["key"].as_str().unwrap())).collect();
        assert_eq!(found, expected, "{filter:?}");
    }

    let args = ["watch", "-k", "a1", "--from", "@seq:4", "--until", "@now", "--with-before", "--with-after"];
    let event = lines(&run(&cluster, &args)).remove(0);
    assert_eq!(event["kind"], "patch");
    assert_eq!((&event["before"], &event["after"]), (&json!({"id":"a1","n":1}), &json!({"id":"a1","n":5})));

    // Rows first, then later changes; and progress.
    let args = ["watch", "-t", "t", "--initial", "--from", "@seq:5", "--until", "@now", "--progress"];
    let found = lines(&run(&cluster, &args));
    assert_eq!(found[0]["row"]["doc"], json!({"id":"a1","n":5}));
    assert_eq!((&found[0]["row"]["table"], &found[0]["row"]["seq"]), (&json!("t"), &json!(5)));
    assert_eq!(found[1]["row"]["key"], "a2");
    assert_eq!(found[2], json!({"progress":{"seq":5}}));
    let seqs: Vec<_> = found.iter().filter_map(|line| line["seq"].as_u64()).collect();
    assert_eq!(seqs, [6, 7]);
    assert_eq!(found.last().unwrap(), &json!({"progress":{"seq":8}}));

    let output = run(&cluster, &["watch", "-o", "table", "-k", "c", "--from", "@seq:0", "--until", "@now"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("        7  insert      t/c  {\"id\":\"c\",\"n\":7}\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_watch_command_is_refused() {
    let cluster = filled().await;
    for (args, code, told) in [
        (vec!["--until", "2100-01-01"], 2, "is in the future"),
        (vec!["--until", "1990-01-01"], 2, "is before the first commit"),
        (vec!["-o", "csv"], 2, "--until"),
        (vec!["-t", "nope"], 4, "TABLE_NOT_FOUND"),
        (vec!["--where", "n ="], 1, "QUERY_SYNTAX"),
        (vec!["--from", "@seq:99"], 1, "BEYOND_HEAD"),
        (vec!["--reader", "127.0.0.1:1"], 3, "UNREACHABLE"),
        (vec!["--from", "@seq:0", "--", "/nonexistent/program"], 1, "cannot run /nonexistent/program"),
    ] {
        let output = run(&cluster, &[vec!["watch"], args.clone()].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(told), "{args:?}: {said}");
    }
}

/// A reader on the address of another one.
fn reader_at(url: &str, data: &Path) -> Daemon {
    let mut command = Command::new(binary("driftdb-reader"));
    let address = url.strip_prefix("http://").unwrap();
    command.arg("--data").arg(data).args(["--listen", address, "--log", "warn"]);
    Daemon::spawn(command).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_resumes_after_restarts_of_readers_and_its_own() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let mark = cluster.dir.path().join("mark");
    let args = ["watch", "-t", "t", "--resume", mark.to_str().unwrap()];
    let second = Daemon::reader(cluster.dir.path());
    let url = cluster.reader_daemon.url.clone();
    let both = format!("{url},{}", second.url);
    let start = |cluster: &Cluster| {
        let mut command = driftctl(cluster, &args);
        command.env("DRIFTDB_READER", &both);
        Watching::start(command)
    };
    let mut watching = start(&cluster);
    while !mark.exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let mut expected = 2;
    for round in 0..4 {
        for n in 0..30 {
            apply(&mut cluster.writer, vec![put("t", format!(r#"{{"id":"{round}-{n}"}}"#))]).await.unwrap();
            if n == 10 {
                match round {
                    // A reader is killed and restarted. The other one serves meanwhile.
                    0 | 2 => cluster.reader_daemon.kill(),
                    1 => cluster.reader_daemon = reader_at(&url, cluster.dir.path()),
                    // The watch ends, and the next run resumes.
                    _ => {
                        assert_eq!(watching.next()["seq"], expected);
                        expected += 1;
                        assert_eq!(watching.interrupt(), Some(130));
                        // It does not print again what it printed before its end.
                        for line in watching.lines.by_ref() {
                            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
                            assert_eq!(line["seq"], expected);
                            expected += 1;
                        }
                        watching = start(&cluster);
                    }
                }
            }
        }
        let last = 2 + 30 * (round + 1);
        while expected < last {
            assert_eq!(watching.next()["seq"], expected);
            expected += 1;
        }
    }
    // The file belongs to this filter.
    watching.interrupt();
    let other = run(&cluster, &[&args[..], &["-k", "x", "--reader", &second.url]].concat());
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("FILTER_MISMATCH") && said.contains("mark (remove this file"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_run_for_each_commit_until_it_fails() {
    let cluster = filled().await;
    let dir = cluster.dir.path();
    let (mark, log) = (dir.join("mark"), dir.join("log"));
    let script = r#"cat >> "$0"; echo "$DRIFTDB_SEQ" >> "$0.seqs"; test "$DRIFTDB_SEQ" != "$1""#;
    let watch = |stop: &str| {
        let args = ["watch", "-t", "t", "--from", "@seq:1", "--until", "@now", "--resume"];
        let mut command = driftctl(&cluster, &args);
        command.arg(&mark).args(["--with-after", "--", "sh", "-c", script]).arg(&log).arg(stop);
        command.output().unwrap()
    };
    let failed = watch("6");
    let said = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(failed.status.code(), Some(1), "{said}");
    assert!(said.contains("sh failed with exit code 1 for commit 6"), "{said}");
    // The commit on which it failed comes again, and none is skipped.
    assert!(watch("none").status.success());
    let seqs = std::fs::read_to_string(dir.join("log.seqs")).unwrap();
    assert_eq!(seqs.split_whitespace().collect::<Vec<_>>(), ["3", "5", "6", "6", "7"]);
    let log = std::fs::read_to_string(&log).unwrap();
    let commits: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(commits[0]["seq"], 3);
    assert_eq!(commits[0]["changes"].as_array().unwrap().len(), 2);
    assert_eq!(commits[1]["changes"][0]["after"], json!({"id":"a1","n":5}));
    // A program that ends without reading is no failure. Rows are passed as rows.
    let args = ["watch", "-t", "t", "--initial", "--until", "@now", "--", "true"];
    assert!(run(&cluster, &args).status.success());
    let args = ["watch", "-t", "u", "--initial", "--until", "@now", "--", "cat"];
    assert_eq!(lines(&run(&cluster, &args))[0]["rows"][0]["doc"], json!({"id":"b1","n":1,"m":1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_ends_if_nobody_reads_it_and_on_ctrl_c() {
    let cluster = filled().await;
    let mut watching = Watching::start(driftctl(&cluster, &["watch", "--from", "@seq:6"]));
    assert_eq!(watching.next()["seq"], 7);
    // It notices without a further event that nobody reads its output.
    let Watching { child, lines } = &mut watching;
    let stdout = std::mem::replace(lines, empty_lines());
    drop(stdout);
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(0), ""));

    let mut watching = Watching::start(driftctl(&cluster, &["watch", "--from", "@seq:7"]));
    assert_eq!(watching.next()["seq"], 8);
    assert_eq!(watching.interrupt(), Some(130));
    // Also while the program runs.
    let args = ["watch", "--from", "@seq:7", "--", "sh", "-c", "echo 1; exec sleep 1000"];
    let mut watching = Watching::start(driftctl(&cluster, &args));
    assert_eq!(watching.next(), 1);
    assert_eq!(watching.interrupt(), Some(130));
    // The program may finish what it has started, if that is soon.
    let args = ["watch", "--from", "@seq:7", "--", "sh", "-c", "echo 1; sleep 0.3; echo 2"];
    let mut watching = Watching::start(driftctl(&cluster, &args));
    assert_eq!(watching.next(), 1);
    assert_eq!(watching.interrupt(), Some(130));
    assert_eq!(watching.next(), 2);
}

/// The lines of a program that prints nothing.
fn empty_lines() -> Lines<BufReader<ChildStdout>> {
    let mut child = Command::new("true").stdout(Stdio::piped()).spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    child.wait().unwrap();
    BufReader::new(stdout).lines()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_can_be_watched_without_daemons() {
    let mut cluster = filled().await;
    let data = cluster.dir.path().to_str().unwrap().to_owned();
    let mut watching = Watching::start(driftctl(&cluster, &["watch", "-d", &data, "--from", "@seq:7"]));
    assert_eq!(watching.next()["seq"], 8);
    apply(&mut cluster.writer, vec![put("t", r#"{"id":"d"}"#)]).await.unwrap();
    assert_eq!(watching.next()["key"], "d");

    let mut remote = Watching::start(driftctl(&cluster, &["watch", "--from", "@seq:8"]));
    assert_eq!(remote.next()["key"], "d");
    let stuck = Daemon::reader(cluster.dir.path());
    stuck.signal("STOP");
    let readers = format!("127.0.0.1:1,{},{}", stuck.url, cluster.reader_daemon.url);
    let writers = format!("127.0.0.1:1,{}", cluster.writer_daemon.url);
    // Without a writer, the table list comes from a reader, which is asked only once.
    let args = ["status", "--reader", &cluster.reader_daemon.url, "--writer", "127.0.0.1:1"];
    let status = run(&cluster, &args);
    // What is there is printed, and the exit code says that something is missing.
    let error = String::from_utf8_lossy(&status.stderr).into_owned();
    assert!(status.status.code() == Some(3) && error.contains("127.0.0.1:1"), "{error}");
    let status = printed(&status).remove(0);
    assert_eq!((&status["writer"], status["tables"].as_array().unwrap().len()), (&Value::Null, 2));

    let status = run(&cluster, &["status", "--reader", &readers, "--writer", &writers]);
    assert_eq!(status.status.code(), Some(3));
    let status = printed(&status).remove(0);
    assert_eq!(status["writer"]["last_seq"], 9, "{status}");
    assert_eq!(status["writer"]["url"], cluster.writer_daemon.url, "{status}");
    assert_eq!(
        (&status["writers"][0]["state"], &status["writers"][1]["state"]),
        (&json!("down"), &json!("active"))
    );
    assert!(
        status["readers"][0]["error"].is_string() && status["readers"][1]["error"].is_string(),
        "{status}"
    );
    assert_eq!(
        (&status["readers"][2]["applied_seq"], &status["readers"][2]["watchers"]),
        (&json!(9), &json!(1))
    );
}
