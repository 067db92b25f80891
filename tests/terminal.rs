//! What driftctl looks like on a terminal of 80 and of 200 columns, captured with tmux. Skipped if tmux is missing.
//!
//! The captures are golden files in tests/terminal; DRIFTDB_BLESS=1 writes them.

#![expect(clippy::disallowed_methods, reason = "this test reads its own golden files")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Daemon, binary};

/// How long to wait for a program to print what it should.
const LIMIT: Duration = Duration::from_secs(60);
/// What the shell prints after a command.
const DONE: &str = "[the command has ended]";

/// The commands that are captured, by the name of their section.
const COMMANDS: [(&str, &str); 7] = [
    ("select wide", "select orders"),
    ("select limited", "select orders --limit 1"),
    ("select long", "select notes"),
    ("drift", "drift orders o1"),
    ("diff", "diff orders --from @seq:4"),
    ("show tables", "sql 'SHOW TABLES'"),
    ("status", "status"),
];

/// A tmux server of our own, whose terminals run in a directory. Dropping it ends the server.
struct Tmux {
    socket: PathBuf,
    directory: PathBuf,
    columns: u32,
}

impl Tmux {
    fn command(&self) -> Command {
        let mut command = Command::new("tmux");
        command.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).current_dir(&self.directory);
        // No settings of whoever runs the tests.
        command.env("HOME", &self.directory).env_remove("TMUX").env("PAGER", "cat").env("NO_COLOR", "1");
        command
            .env_remove("XDG_STATE_HOME")
            .env_remove("XDG_CONFIG_HOME")
            .env("LC_ALL", "C.UTF-8")
            .env("SHELL", "/bin/sh");
        command
    }

    fn run(&self, args: &[&str]) -> String {
        let output = self.command().args(args).output().unwrap();
        assert!(output.status.success(), "tmux {args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a program in a terminal of its own.
    fn start(&self, name: &str, program: &str) {
        let columns = self.columns.to_string();
        self.run(&["-u", "new-session", "-d", "-s", name, "-x", &columns, "-y", "100", program]);
    }

    /// The screen, once `is_ready` says that all is there.
    fn screen(&self, name: &str, is_ready: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p", "-t", name]);
            if is_ready(&screen) {
                return screen;
            }
            assert!(start.elapsed() < LIMIT, "{name}: {screen}");
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn keys(&self, name: &str, keys: &[&str]) {
        self.run(&[["send-keys", "-t", name].as_slice(), keys].concat());
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = self.command().arg("kill-server").output();
    }
}

/// A database in `data`, with fixed times.
fn fill(directory: &Path) {
    let long =
        "A note that is as long as notes are: it has several sentences, and what matters is at its end. "
            .repeat(3);
    let statements = [
        "CREATE TABLE orders (pk=id, INDEX(status, customer))".to_owned(),
        "CREATE TABLE notes (pk=id INT)".to_owned(),
        r#"INSERT INTO orders {"id": "o1", "status": "pending", "customer": "Grüße & Söhne", "amount": 100.50, "city": "東京都港区", "comment": "leave it at the door, ring twice, and mind the cat"}"#.to_owned(),
        r#"INSERT INTO orders {"id": "o2", "status": "paid", "customer": "Ann", "amount": 7, "city": "Rome", "comment": ""}"#.to_owned(),
        r#"PATCH orders KEY "o1" SET {"status": "paid", "comment": "the cat likes parcels"}"#.to_owned(),
        r#"SOFT DELETE FROM orders KEY "o2""#.to_owned(),
        r#"INSERT INTO orders {"id": "o3", "status": "new", "customer": "Bob", "amount": -3, "city": "Paris", "comment": "none"}"#.to_owned(),
        format!(r#"INSERT INTO notes {{"id": 1, "text": "{long}"}}, {{"id": 2, "text": "short"}}"#),
    ];
    for (second, statement) in statements.iter().enumerate() {
        let time = format!("2026-01-01T00:00:{second:02}Z");
        let mut command = Command::new(binary("driftctl"));
        command
            .args(["-d", "data", "sql", statement, "--time", &time, "--reason", "why"])
            .current_dir(directory);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{statement}: {output:?}");
    }
}

/// Takes out of a capture what differs from run to run.
fn masked(screen: &str) -> String {
    let ago = |line: &str| match (line.find(" commits and "), line.find(" ms behind")) {
        (Some(from), Some(to)) => format!("{} commits and N{}", &line[..from], &line[to..]),
        _ => line.trim_end().to_owned(),
    };
    let lines = screen.lines().filter(|line| !line.contains(DONE)).map(ago);
    lines.collect::<Vec<_>>().join("\n").trim_end().to_owned()
}

/// Everything that is captured at a width.
fn captures(directory: &Path, columns: u32) -> String {
    let tmux =
        Tmux { socket: directory.join(format!("tmux-{columns}")), directory: directory.to_owned(), columns };
    let driftctl = format!("{} -d data", binary("driftctl").display());
    let mut found = String::new();
    for (at, (name, arguments)) in COMMANDS.iter().enumerate() {
        let session = format!("s{at}");
        tmux.start(&session, &format!("{driftctl} {arguments}; printf '{DONE}'; sleep 600"));
        let screen = tmux.screen(&session, |screen| screen.contains(DONE));
        found += &format!("== {name}\n$ driftctl {arguments}\n{}\n\n", masked(&screen));
    }
    tmux.start("shell", &format!("{driftctl} shell"));
    tmux.screen("shell", |screen| screen.contains("driftdb>"));
    tmux.keys("shell", &["SELECT * FROM ", "Tab", "Tab"]);
    tmux.screen("shell", |screen| screen.contains("notes"));
    tmux.keys("shell", &["or", "Tab", " WHERE c", "Tab", "Tab"]);
    let screen =
        tmux.screen("shell", |screen| screen.contains("comment") && screen.matches("WHERE c").count() == 2);
    found += &format!("== shell completion\n{}\n", masked(&screen));
    found
}

#[test]
fn output_fits_terminals_of_80_and_of_200_columns() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    for columns in [80, 200] {
        let found = captures(dir.path(), columns);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/terminal/{columns}.txt"));
        if std::env::var_os("DRIFTDB_BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(found, expected, "{} differs; DRIFTDB_BLESS=1 writes it again", golden.display());
    }
}

#[test]
fn a_result_that_is_longer_than_the_terminal_goes_to_the_pager() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rows: Vec<String> = (0..200).map(|n| format!(r#"{{"id": {n}}}"#)).collect();
    let script = format!("CREATE TABLE t (pk=id INT); INSERT INTO t {}", rows.join(", "));
    let driftctl = format!("{} -d data", binary("driftctl").display());
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary("driftctl"));
        command
            .args(["-d", "data"])
            .args(arguments)
            .current_dir(dir.path())
            .env("PAGER", "./pager")
            .output()
            .unwrap()
    };
    assert!(run(&["sql", &script]).status.success());
    let pager = dir.path().join("pager");
    fs::write(&pager, "#!/bin/sh\nwc -l > paged\necho PAGED\n").unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&pager).status().unwrap().success());

    let tmux = Tmux { socket: dir.path().join("tmux"), directory: dir.path().to_owned(), columns: 80 };
    let shown = |name: &str, arguments: &str| {
        tmux.start(name, &format!("PAGER=./pager {driftctl} {arguments}; printf '{DONE}'; sleep 600"));
        tmux.screen(name, |screen| screen.contains(DONE))
    };
    assert!(shown("long", "select t").contains("PAGED"));
    // The header, its line, the rows, and their number.
    assert_eq!(fs::read_to_string(dir.path().join("paged")).unwrap().trim(), "203");
    for (name, arguments) in
        [("short", "select t --limit 5"), ("off", "select t --no-pager"), ("json", "select t -o jsonl")]
    {
        assert!(!shown(name, arguments).contains("PAGED"), "{arguments}");
    }
    // Never in a pipe.
    assert!(!String::from_utf8_lossy(&run(&["select", "t", "-o", "table"]).stdout).contains("PAGED"));
}

