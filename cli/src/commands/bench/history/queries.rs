//! The queries of the history phase. Every result is checked.

use std::time::Duration;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::time::Instant;

use super::dataset::{Dataset, TABLE};
use crate::database::ReaderApi;
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
    /// The orders of a customer, now.
    Select,
    /// The orders of a customer at a random point in the later half of the history.
    SelectAsOf,
    /// The number of matching rows in the middle of the history.
    Count,
}

impl DatasetQuery {
    /// Each kind with the name of its phase and the maximum number of queries.
    pub(crate) const ALL: [(DatasetQuery, &'static str, usize); 6] = [
        (DatasetQuery::Get, "R1", 500),
        (DatasetQuery::GetAsOf, "R2", 500),
        (DatasetQuery::History, "R3", 300),
        (DatasetQuery::Select, "R4.now", 50),
        (DatasetQuery::SelectAsOf, "R4.asof", 50),
        (DatasetQuery::Count, "R5", 3),
    ];
}

/// A client that runs queries.
#[derive(Debug)]
pub(crate) struct QueryClient<'a> {
    /// The data that is queried.
    pub(crate) dataset: &'a Dataset,
    /// The number of orders with an amount over 500 in the middle of the history.
    pub(crate) large: u64,
}

impl QueryClient<'_> {
    /// The seq in the middle of the history.
    pub(crate) fn middle(dataset: &Dataset) -> u64 {
        u64::midpoint(dataset.first_seq, dataset.last_seq())
    }

    /// Runs queries until `calls` or `time` is reached; a seed determines the queries. Returns the latencies in
    /// microseconds.
    pub(crate) async fn run(
        &self,
        reader: &mut ReaderApi,
        query: DatasetQuery,
        (calls, time): (usize, Duration),
        seed: u64,
    ) -> Result<Vec<u32>> {
        let mut random = SplitMix64::new(seed);
        let mut latencies = Vec::with_capacity(calls);
        let end = Instant::now() + time;
        while latencies.len() < calls && (latencies.is_empty() || Instant::now() < end) {
            let took = match query {
                DatasetQuery::Get => self.get(reader, false, &mut random).await?,
                DatasetQuery::GetAsOf => self.get(reader, true, &mut random).await?,
                DatasetQuery::History => self.history(reader, &mut random).await?,
                DatasetQuery::Select => self.select(reader, false, &mut random).await?,
                DatasetQuery::SelectAsOf => self.select(reader, true, &mut random).await?,
                DatasetQuery::Count => self.count(reader).await?,
            };
            latencies.push(u32::try_from(took.as_micros()).unwrap_or(u32::MAX));
        }
        Ok(latencies)
    }

    async fn get(&self, reader: &mut ReaderApi, past: bool, random: &mut SplitMix64) -> Result<Duration> {
        let (order, key) = self.dataset.any_order(random);
        let moment = match past {
            true => self.dataset.any_moment_of(order, random),
            false => self.dataset.last_seq(),
        };
        let request = v1::GetRequest {
            table: TABLE.to_owned(),
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
        let request = v1::HistoryRequest { table: TABLE.to_owned(), key, format, ..Default::default() };
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
        let half = QueryClient::middle(self.dataset);
        let moment = if past { half + random.below(last - half + 1) } else { last };
        let (customer, expected) = self.dataset.any_customer(moment, random);
        let request = v1::SelectRequest {
            table: TABLE.to_owned(),
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
        let moment = QueryClient::middle(self.dataset);
        let request = v1::SelectRequest {
            table: TABLE.to_owned(),
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
        let statement = format!("EXPLAIN SELECT * FROM {TABLE} WHERE {}", condition(&customer));
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
    format!(r#"customer_id = "{customer}""#)
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
