//! Batches of a producer's stream: admits the operations that are new, in order, and reports the refused
//! ones.

use std::sync::Arc;

use driftdb_common::error::Result;
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::operation::{CommitRequest, Operation};
use parking_lot::MutexGuard;
use tokio_util::sync::CancellationToken;

use crate::admission::prepared_commit::PreparedCommit;
use crate::admission::producers::{ProducerPosition, RefusedOperation};
use crate::admission::{CommitContext, CommitReceipt};
use crate::commit::acks::PendingAck;
use crate::commit::prefetch::prefetch_rows;
use crate::commit::state::{CommitShared, CommitState};

/// One message of a producer's stream.
#[derive(Debug)]
pub(crate) struct IngestBatch {
    /// The context of the batch's commits. `origin.operation` is set for each commit.
    pub(crate) context: CommitContext,
    /// The batch's number.
    pub(crate) number: u64,
    /// The operations. One that could not be decoded is here as its error.
    pub(crate) operations: Vec<Result<Operation>>,
    /// Whether all operations are one commit. Otherwise each operation is a commit.
    pub(crate) atomic: bool,
}

/// An open stream, as [`IngestPipeline::open_session`] saw the commit state.
#[derive(Debug, Clone)]
pub(crate) struct IngestSession {
    /// Cancelled when a newer stream of the same producer opens, or the writer shuts down.
    pub(crate) ended: CancellationToken,
    rollbacks: u64,
}

/// A batch that was processed.
#[derive(Debug)]
pub(crate) struct AdmittedBatch {
    /// The batch's number.
    pub(crate) number: u64,
    /// The refused operations.
    pub(crate) refused: Vec<RefusedOperation>,
    /// Ready once all commits of the batch, and the commits that refusals depend on, are durable.
    pub(crate) ack: PendingAck,
}

/// Admits batches.
#[derive(Debug, Clone)]
pub(crate) struct IngestPipeline(Arc<CommitShared>);

impl IngestPipeline {
    pub(super) fn new(shared: &Arc<CommitShared>) -> IngestPipeline {
        IngestPipeline(Arc::clone(shared))
    }

    /// Whether the queue has room for another batch. True also if the writer takes no more writes: the next
    /// batch then fails at once.
    pub(crate) fn has_room(&self) -> bool {
        let state = self.0.state.lock();
        state.check_accepting().is_err() || state.check_room(self.0.tail_limit).is_ok()
    }

    /// Opens a stream that `ended` can end.
    pub(crate) fn open_session(&self, ended: CancellationToken) -> IngestSession {
        IngestSession { ended, rollbacks: self.0.state.lock().rollbacks }
    }

    /// Admits the operations of a batch that were not admitted before. Returns `None` and does nothing if the
    /// stream has ended: the producer's newer stream may already know its position, and a batch admitted now
    /// would be applied twice.
    pub(crate) fn admit_batch(
        &self,
        batch: IngestBatch,
        session: &IngestSession,
    ) -> Result<Option<AdmittedBatch>> {
        prefetch_rows(&self.0, batch.operations.iter().flatten(), &[]);
        let mut state = self.0.state.lock();
        state.check_accepting()?;
        if session.ended.is_cancelled() {
            return Ok(None);
        }
        if session.rollbacks != state.rollbacks {
            return Err(state.stream_refusal());
        }
        let number = batch.number;
        let refused = admit_operations_of_batch(&mut state, batch);
        Ok(Some(self.acknowledge(state, number, refused)))
    }

    /// The batch after which a producer continues: the last one that was processed to its end. The answer
    /// repeats the recently refused operations, and is ready once that batch is durable.
    pub(crate) fn producer_position(&self, producer: &str) -> Result<AdmittedBatch> {
        let state = self.0.state.lock();
        state.check_accepting()?;
        let position = state.admission.producers.get(producer);
        let number = position.map_or(0, |at| if at.complete { at.batch } else { at.batch.saturating_sub(1) });
        let refused = state.admission.producers.refusals(producer, number);
        Ok(self.acknowledge(state, number, refused))
    }

    /// Acknowledges a batch once everything that is admitted so far is durable.
    fn acknowledge(
        &self,
        mut state: MutexGuard<'_, CommitState>,
        number: u64,
        refused: Vec<RefusedOperation>,
    ) -> AdmittedBatch {
        let token = state.admission.last();
        let ack = state.acknowledge(Ok(CommitReceipt { token, replayed: false }));
        drop(state);
        self.0.work_ready.notify_one();
        AdmittedBatch { number, refused, ack }
    }
}

/// Admits the new operations of a batch and returns the refused ones.
fn admit_operations_of_batch(state: &mut CommitState, batch: IngestBatch) -> Vec<RefusedOperation> {
    let IngestBatch { context, number, operations, atomic } = batch;
    let producer = context.origin.as_ref().map(|origin| origin.producer.clone());
    let position = producer.as_ref().and_then(|producer| state.admission.producers.get(producer));
    let mut refused = Vec::new();
    let Some(first) = first_new_operation(position, number) else { return refused };
    // A commit is appended only after the next one is admitted: until then it may be the batch's last, which
    // carries a mark.
    let mut held: Option<PreparedCommit> = None;
    for (last, operations) in commits_of_batch(operations, first, atomic) {
        match prepare_commit(state, &context, last, operations) {
            Ok(Some(commit)) => {
                if let Some(before) = held.replace(commit) {
                    before.encode(&mut state.open.group);
                }
            }
            Ok(None) => {}
            Err(error) => {
                refused.push(RefusedOperation { batch: number, index: if atomic { 0 } else { last }, error });
            }
        }
    }
    if let Some(mut commit) = held {
        commit.mark_end_of_batch();
        commit.encode(&mut state.open.group);
    }
    if let Some(producer) = producer {
        state.admission.complete_batch(&producer, number, &refused);
    }
    refused
}

/// The commits of a batch from operation `first` on: the index of each commit's last operation, and its
/// operations.
fn commits_of_batch(
    operations: Vec<Result<Operation>>,
    first: usize,
    atomic: bool,
) -> Vec<(u32, Result<Vec<Operation>>)> {
    if !atomic {
        let commit =
            |(operation, index): (Result<_>, u32)| (index, operation.map(|operation| vec![operation]));
        return operations.into_iter().zip(0..).skip(first).map(commit).collect();
    }
    let last = u32::try_from(operations.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let is_new = u32::try_from(first).is_ok_and(|first| first <= last);
    if is_new { vec![(last, operations.into_iter().collect())] } else { Vec::new() }
}

/// Admits one commit of a batch. `last` is the index of the commit's last operation in the batch.
fn prepare_commit(
    state: &mut CommitState,
    context: &CommitContext,
    last: u32,
    operations: Result<Vec<Operation>>,
) -> Result<Option<PreparedCommit>> {
    let mut context = context.clone();
    if let Some(origin) = &mut context.origin {
        origin.operation = last;
    }
    let change = CommitRequest::Rows { operations: operations?, preconditions: Vec::new() };
    Ok(state.admission.prepare(change, context, now_ms(), &mut state.open.group)?.1)
}

/// The index of a batch's first operation that was not admitted before, or `None` if all were.
fn first_new_operation(position: Option<ProducerPosition>, batch: u64) -> Option<usize> {
    match position {
        Some(position) if batch < position.batch => None,
        Some(position) if batch == position.batch && position.complete => None,
        Some(position) if batch == position.batch => Some(usize::try_from(position.operation).ok()? + 1),
        _ => Some(0),
    }
}