#[test]
fn a_pager_that_is_left_early_drops_the_rest_of_the_result_only() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (driftctl, text) = (binary("driftctl"), "x".repeat(60));
    // More than a pipe holds.
    let rows: Vec<String> = (1000..5000).map(|n| format!(r#"{{"id": {n}, "text": "{text}"}}"#)).collect();
    let script = format!("CREATE TABLE t (pk=id INT); INSERT INTO t {}", rows.join(", "));
    fs::write(dir.path().join("script"), script).unwrap();
    let mut command = Command::new(&driftctl);
    command.args(["-d", "data", "sql", "-f", "script"]).current_dir(dir.path());
    assert!(command.status().unwrap().success());

    let tmux = Tmux { socket: dir.path().join("tmux"), directory: dir.path().to_owned(), columns: 80 };
    let driftctl = format!("PAGER='head -n 3' {} -d data", driftctl.display());
    tmux.start("select", &format!("{driftctl} select t; printf \"{DONE} $?\"; sleep 600"));
    let screen = tmux.screen("select", |screen| screen.contains(DONE));
    assert!(screen.contains(&format!("{DONE} 0")), "{screen}");
    assert!(screen.contains("1000") && !screen.contains("1001"), "{screen}");

    tmux.start("shell", &format!("{driftctl} shell"));
    tmux.screen("shell", |screen| screen.contains("driftdb>"));
    for _ in 0..2 {
        tmux.keys("shell", &["SELECT * FROM t\\;", "Enter"]);
        tmux.screen("shell", |screen| screen.trim_end().ends_with("driftdb>") && screen.contains("1000"));
        tmux.keys("shell", &["SELECT COUNT(*) FROM t WHERE id < 1007\\;", "Enter"]);
        let screen = tmux.screen("shell", |screen| screen.contains("(1 row)"));
        assert!(!screen.contains("1001") && !screen.contains("error"), "{screen}");
        tmux.keys("shell", &["C-l"]);
        tmux.screen("shell", |screen| !screen.contains("(1 row)"));
    }
}

/// Takes the figures out of the view of `top`, and the widths that they change.
fn without_figures(screen: &str) -> String {
    let mut masked = String::new();
    for line in screen.lines() {
        let mut text = String::new();
        for c in line.chars() {
            match c {
                '0'..='9' if text.ends_with('N') => {}
                '.' if text.ends_with('N') => {}
                '0'..='9' => text.push('N'),
                '\u{2581}'..='\u{2588}' => text.push(' '),
                c => text.push(c),
            }
        }
        let words: Vec<&str> = text.split_whitespace().collect();
        let mut text = words.join(" ");
        for unit in ["ms", "s", "min"] {
            text = text.replace(&format!("N {unit}"), "N t");
        }
        // The height is that of the terminal.
        if !(text.is_empty() && masked.ends_with("\n\n")) {
            masked += &format!("{text}\n");
        }
    }
    masked.replace("Nk", "N").trim_end().to_owned()
}

/// A writer and a reader on a directory with a table.
fn daemons(directory: &Path) -> (Daemon, Daemon) {
    let (writer, reader) = (Daemon::writer(directory), Daemon::reader(directory));
    let mut command = Command::new(binary("driftctl"));
    command.args(["--writer", &writer.url, "--reader", &reader.url, "sql", "CREATE TABLE t (pk=id)"]);
    assert!(command.status().unwrap().success());
    (writer, reader)
}

#[test]
fn top_fits_terminals_of_80_and_of_200_columns() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = daemons(&dir.path().join("data"));
    let top = format!(
        "{} --writer {} --reader {},http://127.0.0.1:1 top --interval 200ms",
        binary("driftctl").display(),
        writer.url,
        reader.url
    );
    for columns in [80, 200] {
        let tmux = Tmux {
            socket: dir.path().join(format!("tmux-{columns}")),
            directory: dir.path().to_owned(),
            columns,
        };
        tmux.start("top", &top);
        // The first look has no rates yet. The seq, which a narrow terminal has no room for, comes before them.
        let rate = if columns == 80 { 2 } else { 3 };
        let has_rates = |screen: &str| {
            let mut rows = screen.lines().filter(|line| line.starts_with("writer "));
            rows.next().and_then(|row| row.split_whitespace().nth(rate)).is_some_and(|rate| rate != "-")
        };
        let screen = tmux.screen("top", has_rates);
        assert!(screen.lines().all(|line| line.chars().count() <= columns as usize), "{screen}");
        let found = without_figures(&screen);
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/terminal/top-{columns}.txt"));
        if std::env::var_os("DRIFTDB_BLESS").is_some() {
            fs::write(&golden, &found).unwrap();
        }
        let expected = fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(found, expected, "{} differs; DRIFTDB_BLESS=1 writes it again", golden.display());
    }
}

