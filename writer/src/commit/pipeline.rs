//! Single commits: admits a change, wakes the committer, and waits for the acknowledgement.

use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::event::RequestId;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::table::operation::SchemaChange;

use crate::admission::draft::{Draft, DraftConditions, made_keys_of};
use crate::admission::made_keys::MadeKey;
use crate::admission::missing::MissingWork;
use crate::admission::schema_changes::{check_schema_change, makes_new_table};
use crate::admission::{AdmissibleChange, CommitContext, CommitReceipt};
use crate::commit::acks::PendingAck;
use crate::commit::lone_commit::LoneCommit;
use crate::commit::preparation::{TRIES, merge_bytes, prepare, rows_keep_changing};
use crate::commit::state::{CommitShared, CommitState};

/// What the request of an admitted change does before it waits for its outcome.
enum NextStep {
    /// Nothing: the outcome is known, or whoever writes now writes this next.
    Nothing,
    /// Wake the committer.
    Wake,
    /// Write the group itself.
    Write(LoneCommit),
}

/// A change of rows that is admitted.
struct AdmittedRows {
    ack: PendingAck,
    next: NextStep,
    made: Vec<MadeKey>,
}

/// Commits changes, one at a time.
#[derive(Debug, Clone)]
pub(crate) struct CommitPipeline(pub(super) Arc<CommitShared>);

impl CommitPipeline {
    pub(super) fn new(shared: &Arc<CommitShared>) -> CommitPipeline {
        CommitPipeline(Arc::clone(shared))
    }

    /// Admits a change of rows and waits until it is durable or refused. A refusal that depends on a commit that is
    /// not durable yet waits for that commit.
    pub(crate) async fn commit_rows(&self, draft: Draft, context: CommitContext) -> Result<CommitReceipt> {
        self.commit_inserts(draft, context).await.map(|(receipt, _)| receipt)
    }

    /// The same, and returns the keys that were made for this attempt. If the receipt is of an earlier one, that one had other keys.
    pub(crate) async fn commit_inserts(
        &self,
        draft: Draft,
        context: CommitContext,
    ) -> Result<(CommitReceipt, Vec<MadeKey>)> {
        let AdmittedRows { ack, next, made } = self.admit_rows(draft, context).await?;
        match next {
            NextStep::Nothing => {}
            NextStep::Wake => _ = self.0.work_ready.notify_one(),
            NextStep::Write(commit) => commit.write(&self.0),
        }
        self.outcome(ack).await.map(|receipt| (receipt, made))
    }

    /// Admits a change of a schema, as [`CommitPipeline::commit_rows`] does.
    pub(crate) async fn commit_schema(
        &self,
        change: SchemaChange,
        context: CommitContext,
    ) -> Result<CommitReceipt> {
        check_schema_change(&change)?;
        let ack = {
            let mut state = self.0.state.lock();
            state.check_accepting()?;
            state.check_room(self.0.tail_limit)?;
            let CommitState { admission, open, .. } = &mut *state;
            if let SchemaChange::Create { schema, .. } = &change
                && makes_new_table(&admission.tables, schema)
            {
                // A new table needs room. If its group were refused for it, others in the group would be too.
                self.0.space.check_room(format_args!("cannot create table {:?}", schema.table))?;
            }
            let change = AdmissibleChange::Schema(change);
            let outcome = admission.admit(change, context, self.0.clock.read(), &mut open.group);
            state.acknowledge(outcome)
        };
        self.wait(ack).await
    }

    async fn admit_rows(&self, mut draft: Draft, context: CommitContext) -> Result<AdmittedRows> {
        for attempt in 0..TRIES {
            match self.try_admit(&mut draft, &context, attempt)? {
                Ok(admitted) => return Ok(admitted),
                Err(missing) => draft = prepare(&self.0, draft, missing).await?,
            }
        }
        Err(rows_keep_changing())
    }

