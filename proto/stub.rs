//! Stub services for tests and benchmarks: implement only the calls that are needed.
//!
//! The generated service traits have no default methods, on purpose: a daemon must serve every call. A stub serves one
//! or two calls, so [`WriterStub`] and [`ReaderStub`] answer every other call with UNIMPLEMENTED. [`StubWriter`] and
//! [`StubReader`] make a service of a stub.

use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use crate::v1;
use v1::reader_service_server::ReaderService;
use v1::writer_service_server::WriterService;

/// The messages of a streamed response.
pub type StubStream<T> = BoxStream<T>;

/// The calls of a stub writer. A call without an implementation fails with UNIMPLEMENTED.
#[tonic::async_trait]
pub trait WriterStub: Send + Sync + 'static {
    /// Serves Apply.
    async fn apply(&self, _request: v1::ApplyRequest) -> Result<v1::ApplyResponse, Status> {
        Err(unimplemented("Apply"))
    }

    /// Serves Ingest.
    async fn ingest(
        &self,
        _requests: Streaming<v1::IngestRequest>,
    ) -> Result<StubStream<v1::IngestResponse>, Status> {
        Err(unimplemented("Ingest"))
    }

    /// Serves CreateTable.
    async fn create_table(
        &self,
        _request: v1::CreateTableRequest,
    ) -> Result<v1::CreateTableResponse, Status> {
        Err(unimplemented("CreateTable"))
    }

    /// Serves Execute.
    async fn execute(
        &self,
        _request: v1::WriterServiceExecuteRequest,
    ) -> Result<StubStream<v1::WriterServiceExecuteResponse>, Status> {
        Err(unimplemented("Execute"))
    }

    /// Serves Snapshot.
    async fn snapshot(
        &self,
        _request: v1::SnapshotRequest,
    ) -> Result<StubStream<v1::SnapshotResponse>, Status> {
        Err(unimplemented("Snapshot"))
    }

    /// Serves Compact.
    async fn compact(&self, _request: v1::CompactRequest) -> Result<StubStream<v1::CompactResponse>, Status> {
        Err(unimplemented("Compact"))
    }

    /// Serves Verify.
    async fn verify(&self, _request: v1::VerifyRequest) -> Result<StubStream<v1::VerifyResponse>, Status> {
        Err(unimplemented("Verify"))
    }

    /// Serves Backup.
    async fn backup(&self, _request: v1::BackupRequest) -> Result<StubStream<v1::BackupResponse>, Status> {
        Err(unimplemented("Backup"))
    }

    /// Serves Status.
    async fn status(&self) -> Result<v1::WriterServiceStatusResponse, Status> {
        Err(unimplemented("Status"))
    }
}

/// The calls of a stub reader. A call without an implementation fails with UNIMPLEMENTED.
#[tonic::async_trait]
pub trait ReaderStub: Send + Sync + 'static {
    /// Serves Get.
    async fn get(&self, _request: v1::GetRequest) -> Result<v1::GetResponse, Status> {
        Err(unimplemented("Get"))
    }

    /// Serves Select.
    async fn select(&self, _request: v1::SelectRequest) -> Result<StubStream<v1::SelectResponse>, Status> {
        Err(unimplemented("Select"))
    }

    /// Serves WatchDrift.
    async fn watch_drift(
        &self,
        _request: v1::WatchDriftRequest,
    ) -> Result<StubStream<v1::WatchDriftResponse>, Status> {
        Err(unimplemented("WatchDrift"))
    }
}

/// The service of a stub writer.
#[derive(Debug)]
pub struct StubWriter<S>(pub S);

/// The service of a stub reader.
#[derive(Debug)]
pub struct StubReader<S>(pub S);

fn unimplemented(call: &str) -> Status {
    Status::unimplemented(format!("this stub does not serve {call}"))
}

#[tonic::async_trait]
impl<S: WriterStub> WriterService for StubWriter<S> {
    type IngestStream = StubStream<v1::IngestResponse>;
    type ExecuteStream = StubStream<v1::WriterServiceExecuteResponse>;
    type SnapshotStream = StubStream<v1::SnapshotResponse>;
    type CompactStream = StubStream<v1::CompactResponse>;
    type VerifyStream = StubStream<v1::VerifyResponse>;
    type BackupStream = StubStream<v1::BackupResponse>;

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        self.0.apply(request.into_inner()).await.map(Response::new)
    }

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        self.0.ingest(request.into_inner()).await.map(Response::new)
    }

    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        self.0.create_table(request.into_inner()).await.map(Response::new)
    }

    async fn alter_table(
        &self,
        _: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        Err(unimplemented("AlterTable"))
    }

    async fn drop_table(
        &self,
        _: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        Err(unimplemented("DropTable"))
    }

    async fn execute(
        &self,
        request: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        self.0.execute(request.into_inner()).await.map(Response::new)
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        self.0.snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<Self::CompactStream>, Status> {
        self.0.compact(request.into_inner()).await.map(Response::new)
    }

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        self.0.verify(request.into_inner()).await.map(Response::new)
    }

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        self.0.backup(request.into_inner()).await.map(Response::new)
    }

    async fn confirm_clock(
        &self,
        _: Request<v1::ConfirmClockRequest>,
    ) -> Result<Response<v1::ConfirmClockResponse>, Status> {
        Err(unimplemented("ConfirmClock"))
    }

    async fn find_commit(
        &self,
        _: Request<v1::FindCommitRequest>,
    ) -> Result<Response<v1::FindCommitResponse>, Status> {
        Err(unimplemented("FindCommit"))
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        self.0.status().await.map(Response::new)
    }
}

#[tonic::async_trait]
impl<S: ReaderStub> ReaderService for StubReader<S> {
    type SelectStream = StubStream<v1::SelectResponse>;
    type HistoryStream = StubStream<v1::HistoryResponse>;
    type DiffStream = StubStream<v1::DiffResponse>;
    type WatchDriftStream = StubStream<v1::WatchDriftResponse>;
    type ExecuteStream = StubStream<v1::ReaderServiceExecuteResponse>;

    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.0.get(request.into_inner()).await.map(Response::new)
    }

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<Self::SelectStream>, Status> {
        self.0.select(request.into_inner()).await.map(Response::new)
    }

    async fn history(&self, _: Request<v1::HistoryRequest>) -> Result<Response<Self::HistoryStream>, Status> {
        Err(unimplemented("History"))
    }

    async fn diff(&self, _: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        Err(unimplemented("Diff"))
    }

    async fn watch_drift(
        &self,
        request: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        self.0.watch_drift(request.into_inner()).await.map(Response::new)
    }

    async fn list_tables(
        &self,
        _: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        Err(unimplemented("ListTables"))
    }

    async fn describe_table(
        &self,
        _: Request<v1::DescribeTableRequest>,
    ) -> Result<Response<v1::DescribeTableResponse>, Status> {
        Err(unimplemented("DescribeTable"))
    }

    async fn execute(
        &self,
        _: Request<v1::ReaderServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        Err(unimplemented("Execute"))
    }

    async fn status(
        &self,
        _: Request<v1::ReaderServiceStatusRequest>,
    ) -> Result<Response<v1::ReaderServiceStatusResponse>, Status> {
        Err(unimplemented("Status"))
    }
}
