//! The queries of `bench`. Every result is checked.

use std::sync::Arc;
use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::dataset::{Dataset, STATUS};
use crate::args::BenchPhase;
use crate::commands::bench::load::Call;
use crate::database::{ReaderApi, reader_on};
use crate::errors::to_error;
use crate::orders::SplitMix64;

/// A kind of query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DatasetQuery {
    /// One row, now.
    Get,
    /// One row at a random point in the past.
    GetAsOf,
    /// All events of a row.
    History,
    /// The paid orders of a customer, now.
    Select,
    /// The paid orders of a customer at a random point in the later half of the history.
    SelectAsOf,
    /// The number of matching rows in the middle of the history.
    Count,
}

impl DatasetQuery {
    /// The kind that a phase measures.
    pub(crate) fn of(phase: BenchPhase) -> Option<DatasetQuery> {
        Some(match phase {
            BenchPhase::R1 => DatasetQuery::Get,
            BenchPhase::R2 => DatasetQuery::GetAsOf,
            BenchPhase::R3 => DatasetQuery::History,
            BenchPhase::R4Now => DatasetQuery::Select,
            BenchPhase::R4Asof => DatasetQuery::SelectAsOf,
            BenchPhase::R5 => DatasetQuery::Count,
            _ => return None,
        })
    }
}

/// A client that runs queries.
#[derive(Debug, Clone)]
pub(crate) struct QueryClient {
    /// The data that is queried.
    pub(crate) dataset: Arc<Dataset>,
    /// The number of orders with an amount over 500 in the middle of the history.
    pub(crate) large: u64,
}

/// A client that asks one query after another.
#[derive(Debug)]
pub(crate) struct QueryCall {
    client: QueryClient,
    reader: ReaderApi,
    query: DatasetQuery,
    random: SplitMix64,
}

impl Call for QueryCall {
    async fn call(&mut self) -> Result<()> {
        self.client.ask(&mut self.reader, self.query, &mut self.random).await.map(drop)
    }
}

impl QueryClient {
    /// A client of a dataset.
    pub(crate) fn new(dataset: Arc<Dataset>) -> QueryClient {
        let large = dataset.large_orders(QueryClient::middle(&dataset));
        QueryClient { dataset, large }
    }

    /// The seq in the middle of the history.
    fn middle(dataset: &Dataset) -> u64 {
        u64::midpoint(dataset.first_seq, dataset.last_seq())
    }

    /// Concurrent clients, spread over connections.
    pub(crate) fn clients(&self, channels: &[Channel], count: usize, query: DatasetQuery) -> Vec<QueryCall> {
        let readers = channels.iter().cycle().take(count).map(|channel| reader_on(channel.clone()));
        self.clients_on(readers, query)
    }

    /// A client on each of these connections.
    pub(crate) fn clients_on(
        &self,
        readers: impl Iterator<Item = ReaderApi>,
        query: DatasetQuery,
    ) -> Vec<QueryCall> {
        let call =
            |(reader, seed)| QueryCall { client: self.clone(), reader, query, random: SplitMix64::new(seed) };
        readers.zip(1..).map(call).collect()
    }

