//! The net difference between two moments of a table.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::snapshot::TableChange;
use crate::table::layers::EventId;
use crate::table::memtable::{MemtableEvent, NumberedEvent};
use crate::table::timeline::TableState;
use crate::table::view::{Row, View, read, read_key};

/// Keys held at once. Where more rows may have changed, all rows of both moments are gone through instead.
const KEYS_AT_ONCE: usize = 100_000;
/// Events looked at together.
const EVENTS_AT_ONCE: usize = 4096;
/// ComparedRows of a moment read together.
const ROWS_AT_ONCE: usize = 1024;

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
    rows: ComparedRows,
}

/// Which rows are compared.
#[derive(Debug)]
enum ComparedRows {
    /// These.
    Some(std::collections::btree_set::IntoIter<Key>),
    /// All of both moments.
    All(Box<[Page; 2]>),
}

/// ComparedRows of one moment, read ahead in the order of keys.
#[derive(Debug, Default)]
struct Page {
    rows: std::collections::VecDeque<Row>,
    last: Option<Key>,
    ended: bool,
}

impl Page {
    fn first(&mut self, view: &View) -> Result<Option<&Key>> {
        if self.rows.is_empty() && !self.ended {
            let from = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
            let rows = &mut self.rows;
            view.scan((from, Bound::Unbounded), |row| {
                rows.push_back(row);
                rows.len() < ROWS_AT_ONCE
            })?;
            self.ended = self.rows.len() < ROWS_AT_ONCE;
            self.last = self.rows.back().map(|row| row.key.clone());
        }
        Ok(self.rows.front().map(|row| &row.key))
    }
}

impl Diff {
    /// The differences between two views of one table, of all rows or of some. Its cost follows what happened in
    /// between, not the table's size.
    pub fn new(from: View, to: View, keys: Option<BTreeSet<Key>>) -> Result<Diff> {
        let keys = match keys {
            Some(keys) => Some(keys),
            None => changed(&from, &to)?,
        };
        let rows = keys
            .map_or_else(|| ComparedRows::All(Box::default()), |keys| ComparedRows::Some(keys.into_iter()));
        Ok(Diff { from, to, rows })
    }

    /// The next difference.
    pub fn next_row(&mut self) -> Result<Option<RowDiff>> {
        while let Some(row) = self.next_pair()? {
            let same = match (&row.before, &row.after) {
                (Some(before), Some(after)) => before.same_as(after)?,
                (None, None) => true,
                _ => false,
            };
            if !same {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// The next row to compare, as it was at both moments.
    fn next_pair(&mut self) -> Result<Option<RowDiff>> {
        match &mut self.rows {
            ComparedRows::Some(keys) => {
                let Some(key) = keys.next() else { return Ok(None) };
                let content = |view: &View| Ok(view.get(&key)?.map(|row| row.document));
                let (before, after) = (content(&self.from)?, content(&self.to)?);
                Ok(Some(RowDiff { key, before, after }))
            }
            ComparedRows::All(pages) => {
                let [before, after] = &mut **pages;
                let (a, b) = (before.first(&self.from)?, after.first(&self.to)?);
                let Some(key) = a.into_iter().chain(b).min().cloned() else { return Ok(None) };
                let content =
                    |page: &mut Page| page.rows.pop_front_if(|row| row.key == key).map(|row| row.document);
                let (before, after) = (content(before), content(after));
                Ok(Some(RowDiff { key, before, after }))
            }
        }
    }
}

/// The rows that events between two moments were about; `None` where that tells too little, or they are too many.
fn changed(from: &View, to: &View) -> Result<Option<BTreeSet<Key>>> {
    let (low, high) = (from.seq().min(to.seq()), from.seq().max(to.seq()));
    read(to.timeline(), |state| {
        let mut keys = BTreeSet::new();
        let whole = changed_in_files(state, (low, high), &mut keys)?
            && changed_in_memory(state, (low, high), &mut keys);
        Ok(whole.then_some(keys))
    })
}

fn changed_in_files(state: &TableState, (low, high): (u64, u64), keys: &mut BTreeSet<Key>) -> Result<bool> {
    let key_type = state.chain.key_type();
    let mut commits = state.chain.commits(low, high, false);
    while let Some(commit) = commits.next_commit()? {
        for changes in commit.entry.changes {
            match changes {
                TableChange::Row(bytes) => _ = keys.insert(read_key(&bytes, key_type)?),
                // A drop in between took every row away without an event of its own.
                TableChange::Schema(_, emptied) if emptied => return Ok(false),
                TableChange::Schema(..) => {}
            }
        }
        if keys.len() > KEYS_AT_ONCE {
            return Ok(false);
        }
    }
    Ok(true)
}

fn changed_in_memory(state: &TableState, (low, high): (u64, u64), keys: &mut BTreeSet<Key>) -> bool {
    let mut after = EventId::end_of(low.max(state.chain.end()));
    loop {
        let happened = state.overlay.happened(after, EventId::end_of(high), EVENTS_AT_ONCE, false);
        let Some(last) = happened.last() else { return true };
        after = last.spot;
        for NumberedEvent { what, .. } in happened {
            match what {
                MemtableEvent::Row { key, .. } => _ = keys.insert(key),
                MemtableEvent::Schema { emptied: true, .. } => return false,
                MemtableEvent::Schema { .. } | MemtableEvent::Note => {}
            }
        }
        if keys.len() > KEYS_AT_ONCE {
            return false;
        }
    }
}
