//! The memory of both daemons under each attack, with the default budget: its peak, and what is left after a minute.
//!
//! The figures are printed. The peaks must stay within the budget and what the daemons need beside it.

use std::time::Duration;

use crate::harness::figures::{Figures, KEPT_KIB};
use crate::harness::lane::by_lane;
use crate::harness::raw_http2::{RawConnection, framed, header};
use crate::harness::*;
use driftdb::v1;
use tokio::task::JoinSet;

fn streams() -> usize {
    by_lane(400, 4000)
}

#[tokio::test]
#[ignore = "slow"]
async fn gets_with_a_closed_window() {
    let figures = Figures::start().await;
    let mut client = RawConnection::open(&figures.reader.url, 0).await;
    let keys = (0..100).map(|n| n.to_string()).collect();
    let get = v1::GetRequest { table: "t".into(), keys, ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..streams() {
        // The reader may close the connection, which holds answers and does not take them.
        let Some(call) = client.call("ReaderService/Get", &get).await else { break };
        unread.push(call.answer().await);
    }
    drop((client, unread));
    figures.finish("Get with a closed window").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn selects_with_a_window_of_one_byte() {
    let figures = Figures::start().await;
    let mut client = RawConnection::open(&figures.reader.url, 1).await;
    let select = v1::SelectRequest { table: "t".into(), ..Default::default() };
    let mut unread = Vec::new();
    for _ in 0..streams() {
        // As above.
        let Some(call) = client.call("ReaderService/Select", &select).await else { break };
        unread.push(call.answer().await);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop((client, unread));
    figures.finish("Select with a window of one byte").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn bodies_without_an_end() {
    let figures = Figures::start().await;
    let mut bytes = header(64 << 20);
    bytes.extend([0x0a, 0xff, 0xff, 0xff, 0x1f]);
    bytes.resize(63 << 20, 0);
    let bytes = bytes::Bytes::from(bytes);
    let mut sending = JoinSet::new();
    for (url, method) in
        [(&figures.writer.url, "WriterService/Apply"), (&figures.reader.url, "ReaderService/Get")]
    {
        for _ in 0..by_lane(10, 50) {
            let (url, bytes) = (url.clone(), bytes.clone());
            sending.spawn(async move {
                let mut client = RawConnection::open(&url, 1 << 20).await;
                let Some(mut call) = client.start(method).await else { return };
                call.send(bytes).await;
                // The rest never comes.
                tokio::time::sleep(Duration::from_secs(2)).await;
            });
        }
    }
    while sending.join_next().await.is_some() {}
    figures.finish("bodies without an end").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn sixteen_requests_of_64_mib() {
    let figures = Figures::start().await;
    let text = "x".repeat(6 << 10);
    let row = |n: usize| put("t", format!(r#"{{"id":"{n}","p":"{text}"}}"#));
    let request = v1::ApplyRequest { operations: (0..10_000).map(row).collect(), ..Default::default() };
    let bytes = framed(&request);
    drop(request);
    let mut sending = JoinSet::new();
    for _ in 0..16 {
        let (url, bytes) = (figures.writer.url.clone(), bytes.clone());
        sending.spawn(async move {
            let mut client = RawConnection::open(&url, 1 << 20).await;
            let mut call = client.start("WriterService/Apply").await.unwrap();
            call.send(bytes).await;
            call.body.send_data(bytes::Bytes::new(), true).ok();
            call.answer().await.0
        });
    }
    let mut refused = 0;
    while let Some(status) = sending.join_next().await {
        refused += usize::from(status.unwrap().is_some());
    }
    // The rows of a request that was not refused stay, in the memtables and in the buffers of the log.
    figures.finish_with(&format!("16 requests of 64 MiB ({refused} refused)"), 2 * KEPT_KIB).await;
}

#[tokio::test]
#[ignore = "slow"]
async fn ingest_streams_that_read_nothing() {
    let figures = Figures::start().await;
    let mut sending = JoinSet::new();
    for stream in 0..64 {
        let url = figures.writer.url.clone();
        sending.spawn(async move {
            let mut client = RawConnection::open(&url, 0).await;
            let mut call = client.start("WriterService/Ingest").await.unwrap();
            for batch_id in 1..=by_lane(4, 40) {
                // Nearly all operations are refused: the rows of the others stay in memory.
                let operation = |n: u64| match n % 20 {
                    1.. => delete("t", &format!("missing {n}")),
                    0 => put("t", format!(r#"{{"id":"{stream}-{batch_id}-{n}","p":"{}"}}"#, "x".repeat(100))),
                };
                let operations = (0..2000).map(operation).collect();
                let batch = v1::IngestRequest { batch_id, operations, ..Default::default() };
                let sent = tokio::time::timeout(Duration::from_secs(5), call.send(framed(&batch))).await;
                if sent != Ok(true) {
                    break;
                }
            }
        });
    }
    while sending.join_next().await.is_some() {}
    figures.finish("64 ingest streams that read nothing").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn many_watches() {
    let figures = Figures::start().await;
    let watches = by_lane(2000, 20_000);
    let mut clients = Vec::new();
    let mut open = Vec::new();
    for n in 0..watches {
        if n % 1000 == 0 {
            clients.push(RawConnection::open(&figures.reader.url, 1 << 16).await);
        }
        let keys = vec![n.to_string()];
        let watch = v1::WatchDriftRequest { tables: vec!["t".into()], keys, ..Default::default() };
        let call = clients.last_mut().unwrap().call("ReaderService/WatchDrift", &watch).await.unwrap();
        let (status, rest) = call.answer().await;
        assert_eq!(status, None, "watch {n}");
        open.push(rest);
    }
    println!("{watches} watches: {} MiB", figures.reader.memory_kib("VmRSS:") >> 10);
    drop((clients, open));
    figures.finish(&format!("{watches} watches")).await;
}

#[tokio::test]
#[ignore = "slow"]
async fn a_hundred_full_scans() {
    let figures = Figures::start().await;
    let reader = figures.reader.as_reader().await;
    let mut scans = JoinSet::new();
    for _ in 0..100 {
        let mut reader = reader.clone();
        scans.spawn(async move { select_at(&mut reader, "t", 2).await.unwrap().len() });
    }
    while let Some(rows) = scans.join_next().await {
        assert_eq!(rows.unwrap(), 100);
    }
    figures.finish("100 full scans").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn a_hostile_difference() {
    let figures = Figures::start().await;
    let mut writer = figures.writer.as_writer().await;
    let document = |n: u32| {
        let numbers = vec![n.to_string(); 150_000].join(",");
        format!(r#"{{"id":"a","{}":[{numbers}]}}"#, "f".repeat(100_000))
    };
    let start = apply(&mut writer, vec![put("t", document(1))]).await.unwrap().seq;
    let end = apply(&mut writer, vec![put("t", document(2))]).await.unwrap().seq;
    let freshness = Some(v1::Freshness { min_seq: end, ..Default::default() });
    let request = v1::DiffRequest {
        table: "t".into(),
        start: at_seq(start),
        end: at_seq(end),
        freshness,
        ..Default::default()
    };
    let mut stream = figures.reader.as_reader().await.diff(request).await.unwrap().into_inner();
    let rows = stream.message().await.unwrap().unwrap().rows;
    assert!(rows[0].json_patch_omitted);
    figures.finish("a hostile Diff of one row").await;
}
