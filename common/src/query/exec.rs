//! Runs a SELECT over a view, a bounded stretch at a time.

mod route;

use std::ops::Bound;
use std::sync::Arc;

use crate::error::Result;
use crate::format::document::Document;
use crate::format::key::Key;
use crate::format::msgpack;
use crate::query::ast::{Column, Condition};
use crate::query::exec::route::Route;
use crate::query::plan::AccessPath;
use crate::query::predicate;
use crate::table::format_time;
use crate::table::view::{Row, View};

/// What to read, of which rows.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// Which rows; every row where there is none.
    pub condition: Option<Condition>,
    /// What of each row; the whole document where empty.
    pub columns: Vec<Column>,
    /// At most so many rows.
    pub limit: Option<u64>,
    /// After leaving out so many.
    pub offset: u64,
    /// Only rows after this key: to go on where an earlier answer ended.
    pub after: Option<Key>,
    /// Count the rows, and hand none out.
    pub count_only: bool,
}

/// A SELECT under way. Rows come in the order of keys.
#[derive(Debug)]
pub struct SelectExecution {
    view: View,
    selection: Selection,
    /// Chosen when the first stretch is asked for.
    route: Option<Arc<Route>>,
    /// Rows handed out, or counted.
    count: u64,
    /// Rows read so far, matching or not.
    examined: u64,
    done: bool,
}

/// One stretch of an answer.
#[derive(Debug, Default)]
pub struct Stretch {
    /// Rows that match.
    pub rows: Vec<Row>,
    /// Whether there are no more.
    pub done: bool,
}

impl SelectExecution {
    /// A SELECT over a view.
    pub fn new(view: View, selection: Selection) -> SelectExecution {
        let done = selection.limit == Some(0);
        SelectExecution { view, selection, route: None, count: 0, examined: 0, done }
    }

    /// How the rows are found.
    pub fn route(&mut self) -> Result<Arc<Route>> {
        if let Some(route) = &self.route {
            return Ok(Arc::clone(route));
        }
        let route = Arc::new(Route::choose(&self.view, &self.selection)?);
        self.route = Some(Arc::clone(&route));
        Ok(route)
    }

    /// Rows handed out so far, or counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The last row read, matching or not: the answer goes on after it.
    pub fn last_key(&self) -> Option<&Key> {
        self.selection.after.as_ref()
    }

    /// Rows read so far, matching or not.
    pub fn examined(&self) -> u64 {
        self.examined
    }

    /// Goes on for at most `rows` rows read, and until about `bytes` bytes match.
    pub fn next_stretch(&mut self, rows: usize, bytes: usize) -> Result<Stretch> {
        let mut found = Found { rows: Vec::new(), bytes, left: rows, error: None };
        if !self.done {
            let more = match &*self.route()? {
                Route::Key(AccessPath::Keys(keys)) | Route::Candidates { keys, .. } => {
                    self.look_up(keys, &mut found)?
                }
                Route::Key(AccessPath::Range { from, to }) => {
                    self.scan((from.as_ref(), to.as_ref()), &mut found)?
                }
                Route::Key(AccessPath::Scan) => {
                    self.scan((Bound::Unbounded, Bound::Unbounded), &mut found)?
                }
                Route::Value { probe, value } => self.look_up_value(&probe.index, value, &mut found)?,
                Route::Counted { rows } => {
                    self.count = self.selection.limit.map_or(*rows, |limit| limit.min(*rows));
                    false
                }
            };
            self.done |= !more;
        }
        match found.error {
            Some(error) => Err(error),
            None => Ok(Stretch { rows: found.rows, done: self.done }),
        }
    }

    /// Looks the planned keys up; false when there are none left.
    fn look_up(&mut self, keys: &[Key], found: &mut Found) -> Result<bool> {
        let start = match &self.selection.after {
            Some(after) => keys.partition_point(|key| key <= after),
            None => 0,
        };
        for key in keys.iter().skip(start) {
            if self.done {
                return Ok(false);
            }
            if !found.has_room() {
                return Ok(true);
            }
            let row = self.view.get(key)?;
            self.selection.after = Some(key.clone());
            if let Some(row) = row {
                self.consider(row, found);
            }
        }
        Ok(false)
    }

