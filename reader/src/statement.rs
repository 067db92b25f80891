//! `Execute`: one DriftQL statement that reads, as a stream of its results.

use std::sync::Arc;

use driftdb::v1;
use driftdb::v1::reader_service_execute_response::Result as Outcome;
use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::key::Key;
use driftdb_common::query::ast::{
    self, PointInTime, Projection, RowKey, Statement, StatementKind, TableName,
};
use driftdb_common::query::exec::{SelectExecution, Selection};
use driftdb_common::query::{parser, report};
use driftdb_common::service::convert;
use driftdb_common::table::diff::Diff;
use driftdb_common::table::history::{History, HistoryQuery};
use driftdb_common::table::timeline::Timeline;

use crate::answers::{self, Commits};
use crate::freshness::{Freshness, Moment};
use crate::rpc::{ReaderRpc, table_info};
use crate::steps::{self, Answers, Step};

/// A statement being executed: its text for error messages, and what the request asks for besides.
struct Run<'a> {
    text: &'a str,
    as_of: Option<PointInTime>,
    freshness: Freshness,
    format: v1::DocumentFormat,
}

impl Run<'_> {
    /// The moment that a statement is of: its own AS OF, or the request's.
    fn point(&self, own: Option<PointInTime>) -> Result<Option<PointInTime>> {
        match (own, self.as_of) {
            (Some(_), Some(_)) => {
                let message = "the statement has an AS OF, and the request has as_of too: give one of them";
                Err(Error::new(Reason::ArgumentInvalid, message))
            }
            (own, given) => Ok(own.or(given)),
        }
    }

    /// A table, or an error that points at its name.
    fn table<'m>(&self, moment: &'m Moment, name: &TableName) -> Result<&'m Arc<Timeline>> {
        let found = moment.applied.table(&name.text);
        found.map_err(|e| report::at_table(e, self.text, Some(name)))
    }

    fn key(&self, timeline: &Timeline, key: Option<RowKey>) -> Result<Option<Key>> {
        key.map(|key| key.of_type(timeline.key_type()?, self.text)).transpose()
    }
}

impl ReaderRpc {
    /// Executes a statement.
    pub(crate) async fn run_statement(
        &self,
        request: v1::ReaderServiceExecuteRequest,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let params = parser::parse_params(&request.params)?;
        let statement = parser::parse(&request.statement, &params)?;
        if statement.kind() != StatementKind::Read {
            let address = self.writer_address();
            let at = if address.is_empty() { String::new() } else { format!(", at {address}") };
            let message = format!("this statement is for the writer{at}: a reader changes nothing");
            return Err(Error::new(Reason::NotWriter, message).with("writer_address", address));
        }
        let run = Run {
            text: &request.statement,
            as_of: convert::point_from_wire(request.as_of)?,
            freshness: Freshness::from_wire(request.freshness, &self.replica)?,
            format: convert::format_from_wire(request.format)?,
        };
        match statement {
            Statement::Select(select) => self.run_select(run, select).await,
            Statement::Explain(select) => self.run_explain(run, select).await,
            Statement::ShowDrift { table, key, from, to, limit } => {
                self.run_drift(run, table, key, (from, to), limit).await
            }
            Statement::ShowDiff { table, key, from, to } => self.run_diff(run, table, key, (from, to)).await,
            Statement::ShowTables { as_of } => self.run_tables(run, as_of).await,
            Statement::Describe { table, as_of } => {
                let moment = self.replica.resolve(run.freshness, run.point(as_of)?).await?;
                let info = table_info(run.table(&moment, &table)?, moment.seq)?;
                self.single(&moment, Outcome::Table(info))
            }
            _ => Err(Error::new(Reason::Internal, "a statement that reads and is not known")),
        }
    }

    fn plan(&self, run: &Run<'_>, moment: &Moment, select: ast::SelectStatement) -> Result<SelectExecution> {
        let timeline = run.table(moment, &select.table)?;
        let view = driftdb_common::table::view::View::at(timeline, moment.seq)?;
        let selection = Selection {
            condition: select.condition,
            limit: select.limit,
            offset: select.offset.unwrap_or(0),
            count_only: select.projection == Projection::Count,
            columns: match select.projection {
                Projection::Columns(columns) => columns,
                Projection::All | Projection::Count => Vec::new(),
            },
            after: None,
        };
        Ok(SelectExecution::new(view, selection))
    }

    async fn run_select(
        &self,
        run: Run<'_>,
        select: ast::SelectStatement,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let moment = self.replica.resolve(run.freshness, run.point(select.as_of)?).await?;
        let count_only = select.projection == Projection::Count;
        let table = select.table.text.clone();
        let mut select = self.plan(&run, &moment, select)?;
        let mut header = Some(moment.header(&self.replica, moment.applied.table(&table))?);
        let format = run.format;
        Ok(steps::stream(self.shutdown.clone(), move || {
            let (rows, done) = answers::next_rows(&mut select, format)?;
            if !done && rows.is_empty() {
                return Ok(Step::Working);
            }
            let outcome = match count_only {
                true => Outcome::Count(select.count()),
                false => Outcome::Rows(v1::RowBatch { table: table.clone(), rows }),
            };
            let message = v1::ReaderServiceExecuteResponse { header: header.take(), result: Some(outcome) };
            Ok(if done { Step::Last(message) } else { Step::Message(message) })
        }))
    }

