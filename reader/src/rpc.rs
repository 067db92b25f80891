//! `ReaderService`: decodes each request, starts the read, and encodes the response.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;
use driftdb::v1;
use driftdb::v1::reader_service_server::ReaderService;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::lineage::LineagePoint;
use driftdb_common::format::manifest::Database;
use driftdb_common::limits;
use driftdb_common::query::ast::{Condition, PointInTime, SelectItem};
use driftdb_common::query::exec::Selection;
use driftdb_common::query::exec::drift::DriftFilter;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser::{self, Parsed};
use driftdb_common::service::access::authorize::{AccessAction, authorize};
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, StreamLease, lease_stream};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::service::deadline::deadline_of;
use driftdb_common::service::server::{CallMemory, ResponseStream};
use driftdb_common::service::status::to_status;
use driftdb_common::table::history::Images;
use driftdb_common::work;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_token::{page_start, page_token};
use crate::paged_stream::{stream_pages, stream_pages_after};
use crate::reader_status::read_status;
use crate::reads::diff::{DiffPages, DiffQuery};
use crate::reads::get::{GetQuery, read_rows};
use crate::reads::history::{CommitPage, CommitPages, DriftQuery};
use crate::reads::select::{RowPage, RowPages, SelectQuery};
use crate::reads::tables::{self, TableListLimit};
use crate::reads::target::{KeyTarget, TableTarget};
use crate::replica_slot::{HistoryLosses, ReplicaSlot};
use crate::resume_token::{SelectToken, request_hash};
use crate::running_query::RunningQuery;
use crate::statement;
use crate::suggestion::suggesting;
use crate::watch;

/// Maximum number of tables in one response of ListTables, and the default.
const TABLES_PER_PAGE: usize = 1000;
/// The bytes of a page of ListTables. gRPC clients take messages of up to 4 MiB unless they are told otherwise.
const TABLE_PAGE_BYTES: usize = 1 << 20;

/// The implementation of `ReaderService`: serves each call from the replica that is current when it arrives.
#[derive(Debug, Clone)]
pub struct ReaderServer {
    slot: Arc<ReplicaSlot>,
    /// The context of the requests of one replica: the last one that a request found.
    context: Arc<ArcSwap<RequestContext>>,
}

impl ReaderServer {
    /// Serves the replica in a slot. `context` is that of its present replica.
    pub fn new(slot: Arc<ReplicaSlot>, context: Arc<RequestContext>) -> ReaderServer {
        ReaderServer { slot, context: Arc::new(ArcSwap::new(context)) }
    }

    /// A call. Fails unless it is known who calls.
    fn call<T>(&self, request: &Request<T>) -> Result<ReaderRpc, Status> {
        Ok(ReaderRpc { caller: Caller::of(request)?, context: self.context() })
    }

    fn context(&self) -> Arc<RequestContext> {
        let context = self.context.load_full();
        if self.slot.serves(&context.replica) {
            return context;
        }
        let context = Arc::new(RequestContext {
            replica: self.slot.current(),
            files: context.files.clone(),
            compute: Arc::clone(&context.compute),
            memory: Arc::clone(&context.memory),
            statement_timeout: context.statement_timeout,
            patience: context.patience,
            security: Arc::clone(&context.security),
            activity: Arc::clone(&context.activity),
            shutdown: context.shutdown.clone(),
        });
        self.context.store(Arc::clone(&context));
        context
    }
}

/// One call.
#[derive(Debug, Clone)]
struct ReaderRpc {
    context: Arc<RequestContext>,
    caller: Caller,
}

impl ReaderRpc {
    fn freshness(&self, freshness: Option<v1::Freshness>) -> Result<Freshness> {
        Freshness::from_wire(freshness, &self.context.replica)
    }

    /// Fails unless the caller may read a table.
    async fn authorize(&self, table: &str) -> Result<()> {
        match authorize(&self.caller, AccessAction::Read, [table]) {
            Ok(()) => Ok(()),
            Err(error) => Err(suggesting(&self.context, &self.caller, error).await),
        }
    }

