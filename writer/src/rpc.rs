//! `WriterService`: decodes requests, hands them to the committer, and answers when they are durable.

use std::pin::Pin;

use driftdb::v1;
use driftdb::v1::writer_service_server::WriterService;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::RequestId;
use driftdb_common::format::manifest::Database;
use driftdb_common::query::ast::StatementKind;
use driftdb_common::query::{change, parser, report};
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::service::status::to_status;
use driftdb_common::table::operation::{Action, CommitRequest, Operation, SchemaChange};
use driftdb_common::table::schema::Schema;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::admit::{self, Admitted, With};
use crate::commit::Commits;
use crate::ingest::Streams;
use crate::past::Past;
use crate::upkeep::{Messages, Upkeep};
use crate::{fingerprint, ingest, upkeep};

/// The service.
#[derive(Debug, Clone)]
pub struct WriterRpc {
    commits: Commits,
    database: Database,
    term: u64,
    past: Past,
    streams: Streams,
    upkeep: Upkeep,
    shutdown: CancellationToken,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl WriterRpc {
    /// The service of an open database.
    pub fn new(
        commits: Commits,
        database: Database,
        term: u64,
        past: Past,
        upkeep: Upkeep,
        shutdown: CancellationToken,
    ) -> WriterRpc {
        WriterRpc { commits, database, term, past, streams: Streams::default(), upkeep, shutdown }
    }

    /// The way to the committer.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Names the history.
    pub fn epoch(&self) -> u64 {
        self.database.epoch
    }

    /// The newest stream of each producer.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Cancelled when the writer goes down.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Turns a revert into the write of the row as it was; other operations stay as they are.
    pub async fn resolve(&self, operation: Operation) -> Result<Operation> {
        let Action::Revert(to) = operation.action else { return Ok(operation) };
        let Operation { table, key, .. } = operation;
        let key = key.ok_or_else(|| Error::new(Reason::KeyInvalid, "a revert needs a key"))?;
        let typed = key.of_type(self.commits.schema(&table)?.key_type)?;
        let (past, name) = (self.past.clone(), table.clone());
        let read = tokio::task::spawn_blocking(move || past.row(&name, &typed, to, now_ms()));
        let row =
            read.await.map_err(|e| Error::new(Reason::Internal, format!("reading the past: {e}")))??;
        let action = row.map_or(Action::SoftDelete, Action::Put);
        Ok(Operation { table, key: Some(key), action })
    }

    async fn commit(&self, change: CommitRequest, options: Option<v1::CommitOptions>) -> Result<Admitted> {
        let options = convert::options_from_wire(options)?;
        // Over what was asked, not over what it comes to: a retry asks the same.
        let id = Some(options.request_id.clone()).filter(|id| !id.is_empty());
        let request = id.map(|id| RequestId { id, fingerprint: fingerprint::of(&change) });
        let change = match change {
            CommitRequest::Rows { operations, preconditions } => {
                let reverts =
                    operations.iter().any(|operation| matches!(operation.action, Action::Revert(_)));
                if let Some(request) = request.as_ref().filter(|_| reverts)
                    && let Some(answer) = self.commits.made_before(request).await
                {
                    // Not resolved again: its table may be gone since.
                    return answer;
                }
                let mut resolved = Vec::with_capacity(operations.len());
                for operation in operations {
                    resolved.push(self.resolve(operation).await?);
                }
                CommitRequest::Rows { operations: resolved, preconditions }
            }
            schema => schema,
        };
        self.commits.commit(change, With { options, request, origin: None }).await
    }

    fn token(&self, admitted: Admitted) -> Option<v1::WriteToken> {
        Some(convert::token_to_wire(admitted.token, self.database.epoch))
    }
}

#[tonic::async_trait]
impl WriterService for WriterRpc {
    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        let request = request.into_inner();
        let schema = Schema {
            table: request.table,
            primary_key: if request.primary_key.is_empty() { "id".to_owned() } else { request.primary_key },
            key_type: convert::key_type_from_wire(request.key_type).map_err(to_status)?,
            indexes: request.indexes,
            retain_ms: convert::retain_from_wire(request.retain).map_err(to_status)?,
        };
        let change = SchemaChange::Create { schema, if_not_exists: request.if_not_exists };
        let admitted =
            self.commit(CommitRequest::Schema(change), request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::CreateTableResponse { token: self.token(admitted) }))
    }

    async fn alter_table(
        &self,
        request: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        let v1::AlterTableRequest { table, add_indexes, drop_indexes, options, retain, retain_forever } =
            request.into_inner();
        let retain = convert::retain_change_from_wire(retain, retain_forever).map_err(to_status)?;
        let change = SchemaChange::Alter { table, add: add_indexes, drop: drop_indexes, retain };
        let admitted = self.commit(CommitRequest::Schema(change), options).await.map_err(to_status)?;
        Ok(Response::new(v1::AlterTableResponse { token: self.token(admitted) }))
    }

    async fn drop_table(
        &self,
        request: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        let request = request.into_inner();
        let change = SchemaChange::Drop { table: request.table };
        let admitted =
            self.commit(CommitRequest::Schema(change), request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::DropTableResponse { token: self.token(admitted) }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let request = request.into_inner();
        let count = request.operations.len();
        let decode = |(i, operation)| {
            convert::operation_from_wire(operation).map_err(|e| admit::of_operation(e, i, count))
        };
        let operations = request.operations.into_iter().enumerate().map(decode).collect::<Result<_>>();
        let preconditions =
            request.preconditions.into_iter().map(convert::precondition_from_wire).collect::<Result<_>>();
        let change = CommitRequest::Rows {
            operations: operations.map_err(to_status)?,
            preconditions: preconditions.map_err(to_status)?,
        };
        let admitted = self.commit(change, request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::ApplyResponse { token: self.token(admitted), replayed: admitted.replayed }))
    }

    type IngestStream = ReceiverStream<Result<v1::IngestResponse, Status>>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        Ok(Response::new(ingest::serve(self.clone(), request.into_inner())))
    }

    type ExecuteStream = Answers<v1::WriterServiceExecuteResponse>;

    async fn execute(
        &self,
        request: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let request = request.into_inner();
        let params = parser::parse_params(&request.params).map_err(to_status)?;
        let statement = parser::parse(&request.statement, &params).map_err(to_status)?;
        let table = statement.table().cloned();
        if statement.kind() == StatementKind::Maintenance {
            let answers = self
                .upkeep
                .execute(statement)
                .map_err(|e| to_status(report::at_table(e, &request.statement, table.as_ref())))?;
            return Ok(Response::new(Box::pin(answers)));
        }
        let change = change::of_statement(statement).map_err(to_status)?;
        let admitted = self.commit(change, request.options).await;
        let admitted =
            admitted.map_err(|e| to_status(report::at_table(e, &request.statement, table.as_ref())))?;
        let event = self.token(admitted).map(v1::writer_service_execute_response::Event::Token);
        let answer = v1::WriterServiceExecuteResponse { event };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    type SnapshotStream = Messages<v1::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let follower = self.upkeep.snapshot(&request.into_inner().table).map_err(to_status)?;
        Ok(Response::new(upkeep::snapshot(follower)))
    }

    type CompactStream = Messages<v1::CompactResponse>;

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<Self::CompactStream>, Status> {
        let v1::CompactRequest { table, before, dry_run } = request.into_inner();
        let before = convert::point_from_wire(before).map_err(to_status)?;
        let follower = self.upkeep.compact(&table, before, dry_run).map_err(to_status)?;
        Ok(Response::new(upkeep::compact(follower)))
    }

    type VerifyStream = Messages<v1::VerifyResponse>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let v1::VerifyRequest { table, deep } = request.into_inner();
        let table = Some(table.as_str()).filter(|table| !table.is_empty());
        let follower = self.upkeep.verify(table, deep).map_err(to_status)?;
        Ok(Response::new(upkeep::verify(follower)))
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        let cache = self.past.cache();
        let (tail_bytes, tail_limit_bytes) = self.commits.tail_bytes();
        let last = self.commits.durable();
        let mut tables = self.commits.tables(|table, storage| {
            let figures = table.figures();
            v1::TableInfo {
                rows: figures.rows,
                created_seq: table.created_seq(),
                last_seq: figures.last_seq,
                events: figures.events,
                bytes_on_disk: storage.bytes_on_disk,
                segments: storage.segments,
                snapshots: storage.snapshots,
                floor_seq: storage.floor,
                ..convert::schema_to_wire(table.schema())
            }
        });
        tables.sort_unstable_by(|a, b| a.table.cmp(&b.table));
        Ok(Response::new(v1::WriterServiceStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            database_id: self.database.id.to_string(),
            epoch: self.database.epoch,
            term: self.term,
            last_seq: last.seq,
            last_time: Some(convert::time_to_wire(last.time_ms)),
            tables,
            cache_bytes: cache.used_bytes(),
            cache_limit_bytes: cache.budget(),
            tail_bytes,
            tail_limit_bytes,
            jobs: self.upkeep.jobs.list().into_iter().map(upkeep::progress_to_wire).collect(),
        }))
    }
}
