//! Tests of maintenance commands with a stub writer, and of the doctor on a directory.

use driftdb::stub::{StubStream, WriterStub};
use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::status::to_status;
use driftdb_common::storage::fs::OsFileSystem;
use tonic::Status;

use crate::testing::{driftctl, embedded, refused, serve_writer};

/// A writer whose jobs return fixed results.
struct FixedResults;

fn messages<T: Send + 'static>(messages: Vec<Result<T, Status>>) -> Result<StubStream<T>, Status> {
    Ok(Box::pin(tokio_stream::iter(messages)))
}

fn progress() -> v1::Progress {
    v1::Progress { job_id: "job-1".into(), done: 1, total: 2, unit: "rows".into(), ..Default::default() }
}

#[tonic::async_trait]
impl WriterStub for FixedResults {
    async fn snapshot(
        &self,
        request: v1::SnapshotRequest,
    ) -> Result<StubStream<v1::SnapshotResponse>, Status> {
        use v1::snapshot_response::Event;
        let message = |event| Ok(v1::SnapshotResponse { event: Some(event) });
        if request.table != "orders" {
            return Err(to_status(Error::unknown_table("ordes", ["orders"])));
        }
        let info = v1::SnapshotInfo { seq: 7, rows: 3, bytes: 120 };
        messages(vec![message(Event::Progress(progress())), message(Event::Snapshot(info))])
    }

    async fn compact(&self, request: v1::CompactRequest) -> Result<StubStream<v1::CompactResponse>, Status> {
        use v1::compact_response::Event;
        let message = |event| Ok(v1::CompactResponse { event: Some(event) });
        // The result shows the test what was requested.
        let info = v1::CompactInfo {
            floor_seq: u64::from(request.dry_run),
            events_folded: u64::from(request.before.is_some()),
            bytes_freed: 9,
        };
        messages(vec![message(Event::Progress(progress())), message(Event::Compaction(info))])
    }

    async fn verify(&self, request: v1::VerifyRequest) -> Result<StubStream<v1::VerifyResponse>, Status> {
        use v1::verify_response::{Event, Problem, Summary};
        let message = |event| Ok(v1::VerifyResponse { event: Some(event) });
        let problem = Problem { file: "f.seg".into(), offset: 8, message: "bad".into() };
        let deep = request.deep;
        let summary = Summary { files: 1, frames: 2, rows: 3, problems: u64::from(deep) };
        let mut found = vec![message(Event::Progress(progress()))];
        found.extend(deep.then(|| message(Event::Problem(problem))));
        found.push(message(Event::Summary(summary)));
        messages(found)
    }

    async fn execute(
        &self,
        _: v1::WriterServiceExecuteRequest,
    ) -> Result<StubStream<v1::WriterServiceExecuteResponse>, Status> {
        use v1::writer_service_execute_response::Event;
        let message =
            |event| Ok(v1::WriterServiceExecuteResponse { event: Some(event), ..Default::default() });
        let damage = Error::new(Reason::Corrupt, "1 problem found");
        messages(vec![
            message(Event::Progress(progress())),
            message(Event::Message("f.seg at byte 8: bad".into())),
            message(Event::Message("1 file".into())),
            Err(to_status(damage)),
        ])
    }

    async fn status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        let jobs = vec![v1::Progress { description: "snapshot of orders".into(), ..progress() }];
        Ok(v1::WriterServiceStatusResponse { jobs, ..Default::default() })
    }
}

/// Runs a command line with the stub writer. Returns the exit code and the output.
async fn run_at_stub(args: &[&str]) -> (u8, String) {
    let address = serve_writer(FixedResults).await;
    let line: Vec<&str> = ["--writer", &address].into_iter().chain(args.iter().copied()).collect();
    let (outcome, text) = driftctl(&line).await;
    (outcome.map_or_else(|failure| failure.code(), |()| 0), text)
}

