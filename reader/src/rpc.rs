//! `ReaderService`: decodes each request, starts the read, and encodes the response.

use std::collections::HashSet;
use std::sync::Arc;

use driftdb::v1;
use driftdb::v1::reader_service_server::ReaderService;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::memory::MemoryBudget;
use driftdb_common::query::ast::{Column, PointInTime};
use driftdb_common::query::exec::Selection;
use driftdb_common::query::parser;
use driftdb_common::service::convert;
use driftdb_common::service::server::{CallMemory, ResponseStream};
use driftdb_common::service::status::to_status;
use driftdb_common::table::history::Images;
use driftdb_common::table::table_files::TableFiles;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::message_size::document_size;
use crate::read_point::ReadPoint;
use crate::reads::diff::{DiffPages, DiffQuery};
use crate::reads::history::{CommitPages, DriftQuery};
use crate::reads::select::{RowPages, SelectQuery};
use crate::reads::tables;
use crate::reads::target::{KeyTarget, TableTarget};
use crate::replica_slot::{HistoryLosses, ReplicaSlot};
use crate::resume_token::{SelectToken, request_hash};
use crate::statement;
use crate::watch;

/// Maximum number of tables in one response of ListTables, and the default.
const TABLES_PER_PAGE: usize = 1000;

/// About what a row takes in an answer besides its key and document.
const ROW_BYTES: usize = 48;

/// The implementation of `ReaderService`: serves each call from the replica that is current when it arrives.
#[derive(Debug, Clone)]
pub struct ReaderServer {
    /// The replica that is served.
    pub slot: Arc<ReplicaSlot>,
    /// The data directory and the cache.
    pub files: TableFiles,
    /// The memory that requests take.
    pub memory: Arc<MemoryBudget>,
    /// Cancelled when the reader shuts down.
    pub shutdown: CancellationToken,
}

impl ReaderServer {
    fn call(&self) -> ReaderRpc {
        ReaderRpc(RequestContext {
            replica: self.slot.current(),
            files: self.files.clone(),
            memory: Arc::clone(&self.memory),
            shutdown: self.shutdown.clone(),
        })
    }
}

/// One call.
#[derive(Debug, Clone)]
struct ReaderRpc(RequestContext);

impl ReaderRpc {
    fn freshness(&self, freshness: Option<v1::Freshness>) -> Result<Freshness> {
        Freshness::from_wire(freshness, &self.0.replica)
    }

