//! What clients can make a daemon hold has a bound: it refuses or waits, serves others meanwhile, and gives the memory back.

use std::time::Duration;

use crate::harness::raw_http2::{RawConnection, framed, header, usage};
use crate::harness::*;
use driftdb::v1;
use prost::Message;
use tokio::task::JoinSet;
use tonic::Code;

/// The smallest budget.
const BUDGET: [&str; 2] = ["--request-memory", "67108864"];
/// The growth of a daemon under attack that is within that budget, in KiB: the budget, and as much for what comes beside it.
const GROWTH_KIB: u64 = 2 * (64 << 10);
/// RESOURCE_EXHAUSTED.
const EXHAUSTED: Option<i32> = Some(8);

struct Attacked {
    dir: tempfile::TempDir,
    writer: Daemon,
    reader: Daemon,
}

impl Attacked {
    /// A table `t` with `rows` rows of `bytes` bytes each.
    async fn start(rows: usize, bytes: usize) -> Attacked {
        let dir = tempfile::tempdir().unwrap();
        let writer = Daemon::start("driftdb-writer", dir.path(), &BUDGET);
        let mut client = writer.as_writer().await;
        create_table(&mut client, "t").await.unwrap();
        for n in 0..rows {
            let document = format!(r#"{{"id":"{n}","p":"{}"}}"#, "x".repeat(bytes));
            apply(&mut client, vec![insert("t", document)]).await.unwrap();
        }
        let reader = Daemon::start("driftdb-reader", dir.path(), &BUDGET);
        Attacked { dir, writer, reader }
    }

    async fn reader_memory(&self) -> Vec<v1::MemoryUsage> {
        let status = self.reader.as_reader().await.status(v1::ReaderServiceStatusRequest {}).await;
        status.unwrap().into_inner().memory
    }

    async fn writer_memory(&self) -> Vec<v1::MemoryUsage> {
        let status = self.writer.as_writer().await.status(v1::WriterServiceStatusRequest {}).await;
        status.unwrap().into_inner().memory
    }
}

fn get(keys: usize) -> v1::GetRequest {
    let keys = (0..keys).map(|n| n.to_string()).collect();
    v1::GetRequest { table: "t".into(), keys, ..Default::default() }
}

/// Waits until a use of the reader's memory holds nothing.
async fn wait_until_free(attacked: &Attacked, name: &str) {
    while usage(&attacked.reader_memory().await, name).bytes > 64 << 10 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_refused_beyond_the_memory() {
    let attacked = Attacked::start(8, 64 << 10).await;
    let before = attacked.reader.memory_kib("VmRSS:");
    let mut client = RawConnection::open(&attacked.reader.url, 0).await;
    let (mut unread, mut refused) = (Vec::new(), 0);
    for _ in 0..400 {
        // Half a MiB each, 200 MiB in all.
        let call = client.call("ReaderService/Get", &get(8)).await.unwrap();
        match call.answer().await {
            (EXHAUSTED, _) => refused += 1,
            (None, Some(rest)) => unread.push(rest),
            other => panic!("{other:?}"),
        }
    }
    assert!(!unread.is_empty() && refused > 300, "{refused} refused");
    let memory = attacked.reader_memory().await;
    let answers = usage(&memory, "answers");
    assert!(answers.bytes <= answers.limit_bytes / 2 && answers.refused > 300, "{answers:?}");
    let grown = attacked.reader.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    // Another client is served.
    let mut other = attacked.reader.as_reader().await;
    assert_eq!(other.get(get(8)).await.unwrap().into_inner().rows.len(), 8);
    drop((client, unread));
    wait_until_free(&attacked, "answers").await;
}

#[tokio::test]
async fn pages_that_nobody_reads_are_not_computed_beyond_the_memory() {
    let attacked = Attacked::start(16, 64 << 10).await;
    let before = attacked.reader.memory_kib("VmRSS:");
    let mut client = RawConnection::open(&attacked.reader.url, 1).await;
    let mut unread = Vec::new();
    for _ in 0..400 {
        let select = v1::SelectRequest { table: "t".into(), ..Default::default() };
        let call = client.call("ReaderService/Select", &select).await.unwrap();
        unread.push(call.answer().await);
    }
    let memory = attacked.reader_memory().await;
    let answers = usage(&memory, "answers");
    assert!(answers.bytes <= answers.limit_bytes / 2, "{answers:?}");
    let grown = attacked.reader.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    // Another client is served, and one that reads slowly gets all.
    let mut other = attacked.reader.as_reader().await;
    assert_eq!(select_at(&mut other, "t", 17).await.unwrap().len(), 16);
    drop((client, unread));
    wait_until_free(&attacked, "answers").await;
}

#[tokio::test]
#[ignore = "slow"]
async fn clients_that_do_not_read_give_way_to_those_that_do() {
    let attacked = Attacked::start(8, 64 << 10).await;
    // Three connections hold all memory for answers.
    let (mut clients, mut unread) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut client = RawConnection::open(&attacked.reader.url, 0).await;
        for _ in 0..12 {
            unread.push(client.call("ReaderService/Get", &get(8)).await.unwrap().answer().await);
        }
        clients.push(client);
    }
    let mut other = attacked.reader.as_reader().await;
    let refused = other.get(get(8)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "OVERLOADED"));
    // A short answer finds memory even now.
    assert_eq!(other.get(get(0)).await.unwrap().into_inner().rows.len(), 0);
    while other.get(get(8)).await.is_err() {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    drop((clients, unread));
}

#[tokio::test]
async fn many_readers_of_one_connection_all_get_their_pages() {
    let attacked = Attacked::start(16, 64 << 10).await;
    let reader = attacked.reader.as_reader().await;
    let mut scans = JoinSet::new();
    for _ in 0..100 {
        // 100 times as much as fits into the memory at once.
        let mut reader = reader.clone();
        scans.spawn(async move { select_at(&mut reader, "t", 17).await.unwrap().len() });
    }
    while let Some(rows) = scans.join_next().await {
        assert_eq!(rows.unwrap(), 16);
    }
}

#[tokio::test]
async fn requests_without_an_end_are_refused_beyond_the_memory() {
    let attacked = Attacked::start(0, 0).await;
    let before = attacked.writer.memory_kib("VmRSS:");
    let url = attacked.writer.url.clone();
    let mut endless = JoinSet::new();
    for _ in 0..4 {
        let url = url.clone();
        endless.spawn(async move {
            let mut client = RawConnection::open(&url, 1 << 20).await;
            let mut refused = 0;
            for _ in 0..4 {
                let mut call = client.start("WriterService/Apply").await.unwrap();
                let mut bytes = header(60 << 20);
                bytes.extend(vec![0x0a, 0xff, 0xff, 0xff, 0x1f]);
                bytes.resize(32 << 20, 0);
                call.send(bytes.into()).await;
                refused += usize::from(matches!(call.answer().await.0, EXHAUSTED | Some(3)));
            }
            refused
        });
    }
    while let Some(refused) = endless.join_next().await {
        assert_eq!(refused.unwrap(), 4);
    }
    let grown = attacked.writer.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    let mut other = attacked.writer.as_writer().await;
    apply(&mut other, vec![insert("t", r#"{"id":"1"}"#)]).await.unwrap();
    assert!(usage(&attacked.writer_memory().await, "requests").bytes < 64 << 10);
}

#[tokio::test]
async fn a_request_that_grows_when_it_is_decoded_is_too_large() {
    let attacked = Attacked::start(0, 0).await;
    let before = attacked.writer.memory_kib("VmRSS:");
    let mut client = RawConnection::open(&attacked.writer.url, 1 << 20).await;
    // Empty operations: two bytes each on the wire, a hundred in memory.
    let message: Vec<u8> = [0x0a, 0].repeat(2 << 20);
    let mut bytes = header(message.len());
    bytes.extend(message);
    let mut call = client.start("WriterService/Apply").await.unwrap();
    call.send(bytes.into()).await;
    assert_eq!(call.answer().await.0, Some(Code::InvalidArgument as i32));
    let grown = attacked.writer.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
}

/// A batch whose operations are all refused.
fn refused_batch(batch_id: u64, operations: usize) -> v1::IngestRequest {
    let operations = (0..operations).map(|n| delete("t", &format!("missing {n}"))).collect();
    v1::IngestRequest { batch_id, operations, ..Default::default() }
}

#[tokio::test]
async fn a_stream_whose_refusals_nobody_reads_takes_no_more() {
    let attacked = Attacked::start(0, 0).await;
    let before = attacked.writer.memory_kib("VmRSS:");
    let mut client = RawConnection::open(&attacked.writer.url, 0).await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        let mut call = client.start("WriterService/Ingest").await.unwrap();
        // Until the stream stops reading. 200 batches would lead to 130 MB of refusals.
        let sending = async {
            for batch_id in 1..=200 {
                if !call.send(framed(&refused_batch(batch_id, 1000))).await {
                    return;
                }
            }
            panic!("the stream reads on though nobody reads its refusals");
        };
        let stopped = tokio::time::timeout(Duration::from_millis(300), sending).await;
        assert!(stopped.is_err(), "the stream waits");
        unread.push(call);
    }
    let memory = attacked.writer_memory().await;
    let ingest = usage(&memory, "ingest");
    assert!(ingest.bytes <= ingest.limit_bytes / 2, "{ingest:?}");
    let grown = attacked.writer.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
    // Another stream is served.
    let mut other = attacked.writer.as_writer().await;
    let batches = tokio_stream::iter((1..=3).map(|batch_id| refused_batch(batch_id, 2500)));
    let mut acks = other.ingest(batches).await.unwrap().into_inner();
    let (mut refused, mut durable) = (0, 0);
    while let Some(ack) = acks.message().await.unwrap() {
        assert!(ack.durable_batch_id >= durable && ack.errors.len() <= 1000);
        durable = ack.durable_batch_id;
        refused += ack.errors.len();
    }
    assert_eq!((refused, durable), (7500, 3));
    drop((client, unread));
    while usage(&attacked.writer_memory().await, "ingest").bytes > 0 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_patch_of_a_hostile_difference_is_left_out() {
    let attacked = Attacked::start(0, 0).await;
    let mut writer = attacked.writer.as_writer().await;
    // A long name above a long array: the patch would have 10 GB.
    let document = |n: u32| {
        let numbers = vec![n.to_string(); 100_000].join(",");
        format!(r#"{{"id":"a","{}":[{numbers}]}}"#, "f".repeat(100_000))
    };
    let plain = |n: u32| format!(r#"{{"id":"b","numbers":[{}]}}"#, vec![n.to_string(); 100_000].join(","));
    let small = |n: u32| format!(r#"{{"id":"c","n":{n}}}"#);
    let all = |n| vec![put("t", document(n)), put("t", plain(n)), put("t", small(n))];
    let start = apply(&mut writer, all(1)).await.unwrap().seq;
    let end = apply(&mut writer, all(2)).await.unwrap().seq;
    // With the client's default limit of 4 MiB for a message.
    let mut reader = v1::reader_service_client::ReaderServiceClient::new(connect(&attacked.reader.url).await);
    let before = attacked.reader.memory_kib("VmRSS:");
    let request = v1::DiffRequest {
        table: "t".into(),
        start: at_seq(start),
        end: at_seq(end),
        freshness: Some(v1::Freshness { min_seq: end, ..Default::default() }),
        ..Default::default()
    };
    let mut stream = reader.diff(request).await.unwrap().into_inner();
    let mut rows = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        rows.extend(message.rows);
    }
    let patches: Vec<_> = rows.iter().map(|row| (row.json_patch.as_str(), row.json_patch_omitted)).collect();
    assert_eq!(patches, [("", true), ("", true), (r#"[{"op":"replace","path":"/n","value":2}]"#, false)]);
    assert_eq!(text_of(rows[1].before.as_ref().unwrap()), plain(1));
    assert_eq!(text_of(rows[1].after.as_ref().unwrap()), plain(2));
    let grown = attacked.reader.memory_kib("VmHWM:") - before;
    assert!(grown < GROWTH_KIB, "{grown} KiB");
}

#[tokio::test]
async fn watches_with_large_filters_are_refused_beyond_the_memory() {
    let attacked = Attacked::start(1, 10).await;
    let mut client = RawConnection::open(&attacked.reader.url, 1 << 16).await;
    let keys: Vec<String> = (0..1000).map(|n| format!("{n:04}{}", "k".repeat(1000))).collect();
    let watch = v1::WatchDriftRequest { tables: vec!["t".into()], keys, ..Default::default() };
    let (mut open, mut refused) = (Vec::new(), 0);
    for _ in 0..20 {
        // About 3 MiB each.
        match client.call("ReaderService/WatchDrift", &watch).await.unwrap().answer().await {
            (EXHAUSTED, _) => refused += 1,
            (None, Some(rest)) => open.push(rest),
            other => panic!("{other:?}"),
        }
    }
    assert!(!open.is_empty() && refused > 10, "{refused} refused");
    let memory = attacked.reader_memory().await;
    let watches = usage(&memory, "watches");
    assert!(watches.bytes > 0 && watches.bytes <= watches.limit_bytes / 2, "{watches:?}");
    // A small watch of another client is served.
    let mut other = attacked.reader.as_reader().await;
    let small = v1::WatchDriftRequest { tables: vec!["t".into()], ..Default::default() };
    assert!(other.watch_drift(small).await.unwrap().into_inner().message().await.unwrap().is_some());
    drop((client, open));
    wait_until_free(&attacked, "watches").await;
}

#[tokio::test]
async fn a_get_fits_into_the_default_message_of_a_client() {
    let attacked = Attacked::start(5, (1 << 20) - 1000).await;
    let mut reader = v1::reader_service_client::ReaderServiceClient::new(connect(&attacked.reader.url).await);
    let mut request = get(5);
    request.keys.extend((0..900).map(|n| format!("{n:04}{}", "k".repeat(1000))));
    let (mut rows, mut asked) = (0, 0);
    while !request.keys.is_empty() {
        let answer = reader.get(request.clone()).await.unwrap().into_inner();
        assert!(answer.encoded_len() < 4 << 20);
        assert!(answer.remaining.len() < request.keys.len());
        (rows, asked, request.keys) = (rows + answer.rows.len(), asked + 1, answer.remaining);
    }
    assert_eq!(rows, 5);
    assert!(asked <= 5, "{asked}");
    drop(attacked.dir);
}

#[tokio::test(flavor = "multi_thread")]
async fn small_patches_of_large_rows_make_the_writer_take_a_snapshot() {
    const ROWS: usize = 10;
    let dir = tempfile::tempdir().unwrap();
    // The rows take 6 MB, and the patches of all of them less than a kilobyte of log.
    let args = ["--memory", "4194304", "--snapshot-events", "1000000", "--snapshot-bytes", "1073741824"];
    let writer = Daemon::start("driftdb-writer", dir.path(), &args);
    let mut client = writer.as_writer().await;
    create_table(&mut client, "t").await.unwrap();
    let reader = Daemon::start("driftdb-reader", dir.path(), &[]);
    for n in 0..ROWS {
        let document = format!(r#"{{"id":"{n}","p":"{}"}}"#, "x".repeat(600_000));
        apply(&mut client, vec![insert("t", document)]).await.unwrap();
    }
    wait_for_snapshot(&reader, (ROWS + 1) as u64).await;
    for n in 0..ROWS {
        apply(&mut client, vec![patch("t", &n.to_string(), r#"{"n":1}"#)]).await.unwrap();
    }
    wait_for_snapshot(&reader, (2 * ROWS + 1) as u64).await;
}

/// Waits until a reader has applied a commit, and few of the events up to it are in no snapshot.
async fn wait_for_snapshot(reader: &Daemon, seq: u64) {
    let mut asking = reader.as_reader().await;
    let is_done = async {
        loop {
            let status = asking.status(v1::ReaderServiceStatusRequest {}).await.unwrap().into_inner();
            if status.header.clone().unwrap_or_default().applied_seq >= seq && status.memtable_events <= 8 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), is_done).await.expect("no snapshot was taken");
}
