//! Both daemons as an operator sees them: one writer, unprivileged readers, signals, health, help, files.

#![expect(clippy::disallowed_methods, reason = "these tests look at the files of a database")]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::harness::calls::{ask, fresh, run};
use crate::harness::*;
use driftdb::v1;
use tonic::Code;

/// Waits until a condition holds.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..2000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("timed out waiting for {what}");
}

#[tokio::test]
async fn a_second_writer_fails_at_once_and_names_the_holder() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let output = Command::new(binary("driftdb-writer"))
        .arg("--data")
        .arg(cluster.dir.path())
        .args(["--listen", "127.0.0.1:0"])
        .output()
        .unwrap();
    assert!(!output.status.success());
    assert_eq!(output.stdout, b"", "it never says that it listens");
    let said = String::from_utf8(output.stderr).unwrap();
    let host = Command::new("uname").arg("-n").output().unwrap().stdout;
    let host = String::from_utf8(host).unwrap();
    let address = cluster.writer_daemon.url.strip_prefix("http://").unwrap();
    let process = format!("process {}", cluster.writer_daemon.pid());
    for part in [process.as_str(), host.trim(), address, cluster.dir.path().to_str().unwrap()] {
        assert!(said.contains(part), "{said:?} does not name {part:?}");
    }
    let token = apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    assert_eq!(select_at(&mut cluster.reader, "t", token.seq).await.unwrap().len(), 1);
    // The lock ends with its holder's process, however that ends.
    cluster.writer_daemon.kill();
    let next = Daemon::writer(cluster.dir.path());
    assert_eq!(apply(&mut next.as_writer().await, vec![delete("t", "a")]).await.unwrap().seq, token.seq + 1);
}

