//! Statements that change all rows of a condition, or of a table.
//!
//! The rows are found as of one published commit, outside of the admission lock. The commit then requires that nothing which the
//! statement depends on has changed since: no row of its condition, so that the statement has the effect that it would have had in
//! one step at that commit. If something has changed, the rows are found again, a bounded number of times. Several commits of IN
//! BATCHES OF require only that each of their own rows has not changed, so that a busy table does not stop them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use driftdb::v1;
use driftdb::v1::writer_service_execute_response::Event;
use driftdb_common::error::{Error, Reason, Result, Violation};
use driftdb_common::format::document::Document;
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::memory::{MemoryBudget, MemoryPermit, MemoryUse};
use driftdb_common::query::ast::{BulkAction, BulkStatement, GuardedStatement, NoChangeClause, Statement};
use driftdb_common::query::change;
use driftdb_common::service::access::caller::Caller;
use driftdb_common::service::access::lease::StreamLease;
use driftdb_common::service::clock::now_ms;
use driftdb_common::service::convert;
use driftdb_common::table::operation::{
    Action, Boundary, Check, CommitOptions, KeyInput, Operation, Precondition,
};
use driftdb_common::work::WorkOptions;
use prost::Message;

use crate::admission::boundaries;
use crate::admission::draft::{Draft, DraftConditions};
use crate::admission::{CommitContext, CommitReceipt};
use crate::commit::CommitPipeline;
use crate::rpc::authorization::{check_lease, lease_of_tables};
use crate::rpc::bulk_rows::{BulkRow, BulkRows, RevertMoment};
use crate::rpc::table_reader::TableReader;
use crate::tasks::{TaskPool, TaskStop};

/// The changes that a dry run shows.
const SAMPLE: usize = 10;
/// How long a client waits before it retries when the rows keep changing.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Runs the statements.
#[derive(Debug, Clone)]
pub(crate) struct BulkRunner {
    pipeline: CommitPipeline,
    reader: TableReader,
    tasks: TaskPool,
    memory: Arc<MemoryBudget>,
}

/// A statement, and what must hold.
#[derive(Debug, Clone)]
pub(crate) struct BulkRequest {
    /// Shared, because its condition can be very long.
    pub(crate) statement: Arc<BulkStatement>,
    boundaries: Vec<Boundary>,
    context: CommitContext,
    /// The right to run it. Rows can take long to find, so it is looked at again before each commit.
    lease: StreamLease,
    /// The text of the statement's own condition, once a task has made it: see [`own_condition`].
    own: Arc<OnceLock<Option<String>>>,
}

/// What a statement has done.
#[derive(Debug, Default)]
pub(crate) struct BulkOutcome {
    pub(crate) result: v1::BulkResult,
    /// Its last commit.
    pub(crate) receipt: Option<CommitReceipt>,
}

/// The rows of one commit.
#[derive(Debug, Default)]
struct FoundOperations {
    operations: Vec<Operation>,
    /// All rows, those beyond the limit of a commit included.
    count: u64,
    last: Option<Key>,
    seq: u64,
    /// For the operations, until they are committed.
    held: Option<MemoryPermit>,
}

/// A statement that changes all rows of a condition, with its `IF NO CHANGE` clauses; any other statement as it is.
pub(crate) fn bulk_of(statement: Statement) -> Result<(BulkStatement, Vec<NoChangeClause>), Box<Statement>> {
    match statement {
        Statement::Bulk(bulk) => Ok((*bulk, Vec::new())),
        Statement::Guarded(guarded) if matches!(guarded.statement, Statement::Bulk(_)) => {
            let GuardedStatement { statement, boundaries } = *guarded;
            bulk_of(statement).map(|(bulk, _)| (bulk, boundaries))
        }
        other => Err(Box::new(other)),
    }
}

