//! Tests of loads with a stub writer that remembers its producers and breaks streams on request.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use driftdb::stub::{StubStream, WriterStub};
use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::format::json;
use driftdb_common::format::key::KeyType;
use driftdb_common::service::status::to_status;
use driftdb_common::storage::fs;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use v1::operation::Action;

use super::key_fields::KeyField;
use super::rows::{InputPiece, Pieces, ReadRules};
use crate::testing::{driftctl, serve_writer};

/// The state of the stub writer.
#[derive(Debug, Default)]
struct StubState {
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
struct IngestStub(Arc<Mutex<StubState>>);

impl IngestStub {
    async fn serve(breaks: &[usize]) -> (IngestStub, String) {
        let stub = IngestStub::default();
        stub.0.lock().unwrap().breaks = breaks.iter().rev().copied().collect();
        let address = serve_writer(stub.clone()).await;
        (stub, address)
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
        let mut state = self.0.lock().unwrap();
        let durable = state.producers.get(producer).copied().unwrap_or_default();
        let mut errors = Vec::new();
        for (index, operation) in request.operations.into_iter().enumerate() {
            let is_aside = request.set_aside.iter().any(|aside| *aside as usize == index);
            if (request.batch_id, index) <= durable || is_aside {
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
            if state.rows.contains_key(&key) && !put {
                let reason = Reason::RowExists.as_str().to_owned();
                let (batch_id, index) = (request.batch_id, u32::try_from(index).unwrap());
                errors.push(v1::OperationError {
                    batch_id,
                    index,
                    code: 6,
                    reason,
                    message: "exists".into(),
                });
                if request.stop_at_refusal {
                    let durable_batch_id = request.batch_id - 1;
                    return Ok(v1::IngestResponse { durable_batch_id, errors, ..Default::default() });
                }
                continue;
            }
            state.rows.insert(key, text);
            state.seq += 1;
            state.producers.insert(producer.to_owned(), (request.batch_id, index));
        }
        state.producers.insert(producer.to_owned(), (request.batch_id, usize::MAX));
        let token = Some(v1::WriteToken { seq: state.seq, time: None, epoch: 1, incarnation: 0 });
        let durable_batch_id = request.batch_id;
        Ok(v1::IngestResponse { durable_batch_id, token, errors, ..Default::default() })
    }
}

#[tonic::async_trait]
impl WriterStub for IngestStub {
    async fn ingest(
        &self,
        mut requests: Streaming<v1::IngestRequest>,
    ) -> Result<StubStream<v1::IngestResponse>, Status> {
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let stub = self.clone();
        let mut left = {
            let mut state = stub.0.lock().unwrap();
            state.streams += 1;
            state.breaks.pop()
        };
        tokio::spawn(async move {
            let producer = requests.next().await.unwrap().unwrap().producer_id;
            let (batch, index) = stub.0.lock().unwrap().producers.get(&producer).copied().unwrap_or_default();
            let whole = index == usize::MAX || batch == 0;
            let durable_batch_id = if whole { batch } else { batch - 1 };
            let operations_passed = if whole { 0 } else { u32::try_from(index).unwrap() + 1 };
            let hello = v1::IngestResponse { durable_batch_id, operations_passed, ..Default::default() };
            sender.send(Ok(hello)).await.unwrap();
            while let Some(Ok(request)) = requests.next().await {
                let answer = stub.batch(&producer, request, &mut left);
                let broken = answer.as_ref().map_or(true, |answer| !answer.errors.is_empty());
                if sender.send(answer).await.is_err() || broken {
                    return;
                }
            }
        });
        Ok(Box::pin(ReceiverStream::new(receiver)))
    }

