//! Finds commits by time and times by commit, in a table's snapshots and in the log after them.

use std::sync::Arc;
use std::time::Duration;

use driftdb_common::error::{Error, Result};
use driftdb_common::format::event::EventType;
use driftdb_common::storage::wal::cursor::CursorItem;
use driftdb_common::table::log_tail::log_after;
use driftdb_common::table::point_in_time::CommitBound;

use crate::maintenance::context::MaintenanceContext;

/// The pause before [`CommitLookup::time_of`] looks a second time.
const LOOKUP_PAUSE: Duration = Duration::from_millis(20);

/// Finds commits.
#[derive(Debug)]
pub(super) struct CommitLookup {
    context: Arc<MaintenanceContext>,
}

/// What a scan of a table's log after its newest snapshot has passed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScannedTail {
    /// The number of events.
    pub(super) events: u64,
    /// The bytes of frames.
    pub(super) bytes: u64,
    /// The last commit and its time in milliseconds since 1970.
    pub(super) last: Option<(u64, u64)>,
}

impl CommitLookup {
    pub(super) fn new(context: Arc<MaintenanceContext>) -> CommitLookup {
        CommitLookup { context }
    }

    /// Scans a table's log after its newest snapshot while `counts` returns true for a commit and its time.
    pub(super) fn scan_tail(&self, id: u64, counts: impl Fn(u64, u64) -> bool) -> Result<ScannedTail> {
        let (manifest, limit) = self.context.commits.log.manifest(id)?;
        let mut cursor = log_after(&self.context.files, &manifest, limit);
        let (mut scanned, mut start) = (ScannedTail::default(), cursor.position().offset);
        loop {
            match cursor.next_frame()? {
                CursorItem::Frame(frame) if counts(frame.seq, frame.time_ms) => {
                    let end = cursor.position().offset;
                    // In a new segment the offset starts at 0.
                    scanned.bytes += if end > start { end - start } else { end };
                    scanned.events += u64::from(frame.event.kind != EventType::Note);
                    scanned.last = Some((frame.seq, frame.time_ms));
                    start = end;
                }
                CursorItem::Frame(_) | CursorItem::End => return Ok(scanned),
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
    }

    /// The last of a table's commits at or before a time, or `None` if all are later.
    pub(super) fn last_commit_at(&self, id: u64, time_ms: u64) -> Result<Option<u64>> {
        let layers = self.context.commits.catalog.layers(id)?;
        if !layers.covers(CommitBound::Time(time_ms)) {
            let tail = self.scan_tail(id, |_, at| at <= time_ms)?;
            if let Some((seq, _)) = tail.last {
                return Ok(Some(seq));
            }
        }
        layers.last_at(time_ms)
    }

    /// The last commit of any table at or before a time, of those up to `newest`, or `None` if all are later. A
    /// reader resolves a time to the same commit (I2).
    pub(super) fn last_commit_of_any_table_at(&self, time_ms: u64, newest: u64) -> Result<Option<u64>> {
        let mut last = None;
        for id in self.context.commits.catalog.tables().into_iter().map(|table| table.id) {
            let found = match self.last_commit_at(id, time_ms)? {
                Some(seq) => Some(seq),
                None => self.context.commits.catalog.layers(id)?.last_schema_at(time_ms),
            };
            last = last.max(found);
        }
        Ok(last.map(|seq| seq.min(newest)))
    }

    /// The floor of a compaction that names none: the end of the table's newest snapshot, or its newest commit if no snapshot
    /// exists.
    pub(super) fn default_floor(&self, id: u64) -> Result<Option<u64>> {
        let end = self.context.commits.catalog.layers(id)?.end();
        if end > 0 { Ok(Some(end)) } else { Ok(self.scan_tail(id, |_, _| true)?.last.map(|(seq, _)| seq)) }
    }

    /// The time of a commit, or `None` if no table's files have it any more.
    pub(super) fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        let commits = &self.context.commits;
        let published = commits.log.published()?;
        if published.0 == seq {
            return Ok(Some(published.1));
        }
        let ids: Vec<u64> = commits.catalog.tables().into_iter().map(|table| table.id).collect();
        // A snapshot that is taken between the two reads moves a commit from the log into the files, where
        // the first read did not find it. So look twice.
        for pause in [Some(LOOKUP_PAUSE), None] {
            for id in &ids {
                if let Some(time) = commits.catalog.layers(*id)?.time_of(seq)? {
                    return Ok(Some(time));
                }
            }
            for id in ids.iter().filter(|id| **id <= seq) {
                let last = self.scan_tail(*id, |at, _| at <= seq)?.last;
                if let Some((_, time)) = last.filter(|(at, _)| *at == seq) {
                    return Ok(Some(time));
                }
            }
            pause.into_iter().for_each(std::thread::sleep);
        }
        Ok(None)
    }
}
