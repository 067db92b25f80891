//! Keys that the writer makes (`pk=id AUTO`): each insert gets one, the answer names it, and a repeated request gets the same ones.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use driftdb::v1;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::calls::{ask, compact, run, snapshot};
use crate::harness::condition::Random;
use crate::harness::lane::by_lane;
use crate::harness::*;

async fn apply_as(
    writer: &mut Writer,
    id: &str,
    operations: Vec<v1::Operation>,
) -> Result<v1::ApplyResponse, tonic::Status> {
    let options = Some(v1::CommitOptions { request_id: id.into(), ..Default::default() });
    let request = v1::ApplyRequest { operations, options, ..Default::default() };
    writer.apply(request).await.map(tonic::Response::into_inner)
}

fn keys(made: &[v1::MadeKey]) -> Vec<(u32, String)> {
    made.iter().map(|made| (made.index, made.key.clone())).collect()
}

/// The rows of a table: the key, and the field `n`.
async fn rows(reader: &mut Reader, table: &str, seq: u64) -> BTreeMap<String, u64> {
    let freshness = calls::fresh(seq);
    let request = v1::SelectRequest { table: table.into(), freshness, ..Default::default() };
    let rows = select(reader, request).await.unwrap();
    let row = |(key, text): (String, String)| {
        let document: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["id"], key, "the key is in the document");
        (key, document["n"].as_u64().unwrap())
    };
    rows.into_iter().map(row).collect()
}

