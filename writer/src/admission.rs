//! Admission: checks a change against the newest state, gives it a seq and a time, and encodes its frames.
//!
//! The state here runs ahead of the disk: it includes commits that are admitted and not synced yet, so that
//! the next group is admitted while one is written. An undo log, kept until commits are durable, takes them
//! back if their group is refused.

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::{CommitMeta, IngestOrigin, RequestId};
use driftdb_common::format::principal_text::id_of;
use driftdb_common::metrics;
use driftdb_common::metrics::catalog;
use driftdb_common::storage::io_ban::IoBan;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::format_time;
use driftdb_common::table::operation::{CommitOptions, SchemaChange, WriteToken};

use crate::admission::boundaries::check_boundaries;
use crate::admission::draft::{Draft, DraftConditions, DraftOperation};
use crate::admission::missing::{MissingWork, missing_work};
use crate::admission::operations::admit_operations;
use crate::admission::preconditions::check_preconditions;
use crate::admission::prepared_commit::PreparedCommit;
use crate::admission::producers::{ProducerPositions, RefusedOperation};
use crate::admission::read_rows::ReadRows;
use crate::admission::requests::{RecentRequests, RequestMatch, RequestWindow};
use crate::admission::schema_changes::admit_schema_change;
use crate::admission::tables::{AdmittedTables, DiscardedUndo, UndoMark};
use crate::clock_guard::ClockReading;

pub(crate) mod boundaries;
pub(crate) mod draft;
pub(crate) mod fingerprint;
pub(crate) mod made_keys;
pub(crate) mod missing;
mod name_index;
mod operations;
mod preconditions;
pub(crate) mod prepared_commit;
pub(crate) mod producers;
pub(crate) mod read_rows;
pub(crate) mod rebuild;
pub(crate) mod recent_changes;
pub(crate) mod requests;
mod row_key;
pub(crate) mod schema_changes;
pub(crate) mod table;
pub(crate) mod tables;

/// The newest state of the database, including commits that are not durable yet.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) tables: AdmittedTables,
    pub(crate) requests: RecentRequests,
    pub(crate) producers: ProducerPositions,
    pub(crate) last: WriteToken,
    is_clock_behind: bool,
}

/// The answer to an admitted change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CommitReceipt {
    /// The commit.
    pub(crate) token: WriteToken,
    /// Whether an earlier request with the same id made the commit.
    pub(crate) replayed: bool,
}

/// What accompanies a change.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommitContext {
    /// Options that any commit can have.
    pub(crate) options: CommitOptions,
    /// The request's id and fingerprint.
    pub(crate) request: Option<RequestId>,
    /// The position in a producer's stream.
    pub(crate) origin: Option<IngestOrigin>,
}

/// A change that can be admitted.
#[derive(Debug)]
pub(crate) enum AdmissibleChange<'a> {
    /// Change rows, as a [`Draft`] that misses nothing.
    Rows { operations: Vec<DraftOperation>, conditions: DraftConditions, rows: &'a ReadRows },
    /// Change a schema.
    Schema(SchemaChange),
}

impl Admission {
    /// The state of an empty database.
    pub(crate) fn new(window: RequestWindow) -> Admission {
        Admission {
            tables: AdmittedTables::default(),
            requests: RecentRequests::new(window),
            producers: ProducerPositions::default(),
            last: WriteToken::default(),
            is_clock_behind: false,
        }
    }

    /// The last admitted commit.
    pub(crate) fn last(&self) -> WriteToken {
        self.last
    }

    /// Records that a producer's batch was processed to its end, with its refused operations.
    pub(crate) fn complete_batch(&mut self, producer: &str, batch: u64, refused: &[RefusedOperation]) {
        self.producers.complete_batch(producer, batch, self.last.seq);
        self.producers.record_refusals(producer, batch, refused);
    }

    /// Returns what a change needs before it can be admitted; `None` if it can be admitted now, under the same lock. Patches of
    /// rows with up to `merge_bytes` bytes together are left to admission.
    pub(crate) fn missing_work(&self, draft: &mut Draft, merge_bytes: usize) -> Option<MissingWork> {
        let _no_reads = IoBan::new();
        missing_work(&self.tables, draft, (self.last.seq, merge_bytes))
    }

    /// Why an operation would be refused now, or `None` if it would be admitted. Changes nothing.
    pub(crate) fn refusal(&mut self, operation: DraftOperation, rows: &ReadRows) -> Option<Error> {
        let _no_reads = IoBan::new();
        let mark = self.tables.undo_mark();
        let token = WriteToken { seq: self.last.seq + 1, time_ms: self.last.time_ms };
        let admitted =
            admit_operations(&mut self.tables, token, vec![operation], &DraftConditions::default(), rows);
        self.undo_to(mark);
        admitted.err()
    }

    /// Admits a change: checks it, applies it to this state, and appends its frames to `group`. A repeated
    /// request returns the commit of the first one. An error leaves the state unchanged.
    pub(crate) fn admit(
        &mut self,
        change: AdmissibleChange<'_>,
        context: CommitContext,
        clock: ClockReading,
        group: &mut Group,
    ) -> Result<CommitReceipt> {
        let (receipt, commit) = self.prepare(change, context, clock, group)?;
        if let Some(commit) = commit {
            commit.encode(group);
        }
        Ok(receipt)
    }

