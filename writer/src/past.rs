//! A row as it was: what REVERT goes back to, read from snapshots and from the log after them.

use std::ops::ControlFlow;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::format::manifest::Manifest;
use driftdb_common::storage::sst::BlockCache;
use driftdb_common::storage::wal::cursor::{CursorItem, DecodedFrame};
use driftdb_common::table::build::snapshot::{ReadLimit, born_at, log_after};
use driftdb_common::table::layers::EventId;
use driftdb_common::table::point_in_time::{CommitBound, PointInTime};
use driftdb_common::table::schema::{SchemaAction, SchemaEvent};
use driftdb_common::table::state;
use driftdb_common::table::table_files::TableFiles;

use crate::commit::Commits;

/// The database's past, as far as it has been published.
#[derive(Debug, Clone)]
pub struct Past {
    shelf: TableFiles,
    commits: Commits,
}

/// A row, and whether there is a table for it, as the log is gone through.
#[derive(Debug, Default)]
struct Found {
    table: bool,
    row: Option<Document>,
}

impl Past {
    /// The past of the database whose commits these are.
    pub fn new(shelf: TableFiles, commits: Commits) -> Past {
        Past { shelf, commits }
    }

    /// The blocks of snapshots that are in memory.
    pub fn cache(&self) -> &BlockCache {
        &self.shelf.cache
    }

    /// A row as it was at a moment; `None` where there was none. Its cost follows what the table's newest snapshot does not
    /// hold yet.
    pub fn row(&self, table: &str, key: &Key, to: PointInTime, now_ms: u64) -> Result<Option<Document>> {
        if to == PointInTime::Now {
            let message = "REVERT needs a moment in the past to go back to";
            return Err(Error::new(Reason::ArgumentInvalid, message));
        }
        let id = self.commits.table_id(table)?;
        let (manifest, reach, chain) = self.commits.past_of(id)?;
        let until = to.bound(reach.seq, now_ms)?;
        let in_files = match until {
            _ if !chain.covers(until) => None,
            CommitBound::Seq(seq) => Some(seq),
            CommitBound::Time(ms) => Some(chain.last_at(ms)?.unwrap_or(0)),
        };
        if let Some(floor) = chain.floor().filter(|floor| !until.includes(floor.seq, floor.time_ms)) {
            let message =
                format!("table {table:?} was compacted up to seq {}: {until} is before that", floor.seq);
            return Err(Error::new(Reason::BelowFloor, message).with("floor_seq", floor.seq.to_string()));
        }
        let at = in_files.unwrap_or(chain.end());
        let born = born_at(&chain, at)?;
        let row = chain.row(key, EventId::end_of(at))?.filter(|row| born.is_some_and(|born| row.seq >= born));
        let mut found = Found { table: born.is_some(), row: row.and_then(|row| row.document) };
        if in_files.is_none() {
            self.read_on(&manifest, reach, &mut |entry| found.take(entry, key, until))?;
        }
        if found.table {
            return Ok(found.row);
        }
        let message = format!("table {table:?} does not exist at {until}");
        Err(Error::new(Reason::TableNotFound, message).with("table", table))
    }

    /// Goes through a table's published frames after its newest snapshot, in order, until `look` breaks.
    fn read_on(
        &self,
        manifest: &Manifest,
        reach: ReadLimit,
        look: &mut dyn FnMut(DecodedFrame) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut cursor = log_after(&self.shelf, manifest, reach);
        loop {
            match cursor.next_frame()? {
                CursorItem::Frame(entry) => {
                    if look(entry)?.is_break() {
                        return Ok(());
                    }
                }
                CursorItem::End => return Ok(()),
                CursorItem::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.position().offset, error));
                }
            }
        }
    }
}

impl Found {
    fn take(&mut self, entry: DecodedFrame, key: &Key, until: CommitBound) -> Result<ControlFlow<()>> {
        if !until.includes(entry.seq, entry.time_ms) {
            return Ok(ControlFlow::Break(()));
        }
        match (entry.event.kind, &entry.event.document) {
            (EventType::Schema, Some(payload)) => match SchemaEvent::from_document(payload)?.action {
                SchemaAction::Create => *self = Found { table: true, row: None },
                SchemaAction::Drop => *self = Found { table: false, row: None },
                SchemaAction::Alter => {}
            },
            (kind, payload) if entry.event.key.as_ref() == Some(key) => {
                self.row = state::apply(self.row.as_ref(), kind, payload.as_ref())?;
            }
            _ => {}
        }
        Ok(ControlFlow::Continue(()))
    }
}
