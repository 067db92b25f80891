//! Responses of many messages.

use std::sync::Arc;

use tonic::{Status, Streaming};

use super::pool::Backend;
use super::reasons::is_retryable_read;
use super::time_limit::TimeLimit;

/// The messages of one response. If a reader failed before the first message, the next reader was asked.
#[derive(Debug)]
pub struct MessageStream<M> {
    first: Option<M>,
    rest: Streaming<M>,
    backend: Arc<Backend>,
    limit: TimeLimit,
}

impl<M> MessageStream<M> {
    /// Receives the first message. Most failures occur there.
    pub(super) async fn begin(
        mut rest: Streaming<M>,
        backend: Arc<Backend>,
        limit: TimeLimit,
    ) -> Result<MessageStream<M>, Status> {
        let first = rest.message().await?;
        Ok(MessageStream { first, rest, backend, limit })
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
        self.limit.further(self.rest.message()).await.map_err(|status| {
            let status = self.backend.map_status(status, false);
            if is_retryable_read(&status) {
                self.backend.set_aside();
            }
            status
        })
    }
}
