//! Traces: a call of a recorded trace is in it, with what it waited for, and nobody waits for a collector.

use std::collections::BTreeMap;
use std::time::Duration;

use driftdb::v1;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as AttributeValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use crate::harness::calls;
use crate::harness::scrape::free_address;
use crate::harness::*;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";
const ERROR: i32 = StatusCode::Error as i32;

/// A span as the collector gets it: the service that has sent it, its name, and the rest.
type Received = (String, Span);

struct Collector {
    url: String,
    spans: mpsc::UnboundedReceiver<Received>,
    seen: Vec<Received>,
}

struct Sink(mpsc::UnboundedSender<Received>);

fn text(value: Option<AttributeValue>) -> String {
    match value {
        Some(AttributeValue::StringValue(text)) => text,
        Some(AttributeValue::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[tonic::async_trait]
impl TraceService for Sink {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            let name = attributes.into_iter().find(|attribute| attribute.key == "service.name").unwrap();
            let name = text(name.value.unwrap().value);
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                _ = self.0.send((name.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> Collector {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, spans) = mpsc::unbounded_channel();
        let server = tonic::transport::Server::builder().add_service(TraceServiceServer::new(Sink(sender)));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Collector { url, spans, seen: Vec::new() }
    }

    /// The span of the next call of a method that arrives.
    async fn call(&mut self, method: &str) -> Span {
        loop {
            if let Some(at) = self.seen.iter().position(|(_, span)| span.name == method) {
                return self.seen.remove(at).1;
            }
            let next = tokio::time::timeout(Duration::from_secs(30), self.spans.recv());
            self.seen.push(
                next.await.unwrap_or_else(|_| panic!("no span of {method}: {:#?}", self.seen)).unwrap(),
            );
        }
    }

    /// What has arrived of the steps of a call, by name. All of them arrive no later than the call itself.
    fn steps(&mut self, call: &Span) -> BTreeMap<String, Span> {
        while let Ok(span) = self.spans.try_recv() {
            self.seen.push(span);
        }
        let of_call = self.seen.iter().filter(|(_, span)| span.parent_span_id == call.span_id);
        let steps: BTreeMap<_, _> = of_call.map(|(_, span)| (span.name.clone(), span.clone())).collect();
        for step in steps.values() {
            assert_eq!((&step.trace_id, step.kind), (&call.trace_id, SpanKind::Internal as i32));
            // The clock of the system may be set a little while a test runs.
            let slack = 5_000_000;
            let [began, ended] = [step.start_time_unix_nano, step.end_time_unix_nano];
            assert!(began <= ended, "{step:?}");
            assert!(began + slack >= call.start_time_unix_nano, "{step:?} in {call:?}");
            assert!(ended <= call.end_time_unix_nano + slack, "{step:?} in {call:?}");
        }
        steps
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key == key)?;
    Some(text(attribute.value.clone()?.value))
}

fn names(steps: &BTreeMap<String, Span>) -> Vec<&str> {
    steps.keys().map(String::as_str).collect()
}

/// A request of a trace; `flags` say whether the caller records it.
fn traced<T>(message: T, flags: &str) -> Request<T> {
    let mut request = Request::new(message);
    let parent = format!("00-{TRACE}-{CALLER}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    request
}

fn apply_of(document: &str) -> v1::ApplyRequest {
    v1::ApplyRequest { operations: vec![insert("orders", document)], ..Default::default() }
}

/// A writer and a reader that send what is recorded to `collector`, and only what their callers record.
async fn cluster(dir: &std::path::Path, collector: &str) -> (Daemon, Daemon, Writer, Reader) {
    let args = ["--otlp", collector, "--otlp-sample", "0"];
    let writer_daemon = Daemon::start("driftdb-writer", dir, &args);
    let mut writer = writer_daemon.as_writer().await;
    create_table(&mut writer, "orders").await.unwrap();
    let reader_daemon = Daemon::start("driftdb-reader", dir, &args);
    let reader = reader_daemon.as_reader().await;
    (writer_daemon, reader_daemon, writer, reader)
}

#[tokio::test]
async fn a_recorded_call_is_a_span_below_its_caller_with_a_span_for_each_step() {
    let mut collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_writer, _reader, mut writer, mut reader) = cluster(dir.path(), &collector.url).await;

    let answer = writer.apply(traced(apply_of(r#"{"id": "o1", "secret": "hidden"}"#), "01")).await.unwrap();
    let token = answer.into_inner().token.unwrap();
    let call = collector.call("driftdb.v1.WriterService/Apply").await;
    assert_eq!(hex(&call.trace_id), TRACE);
    assert_eq!((hex(&call.parent_span_id).as_str(), call.kind), (CALLER, SpanKind::Server as i32));
    assert_eq!(attribute(&call, "rpc.system.name").as_deref(), Some("grpc"));
    assert_eq!(attribute(&call, "rpc.method").as_deref(), Some("driftdb.v1.WriterService/Apply"));
    assert_eq!(attribute(&call, "rpc.response.status_code").as_deref(), Some("OK"));
    let steps = collector.steps(&call);
    assert_eq!(names(&steps), ["append", "fsync", "publish", "queue"]);
    assert_eq!(attribute(&steps["publish"], "driftdb.seq"), Some(token.seq.to_string()));
    assert_eq!(attribute(&steps["fsync"], "driftdb.group.requests").as_deref(), Some("1"));
    // One after the other: these are the parts of the time that the client waited for.
    let order = ["queue", "append", "fsync", "publish"].map(|name| steps[name].start_time_unix_nano);
    assert!(order.is_sorted(), "{order:?}");

    let freshness = calls::fresh(token.seq);
    let get =
        v1::GetRequest { table: "orders".into(), keys: vec!["o1".into()], freshness, ..Default::default() };
    reader.get(traced(get, "01")).await.unwrap();
    let call = collector.call("driftdb.v1.ReaderService/Get").await;
    let steps = collector.steps(&call);
    assert!(names(&steps).contains(&"read"), "{steps:#?}");
    let select = v1::SelectRequest {
        table: "orders".into(),
        freshness: calls::fresh(token.seq),
        ..Default::default()
    };
    let mut rows = reader.select(traced(select, "01")).await.unwrap().into_inner();
    while rows.message().await.unwrap().is_some() {}
    let call = collector.call("driftdb.v1.ReaderService/Select").await;
    assert_eq!(names(&collector.steps(&call)), ["freshness", "read"]);

    // What the daemons send names no table, no key and no value.
    let everything = format!("{:?}", collector.seen);
    for hidden in ["orders", "o1", "secret", "hidden"] {
        assert!(!everything.contains(hidden), "{hidden}: {everything}");
    }
    let services: Vec<&str> = collector.seen.iter().map(|(service, _)| service.as_str()).collect();
    assert!(services.contains(&"driftdb-writer") && services.contains(&"driftdb-reader"), "{services:?}");
}

#[tokio::test]
async fn a_failed_call_has_its_code_and_only_a_fault_of_the_server_is_an_error() {
    let mut collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_writer, _reader, _, mut reader) = cluster(dir.path(), &collector.url).await;
    let get = v1::GetRequest { table: "no_such_table".into(), ..Default::default() };
    reader.get(traced(get, "01")).await.unwrap_err();
    let call = collector.call("driftdb.v1.ReaderService/Get").await;
    assert_ne!(attribute(&call, "rpc.response.status_code").as_deref(), Some("OK"));
    assert_ne!(call.status.unwrap_or_default().code, ERROR, "the client is to blame");
    // The commit never comes, and the deadline of the call is before the end of the wait.
    let wait = v1::Freshness { min_seq: 1000, ..Default::default() };
    let get = v1::GetRequest { table: "orders".into(), freshness: Some(wait), ..Default::default() };
    let mut request = traced(get, "01");
    request.set_timeout(Duration::from_millis(50));
    let refused = reader.get(request).await.unwrap_err().code();
    assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&refused), "{refused:?}");
    let call = collector.call("driftdb.v1.ReaderService/Get").await;
    let status = attribute(&call, "rpc.response.status_code").unwrap();
    assert!(["DEADLINE_EXCEEDED", "CANCELLED"].contains(&status.as_str()), "{status}");
    assert_eq!(names(&collector.steps(&call)), ["freshness"]);
}

#[tokio::test]
async fn a_watch_records_what_it_catches_up_with() {
    let mut collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_writer, _reader, mut writer, mut reader) = cluster(dir.path(), &collector.url).await;
    for number in 0..10 {
        apply(&mut writer, vec![insert("orders", format!(r#"{{"id": "o{number}"}}"#))]).await.unwrap();
    }
    let watch = v1::WatchDriftRequest {
        start: Some(v1::watch_drift_request::Start::AfterSeq(0)),
        until_seq: 11,
        ..Default::default()
    };
    let mut events = reader.watch_drift(traced(watch, "01")).await.unwrap().into_inner();
    while events.message().await.unwrap().is_some() {}
    let call = collector.call("driftdb.v1.ReaderService/WatchDrift").await;
    assert!(names(&collector.steps(&call)).contains(&"catch up"), "{:#?}", collector.seen);
}

#[tokio::test]
async fn a_call_that_its_caller_does_not_record_leaves_no_span() {
    let mut collector = Collector::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (_writer, _reader, mut writer, _) = cluster(dir.path(), &collector.url).await;
    writer.apply(traced(apply_of(r#"{"id": "not recorded"}"#), "00")).await.unwrap();
    writer.apply(apply_of(r#"{"id": "of no trace"}"#)).await.unwrap();
    // Whatever is wrong with a context, the call itself is not.
    let mut broken = Request::new(apply_of(r#"{"id": "broken"}"#));
    broken.metadata_mut().insert("traceparent", "00-zz-11-01".parse().unwrap());
    writer.apply(broken).await.unwrap();
    writer.apply(traced(apply_of(r#"{"id": "recorded"}"#), "01")).await.unwrap();
    let call = collector.call("driftdb.v1.WriterService/Apply").await;
    assert_eq!(hex(&call.trace_id), TRACE);
    collector.steps(&call);
    let others: Vec<_> =
        collector.seen.iter().filter(|(_, span)| span.parent_span_id != call.span_id).collect();
    assert_eq!(others.len(), 0, "{others:#?}");
}

#[tokio::test]
async fn daemons_work_on_without_their_collector_and_end_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = format!("http://{}", free_address());
    let (mut writer_daemon, _reader, mut writer, _) = cluster(dir.path(), &nobody).await;
    for number in 0..100 {
        writer.apply(traced(apply_of(&format!(r#"{{"id": "o{number}"}}"#)), "01")).await.unwrap();
    }
    drop(writer);
    assert!(writer_daemon.terminate().await.success());
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (["--otlp", "no address", "--otlp-sample", "1"], "--otlp"),
        (["--otlp", "http://127.0.0.1:4317", "--otlp-sample", "2"], "a number from 0 to 1"),
    ] {
        let refused = Daemon::try_start("driftdb-writer", dir.path(), &args).unwrap_err();
        assert!(refused.contains(expected), "{refused}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
