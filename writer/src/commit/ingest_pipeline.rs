//! Batches of a producer's stream: admits the operations that are new, in order, and reports the refused
//! ones.

use std::collections::HashSet;
use std::sync::Arc;

use driftdb_common::error::{Error, ErrorKind, Reason, Result};
use driftdb_common::limits;
use parking_lot::MutexGuard;
use tokio_util::sync::CancellationToken;

use crate::admission::draft::{Draft, DraftConditions, DraftOperation, KnownTables, made_keys_of};
use crate::admission::made_keys::MadeKey;
use crate::admission::prepared_commit::PreparedCommit;
use crate::admission::producers::{ProducerPosition, RefusedOperation};
use crate::admission::read_rows::ReadRows;
use crate::admission::{AdmissibleChange, CommitContext, CommitReceipt};
use crate::clock_guard::ClockReading;
use crate::commit::acks::PendingAck;
use crate::commit::preparation::{TRIES, merge_bytes, prepare, rows_keep_changing};
use crate::commit::state::{CommitShared, CommitState};

/// The operations of a batch that are admitted under one lock. A patch counts as several, because its row is read whole.
const OPERATIONS_AT_ONCE: usize = 256;
const PATCH_WEIGHT: usize = 4;

/// One message of a producer's stream.
#[derive(Debug)]
pub(crate) struct IngestBatch {
    /// The context of the batch's commits. `origin.operation` is set for each commit.
    pub(crate) context: CommitContext,
    /// The batch's number.
    pub(crate) number: u64,
    /// The operations. One that could not be decoded is here as its error.
    pub(crate) operations: Vec<Result<DraftOperation>>,
    /// What must hold before an atomic batch; nothing for other batches.
    pub(crate) conditions: DraftConditions,
    /// Whether all operations are one commit. Otherwise each operation is a commit.
    pub(crate) atomic: bool,
    /// Whether a refused operation ends the batch, which then counts as processed up to the operation before it.
    pub(crate) stop_at_refusal: bool,
    /// The positions of operations that the producer has set aside.
    pub(crate) set_aside: HashSet<u32>,
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
    /// How many operations of the batch after it are processed already.
    pub(crate) operations_passed: u32,
    /// The refused operations.
    pub(crate) refused: Vec<RefusedOperation>,
    /// The keys that were made.
    pub(crate) made: Vec<MadeKey>,
    /// Whether a refused operation has ended the stream.
    pub(crate) stopped: bool,
    /// Ready once all commits of the batch, and the commits that refusals depend on, are durable.
    pub(crate) ack: PendingAck,
}

/// Commits of a batch that are admitted under one lock.
#[derive(Debug, Default)]
struct BatchSlice {
    /// The position of each commit's last operation, and the number of its operations in `draft`; or why it is refused.
    commits: Vec<(u32, Result<usize>)>,
    draft: Draft,
    weight: usize,
}

