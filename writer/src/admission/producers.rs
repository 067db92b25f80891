//! The ingest position of each producer, so that a producer that reconnects continues after its last durable
//! batch.

use std::collections::{HashMap, VecDeque};

use driftdb_common::error::Error;
use driftdb_common::format::event::IngestOrigin;

/// The number of refused operations remembered for each producer.
const REFUSALS_KEPT: usize = 1000;
/// The memory of the refused operations that are remembered for all producers together, in bytes. Over it, those of other
/// producers are forgotten.
const REFUSALS_KEPT_BYTES: usize = 32 << 20;
/// Memory of a refused operation besides its message.
const REFUSAL_BYTES: usize = 256;

/// The position of a producer's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProducerPosition {
    /// The last batch that was processed, at least in part.
    pub(crate) batch: u64,
    /// The last committed operation of that batch, counted from 0; 0 if none was committed.
    pub(crate) operation: u32,
    /// Whether the batch was processed to its end: no later operation of it can still be committed.
    pub(crate) complete: bool,
    /// The producer's last commit; 0 if nothing of it was committed.
    pub(crate) seq: u64,
}

/// An operation of a batch that was refused.
#[derive(Debug, Clone)]
pub(crate) struct RefusedOperation {
    /// The batch.
    pub(crate) batch: u64,
    /// The operation's position in the batch, counted from 0.
    pub(crate) index: u32,
    /// Why it was refused.
    pub(crate) error: Error,
}

/// The positions of all producers.
#[derive(Debug, Default)]
pub(crate) struct ProducerPositions {
    positions: HashMap<String, ProducerPosition>,
    /// Recently refused operations by producer, oldest first. A new stream reports them again, because the
    /// acknowledgement that reported them may have been lost with the old stream.
    refusals: HashMap<String, VecDeque<RefusedOperation>>,
    /// The memory of `refusals`.
    refusal_bytes: usize,
    /// For each change that may not be durable yet: the commit, the producer, and its position before.
    undo: VecDeque<(u64, String, Option<ProducerPosition>)>,
}

impl ProducerPosition {
    /// The last batch that was processed to its end.
    pub(crate) fn complete_batch(&self) -> u64 {
        if self.complete { self.batch } else { self.batch.saturating_sub(1) }
    }
}

impl ProducerPositions {
    /// A producer's position, or `None` if the producer is unknown.
    pub(crate) fn get(&self, producer: &str) -> Option<ProducerPosition> {
        self.positions.get(producer).copied()
    }

    /// Moves a producer to the origin of commit `seq`.
    pub(crate) fn advance(&mut self, origin: IngestOrigin, seq: u64) {
        let IngestOrigin { producer, batch, operation, ends } = origin;
        let position = ProducerPosition { batch, operation, complete: ends, seq };
        let prior = self.positions.insert(producer.clone(), position);
        self.undo.push_back((seq, producer, prior));
    }

    /// Marks a producer's batch as processed to its end, even if none of its operations was committed. `seq`
    /// is the newest commit: refusals of the batch may depend on it, so the mark is taken back if that commit
    /// does not become durable.
    pub(crate) fn complete_batch(&mut self, producer: &str, batch: u64, seq: u64) {
        let prior = self.positions.get(producer).copied();
        let position = match prior {
            Some(position) if position.batch > batch => return,
            Some(position) if position.batch == batch => ProducerPosition { complete: true, ..position },
            _ => {
                let seq = prior.map_or(0, |prior| prior.seq);
                ProducerPosition { batch, operation: 0, complete: true, seq }
            }
        };
        self.positions.insert(producer.to_owned(), position);
        self.undo.push_back((seq, producer.to_owned(), prior));
    }

    /// Remembers the refused operations of a producer's batch.
    pub(crate) fn record_refusals(&mut self, producer: &str, batch: u64, refused: &[RefusedOperation]) {
        if refused.is_empty() {
            return;
        }
        let kept = self.refusals.entry(producer.to_owned()).or_default();
        self.refusal_bytes -= bytes_of(kept);
        // A batch that did not become durable is processed a second time: its second refusals replace the
        // first.
        kept.retain(|refusal| refusal.batch != batch);
        kept.extend(refused.iter().skip(refused.len().saturating_sub(REFUSALS_KEPT)).cloned());
        kept.drain(..kept.len().saturating_sub(REFUSALS_KEPT));
        self.refusal_bytes += bytes_of(kept);
        while self.refusal_bytes > REFUSALS_KEPT_BYTES
            && let Some(other) = self.refusals.keys().find(|other| *other != producer).cloned()
        {
            let forgotten = self.refusals.remove(&other).unwrap_or_default();
            self.refusal_bytes -= bytes_of(&forgotten);
        }
    }

    /// The recently refused operations of a producer's batches up to batch `upto`.
    pub(crate) fn refusals(&self, producer: &str, upto: u64) -> Vec<RefusedOperation> {
        let kept = self.refusals.get(producer).into_iter().flatten();
        kept.filter(|refusal| refusal.batch <= upto).cloned().collect()
    }

    /// Discards the undo entries of commits up to `seq`: those commits are durable.
    pub(crate) fn discard_undo(&mut self, seq: u64) {
        while self.undo.pop_front_if(|(at, ..)| *at <= seq).is_some() {}
    }

    /// Takes back the changes of commits after `seq`: those commits did not become durable.
    pub(crate) fn roll_back_to(&mut self, seq: u64) {
        while let Some((_, producer, prior)) = self.undo.pop_back_if(|(at, ..)| *at > seq) {
            match prior {
                Some(prior) => _ = self.positions.insert(producer, prior),
                None => _ = self.positions.remove(&producer),
            }
        }
    }
}

fn bytes_of(refused: &VecDeque<RefusedOperation>) -> usize {
    refused.iter().map(|refusal| REFUSAL_BYTES + refusal.error.message().len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_commits_that_did_not_become_durable_are_taken_back() {
        let mut producers = ProducerPositions::default();
        let origin = |batch| IngestOrigin { producer: "p".into(), batch, operation: 0, ends: false };
        producers.advance(origin(1), 1);
        producers.discard_undo(1);
        producers.advance(origin(2), 2);
        producers.advance(origin(3), 3);
        producers.roll_back_to(1);
        assert_eq!(producers.get("p").map(|position| (position.batch, position.seq)), Some((1, 1)));
    }

    #[test]
    fn the_refusals_of_many_producers_have_a_bound() {
        let mut producers = ProducerPositions::default();
        let error = Error::new(driftdb_common::error::Reason::RowExists, "x".repeat(1000));
        let refused: Vec<_> =
            (0..2000).map(|index| RefusedOperation { batch: 1, index, error: error.clone() }).collect();
        for n in 0..100 {
            producers.record_refusals(&format!("p{n}"), 1, &refused);
            assert!(producers.refusal_bytes <= REFUSALS_KEPT_BYTES);
            assert_eq!(producers.refusals(&format!("p{n}"), 1).len(), REFUSALS_KEPT);
        }
        assert_eq!(producers.refusal_bytes, producers.refusals.values().map(bytes_of).sum::<usize>());
    }
}