    async fn status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        let table = |table: &str, key_type: v1::KeyType| v1::TableInfo {
            table: table.into(),
            primary_key: "id".into(),
            key_type: key_type.into(),
            ..Default::default()
        };
        let tables = vec![table("orders", v1::KeyType::String), table("numbers", v1::KeyType::Int)];
        Ok(v1::WriterServiceStatusResponse { tables, ..Default::default() })
    }
}

/// The documents that a load makes of CSV with the options of a command line, for a table with the key `id`.
pub(crate) fn documents_of(csv: &[u8], options: &[String]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.csv");
    fs::create_output(&path).unwrap().write_all(csv).unwrap();
    let line = ["driftctl", "ingest", "t", "--file", path.to_str().unwrap()].map(str::to_owned);
    let matches = crate::args::command().try_get_matches_from(line.iter().chain(options)).unwrap();
    let crate::args::Command::Ingest(args) = crate::args::from_matches(&matches).unwrap().command else {
        panic!("no ingest")
    };
    let id = KeyField { name: "id".into(), of: KeyType::String };
    let key = super::TableKey { fields: vec![id], is_auto: false, makes_keys: false, created_seq: Some(1) };
    let rules = ReadRules { csv: Some(super::cells(&args, &key)), batch: 100, keep_raw: false };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut pieces, mut found) = (Pieces::new(super::rows::open(&path, rules).unwrap()), Vec::new());
        while let Some(piece) = pieces.next().await {
            match piece.unwrap() {
                InputPiece::Batch(batch) => {
                    found.extend(batch.rows.iter().map(|row| json::from_msgpack(&row.document).unwrap()));
                }
                InputPiece::Bad(line, _, error) => panic!("line {line}: {error}"),
                InputPiece::Header(..) | InputPiece::End(..) => {}
            }
        }
        found
    })
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
    let (stub, writer) = IngestStub::serve(&[25, 10, 0, 7, 100, 1]).await;
    let args = ["--file", &path, "--batch", "10", "--in-flight", "4"];
    assert_eq!(ingest(&writer, &args).await.unwrap(), "{\"last_seq\":300,\"commits\":300,\"events\":300}\n");
    assert_eq!(stub.rows().len(), 300);
    assert_eq!(stub.0.lock().unwrap().streams, 7);
    // A repeated command finds nothing to do; --restart loads everything again.
    assert_eq!(ingest(&writer, &args).await.unwrap(), "{\"last_seq\":0,\"commits\":0,\"events\":0}\n");
    let (code, text) = ingest(&writer, &[&args[..], &["--restart"]].concat()).await.unwrap_err();
    assert!(code == 1 && text.contains("rows.jsonl, line 1: exists (ALREADY_EXISTS, ROW_EXISTS)"), "{text}");
    // A refused row stays the one to begin with, however often the command is repeated.
    let fixed = [&args[..], &["--producer", "p"]].concat();
    for _ in 0..3 {
        assert_eq!(ingest(&writer, &fixed[..]).await.unwrap_err().0, 1);
    }
    let again = [&args[..], &["--restart", "--upsert"]].concat();
    assert!(ingest(&writer, &again).await.unwrap().contains("\"events\":300"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_resumes_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}nonsense\n{}", numbered(0..25), numbered(25..40));
    let path = file(dir.path(), "rows.jsonl", &text);
    let (stub, writer) = IngestStub::serve(&[]).await;
    let args = ["--file", &path, "--batch", "10"];
    let (code, text) = ingest(&writer, &args).await.unwrap_err();
    assert!(code == 1 && text.contains("rows.jsonl, line 26: "), "{text}");
    // The valid lines before it are on disk and are not sent again.
    assert_eq!(stub.rows().len(), 25);
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
    let (stub, writer) = IngestStub::serve(&[]).await;
    let args = ["--file", &path, "--skip-bad", &bad];
    let loaded = ingest(&writer, &args).await.unwrap();
    assert_eq!(loaded, "{\"last_seq\":3,\"commits\":3,\"events\":3,\"skipped\":3}\n");
    assert_eq!(stub.rows(), ["a", "b", "d"].map(|id| format!("{{\"id\":\"{id}\"}}")));
    let mut aside: Vec<_> = text_of(&bad).lines().map(str::to_owned).collect();
    aside.sort();
    assert_eq!(aside, ["  {\"id\":\"a\"}", "[1]", "{\"id\":\"c\",\"c\":1,\"c\":2}"]);
    let (code, text) = ingest(&writer, &["--file", &path, "--skip-bad", &path]).await.unwrap_err();
    assert!(code == 2 && text.contains("is the input file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn csv_cells_are_loaded_with_their_types() {
    let dir = tempfile::tempdir().unwrap();
    let text = "\u{feff}id,n,note\r\n7,1.5,\"two\r\nlines\"\r\n8,007\r\n9,2,x\r\n";
    let path = file(dir.path(), "rows.CSV", text);
    let bad = dir.path().join("bad.csv").to_str().unwrap().to_owned();
    let (stub, writer) = IngestStub::serve(&[]).await;
    let loaded = ingest(&writer, &["--file", &path, "--skip-bad", &bad]).await.unwrap();
    assert!(loaded.contains("\"events\":2,\"skipped\":1"), "{loaded}");
    let rows = [r#"{"id":"7","n":1.5,"note":"two\r\nlines"}"#, r#"{"id":"9","n":2.0,"note":"x"}"#];
    assert_eq!(stub.rows(), rows);
    // The file of skipped lines has a header, so that it can be corrected and loaded.
    assert_eq!(text_of(&bad), "id,n,note\r\n8,007\r\n");
    let (code, text) =
        ingest(&writer, &["--file", &path, "--format", "jsonl", "--restart"]).await.unwrap_err();
    assert!(code == 1 && text.contains("rows.CSV, line 1: "), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_csv_column_has_one_type() {
    let dir = tempfile::tempdir().unwrap();
    // The last row alone says that `zip` is text, and its line has no end.
    let text = "id,price,zip\n1,9.99,1234\n2,10.00,10115\n3,12,\n4,,x";
    let path = file(dir.path(), "prices.csv", text);
    let row = |id: u32, price: &str, zip: &str| format!(r#"{{"id":"{id}","price":{price},"zip":"{zip}"}}"#);
    let zips = ["1234", "10115", "", "x"];
    let rows = |prices: [&str; 4]| {
        (1..)
            .zip(prices.into_iter().zip(zips))
            .map(|(id, (price, zip))| row(id, price, zip))
            .collect::<Vec<_>>()
    };
    for (args, expected) in [
        (&[][..], rows(["9.99", "10.0", "12.0", "null"])),
        (&["--all-text"], rows(["\"9.99\"", "\"10.00\"", "\"12\"", "\"\""])),
        (&["--types", "zip=text,price=float"], rows(["9.99", "10.0", "12.0", "null"])),
        (&["--all-text", "--types", "price=decimal"], rows(["9.99", "10.0", "12.0", "null"])),
    ] {
        let (stub, writer) = IngestStub::serve(&[]).await;
        ingest(&writer, &[&["--file", &path], args].concat()).await.unwrap();
        assert_eq!(stub.rows(), expected, "{args:?}");
    }
    // A cell that does not fit is named, and nothing is loaded as another type.
    let (stub, writer) = IngestStub::serve(&[]).await;
    let (code, text) = ingest(&writer, &["--file", &path, "--types", "price=int"]).await.unwrap_err();
    assert!(code == 1 && text.contains("line 2: column \"price\" is int, and \"9.99\" is not"), "{text}");
    assert!(stub.rows().is_empty());
    for (args, code, expected) in [
        (["--types", "prize=int"], 1, "did you mean \"price\"?"),
        (["--types", "id=int"], 1, "the primary key"),
    ] {
        let (found, text) = ingest(&writer, &[&["--file", &path], &args[..]].concat()).await.unwrap_err();
        assert!(found == code && text.contains(expected), "{args:?}: {text}");
    }
    let json = file(dir.path(), "rows.jsonl", "{\"id\":1}\n");
    let (code, text) = ingest(&writer, &["--file", &json, "--all-text"]).await.unwrap_err();
    assert!(code == 2 && text.contains("for CSV and TSV files"), "{text}");
}

/// The types are chosen from the start of a file. What comes later must fit them.
#[tokio::test(flavor = "multi_thread")]
async fn a_cell_after_the_sample_does_not_change_the_type() {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("id,n\n");
    let padding = "0".repeat(60_000);
    for id in 0..600 {
        text += &format!("{padding}{id},{id}\n");
    }
    text += "last,n/a\n";
    let path = file(dir.path(), "rows.csv", &text);
    let bad = dir.path().join("bad.csv").to_str().unwrap().to_owned();
    let (_, writer) = IngestStub::serve(&[]).await;
    let (code, text) = ingest(&writer, &["--file", &path, "--batch", "100"]).await.unwrap_err();
    assert!(code == 1 && text.contains("line 602: column \"n\" is int, and \"n/a\" is not"), "{text}");
    let loaded = ingest(&writer, &["--file", &path, "--batch", "100", "--skip-bad", &bad]).await.unwrap();
    assert!(loaded.contains("\"skipped\":1"), "{loaded}");
    assert_eq!(text_of(&bad), "id,n\nlast,n/a\n");
}

/// The same rows in every format and compression.
#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_format_are_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [r#"{"id":"1","n":1.5,"note":"a;b"}"#, r#"{"id":"2","n":2.0,"note":"ü"}"#];
    let gzip = |text: &str| {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = |text: &str| zstd::encode_all(text.as_bytes(), 1).unwrap();
    let (csv, tsv) = ("id,n,note\n1,1.5,a;b\n2,2,ü\n", "id\tn\tnote\n1\t1.5\ta;b\n2\t2\tü\n");
    let lines = format!("{}\n{}\n", rows[0], rows[1]);
    let array = format!(" [\n  {},\n  {}\n]\n", rows[0].replace(',', ",\n    "), rows[1]);
    let semicolons = "id;n;note\n1;1.5;\"a;b\"\n2;2;ü\n";
    for (name, bytes, args) in [
        ("rows.csv", csv.as_bytes().to_vec(), &[][..]),
        ("rows.tsv", tsv.as_bytes().to_vec(), &[]),
        ("rows.jsonl", lines.as_bytes().to_vec(), &[]),
        ("rows.json", array.as_bytes().to_vec(), &[]),
        ("rows.csv.gz", gzip(csv), &[]),
        ("rows.tsv.zst", zstd(tsv), &[]),
        ("rows.json.gz", [gzip(&array[..30]), gzip(&array[30..])].concat(), &[]),
        ("semi.csv", semicolons.as_bytes().to_vec(), &["--delimiter", ";"]),
        ("unnamed", tsv.as_bytes().to_vec(), &["--format", "csv", "--delimiter", "tab"]),
    ] {
        let path = dir.path().join(name);
        fs::create_output(&path).unwrap().write_all(&bytes).unwrap();
        let (stub, writer) = IngestStub::serve(&[]).await;
        let file = ["--file", path.to_str().unwrap()];
        let checked = ingest(&writer, &[&file, args, &["--dry-run"]].concat()).await.unwrap();
        assert_eq!((checked.as_str(), stub.rows().len()), ("{\"rows\":2,\"bad\":0}\n", 0), "{name}");
        ingest(&writer, &[&file, args].concat()).await.unwrap();
        assert_eq!(stub.rows(), rows, "{name}");
    }
    // What a dry run finds is what a load would stop at.
    let path = file(dir.path(), "bad.csv", "id,n\n1,2\n3\n");
    let (_, writer) = IngestStub::serve(&[]).await;
    let (code, text) = ingest(&writer, &["--file", &path, "--dry-run"]).await.unwrap_err();
    assert!(code == 1 && text.contains("1 of 2 rows cannot be loaded"), "{text}");
    // Rows without a key that the table can have are bad, too.
    let path = file(dir.path(), "keys.jsonl", "{\"id\":\"a\"}\n{\"n\":1}\n{\"id\":7}\n");
    let (code, text) = ingest(&writer, &["--file", &path, "--dry-run"]).await.unwrap_err();
    assert!(code == 1 && text.contains("2 of 3 rows cannot be loaded"), "{text}");
    // And rows whose key another row of the file has, unless they replace it. The file needs no option.
    let path = file(dir.path(), "twice.csv", "id,n\na,1\nb,2\na,3\n");
    let (code, text) = ingest(&writer, &[&path, "--dry-run"]).await.unwrap_err();
    assert!(code == 1 && text.contains("1 of 3 rows cannot be loaded"), "{text}");
    assert_eq!(ingest(&writer, &[&path, "--dry-run", "--upsert"]).await.unwrap(), "{\"rows\":3,\"bad\":0}\n");
    let path = file(dir.path(), "semi.csv.gz", "");
    fs::create_output(Path::new(&path)).unwrap().write_all(&gzip(semicolons)).unwrap();
    let (code, text) = ingest(&writer, &["--file", &path]).await.unwrap_err();
    assert!(code == 1 && text.contains("separated by ';': use --delimiter"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_rows_are_loaded_or_set_aside_and_never_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (stub, writer) = IngestStub::serve(&[]).await;
    let first = file(dir.path(), "first.jsonl", &numbered(5..60));
    ingest(&writer, &["--file", &first]).await.unwrap();
    // Of these 60 rows, 5 can be inserted.
    let path = file(dir.path(), "rows.jsonl", &numbered(0..60));
    let args = ["--file", &path, "--batch", "100", "--in-flight", "4"];
    for _ in 0..3 {
        let (code, text) = ingest(&writer, &args).await.unwrap_err();
        assert!(code == 1 && text.contains("rows.jsonl, line 6: exists"), "{text}");
        assert_eq!(stub.rows().len(), 60);
    }
    let bad = dir.path().join("bad.jsonl").to_str().unwrap().to_owned();
    let skipping = [&args[..], &["--skip-bad", &bad]].concat();
    let loaded = ingest(&writer, &skipping).await.unwrap();
    assert_eq!(loaded, "{\"last_seq\":0,\"commits\":0,\"events\":0,\"skipped\":55}\n");
    assert_eq!(text_of(&bad), numbered(5..60));
    assert_eq!(ingest(&writer, &args).await.unwrap(), "{\"last_seq\":0,\"commits\":0,\"events\":0}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_text_is_refused_before_anything_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (stub, writer) = IngestStub::serve(&[]).await;
    for (name, text, expected) in [
        ("keyless.csv", "n,note\n1,x\n", "line 1: the header has no field \"id\""),
        ("mac.csv", "id,a\r1,x\r2,y\r", "line 1: column 5: a carriage return"),
        ("wide.csv", "i\0d\0,\0a\0\n\0", "UTF-16"),
        ("half.csv", "id,a\n1,\"x\n", "line 2: the quote that starts here is not closed"),
        ("half.json", "[\n{\"id\":\"1", "line 2: invalid JSON: EOF"),
        (
            "object.json",
            "{\n  \"type\": \"FeatureCollection\",\n",
            "line 1: invalid JSON: EOF while parsing an object at line 1 column 1: the file looks like one JSON object",
        ),
        ("mac.jsonl", "{\"id\":\"1\"}\r{\"id\":\"2\"}\r", "line 1: "),
    ] {
        let path = file(dir.path(), name, text);
        for _ in 0..2 {
            let (code, text) = ingest(&writer, &["--file", &path]).await.unwrap_err();
            assert!(code == 1 && text.contains(expected), "{name}: {text}");
        }
    }
    assert!(stub.rows().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn text_in_another_encoding_is_refused_by_its_name_and_place() {
    let dir = tempfile::tempdir().unwrap();
    let (_, writer) = IngestStub::serve(&[]).await;
    for (name, bytes, expected) in [
        (
            "latin.csv",
            b"id,a\n1,caf\xe9\n".as_slice(),
            "line 2: byte 0xe9 at offset 10 is not UTF-8; the text looks like Latin-1",
        ),
        ("header.csv", b"id,caf\xe9\n1,x\n", "line 1: byte 0xe9 at offset 6"),
        ("end.csv", b"id,a\n1,caf\xe9", "line 2: byte 0xe9 at offset 10"),
        (
            "marked.jsonl",
            b"\xef\xbb\xbf{\"id\":\"1\"}\n{\"id\":\"\x93x\x94\"}\n",
            "line 2: byte 0x93 at offset 21 is not UTF-8; the text looks like Windows-1252",
        ),
        ("utf16.csv", b"\xff\xfei\0d\0", "it is UTF-16, from byte 0 on: convert it"),
        ("utf32.csv", b"\xff\xfe\0\0i\0\0\0", "it is UTF-32"),
    ] {
        let path = dir.path().join(name);
        let mut out = driftdb_common::storage::fs::create_output(&path).unwrap();
        std::io::Write::write_all(&mut out, bytes).unwrap();
        let (code, text) = ingest(&writer, &["--file", path.to_str().unwrap()]).await.unwrap_err();
        assert!(code == 1 && text.contains(expected), "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_goes_on_after_a_carriage_return_is_set_aside_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "rows.csv", "id,a\n1,x\r2,y\n3,z\n4,\"u\rv\"");
    let bad = dir.path().join("bad.csv").to_str().unwrap().to_owned();
    let (stub, writer) = IngestStub::serve(&[]).await;
    let (code, text) = ingest(&writer, &["--file", &path]).await.unwrap_err();
    assert!(code == 1 && text.contains("rows.csv, line 2: column 4: a carriage return"), "{text}");
    let loaded = ingest(&writer, &["--file", &path, "--skip-bad", &bad]).await.unwrap();
    assert!(loaded.contains("\"events\":2,\"skipped\":1"), "{loaded}");
    assert_eq!(stub.rows(), [r#"{"id":"3","a":"z"}"#, r#"{"id":"4","a":"u\rv"}"#]);
    assert_eq!(text_of(&bad), "id,a\n1,x\r2,y\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_reported_before_the_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "rows.jsonl", &numbered(0..3));
    let (_, writer) = IngestStub::serve(&[]).await;
    let (outcome, _) = driftctl(&["--writer", &writer, "ingest", "-t", "ordes", "--file", &path]).await;
    let failure = outcome.unwrap_err();
    assert!(failure.code() == 4 && failure.text().contains("did you mean \"orders\"?"), "{}", failure.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_loaded_creates_no_table() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let load = async |name: &str, text: &str, more: &[&str]| {
        let path = file(dir.path(), name, text);
        let args = [&["-d", data.to_str().unwrap(), "ingest", "t", "--file", &path], more].concat();
        driftctl(&args).await.0.map_err(|failure| failure.text())
    };
    let create = ["--create", "--pk", "id"];
    for (name, text) in [
        ("no-key.csv", "a,b\n1,2\n"),
        ("twice.csv", "id,id\n1,2\n"),
        ("types.csv", "id,a\n1,2\n"),
        ("utf16.csv", "\u{0}i\u{0}d"),
        ("first.jsonl", "no row\n{\"id\":\"a\"}\n"),
        ("no-key.jsonl", "{\"a\":1}\n{\"id\":\"a\"}\n"),
    ] {
        let more = if name == "types.csv" { &["--types", "b=int"][..] } else { &[] };
        let error = load(name, text, &[&create, more].concat()).await.unwrap_err();
        assert!(!error.contains("Internal"), "{name}: {error}");
        let (outcome, tables) = driftctl(&["-d", data.to_str().unwrap(), "sql", "SHOW TABLES"]).await;
        // The directory has no database, or one without tables.
        assert!(tables.is_empty(), "{name}: {outcome:?} {tables}");
    }
    load("good.csv", "id,a\n1,2\n", &create).await.unwrap();
    let (_, rows) = driftctl(&["-d", data.to_str().unwrap(), "select", "t"]).await;
    assert_eq!(rows, "{\"id\":\"1\",\"a\":2}\n");
}