    /// Fails if the rules do not let the caller read a table any more, for a call that has waited.
    fn check_again(&self, table: &str) -> Result<()> {
        let needs = LeaseNeeds::Tables(Role::Read, vec![table.to_owned()]);
        StreamLease::new(&self.caller, needs).check()
    }

    /// The stream of an answer about a table, as long as the caller may read it.
    fn leased<T: Send + 'static>(&self, table: &str, stream: ResponseStream<T>) -> ResponseStream<T> {
        lease_stream(stream, &self.caller, LeaseNeeds::Tables(Role::Read, vec![table.to_owned()]))
    }

    fn respond<T>(&self, result: Result<T>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|error| self.caller.redact(to_status(error)))
    }

    async fn get(&self, deadline: Option<Instant>, request: v1::GetRequest) -> Result<v1::GetResponse> {
        if request.keys.len() > limits::KEYS_PER_GET {
            let message = format!(
                "too many keys: {}, the limit for Get is {}",
                request.keys.len(),
                limits::KEYS_PER_GET
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        self.authorize(&request.table).await?;
        let freshness = self.freshness(request.freshness)?;
        let get = GetQuery {
            caller: self.caller.clone(),
            format: convert::format_from_wire(request.format)?,
            as_of: convert::point_from_wire(request.as_of)?,
            table: request.table,
            keys: request.keys,
        };
        let replica = &self.context.replica;
        // Nearly every Get is for rows in memory. It needs no other thread.
        if let Some(applied) = replica.fresh_state(&freshness, get.as_of)
            && let Some(response) = work::quick(|| read_rows(replica, &applied, &get))
        {
            return response;
        }
        let query = RunningQuery::lookup(&self.context, deadline)?;
        let applied = query.wait_until_fresh(freshness, get.as_of).await?;
        self.check_again(&get.table)?;
        query.compute(move |context| read_rows(&context.replica, &applied, &get)).await
    }

    async fn select(
        &self,
        deadline: Option<Instant>,
        request: v1::SelectRequest,
    ) -> Result<ResponseStream<v1::SelectResponse>> {
        self.authorize(&request.table).await?;
        let leased = request.table.clone();
        let freshness = self.freshness(request.freshness)?;
        let format = convert::format_from_wire(request.format)?;
        let bytes = request.encoded_len();
        let query = RunningQuery::query(&self.context, deadline, bytes)?;
        let database = self.context.replica.database().clone();
        let (of_database, caller) = (database.clone(), self.caller.clone());
        let PreparedSelect { table, as_of, selection, hash, sent_before, resumed, notes } =
            query.prepare(bytes, move || prepare_select(request, &of_database, &caller)).await?;
        // The token proves that the commit exists, even if this replica has not seen it yet.
        let freshness = freshness.at_least(resumed.seq).requiring(resumed);
        let table = TableTarget::field(&self.caller, table);
        let select = SelectQuery { table, as_of, selection, format };
        let mut pages = RowPages::open(&query, freshness, select).await?;
        pages.add_notes(notes);
        let point = self.context.replica.lineage().point(pages.seq());
        let (hash, deleted_after) = ((hash, self.caller.token_scope()), pages.deleted_after());
        let to_message = move |page: RowPage| {
            let mut message = v1::SelectResponse {
                header: page.header,
                rows: page.rows,
                notes: page.notes,
                ..Default::default()
            };
            let count = sent_before + page.count;
            match page.resume_after {
                Some(after) => {
                    let token = SelectToken::new(&database, hash, point, &after, (count, deleted_after));
                    message.resume_token = token.encode()?.into();
                }
                None => message.count = count,
            }
            Ok(message)
        };
        let (mut pages, first) = match RunningQuery::is_short(bytes) {
            true => pages.short_page(&query).await?,
            false => (pages, None),
        };
        let first = first.map(|page| page.try_map(&to_message));
        let pages = stream_pages_after(first, query, move || pages.next_page()?.try_map(&to_message));
        Ok(self.leased(&leased, pages))
    }

    async fn history(
        &self,
        deadline: Option<Instant>,
        request: v1::HistoryRequest,
    ) -> Result<ResponseStream<v1::HistoryResponse>> {
        self.authorize(&request.table).await?;
        let leased = request.table.clone();
        let freshness = self.freshness(request.freshness)?;
        let bytes = request.encoded_len();
        let query = RunningQuery::query(&self.context, deadline, bytes)?;
        let decode = move || Ok((decode_drift_filter(&request)?, request));
        let ((filter, notes), request) = query.prepare(bytes, decode).await?;
        let drift = DriftQuery {
            filter,
            table: TableTarget::field(&self.caller, request.table),
            key: Some(request.key).filter(|key| !key.is_empty()).map(KeyTarget::Field),
            format: convert::format_from_wire(request.format)?,
            start: convert::point_from_wire(request.start)?,
            end: convert::point_from_wire(request.end)?,
            newest_first: request.newest_first,
            images: Images { before: request.with_before, after: request.with_after },
            limit: Some(request.limit).filter(|limit| *limit > 0),
        };
        let mut pages = CommitPages::open(&query, freshness, drift).await?;
        pages.add_notes(notes);
        let truncated = pages.is_truncated();
        let to_message = move |page: CommitPage| {
            Ok(v1::HistoryResponse { header: page.header, commits: page.commits, truncated })
        };
        let (mut pages, first) = pages.short_page(&query).await?;
        let first = first.map(|page| page.try_map(to_message));
        let pages =
            stream_pages_after(first, query, move || pages.next_page(usize::MAX)?.try_map(to_message));
        Ok(self.leased(&leased, pages))
    }

    async fn diff(
        &self,
        deadline: Option<Instant>,
        request: v1::DiffRequest,
    ) -> Result<ResponseStream<v1::DiffResponse>> {
        if request.keys.len() > limits::DIFF_KEYS {
            let message = format!(
                "too many keys: {}, the limit for Diff is {}; name none to compare all rows",
                request.keys.len(),
                limits::DIFF_KEYS
            );
            return Err(Error::new(Reason::TooLarge, message));
        }
        self.authorize(&request.table).await?;
        let leased = request.table.clone();
        let freshness = self.freshness(request.freshness)?;
        let query = RunningQuery::query(&self.context, deadline, request.encoded_len())?;
        let (start, end) = (convert::point_from_wire(request.start)?, convert::point_from_wire(request.end)?);
        let start = start.ok_or_else(|| {
            Error::new(Reason::ArgumentInvalid, "diff has no start; set `start` to the earlier point in time")
        })?;
        let wanted = DiffQuery {
            table: TableTarget::field(&self.caller, request.table),
            keys: request.keys.into_iter().map(KeyTarget::Field).collect(),
            start,
            end,
            added_if_missing: request.added_if_missing,
            format: convert::format_from_wire(request.format)?,
        };
        let mut pages = DiffPages::open(&query, freshness, wanted).await?;
        let start_seq = pages.start_seq();
        let pages = stream_pages(query, move || {
            pages
                .next_page(usize::MAX)?
                .try_map(|page| Ok(v1::DiffResponse { header: page.header, start_seq, rows: page.rows }))
        });
        Ok(self.leased(&leased, pages))
    }

    async fn list_tables(
        &self,
        deadline: Option<Instant>,
        request: v1::ListTablesRequest,
    ) -> Result<v1::ListTablesResponse> {
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
        let after = page_start(&request.page_token, &self.caller)?;
        let query = RunningQuery::lookup(&self.context, deadline)?;
        let limit = TableListLimit { tables: page_size, bytes: TABLE_PAGE_BYTES };
        let after = (after, request.with_dropped);
        let list = tables::list(&query, &self.caller, (freshness, as_of), after, limit).await?;
        StreamLease::new(&self.caller, LeaseNeeds::Principal).check()?;
        let last = list.tables.last().filter(|_| list.has_more);
        let next_page_token = last.map(|table| page_token(&table.table, &self.caller)).unwrap_or_default();
        Ok(v1::ListTablesResponse { header: Some(list.header), tables: list.tables, next_page_token })
    }

    async fn describe_table(
        &self,
        deadline: Option<Instant>,
        request: v1::DescribeTableRequest,
    ) -> Result<v1::DescribeTableResponse> {
        self.authorize(&request.table).await?;
        let as_of = convert::point_from_wire(request.as_of)?;
        let freshness = self.freshness(request.freshness)?;
        let query = RunningQuery::lookup(&self.context, deadline)?;
        let target = TableTarget::field(&self.caller, request.table.clone());
        let (header, table) = tables::describe(&query, freshness, as_of, target).await?;
        self.check_again(&request.table)?;
        Ok(v1::DescribeTableResponse { header: Some(header), table: Some(table) })
    }

    async fn status(
        &self,
        deadline: Option<Instant>,
        losses: HistoryLosses,
    ) -> Result<v1::ReaderServiceStatusResponse> {
        let caller = self.caller.clone();
        let read = move |context: &RequestContext| read_status(context, &caller);
        let status = RunningQuery::lookup(&self.context, deadline)?.compute(read).await?;
        let HistoryLosses { count: histories_lost, last } = losses;
        // What was lost can name files of any table.
        let last_history_lost = if self.caller.is_admin() { last } else { String::new() };
        Ok(v1::ReaderServiceStatusResponse { histories_lost, last_history_lost, ..status })
    }
}

/// What a Select asks for, decoded.
struct PreparedSelect {
    table: String,
    as_of: Option<PointInTime>,
    selection: Selection,
    /// The hash that a resume token of the request has.
    hash: u64,
    /// The rows that were sent before the token.
    sent_before: u64,
    /// The commit of the token; all zeros without a token.
    resumed: LineagePoint,
    /// How words for moments were understood.
    notes: Vec<String>,
}

/// Which events a History asks for, and how words for moments were understood.
fn decode_drift_filter(request: &v1::HistoryRequest) -> Result<(DriftFilter, Vec<String>)> {
    let texts = (request.r#where.as_str(), request.params.as_slice());
    let (condition, notes) = decode_condition(texts, &request.time_zone, false)?;
    let actor = Some(request.actor.clone()).filter(|actor| !actor.is_empty());
    Ok((DriftFilter { condition, actor }, notes))
}

/// The condition of a request with its parameters, on live rows or on deleted ones, and how words for moments were understood.
fn decode_condition(
    (text, params): (&str, &[String]),
    time_zone: &str,
    on_deleted: bool,
) -> Result<(Option<Condition>, Vec<String>)> {
    let params = parser::parse_params(params)?;
    let clock = LocalClock::in_zone(time_zone, now_ms())?;
    Ok(match text.trim() {
        "" => (None, Vec::new()),
        text => {
            let Parsed { value, notes } = match on_deleted {
                true => parser::parse_deleted_condition_at(text, &params, &clock)?,
                false => parser::parse_condition_at(text, &params, &clock)?,
            };
            (Some(value), notes)
        }
    })
}

fn prepare_select(
    request: v1::SelectRequest,
    database: &Database,
    caller: &Caller,
) -> Result<PreparedSelect> {
    let texts = (request.r#where.as_str(), request.params.as_slice());
    let (condition, notes) = decode_condition(texts, &request.time_zone, request.deleted)?;
    let items = parse_fields(&request.fields)?;
    let hash = select_hash(&request);
    let mut as_of = convert::point_from_wire(request.as_of)?;
    let mut selection = Selection {
        deleted: request.deleted,
        condition,
        items,
        limit: Some(request.limit).filter(|limit| *limit > 0),
        offset: request.offset,
        after: None,
        count_only: request.count_only,
        order_by: match request.order_by.trim() {
            "" => Vec::new(),
            _ if request.count_only => return Err(counted_in_order()),
            text => parser::parse_order_by(text)?,
        },
        ..Selection::default()
    };
    let (mut sent_before, mut resumed) = (0, LineagePoint::default());
    if !request.resume_token.is_empty() {
        let token = SelectToken::decode(&request.resume_token, database, hash)?;
        caller.check_token_scope(token.principal())?;
        as_of = Some(PointInTime::Seq(token.seq));
        resumed = token.point();
        sent_before = token.count;
        // A floor that has risen since hides deletions that the first part would have returned.
        selection.deleted_after = token.deleted_after;
        selection.limit = selection.limit.map(|limit| limit.saturating_sub(sent_before));
        match selection.order_by.is_empty() {
            true => {
                selection.after = Some(token.after());
                selection.offset = 0;
            }
            // At one point in time the order is always the same.
            false => selection.offset = selection.offset.saturating_add(sent_before),
        }
    }
    Ok(PreparedSelect { table: request.table, as_of, selection, hash, sent_before, resumed, notes })
}

fn counted_in_order() -> Error {
    Error::new(
        Reason::ArgumentInvalid,
        "count_only and order_by are both set; a count has no order: set only one",
    )
}

/// The columns that the `fields` of a request name.
fn parse_fields(fields: &[String]) -> Result<Vec<SelectItem>> {
    if fields.len() > limits::SELECT_FIELDS {
        let message = format!(
            "too many fields: {}, the limit for Select is {}; name none for whole documents",
            fields.len(),
            limits::SELECT_FIELDS
        );
        return Err(Error::new(Reason::TooLarge, message));
    }
    let mut items = Vec::with_capacity(fields.len());
    let mut seen = HashSet::new();
    for field in fields {
        let column = parser::parse_column(field)
            .map_err(|e| e.without_place().context(format_args!("field {field:?}")))?;
        // A document cannot have a field twice.
        if !seen.insert(column.clone()) {
            let message = format!("duplicate field {:?} in fields; name it once", column.to_string());
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        items.push(SelectItem { column, alias: None });
    }
    Ok(items)
}

/// The hash of everything in a Select that a resume token must not change.
fn select_hash(request: &v1::SelectRequest) -> u64 {
    let numbers = [request.limit, request.offset, u64::from(request.count_only), request.params.len() as u64]
        .map(u64::to_le_bytes);
    let texts = [&request.table, &request.r#where].into_iter().chain(&request.params).chain(&request.fields);
    // Without an order, a zone and deleted rows the hash is that of earlier versions. The number of fields is not hashed, so each newer part
    // follows a tag that no field can be.
    let newer = [
        ("\0order_by", request.order_by.as_str(), !request.order_by.is_empty()),
        ("\0time_zone", request.time_zone.as_str(), !request.time_zone.is_empty()),
        ("\0deleted", "", request.deleted),
    ];
    let newer = newer.iter().filter(|(_, _, given)| *given).flat_map(|(tag, text, _)| [*tag, *text]);
    let newer = newer.map(str::as_bytes);
    let texts = texts.map(|text| text.as_bytes()).chain(newer);
    request_hash(numbers.iter().map(<[u8; 8]>::as_slice).chain(texts))
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

#[tonic::async_trait]
impl ReaderService for ReaderServer {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.get(deadline, request.into_inner()).await)
    }

    type SelectStream = ResponseStream<v1::SelectResponse>;

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<Self::SelectStream>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.select(deadline, paged(request)?).await)
    }

    type HistoryStream = ResponseStream<v1::HistoryResponse>;

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.history(deadline, paged(request)?).await)
    }

    type DiffStream = ResponseStream<v1::DiffResponse>;

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.diff(deadline, paged(request)?).await)
    }

    type WatchDriftStream = ResponseStream<v1::WatchDriftResponse>;

    async fn watch_drift(
        &self,
        request: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        let memory = call_memory(&request)?;
        let opened =
            watch::open_stream(&call.context, &call.caller, deadline, request.into_inner(), &memory).await;
        call.respond(opened)
    }

    async fn list_tables(
        &self,
        request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.list_tables(deadline, request.into_inner()).await)
    }

    async fn describe_table(
        &self,
        request: Request<v1::DescribeTableRequest>,
    ) -> Result<Response<v1::DescribeTableResponse>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(call.describe_table(deadline, request.into_inner()).await)
    }

    type ExecuteStream = ResponseStream<v1::ReaderServiceExecuteResponse>;

    async fn execute(
        &self,
        request: Request<v1::ReaderServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        let (call, deadline) = (self.call(&request)?, deadline_of(request.metadata()));
        call.respond(statement::execute(&call.context, &call.caller, deadline, paged(request)?).await)
    }

    async fn status(
        &self,
        request: Request<v1::ReaderServiceStatusRequest>,
    ) -> Result<Response<v1::ReaderServiceStatusResponse>, Status> {
        let call = self.call(&request)?;
        call.respond(call.status(deadline_of(request.metadata()), self.slot.losses()).await)
    }
}
