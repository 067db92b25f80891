//! Preconditions and retries: concurrent writers never overwrite each other, and a retried request is applied once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::lane::by_lane;
use crate::harness::*;
use driftdb::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

fn with_id(id: &str) -> Option<v1::CommitOptions> {
    Some(v1::CommitOptions { request_id: id.into(), ..Default::default() })
}

async fn apply_as(
    writer: &mut Writer,
    id: &str,
    operations: Vec<v1::Operation>,
) -> Result<v1::ApplyResponse, tonic::Status> {
    let request = v1::ApplyRequest { operations, options: with_id(id), ..Default::default() };
    writer.apply(request).await.map(tonic::Response::into_inner)
}

async fn counter(reader: &mut Reader, key: &str, min_seq: u64) -> (u64, u64) {
    let freshness = Some(v1::Freshness { min_seq, ..Default::default() });
    let request =
        v1::GetRequest { table: "counters".into(), keys: vec![key.into()], freshness, ..Default::default() };
    let row = reader.get(request).await.unwrap().into_inner().rows.remove(0);
    let document: serde_json::Value = serde_json::from_str(text_of(row.document.as_ref().unwrap())).unwrap();
    (row.seq, document["n"].as_u64().unwrap())
}

/// Increments a counter with compare-and-set, until told to stop.
async fn count(
    number: u64,
    url: Arc<Mutex<String>>,
    mut reader: Reader,
    stop: Arc<AtomicBool>,
    successes: Arc<Mutex<BTreeMap<u64, String>>>,
    unknown: Arc<AtomicU64>,
) {
    // Commit 2 creates the rows.
    let mut seen = 2;
    let mut round = number;
    while !stop.load(Ordering::Relaxed) {
        let Ok(channel) =
            tonic::transport::Endpoint::from_shared(url.lock().await.clone()).unwrap().connect().await
        else {
            tokio::time::sleep(Duration::from_millis(2)).await;
            continue;
        };
        let mut writer = Writer::new(channel);
        while !stop.load(Ordering::Relaxed) {
            round += 1;
            let key = format!("c{}", round % 3);
            let (seq, n) = counter(&mut reader, &key, seen).await;
            let request = v1::ApplyRequest {
                operations: vec![patch("counters", &key, format!(r#"{{"n":{}}}"#, n + 1))],
                preconditions: vec![v1::Precondition {
                    table: "counters".into(),
                    key: key.clone(),
                    check: Some(v1::precondition::Check::SeqIs(seq)),
                    ..Default::default()
                }],
                ..Default::default()
            };
            match writer.apply(request).await {
                Ok(answer) => {
                    seen = answer.into_inner().token.unwrap().seq;
                    assert!(
                        successes.lock().await.insert(seen, key).is_none(),
                        "seq {seen} was acknowledged twice"
                    );
                }
                Err(status) if reason(&status) == "PRECONDITION_FAILED" => {}
                Err(_) => {
                    unknown.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counters_with_compare_and_set_count_every_success_once() {
    let mut cluster = Cluster::start().await;
    cluster.create("counters").await;
    let rows = (0..3).map(|i| insert("counters", format!(r#"{{"id":"c{i}","n":0}}"#))).collect();
    apply(&mut cluster.writer, rows).await.unwrap();
    let url = Arc::new(Mutex::new(cluster.writer_daemon.url.clone()));
    let stop = Arc::new(AtomicBool::new(false));
    let successes = Arc::new(Mutex::new(BTreeMap::new()));
    let unknown = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let reader = cluster.reader.clone();
            tokio::spawn(count(number, url.clone(), reader, stop.clone(), successes.clone(), unknown.clone()))
        })
        .collect();
    for kill in 1..=by_lane(10, 500) {
        while successes.lock().await.len() < kill * 40 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        cluster.writer_daemon.kill();
        cluster.writer_daemon = Daemon::writer(cluster.dir.path());
        *url.lock().await = cluster.writer_daemon.url.clone();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let mut writer = cluster.writer_daemon.as_writer().await;
    let last = writer.status(v1::WriterServiceStatusRequest {}).await.unwrap().into_inner().last_seq;
    let mut total = 0;
    for i in 0..3 {
        total += counter(&mut cluster.reader, &format!("c{i}"), last).await.1;
    }
    let acknowledged = successes.lock().await.len() as u64;
    let unknown = unknown.load(Ordering::Relaxed);
    // Every commit after the first two is one increment: acknowledged, or with an unknown outcome.
    assert_eq!(total, last - 2, "the commits and the increments do not match");
    assert!(
        (acknowledged..=acknowledged + unknown).contains(&total),
        "{acknowledged} acknowledged, {total} counted"
    );
}

/// Forwards bytes, and cuts the connection near the answer when told to.
async fn proxy(listener: TcpListener, target: Arc<Mutex<String>>, cut_after: Arc<AtomicU64>) {
    while let Ok((client, _)) = listener.accept().await {
        let (target, cut_after) = (target.lock().await.clone(), cut_after.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target.trim_start_matches("http://")).await else { return };
            // With small writes, each would wait for the acknowledgement of the one before.
            client.set_nodelay(true).unwrap();
            server.set_nodelay(true).unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let up = tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            });
            let mut passed = 0u64;
            let mut buffer = [0u8; 64];
            while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                passed += read as u64;
                let cut = cut_after.load(Ordering::Relaxed);
                if passed > cut {
                    break;
                }
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    break;
                }
            }
            up.abort();
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_retry_with_a_request_id_counts_once_wherever_the_connection_breaks() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let target = Arc::new(Mutex::new(cluster.writer_daemon.url.clone()));
    let cut_after = Arc::new(AtomicU64::new(u64::MAX));
    tokio::spawn(proxy(listener, target.clone(), cut_after.clone()));
    let rounds: u64 = by_lane(500, 50_000);
    let mut answers = BTreeMap::new();
    let (mut cuts, mut replays) = (0, 0);
    for round in 0..rounds {
        if round % 100 == 50 {
            cluster.writer_daemon.kill();
            cluster.writer_daemon = Daemon::writer(cluster.dir.path());
            *target.lock().await = cluster.writer_daemon.url.clone();
        }
        let id = format!("round-{round}");
        let operations = vec![insert("t", format!(r#"{{"id":"{id}"}}"#))];
        // The connection's settings take some bytes, and an answer some more. Each round cuts at another byte.
        cut_after.store(round * 7 % 400, Ordering::Relaxed);
        let token = loop {
            let connected = tonic::transport::Endpoint::from_shared(address.clone()).unwrap().connect().await;
            let outcome = match connected {
                Ok(channel) => apply_as(&mut Writer::new(channel), &id, operations.clone()).await.ok(),
                Err(_) => None,
            };
            match outcome {
                Some(answer) => {
                    replays += u64::from(answer.replayed);
                    break answer.token.unwrap();
                }
                None => {
                    cuts += 1;
                    cut_after.store(u64::MAX, Ordering::Relaxed);
                }
            }
        };
        assert!(answers.insert(token.seq, id).is_none(), "two requests became commit {}", token.seq);
    }
    let last = answers.keys().max().copied().unwrap();
    assert_eq!(last, 1 + rounds, "a commit too many or too few");
    let rows = select_at(&mut cluster.reader, "t", last).await.unwrap();
    assert_eq!(rows.len() as u64, rounds);
    assert!(cuts > rounds / 4 && replays > rounds / 20, "only {cuts} cuts and {replays} replays");
    // After a restart the writer still returns the first answer.
    cluster.writer_daemon.kill();
    cluster.writer_daemon = Daemon::writer(cluster.dir.path());
    let mut writer = cluster.writer_daemon.as_writer().await;
    for (seq, id) in answers.iter().step_by(17) {
        let again =
            apply_as(&mut writer, id, vec![insert("t", format!(r#"{{"id":"{id}"}}"#))]).await.unwrap();
        assert!(again.replayed);
        assert_eq!(again.token.unwrap().seq, *seq);
    }
}

#[tokio::test]
async fn a_request_id_belongs_to_one_request() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let writer = &mut cluster.writer;
    let first = apply_as(writer, "x", vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    let error = apply_as(writer, "x", vec![insert("t", r#"{"id":"b"}"#)]).await.unwrap_err();
    assert_eq!((error.code(), reason(&error).as_str()), (tonic::Code::InvalidArgument, "REQUEST_ID_REUSED"));
    // A refused request does not use up its id.
    let error = apply_as(writer, "y", vec![patch("t", "nobody", "{}")]).await.unwrap_err();
    assert_eq!(reason(&error), "ROW_NOT_FOUND");
    assert!(!apply_as(writer, "y", vec![insert("t", r#"{"id":"b"}"#)]).await.unwrap().replayed);
    let again = apply_as(writer, "x", vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap();
    assert!(again.replayed);
    assert_eq!(again.token, first.token);
    let long = "x".repeat(129);
    let error = apply_as(writer, &long, vec![insert("t", r#"{"id":"c"}"#)]).await.unwrap_err();
    assert_eq!(reason(&error), "TOO_LARGE");
}

#[tokio::test]
async fn a_request_id_older_than_the_window_is_new_again() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start("driftdb-writer", dir.path(), &["--request-commits", "2"]);
    let mut writer = daemon.as_writer().await;
    create_table(&mut writer, "t").await.unwrap();
    let put_one = || vec![put("t", r#"{"id":"a"}"#)];
    let first = apply_as(&mut writer, "x", put_one()).await.unwrap().token.unwrap().seq;
    for id in ["y", "z"] {
        apply_as(&mut writer, id, put_one()).await.unwrap();
    }
    let again = apply_as(&mut writer, "x", put_one()).await.unwrap();
    assert!(!again.replayed && again.token.unwrap().seq > first);
}

#[tokio::test]
async fn a_duplicate_in_flight_gets_the_first_requests_answer() {
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let mut writer = cluster.writer.clone();
            tokio::spawn(async move {
                apply_as(&mut writer, "one", vec![insert("t", r#"{"id":"a"}"#)]).await.unwrap()
            })
        })
        .collect();
    let mut first = 0;
    for call in calls {
        let answer = call.await.unwrap();
        first += u64::from(!answer.replayed);
        assert_eq!(answer.token.unwrap().seq, 2);
    }
    assert_eq!(first, 1);
}

/// Who has lost an answer, and the request, asks which commit it made.
#[tokio::test]
async fn a_commit_is_found_by_its_request_and_by_its_producer() {
    use v1::find_commit_request::MadeBy;
    let mut cluster = Cluster::start().await;
    cluster.create("t").await;
    let row = |id: &str| vec![insert("t", format!(r#"{{"id":"{id}"}}"#))];
    let made = apply_as(&mut cluster.writer, "one", row("a")).await.unwrap().token.unwrap();
    let batches: Vec<_> = (1..=3)
        .map(|batch_id| v1::IngestRequest {
            producer_id: if batch_id == 1 { "p".into() } else { String::new() },
            batch_id,
            operations: row(&format!("p{batch_id}")),
            ..Default::default()
        })
        .collect();
    let mut answers = cluster.writer.ingest(tokio_stream::iter(batches)).await.unwrap().into_inner();
    while answers.message().await.unwrap().is_some() {}
    let refused = apply_as(&mut cluster.writer, "two", row("a")).await.unwrap_err();
    assert_eq!(reason(&refused), "ROW_EXISTS");
    for round in 0..2 {
        let mut find = async |made_by: Option<MadeBy>| {
            let request = v1::FindCommitRequest { made_by };
            cluster.writer.find_commit(request).await.map(tonic::Response::into_inner)
        };
        let found = find(Some(MadeBy::RequestId("one".into()))).await.unwrap();
        assert_eq!((found.token, found.batch_id), (Some(made), 0), "round {round}");
        for unknown in [MadeBy::RequestId("two".into()), MadeBy::ProducerId("q".into())] {
            assert_eq!(find(Some(unknown)).await.unwrap(), v1::FindCommitResponse::default());
        }
        let found = find(Some(MadeBy::ProducerId("p".into()))).await.unwrap();
        let token = found.token.unwrap();
        assert_eq!((token.seq, token.epoch, token.time), (made.seq + 3, made.epoch, None));
        assert_eq!(found.batch_id, 3);
        for nothing in [None, Some(MadeBy::RequestId(String::new()))] {
            assert_eq!(reason(&find(nothing).await.unwrap_err()), "ARGUMENT_INVALID");
        }
        if round == 0 {
            cluster.writer_daemon.kill();
            cluster.writer_daemon = Daemon::writer(cluster.dir.path());
            cluster.writer = cluster.writer_daemon.as_writer().await;
        }
    }
    let client = driftdb::client::Client::new([&cluster.writer_daemon.url], [] as [&str; 0]);
    assert_eq!(client.find_commit("one").await.unwrap(), Some(made));
    assert_eq!(client.find_commit("two").await.unwrap(), None);
}
