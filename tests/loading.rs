//! `driftctl ingest` loads every row of a file once, even if it and the writer are killed.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

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

#[test]
#[expect(clippy::disallowed_methods, reason = "a test's own file")]
fn every_row_is_loaded_once_while_the_writer_and_driftctl_are_killed() {
    let (rows, kills) = by_lane((20_000, 8), (1_000_000, 60));
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("rows.csv"));
    let text: String = (0..rows).map(|row| format!("{row},name {row},{}\n", row % 7)).collect();
    std::fs::write(&file, format!("id,name,n\n{text}")).unwrap();

    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut daemon = writer(&data, port);
    let url = daemon.url.clone();
    let create = driftctl(&url).args(["sql", "-e", "CREATE TABLE t (pk=id INT)"]).status().unwrap();
    assert!(create.success());

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
        .args(["-d", data.to_str().unwrap(), "sql", "-e", "SELECT COUNT(*) FROM t"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), format!("{{\"count\":{rows}}}\n"));
    // Each row is one commit. The only other commit creates the table.
    let status = driftctl(&url).args(["status", "-o", "json"]).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status[0]["writer"]["last_seq"], rows + 1, "{status}");
}