    /// Runs the SELECT to its end and says how its rows were found.
    async fn run_explain(
        &self,
        run: Run<'_>,
        select: ast::SelectStatement,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let moment = self.replica.resolve(run.freshness, run.point(select.as_of)?).await?;
        let table = select.table.text.clone();
        let mut select = self.plan(&run, &moment, select)?;
        let mut header = Some(moment.header(&self.replica, moment.applied.table(&table))?);
        let (format, seq) = (run.format, moment.seq);
        Ok(steps::stream(self.shutdown.clone(), move || {
            let (_, done) = answers::next_rows(&mut select, format)?;
            if !done {
                return Ok(Step::Working);
            }
            let (access, examined, count) = (select.route()?, select.examined(), select.count());
            let text = format!("{table} at seq {seq}: {access}; {examined} rows read, {count} answered");
            let result = Some(Outcome::Message(text));
            Ok(Step::Last(v1::ReaderServiceExecuteResponse { header: header.take(), result }))
        }))
    }

    async fn run_drift(
        &self,
        run: Run<'_>,
        table: TableName,
        key: Option<RowKey>,
        (from, to): (Option<PointInTime>, Option<PointInTime>),
        limit: Option<u64>,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let moment = self.replica.resolve(run.freshness, run.point(to)?).await?;
        let from = match from {
            Some(from) => self.replica.resolve(run.freshness, Some(from)).await?.seq,
            None => 0,
        };
        let timeline = run.table(&moment, &table)?;
        let key = run.key(timeline, key)?;
        // LIMIT 0 asks for none, where the API's 0 asks for all.
        let to = if limit == Some(0) { from } else { moment.seq };
        timeline.check_floor(moment.seq)?;
        let mut header = Some(moment.header(&self.replica, [timeline])?);
        let history =
            History::new(timeline, HistoryQuery { key, after: from, last: to, ..HistoryQuery::default() });
        let mut commits = Commits::new(history, &table.text, run.format, limit.unwrap_or(0));
        Ok(steps::stream(self.shutdown.clone(), move || {
            let result = commits.next_single()?.map(Outcome::Commit);
            if result.is_none() && header.is_none() {
                return Ok(Step::Done);
            }
            Ok(Step::Message(v1::ReaderServiceExecuteResponse { header: header.take(), result }))
        }))
    }

    async fn run_diff(
        &self,
        run: Run<'_>,
        table: TableName,
        key: Option<RowKey>,
        (from, to): (PointInTime, PointInTime),
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let (from, to) = self.two_moments(run.freshness, from, run.point(Some(to))?).await?;
        let timeline = run.table(&to, &table)?;
        let keys = run.key(timeline, key)?.map(|key| std::collections::BTreeSet::from([key]));
        let mut header = Some(to.header(&self.replica, [timeline])?);
        let mut diff = Diff::new(from.view(&table.text)?, to.view(&table.text)?, keys)?;
        let format = run.format;
        let next_batch = move || {
            let rows = answers::next_diffs(&mut diff, format)?;
            if rows.is_empty() && header.is_none() {
                return Ok(None);
            }
            // An answer without differences still says which moment it is of.
            let mut results: Vec<_> = rows.into_iter().map(Outcome::Diff).map(Some).collect();
            if results.is_empty() {
                results.push(None);
            }
            let answer = |result| v1::ReaderServiceExecuteResponse { header: header.take(), result };
            Ok(Some(results.into_iter().map(answer).collect()))
        };
        Ok(steps::stream(self.shutdown.clone(), answers::one_by_one(next_batch)))
    }

    async fn run_tables(
        &self,
        run: Run<'_>,
        as_of: Option<PointInTime>,
    ) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let moment = self.replica.resolve(run.freshness, run.point(as_of)?).await?;
        let tables = moment.applied.tables.values();
        let tables: Vec<_> = tables.filter_map(|timeline| table_info(timeline, moment.seq).ok()).collect();
        let mut header = Some(moment.header(&self.replica, moment.applied.tables.values())?);
        let mut results: Vec<_> = tables.into_iter().map(Outcome::Table).map(Some).collect();
        if results.is_empty() {
            results.push(None);
        }
        let answers = results
            .into_iter()
            .map(move |result| Ok(v1::ReaderServiceExecuteResponse { header: header.take(), result }));
        Ok(Box::pin(tokio_stream::iter(answers)))
    }

    fn single(&self, moment: &Moment, outcome: Outcome) -> Result<Answers<v1::ReaderServiceExecuteResponse>> {
        let header = Some(moment.header(&self.replica, moment.applied.tables.values())?);
        let answer = v1::ReaderServiceExecuteResponse { header, result: Some(outcome) };
        Ok(Box::pin(tokio_stream::once(Ok(answer))))
    }
}
