//! Tests of loads with a stub writer that remembers its producers and breaks streams on request.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::json;
use driftdb_common::service::status::to_status;
use driftdb_common::storage::fs;
use tokio::net::TcpListener;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};
use v1::operation::Action;
use v1::writer_service_server::{WriterService, WriterServiceServer};

use crate::testing::driftctl;

/// The state of the stub writer.
#[derive(Debug, Default)]
struct Disk {
    rows: BTreeMap<String, String>,
    seq: u64,
    /// The last batch and operation of each producer; `usize::MAX` after the last operation of a batch.
    producers: HashMap<String, (u64, usize)>,
    /// The number of streams opened so far.
    streams: usize,
    /// The number of operations after which each next stream breaks, last first. Without a number it does not break.
    breaks: Vec<usize>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Disk>>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_asked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for this"))
}

impl Fake {
    async fn serve(breaks: &[usize]) -> (Fake, String) {
        let fake = Fake::default();
        fake.0.lock().unwrap().breaks = breaks.iter().rev().copied().collect();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let server = tonic::transport::Server::builder().add_service(WriterServiceServer::new(fake.clone()));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        (fake, address)
    }

    fn rows(&self) -> Vec<String> {
        self.0.lock().unwrap().rows.values().cloned().collect()
    }

    /// Writes the operations of a batch that were not written before. Returns the rejected ones.
    fn batch(
        &self,
        producer: &str,
        request: v1::IngestRequest,
        left: &mut Option<usize>,
    ) -> Result<v1::IngestResponse, Status> {
        let mut disk = self.0.lock().unwrap();
        let durable = disk.producers.get(producer).copied().unwrap_or_default();
        let mut errors = Vec::new();
        for (index, operation) in request.operations.into_iter().enumerate() {
            if (request.batch_id, index) <= durable {
                continue;
            }
            if left.as_mut().is_some_and(|left| left.checked_sub(1).map(|l| *left = l).is_none()) {
                return Err(to_status(Error::new(Reason::ShuttingDown, "going down")));
            }
            let (document, put) = match operation.action.unwrap() {
                Action::Insert(document) => (document, false),
                Action::Put(document) => (document, true),
                other => panic!("{other:?}"),
            };
            let Some(v1::document::Body::Msgpack(encoded)) = document.body else { panic!() };
            let text = json::from_msgpack(&encoded).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let key = value["id"].to_string();
            if disk.rows.contains_key(&key) && !put {
                let reason = Reason::RowExists.as_str().to_owned();
                let (batch_id, index) = (request.batch_id, u32::try_from(index).unwrap());
                errors.push(v1::OperationError {
                    batch_id,
                    index,
                    code: 6,
                    reason,
                    message: "exists".into(),
                });
                continue;
            }
            disk.rows.insert(key, text);
            disk.seq += 1;
            disk.producers.insert(producer.to_owned(), (request.batch_id, index));
        }
        disk.producers.insert(producer.to_owned(), (request.batch_id, usize::MAX));
        let token = Some(v1::WriteToken { seq: disk.seq, time: None, epoch: 1 });
        Ok(v1::IngestResponse { durable_batch_id: request.batch_id, token, errors })
    }
}

#[tonic::async_trait]
impl WriterService for Fake {
    type IngestStream = Answers<v1::IngestResponse>;
    type ExecuteStream = Answers<v1::WriterServiceExecuteResponse>;
    type SnapshotStream = Answers<v1::SnapshotResponse>;
    type CompactStream = Answers<v1::CompactResponse>;
    type VerifyStream = Answers<v1::VerifyResponse>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let mut requests = request.into_inner();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let fake = self.clone();
        let mut left = {
            let mut disk = fake.0.lock().unwrap();
            disk.streams += 1;
            disk.breaks.pop()
        };
        tokio::spawn(async move {
            let producer = requests.next().await.unwrap().unwrap().producer_id;
            let (batch, index) = fake.0.lock().unwrap().producers.get(&producer).copied().unwrap_or_default();
            let whole = index == usize::MAX || batch == 0;
            let durable_batch_id = if whole { batch } else { batch - 1 };
            let hello = v1::IngestResponse { durable_batch_id, ..Default::default() };
            sender.send(Ok(hello)).await.unwrap();
            while let Some(Ok(request)) = requests.next().await {
                let answer = fake.batch(&producer, request, &mut left);
                let broken = answer.is_err();
                if sender.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        let table = |table: &str, key_type: v1::KeyType| v1::TableInfo {
            table: table.into(),
            primary_key: "id".into(),
            key_type: key_type.into(),
            ..Default::default()
        };
        let tables = vec![table("orders", v1::KeyType::String), table("numbers", v1::KeyType::Int)];
        Ok(Response::new(v1::WriterServiceStatusResponse { tables, ..Default::default() }))
    }

    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        not_asked()
    }
    async fn create_table(
        &self,
        _: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        not_asked()
    }
    async fn alter_table(
        &self,
        _: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        not_asked()
    }
    async fn drop_table(
        &self,
        _: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        not_asked()
    }
    async fn execute(
        &self,
        _: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        not_asked()
    }
    async fn snapshot(
        &self,
        _: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        not_asked()
    }
    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<Self::CompactStream>, Status> {
        not_asked()
    }
    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        not_asked()
    }
}

