//! A row as it was: what REVERT goes back to, read from the log.

use std::ops::ControlFlow;
use std::sync::Arc;

use driftdb_common::error::{Error, Reason, Result};
use driftdb_common::format::document::Document;
use driftdb_common::format::event::EventType;
use driftdb_common::format::key::Key;
use driftdb_common::log::cursor::{Cursor, Entry, Next, Span};
use driftdb_common::log::dir::{self, DataDir};
use driftdb_common::log::disk::Disk;
use driftdb_common::log::head;
use driftdb_common::table::moments::Point;
use driftdb_common::table::schema::{SchemaAction, SchemaEvent};
use driftdb_common::table::{format_time, state};

/// The database's past, as far as it has been published.
#[derive(Debug, Clone)]
pub struct Past {
    disk: Arc<dyn Disk>,
    dir: DataDir,
}

/// The last commit, or the last time, that counts.
#[derive(Debug, Clone, Copy)]
enum Until {
    Seq(u64),
    Time(u64),
}

/// A row, and whether there is a table for it, as the log is gone through.
#[derive(Debug, Default)]
struct Found {
    table: bool,
    row: Option<Document>,
}

impl Past {
    /// The past of the database in a directory.
    pub fn new(disk: Arc<dyn Disk>, dir: DataDir) -> Past {
        Past { disk, dir }
    }

    /// A row as it was at a moment; `None` where there was none. Reads the table's log from its start: its cost follows
    /// the table's history.
    pub fn row(&self, table: &str, key: &Key, to: Point, now_ms: u64) -> Result<Option<Document>> {
        let until = match to {
            Point::Now => {
                let message = "REVERT needs a moment in the past to go back to";
                return Err(Error::new(Reason::ArgumentInvalid, message));
            }
            Point::Seq(seq) => Until::Seq(seq),
            Point::Time(ms) => Until::Time(u64::try_from(ms).unwrap_or(0)),
            Point::Ago(ago) => {
                Until::Time(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)))
            }
        };
        let head = head::read(&*self.disk, &self.dir)?
            .ok_or_else(|| Error::corrupt(self.dir.head().display(), 0, "it is missing"))?;
        if let Until::Seq(seq) = until
            && seq > head.last_seq()
        {
            let message = format!("seq {seq} has not happened yet: the newest commit is {}", head.last_seq());
            return Err(Error::new(Reason::BeyondHead, message).with("last_seq", head.last_seq().to_string()));
        }
        let mut found = Found::default();
        self.read(table, &head, |entry| found.take(entry, key, until))?;
        if found.table {
            return Ok(found.row);
        }
        let moment = match until {
            Until::Seq(seq) => format!("seq {seq}"),
            Until::Time(ms) => format_time(ms),
        };
        let message = format!("table {table:?} does not exist at {moment}");
        Err(Error::new(Reason::TableNotFound, message).with("table", table))
    }

    /// Goes through a table's published frames, in order, until `look` breaks.
    fn read(
        &self,
        table: &str,
        head: &head::Head,
        mut look: impl FnMut(Entry) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let manifest = dir::read_manifest(&*self.disk, &self.dir, table)?
            .ok_or_else(|| Error::new(Reason::TableNotFound, format!("unknown table {table:?}")))?;
        let Some(slot) = head.slots.iter().find(|slot| slot.table == manifest.table_id) else {
            return Ok(());
        };
        let mut cursor = Cursor::new(Arc::clone(&self.disk), &self.dir, table, manifest.table_id);
        for segment in manifest.segments.iter().filter(|segment| segment.number <= slot.segment) {
            let end = if segment.number == slot.segment {
                slot.bytes
            } else {
                segment.sealed.map_or(0, |seal| seal.bytes)
            };
            cursor.extend(Span { segment: segment.number, end, seal: None });
        }
        loop {
            match cursor.next_frame()? {
                Next::Frame(entry) => {
                    if look(entry)?.is_break() {
                        return Ok(());
                    }
                }
                Next::End => return Ok(()),
                Next::Invalid(error) => {
                    return Err(Error::corrupt(cursor.path().display(), cursor.mark().offset, error));
                }
            }
        }
    }
}

impl Found {
    fn take(&mut self, entry: Entry, key: &Key, until: Until) -> Result<ControlFlow<()>> {
        let within = match until {
            Until::Seq(seq) => entry.seq <= seq,
            Until::Time(ms) => entry.time_ms <= ms,
        };
        if !within {
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