#[tokio::test]
async fn a_snapshot_reports_its_contents() {
    let (code, text) = run_at_stub(&["snapshot", "-t", "orders"]).await;
    assert_eq!((code, text.as_str()), (0, "{\"table\":\"orders\",\"seq\":7,\"rows\":3,\"bytes\":120}\n"));
    assert_eq!(run_at_stub(&["snapshot", "-t", "ordes"]).await.0, 4);
}

#[tokio::test]
async fn a_compaction_needs_a_confirmation() {
    let (code, text) = run_at_stub(&["compact", "-t", "orders"]).await;
    assert_eq!((code, text.as_str()), (2, ""));
    let (code, text) = run_at_stub(&["compact", "-t", "orders", "--yes"]).await;
    let done =
        "{\"table\":\"orders\",\"floor_seq\":0,\"events_folded\":0,\"bytes_freed\":9,\"dry_run\":false}\n";
    assert_eq!((code, text.as_str()), (0, done));
    let (code, text) = run_at_stub(&["compact", "-t", "orders", "--before", "@seq:3", "--dry-run"]).await;
    let would =
        "{\"table\":\"orders\",\"floor_seq\":1,\"events_folded\":1,\"bytes_freed\":9,\"dry_run\":true}\n";
    assert_eq!((code, text.as_str()), (0, would));
}

#[tokio::test]
async fn a_verification_that_finds_damage_exits_with_code_6() {
    let summary = |problems| format!("{{\"files\":1,\"frames\":2,\"rows\":3,\"problems\":{problems}}}\n");
    assert_eq!(run_at_stub(&["verify"]).await, (0, summary(0)));
    let problem = "{\"file\":\"f.seg\",\"offset\":8,\"message\":\"bad\"}\n";
    assert_eq!(run_at_stub(&["verify", "--deep"]).await, (6, format!("{problem}{}", summary(1))));
    let messages = "{\"message\":\"f.seg at byte 8: bad\"}\n{\"message\":\"1 file\"}\n";
    assert_eq!(run_at_stub(&["sql", "-e", "VERIFY"]).await, (6, messages.to_owned()));
}

#[tokio::test]
async fn status_lists_jobs() {
    let (_, text) = run_at_stub(&["--reader", "http://127.0.0.1:1", "status"]).await;
    let job = r#""jobs":[{"job_id":"job-1","description":"snapshot of orders","queued":false,"done":1,"total":2,"unit":"rows"}]"#;
    assert!(text.contains(job), "{text}");
}

#[tokio::test]
async fn doctor_checks_a_database_only_without_a_writer() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refused(dir.path(), &["doctor"]).await.0, 1);
    embedded(dir.path(), &["sql", "-e", r#"CREATE TABLE t (pk=id); INSERT INTO t {"id": "a"}"#]).await;
    let healthy = "{\"tables\":1,\"files\":5,\"frames\":2,\"damage\":0,\"notes\":0,\"repaired\":0}\n";
    assert_eq!(embedded(dir.path(), &["doctor", "--repair"]).await, healthy);
    let writer = driftdb_writer::WriterDaemon::open(driftdb_writer::WriterConfig::new(dir.path())).unwrap();
    let (code, text) = refused(dir.path(), &["doctor"]).await;
    assert!(code == 5 && text.contains("DATABASE_LOCKED"), "{code}: {text}");
    writer.close().unwrap();
    let segment = dir.path().join("tables/t/segments/00000001.seg");
    OsFileSystem::shared().open_write(&segment).unwrap().write_at(b"?", 30).unwrap();
    let line = ["-d", dir.path().to_str().unwrap(), "doctor"];
    let (outcome, text) = driftctl(&line).await;
    assert_eq!(outcome.unwrap_err().code(), 6);
    let named = format!(r#"{{"severity":"damage","file":{segment:?},"offset":0,"message":"#);
    assert!(text.starts_with(&named) && text.contains(r#""damage":2"#), "{text}");
}