impl BulkRequest {
    /// Checks what can be checked at once. The caller may run the statement now. `context` holds the request's id.
    pub(crate) fn new(
        caller: &Caller,
        statement: BulkStatement,
        clauses: Vec<NoChangeClause>,
        context: CommitContext,
    ) -> Result<BulkRequest> {
        if let Some(batch) = statement.batch {
            if batch > limits::OPERATIONS_PER_COMMIT as u64 {
                let message = format!(
                    "a batch of {batch} rows is too large: the limit for a commit is {}; use smaller batches",
                    limits::OPERATIONS_PER_COMMIT
                );
                return Err(Error::new(Reason::TooLarge, message));
            }
            if !clauses.is_empty() {
                let message = "IF NO CHANGE holds for one commit: leave it out, or leave out IN BATCHES OF";
                return Err(Error::new(Reason::QueryInvalid, message));
            }
        }
        if statement.dry_run && !clauses.is_empty() {
            let message = "DRY RUN commits nothing that IF NO CHANGE could hold for: leave out one of them";
            return Err(Error::new(Reason::QueryInvalid, message));
        }
        let boundaries: Vec<Boundary> = clauses.into_iter().map(change::of_clause).collect();
        let read = boundaries.iter().map(|boundary| boundary.table.clone()).collect();
        let lease = lease_of_tables(caller, vec![statement.table.text.clone()], read);
        Ok(BulkRequest { statement: Arc::new(statement), boundaries, context, lease, own: Arc::default() })
    }

    /// The condition that a commit of all rows depends on, which were found at a commit; `None` if the writer cannot check it.
    fn own_boundary(&self, seq: u64) -> Option<Boundary> {
        let condition = self.own.get()?.clone()?;
        Some(Boundary { table: self.statement.table.text.clone(), condition, unchanged_since: seq })
    }

    /// What the client requires.
    fn conditions(&self, rows: Vec<Precondition>) -> Result<DraftConditions> {
        DraftConditions::new(rows, self.boundaries.clone())
    }
}

/// The text of the condition that a commit of all rows depends on: empty for all rows; `None` if the writer cannot check it, because
/// it asks for the commits of rows, or is too long. Takes as long as the condition is.
fn own_condition(statement: &BulkStatement) -> Option<String> {
    let Some(condition) = &statement.condition else { return Some(String::new()) };
    boundaries::check_columns(condition).ok()?;
    Some(condition.to_string()).filter(|text| text.len() <= limits::BOUNDARY_BYTES)
}

impl BulkRunner {
    /// Finds rows with `reader` on `tasks`, with memory of `memory`.
    pub(crate) fn new(
        pipeline: &CommitPipeline,
        reader: TableReader,
        tasks: &TaskPool,
        memory: &Arc<MemoryBudget>,
    ) -> BulkRunner {
        let (pipeline, tasks, memory) = (pipeline.clone(), tasks.clone(), Arc::clone(memory));
        BulkRunner { pipeline, reader, tasks, memory }
    }

