//! `ReaderService`: resolves the moment, reads the view, and answers.

use std::collections::BTreeSet;
use std::sync::Arc;

use driftdb::v1;
use driftdb::v1::reader_service_server::ReaderService;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::query::exec::{SelectExecution, Selection};
use driftdb_common::query::parser;
use driftdb_common::service::convert;
use driftdb_common::service::status::to_status;
use driftdb_common::storage::lock;
use driftdb_common::table::diff::Diff;
use driftdb_common::table::history::{History, HistoryQuery, Images};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::answers::{self, Commits};
use crate::freshness::{Freshness, Moment};
use crate::replica::Replica;
use crate::steps::{self, Answers, Step};
use crate::token::{SelectToken, filter_hash};
use crate::watch::Watch;

/// Tables in one answer of ListTables, where the request does not say.
const TABLES_PER_PAGE: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub struct ReaderRpc {
    pub(crate) replica: Arc<Replica>,
    pub(crate) shelf: TableFiles,
    pub(crate) shutdown: CancellationToken,
}

impl ReaderRpc {
    /// Where the writer can be reached, as far as LOCK tells.
    pub(crate) fn writer_address(&self) -> String {
        lock::read_holder(&*self.shelf.disk, &self.shelf.dir).map(|holder| holder.address).unwrap_or_default()
    }

    async fn get(&self, request: v1::GetRequest) -> Result<v1::GetResponse> {
        let format = convert::format_from_wire(request.format)?;
        if request.keys.len() > limits::KEYS_PER_GET {
            let message =
                format!("{} keys are over the limit of {} a Get", request.keys.len(), limits::KEYS_PER_GET);
            return Err(Error::new(Reason::TooLarge, message));
        }
        let moment = self.replica.moment(request.freshness, convert::point_from_wire(request.as_of)?).await?;
        let view = moment.view(&request.table)?;
        let mut answer = v1::GetResponse {
            header: Some(moment.header(&self.replica, [view.timeline()])?),
            ..Default::default()
        };
        let mut bytes = 0;
        let mut keys = request.keys.into_iter();
        for text in keys.by_ref() {
            let key = Key::parse(&text, view.schema().key_type)?;
            let Some(row) = view.get(&key)? else { continue };
            let row = convert::row_to_wire(&row, format)?;
            bytes += answers::document_size(row.document.as_ref());
            answer.rows.push(row);
            if bytes >= limits::GET_BYTES {
                break;
            }
        }
        answer.remaining = keys.collect();
        Ok(answer)
    }

