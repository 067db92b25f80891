//! Ingest applies everything once and in order, whatever breaks. Also the operations that came with it: ALTER TABLE and
//! REVERT.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::harness::lane::by_lane;
use crate::harness::*;
use driftdb::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

/// One stream of a producer.
struct Source {
    send: mpsc::Sender<v1::IngestRequest>,
    acks: Streaming<v1::IngestResponse>,
}

impl Source {
    /// Opens a stream. Returns the last batch that the writer has.
    async fn open(writer: &mut Writer, producer: &str) -> Result<(Source, u64), Status> {
        let (send, messages) = mpsc::channel(64);
        let first = v1::IngestRequest { producer_id: producer.into(), ..Default::default() };
        send.send(first).await.unwrap();
        let mut acks = writer.ingest(ReceiverStream::new(messages)).await?.into_inner();
        let position = acks.message().await?.ok_or_else(|| Status::unknown("no answer"))?;
        Ok((Source { send, acks }, position.durable_batch_id))
    }

    async fn send(&self, batch_id: u64, operations: Vec<v1::Operation>, atomic: bool) -> bool {
        self.send.send(v1::IngestRequest { batch_id, operations, atomic, ..Default::default() }).await.is_ok()
    }

    async fn ack(&mut self) -> v1::IngestResponse {
        self.acks.message().await.unwrap().unwrap()
    }
}

