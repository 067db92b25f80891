//! `WriterService`: decodes requests, commits them, and answers once they are durable.

use std::sync::Arc;

use driftdb::v1;
use driftdb::v1::find_commit_request::MadeBy;
use driftdb::v1::writer_service_server::WriterService;
use driftdb_common::bucket::link::BucketLink;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::RequestId;
use driftdb_common::format::manifest::Database;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::planted::{PlantedBug, is_planted};
use driftdb_common::query::ast::{Statement, StatementKind, TableName};
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::{change, parser, report};
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, lease_stream};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::access::statement_tables::authorize_statement;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::service::key_schema::key_from_wire;
use driftdb_common::service::server::{CallMemory, ResponseStream, Security, ServerActivity};
use driftdb_common::service::status::to_status;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::table::operation::{Action, CommitRequest, Operation, SchemaChange};
use driftdb_common::table::schema::Schema;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::admission::draft::{Draft, DraftConditions};
use crate::admission::fingerprint;
use crate::admission::{CommitContext, CommitReceipt};
use crate::clock_guard::ClockGuard;
use crate::commit::{CommitPipeline, CommitStatus, KnownCommit};
use crate::maintenance::MaintenanceHealth;
use crate::rpc::authorization::{authorize_change, check_lease, lease_of_change};
use crate::rpc::bucket_status::bucket_to_wire;
use crate::rpc::bulk::{BulkRequest, BulkRunner, bulk_of};
use crate::rpc::commit_tokens::CommitTokens;
use crate::rpc::decoding;
use crate::rpc::ingest_stream::IngestService;
use crate::rpc::made_keys::{MadeKeyReader, made_key_to_wire};
use crate::rpc::maintenance_rpc::{self, MaintenanceCalls, job_response};
use crate::rpc::revert::RevertResolver;
use crate::rpc::writer_status::{disk_to_wire, tables_to_wire};
use crate::tasks::TaskPool;

/// The progress reports of a statement that wait for a slow client. Further ones are left out.
const RESPONSES_AHEAD: usize = 16;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct WriterRpc {
    pub(crate) pipeline: CommitPipeline,
    pub(crate) status: CommitStatus,
    pub(crate) ingest: IngestService,
    pub(crate) reverts: RevertResolver,
    pub(crate) made_keys: MadeKeyReader,
    pub(crate) bulk: BulkRunner,
    pub(crate) maintenance: MaintenanceCalls,
    pub(crate) tasks: TaskPool,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) memory: Arc<MemoryBudget>,
    pub(crate) database: Database,
    pub(crate) tokens: CommitTokens,
    pub(crate) term: u64,
    pub(crate) clock: Arc<ClockGuard>,
    pub(crate) health: Arc<MaintenanceHealth>,
    pub(crate) security: Arc<Security>,
    pub(crate) activity: Arc<ServerActivity>,
    pub(crate) bucket: Option<Arc<BucketLink>>,
}

impl WriterRpc {
    /// The status of an error, as the caller may see it.
    async fn failure(&self, caller: &Caller, error: Error) -> Status {
        caller.redact(to_status(self.pipeline.suggesting(error, caller).await))
    }

    async fn commit(
        &self,
        caller: &Caller,
        change: CommitRequest,
        options: Option<v1::CommitOptions>,
    ) -> Result<AnsweredCommit> {
        authorize_change(caller, &change)?;
        let options = caller.sign(convert::options_from_wire(options)?)?;
        // The fingerprint covers what the client sent, before reverts are resolved: a retry sends the same.
        let id = Some(options.request_id.clone()).filter(|id| !id.is_empty());
        let (change, request) = self.identify(change, id).await?;
        self.commit_as(caller, change, CommitContext { options, request, origin: None }).await
    }

    /// Commits a change that the caller may make, and whose request is identified.
    async fn commit_as(
        &self,
        caller: &Caller,
        change: CommitRequest,
        context: CommitContext,
    ) -> Result<AnsweredCommit> {
        let outcome = self.try_commit(caller, change, context).await;
        outcome.inspect_err(|error| self.health.note_damage(error))
    }

