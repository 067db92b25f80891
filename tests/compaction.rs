//! Compaction through the daemons: every commit from the floor on reads as before, and every read below it is refused.

#![expect(clippy::disallowed_methods, reason = "this test looks at the files of a database")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::harness::calls::compact;
use crate::harness::model::{Model, Op};
use crate::harness::*;
use driftdb::v1;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tonic::transport::Endpoint;

const TABLES: [&str; 2] = ["t", "u"];
const SMALL: [&str; 4] = ["--segment-bytes", "4096", "--snapshot-events", "40"];

/// Random commits: mostly of the first table, sometimes of both.
struct Script(TestRunner);

impl Script {
    fn new() -> Script {
        Script(TestRunner::default())
    }

    fn next<T: std::fmt::Debug>(&mut self, strategy: impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.0).unwrap().current()
    }

    /// The next commit's operations, for the model and for the API. Some of them are refused.
    fn commit(&mut self) -> (Vec<(String, Op)>, Vec<v1::Operation>) {
        let op = (0..5usize, 0..10u8, 0..25u8, any::<u8>());
        let ops = self.next(prop::collection::vec(op, 1..5));
        ops.into_iter()
            .map(|(table, kind, key, salt)| {
                let (table, key) = (TABLES[usize::from(table == 0)], format!("k{key:02}"));
                let document = json!({"id": key, "n": salt, "x": {"y": [salt % 5, null]}});
                let change = json!({"n": salt, "x": {"z": salt % 3}, "more": "m".repeat(usize::from(salt))});
                let (op, wire) = match kind {
                    0..7 => (Op::Put(key, document.clone()), put(table, document.to_string())),
                    7..9 => (Op::Patch(key.clone(), change.clone()), patch(table, &key, change.to_string())),
                    _ => (Op::Delete(key.clone()), delete(table, &key)),
                };
                ((table.to_owned(), op), wire)
            })
            .unzip()
    }
}

/// A cluster, and the expected content of its database.
struct Run {
    cluster: Cluster,
    model: Model,
    script: Script,
    floors: [u64; 2],
}

impl Run {
    async fn start() -> Run {
        let dir = tempfile::tempdir().unwrap();
        let writer_daemon = Daemon::start("driftdb-writer", dir.path(), &SMALL);
        let reader_daemon = Daemon::reader(dir.path());
        let (writer, reader) = (writer_daemon.as_writer().await, reader_daemon.as_reader().await);
        let cluster = Cluster { dir, writer_daemon, reader_daemon, writer, reader };
        let (model, script) = (Model::new(), Script::new());
        let mut run = Run { cluster, model, script, floors: [0; 2] };
        for table in TABLES {
            run.cluster.create(table).await;
            run.model.create(table);
        }
        run
    }

    /// Writes `number` commits, and some that are refused.
    async fn commits(&mut self, number: u64) {
        let upto = self.model.seq() + number;
        while self.model.seq() < upto {
            let (ops, wire) = self.script.commit();
            let outcome = apply(&mut self.cluster.writer, wire).await;
            assert_eq!(outcome.is_ok(), self.model.apply(&ops), "{outcome:?} for {ops:?}");
        }
    }

    async fn restart(&mut self, kill: bool) {
        if kill {
            self.cluster.writer_daemon.kill();
        } else {
            // The writer waits for open connections.
            self.cluster.writer = Writer::new(Endpoint::from_static("http://127.0.0.1:1").connect_lazy());
            assert!(self.cluster.writer_daemon.terminate().await.success());
        }
        self.cluster.writer_daemon = Daemon::start("driftdb-writer", self.cluster.dir.path(), &SMALL);
        self.cluster.writer = self.cluster.writer_daemon.as_writer().await;
    }

    async fn compact(&mut self, table: usize, before: Option<u64>) -> v1::CompactInfo {
        let writer = &mut self.cluster.writer;
        let before = before.and_then(at_seq);
        let told = compact(writer, TABLES[table], before, true).await.unwrap();
        let info = compact(writer, TABLES[table], before, false).await.unwrap();
        // Without a point, COMPACT uses the newest snapshot, and a newer one may exist by now.
        if before.is_some() {
            assert_eq!((told.floor_seq, told.events_folded), (info.floor_seq, info.events_folded));
        }
        assert!(info.floor_seq >= self.floors[table]);
        self.floors[table] = info.floor_seq;
        info
    }