    /// Admits a change without appending its frames. The caller must append them, before those of any later
    /// commit. Returns no commit if the change has no effect.
    pub(crate) fn prepare(
        &mut self,
        change: AdmissibleChange<'_>,
        context: CommitContext,
        clock: ClockReading,
        group: &mut Group,
    ) -> Result<(CommitReceipt, Option<PreparedCommit>)> {
        let _no_reads = IoBan::new();
        let CommitContext { options, request, origin } = context;
        if let Some(token) = request.as_ref().map_or(Ok(None), |request| self.find_request(request))? {
            return Ok((CommitReceipt { token, replayed: true }, None));
        }
        let time_ms = self.commit_time(&options, clock)?;
        let token = WriteToken { seq: self.last.seq + 1, time_ms };
        let mark = self.tables.undo_mark();
        let events = match change {
            AdmissibleChange::Rows { operations, conditions, rows } => {
                admit_operations(&mut self.tables, token, operations, &conditions, rows)
            }
            AdmissibleChange::Schema(change) => {
                match admit_schema_change(&mut self.tables, token, change, group) {
                    // The schema is already as requested: answer with the newest commit.
                    Ok(events) if events.is_empty() => {
                        return Ok((CommitReceipt { token: self.last, replayed: false }, None));
                    }
                    other => other,
                }
            }
        };
        let events = events.inspect_err(|_| self.undo_to(mark))?;
        let meta = CommitMeta { actor: options.actor, reason: options.reason, request, origin };
        self.last = token;
        self.remember(meta.request.clone(), meta.origin.clone());
        Ok((CommitReceipt { token, replayed: false }, Some(PreparedCommit::new(token, events, meta))))
    }

    /// Takes back the changes after `mark`, which are of a commit that is not made.
    fn undo_to(&mut self, mark: UndoMark) {
        self.tables.undo_to(mark);
        self.tables.recent_mut().end_at(self.last.seq);
    }

    /// The answer to a request that turned out to change nothing: the commit that an earlier attempt of it made, or else the newest
    /// one, if the conditions hold then.
    pub(crate) fn confirm(&self, draft: &Draft, request: Option<&RequestId>) -> Result<CommitReceipt> {
        let _no_reads = IoBan::new();
        if let Some(token) = request.map_or(Ok(None), |request| self.find_request(request))? {
            return Ok(CommitReceipt { token, replayed: true });
        }
        let Draft { conditions, rows, .. } = draft;
        check_preconditions(&self.tables, &conditions.rows, rows)?;
        check_boundaries(&self.tables, &conditions.boundaries, self.last.seq)?;
        Ok(CommitReceipt { token: self.last, replayed: false })
    }

    /// Remembers the request and the origin of the last commit.
    pub(crate) fn remember(&mut self, request: Option<RequestId>, origin: Option<IngestOrigin>) {
        if let Some(request) = request {
            self.requests.insert(request, self.last);
        }
        if let Some(origin) = origin {
            self.producers.advance(origin, self.last.seq);
        }
    }

    /// The commit that an earlier attempt of this request made. Fails if a different request has used the id.
    pub(crate) fn find_request(&self, request: &RequestId) -> Result<Option<WriteToken>> {
        match self.requests.find(request) {
            RequestMatch::New => Ok(None),
            RequestMatch::Repeated(token) => Ok(Some(token)),
            RequestMatch::Conflicting(token) => {
                let message = format!(
                    "request id {:?} is in use: a different request with this id became commit {}; use a new id for each request",
                    id_of(&request.id),
                    token.seq
                );
                Err(Error::new(Reason::RequestIdReused, message).with("seq", token.seq.to_string()))
            }
        }
    }

    /// Returns to the state after commit `durable`: no later commit reached the disk.
    pub(crate) fn roll_back(&mut self, durable: WriteToken) {
        self.tables.undo_to(UndoMark::default());
        self.tables.recent_mut().note_rollback();
        self.tables.recent_mut().end_at(durable.seq);
        self.requests.remove_after(durable.seq);
        self.producers.roll_back_to(durable.seq);
        self.last = durable;
    }

    /// Discards the undo log up to `mark`, which belongs to commit `durable`: everything up to there is
    /// durable.
    /// The caller should drop the result after the lock: it can be large.
    pub(crate) fn discard_undo(&mut self, mark: UndoMark, durable: WriteToken) -> DiscardedUndo {
        self.producers.discard_undo(durable.seq);
        self.tables.discard_undo_before(mark)
    }

    /// The time of the next commit: the clock's, or the last commit's if the clock is behind it (I2). Fails with CLOCK_JUMPED if
    /// that time is not trusted.
    fn commit_time(&mut self, options: &CommitOptions, clock: ClockReading) -> Result<u64> {
        clock.check_commit(options)?;
        let (last_ms, now_ms) = (self.last.time_ms, clock.now_ms);
        if let Some(time) = options.commit_time_ms {
            if time < last_ms || time > now_ms.max(last_ms) {
                let message = format!(
                    "commit_time must be between {}, the last commit's time, and {}, the current time; got {}",
                    format_time(last_ms),
                    format_time(now_ms.max(last_ms)),
                    format_time(time)
                );
                return Err(Error::new(Reason::ArgumentInvalid, message));
            }
            return Ok(time);
        }
        let is_behind = now_ms < last_ms;
        if is_behind && !self.is_clock_behind {
            metrics::count(&catalog::CLOCK_BACKWARD);
            let behind_ms = last_ms - now_ms;
            tracing::warn!(
                behind_ms,
                "the system clock is behind the last commit's time: new commits get that time until the clock has caught up"
            );
        }
        self.is_clock_behind = is_behind;
        Ok(now_ms.max(last_ms))
    }
}
