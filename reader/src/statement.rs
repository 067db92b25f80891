//! `Execute`: parses one DriftQL statement, starts the read that it asks for, and streams the results.

use std::sync::Arc;
use std::time::Instant;

use driftdb::v1;
use driftdb::v1::reader_service_execute_response::Result as Outcome;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::query::ast::{
    EveryMoment, FindStatement, PointInTime, RowKey, SelectStatement, ShowDriftStatement, Statement,
    StatementKind, TableName,
};
use driftdb_common::query::exec::Selection;
use driftdb_common::query::exec::drift::DriftFilter;
use driftdb_common::query::local_clock::LocalClock;
use driftdb_common::query::parser::{self, Parsed};
use driftdb_common::query::report;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::{LeaseNeeds, lease_stream};
use driftdb_common::service::access::role::Role;
use driftdb_common::service::access::statement_tables::authorize_statement;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::service::server::ResponseStream;
use driftdb_common::table::history::Images;
use prost::Message;
use tokio_stream::StreamExt;

use crate::context::RequestContext;
use crate::freshness::Freshness;
use crate::page_step::PageStep;
use crate::paged_stream::{stream_messages, stream_pages};
use crate::reads::diff::{DiffPages, DiffQuery};
use crate::reads::every::{MomentPage, MomentPages, MomentsQuery};
use crate::reads::find::{ConditionSearch, FindPages, FoundCommit};
use crate::reads::history::{CommitPages, DriftQuery};
use crate::reads::select::{Explanation, RowPages, SelectQuery};
use crate::reads::tables::{self, TableListLimit};
use crate::reads::target::{KeyTarget, TableTarget};
use crate::running_query::RunningQuery;
use crate::suggestion::suggesting;

/// The messages with which Execute responds.
pub type StatementStream = ResponseStream<v1::ReaderServiceExecuteResponse>;

/// Executes the statement of a request.
pub async fn execute(
    context: &Arc<RequestContext>,
    caller: &Caller,
    deadline: Option<Instant>,
    request: v1::ReaderServiceExecuteRequest,
) -> Result<StatementStream> {
    let as_of = convert::point_from_wire(request.as_of)?;
    let freshness = Freshness::from_wire(request.freshness, &context.replica)?;
    let format = convert::format_from_wire(request.format)?;
    let bytes = request.encoded_len();
    let query = RunningQuery::query(context, deadline, bytes)?;
    let v1::ReaderServiceExecuteRequest { statement, params, time_zone, .. } = request;
    let clock = LocalClock::in_zone(&time_zone, now_ms())?;
    let text = Arc::new(statement);
    let parsed = Arc::clone(&text);
    let parse_clock = clock.clone();
    let parse = move || parser::parse_at(&parsed, &parser::parse_params(&params)?, &parse_clock);
    let Parsed { value: statement, notes } = query.prepare(bytes, parse).await?;
    if statement.kind() != StatementKind::Read {
        return Err(not_a_read(query.compute(|context| Ok(context.writer_address())).await?));
    }
    let table = statement.table().cloned();
    if let Err(error) = authorize_statement(caller, &statement) {
        let error = suggesting(context, caller, error).await;
        return Err(report::at_table(error, &text, table.as_ref()));
    }
    let needs = table.map_or(LeaseNeeds::Principal, |table| LeaseNeeds::Tables(Role::Read, vec![table.text]));
    let execution = Execution { query, caller: caller.clone(), text, as_of, freshness, format, clock };
    let answer = match statement {
        Statement::Select(select) => execution.select(select).await,
        Statement::Explain(select) => execution.explain(select).await,
        Statement::ExplainFind(find) => execution.explain_find(find).await,
        Statement::ExplainDrift(drift) => execution.explain_drift(drift).await,
        Statement::ShowDrift(drift) => execution.show_drift(drift).await,
        Statement::Find(find) => execution.find(find).await,
        Statement::ShowDiff { table, key, from, to, strict } => {
            execution.show_diff((table, key), (from, to), strict).await
        }
        Statement::ShowTables { as_of } => execution.show_tables(as_of).await,
        Statement::Describe { table, as_of } => execution.describe(table, as_of).await,
        _ => Err(Error::new(Reason::Internal, "cannot execute the statement: no code handles this read")),
    };
    Ok(lease_stream(with_notes(answer?, notes), caller, needs))
}

/// Adds notes to the header of an answer, which is in its first message.
fn with_notes(answer: StatementStream, mut notes: Vec<String>) -> StatementStream {
    if notes.is_empty() {
        return answer;
    }
    Box::pin(answer.map(move |message| {
        let mut message = message?;
        if let Some(header) = &mut message.header {
            // Those of the words come first: what follows may depend on them.
            notes.append(&mut header.notes);
            header.notes = std::mem::take(&mut notes);
        }
        Ok(message)
    }))
}