    /// Runs a statement that makes at most one commit.
    pub(crate) async fn run(&self, request: BulkRequest) -> Result<BulkOutcome> {
        if request.statement.dry_run {
            return self.dry_run(request).await;
        }
        if let Some(id) = &request.context.request
            && let Some(receipt) = self.pipeline.find_request(id).await
        {
            return Ok(BulkOutcome::replayed(receipt?));
        }
        let mut moment = RevertMoment::of(now_ms());
        for _ in 0..limits::BULK_TRIES {
            let most = limits::OPERATIONS_PER_COMMIT;
            let (statement, own) = (Arc::clone(&request.statement), Arc::clone(&request.own));
            let open = move |reader: &TableReader, stop: &TaskStop| {
                own.get_or_init(|| own_condition(&statement));
                BulkRows::open(reader, statement, moment, None, stop)
            };
            let (rows, found) = match self.find(open, most, true).await {
                // The files were replaced by newer ones.
                Err(error) if error.reason() == Reason::FileGone => continue,
                found => found?,
            };
            moment = rows.moment();
            drop(rows);
            check_lease(&request.lease)?;
            if found.count > most as u64 {
                return Err(too_many(&request.statement, found.count));
            }
            if found.operations.is_empty() {
                return self.change_nothing(&request).await;
            }
            let own = request.own_boundary(found.seq);
            let rows = match own {
                Some(_) => Vec::new(),
                None => unchanged(&found),
            };
            let conditions = request.conditions(rows)?.with_own(own.clone())?;
            let draft = Draft::new(found.operations, conditions)?;
            let outcome = self.pipeline.commit_rows(draft, request.context.clone()).await;
            drop(found.held);
            match outcome {
                Err(error) if is_own_violation(&error, own.as_ref()) => {}
                outcome => {
                    let receipt = outcome?;
                    if receipt.replayed {
                        return Ok(BulkOutcome::replayed(receipt));
                    }
                    let result =
                        v1::BulkResult { rows: found.count, commits: 1, ..v1::BulkResult::default() };
                    return Ok(BulkOutcome { result, receipt: Some(receipt) });
                }
            }
        }
        Err(keeps_changing(&request.statement))
    }

    /// The outcome of a statement that finds no row: what it requires must hold all the same.
    async fn change_nothing(&self, request: &BulkRequest) -> Result<BulkOutcome> {
        let conditions = request.conditions(Vec::new())?;
        let receipt = self.pipeline.confirm(conditions, request.context.request.as_ref()).await?;
        Ok(if receipt.replayed { BulkOutcome::replayed(receipt) } else { BulkOutcome::default() })
    }

    /// Runs a statement in batches, each one a commit, in the order of keys. `progress` is told the number of rows changed so far.
    pub(crate) async fn run_in_batches(
        &self,
        request: BulkRequest,
        batch: u64,
        progress: impl Fn(u64),
    ) -> Result<BulkOutcome> {
        let mut outcome = BulkOutcome::default();
        let ended = self.batches(&request, batch, &mut outcome, progress).await;
        let BulkOutcome { result: v1::BulkResult { rows, commits, .. }, .. } = &outcome;
        match ended {
            Err(error) if *commits > 0 => Err(error.context(format_args!(
                "stopped after {rows} rows in {commits} commits; run the statement again to change the rest"
            ))),
            ended => ended.map(|()| outcome),
        }
    }

    async fn batches(
        &self,
        request: &BulkRequest,
        batch: u64,
        outcome: &mut BulkOutcome,
        progress: impl Fn(u64),
    ) -> Result<()> {
        let most = usize::try_from(batch).unwrap_or(limits::OPERATIONS_PER_COMMIT);
        let options = CommitOptions { request_id: String::new(), ..request.context.options.clone() };
        let context = CommitContext { options, request: None, origin: None };
        let mut moment = RevertMoment::of(now_ms());
        let (mut rows, mut after, mut tries) = (None::<BulkRows>, None::<Key>, 0);
        while tries < limits::BULK_TRIES {
            let (statement, start, kept) = (Arc::clone(&request.statement), after.clone(), rows.take());
            let open = move |reader: &TableReader, stop: &TaskStop| match kept {
                Some(rows) => Ok(rows),
                None => BulkRows::open(reader, statement, moment, start, stop),
            };
            let (kept, found) = match self.find(open, most, false).await {
                // The files were replaced by newer ones.
                Err(error) if error.reason() == Reason::FileGone => {
                    tries += 1;
                    continue;
                }
                found => found?,
            };
            moment = kept.moment();
            // The stream of the answer ends, too, but only while its client reads it.
            check_lease(&request.lease)?;
            if found.operations.is_empty() {
                // What was committed is acknowledged already.
                if outcome.result.commits == 0 {
                    self.pipeline.confirm(DraftConditions::default(), None).await?;
                }
                return Ok(());
            }
            let (count, last) = (found.operations.len() as u64, found.last.clone());
            let conditions = DraftConditions::new(unchanged(&found), Vec::new())?;
            let draft = Draft::new(found.operations, conditions)?;
            let committed = self.pipeline.commit_rows(draft, context.clone()).await;
            drop(found.held);
            match committed {
                Err(error) if is_own_violation(&error, None) => tries += 1,
                committed => {
                    outcome.receipt = Some(committed?);
                    outcome.result.rows += count;
                    outcome.result.commits += 1;
                    progress(outcome.result.rows);
                    (rows, after, tries) = (Some(kept), last, 0);
                }
            }
        }
        Err(keeps_changing(&request.statement))
    }