    /// Checks every `step`-th commit on a reader.
    async fn check(&self, reader: &mut Reader, step: usize) {
        wait_for_floors(reader, self.floors, self.model.seq()).await;
        for seq in (1..=self.model.seq()).rev().step_by(step) {
            for (table, floor) in TABLES.into_iter().zip(self.floors) {
                check_moment(reader, &self.model, table, floor, seq).await;
            }
        }
    }
}

/// Waits until a reader knows the floors. It learns of a floor when it reads HEAD again.
async fn wait_for_floors(reader: &mut Reader, floors: [u64; 2], seq: u64) {
    let deadline = Instant::now() + Duration::from_secs(10);
    for (table, floor) in TABLES.into_iter().zip(floors) {
        loop {
            let request = v1::DescribeTableRequest {
                table: table.into(),
                freshness: Some(v1::Freshness { min_seq: seq, ..Default::default() }),
                ..Default::default()
            };
            let table = reader.describe_table(request).await.unwrap().into_inner().table.unwrap();
            if table.floor_seq == floor {
                break;
            }
            assert!(table.floor_seq < floor && Instant::now() < deadline, "{table:?}, floor {floor}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn check_moment(reader: &mut Reader, model: &Model, table: &str, floor: u64, seq: u64) {
    let found = select_at(reader, table, seq).await;
    match model.at(seq, table) {
        None => assert_eq!(reason(&found.unwrap_err()), "TABLE_NOT_FOUND"),
        Some(_) if seq < floor => {
            let status = found.unwrap_err();
            assert_eq!((status.code(), &*reason(&status)), (tonic::Code::OutOfRange, "BELOW_FLOOR"));
            below_floor_everywhere(reader, table, seq).await;
        }
        Some(rows) => {
            let found: Vec<(String, Value)> = found
                .unwrap()
                .into_iter()
                .map(|(key, text)| (key, serde_json::from_str(&text).unwrap()))
                .collect();
            let rows: Vec<(String, Value)> =
                rows.iter().map(|(key, row)| (key.clone(), row.clone())).collect();
            assert_eq!(found, rows, "{table} at {seq}, floor {floor}");
            check_history(reader, model, table, floor, seq).await;
        }
    }
}

async fn below_floor_everywhere(reader: &mut Reader, table: &str, seq: u64) {
    let (name, as_of) = (table.to_owned(), at_seq(seq));
    let get = v1::GetRequest { table: name.clone(), keys: vec!["k01".into()], as_of, ..Default::default() };
    let mut answers = vec![reader.get(get).await.map(drop)];
    let from_below = v1::DiffRequest { table: name.clone(), start: as_of, ..Default::default() };
    answers.push(reader.diff(from_below).await.map(drop));
    let history = v1::HistoryRequest { table: name.clone(), end: as_of, ..Default::default() };
    answers.push(reader.history(history).await.map(drop));
    let describe = v1::DescribeTableRequest { table: name, as_of, freshness: None };
    answers.push(reader.describe_table(describe).await.map(drop));
    for answer in answers {
        assert_eq!(reason(&answer.unwrap_err()), "BELOW_FLOOR", "{table} at {seq}");
    }
}

async fn check_history(reader: &mut Reader, model: &Model, table: &str, floor: u64, seq: u64) {
    let key = format!("k{:02}", seq % 25);
    let request =
        v1::HistoryRequest { table: table.into(), key: key.clone(), end: at_seq(seq), ..Default::default() };
    let mut stream = reader.history(request).await.unwrap().into_inner();
    let (mut found, mut truncated) = (Vec::new(), false);
    while let Some(message) = stream.message().await.unwrap() {
        truncated |= message.truncated;
        for commit in message.commits {
            found.extend(commit.changes.iter().map(|change| (commit.seq, change.kind())));
        }
    }
    let kind = |kind| match kind {
        "insert" => v1::ChangeKind::Insert,
        "patch" => v1::ChangeKind::Patch,
        _ => v1::ChangeKind::SoftDelete,
    };
    let drift = model.drift(table, &key).into_iter().filter(|(at, _)| *at > floor && *at <= seq);
    let expected: Vec<_> = drift.map(|(at, of)| (at, kind(of))).collect();
    assert_eq!(found, expected, "drift of {table}/{key} up to {seq}, floor {floor}");
    assert_eq!(truncated, floor > 0, "floor {floor}");
}

/// Checks that the manifests name every file of the tables.
fn expect_no_orphans(run: &Run) {
    for table in TABLES {
        let dir = run.cluster.dir.path().join("tables").join(table);
        let text = std::fs::read_to_string(dir.join("meta.json")).unwrap();
        let meta: Value = serde_json::from_str(&text).unwrap();
        let list = |name: &str| meta["body"][name].as_array().cloned().unwrap_or_default();
        let mut segments: Vec<String> = list("segments")
            .iter()
            .map(|segment| format!("{:08}.seg", segment["number"].as_u64().unwrap()))
            .collect();
        segments.sort();
        let era = |era: &Value| {
            format!("{:08}-{:08}.snap", era["base"].as_u64().unwrap(), era["seq"].as_u64().unwrap())
        };
        let full = |full: &Value| format!("{:08}.snap", full["seq"].as_u64().unwrap());
        let mut snapshots: Vec<String> =
            list("eras").iter().map(era).chain(list("fulls").iter().map(full)).collect();
        snapshots.sort();
        assert_eq!(names(&dir.join("segments")), segments, "{table}: {text}");
        assert_eq!(names(&dir.join("snapshots")), snapshots, "{table}: {text}");
    }
}

fn names(dir: &std::path::Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| !name.contains(".torn."));
    names.sort();
    names
}

#[tokio::test]
#[ignore = "slow"]
async fn every_commit_from_the_floor_on_reads_as_before() {
    let mut run = Run::start().await;
    let mut reader = run.cluster.reader.clone();
    for round in 0..6u64 {
        run.commits(60).await;
        let newest = run.model.seq();
        // Commit 1 creates the table: before it there is nothing to compact.
        let share = run.script.next(1..=newest);
        let before = [None, Some(newest), Some(share), Some(newest - 7), Some(share), None];
        run.compact(0, before[usize::try_from(round).unwrap()]).await;
        run.check(&mut reader, 3).await;
        if round % 2 == 1 {
            run.commits(5).await;
            let share = run.script.next(run.floors[1].max(2)..=newest);
            run.compact(1, Some(share)).await;
            run.restart(round == 3).await;
        }
        run.commits(10).await;
        run.check(&mut reader, 4).await;
        let fresh = Daemon::reader(run.cluster.dir.path());
        run.check(&mut fresh.as_reader().await, 5).await;
    }
    run.restart(false).await;
    run.restart(false).await;
    expect_no_orphans(&run);
    run.check(&mut reader, 1).await;
}

#[tokio::test]
async fn a_repeated_compaction_does_nothing_and_an_impossible_one_is_refused() {
    let mut run = Run::start().await;
    run.commits(50).await;
    let info = run.compact(0, Some(30)).await;
    assert!(info.events_folded > 0);
    assert_eq!(info.floor_seq, 30);
    for before in [30, 12] {
        let again = run.compact(0, Some(before)).await;
        assert_eq!((again.floor_seq, again.events_folded, again.bytes_freed), (30, 0, 0));
    }
    let writer = &mut run.cluster.writer;
    let beyond = compact(writer, "t", at_seq(1_000_000), false).await.unwrap_err();
    assert_eq!(reason(&beyond), "BEYOND_HEAD");
    let before_creation = compact(writer, "u", at_seq(1), false).await.unwrap_err();
    assert_eq!(reason(&before_creation), "TABLE_NOT_FOUND");
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    let table = status.tables.iter().find(|table| table.table == "t").unwrap();
    assert_eq!(table.floor_seq, 30);
    assert!(table.snapshots >= 2, "{table:?}");
}

#[tokio::test]
async fn request_ids_survive_compaction_and_restart() {
    let mut run = Run::start().await;
    let asked = |document: &str, id: &str| v1::ApplyRequest {
        operations: vec![put("t", document)],
        options: Some(v1::CommitOptions { request_id: id.into(), ..Default::default() }),
        ..Default::default()
    };
    let first = asked(r#"{"id":"asked","n":1}"#, "r-1");
    let token = run.cluster.writer.apply(first.clone()).await.unwrap().into_inner().token.unwrap();
    apply(&mut run.cluster.writer, vec![put("t", r#"{"id":"later"}"#)]).await.unwrap();
    let newest = apply(&mut run.cluster.writer, vec![put("u", r#"{"id":"x"}"#)]).await.unwrap().seq;
    for restart in [false, true, false] {
        if restart {
            run.restart(false).await;
        } else {
            compact(&mut run.cluster.writer, "t", at_seq(newest), false).await.unwrap();
            compact(&mut run.cluster.writer, "u", None, false).await.unwrap();
        }
        let again = run.cluster.writer.apply(first.clone()).await.unwrap().into_inner();
        assert_eq!(again.token.unwrap().seq, token.seq);
        let reused = run.cluster.writer.apply(asked(r#"{"id":"asked","n":2}"#, "r-1")).await.unwrap_err();
        assert_eq!(reason(&reused), "REQUEST_ID_REUSED");
    }
    // Preconditions use the seq of a compacted row's own last change.
    use v1::precondition::Check;
    for (seq, holds) in [(newest, false), (token.seq, true)] {
        let request = v1::ApplyRequest {
            operations: vec![patch("t", "asked", r#"{"n":3}"#)],
            preconditions: vec![v1::Precondition {
                table: "t".into(),
                key: "asked".into(),
                check: Some(Check::SeqIs(seq)),
                ..Default::default()
            }],
            ..Default::default()
        };
        assert_eq!(run.cluster.writer.apply(request).await.is_ok(), holds, "seq {seq}");
    }
}

#[tokio::test]
async fn retention_compacts_without_a_command() {
    let mut run = Run::start().await;
    let statement = r#"CREATE TABLE kept (pk=id, RETAIN "1s")"#;
    crate::harness::calls::run(&mut run.cluster.writer, statement).await.unwrap();
    let began = Instant::now();
    let mut number = 0;
    loop {
        number += 1;
        let document = format!(r#"{{"id":"a{}","n":{number}}}"#, number % 7);
        apply(&mut run.cluster.writer, vec![put("kept", document)]).await.unwrap();
        let status = run.cluster.writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
        let table = status.tables.iter().find(|table| table.table == "kept").unwrap();
        if table.floor_seq > 0 {
            assert!(table.floor_seq < status.last_seq);
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{table:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(1));
}

/// A task that reads random commits until told to stop. Returns the number of answers.
async fn ask_on(
    url: String,
    model: Arc<Mutex<Model>>,
    floor: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> (u64, u64) {
    use v1::reader_service_client::ReaderServiceClient;
    let mut reader = ReaderServiceClient::new(connect(&url).await).max_decoding_message_size(usize::MAX);
    let mut script = Script::new();
    let (mut answered, mut below) = (0, 0);
    while !stop.load(Ordering::Acquire) {
        let seq = script.next(3..=model.lock().unwrap().seq());
        let found = select_at(&mut reader, "t", seq).await;
        let expected = model.lock().unwrap().at(seq, "t").unwrap().clone();
        match found {
            Ok(rows) => {
                let rows: Vec<(String, Value)> =
                    rows.into_iter().map(|(key, text)| (key, serde_json::from_str(&text).unwrap())).collect();
                assert_eq!(rows, expected.into_iter().collect::<Vec<_>>(), "at {seq}");
                answered += 1;
            }
            Err(status) => {
                // The test may learn of a floor late: the writer raises it before the compaction returns.
                assert_eq!(reason(&status), "BELOW_FLOOR", "{status}");
                assert!(seq < floor.load(Ordering::Acquire), "at {seq}: {status}");
                below += 1;
            }
        }
    }
    (answered, below)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn reads_of_random_commits_stay_right_during_compactions() {
    let mut run = Run::start().await;
    run.commits(120).await;
    let model = Arc::new(Mutex::new(run.model.clone()));
    let (floor, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let daemons: Vec<Daemon> = (0..2).map(|_| Daemon::reader(run.cluster.dir.path())).collect();
    let asking: Vec<_> = (0..8)
        .map(|number| {
            let url = daemons[number % 2].url.clone();
            tokio::spawn(ask_on(url, Arc::clone(&model), Arc::clone(&floor), Arc::clone(&stop)))
        })
        .collect();
    for _ in 0..20 {
        for _ in 0..15 {
            let (ops, wire) = run.script.commit();
            let outcome = apply(&mut run.cluster.writer, wire).await;
            assert_eq!(outcome.is_ok(), model.lock().unwrap().apply(&ops), "{outcome:?}");
        }
        let newest = model.lock().unwrap().seq();
        let wanted = run.script.next(floor.load(Ordering::Acquire).max(3)..=newest);
        floor.store(wanted, Ordering::Release);
        let info = compact(&mut run.cluster.writer, "t", at_seq(wanted), false).await.unwrap();
        assert_eq!(info.floor_seq, wanted);
    }
    stop.store(true, Ordering::Release);
    let (mut answered, mut below) = (0, 0);
    for task in asking {
        let (a, b) = task.await.unwrap();
        (answered, below) = (answered + a, below + b);
    }
    assert!(answered > 100 && below > 0, "{answered} answers, {below} below the floor");
}
