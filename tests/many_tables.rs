//! More tables than a process may open files: made, restarted, written and read under a low limit of descriptors.

#![expect(clippy::disallowed_methods, reason = "counts the open files of a process")]

use std::path::Path;
use std::process::Command;

use crate::harness::calls::fresh;
use crate::harness::*;
use driftdb::v1;

/// Starts a daemon that may open at most `limit` files.
fn start(name: &str, data: &Path, limit: u64) -> Daemon {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {limit}; exec \"$@\"")).arg("sh").arg(binary(name));
    command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0", "--log", "warn"]);
    Daemon::spawn(command).unwrap_or_else(|stderr| panic!("{name} does not start: {stderr}"))
}

fn open_files(daemon: &Daemon) -> u64 {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count() as u64
}

/// Calls with each number below `count`, some at a time.
async fn for_each<F: Future<Output = ()> + Send + 'static>(count: u64, each: impl Fn(u64) -> F) {
    let numbers: Vec<u64> = (0..count).collect();
    for some in numbers.chunks(64) {
        let mut calls = tokio::task::JoinSet::new();
        some.iter().for_each(|i| _ = calls.spawn(each(*i)));
        while let Some(done) = calls.join_next().await {
            done.unwrap();
        }
    }
}

async fn write_all(daemon: &Daemon, tables: u64, round: u64) {
    let writer = daemon.as_writer().await;
    for_each(tables, |i| {
        let mut writer = writer.clone();
        async move {
            let row = put(&format!("t{i}"), format!(r#"{{"id":"k{round}","n":{i}}}"#));
            apply(&mut writer, vec![row]).await.unwrap();
        }
    })
    .await;
}

async fn tables_under_limit(tables: u64, limit: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = start("driftdb-writer", dir.path(), limit);
    // It follows while the tables are made.
    let reader_daemon = start("driftdb-reader", dir.path(), limit);
    let writer = daemon.as_writer().await;
    for_each(tables, |i| {
        let mut writer = writer.clone();
        async move { _ = create_table(&mut writer, &format!("t{i}")).await.unwrap() }
    })
    .await;
    write_all(&daemon, tables, 0).await;
    // One commit in every table.
    let all = (0..tables).map(|i| put(&format!("t{i}"), format!(r#"{{"id":"all","n":{i}}}"#))).collect();
    apply(&mut writer.clone(), all).await.unwrap();
    assert!(open_files(&daemon) <= limit, "{} of {limit}", open_files(&daemon));
    drop(writer);
    // A clean restart, then one after a kill.
    assert_eq!(daemon.terminate().await.code(), Some(0));
    let mut daemon = start("driftdb-writer", dir.path(), limit);
    write_all(&daemon, tables, 1).await;
    daemon.kill();
    let daemon = start("driftdb-writer", dir.path(), limit);
    write_all(&daemon, tables, 2).await;
    let status =
        daemon.as_writer().await.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.tables.len() as u64, tables);
    let fresh_reader = start("driftdb-reader", dir.path(), limit);
    for reader in [&reader_daemon, &fresh_reader] {
        let client = reader.as_reader().await;
        let last = status.last_seq;
        for_each(tables, |i| {
            let mut client = client.clone();
            async move {
                let freshness = Some(v1::Freshness {
                    min_seq: last,
                    wait: Some(prost_types::Duration { seconds: 60, nanos: 0 }),
                    ..Default::default()
                });
                let request = v1::SelectRequest { table: format!("t{i}"), freshness, ..Default::default() };
                let rows = select(&mut client, request).await.unwrap();
                let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
                assert_eq!(keys, ["all", "k0", "k1", "k2"], "t{i}");
            }
        })
        .await;
        assert!(open_files(reader) <= limit, "{} of {limit}", open_files(reader));
    }
    for (name, daemon) in [("writer", &daemon), ("reader", &fresh_reader)] {
        eprintln!(
            "{tables} tables, {name}: {} KiB, {} files",
            daemon.memory_kib("VmRSS:"),
            open_files(daemon)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_of_150_tables_works_with_128_descriptors() {
    tables_under_limit(150, 128).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_database_of_4096_tables_works_with_1024_descriptors() {
    tables_under_limit(4096, 1024).await;
}

/// Also tables with many long indexes are listed in messages that every client takes.
#[tokio::test]
async fn a_page_of_tables_fits_in_a_message() {
    const TABLES: u64 = 400;
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::writer(dir.path());
    let writer = daemon.as_writer().await;
    let indexes: Vec<String> = (0..64).map(|i| format!("{}{i:02}", "f".repeat(190))).collect();
    for_each(TABLES, |i| {
        let (mut writer, indexes) = (writer.clone(), indexes.clone());
        let request = v1::CreateTableRequest {
            table: format!("t{i:03}"),
            primary_key: "id".into(),
            indexes,
            ..Default::default()
        };
        async move { _ = writer.create_table(request).await.unwrap() }
    })
    .await;
    let reader_daemon = Daemon::reader(dir.path());
    let mut reader = reader_daemon.as_reader().await.max_decoding_message_size(4 << 20);
    let mut request = v1::ListTablesRequest { freshness: fresh(TABLES), ..Default::default() };
    let mut found = Vec::new();
    loop {
        let page = reader.list_tables(request.clone()).await.unwrap().into_inner();
        found.extend(page.tables.into_iter().map(|info| info.table));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(found, (0..TABLES).map(|i| format!("t{i:03}")).collect::<Vec<_>>());
}