    /// Looks up the candidates of a value; false when there are none left.
    fn look_up_value(&mut self, index: &str, value: &[u8], found: &mut Found) -> Result<bool> {
        while found.has_room() && !self.done {
            let after = self.selection.after.as_ref();
            let Some(keys) = self.view.candidates_of_value(index, value, after, CANDIDATES_PER_LOOK)? else {
                // The index was dropped meanwhile. Rows come in the same order without it.
                self.route = Some(Arc::new(Route::Key(AccessPath::Scan)));
                return Ok(true);
            };
            if self.look_up(&keys, found)? {
                return Ok(true);
            }
            if keys.len() < CANDIDATES_PER_LOOK {
                return Ok(false);
            }
        }
        Ok(!self.done)
    }

    /// Goes through a range of keys; false when it has come to its end.
    fn scan(&mut self, (from, to): (Bound<&Key>, Bound<&Key>), found: &mut Found) -> Result<bool> {
        let after = self.selection.after.clone();
        let from = after.as_ref().map_or(from, Bound::Excluded);
        let view = self.view.clone();
        let mut more = false;
        let mut last = None;
        view.scan((from, to), |row| {
            if self.done || !found.has_room() {
                more = !self.done;
                return false;
            }
            last = Some(row.key.clone());
            self.consider(row, found);
            true
        })?;
        if last.is_some() {
            self.selection.after = last;
        }
        Ok(more)
    }

    /// Takes a row in if it matches.
    fn consider(&mut self, row: Row, found: &mut Found) {
        self.examined += 1;
        found.left -= 1;
        let Row { key, seq, time_ms, document } = &row;
        let (seq, time_ms) = (*seq, *time_ms);
        let outcome = self.matches(predicate::RowRef { key, seq, time_ms, document }).and_then(|matches| {
            if !matches {
                return Ok(None);
            }
            if self.selection.offset > 0 {
                self.selection.offset -= 1;
                return Ok(None);
            }
            self.count += 1;
            self.done = self.selection.limit == Some(self.count);
            if self.selection.count_only {
                return Ok(None);
            }
            let document = project(&self.selection.columns, key, seq, time_ms, document)?;
            Ok(Some(Row { key: key.clone(), seq, time_ms, document }))
        });
        match outcome {
            Ok(None) => {}
            Ok(Some(row)) => {
                found.bytes = found.bytes.saturating_sub(row.document.msgpack().len() + ROW_OVERHEAD);
                found.rows.push(row);
            }
            Err(error) => {
                self.done = true;
                found.error = Some(error);
            }
        }
    }

    fn matches(&self, row: predicate::RowRef<'_>) -> Result<bool> {
        self.selection.condition.as_ref().map_or(Ok(true), |condition| condition.matches(row))
    }
}

/// Candidates of a value looked up together.
const CANDIDATES_PER_LOOK: usize = 256;

/// About what a row needs in a message besides its document.
const ROW_OVERHEAD: usize = 64;

/// What a stretch has found, and how much more it may.
struct Found {
    rows: Vec<Row>,
    bytes: usize,
    left: usize,
    error: Option<crate::error::Error>,
}

impl Found {
    fn has_room(&self) -> bool {
        self.left > 0 && self.bytes > 0
    }
}

/// The columns asked for, as a document whose fields are named after them. Missing ones are left out.
fn project(columns: &[Column], key: &Key, seq: u64, time_ms: u64, document: &Document) -> Result<Document> {
    if columns.is_empty() {
        return Ok(document.clone());
    }
    let mut fields = Vec::new();
    let mut len = 0;
    for column in columns {
        let value = match column {
            Column::Path(path) => match document.get(path)? {
                Some(value) => value.to_vec(),
                None => continue,
            },
            own => {
                let mut value = Vec::new();
                match own {
                    Column::Key => key.encode(&mut value),
                    Column::Seq => msgpack::write_uint(&mut value, seq),
                    _ => msgpack::write_str(&mut value, &format_time(time_ms)),
                }
                value
            }
        };
        len += 1;
        msgpack::write_str(&mut fields, &column.label());
        fields.extend_from_slice(&value);
    }
    let mut encoded = Vec::with_capacity(fields.len() + 5);
    msgpack::write_map_len(&mut encoded, len);
    encoded.extend_from_slice(&fields);
    Ok(Document::trusted(encoded.into()))
}