/// What came of a batch so far.
#[derive(Debug, Default)]
struct BatchOutcome {
    refused: Vec<RefusedOperation>,
    made: Vec<MadeKey>,
    /// Whether a refused operation has ended the batch.
    stopped: bool,
    /// The failure at which the batch ended. An operation is refused for what it says, never because a file could not be read.
    failure: Option<Error>,
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
        state.check_accepting().is_err() || state.has_room(self.0.tail_limit)
    }

    /// The ids and schemas of tables that are not dropped, by name.
    pub(crate) fn known_tables<'a>(&self, names: impl Iterator<Item = &'a str>) -> KnownTables {
        let mut known = KnownTables::new();
        let mut last = "";
        for name in names.filter(|name| name.len() <= limits::TABLE_NAME_BYTES) {
            if name == last || known.contains_key(name) {
                continue;
            }
            last = name;
            if let Ok(table) = self.0.state.lock().admission.tables.live(name) {
                known.insert(name.to_owned(), (table.id(), Arc::clone(table.schema())));
            }
        }
        known
    }

    /// Opens a stream that `ended` can end.
    pub(crate) fn open_session(&self, ended: CancellationToken) -> IngestSession {
        IngestSession { ended, rollbacks: self.0.state.lock().rollbacks }
    }

    /// Admits the operations of a batch that were not admitted before. Returns `None` and does nothing if the
    /// stream has ended: the producer's newer stream may already know its position, and a batch admitted now
    /// would be applied twice.
    pub(crate) async fn admit_batch(
        &self,
        batch: IngestBatch,
        session: &IngestSession,
    ) -> Result<Option<AdmittedBatch>> {
        let IngestBatch { context, number, operations, conditions, atomic, stop_at_refusal, set_aside } =
            batch;
        // Not a refusal of single operations: the client must send the batch again.
        self.0.clock.read().check_commit(&context.options)?;
        let producer = context.origin.as_ref().map(|origin| origin.producer.clone());
        let position =
            producer.as_ref().and_then(|producer| self.0.state.lock().admission.producers.get(producer));
        let first = first_new_operation(position, number);
        let commits = first.map_or_else(Vec::new, |first| commits_of_batch(operations, first, atomic));
        let is_new = |(last, _): &(u32, _)| !set_aside.contains(if atomic { &0 } else { last });
        let mut slices = slices_of(commits.into_iter().filter(is_new));
        if let Some(slice) = slices.first_mut() {
            // An atomic batch is one commit, so it has one slice.
            slice.draft.conditions = conditions;
        }
        let mut slices = slices.into_iter().peekable();
        let mut outcome = BatchOutcome::default();
        if let Some(producer) = producer.as_ref().filter(|_| !stop_at_refusal) {
            // The batch is continued: what was refused of it before is reported with the rest.
            let mut before = self.0.state.lock().admission.producers.refusals(producer, number);
            let is_before = |index: u32| first.is_some_and(|first| (index as usize) < first);
            before.retain(|refusal| refusal.batch == number && is_before(refusal.index));
            outcome.refused = before;
        }
        while let Some(slice) = slices.next().filter(|_| !outcome.has_ended()) {
            let ends = slices.peek().is_none();
            let rules = SliceRules { number, atomic, stop_at_refusal, ends };
            let admitted = self.admit_slice(slice, &context, session, (rules, &mut outcome)).await;
            if !matches!(admitted, Ok(true)) {
                // What is admitted is part of the group, which is written when anybody waits for it.
                drop(self.acknowledge(self.0.state.lock(), number, BatchOutcome::default()));
                return admitted.map(|_| None);
            }
        }
        self.end_batch(producer, number, session, outcome)
    }

    /// Admits the commits of a slice. Returns false, and admits none, if the stream has ended.
    async fn admit_slice(
        &self,
        mut slice: BatchSlice,
        context: &CommitContext,
        session: &IngestSession,
        (rules, outcome): (SliceRules, &mut BatchOutcome),
    ) -> Result<bool> {
        for attempt in 0..TRIES {
            let missing = {
                let mut state = self.0.state.lock();
                if !session.is_open(&state)? {
                    return Ok(false);
                }
                match state.admission.missing_work(&mut slice.draft, merge_bytes(attempt)) {
                    Some(missing) => missing,
                    None => {
                        let clock = self.0.clock.read();
                        admit_commits((&mut state, clock), &mut slice, context, (rules, outcome));
                        return Ok(true);
                    }
                }
            };
            let draft = std::mem::take(&mut slice.draft);
            match prepare(&self.0, draft, missing).await {
                Ok(draft) => slice.draft = draft,
                // Only the patches of an atomic batch can be too large together.
                Err(error) if error.reason() == Reason::TooLarge => {
                    slice.commits.iter_mut().for_each(|(_, commit)| *commit = Err(error.clone()));
                }
                Err(error) => return Err(error),
            }
        }
        Err(rows_keep_changing())
    }

    /// Acknowledges a batch whose commits are admitted, once they are durable.
    fn end_batch(
        &self,
        producer: Option<String>,
        number: u64,
        session: &IngestSession,
        mut outcome: BatchOutcome,
    ) -> Result<Option<AdmittedBatch>> {
        let mut state = self.0.state.lock();
        if !session.is_open(&state)? {
            return Ok(None);
        }
        if let Some(failure) = outcome.failure.take() {
            // What was admitted before the failure becomes durable; a new stream continues after it.
            if let Some(producer) = producer.filter(|_| !outcome.stopped) {
                state.admission.producers.record_refusals(&producer, number, &outcome.refused);
            }
            drop(self.acknowledge(state, number, outcome));
            return Err(failure);
        }
        if outcome.stopped {
            return Ok(Some(self.acknowledge(state, number.saturating_sub(1), outcome)));
        }
        if let Some(producer) = producer {
            state.admission.complete_batch(&producer, number, &outcome.refused);
        }
        Ok(Some(self.acknowledge(state, number, outcome)))
    }

    /// The batch after which a producer continues: the last one that was processed to its end. The answer
    /// repeats the recently refused operations, and is ready once that batch is durable.
    pub(crate) fn producer_position(&self, producer: &str) -> Result<AdmittedBatch> {
        let state = self.0.state.lock();
        state.check_accepting()?;
        let (number, passed) = match state.admission.producers.get(producer) {
            None => (0, 0),
            Some(at) if at.complete => (at.complete_batch(), 0),
            Some(at) => (at.complete_batch(), at.operation.saturating_add(1)),
        };
        let refused = state.admission.producers.refusals(producer, number);
        let outcome = BatchOutcome { refused, ..BatchOutcome::default() };
        Ok(AdmittedBatch { operations_passed: passed, ..self.acknowledge(state, number, outcome) })
    }

    /// Acknowledges a batch once everything that is admitted so far is durable.
    fn acknowledge(
        &self,
        mut state: MutexGuard<'_, CommitState>,
        number: u64,
        outcome: BatchOutcome,
    ) -> AdmittedBatch {
        let token = state.admission.last();
        let ack = state.acknowledge(Ok(CommitReceipt { token, replayed: false }));
        let must_wake = state.must_wake_committer();
        drop(state);
        if must_wake {
            self.0.work_ready.notify_one();
        }
        let BatchOutcome { refused, made, stopped, .. } = outcome;
        AdmittedBatch { number, operations_passed: 0, refused, made, stopped, ack }
    }
}

