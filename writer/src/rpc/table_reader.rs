//! One table in its newest published state, as a reader has it: for statements of the writer that find rows.
//!
//! The writer keeps no versions of rows and no indexes in memory. So the table's snapshots are opened, and the log after them is
//! read into a memtable: then the code that answers queries finds the rows, with the table's indexes.

use std::sync::Arc;

use driftdb_common::error::{Error, Result};
use driftdb_common::format::event::{Event, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::limits;
use driftdb_common::memory::{MemoryBudget, MemoryPermit, MemoryUse};
use driftdb_common::storage::wal::cursor::{CursorItem, DecodedFrame};
use driftdb_common::table::history::{History, HistoryQuery};
use driftdb_common::table::layers::LayerMap;
use driftdb_common::table::log_tail::log_after;
use driftdb_common::table::memtable::CommitInfo;
use driftdb_common::table::point_in_time::{CommitBound, PointInTime, below_floor};
use driftdb_common::table::table_files::TableFiles;
use driftdb_common::table::timeline::Timeline;
use driftdb_common::table::view::View;

use crate::commit::{LogAccess, TableCatalog};
use crate::tasks::TaskStop;

/// The events, or the bytes of them, after which a replay checks whether it must end, and reserves memory for what it has read.
const EVENTS_PER_CHECK: u64 = 1024;
const BYTES_PER_CHECK: u64 = 4 << 20;

/// Opens tables.
#[derive(Debug, Clone)]
pub(crate) struct TableReader {
    files: TableFiles,
    catalog: TableCatalog,
    log: LogAccess,
    memory: Arc<MemoryBudget>,
}

/// A table up to a published commit.
#[derive(Debug)]
pub(crate) struct OpenTable {
    timeline: Arc<Timeline>,
    /// The newest published commit.
    seq: u64,
    /// For the memtable.
    _memory: MemoryPermit,
}

/// A commit of the log, while its frames are read.
#[derive(Debug)]
struct TailCommit {
    info: Arc<CommitInfo>,
    events: Vec<Event>,
}

impl TableReader {
    /// Opens tables through `files`.
    pub(crate) fn new(
        files: TableFiles,
        catalog: TableCatalog,
        log: LogAccess,
        memory: Arc<MemoryBudget>,
    ) -> TableReader {
        TableReader { files, catalog, log, memory }
    }

    /// Opens a table at the newest published commit. Its cost grows with the log after the table's newest snapshot. Blocks.
    pub(crate) fn open(&self, table: &str, stop: &TaskStop) -> Result<OpenTable> {
        let id = self.catalog.table_id(table)?;
        let (manifest, limit, layers) = self.log.manifest_and_layers(id)?;
        let timeline = Timeline::open(id, table, LayerMap::clone(&layers))?;
        let mut memory = self.memory.reserve(MemoryUse::Queries, 0)?;
        let mut cursor = log_after(&self.files, &manifest, limit);
        let mut commit = None::<TailCommit>;
        // Since the last check, and in the commit that is not applied yet.
        let (mut events, mut bytes, mut pending) = (0, 0, 0);
        loop {
            let frame = match cursor.next_frame()? {
                CursorItem::Frame(frame) if frame.seq <= limit.seq => frame,
                CursorItem::Frame(_) | CursorItem::End => break,
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            };
            if matches!(frame.event.kind, EventType::Floor | EventType::Keep) {
                continue;
            }
            let DecodedFrame { seq, time_ms, event, .. } = frame;
            let event_bytes = event.document.as_ref().map_or(0, |document| document.msgpack().len() as u64);
            (events, bytes) = (events + 1, bytes + event_bytes);
            if events >= EVENTS_PER_CHECK || bytes >= BYTES_PER_CHECK {
                stop.check()?;
                reserve(&mut memory, &timeline, pending + event_bytes)?;
                (events, bytes) = (0, 0);
            }
            match &mut commit {
                Some(commit) if commit.info.seq == seq => {
                    commit.events.push(event);
                    pending += event_bytes;
                }
                _ => {
                    let info = Arc::new(CommitInfo { seq, time_ms, meta: None });
                    if let Some(whole) = commit.replace(TailCommit { info, events: vec![event] }) {
                        timeline.apply(&whole.info, whole.events)?;
                    }
                    pending = event_bytes;
                }
            }
        }
        if let Some(whole) = commit {
            timeline.apply(&whole.info, whole.events)?;
        }
        reserve(&mut memory, &timeline, 0)?;
        Ok(OpenTable { timeline: Arc::new(timeline), seq: limit.seq, _memory: memory })
    }
}

/// Reserves memory for what the memtable holds by now, and for as many bytes of a commit that it will get.
fn reserve(memory: &mut MemoryPermit, timeline: &Timeline, pending: u64) -> Result<()> {
    let more = (timeline.state().memtable.bytes() + pending).saturating_sub(memory.bytes());
    memory.grow(more).map_err(|e| {
        let name = timeline.name();
        e.context(format_args!("cannot read the log of table {name:?}; take a snapshot of it, and retry"))
    })
}

impl OpenTable {
    /// The newest published commit.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// The keys of the rows that a commit changed, in the order of its operations on this table; `None` for a change of the schema.
    /// None at all if the commit is not in the history any more.
    pub(crate) fn keys_of_commit(&self, seq: u64, stop: &TaskStop) -> Result<Vec<Option<Key>>> {
        let query = HistoryQuery { after: seq.saturating_sub(1), last: seq, ..HistoryQuery::default() };
        let mut history = History::new(&self.timeline, query);
        let mut keys = Vec::new();
        loop {
            stop.check()?;
            let events = history.next_batch(limits::OPERATIONS_PER_COMMIT)?;
            if events.is_empty() {
                return Ok(keys);
            }
            keys.extend(events.into_iter().map(|event| event.key));
        }
    }

    /// The table at the newest published commit.
    pub(crate) fn now(&self) -> Result<View> {
        View::at(&self.timeline, self.seq)
    }

    /// The table at an earlier point in time.
    pub(crate) fn at(&self, point: PointInTime, now_ms: u64) -> Result<View> {
        let bound = point.bound(self.seq, now_ms)?;
        let floor = self.timeline.state().layers.floor();
        if let Some(floor) = floor.filter(|floor| !bound.includes(floor.seq, floor.time_ms)) {
            return Err(below_floor(&self.timeline.name(), bound, floor));
        }
        let seq = match bound {
            CommitBound::Seq(seq) => seq,
            // The table's last commit then; what others did later does not change it.
            CommitBound::Time(ms) => self.timeline.last_at(ms)?.max(floor.map_or(0, |floor| floor.seq)),
        };
        View::at(&self.timeline, seq)
    }
}
