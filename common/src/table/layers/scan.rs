//! A scan over the rows of the layers as they were at a point in time, in key order.

use std::sync::Arc;

use crate::error::Result;
use crate::format::snapshot::{RowEntry, VersionEntry, read_version, tree};
use crate::storage::sst::{SstFile, TreeCursor};
use crate::table::event_id::EventId;
use crate::table::layers::file::{LayerFile, at_file, fold_backward};
use crate::table::layers::keys::{is_at_or_before, version_of};
use crate::table::merging_cursor::{MergingCursor, SortedSource};
use crate::table::row_fold::{RowFold, RowVersion};
use crate::work;

/// Opens a cursor over a tree of a file.
pub(super) type OpenCursor = fn(&Arc<SstFile>, u8) -> TreeCursor;

/// A cursor over an image layer's rows, or over the versions in a delta layer.
#[derive(Debug)]
struct LayerCursor {
    cursor: TreeCursor,
    file: Arc<SstFile>,
    is_image: bool,
}

impl LayerCursor {
    /// A cursor on the first row at or after a sort key.
    fn open(open: OpenCursor, layer: &LayerFile, is_image: bool, start: &[u8]) -> Result<LayerCursor> {
        let mut cursor = open(&layer.file, if is_image { tree::ROWS } else { tree::VERSIONS });
        cursor.seek(start)?;
        Ok(LayerCursor { cursor, file: Arc::clone(&layer.file), is_image })
    }
}

impl SortedSource for LayerCursor {
    type Key = [u8];

    /// The sort key of the row that the cursor is on.
    fn key(&self) -> Option<&[u8]> {
        let key = self.cursor.key()?;
        if self.is_image { Some(key) } else { read_version(key).map(|(row, ..)| row) }
    }
}

/// How many versions of a row the scan reads one after the other. It looks up the newest version of a row that has more.
const VERSIONS_READ_IN_ORDER: usize = 32;

/// A scan over the rows as they were at a point in time, in key order. Deleted rows are included.
#[derive(Debug)]
pub struct LayerScan {
    /// The image layer, then the delta layers, oldest first.
    layers: MergingCursor<LayerCursor>,
    /// The last event that the image layer covers: the scan skips versions up to it.
    covered: EventId,
    /// The last event before the point in time.
    last: EventId,
}

impl LayerScan {
    /// A scan of an image layer and of the delta layers after it, oldest first, from a sort key on. `covered` is the
    /// last event that the image layer covers, `last` the last event that counts.
    pub(super) fn open<'a>(
        open: OpenCursor,
        image: Option<&LayerFile>,
        deltas: impl Iterator<Item = &'a LayerFile>,
        (covered, last): (EventId, EventId),
        start: &[u8],
    ) -> Result<LayerScan> {
        let image = image.map(|layer| LayerCursor::open(open, layer, true, start));
        let deltas = deltas.map(|layer| LayerCursor::open(open, layer, false, start));
        let layers = MergingCursor::new(image.into_iter().chain(deltas).collect::<Result<_>>()?);
        Ok(LayerScan { layers, covered, last })
    }

    /// The next row's sort key.
    pub fn key(&self) -> Option<Vec<u8>> {
        self.layers.key().map(<[u8]>::to_vec)
    }

    /// Returns the row with this key, which must be the next, and moves to the row after it. `None` if the row has no
    /// version yet at the point in time.
    pub fn take(&mut self, key: &[u8]) -> Result<Option<RowVersion>> {
        let mut fold = RowFold::default();
        work::step(8)?;
        for layer in self.layers.sources_at(key) {
            if layer.is_image {
                let value = layer.cursor.value().unwrap_or_default();
                fold.push_image(RowEntry::decode(&value).map_err(|e| at_file(e, &layer.file))?);
                layer.cursor.next()?;
            } else {
                take_versions(layer, key, (self.covered, self.last), &mut fold)?;
            }
        }
        fold.finish()
    }
}

/// Adds a delta layer's versions of a row to a fold, and moves the cursor to the next row.
fn take_versions(
    layer: &mut LayerCursor,
    key: &[u8],
    (covered, last): (EventId, EventId),
    fold: &mut RowFold,
) -> Result<()> {
    let mut seen = covered;
    for _ in 0..VERSIONS_READ_IN_ORDER {
        work::step(4)?;
        let Some(id) = layer.cursor.key().and_then(|at| version_of(at, key)) else { return Ok(()) };
        if id > covered && id <= last {
            let value = layer.cursor.value().unwrap_or_default();
            fold.push_newer(id.seq, VersionEntry::decode(&value).map_err(|e| at_file(e, &layer.file))?);
            seen = id;
        }
        layer.cursor.next()?;
    }
    // The row has many versions: read back from the newest that counts, as far as the row depends on them.
    let mut newer = RowFold::default();
    fold_backward(&mut layer.file.cursor(tree::VERSIONS), &layer.file, key, (seen, last), &mut newer)?;
    fold.append(newer);
    layer.cursor.seek_by(|at| is_at_or_before(at, key, EventId::end_of(u64::MAX)))
}
