//! Finds the commit that an earlier request or stream has made.

use driftdb_common::error::Result;
use driftdb_common::table::operation::WriteToken;

use crate::admission::{Admission, CommitReceipt};
use crate::commit::pipeline::CommitPipeline;

/// A commit that was made, and the last complete batch of the producer that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KnownCommit {
    /// The commit. Of a producer's, the time is not known.
    pub(crate) token: WriteToken,
    /// `None` for a request.
    pub(crate) batch: Option<u64>,
}

impl CommitPipeline {
    /// The commit of the request with an id, once it is durable; `None` if no request within the window has the id.
    pub(crate) async fn commit_of_request(&self, id: &str) -> Result<Option<KnownCommit>> {
        let known = |token| KnownCommit { token, batch: None };
        self.find_durable(|admission| admission.requests.commit_of(id).map(known)).await
    }

    /// The last commit of a producer, once it is durable; `None` if nothing of it was committed.
    pub(crate) async fn commit_of_producer(&self, producer: &str) -> Result<Option<KnownCommit>> {
        let find = |admission: &Admission| {
            let at = admission.producers.get(producer).filter(|at| at.seq > 0)?;
            let token = WriteToken { seq: at.seq, time_ms: 0 };
            Some(KnownCommit { token, batch: Some(at.complete_batch()) })
        };
        self.find_durable(find).await
    }

    async fn find_durable(
        &self,
        find: impl FnOnce(&Admission) -> Option<KnownCommit>,
    ) -> Result<Option<KnownCommit>> {
        let (found, ack) = {
            let mut state = self.0.state.lock();
            state.check_accepting()?;
            let found = find(&state.admission);
            let token = found.map_or_else(WriteToken::default, |found| found.token);
            (found, state.acknowledge(Ok(CommitReceipt { token, replayed: true })))
        };
        self.wait(ack).await?;
        Ok(found)
    }
}
