//! The state that request tasks and the committer share under one lock: admitted commits, and what waits for
//! the committer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::limits;
use driftdb_common::metrics;
use driftdb_common::storage::disk_space::DiskSpace;
use driftdb_common::storage::wal::appender::{AppendError, Group, Log, TableStorage};
use driftdb_common::storage::wal::publish_gate::PublishGate;
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::operation::WriteToken;
use parking_lot::{Condvar, Mutex};
use tokio::sync::mpsc;

use crate::admission::{Admission, CommitReceipt};
use crate::clock_guard::ClockGuard;
use crate::commit::acks::{CommitAck, PendingAck};
use crate::commit::gathering::Gathering;
use crate::config::SnapshotTriggers;
use crate::errors::shutting_down;
use crate::tasks::TaskPool;

/// How long a client waits before it retries when the queue is full.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// What request tasks, background jobs and the committer share.
pub(super) struct CommitShared {
    pub(super) state: Mutex<CommitState>,
    /// Notified when the open group, the log tasks or `closing` changed.
    pub(super) work_ready: Condvar,
    /// Receives a message after a group that may make a snapshot or an index due.
    pub(super) growth: mpsc::Sender<()>,
    /// The bytes of log after the newest snapshots, of all tables together, above which writes are refused
    /// until a snapshot covers some of them. Bounds the memory that rows not covered by a snapshot take.
    pub(super) tail_limit: u64,
    pub(super) clock: Arc<ClockGuard>,
    /// The room on the disk, as the log finds it.
    pub(super) space: Arc<DiskSpace>,
    /// Reads rows and computes what admission needs, outside of the lock.
    pub(super) tasks: TaskPool,
}

impl fmt::Debug for CommitShared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitShared").finish_non_exhaustive()
    }
}

/// The group that is filling: admitted commits that are not written yet.
#[derive(Debug, Default)]
pub(super) struct OpenGroup {
    pub(super) group: Group,
    pub(super) acks: Vec<CommitAck>,
}

/// Work on the log that the committer does between two groups.
pub(super) type LogTask = Box<dyn FnOnce(&mut Log) -> Result<(), AppendError> + Send>;

/// The part of a table's log after its newest snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct LogTail {
    /// The number of events.
    pub(crate) events: u64,
    /// The bytes of frames.
    pub(crate) bytes: u64,
    /// The bytes of the rows in memory that it changed, once the writer looks at them. Patches can make these more than the log.
    pub(crate) row_bytes: u64,
    /// Since when there is any, counted from the newest snapshot, or from the writer's start.
    pub(crate) since: Option<Instant>,
}

impl LogTail {
    /// Whether the table has reached a trigger of its own for a snapshot.
    pub(crate) fn is_due(&self, triggers: &SnapshotTriggers) -> bool {
        self.events >= triggers.events || self.bytes >= triggers.bytes
    }
}

/// The commit state.
pub(super) struct CommitState {
    pub(super) admission: Admission,
    pub(super) open: OpenGroup,
    /// The log, while nobody writes to it.
    pub(super) log: Option<Box<Log>>,
    /// What groups must pass before they are acknowledged.
    pub(super) gate: Arc<dyn PublishGate>,
    pub(super) gathering: Gathering,
    /// Why the committer ends: what a group met.
    pub(super) fatal: Option<Error>,
    pub(super) log_tasks: Vec<LogTask>,
    /// By table id.
    pub(super) tails: HashMap<u64, LogTail>,
    /// The bytes of all tails together.
    pub(super) tail_bytes: u64,
    /// Why snapshots fail, and the tails grow.
    pub(super) snapshot_failure: Option<String>,
    /// Whether the committer is writing a group. What is admitted meanwhile depends on commits that are not
    /// durable yet.
    pub(super) writing: bool,
    /// The last durable commit.
    pub(super) durable: WriteToken,
    /// Whether fencing is on. If so, every answer waits until the committer has checked that no other writer
    /// has taken over.
    pub(super) fenced: bool,
    /// By table id.
    pub(super) storage: HashMap<u64, TableStorage>,
    pub(super) closing: bool,
    /// How often admitted commits were taken back. A stream that saw one of them admitted must end.
    pub(super) rollbacks: u64,
    /// Why they were taken back the last time.
    pub(super) refusal: Option<Error>,
    /// Why the writer takes no more writes.
    pub(super) stopped: Option<Error>,
}