fn rows(batch: u64, size: u64) -> Vec<v1::Operation> {
    (0..size)
        .map(|i| insert("t", format!(r#"{{"id":"b{batch:06}-{i:04}","n":{}}}"#, batch * size + i)))
        .collect()
}

async fn count(reader: &mut Reader, table: &str, seq: u64) -> u64 {
    let freshness = Some(v1::Freshness { min_seq: seq, ..Default::default() });
    let request =
        v1::SelectRequest { table: table.into(), count_only: true, freshness, ..Default::default() };
    let mut stream = reader.select(request).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(message) = stream.message().await.unwrap() {
        count = message.count;
    }
    count
}

#[tokio::test]
async fn a_refused_operation_is_reported_and_the_others_are_applied() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let (mut source, position) = Source::open(&mut cluster.writer, "p").await.unwrap();
    assert_eq!(position, 0);
    let three =
        |second: v1::Operation| vec![insert("t", r#"{"id":"a"}"#), second, insert("t", r#"{"id":"c"}"#)];
    source.send(1, three(patch("t", "nobody", "{}")), false).await;
    let ack = source.ack().await;
    assert_eq!((ack.durable_batch_id, ack.token.unwrap().seq), (1, 3));
    let error = &ack.errors[0];
    assert_eq!(
        (error.batch_id, error.index, error.code, error.reason.as_str()),
        (1, 1, Code::NotFound.into(), "ROW_NOT_FOUND")
    );
    // Atomic: all or none.
    source.send(2, vec![put("t", r#"{"id":"d"}"#), insert("t", r#"{"id":"a"}"#)], true).await;
    let ack = source.ack().await;
    assert_eq!((ack.durable_batch_id, ack.errors.len(), ack.token.unwrap().seq), (2, 1, 3));
    source.send(3, vec![put("t", r#"{"id":"d"}"#), put("t", r#"{"id":"a","n":1}"#)], true).await;
    assert_eq!(source.ack().await.token.unwrap().seq, 4);
    let rows = select_at(&mut cluster.reader, "t", 4).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.0.as_str()).collect::<Vec<_>>(), ["a", "c", "d"]);
}

#[tokio::test]
async fn a_stream_that_stops_at_refusals_resumes_with_the_refused_operation() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let row = |id: &str| insert("t", format!(r#"{{"id":"{id}"}}"#));
    let batch = |batch_id, set_aside: Vec<u32>| v1::IngestRequest {
        batch_id,
        operations: vec![row("a"), row("b"), row("a"), row("c"), insert("t", "{}"), row("b"), row("d")],
        stop_at_refusal: true,
        set_aside,
        ..Default::default()
    };
    for attempt in 0..3 {
        if attempt == 2 {
            // The writer remembers no refusal: what it has not applied, it refuses again.
            cluster.writer_daemon.kill();
            cluster.writer_daemon = Daemon::writer(cluster.dir.path());
            cluster.writer = cluster.writer_daemon.as_writer().await;
        }
        let (mut source, position) = Source::open(&mut cluster.writer, "p").await.unwrap();
        assert_eq!(position, 0);
        source.send.send(batch(1, Vec::new())).await.unwrap();
        // Batches behind the refused operation are not applied, and may not even be taken.
        let behind = v1::IngestRequest { batch_id: 2, operations: vec![row("e")], ..Default::default() };
        let _ = source.send.send(behind).await;
        let ack = source.ack().await;
        assert_eq!((ack.durable_batch_id, ack.token.unwrap().seq), (0, 3));
        let refused: Vec<_> = ack.errors.iter().map(|error| (error.batch_id, error.index)).collect();
        assert_eq!(refused, [(1, 2), (1, 4), (1, 5)]);
        assert!(source.acks.message().await.unwrap().is_none());
    }
    let (mut source, _) = Source::open(&mut cluster.writer, "p").await.unwrap();
    source.send.send(batch(1, vec![2, 4, 5])).await.unwrap();
    let ack = source.ack().await;
    assert_eq!((ack.durable_batch_id, ack.errors.len(), ack.token.unwrap().seq), (1, 0, 5));
    let (_, position) = Source::open(&mut cluster.writer, "p").await.unwrap();
    assert_eq!(position, 1);
    assert_eq!(count(&mut cluster.reader, "t", 5).await, 4);
}

#[tokio::test]
async fn a_refusal_whose_answer_was_lost_is_reported_again() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let (mut source, _) = Source::open(&mut cluster.writer, "p").await.unwrap();
    for batch in 1..=2 {
        source.send(batch, vec![patch("t", "nobody", "{}"), put("t", r#"{"id":"a"}"#)], false).await;
        while source.ack().await.durable_batch_id < batch {}
    }
    drop(source);
    let (send, messages) = mpsc::channel(1);
    send.send(v1::IngestRequest { producer_id: "p".into(), ..Default::default() }).await.unwrap();
    let mut acks = cluster.writer.ingest(ReceiverStream::new(messages)).await.unwrap().into_inner();
    let first = acks.message().await.unwrap().unwrap();
    assert_eq!(first.durable_batch_id, 2);
    let told: Vec<_> = first.errors.iter().map(|e| (e.batch_id, e.index, e.reason.as_str())).collect();
    assert_eq!(told, [(1, 0, "ROW_NOT_FOUND"), (2, 0, "ROW_NOT_FOUND")]);
}

#[tokio::test]
async fn batches_are_applied_in_order_and_a_newer_stream_takes_over() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let (mut older, _) = Source::open(&mut cluster.writer, "p").await.unwrap();
    older.send(1, rows(1, 2), false).await;
    assert_eq!(older.ack().await.durable_batch_id, 1);
    older.send(3, rows(3, 2), false).await;
    let error = older.acks.message().await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "ARGUMENT_INVALID"));
    let (mut older, position) = Source::open(&mut cluster.writer, "p").await.unwrap();
    assert_eq!(position, 1);
    let (mut newer, position) = Source::open(&mut cluster.writer, "p").await.unwrap();
    assert_eq!(position, 1);
    assert_eq!(older.acks.message().await.unwrap_err().code(), Code::Aborted);
    // The writer skips what is already on disk.
    for batch in 1..=2 {
        newer.send(batch, rows(batch, 2), false).await;
    }
    while newer.ack().await.durable_batch_id < 2 {}
    assert_eq!(count(&mut cluster.reader, "t", 5).await, 4);
}

/// Sends every batch until all are durable, across restarts of the writer.
async fn load(
    url: std::sync::Arc<tokio::sync::Mutex<String>>,
    batches: u64,
    size: u64,
    acked: std::sync::Arc<std::sync::atomic::AtomicU64>,
) {
    use std::sync::atomic::Ordering;
    loop {
        let address = url.lock().await.clone();
        let Ok(channel) = tonic::transport::Endpoint::from_shared(address).unwrap().connect().await else {
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let Ok((source, position)) = Source::open(&mut Writer::new(channel), "loader").await else {
            continue;
        };
        assert!(position >= acked.load(Ordering::Relaxed), "the writer wants an acknowledged batch again");
        acked.store(position, Ordering::Relaxed);
        if position == batches {
            return;
        }
        let Source { send, mut acks } = source;
        let sender = tokio::spawn(async move {
            for batch in position + 1..=batches {
                let message = v1::IngestRequest {
                    batch_id: batch,
                    operations: rows(batch, size),
                    ..Default::default()
                };
                if send.send(message).await.is_err() {
                    return;
                }
            }
            // Keeps the stream open until the writer has acknowledged everything.
            send.closed().await;
        });
        while let Ok(Some(ack)) = acks.message().await {
            assert!(ack.errors.is_empty(), "{:?}", ack.errors);
            acked.store(ack.durable_batch_id, Ordering::Relaxed);
            if ack.durable_batch_id == batches {
                sender.abort();
                return;
            }
        }
        sender.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_row_arrives_once_while_writer_and_client_are_killed() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let (batches, size) = by_lane((400, 100), (2000, 500));
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let url = Arc::new(tokio::sync::Mutex::new(cluster.writer_daemon.url.clone()));
    let acked = Arc::new(AtomicU64::new(0));
    let mut loader = tokio::spawn(load(url.clone(), batches, size, acked.clone()));
    for kill in 1..=10u64 {
        while acked.load(Ordering::Relaxed) < kill * batches / 12 {
            if loader.is_finished() {
                loader.await.unwrap();
                panic!("the loader ended early");
            }
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
        if kill % 3 == 0 {
            // Kills this client and continues with another one.
            loader.abort();
            loader = tokio::spawn(load(url.clone(), batches, size, acked.clone()));
        } else {
            cluster.writer_daemon.kill();
            cluster.writer_daemon = Daemon::writer(cluster.dir.path());
            *url.lock().await = cluster.writer_daemon.url.clone();
        }
    }
    loader.await.unwrap();
    let last = 1 + batches * size;
    assert_eq!(count(&mut cluster.reader, "t", last).await, batches * size);
    let mut writer = cluster.writer_daemon.as_writer().await;
    let status = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.last_seq, last, "an operation was committed twice");
    // In order: each row's seq is the expected one.
    let found = select_rows(&mut cluster.reader).await;
    let expected: BTreeMap<String, u64> = (1..=batches)
        .flat_map(|batch| (0..size).map(move |i| (format!("b{batch:06}-{i:04}"), 2 + (batch - 1) * size + i)))
        .collect();
    assert!(found == expected, "rows are not in the order in which they were sent");
}

async fn select_rows(reader: &mut Reader) -> BTreeMap<String, u64> {
    let request = v1::SelectRequest { table: "t".into(), ..Default::default() };
    let mut stream = reader.select(request).await.unwrap().into_inner();
    let mut rows = BTreeMap::new();
    while let Some(message) = stream.message().await.unwrap() {
        rows.extend(message.rows.into_iter().map(|row| (row.key, row.seq)));
    }
    rows
}

fn revert(key: &str, to: Option<v1::AsOf>) -> v1::Operation {
    let action = Some(v1::operation::Action::Revert(v1::operation::Revert { to }));
    v1::Operation { table: "t".into(), key: key.into(), action }
}

#[tokio::test]
async fn a_row_can_be_reverted_to_an_earlier_version() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let Cluster { writer, reader, .. } = &mut cluster;
    apply(writer, vec![insert("t", r#"{"id":"a","n":1}"#)]).await.unwrap();
    apply(writer, vec![patch("t", "a", r#"{"n":2}"#)]).await.unwrap();
    apply(writer, vec![delete("t", "a")]).await.unwrap();
    let request = v1::ApplyRequest {
        operations: vec![revert("a", at_seq(3))],
        options: Some(v1::CommitOptions { request_id: "once".into(), ..Default::default() }),
        ..Default::default()
    };
    for replayed in [false, true] {
        let answer = writer.apply(request.clone()).await.unwrap().into_inner();
        assert_eq!((answer.token.unwrap().seq, answer.replayed), (5, replayed));
    }
    assert_eq!(select_at(reader, "t", 5).await.unwrap()[0].1, r#"{"id":"a","n":2}"#);
    apply(writer, vec![revert("a", at_seq(2))]).await.unwrap();
    assert_eq!(select_at(reader, "t", 6).await.unwrap()[0].1, r#"{"id":"a","n":1}"#);
    // A revert to a point at which the row did not exist deletes it.
    apply(writer, vec![revert("a", at_seq(1))]).await.unwrap();
    assert_eq!(select_at(reader, "t", 7).await.unwrap(), []);
    for (key, to, code, word) in [
        ("a", at_seq(1), Code::NotFound, "ROW_NOT_FOUND"),
        ("a", at_seq(99), Code::OutOfRange, "BEYOND_HEAD"),
        ("a", at_seq(0), Code::NotFound, "TABLE_NOT_FOUND"),
        ("a", None, Code::InvalidArgument, "ARGUMENT_INVALID"),
    ] {
        let error = apply(writer, vec![revert(key, to)]).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (code, word));
    }
}

#[tokio::test]
async fn altering_indexes_is_part_of_the_history_and_keeps_rows() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    apply(&mut cluster.writer, vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    let alter = |add: &[&str], drop: &[&str]| v1::AlterTableRequest {
        table: "t".into(),
        add_indexes: add.iter().map(ToString::to_string).collect(),
        drop_indexes: drop.iter().map(ToString::to_string).collect(),
        ..Default::default()
    };
    cluster.writer.alter_table(alter(&["x", "y"], &[])).await.unwrap();
    cluster.writer.alter_table(alter(&["z"], &["x"])).await.unwrap();
    for refused in [alter(&["z"], &[]), alter(&[], &["x"]), alter(&[], &[])] {
        let error = cluster.writer.alter_table(refused).await.unwrap_err();
        assert_eq!((error.code(), reason(&error).as_str()), (Code::InvalidArgument, "ARGUMENT_INVALID"));
    }
    for (seq, indexes) in [(2, vec![]), (3, vec!["x", "y"]), (4, vec!["y", "z"])] {
        let request = v1::DescribeTableRequest { table: "t".into(), as_of: at_seq(seq), freshness: None };
        let table = cluster.reader.describe_table(request).await.unwrap().into_inner().table.unwrap();
        assert_eq!((table.indexes, table.rows), (indexes.iter().map(ToString::to_string).collect(), 1));
    }
    // The row has not changed, also after a restart.
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let mut writer = cluster.writer_daemon.as_writer().await;
    apply(&mut writer, vec![patch("t", "a", r#"{"n":1}"#)]).await.unwrap();
    assert_eq!(select_at(&mut cluster.reader, "t", 5).await.unwrap().len(), 1);
}
