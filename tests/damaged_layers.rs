//! A damaged layer or index keeps no daemon from starting: both do without it, say so, and answer as before; the writer builds
//! it again.

#![expect(clippy::disallowed_methods, reason = "this test damages files")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::calls::{ask, run};
use crate::harness::database::{ARGS, Copy, answers, shared};
use crate::harness::lane::by_lane;
use crate::harness::refusal::refused;
use crate::harness::*;
use driftdb::v1;
use driftdb_common::format::snapshot::kind;
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(60);

/// Flips a bit; removes the file if `offset_from_end` is 0. The last bytes of a layer are its trailer, and the bytes before it its directory.
fn flip(path: &Path, offset_from_end: usize) {
    if offset_from_end == 0 {
        return fs::remove_file(path).unwrap();
    }
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len().saturating_sub(offset_from_end).min(bytes.len() - 1);
    bytes[at] ^= 4;
    fs::write(path, bytes).unwrap();
}

async fn damaged_at_writer(writer: &mut Writer) -> Vec<v1::DamagedFile> {
    writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().damaged_files
}

async fn reader_status(reader: &mut Reader) -> v1::ReaderServiceStatusResponse {
    reader.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner()
}

/// The files that a writer has set aside in a table's directory.
fn set_aside(copy: &Copy, table: &str) -> usize {
    let dirs = [copy.dir.snapshots(table), copy.dir.indexes(table)];
    let names = dirs.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten();
    names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged.")).count()
}

/// Waits until the writer has built everything again that it found damaged.
async fn wait_until_rebuilt(writer: &mut Writer) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let damaged = damaged_at_writer(writer).await;
        if damaged.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "never built again: {damaged:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn kinds(copy: &Copy) -> Vec<(PathBuf, &'static str)> {
    let newest = |kind: u8| {
        let mut files = copy.files("orders").into_iter().filter(|(_, identity)| identity.kind == kind);
        files.next_back().unwrap().0
    };
    vec![
        (copy.file("orders", kind::DELTA).0, "the first delta layer"),
        (newest(kind::DELTA), "the newest delta layer"),
        (newest(kind::IMAGE), "an image layer"),
        (newest(kind::DELTA_INDEX), "an index of a delta layer"),
        (newest(kind::IMAGE_INDEX), "an index of an image layer"),
    ]
}