    /// Finds what a statement would change.
    async fn dry_run(&self, request: BulkRequest) -> Result<BulkOutcome> {
        let moment = RevertMoment::of(now_ms());
        for _ in 0..limits::BULK_TRIES {
            let (reader, statement) = (self.reader.clone(), Arc::clone(&request.statement));
            let sample = move |stop: &TaskStop| {
                sample_rows(BulkRows::open(&reader, statement, moment, None, stop)?, stop)
            };
            match self.run_long(sample).await {
                // The files were replaced by newer ones.
                Err(error) if error.reason() == Reason::FileGone => {}
                result => {
                    check_lease(&request.lease)?;
                    return Ok(BulkOutcome { result: result?, receipt: None });
                }
            }
        }
        Err(keeps_changing(&request.statement))
    }

    /// Finds the next rows, up to `most`. With `count_all`, those beyond it are counted.
    async fn find(
        &self,
        open: impl FnOnce(&TableReader, &TaskStop) -> Result<BulkRows> + Send + 'static,
        most: usize,
        count_all: bool,
    ) -> Result<(BulkRows, FoundOperations)> {
        let (reader, memory) = (self.reader.clone(), Arc::clone(&self.memory));
        let find = move |stop: &TaskStop| {
            let mut rows = open(&reader, stop)?;
            let mut found = FoundOperations { seq: rows.seq(), ..FoundOperations::default() };
            let mut held = memory.reserve(MemoryUse::Queries, 0)?;
            while (count_all || found.operations.len() < most)
                && let Some(row) = rows.next_row(stop)?
            {
                found.count += 1;
                if found.operations.len() < most {
                    held.grow(row.bytes() as u64)?;
                    found.last = Some(row.key.clone());
                    let (table, key) = (rows.table_name().to_owned(), Some(KeyInput::Typed(row.key)));
                    found.operations.push(Operation { table, key, action: row.action });
                }
            }
            found.held = Some(held);
            Ok((rows, found))
        };
        self.run_long(find).await
    }

    /// Runs work that takes its memory from the budget, and ends at any of its steps.
    async fn run_long<T: Send + 'static>(
        &self,
        run: impl FnOnce(&TaskStop) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let memory = Some(Arc::clone(&self.memory));
        // Newer files are found only if the table is opened again.
        let patience = Some(Duration::ZERO);
        self.tasks.run_long_steps(WorkOptions { memory, patience, ..WorkOptions::default() }, run).await
    }
}

/// Counts the rows that a statement would change, and shows the first ones, as far as they fit into one message.
fn sample_rows(mut rows: BulkRows, stop: &TaskStop) -> Result<v1::BulkResult> {
    let (mut count, mut sample, mut room) = (0, Vec::new(), limits::GET_BYTES);
    while let Some(row) = rows.next_row(stop)? {
        count += 1;
        if sample.len() < SAMPLE && room > 0 {
            let change = change_to_wire(rows.table_name(), row)?;
            match room.checked_sub(change.encoded_len()) {
                Some(left) => {
                    sample.push(change);
                    room = left;
                }
                // The sample ends here: it must not leave out a row in the middle.
                None => room = 0,
            }
        }
    }
    let read_seq = rows.seq();
    Ok(v1::BulkResult { rows: count, dry_run: true, sample, read_seq, ..v1::BulkResult::default() })
}

