//! Reads the soft-deleted rows of a view, in the order of their keys.

use crate::error::Result;
use crate::format::key::Key;
use crate::query::ast::Condition;
use crate::query::deleted_row;
use crate::query::exec::history_route::HistoryRoute;
use crate::table::row_histories::{HistoryRange, HistoryRows};
use crate::table::row_spans::{self, RowSpan, SpanRow, SpanVisitor};
use crate::table::view::{Row, View};

/// Deleted rows that were read together.
pub(super) struct DeletedBatch {
    /// The rows.
    pub rows: Vec<Row>,
    /// The key after which the next batch begins; `None` if no row is left.
    pub last: Option<Key>,
}

/// The rows of a view that can be deleted ones that match a condition. Deletions up to the commit `first_known` do not count.
pub(super) fn route(view: &View, first_known: u64, condition: Option<&Condition>) -> Result<HistoryRoute> {
    HistoryRoute::choose(view.timeline(), condition, (first_known, view.seq()), deleted_row::hides)
}

/// Reads the deleted rows among some rows: up to a number of them, and about a number of bytes of documents.
///
/// What was deleted up to the commit `first_known` is left out: at or below the floor it is not known any more. All batches of a query
/// have the same one, so that none leaves out what others contain.
///
/// # Errors
/// `BELOW_FLOOR` if the floor has passed that commit, or the view, meanwhile.
pub(super) fn read(
    (view, first_known): (&View, u64),
    rows: HistoryRows,
    (most, bytes): (usize, usize),
) -> Result<DeletedBatch> {
    let range = HistoryRange { after: first_known, last: view.seq(), rows };
    let mut found = DeletedRows { rows: Vec::new(), pending: None, left: (most, bytes) };
    let last = row_spans::visit(view.timeline(), &range, &mut found)?;
    view.timeline().check_floor(view.seq())?;
    Ok(DeletedBatch { rows: found.rows, last })
}

/// Collects the rows whose last event is a deletion.
struct DeletedRows {
    rows: Vec<Row>,
    /// The present row, if it is deleted so far.
    pending: Option<Row>,
    /// How many more rows, and bytes of documents, are read.
    left: (usize, usize),
}

impl SpanVisitor for DeletedRows {
    fn begin_row(&mut self) {
        self.pending = None;
    }

    fn span(&mut self, mut span: RowSpan<'_>) -> Result<()> {
        if span.first < span.until {
            // A deletion counts while nothing follows it. The span right after it has no row, and only a DROP ends that one too.
            let follows = self.pending.is_some() && (!span.is_absent() || span.is_dropped);
            if follows {
                self.pending = None;
            }
        }
        if let Some(deletion) = span.deletion
            && let (key, Some(SpanRow { seq, time_ms, document })) = (span.key, span.row()?)
        {
            let document = deleted_row::with_deletion(document, deletion)?;
            self.pending = Some(Row { key: key.clone(), seq, time_ms, document });
        }
        Ok(())
    }

    fn end_row(&mut self, _: &Key) -> Result<bool> {
        let (rows, bytes) = &mut self.left;
        *rows = rows.saturating_sub(1);
        if let Some(row) = self.pending.take() {
            *bytes = bytes.saturating_sub(row.document.msgpack().len());
            self.rows.push(row);
        }
        Ok(*rows > 0 && *bytes > 0)
    }
}
