//! A table's history in files: delta layers and image layers, and what can be looked up in them.
//!
//! A *delta layer* holds every event of a stretch of commits. An *image layer* holds all live rows after one commit.
//! Delta layers follow one another without gaps, and together they hold the table's history from the floor on. Image
//! layers are redundant: they bound how many delta layers a lookup reads. A lookup at a point in time therefore uses
//! the newest image layer at or before the point in time and the delta layers between the two, newest first. A point
//! in time below the newest image layer uses an older image layer, or none.

use std::sync::Arc;

use bytes::Bytes;

use crate::error::Result;
use crate::format::key::KeyType;
use crate::format::manifest::{DeltaLayer, Floor, Manifest};
use crate::format::snapshot::{
    CommitEntry, DeltaProperties, ProducerEntry, RequestEntry, commit_key, read_commit_key, tree,
};
use crate::storage::sst::SstFile;
use crate::table::event_id::EventId;
use crate::table::point_in_time::CommitBound;
use crate::table::schema::{SchemaAction, SchemaEvent};
use crate::table::table_counts::TableCounts;

mod commits;
mod file;
mod history_scan;
mod keys;
mod row_batch;
mod rows;
mod scan;

pub use commits::{CommitWalk, TableCommit};
pub(in crate::table) use file::at_file;
pub use file::{LayerFile, LayerId};
pub use history_scan::{HistoryEntry, LayerHistoryLookup, LayerHistoryScan};
use keys::commit_seq;
pub(in crate::table) use keys::not_a_key;
pub use keys::{read_sort_key, sort_key};
pub use row_batch::SoughtRow;
pub use scan::LayerScan;
use scan::OpenCursor;

/// The open layers of a table.
#[derive(Debug, Clone, Default)]
pub struct LayerMap {
    pub(super) table: u64,
    pub(super) floor: Option<Floor>,
    /// Oldest first. Each begins at the commit at which the one before it ends.
    pub(super) deltas: Vec<LayerFile>,
    /// Oldest first.
    pub(super) images: Vec<LayerFile>,
    /// The properties of the newest delta layer.
    pub(crate) newest: DeltaProperties,
}

impl LayerMap {
    /// The table's id.
    pub fn table(&self) -> u64 {
        self.table
    }

    /// The last commit that the layers hold; they hold every earlier commit too, from the floor on. 0 if there are no
    /// layers.
    pub fn end(&self) -> u64 {
        self.deltas.last().map_or(0, |delta| delta.seq)
    }

    /// Whether the layers hold every commit within a bound; otherwise the log after them must be read, too.
    pub fn covers(&self, bound: CommitBound) -> bool {
        match bound {
            CommitBound::Seq(seq) => seq <= self.end(),
            CommitBound::Time(ms) => self.end() > 0 && ms < self.newest.time_ms,
        }
    }

    /// The oldest point in time that can be read.
    pub fn floor(&self) -> Option<Floor> {
        self.floor
    }

    /// The same layers with another floor.
    #[must_use]
    pub(super) fn with_floor(&self, floor: Option<Floor>) -> LayerMap {
        LayerMap { floor, ..self.clone() }
    }

    /// Only the delta layers that end at or before a commit.
    #[must_use]
    pub(super) fn deltas_up_to(&self, seq: u64) -> LayerMap {
        let deltas = self.deltas.iter().filter(|delta| delta.seq <= seq).cloned().collect();
        LayerMap { deltas, images: Vec::new(), ..self.clone() }
    }

    /// The number of layers. Indexes are not counted.
    pub fn len(&self) -> usize {
        self.deltas.len() + self.images.len()
    }

    /// Whether there are no layers.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What the newest delta layer says of the table at its end.
    pub fn properties(&self) -> &DeltaProperties {
        &self.newest
    }

    /// The type of the table's keys; STRING if the layers hold no schema. Only a table that never had a row gets keys of another
    /// type.
    pub fn key_type(&self) -> Result<KeyType> {
        match self.newest.schema_entries.last() {
            Some(chapter) => Ok(SchemaEvent::from_document(&chapter.document)?.schema.key_type),
            None => Ok(KeyType::String),
        }
    }

    /// The table's last CREATE at or before a commit; `None` if the table does not exist then.
    pub fn created_at(&self, seq: u64) -> Result<Option<u64>> {
        let mut created = None;
        for chapter in self.newest.schema_entries.iter().take_while(|chapter| chapter.seq <= seq) {
            match SchemaEvent::from_document(&chapter.document)?.action {
                SchemaAction::Create => created = Some(chapter.seq),
                SchemaAction::Drop => created = None,
                SchemaAction::Alter | SchemaAction::Rename => {}
            }
        }
        Ok(created)
    }