    async fn try_commit(
        &self,
        caller: &Caller,
        change: CommitRequest,
        context: CommitContext,
    ) -> Result<AnsweredCommit> {
        let is_revert = |operation: &Operation| matches!(operation.action, Action::Revert(_));
        let has_reverts =
            matches!(&change, CommitRequest::Rows { operations, .. } if operations.iter().any(is_revert));
        // What is reverted to can take long to find.
        let lease = has_reverts.then(|| lease_of_change(caller, &change));
        let (operations, conditions) = match change {
            CommitRequest::Rows { operations, preconditions, boundaries } => {
                (operations, DraftConditions::new(preconditions, boundaries)?)
            }
            CommitRequest::Schema(change) => {
                return self.pipeline.commit_schema(change, context).await.map(AnsweredCommit::without_keys);
            }
        };
        if let Some(request) = context.request.as_ref().filter(|_| has_reverts)
            && let Some(receipt) = self.pipeline.find_request(request).await
        {
            // A repeated revert is not resolved again: its table may have been dropped since.
            return receipt.map(AnsweredCommit::without_keys);
        }
        let operations = self.reverts.resolve_all(operations).await?;
        lease.as_ref().map_or(Ok(()), check_lease)?;
        let draft = Draft::new(operations, conditions)?;
        let (receipt, made) = self.pipeline.commit_inserts(draft, context).await?;
        let made = self.made_keys.of_request(receipt, made).await?;
        let made_keys = made.into_iter().map(|made| made_key_to_wire(made, 0)).collect();
        Ok(AnsweredCommit { receipt, made_keys })
    }

    /// Adds the request's fingerprint to its id. A large change is read whole for it, so not on this thread.
    async fn identify(
        &self,
        change: CommitRequest,
        id: Option<String>,
    ) -> Result<(CommitRequest, Option<RequestId>)> {
        let Some(id) = id else { return Ok((change, None)) };
        let is_short = decoding::is_short_change(&change);
        let identify = move || {
            let request = RequestId { id, fingerprint: fingerprint::compute(&change) };
            Ok((change, Some(request)))
        };
        if is_short { identify() } else { self.tasks.run(identify).await }
    }

    /// Parses a statement, which can be long.
    async fn parse(
        &self,
        caller: &Caller,
        request: v1::WriterServiceExecuteRequest,
    ) -> Result<ParsedRequest> {
        let caller = caller.clone();
        let clock = LocalClock::in_zone(&request.time_zone, now_ms())?;
        let is_short = decoding::is_short_statement(&request.statement, &request.params);
        let parse = move || {
            let v1::WriterServiceExecuteRequest { statement: text, params, options, time_zone } = request;
            let identified = options.as_ref().filter(|options| !options.request_id.is_empty());
            let request_id = identified.map(|options| {
                let time = options.commit_time.map(|time| (time.seconds, time.nanos));
                let fingerprint = fingerprint::of_statement(&text, &params, &time_zone, time);
                RequestId { id: caller.scoped_id(&options.request_id), fingerprint }
            });
            let statement = parser::parse_at(&text, &parser::parse_params(&params)?, &clock)?.value;
            Ok(ParsedRequest { text, statement, options, request_id })
        };
        if is_short { parse() } else { self.tasks.run_long(|_| parse()).await }
    }

