//! `driftctl ingest` loads every row of a file once, even if it and the writer are killed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::{Daemon, binary};

fn writer(data: &Path, port: u16) -> Daemon {
    let mut command = Command::new(binary("driftdb-writer"));
    command.arg("--data").arg(data).args(["--listen", &format!("127.0.0.1:{port}"), "--log", "warn"]);
    Daemon::spawn(command).unwrap()
}

fn driftctl(writer: &str) -> Command {
    let mut command = Command::new(binary("driftctl"));
    command.env("DRIFTDB_WRITER", writer);
    command
}

fn load(writer: &str, file: &Path) -> Child {
    let mut command = driftctl(writer);
    command.args(["ingest", "-t", "t", "--batch", "100", "--in-flight", "8", "--file"]).arg(file);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Loads a file of `rows` rows into a table that `create` makes, while the writer and driftctl are killed.
#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn load_while_killing((rows, kills): (u64, u64), create: &str, header: &str, row: &dyn Fn(u64) -> String) {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("rows.csv"));
    let text: String = (0..rows).map(row).collect();
    std::fs::write(&file, format!("{header}\n{text}")).unwrap();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = writer(&data, port);
    let url = daemon.url.clone();
    assert!(driftctl(&url).args(["sql", "-e", create]).status().unwrap().success());

    let mut loading = load(&url, &file);
    for kill in 0..kills {
        // Kills at varying times: during the start, in the middle, after the end.
        std::thread::sleep(Duration::from_millis(30 + kill * 37 % 170));
        if kill % 2 == 0 {
            daemon.kill();
            daemon = writer(&data, port);
        } else {
            let _ = loading.kill();
            loading.wait().unwrap();
            loading = load(&url, &file);
        }
    }
    let output = loading.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let found = driftctl(&url)
        .args(["-d", data.to_str().unwrap(), "sql", "-e"])
        .arg("SELECT COUNT(*) AS rows, COUNT(DISTINCT name) AS names FROM t")
        .output()
        .unwrap();
    let expected = format!("{{\"rows\":{rows},\"names\":{rows}}}\n");
    assert_eq!(String::from_utf8_lossy(&found.stdout), expected);
    // Each row is one commit. The only other commit creates the table.
    let status = driftctl(&url).args(["status", "-o", "json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status[0]["writer"]["last_seq"], rows + 1, "{status}");
}

#[test]
fn every_row_is_loaded_once_while_the_writer_and_driftctl_are_killed() {
    let size = by_lane((20_000, 8), (1_000_000, 60));
    let row = |row: u64| format!("{row},name {row},{}\n", row % 7);
    load_while_killing(size, "CREATE TABLE t (pk=id INT)", "id,name,n", &row);
}

#[test]
fn every_row_without_a_key_is_loaded_once_while_the_writer_and_driftctl_are_killed() {
    let size = by_lane((20_000, 8), (1_000_000, 60));
    let row = |row: u64| format!("name {row},{}\n", row % 7);
    load_while_killing(size, "CREATE TABLE t (pk=id AUTO)", "name,n", &row);
}

/// A line of an input file, and whether it can be loaded.
struct Line {
    text: String,
    is_good: bool,
}

/// Lines of which some cannot be loaded: broken ones, rows without a key, and rows whose key came before.
fn random_lines(random: &mut Random, csv: bool, count: usize) -> Vec<Line> {
    let (mut lines, mut keys): (Vec<Line>, Vec<String>) = (Vec::new(), Vec::new());
    let bad_in = 3 + random.below(40);
    for i in 0..count {
        let row = |key: &str| if csv { format!("{key},{i}") } else { format!(r#"{{"id":"{key}","n":{i}}}"#) };
        let kind = if random.below(bad_in) == 0 { 1 + random.below(4) } else { 0 };
        let text = match kind {
            1 if !keys.is_empty() => row(&keys[random.below(keys.len())]),
            2 => row("").replace(r#""id":"","#, ""),
            3 if csv => format!("{i}"),
            3 => format!("nonsense {i}"),
            4 if csv => format!("a{i},1\rb{i},2"),
            4 => format!(r#"{{"id":"a{i}"}}\r{{"id":"b{i}"}}"#),
            _ => {
                keys.push(format!("k{i}"));
                lines.push(Line { text: row(&format!("k{i}")), is_good: true });
                continue;
            }
        };
        lines.push(Line { text, is_good: false });
    }
    lines
}

/// Sorted lines.
fn sorted<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut sorted: Vec<String> = lines.into_iter().map(str::to_owned).collect();
    sorted.sort();
    sorted
}

/// The numbers `n` of all rows, sorted as text.
fn loaded(url: &str, data: &Path) -> Vec<String> {
    let args = ["-d", data.to_str().unwrap(), "select", "-t", "t", "--fields", "n", "-o", "jsonl"];
    let found = driftctl(url).args(args).output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    sorted(String::from_utf8_lossy(&found.stdout).lines())
}

/// Checks every promise about rows that cannot be loaded, against the plain list of lines.
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn account_for_every_row(seed: u64, csv: bool) {
    let mut random = Random(seed);
    let count = 50 + random.below(200);
    let lines = random_lines(&mut random, csv, count);
    let dir = tempfile::tempdir().unwrap();
    let (data, bad) = (dir.path().join("data"), dir.path().join("bad"));
    let file = dir.path().join(if csv { "rows.csv" } else { "rows.jsonl" });
    let header = if csv { "id,n\n" } else { "" };
    let text: String = lines.iter().map(|line| format!("{}\n", line.text)).collect();
    std::fs::write(&file, format!("{header}{text}")).unwrap();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = writer(&data, port);
    let url = daemon.url.clone();
    assert!(driftctl(&url).args(["sql", "-e", "CREATE TABLE t (pk=id)"]).status().unwrap().success());
    let batch = (1 + random.below(60)).to_string();
    let ingest = || {
        let mut command = driftctl(&url);
        command.args(["ingest", "-t", "t", "--batch", &batch, "--in-flight", "3", "--file"]).arg(&file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let number = |line: usize| format!(r#"{{"n":{line}}}"#);
    let good = |upto: usize| {
        let good = (0..upto).filter(|line| lines[*line].is_good);
        sorted(good.map(number).collect::<Vec<_>>().iter().map(String::as_str))
    };

    // Without --skip-bad, everything before the first bad line is loaded, and the load fails however often it is repeated.
    let first_bad = lines.iter().position(|line| !line.is_good);
    for attempt in 0..2 {
        let output = ingest().output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), first_bad.is_none(), "seed {seed}, attempt {attempt}: {stderr}");
        assert_eq!(loaded(&url, &data), good(first_bad.unwrap_or(count)), "seed {seed}: {stderr}");
        assert!(stderr.lines().count() < 20, "seed {seed}: {stderr}");
        daemon.kill();
        daemon = writer(&data, port);
    }

    // With it, each line is loaded or set aside, once, even if the writer and driftctl are killed.
    for kill in 0..4 {
        let mut loading = ingest().arg("--skip-bad").arg(&bad).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.below(120) as u64));
        if kill % 2 == 0 {
            loading.kill().unwrap();
            loading.wait().unwrap();
        } else {
            daemon.kill();
            daemon = writer(&data, port);
            // It fails if it finds no writer when it starts.
            loading.wait().unwrap();
        }
    }
    let output = ingest().arg("--skip-bad").arg(&bad).output().unwrap();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(loaded(&url, &data), good(count), "seed {seed}");
    let aside = std::fs::read_to_string(&bad).unwrap();
    let aside = aside.strip_prefix(header).unwrap_or(&aside).split_terminator('\n');
    let is_bad = |line: &&Line| !line.is_good;
    let expected = lines.iter().filter(is_bad).map(|line| line.text.as_str());
    assert_eq!(sorted(aside), sorted(expected), "seed {seed}");
    // Each row is one commit. The only other commit creates the table.
    let status = driftctl(&url).args(["status", "-o", "json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status[0]["writer"]["last_seq"], good(count).len() + 1, "seed {seed}: {status}");
}

#[test]
fn every_row_of_a_file_with_bad_rows_is_loaded_or_set_aside_once() {
    for seed in 0..by_lane(3, 300) {
        account_for_every_row(seed, seed % 2 == 0);
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own files")]
fn a_table_that_was_created_again_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("rows.csv"));
    std::fs::write(&file, "id,a\n1,x\n2,y\n").unwrap();
    let daemon = Daemon::writer(&data);
    let run = |args: &[&str]| {
        let output = driftctl(&daemon.url).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let ingest = ["ingest", "-t", "t", "--file", file.to_str().unwrap()];
    run(&["sql", "-e", "CREATE TABLE t (pk=id)"]);
    assert!(run(&ingest).contains("\"events\":2"));
    assert!(run(&ingest).contains("\"events\":0"));
    run(&["sql", "-e", "DROP TABLE t", "-e", "CREATE TABLE t (pk=id)"]);
    assert!(run(&ingest).contains("\"events\":2"));
}