#[test]
fn top_leaves_the_terminal_as_it_was() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (writer, reader) = daemons(&dir.path().join("data"));
    let top = format!("{} --writer {} --reader {} top", binary("driftctl").display(), writer.url, reader.url);
    let script = format!(
        "echo before; stty -g > $0.before; sh -c 'echo $$ > $0.pid; exec {top}'; echo code $?; stty -g > $0.after; printf '{DONE}'; sleep 600"
    );
    let tmux = Tmux { socket: dir.path().join("tmux"), directory: dir.path().to_owned(), columns: 80 };
    let read =
        |name: &str, what: &str| fs::read_to_string(dir.path().join(format!("{name}.{what}"))).unwrap();
    for (name, key, code) in [
        ("q", Some("q"), 0),
        ("escape", Some("Escape"), 0),
        ("interrupt", Some("C-c"), 0),
        ("term", None, 143),
    ] {
        let script = script.replace("$0", name);
        tmux.start(name, &script);
        tmux.screen(name, |screen| screen.contains("q or Ctrl-C leaves"));
        match key {
            Some(key) => tmux.keys(name, &[key]),
            None => {
                let pid = read(name, "pid");
                assert!(Command::new("kill").args(["-s", "TERM", pid.trim()]).status().unwrap().success());
            }
        }
        // What was on the terminal is there again, and the view is not.
        let screen = tmux.screen(name, |screen| screen.contains(DONE));
        assert!(screen.contains("before") && screen.contains(&format!("code {code}")), "{name}: {screen}");
        assert!(!screen.contains("q or Ctrl-C leaves"), "{name}: {screen}");
        assert_eq!(read(name, "before"), read(name, "after"), "{name}");
    }
    // In a pipe: records.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{top} --count 2 --interval 100ms | cat")]);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"role\":\"writer\"")).count(), 2, "{text}");
    assert_eq!(text.lines().count(), 4, "{text}");
}

#[test]
fn the_prompt_of_the_shell_shows_the_context() {
    if Command::new("tmux").arg("-V").output().is_err() {
        eprintln!("skipped: tmux is missing");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tmux = Tmux { socket: dir.path().join("tmux"), directory: dir.path().to_owned(), columns: 80 };
    let driftctl = binary("driftctl").display().to_string();
    let steps = [
        format!("{driftctl} init data"),
        format!("{driftctl} context add copy -d data"),
        format!("{driftctl} context use copy"),
        format!("{driftctl} shell"),
    ];
    tmux.start("shell", &steps.join(" && "));
    tmux.screen("shell", |screen| screen.contains("driftdb(copy)>"));
}