impl BatchOutcome {
    /// Whether no later commit of the batch is admitted.
    fn has_ended(&self) -> bool {
        self.stopped || self.failure.is_some()
    }
}

/// Whether an error is about the database or its files, not about the operation.
fn is_failure(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Internal | ErrorKind::Unavailable)
}

impl IngestSession {
    /// Whether the stream may admit commits. Fails if commits that it admitted were taken back.
    fn is_open(&self, state: &CommitState) -> Result<bool> {
        state.check_accepting()?;
        if self.ended.is_cancelled() {
            return Ok(false);
        }
        if self.rollbacks != state.rollbacks {
            return Err(state.stream_refusal());
        }
        Ok(true)
    }
}

/// How the commits of a slice are admitted.
#[derive(Debug, Clone, Copy)]
struct SliceRules {
    number: u64,
    atomic: bool,
    stop_at_refusal: bool,
    /// Whether the slice is the batch's last.
    ends: bool,
}

/// Admits the commits of a slice, in order.
fn admit_commits(
    (state, clock): (&mut CommitState, ClockReading),
    slice: &mut BatchSlice,
    context: &CommitContext,
    (rules, outcome): (SliceRules, &mut BatchOutcome),
) {
    let BatchSlice { commits, draft: Draft { operations, conditions, rows }, .. } = slice;
    // An insert or a put that is refused is also refused after other inserts and puts.
    let are_rows = operations.iter().all(DraftOperation::is_whole_row);
    let mut operations = std::mem::take(operations).into_iter();
    // A commit is appended only after the next one is admitted: until then it may be the batch's last, which
    // carries a mark.
    let mut held: Option<PreparedCommit> = None;
    for (last, commit) in std::mem::take(commits) {
        let commit = commit.map(|count| operations.by_ref().take(count).collect::<Vec<_>>());
        let refused = if outcome.stopped {
            // A refused operation lets no later one pass. It is only asked which ones are refused too, so that the client
            // can set them aside together.
            let refusal = |mut commit: Vec<DraftOperation>| state.admission.refusal(commit.pop()?, rows);
            match commit.map_or_else(Some, refusal) {
                None if !are_rows => break,
                refused => refused,
            }
        } else {
            match commit.and_then(|operations| {
                let made = made_keys_of(&operations, if rules.atomic { 0 } else { last });
                let conditions = std::mem::take(conditions);
                prepare_commit((state, clock), context, last, (operations, conditions, rows))
                    .map(|commit| commit.map(|commit| (commit, made)))
            }) {
                Ok(Some((commit, made))) => {
                    outcome.made.extend(made);
                    if let Some(before) = held.replace(commit) {
                        before.encode(&mut state.open.group);
                    }
                    None
                }
                Ok(None) => None,
                Err(error) => Some(error),
            }
        };
        if let Some(error) = refused {
            if is_failure(&error) {
                outcome.failure = Some(error).filter(|_| !outcome.stopped);
                break;
            }
            let index = if rules.atomic { 0 } else { last };
            outcome.refused.push(RefusedOperation { batch: rules.number, index, error });
            outcome.stopped = rules.stop_at_refusal;
        }
    }
    if let Some(mut commit) = held {
        if rules.ends && !outcome.has_ended() {
            commit.mark_end_of_batch();
        }
        commit.encode(&mut state.open.group);
    }
}