impl BulkOutcome {
    /// What an earlier attempt of the request has done.
    fn replayed(receipt: CommitReceipt) -> BulkOutcome {
        let result = v1::BulkResult { commits: 1, replayed: true, ..v1::BulkResult::default() };
        BulkOutcome { result, receipt: Some(receipt) }
    }

    /// The responses of a statement that has ended.
    pub(crate) fn responses(
        self,
        token: impl FnOnce(CommitReceipt) -> v1::WriteToken,
    ) -> Vec<v1::WriterServiceExecuteResponse> {
        let events =
            [Some(Event::Bulk(self.result)), self.receipt.map(|receipt| Event::Token(token(receipt)))];
        let response = |event| v1::WriterServiceExecuteResponse { event: Some(event), made_keys: Vec::new() };
        events.into_iter().flatten().map(response).collect()
    }
}

/// Requires that no row has changed since it was found.
fn unchanged(found: &FoundOperations) -> Vec<Precondition> {
    let check = Check::UnchangedSince(found.seq);
    let condition = |operation: &Operation| {
        Some(Precondition { table: operation.table.clone(), key: operation.key.clone()?, check })
    };
    found.operations.iter().filter_map(condition).collect()
}

/// Whether a commit was refused only because what the statement had found has changed.
fn is_own_violation(error: &Error, own: Option<&Boundary>) -> bool {
    if error.reason() == Reason::BoundaryTooOld {
        return own.is_some_and(|own| boundaries::is_too_old(error, own));
    }
    let is_own = |violation: &Violation| match own {
        Some(own) => {
            violation.subject == boundaries::subject(own)
                && violation.description.starts_with(&boundaries::expectation(own))
        }
        None => violation.check == "unchanged_since",
    };
    error.reason() == Reason::PreconditionFailed
        && !error.violations().is_empty()
        && error.violations().iter().all(is_own)
}

fn verb(statement: &BulkStatement) -> &'static str {
    match statement.action {
        BulkAction::Patch(_) => "patch",
        BulkAction::SoftDelete => "delete",
        BulkAction::Revert(_) => "revert",
    }
}

fn too_many(statement: &BulkStatement, count: u64) -> Error {
    let message = format!(
        "cannot {} {count} rows of table {:?} in one commit: the limit is {}; add IN BATCHES OF n to make several commits",
        verb(statement),
        statement.table.text,
        limits::OPERATIONS_PER_COMMIT
    );
    Error::new(Reason::TooLarge, message).with("rows", count.to_string())
}

fn keeps_changing(statement: &BulkStatement) -> Error {
    let message = format!(
        "cannot {} the rows of table {:?}: others changed them {} times while they were found; retry later, or add IN BATCHES OF n",
        verb(statement),
        statement.table.text,
        limits::BULK_TRIES
    );
    Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER)
}

fn change_to_wire(table: &str, row: BulkRow) -> Result<v1::Change> {
    let json = |document: &Document| convert::document_to_wire(document, v1::DocumentFormat::Json);
    let (kind, payload) = match &row.action {
        Action::Patch(patch) => (v1::ChangeKind::Patch, Some(patch)),
        Action::Put(document) | Action::Insert(document) | Action::Restore(Some(document)) => {
            (v1::ChangeKind::Insert, Some(document))
        }
        Action::SoftDelete | Action::Revert(_) | Action::Restore(None) => (v1::ChangeKind::SoftDelete, None),
    };
    Ok(v1::Change {
        table: table.to_owned(),
        key: row.key.to_string(),
        kind: kind.into(),
        replaced: kind == v1::ChangeKind::Insert && row.before.is_some(),
        reverted: matches!(row.action, Action::Restore(_)),
        payload: payload.map(json).transpose()?,
        before: row.before.as_ref().map(json).transpose()?,
        after: row.after.as_ref().map(json).transpose()?,
    })
}