    async fn select(&self, request: v1::SelectRequest) -> Result<Answers<v1::SelectResponse>> {
        let format = convert::format_from_wire(request.format)?;
        let params = parser::parse_params(&request.params)?;
        let condition = match request.r#where.trim() {
            "" => None,
            text => Some(parser::parse_condition(text, &params)?),
        };
        let columns = answers::columns(&request.fields)?;
        let filter = select_filter(&request);
        let mut as_of = convert::point_from_wire(request.as_of)?;
        let mut selection = Selection {
            condition,
            columns,
            limit: Some(request.limit).filter(|limit| *limit > 0),
            offset: request.offset,
            after: None,
            count_only: request.count_only,
        };
        let mut before = 0;
        if !request.resume_token.is_empty() {
            let token = SelectToken::decode(&request.resume_token, self.replica.database(), filter)?;
            as_of = Some(driftdb_common::table::point_in_time::PointInTime::Seq(token.seq));
            before = token.count;
            selection.after = Some(token.after());
            selection.limit = selection.limit.map(|limit| limit.saturating_sub(before));
            selection.offset = 0;
        }
        let moment = self.replica.moment(request.freshness, as_of).await?;
        let view = moment.view(&request.table)?;
        let mut header = Some(moment.header(&self.replica, [view.timeline()])?);
        let mut select = SelectExecution::new(view, selection);
        let database = self.replica.database().clone();
        Ok(steps::stream(self.shutdown.clone(), move || {
            let (rows, done) = answers::next_rows(&mut select, format)?;
            if rows.is_empty() && !done {
                return Ok(Step::Working);
            }
            let mut message = v1::SelectResponse { header: header.take(), rows, ..Default::default() };
            if done {
                message.count = before + select.count();
                return Ok(Step::Last(message));
            }
            if let Some(last) = select.last_key() {
                let token = SelectToken::new(&database, moment.seq, last, before + select.count(), filter);
                message.resume_token = token.encode()?.into();
            }
            Ok(Step::Message(message))
        }))
    }

    async fn history(&self, request: v1::HistoryRequest) -> Result<Answers<v1::HistoryResponse>> {
        let format = convert::format_from_wire(request.format)?;
        let (from, to) = (convert::point_from_wire(request.start)?, convert::point_from_wire(request.end)?);
        let freshness = Freshness::from_wire(request.freshness, &self.replica)?;
        let moment = self.replica.resolve(freshness, to).await?;
        let from = match from {
            Some(from) => self.replica.resolve(freshness, Some(from)).await?.seq,
            None => 0,
        };
        let timeline = moment.applied.table(&request.table)?;
        let key = Some(request.key.as_str()).filter(|key| !key.is_empty());
        let key = key.map(|key| Key::parse(key, timeline.key_type()?)).transpose()?;
        timeline.check_floor(moment.seq)?;
        let images = Images { before: request.with_before, after: request.with_after };
        let newest_first = request.newest_first;
        let wanted =
            HistoryQuery { key, from, to: moment.seq, newest_first, images, ..HistoryQuery::default() };
        let history = History::new(timeline, wanted);
        let truncated = history.is_truncated();
        let mut commits = Commits::new(history, &request.table, format, request.limit);
        let mut header = Some(moment.header(&self.replica, [timeline])?);
        Ok(steps::stream(self.shutdown.clone(), move || {
            let commits = commits.next_message()?;
            if commits.is_empty() && header.is_none() {
                return Ok(Step::Done);
            }
            Ok(Step::Message(v1::HistoryResponse { header: header.take(), commits, truncated }))
        }))
    }

    async fn diff(&self, request: v1::DiffRequest) -> Result<Answers<v1::DiffResponse>> {
        let format = convert::format_from_wire(request.format)?;
        let freshness = Freshness::from_wire(request.freshness, &self.replica)?;
        let (from, to) = (convert::point_from_wire(request.start)?, convert::point_from_wire(request.end)?);
        let from = from.ok_or_else(|| {
            Error::new(Reason::ArgumentInvalid, "a diff needs `start`: the moment to compare from")
        })?;
        let (from, to) = self.two_moments(freshness, from, to).await?;
        let (before, after) = (from.view(&request.table)?, to.view(&request.table)?);
        let keys = match request.keys.as_slice() {
            [] => None,
            keys => {
                let key_type = after.schema().key_type;
                Some(keys.iter().map(|key| Key::parse(key, key_type)).collect::<Result<BTreeSet<_>>>()?)
            }
        };
        let start_seq = from.seq;
        let mut header = Some(to.header(&self.replica, [after.timeline()])?);
        let mut diff = Diff::new(before, after, keys)?;
        Ok(steps::stream(self.shutdown.clone(), move || {
            let rows = answers::next_diffs(&mut diff, format)?;
            if rows.is_empty() && header.is_none() {
                return Ok(Step::Done);
            }
            Ok(Step::Message(v1::DiffResponse { header: header.take(), start_seq, rows }))
        }))
    }

    /// Two moments of one pinned state: the later one is waited for, and both are read from it.
    pub(crate) async fn two_moments(
        &self,
        freshness: Freshness,
        from: driftdb_common::table::point_in_time::PointInTime,
        to: Option<driftdb_common::table::point_in_time::PointInTime>,
    ) -> Result<(Moment, Moment)> {
        let from = self.replica.resolve(freshness, Some(from)).await?;
        let to = self.replica.resolve(freshness, to).await?;
        Ok((Moment { applied: Arc::clone(&to.applied), seq: from.seq }, to))
    }

    async fn list_tables(&self, request: v1::ListTablesRequest) -> Result<v1::ListTablesResponse> {
        let moment = self.replica.moment(request.freshness, convert::point_from_wire(request.as_of)?).await?;
        let page = match usize::try_from(request.page_size) {
            Ok(0) => TABLES_PER_PAGE,
            Ok(size) => size.min(TABLES_PER_PAGE),
            Err(_) => return Err(Error::new(Reason::ArgumentInvalid, "page_size must not be negative")),
        };
        let mut tables: Vec<v1::TableInfo> = moment
            .applied
            .tables
            .iter()
            .filter(|(name, _)| request.page_token.is_empty() || **name > request.page_token)
            .filter_map(|(_, timeline)| table_info(timeline, moment.seq).ok())
            .take(page + 1)
            .collect();
        let more = tables.len() > page;
        tables.truncate(page);
        let last = tables.last().filter(|_| more);
        let next_page_token = last.map(|table| table.table.clone()).unwrap_or_default();
        Ok(v1::ListTablesResponse {
            header: Some(moment.header(&self.replica, moment.applied.tables.values())?),
            tables,
            next_page_token,
        })
    }

    async fn describe_table(&self, request: v1::DescribeTableRequest) -> Result<v1::DescribeTableResponse> {
        let moment = self.replica.moment(request.freshness, convert::point_from_wire(request.as_of)?).await?;
        let table = table_info(moment.applied.table(&request.table)?, moment.seq)?;
        let timeline = moment.applied.table(&request.table)?;
        let header = Some(moment.header(&self.replica, [timeline])?);
        Ok(v1::DescribeTableResponse { header, table: Some(table) })
    }
}

