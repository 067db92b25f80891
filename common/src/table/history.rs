//! What happened to a row, or to a whole table, between two moments.

use std::ops::Range;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::key::Key;
use crate::table::overlay::{CommitInfo, Happened, Version};
use crate::table::timeline::Timeline;

/// One event, with the row before and after it.
#[derive(Debug, Clone)]
pub struct Change {
    /// The commit.
    pub commit: Arc<CommitInfo>,
    /// The row; none for SCHEMA.
    pub key: Option<Key>,
    /// What kind of event it was.
    pub kind: EventType,
    /// What was written; none for SOFT_DELETE.
    pub payload: Option<Document>,
    /// The row before it.
    pub before: Option<Document>,
    /// The row after it.
    pub after: Option<Document>,
}

/// Goes through the events of a table, or of one row, after one commit and up to another.
#[derive(Debug)]
pub struct History {
    timeline: Arc<Timeline>,
    key: Option<Key>,
    /// Positions left: in the row's versions, or in the table's events.
    left: Range<usize>,
    newest_first: bool,
}

impl History {
    /// The events after commit `from`, up to and with commit `to`; of one row, or with its SCHEMA events of the table.
    pub fn new(
        timeline: &Arc<Timeline>,
        key: Option<Key>,
        from: u64,
        to: u64,
        newest_first: bool,
    ) -> History {
        let left = match &key {
            Some(key) => timeline.overlay().with_versions(key, |versions| {
                let start = versions.partition_point(|version| version.commit.seq <= from);
                start..versions.partition_point(|version| version.commit.seq <= to).max(start)
            }),
            None => Some(timeline.overlay().positions(from, to)),
        };
        History { timeline: Arc::clone(timeline), key, left: left.unwrap_or(0..0), newest_first }
    }

    /// The next events, at most `limit`; none at the end.
    pub fn next_batch(&mut self, limit: usize) -> Result<Vec<Change>> {
        let len = self.left.len().min(limit);
        let batch = if self.newest_first {
            let start = self.left.end - len;
            let batch = start..self.left.end;
            self.left.end = start;
            batch
        } else {
            let end = self.left.start + len;
            let batch = self.left.start..end;
            self.left.start = end;
            batch
        };
        let mut changes = match &self.key {
            Some(key) => self.of_row(key, batch)?,
            None => self.of_table(batch)?,
        };
        if self.newest_first {
            changes.reverse();
        }
        Ok(changes)
    }

    fn of_row(&self, key: &Key, positions: Range<usize>) -> Result<Vec<Change>> {
        let changes = self.timeline.overlay().with_versions(key, |versions| {
            positions.filter_map(|position| self.change(key, versions, position)).collect()
        });
        Ok(changes.unwrap_or_default())
    }

    fn of_table(&self, positions: Range<usize>) -> Result<Vec<Change>> {
        let overlay = self.timeline.overlay();
        let happened = overlay.happened(positions).into_iter();
        Ok(happened
            .filter_map(|what| match what {
                Happened::Row { key, version, .. } => {
                    overlay.with_versions(&key, |versions| self.change(&key, versions, version))?
                }
                Happened::Schema { commit, payload, .. } => Some(Change {
                    commit,
                    key: None,
                    kind: EventType::Schema,
                    payload: Some(payload),
                    before: None,
                    after: None,
                }),
            })
            .collect())
    }

    fn change(&self, key: &Key, versions: &[Version], position: usize) -> Option<Change> {
        let version = versions.get(position)?;
        let before = position.checked_sub(1).and_then(|previous| versions.get(previous));
        // A row of a table that has been dropped and created again since was absent before this event.
        let before = before.filter(|previous| {
            previous.commit.seq == version.commit.seq
                || self.timeline.born_at(version.commit.seq) <= previous.commit.seq
        });
        Some(Change {
            commit: Arc::clone(&version.commit),
            key: Some(key.clone()),
            kind: version.kind,
            payload: version.payload.clone(),
            before: before.and_then(|previous| previous.after.clone()),
            after: version.after.clone(),
        })
    }
}
