//! The promises of WatchDrift, one at a time: where a stream starts, what it filters, what it sends, how it ends.

use crate::harness::calls::{run, value_of};
use crate::harness::refusal::{invalid, refused};
use crate::harness::watching::{Watch, after, everything, resume, told, watch};
use crate::harness::*;
use driftdb::v1;
use driftdb::v1::watch_drift_request::Start;
use driftdb::v1::watch_drift_response::Event;
use prost::Message;
use serde_json::{Value, json};
use tonic::{Code, Status};

/// A database with some of everything, and the commits that a watch must send.
struct Story {
    cluster: Cluster,
    times: Vec<Option<prost_types::Timestamp>>,
}

const HEAD: u64 = 11;
const TOLD: [&str; 10] = [
    "1: schema t",
    "2: schema u",
    "3: insert t/a, insert t/b",
    "4: insert t/c, insert u/1, insert u/-12",
    "5: patch t/a",
    "7: delete t/b",
    "8: schema v",
    "9: insert t/d, patch t/d, delete t/d",
    "10: schema v",
    "11: schema t",
];

impl Story {
    async fn tell() -> Story {
        let mut cluster = Cluster::start().await;
        let mut times = vec![None];
        for statement in ["CREATE TABLE t (pk=id)", "CREATE TABLE u (pk=id INT)"] {
            times.push(run(&mut cluster.writer, statement).await.unwrap().time);
        }
        for operations in [
            vec![insert("t", r#"{"id":"a","n":1}"#), insert("t", r#"{"id":"b","n":2}"#)],
            // Tables come in the order of their creation.
            vec![
                insert("u", r#"{"id":1,"n":1}"#),
                insert("u", r#"{"id":-12,"n":7}"#),
                put("t", r#"{"id":"c","n":3}"#),
            ],
            vec![patch("t", "a", r#"{"n":5}"#)],
            vec![],
            vec![delete("t", "b")],
        ] {
            // Gives each commit its own time.
            tokio::time::sleep(std::time::Duration::from_millis(3)).await;
            times.push(apply(&mut cluster.writer, operations).await.unwrap().time);
        }
        times.push(run(&mut cluster.writer, "CREATE TABLE v (pk=id)").await.unwrap().time);
        let operations =
            vec![insert("t", r#"{"id":"d","n":8}"#), patch("t", "d", r#"{"n":9}"#), delete("t", "d")];
        times.push(apply(&mut cluster.writer, operations).await.unwrap().time);
        for statement in ["DROP TABLE v", "CREATE INDEX ON t (n)"] {
            times.push(run(&mut cluster.writer, statement).await.unwrap().time);
        }
        assert_eq!(times.len() as u64, HEAD + 1);
        let mut story = Story { cluster, times };
        story.seen(HEAD).await;
        story
    }

    /// Waits until the reader has applied a commit.
    async fn seen(&mut self, seq: u64) {
        seen(&mut self.cluster.reader, seq).await;
    }

    async fn watch(&mut self, request: v1::WatchDriftRequest) -> Result<Watch, Status> {
        watch(&mut self.cluster.reader, request).await
    }

    async fn put(&mut self, document: &str) -> u64 {
        apply(&mut self.cluster.writer, vec![put("t", document)]).await.unwrap().seq
    }

    /// The commits that a watch with this filter sends.
    async fn told(&mut self, request: v1::WatchDriftRequest) -> Vec<String> {
        let request = v1::WatchDriftRequest { start: Some(Start::AfterSeq(0)), ..request };
        self.watch(request).await.unwrap().told(HEAD).await
    }
}

async fn seen(reader: &mut Reader, seq: u64) {
    let freshness = calls::fresh(seq);
    reader.list_tables(v1::ListTablesRequest { freshness, ..Default::default() }).await.unwrap();
}

fn tables(names: &[&str]) -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { tables: names.iter().map(ToString::to_string).collect(), ..everything() }
}

fn condition(text: &str) -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { r#where: text.into(), ..everything() }
}

fn keys(keys: &[&str]) -> v1::WatchDriftRequest {
    v1::WatchDriftRequest { keys: keys.iter().map(ToString::to_string).collect(), ..everything() }
}

#[tokio::test]
async fn a_stream_starts_where_it_is_asked_to() {
    let mut story = Story::tell().await;
    let next = HEAD + 1;
    let time = |seq: usize, ms: i32| {
        let time = story.times[seq].unwrap();
        Some(Start::AfterTime(prost_types::Timestamp { nanos: time.nanos + ms * 1_000_000, ..time }))
    };
    let mut streams = Vec::new();
    for (start, seq) in [
        (Some(Start::AfterSeq(0)), 0),
        (Some(Start::AfterSeq(4)), 4),
        (Some(Start::AfterSeq(6)), 6),
        (Some(Start::AfterSeq(HEAD)), HEAD),
        (time(4, 0), 4),
        (time(6, 0), 6),
        (Some(Start::AfterTime(prost_types::Timestamp { seconds: 1, nanos: 0 })), 0),
        (None, HEAD),
    ] {
        let stream = story.watch(v1::WatchDriftRequest { start, ..everything() }).await.unwrap();
        assert_eq!(stream.opened.read_seq, seq, "{start:?}", start = stream.opened);
        streams.push(stream);
    }
    story.put(r#"{"id":"new"}"#).await;
    for mut stream in streams {
        let start = stream.opened.read_seq;
        let mut expected: Vec<String> = TOLD.map(str::to_owned).to_vec();
        expected.retain(|told| told.split(':').next().unwrap().parse::<u64>().unwrap() > start);
        expected.push(format!("{next}: insert t/new"));
        assert_eq!(stream.told(next).await, expected, "after {start}");
    }
}

#[tokio::test]
async fn commits_have_their_time_and_reason() {
    let mut story = Story::tell().await;
    let mut stream = story.watch(after(HEAD)).await.unwrap();
    let options = Some(v1::CommitOptions { reason: "spring".into(), ..Default::default() });
    let request =
        v1::ApplyRequest { operations: vec![put("t", r#"{"id":"a"}"#)], options, ..Default::default() };
    let token = story.cluster.writer.apply(request).await.unwrap().into_inner().token.unwrap();
    let commit = stream.commit().await;
    assert_eq!((commit.seq, commit.time, commit.reason.as_str()), (token.seq, token.time, "spring"));
    let (header, epoch) = (&stream.opened, token.epoch);
    assert_eq!((header.applied_seq, header.floor_seq, header.epoch), (HEAD, 0, epoch));
    assert_eq!(header.read_time, story.times[11]);
    assert!(!header.database_id.is_empty());
}

#[tokio::test]
async fn a_stream_sends_only_what_matches_every_filter() {
    let mut story = Story::tell().await;
    assert_eq!(story.told(everything()).await, TOLD);
    let of_v = ["8: schema v", "10: schema v"];
    assert_eq!(story.told(tables(&["v"])).await, of_v);
    let of_u = ["2: schema u", "4: insert u/1, insert u/-12"];
    assert_eq!(story.told(tables(&["u"])).await, of_u);
    let both = ["2: schema u", "4: insert u/1, insert u/-12", "8: schema v", "10: schema v"];
    assert_eq!(story.told(tables(&["v", "u"])).await, both);
    assert_eq!(story.told(tables(&["v", "v", "u"])).await, both);
    let of_rows = ["3: insert t/a", "4: insert u/1, insert u/-12", "5: patch t/a"];
    assert_eq!(story.told(keys(&["a", "-12", "1", "nobody"])).await, of_rows);
    let prefix = v1::WatchDriftRequest { key_prefix: "d".into(), ..everything() };
    assert_eq!(story.told(prefix).await, ["9: insert t/d, patch t/d, delete t/d"]);
    // Keys are compared in the API's text form.
    let prefix = v1::WatchDriftRequest { key_prefix: "-1".into(), ..everything() };
    assert_eq!(story.told(prefix).await, ["4: insert u/-12"]);
    let everywhere = v1::WatchDriftRequest { tables: vec!["t".into()], ..keys(&["b", "1"]) };
    assert_eq!(story.told(everywhere).await, ["3: insert t/b", "7: delete t/b"]);
    let none = v1::WatchDriftRequest { key_prefix: "x".into(), ..keys(&["a"]) };
    assert_eq!(story.told(none).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_condition_matches_the_row_before_or_after() {
    let mut story = Story::tell().await;
    for (text, expected) in [
        ("n = 1", vec!["3: insert t/a", "4: insert u/1", "5: patch t/a"]),
        ("n = 5", vec!["5: patch t/a"]),
        // The row in the middle of a commit.
        ("n = 8", vec!["9: insert t/d, patch t/d"]),
        ("n = 9", vec!["9: patch t/d, delete t/d"]),
        ("n = 2", vec!["3: insert t/b", "7: delete t/b"]),
        ("_key = \"c\"", vec!["4: insert t/c"]),
        ("_key = -12", vec!["4: insert u/-12"]),
        ("_seq = 3", vec!["3: insert t/a, insert t/b", "5: patch t/a", "7: delete t/b"]),
        ("n > 100", vec![]),
    ] {
        assert_eq!(story.told(condition(text)).await, expected, "{text}");
    }
    let request = v1::WatchDriftRequest {
        params: vec!["5".into(), "\"a\"".into()],
        tables: vec!["t".into()],
        ..condition("n = $1 AND _key = $2")
    };
    assert_eq!(story.told(request).await, ["5: patch t/a"]);
    // The same for a live stream.
    let mut stream = story.watch(v1::WatchDriftRequest { start: None, ..condition("n = 3") }).await.unwrap();
    story.put(r#"{"id":"a","n":4}"#).await;
    let last = story.put(r#"{"id":"c","n":4}"#).await;
    assert_eq!(stream.told(last).await, [format!("{last}: insert t/c")]);
}

#[tokio::test]
async fn images_and_formats_are_as_requested() {
    let mut story = Story::tell().await;
    let images = |change: &v1::Change| -> [Value; 3] {
        [&change.payload, &change.before, &change.after].map(|document| value_of(document.as_ref()))
    };
    let [d8, d9] = [8, 9].map(|n| json!({"id": "d", "n": n}));
    let all = [
        [d8.clone(), Value::Null, d8.clone()],
        [json!({"n": 9}), d8, d9.clone()],
        [Value::Null, d9, Value::Null],
    ];
    for (with_before, with_after) in [(false, false), (true, false), (false, true), (true, true)] {
        let request = v1::WatchDriftRequest { with_before, with_after, ..after(8) };
        let commit = story.watch(request).await.unwrap().commit().await;
        for (change, [payload, before, after]) in commit.changes.iter().zip(all.clone()) {
            let before = if with_before { before } else { Value::Null };
            let after = if with_after { after } else { Value::Null };
            assert_eq!(images(change), [payload, before, after], "{with_before} {with_after}");
        }
    }
    // A put over a row has an image before; a put over a deleted row has none.
    let first = story.put(r#"{"id":"a","n":6}"#).await;
    story.put(r#"{"id":"b","n":6}"#).await;
    let request = v1::WatchDriftRequest { with_before: true, ..after(first - 1) };
    let mut stream = story.watch(request).await.unwrap();
    assert_eq!(images(&stream.commit().await.changes[0])[1], json!({"id": "a", "n": 5}));
    assert_eq!(images(&stream.commit().await.changes[0])[1], Value::Null);
    let format = v1::DocumentFormat::Msgpack.into();
    let request = v1::WatchDriftRequest { format, with_after: true, initial_rows: true, ..after(4) };
    let mut stream = story.watch(request).await.unwrap();
    let is_msgpack = |document: &Option<v1::Document>| {
        let Some(v1::document::Body::Msgpack(bytes)) = &document.as_ref().unwrap().body else { return false };
        bytes[0] & 0xf0 == 0x80
    };
    assert!(stream.rows().await.iter().all(|(_, row)| is_msgpack(&row.document)));
    let change = stream.commit().await.changes.remove(0);
    assert!(is_msgpack(&change.payload) && is_msgpack(&change.after));
}

#[tokio::test]
async fn schema_changes_are_sent_unless_rows_are_filtered() {
    let mut story = Story::tell().await;
    let mut stream =
        story.watch(v1::WatchDriftRequest { with_before: true, with_after: true, ..after(0) }).await.unwrap();
    let commits = stream.upto(HEAD).await;
    let schemas: Vec<(u64, Value)> = commits
        .iter()
        .flat_map(|commit| commit.changes.iter().map(|change| (commit.seq, change)))
        .filter(|(_, change)| change.kind() == v1::ChangeKind::Schema)
        .map(|(seq, change)| {
            assert!(change.key.is_empty() && change.before.is_none() && change.after.is_none());
            (seq, value_of(change.payload.as_ref()))
        })
        .collect();
    let told: Vec<_> =
        schemas.iter().map(|(seq, payload)| (*seq, payload["action"].as_str().unwrap())).collect();
    assert_eq!(told, [(1, "create"), (2, "create"), (8, "create"), (10, "drop"), (11, "alter")]);
    assert_eq!((&schemas[1].1["key_type"], &schemas[4].1["indexes"]), (&json!("INT"), &json!(["n"])));
    for request in [
        keys(&["a", "v", "t", ""]),
        v1::WatchDriftRequest { key_prefix: "a".into(), ..everything() },
        condition("_key IS NOT MISSING"),
    ] {
        let told = story.told(request).await;
        assert!(!told.is_empty() && !told.iter().any(|told| told.contains("schema")), "{told:?}");
    }
}

#[tokio::test]
async fn a_watch_follows_dropped_and_recreated_tables() {
    let mut story = Story::tell().await;
    let writer = &mut story.cluster.writer;
    let mut all = watch(&mut story.cluster.reader, after(HEAD)).await.unwrap();
    let only_t = v1::WatchDriftRequest { with_before: true, ..tables(&["t"]) };
    let mut of_t = watch(&mut story.cluster.reader, only_t.clone()).await.unwrap();
    run(writer, "CREATE TABLE w (pk=id)").await.unwrap();
    apply(writer, vec![put("w", r#"{"id":"x"}"#), put("t", r#"{"id":"x"}"#)]).await.unwrap();
    run(writer, "DROP TABLE t").await.unwrap();
    let expected = ["13: insert t/x", "14: schema t"];
    assert_eq!(of_t.told(14).await, expected);
    // A dropped table may be created again: its watchers stay subscribed.
    let other = Daemon::reader(story.cluster.dir.path());
    let mut of_t = watch(&mut other.as_reader().await, resume(&of_t.token, &only_t)).await.unwrap();
    run(writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let last = apply(writer, vec![put("t", r#"{"id":"a"}"#)]).await.unwrap().seq;
    let commits = of_t.upto(last).await;
    assert_eq!(commits.iter().map(told).collect::<Vec<_>>(), ["15: schema t", "16: insert t/a"]);
    assert!(commits[1].changes[0].before.is_none(), "a recreated table has no rows from before");
    let expected =
        ["12: schema w", "13: insert t/x, insert w/x", "14: schema t", "15: schema t", "16: insert t/a"];
    assert_eq!(all.told(last).await, expected);
    let first = v1::WatchDriftRequest { initial_rows: true, ..tables(&["t", "w"]) };
    seen(&mut story.cluster.reader, last).await;
    let mut stream = watch(&mut story.cluster.reader, first).await.unwrap();
    let rows = stream.rows().await;
    let names: Vec<_> = rows.iter().map(|(table, row)| (table.as_str(), row.key.as_str(), row.seq)).collect();
    assert_eq!(names, [("t", "a", 16), ("w", "x", 13)]);
}

#[tokio::test]
async fn initial_rows_are_sent_before_later_changes() {
    let mut story = Story::tell().await;
    for (request, expected) in [
        (everything(), vec!["t/a@5", "t/c@4", "u/-12@4", "u/1@4"]),
        (after(HEAD), vec!["t/a@5", "t/c@4", "u/-12@4", "u/1@4"]),
        (after(3), vec!["t/a@3", "t/b@3"]),
        (after(1), vec![]),
        (tables(&["u"]), vec!["u/-12@4", "u/1@4"]),
        (keys(&["c", "1", "b"]), vec!["t/c@4", "u/1@4"]),
        (condition("n = 5 OR n = 7"), vec!["t/a@5", "u/-12@4"]),
        (v1::WatchDriftRequest { key_prefix: "c".into(), ..everything() }, vec!["t/c@4"]),
        (v1::WatchDriftRequest { key_prefix: "1".into(), ..everything() }, vec!["u/1@4"]),
        (v1::WatchDriftRequest { key_prefix: "-".into(), ..keys(&["-12", "1", "c"]) }, vec!["u/-12@4"]),
    ] {
        let request = v1::WatchDriftRequest { initial_rows: true, ..request };
        let mut stream = story.watch(request.clone()).await.unwrap();
        let rows = stream.rows().await;
        let told: Vec<_> =
            rows.iter().map(|(table, row)| format!("{table}/{}@{}", row.key, row.seq)).collect();
        assert_eq!(told, expected, "{request:?}");
        assert!(rows.iter().all(|(_, row)| row.time == story.times[row.seq as usize]));
        let rest = stream.told(HEAD).await;
        assert_eq!(rest.len(), if request.start == after(3).start { 7 } else { rest.len() });
    }
    let request = v1::WatchDriftRequest { initial_rows: true, ..condition("n = 5") };
    let mut stream = story.watch(request).await.unwrap();
    let gone = story.put(r#"{"id":"a","n":50}"#).await;
    assert_eq!(stream.rows().await.len(), 1);
    assert_eq!(stream.told(gone).await, [format!("{gone}: insert t/a")], "it leaves what is watched");
}

#[tokio::test]
async fn a_stream_ends_after_the_requested_commit() {
    let mut story = Story::tell().await;
    for (start, until_seq, commits) in [(0, 5, 5), (0, 6, 5), (3, HEAD, 7), (HEAD, HEAD, 0), (5, 6, 0)] {
        let request = v1::WatchDriftRequest { until_seq, ..after(start) };
        let mut stream = story.watch(request.clone()).await.unwrap();
        for _ in 0..commits {
            assert!(stream.commit().await.seq <= until_seq);
        }
        assert_eq!(stream.end().await.unwrap(), Some(until_seq), "{request:?}");
    }
    // A commit that the filter excludes, and one that does not exist yet.
    let request = v1::WatchDriftRequest { until_seq: 9, start: Some(Start::AfterSeq(0)), ..keys(&["a"]) };
    assert_eq!(story.watch(request).await.unwrap().end().await.unwrap(), Some(9));
    let request = v1::WatchDriftRequest { until_seq: HEAD + 2, initial_rows: true, ..everything() };
    let mut stream = story.watch(request).await.unwrap();
    for n in 0..4 {
        story.put(&format!(r#"{{"id":"new","n":{n}}}"#)).await;
    }
    stream.rows().await;
    assert_eq!([stream.commit().await.seq, stream.commit().await.seq], [HEAD + 1, HEAD + 2]);
    assert_eq!(stream.end().await.unwrap(), Some(HEAD + 2));
}

#[tokio::test]
async fn idle_and_filtered_streams_send_progress() {
    let mut story = Story::tell().await;
    let mut quiet = story.watch(after(HEAD)).await.unwrap();
    for _ in 0..3 {
        assert!(quiet.told(HEAD).await.is_empty());
    }
    let mut filtered = story.watch(keys(&["nobody"])).await.unwrap();
    for n in 0..20 {
        let seq = story.put(&format!(r#"{{"id":"a","n":{n}}}"#)).await;
        if n % 5 == 0 {
            assert!(filtered.told(seq).await.is_empty());
        }
    }
    // Commits without operations count, too, though a watch never sends them.
    let mark = apply(&mut story.cluster.writer, vec![]).await.unwrap().seq;
    assert!(filtered.told(mark).await.is_empty());
    assert_eq!(quiet.told(mark).await.len(), 20);
    // The same without a writer.
    story.cluster.writer_daemon.kill();
    assert!(quiet.told(mark).await.is_empty());
    let negative = Some(prost_types::Duration { seconds: -1, nanos: 0 });
    let request = v1::WatchDriftRequest { heartbeat: negative, ..everything() };
    invalid(story.watch(request).await, "ARGUMENT_INVALID").says(&["heartbeat"]);
    story.cluster.writer_daemon = Daemon::writer(story.cluster.dir.path());
    story.cluster.writer = story.cluster.writer_daemon.as_writer().await;
    let seq = story.put(r#"{"id":"again"}"#).await;
    assert_eq!(quiet.told(seq).await, [format!("{seq}: insert t/again")]);
}

#[tokio::test]
async fn a_stream_reports_when_it_has_caught_up() {
    let mut story = Story::tell().await;
    for request in [after(0), after(HEAD), v1::WatchDriftRequest { initial_rows: true, ..everything() }] {
        let mut stream = story.watch(request.clone()).await.unwrap();
        loop {
            match stream.event().await {
                Event::CaughtUp(header) => {
                    assert_eq!(header.read_seq, HEAD, "{request:?}");
                    break;
                }
                Event::Commit(_) | Event::Rows(_) | Event::RowsDone(_) | Event::Progress(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let status = v1::ReaderServiceStatusRequest {};
    let stream = story.watch(everything()).await.unwrap();
    let watchers =
        async |story: &mut Story| story.cluster.reader.status(status).await.unwrap().into_inner().watchers;
    assert!(watchers(&mut story).await >= 1);
    drop(stream);
    while watchers(&mut story).await > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_big_commit_is_sent_in_parts() {
    let mut story = Story::tell().await;
    let mut live = story.watch(after(HEAD)).await.unwrap();
    let row = |n: u32| put("t", format!(r#"{{"id":"k{n:05}","pad":"{}"}}"#, "x".repeat(200)));
    let large = |key: &str| put("t", format!(r#"{{"id":"{key}","pad":"{}"}}"#, "x".repeat(900_000)));
    let operations: Vec<_> = (0..6_000).map(row).chain([large("l1"), large("l2")]).collect();
    let seq = apply(&mut story.cluster.writer, operations).await.unwrap().seq;
    let last = story.put(r#"{"id":"after"}"#).await;
    let request = v1::WatchDriftRequest { with_after: true, ..after(HEAD) };
    let mut behind = story.watch(request.clone()).await.unwrap();
    for stream in [&mut live, &mut behind] {
        let token = stream.token.clone();
        let (mut keys, mut parts) = (Vec::new(), 0);
        loop {
            match stream.event().await {
                Event::Commit(part) => {
                    assert_eq!(part.seq, seq);
                    let size = part.encoded_len();
                    assert!(size < 400_000 || part.changes.len() == 1, "{size} bytes");
                    parts += 1;
                    keys.extend(part.changes.into_iter().map(|change| change.key));
                    if !part.more {
                        break;
                    }
                    assert!(stream.token == token || parts == 1, "no token inside a commit");
                }
                Event::CaughtUp(_) | Event::Progress(_) if parts == 0 => {}
                other => panic!("inside a commit: {other:?}"),
            }
        }
        assert!(parts > 5 && keys.len() == 6_002, "{parts} parts, {} changes", keys.len());
        assert!(keys[..6_000].is_sorted() && keys[6_000..] == ["l1", "l2"]);
        assert_eq!(stream.commit().await.seq, last);
    }
    // A stream that broke inside a commit sends that commit again, whole.
    let mut broken = story.watch(request.clone()).await.unwrap();
    while !matches!(broken.event().await, Event::Commit(_)) {}
    broken.event().await;
    let other = Daemon::reader(story.cluster.dir.path());
    let mut stream = watch(&mut other.as_reader().await, resume(&broken.token, &request)).await.unwrap();
    let commit = stream.commit().await;
    assert_eq!((commit.seq, commit.changes.len(), commit.more), (seq, 6_002, false));
}

#[tokio::test]
async fn a_reader_that_shuts_down_ends_its_streams() {
    let mut story = Story::tell().await;
    let mut stream = story.watch(everything()).await.unwrap();
    let other = Daemon::reader(story.cluster.dir.path());
    let daemon = &mut story.cluster.reader_daemon;
    daemon.signal("TERM");
    let status = stream.end().await.unwrap_err();
    assert!(matches!(reason(&status).as_str(), "SHUTTING_DOWN" | ""), "{status:?}");
    assert!(daemon.wait(watcher::LIMIT).await.success());
    let seq = story.put(r#"{"id":"meanwhile"}"#).await;
    let request = resume(&stream.token, &everything());
    let mut stream = watch(&mut other.as_reader().await, request).await.unwrap();
    assert_eq!(stream.told(seq).await, [format!("{seq}: insert t/meanwhile")]);
}

#[tokio::test]
async fn an_invalid_watch_is_refused() {
    let mut story = Story::tell().await;
    let refusal = refused(story.watch(tables(&["u", "tt"])).await, Code::NotFound, "TABLE_NOT_FOUND");
    refusal.says(&["\"tt\"", "did you mean \"t\""]).tells("nearest", "t");
    let many: Vec<String> = (0..1001).map(|n| format!("k{n}")).collect();
    let request = v1::WatchDriftRequest { keys: many.clone(), ..everything() };
    invalid(story.watch(request).await, "TOO_LARGE").says(&["1001", "1000"]);
    let request = v1::WatchDriftRequest { keys: many[1..].to_vec(), ..everything() };
    story.watch(request).await.unwrap();
    let place = invalid(story.watch(condition("n =")).await, "QUERY_SYNTAX").place();
    assert_eq!(place.start, 3);
    invalid(story.watch(condition("n = $1")).await, "QUERY_INVALID").says(&["$1"]);
    invalid(story.watch(v1::WatchDriftRequest { format: 9, ..everything() }).await, "ARGUMENT_INVALID");
    let beyond = refused(story.watch(after(HEAD + 1)).await, Code::OutOfRange, "BEYOND_HEAD");
    beyond.tells("last_seq", HEAD);
    let epoch = story.watch(after(1)).await.unwrap().opened.epoch;
    story.watch(v1::WatchDriftRequest { epoch, ..after(1) }).await.unwrap();
    for wrong in [epoch + 1, 1] {
        let request = v1::WatchDriftRequest { epoch: wrong, ..after(1) };
        refused(story.watch(request).await, Code::FailedPrecondition, "EPOCH_CHANGED").tells("epoch", epoch);
    }
}