    /// Runs a statement that changes all rows of a condition. `place` is its text and table, for errors.
    async fn execute_bulk(
        &self,
        caller: &Caller,
        request: BulkRequest,
        place: StatementPlace,
    ) -> Result<Response<ResponseStream<v1::WriterServiceExecuteResponse>>, Status> {
        let (this, batch) = (self.clone(), request.statement.batch);
        let Some(batch) = batch.filter(|_| !request.statement.dry_run) else {
            let outcome = match self.bulk.run(request).await {
                Ok(outcome) => outcome,
                Err(error) => return Err(self.statement_failure(caller, error, &place).await),
            };
            let responses = outcome.responses(|receipt| self.tokens.token(receipt.token));
            return Ok(Response::new(Box::pin(tokio_stream::iter(responses.into_iter().map(Ok)))));
        };
        let (sender, responses) = mpsc::channel(RESPONSES_AHEAD);
        let (table, running) = (request.statement.table.text.clone(), caller.clone());
        tokio::spawn(async move {
            let progress = |rows| {
                let made = v1::Progress { done: rows, unit: "rows".to_owned(), ..v1::Progress::default() };
                let event = Some(v1::writer_service_execute_response::Event::Progress(made));
                // A client that reads slowly misses reports, not results.
                let _ =
                    sender.try_send(Ok(v1::WriterServiceExecuteResponse { event, made_keys: Vec::new() }));
            };
            let ended = tokio::select! {
                () = sender.closed() => return,
                ended = this.bulk.run_in_batches(request, batch, progress) => ended,
            };
            let responses = match ended {
                Ok(outcome) => {
                    let responses = outcome.responses(|receipt| this.tokens.token(receipt.token));
                    responses.into_iter().map(Ok).collect()
                }
                Err(error) => vec![Err(this.statement_failure(&running, error, &place).await)],
            };
            for response in responses {
                if sender.send(response).await.is_err() {
                    return;
                }
            }
        });
        // If the stream ends before the statement has, the statement ends, too.
        let needs = LeaseNeeds::Tables(Role::Write, vec![table]);
        Ok(Response::new(lease_stream(Box::pin(ReceiverStream::new(responses)), caller, needs)))
    }

    /// The status of an error of a statement, with the place of its table.
    async fn statement_failure(&self, caller: &Caller, error: Error, place: &StatementPlace) -> Status {
        self.health.note_damage(&error);
        let error = self.pipeline.suggesting(error, caller).await;
        caller.redact(to_status(report::at_table(error, &place.0, place.1.as_ref())))
    }

    fn token(&self, receipt: CommitReceipt) -> Option<v1::WriteToken> {
        Some(self.tokens.token(receipt.token))
    }

    /// Commits a change of a schema and returns its token.
    async fn commit_schema(
        &self,
        caller: &Caller,
        change: SchemaChange,
        options: Option<v1::CommitOptions>,
    ) -> Result<Option<v1::WriteToken>, Status> {
        match self.commit(caller, CommitRequest::Schema(change), options).await {
            Ok(commit) => Ok(self.token(commit.receipt)),
            Err(error) => Err(self.failure(caller, error).await),
        }
    }
}

/// A commit, as it is answered.
struct AnsweredCommit {
    receipt: CommitReceipt,
    /// The keys that were made for it.
    made_keys: Vec<v1::MadeKey>,
}

impl AnsweredCommit {
    fn without_keys(receipt: CommitReceipt) -> AnsweredCommit {
        AnsweredCommit { receipt, made_keys: Vec::new() }
    }
}

/// The text of a statement, and the table that it names, for the place of an error.
type StatementPlace = (String, Option<TableName>);

/// A statement that was parsed.
struct ParsedRequest {
    text: String,
    statement: Statement,
    options: Option<v1::CommitOptions>,
    /// The request's id and fingerprint, if it has an id.
    request_id: Option<RequestId>,
}

