//! Responses of many messages, and the rows of a Select, which continue at another reader if a connection breaks.

use std::sync::Arc;
use std::vec;

use tokio::time::sleep;
use tonic::{Status, Streaming};

use super::pool::Daemon;
use super::reading::another_may;
use super::{Client, Pauses};
use crate::v1;

/// How often rows are requested again without receiving a message.
const TRIES: u32 = 5;

/// The messages of one response. If a reader failed before the first message, the next reader was asked.
#[derive(Debug)]
pub struct Answers<M> {
    first: Option<M>,
    rest: Streaming<M>,
    daemon: Arc<Daemon>,
}

impl<M> Answers<M> {
    /// Receives the first message. Most failures occur there.
    pub(super) async fn begin(mut rest: Streaming<M>, daemon: Arc<Daemon>) -> Result<Answers<M>, Status> {
        let first = rest.message().await?;
        Ok(Answers { first, rest, daemon })
    }

    /// The first message, if it has not been taken.
    pub(super) fn peek(&self) -> Option<&M> {
        self.first.as_ref()
    }

    /// The next message; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        self.rest.message().await.map_err(|status| {
            let status = self.daemon.told(status, false);
            if another_may(&status) {
                self.daemon.set_aside();
            }
            status
        })
    }
}

/// The rows of a Select, all at the same point in time, in key order. If the connection breaks or the reader stops, they
/// continue after the last received row at the next reader.
#[derive(Debug)]
pub struct Rows {
    client: Client,
    request: v1::SelectRequest,
    answers: Answers<v1::SelectResponse>,
    header: v1::ReadHeader,
    rows: vec::IntoIter<v1::Row>,
    count: u64,
    /// The last message has been received, so a broken connection no longer matters.
    complete: bool,
}

impl Rows {
    pub(super) async fn ask(client: Client, request: v1::SelectRequest) -> Result<Rows, Status> {
        let answers = client.select_messages(&request).await?;
        let (header, rows) = (v1::ReadHeader::default(), Vec::new().into_iter());
        let mut rows = Rows { client, request, answers, header, rows, count: 0, complete: false };
        rows.receive().await?;
        Ok(rows)
    }

    /// The point in time of the rows.
    pub fn header(&self) -> &v1::ReadHeader {
        &self.header
    }

    /// The number of rows that match, or the count if only the count was requested. It is known after the last row.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next row; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<v1::Row>, Status> {
        loop {
            if let Some(row) = self.rows.next() {
                return Ok(Some(row));
            }
            if self.complete {
                return Ok(None);
            }
            self.receive().await?;
        }
    }

    /// Collects the remaining rows in memory.
    pub async fn collect(mut self) -> Result<Vec<v1::Row>, Status> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await? {
            rows.push(row);
        }
        Ok(rows)
    }

    /// Receives the next message, from another reader if needed.
    async fn receive(&mut self) -> Result<(), Status> {
        let (mut tries, mut pauses) = (0, Pauses::new(None));
        let message = loop {
            match self.answers.next().await {
                Ok(message) => break message,
                Err(status) if !another_may(&status) || tries == TRIES => return Err(status),
                Err(_) => {
                    sleep(pauses.next().unwrap_or_default()).await;
                    self.answers = self.client.select_messages(&self.request).await?;
                }
            }
            tries += 1;
        };
        let Some(message) = message else {
            self.complete = true;
            return Ok(());
        };
        if let Some(header) = message.header
            && self.header.read_seq == 0
        {
            self.client.reach(&mut self.request.freshness, &header);
            self.header = header;
        }
        self.rows = message.rows.into_iter();
        // Only the last message has no token.
        self.complete = message.resume_token.is_empty();
        if self.complete {
            self.count = message.count;
        } else {
            self.request.resume_token = message.resume_token;
        }
        Ok(())
    }
}
