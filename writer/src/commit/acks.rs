//! Acknowledgements: the outcome of an admitted change, and the request that waits for it.

use std::time::Instant;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::trace::TraceContext;
use tokio::sync::oneshot;

use crate::admission::CommitReceipt;

/// An outcome that the committer sends to a waiting request once everything that the outcome depends on is
/// durable.
#[derive(Debug)]
pub(crate) struct CommitAck {
    request: oneshot::Sender<Result<CommitReceipt>>,
    pub(super) outcome: Result<CommitReceipt>,
    /// The request, and when it began to wait, if it is recorded.
    pub(super) traced: Option<(TraceContext, Instant)>,
}

impl CommitAck {
    /// A waiting acknowledgement: the committer's end and the request's end.
    pub(super) fn pending(outcome: Result<CommitReceipt>) -> (CommitAck, PendingAck) {
        let (request, ack) = oneshot::channel();
        let traced = Some(TraceContext::current()).filter(TraceContext::is_recorded);
        let traced = traced.map(|context| (context, Instant::now()));
        (CommitAck { request, outcome, traced }, PendingAck::Waiting(ack))
    }

    /// Sends the outcome. If the client has disconnected, the outcome is dropped.
    pub(crate) fn send(self) {
        let _ = self.request.send(self.outcome);
    }
}

/// The outcome of a change, which may not be known yet.
#[derive(Debug)]
pub(crate) enum PendingAck {
    /// The outcome depends on durable commits only, so it is known.
    Ready(Box<Result<CommitReceipt>>),
    /// The committer sends the outcome after it has written the group.
    Waiting(oneshot::Receiver<Result<CommitReceipt>>),
}

impl PendingAck {
    /// Waits for the outcome.
    pub(crate) async fn wait(self) -> Result<CommitReceipt> {
        match self {
            PendingAck::Ready(outcome) => *outcome,
            PendingAck::Waiting(ack) => ack.await.map_err(|_| {
                let message = "the writer stopped before the commit was confirmed to be on disk; send it again with the same request_id, or read first";
                Error::new(Reason::OutcomeUnknown, message)
            })?,
        }
    }

    /// Whether the outcome is known, so that [`PendingAck::wait`] returns at once.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            PendingAck::Ready(_) => true,
            PendingAck::Waiting(ack) => !ack.is_empty(),
        }
    }
}