impl CommitState {
    /// Fails if the writer takes no more writes.
    pub(super) fn check_accepting(&self) -> Result<()> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        if self.closing {
            return Err(shutting_down());
        }
        Ok(())
    }

    /// Fails if the queue is full, if the tails are over `tail_limit`, or if groups wait for too long before they are acknowledged.
    pub(super) fn check_room(&self, tail_limit: u64) -> Result<()> {
        self.gate.check_open()?;
        let Some((limit, message)) = self.lack_of_room(tail_limit) else { return Ok(()) };
        metrics::count_refused(limit);
        Err(Error::new(Reason::Overloaded, message).retry_after(RETRY_AFTER))
    }

    /// Until when the open group stays open. A group that is taken before it can pass the gate would make all requests wait twice that
    /// come meanwhile: for the gate, and for the group after it.
    pub(super) fn waits_for_gate(&self) -> Option<Instant> {
        let has_commits = self.open.group.last_seq > 0;
        if has_commits && self.log_tasks.is_empty() && !self.closing { self.gate.opens_at() } else { None }
    }

    /// Whether [`CommitState::check_room`] would pass.
    pub(super) fn has_room(&self, tail_limit: u64) -> bool {
        self.lack_of_room(tail_limit).is_none()
    }

    /// The limit that is reached, as the metrics call it, and what to say of it.
    fn lack_of_room(&self, tail_limit: u64) -> Option<(&'static str, String)> {
        let requests = self.open.acks.len();
        let bytes = self.open_group_bytes();
        let cause =
            || self.snapshot_failure.as_ref().map(|cause| format!(", and {cause}")).unwrap_or_default();
        Some(if requests >= limits::QUEUE_REQUESTS {
            let limit = limits::QUEUE_REQUESTS;
            ("queue", format!("too many writes wait for the disk: the limit is {limit}; retry later"))
        } else if bytes >= limits::QUEUE_BYTES {
            let limit = limits::QUEUE_BYTES;
            ("queue", format!("{bytes} bytes of writes wait for the disk: the limit is {limit}; retry later"))
        } else if self.admission.tables.row_bytes() > tail_limit {
            let (bytes, cause) = (self.admission.tables.row_bytes(), cause());
            let message = format!(
                "{bytes} bytes of changed rows wait for a snapshot: the limit is {tail_limit}{cause}; retry later, or raise the writer's --memory"
            );
            ("memtable", message)
        } else if self.tail_bytes > tail_limit {
            let (bytes, cause) = (self.tail_bytes, cause());
            let message = format!(
                "{bytes} bytes of log wait for a snapshot: the limit is {tail_limit}{cause}; retry later, or raise the writer's --memory"
            );
            ("memtable", message)
        } else {
            return None;
        })
    }

    /// Why a stream that saw an admitted commit taken back must end.
    pub(super) fn stream_refusal(&self) -> Error {
        let cause = self.refusal.as_ref();
        let why = cause.map_or("the disk is full", |cause| cause.message());
        let message = format!(
            "cannot continue this stream: earlier batches were not written: {why}; connect again and send the batches after the last acknowledged one"
        );
        Error::new(cause.map_or(Reason::DiskFull, Error::reason), message)
    }

    /// The bytes of log that wait to be written.
    pub(super) fn open_group_bytes(&self) -> usize {
        self.open.group.tables.values().map(|table| table.frames.bytes().len()).sum()
    }

    /// Answers at once if the outcome depends on durable commits only. Otherwise the answer waits for the
    /// open group.
    pub(super) fn acknowledge(&mut self, outcome: Result<CommitReceipt>) -> PendingAck {
        let is_all_durable = !self.writing && self.open.acks.is_empty() && self.open.group.tables.is_empty();
        let is_durable = match &outcome {
            Ok(receipt) => receipt.token.seq <= self.durable.seq,
            Err(_) => is_all_durable,
        };
        if is_durable && !self.fenced {
            return PendingAck::Ready(Box::new(outcome));
        }
        let (ack, pending) = CommitAck::pending(outcome);
        self.open.acks.push(ack);
        pending
    }

    /// Whether the committer sleeps although there is work for it. Whoever holds the log looks at the work when it is done.
    pub(super) fn must_wake_committer(&self) -> bool {
        self.fatal.is_some() || self.log.is_some() && (self.has_work() || self.closing) && !self.gathers()
    }

    /// Whether anything waits to be done with the log.
    pub(super) fn has_work(&self) -> bool {
        !(self.open.acks.is_empty() && self.log_tasks.is_empty())
    }

    /// Whether the committer waits for more requests: then it wakes when its time is over, if not before.
    pub(super) fn gathers(&self) -> bool {
        let may_wait = self.log_tasks.is_empty() && !self.closing && self.fatal.is_none();
        may_wait && self.gathering.waits_for(self.open.acks.len(), || self.open_group_bytes())
    }

    /// The snapshot files that admission reads of a table, or `None` if no table has the id.
    pub(super) fn layers(&self, id: u64) -> Option<Arc<LayerMap>> {
        self.admission.tables.by_id(id).map(|table| Arc::clone(table.layers()))
    }
}
