//! Maintenance against a writer that answers as it is told, and the doctor on a directory.

use driftdb::v1;
use driftdb_common::error::{Error, Reason};
use driftdb_common::service::status::to_status;
use driftdb_common::storage::fs::OsFileSystem;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use v1::writer_service_server::{WriterService, WriterServiceServer};

use crate::testing::{driftctl, embedded, refused};

#[derive(Clone, Copy)]
struct Fake;

type Answers<T> = tokio_stream::Iter<std::vec::IntoIter<Result<T, Status>>>;

fn answers<T>(answers: Vec<Result<T, Status>>) -> Result<Response<Answers<T>>, Status> {
    Ok(Response::new(tokio_stream::iter(answers)))
}

fn not_asked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("no test asks for this"))
}

fn progress() -> v1::Progress {
    v1::Progress { job_id: "job-1".into(), done: 1, total: 2, unit: "rows".into(), ..Default::default() }
}

#[tonic::async_trait]
impl WriterService for Fake {
    type IngestStream = Answers<v1::IngestResponse>;
    type ExecuteStream = Answers<v1::WriterServiceExecuteResponse>;
    type SnapshotStream = Answers<v1::SnapshotResponse>;
    type CompactStream = Answers<v1::CompactResponse>;
    type VerifyStream = Answers<v1::VerifyResponse>;

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        use v1::snapshot_response::Event;
        let answer = |event| Ok(v1::SnapshotResponse { event: Some(event) });
        if request.into_inner().table != "orders" {
            return Err(to_status(Error::unknown_table("ordes", ["orders"])));
        }
        let info = v1::SnapshotInfo { seq: 7, rows: 3, bytes: 120 };
        answers(vec![answer(Event::Progress(progress())), answer(Event::Snapshot(info))])
    }

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<Self::CompactStream>, Status> {
        use v1::compact_response::Event;
        let answer = |event| Ok(v1::CompactResponse { event: Some(event) });
        let request = request.into_inner();
        // So that the test sees what was asked for.
        let info = v1::CompactInfo {
            floor_seq: u64::from(request.dry_run),
            events_folded: u64::from(request.before.is_some()),
            bytes_freed: 9,
        };
        answers(vec![answer(Event::Progress(progress())), answer(Event::Compaction(info))])
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        use v1::verify_response::{Event, Problem, Summary};
        let answer = |event| Ok(v1::VerifyResponse { event: Some(event) });
        let problem = Problem { file: "f.seg".into(), offset: 8, message: "bad".into() };
        let deep = request.into_inner().deep;
        let summary = Summary { files: 1, frames: 2, rows: 3, problems: u64::from(deep) };
        let mut told = vec![answer(Event::Progress(progress()))];
        told.extend(deep.then(|| answer(Event::Problem(problem))));
        told.push(answer(Event::Summary(summary)));
        answers(told)
    }

    async fn execute(
        &self,
        _: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        use v1::writer_service_execute_response::Event;
        let answer = |event| Ok(v1::WriterServiceExecuteResponse { event: Some(event) });
        let damage = Error::new(Reason::Corrupt, "1 problem found");
        answers(vec![
            answer(Event::Progress(progress())),
            answer(Event::Message("f.seg at byte 8: bad".into())),
            answer(Event::Message("1 file".into())),
            Err(to_status(damage)),
        ])
    }

    async fn ingest(
        &self,
        _: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
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

    async fn apply(&self, _: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        not_asked()
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        let jobs = vec![v1::Progress { description: "snapshot of orders".into(), ..progress() }];
        Ok(Response::new(v1::WriterServiceStatusResponse { jobs, ..Default::default() }))
    }
}

/// Runs a command line at the fake: the exit code, and what it printed.
async fn at_fake(args: &[&str]) -> (u8, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(WriterServiceServer::new(Fake));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let line: Vec<&str> = ["--writer", &address].into_iter().chain(args.iter().copied()).collect();
    let (outcome, text) = driftctl(&line).await;
    (outcome.map_or_else(|failure| failure.code(), |()| 0), text)
}

