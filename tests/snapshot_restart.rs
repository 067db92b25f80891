//! A writer knows the same after a restart as before it, from snapshots or from the log.

#![expect(clippy::disallowed_methods, reason = "these tests look at the files of a database")]

use std::time::{Duration, Instant};

use crate::harness::*;
use driftdb::v1;
use prost_types::Timestamp;

fn request(table: &str, key: &str, id: &str) -> v1::ApplyRequest {
    let options = v1::CommitOptions { request_id: id.into(), ..Default::default() };
    let operations = vec![put(table, format!(r#"{{"id":"{key}","n":1}}"#))];
    v1::ApplyRequest { operations, options: Some(options), ..Default::default() }
}

async fn make(writer: &mut Writer, request: &v1::ApplyRequest) -> (u64, bool) {
    let answer = writer.apply(request.clone()).await.unwrap().into_inner();
    (answer.token.unwrap().seq, answer.replayed)
}

async fn snapshot(writer: &mut Writer, table: &str) {
    calls::snapshot(writer, table).await.unwrap();
}

async fn start(dir: &std::path::Path, args: &[&str]) -> (Daemon, Writer) {
    let daemon = Daemon::start("driftdb-writer", dir, args);
    let writer = daemon.as_writer().await;
    (daemon, writer)
}

/// A request id that was used again after its window belongs to the later commit, even if a snapshot contains that
/// commit and only the log contains the first.
#[tokio::test]
async fn a_request_id_used_twice_belongs_to_the_later_commit_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--request-commits", "10"];
    let (mut daemon, mut writer) = start(dir.path(), &args).await;
    for table in ["a", "b"] {
        create_table(&mut writer, table).await.unwrap();
    }
    assert_eq!(make(&mut writer, &request("b", "first", "twice")).await, (3, false));
    for i in 4..20 {
        assert_eq!(make(&mut writer, &request("a", "k", &format!("r{i}"))).await, (i, false));
    }
    let second = request("a", "second", "twice");
    assert_eq!(make(&mut writer, &second).await, (20, false));
    snapshot(&mut writer, "a").await;
    assert!(daemon.terminate().await.success());
    let (_daemon, mut writer) = start(dir.path(), &args).await;
    assert_eq!(make(&mut writer, &second).await, (20, true));
}

/// The clock says that imported commits are older than the window. Their request ids are still remembered, by the
/// commits' own times, even after a merge of their layers.
#[tokio::test]
async fn request_ids_of_imported_commits_are_remembered_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (mut daemon, mut writer) = start(dir.path(), &[]).await;
    let long_ago = |i: i64| Timestamp { seconds: 1_600_000_000 + i, nanos: 0 };
    let create = v1::CreateTableRequest {
        table: "a".into(),
        primary_key: "id".into(),
        options: Some(v1::CommitOptions { commit_time: Some(long_ago(0)), ..Default::default() }),
        ..Default::default()
    };
    writer.create_table(create).await.unwrap();
    let mut made = Vec::new();
    for i in 0..40 {
        let mut request = request("a", "k", &format!("r{i}"));
        request.options.as_mut().unwrap().commit_time = Some(long_ago(i));
        made.push((make(&mut writer, &request).await.0, request));
        snapshot(&mut writer, "a").await;
    }
    let files = std::fs::read_dir(dir.path().join("tables/a/snapshots")).unwrap();
    let deltas =
        files.filter(|file| file.as_ref().unwrap().file_name().to_string_lossy().contains('-')).count();
    assert!(daemon.terminate().await.success());
    let (_daemon, mut writer) = start(dir.path(), &[]).await;
    for (seq, request) in made {
        assert_eq!(make(&mut writer, &request).await, (seq, true), "of {deltas} delta layers");
    }
}

/// An index is dropped and created again at once. The second index's file must not be removed with the first.
#[tokio::test]
#[ignore = "slow"]
async fn an_index_that_is_created_again_keeps_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut daemon, mut writer) = start(dir.path(), &[]).await;
    create_table(&mut writer, "a").await.unwrap();
    let alter = |add: bool, path: &str| {
        let mut request = v1::AlterTableRequest { table: "a".into(), ..Default::default() };
        if add { &mut request.add_indexes } else { &mut request.drop_indexes }.push(path.into());
        request
    };
    make(&mut writer, &request("a", "k", "")).await;
    for path in ["n", "later"] {
        writer.alter_table(alter(true, path)).await.unwrap();
    }
    snapshot(&mut writer, "a").await;
    let indexes = |path: &str| {
        let files = std::fs::read_dir(dir.path().join("tables/a/indexes")).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with(&format!("{path}."))).count()
    };
    assert!(indexes("n") > 0 && indexes("later") > 0);
    for (add, path) in [(false, "n"), (true, "n"), (false, "later")] {
        writer.alter_table(alter(add, path)).await.unwrap();
        snapshot(&mut writer, "a").await;
    }
    // The file of the index that was dropped last is removed last.
    let deadline = Instant::now() + Duration::from_secs(60);
    while indexes("later") > 0 {
        assert!(Instant::now() < deadline, "an unused index was never removed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(indexes("n") > 0);
    assert!(daemon.terminate().await.success());
    let (_daemon, mut writer) = start(dir.path(), &[]).await;
    make(&mut writer, &request("a", "k", "")).await;
    let mut reader = Daemon::reader(dir.path());
    let mut client = reader.as_reader().await;
    assert_eq!(select_at(&mut client, "a", 8).await.unwrap().len(), 1);
    reader.kill();
}
