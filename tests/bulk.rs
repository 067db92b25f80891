//! Statements that change all rows of a condition: each has the effect that it would have had alone, whatever others write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use driftdb::v1::{self, ChangeKind};
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tonic::{Code, Status};

use crate::harness::calls::{self, ask, run, snapshot};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::refusal::refused;
use crate::harness::*;

/// What a statement answered.
#[derive(Debug, Default)]
struct Done {
    result: v1::BulkResult,
    seq: Option<u64>,
    progress: Vec<u64>,
}

async fn change(writer: &mut Writer, statement: &str, request_id: &str) -> Result<Done, Status> {
    use v1::writer_service_execute_response::Event;
    let options = Some(v1::CommitOptions {
        request_id: request_id.into(),
        reason: "spring cleaning".into(),
        actor: "anna".into(),
        ..Default::default()
    });
    let request =
        v1::WriterServiceExecuteRequest { statement: statement.into(), options, ..Default::default() };
    let mut answers = writer.execute(request).await?.into_inner();
    let mut done = Done::default();
    while let Some(answer) = answers.message().await? {
        match answer.event.unwrap() {
            Event::Bulk(result) => done.result = result,
            Event::Token(token) => done.seq = Some(token.seq),
            Event::Progress(made) => done.progress.push(made.done),
            Event::Message(message) => panic!("{message}"),
        }
    }
    Ok(done)
}

type Rows = BTreeMap<String, Value>;

async fn rows_at(reader: &mut Reader, seq: u64) -> Rows {
    let statement = format!("SELECT * FROM t AS OF @seq:{seq}");
    ask(reader, &statement, seq).await.unwrap().rows().into_iter().collect()
}

