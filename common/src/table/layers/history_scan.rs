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
    fn of(layer: &LayerFile, is_image: bool) -> LayerRows {
        let file = Arc::clone(&layer.file);
        LayerRows { cursor: file.cursor(tree_of(is_image)), file, is_image }
    }

    fn open(layer: &LayerFile, is_image: bool, start: &[u8]) -> Result<LayerRows> {
        let mut rows = LayerRows::of(layer, is_image);
        rows.cursor.seek(start)?;
        Ok(rows)
    }

    /// Passes what the layer has of the row that the cursor is on to `take`, and moves to the row after it. Versions count after one
    /// event, up to and including another.
    fn take(
        &mut self,
        key: &[u8],
        (covered, last): (EventId, EventId),
        take: &mut dyn FnMut(HistoryEntry) -> Result<()>,
    ) -> Result<()> {
        if self.is_image {
            let value = self.cursor.value().unwrap_or_default();
            take(HistoryEntry::Image(RowEntry::decode(&value).map_err(|e| at_file(e, &self.file))?))?;
            return self.cursor.next();
        }
        while let Some(id) = self.cursor.key().and_then(|at| version_of(at, key)) {
            work::step(4)?;
            if id > covered && id <= last {
                let value = self.cursor.value().unwrap_or_default();
                let version = VersionEntry::decode(&value).map_err(|e| at_file(e, &self.file))?;
                take(HistoryEntry::Version(id, version))?;
            }
            self.cursor.next()?;
        }
        Ok(())
    }
}

fn tree_of(is_image: bool) -> u8 {
    if is_image { tree::ROWS } else { tree::VERSIONS }
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

/// Looks up the histories of single rows, whose keys should come in order: then each layer is read forward.
#[derive(Debug)]
pub struct LayerHistoryLookup {
    /// The image layer, then the delta layers, oldest first.
    layers: Vec<LayerRows>,
    /// The last event that the image layer covers.
    covered: EventId,
    last: EventId,
}

impl LayerMap {
    /// The layers that a history after commit `after`, up to and including commit `last`, is read from, oldest first, and whether each
    /// is an image layer. The history begins with the newest image layer at or before `after`, or with the oldest version.
    fn history_layers(&self, after: u64, last: u64) -> impl Iterator<Item = (&LayerFile, bool)> {
        let covered = self.covered(EventId::end_of(after)).seq;
        let deltas = self.deltas.iter().filter(move |delta| delta.base < last && delta.seq > covered);
        let image = self.image_at(EventId::end_of(after)).map(|image| (image, true));
        image.into_iter().chain(deltas.map(|delta| (delta, false)))
    }

    /// A scan over what happened up to commit `last`, from a sort key on: see `LayerMap::history_layers`.
    pub fn history_scan(&self, after: u64, last: u64, start: &[u8]) -> Result<LayerHistoryScan> {
        let layers = self.history_layers(after, last);
        let layers = layers.map(|(layer, is_image)| LayerRows::open(layer, is_image, start));
        let layers = MergingCursor::new(layers.collect::<Result<_>>()?);
        let covered = self.covered(EventId::end_of(after));
        Ok(LayerHistoryScan { layers, covered, last: EventId::end_of(last) })
    }

    /// Lookups of what happened to single rows up to commit `last`: see `LayerMap::history_layers`.
    pub fn history_lookup(&self, after: u64, last: u64) -> LayerHistoryLookup {
        let layers = self.history_layers(after, last);
        let layers = layers.map(|(layer, is_image)| LayerRows::of(layer, is_image)).collect();
        let covered = self.covered(EventId::end_of(after));
        LayerHistoryLookup { layers, covered, last: EventId::end_of(last) }
    }

    /// The index files of a path that such a history needs, and whether each is a delta layer's. `None` if a layer has no such index.
    pub(in crate::table) fn history_index_files(
        &self,
        path: &str,
        (after, last): (u64, u64),
    ) -> Option<Vec<(Arc<SstFile>, bool)>> {
        let layers = self.history_layers(after, last);
        layers.map(|(layer, is_image)| Some((Arc::clone(layer.index(path)?), !is_image))).collect()
    }
}

impl LayerHistoryScan {
    /// The next row's sort key.
    pub fn key(&self) -> Option<Vec<u8>> {
        self.layers.key().map(<[u8]>::to_vec)
    }

    /// Passes the history of the row with this key, which must be the next, to `take`, oldest first, and moves to the row after it.
    pub fn take(&mut self, key: &[u8], take: &mut dyn FnMut(HistoryEntry) -> Result<()>) -> Result<()> {
        let within = (self.covered, self.last);
        for layer in self.layers.sources_at(key) {
            layer.take(key, within, take)?;
        }
        Ok(())
    }
}

impl LayerHistoryLookup {
    /// Passes the history of the row with a sort key to `take`, oldest first; nothing if the layers have nothing of the row.
    pub fn take(&mut self, key: &[u8], take: &mut dyn FnMut(HistoryEntry) -> Result<()>) -> Result<()> {
        let within = (self.covered, self.last);
        for layer in &mut self.layers {
            work::step(8)?;
            if !layer.file.may_contain(tree_of(layer.is_image), key)? {
                continue;
            }
            layer.cursor.seek(key)?;
            if layer.key() == Some(key) {
                layer.take(key, within, take)?;
            }
        }
        Ok(())
    }
}