#[tokio::test]
async fn a_snapshot_says_what_it_holds() {
    let (code, text) = at_fake(&["snapshot", "-t", "orders"]).await;
    assert_eq!((code, text.as_str()), (0, "{\"table\":\"orders\",\"seq\":7,\"rows\":3,\"bytes\":120}\n"));
    assert_eq!(at_fake(&["snapshot", "-t", "ordes"]).await.0, 4);
}

#[tokio::test]
async fn a_compaction_is_not_done_unasked() {
    let (code, text) = at_fake(&["compact", "-t", "orders"]).await;
    assert_eq!((code, text.as_str()), (2, ""));
    let (code, text) = at_fake(&["compact", "-t", "orders", "--yes"]).await;
    let done =
        "{\"table\":\"orders\",\"floor_seq\":0,\"events_folded\":0,\"bytes_freed\":9,\"dry_run\":false}\n";
    assert_eq!((code, text.as_str()), (0, done));
    let (code, text) = at_fake(&["compact", "-t", "orders", "--before", "@seq:3", "--dry-run"]).await;
    let would =
        "{\"table\":\"orders\",\"floor_seq\":1,\"events_folded\":1,\"bytes_freed\":9,\"dry_run\":true}\n";
    assert_eq!((code, text.as_str()), (0, would));
}

#[tokio::test]
async fn a_verification_with_problems_ends_with_its_code() {
    let summary = |problems| format!("{{\"files\":1,\"frames\":2,\"rows\":3,\"problems\":{problems}}}\n");
    assert_eq!(at_fake(&["verify"]).await, (0, summary(0)));
    let problem = "{\"file\":\"f.seg\",\"offset\":8,\"message\":\"bad\"}\n";
    assert_eq!(at_fake(&["verify", "--deep"]).await, (6, format!("{problem}{}", summary(1))));
    let said = "{\"message\":\"f.seg at byte 8: bad\"}\n{\"message\":\"1 file\"}\n";
    assert_eq!(at_fake(&["sql", "-e", "VERIFY"]).await, (6, said.to_owned()));
}

#[tokio::test]
async fn a_status_tells_of_jobs() {
    let (_, text) = at_fake(&["--reader", "http://127.0.0.1:1", "status"]).await;
    let job = r#""jobs":[{"job_id":"job-1","description":"snapshot of orders","queued":false,"done":1,"total":2,"unit":"rows"}]"#;
    assert!(text.contains(job), "{text}");
}

#[tokio::test]
async fn the_doctor_needs_a_database_that_nobody_writes() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(refused(dir.path(), &["doctor"]).await.0, 1);
    embedded(dir.path(), &["sql", "-e", r#"CREATE TABLE t (pk=id); INSERT INTO t {"id": "a"}"#]).await;
    let healthy = "{\"tables\":1,\"files\":4,\"frames\":2,\"damage\":0,\"notes\":0,\"repaired\":0}\n";
    assert_eq!(embedded(dir.path(), &["doctor", "--repair"]).await, healthy);
    let writer = driftdb_writer::Writer::open(driftdb_writer::WriterConfig::new(dir.path())).unwrap();
    let (code, told) = refused(dir.path(), &["doctor"]).await;
    assert!(code == 5 && told.contains("DATABASE_LOCKED"), "{code}: {told}");
    writer.close().unwrap();
    let segment = dir.path().join("tables/t/segments/00000001.seg");
    OsFileSystem::shared().open_write(&segment).unwrap().write_at(b"?", 30).unwrap();
    let line = ["-d", dir.path().to_str().unwrap(), "doctor"];
    let (outcome, text) = driftctl(&line).await;
    assert_eq!(outcome.unwrap_err().code(), 6);
    let named = format!(r#"{{"severity":"damage","file":{segment:?},"offset":0,"message":"#);
    assert!(text.starts_with(&named) && text.contains(r#""damage":2"#), "{text}");
}
