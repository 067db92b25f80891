//! Lookups of many rows in the layers at once: one cursor goes forward through each layer.
//!
//! A lookup of a single row asks each layer's filter and then descends from the root of its tree. For sorted keys a cursor
//! that stays where it is finds most of its path again, and in a layer that has nearly every row no filter can spare a search.

use crate::error::Result;
use crate::format::snapshot::{RowEntry, tree};
use crate::storage::sst::TreeCursor;
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::layers::file::{LayerFile, LayerId, at_file, fold_backward};
use crate::table::row_fold::{RowFold, RowVersion};
use crate::work;

/// A filter is asked first if at least one search in so many is in vain: such a search may read a block, and unpack it, for nothing.
const SEARCHES_PER_MISS: usize = 8;
/// In a layer that is likely to have every row, a filter is asked only after some misses.
const FOUND_AT_FIRST: usize = 32;

/// A row to look up.
#[derive(Debug, Clone, Copy)]
pub struct SoughtRow<'a> {
    /// Its sort key.
    pub key: &'a [u8],
    /// The layer that probably has its newest version, as an index tells: only the cost depends on it.
    pub layer: Option<LayerId>,
}

/// Rows that are being looked up.
struct RowBatch<'a> {
    rows: &'a [SoughtRow<'a>],
    folds: Vec<RowFold>,
    /// The positions of rows that may need older layers.
    pending: Vec<usize>,
    /// The bytes of documents that may still be held.
    bytes: usize,
}

impl LayerMap {
    /// Some rows, in the order of their sort keys, as their last events up to `last` left them: those that [`LayerMap::row`]
    /// returns. Stops early once it holds about `bytes` bytes of documents: then the rows of the last keys are not
    /// returned, but at least one is.
    pub fn rows(
        &self,
        rows: &[SoughtRow<'_>],
        last: EventId,
        bytes: usize,
    ) -> Result<Vec<Option<RowVersion>>> {
        let folds = rows.iter().map(|_| RowFold::default()).collect();
        let mut batch = RowBatch { rows, folds, pending: (0..rows.len()).collect(), bytes };
        let covered = self.covered(last);
        for delta in self.deltas_at(last) {
            batch.read_layer((delta, tree::VERSIONS), self.newest.rows, |cursor, key, fold| {
                fold_backward(cursor, &delta.file, key, (covered, last), fold)?;
                Ok(fold.newest().is_some())
            })?;
        }
        if let Some(image) = self.image_at(last) {
            batch.read_layer((image, tree::ROWS), self.newest.rows, |cursor, key, fold| {
                cursor.seek(key)?;
                match cursor.value() {
                    Some(value) if cursor.key() == Some(key) => {
                        fold.push_image(RowEntry::decode(&value).map_err(|e| at_file(e, &image.file))?);
                        Ok(true)
                    }
                    _ => Ok(false),
                }
            })?;
        }
        batch.folds.into_iter().map(RowFold::finish).collect()
    }
}

impl RowBatch<'_> {
    /// Reads one layer. `read` adds what the layer has of a row to its fold, and returns whether it has anything. `rows`
    /// is about how many rows the table has.
    fn read_layer(
        &mut self,
        (layer, tree): (&LayerFile, u8),
        rows: u64,
        mut read: impl FnMut(&mut TreeCursor, &[u8], &mut RowFold) -> Result<bool>,
    ) -> Result<()> {
        let file = &layer.file;
        let mut cursor = file.cursor(tree);
        // A layer with as many entries as the table has rows may have events of few rows all the same: misses tell.
        let (mut misses, mut found) = (0, if file.entries(tree) < rows { 0 } else { FOUND_AT_FIRST });
        let pending = std::mem::take(&mut self.pending);
        for at in pending {
            let (Some(row), Some(fold)) = (self.rows.get(at), self.folds.get_mut(at)) else { break };
            let key = row.key;
            work::step(16)?;
            let is_likely = match row.layer {
                Some(known) if fold.newest().is_none() => known == layer.id(),
                _ => misses * SEARCHES_PER_MISS < found,
            };
            if !is_likely && !file.may_contain(tree, key)? {
                misses += 1;
                self.pending.push(at);
                continue;
            }
            let before = fold.bytes();
            if read(&mut cursor, key, fold)? {
                found += 1;
            } else {
                misses += 1;
            }
            self.bytes = self.bytes.saturating_sub(fold.bytes() - before);
            if !fold.is_complete() {
                self.pending.push(at);
            }
            if self.bytes == 0 {
                self.folds.truncate(at + 1);
                break;
            }
        }
        Ok(())
    }
}
