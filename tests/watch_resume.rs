//! Tokens of WatchDrift work at any reader and across restarts, are refused if they belong to something else, and never
//! lose a change.

use std::time::Duration;

use crate::harness::calls::fresh;
use crate::harness::refusal::{invalid, refused};
use crate::harness::watching::{Watch, after, everything, narrow, resume, told, watch};
use crate::harness::*;
use bytes::Bytes;
use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb::v1::watch_drift_response::Event;
use tonic::{Code, Status};

const ROWS: usize = 60;

/// Two tables of large rows, some of them deleted; and the last commit.
async fn open() -> (Cluster, u64) {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    cluster.create("u").await;
    let mut seq = 0;
    for table in ["t", "u"] {
        seq = apply(&mut cluster.writer, (0..ROWS).map(|n| row(table, n, 0)).collect()).await.unwrap().seq;
    }
    for n in [3, 30] {
        seq = apply(&mut cluster.writer, vec![delete("t", &key(n))]).await.unwrap().seq;
    }
    seen(&mut cluster.reader, seq).await;
    (cluster, seq)
}

fn key(n: usize) -> String {
    format!("k{n:03}")
}

fn row(table: &str, n: usize, version: usize) -> v1::Operation {
    put(table, format!(r#"{{"id":"{}","n":{n},"version":{version},"pad":"{}"}}"#, key(n), "x".repeat(20_000)))
}

async fn seen(reader: &mut Reader, seq: u64) {
    reader.list_tables(v1::ListTablesRequest { freshness: fresh(seq), ..Default::default() }).await.unwrap();
}

fn names(rows: &[(String, v1::Row)]) -> Vec<(String, String, u64)> {
    rows.iter().map(|(table, row)| (table.clone(), row.key.clone(), row.seq)).collect()
}

#[tokio::test]
async fn a_stream_can_resume_after_any_message_at_any_reader() {
    let (mut cluster, seq) = open().await;
    let other = Daemon::reader(cluster.dir.path());
    let mut other = other.as_reader().await;
    for request in [
        after(0),
        v1::WatchDriftRequest { tables: vec!["u".into()], with_after: true, ..after(1) },
        v1::WatchDriftRequest { r#where: "n < $1".into(), params: vec!["9".into()], ..after(0) },
        v1::WatchDriftRequest { keys: vec![key(3)], ..after(0) },
    ] {
        let mut stream = watch(&mut cluster.reader, request.clone()).await.unwrap();
        let mut tokens = vec![(0, stream.token.clone())];
        let mut commits = Vec::new();
        loop {
            match stream.event().await {
                Event::Commit(commit) if commit.more => stream.parts.push(commit),
                Event::Commit(commit) => {
                    stream.parts.push(commit);
                    let parts = stream.parts.drain(..);
                    let whole = parts.reduce(|mut whole, part| {
                        whole.changes.extend(part.changes);
                        whole
                    });
                    commits.push(told(&whole.unwrap()));
                    tokens.push((commits.len(), stream.token.clone()));
                }
                Event::Progress(header) if header.read_seq >= seq => break,
                _ => tokens.push((commits.len(), stream.token.clone())),
            }
        }
        assert!(!commits.is_empty());
        for (came, token) in tokens {
            let mut stream = watch(&mut other, resume(&token, &request)).await.unwrap();
            assert_eq!(stream.told(seq).await, commits[came..], "{request:?} after {came} commits");
        }
    }
}

#[tokio::test]
async fn initial_rows_can_be_resumed_at_another_reader() {
    let (mut cluster, seq) = open().await;
    let other = Daemon::reader(cluster.dir.path());
    let mut readers = [cluster.reader.clone(), other.as_reader().await];
    let mut changes = Vec::new();
    for request in [everything(), v1::WatchDriftRequest { r#where: "n != 17".into(), ..after(seq) }] {
        let request = v1::WatchDriftRequest { initial_rows: true, ..request };
        let head = apply(&mut cluster.writer, vec![]).await.unwrap().seq;
        seen(&mut readers[0], head).await;
        let mut whole = watch(&mut readers[0], request.clone()).await.unwrap();
        let moment = whole.opened.read_seq;
        let expected = names(&whole.rows().await);
        assert_eq!(expected.len(), 2 * ROWS - if request.r#where.is_empty() { 2 } else { 4 });
        // Takes a batch from each reader in turn, while rows change that have arrived or will arrive.
        let mut stream = watch(
            &mut readers[0],
            v1::WatchDriftRequest { start: Some(Start::AfterSeq(moment)), ..request.clone() },
        )
        .await
        .unwrap();
        let (mut rows, mut batches) = (Vec::new(), 0);
        loop {
            match stream.event().await {
                Event::Rows(batch) => {
                    rows.extend(batch.rows.into_iter().map(|row| (batch.table.clone(), row)));
                    let operations =
                        [row("t", 1, batches + 2), row("u", 58, batches + 2), delete("t", &key(50))];
                    let operations = operations[..if batches == 0 { 3 } else { 2 }].to_vec();
                    changes.push(apply(&mut cluster.writer, operations).await.unwrap().seq);
                }
                Event::RowsDone(header) => {
                    assert_eq!(header.read_seq, moment);
                    break;
                }
                other => panic!("{other:?}"),
            }
            batches += 1;
            assert!(batches < 2 * ROWS, "the stream repeats rows");
            let token = stream.token.clone();
            let reader = &mut readers[batches % 2];
            stream = watch(reader, resume(&token, &request)).await.unwrap();
            assert_eq!(stream.opened.read_seq, moment);
        }
        assert!(batches > 5, "{batches} batches");
        assert_eq!(names(&rows), expected);
        // The token of `rows_done` leads to the changes, all of them.
        let mut stream = watch(&mut readers[0], resume(&stream.token, &request)).await.unwrap();
        let last = *changes.last().unwrap();
        let seqs: Vec<u64> = stream.upto(last).await.iter().map(|commit| commit.seq).collect();
        assert_eq!(seqs, changes.iter().copied().filter(|seq| *seq > moment).collect::<Vec<_>>());
        changes.push(apply(&mut cluster.writer, vec![row("t", 50, 0)]).await.unwrap().seq);
    }
}

#[tokio::test]
async fn a_token_belongs_to_one_filter_and_one_history() {
    let (mut cluster, seq) = open().await;
    let of_t = v1::WatchDriftRequest {
        tables: vec!["t".into()],
        keys: vec![key(1), key(2)],
        key_prefix: "k".into(),
        r#where: "n = $1".into(),
        params: vec!["1".into()],
        ..everything()
    };
    let token = watch(&mut cluster.reader, of_t.clone()).await.unwrap().token;
    for other in [
        everything(),
        v1::WatchDriftRequest { tables: vec![], ..of_t.clone() },
        v1::WatchDriftRequest { tables: vec!["u".into()], ..of_t.clone() },
        v1::WatchDriftRequest { tables: vec!["t".into(), "u".into()], ..of_t.clone() },
        v1::WatchDriftRequest { keys: vec![key(1)], ..of_t.clone() },
        v1::WatchDriftRequest { keys: vec![format!("{}{}", key(1), key(2))], ..of_t.clone() },
        v1::WatchDriftRequest { key_prefix: String::new(), ..of_t.clone() },
        v1::WatchDriftRequest { r#where: "n > $1".into(), ..of_t.clone() },
        v1::WatchDriftRequest { params: vec!["2".into()], ..of_t.clone() },
    ] {
        let refusal = watch(&mut cluster.reader, resume(&token, &other)).await;
        invalid(refusal, "FILTER_MISMATCH");
    }
    // The encoding is not a part of the filter.
    let heartbeat = watcher::heartbeat(300);
    let request = v1::WatchDriftRequest { heartbeat, until_seq: seq, ..of_t.clone() };
    watch(&mut cluster.reader, resume(&token, &request)).await.unwrap();
    let mut elsewhere = Cluster::start().await;
    elsewhere.create("t").await;
    elsewhere.create("u").await;
    seen(&mut elsewhere.reader, 2).await;
    let refusal = watch(&mut elsewhere.reader, resume(&token, &of_t)).await;
    refused(refusal, Code::FailedPrecondition, "EPOCH_CHANGED");
}

#[tokio::test]
async fn an_invalid_token_is_refused_and_harms_nothing() {
    let (mut cluster, seq) = open().await;
    let request = v1::WatchDriftRequest { initial_rows: true, ..everything() };
    let mut stream = watch(&mut cluster.reader, request.clone()).await.unwrap();
    stream.event().await;
    let in_rows = stream.token.clone();
    for nonsense in [&b"x"[..], &[0; 8], &[0xff; 300], &[0xdd; 40], &[0x93, 1, 2, 3]] {
        let token = Bytes::copy_from_slice(nonsense);
        invalid(watch(&mut cluster.reader, resume(&token, &request)).await, "ARGUMENT_INVALID");
    }
    for len in 1..in_rows.len() {
        let token = in_rows.slice(..len);
        invalid(watch(&mut cluster.reader, resume(&token, &request)).await, "ARGUMENT_INVALID");
    }
    let select = v1::SelectRequest { table: "t".into(), ..Default::default() };
    let mut rows = cluster.reader.select(select).await.unwrap().into_inner();
    let token = rows.message().await.unwrap().unwrap().resume_token;
    assert!(!token.is_empty());
    invalid(watch(&mut cluster.reader, resume(&token, &request)).await, "ARGUMENT_INVALID");
    for bit in 0..in_rows.len() * 8 {
        let mut flipped = in_rows.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let token = Bytes::from(flipped);
        let opening = watch(&mut cluster.reader, resume(&token, &request));
        // The reader waits for the commit of a token from the future.
        if let Ok(Err(status)) = tokio::time::timeout(Duration::from_millis(100), opening).await {
            assert!(!reason(&status).is_empty(), "bit {bit}: {status:?}");
        }
    }
    let mut stream = watch(&mut cluster.reader, resume(&in_rows, &request)).await.unwrap();
    assert!(!stream.rows().await.is_empty());
    assert!(stream.told(seq).await.is_empty());
}

async fn compact(cluster: &mut Cluster, table: &str, seq: u64) {
    calls::compact(&mut cluster.writer, table, at_seq(seq), false).await.unwrap();
    let describe = v1::DescribeTableRequest { table: table.into(), ..Default::default() };
    loop {
        let table =
            cluster.reader.describe_table(describe.clone()).await.unwrap().into_inner().table.unwrap();
        if table.floor_seq == seq {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_start_below_the_floor_is_refused_with_the_floor() {
    let (mut cluster, seq) = open().await;
    let of = |table: &str| v1::WatchDriftRequest { tables: vec![table.into()], ..after(4) };
    let early = watch(&mut cluster.reader, of("t")).await.unwrap().token;
    let early_of_all = watch(&mut cluster.reader, after(4)).await.unwrap().token;
    let time = watch(&mut cluster.reader, after(3)).await.unwrap().opened.read_time.unwrap();
    compact(&mut cluster, "t", 5).await;
    let below = |outcome: Result<Watch, Status>| {
        refused(outcome, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", 5);
    };
    let reader = &mut cluster.reader;
    below(watch(reader, of("t")).await);
    below(watch(reader, after(4)).await);
    below(watch(reader, after(1)).await);
    below(watch(reader, v1::WatchDriftRequest { initial_rows: true, ..of("t") }).await);
    below(watch(reader, v1::WatchDriftRequest { start: Some(Start::AfterTime(time)), ..everything() }).await);
    below(watch(reader, resume(&early, &of("t"))).await);
    below(watch(reader, resume(&early_of_all, &everything())).await);
    // A watch of everything retained starts at the floor; so does one from the floor itself.
    for request in [after(0), after(5)] {
        let mut stream = watch(reader, request).await.unwrap();
        assert_eq!((stream.opened.read_seq, stream.opened.floor_seq), (5, 5));
        assert_eq!(stream.told(seq).await, [format!("{seq}: delete t/{}", key(30))]);
    }
    // The floor does not affect a table that keeps everything.
    let of_u = v1::WatchDriftRequest { tables: vec!["u".into()], ..after(0) };
    let mut stream = watch(reader, of_u).await.unwrap();
    assert_eq!(stream.opened.read_seq, 0);
    let seqs: Vec<u64> = stream.upto(seq).await.iter().map(|commit| commit.seq).collect();
    assert_eq!(seqs, [2, 4]);
    // The row before a change is known even if the event that made it has been compacted.
    let request = v1::WatchDriftRequest { with_before: true, ..after(5) };
    let commit = watch(reader, request).await.unwrap().commit().await;
    assert_eq!(calls::value_of(commit.changes[0].before.as_ref())["n"], 30);
}

/// Follows a stream without a gap, up to a commit or to its refusal.
async fn drain(stream: &mut Watch, mut seq: u64, head: u64) -> Result<(), Status> {
    while seq < head {
        match stream.stream.message().await?.expect("the stream ended").event.unwrap() {
            Event::Commit(commit) => {
                assert_eq!(commit.seq, seq + 1, "a commit is missing");
                seq += u64::from(!commit.more);
            }
            Event::Progress(header) | Event::CaughtUp(header) => assert!(header.read_seq <= seq),
            Event::RowsDone(header) => assert_eq!(header.read_seq, seq),
            Event::Rows(_) => {}
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_floor_that_rises_past_a_stream_leaves_no_silent_gap() {
    let (mut cluster, seq) = open().await;
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::start("driftdb-writer", cluster.dir.path(), &["--snapshot-events", "50"]);
    cluster.writer = cluster.writer_daemon.as_writer().await;
    let mut head = 0;
    for version in 0..30 {
        let operations = (0..ROWS).map(|n| row("t", n, version)).collect();
        head = apply(&mut cluster.writer, operations).await.unwrap().seq;
    }
    seen(&mut cluster.reader, head).await;
    let of_t = v1::WatchDriftRequest { tables: vec!["t".into()], with_before: true, ..after(seq) };
    let with_rows = v1::WatchDriftRequest { initial_rows: true, ..of_t.clone() };
    let mut slow = Vec::new();
    for request in [of_t, with_rows] {
        slow.push(narrow(&cluster.reader_daemon, request).await);
    }
    compact(&mut cluster, "t", head - 1).await;
    for mut stream in slow {
        // A stream that was open before may be read to its end.
        match drain(&mut stream, seq, head).await {
            Ok(()) => eprintln!("the stream sent everything"),
            refusal => _ = refused(refusal, Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", head - 1),
        }
    }
}

/// The floor rises to a commit while parts of it have been sent: the other parts are compacted and no longer exist as
/// events.
#[tokio::test]
async fn a_commit_folded_while_it_is_sent_is_never_sent_as_whole() {
    let (mut cluster, seq) = open().await;
    let operations: Vec<_> = (0..400).map(|n| row("t", n, 1)).collect();
    let head = apply(&mut cluster.writer, operations.clone()).await.unwrap().seq;
    // A new reader does not have the commit in its ring.
    cluster.reader_daemon = Daemon::reader(cluster.dir.path());
    cluster.reader = cluster.reader_daemon.as_reader().await;
    let mut stream = narrow(&cluster.reader_daemon, after(seq)).await;
    let mut changes = 0;
    while changes == 0 {
        changes += part(&mut stream).await.unwrap().map_or(0, |commit| commit.changes.len());
    }
    compact(&mut cluster, "t", head).await;
    let refusal = loop {
        match part(&mut stream).await {
            Ok(None) => {}
            Ok(Some(commit)) => {
                changes += commit.changes.len();
                assert!(
                    commit.more || changes == operations.len(),
                    "{changes} changes were sent as the whole commit"
                );
                if !commit.more {
                    // The stream was faster than the compaction.
                    return;
                }
            }
            Err(status) => break status,
        }
    };
    refused(Err::<(), _>(refusal), Code::OutOfRange, "BELOW_FLOOR").tells("floor_seq", head);
}

/// The next part of a commit, if the next message is one.
async fn part(stream: &mut Watch) -> Result<Option<v1::Commit>, Status> {
    match stream.stream.message().await?.expect("the stream ended").event.unwrap() {
        Event::Commit(commit) => Ok(Some(commit)),
        _ => Ok(None),
    }
}

#[tokio::test]
async fn tokens_survive_restarts_of_the_daemons() {
    let (mut cluster, seq) = open().await;
    let mut stream = watch(&mut cluster.reader, after(0)).await.unwrap();
    stream.commit().await;
    let early = stream.token.clone();
    stream.upto(seq).await;
    let late = stream.token.clone();
    drop(stream);
    cluster.reader_daemon.kill();
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::start("driftdb-writer", cluster.dir.path(), &["--snapshot-events", "10"]);
    cluster.writer = cluster.writer_daemon.as_writer().await;
    cluster.reader_daemon = Daemon::reader(cluster.dir.path());
    let mut reader = cluster.reader_daemon.as_reader().await;
    let last = apply(&mut cluster.writer, vec![row("t", 1, 1)]).await.unwrap().seq;
    for (token, count) in [(early, 6), (late, 1)] {
        let mut stream = watch(&mut reader, resume(&token, &everything())).await.unwrap();
        let commits = stream.upto(last).await;
        assert_eq!(commits.len(), count);
        assert_eq!(commits.last().unwrap().seq, last);
    }
}

#[tokio::test]
async fn a_reader_behind_a_token_refuses_with_replica_behind() {
    let (mut cluster, seq) = open().await;
    // The writer goes on: after another open for writing, the copy would lack the incarnation of the token, too.
    let copied = database::Copy::of(cluster.dir.path());
    let last = apply(&mut cluster.writer, vec![row("t", 1, 1)]).await.unwrap().seq;
    seen(&mut cluster.reader, last).await;
    let stream = watch(&mut cluster.reader, after(last)).await.unwrap();
    let behind = Daemon::reader(copied.dir.root());
    let mut behind = behind.as_reader().await;
    let refusal = watch(&mut behind, resume(&stream.token, &everything())).await;
    refused(refusal, Code::Unavailable, "REPLICA_BEHIND").tells("applied_seq", seq);
    refused(watch(&mut behind, after(last)).await, Code::OutOfRange, "BEYOND_HEAD").tells("last_seq", seq);
}