/// Makes a directory tree readable for everyone and writable for its owner alone.
fn publish(dir: &Path) {
    let status = Command::new("chmod").args(["-R", "u=rwX,go=rX"]).arg(dir).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_reader_runs_as_a_user_without_write_permission() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let probe = Command::new("setpriv").args(nobody).args(["id", "-u"]).output();
    if !probe.is_ok_and(|output| output.stdout == b"65534\n") {
        eprintln!("skipped: setpriv cannot become another user here");
        return;
    }
    publish(cluster.dir.path());
    // Copies the program to a place that this user can reach, wherever the build directory is.
    let tools = tempfile::tempdir().unwrap();
    let program = tools.path().join("driftdb-reader");
    std::fs::copy(binary("driftdb-reader"), &program).unwrap();
    publish(tools.path());
    for file in ["HEAD", "LOCK", "tables/t/meta.json", "tables/t/segments/00000001.seg", "new"] {
        let path = cluster.dir.path().join(file);
        let script = "exec 2>/dev/null; : >> \"$0\"";
        let status = Command::new("setpriv").args(nobody).args(["sh", "-c", script]).arg(path).status();
        assert!(!status.unwrap().success(), "that user can write {file}");
    }
    let mut command = Command::new("setpriv");
    command
        .args(nobody)
        .arg(&program)
        .arg("--data")
        .arg(cluster.dir.path())
        .args(["--listen", "127.0.0.1:0"]);
    let daemon = Daemon::spawn(command).unwrap();
    let owner = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(owner.contains("Uid:\t65534\t65534\t65534\t65534"), "{owner}");
    let mut reader = daemon.as_reader().await;
    for i in 0..3 {
        let token =
            apply(&mut cluster.writer, vec![insert("t", format!(r#"{{"id":"{i}"}}"#))]).await.unwrap();
        assert_eq!(select_at(&mut reader, "t", token.seq).await.unwrap().len(), i + 1);
    }
}

/// Fills a table with 30 MB: more than all buffers between the reader and a client hold.
async fn fill(cluster: &mut Cluster) -> u64 {
    cluster.create("t").await;
    let text = "x".repeat(100_000);
    let mut seq = 0;
    for commit in 0..10 {
        let inserts = (0..30).map(|i| insert("t", format!(r#"{{"id":"{commit}-{i}","s":"{text}"}}"#)));
        seq = apply(&mut cluster.writer, inserts.collect()).await.unwrap().seq;
    }
    seq
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow"]
async fn sigterm_stops_both_daemons_and_their_open_streams() {
    let mut cluster = Cluster::start().await;
    let seq = fill(&mut cluster).await;
    let request = || v1::SelectRequest { table: "t".into(), as_of: at_seq(seq), ..Default::default() };
    // One client stops reading, another continues slowly. Each has its own connection.
    let mut stalled = cluster.reader_daemon.as_reader().await.select(request()).await.unwrap().into_inner();
    let mut slow = cluster.reader_daemon.as_reader().await.select(request()).await.unwrap().into_inner();
    assert!(stalled.message().await.unwrap().is_some());
    let mut rows = slow.message().await.unwrap().unwrap().rows.len();
    cluster.reader_daemon.signal("TERM");
    cluster.writer_daemon.signal("TERM");
    while let Some(message) = until_cut(&mut slow).await {
        rows += message.rows.len();
    }
    assert!(rows < 300);
    let mut daemons = (cluster.reader_daemon, cluster.writer_daemon);
    for daemon in [&mut daemons.0, &mut daemons.1] {
        let status = daemon.wait(Duration::from_secs(20)).await;
        assert_eq!(status.code(), Some(0), "{status:?}");
    }
    while until_cut(&mut stalled).await.is_some() {}
}

/// The next message; `None` if the stream was cut. A cut stream must not look complete.
async fn until_cut(stream: &mut tonic::Streaming<v1::SelectResponse>) -> Option<v1::SelectResponse> {
    match stream.message().await {
        Ok(Some(message)) => return Some(message),
        Ok(None) => panic!("a stream that was cut looks complete"),
        Err(end) if end.code() == Code::Unavailable => {
            assert!(["SHUTTING_DOWN", ""].contains(&reason(&end).as_str()), "{end}");
        }
        Err(end) => assert!([Code::Unknown, Code::Internal, Code::Cancelled].contains(&end.code()), "{end}"),
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_is_stopped_answers_every_accepted_write() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let mut writes = tokio::task::JoinSet::new();
    for client in 0..8 {
        let mut writer = cluster.writer_daemon.as_writer().await;
        writes.spawn(async move {
            let mut acknowledged = Vec::new();
            for i in 0.. {
                let id = format!("{client}-{i}");
                match apply(&mut writer, vec![insert("t", format!(r#"{{"id":"{id}"}}"#))]).await {
                    Ok(token) => acknowledged.push((token.seq, id)),
                    Err(status) => return (acknowledged, status),
                }
            }
            unreachable!()
        });
    }
    until("a hundred commits", async || {
        let status = cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap();
        status.into_inner().last_seq > 100
    })
    .await;
    cluster.writer_daemon.signal("TERM");
    let mut expected = std::collections::BTreeMap::new();
    while let Some(ended) = writes.join_next().await {
        let (acknowledged, status) = ended.unwrap();
        expected.extend(acknowledged);
        // A request that finds the connection closed was never sent.
        assert!([Code::Unavailable, Code::Cancelled].contains(&status.code()), "{status}");
    }
    let mut daemon = cluster.writer_daemon;
    let status = daemon.wait(Duration::from_secs(20)).await;
    assert_eq!(status.code(), Some(0));
    let last = *expected.last_key_value().unwrap().0;
    assert!(expected.keys().copied().eq(2..=last), "there is a gap before an acknowledged commit");
    let rows = select_at(&mut cluster.reader, "t", last).await.unwrap();
    let mut ids: Vec<String> = expected.into_values().collect();
    ids.sort();
    assert_eq!(rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), ids);
}

/// With huge pages, a daemon takes 2 MiB for the first byte of each region.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_daemons_use_small_pages() {
    let cluster = Cluster::start().await;
    for daemon in [&cluster.writer_daemon, &cluster.reader_daemon] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        assert!(status.contains("THP_enabled:\t0"), "{status}");
    }
}

#[tokio::test]
async fn health_is_serving_for_the_server_and_its_service() {
    use tonic_health::pb::health_check_response::ServingStatus;
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let cluster = Cluster::start().await;
    for (daemon, service, other) in [
        (&cluster.writer_daemon, "driftdb.v1.WriterService", "driftdb.v1.ReaderService"),
        (&cluster.reader_daemon, "driftdb.v1.ReaderService", "driftdb.v1.WriterService"),
    ] {
        let mut client = HealthClient::new(connect(&daemon.url).await);
        for name in ["", service] {
            let answer =
                client.check(HealthCheckRequest { service: name.into() }).await.unwrap().into_inner();
            assert_eq!(answer.status(), ServingStatus::Serving, "{name:?}");
        }
        let unknown = client.check(HealthCheckRequest { service: other.into() }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        let watch = HealthCheckRequest { service: service.into() };
        let mut watch = client.watch(watch).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
        daemon.signal("TERM");
        match watch.message().await {
            Ok(Some(answer)) => assert_eq!(answer.status(), ServingStatus::NotServing),
            Ok(None) => {}
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
    }
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_response::MessageResponse};
    let cluster = Cluster::start().await;
    for daemon in [&cluster.writer_daemon, &cluster.reader_daemon] {
        let mut client = ServerReflectionClient::new(connect(&daemon.url).await);
        let mut requests = Vec::new();
        for message in [
            MessageRequest::ListServices(String::new()),
            MessageRequest::FileContainingSymbol("driftdb.v1.WriterService".into()),
            MessageRequest::FileContainingSymbol("driftdb.v1.ReaderService.Select".into()),
            MessageRequest::FileContainingSymbol("grpc.health.v1.Health".into()),
        ] {
            requests.push(ServerReflectionRequest { host: String::new(), message_request: Some(message) });
        }
        let answers = client.server_reflection_info(tokio_stream::iter(requests)).await.unwrap();
        let mut answers = answers.into_inner();
        let listed = answers.message().await.unwrap().unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(listed) = listed else { panic!("{listed:?}") };
        let names: Vec<String> = listed.service.into_iter().map(|service| service.name).collect();
        for name in ["driftdb.v1.WriterService", "driftdb.v1.ReaderService", "grpc.health.v1.Health"] {
            assert!(names.iter().any(|found| found == name), "{name} is not in {names:?}");
            let found = answers.message().await.unwrap().unwrap().message_response.unwrap();
            let MessageResponse::FileDescriptorResponse(found) = found else { panic!("{name}: {found:?}") };
            assert!(!found.file_descriptor_proto.is_empty());
        }
    }
}

fn output(name: &str, args: &[&str]) -> Output {
    Command::new(binary(name)).args(args).env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
}

#[test]
fn help_and_version_print_what_a_user_needs() {
    for (name, variables) in [
        ("driftdb-writer", &["DATA", "LISTEN", "ADVERTISE", "SEGMENT_BYTES", "LOG", "LOG_FORMAT"][..]),
        ("driftdb-reader", &["DATA", "LISTEN", "LOG", "LOG_FORMAT", "FOLLOW", "POLL_INTERVAL", "MAX_LAG"]),
        ("driftctl", &["WRITER", "READER"]),
    ] {
        let help = output(name, &["--help"]);
        assert!(help.status.success() && help.stderr.is_empty());
        let help = String::from_utf8(help.stdout).unwrap();
        for variable in variables {
            assert!(help.contains(&format!("DRIFTDB_{variable}=")), "{name} --help: {variable}\n{help}");
        }
        let version = output(name, &["--version"]);
        assert!(version.status.success());
        let version = String::from_utf8(version.stdout).unwrap();
        assert_eq!(version.trim(), format!("{name} {}", env!("CARGO_PKG_VERSION")));
        let wrong = output(name, &["--no-such-option"]);
        assert_eq!(wrong.status.code(), Some(2), "usage errors have their own exit code");
        assert!(String::from_utf8(wrong.stderr).unwrap().contains("--no-such-option"));
    }
}

#[tokio::test]
async fn options_can_come_from_the_environment() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = |name: &str| {
        let mut command = Command::new(binary(name));
        command
            .env("DRIFTDB_DATA", dir.path())
            .env("DRIFTDB_LISTEN", "127.0.0.1:0")
            .env("DRIFTDB_LOG", "error");
        command.env("DRIFTDB_ADVERTISE", "db.example:7401").env("DRIFTDB_SEGMENT_BYTES", "4096");
        Daemon::spawn(command).unwrap()
    };
    let (writer_daemon, reader_daemon) = (daemon("driftdb-writer"), daemon("driftdb-reader"));
    let (mut writer, mut reader) = (writer_daemon.as_writer().await, reader_daemon.as_reader().await);
    create_table(&mut writer, "t").await.unwrap();
    for i in 0..3 {
        let text = "x".repeat(5000);
        apply(&mut writer, vec![insert("t", format!(r#"{{"id":"{i}","s":"{text}"}}"#))]).await.unwrap();
    }
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert!(status.tables[0].segments > 1, "segments end at 4096 bytes");
    let refusal = ask(&mut reader, "DROP TABLE t", 1).await;
    let refusal = refusal::refused(refusal, Code::FailedPrecondition, "NOT_WRITER");
    refusal.tells("writer_address", "db.example:7401").says(&["db.example:7401"]);
    let status = reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.writer_address, "db.example:7401");
    let wrong = Command::new(binary("driftdb-writer")).env("DRIFTDB_SEGMENT_BYTES", "12").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
}

/// What a daemon with these options writes to standard error from its start to SIGTERM.
fn log_of(name: &str, dir: &Path, options: &[&str]) -> String {
    let mut child = Command::new(binary(name))
        .arg("--data")
        .arg(dir)
        .args(["--listen", "127.0.0.1:0"])
        .args(options)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    assert!(line.starts_with("listening on 127.0.0.1:"), "{line:?}");
    let kill = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn json_logs_have_one_object_per_line() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        let logs = log_of(name, dir.path(), &["--log-format", "json", "--log", "debug"]);
        let lines: Vec<serde_json::Value> =
            logs.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        let stopping = lines.iter().find(|line| line["message"] == "shutting down");
        let stopping = stopping.unwrap_or_else(|| panic!("{name} does not log that it stops: {logs}"));
        assert_eq!(stopping["level"], "INFO");
        assert!(stopping["timestamp"].is_string() && stopping["target"].is_string());
    }
}

#[test]
fn text_logs_have_no_control_codes_in_a_file_or_pipe() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["driftdb-writer", "driftdb-reader"] {
        let log = log_of(name, dir.path(), &["--log", "debug"]);
        assert!(log.contains("shutting down") && !log.contains('\u{1b}'), "{name}: {log:?}");
    }
}

#[tokio::test]
async fn a_reader_without_a_database_reports_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    for data in [dir.path().to_owned(), dir.path().join("missing")] {
        let daemon = Daemon::reader(&data);
        let asked = daemon.as_reader().await.status(v1::ReaderServiceStatusRequest {}).await.unwrap_err();
        let said = asked.message();
        assert!(said.contains(data.to_str().unwrap()) && said.contains("driftdb-writer"), "{said}");
        assert!(!data.join("LOCK").exists());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "a reader writes nothing");
}

#[tokio::test]
async fn a_reader_serves_while_no_writer_runs_and_follows_the_next_one() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let mut expected = Vec::new();
    for round in 0..4 {
        let text = format!(r#"{{"id":"{round}"}}"#);
        let token = apply(&mut cluster.writer, vec![insert("t", &text)]).await.unwrap();
        assert_eq!(token.seq, round + 2, "seqs continue without a gap");
        expected.push((round.to_string(), text));
        // The reader has applied it, so the writer's exit loses nothing.
        assert_eq!(select_at(&mut cluster.reader, "t", token.seq).await.unwrap(), expected);
        cluster.writer_daemon.kill();
        assert_eq!(select_at(&mut cluster.reader, "t", token.seq).await.unwrap(), expected);
        assert_eq!(select_at(&mut cluster.reader, "t", 2).await.unwrap(), expected[..1]);
        let late = Daemon::reader(cluster.dir.path());
        assert_eq!(select_at(&mut late.as_reader().await, "t", token.seq).await.unwrap(), expected);
        let gone = apply(&mut cluster.writer, vec![delete("t", "0")]).await.unwrap_err();
        assert_eq!(gone.code(), Code::Unavailable);
        cluster.writer_daemon = Daemon::writer(cluster.dir.path());
        cluster.writer = cluster.writer_daemon.as_writer().await;
        let status = cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.last_seq, status.term), (token.seq, round + 2));
    }
    let status = cluster.reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
    let address = cluster.writer_daemon.url.strip_prefix("http://").unwrap();
    assert_eq!((status.lag_seqs, status.writer_address.as_str()), (0, address));
}

#[tokio::test]
async fn segments_rotate_under_a_reader_and_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["--segment-bytes", "4096"];
    let start = || Daemon::start("driftdb-writer", dir.path(), &small);
    let mut writer_daemon = start();
    let mut writer = writer_daemon.as_writer().await;
    let reader_daemon = Daemon::reader(dir.path());
    let mut reader = reader_daemon.as_reader().await;
    run(&mut writer, "CREATE TABLE a (pk=id)").await.unwrap();
    run(&mut writer, "CREATE TABLE b (pk=id)").await.unwrap();
    let mut expected = std::collections::BTreeMap::new();
    let text = "x".repeat(700);
    for i in 0..60u64 {
        if i % 20 == 19 {
            writer_daemon.kill();
            writer_daemon = start();
            writer = writer_daemon.as_writer().await;
        }
        let document = format!(r#"{{"id":"{i:03}","s":"{text}"}}"#);
        let operations = vec![insert("a", &document), put("b", format!(r#"{{"id":"last","i":{i}}}"#))];
        assert_eq!(apply(&mut writer, operations).await.unwrap().seq, i + 3);
        expected.insert(format!("{i:03}"), document);
        if i % 7 == 0 {
            let rows = select_at(&mut reader, "a", i + 3).await.unwrap();
            assert!(rows.into_iter().eq(expected.clone()));
        }
    }
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let (a, b) = (&status.tables[0], &status.tables[1]);
    assert!(a.segments >= 10, "{} segments of 4 KiB for 45 KB", a.segments);
    for (table, info) in [("a", a), ("b", b)] {
        let files = std::fs::read_dir(dir.path().join("tables").join(table).join("segments")).unwrap();
        let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        let segments = names.iter().filter(|name| name.ends_with(".seg")).count();
        assert_eq!(segments as u64, info.segments, "{names:?}");
    }
    let fresh = Daemon::reader(dir.path());
    for mut reader in [reader, fresh.as_reader().await] {
        let rows = select_at(&mut reader, "a", 62).await.unwrap();
        assert!(rows.into_iter().eq(expected.clone()));
        for seq in [3, 22, 40, 62] {
            let rows = select_at(&mut reader, "b", seq).await.unwrap();
            assert_eq!(rows, [("last".to_owned(), format!(r#"{{"id":"last","i":{}}}"#, seq - 3))]);
        }
    }
}

/// The files below a directory, by their path in it.
fn tree(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_data_directory_has_the_documented_layout() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("made/by/the/writer");
    let mut daemon = Daemon::writer(&dir);
    let mut writer = daemon.as_writer().await;
    run(&mut writer, "CREATE TABLE orders (pk=id INT, INDEX(status, a.b))").await.unwrap();
    let token = run(&mut writer, r#"INSERT INTO orders {"id": 1, "status": "new"}"#).await.unwrap();
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let holder: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.join("LOCK")).unwrap()).unwrap();
    assert_eq!(holder["pid"], daemon.pid());
    assert_eq!(holder["address"], daemon.url.strip_prefix("http://").unwrap());
    assert!(holder["host"].is_string() && holder["since"].is_string());
    drop(writer);
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let expected = [
        "HEAD",
        "LOCK",
        "RESERVE",
        "clock.json",
        "database.json",
        "lineage.json",
        "tables/orders/meta.json",
        "tables/orders/schema.yaml",
        "tables/orders/segments/00000001.seg",
    ];
    assert_eq!(tree(&dir), expected);
    let database = std::fs::read_to_string(dir.join("database.json")).unwrap();
    assert!(
        database.contains(&status.database_id) && database.contains(&format!("{:016x}", status.epoch)),
        "{database}"
    );
    let schema = std::fs::read_to_string(dir.join("tables/orders/schema.yaml")).unwrap();
    for line in ["table: orders", "primary_key: \"id\"", "key_type: INT", "  - \"status\"", "  - \"a.b\""] {
        assert!(schema.lines().any(|found| found == line), "{schema}");
    }
    let meta = std::fs::read_to_string(dir.join("tables/orders/meta.json")).unwrap();
    assert!(meta.contains("\"orders\""), "{meta}");
    let segment = std::fs::read(dir.join("tables/orders/segments/00000001.seg")).unwrap();
    assert!(segment.len() < 500, "a clean close removes preallocated space: {} bytes", segment.len());
    let mode = std::fs::metadata(&dir).unwrap().permissions().mode();
    assert_eq!(mode & 0o002, 0, "files must not be writable for everyone");
    // A reader opens a cleanly closed database and finds everything.
    let reader = Daemon::reader(&dir);
    let request = v1::GetRequest {
        table: "orders".into(),
        keys: vec!["1".into()],
        freshness: fresh(token.seq),
        ..Default::default()
    };
    assert_eq!(reader.as_reader().await.get(request).await.unwrap().into_inner().rows.len(), 1);
    assert_eq!(tree(&dir), expected, "a reader added a file");
}