    async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse> {
        let format = convert::format_from_wire(request.format)?;
        if request.keys.len() > limits::KEYS_PER_GET {
            let message = format!(
                "too many keys: {}, the limit for Get is {}",
                request.keys.len(),
                limits::KEYS_PER_GET
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        let as_of = convert::point_from_wire(request.as_of)?;
        let replica = &self.0.replica;
        let point = replica.wait_for_point(self.freshness(request.freshness)?, as_of).await?;
        let view = point.view(&request.table)?;
        let mut response =
            v1::GetResponse { header: Some(point.header(replica, [view.timeline()])?), ..Default::default() };
        // A key is in the answer in any case: with its row, or among those that remain.
        let mut bytes = request.keys.iter().map(String::len).sum::<usize>();
        let mut keys = request.keys.into_iter();
        while let Some(text) = keys.next() {
            let key = Key::parse(&text, view.schema().key_type)?;
            let Some(row) = view.get(&key)? else { continue };
            let row = convert::row_to_wire(&row, format)?;
            bytes += ROW_BYTES + document_size(row.document.as_ref());
            if bytes > limits::GET_BYTES && !response.rows.is_empty() {
                response.remaining.push(text);
                break;
            }
            response.rows.push(row);
        }
        response.remaining.extend(keys);
        Ok(response)
    }

    async fn select(&self, request: v1::SelectRequest) -> Result<ResponseStream<v1::SelectResponse>> {
        let format = convert::format_from_wire(request.format)?;
        let params = parser::parse_params(&request.params)?;
        let condition = match request.r#where.trim() {
            "" => None,
            text => Some(parser::parse_condition(text, &params)?),
        };
        let columns = parse_columns(&request.fields)?;
        let hash = select_hash(&request);
        let mut as_of = convert::point_from_wire(request.as_of)?;
        let mut selection = Selection {
            condition,
            columns,
            limit: Some(request.limit).filter(|limit| *limit > 0),
            offset: request.offset,
            after: None,
            count_only: request.count_only,
        };
        let mut sent_before = 0;
        let mut freshness = self.freshness(request.freshness)?;
        let database = self.0.replica.database().clone();
        if !request.resume_token.is_empty() {
            let token = SelectToken::decode(&request.resume_token, &database, hash)?;
            // The token proves that the commit exists, even if this replica has not seen it yet.
            freshness = freshness.at_least(token.seq);
            as_of = Some(PointInTime::Seq(token.seq));
            freshness = freshness.requiring(token.point());
            sent_before = token.count;
            selection.after = Some(token.after());
            selection.limit = selection.limit.map(|limit| limit.saturating_sub(sent_before));
            selection.offset = 0;
        }
        let query = SelectQuery { table: TableTarget::Field(&request.table), as_of, selection, format };
        let mut pages = RowPages::open(&self.0.replica, freshness, query).await?;
        let point = self.0.replica.lineage().point(pages.seq());
        Ok(self.0.stream(move || {
            pages.next_page()?.try_map(|page| {
                let mut message =
                    v1::SelectResponse { header: page.header, rows: page.rows, ..Default::default() };
                let count = sent_before + page.count;
                match page.resume_after {
                    Some(after) => {
                        let token = SelectToken::new(&database, hash, point, &after, count);
                        message.resume_token = token.encode()?.into();
                    }
                    None => message.count = count,
                }
                Ok(message)
            })
        }))
    }

    async fn history(&self, request: v1::HistoryRequest) -> Result<ResponseStream<v1::HistoryResponse>> {
        let query = DriftQuery {
            table: TableTarget::Field(&request.table),
            key: Some(request.key.as_str()).filter(|key| !key.is_empty()).map(KeyTarget::Field),
            format: convert::format_from_wire(request.format)?,
            start: convert::point_from_wire(request.start)?,
            end: convert::point_from_wire(request.end)?,
            newest_first: request.newest_first,
            images: Images { before: request.with_before, after: request.with_after },
            limit: Some(request.limit).filter(|limit| *limit > 0),
        };
        let freshness = self.freshness(request.freshness)?;
        let mut pages = CommitPages::open(&self.0.replica, freshness, query).await?;
        let truncated = pages.is_truncated();
        Ok(self.0.stream(move || {
            pages.next_page(usize::MAX)?.try_map(|page| {
                Ok(v1::HistoryResponse { header: page.header, commits: page.commits, truncated })
            })
        }))
    }

    async fn diff(&self, request: v1::DiffRequest) -> Result<ResponseStream<v1::DiffResponse>> {
        let format = convert::format_from_wire(request.format)?;
        let freshness = self.freshness(request.freshness)?;
        let (start, end) = (convert::point_from_wire(request.start)?, convert::point_from_wire(request.end)?);
        let start = start.ok_or_else(|| {
            Error::new(Reason::ArgumentInvalid, "diff has no start; set `start` to the earlier point in time")
        })?;
        let query = DiffQuery {
            table: TableTarget::Field(&request.table),
            keys: request.keys.iter().map(|key| KeyTarget::Field(key)).collect(),
            start,
            end,
            format,
        };
        let mut pages = DiffPages::open(&self.0.replica, freshness, query).await?;
        let start_seq = pages.start_seq();
        Ok(self.0.stream(move || {
            pages
                .next_page(usize::MAX)?
                .try_map(|page| Ok(v1::DiffResponse { header: page.header, start_seq, rows: page.rows }))
        }))
    }

    async fn list_tables(&self, request: v1::ListTablesRequest) -> Result<v1::ListTablesResponse> {
        let as_of = convert::point_from_wire(request.as_of)?;
        let freshness = self.freshness(request.freshness)?;
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => TABLES_PER_PAGE,
            Ok(size) => size.min(TABLES_PER_PAGE),
            Err(_) => {
                let message = format!("page_size must not be negative; got {}", request.page_size);
                return Err(Error::new(Reason::ArgumentInvalid, message));
            }
        };
        let list = tables::list(&self.0.replica, freshness, as_of, &request.page_token, page_size).await?;
        let last = list.tables.last().filter(|_| list.has_more);
        let next_page_token = last.map(|table| table.table.clone()).unwrap_or_default();
        Ok(v1::ListTablesResponse { header: Some(list.header), tables: list.tables, next_page_token })
    }

    async fn describe_table(&self, request: v1::DescribeTableRequest) -> Result<v1::DescribeTableResponse> {
        let as_of = convert::point_from_wire(request.as_of)?;
        let freshness = self.freshness(request.freshness)?;
        let table = TableTarget::Field(&request.table);
        let (header, table) = tables::describe(&self.0.replica, freshness, as_of, table).await?;
        Ok(v1::DescribeTableResponse { header: Some(header), table: Some(table) })
    }

