//! A part of the log as versions of rows: what a delta layer must contain of it.

use std::collections::HashMap;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::{Event, EventType};
use crate::format::snapshot::{VersionEntry, push_version};
use crate::table::event_id::EventId;
use crate::table::layers::{LayerMap, sort_key};
use crate::table::state;

/// The number of versions at which a chunk is full.
const VERSIONS: usize = 50_000;
/// The size at which a chunk is full, in bytes.
const BYTES: usize = 64 << 20;

/// A version that the log has, so the delta layer must have it.
#[derive(Debug)]
pub(super) struct ExpectedVersion {
    /// The key in the layer's tree.
    pub(super) key: Vec<u8>,
    /// The entry, with the row after a PATCH if that is known.
    pub(super) entry: VersionEntry,
}

/// The versions of some complete commits, and the rows after them.
#[derive(Debug, Default)]
pub(super) struct LogChunk {
    pub(super) versions: Vec<ExpectedVersion>,
    /// The rows that the chunk has changed, by sort key, each with its last commit.
    rows: HashMap<Vec<u8>, (Option<Document>, u64)>,
    bytes: usize,
}

/// An event of a row, with what its commit says.
pub(super) struct RowEvent<'a> {
    pub(super) id: EventId,
    pub(super) time_ms: u64,
    pub(super) event: &'a Event,
    /// The commit that created the table. Older rows are not live.
    pub(super) created_at: u64,
    pub(super) actor: &'a str,
    pub(super) reason: &'a str,
}

/// Whether a row was live before and after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Liveness {
    pub(super) before: bool,
    pub(super) after: bool,
}

impl LogChunk {
    /// Whether the chunk should be compared before more commits are added.
    pub(super) fn is_full(&self) -> bool {
        self.versions.len() >= VERSIONS || self.bytes >= BYTES
    }

    /// Adds an event of a row. Returns whether the row was live before and after it.
    ///
    /// `layers` must contain all commits before the chunk: the row before the event comes from there. With `None` the rows are
    /// unknown, so the result and the expected row after a PATCH are `None` too. An error without a file is damage in the log.
    pub(super) fn add(
        &mut self,
        row_event: &RowEvent<'_>,
        layers: Option<&LayerMap>,
    ) -> Result<Option<Liveness>> {
        let RowEvent { id, time_ms, event, created_at, actor, reason } = row_event;
        let Some(key) = &event.key else { return Ok(None) };
        let row = sort_key(key);
        let mut entry = VersionEntry {
            kind: event.kind,
            time_ms: *time_ms,
            actor: (*actor).to_owned(),
            reason: (*reason).to_owned(),
            payload: event.document.clone(),
            image: None,
            marks: event.marks,
        };
        let mut liveness = None;
        if let Some(layers) = layers {
            let before = match self.rows.remove(&row) {
                Some(before) => before,
                None => match layers.row(key, id.before())? {
                    Some(found) => (found.document, found.seq),
                    None => (None, 0),
                },
            };
            let live = before.0.filter(|_| before.1 >= *created_at);
            let after = state::apply(live.as_ref(), event.kind, event.document.as_ref())?;
            liveness = Some(Liveness { before: live.is_some(), after: after.is_some() });
            if event.kind == EventType::Patch {
                entry.image.clone_from(&after);
            }
            self.bytes += after.as_ref().map_or(0, |after| after.msgpack().len());
            self.rows.insert(row.clone(), (after, id.seq));
        }
        self.bytes += event.document.as_ref().map_or(0, |document| document.msgpack().len()) + 2 * row.len();
        let mut key = row;
        push_version(&mut key, id.seq, id.index);
        self.versions.push(ExpectedVersion { key, entry });
        Ok(liveness)
    }
}