    /// Asks a number of queries, which a seed determines. Returns the latencies in microseconds.
    pub(crate) async fn run(
        &self,
        reader: &mut ReaderApi,
        query: DatasetQuery,
        calls: usize,
        seed: u64,
    ) -> Result<Vec<u32>> {
        let mut random = SplitMix64::new(seed);
        let mut latencies = Vec::with_capacity(calls);
        for _ in 0..calls {
            let took = self.ask(reader, query, &mut random).await?;
            latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        Ok(latencies)
    }

    /// Asks one query and checks the answer. Returns how long it took.
    async fn ask(
        &self,
        reader: &mut ReaderApi,
        query: DatasetQuery,
        random: &mut SplitMix64,
    ) -> Result<Duration> {
        match query {
            DatasetQuery::Get => self.get(reader, false, random).await,
            DatasetQuery::GetAsOf => self.get(reader, true, random).await,
            DatasetQuery::History => self.history(reader, random).await,
            DatasetQuery::Select => self.select(reader, false, random).await,
            DatasetQuery::SelectAsOf => self.select(reader, true, random).await,
            DatasetQuery::Count => self.count(reader).await,
        }
    }

    async fn get(&self, reader: &mut ReaderApi, past: bool, random: &mut SplitMix64) -> Result<Duration> {
        let (order, key) = self.dataset.any_order(random);
        let moment = match past {
            true => self.dataset.any_moment_of(order, random),
            false => self.dataset.last_seq(),
        };
        let request = v1::GetRequest {
            table: self.dataset.table.clone(),
            keys: vec![key],
            as_of: past.then(|| v1::AsOf::seq(moment)),
            format: v1::DocumentFormat::Msgpack.into(),
            ..Default::default()
        };
        let began = Instant::now();
        let answer = reader.get(request).await.map_err(|s| to_error(&s))?.into_inner();
        let took = began.elapsed();
        let found = answer.rows.first().map(|row| row.seq);
        check(found, self.dataset.written(order, moment), format_args!("order {order} at seq {moment}"))?;
        Ok(took)
    }

    async fn history(&self, reader: &mut ReaderApi, random: &mut SplitMix64) -> Result<Duration> {
        let (order, key) = self.dataset.any_order(random);
        let format = v1::DocumentFormat::Msgpack.into();
        let request =
            v1::HistoryRequest { table: self.dataset.table.clone(), key, format, ..Default::default() };
        let began = Instant::now();
        let mut answers = reader.history(request).await.map_err(|s| to_error(&s))?.into_inner();
        let mut seqs = Vec::new();
        while let Some(answer) = answers.message().await.map_err(|s| to_error(&s))? {
            seqs.extend(answer.commits.iter().map(|commit| commit.seq));
        }
        let took = began.elapsed();
        check(seqs, self.dataset.seqs(order).collect(), format_args!("the history of order {order}"))?;
        Ok(took)
    }

    async fn select(&self, reader: &mut ReaderApi, past: bool, random: &mut SplitMix64) -> Result<Duration> {
        let last = self.dataset.last_seq();
        let half = QueryClient::middle(&self.dataset);
        let moment = if past { half + random.below(last - half + 1) } else { last };
        let (customer, expected) = self.dataset.any_customer(moment, random);
        let request = v1::SelectRequest {
            table: self.dataset.table.clone(),
            r#where: condition(&customer),
            as_of: past.then(|| v1::AsOf::seq(moment)),
            format: v1::DocumentFormat::Msgpack.into(),
            ..Default::default()
        };
        let (took, found) = selected(reader, request).await?;
        check(found, expected, format_args!("the orders of {customer} at seq {moment}"))?;
        Ok(took)
    }

    async fn count(&self, reader: &mut ReaderApi) -> Result<Duration> {
        let moment = QueryClient::middle(&self.dataset);
        let request = v1::SelectRequest {
            table: self.dataset.table.clone(),
            r#where: "amount > 500".to_owned(),
            as_of: Some(v1::AsOf::seq(moment)),
            count_only: true,
            ..Default::default()
        };
        let (took, found) = selected(reader, request).await?;
        check(found, self.large, format_args!("the count at seq {moment}"))?;
        Ok(took)
    }

    /// The plan of the query for the orders of a customer.
    pub(crate) async fn explain(&self, reader: &mut ReaderApi) -> Result<String> {
        let (customer, _) = self.dataset.any_customer(0, &mut SplitMix64::new(0));
        let statement =
            format!("EXPLAIN SELECT * FROM {} WHERE {}", self.dataset.table, condition(&customer));
        let request = v1::ReaderServiceExecuteRequest { statement, ..Default::default() };
        let mut answers = reader.execute(request).await.map_err(|s| to_error(&s))?.into_inner();
        let mut plan = String::new();
        while let Some(answer) = answers.message().await.map_err(|s| to_error(&s))? {
            if let Some(v1::reader_service_execute_response::Result::Message(line)) = answer.result {
                plan.push_str(&line);
            }
        }
        Ok(plan)
    }
}

fn condition(customer: &str) -> String {
    format!(r#"status = "{STATUS}" AND customer_id = "{customer}""#)
}

/// Runs a select. Returns how long it took, and its count.
async fn selected(reader: &mut ReaderApi, request: v1::SelectRequest) -> Result<(Duration, u64)> {
    let count_only = request.count_only;
    let began = Instant::now();
    let mut answers = reader.select(request).await.map_err(|s| to_error(&s))?.into_inner();
    let (mut rows, mut count) = (0, 0);
    while let Some(answer) = answers.message().await.map_err(|s| to_error(&s))? {
        rows += answer.rows.len() as u64;
        count = answer.count;
    }
    Ok((began.elapsed(), if count_only { count } else { rows }))
}

fn check<T: PartialEq + std::fmt::Debug>(found: T, expected: T, what: std::fmt::Arguments<'_>) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    let message = format!("wrong result: {what}: got {found:?}, expected {expected:?}");
    Err(Error::new(Reason::Internal, message))
}
