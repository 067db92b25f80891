//! `WriterService`: decodes requests, hands them to the committer, and answers when they are durable.

use std::pin::Pin;

use driftdb::v1;
use driftdb::v1::writer_service_server::WriterService;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::manifest::Database;
use driftdb_common::query::{change, parser, report};
use driftdb_common::service::convert;
use driftdb_common::service::status::to_status;
use driftdb_common::table::operation::{Change, SchemaChange, Token};
use driftdb_common::table::schema::Schema;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::admit;
use crate::commit::Commits;

/// The service.
#[derive(Debug, Clone)]
pub struct WriterRpc {
    commits: Commits,
    database: Database,
    term: u64,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn not_yet<T>(what: &str) -> Result<Response<T>, Status> {
    Err(to_status(Error::new(Reason::NotSupported, format!("{what} is not supported yet"))))
}

impl WriterRpc {
    /// The service of an open database.
    pub fn new(commits: Commits, database: Database, term: u64) -> WriterRpc {
        WriterRpc { commits, database, term }
    }

    async fn commit(&self, change: Change, options: Option<v1::CommitOptions>) -> Result<Token> {
        self.commits.commit(change, convert::options_from_wire(options)?).await
    }

    fn token(&self, token: Token) -> Option<v1::WriteToken> {
        Some(convert::token_to_wire(token, self.database.epoch))
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
        };
        let change = SchemaChange::Create { schema, if_not_exists: request.if_not_exists };
        let token = self.commit(Change::Schema(change), request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::CreateTableResponse { token: self.token(token) }))
    }

    async fn alter_table(
        &self,
        _: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        not_yet("AlterTable")
    }

    async fn drop_table(
        &self,
        request: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        let request = request.into_inner();
        let change = SchemaChange::Drop { table: request.table };
        let token = self.commit(Change::Schema(change), request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::DropTableResponse { token: self.token(token) }))
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
        let change = Change::Rows {
            operations: operations.map_err(to_status)?,
            preconditions: preconditions.map_err(to_status)?,
        };
        let token = self.commit(change, request.options).await.map_err(to_status)?;
        Ok(Response::new(v1::ApplyResponse { token: self.token(token), replayed: false }))
    }

    type IngestStream = Answers<v1::IngestResponse>;

    async fn ingest(
        &self,
        _: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        not_yet("Ingest")
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
        let change = change::of_statement(statement).map_err(to_status)?;
        let token = self.commit(change, request.options).await;
        let token = token.map_err(|e| to_status(report::at_table(e, &request.statement, table.as_ref())))?;
        let event = self.token(token).map(v1::writer_service_execute_response::Event::Token);
        let answer = v1::WriterServiceExecuteResponse { event };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    type SnapshotStream = Answers<v1::SnapshotResponse>;

    async fn snapshot(
        &self,
        _: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        not_yet("Snapshot")
    }

    type CompactStream = Answers<v1::CompactResponse>;

    async fn compact(&self, _: Request<v1::CompactRequest>) -> Result<Response<Self::CompactStream>, Status> {
        not_yet("Compact")
    }

    type VerifyStream = Answers<v1::VerifyResponse>;

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<Self::VerifyStream>, Status> {
        not_yet("Verify")
    }

    async fn status(
        &self,
        _: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        let last = self.commits.durable();
        let mut tables = self.commits.tables(|table, storage| {
            let figures = table.figures();
            v1::TableInfo {
                rows: figures.rows,
                created_seq: table.created_seq(),
                last_seq: figures.last_seq,
                events: figures.events,
                bytes_on_disk: storage.bytes,
                segments: storage.segments,
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
            jobs: Vec::new(),
        }))
    }
}