fn not_a_read(writer_address: String) -> Error {
    let at = if writer_address.is_empty() { String::new() } else { format!(" at {writer_address}") };
    let message =
        format!("a reader cannot execute this statement: it is not a read; send it to the writer{at}");
    Error::new(Reason::NotWriter, message).with("writer_address", writer_address)
}

/// A response with one result.
fn message(header: Option<v1::ReadHeader>, result: Option<Outcome>) -> v1::ReaderServiceExecuteResponse {
    v1::ReaderServiceExecuteResponse { header, result, ..Default::default() }
}

/// Responses with one result each, of which the first has the header: at least one, if there is a header.
fn messages<T>(
    mut header: Option<v1::ReadHeader>,
    results: Vec<T>,
    outcome: impl Fn(T) -> Outcome,
) -> Vec<v1::ReaderServiceExecuteResponse> {
    if results.is_empty() {
        return header.take().map(|header| message(Some(header), None)).into_iter().collect();
    }
    results.into_iter().map(|result| message(header.take(), Some(outcome(result)))).collect()
}

/// A response with notes.
fn noted(notes: Vec<String>, message: v1::ReaderServiceExecuteResponse) -> v1::ReaderServiceExecuteResponse {
    v1::ReaderServiceExecuteResponse { notes, ..message }
}

/// Runs a read to its end, and returns how it has found what it returns.
fn explain(
    query: RunningQuery,
    mut step: impl FnMut() -> Result<PageStep<Explanation>> + Send + 'static,
) -> StatementStream {
    stream_pages(query, move || {
        step()?.try_map(|Explanation { header, text, notes }| {
            Ok(noted(notes, message(header, Some(Outcome::Message(text)))))
        })
    })
}

/// One statement, and the fields of the request that apply to it.
struct Execution {
    query: RunningQuery,
    caller: Caller,
    text: Arc<String>,
    as_of: Option<PointInTime>,
    freshness: Freshness,
    format: v1::DocumentFormat,
    clock: LocalClock,
}

impl Execution {
    fn table(&self, name: TableName) -> TableTarget {
        TableTarget::statement(&self.caller, name, &self.text)
    }

    fn key(&self, key: RowKey) -> KeyTarget {
        KeyTarget::Statement(key, Arc::clone(&self.text))
    }

    /// The statement's own AS OF, or the request's. Fails if both are given.
    fn point(&self, own: Option<PointInTime>) -> Result<Option<PointInTime>> {
        match (own, self.as_of) {
            (Some(_), Some(_)) => {
                let message = "the statement has AS OF and the request has as_of; give only one of them";
                Err(Error::new(Reason::ArgumentInvalid, message))
            }
            (own, given) => Ok(own.or(given)),
        }
    }

    /// Starts a SELECT; returns whether it only counts rows.
    async fn open_select(&self, select: SelectStatement) -> Result<(RowPages, bool)> {
        let as_of = self.point(select.as_of)?;
        let table = self.table(select.table.clone());
        let selection = Selection::from(select);
        let count_only = selection.count_only;
        let wanted = SelectQuery { table, as_of, selection, format: self.format };
        Ok((RowPages::open(&self.query, self.freshness, wanted).await?, count_only))
    }

    async fn select(self, mut select: SelectStatement) -> Result<StatementStream> {
        if let Some(every) = select.every.take() {
            return self.select_every(select, every).await;
        }
        let (mut pages, count_only) = self.open_select(select).await?;
        let table = pages.table().to_owned();
        Ok(stream_pages(self.query, move || {
            pages.next_page()?.try_map(|page| {
                let outcome = match (page.results, count_only) {
                    (Some(results), _) => Outcome::Results(results),
                    (None, true) => Outcome::Count(page.count),
                    (None, false) => Outcome::Rows(v1::RowBatch { table: table.clone(), rows: page.rows }),
                };
                Ok(noted(page.notes, message(page.header, Some(outcome))))
            })
        }))
    }

    async fn open_every(
        self,
        select: SelectStatement,
        every: EveryMoment,
    ) -> Result<(RunningQuery, MomentPages)> {
        if self.as_of.is_some() {
            // Both name points in time.
            self.point(Some(every.from))?;
        }
        let table = self.table(select.table.clone());
        let wanted = MomentsQuery::new(table, (select, every), self.clock, self.format);
        let pages = MomentPages::open(&self.query, self.freshness, wanted).await?;
        Ok((self.query, pages))
    }

    async fn select_every(self, select: SelectStatement, every: EveryMoment) -> Result<StatementStream> {
        let (query, mut pages) = self.open_every(select, every).await?;
        Ok(stream_pages(query, move || {
            pages.next_page()?.try_map(|MomentPage { header, results, notes }| {
                let answer = message(header, Some(Outcome::Results(results)));
                Ok(v1::ReaderServiceExecuteResponse { notes, ..answer })
            })
        }))
    }

