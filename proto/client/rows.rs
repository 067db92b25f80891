//! The rows of a Select, which continue at another reader if a connection breaks.

use std::vec;

use tokio::time::sleep;
use tonic::Status;

use super::api::ReaderApi;
use super::handle::Client;
use super::messages::MessageStream;
use super::pauses::Pauses;
use super::reasons::is_retryable_read;
use crate::v1;

/// How often rows are requested again without receiving a message.
const TRIES_MAX: u32 = 5;

impl Client {
    /// Reads the rows that match a condition, in the order of keys or of `order_by`, as they arrive.
    pub async fn select(&self, mut request: v1::SelectRequest) -> Result<RowStream, Status> {
        request.freshness = self.freshness(request.freshness);
        self.choose_zone(&mut request.time_zone);
        RowStream::open(self.clone(), request).await
    }

    async fn select_messages(
        &self,
        request: &v1::SelectRequest,
    ) -> Result<MessageStream<v1::SelectResponse>, Status> {
        let call = |mut reader: ReaderApi| {
            let request = request.clone();
            async move { reader.select(request).await }
        };
        self.read_messages(call, |response| response.header.as_ref()).await
    }
}

/// The rows of a Select, all at the same point in time, in order. If the connection breaks or the reader stops,
/// they continue after the last received row at the next reader.
#[derive(Debug)]
pub struct RowStream {
    client: Client,
    request: v1::SelectRequest,
    messages: MessageStream<v1::SelectResponse>,
    header: v1::ReadHeader,
    rows: vec::IntoIter<v1::Row>,
    count: u64,
    notes: Vec<String>,
    /// The last message has been received, so a broken connection no longer matters.
    complete: bool,
}

impl RowStream {
    async fn open(client: Client, request: v1::SelectRequest) -> Result<RowStream, Status> {
        let messages = client.select_messages(&request).await?;
        let (header, rows) = (v1::ReadHeader::default(), Vec::new().into_iter());
        let mut rows = RowStream {
            client,
            request,
            messages,
            header,
            rows,
            count: 0,
            notes: Vec::new(),
            complete: false,
        };
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

    /// What in the request is probably a mistake, for people. It is known after the last row.
    pub fn notes(&self) -> &[String] {
        &self.notes
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
            match self.messages.next().await {
                Ok(message) => break message,
                Err(status) if !is_retryable_read(&status) || tries == TRIES_MAX => return Err(status),
                Err(_) => {
                    sleep(pauses.next().unwrap_or_default()).await;
                    self.messages = self.client.select_messages(&self.request).await?;
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
            self.client.require_at_least(&mut self.request.freshness, &header);
            self.header = header;
        }
        self.rows = message.rows.into_iter();
        // Only the last message has no token.
        self.complete = message.resume_token.is_empty();
        if self.complete {
            self.count = message.count;
            self.notes = message.notes;
        } else {
            self.request.resume_token = message.resume_token;
        }
        Ok(())
    }
}
