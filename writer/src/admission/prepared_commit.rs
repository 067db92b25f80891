//! An admitted commit whose frames are not appended yet.

use std::collections::HashMap;

use driftdb_common::format::document::Document;
use driftdb_common::format::event::{self, CommitMeta, CommitShape, EventMarks, EventType};
use driftdb_common::format::key::Key;
use driftdb_common::storage::wal::appender::Group;
use driftdb_common::table::operation::WriteToken;

/// An event that becomes one frame.
#[derive(Debug)]
pub(crate) struct NewEvent {
    /// The table's id.
    pub(crate) table: u64,
    pub(crate) kind: EventType,
    pub(crate) key: Option<Key>,
    pub(crate) payload: Option<Document>,
    /// How the event comes about. Replay need not look up a row that an INSERT replaces.
    pub(crate) marks: EventMarks,
}

/// An admitted commit.
#[derive(Debug)]
pub(crate) struct PreparedCommit {
    token: WriteToken,
    events: Vec<NewEvent>,
    meta: CommitMeta,
}

impl PreparedCommit {
    /// A commit of `events`.
    pub(crate) fn new(token: WriteToken, events: Vec<NewEvent>, meta: CommitMeta) -> PreparedCommit {
        PreparedCommit { token, events, meta }
    }

    /// Marks the commit as the last one of its batch.
    pub(crate) fn mark_end_of_batch(&mut self) {
        if let Some(origin) = &mut self.meta.origin {
            origin.ends = true;
        }
    }

    /// Appends the commit's frames to a group.
    pub(crate) fn encode(self, group: &mut Group) {
        let PreparedCommit { token, events, meta } = self;
        let frames = u32::try_from(events.len()).unwrap_or(u32::MAX);
        // Most commits change one table.
        let is_one_table = events.windows(2).all(|two| matches!(two, [a, b] if a.table == b.table));
        let mut frames_by_table: HashMap<u64, u32> = HashMap::new();
        for event in events.iter().filter(|_| !is_one_table) {
            *frames_by_table.entry(event.table).or_default() += 1;
        }
        for (at, NewEvent { table, kind, key, payload, marks }) in events.iter().enumerate() {
            // Only the commit's first frame in a table carries the shape and the meta: `remove` returns them
            // once.
            let frames_in_table =
                if is_one_table { Some(frames).filter(|_| at == 0) } else { frames_by_table.remove(table) };
            let first =
                frames_in_table.map(|frames_in_table| (CommitShape { frames, frames_in_table }, &meta));
            let table = group.tables.entry(*table).or_default();
            let first_of_group = table.frames.is_empty();
            table.last_seq = token.seq;
            table.frames.push(token.seq, token.time_ms, *kind, |out| {
                event::encode(out, key.as_ref(), payload.as_ref(), *marks, first, first_of_group)
            });
        }
        group.last_seq = token.seq;
        group.last_ms = token.time_ms;
    }
}
