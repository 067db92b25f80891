//! How long a call waits for its answers.

use std::time::Duration;

use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Code, Request, Status};

use super::pauses::Pauses;
use super::reasons::reason;

/// A longer time limit is none: 12 days.
const LIMIT_MAX: Duration = Duration::from_secs(1_000_000);
/// How much earlier than the client a daemon may see the end of a limit, which it gets as a rounded number.
const EARLY: Duration = Duration::from_millis(10);

/// How long a call waits: up to a deadline for its first answer, retries included, and then as long for each further one.
#[derive(Debug, Clone, Copy)]
pub(super) struct TimeLimit {
    each: Option<Duration>,
    deadline: Option<Instant>,
}

impl TimeLimit {
    /// The limit of a call that begins now.
    pub(super) fn new(each: Option<Duration>) -> TimeLimit {
        let each = each.filter(|each| *each <= LIMIT_MAX);
        TimeLimit { each, deadline: each.map(|each| Instant::now() + each) }
    }

    /// No limit.
    pub(super) fn none() -> TimeLimit {
        TimeLimit { each: None, deadline: None }
    }

    /// A request that takes the deadline to the daemon.
    pub(super) fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        request
    }

    /// Waits for the first answer. After the deadline it fails with DEADLINE_EXCEEDED, without a reason.
    pub(super) async fn first<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let Some(deadline) = self.deadline else { return answer.await };
        let status = match timeout_at(deadline, answer).await {
            Ok(Err(status)) => status,
            Ok(answer) => return answer,
            Err(_) => return Err(late()),
        };
        // The daemon has ended the call a moment earlier.
        let is_ended = status.code() == Code::Cancelled && reason(&status).is_none();
        Err(if is_ended && Instant::now() + EARLY >= deadline { late() } else { status })
    }

    /// Waits for a further answer, as [`TimeLimit::first`] for the first one.
    pub(super) async fn further<T>(
        &self,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        match self.each {
            Some(each) => timeout(each, answer).await.unwrap_or_else(|_| Err(late())),
            None => answer.await,
        }
    }

    /// Whether the deadline has passed.
    pub(super) fn is_over(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Pauses between retries that end with the deadline.
    pub(super) fn pauses(&self, retry_timeout: Duration) -> Pauses {
        let remaining = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        Pauses::new(remaining.map_or(retry_timeout, |remaining| remaining.min(retry_timeout)))
    }
}

fn late() -> Status {
    Status::deadline_exceeded("no answer within the timeout")
}
