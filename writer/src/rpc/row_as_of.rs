//! A row as of an earlier point in time, for REVERT: read from the table's snapshots and the log after them.

use std::ops::ControlFlow;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::wal::cursor::{CursorItem, DecodedFrame};
use driftdb_common::table::event_id::EventId;
use driftdb_common::table::log_tail::{ReadLimit, log_after};
use driftdb_common::table::point_in_time::{CommitBound, PointInTime, below_floor};
use driftdb_common::table::schema::{SchemaAction, SchemaEvent};
use driftdb_common::table::state;
use driftdb_common::table::table_files::TableFiles;

use crate::commit::{LogAccess, TableCatalog};
use crate::tasks::TaskStop;

/// The frames after which a replay checks whether it must end.
const FRAMES_PER_CHECK: u64 = 256;

/// Reads rows as of earlier points in time. Only published commits count.
#[derive(Debug, Clone)]
pub(crate) struct RowAsOfReader {
    files: TableFiles,
    catalog: TableCatalog,
    log: LogAccess,
}

/// The row and its table after the frames replayed so far.
#[derive(Debug, Default)]
struct ReplayedRow {
    table_exists: bool,
    row: Option<Document>,
}

impl RowAsOfReader {
    /// Reads a database's snapshots through `files`.
    pub(crate) fn new(files: TableFiles, catalog: TableCatalog, log: LogAccess) -> RowAsOfReader {
        RowAsOfReader { files, catalog, log }
    }

    /// The row as of a point in time, or `None` if it did not exist. Fails if the table did not exist. The cost
    /// grows with the log after the table's newest snapshot. Blocks.
    pub(crate) fn row(
        &self,
        table: &str,
        key: &Key,
        point: PointInTime,
        (now_ms, stop): (u64, &TaskStop),
    ) -> Result<Option<Document>> {
        if point == PointInTime::Now {
            let message = "REVERT needs an earlier point in time: a seq, a time or an age";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let id = self.catalog.table_id(table)?;
        let (manifest, limit, layers) = self.log.manifest_and_layers(id)?;
        let until = point.bound(limit.seq, now_ms)?;
        let in_files = match until {
            _ if !layers.covers(until) => None,
            CommitBound::Seq(seq) => Some(seq),
            CommitBound::Time(ms) => Some(layers.last_at(ms)?.unwrap_or(0)),
        };
        if let Some(floor) = layers.floor().filter(|floor| !until.includes(floor.seq, floor.time_ms)) {
            return Err(below_floor(table, until, floor));
        }
        let at = in_files.unwrap_or(layers.end());
        let created = layers.created_at(at)?;
        let row = layers.row(key, EventId::end_of(at))?;
        let row = row.filter(|row| created.is_some_and(|created| row.seq >= created));
        let mut replayed =
            ReplayedRow { table_exists: created.is_some(), row: row.and_then(|row| row.document) };
        if in_files.is_none() {
            self.replay_log(&manifest, limit, stop, &mut |frame| replayed.apply(frame, key, until))?;
        }
        if replayed.table_exists {
            return Ok(replayed.row);
        }
        let created = matches!(until, CommitBound::Seq(seq) if seq < id);
        let since = if created { format!(": it was created by commit {id}") } else { String::new() };
        let message = format!("table {table:?} does not exist at {until}{since}");
        Err(Error::new(Reason::TableNotFound, message).with("table", table))
    }

    /// Calls `apply` for a table's published frames after its newest snapshot, in order, until it breaks.
    fn replay_log(
        &self,
        manifest: &Manifest,
        limit: ReadLimit,
        stop: &TaskStop,
        apply: &mut dyn FnMut(DecodedFrame) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut cursor = log_after(&self.files, manifest, limit);
        for frames in 0u64.. {
            if frames.is_multiple_of(FRAMES_PER_CHECK) {
                stop.check()?;
            }
            match cursor.next_frame()? {
                CursorItem::Frame(frame) => {
                    if apply(frame)?.is_break() {
                        return Ok(());
                    }
                }
                CursorItem::End => return Ok(()),
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
        Ok(())
    }
}

impl ReplayedRow {
    /// Applies a frame. Breaks at the first one after `until`.
    fn apply(&mut self, frame: DecodedFrame, key: &Key, until: CommitBound) -> Result<ControlFlow<()>> {
        if !until.includes(frame.seq, frame.time_ms) {
            return Ok(ControlFlow::Break(()));
        }
        match (frame.event.kind, &frame.event.document) {
            (EventType::Schema, Some(payload)) => match SchemaEvent::from_document(payload)?.action {
                SchemaAction::Create => *self = ReplayedRow { table_exists: true, row: None },
                SchemaAction::Drop => *self = ReplayedRow { table_exists: false, row: None },
                SchemaAction::Alter | SchemaAction::Rename => {}
            },
            (kind, payload) if frame.event.key.as_ref() == Some(key) => {
                self.row = state::apply(self.row.as_ref(), kind, payload.as_ref())?;
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
