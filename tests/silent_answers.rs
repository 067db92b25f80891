//! No answer is shortened or moved in silence: below the floor, before a time, at another commit.

use std::process::Command;
use std::time::Duration;

use crate::harness::calls::{ask, compact, fresh, run};
use crate::harness::refusal::{invalid, refused};
use crate::harness::watching::{everything, resume, told, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use prost_types::Timestamp;
use tonic::Code;

/// A table with commits 2 to 8, compacted at 5.
async fn compacted() -> Cluster {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    for n in 2..=8 {
        apply(&mut cluster.writer, vec![put("t", format!(r#"{{"id":"a","n":{n}}}"#))]).await.unwrap();
    }
    assert_eq!(compact(&mut cluster.writer, "t", at_seq(5), false).await.unwrap().floor_seq, 5);
    // A commit after the compaction: who has applied it knows the floor.
    apply(&mut cluster.writer, vec![put("t", r#"{"id":"a","n":9}"#)]).await.unwrap();
    cluster
}

async fn history(reader: &mut Reader, start: Option<v1::AsOf>) -> Result<(Vec<u64>, bool), tonic::Status> {
    let request = v1::HistoryRequest { table: "t".into(), start, freshness: fresh(9), ..Default::default() };
    let mut stream = reader.history(request).await?.into_inner();
    let (mut seqs, mut truncated) = (Vec::new(), false);
    while let Some(message) = stream.message().await? {
        truncated |= message.truncated;
        seqs.extend(message.commits.iter().map(|commit| commit.seq));
    }
    Ok((seqs, truncated))
}

#[tokio::test]
async fn history_from_below_the_floor_is_refused_and_history_without_a_start_says_where_it_begins() {
    let mut cluster = compacted().await;
    let reader = &mut cluster.reader;
    for start in [0, 1, 3, 4] {
        let drift = ask(reader, &format!("SHOW DRIFT t FROM @seq:{start}"), 9).await;
        refused(drift, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", 5);
        let drift = ask(reader, &format!("SHOW DRIFT t KEY \"a\" FROM @seq:{start}"), 9).await;
        refused(drift, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", 5);
        refused(history(reader, at_seq(start)).await, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", 5);
    }
    let drift = ask(reader, "SHOW DRIFT t FROM @seq:5", 9).await.unwrap().drift();
    assert_eq!(drift.iter().map(|(seq, ..)| *seq).collect::<Vec<_>>(), [6, 7, 8, 9]);
    assert_eq!(history(reader, at_seq(5)).await.unwrap(), (vec![6, 7, 8, 9], false));
    assert_eq!(history(reader, None).await.unwrap(), (vec![6, 7, 8, 9], true));

    let request = v1::ReaderServiceExecuteRequest { statement: "SHOW DRIFT t".into(), ..Default::default() };
    let mut stream = reader.execute(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    assert!(first.truncated);
    assert_eq!(first.header.unwrap().floor_seq, 5);
    while let Some(message) = stream.message().await.unwrap() {
        assert!(!message.truncated);
    }
    let output = Command::new(binary("driftctl"))
        .args(["--reader", &cluster.reader_daemon.url, "--writer", &cluster.writer_daemon.url])
        .args(["sql", "-e", "SHOW DRIFT t"])
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("the history begins at seq 5"), "{stderr}");
}

#[tokio::test]
async fn a_watch_after_a_time_delivers_only_commits_after_it() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let now = apply(&mut cluster.writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
    // Commits of known times: imported ones may lie between the last commit and now, so the time in question must pass.
    let boundary =
        now.time.map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000 + 1500).unwrap();
    let after_time =
        Timestamp { seconds: boundary / 1000, nanos: i32::try_from(boundary % 1000 * 1_000_000).unwrap() };
    let request = v1::WatchDriftRequest { start: Some(Start::AfterTime(after_time)), ..everything() };
    let with_rows = v1::WatchDriftRequest { initial_rows: true, ..request.clone() };
    invalid(watch(&mut cluster.reader, with_rows).await, "ARGUMENT_INVALID")
        .says(&["after_time is in the future"]);
    let mut early = watch(&mut cluster.reader, request.clone()).await.unwrap();
    let before = apply(&mut cluster.writer, vec![put("t", r#"{"id":"before"}"#)]).await.unwrap().seq;
    assert_eq!(early.told(before).await, [""; 0], "a commit from before the time was delivered");
    let token = early.token.clone();
    drop(early);
    let other = Daemon::reader(cluster.dir.path());
    let mut other = other.as_reader().await;
    let mut resumed = watch(&mut other, resume(&token, &request)).await.unwrap();
    let mut fresh_watch = watch(&mut other, request.clone()).await.unwrap();
    // The first commit whose time is after the boundary.
    let (mut expected, mut last) = (Vec::new(), before);
    while expected.is_empty() {
        let token = apply(&mut cluster.writer, vec![put("t", r#"{"id":"b"}"#)]).await.unwrap();
        let time = token.time.map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap();
        last = token.seq;
        if time > boundary {
            expected.push(format!("{last}: insert t/b"));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told(&resumed.commit().await), expected[0]);
    assert_eq!(told(&fresh_watch.commit().await), expected[0]);
    let mut late = watch(&mut cluster.reader, request).await.unwrap();
    assert_eq!(late.told(last).await, expected);
}

/// COMPACT BEFORE a time makes that time the oldest that can be read: both name one commit.
#[tokio::test]
async fn compact_before_a_time_and_as_of_that_time_name_one_commit() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    cluster.create("u").await;
    apply(&mut cluster.writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap();
    let mut last = apply(&mut cluster.writer, vec![put("u", r#"{"id":"a"}"#)]).await.unwrap();
    let first = last;
    // A later commit, with a later time.
    while last.time == first.time {
        last = apply(&mut cluster.writer, vec![put("t", r#"{"id":"b"}"#)]).await.unwrap();
    }
    let at = Some(v1::AsOf { at: Some(v1::as_of::At::Time(first.time.unwrap())) });
    let request = v1::GetRequest {
        table: "t".into(),
        keys: vec!["a".into()],
        as_of: at,
        freshness: fresh(last.seq),
        ..Default::default()
    };
    let read = cluster.reader.get(request.clone()).await.unwrap().into_inner().header.unwrap().read_seq;
    let told = compact(&mut cluster.writer, "t", at, true).await.unwrap().floor_seq;
    let floor = compact(&mut cluster.writer, "t", at, false).await.unwrap().floor_seq;
    assert_eq!((told, floor), (read, read));
    let answer = cluster.reader.get(request).await.unwrap().into_inner();
    assert_eq!((answer.header.unwrap().read_seq, answer.rows.len()), (read, 1));
}

#[tokio::test]
async fn nesting_has_one_limit_however_a_document_comes() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    for (levels, is_allowed) in [(63, true), (64, true), (65, false)] {
        // The document itself is one level.
        for inner in ["{}", "[]", r#"{"x":1}"#] {
            let value = format!("{}{inner}{}", "{\"a\":".repeat(levels - 2), "}".repeat(levels - 2));
            let text = format!(r#"{{"id":"k","deep":{value}}}"#);
            let json_document = apply(&mut cluster.writer, vec![put("t", text.clone())]).await;
            let statement = run(&mut cluster.writer, &format!("UPSERT INTO t {text}")).await;
            let condition =
                ask(&mut cluster.reader, &format!("SELECT * FROM t WHERE deep = {value}"), 0).await;
            let deeper = format!("SELECT * FROM t WHERE deep = {{\"y\":{value}}}");
            let deeper = ask(&mut cluster.reader, &deeper, 0).await;
            let outcomes = [json_document.is_ok(), statement.is_ok(), deeper.is_ok()];
            assert_eq!(outcomes, [is_allowed; 3], "{levels} levels around {inner}");
            assert!(condition.is_ok(), "{levels} levels around {inner}");
        }
    }
}
