//! Conditions over many rows: of two commits that depend on the same rows, the second one is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driftdb::v1::{self, ChangeKind};
use serde_json::json;
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::harness::calls::{ask, run, run_with, snapshot};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::refusal::{invalid, refused};
use crate::harness::*;

const CLIENTS: u64 = 64;
const SEATS: u64 = 3;

fn no_change(condition: &str, since: u64) -> v1::Precondition {
    v1::Precondition {
        table: "t".into(),
        r#where: condition.into(),
        check: Some(v1::precondition::Check::UnchangedSince(since)),
        ..Default::default()
    }
}

async fn apply_if(
    writer: &mut Writer,
    operations: Vec<v1::Operation>,
    preconditions: Vec<v1::Precondition>,
) -> Result<u64, Status> {
    let request = v1::ApplyRequest { operations, preconditions, ..Default::default() };
    Ok(writer.apply(request).await?.into_inner().token.unwrap().seq)
}

#[tokio::test]
async fn a_change_of_a_row_that_matches_before_or_after_it_breaks_the_condition() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    run(writer, r#"INSERT INTO t {"id": "a", "n": 1}, {"id": "b", "n": 2}, {"id": "c", "n": 1}"#)
        .await
        .unwrap();
    let guarded = r#"INSERT INTO t {"id": $1} IF NO CHANGE IN t WHERE n = 1 SINCE $2"#;
    // The row moves in, changes inside, moves out, is deleted; then others change.
    for (statement, key, breaks) in [
        (r#"PATCH t KEY "b" SET {"n": 1}"#, "b", true),
        (r#"PATCH t KEY "b" SET {"x": 5}"#, "b", true),
        (r#"PATCH t KEY "b" SET {"n": 2}"#, "b", true),
        (r#"SOFT DELETE FROM t KEY "a""#, "a", true),
        (r#"UPSERT INTO t {"id": "c", "n": 9}"#, "c", true),
        (r#"PATCH t KEY "b" SET {"n": 3}"#, "b", false),
        (r#"UPSERT INTO t {"id": "d", "n": null}"#, "d", false),
    ] {
        let seq = run(writer, statement).await.unwrap().seq;
        let params = [format!("\"new{seq}\""), (seq - 1).to_string()];
        let outcome = run_with(writer, guarded, &[&params[0], &params[1]]).await;
        if breaks {
            refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED")
                .says(&["t WHERE n = 1", &format!("commit {seq} changed row \"{key}\"")])
                .tells("seq", seq)
                .tells("key", key);
        } else {
            outcome.unwrap();
        }
    }
}

#[tokio::test]
async fn a_condition_holds_over_snapshots_and_for_transactions_and_batches() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let seq = run(writer, r#"INSERT INTO t {"id": "a", "n": 1}, {"id": "b", "n": 2}"#).await.unwrap().seq;
    // Only files hold the row's content before this change.
    snapshot(writer, "t").await.unwrap();
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let writer = &mut cluster.writer_daemon.as_writer().await;
    let changed = run(writer, r#"UPSERT INTO t {"id": "a", "n": 7}"#).await.unwrap().seq;
    let row = |id: &str| vec![insert("t", format!(r#"{{"id":"{id}"}}"#))];
    let outcome = apply_if(writer, row("x"), vec![no_change("n = 1", seq)]).await;
    refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED").tells("seq", changed);
    apply_if(writer, row("x"), vec![no_change("n = 2", seq), no_change("n = 1", changed)]).await.unwrap();
    // An older commit than the writer has in memory: the snapshot has the changes since.
    let outcome = apply_if(writer, row("y"), vec![no_change("n = 2", seq - 1)]).await;
    refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED").tells("seq", seq).tells("key", "b");
    apply_if(writer, row("w"), vec![no_change("n = 3", seq - 1)]).await.unwrap();
    let outcome = apply_if(writer, row("y"), vec![no_change("n = 2", 1000)]).await;
    refused(outcome, Code::OutOfRange, "BEYOND_HEAD");
    // A batch of Ingest is one commit.
    for (since, done) in [(changed, true), (seq, false)] {
        let request = v1::IngestRequest {
            batch_id: 1,
            operations: row(&format!("i{since}")),
            atomic: true,
            preconditions: vec![no_change("n = 7", since)],
            ..Default::default()
        };
        let mut answers = writer.ingest(tokio_stream::iter([request])).await.unwrap().into_inner();
        let errors = answers.message().await.unwrap().unwrap().errors;
        assert_eq!(
            errors.first().map(|error| error.reason.as_str()),
            (!done).then_some("PRECONDITION_FAILED")
        );
    }
    // A table that is made again has lost its rows.
    let before = run(writer, "DROP TABLE t").await.unwrap().seq - 1;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let outcome = apply_if(writer, row("z"), vec![no_change("n = 99", before)]).await;
    refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED").says(&["created the table again"]);
}

/// Only files have the changes: with and without an index, the condition decides as SHOW DRIFT does.
#[tokio::test]
async fn what_memory_does_not_have_is_looked_for_in_snapshots() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id, INDEX(n))").await.unwrap();
    run(writer, "CREATE TABLE u (pk=id)").await.unwrap();
    let mut random = Random(5);
    for _ in 0..60 {
        let operations = (0..1 + random.below(4)).map(|_| {
            let (key, n, s) = (random.below(20), random.below(6), random.below(6));
            match random.below(3) {
                0 => put("t", json!({"id": format!("k{key}"), "n": n}).to_string()),
                _ => put("t", json!({"id": format!("k{key}"), "n": n, "s": s}).to_string()),
            }
        });
        apply(writer, operations.collect()).await.unwrap();
    }
    let last = apply(writer, vec![delete("t", "k1"), delete("t", "k2")]).await.unwrap().seq;
    snapshot(writer, "t").await.unwrap();
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let writer = &mut cluster.writer_daemon.as_writer().await;
    let mut outcomes = BTreeMap::new();
    for number in 0..60 {
        let since = last - random.below(usize::try_from(last - 2).unwrap()) as u64;
        let n = random.below(7);
        let condition = [
            format!("n = {n}"),
            format!("s = {n}"),
            format!("n = {n} AND s = 2"),
            format!("_key = \"k{n}\""),
            format!("n > {n}"),
        ];
        let condition = random.pick(&condition);
        let drift = format!("SHOW DRIFT t WHERE {condition} FROM @seq:{since} LIMIT 1");
        let drift = ask(&mut cluster.reader, &drift, last).await.unwrap().drift();
        let row = vec![insert("u", json!({"id": format!("r{number}")}).to_string())];
        let outcome = apply_if(writer, row, vec![no_change(&condition, since)]).await;
        *outcomes.entry(outcome.is_ok()).or_insert(0) += 1;
        match drift.first() {
            None => _ = outcome.unwrap(),
            Some((seq, _, key)) => {
                refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED")
                    .says(&[&condition])
                    .tells("seq", seq)
                    .tells("key", key);
            }
        }
    }
    assert!(outcomes[&true] > 5 && outcomes[&false] > 5, "{outcomes:?}");
    // Of what happened after the snapshot and before the start, nothing is known.
    let seq = run(writer, r#"UPSERT INTO t {"id": "k1", "n": 1}"#).await.unwrap().seq;
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let writer = &mut cluster.writer_daemon.as_writer().await;
    let row = vec![insert("u", r#"{"id": "z"}"#)];
    let outcome = apply_if(writer, row, vec![no_change("n = 99", seq - 1)]).await;
    refused(outcome, Code::FailedPrecondition, "BOUNDARY_TOO_OLD").says(&["read the rows again"]);
}

#[tokio::test]
async fn conditions_that_cannot_be_checked_are_refused() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let row = || vec![insert("t", r#"{"id":"a"}"#)];
    let long = format!("n = \"{}\"", "x".repeat(5000));
    refused(apply_if(writer, row(), vec![no_change(&long, 1)]).await, Code::InvalidArgument, "TOO_LARGE");
    let many = vec![no_change("n = 1", 1); 17];
    refused(apply_if(writer, row(), many).await, Code::InvalidArgument, "TOO_LARGE").says(&["17", "16"]);
    let outcome = apply_if(writer, row(), vec![no_change("_seq > 1", 1)]).await;
    refused(outcome, Code::InvalidArgument, "QUERY_INVALID").says(&["_seq"]);
    let both = v1::Precondition { key: "a".into(), ..no_change("n = 1", 1) };
    invalid(apply_if(writer, row(), vec![both]).await, "ARGUMENT_INVALID");
    let unchecked = v1::Precondition { check: None, ..no_change("n = 1", 1) };
    invalid(apply_if(writer, row(), vec![unchecked]).await, "ARGUMENT_INVALID");
    let request = v1::IngestRequest {
        batch_id: 1,
        operations: row(),
        preconditions: vec![no_change("n = 1", 1)],
        ..Default::default()
    };
    let mut answers = writer.ingest(tokio_stream::iter([request])).await.unwrap().into_inner();
    let ended = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the batch was taken"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&ended), "ARGUMENT_INVALID");
}

#[tokio::test]
async fn a_large_commit_that_is_refused_leaves_the_newest_commit_known() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let seq = run(writer, r#"INSERT INTO t {"id": "a", "n": 1}"#).await.unwrap().seq;
    let text = "x".repeat(500_000);
    let mut large: Vec<_> =
        (0..100).map(|n| put("t", format!(r#"{{"id":"{n}","text":"{text}"}}"#))).collect();
    large.push(patch("t", "missing", r#"{"n":1}"#));
    refused(apply(writer, large).await, Code::NotFound, "ROW_NOT_FOUND");
    let row = vec![insert("t", r#"{"id":"b"}"#)];
    apply_if(writer, row, vec![no_change("n = 1", seq)]).await.unwrap();
}

/// A commit that was acknowledged: the course, the commit that was read, and its own.
type Enrolment = (u64, u64, u64);

/// What the clients share.
struct School {
    url: Mutex<String>,
    /// The number of courses: each is a boundary.
    courses: u64,
    tries: AtomicU64,
    most: u64,
    refused: AtomicU64,
    enrolments: Mutex<Vec<Enrolment>>,
}

async fn connect(school: &School) -> Writer {
    loop {
        let url = school.url.lock().await.clone();
        if let Ok(channel) = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await {
            return Writer::new(channel);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Sends a statement until its outcome is known: again with the same request id.
async fn settle(
    school: &School,
    writer: &mut Writer,
    statement: &str,
    request_id: &str,
) -> Result<u64, Status> {
    loop {
        let options = Some(v1::CommitOptions { request_id: request_id.into(), ..Default::default() });
        let request =
            v1::WriterServiceExecuteRequest { statement: statement.into(), options, ..Default::default() };
        let outcome = match writer.execute(request).await {
            Ok(answers) => answers.into_inner().message().await,
            Err(status) => Err(status),
        };
        match outcome {
            Ok(answer) => match answer.and_then(|answer| answer.event) {
                Some(v1::writer_service_execute_response::Event::Token(token)) => return Ok(token.seq),
                other => panic!("{other:?}"),
            },
            Err(status)
                if ["PRECONDITION_FAILED", "BOUNDARY_TOO_OLD", "ROW_NOT_FOUND"]
                    .contains(&reason(&status).as_str()) =>
            {
                return Err(status);
            }
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(2)).await;
                *writer = connect(school).await;
            }
        }
    }
}

/// Enrols in courses that have a seat, and leaves a full one.
async fn study(number: u64, school: Arc<School>, mut reader: Reader) {
    let mut random = Random(1000 + number);
    let (mut writer, mut seen, mut turn) = (connect(&school).await, 1, 0);
    while school.tries.fetch_add(1, Ordering::Relaxed) < school.most {
        turn += 1;
        let course = (random.next() >> 33) % school.courses;
        let taken = format!("SELECT _key FROM t WHERE course = {course}");
        let Ok(answer) = ask(&mut reader, &taken, seen).await else { continue };
        let (at, keys) = (answer.seq(), answer.keys());
        let id = format!("{number}-{turn}");
        if keys.len() as u64 >= SEATS {
            let leave = format!("SOFT DELETE FROM t KEY \"{}\"", keys[0]);
            if let Ok(seq) = settle(&school, &mut writer, &leave, &id).await {
                seen = seen.max(seq);
            }
            continue;
        }
        let enrol = format!(
            r#"INSERT INTO t {{"id": "{course}-{id}", "course": {course}}} IF NO CHANGE IN t WHERE course = {course} SINCE {at}"#
        );
        match settle(&school, &mut writer, &enrol, &id).await {
            Ok(seq) => {
                seen = seen.max(seq);
                school.enrolments.lock().await.push((course, at, seq));
            }
            Err(_) => _ = school.refused.fetch_add(1, Ordering::Relaxed),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_writers_on_some_boundaries_none_breaks_one() {
    none_breaks_a_boundary(6, by_lane(1500, 20_000), by_lane(2, 12)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn of_64_writers_on_one_boundary_none_breaks_it() {
    none_breaks_a_boundary(1, by_lane(4000, 100_000), by_lane(8, 60)).await;
}

/// Many clients try to enrol, in as few courses as there are, while the writer is killed and they send again what was not answered.
async fn none_breaks_a_boundary(courses: u64, most: u64, kills: u64) {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id, INDEX(course))").await.unwrap();
    let school = Arc::new(School {
        url: Mutex::new(cluster.writer_daemon.url.clone()),
        courses,
        tries: AtomicU64::new(0),
        most,
        refused: AtomicU64::new(0),
        enrolments: Mutex::default(),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| tokio::spawn(study(number, school.clone(), cluster.reader.clone())))
        .collect();
    for kill in 1..=kills {
        while school.tries.load(Ordering::Relaxed) < kill * school.most / (kills + 1) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.writer_daemon.kill();
        // With snapshots, some of the conditions are compared with what only files have.
        cluster.writer_daemon =
            Daemon::start("driftdb-writer", cluster.dir.path(), &["--snapshot-events", "100"]);
        *school.url.lock().await = cluster.writer_daemon.url.clone();
    }
    for client in clients {
        client.await.unwrap();
    }
    let enrolments = std::mem::take(&mut *school.enrolments.lock().await);
    let last = enrolments.iter().map(|(_, _, seq)| *seq).max().unwrap();
    let drift = ask(&mut cluster.reader, "SHOW DRIFT t", last).await.unwrap().drift();
    // The commits that changed each course, and how many have a seat after each.
    let mut changed: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut seated: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for (seq, kind, key) in drift.into_iter().filter(|(_, kind, _)| *kind != ChangeKind::Schema) {
        let course: u64 = key.split('-').next().unwrap().parse().unwrap();
        changed.entry(course).or_default().insert(seq);
        let seats = seated.entry(course).or_default();
        if kind == ChangeKind::SoftDelete {
            seats.remove(&key)
        } else {
            seats.insert(key)
        };
        assert!(seats.len() as u64 <= SEATS, "commit {seq} overfills course {course}: {seats:?}");
    }
    let distinct: BTreeSet<u64> = enrolments.iter().map(|(_, _, seq)| *seq).collect();
    assert_eq!(distinct.len(), enrolments.len(), "a commit was acknowledged to two clients");
    for (course, read, seq) in &enrolments {
        let between = changed[course].range(read + 1..*seq).next();
        assert_eq!(between, None, "commit {seq} read course {course} at {read}");
        assert!(changed[course].contains(seq), "commit {seq} was acknowledged and is not there");
    }
    let refused = school.refused.load(Ordering::Relaxed);
    assert!(refused > 0, "the writers never met: {} enrolments", enrolments.len());
    let json = json!({"courses": courses, "kills": kills, "tries": school.most, "enrolments": enrolments.len(), "refused": refused});
    println!("{json}");
}
