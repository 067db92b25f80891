//! Daemons start in any order, wait for what is still to come, and refuse directories and files that are not theirs.

#![expect(clippy::disallowed_methods, reason = "this test makes files that do not belong to a database")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::*;
use driftdb::v1;
use tonic::transport::Channel;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const LIMIT: Duration = Duration::from_secs(60);

async fn health(channel: Channel) -> Option<ServingStatus> {
    let request = HealthCheckRequest { service: "driftdb.v1.ReaderService".into() };
    let answer = HealthClient::new(channel).check(request).await.ok()?;
    Some(answer.into_inner().status())
}

fn driftctl(args: &[&str]) -> (i32, String) {
    let output = Command::new(binary("driftctl")).args(args).output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A named pipe in place of a file: an ordinary open of it would wait for ever.
fn replace_by_pipe(path: &Path) {
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[tokio::test]
async fn a_reader_waits_for_its_database() {
    let parent = tempfile::tempdir().unwrap();
    for exists in [false, true] {
        let dir = parent.path().join(format!("db{exists}"));
        if exists {
            std::fs::create_dir(&dir).unwrap();
        }
        let reader_daemon = Daemon::reader(&dir);
        let channel = connect(&reader_daemon.url).await;
        assert_eq!(health(channel.clone()).await, Some(ServingStatus::NotServing));
        let status = Reader::new(channel).list_tables(v1::ListTablesRequest::default()).await.unwrap_err();
        assert_eq!((status.code(), &*reason(&status)), (tonic::Code::Unavailable, "UNREACHABLE"));
        assert!(status.message().contains(&format!("waits for a database in {}", dir.display())), "{status}");

        let writer_daemon = Daemon::writer(&dir);
        let mut writer = writer_daemon.as_writer().await;
        create_table(&mut writer, "t").await.unwrap();
        let seq = apply(&mut writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap().seq;
        let deadline = Instant::now() + LIMIT;
        let found = loop {
            let answer = select_at(&mut reader_daemon.as_reader().await, "t", seq).await;
            match answer {
                Ok(rows) => break rows,
                Err(status) => assert!(Instant::now() < deadline, "the reader never served: {status}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(found.len(), 1);
        assert_eq!(health(connect(&reader_daemon.url).await).await, Some(ServingStatus::Serving));
    }
}

#[tokio::test]
async fn daemons_that_start_at_once_on_a_fresh_directory_all_serve() {
    for round in 0..4 {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("db");
        let starts: Vec<_> = ["driftdb-reader", "driftdb-writer", "driftdb-reader"]
            .into_iter()
            .map(|name| {
                let dir = dir.clone();
                std::thread::spawn(move || Daemon::try_start(name, &dir, &[]))
            })
            .collect();
        let daemons: Vec<Daemon> = starts
            .into_iter()
            .map(|start| start.join().unwrap().unwrap_or_else(|e| panic!("round {round}: {e}")))
            .collect();
        let mut writer = daemons[1].as_writer().await;
        let seq = create_table(&mut writer, "t").await.unwrap().seq;
        for reader in [&daemons[0], &daemons[2]] {
            let deadline = Instant::now() + LIMIT;
            while let Err(status) = select_at(&mut reader.as_reader().await, "t", seq).await {
                assert!(Instant::now() < deadline, "round {round}: {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

#[tokio::test]
async fn a_reader_that_waits_ends_at_sigterm() {
    let parent = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::reader(&parent.path().join("db"));
    assert!(daemon.terminate().await.success());
}

#[test]
fn a_directory_with_files_of_something_else_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["prices.csv", "orders.csv", "notes.txt", "x"] {
        std::fs::write(dir.path().join(name), "a,b\n1,2\n").unwrap();
    }
    let before = names(dir.path());
    let path = dir.path().display().to_string();
    let mut errors = vec![driftctl(&["init", &path]).1];
    errors.push(driftctl(&["-d", &path, "sql", "-e", "CREATE TABLE t (pk=id)"]).1);
    errors.push(driftctl(&["-d", &path, "sql", "-e", "SHOW TABLES"]).1);
    for name in ["driftdb-writer", "driftdb-reader"] {
        errors.push(Daemon::try_start(name, dir.path(), &[]).unwrap_err());
    }
    for error in errors {
        assert!(error.contains("\"notes.txt\"") && error.contains("and 1 more"), "{error}");
    }
    assert_eq!(names(dir.path()), before);
}

/// A new file system has `lost+found`; a writer that was stopped while it created the database leaves files.
#[tokio::test]
async fn an_unfinished_creation_is_continued() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lost+found")).unwrap();
    std::fs::create_dir(dir.path().join("tables")).unwrap();
    std::fs::write(dir.path().join("LOCK"), "").unwrap();
    std::fs::write(dir.path().join("database.tmp"), "x").unwrap();
    let daemon = Daemon::writer(dir.path());
    create_table(&mut daemon.as_writer().await, "t").await.unwrap();
}

#[tokio::test]
async fn a_named_pipe_in_place_of_a_file_is_named_and_hangs_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::writer(dir.path());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    apply(&mut writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    for name in ["HEAD", "database.json", "tables/t/meta.json", "tables/t/segments/00000001.seg", "LOCK"] {
        let copied = tempfile::tempdir().unwrap();
        database::copy(dir.path(), copied.path());
        let path = copied.path().join(name);
        replace_by_pipe(&path);
        let daemons =
            if name == "LOCK" { &["driftdb-writer"][..] } else { &["driftdb-writer", "driftdb-reader"] };
        for daemon in daemons {
            let error = Daemon::try_start(daemon, copied.path(), &[]).unwrap_err();
            assert!(error.contains(&path.display().to_string()), "{daemon}: {error}");
            assert!(error.contains("it is a named pipe, not a regular file"), "{daemon}: {error}");
        }
    }
}

#[tokio::test]
async fn damage_at_a_start_names_the_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::writer(dir.path());
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    drop(writer);
    assert!(daemon.terminate().await.success());
    for name in ["HEAD", "database.json", "tables/t/meta.json", "tables/t/segments/00000001.seg"] {
        let copied = tempfile::tempdir().unwrap();
        database::copy(dir.path(), copied.path());
        let path = copied.path().join(name);
        std::fs::write(&path, vec![7; 4096]).unwrap();
        for daemon in ["driftdb-writer", "driftdb-reader"] {
            let error = Daemon::try_start(daemon, copied.path(), &[]).unwrap_err();
            assert!(error.contains(&path.display().to_string()), "{daemon}: {error}");
            assert!(error.contains("run `driftctl doctor`"), "{daemon}: {error}");
        }
    }
}

/// HEAD has two copies of its header, and an entry for each table that the segments can replace.
#[tokio::test]
async fn one_damaged_cell_of_head_stops_nobody_and_is_a_finding_of_the_doctor() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::writer(dir.path());
    let mut writer = daemon.as_writer().await;
    for table in ["t", "u"] {
        create_table(&mut writer, table).await.unwrap();
    }
    let mut last = 0;
    for n in 0..20 {
        let row = format!(r#"{{"id":"k{n}"}}"#);
        last = apply(&mut writer, vec![put("t", row.clone()), put("u", row)]).await.unwrap().seq;
    }
    drop(writer);
    assert!(daemon.terminate().await.success());
    for cell in 0..6 {
        let copied = tempfile::tempdir().unwrap();
        database::copy(dir.path(), copied.path());
        let head = copied.path().join("HEAD");
        let mut bytes = std::fs::read(&head).unwrap();
        bytes[cell * 64 + 30] ^= 8;
        std::fs::write(&head, &bytes).unwrap();
        let data = copied.path().display().to_string();
        let reader = Daemon::reader(copied.path());
        for table in ["t", "u"] {
            let rows = select_at(&mut reader.as_reader().await, table, last).await;
            assert_eq!(rows.unwrap().len(), 20, "cell {cell}");
        }
        assert_ne!(driftctl(&["doctor", "-d", &data]).0, 0, "cell {cell}");
        assert_eq!(std::fs::read(&head).unwrap(), bytes, "cell {cell}");
        if cell % 2 == 0 {
            assert_eq!(driftctl(&["doctor", "--repair", "-d", &data]).0, 0, "cell {cell}");
        } else {
            assert!(Daemon::writer(copied.path()).terminate().await.success());
        }
        assert_eq!(driftctl(&["doctor", "-d", &data]).0, 0, "cell {cell}");
        let rows = select_at(&mut Daemon::reader(copied.path()).as_reader().await, "t", last).await;
        assert_eq!(rows.unwrap().len(), 20, "cell {cell}");
    }
}
