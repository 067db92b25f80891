//! The events of rows, each between the row before and after it: SHOW DRIFT with a condition reads a whole table so.

use crate::error::Result;
use crate::format::key::Key;
use crate::format::snapshot::VersionEntry;
use crate::table::event_id::EventId;
use crate::table::layers::HistoryEntry;
use crate::table::row_fold::RowFold;
pub use crate::table::row_fold::RowVersion;
use crate::table::row_histories::{self, HistoryRange, HistoryRows, HistoryVisitor};
use crate::table::timeline::Timeline;

/// Takes the events of rows. A pass that finds a file gone begins the row again, with the same states and events.
pub trait EventVisitor {
    /// A row begins.
    fn begin_row(&mut self, key: &Key);
    /// What the row is before its first event, and then after each: `None` if it does not exist. A state without an event before it
    /// comes from a change of the schema that left the table without rows.
    fn state(&mut self, key: &Key, row: Option<RowVersion>) -> Result<()>;
    /// The next event of the row.
    fn event(&mut self, key: &Key, id: EventId, version: VersionEntry) -> Result<()>;
    /// The row ends. Returns whether the pass goes on.
    fn end_row(&mut self, key: &Key) -> Result<bool>;
}

/// Passes the events after one event, up to and including another, of some rows to `visitor`: row by row in key order, those of a row
/// oldest first. Returns the key of the last row if the visitor ended the pass.
///
/// # Errors
/// `BELOW_FLOOR` if the floor has passed the row before the first event.
pub fn visit(
    timeline: &Timeline,
    (after, last): (EventId, EventId),
    rows: HistoryRows,
    visitor: &mut dyn EventVisitor,
) -> Result<Option<Key>> {
    let emptied = timeline.emptied_up_to(last.seq);
    // Within a commit, the rows before it are needed.
    let is_within_commit = u64::from(after.index < u32::MAX);
    let range = HistoryRange { after: after.seq.saturating_sub(is_within_commit), last: last.seq, rows };
    let (fold, has_begun) = (RowFold::default(), false);
    let mut walk =
        EventWalk { visitor, events: (after, last), emptied: &emptied, left: &emptied, fold, has_begun };
    row_histories::visit(timeline, &range, &mut walk)
}

/// Makes states of the histories of rows.
struct EventWalk<'a> {
    visitor: &'a mut dyn EventVisitor,
    /// The events that are passed on: after the first, up to the second.
    events: (EventId, EventId),
    /// The commits that left the table without rows, and those of them that lie after the row's newest version.
    emptied: &'a [u64],
    left: &'a [u64],
    fold: RowFold,
    /// Whether the row before the first event was passed on.
    has_begun: bool,
}

impl EventWalk<'_> {
    fn state(&mut self, key: &Key) -> Result<()> {
        let row = self.fold.current()?;
        let row =
            row.map(|(seq, time_ms, document)| RowVersion { seq, time_ms, document: Some(document.clone()) });
        self.visitor.state(key, row)
    }

    /// Applies the commits before another one that left the table without rows.
    fn pass_emptied(&mut self, key: &Key, before: u64) -> Result<()> {
        while let Some((_, later)) = self.left.split_first().filter(|(seq, _)| **seq < before) {
            self.left = later;
            self.fold.clear();
            if self.has_begun {
                self.state(key)?;
            }
        }
        Ok(())
    }
}

impl HistoryVisitor for EventWalk<'_> {
    fn begin_row(&mut self, key: &Key) {
        (self.fold, self.left, self.has_begun) = (RowFold::default(), self.emptied, false);
        self.visitor.begin_row(key);
    }

    fn entry(&mut self, key: &Key, entry: HistoryEntry) -> Result<()> {
        match entry {
            HistoryEntry::Image(row) => {
                self.pass_emptied(key, row.seq)?;
                self.fold.push_image(row);
            }
            HistoryEntry::Version(id, version) => {
                self.pass_emptied(key, id.seq)?;
                let is_passed_on = id > self.events.0 && id <= self.events.1;
                if !is_passed_on {
                    self.fold.push_newer(id.seq, version);
                    return Ok(());
                }
                if !self.has_begun {
                    self.has_begun = true;
                    self.state(key)?;
                }
                let VersionEntry { kind, time_ms, payload, image, marks, .. } = &version;
                let (actor, reason) = (String::new(), String::new());
                let (payload, image) = (payload.clone(), image.clone());
                let change = VersionEntry {
                    kind: *kind,
                    time_ms: *time_ms,
                    actor,
                    reason,
                    payload,
                    image,
                    marks: *marks,
                };
                self.visitor.event(key, id, version)?;
                self.fold.push_newer(id.seq, change);
                self.state(key)?;
            }
        }
        Ok(())
    }

    fn end_row(&mut self, key: &Key) -> Result<bool> {
        self.visitor.end_row(key)
    }
}
