//! Writes of `bench` through one Ingest stream, with several batches in flight.

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::database::WriterApi;
use crate::errors::to_error;

/// The number of operations in a batch.
pub(crate) const BATCH: usize = 1000;
/// The maximum number of batches of a load in flight.
pub(crate) const IN_FLIGHT: usize = 16;

/// Writes batches; each operation is a commit. Returns the token of the last commit.
pub(crate) async fn load(
    writer: &mut WriterApi,
    (producer, in_flight): (&str, usize),
    batches: impl Iterator<Item = Result<Vec<v1::Operation>>>,
    mut acknowledged: impl FnMut(u64),
) -> Result<v1::WriteToken> {
    let ended = || Error::new(Reason::Unreachable, "the writer ended the stream");
    let (requests, receiver) = mpsc::channel(in_flight + 1);
    let first = v1::IngestRequest { producer_id: producer.to_owned(), ..Default::default() };
    requests.send(first).await.map_err(|_| ended())?;
    let answers = writer.ingest(ReceiverStream::new(receiver)).await.map_err(|s| to_error(&s))?;
    let mut answers = answers.into_inner();
    let mut next = 1;
    let mut batches = batches.peekable();
    let mut last = v1::WriteToken::default();
    loop {
        let answer = answers.message().await.map_err(|s| to_error(&s))?.ok_or_else(ended)?;
        if let Some(refused) = answer.errors.first() {
            let message = format!("the writer rejected a row: {}", refused.message);
            return Err(Error::new(Reason::Internal, message));
        }
        let durable = answer.durable_batch_id;
        last = answer.token.unwrap_or(last);
        acknowledged(durable);
        while next <= durable + in_flight as u64
            && let Some(operations) = batches.next()
        {
            let operations = operations?;
            let batch = v1::IngestRequest { batch_id: next, operations, ..Default::default() };
            requests.send(batch).await.map_err(|_| ended())?;
            next += 1;
        }
        if durable + 1 == next && batches.peek().is_none() {
            return Ok(last);
        }
    }
}