#[tonic::async_trait]
impl WriterService for WriterRpc {
    async fn create_table(
        &self,
        request: Request<v1::CreateTableRequest>,
    ) -> Result<Response<v1::CreateTableResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let is_unnamed = request.primary_key.is_empty() && request.key_columns.is_empty();
        let primary_key = if is_unnamed { "id".to_owned() } else { request.primary_key };
        let key = key_from_wire(primary_key, request.key_type, &request.key_columns);
        let (primary_key, key_type) = key.map_err(to_status)?;
        let schema = Schema {
            table: request.table,
            primary_key,
            key_type,
            indexes: convert::indexes_from_wire(request.indexes, &request.composite_indexes)
                .map_err(to_status)?,
            retain_ms: convert::retain_from_wire(request.retain).map_err(to_status)?,
            auto_key: request.auto_key,
        };
        let change = SchemaChange::Create { schema, if_not_exists: request.if_not_exists };
        let token = self.commit_schema(&caller, change, request.options).await?;
        Ok(Response::new(v1::CreateTableResponse { token }))
    }

    async fn alter_table(
        &self,
        request: Request<v1::AlterTableRequest>,
    ) -> Result<Response<v1::AlterTableResponse>, Status> {
        let caller = Caller::of(&request)?;
        let v1::AlterTableRequest {
            table,
            add_indexes,
            drop_indexes,
            options,
            retain,
            retain_forever,
            add_composite_indexes,
            drop_composite_indexes,
            rename_to,
        } = request.into_inner();
        let add = convert::indexes_from_wire(add_indexes, &add_composite_indexes).map_err(to_status)?;
        let drop = convert::indexes_from_wire(drop_indexes, &drop_composite_indexes).map_err(to_status)?;
        let retain = convert::retain_change_from_wire(retain, retain_forever).map_err(to_status)?;
        let is_rename = !rename_to.is_empty();
        if is_rename && !(add.is_empty() && drop.is_empty() && retain.is_none()) {
            let message = format!(
                "cannot alter table {table:?}: a rename cannot be combined with other changes; send two requests"
            );
            return Err(to_status(Error::new(Reason::ArgumentInvalid, message)));
        }
        let change = match is_rename {
            true => SchemaChange::Rename { table, to: rename_to },
            false => SchemaChange::Alter { table, add, drop, retain },
        };
        let token = self.commit_schema(&caller, change, options).await?;
        Ok(Response::new(v1::AlterTableResponse { token }))
    }

    async fn drop_table(
        &self,
        request: Request<v1::DropTableRequest>,
    ) -> Result<Response<v1::DropTableResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let change = SchemaChange::Drop { table: request.table };
        let token = self.commit_schema(&caller, change, request.options).await?;
        Ok(Response::new(v1::DropTableResponse { token }))
    }

    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let change = decoding::change_of_apply(&self.tasks, request.operations, request.preconditions).await;
        let change = change.map_err(to_status)?;
        let AnsweredCommit { receipt, made_keys } = match self.commit(&caller, change, request.options).await
        {
            Ok(commit) => commit,
            Err(error) => return Err(self.failure(&caller, error).await),
        };
        let (token, replayed) = (self.token(receipt), receipt.replayed);
        Ok(Response::new(v1::ApplyResponse { token, replayed, made_keys }))
    }

    type IngestStream = ResponseStream<v1::IngestResponse>;

    async fn ingest(
        &self,
        request: Request<Streaming<v1::IngestRequest>>,
    ) -> Result<Response<Self::IngestStream>, Status> {
        let caller = Caller::of(&request)?;
        let no_memory = || Status::internal("the server gave the call no memory");
        let memory = request.extensions().get::<CallMemory>().cloned().ok_or_else(no_memory)?;
        Ok(Response::new(self.ingest.serve(request.into_inner(), memory, caller).map_err(to_status)?))
    }

    type ExecuteStream = ResponseStream<v1::WriterServiceExecuteResponse>;

    async fn execute(
        &self,
        request: Request<v1::WriterServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let caller = Caller::of(&request)?;
        let ParsedRequest { text, statement, options, request_id } =
            self.parse(&caller, request.into_inner()).await.map_err(to_status)?;
        let table = statement.table().cloned();
        if let Err(error) = authorize_statement(&caller, &statement) {
            return Err(self.statement_failure(&caller, error, &(text, table)).await);
        }
        let with_place = |e| caller.redact(to_status(report::at_table(e, &text, table.as_ref())));
        if statement.kind() == StatementKind::Maintenance {
            let of_table = table.clone().map(|table| table.text);
            return match self.maintenance.execute(statement) {
                Ok(responses) => Ok(job_response(responses, &caller, of_table.as_deref())),
                Err(error) => Err(self.statement_failure(&caller, error, &(text, table)).await),
            };
        }
        let bulk = bulk_of(statement);
        let options = convert::options_from_wire(options).and_then(|options| caller.sign(options));
        let context = |options| CommitContext { options, request: request_id, origin: None };
        let statement = match bulk {
            Ok((bulk, clauses)) => {
                let context = context(options.map_err(to_status)?);
                let bulk = BulkRequest::new(&caller, bulk, clauses, context).map_err(with_place)?;
                return self.execute_bulk(&caller, bulk, (text, table)).await;
            }
            Err(statement) => statement,
        };
        let change = change::of_statement(*statement).map_err(to_status)?;
        let context = context(options.map_err(with_place)?);
        let AnsweredCommit { receipt, made_keys } = match self.commit_as(&caller, change, context).await {
            Ok(commit) => commit,
            Err(error) => return Err(self.statement_failure(&caller, error, &(text, table)).await),
        };
        let event = self.token(receipt).map(v1::writer_service_execute_response::Event::Token);
        let response = v1::WriterServiceExecuteResponse { event, made_keys };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(response)))))
    }

    type SnapshotStream = ResponseStream<v1::SnapshotResponse>;

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let caller = Caller::of(&request)?;
        let table = request.into_inner().table;
        let allowed = authorize(&caller, AccessAction::Administer("take a snapshot of"), [table.as_str()]);
        let allowed = if is_planted(PlantedBug::CallWithoutRule) { Ok(()) } else { allowed };
        let started = allowed.and_then(|()| self.maintenance.snapshot(&table));
        match started.map(maintenance_rpc::snapshot_responses) {
            Ok(responses) => Ok(job_response(responses, &caller, Some(&table))),
            Err(error) => Err(self.failure(&caller, error).await),
        }
    }

    type CompactStream = ResponseStream<v1::CompactResponse>;

    async fn compact(
        &self,
        request: Request<v1::CompactRequest>,
    ) -> Result<Response<Self::CompactStream>, Status> {
        let caller = Caller::of(&request)?;
        let v1::CompactRequest { table, before, dry_run } = request.into_inner();
        let before = convert::point_from_wire(before).map_err(to_status)?;
        let started = authorize(&caller, AccessAction::Administer("compact"), [table.as_str()])
            .and_then(|()| self.maintenance.compact(&table, before, dry_run));
        match started.map(maintenance_rpc::compact_responses) {
            Ok(responses) => Ok(job_response(responses, &caller, Some(&table))),
            Err(error) => Err(self.failure(&caller, error).await),
        }
    }

    type VerifyStream = ResponseStream<v1::VerifyResponse>;

    async fn verify(
        &self,
        request: Request<v1::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let caller = Caller::of(&request)?;
        let v1::VerifyRequest { table, deep } = request.into_inner();
        let table = Some(table.as_str()).filter(|table| !table.is_empty());
        let action = match table {
            Some(_) => AccessAction::Administer("verify"),
            None => AccessAction::AdministerDatabase("verify all tables"),
        };
        let started = authorize(&caller, action, table).and_then(|()| self.maintenance.verify(table, deep));
        match started.map(maintenance_rpc::verify_responses) {
            Ok(responses) => Ok(job_response(responses, &caller, table)),
            Err(error) => Err(self.failure(&caller, error).await),
        }
    }

    type BackupStream = ResponseStream<v1::BackupResponse>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let caller = Caller::of(&request)?;
        let v1::BackupRequest { url, force } = request.into_inner();
        let allowed = authorize(&caller, AccessAction::AdministerDatabase("back up the database"), []);
        let started = match allowed {
            Ok(()) => self.maintenance.back_up(url, force).await,
            Err(refused) => Err(refused),
        };
        match started.map(maintenance_rpc::backup_responses) {
            Ok(responses) => Ok(job_response(responses, &caller, None)),
            Err(error) => Err(self.failure(&caller, error).await),
        }
    }

    async fn confirm_clock(
        &self,
        request: Request<v1::ConfirmClockRequest>,
    ) -> Result<Response<v1::ConfirmClockResponse>, Status> {
        let caller = Caller::of(&request)?;
        authorize(&caller, AccessAction::AdministerDatabase("confirm the clock"), []).map_err(to_status)?;
        let time = request.into_inner().time;
        let time_ms = time.as_ref().map(convert::time_from_wire).transpose().map_err(to_status)?;
        let clock = Arc::clone(&self.clock);
        let confirmed = tokio::task::spawn_blocking(move || clock.confirm(time_ms)).await;
        let confirmed = confirmed.map_err(|e| {
            to_status(Error::new(Reason::Internal, format!("confirming the clock failed: {e}")))
        })?;
        let (now_ms, was_refusing) = confirmed.map_err(|error| caller.redact(to_status(error)))?;
        let time = Some(convert::time_to_wire(now_ms));
        Ok(Response::new(v1::ConfirmClockResponse { time, was_refusing }))
    }

    async fn find_commit(
        &self,
        request: Request<v1::FindCommitRequest>,
    ) -> Result<Response<v1::FindCommitResponse>, Status> {
        // Every caller may ask about ids of its own: those of others are other ids.
        let caller = Caller::of(&request)?;
        let found = match request.into_inner().made_by {
            Some(MadeBy::RequestId(id)) if !id.is_empty() => {
                self.pipeline.commit_of_request(&caller.scoped_id(&id)).await
            }
            Some(MadeBy::ProducerId(id)) if !id.is_empty() => {
                self.pipeline.commit_of_producer(&caller.scoped_id(&id)).await
            }
            _ => {
                let message = "the request names no commit; set request_id or producer_id";
                Err(Error::new(Reason::ArgumentInvalid, message))
            }
        };
        let found = found.map_err(|error| caller.redact(to_status(error)))?;
        let response = found.map(|KnownCommit { token, batch }| {
            let mut token = self.tokens.token(token);
            token.time = token.time.filter(|_| batch.is_none());
            v1::FindCommitResponse { token: Some(token), batch_id: batch.unwrap_or_default() }
        });
        Ok(Response::new(response.unwrap_or_default()))
    }

    async fn status(
        &self,
        request: Request<v1::WriterServiceStatusRequest>,
    ) -> Result<Response<v1::WriterServiceStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let mut disk = disk_to_wire(self.status.disk());
        let (mut damaged_files, mut problems) = Default::default();
        if caller.is_admin() {
            damaged_files = convert::damaged_files_to_wire(&self.health.damaged_files);
            problems = self.health.problems();
        } else {
            // It can name a file.
            disk.message.clear();
        }
        let (tail_bytes, tail_limit_bytes) = self.status.tail_bytes();
        let last = self.status.durable();
        let clock = self.clock.read();
        Ok(Response::new(v1::WriterServiceStatusResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            database_id: self.database.id.to_string(),
            epoch: self.database.epoch,
            term: self.term,
            last_seq: last.seq,
            last_time: Some(convert::time_to_wire(last.time_ms)),
            tables: tables_to_wire(&self.status, &caller),
            cache_bytes: self.cache.used_bytes(),
            cache_limit_bytes: self.cache.budget(),
            tail_bytes,
            tail_limit_bytes,
            jobs: self.maintenance.jobs(&caller),
            incarnation: self.tokens.token(last).incarnation,
            clock_time: Some(convert::time_to_wire(clock.now_ms)),
            clock_expected: clock.expected_ms().map(convert::time_to_wire),
            disk: Some(disk),
            memory: convert::memory_to_wire(&self.memory),
            damaged_files,
            problems,
            security: Some(self.security.to_wire(&caller)),
            process: Some(self.activity.to_wire()),
            bucket: self.bucket.as_ref().map(|link| bucket_to_wire(link.status(last.seq), &caller)),
        }))
    }
}