/// What a table is and holds at a moment.
pub(crate) fn table_info(timeline: &Arc<Timeline>, seq: u64) -> Result<v1::TableInfo> {
    let at = timeline.schema_at(seq)?;
    timeline.check_floor(seq)?;
    let counts = timeline.counts(seq)?;
    let state = timeline.state();
    Ok(v1::TableInfo {
        rows: counts.rows,
        created_seq: at.born,
        last_seq: counts.last_seq,
        events: counts.events,
        floor_seq: state.chain.floor().map_or(0, |floor| floor.seq),
        snapshots: state.chain.files() as u64,
        ..convert::schema_to_wire(&at.schema)
    })
}

/// What a SelectExecution asks, as a number.
fn select_filter(request: &v1::SelectRequest) -> u64 {
    let numbers = [request.limit, request.offset, u64::from(request.count_only), request.params.len() as u64]
        .map(u64::to_le_bytes);
    let texts = [&request.table, &request.r#where].into_iter().chain(&request.params).chain(&request.fields);
    filter_hash(numbers.iter().map(<[u8; 8]>::as_slice).chain(texts.map(|text| text.as_bytes())))
}

fn answer<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(to_status)
}

#[tonic::async_trait]
impl ReaderService for ReaderRpc {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        answer(self.get(request.into_inner()).await)
    }

    type SelectStream = Answers<v1::SelectResponse>;

    async fn select(
        &self,
        request: Request<v1::SelectRequest>,
    ) -> Result<Response<Self::SelectStream>, Status> {
        answer(self.select(request.into_inner()).await)
    }

    type HistoryStream = Answers<v1::HistoryResponse>;

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<Self::HistoryStream>, Status> {
        answer(self.history(request.into_inner()).await)
    }

    type DiffStream = Answers<v1::DiffResponse>;

    async fn diff(&self, request: Request<v1::DiffRequest>) -> Result<Response<Self::DiffStream>, Status> {
        answer(self.diff(request.into_inner()).await)
    }

    type WatchDriftStream = Answers<v1::WatchDriftResponse>;

    async fn watch_drift(
        &self,
        request: Request<v1::WatchDriftRequest>,
    ) -> Result<Response<Self::WatchDriftStream>, Status> {
        let (replica, shutdown) = (Arc::clone(&self.replica), self.shutdown.clone());
        answer(Watch::start(replica, request.into_inner(), shutdown).await.map(Watch::into_stream))
    }

    async fn list_tables(
        &self,
        request: Request<v1::ListTablesRequest>,
    ) -> Result<Response<v1::ListTablesResponse>, Status> {
        answer(self.list_tables(request.into_inner()).await)
    }

    async fn describe_table(
        &self,
        request: Request<v1::DescribeTableRequest>,
    ) -> Result<Response<v1::DescribeTableResponse>, Status> {
        answer(self.describe_table(request.into_inner()).await)
    }

    type ExecuteStream = Answers<v1::ReaderServiceExecuteResponse>;

    async fn execute(
        &self,
        request: Request<v1::ReaderServiceExecuteRequest>,
    ) -> Result<Response<Self::ExecuteStream>, Status> {
        answer(self.run_statement(request.into_inner()).await)
    }

    async fn status(
        &self,
        _: Request<v1::ReaderServiceStatusRequest>,
    ) -> Result<Response<v1::ReaderServiceStatusResponse>, Status> {
        let applied = self.replica.applied();
        let moment = Moment { seq: applied.seq, applied };
        let header = moment.header(&self.replica, moment.applied.tables.values()).map_err(to_status)?;
        let overlays = moment.applied.tables.values().map(|table| Arc::clone(&table.state().overlay));
        let lag_seqs = self.replica.known_seq().saturating_sub(header.applied_seq);
        answer(Ok(v1::ReaderServiceStatusResponse {
            header: Some(header),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            lag_seqs,
            lag: self.replica.lag().try_into().ok(),
            watchers: self.replica.subscriptions().watches() as u64,
            cache_bytes: self.shelf.cache.used_bytes(),
            cache_limit_bytes: self.shelf.cache.budget(),
            memtable_events: overlays.clone().map(|overlay| overlay.len() as u64).sum(),
            memtable_bytes: overlays.map(|overlay| overlay.bytes()).sum(),
            writer_address: self.writer_address(),
        }))
    }
}