/// The commits of a batch from operation `first` on: the index of each commit's last operation, and its
/// operations.
fn commits_of_batch(
    operations: Vec<Result<DraftOperation>>,
    first: usize,
    atomic: bool,
) -> Vec<(u32, Result<Vec<DraftOperation>>)> {
    if !atomic {
        let commit =
            |(operation, index): (Result<_>, u32)| (index, operation.map(|operation| vec![operation]));
        return operations.into_iter().zip(0..).skip(first).map(commit).collect();
    }
    let last = u32::try_from(operations.len().saturating_sub(1)).unwrap_or(u32::MAX);
    let is_new = u32::try_from(first).is_ok_and(|first| first <= last);
    if is_new { vec![(last, operations.into_iter().collect())] } else { Vec::new() }
}

/// Cuts the commits of a batch into slices.
fn slices_of(commits: impl Iterator<Item = (u32, Result<Vec<DraftOperation>>)>) -> Vec<BatchSlice> {
    let mut slices: Vec<BatchSlice> = Vec::new();
    for (last, commit) in commits {
        if slices.last().is_none_or(|slice| slice.weight >= OPERATIONS_AT_ONCE) {
            slices.push(BatchSlice::default());
        }
        let Some(slice) = slices.last_mut() else { continue };
        let commit = commit.map(|operations| {
            let patches = operations.iter().filter(|operation| operation.patch().is_some()).count();
            slice.weight += operations.len() + patches * (PATCH_WEIGHT - 1);
            let count = operations.len();
            slice.draft.operations.extend(operations);
            count
        });
        slice.commits.push((last, commit));
    }
    slices
}

/// Admits one commit of a batch. `last` is the index of the commit's last operation in the batch.
fn prepare_commit(
    (state, clock): (&mut CommitState, ClockReading),
    context: &CommitContext,
    last: u32,
    (operations, conditions, rows): (Vec<DraftOperation>, DraftConditions, &ReadRows),
) -> Result<Option<PreparedCommit>> {
    let mut context = context.clone();
    if let Some(origin) = &mut context.origin {
        origin.operation = last;
    }
    let change = AdmissibleChange::Rows { operations, conditions, rows };
    Ok(state.admission.prepare(change, context, clock, &mut state.open.group)?.1)
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