#[tokio::test]
async fn both_daemons_start_without_a_damaged_layer_and_the_writer_builds_it_again() {
    let original = shared().await;
    let sound = Copy::of(original.path());
    let count = kinds(&sound).len();
    let question = "SELECT COUNT(*) FROM orders WHERE status = \"p1\"";
    let expected = {
        let daemon = Daemon::reader(sound.dir.root());
        let mut reader = daemon.as_reader().await;
        (ask(&mut reader, question, 0).await.unwrap().count(), rows(&mut reader).await)
    };
    // Each case starts two daemons: the quick form takes one file of each kind, with the damage in its trailer.
    let places = by_lane(vec![3], vec![3, 60, 300]);
    let flips = (0..count).flat_map(|case| places.iter().map(move |at| (case, *at)));
    // A missing file is a damaged one.
    for (case, at) in flips.chain([(1, 0)]) {
        let copy = Copy::of(original.path());
        let (path, what) = kinds(&copy).swap_remove(case);
        flip(&path, at);
        let reader_daemon = Daemon::reader(copy.dir.root());
        let mut reader = reader_daemon.as_reader().await;
        let found = (ask(&mut reader, question, 0).await.unwrap().count(), rows(&mut reader).await);
        assert!(found == expected, "{what}: the answer without the file is another");
        let told = reader_status(&mut reader).await.damaged_files;
        assert_eq!(told.len(), 1, "{what}: {told:?}");
        assert_eq!(told[0].path, path.display().to_string());
        assert!(told[0].what_is_done.contains("from the log"), "{told:?}");

        let mut writer_daemon = Daemon::start("driftdb-writer", copy.dir.root(), &ARGS);
        let mut writer = writer_daemon.as_writer().await;
        wait_until_rebuilt(&mut writer).await;
        assert_eq!(set_aside(&copy, "orders"), usize::from(at > 0), "{what}");
        let last = apply(&mut writer, vec![put("numbers", r#"{"id":777}"#)]).await.unwrap().seq;
        let found = ask(&mut reader, question, last).await.unwrap().count();
        assert_eq!(found, expected.0, "{what}");
        let deadline = Instant::now() + LIMIT;
        while !reader_status(&mut reader).await.damaged_files.is_empty() {
            assert!(Instant::now() < deadline, "{what}: the reader never used the new file");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(rows(&mut reader).await == expected.1, "{what}");
        assert!(writer_daemon.terminate().await.success());
        assert_eq!(copy.verify(true).0, [], "{what}");
    }
}

/// All rows at some commits.
async fn rows(reader: &mut Reader) -> Vec<Vec<(String, String)>> {
    let mut found = Vec::new();
    for seq in [60, 200, 333, 420] {
        found.push(select_at(reader, "orders", seq).await.unwrap());
    }
    found
}

#[tokio::test]
#[ignore = "slow"]
async fn a_database_with_a_damaged_layer_answers_as_before() {
    let original = shared().await;
    let before = answers(Copy::of(original.path()).dir.root()).await;
    for case in 0..kinds(&Copy::of(original.path())).len() {
        let copy = Copy::of(original.path());
        let (path, what) = kinds(&copy).swap_remove(case);
        flip(&path, 3);
        assert!(answers(copy.dir.root()).await == before, "{what}");
        assert_eq!(copy.verify(true).0, [], "{what}");
    }
}

/// The log has no copy of the rows at the floor from which a layer could be built.
#[tokio::test]
async fn a_table_that_nothing_can_rebuild_is_unavailable_alone() {
    let original = shared().await;
    let copy = Copy::of(original.path());
    let path = copy.file("archive", kind::IMAGE).0;
    flip(&path, 3);
    let reader_daemon = Daemon::reader(copy.dir.root());
    let mut reader = reader_daemon.as_reader().await;
    assert!(!select_at(&mut reader, "orders", 420).await.unwrap().is_empty());
    let file = path.display().to_string();
    let says = [file.as_str(), "driftctl doctor"];
    refused(select_at(&mut reader, "archive", 420).await, Code::DataLoss, "CORRUPT").says(&says);
    refused(ask(&mut reader, "DESCRIBE archive", 0).await, Code::DataLoss, "CORRUPT").says(&says);
    let listed = ask(&mut reader, "SHOW TABLES", 0).await.unwrap();
    let tables: Vec<(&str, bool)> =
        listed.tables().into_iter().map(|table| (table.table.as_str(), table.problem.is_empty())).collect();
    assert_eq!(tables, [("archive", false), ("numbers", true), ("orders", true), ("reborn", true)]);
    let pages = reader.list_tables(v1::ListTablesRequest::default()).await.unwrap().into_inner().tables;
    assert!(pages.iter().any(|table| table.table == "archive" && table.problem.contains("driftctl doctor")));

    let writer_daemon = Daemon::start("driftdb-writer", copy.dir.root(), &ARGS);
    let mut writer = writer_daemon.as_writer().await;
    let last = apply(&mut writer, vec![put("orders", r#"{"id":"new"}"#)]).await.unwrap().seq;
    let to_both = vec![put("orders", r#"{"id":"no"}"#), put("archive", r#"{"id":"no"}"#)];
    refused(apply(&mut writer, to_both).await, Code::DataLoss, "CORRUPT").says(&says);
    let create = run(&mut writer, "CREATE TABLE ARCHIVE (pk=id)").await;
    refused(create, Code::DataLoss, "CORRUPT").says(&says);
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert!(status.tables.iter().any(|table| table.table == "archive" && !table.problem.is_empty()));
    assert_eq!(status.damaged_files.len(), 1, "{:?}", status.damaged_files);
    assert!(status.damaged_files[0].what_is_done.contains("driftctl doctor"));
    let mut verifying = writer.verify(v1::VerifyRequest::default()).await.unwrap().into_inner();
    let mut problems = Vec::new();
    while let Some(message) = verifying.message().await.unwrap() {
        if let Some(v1::verify_response::Event::Problem(problem)) = message.event {
            problems.push(problem.file);
        }
    }
    assert_eq!(problems, [file]);
    let found = ask(&mut reader, "SELECT * FROM orders WHERE id = \"new\"", last).await.unwrap().rows();
    assert_eq!(found.len(), 1);
}

/// The damage is in the middle of a layer that both daemons have open.
#[tokio::test]
async fn damage_that_a_read_finds_is_built_again() {
    let original = shared().await;
    let copy = Copy::of(original.path());
    let writer_daemon = Daemon::start("driftdb-writer", copy.dir.root(), &ARGS);
    let mut writer = writer_daemon.as_writer().await;
    // The history of a table needs every block of its delta layers.
    let history =
        async |reader: &mut Reader| ask(reader, "SHOW DRIFT orders", 0).await.map(|answer| answer.drift());
    let expected = history(&mut Daemon::reader(copy.dir.root()).as_reader().await).await.unwrap();
    let path = copy.file("orders", kind::DELTA).0;
    let len = usize::try_from(fs::metadata(&path).unwrap().len()).unwrap();
    // The first block holds versions of rows.
    flip(&path, len - 40);
    let reader_daemon = Daemon::reader(copy.dir.root());
    let mut reader = reader_daemon.as_reader().await;
    let first = history(&mut reader).await;
    refused(first, Code::DataLoss, "CORRUPT").says(&[&path.display().to_string(), "driftctl doctor"]);
    let deadline = Instant::now() + LIMIT;
    loop {
        match history(&mut reader).await {
            Ok(found) => break assert!(found == expected),
            Err(status) => assert_eq!(reason(&status), "CORRUPT", "{status}"),
        }
        assert!(Instant::now() < deadline, "the reader never read the table from the log");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(reader_status(&mut reader).await.damaged_files.len(), 1);
    // The writer finds it in a verification, and builds the layer again.
    let mut verifying = writer.verify(v1::VerifyRequest::default()).await.unwrap().into_inner();
    while let Ok(Some(_)) = verifying.message().await {}
    wait_until_rebuilt(&mut writer).await;
    assert_eq!(set_aside(&copy, "orders"), 1);
    let mut verifying =
        writer.verify(v1::VerifyRequest { deep: true, ..Default::default() }).await.unwrap().into_inner();
    while verifying.message().await.unwrap().is_some() {}
    let deadline = Instant::now() + LIMIT;
    while !reader_status(&mut reader).await.damaged_files.is_empty() {
        assert!(Instant::now() < deadline, "the reader never used the new file");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(history(&mut reader).await.unwrap() == expected);
}
