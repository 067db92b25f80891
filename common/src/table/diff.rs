//! The net difference between two moments of a table.

use std::collections::BTreeSet;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::table::overlay::Happened;
use crate::table::view::View;

/// Events looked at together.
const EVENTS_AT_ONCE: usize = 4096;

/// A row that is not the same at both moments.
#[derive(Debug, Clone)]
pub struct RowDiff {
    /// The row.
    pub key: Key,
    /// Its content at the first moment; `None` where there was no such row.
    pub before: Option<Document>,
    /// Its content at the second moment; `None` where there was no such row.
    pub after: Option<Document>,
}

/// Goes through the rows that differ between two moments, in the order of keys.
#[derive(Debug)]
pub struct Diff {
    from: View,
    to: View,
    keys: std::collections::btree_set::IntoIter<Key>,
}

impl Diff {
    /// The differences between two views of one table, of all rows or of some. Its cost follows what happened in
    /// between, not the table's size.
    pub fn new(from: View, to: View, keys: Option<BTreeSet<Key>>) -> Diff {
        let keys = keys.unwrap_or_else(|| {
            let (low, high) = (from.seq().min(to.seq()), from.seq().max(to.seq()));
            let overlay = to.timeline().overlay();
            let mut keys: BTreeSet<Key> = BTreeSet::new();
            let mut emptied = false;
            let mut positions = overlay.positions(low, high);
            // A stretch at a time: what happened may be long, and few keys.
            let stretches = std::iter::from_fn(|| {
                let end = positions.end.min(positions.start + EVENTS_AT_ONCE);
                let stretch = std::mem::replace(&mut positions.start, end)..end;
                (!stretch.is_empty()).then_some(stretch)
            });
            for what in stretches.flat_map(|stretch| overlay.happened(stretch)) {
                match what {
                    Happened::Row { key, .. } => _ = keys.insert(key),
                    Happened::Schema { emptied: gone, .. } => emptied |= gone,
                }
            }
            if emptied {
                // A drop in between took every row away without an event of its own.
                for view in [&from, &to] {
                    view.scan((std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), |key, _, _| {
                        keys.insert(key.clone());
                        true
                    });
                }
            }
            keys
        });
        Diff { from, to, keys: keys.into_iter() }
    }

    /// The next difference.
    pub fn next_row(&mut self) -> Result<Option<RowDiff>> {
        for key in self.keys.by_ref() {
            let content = |view: &View| view.get(&key).map(|row| row.document);
            let (before, after) = (content(&self.from), content(&self.to));
            let same = match (&before, &after) {
                (Some(before), Some(after)) => before.same_as(after)?,
                (None, None) => true,
                _ => false,
            };
            if !same {
                return Ok(Some(RowDiff { key, before, after }));
            }
        }
        Ok(None)
    }
}
