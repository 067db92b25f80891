//! Starts the committer and hands out the roles over its state.

use std::collections::HashMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use driftdb_common::error::{Error, Result};
use driftdb_common::storage::wal::appender::Log;
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use crate::admission::Admission;
use crate::admission::table::AdmittedTable;
use crate::clock_guard::ClockGuard;
use crate::commit::catalog::TableCatalog;
use crate::commit::committer;
use crate::commit::gathering::Gathering;
use crate::commit::ingest_pipeline::IngestPipeline;
use crate::commit::log_access::LogAccess;
use crate::commit::pipeline::CommitPipeline;
use crate::commit::state::{CommitShared, CommitState, LogTail, OpenGroup};
use crate::commit::status::CommitStatus;
use crate::commit::table_updates::TableUpdates;
use crate::tasks::TaskPool;

/// The roles over one commit state.
#[derive(Debug, Clone)]
pub(crate) struct CommitHandles {
    pub(crate) pipeline: CommitPipeline,
    pub(crate) ingest: IngestPipeline,
    pub(crate) catalog: TableCatalog,
    pub(crate) updates: TableUpdates,
    pub(crate) log: LogAccess,
    pub(crate) status: CommitStatus,
}

/// Starts the committer's thread. The committer sends a message to `growth` when a snapshot may be due. Writes are refused while
/// the log after the newest snapshots has more than `tail_limit` bytes.
pub(crate) fn start(
    log: Log,
    admission: Admission,
    growth: mpsc::Sender<()>,
    (tail_limit, tasks): (u64, TaskPool),
    clock: Arc<ClockGuard>,
) -> Result<(CommitHandles, JoinHandle<Result<()>>)> {
    let space = Arc::clone(log.space());
    let (state, work_ready) = (Mutex::new(initial_state(log, admission)), Condvar::new());
    let shared = Arc::new(CommitShared { state, work_ready, growth, tail_limit, clock, space, tasks });
    let handles = CommitHandles {
        pipeline: CommitPipeline::new(&shared),
        ingest: IngestPipeline::new(&shared),
        catalog: TableCatalog::new(&shared),
        updates: TableUpdates::new(&shared),
        log: LogAccess::new(&shared),
        status: CommitStatus::new(&shared),
    };
    let thread = std::thread::Builder::new()
        .name("driftdb-commit".to_owned())
        .spawn(move || committer::run(&shared))
        .map_err(|e| Error::io("cannot start the committer's thread", &e))?;
    Ok((handles, thread))
}

fn initial_state(log: Log, mut admission: Admission) -> CommitState {
    admission.tables.recount_row_bytes();
    let storage = admission.tables.iter().map(|table| (table.id(), log.table_storage(table.id()))).collect();
    let tail = |table: &AdmittedTable| {
        let events = table.counts().events.saturating_sub(table.layers().counts().events);
        let since = (events > 0).then(Instant::now);
        LogTail { events, bytes: log.bytes_since_snapshot(table.id()), row_bytes: 0, since }
    };
    let tails: HashMap<u64, LogTail> =
        admission.tables.iter().map(|table| (table.id(), tail(table))).collect();
    CommitState {
        durable: admission.last(),
        fenced: log.fence().is_on(),
        gate: Arc::clone(log.gate()),
        admission,
        open: OpenGroup::default(),
        log: Some(Box::new(log)),
        gathering: Gathering::default(),
        fatal: None,
        log_tasks: Vec::new(),
        tail_bytes: tails.values().map(|tail| tail.bytes).sum(),
        tails,
        snapshot_failure: None,
        writing: false,
        storage,
        closing: false,
        rollbacks: 0,
        refusal: None,
        stopped: None,
    }
}