    /// Admits a change, or returns what it needs first. What was read for it stays in the draft, and is dropped after the lock.
    fn try_admit(
        &self,
        draft: &mut Draft,
        context: &CommitContext,
        attempt: u32,
    ) -> Result<Result<AdmittedRows, MissingWork>> {
        let context = context.clone();
        let mut state = self.0.state.lock();
        state.check_accepting()?;
        state.check_room(self.0.tail_limit)?;
        if let Some(missing) = state.admission.missing_work(draft, merge_bytes(attempt)) {
            return Ok(Err(missing));
        }
        let Draft { operations, conditions, rows } = draft;
        let made = made_keys_of(operations, 0);
        let (operations, conditions) = (std::mem::take(operations), std::mem::take(conditions));
        let change = AdmissibleChange::Rows { operations, conditions, rows };
        let CommitState { admission, open, .. } = &mut *state;
        let outcome = admission.admit(change, context, self.0.clock.read(), &mut open.group);
        let ack = state.acknowledge(outcome);
        let next = match ack {
            PendingAck::Ready(_) => NextStep::Nothing,
            PendingAck::Waiting(_) => match LoneCommit::take(&mut state) {
                Some(commit) => NextStep::Write(commit),
                None if state.must_wake_committer() => NextStep::Wake,
                None => NextStep::Nothing,
            },
        };
        Ok(Ok(AdmittedRows { ack, next, made }))
    }

    /// Answers a request that turned out to change nothing, as a commit is answered: an earlier attempt may have made one, the
    /// conditions must hold, and the answer waits until everything that it depends on is durable.
    pub(crate) async fn confirm(
        &self,
        conditions: DraftConditions,
        request: Option<&RequestId>,
    ) -> Result<CommitReceipt> {
        let mut draft = Draft { conditions, ..Draft::default() };
        for attempt in 0..TRIES {
            match self.try_confirm(&mut draft, request, attempt)? {
                Ok(ack) => return self.wait(ack).await,
                Err(missing) => draft = prepare(&self.0, draft, missing).await?,
            }
        }
        Err(rows_keep_changing())
    }

    fn try_confirm(
        &self,
        draft: &mut Draft,
        request: Option<&RequestId>,
        attempt: u32,
    ) -> Result<Result<PendingAck, MissingWork>> {
        let mut state = self.0.state.lock();
        state.check_accepting()?;
        state.check_room(self.0.tail_limit)?;
        if let Some(missing) = state.admission.missing_work(draft, merge_bytes(attempt)) {
            return Ok(Err(missing));
        }
        let outcome = state.admission.confirm(draft, request);
        Ok(Ok(state.acknowledge(outcome)))
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

    pub(super) async fn wait(&self, ack: PendingAck) -> Result<CommitReceipt> {
        if matches!(ack, PendingAck::Waiting(_)) {
            self.0.work_ready.notify_one();
        }
        self.outcome(ack).await
    }

    async fn outcome(&self, ack: PendingAck) -> Result<CommitReceipt> {
        ack.wait().await
    }

    /// The error of an unknown table with the name that it has since a RENAME, or else with the nearest name, of those that the caller
    /// may see. Other errors stay as they are.
    pub(crate) async fn suggesting(&self, error: Error, caller: &Caller) -> Error {
        if error.reason() != Reason::TableNotFound {
            return error;
        }
        let table = error.metadata().get("table");
        let (schemas, renamed) = {
            let state = self.0.state.lock();
            let tables = &state.admission.tables;
            let renamed = table.and_then(|table| tables.renamed_to(table)).map(str::to_owned);
            (tables.live_schemas(), renamed)
        };
        if schemas.iter().any(|schema| Some(&schema.table) == table) {
            // It exists now, and did not at some point in time.
            return error;
        }
        // Whoever may not see a name must not learn that there was a table of this name either.
        let may_know = |to: &String| caller.lists(to) && table.is_some_and(|table| caller.lists(table));
        if let Some(to) = renamed.filter(may_know) {
            return error.renamed_to(&to);
        }
        let (unchanged, caller) = (error.clone(), caller.clone());
        let suggest = move || {
            let names = schemas.iter().map(|schema| schema.table.as_str());
            Ok(error.suggesting(names.filter(|name| caller.lists(name))))
        };
        // Without a suggestion the error is still true.
        self.0.tasks.run(suggest).await.unwrap_or(unchanged)
    }

    /// Takes no more writes. The committer ends once the admitted ones are durable.
    pub(crate) fn close(&self) {
        self.0.state.lock().closing = true;
        self.0.work_ready.notify_one();
    }
}
