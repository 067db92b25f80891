//! The audit log of real daemons: every decision has its line, nothing that a client sends gets into it, and a full disk stops nothing.

#![expect(clippy::disallowed_methods, reason = "reads what the daemons log")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::harness::access::{SecuredCluster, execute, principal, query, token_of, write_rules};
use crate::harness::certificates::TestCa;
use crate::harness::secure_cluster::SecureFiles;
use crate::harness::small_disk::SmallDisk;
use crate::harness::*;
use driftdb::client::{ClientTls, connect_with};
use driftdb::v1;
use serde_json::Value;

/// The lines of an audit log.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The parts of a line that say what happened.
fn words(line: &Value) -> String {
    let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
    let tables: Vec<&str> =
        line["tables"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let words = ["event", "principal", "method", "action"].map(text).join(" ");
    format!("{words} {} {} {}", tables.join(","), text("outcome"), text("reason"))
}

/// Waits until a log has a line.
async fn wait_for(path: &Path, is_it: impl Fn(&Value) -> bool) {
    while !lines(path).iter().any(&is_it) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The audit logs of a cluster.
struct AuditedCluster {
    cluster: SecuredCluster,
    writer_log: PathBuf,
    reader_log: PathBuf,
}

impl AuditedCluster {
    fn start(principals: &[String]) -> AuditedCluster {
        let dir = tempfile::tempdir().unwrap();
        let rules = dir.path().join("auth.toml");
        write_rules(&rules, principals);
        let [writer_log, reader_log] = ["writer.log", "reader.log"].map(|name| dir.path().join(name));
        let start = |name: &str, log: &Path| {
            let args = ["--auth-file", rules.to_str().unwrap(), "--audit-log", log.to_str().unwrap()];
            let calls = ["--audit-calls", "writes,reads"];
            Daemon::start(name, &dir.path().join("data"), &[&args[..], &calls].concat())
        };
        let (writer, reader) = (start("driftdb-writer", &writer_log), start("driftdb-reader", &reader_log));
        let cluster = SecuredCluster { writer, reader, rules, tls: None, dir };
        AuditedCluster { cluster, writer_log, reader_log }
    }
}

#[tokio::test]
async fn every_decision_has_its_line() {
    let app = principal("app", "write orders");
    let mut audited = AuditedCluster::start(std::slice::from_ref(&app));
    let AuditedCluster { cluster, writer_log, reader_log } = &mut audited;
    let last = cluster.fill(&["orders", "hidden"]).await;
    let mut writer = cluster.writer_as("app").await;
    execute(&mut writer, r#"UPSERT INTO orders {"id":"k","secret":"4711"}"#).await.unwrap();
    execute(&mut writer, r#"UPSERT INTO hidden {"id":"k","secret":"4711"}"#).await.unwrap_err();
    execute(&mut writer, "DROP TABLE orders").await.unwrap_err();
    execute(&mut cluster.writer_as("root").await, "DROP TABLE hidden").await.unwrap();
    // A token that nobody has.
    cluster.writer_as("stranger").await.status(v1::WriterServiceStatusRequest {}).await.unwrap_err();
    let mut reader = cluster.reader_as("app").await;
    query(&mut reader, "SELECT * FROM orders WHERE secret = \"4711\"").await.unwrap();
    query(&mut reader, "SELECT * FROM hidden").await.unwrap_err();
    // The file is read again: once with another principal, once with an error.
    let is_reload =
        |outcome: &'static str| move |line: &Value| line["event"] == "reloaded" && line["outcome"] == outcome;
    cluster.set_rules(&[app, principal("late", "read orders")]);
    wait_for(writer_log, is_reload("ok")).await;
    std::fs::write(&cluster.rules, "nonsense").unwrap();
    wait_for(writer_log, is_reload("failed")).await;
    assert!(cluster.writer.terminate().await.success() && cluster.reader.terminate().await.success());

    let all = lines(writer_log);
    let said: Vec<String> = all.iter().map(words).collect();
    assert_eq!(said.first().unwrap().split(' ').next(), Some("started"), "{said:#?}");
    assert_eq!(said.last().unwrap().split(' ').next(), Some("stopped"), "{said:#?}");
    for expected in [
        "write app WriterService/Execute write orders allowed -",
        "denied app WriterService/Execute write hidden refused TABLE_NOT_FOUND",
        "authentication_failed - WriterService/Status -  refused UNAUTHENTICATED",
    ] {
        assert!(said.iter().any(|line| line == expected), "{expected}\n{said:#?}");
    }
    let of = |event: &str, principal: &str, table: &str| {
        let start = format!("{event} {principal} ");
        said.iter().filter(|line| line.starts_with(&start) && line.contains(&format!(" {table} "))).count()
    };
    assert_eq!((of("denied", "app", "orders"), of("admin", "root", "hidden") >= 2), (1, true), "{said:#?}");
    let said: Vec<String> = lines(reader_log).iter().map(words).collect();
    assert!(
        said.iter().any(|line| line.starts_with("read app ReaderService/Execute read orders allowed")),
        "{said:#?}"
    );
    assert!(
        said.iter().any(|line| line.starts_with("denied app ReaderService/Execute read hidden refused")),
        "{said:#?}"
    );
    // What clients send is in no log: neither a document, nor a condition, nor a token.
    for log in [writer_log, reader_log] {
        let text = std::fs::read_to_string(&*log).unwrap();
        for secret in ["4711", &token_of("app"), &token_of("stranger")] {
            assert!(!text.contains(secret), "{secret}");
        }
        assert_eq!(std::fs::metadata(&*log).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(last > 0);
}

#[tokio::test]
async fn an_auth_file_that_is_gone_and_a_certificate_that_is_refused_have_their_lines() {
    let files = SecureFiles::new();
    let dir = files.dir.path().to_owned();
    let (rules, log) = (dir.join("auth.toml"), dir.join("audit.log"));
    write_rules(&rules, &[]);
    let mut options = files.options();
    for (option, path) in [("--auth-file", &rules), ("--audit-log", &log)] {
        options.extend([option.to_owned(), path.display().to_string()]);
    }
    let writer = files.start("driftdb-writer", &options);
    std::fs::remove_file(&rules).unwrap();
    wait_for(&log, |line| {
        line["event"] == "reloaded" && line["outcome"] == "failed" && line["file"] == rules.to_str().unwrap()
    })
    .await;
    let stranger = TestCa::new("another CA").client(&dir, "stranger", time::Duration::hours(1));
    for tls in [stranger.of_client(&files.trusted), ClientTls::new(&files.trusted)] {
        connect_with(&writer.url, Some(&tls)).await.unwrap_err();
    }
    let is_refused =
        |line: &&Value| line["event"] == "authentication_failed" && line["action"] == "TLS handshake";
    while lines(&log).iter().filter(is_refused).count() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all = lines(&log);
    let line = all.iter().find(is_refused).unwrap();
    assert_eq!((&line["peer"], &line["outcome"]), (&"127.0.0.1".into(), &"refused".into()));
}

#[tokio::test]
async fn a_daemon_without_its_audit_log_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing/audit.log");
    for target in [missing.to_str().unwrap(), dir.path().to_str().unwrap()] {
        let data = dir.path().join("data");
        let refused = Daemon::try_start("driftdb-writer", &data, &["--audit-log", target]).unwrap_err();
        assert!(refused.contains("cannot open the audit log"), "{refused}");
    }
}

#[tokio::test]
async fn a_full_disk_under_the_audit_log_stops_no_call_and_loses_no_line() {
    let Some(disk) = SmallDisk::mount(1 << 20) else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = disk.data().with_file_name("audit.log");
    let args = ["--audit-log", log.to_str().unwrap(), "--audit-calls", "writes"];
    let mut writer = Daemon::start("driftdb-writer", dir.path(), &args);
    let mut client = writer.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    wait_for(&log, |line| line["event"] == "admin").await;
    disk.fill();
    for n in 0..100 {
        apply(&mut client, vec![put("t", format!(r#"{{"id":"{n}"}}"#))]).await.unwrap();
    }
    disk.free();
    assert!(writer.terminate().await.success());
    let lines = lines(&log);
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((count("write"), count("lost"), count("stopped")), (100, 0, 1));
}