    async fn explain(self, mut select: SelectStatement) -> Result<StatementStream> {
        if let Some(every) = select.every.take() {
            let (query, mut pages) = self.open_every(select, every).await?;
            return Ok(explain(query, move || pages.next_explanation()));
        }
        let (mut pages, _) = self.open_select(select).await?;
        Ok(explain(self.query, move || pages.next_explanation()))
    }

    async fn explain_find(self, find: FindStatement) -> Result<StatementStream> {
        let (query, mut pages) = self.open_find(find).await?;
        Ok(explain(query, move || pages.next_explanation()))
    }

    async fn explain_drift(self, drift: ShowDriftStatement) -> Result<StatementStream> {
        let (query, mut pages) = self.open_drift(drift).await?;
        Ok(explain(query, move || pages.next_explanation()))
    }

    async fn open_drift(self, drift: ShowDriftStatement) -> Result<(RunningQuery, CommitPages)> {
        let wanted = DriftQuery {
            table: self.table(drift.table),
            key: drift.key.map(|key| self.key(key)),
            filter: DriftFilter { condition: drift.condition, actor: drift.actor },
            start: drift.from,
            end: self.point(drift.to)?,
            newest_first: false,
            images: Images { before: drift.with_before, after: drift.with_after },
            limit: drift.limit,
            format: self.format,
        };
        let pages = CommitPages::open(&self.query, self.freshness, wanted).await?;
        Ok((self.query, pages))
    }

    async fn show_drift(self, drift: ShowDriftStatement) -> Result<StatementStream> {
        let (query, mut pages) = self.open_drift(drift).await?;
        let is_truncated = pages.is_truncated();
        Ok(stream_messages(query, move || {
            pages.next_page(usize::MAX)?.try_map(|page| {
                let truncated = is_truncated && page.header.is_some();
                let mut messages = messages(page.header, page.commits, Outcome::Commit);
                if let Some(first) = messages.first_mut() {
                    first.truncated = truncated;
                }
                Ok(messages)
            })
        }))
    }

    async fn open_find(self, find: FindStatement) -> Result<(RunningQuery, FindPages)> {
        let wanted = ConditionSearch {
            table: self.table(find.table),
            key: find.key.map(|key| self.key(key)),
            condition: find.condition,
            last: find.last,
            start: find.from,
            end: self.point(find.to)?,
            format: self.format,
        };
        let pages = FindPages::open(&self.query, self.freshness, wanted).await?;
        Ok((self.query, pages))
    }

    async fn find(self, find: FindStatement) -> Result<StatementStream> {
        let (query, mut pages) = self.open_find(find).await?;
        Ok(stream_pages(query, move || {
            pages.next_page()?.try_map(|FoundCommit { header, commit, is_truncated }| {
                Ok(v1::ReaderServiceExecuteResponse {
                    truncated: is_truncated,
                    ..message(Some(header), commit.map(Outcome::Commit))
                })
            })
        }))
    }

    async fn show_diff(
        self,
        (table, key): (TableName, Option<RowKey>),
        (start, end): (PointInTime, PointInTime),
        strict: bool,
    ) -> Result<StatementStream> {
        let wanted = DiffQuery {
            table: self.table(table),
            keys: key.map(|key| self.key(key)).into_iter().collect(),
            start,
            end: self.point(Some(end))?,
            added_if_missing: !strict,
            format: self.format,
        };
        let mut pages = DiffPages::open(&self.query, self.freshness, wanted).await?;
        Ok(stream_messages(self.query, move || {
            pages.next_page(usize::MAX)?.try_map(|page| Ok(messages(page.header, page.rows, Outcome::Diff)))
        }))
    }

    async fn show_tables(&self, as_of: Option<PointInTime>) -> Result<StatementStream> {
        let point = self.point(as_of)?;
        let at = (self.freshness, point);
        let list =
            tables::list(&self.query, &self.caller, at, (String::new(), false), TableListLimit::NONE).await?;
        let mut header = Some(list.header);
        let mut results: Vec<_> = list.tables.into_iter().map(Outcome::Table).map(Some).collect();
        if results.is_empty() {
            // The header still has to be sent.
            results.push(None);
        }
        let messages = results.into_iter().map(move |result| Ok(message(header.take(), result)));
        Ok(Box::pin(tokio_stream::iter(messages)))
    }

    async fn describe(&self, table: TableName, as_of: Option<PointInTime>) -> Result<StatementStream> {
        let (target, point) = (self.table(table), self.point(as_of)?);
        let (header, info) = tables::describe(&self.query, self.freshness, point, target).await?;
        Ok(Box::pin(tokio_stream::once(Ok(message(Some(header), Some(Outcome::Table(info)))))))
    }
}
