//! A scan over the history of every row in the layers, in key order: the row at or before a commit, and each version after it.
//!
//! A scan at a point in time skips what later versions make irrelevant. A question about many points in time needs them all, once,
//! and this order reads each block of the layers once.

use std::sync::Arc;

use crate::error::Result;
use crate::format::snapshot::{RowEntry, VersionEntry, read_version, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::event_id::EventId;
use crate::table::layers::LayerMap;
use crate::table::layers::file::{LayerFile, at_file};
use crate::table::layers::keys::version_of;
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::work;

/// What the history of a row consists of.
#[derive(Debug)]
pub enum HistoryEntry {
    /// The row in an image layer, before all its versions.
    Image(RowEntry),
    /// An event of the row.
    Version(EventId, VersionEntry),
}

/// A cursor over an image layer's rows, or over the versions in a delta layer.
#[derive(Debug)]
struct LayerRows {
    cursor: TreeCursor,
    file: Arc<SstFile>,
    is_image: bool,
}

impl LayerRows {
    fn open(layer: &LayerFile, is_image: bool, start: &[u8]) -> Result<LayerRows> {
        let mut cursor = layer.file.cursor(if is_image { tree::ROWS } else { tree::VERSIONS });
        cursor.seek(start)?;
        Ok(LayerRows { cursor, file: Arc::clone(&layer.file), is_image })
    }
}

impl SortedSource for LayerRows {
    type Key = [u8];

    fn key(&self) -> Option<&[u8]> {
        let key = self.cursor.key()?;
        if self.is_image { Some(key) } else { read_version(key).map(|(row, ..)| row) }
    }
}

/// A scan over the histories of rows, in key order.
#[derive(Debug)]
pub struct LayerHistoryScan {
    /// The image layer, then the delta layers, oldest first.
    layers: MergingCursor<LayerRows>,
    /// The last event that the image layer covers.
    covered: EventId,
    last: EventId,
}

impl LayerMap {
    /// A scan over what happened up to commit `last`, from a sort key on. It begins with the newest image layer at or before commit
    /// `after`, or with the oldest version.
    pub fn history_scan(&self, after: u64, last: u64, start: &[u8]) -> Result<LayerHistoryScan> {
        let image = self.image_at(EventId::end_of(after));
        let covered = self.covered(EventId::end_of(after));
        let deltas = self.deltas.iter().filter(|delta| delta.base < last && delta.seq > covered.seq);
        let image = image.map(|layer| LayerRows::open(layer, true, start));
        let deltas = deltas.map(|layer| LayerRows::open(layer, false, start));
        let layers = MergingCursor::new(image.into_iter().chain(deltas).collect::<Result<_>>()?);
        Ok(LayerHistoryScan { layers, covered, last: EventId::end_of(last) })
    }
}

impl LayerHistoryScan {
    /// The next row's sort key.
    pub fn key(&self) -> Option<Vec<u8>> {
        self.layers.key().map(<[u8]>::to_vec)
    }

    /// Passes the history of the row with this key, which must be the next, to `take`, oldest first, and moves to the row after it.
    pub fn take(&mut self, key: &[u8], take: &mut dyn FnMut(HistoryEntry) -> Result<()>) -> Result<()> {
        for layer in self.layers.sources_at(key) {
            if layer.is_image {
                let value = layer.cursor.value().unwrap_or_default();
                take(HistoryEntry::Image(RowEntry::decode(&value).map_err(|e| at_file(e, &layer.file))?))?;
                layer.cursor.next()?;
                continue;
            }
            while let Some(id) = layer.cursor.key().and_then(|at| version_of(at, key)) {
                work::step(4)?;
                if id > self.covered && id <= self.last {
                    let value = layer.cursor.value().unwrap_or_default();
                    let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &layer.file))?;
                    take(HistoryEntry::Version(id, version))?;
                }
                layer.cursor.next()?;
            }
        }
        Ok(())
    }
}
