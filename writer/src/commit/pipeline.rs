//! Single commits: admits a change, wakes the committer, and waits for the acknowledgement.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::format::event::RequestId;
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::operation::{CommitRequest, SchemaChange};

use crate::admission::{CommitContext, CommitReceipt};
use crate::commit::acks::PendingAck;
use crate::commit::prefetch::prefetch_rows;
use crate::commit::state::{CommitShared, CommitState};

/// Commits changes, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct CommitPipeline(Arc<CommitShared>);

impl CommitPipeline {
    pub(super) fn new(shared: &Arc<CommitShared>) -> CommitPipeline {
        CommitPipeline(Arc::clone(shared))
    }

    /// Admits a change and waits until it is durable or refused. A refusal that depends on a commit that is
    /// not durable yet waits for that commit.
    pub(crate) async fn commit(
        &self,
        change: CommitRequest,
        context: CommitContext,
    ) -> Result<CommitReceipt> {
        if let CommitRequest::Rows { operations, preconditions } = &change {
            prefetch_rows(&self.0, operations, preconditions);
        }
        let ack = {
            let mut state = self.0.state.lock();
            state.check_accepting()?;
            state.check_room(self.0.tail_limit)?;
            let CommitState { admission, open, .. } = &mut *state;
            if let CommitRequest::Schema(SchemaChange::Create { schema, .. }) = &change
                && admission.tables.by_name_in_any_case(&schema.table).is_none()
            {
                // A new table needs room. If its group were refused for it, others in the group would be too.
                self.0.space.check_room(format_args!("cannot create table {:?}", schema.table))?;
            }
            let outcome = admission.admit(change, context, now_ms(), &mut open.group);
            state.acknowledge(outcome)
        };
        self.wait(ack).await
    }

    /// The outcome of an earlier attempt of a request, or `None` if there was none.
    pub(crate) async fn find_request(&self, request: &RequestId) -> Option<Result<CommitReceipt>> {
        let ack = {
            let mut state = self.0.state.lock();
            let found = state.admission.find_request(request).transpose()?;
            state.acknowledge(found.map(|token| CommitReceipt { token, replayed: true }))
        };
        Some(self.wait(ack).await)
    }

    async fn wait(&self, ack: PendingAck) -> Result<CommitReceipt> {
        if matches!(ack, PendingAck::Waiting(_)) {
            self.0.work_ready.notify_one();
        }
        ack.wait().await
    }

    /// Takes no more writes. The committer ends once the admitted ones are durable.
    pub(crate) fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.work_ready.notify_one();
    }
}