    /// The table's counts at the end of the layers.
    pub fn counts(&self) -> TableCounts {
        // The floor may lie between two of the table's commits. Then the layers end at a commit of another table.
        let floor = self.floor.filter(|floor| floor.seq == self.end());
        let last_seq = floor.map_or(self.end(), |floor| floor.last_seq);
        TableCounts { events: self.newest.events, rows: self.newest.rows, last_seq }
    }

    /// The table's counts after a commit that is not older than the floor.
    pub fn counts_at(&self, seq: u64) -> Result<TableCounts> {
        if seq >= self.end() {
            return Ok(self.counts());
        }
        let count = self.delta_position(seq).map_or(0, |at| at + 1);
        for delta in self.deltas.iter().take(count).rev() {
            let mut cursor = delta.file.cursor(tree::COMMITS);
            cursor.seek_last_by(|key| commit_seq(key) <= seq)?;
            if let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                let (events, rows) =
                    CommitEntry::decode_counts(&value).map_err(|e| at_file(e, &delta.file))?;
                return Ok(TableCounts { events, rows, last_seq: commit_seq(key) });
            }
        }
        let floor = self.floor.map(|floor| TableCounts {
            events: floor.events,
            rows: floor.rows,
            last_seq: floor.last_seq,
        });
        Ok(floor.unwrap_or_default())
    }

    /// The time of one of the table's commits, in milliseconds since 1970; `None` if the layers do not hold the commit.
    pub fn time_of(&self, seq: u64) -> Result<Option<u64>> {
        if let Some(floor) = self.floor.filter(|floor| floor.seq == seq) {
            return Ok(Some(floor.time_ms));
        }
        let Some(delta) = self.delta_of(seq) else { return Ok(None) };
        let mut cursor = delta.file.cursor(tree::COMMITS);
        cursor.seek_by(|key| commit_seq(key) < seq)?;
        let found = cursor.key().and_then(read_commit_key);
        Ok(found.filter(|(_, found)| *found == seq).map(|(time, _)| time))
    }

    /// The last of the table's commits at or before a time in milliseconds since 1970. Commits below the floor do not
    /// count.
    pub fn last_at(&self, time_ms: u64) -> Result<Option<u64>> {
        for delta in self.deltas.iter().rev() {
            let mut cursor = delta.file.cursor(tree::COMMITS);
            cursor.seek_last_by(|key| *key <= commit_key(time_ms, u64::MAX)[..])?;
            if let Some(key) = cursor.key() {
                return Ok(Some(commit_seq(key)));
            }
        }
        Ok(self.floor.filter(|floor| floor.time_ms <= time_ms).map(|floor| floor.seq))
    }

    /// The last commit with a SCHEMA event at or before a time in milliseconds since 1970. SCHEMA events are kept below
    /// the floor: they separate points in time below it from points in time before the table existed.
    pub fn last_schema_at(&self, time_ms: u64) -> Option<u64> {
        self.newest.schema_entries.iter().rev().find(|entry| entry.time_ms <= time_ms).map(|entry| entry.seq)
    }

    /// A walk over the commits after `after`, up to and including `last`, oldest first or, if `backwards`, newest first.
    pub fn commits(&self, after: u64, last: u64, backwards: bool) -> CommitWalk {
        let within = self.deltas.iter().filter(|delta| delta.seq > after && delta.base < last);
        let mut files: Vec<_> = within.map(|delta| Arc::clone(&delta.file)).collect();
        if !backwards {
            files.reverse();
        }
        CommitWalk::new(files, (after, last), backwards)
    }

    /// A scan over the rows after a commit, from a sort key on. Deleted rows are included.
    pub fn scan(&self, seq: u64, start: &[u8]) -> Result<LayerScan> {
        self.scan_with(SstFile::cursor, seq, start)
    }

    /// A scan over all rows after a commit that leaves no blocks in the cache.
    pub fn scan_once(&self, seq: u64) -> Result<LayerScan> {
        self.scan_with(SstFile::uncached_cursor, seq, &[])
    }

    fn scan_with(&self, open: OpenCursor, seq: u64, start: &[u8]) -> Result<LayerScan> {
        let last = EventId::end_of(seq);
        let mut deltas: Vec<_> = self.deltas_at(last).collect();
        deltas.reverse();
        LayerScan::open(open, self.image_at(last), deltas.into_iter(), (self.covered(last), last), start)
    }

    /// Whether these are the layers that a manifest names.
    pub fn matches(&self, manifest: &Manifest) -> bool {
        let same = |open: &LayerFile, range: (u64, u64), indexes: &[String]| {
            (open.base, open.seq) == range && open.indexes.iter().map(|(path, _)| path).eq(indexes)
        };
        self.floor == manifest.floor
            && self.deltas.len() == manifest.deltas.len()
            && self.images.len() == manifest.images.len()
            && self.deltas.iter().zip(&manifest.deltas).all(|(a, b)| same(a, (b.base, b.seq), &b.indexes))
            && self.images.iter().zip(&manifest.images).all(|(a, b)| same(a, (b.seq, b.seq), &b.indexes))
    }

    /// The newest image layer at or before an event.
    fn image_at(&self, last: EventId) -> Option<&LayerFile> {
        self.images.iter().rev().find(|image| EventId::end_of(image.seq) <= last)
    }

    /// The last event that the image layer of a point in time covers. Versions up to it need not be read.
    fn covered(&self, last: EventId) -> EventId {
        self.image_at(last).map_or(EventId::default(), |image| EventId::end_of(image.seq))
    }

    /// The delta layers that a point in time needs besides its image layer, newest first.
    fn deltas_at(&self, last: EventId) -> impl Iterator<Item = &LayerFile> {
        let covered = self.covered(last).seq;
        self.deltas.iter().rev().filter(move |delta| delta.base < last.seq && delta.seq > covered)
    }

    /// The position of the delta layer that a commit belongs to: the first that ends at or after it.
    fn delta_position(&self, seq: u64) -> Option<usize> {
        let at = self.deltas.partition_point(|delta| delta.seq < seq);
        (at < self.deltas.len()).then_some(at)
    }

    /// The delta layer that a commit belongs to.
    fn delta_of(&self, seq: u64) -> Option<&LayerFile> {
        self.delta_position(seq).and_then(|at| self.deltas.get(at))
    }

    /// The layers that the newest state is read from, and whether each is an image layer.
    pub fn newest_layers(&self) -> impl Iterator<Item = (&LayerFile, bool)> {
        let last = EventId::end_of(self.end());
        let image = self.image_at(last).map(|image| (image, true));
        self.deltas_at(last).map(|delta| (delta, false)).chain(image)
    }

    /// The open delta layers at some positions of a manifest, each with the manifest's entry.
    pub fn deltas_of(
        &self,
        manifest: &Manifest,
        positions: std::ops::Range<usize>,
    ) -> Vec<(DeltaLayer, LayerFile)> {
        let named = manifest.deltas.get(positions).unwrap_or_default();
        let open = |named: &DeltaLayer| {
            self.deltas.iter().find(|open| (open.base, open.seq) == (named.base, named.seq))
        };
        named.iter().filter_map(|named| Some((named.clone(), open(named)?.clone()))).collect()
    }

    /// Passes every request that the layers keep to `take`, with its commit, in commit order.
    pub fn requests(&self, take: &mut dyn FnMut(u64, RequestEntry)) -> Result<()> {
        self.each_entry(tree::REQUESTS, &mut |key, value| {
            let seq = key.first_chunk::<8>().map_or(0, |seq| u64::from_be_bytes(*seq));
            take(seq, RequestEntry::decode(value)?);
            Ok(())
        })
    }

    /// Passes each producer's last position in each delta layer to `take`, oldest layer first.
    pub fn producers(&self, take: &mut dyn FnMut(ProducerEntry)) -> Result<()> {
        self.each_entry(tree::PRODUCERS, &mut |key, value| {
            take(ProducerEntry::decode(key, value)?);
            Ok(())
        })
    }

    fn each_entry(&self, tree: u8, take: &mut dyn FnMut(&[u8], &Bytes) -> Result<()>) -> Result<()> {
        for delta in &self.deltas {
            let mut cursor = delta.file.cursor(tree);
            cursor.first()?;
            while let (Some(key), Some(value)) = (cursor.key(), cursor.value()) {
                take(key, &value).map_err(|e| at_file(e, &delta.file))?;
                cursor.next()?;
            }
        }
        Ok(())
    }

    /// Whether every layer that a point in time needs has an index on a path.
    pub(super) fn has_index(&self, path: &str, seq: u64) -> bool {
        self.layers_at(seq).all(|layer| layer.index(path).is_some())
    }

    /// The index files of a path that a point in time needs, the newest first, and whether each is a delta layer's.
    pub(super) fn index_files(&self, path: &str, seq: u64) -> Vec<(Arc<SstFile>, bool)> {
        let file = |layer: &LayerFile| Some((Arc::clone(layer.index(path)?), layer.base != layer.seq));
        self.layers_at(seq).filter_map(file).collect()
    }

    /// The layers that a point in time needs, the newest first.
    pub(super) fn layers_at(&self, seq: u64) -> impl Iterator<Item = &LayerFile> {
        let last = EventId::end_of(seq);
        self.deltas_at(last).chain(self.image_at(last))
    }
}
