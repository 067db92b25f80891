//! The stream on which batches of rows go to the writer, many at a time.

use std::collections::VecDeque;

use driftdb::v1;
use driftdb_common::error::{Error, Reason, Result};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::database::DatabaseHandle;
use crate::errors::to_error;

/// The maximum number of commits in flight.
const IN_FLIGHT: usize = 64;
/// The maximum number of bytes in flight, unless one commit alone has more.
const IN_FLIGHT_BYTES: usize = 32 << 20;

/// Batches on their way to the writer, each an atomic commit.
pub(super) struct ReplayStream {
    requests: mpsc::Sender<v1::IngestRequest>,
    responses: Streaming<v1::IngestResponse>,
    /// The batches that are not acknowledged.
    in_flight: VecDeque<InFlight>,
    in_flight_bytes: usize,
    /// What was acknowledged since it was last taken.
    acknowledged: Acknowledged,
}

struct InFlight {
    batch: u64,
    place: String,
    bytes: usize,
    events: u64,
}

/// Batches that are on disk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Acknowledged {
    pub(super) commits: u64,
    pub(super) events: u64,
    /// The newest commit; `None` if there is none.
    pub(super) last_seq: Option<u64>,
}

impl ReplayStream {
    /// Opens the stream of a producer. Returns its last batch that is on disk, too.
    pub(super) async fn open(
        producer_id: String,
        database: &mut DatabaseHandle,
    ) -> Result<(ReplayStream, u64)> {
        let (requests, receiver) = mpsc::channel(IN_FLIGHT + 1);
        let first = v1::IngestRequest { producer_id, ..Default::default() };
        requests.send(first).await.map_err(|_| ended())?;
        let mut writer = database.writer().await?;
        let responses = writer.ingest(ReceiverStream::new(receiver)).await.map_err(|s| to_error(&s))?;
        let mut responses = responses.into_inner();
        let answer = responses.message().await.map_err(|s| to_error(&s))?.ok_or_else(ended)?;
        let (in_flight, acknowledged) = (VecDeque::new(), Acknowledged::default());
        Ok((
            ReplayStream { requests, responses, in_flight, in_flight_bytes: 0, acknowledged },
            answer.durable_batch_id,
        ))
    }

    /// The number of batches that are not acknowledged.
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.len() as u64
    }

    /// Takes what was acknowledged since the last call.
    pub(super) fn take_acknowledged(&mut self) -> Acknowledged {
        std::mem::take(&mut self.acknowledged)
    }

    /// Sends a batch, once there is room.
    pub(super) async fn send(&mut self, request: v1::IngestRequest, place: &str) -> Result<()> {
        let (bytes, events) = (request.encoded_len(), request.operations.len() as u64);
        while self.in_flight.len() >= IN_FLIGHT
            || (!self.in_flight.is_empty() && self.in_flight_bytes + bytes > IN_FLIGHT_BYTES)
        {
            self.receive().await?;
        }
        self.in_flight.push_back(InFlight {
            batch: request.batch_id,
            place: place.to_owned(),
            bytes,
            events,
        });
        self.in_flight_bytes += bytes;
        // The channel has room. If the stream has ended, its responses say why.
        if self.requests.send(request).await.is_err() {
            self.drain().await?;
        }
        Ok(())
    }

    /// Waits until everything that was sent is on disk.
    pub(super) async fn drain(&mut self) -> Result<()> {
        while !self.in_flight.is_empty() {
            self.receive().await?;
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<()> {
        let answer = self.responses.message().await.map_err(|s| to_error(&s))?.ok_or_else(ended)?;
        while let Some(done) = self.in_flight.pop_front_if(|sent| sent.batch <= answer.durable_batch_id) {
            self.in_flight_bytes -= done.bytes;
            let Acknowledged { commits, events, last_seq } = self.acknowledged;
            let last_seq = answer.token.map(|token| token.seq).or(last_seq);
            self.acknowledged = Acknowledged { commits: commits + 1, events: events + done.events, last_seq };
        }
        let Some(refused) = answer.errors.into_iter().next() else { return Ok(()) };
        let reason = Reason::parse(&refused.reason).unwrap_or(Reason::Internal);
        let place = self.in_flight.iter().find(|sent| sent.batch == refused.batch_id);
        let place = place.map_or_else(|| format!("batch {}", refused.batch_id), |sent| sent.place.clone());
        self.in_flight.clear();
        Err(Error::new(reason, refused.message).context(place))
    }
}

pub(super) fn ended() -> Error {
    Error::new(Reason::Unreachable, "the writer ended the stream")
}