#[tokio::test]
async fn an_insert_without_a_key_gets_one_and_the_answer_names_it() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO, INDEX(n))").await.unwrap();
    cluster.create("plain").await;
    let operations = vec![
        insert("t", r#"{"n":1}"#),
        insert("plain", r#"{"id":"p"}"#),
        insert("t", r#"{"n":2,"id":"mine"}"#),
        insert("t", r#"{"n":3}"#),
    ];
    let answer = apply_as(&mut cluster.writer, "", operations).await.unwrap();
    let made = keys(&answer.made_keys);
    assert!(made.len() == 2 && (made[0].0, made[1].0) == (0, 3) && made[0].1 < made[1].1, "{made:?}");
    assert_eq!(uuid::Uuid::parse_str(&made[0].1).unwrap().get_version_num(), 7);
    let expected = BTreeMap::from([(made[0].1.clone(), 1), ("mine".into(), 2), (made[1].1.clone(), 3)]);
    assert_eq!(rows(&mut cluster.reader, "t", 3).await, expected);

    let mut answers = cluster
        .writer
        .execute(v1::WriterServiceExecuteRequest {
            statement: r#"INSERT INTO t {"n": 4}, {"id": "x", "n": 5}, {"n": 6}"#.into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let made = keys(&answer.made_keys);
    assert_eq!(made.iter().map(|made| made.0).collect::<Vec<_>>(), [0, 2]);
    let found = rows(&mut cluster.reader, "t", 4).await;
    assert_eq!((found[&made[0].1], found[&made[1].1], found.len()), (4, 6, 6));

    // A made key is a key like any other.
    let key = &made[0].1;
    apply(&mut cluster.writer, vec![patch("t", key, r#"{"n":7}"#)]).await.unwrap();
    assert_eq!(rows(&mut cluster.reader, "t", 5).await[key], 7);
    let error =
        apply(&mut cluster.writer, vec![insert("t", format!(r#"{{"id":"{key}"}}"#))]).await.unwrap_err();
    assert_eq!(reason(&error), "ROW_EXISTS");
    let info = ask(&mut cluster.reader, "DESCRIBE t", 5).await.unwrap();
    assert!(matches!(&info.results[0], calls::Outcome::Table(table) if table.auto_key), "{info:?}");
}

#[tokio::test]
async fn only_an_insert_into_such_a_table_may_lack_its_key() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    cluster.create("plain").await;
    for (operation, word) in [
        (insert("plain", r#"{"n":1}"#), "KEY_INVALID"),
        (put("t", r#"{"n":1}"#), "KEY_INVALID"),
        (insert("t", r#"{"id":null}"#), "KEY_INVALID"),
        (insert("t", r#"{"id":7}"#), "KEY_INVALID"),
        (v1::Operation { key: "k".into(), ..insert("t", "{}") }, "KEY_INVALID"),
        (insert("t", format!(r#"{{"s":"{}"}}"#, "x".repeat((1 << 20) - 20))), "TOO_LARGE"),
    ] {
        let error = apply(&mut cluster.writer, vec![operation]).await.unwrap_err();
        assert_eq!(reason(&error), word, "{error}");
    }
    let request = v1::CreateTableRequest {
        table: "ints".into(),
        key_type: v1::KeyType::Int.into(),
        auto_key: true,
        ..Default::default()
    };
    let error = cluster.writer.create_table(request).await.unwrap_err();
    assert_eq!(reason(&error), "ARGUMENT_INVALID");
    assert_eq!(rows(&mut cluster.reader, "t", 2).await.len(), 0);
}

#[tokio::test]
async fn a_repeated_request_gets_the_keys_of_the_first_time() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    run(&mut cluster.writer, "CREATE TABLE u (pk=id AUTO)").await.unwrap();
    let request = || {
        vec![
            insert("u", r#"{"n":1}"#),
            insert("t", r#"{"n":2}"#),
            insert("t", r#"{"id":"mine","n":3}"#),
            insert("u", r#"{"n":4}"#),
            insert("t", r#"{"n":5}"#),
        ]
    };
    let first = apply_as(&mut cluster.writer, "once", request()).await.unwrap();
    assert_eq!(keys(&first.made_keys).iter().map(|made| made.0).collect::<Vec<_>>(), [0, 1, 3, 4]);
    for step in 0..5 {
        match step {
            0 => {}
            1 => _ = apply(&mut cluster.writer, vec![delete("t", &first.made_keys[1].key)]).await.unwrap(),
            2 => snapshot(&mut cluster.writer, "t").await.unwrap(),
            3 => snapshot(&mut cluster.writer, "u").await.unwrap(),
            _ => {
                cluster.writer_daemon.kill();
                cluster.writer_daemon = Daemon::writer(cluster.dir.path());
                cluster.writer = cluster.writer_daemon.as_writer().await;
            }
        }
        let again = apply_as(&mut cluster.writer, "once", request()).await.unwrap();
        assert!(again.replayed && again.token == first.token, "step {step}: {again:?}");
        assert_eq!(again.made_keys, first.made_keys, "step {step}");
    }
    // The same of a statement.
    let statement = v1::WriterServiceExecuteRequest {
        statement: r#"INSERT INTO t {"n": 8}, {"n": 9} IF NO CHANGE IN t WHERE n = 8 SINCE 4"#.into(),
        options: Some(v1::CommitOptions { request_id: "statement".into(), ..Default::default() }),
        ..Default::default()
    };
    let mut made = Vec::new();
    for _ in 0..3 {
        let mut answers = cluster.writer.execute(statement.clone()).await.unwrap().into_inner();
        made.push(keys(&answers.message().await.unwrap().unwrap().made_keys));
    }
    assert!(made[0].len() == 2 && made.iter().all(|keys| *keys == made[0]), "{made:?}");
    let seq = first.token.unwrap().seq + 2;
    assert_eq!(rows(&mut cluster.reader, "t", seq).await.len(), 4);
    // What compaction has removed is not known any more, and is left out.
    snapshot(&mut cluster.writer, "t").await.unwrap();
    compact(&mut cluster.writer, "t", None, false).await.unwrap();
    let again = apply_as(&mut cluster.writer, "once", request()).await.unwrap();
    let of_u: Vec<_> = first.made_keys.iter().filter(|made| [0, 3].contains(&made.index)).cloned().collect();
    assert!(again.replayed && again.made_keys == of_u, "{again:?}");
}

#[tokio::test]
async fn a_condition_guards_an_insert_whose_key_is_made() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    let guarded = r#"INSERT INTO t {"seat": 1} IF NO CHANGE IN t WHERE seat = 1 SINCE 1"#;
    run(&mut cluster.writer, guarded).await.unwrap();
    let error = run(&mut cluster.writer, guarded).await.unwrap_err();
    assert_eq!(reason(&error), "PRECONDITION_FAILED");
    run(&mut cluster.writer, r#"INSERT INTO t {"seat": 1} IF NO CHANGE IN t WHERE seat = 2 SINCE 1"#)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_key_is_made_for_the_table_that_exists_at_the_commit() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    run(&mut cluster.writer, "DROP TABLE t").await.unwrap();
    run(&mut cluster.writer, "CREATE TABLE t (pk=id)").await.unwrap();
    let error = run(&mut cluster.writer, r#"INSERT INTO t {"n": 1}"#).await.unwrap_err();
    assert_eq!(reason(&error), "KEY_INVALID");
    run(&mut cluster.writer, "DROP TABLE t").await.unwrap();
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    run(&mut cluster.writer, r#"INSERT INTO t {"n": 1}"#).await.unwrap();
    assert_eq!(rows(&mut cluster.reader, "t", 6).await.len(), 1);
}

/// Sends the batches after the one that the writer names, and returns how many were acknowledged and the keys that the answers named.
async fn send_batches(url: &str, batches: u64, size: u64, most: u64) -> (u64, Vec<v1::MadeKey>) {
    let mut made = Vec::new();
    let Ok(channel) = tonic::transport::Endpoint::from_shared(url.to_owned()).unwrap().connect().await else {
        return (0, made);
    };
    let (send, messages) = mpsc::channel(64);
    let hello = v1::IngestRequest { producer_id: "p".into(), ..Default::default() };
    send.send(hello).await.unwrap();
    let Ok(acks) = Writer::new(channel).ingest(ReceiverStream::new(messages)).await else { return (0, made) };
    let mut acks = acks.into_inner();
    let Ok(Some(position)) = acks.message().await else { return (0, made) };
    let mut done = position.durable_batch_id;
    let stop = batches.min(done + most);
    let sender = tokio::spawn(async move {
        for batch_id in position.durable_batch_id + 1..=stop {
            let row = |i| insert("t", format!(r#"{{"n":{}}}"#, (batch_id - 1) * size + i));
            let operations = (0..size).map(row).collect();
            if send.send(v1::IngestRequest { batch_id, operations, ..Default::default() }).await.is_err() {
                return;
            }
        }
        send.closed().await;
    });
    while done < stop
        && let Ok(Some(ack)) = acks.message().await
    {
        assert!(ack.errors.is_empty(), "{:?}", ack.errors);
        done = ack.durable_batch_id;
        made.extend(ack.made_keys);
    }
    sender.abort();
    (done, made)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_inserts_each_row_once_while_the_writer_is_killed() {
    let (batches, size) = by_lane((60, 40), (3000, 200));
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    let mut random = Random(11);
    let (mut done, mut made) = (0, Vec::new());
    while done < batches {
        let most = 1 + random.below(20) as u64;
        let url = cluster.writer_daemon.url.clone();
        let sending = tokio::spawn(async move { send_batches(&url, batches, size, most).await });
        if random.below(2) == 0 {
            // In the middle of the batches, after some acknowledgements that this client has not seen.
            tokio::time::sleep(std::time::Duration::from_millis(random.below(20) as u64)).await;
            cluster.writer_daemon.kill();
            cluster.writer_daemon = Daemon::writer(cluster.dir.path());
        }
        let (acknowledged, keys) = sending.await.unwrap();
        done = done.max(acknowledged);
        made.extend(keys);
    }
    let last = 1 + batches * size;
    let found = rows(&mut cluster.reader, "t", last).await;
    let mut numbers: Vec<u64> = found.values().copied().collect();
    numbers.sort_unstable();
    assert!(numbers == (0..batches * size).collect::<Vec<_>>(), "a row is missing or there twice");
    let mut writer = cluster.writer_daemon.as_writer().await;
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.last_seq, last);
    // Each key that an answer named is the key of its row.
    assert!(!made.is_empty());
    for v1::MadeKey { batch_id, index, key } in made {
        assert_eq!(found[&key], (batch_id - 1) * size + u64::from(index));
    }
}

#[tokio::test]
async fn an_atomic_batch_names_the_keys_that_were_made() {
    let mut cluster = Cluster::start().await;
    run(&mut cluster.writer, "CREATE TABLE t (pk=id AUTO)").await.unwrap();
    let (send, messages) = mpsc::channel(4);
    let batch =
        |batch_id, operations| v1::IngestRequest { batch_id, operations, atomic: true, ..Default::default() };
    let rows_of = |last: &str| vec![insert("t", r#"{"n":1}"#), insert("t", last), insert("t", r#"{"n":3}"#)];
    send.send(batch(1, rows_of(r#"{"id":"mine","n":2}"#))).await.unwrap();
    send.send(batch(2, rows_of(r#"{"id":"mine","n":2}"#))).await.unwrap();
    drop(send);
    let mut acks = cluster.writer.ingest(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let (mut made, mut errors) = (Vec::new(), Vec::new());
    while let Some(ack) = acks.message().await.unwrap() {
        made.extend(ack.made_keys);
        errors.extend(ack.errors);
    }
    let places: Vec<_> = made.iter().map(|made| (made.batch_id, made.index)).collect();
    assert_eq!(places, [(1, 0), (1, 2)], "a refused batch makes no keys");
    assert_eq!((errors.len(), errors[0].reason.as_str()), (1, "ROW_EXISTS"));
    let found = rows(&mut cluster.reader, "t", 2).await;
    assert_eq!((found[&made[0].key], found[&made[1].key], found.len()), (1, 3, 3));
}

#[test]
fn driftctl_prints_the_keys_that_were_made() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| -> String {
        let mut command = Command::new(binary("driftctl"));
        let output = command.args(["sql", "-d", dir.path().to_str().unwrap()]).args(args).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    run(&["-e", "CREATE TABLE t (pk=id AUTO)"]);
    let stdout = run(&["-o", "json", "-e", r#"INSERT INTO t {"n": 1}, {"id": "a"}, {"n": 2}"#]);
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    let keys = printed[0]["keys"].as_array().unwrap();
    assert_eq!((printed[0]["seq"].as_u64(), keys.len()), (Some(2), 2), "{stdout}");
    let stdout =
        run(&["-o", "json", "-e", r#"BEGIN; INSERT INTO t {"n": 3}; UPSERT INTO t {"id": "b"}; COMMIT"#]);
    let printed: Value = serde_json::from_str(&stdout).unwrap();
    let key = printed[0]["keys"][0].as_str().unwrap();
    let found = run(&["-o", "jsonl", "-e", &format!("SELECT n FROM t WHERE id = \"{key}\"")]);
    assert_eq!(found, "{\"n\":3}\n");
    // Without a made key the line is as it was.
    let stdout = run(&["-o", "json", "-e", r#"INSERT INTO t {"id": "c"}"#]);
    assert!(!stdout.contains("keys"), "{stdout}");
    let stdout = run(&["-o", "jsonl", "-e", "DESCRIBE t"]);
    assert!(stdout.contains("\"auto_key\":true"), "{stdout}");
}

#[test]
fn apply_prints_the_keys_that_were_made_commit_by_commit() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str], input: &str| {
        let mut command = Command::new(binary("driftctl"));
        command.args(["-d", dir.path().to_str().unwrap()]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        assert!(output.status.success(), "{}", text(output.stderr));
        (text(output.stdout), text(output.stderr))
    };
    run(&["sql", "CREATE TABLE t (pk=id AUTO)"], "");
    let commits = r#"{"ops":[{"op":"insert","table":"t","doc":{"n":1}},{"op":"insert","table":"t","doc":{"n":2}}]}
{"ops":[{"op":"insert","table":"t","doc":{"id":"a","n":3}}]}
{"ops":[{"op":"insert","table":"t","doc":{"n":4}}]}
"#;
    let (printed, _) = run(&["apply", "--file", "-"], commits);
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let keys = |line: &Value| line["keys"].as_array().map_or(0, Vec::len);
    let found: Vec<_> = lines.iter().map(|line| (line["seq"].as_u64(), keys(line))).collect();
    assert_eq!(found, [(Some(2), 2), (Some(4), 1), (None, 0)], "{printed}");
    assert_eq!((&lines[2]["commits"], &lines[2]["last_seq"]), (&Value::from(3), &Value::from(4)));
    let key = lines[1]["keys"][0].as_str().unwrap();
    assert_eq!(run(&["get", "t", key], "").0, format!("{{\"id\":\"{key}\",\"n\":4}}\n"));
    // People are told, too, and a format without room for it.
    for format in ["table", "csv"] {
        let (_, notes) =
            run(&["-o", format, "apply", "--file", "-"], r#"{"ops":[{"op":"insert","table":"t","doc":{}}]}"#);
        assert!(notes.contains(", key "), "{format}: {notes}");
    }
    // What makes no key prints what it did.
    let (printed, _) =
        run(&["apply", "--file", "-"], r#"{"ops":[{"op":"put","table":"t","doc":{"id":"a"}}]}"#);
    assert_eq!(printed.lines().count(), 1, "{printed}");
}
