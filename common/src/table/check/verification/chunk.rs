//! A stretch of the log as versions of rows: what an era must hold of it.

use std::collections::HashMap;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{Event, EventType};
use crate::format::snapshot::{VersionEntry, push_version};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerMap, sort_key};
use crate::table::state;

/// Versions held in memory at once,
const VERSIONS: usize = 50_000;
/// and bytes of them.
const BYTES: usize = 64 << 20;

/// A version as the log has it.
#[derive(Debug)]
pub(super) struct Expected {
    /// Its key in the era's tree.
    pub(super) key: Vec<u8>,
    /// As the era must hold it, with the row after a PATCH.
    pub(super) entry: VersionEntry,
}

/// Versions of some whole commits, and the rows that they leave.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) versions: Vec<Expected>,
    /// Rows by sort key, each with its last commit.
    rows: HashMap<Vec<u8>, (Option<Document>, u64)>,
    bytes: usize,
}

/// What an event does to a row, in a table that was created by commit `born`.
pub(super) struct Step<'a> {
    pub(super) spot: EventId,
    pub(super) time_ms: u64,
    pub(super) event: &'a Event,
    pub(super) born: u64,
    /// Who made the commit, and why.
    pub(super) said: (&'a str, &'a str),
}

/// A row before and after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    pub(super) was: bool,
    pub(super) is: bool,
}

impl Chunk {
    /// Whether it holds as much as it should.
    pub(super) fn is_full(&self) -> bool {
        self.versions.len() >= VERSIONS || self.bytes >= BYTES
    }

    /// Takes in an event of a row. What the row was before is asked of `past`, which must hold everything before this chunk;
    /// without it nothing is said of the row after. An error is one of the log.
    pub(super) fn take(&mut self, step: &Step<'_>, past: Option<&LayerMap>) -> Result<Option<Turn>> {
        let Step { spot, time_ms, event, born, said } = step;
        let Some(key) = &event.key else { return Ok(None) };
        let row = sort_key(key);
        let mut entry = VersionEntry {
            kind: event.kind,
            time_ms: *time_ms,
            actor: said.0.to_owned(),
            reason: said.1.to_owned(),
            payload: event.document.clone(),
            image: None,
        };
        let mut turn = None;
        if let Some(past) = past {
            let before = match self.rows.remove(&row) {
                Some(before) => before,
                None => match past.row(key, spot.before())? {
                    Some(found) => (found.document, found.seq),
                    None => (None, 0),
                },
            };
            let live = before.0.filter(|_| before.1 >= *born);
            let after = state::apply(live.as_ref(), event.kind, event.document.as_ref())?;
            turn = Some(Turn { was: live.is_some(), is: after.is_some() });
            if event.kind == EventType::Patch {
                entry.image.clone_from(&after);
            }
            self.bytes += after.as_ref().map_or(0, |after| after.msgpack().len());
            self.rows.insert(row.clone(), (after, spot.seq));
        }
        self.bytes += event.document.as_ref().map_or(0, |document| document.msgpack().len()) + 2 * row.len();
        let mut key = row;
        push_version(&mut key, spot.seq, spot.index);
        self.versions.push(Expected { key, entry });
        Ok(turn)
    }
}