fn file(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::create_output(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn text_of(path: &str) -> String {
    let mut text = String::new();
    std::io::Read::read_to_string(&mut crate::input::open(Path::new(path)).unwrap(), &mut text).unwrap();
    text
}

fn numbered(keys: std::ops::Range<u64>) -> String {
    keys.map(|key| format!("{{\"id\":\"{key:03}\"}}\n")).collect()
}

/// Runs a load. Returns its output, or its exit code and error.
async fn ingest(writer: &str, args: &[&str]) -> Result<String, (u8, String)> {
    let (outcome, text) = driftctl(&[&["--writer", writer, "ingest", "-t", "orders"], args].concat()).await;
    outcome.map(|()| text).map_err(|failure| (failure.code(), failure.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_is_loaded_once_even_if_the_stream_breaks() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "rows.jsonl", &numbered(0..300));
    // Inside batches, at their ends, and immediately.
    let (fake, writer) = Fake::serve(&[25, 10, 0, 7, 100, 1]).await;
    let args = ["--file", &path, "--batch", "10", "--in-flight", "4"];
    assert_eq!(ingest(&writer, &args).await.unwrap(), "{\"last_seq\":300,\"commits\":300,\"events\":300}\n");
    assert_eq!(fake.rows().len(), 300);
    assert_eq!(fake.0.lock().unwrap().streams, 7);
    // A repeated command finds nothing to do; --restart loads everything again.
    assert_eq!(ingest(&writer, &args).await.unwrap(), "{\"last_seq\":0,\"commits\":0,\"events\":0}\n");
    let (code, text) = ingest(&writer, &[&args[..], &["--restart"]].concat()).await.unwrap_err();
    assert!(code == 1 && text.contains("rows.jsonl, line 1: exists (ALREADY_EXISTS, ROW_EXISTS)"), "{text}");
    let again = [&args[..], &["--restart", "--upsert"]].concat();
    assert!(ingest(&writer, &again).await.unwrap().contains("\"events\":300"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_resumes_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}nonsense\n{}", numbered(0..25), numbered(25..40));
    let path = file(dir.path(), "rows.jsonl", &text);
    let (fake, writer) = Fake::serve(&[]).await;
    let args = ["--file", &path, "--batch", "10"];
    let (code, told) = ingest(&writer, &args).await.unwrap_err();
    assert!(code == 1 && told.contains("rows.jsonl, line 26: "), "{told}");
    // The valid lines before it are on disk and are not sent again.
    assert_eq!(fake.rows().len(), 25);
    let bad = dir.path().join("bad.jsonl");
    let skipping = [&args[..], &["--skip-bad", bad.to_str().unwrap()]].concat();
    let loaded = ingest(&writer, &skipping).await.unwrap();
    assert_eq!(loaded, "{\"last_seq\":40,\"commits\":15,\"events\":15,\"skipped\":1}\n");
    assert_eq!(text_of(bad.to_str().unwrap()), "nonsense\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_and_rejected_lines_are_skipped_and_kept_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad").to_str().unwrap().to_owned();
    let path = file(
        dir.path(),
        "rows.jsonl",
        "\n{\"id\":\"a\"}\r\n[1]\n{\"id\":\"b\"}\n  {\"id\":\"a\"}\n{\"id\":\"c\",\"c\":1,\"c\":2}\n{\"id\":\"d\"}",
    );
    let (fake, writer) = Fake::serve(&[]).await;
    let args = ["--file", &path, "--skip-bad", &bad];
    let loaded = ingest(&writer, &args).await.unwrap();
    assert_eq!(loaded, "{\"last_seq\":3,\"commits\":3,\"events\":3,\"skipped\":3}\n");
    assert_eq!(fake.rows(), ["a", "b", "d"].map(|id| format!("{{\"id\":\"{id}\"}}")));
    let mut aside: Vec<_> = text_of(&bad).lines().map(str::to_owned).collect();
    aside.sort();
    assert_eq!(aside, ["  {\"id\":\"a\"}", "[1]", "{\"id\":\"c\",\"c\":1,\"c\":2}"]);
    let (code, told) = ingest(&writer, &["--file", &path, "--skip-bad", &path]).await.unwrap_err();
    assert!(code == 2 && told.contains("is the input file"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_cells_are_loaded_with_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}id,n,note\r\n7,1.5,\"two\r\nlines\"\r\n8,007\r\n9,2,x\r\n";
    let path = file(dir.path(), "rows.CSV", text);
    let bad = dir.path().join("bad.csv").to_str().unwrap().to_owned();
    let (fake, writer) = Fake::serve(&[]).await;
    let loaded = ingest(&writer, &["--file", &path, "--skip-bad", &bad]).await.unwrap();
    assert!(loaded.contains("\"events\":2,\"skipped\":1"), "{loaded}");
    let rows = [r#"{"id":"7","n":1.5,"note":"two\r\nlines"}"#, r#"{"id":"9","n":2,"note":"x"}"#];
    assert_eq!(fake.rows(), rows);
    // The file of skipped lines has a header, so that it can be corrected and loaded.
    assert_eq!(text_of(&bad), "id,n,note\r\n8,007\r\n");
    let (code, told) =
        ingest(&writer, &["--file", &path, "--format", "jsonl", "--restart"]).await.unwrap_err();
    assert!(code == 1 && told.contains("rows.CSV, line 1: "), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_reported_before_the_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "rows.jsonl", &numbered(0..3));
    let (_, writer) = Fake::serve(&[]).await;
    let (outcome, _) = driftctl(&["--writer", &writer, "ingest", "-t", "ordes", "--file", &path]).await;
    let failure = outcome.unwrap_err();
    assert!(failure.code() == 4 && failure.text().contains("did you mean \"orders\"?"), "{}", failure.text());
}