    fn status(&self, losses: HistoryLosses) -> Result<v1::ReaderServiceStatusResponse> {
        let RequestContext { replica, files, .. } = &self.0;
        let applied = replica.applied();
        let point = ReadPoint { seq: applied.seq, applied };
        let header = point.header(replica, point.applied.tables.values())?;
        let memtables = point.applied.tables.values().map(|table| Arc::clone(&table.state().memtable));
        Ok(v1::ReaderServiceStatusResponse {
            lag_seqs: replica.head_seq().saturating_sub(header.applied_seq),
            header: Some(header),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lag: replica.lag().try_into().ok(),
            watchers: replica.subscriptions().count() as u64,
            cache_bytes: files.cache.used_bytes(),
            cache_limit_bytes: files.cache.budget(),
            memtable_events: memtables.clone().map(|memtable| memtable.len() as u64).sum(),
            memtable_bytes: memtables.map(|memtable| memtable.bytes()).sum(),
            writer_address: self.0.writer_address(),
            histories_lost: losses.count,
            last_history_lost: losses.last,
            memory: convert::memory_to_wire(&self.0.memory),
            damaged_files: convert::damaged_files_to_wire(replica.damaged_files()),
            problems: replica.problems(),
        })
    }
}

/// The columns that the `fields` of a request name.
fn parse_columns(fields: &[String]) -> Result<Vec<Column>> {
    let mut columns: Vec<Column> = Vec::with_capacity(fields.len());
    let mut seen = HashSet::new();
    for field in fields {
        let column = parser::parse_column(field)?;
        // A document cannot have a field twice.
        if !seen.insert(column.clone()) {
            let message = format!("duplicate field {:?} in fields; name it once", column.to_string());
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        columns.push(column);
    }
    Ok(columns)
}

/// The hash of everything in a Select that a resume token must not change.
fn select_hash(request: &v1::SelectRequest) -> u64 {
    let numbers = [request.limit, request.offset, u64::from(request.count_only), request.params.len() as u64]
        .map(u64::to_le_bytes);
    let texts = [&request.table, &request.r#where].into_iter().chain(&request.params).chain(&request.fields);
    request_hash(numbers.iter().map(<[u8; 8]>::as_slice).chain(texts.map(|text| text.as_bytes())))
}

/// The memory of a call.
fn call_memory<T>(request: &Request<T>) -> Result<CallMemory, Status> {
    let memory = request.extensions().get::<CallMemory>().cloned();
    memory.ok_or_else(|| Status::internal("the server gave the call no memory"))
}

/// The message of a request whose answer is computed page by page: the answer waits for memory before each page.
fn paged<T>(request: Request<T>) -> Result<T, Status> {
    call_memory(&request)?.compute_on_demand();
    Ok(request.into_inner())
}

fn respond<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl ReaderService for ReaderServer {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        respond(self.call().get(request.into_inner()).await)
    }

    type SelectStream = ResponseStream<v1::SelectResponse>;

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<Self::SelectStream>, Status> {
        respond(self.call().select(paged(request)?).await)
    }

    type HistoryStream = ResponseStream<v1::HistoryResponse>;

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        respond(self.call().history(paged(request)?).await)
    }

    type DiffStream = ResponseStream<v1::DiffResponse>;

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        respond(self.call().diff(paged(request)?).await)
    }

    type WatchDriftStream = ResponseStream<v1::WatchDriftResponse>;

    async fn watch_drift(
        &self,
        request: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        let memory = call_memory(&request)?;
        respond(watch::open_stream(&self.call().0, request.into_inner(), &memory).await)
    }

    async fn list_tables(
        &self,
        request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        respond(self.call().list_tables(request.into_inner()).await)
    }

    async fn describe_table(
        &self,
        request: Request<v1::DescribeTableRequest>,
    ) -> Result<Response<v1::DescribeTableResponse>, Status> {
        respond(self.call().describe_table(request.into_inner()).await)
    }

    type ExecuteStream = ResponseStream<v1::ReaderServiceExecuteResponse>;

    async fn execute(
        &self,
        request: Request<v1::ReaderServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        respond(statement::execute(&self.call().0, paged(request)?).await)
    }

    async fn status(
        &self,
        _: Request<v1::ReaderServiceStatusRequest>,
    ) -> Result<Response<v1::ReaderServiceStatusResponse>, Status> {
        respond(self.call().status(self.slot.losses()))
    }
}