async fn fill(writer: &mut Writer, rows: u64) {
    for chunk in (0..rows).collect::<Vec<_>>().chunks(5000) {
        let row = |n: &u64| insert("t", format!(r#"{{"id":"k{n:05}","n":{},"tag":"old"}}"#, n % 10));
        apply(writer, chunk.iter().map(row).collect()).await.unwrap();
    }
}

#[tokio::test]
async fn a_statement_changes_the_rows_of_its_condition_in_one_commit() {
    let mut cluster = Cluster::start().await;
    let Cluster { writer, reader, .. } = &mut cluster;
    run(writer, "CREATE TABLE t (pk=id, INDEX(n))").await.unwrap();
    fill(writer, 100).await;
    let dry = change(writer, r#"PATCH t SET {"tag": "new"} WHERE n < 2 DRY RUN"#, "").await.unwrap();
    assert_eq!((dry.result.rows, dry.result.sample.len(), dry.result.dry_run, dry.seq), (20, 10, true, None));
    let first = &dry.result.sample[0];
    assert_eq!((first.key.as_str(), first.kind()), ("k00000", ChangeKind::Patch));
    assert_eq!(text_of(first.after.as_ref().unwrap()), r#"{"id":"k00000","n":0,"tag":"new"}"#);
    let statement = r#"PATCH t SET {"tag": "new"} WHERE n < 2"#;
    let done = change(writer, statement, "once").await.unwrap();
    assert_eq!((done.result.rows, done.result.commits, done.seq), (20, 1, Some(3)));
    let again = change(writer, statement, "once").await.unwrap();
    assert_eq!((again.result.replayed, again.seq), (true, Some(3)));
    let other = change(writer, r#"PATCH t SET {"tag": "x"} WHERE n < 2"#, "once").await;
    refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED");
    // Rows that are so already are left out, and nothing is committed for them.
    let nothing = change(writer, statement, "").await.unwrap();
    assert_eq!((nothing.result.rows, nothing.result.commits, nothing.seq), (0, 0, None));
    let found = ask(reader, r#"SELECT COUNT(*) FROM t WHERE tag = "new""#, 3).await.unwrap();
    assert_eq!(found.count(), 20);
    let drift = ask(reader, "SHOW DRIFT t FROM @seq:2", 3).await.unwrap();
    let v1::reader_service_execute_response::Result::Commit(commit) = &drift.results[0] else { panic!() };
    assert_eq!((commit.actor.as_str(), commit.reason.as_str()), ("anna", "spring cleaning"));

    let done =
        change(writer, r#"SOFT DELETE FROM t WHERE tag = "new" AND _key < "k00050""#, "").await.unwrap();
    assert_eq!((done.result.rows, done.seq), (10, Some(4)));
    run(writer, r#"INSERT INTO t {"id": "made", "n": 1}"#).await.unwrap();
    // Of the condition's rows then and now: the deleted ones come back, the new one goes.
    let done = change(writer, "REVERT t WHERE n = 1 TO @seq:2", "").await.unwrap();
    assert_eq!((done.result.rows, done.seq), (11, Some(6)));
    let (mut now, mut then) = (rows_at(reader, 6).await, rows_at(reader, 2).await);
    assert_eq!(now.len(), 95);
    now.retain(|_, row| row["n"] == 1);
    then.retain(|_, row| row["n"] == 1);
    assert_eq!(now, then);
    let done = change(writer, "REVERT t TO @seq:2", "").await.unwrap();
    assert_eq!((done.result.rows, done.seq), (10, Some(7)));
    assert_eq!(rows_at(reader, 7).await, rows_at(reader, 2).await);
}

/// The kinds of the events of a table, with what is known of how they came about.
async fn kinds(reader: &mut Reader, seq: u64) -> Vec<(ChangeKind, bool, bool)> {
    let request = v1::HistoryRequest {
        table: "t".into(),
        start: at_seq(1),
        freshness: calls::fresh(seq),
        ..Default::default()
    };
    let mut answers = reader.history(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let changes = answer.commits.iter().flat_map(|commit| &commit.changes);
        found.extend(changes.map(|change| (change.kind(), change.replaced, change.reverted)));
    }
    found
}

#[tokio::test]
async fn drift_tells_replacing_puts_and_reverts_from_inserts_also_from_snapshots() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    for statement in [
        r#"UPSERT INTO t {"id": "a", "n": 1}"#,
        r#"UPSERT INTO t {"id": "a", "n": 2}"#,
        r#"REVERT t KEY "a" TO @seq:2"#,
        r#"SOFT DELETE FROM t KEY "a""#,
        r#"REVERT t KEY "a" TO @seq:3"#,
        r#"REVERT t KEY "a" TO @seq:1"#,
    ] {
        run(writer, statement).await.unwrap();
    }
    let expected = [
        (ChangeKind::Insert, false, false),
        (ChangeKind::Insert, true, false),
        (ChangeKind::Insert, true, true),
        (ChangeKind::SoftDelete, false, false),
        (ChangeKind::Insert, false, true),
        (ChangeKind::SoftDelete, false, true),
    ];
    assert_eq!(kinds(&mut cluster.reader, 7).await, expected);
    snapshot(&mut cluster.writer, "t").await.unwrap();
    let fresh = Daemon::reader(cluster.dir.path());
    assert_eq!(kinds(&mut fresh.as_reader().await, 7).await, expected);
}

#[tokio::test]
async fn what_is_too_large_for_a_commit_is_refused_with_its_count_or_done_in_batches() {
    let mut cluster = Cluster::start().await;
    let Cluster { writer, reader, .. } = &mut cluster;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    fill(writer, 10_500).await;
    let statement = r#"PATCH t SET {"tag": "new"} WHERE n >= 0"#;
    let outcome = change(writer, statement, "").await;
    refused(outcome, Code::InvalidArgument, "TOO_LARGE")
        .says(&["10500", "10000", "IN BATCHES OF"])
        .tells("rows", 10_500);
    let done = change(writer, &format!("{statement} IN BATCHES OF 4000"), "").await.unwrap();
    assert_eq!((done.result.rows, done.result.commits, done.seq), (10_500, 3, Some(7)));
    assert_eq!(done.progress, [4000, 8000, 10_500]);
    let found = ask(reader, r#"SELECT COUNT(*) FROM t WHERE tag = "new""#, 7).await.unwrap();
    assert_eq!(found.count(), 10_500);
    // Stopped in the middle, a statement goes on where it was.
    run(writer, r#"PATCH t KEY "k00007" SET {"tag": "again"}"#).await.unwrap();
    let done = change(writer, &format!("{statement} IN BATCHES OF 4000"), "").await.unwrap();
    assert_eq!((done.result.rows, done.result.commits), (1, 1));
    for (statement, reason) in [
        (r#"PATCH t SET {"a": 1} WHERE n = 1 IN BATCHES OF 10001"#, "TOO_LARGE"),
        (
            r#"SOFT DELETE FROM t WHERE n = 1 IN BATCHES OF 5 IF NO CHANGE IN t WHERE n = 1 SINCE 1"#,
            "QUERY_INVALID",
        ),
        ("REVERT t WHERE _seq > 2 TO @seq:3", "QUERY_INVALID"),
        ("REVERT t TO @now", "ARGUMENT_INVALID"),
        (r#"PATCH t SET {"id": "x"} WHERE n = 1"#, "KEY_INVALID"),
    ] {
        refused(change(writer, statement, "").await, Code::InvalidArgument, reason);
    }
    refused(change(writer, "SOFT DELETE FROM no WHERE n = 1", "").await, Code::NotFound, "TABLE_NOT_FOUND");
    refused(change(writer, "REVERT t TO @seq:100", "").await, Code::OutOfRange, "BEYOND_HEAD");
    let guarded = "SOFT DELETE FROM t WHERE n = 1 IF NO CHANGE IN t WHERE n = 2 SINCE 2";
    refused(change(writer, guarded, "").await, Code::FailedPrecondition, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn a_retry_finds_its_commit_whatever_its_words_for_moments_mean_by_then() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    fill(writer, 10).await;
    for (at, statement) in [
        r#"PATCH t SET {"tag": "new"} WHERE n < 5 AND _time > "30 days ago""#,
        r#"SOFT DELETE FROM t WHERE n < 5 AND _time > "1 month ago""#,
    ]
    .into_iter()
    .enumerate()
    {
        let id = format!("r{at}");
        let first = change(writer, statement, &id).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let again = change(writer, statement, &id).await.unwrap();
        assert_eq!((first.seq, again.seq), (Some(at as u64 + 3), Some(at as u64 + 3)), "{statement}");
    }
}

#[tokio::test]
async fn a_statement_that_finds_no_row_is_checked_as_any_other() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id)").await.unwrap();
    fill(&mut cluster.writer, 10).await;
    snapshot(&mut cluster.writer, "t").await.unwrap();
    // The snapshot does not reach to what the writer knows after its start.
    run(&mut cluster.writer, "CREATE TABLE other (pk=id)").await.unwrap();
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let writer = &mut cluster.writer_daemon.as_writer().await;
    run(writer, r#"PATCH t KEY "k00002" SET {"tag": "new"}"#).await.unwrap();
    for rows in ["n = 77", "n = 1"] {
        let guarded = |guard: &str| format!("SOFT DELETE FROM t WHERE {rows} IF NO CHANGE IN {guard}");
        let outcome = change(writer, &guarded("t WHERE n = 2 SINCE 3"), "").await;
        refused(outcome, Code::FailedPrecondition, "PRECONDITION_FAILED").tells("seq", 4);
        // What the client names is too old, and not what the statement has found.
        let outcome = change(writer, &guarded("t WHERE n = 2 SINCE 1"), "").await;
        refused(outcome, Code::FailedPrecondition, "BOUNDARY_TOO_OLD").tells("since", 1);
        let outcome = change(writer, &guarded("missing WHERE n = 2 SINCE 3"), "").await;
        refused(outcome, Code::NotFound, "TABLE_NOT_FOUND");
        let outcome = change(writer, &guarded("t WHERE n = 2 SINCE 900"), "").await;
        refused(outcome, Code::OutOfRange, "BEYOND_HEAD");
    }
    let dry = "SOFT DELETE FROM t WHERE n = 1 DRY RUN IF NO CHANGE IN t WHERE n = 2 SINCE 4";
    refused(change(writer, dry, "").await, Code::InvalidArgument, "QUERY_INVALID").says(&["DRY RUN"]);
    // As many conditions as a commit may have, one of them as long as it may be: it is longer when it is written out.
    let values = vec!["1"; 2000].join(",");
    let long = format!("IF NO CHANGE IN t WHERE n IN ({values}) SINCE 4");
    let others = " IF NO CHANGE IN t WHERE n = 5 SINCE 4".repeat(15);
    let statement = format!("PATCH t SET {{\"tag\": \"new\"}} WHERE n = 3 {long}{others}");
    assert_eq!(change(writer, &statement, "").await.unwrap().seq, Some(5));
    let outcome = change(writer, &format!("{statement} IF NO CHANGE IN t WHERE n = 6 SINCE 4"), "").await;
    refused(outcome, Code::InvalidArgument, "TOO_LARGE").says(&["17", "16"]);
    let longer = statement.replace("(1,", &format!("(1,{values},"));
    refused(change(writer, &longer, "").await, Code::InvalidArgument, "TOO_LARGE").says(&["4096"]);
}

#[tokio::test]
async fn a_dry_run_of_large_rows_fits_into_one_message() {
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let text = "x".repeat(600_000);
    for n in 0..12 {
        apply(writer, vec![insert("t", format!(r#"{{"id":"{n:02}","text":"{text}"}}"#))]).await.unwrap();
    }
    let dry = change(writer, r#"PATCH t SET {"tag": "new"} WHERE _key > "" DRY RUN"#, "").await.unwrap();
    assert_eq!((dry.result.rows, dry.result.sample.len()), (12, 2));
    let dry = change(writer, r#"SOFT DELETE FROM t WHERE _key > "" DRY RUN"#, "").await.unwrap();
    assert_eq!((dry.result.rows, dry.result.sample.len()), (12, 5));
}

/// Runs a statement whose commit gets an earlier time.
async fn run_at(writer: &mut Writer, statement: &str, ms: u64) {
    let time = prost_types::Timestamp { seconds: (ms / 1000) as i64, nanos: (ms % 1000 * 1_000_000) as i32 };
    let options = Some(v1::CommitOptions { commit_time: Some(time), ..Default::default() });
    let request =
        v1::WriterServiceExecuteRequest { statement: statement.into(), options, ..Default::default() };
    writer.execute(request).await.unwrap().into_inner().message().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "slow"]
async fn all_batches_of_a_revert_go_back_to_the_same_moment() {
    const MINUTES_10: u64 = 600_000;
    let mut cluster = Cluster::start().await;
    let writer = &mut cluster.writer;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    run_at(writer, "CREATE TABLE t (pk=id)", now - 3 * MINUTES_10).await;
    let rows = |tag: &str| {
        let rows = (0..4000).map(|n| format!(r#"{{"id":"k{n:05}","tag":"{tag}"}}"#));
        rows.collect::<Vec<_>>().join(", ")
    };
    run_at(writer, &format!("INSERT INTO t {}", rows("old")), now - 2 * MINUTES_10).await;
    // Ten minutes ago, this had not happened; while the statement runs, that changes.
    run_at(writer, &format!("UPSERT INTO t {}", rows("new")), now - MINUTES_10 + 4000).await;
    let stop = Arc::new(AtomicBool::new(false));
    let other = tokio::spawn({
        let (mut writer, stop) = (writer.clone(), stop.clone());
        async move {
            // Changes of rows whose turn comes soon make the statement look again.
            for n in (0..4000).cycle().step_by(7) {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                apply(&mut writer, vec![patch("t", &format!("k{n:05}"), r#"{"x":1}"#)]).await.unwrap();
            }
        }
    });
    let done = change(writer, r#"REVERT t TO "10 minutes ago" IN BATCHES OF 1"#, "").await.unwrap();
    stop.store(true, Ordering::Relaxed);
    other.await.unwrap();
    assert!(done.result.rows >= 4000, "{}", done.result.rows);
    let seq = apply(writer, vec![put("t", r#"{"id":"end"}"#)]).await.unwrap().seq;
    let found = ask(&mut cluster.reader, r#"SELECT COUNT(*) FROM t WHERE tag = "new""#, seq).await.unwrap();
    assert_eq!(found.count(), 0);
}

/// The rows that a REVERT is about: found by an index, by a range of keys, by one key, in no better way than all, or all.
#[derive(Debug, Clone)]
enum Reverted {
    WithN(u64),
    From(String, u64),
    Key(String),
    Tagged(String),
    All,
}

impl Reverted {
    fn condition(&self) -> String {
        match self {
            Reverted::WithN(n) => format!(" WHERE n = {n}"),
            Reverted::From(key, n) => format!(" WHERE _key >= \"{key}\" AND n < {n}"),
            Reverted::Key(key) => format!(" WHERE id = \"{key}\""),
            Reverted::Tagged(tag) => format!(" WHERE tag = \"{tag}\""),
            Reverted::All => String::new(),
        }
    }

    fn has(&self, key: &str, row: &Value) -> bool {
        match self {
            Reverted::WithN(n) => row["n"] == *n,
            Reverted::From(from, n) => {
                key >= from.as_str() && row["n"].as_u64().is_some_and(|found| found < *n)
            }
            Reverted::Key(wanted) => key == wanted,
            Reverted::Tagged(tag) => row["tag"] == tag.as_str(),
            Reverted::All => true,
        }
    }
}

/// What a statement does, for the model.
#[derive(Debug, Clone)]
enum Effect {
    Tag { below: u64, tag: String },
    Delete { n: u64 },
    Revert { rows: Reverted, to: u64 },
}

impl Effect {
    fn statement(&self) -> String {
        match self {
            Effect::Tag { below, tag } => format!(r#"PATCH t SET {{"tag": "{tag}"}} WHERE n < {below}"#),
            Effect::Delete { n } => format!("SOFT DELETE FROM t WHERE n = {n}"),
            Effect::Revert { rows, to } => format!("REVERT t{} TO @seq:{to}", rows.condition()),
        }
    }

    /// The rows after the statement.
    fn applied(&self, now: &Rows, then: &Rows) -> Rows {
        let number = |row: &Value| row["n"].as_u64();
        let mut rows = now.clone();
        match self {
            Effect::Tag { below, tag } => {
                for row in rows.values_mut().filter(|row| number(row).is_some_and(|n| n < *below)) {
                    row["tag"] = json!(tag);
                }
            }
            Effect::Delete { n } => rows.retain(|_, row| number(row) != Some(*n)),
            Effect::Revert { rows: reverted, .. } => {
                let found = now.iter().chain(then).filter(|(key, row)| reverted.has(key, row));
                let keys: Vec<_> = found.map(|(key, _)| key.clone()).collect();
                for key in keys {
                    match then.get(&key) {
                        Some(row) => _ = rows.insert(key, row.clone()),
                        None => _ = rows.remove(&key),
                    }
                }
            }
        }
        rows
    }
}

/// Writes single rows until told to stop.
async fn disturb(seed: u64, mut writer: Writer, stop: Arc<AtomicBool>) {
    let mut random = Random(seed);
    while !stop.load(Ordering::Relaxed) {
        let mut next = |below: u64| (random.next() >> 33) % below;
        let key = format!("k{:05}", next(50));
        let operation = match next(4) {
            0 => delete("t", &key),
            1 => patch("t", &key, format!(r#"{{"n":{}}}"#, next(10))),
            _ => put("t", format!(r#"{{"id":"{key}","n":{},"tag":"new"}}"#, next(10))),
        };
        // A row that is not there is not patched, and not deleted.
        if let Err(status) = apply(&mut writer, vec![operation]).await {
            assert_eq!(reason(&status), "ROW_NOT_FOUND", "{status}");
        }
        tokio::time::sleep(std::time::Duration::from_millis(next(20))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_commit_of_a_statement_is_what_a_plain_model_says() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id, INDEX(n))").await.unwrap();
    fill(&mut cluster.writer, 40).await;
    let done: Arc<Mutex<Vec<(u64, u64, Effect)>>> = Arc::default();
    for round in 0..by_lane(3, 60) {
        let stop = Arc::new(AtomicBool::new(false));
        let others: Vec<_> = (0..3)
            .map(|n| tokio::spawn(disturb(round * 10 + n, cluster.writer.clone(), stop.clone())))
            .collect();
        let changers: Vec<_> = (0..2)
            .map(|n| tokio::spawn(change_at_random(round * 10 + 5 + n, cluster.writer.clone(), done.clone())))
            .collect();
        for changer in changers {
            changer.await.unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        for other in others {
            other.await.unwrap();
        }
        match round % 3 {
            0 => snapshot(&mut cluster.writer, "t").await.unwrap(),
            1 => {
                cluster.writer_daemon.kill();
                cluster.writer_daemon = Daemon::writer(cluster.dir.path());
                cluster.writer = cluster.writer_daemon.as_writer().await;
            }
            _ => {}
        }
    }
    let done = std::mem::take(&mut *done.lock().await);
    assert!(done.len() > 10, "{}", done.len());
    let reverts = done.iter().filter(|(.., effect)| matches!(effect, Effect::Revert { .. })).count();
    assert!(reverts > 3, "{reverts} of {}", done.len());
    for (seq, rows, effect) in done {
        let reader = &mut cluster.reader;
        let (before, after) = (rows_at(reader, seq - 1).await, rows_at(reader, seq).await);
        let then = match effect {
            Effect::Revert { to, .. } => rows_at(reader, to).await,
            _ => Rows::new(),
        };
        assert_eq!(after, effect.applied(&before, &then), "{effect:?} as commit {seq}");
        let keys = before.keys().chain(after.keys()).collect::<std::collections::BTreeSet<_>>();
        let changed = keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).count();
        assert_eq!(changed as u64, rows, "{effect:?} as commit {seq}");
    }
}

/// Changes rows by conditions, and notes what was acknowledged: the commit, the number of rows, and what they should be.
async fn change_at_random(seed: u64, mut writer: Writer, done: Arc<Mutex<Vec<(u64, u64, Effect)>>>) {
    let mut random = Random(seed);
    for turn in 0..by_lane(8, 40) {
        let mut next = |below: u64| (random.next() >> 33) % below;
        let effect = match next(4) {
            0 | 1 => Effect::Tag { below: next(10), tag: format!("{seed}-{turn}") },
            2 => Effect::Delete { n: next(10) },
            _ => {
                let key = format!("k{:05}", next(50));
                let rows = match next(6) {
                    0 | 1 => Reverted::WithN(next(10)),
                    2 => Reverted::From(key, next(10)),
                    3 => Reverted::Key(key),
                    4 => Reverted::Tagged(random.pick(&["old", "new"]).to_owned()),
                    _ => Reverted::All,
                };
                let newest = done.lock().await.iter().map(|(seq, ..)| *seq).max().unwrap_or(3);
                Effect::Revert { rows, to: 2 + (random.next() >> 33) % newest.saturating_sub(1).min(200) }
            }
        };
        match change(&mut writer, &effect.statement(), "").await {
            Ok(Done { seq: Some(seq), result, .. }) => done.lock().await.push((seq, result.rows, effect)),
            Ok(_) => {}
            // Others have changed the rows again and again.
            Err(status) => assert_eq!(reason(&status), "OVERLOADED", "{status}"),
        }
    }
}

/// Rows that have left the condition since, that were deleted, and that came back with a table that was made again.
#[tokio::test]
async fn a_revert_finds_the_rows_that_matched_then_with_and_without_indexes() {
    let mut cluster = Cluster::start().await;
    let Cluster { writer, reader, .. } = &mut cluster;
    // An index of one snapshot tells of rows that have left the value before the end of the snapshot; an older snapshot has them as they
    // were then.
    for (table, indexes, snapshot_when) in [
        ("t", ", INDEX(n)", "filled"),
        ("u", "", "filled"),
        ("v", ", INDEX(n)", "changed"),
        ("w", ", INDEX(n)", "made again"),
    ] {
        run(writer, &format!("CREATE TABLE {table} (pk=id{indexes})")).await.unwrap();
        let row = |n: u64| put(table, format!(r#"{{"id":"k{n:03}","n":{},"tag":"old"}}"#, n % 40));
        let then = apply(writer, (0..400).map(row).collect()).await.unwrap().seq;
        if snapshot_when == "filled" {
            snapshot(writer, table).await.unwrap();
        }
        let changed = |n: u64| match n % 3 {
            0 => patch(table, &format!("k{n:03}"), r#"{"n":99}"#),
            1 => delete(table, &format!("k{n:03}")),
            _ => put(table, format!(r#"{{"id":"k{n:03}","n":7,"tag":"new"}}"#)),
        };
        apply(writer, (0..200).map(changed).collect()).await.unwrap();
        if snapshot_when == "changed" {
            snapshot(writer, table).await.unwrap();
        }
        run(writer, &format!("DROP TABLE {table}")).await.unwrap();
        run(writer, &format!("CREATE TABLE {table} (pk=id{indexes})")).await.unwrap();
        if snapshot_when == "made again" {
            snapshot(writer, table).await.unwrap();
        }
        apply(writer, vec![put(table, r#"{"id":"k007","n":7}"#), put(table, r#"{"id":"other","n":7}"#)])
            .await
            .unwrap();
        // Of the keys that end in 7, 47, 87 and so on, ten rows had the value, and one that was not there has it now.
        let dry = format!("REVERT {table} WHERE n = 7 TO @seq:{then} DRY RUN");
        assert_eq!(change(writer, &dry, "").await.unwrap().result.rows, 11, "{table}");
        let batches = format!("REVERT {table} WHERE n = 7 TO @seq:{then} IN BATCHES OF 3");
        let done = change(writer, &batches, "").await.unwrap();
        assert_eq!((done.result.rows, done.result.commits), (11, 4), "{table}");
        let seq = done.seq.unwrap();
        let found = ask(reader, &format!("SELECT n, tag FROM {table}"), seq).await.unwrap().rows();
        assert_eq!(found.len(), 10, "{table}: {found:?}");
        for (_, row) in found {
            assert_eq!(row, json!({"n": 7, "tag": "old"}), "{table}");
        }
        let one = format!("REVERT {table} WHERE id = \"k005\" AND n = 5 TO @seq:{then}");
        assert_eq!(change(writer, &one, "").await.unwrap().result.rows, 1, "{table}");
        let none = format!("REVERT {table} WHERE id = \"k006\" AND n = 5 TO @seq:{then}");
        assert_eq!(change(writer, &none, "").await.unwrap().result.rows, 0, "{table}");
        let range = format!("REVERT {table} WHERE _key BETWEEN \"k010\" AND \"k019\" TO @seq:{then}");
        assert_eq!(change(writer, &range, "").await.unwrap().result.rows, 10, "{table}");
        let rest = change(writer, &format!("REVERT {table} TO @seq:{then}"), "").await.unwrap();
        // k005, k010 to k019 and the ten with n = 7 are as they were.
        assert_eq!(rest.result.rows, 400 - 21, "{table}");
    }
}

#[test]
fn a_dry_run_of_driftctl_says_how_many_rows_would_change_in_a_pipe_too() {
    let dir = tempfile::tempdir().unwrap();
    let sql = |statement: &str| {
        let mut command = std::process::Command::new(binary("driftctl"));
        command.arg("-d").arg(dir.path()).args(["sql", statement]).output().unwrap()
    };
    let rows: Vec<String> = (0..30).map(|n| format!(r#"{{"id": "{n}"}}"#)).collect();
    let filled = sql(&format!("CREATE TABLE t (pk=id); INSERT INTO t {}", rows.join(", ")));
    assert!(filled.status.success(), "{filled:?}");
    let dry = sql(r#"PATCH t SET {"n": 1} WHERE id != "7" DRY RUN"#);
    let said = String::from_utf8(dry.stderr).unwrap();
    assert!(said.contains("29 rows would change, of which 10 are shown"), "{said}");
    assert_eq!(dry.stdout.iter().filter(|byte| **byte == b'\n').count(), 10);
}
