//! What each row of a table was, and from which commit to which: AS OF EVERY, FIND and DELETED are answered from this.
//!
//! A patch is merged only if somebody asks for the row after it.

use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::event::EventType;
use crate::format::key::Key;
use crate::planted::{PlantedBug, is_planted};
use crate::table::layers::HistoryEntry;
use crate::table::row_fold::RowFold;
use crate::table::row_histories::{self, HistoryRange, HistoryVisitor};
use crate::table::timeline::Timeline;

/// The commit that ended a span by deleting the row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowDeletion {
    /// The commit.
    pub seq: u64,
    /// Its time in milliseconds since 1970.
    pub time_ms: u64,
    /// Who made it; may be empty.
    pub actor: String,
    /// Why it was made; may be empty.
    pub reason: String,
}

/// A stretch of commits over which a row did not change.
#[derive(Debug)]
pub struct RowSpan<'a> {
    /// The row's key.
    pub key: &'a Key,
    /// The first commit after which the row is as here. The commit after which the pass begins, if the row is older.
    pub first: u64,
    /// The first commit after which it is not; one after the last commit of the pass, if it stays.
    pub until: u64,
    /// The commit `until` if that is a soft deletion. The span is empty if the same commit has changed the row before it deleted it.
    pub deletion: Option<&'a RowDeletion>,
    /// Whether the row does not exist because the table was dropped or created after its last event.
    pub is_dropped: bool,
    fold: &'a mut RowFold,
}

/// A row during a span.
#[derive(Debug, Clone, Copy)]
pub struct SpanRow<'a> {
    /// The commit that last changed it.
    pub seq: u64,
    /// That commit's time in milliseconds since 1970.
    pub time_ms: u64,
    /// The row's content.
    pub document: &'a Document,
}

impl RowSpan<'_> {
    /// Whether the row does not exist during the span.
    pub fn is_absent(&self) -> bool {
        self.fold.is_absent()
    }

    /// The row; `None` if it does not exist.
    pub fn row(&mut self) -> Result<Option<SpanRow<'_>>> {
        let found = self.fold.current()?;
        Ok(found.map(|(seq, time_ms, document)| SpanRow { seq, time_ms, document }))
    }
}

/// Takes the spans of rows. What it learns of a row counts only once the row ends: a pass that finds a file gone begins the row
/// again.
pub trait SpanVisitor {
    /// A row begins.
    fn begin_row(&mut self);
    /// The next span of the row. The spans of a row follow one another without gaps, the first from the beginning of the pass on.
    fn span(&mut self, span: RowSpan<'_>) -> Result<()>;
    /// The row ends. Returns whether the pass goes on.
    fn end_row(&mut self, key: &Key) -> Result<bool>;
}

/// Passes the spans of each row to `visitor`, in key order. Returns the key of the last row if the visitor ended the pass.
///
/// # Errors
/// As [`row_histories::visit`].
pub fn visit(
    timeline: &Timeline,
    range: &HistoryRange,
    visitor: &mut dyn SpanVisitor,
) -> Result<Option<Key>> {
    let mut emptied = timeline.emptied_up_to(range.last);
    if is_planted(PlantedBug::DroppedRowsKept) {
        emptied.clear();
    }
    let row = RowWalk::new((range.after, range.last), &emptied);
    let mut walk = SpanWalk { visitor, emptied: &emptied, row };
    row_histories::visit(timeline, range, &mut walk)
}

/// Makes spans of the histories of rows.
struct SpanWalk<'a> {
    visitor: &'a mut dyn SpanVisitor,
    /// The commits that left the table without rows.
    emptied: &'a [u64],
    /// The present row.
    row: RowWalk<'a>,
}

impl HistoryVisitor for SpanWalk<'_> {
    fn begin_row(&mut self, _: &Key) {
        self.visitor.begin_row();
        self.row = RowWalk::new(self.row.commits, self.emptied);
    }

    fn entry(&mut self, key: &Key, entry: HistoryEntry) -> Result<()> {
        self.row.take(key, entry, self.visitor)
    }

    fn end_row(&mut self, key: &Key) -> Result<bool> {
        self.row.end(key, self.visitor)?;
        self.visitor.end_row(key)
    }
}

/// Makes spans of a row's history.
struct RowWalk<'a> {
    /// The commits after which rows are read: from the first up to the second.
    commits: (u64, u64),
    /// The commits that left the table without rows and lie after the row's newest version.
    emptied: &'a [u64],
    fold: RowFold,
    /// The first commit of the present span.
    first: u64,
    is_dropped: bool,
}

impl<'a> RowWalk<'a> {
    fn new(commits: (u64, u64), emptied: &'a [u64]) -> RowWalk<'a> {
        RowWalk { commits, emptied, fold: RowFold::default(), first: commits.0, is_dropped: false }
    }

    fn take(&mut self, key: &Key, entry: HistoryEntry, visitor: &mut dyn SpanVisitor) -> Result<()> {
        match entry {
            HistoryEntry::Image(row) => {
                self.pass_emptied(key, row.seq, visitor)?;
                self.fold.push_image(row);
            }
            HistoryEntry::Version(id, version) => {
                self.pass_emptied(key, id.seq, visitor)?;
                let is_deletion = version.kind == EventType::SoftDelete;
                let is_in_span = id.seq == self.first && self.first > self.commits.0;
                if id.seq > self.first || (is_deletion && is_in_span) {
                    let deletion = is_deletion.then(|| RowDeletion {
                        seq: id.seq,
                        time_ms: version.time_ms,
                        actor: version.actor.clone(),
                        reason: version.reason.clone(),
                    });
                    self.span(key, id.seq, deletion.as_ref(), visitor)?;
                }
                self.is_dropped = false;
                self.fold.push_newer(id.seq, version);
            }
        }
        Ok(())
    }

    /// Applies the commits before another one that left the table without rows.
    fn pass_emptied(&mut self, key: &Key, before: u64, visitor: &mut dyn SpanVisitor) -> Result<()> {
        while let Some((seq, later)) = self.emptied.split_first().filter(|(seq, _)| **seq < before) {
            self.emptied = later;
            self.span(key, *seq, None, visitor)?;
            self.fold.clear();
            self.is_dropped = true;
        }
        Ok(())
    }

    /// Ends the present span before a commit, if the span has begun by then.
    fn span(
        &mut self,
        key: &Key,
        until: u64,
        deletion: Option<&RowDeletion>,
        visitor: &mut dyn SpanVisitor,
    ) -> Result<()> {
        if until < self.first || (until == self.first && deletion.is_none()) {
            return Ok(());
        }
        let is_dropped = self.is_dropped;
        let span = RowSpan { key, first: self.first, until, deletion, is_dropped, fold: &mut self.fold };
        visitor.span(span)?;
        self.first = until;
        Ok(())
    }

    fn end(&mut self, key: &Key, visitor: &mut dyn SpanVisitor) -> Result<()> {
        let until = self.commits.1.saturating_add(1);
        self.pass_emptied(key, until, visitor)?;
        self.span(key, until, None, visitor)
    }
}

/// The first commit after which every row of a table is known: its floor.
pub fn first_known(timeline: &Arc<Timeline>) -> u64 {
    timeline.state().layers.floor().map_or(0, |floor| floor.seq)
}
