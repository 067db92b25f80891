//! `driftctl health`: its exit codes, for daemons that are ready, wait, are gone, or ask who calls.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::access::{SecuredCluster, driftctl, principal};
use crate::harness::secure_cluster::SecureFiles;
use crate::harness::{Cluster, Daemon, binary};

fn health(args: &[&str]) -> Output {
    let mut command = Command::new(binary("driftctl"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DRIFT")) {
        command.env_remove(name);
    }
    // No contexts of whoever runs the tests.
    command.env("XDG_CONFIG_HOME", "/nonexistent").args(["health", "-o", "jsonl"]).args(args);
    command.stdin(Stdio::null()).output().unwrap()
}

fn code(output: &Output) -> (i32, String) {
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

/// An address at which nothing listens.
fn nowhere() -> String {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

/// A monitor reads these reports just when something is wrong.
#[test]
fn a_report_of_what_is_wrong_is_a_whole_json_array() {
    let nowhere = nowhere();
    for command in ["status", "health"] {
        let mut run = Command::new(binary("driftctl"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("DRIFT")) {
            run.env_remove(name);
        }
        run.env("XDG_CONFIG_HOME", "/nonexistent").stdin(Stdio::null());
        let output =
            run.args([command, "-o", "json", "--writer", &nowhere, "--reader", &nowhere]).output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{command}");
        let report: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("{command}: {e}: {}", String::from_utf8_lossy(&output.stdout)));
        assert!(!report.is_empty(), "{command}");
    }
}

#[tokio::test]
async fn the_exit_code_says_whether_daemons_are_ready() {
    let cluster = Cluster::start().await;
    let standby = Daemon::start("driftdb-writer", cluster.dir.path(), &["--standby"]);
    let (writer, reader, nowhere) = (&cluster.writer_daemon.url, &cluster.reader_daemon.url, nowhere());
    let both = format!("{writer},{}", standby.url);
    let readers = format!("{reader},{nowhere}");
    for (args, expected) in [
        (&["--writer", writer, "--reader", reader][..], 0),
        (&["--reader", reader], 0),
        (&["--writer", &both], 0),
        (&["--writer", &standby.url], 1),
        (&["--writer", &standby.url, "--live"], 0),
        (&["--writer", &nowhere], 3),
        (&["--writer", &nowhere, "--live"], 3),
        (&["--reader", &readers], 3),
        (&["-d", "somewhere"], 2),
    ] {
        let (code, text) = code(&health(args));
        assert_eq!(code, expected, "{args:?}: {text}");
    }
    let (_, text) = code(&health(&["--writer", writer, "--reader", &nowhere]));
    assert!(
        text.contains(&format!("{{\"role\":\"writer\",\"url\":\"{writer}\",\"state\":\"ready\"}}")),
        "{text}"
    );
    assert!(text.contains("\"state\":\"unreachable\""), "{text}");
}

#[tokio::test]
async fn a_daemon_that_hangs_is_not_waited_for() {
    let cluster = Cluster::start().await;
    cluster.reader_daemon.signal("STOP");
    let (code, text) = code(&health(&["--reader", &cluster.reader_daemon.url, "--timeout", "300ms"]));
    cluster.reader_daemon.signal("CONT");
    assert!(code == 3 && text.contains("did not answer within 300ms"), "{text}");
}

#[tokio::test]
async fn waiting_ends_when_all_are_ready_or_the_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Daemon::writer(dir.path());
    let standby = Daemon::start("driftdb-writer", dir.path(), &["--standby"]);
    let (code_now, text) = code(&health(&["--writer", &standby.url, "--wait", "300ms"]));
    assert_eq!(code_now, 1, "{text}");
    let url = standby.url.clone();
    let waiting = std::thread::spawn(move || health(&["--writer", &url, "--wait", "60s"]));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(writer.terminate().await.success());
    let (code, text) = code(&waiting.join().unwrap());
    assert_eq!(code, 0, "{text}");
}

#[tokio::test]
async fn tls_and_tokens_are_those_of_every_command() {
    let cluster = SecuredCluster::start_with_tls(SecureFiles::new(), false, &[principal("ann", "read mine")]);
    let ca = cluster.tls.as_ref().unwrap().ca.display().to_string();
    let (code, _, stderr) = driftctl(&cluster, Some("ann"), &["health", "--tls-ca", &ca]);
    assert_eq!(code, 0, "{stderr}");
    // Whether a daemon lives, everybody may ask. Whether it is ready, a principal.
    let (code, _, stderr) = driftctl(&cluster, None, &["health", "--tls-ca", &ca]);
    assert!(code == 1 && stderr.contains("token"), "{stderr}");
    assert_eq!(driftctl(&cluster, None, &["health", "--tls-ca", &ca, "--live"]).0, 0);
    assert_eq!(driftctl(&cluster, Some("ann"), &["health"]).0, 3, "no CA is trusted");
}
