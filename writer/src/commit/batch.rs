//! Batches of a producer's stream: which of their operations are new, and what became of them.

use driftdb_common::error::Result;
use driftdb_common::service::clock::now_ms;
use driftdb_common::table::operation::{CommitRequest, Operation};
use tokio_util::sync::CancellationToken;

use crate::admit::{Commit, With};
use crate::commit::queue::{Settling, State};
use crate::requests::{Position, Refusal};

/// A message of a producer's stream.
#[derive(Debug)]
pub struct Batch {
    /// What goes with its commits; `origin.operation` is filled in for each.
    pub with: With,
    /// Its number.
    pub batch: u64,
    /// Its operations, those that could not be decoded as the error they are.
    pub operations: Vec<Result<Operation>>,
    /// One commit for all, or one for each.
    pub atomic: bool,
}

/// What a stream began with.
#[derive(Debug, Clone)]
pub struct StreamState {
    /// Cancelled when a newer stream of the producer comes, or the writer goes down.
    pub ended: CancellationToken,
    pub(super) rollbacks: u64,
}

/// What became of a batch.
#[derive(Debug)]
pub struct Ingested {
    /// Its number.
    pub batch: u64,
    /// Operations that were refused.
    pub refused: Vec<Refusal>,
    /// Settled when all of its commits are durable.
    pub answer: Settling,
}

impl State {
    /// Admits what is new in a batch; returns what was refused.
    pub(super) fn admit_batch(
        &mut self,
        with: &With,
        batch: u64,
        operations: Vec<Result<Operation>>,
        atomic: bool,
    ) -> Vec<Refusal> {
        let producer = with.origin.as_ref().map(|origin| origin.producer.clone());
        let position = producer.as_ref().and_then(|producer| self.admission.producers().position(producer));
        let mut refused = Vec::new();
        let Some(first) = first_new(position, batch) else { return refused };
        let commits: Vec<(u32, Result<Vec<Operation>>)> = if atomic {
            let last = u32::try_from(operations.len().saturating_sub(1)).unwrap_or(u32::MAX);
            let all = (last, operations.into_iter().collect());
            if u32::try_from(first).is_ok_and(|first| first <= last) { vec![all] } else { Vec::new() }
        } else {
            let one =
                |(operation, index): (Result<_>, u32)| (index, operation.map(|operation| vec![operation]));
            operations.into_iter().zip(0..).skip(first).map(one).collect()
        };
        // Each is held until the next is admitted: only then is it known not to be the batch's last.
        let mut held: Option<Commit> = None;
        for (last, operations) in commits {
            match self.prepare_part(with, last, operations) {
                Ok(Some(commit)) => {
                    if let Some(before) = held.replace(commit) {
                        before.encode(&mut self.gathering.group);
                    }
                }
                Ok(None) => {}
                Err(error) => refused.push(Refusal { batch, index: if atomic { 0 } else { last }, error }),
            }
        }
        if let Some(mut commit) = held {
            commit.ends_batch();
            commit.encode(&mut self.gathering.group);
        }
        if let Some(producer) = producer {
            self.admission.complete_batch(&producer, batch, &refused);
        }
        refused
    }

    /// Admits a commit of a batch, whose last operation is the batch's operation `last`.
    fn prepare_part(
        &mut self,
        with: &With,
        last: u32,
        operations: Result<Vec<Operation>>,
    ) -> Result<Option<Commit>> {
        let mut with = with.clone();
        if let Some(origin) = &mut with.origin {
            origin.operation = last;
        }
        let change = CommitRequest::Rows { operations: operations?, preconditions: Vec::new() };
        Ok(self.admission.prepare(change, with, now_ms(), &mut self.gathering.group)?.1)
    }
}

/// The position of a batch's first operation that has not been admitted before; `None` where all have.
fn first_new(position: Option<Position>, batch: u64) -> Option<usize> {
    match position {
        Some(position) if batch < position.batch => None,
        Some(position) if batch == position.batch && position.complete => None,
        Some(position) if batch == position.batch => Some(usize::try_from(position.operation).ok()? + 1),
        _ => Some(0),
    }
}
